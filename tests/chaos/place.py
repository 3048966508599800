"""Where points are tried: a place that nobody else is in, so that what is left behind can be counted to the last process.

A worker is process 1 of a pid namespace and has a mount namespace with a /tmp and a /run of its own. Whatever is in /proc beside it
was left by a command, whatever is in these two and was not there before is a file left, and so on for mounts, namespaces,
descriptors, and cgroups below the worker's own.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "tests/fixtures")]
import criu  # noqa: E402 - found through the path above
import mkrootfs  # noqa: E402 - found through the path above
import unshared  # noqa: E402 - found through the path above

TOP = Path("/sys/fs/cgroup")
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
#: longer than this is a hang
HANG_S = 5.0
#: what a process that was killed may take to go, and its cgroup after it
GRACE_S = 2.0
#: how often process 1 collects orphans while a command runs, which may wait for their going
REAP_S = 0.02
ID = "c"
KINDS = ("process", "cgroup", "mount", "namespace", "descriptor", "file")

#: what a process in a container finds around itself: a command that succeeds must not have made a weaker container
FACTS = r"""grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|SigBlk|SigIgn)' /proc/self/status
cut -d' ' -f4- /proc/self/mountinfo
cat /proc/self/cgroup /proc/self/oom_score_adj /proc/self/limits
hostname; pwd; umask; id; env | sort
ls /proc/self/fd | tr '\n' ' '
touch /proc/sys/kernel/x /sys/x 2>&1
cat /proc/keys | wc -c"""


class Place:
    """A runtime, its bundles and its state directory, and what there is beside them."""

    def __init__(self, runtime: str, token: str) -> None:
        self.runtime = runtime
        self.token = token
        self.is_ours = os.path.basename(runtime) == "pyrunc"
        self.dir = Path("/tmp/chaos")
        self.root = self.dir / "state"
        self.out = self.dir / "out"
        self.dir.mkdir()
        self.bundles: dict[str, Path] = {}
        self.configs: dict[str, str] = {}
        (self.dir / "bundles").mkdir()
        rootfs = self.bundles["rootfs"] = mkrootfs.rootfs(self.dir / "bundles/rootfs")
        for name, args, edit in BUNDLES:
            self.bundles[name] = self.dir / "bundles" / name
            self.bundles[name].mkdir()
            config = mkrootfs.config(*args)
            config["ociVersion"] = "1.0.2"  # what old peers know
            config["root"]["path"] = str(rootfs)
            config["linux"] |= {
                "cgroupsPath": f"/pyrunc-chaos/{token}/{ID}",
                "resources": {"memory": {"limit": 128 << 20}, "pids": {"limit": 64}, "cpu": {"shares": 512}},
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["kexec_load", "reboot"], "action": "SCMP_ACT_ERRNO"}],
                },
            }
            config["process"] |= {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}], "oomScoreAdj": 100}
            edit(config, self.dir)
            self.configs[name] = json.dumps(config)
            (self.bundles[name] / "config.json").write_text(self.configs[name])
        self.cgroups = [path for path in (TOP, *TOP.iterdir()) if os.path.exists(path / "cgroup.procs")]
        self.cgroups = [path for path in self.cgroups if os.path.ismount(path)]
        for name in ("out/stdout", "out/init", "out/stderr", "out/trace"):
            (self.dir / name).parent.mkdir(exist_ok=True)
            (self.dir / name).touch()
        (self.out / "exits").mkdir()
        self.stdin = os.open("/dev/null", os.O_RDONLY)
        self.empty = self.seen()

    # -- commands ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def env(self) -> dict[str, str]:
        """The environment of every command: a CRIU that works is first in PATH, where there is one."""
        try:
            return {"PATH": f"{criu.directory()}:{ENV['PATH']}"}
        except criu.Unavailable:
            return ENV

    def argv(self, *words: str) -> list[str]:
        return [self.runtime, "--root", str(self.root), *words]

    def run(self, argv: list[str], limit: float = 2 * HANG_S, to: str = "stdout") -> tuple[int, str, str, float]:
        """A command to its end: status, what it printed, and how long it took; -100 where it had to be killed.

        A container writes to what `create` was given: that file, `to`, must be no other command's.
        """
        start = time.monotonic()
        with open(self.out / to, "wb") as out, open(self.out / "stderr", "wb") as err:
            child = subprocess.Popen(argv, stdin=self.stdin, stdout=out, stderr=err, env=self.env, cwd="/")
            pidfd = os.pidfd_open(child.pid)  # Popen.wait() with a limit sleeps, by up to 50 ms too long
            while not (has_ended := select.select([pidfd], [], [], REAP_S)[0]) and time.monotonic() - start < limit:
                unshared.reap(child.pid)
            is_late = not has_ended
            os.close(pidfd)
            if is_late:
                child.kill()
            status = child.wait() if not is_late else child.wait() and -100
        texts = [(self.out / name).read_text(errors="replace") for name in (to, "stderr")]
        return status, texts[0], texts[1], time.monotonic() - start

    def __call__(self, *words: str) -> tuple[int, str, str, float]:
        return self.run(self.argv(*words))

    def state(self) -> dict[str, Any]:
        status, out, _, _ = self("state", ID)
        found: dict[str, Any] = json.loads(out) if status == 0 else {}
        return found

    def left_process(self, pid: int) -> bool:
        """Whether a process goes away in time."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            unshared.reap()
            if not os.path.exists(f"/proc/{pid}"):
                return True
            time.sleep(0.002)
        return False

    # -- what there is -------------------------------------------------------------------------------------------------

    def seen(self) -> dict[str, set[str]]:
        """What there is now, of each kind, as text."""
        unshared.reap()
        processes, namespaces = set(), set()
        own = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if pid == "1":
                continue
            try:
                text = Path(f"/proc/{pid}/stat").read_text()
                name, rest = text[text.index("(") : text.rindex(")") + 1], text[text.rindex(")") + 2 :].split()
                if rest[0] in "ZX":
                    continue  # nobody's but its parent's, who is at work or ends with it
                processes.add(f"{pid} {name} {rest[19]}")
                for kind in own:
                    link = os.readlink(f"/proc/{pid}/ns/{kind}")
                    if link != own[kind]:
                        namespaces.add(link)
            except OSError:
                continue
        return {
            "process": processes,
            "cgroup": {str(path) for top in self.cgroups for path in _below(top / "pyrunc-chaos" / self.token)},
            "mount": {line.partition(" ")[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
            "namespace": namespaces,
            "descriptor": {_link(name) for name in os.listdir("/proc/self/fd")} - {""},
            "file": {path for top in (self.dir, Path("/run")) for path in _files(top)},
        }

    def left(self, before: dict[str, set[str]], grace_s: float = GRACE_S) -> dict[str, list[str]]:
        """What is there and was not before, once everything has had its time to go."""
        deadline = time.monotonic() + grace_s
        while True:
            now = self.seen()
            found = {kind: sorted(now[kind] - before[kind]) for kind in KINDS if now[kind] - before[kind]}
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.005)

    def tidy(self) -> None:
        """By hand what a runtime has left, so that the next point begins with nothing."""
        check_alone()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if pid != "1":
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for path in {line.split()[3] for line in self.seen()["mount"] - self.empty["mount"]}:
            subprocess.run(["umount", "-l", path], capture_output=True)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            unshared.reap()
            left = self.seen()
            for path in sorted(left["cgroup"], reverse=True):
                freezer = Path(path, "freezer.state")
                try:
                    if freezer.exists():
                        freezer.write_text("THAWED")
                    os.rmdir(path)
                except OSError:
                    pass
            if not left["cgroup"] and not left["process"]:
                break
        for path in sorted(self.seen()["file"] - self.empty["file"], reverse=True):
            try:
                os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
            except OSError:
                pass

    def close(self) -> None:
        self.tidy()
        if not os.path.ismount(TOP / "unified"):
            # where there is no cgroup2, crun makes ordinary directories in its place
            shutil.rmtree(TOP / "unified/pyrunc-chaos", ignore_errors=True)
        for top in self.cgroups:
            for path in (top / "pyrunc-chaos" / self.token, top / "pyrunc-chaos"):
                try:
                    path.rmdir()
                except OSError:
                    pass


def _long(config: dict[str, Any], top: Path) -> None:
    pass


def _mounted(config: dict[str, Any], top: Path) -> None:
    config["root"]["path"] = "rootfs"


def _mounts(config: dict[str, Any], top: Path) -> None:
    """The kinds of mounts that take more than one step, or a process of their own."""
    layers = [top / "bundles" / ("d" * 200) / name for name in ("one", "two")]
    for layer in layers:
        layer.mkdir(parents=True)
    for name in ("layers", "again"):
        Path(config["root"]["path"], name).mkdir()
    config["mounts"] += [
        {
            "destination": "/layers",
            "type": "overlay",
            "source": "o",
            "options": ["lowerdir=" + ":".join(map(str, layers))],
        },
        {"destination": "/etc", "type": "tmpfs", "source": "t" * 300, "options": ["tmpcopyup"]},
        {"destination": "/again", "type": "bind", "source": str(layers[0].parent), "options": ["rbind", "rro"]},
        {"destination": "/again/one", "type": "tmpfs", "source": "t"},
    ]


def _hooks(config: dict[str, Any], top: Path) -> None:
    hook = {"path": "/bin/true"}
    config["hooks"] = {kind: [hook] for kind in ("createRuntime", "createContainer", "startContainer", "poststart")}
    config["hooks"]["poststop"] = [hook]


#: name, what the container runs, what is different
BUNDLES = (
    ("short", ("/bin/sh", "-c", f"{FACTS}; echo END; exit 7"), _long),
    ("long", ("/bin/sh", "-c", f"{FACTS}; echo END; exec sleep 100000"), _long),
    ("mounted", ("/bin/sh", "-c", f"{FACTS}; echo END; exec sleep 100000"), _mounted),
    ("mounts", ("/bin/sh", "-c", f"ls -R /layers /etc /again; {FACTS}; echo END; exit 7"), _mounts),
    ("hooks", ("/bin/sh", "-c", f"{FACTS}; echo END; exit 7"), _hooks),
)


def alone(hide_unified: bool) -> None:
    """Make this process's place: to be called by process 1 of new pid and mount namespaces."""
    if os.getpid() != 1 or os.readlink("/proc/self/ns/mnt") == "mnt:[4026531832]":
        raise RuntimeError(
            "this would hide the machine's /tmp from everybody: only in namespaces of its own (it HAS hidden it, twice)"
        )
    check_alone()
    libc = ctypes.CDLL(None, use_errno=True)
    for path, options in ((b"/tmp", b"mode=1777,size=512m"), (b"/run", b"mode=755,size=64m")):
        if libc.mount(b"chaos", path, b"tmpfs", 0, options):
            raise OSError(ctypes.get_errno(), f"mount {path!r}")
    # crun takes a hybrid hierarchy whose cgroup2 has a controller for a pure one
    if hide_unified and os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)


def check_alone() -> None:
    """What tidies up kills whoever it sees: anywhere but in a pid namespace of its own that would be everybody."""
    if os.getpid() != 1 or Path("/proc/1/cmdline").read_bytes() != Path("/proc/self/cmdline").read_bytes():
        raise SystemExit(
            "a worker is process 1 of a pid namespace of its own: started by campaign.py, and by nobody else"
        )


def call_names() -> dict[int, str]:
    """Number -> name of the system calls of this machine's kind."""
    for path in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h"):
        if os.path.exists(path):
            found = re.findall(r"#define __NR_(\w+)\s+(\d+)", Path(path).read_text())
            return {int(number): name for name, number in found}
    return {}


def faults() -> Path:
    """faults.c, compiled."""
    source, made = HERE / "faults.c", ROOT / "build/fixtures/faults"
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        made.parent.mkdir(parents=True, exist_ok=True)
        new = made.with_name(f"faults.{os.getpid()}")
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-static", "-o", new, source], check=True
        )
        new.rename(made)
    return made


def _below(top: Path) -> list[Path]:
    out = []
    try:
        entries = [entry for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    for entry in entries:
        out += [Path(entry.path), *_below(Path(entry.path))]
    return out


#: what a conmon leaves in its caller's directory when it is killed, for the caller
MONITORS = ("attach", "ctl", "winsz")
#: directories that stay, for the next container
SHARED = ("/tmp/chaos/state", "/run/containerd", "/run/containerd/s", "/run/criu.kdat")


def _files(top: Path) -> list[str]:
    out = []
    for folder, folders, files in os.walk(top):
        # what all containers of a root share stays: compiled seccomp filters, the directory itself; and what is in a bundle of
        # containerd's, containerd removes
        folders[:] = [name for name in folders if name not in (":seccomp", ".cache", "out", "mounted")]
        found = (f"{folder}/{name}" for name in (*folders, *files) if name not in MONITORS)
        out += [path for path in found if path not in SHARED]
    return out


def _link(name: str) -> str:
    try:
        if stat.S_ISDIR(os.stat(f"/proc/self/fd/{name}").st_mode):
            return ""  # the one that lists the directory
        return f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"
    except OSError:
        return ""
