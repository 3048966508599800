"""One run of a guest: it starts from the pristine image, runs one command, hands back what that said and made, and is gone.

    Request      what to run, as whom, for how long at most
    run(...)     do it; the exit status is the command's, or one of the three below

The command finds the tree at its own path, with a layer on top that vanishes with the guest. What it puts into /run/guest/back
is unpacked into the directory `back`. inside.sh is the other end of this.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from making import HERE, ROOT, say

#: the time was up; the guest did not boot, or died; there is none here
LATE, DIED, UNAVAILABLE = 124, 125, 126
BOOT_LIMIT_S = 180.0
#: how often a guest is started whose kernel panics before there is a system, which Debian's own does now and then
BOOTS = 4
#: what is still on its way when the command has ended
REST_LIMIT_S = 10.0
#: what every kernel is told to start
INIT = ("init=/lib/systemd/systemd", "systemd.unit=guest.target", "systemd.show_status=0")
LINES = ("console", "out", "err", "status", "back")
TOOLS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine(Protocol):
    """What a kind of guest provides: uml.py, cloud.py, container.py."""

    lines: dict[str, str]

    def source(self, directory: Path) -> str: ...

    def command(self, work: Path, tree: Path, fds: dict[str, int], has_terminal: bool) -> list[str]: ...

    def end(self, work: Path) -> None: ...


class Request(NamedTuple):
    words: tuple[str, ...]
    user: str = "root"
    env: tuple[tuple[str, str], ...] = ()
    limit_s: float = 3600.0
    #: where what the command made is put
    back: Path | None = None
    #: on this terminal
    has_terminal: bool = False


def run(machine: Machine, request: Request) -> int:
    for boot in range(1, BOOTS + 1):
        status, has_panicked = _run_once(machine, request)
        if not has_panicked or boot == BOOTS:
            break
        say(f"the kernel panicked while it booted: starting it again ({boot + 1} of {BOOTS})")
    return status


def _run_once(machine: Machine, request: Request) -> tuple[int, bool]:
    """The exit status, and whether the kernel gave up before there was a system."""
    # The layer over the disk can grow by gigabytes: not for a /tmp that is memory.
    with tempfile.TemporaryDirectory(prefix="guest-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        work = Path(name)
        (work / "run").mkdir()
        shutil.copy(HERE / "inside.sh", work / "run/inside.sh")
        (work / "run/settings").write_text(settings(machine, request))
        (work / "run/command").write_text(command(request))
        session = _Session(machine, request, work)
        status = session.run()
        return status, status == DIED and not session.got["status"] and b"Kernel panic" in session.got["console"]


def settings(machine: Machine, request: Request) -> str:
    """The variables of inside.sh."""
    size = os.get_terminal_size(0) if request.has_terminal else os.terminal_size((80, 24))
    values = {
        **machine.lines,
        "terminal": machine.lines["terminal"] if request.has_terminal else "",
        "rows": size.lines,
        "columns": size.columns,
        "tree": ROOT,
        "source": machine.source(ROOT),
        "user": request.user,
    }
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


def command(request: Request) -> str:
    env = {"PATH": TOOLS, "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **dict(request.env)}
    if request.user == "root":
        env["HOME"] = "/root"
    if request.has_terminal:
        env["TERM"] = os.environ.get("TERM", "linux")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    return "\n".join([*lines, f"cd {shlex.quote(str(ROOT))} || exit", f"exec {shlex.join(request.words)}", ""])


class _Session:
    """The lines of a guest while it runs."""

    def __init__(self, machine: Machine, request: Request, work: Path) -> None:
        self.machine, self.request, self.work = machine, request, work
        self.got = {name: bytearray() for name in ("console", "status", "back")}

    def run(self) -> int:
        readers, fds = {}, {}
        for name in LINES:
            reader, fds[name] = os.pipe()
            readers[reader] = name
        is_typed = self.request.has_terminal
        words = self.machine.command(self.work, ROOT, fds, is_typed)
        with _raw_terminal() if is_typed else contextlib.nullcontext():
            # --pdeathsig: whoever kills us does not leave a guest behind
            child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                stdin=0 if is_typed else subprocess.DEVNULL,
                stdout=1 if is_typed else fds["console"],
                stderr=fds["console"],
                pass_fds=tuple(fds.values()),
                start_new_session=not is_typed,
            )
            for fd in fds.values():
                os.close(fd)
            try:
                is_late = self._copy(readers, child)
            finally:
                if not is_typed:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                child.kill()
                child.wait()
                self.machine.end(self.work)
        return self._outcome(is_late, child.returncode)

    def _copy(self, readers: dict[int, str], child: subprocess.Popen[bytes]) -> bool:
        """Copy the lines until the command's end is told; whether a limit was reached before."""
        began, ended = time.monotonic(), 0.0
        with selectors.DefaultSelector() as selector:
            for reader, name in readers.items():
                selector.register(reader, selectors.EVENT_READ, name)
            while selector.get_map():
                now = time.monotonic()
                if end := self._end():
                    ended = ended or now
                    is_complete = len(self.got["back"]) >= end[1]
                    if now - ended > REST_LIMIT_S:
                        break
                elif now - began > (self.request.limit_s if self.got["status"] else BOOT_LIMIT_S):
                    return True
                # What was said before the end was told is here by now: there is no waiting for more.
                events = selector.select(0 if end and is_complete else 0.5)
                if not events and (end and is_complete or child.poll() is not None):
                    break
                for key, _ in events:
                    if data := os.read(key.fd, 1 << 16):
                        self._take(key.data, data)
                    else:
                        selector.unregister(key.fd)
        for reader in readers:
            os.close(reader)
        return False

    def _take(self, name: str, data: bytes) -> None:
        if name in ("out", "err"):
            _print(name == "err", data)
        else:
            self.got[name] += data

    def _end(self) -> tuple[int, int] | None:
        """The command's exit status, and the size of what it made, once they are told."""
        found = re.search(rb"exit (\d+) (\d+)\r?\n", self.got["status"])
        return (int(found[1]), int(found[2])) if found else None

    def _outcome(self, is_late: bool, returncode: int) -> int:
        if end := self._end():
            if self.request.back and len(self.got["back"]) >= end[1]:
                _unpack(bytes(self.got["back"]), self.request.back)
            return end[0]
        doing = "ran" if self.got["status"] else "booted"
        why = f"the time was up while it {doing}" if is_late else f"it died while it {doing}"
        last = self.got["console"].decode(errors="replace").splitlines()[-15:]
        # It gave up by itself, and not as a kernel does: it has found out that it cannot run here, and said why.
        if not is_late and not self.got["status"] and returncode > 0 and not any("panic" in line for line in last):
            say(f"no guest can run on this machine: {last[-1].strip() if last else f'exit status {returncode}'}")
            return UNAVAILABLE
        say("\n    ".join([why, *last]))
        return LATE if is_late else DIED


def _unpack(packed: bytes, directory: Path) -> None:
    """The files, flat: whatever their names are, they land in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as made:
        for member in made:
            if member.isfile() and (file := made.extractfile(member)):
                (directory / Path(member.name).name).write_bytes(file.read())


def _print(is_error: bool, data: bytes) -> None:
    stream = sys.stderr.buffer if is_error else sys.stdout.buffer
    stream.write(data)
    stream.flush()


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """What is typed goes to the guest's terminal, ^C too."""
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
