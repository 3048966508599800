"""Terminals: the socket on which the runtime hands over a pty's master, and the master's size.

The runtime connects, sends one message with one descriptor, and leaves without an answer (runc's docs/terminals.md). The
socket lies in a directory of its own that only we may enter: whoever could connect could be the container's terminal.
"""

from __future__ import annotations

import os
import select
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from _struct import pack
from fcntl import ioctl
from termios import TIOCSWINSZ

from shim.scratch import Scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.loop import Loop

#: the name of the pty comes with it, which nobody needs
_NAME_BYTES = 4096


class ConsoleSocket:
    """Listens at `.path`; received(master_fd) is called once, from the loop. The master is then the caller's, and non-blocking.

    The message may arrive after the runtime's exit was told of; collect() takes it then and there.
    """

    __slots__ = ("_connections", "_listener", "_loop", "_place", "_received", "path")

    def __init__(self, loop: Loop, received: Callable[[int], None]) -> None:
        self._loop = loop
        self._received: Callable[[int], None] | None = received
        self._connections: list[socket] = []
        self._place = Scratch("pty")
        self.path = self._place.path + "/pty.sock"
        self._listener: socket | None = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
        try:
            self._listener.bind(self.path)
            self._listener.listen(4)
            loop.watch(self._listener.fileno(), select.EPOLLIN, self._accept)
        except OSError:
            self.close()
            raise

    def collect(self) -> bool:
        """Take what has arrived by now; whether the master has been received, now or before."""
        if self._listener is not None:
            self._accept(0)
        for connection in list(self._connections):
            self._read(connection)
        return self._received is None

    def close(self) -> None:
        """Listen no longer, and leave nothing behind. A master that was received stays."""
        while self._connections:
            self._drop(self._connections[0])
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._place.close()

    def _accept(self, events: int) -> None:
        assert self._listener is not None
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        connection = socket(AF_UNIX, SOCK_STREAM, 0, fd)
        connection.setblocking(False)
        self._connections.append(connection)
        self._loop.watch(fd, select.EPOLLIN, lambda events: self._read(connection))

    def _read(self, connection: socket) -> None:
        try:
            # room for two, so that a second descriptor is seen and closed
            _, control, _, _ = connection.recvmsg(_NAME_BYTES, CMSG_LEN(8), MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionResetError:
            control = []
        self._drop(connection)
        fds = [
            int.from_bytes(data[at : at + 4], "little")
            for level, kind, data in control
            if level == SOL_SOCKET and kind == SCM_RIGHTS
            for at in range(0, len(data) - 3, 4)
        ]
        received = self._received
        if len(fds) == 1 and received is not None and os.isatty(fds[0]):
            self._received = None
            os.set_blocking(fds[0], False)
            received(fds[0])
        else:
            # nobody's terminal: whoever waits for one will learn from the runtime's exit that it failed
            for fd in fds:
                os.close(fd)

    def _drop(self, connection: socket) -> None:
        self._connections.remove(connection)
        self._loop.forget(connection.fileno())
        connection.close()


def resize(master_fd: int, width: int, height: int) -> None:
    """Give a terminal its size; the kernel tells the processes in its foreground (SIGWINCH)."""
    ioctl(master_fd, TIOCSWINSZ, pack("HHHH", height, width, 0, 0))
