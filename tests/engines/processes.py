"""The processes that a test runs in a lab (lab.py): how they ended, talking to them, waiting for what they do."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lab import Lab


def missing(what: str) -> None:
    """Skip the test, in the one way that tests/conftest.py accepts."""
    pytest.skip(f"missing feature: {what}")


def until(ready: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """Poll until `ready()` answers something true, which is returned; fail with `what` was awaited."""
    deadline = time.monotonic() + timeout
    while not (answer := ready()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {timeout:g} s still not: {what}", pytrace=False)
        time.sleep(0.02)
    return answer


class Result:
    """How a command ended: exit status (negative for a signal), and what it printed."""

    def __init__(self, argv: tuple[str, ...], status: int, out: str, err: str) -> None:
        self.argv, self.status, self.out, self.err = argv, status, out, err

    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"$ {' '.join(self.argv)}\n{self.out}{self.err}[status {self.status}]"


class Running:
    """A process of the lab that the test started."""

    def __init__(self, lab: Lab, argv: tuple[str, ...], report: int) -> None:
        self.lab, self.argv, self._report, self._read = lab, argv, report, b""
        self.status: int | None = None
        self.log: Path | None = None
        until(lambda: self._lines(1), f"start of {argv[0]}")
        self.pid = int(self._read.split(b"\n")[0])

    def _lines(self, count: int) -> bool:
        while self._read.count(b"\n") < count and select.select([self._report], [], [], 0)[0]:
            part = os.read(self._report, 64)
            if not part:  # the lab is gone
                self._read += b"-9\n" * count
            self._read += part
        return self._read.count(b"\n") >= count

    def ended(self) -> bool:
        """Whether it ended; then .status says how."""
        if self.status is None and self._lines(2):
            self.status = int(self._read.split(b"\n")[1])
            os.close(self._report)
        return self.status is not None

    def wait(self, timeout: float = 60) -> int:
        until(self.ended, f"end of {' '.join(self.argv)}", timeout)
        assert self.status is not None
        return self.status

    def kill(self, number: int = signal.SIGTERM, *, group: bool = False) -> None:
        """Signal it, or its process group."""
        self.lab.kill(self.pid, number, group=group)

    def tail(self, lines: int = 30) -> str:
        """The end of a daemon's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log else ""


class Dialogue:
    """A process of the lab to which the test talks while it runs: through pipes, stderr with stdout."""

    def __init__(self, lab: Lab, argv: tuple[str, ...], **more: Any) -> None:
        stdin, self.input = os.pipe()
        self.output, stdout = os.pipe()
        self._begin(lab, argv, [stdin, stdout], {"stdin": stdin, "stdout": stdout, "stderr": stdout, **more})

    def _begin(self, lab: Lab, argv: tuple[str, ...], theirs: list[int], more: dict[str, Any]) -> None:
        self.seen = ""
        self.process = lab.popen(*argv, **more)
        for fd in theirs:
            os.close(fd)

    def write(self, text: str) -> None:
        os.write(self.input, text.encode())

    def end_input(self) -> None:
        """Close its standard input."""
        if self.input >= 0:
            os.close(self.input)
        self.input = -1

    def expect(self, pattern: str, timeout: float = 30) -> str:
        """Read until the pattern is there; what was seen until then is dropped and returned."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process.ended()  # before the last look
            self.take()
            if match := re.search(pattern, self.seen):
                text, self.seen = self.seen[: match.end()], self.seen[match.end() :]
                return text
            if ended or time.monotonic() > deadline:
                pytest.fail(f"{pattern!r} is not in {self.seen!r}", pytrace=False)
            select.select([self.output], [], [], 0.05)

    def take(self) -> str:
        """Read what is there; all that was seen and not expected yet."""
        while select.select([self.output], [], [], 0)[0]:
            try:
                part = os.read(self.output, 65536)
            except OSError:  # EIO: nobody has the terminal's other end open
                break
            if not part:
                break
            self.seen += part.decode(errors="replace")
        return self.seen

    def finish(self, timeout: float = 60) -> int:
        """Close our ends when it has ended; the exit status. What it printed last is in .seen."""

        def ended() -> bool:
            self.take()  # or it might wait for us to read what it says last
            return self.process.ended()

        until(ended, f"end of {' '.join(self.process.argv)}", timeout)
        status = self.process.wait()
        self.take()
        self.end_input()
        os.close(self.output)
        return status


class Terminal(Dialogue):
    """The same through a terminal, of which we are the other end."""

    def __init__(self, lab: Lab, argv: tuple[str, ...], *, columns: int = 80, rows: int = 24, **more: Any) -> None:
        self.output, slave = os.openpty()
        self.input = os.dup(self.output)
        self.resize(columns, rows)
        self._begin(lab, argv, [slave], {"stdin": slave, "stdout": slave, "stderr": slave, "tty": True, **more})

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; the process gets a SIGWINCH."""
        fcntl.ioctl(self.output, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize_until(self, pattern: str, columns: int, rows: int) -> str:
        """Change the size, by way of another one, until that is seen: a client hears of it only after it has begun to listen,
        which is some time after its container can be talked to (ctr, docker and podman first set the size and then listen)."""

        def is_seen() -> bool:
            self.resize(columns - 1, rows)
            self.resize(columns, rows)
            return re.search(pattern, self.take()) is not None

        until(is_seen, f"{pattern!r} on the screen")
        return self.expect(pattern)
