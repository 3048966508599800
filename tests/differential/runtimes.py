"""One runtime doing what a case says: its places, its commands, and what they answered, as facts by name.

Each runtime has a directory of its own for a case, with a rootfs and an `outside` made anew, and the same id. It is
started with an environment, descriptors, signals and an umask that are the case's, and without anybody else's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import facts
import unshared
from cases import Case

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")
#: a command that takes longer waits for something that does not come
LIMIT_S = 10.0
#: files of a cgroup that say what was asked for; the others count
SETTINGS = (
    "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.idle", "cpuset.cpus", "cpuset.mems", "cpuset.cpu_exclusive",
    "memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness", "memory.oom_control",
    "pids.max", "devices.list", "freezer.state", "notify_on_release",
)  # fmt: skip


class Runtime:
    """A runtime's program, and where it keeps what it makes."""

    def __init__(self, name: str, program: str, base: Path) -> None:
        self.name, self.program, self.base = name, program, base

    def go(self, case: Case, probe: Path) -> dict[str, str]:
        """What it does in this case, and what shows of it."""
        place = self.base / f"{case.number}.{self.name}"
        life = Life(self, case, place)
        try:
            make_place(place, probe, case)
            life.prepare()
            return life.facts()
        finally:
            life.end()
            unmount(place)
            shutil.rmtree(place, ignore_errors=True)


class Life:
    """One case of one runtime."""

    def __init__(self, runtime: Runtime, case: Case, place: Path) -> None:
        self.runtime, self.case, self.place = runtime, case, place
        self.id = f"differential-{case.seed}-{case.number}"
        self.state = place / "state"
        self.holder: subprocess.Popen[bytes] | None = None
        self.view = facts.View(str(place), self.id)
        self.view.actions = case.actions
        self.init = 0

    def prepare(self) -> None:
        """Write the bundle, and have a process hold the namespaces that the case gives."""
        text = self.case.text(str(self.place))
        if self.case.given:
            words = ["unshare", *self.case.given, "sh", "-c", "echo; exec cat"]
            self.holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self.holder.stdout
            self.holder.stdout.readline()
            text = text.replace("@GIVEN@", f"/proc/{self.holder.pid}/ns")
            self.view.given = facts.namespaces(self.holder.pid)
        (self.place / "config.json").write_text(text)

    def words(self, command: list[str]) -> list[str]:
        names = {"ID": self.id, "BUNDLE": str(self.place), "PIDFILE": str(self.place / "pid")}
        return [self.runtime.program, "--root", str(self.state), *(names.get(word, word) for word in command)]

    def facts(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for number, command in enumerate(self.case.commands):
            for name, value in self.do(command).items():
                found[f"{number} {command[0]} {name}".strip()] = value
            if number == 0 and command[0] == "create" and found.get("0 create status") != "0":
                break  # there is nothing that the others could be asked about
        return found

    def do(self, command: list[str]) -> dict[str, str]:
        if command[0] == "@wait":
            return {"": self.wait()}
        if command[0] == "@cgroup":
            return self.settings()
        if command[0] == "@output":
            return self.view.output((self.place / "out").read_text(errors="backslashreplace"))
        if command[0] == "@left":
            return self.view.left(self.place)
        status, out, err = self.call(command)
        if command[0] in ("create", "run") and (self.place / "pid").exists():
            self.init = int((self.place / "pid").read_text())
            self.view.init = self.init
        return self.view.answer(command, status, out, err)

    def call(self, command: list[str]) -> tuple[str, str, str]:
        """Run a command; its exit status, or that it did not end, and what it printed."""
        # what a container prints stays in the file of the command that made it
        keeps = command[0] in ("create", "run")
        stdout = open(self.place / "out", "ab") if keeps else tempfile.TemporaryFile()
        with stdout as out, tempfile.TemporaryFile() as err:
            case = self.case
            passed = [
                os.open(self.place / "outside/note", os.O_RDONLY) for _ in range(case.descriptors if keeps else 0)
            ]
            child = spawn(self.words(command), case, passed, out.fileno(), err.fileno())
            for fd in passed:
                os.close(fd)
            status = collect(child)
            err.seek(0)
            printed = "" if keeps else (out.seek(0), out.read().decode("utf-8", "backslashreplace"))[1]
            return status, printed, err.read().decode("utf-8", "backslashreplace")

    def wait(self) -> str:
        """Until init has ended: it is our child, who adopt every orphan. Its exit status."""
        if not self.init:
            return "no pid"
        return collect(self.init)

    def settings(self) -> dict[str, str]:
        """The files of every cgroup that init is in."""
        found = {}
        if not self.init:
            return {}
        for line in Path(f"/proc/{self.init}/cgroup").read_text().splitlines():
            _, controller, path = line.split(":", 2)
            controller = controller.removeprefix("name=")
            found[f"{controller} path"] = self.view.text(path)
            for name in SETTINGS:
                file = Path(f"{CGROUPS}/{controller}{path}/{name}")
                if file.exists():
                    lines = file.read_text().strip().splitlines()
                    found[f"{controller} {name}"] = facts.shown(sorted(lines) if name == "devices.list" else lines)
        return found

    def end(self) -> None:
        """Leave nothing: the container, the holder, orphans, cgroups."""
        if self.state.is_dir():
            self.call(["delete", "--force", "ID"])
        for top in cgroups(self.id):
            for file in top.glob("**/freezer.state"):
                file.write_text("THAWED")  # the frozen of cgroup v1 do not die
        if self.init:
            try:
                os.kill(self.init, signal.SIGKILL)
                collect(self.init)
            except ProcessLookupError:
                pass
        if self.holder is not None:
            self.holder.communicate()
        unshared.reap()
        for top in cgroups(self.id):
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass  # what holds it is what another case reports


def cgroups(id_: str) -> list[Path]:
    """Those that the cases of an id may have made, in each hierarchy."""
    return [top for pattern in ("*/pyrunc-differential", f"*/{id_}") for top in CGROUPS.glob(pattern)]


def spawn(words: list[str], case: Case, passed: list[int], out: int, err: int) -> int:
    """Start a command as the case's caller would: nothing but what it names is handed on."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.umask(case.umask)
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDONLY)
        high = [os.dup2(fd, 100 + number) for number, fd in enumerate([null, out, err, *passed])]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        os.closerange(len(high), 4096)
        for number in range(1, 32):
            if number not in (9, 19):
                signal.signal(number, signal.SIG_IGN if number in case.ignored else signal.SIG_DFL)
        os.setsid()
        os.execve(words[0], words, {"PATH": PATH, **case.environ})
    finally:
        os._exit(127)


def collect(pid: int) -> str:
    """The exit status of a child of ours, as a shell counts; one that does not end is killed."""
    deadline = time.monotonic() + LIMIT_S
    pause = 0.0005
    while True:
        try:
            done, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return "not a child"
        if done:
            code = os.waitstatus_to_exitcode(status)
            return str(code if code >= 0 else 128 - code)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return "does not end"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.01)


# -- places ---------------------------------------------------------------------------------------------------------------


def make_place(place: Path, probe: Path, case: Case) -> None:
    """The bundle's rootfs, and a tree outside of it with a mount of its own in there."""
    rootfs = place / "rootfs"
    for name in ("bin", "dev", "etc/tree/sub", "mnt", "proc", "sys", "tmp", "run", "closed", "usr/bin"):
        (rootfs / name).mkdir(parents=True)
    os.link(probe, rootfs / "bin/probe")
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "closed").chmod(0o700)
    (rootfs / "etc/tree").chmod(0o751)
    (rootfs / "etc/tree/sub").chmod(0o3775)
    (rootfs / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\none:x:1:1::/one:/bin/sh\nmany:x:999:999::/many:/bin/sh\n"
    )
    (rootfs / "etc/group").write_text("root:x:0:\nmany:x:999:one\n")
    for name in ("etc/file", "etc/tree/below"):
        (rootfs / name).write_text("text\n")
    os.symlink("tmp", rootfs / "link")
    os.symlink("below", rootfs / "etc/tree/link")
    outside = place / "outside"
    (outside / "tree/sub").mkdir(parents=True)
    (outside / "tree/file").write_text("text\n")
    os.symlink("tree", outside / "link")
    (outside / "note").write_text("note\n")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nodev,mode=755", "sub", outside / "tree/sub"], check=True)
    (outside / "tree/sub/inner").write_text("text\n")
    if case.has("user"):
        for folder, names, files in os.walk(rootfs):
            for name in (".", *names, *files):
                if name != "probe":
                    os.chown(os.path.join(folder, name), 100000, 200000, follow_symlinks=False)


def unmount(place: Path) -> None:
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ")[4] for line in file]
    for point in reversed([point for point in points if point.startswith(f"{place}/")]):
        subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)


def programs(ours: str) -> dict[str, str]:
    """The runtimes of this machine, by name, ours first."""
    found: dict[str, Any] = {"pyrunc": ours, **{name: shutil.which(name, path=PATH) for name in ("runc", "crun")}}
    return {name: path for name, path in found.items() if path}
