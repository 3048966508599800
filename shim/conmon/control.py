"""The fifos through which the caller steers: `ctl` and `winsz` in the bundle, lines of numbers.

    ctl     "1 HEIGHT WIDTH"   the terminal's size          winsz   "HEIGHT WIDTH"   the same
            "2 0 0"            somebody moved the logs: begin them anew

Podman sends the size of an exec's terminal before the process, and so the terminal, is there: the last one is remembered.
"""

from __future__ import annotations

import errno
import os
from select import EPOLLIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.conmon.messages import Messages
    from shim.loop import Loop

_RESIZE, _REOPEN = 1, 2
#: the longest line that makes sense is far shorter
_LINE_BYTES = 200


class Control:
    """The two fifos of one container; reopen() is called for the logs."""

    def __init__(self, loop: Loop, messages: Messages, bundle: str, reopen: Callable[[], None]) -> None:
        self.loop = loop
        self.messages = messages
        self.reopen = reopen
        self.terminal_fd = -1
        self.size: tuple[int, int] | None = None
        self.fds = [self._open(bundle + "/ctl", self._steer), self._open(bundle + "/winsz", self._resize)]

    def has_terminal(self, master_fd: int) -> None:
        """The terminal is there, and gets the size that was asked for meanwhile."""
        self.terminal_fd = master_fd
        self._set_size()

    def close(self) -> None:
        """Listen no more; the fifos are the caller's to remove."""
        for fd in self.fds:
            self.loop.forget(fd)
            os.close(fd)
        self.fds = []
        self.terminal_fd = -1

    def _open(self, path: str, line: Callable[[list[int]], bool]) -> int:
        try:
            os.unlink(path)  # an earlier run's
        except FileNotFoundError:
            pass
        os.mkfifo(path, 0o660)
        # for writing too: without a writer it would report a hang-up again and again
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        rest = [b""]
        self.loop.watch(fd, EPOLLIN, lambda events: self._read(fd, path, rest, line))
        return fd

    def _read(self, fd: int, path: str, rest: list[bytes], line: Callable[[list[int]], bool]) -> None:
        try:
            data = rest[0] + os.read(fd, 4096)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return
        lines = data.split(b"\n")
        rest[0] = lines.pop()
        if len(rest[0]) > _LINE_BYTES:
            lines.append(rest[0])
            rest[0] = b""
        for text in lines:
            words = text.split()
            if not all(word.isdigit() and len(word) < 6 for word in words) or not line([int(word) for word in words]):
                self.messages.warn(f"{path}: cannot make sense of {text[:_LINE_BYTES]!r}")

    def _steer(self, numbers: list[int]) -> bool:
        if len(numbers) != 3 or numbers[0] not in (_RESIZE, _REOPEN):
            return False
        if numbers[0] == _RESIZE:
            return self._resize(numbers[1:])
        self.reopen()
        return True

    def _resize(self, numbers: list[int]) -> bool:
        if len(numbers) != 2 or max(numbers) > 0xFFFF:
            return False
        self.size = numbers[0], numbers[1]
        self._set_size()
        return True

    def _set_size(self) -> None:
        if self.size is None or self.terminal_fd < 0:
            return
        from shim.console import resize

        height, width = self.size
        try:
            resize(self.terminal_fd, width, height)
        except OSError as error:
            self.messages.warn(f"resize the terminal to {width}x{height}: {os.strerror(error.errno or 0).lower()}")
