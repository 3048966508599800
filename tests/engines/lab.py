"""A lab: a place of its own in which a test runs real engines, and after which nothing is left.

    with Lab() as lab:
        daemon = lab.daemon("containerd", "--config", config, ready=lambda: socket.exists())
        before = lab.mark()
        lab.run("ctr", "--address", socket, "version").out
        lab.left(before)          # what is there now and was not then: processes, mounts, cgroups, interfaces, files

Its processes have mount, pid, network, ipc and cgroup namespaces of their own and their own cgroup in each hierarchy,
so that engines that insist on /run/containerd, /docker or br0 can be run by several workers at once, and whatever goes
wrong ends with the lab. /run and /dev/shm are empty, /etc, /opt and /var/lib are layers over the machine's: what an
engine writes there is the lab's. Everything else is the machine, as an engine installed on it would see it, or, given a
`tree`, that tree under a layer of the lab's, with the repository and the lab's directory where they are on the machine.

inside.py is the lab's process 1. Paths below `lab.root` are what the lab sees; pids are the lab's unless said
otherwise. Without root, namespaces or packages a test is skipped, and says what was missing.
"""

from __future__ import annotations

import array
import errno
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent

sys.path[:0] = [str(HERE), str(HERE.parent / "fixtures")]

import unshared  # noqa: E402 - found through the path above
from packages import BUILD, PATH, need  # noqa: E402
from processes import Dialogue, Result, Running, Terminal, missing, until  # noqa: E402

__all__ = ["BUILD", "PATH", "Dialogue", "Lab", "Mark", "Result", "Running", "Terminal", "missing", "need", "until"]

_numbers = itertools.count(1)


# -- the lab ---------------------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """What there was in a lab at some moment, as text by kind."""

    things: frozenset[str]


class Lab:
    """See the module's docstring. `omit`: hierarchies below /sys/fs/cgroup that the lab does not have.

    `tree`: a root file system to run in instead of the machine's, such as that of newer.py.
    """

    def __init__(self, *, omit: Iterable[str] = (), tree: Path | None = None) -> None:
        if os.geteuid() != 0:
            missing("root")
        need("util-linux", "mount", "iproute2")
        self.tree = tree
        self.dir = Path(tempfile.mkdtemp(prefix="lab-", dir="/var/tmp"))
        self.dir.chmod(0o755)
        for name in ("own", "home", "tmp"):
            (self.dir / name).mkdir()
        #: TMPDIR of all that runs here
        self.tmp = self.dir / "tmp"
        self.env = {"PATH": PATH, "HOME": str(self.dir / "home"), "TMPDIR": str(self.tmp)}
        self.cgroups: list[Path] = []
        self.daemons: list[Running] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._make_cgroups(set(omit))
        self._outer = self._start(theirs, list(omit))
        #: process 1 of the lab by its pid on the machine
        self.init = self._find_init()
        #: the lab's file system
        self.root = Path(f"/proc/{self.init}/root")
        self._first = self.mark()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_cgroups(self, omitted: set[str]) -> None:
        name = f"pyrunc-lab-{os.getpid()}-{next(_numbers)}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            point = Path(left.split(" ")[4])
            if right.split(" ")[0] not in ("cgroup", "cgroup2") or point.name in omitted:
                continue
            (point / name).mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):  # cpusets(7): empty ones take no process
                if right.startswith("cgroup ") and (point / name / file).exists():
                    (point / name / file).write_text((point / file).read_text())
            self.cgroups.append(point / name)

    def _start(self, control: socket.socket, omitted: list[str]) -> subprocess.Popen[bytes]:
        # In its cgroups first: the root of a cgroup namespace is where its creator was.
        script = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
        inside = [sys.executable, "-IS", HERE / "inside.py", control.fileno(), self.dir, self.tree or "/", *omitted]
        unshare = [*unshared.WORDS, "--net", "--ipc", "--cgroup"]
        with (self.dir / "init.log").open("wb") as log:
            started = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", *map(str, self.cgroups), "--", *unshare, "--", *map(str, inside)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd="/",
                pass_fds=[control.fileno()], start_new_session=True,
            )  # fmt: skip
        control.close()
        return started

    def _find_init(self) -> int:
        self._control.settimeout(30)
        if self._control.recv(16) != b"ready":
            why = (self.dir / "init.log").read_text()
            self.close()
            missing(f"namespaces of its own for a lab ({why.strip().splitlines()[-1:]})")
        for top in self.cgroups:
            if (top / "cgroup.subtree_control").exists() and (top / "lab").is_dir():
                # what waits for the lab's end began in the lab's own root, which would pass no controller on with it; nobody in
                # there sees it, so that it must not be where Podman moves everybody away (--cgroups=split) either
                (top / "outside").mkdir()
                (top / "outside/cgroup.procs").write_text(str(self._outer.pid))
        return int(Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()[0])

    # -- running things in it

    def popen(
        self,
        *argv: str | Path | int,
        env: dict[str, str] | None = None,
        cwd: str | Path = "/",
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        tty: bool = False,
    ) -> Running:
        """Start a command, in a session of its own; what is not given is /dev/null. `tty`: stdin becomes its terminal."""
        words = tuple(map(str, argv))
        request = {"argv": words, "env": {**self.env, **(env or {})}, "cwd": str(cwd), "tty": tty}
        ours, report = os.pipe()
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            given = [null if f is None else f if isinstance(f, int) else f.fileno() for f in (stdin, stdout, stderr)]
            self._send(request, [*given, report])
        finally:
            os.close(null)
            os.close(report)
        return Running(self, words, ours)

    def run(
        self,
        *argv: str | Path | int,
        status: int | None = 0,
        input: str | bytes | None = None,
        timeout: float = 60,
        **more: Any,
    ) -> Result:
        """Run a command to its end; a `status` other than expected (None: any) fails the test with what was printed."""
        data = input.encode() if isinstance(input, str) else input
        # Files and not pipes: what the command leaves in the background may keep them open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as stdin:
            stdin.write(data or b"")
            stdin.seek(0)
            running = self.popen(*argv, **{"stdin": stdin, "stdout": out, "stderr": err, **more})
            deadline = time.monotonic() + timeout
            while not running.ended() and time.monotonic() < deadline:
                select.select([running._report], [], [], 0.5)
            late = not running.ended()
            if late:
                running.kill(signal.SIGKILL, group=True)
                running.wait(10)
            texts = [(f.seek(0), f.read().decode("utf-8", "backslashreplace"))[1] for f in (out, err)]
        assert running.status is not None
        result = Result(running.argv, running.status, *texts)
        if late:
            pytest.fail(f"killed after {timeout:g} s\n{result}", pytrace=False)
        if status is not None and result.status != status:
            pytest.fail(f"exit status {result.status} instead of {status}\n{result}", pytrace=False)
        return result

    def fails(self, *argv: str | Path | int, **more: Any) -> Result:
        """Run what must not exit with 0."""
        result = self.run(*argv, status=None, **more)
        if result.status == 0:
            pytest.fail(f"exit status 0, and it should have failed\n{result}", pytrace=False)
        return result

    def dialogue(self, *argv: str | Path | int, **more: Any) -> Dialogue:
        """Start a command with pipes that the test talks through."""
        return Dialogue(self, tuple(map(str, argv)), **more)

    def terminal(self, *argv: str | Path | int, **more: Any) -> Terminal:
        """Start a command with a terminal of its own."""
        return Terminal(self, tuple(map(str, argv)), **more)

    def daemon(self, *argv: str | Path | int, ready: Callable[[], Any], timeout: float = 60, **more: Any) -> Running:
        """Start a daemon and wait until `ready()` is true. Its log is .log; lab.stop() or the lab's end stops it."""
        log = self.dir / f"{Path(str(argv[0])).name}-{next(_numbers)}.log"
        with log.open("wb") as file:
            running = self.popen(*argv, **{"stdout": file, "stderr": file, **more})
        running.log = log
        self.daemons.append(running)
        deadline = time.monotonic() + timeout
        while not ready():
            if running.ended() or time.monotonic() > deadline:
                pytest.fail(f"{argv[0]} does not answer (status {running.status}):\n{running.tail()}", pytrace=False)
            time.sleep(0.05)
        return running

    def stop(self, daemon: Running, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """End a daemon; its exit status."""
        daemon.kill(number)
        status = daemon.wait(timeout)
        if daemon in self.daemons:
            self.daemons.remove(daemon)
        return status

    def kill(self, pid: int, number: int = signal.SIGTERM, *, group: bool = False) -> None:
        """Signal any process of the lab by its pid there."""
        self._send({"kill": pid, "signal": int(number), "group": group}, [])

    def _send(self, request: dict[str, Any], fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._control.sendmsg([json.dumps(request).encode()], rights)

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float = 30) -> socket.socket:
        """A TCP connection within the lab's network, once somebody listens there."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._send({"socket": True}, [theirs.fileno()])
            _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        made = socket.socket(fileno=fds[0])
        made.settimeout(timeout)
        until(lambda: made.connect_ex((host, port)) in (0, errno.EISCONN), f"a listener on {host}:{port}", timeout)
        return made

    # -- looking at it

    def pids(self) -> dict[int, str]:
        """Every process but the lab's own first, with its command line; zombies too, marked as such."""
        found = {}
        for entry in (self.root / "proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue  # it ended
            if entry.name != "1":
                found[int(entry.name)] = f"{words or name} [zombie]" if state == "Z" else words or name
        return found

    def parent(self, pid: int) -> int:
        """The pid of a process's parent; 0 where it has ended."""
        try:
            return int((self.root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return 0

    def interfaces(self) -> set[str]:
        """The network interfaces of the lab."""
        lines = (self.root / "proc/1/net/dev").read_text().splitlines()[2:]
        return {line.partition(":")[0].strip() for line in lines}

    def mounts(self) -> list[str]:
        """Mount points of the lab."""
        return [line.split(" ")[4] for line in (self.root / "proc/1/mountinfo").read_text().splitlines()]

    def cgroup(self, path: str, *files: str) -> str:
        """What the first of the files that is there says: `lab.cgroup("/default/c1", "pids.max")`, v1's name or v2's."""
        for file in files:
            for top in self.cgroups:
                found = top / path.strip("/") / file
                if found.exists():
                    return found.read_text().strip()
        pytest.fail(f"no {' or '.join(files)} in a cgroup {path}", pytrace=False)

    def mark(self) -> Mark:
        """What there is now, to compare with later."""
        return Mark(frozenset(self._things()))

    def _things(self) -> Iterator[str]:
        mine = {daemon.pid for daemon in self.daemons}
        for pid, words in self.pids().items():
            if pid not in mine:
                yield f"process: {pid} {words}"
        yield from (f"interface: {name}" for name in self.interfaces())
        counted: dict[str, int] = {}
        for point in self.mounts():  # a second mount on the same point is another thing
            counted[point] = counted.get(point, 0) + 1
            yield f"mount: {point}" + (f" ({counted[point]})" if counted[point] > 1 else "")
        for top in self.cgroups:
            for path in self._walk(top):
                if path.is_dir():
                    yield f"cgroup: {top.parent.name} {str(path)[len(str(top)) :]}"
        for place in ("/run", "/dev/shm", str(self.tmp)):
            for path in self._walk(Path(f"{self.root}{place}")):
                yield f"file: {str(path)[len(str(self.root)) :]}"

    @staticmethod
    def _walk(top: Path) -> Iterator[Path]:
        for path, directories, files in os.walk(top):
            yield from (Path(path, name) for name in (*directories, *files))

    def left(self, since: Mark | None = None, *, ignoring: Iterable[str] = (), timeout: float = 15) -> list[str]:
        """What came since the mark (the lab's beginning) and is still there when the time is over; sorted.

        `ignoring`: regular expressions, searched for in the texts, of what an engine keeps on purpose.
        """
        before = (since or self._first).things
        deadline = time.monotonic() + timeout
        while True:
            found = sorted(t for t in set(self._things()) - before if not any(re.search(p, t) for p in ignoring))
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    # -- its end

    def close(self) -> None:
        """End everything in it and remove what it had."""
        self._control.close()  # process 1 ends, and the kernel kills the rest
        try:
            self._outer.wait(10)
        except subprocess.TimeoutExpired:
            self._outer.kill()  # --kill-child
            self._outer.wait(10)
        until(lambda: all(self._removed(top) for top in self.cgroups), f"removal of {self.cgroups}")
        shutil.rmtree(self.dir, ignore_errors=True)

    @staticmethod
    def _removed(top: Path) -> bool:
        for path, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                pass  # something in there is still dying
        return not top.exists()
