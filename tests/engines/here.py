"""The machine itself in the place of a lab (lab.py), for engines of the ordinary user who runs the tests.

A user can have no lab: that takes root. What is run here is run beside everything else of the user's, on his own systemd, with a
home of its own; what must not be left is looked for by the tests.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

from lab import Lab
from packages import PATH
from processes import Running, until


class Started(Running):
    """A process that the test started."""

    def __init__(self, argv: tuple[str, ...], child: subprocess.Popen[bytes]) -> None:
        self.argv, self.child, self.pid = argv, child, child.pid
        self.status: int | None = None
        self.log: Path | None = None
        #: readable at its end
        self._report = os.pidfd_open(child.pid)

    def ended(self) -> bool:
        if self.status is None and (code := self.child.poll()) is not None:
            self.status = code
            os.close(self._report)
        return self.status is not None

    def kill(self, number: int = signal.SIGTERM, *, group: bool = False) -> None:
        if self.status is None:
            (os.killpg if group else os.kill)(self.pid, number)


class Here(Lab):
    """See the module's docstring; of a lab's methods those that run things, and `connect`."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="here-", dir="/var/tmp"))
        self.tmp, self.root = self.dir / "tmp", Path("/")
        for name in ("home", "tmp"):
            (self.dir / name).mkdir()
        kept = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
        self.env = {"PATH": PATH, "HOME": str(self.dir / "home"), "TMPDIR": str(self.tmp)}
        self.env |= {name: os.environ[name] for name in kept if name in os.environ}
        self.cgroups, self.daemons = [], []

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
        given: list[Any] = [subprocess.DEVNULL if file is None else file for file in (stdin, stdout, stderr)]
        child = subprocess.Popen(
            [*(("setsid", "--ctty") if tty else ()), *words], env={**self.env, **(env or {})}, cwd=cwd,
            stdin=given[0], stdout=given[1], stderr=given[2], start_new_session=not tty,
        )  # fmt: skip
        return Started(words, child)

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float = 30) -> socket.socket:
        """A TCP connection to a port of this machine, once somebody listens there."""
        made = socket.socket()
        made.settimeout(timeout)
        until(lambda: made.connect_ex((host, port)) in (0, errno.EISCONN), f"a listener on {host}:{port}", timeout)
        return made
