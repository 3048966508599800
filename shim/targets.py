"""What a client names for the streams of a process: where output goes, and input comes from; fifos, files, words of a logger.

A fifo is the client's, who opens it when it comes to that, and may leave and come back. What is written while it is away is kept
as long as the fifo has room.
"""

from __future__ import annotations

import os
import sys
from errno import EEXIST, ENOENT, ENXIO
from fcntl import ioctl
from termios import FIONREAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.loop import Loop, Timer

#: how soon, and then how rarely, it is asked whether a fifo has been read: no event of a descriptor tells of that
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.25


def open_read_fifo(path: str) -> tuple[int, int] | None:
    """open_fifo_for_writing() of one that somebody has open for reading, or is just opening; None where nobody has."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ENXIO:
            return None
        raise
    try:
        return fd, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        os.close(fd)
        raise


def open_fifo_for_writing(path: str) -> tuple[int, int]:
    """A client's fifo for output, and a reader of our own to keep beside it: (fd, keeper).

    With the keeper nobody has to read already for us to open it, and a client who leaves does not break it: what it has not
    read waits for the next one. Who wants to know that nobody reads closes the keeper.
    """
    keeper = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), keeper
    except OSError:
        os.close(keeper)
        raise


class Parting:
    """Close a client's fifo, to which nothing more will be written; then done(), once, which may be at once.

    What is in a fifo is gone when the last of those who have it open closes it. A client opens its fifos beside (containerd's
    does it in a thread that nobody waits for), and a process may be over by then: what nobody has read is held until somebody
    has, or until close(). That somebody has it open is not enough: containerd's client gives up at the answer of Delete what its
    thread has opened, but not told of yet.
    """

    __slots__ = ("_done", "_fd", "_limit", "_look_s", "_loop", "_timer")

    def __init__(self, loop: Loop, fd: int, keeper: int, done: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._done = done
        self._look_s = _FIRST_LOOK_S
        self._timer: Timer | None = None
        self._limit: Timer | None = None
        os.close(keeper)
        self._look()

    def _look(self) -> None:
        if int.from_bytes(ioctl(self._fd, FIONREAD, bytes(4)), sys.byteorder):
            self._timer = self._loop.later(self._look_s, self._look)
            self._look_s = min(2 * self._look_s, _LAST_LOOK_S)
        else:
            self.close()

    @property
    def is_over(self) -> bool:
        return self._fd < 0

    def limit(self, limit_s: float) -> None:
        """Wait so long from now, and no longer."""
        if self._fd >= 0:
            self._limit = self._loop.later(limit_s, self.close)

    def close(self) -> None:
        """Wait no longer."""
        if self._fd >= 0:
            for timer in (self._timer, self._limit):
                if timer is not None:
                    timer.cancel()
            os.close(self._fd)
            self._fd = -1
            self._done()


def open_fifo_for_reading(path: str) -> int:
    """A client's fifo for input; it does not end before somebody has opened it for writing and closed it."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def hold_fifo(path: str) -> int:
    """A writer of our own on a fifo for input that is open for reading already: while it is held, clients may come and go, and the
    input does not end (CloseIO of a shim closes it)."""
    return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def open_file_for_appending(path: str) -> int:
    """What a file:// target names: made with its directories where it is not there, never cut short."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))
        return os.open(path, flags, 0o644)


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        if error.errno == ENOENT:
            _make_directory(os.path.dirname(path))
            os.mkdir(path, 0o755)
        elif error.errno != EEXIST:
            raise


def parse_target(text: str) -> tuple[str, str, list[str]]:
    """What a stdio path of a request means: (scheme, path, words), scheme "" for none, else fifo file binary binary-v2 pipe.

    A path without a scheme is a fifo's; words are the query of binary://, `?k=v` being the two arguments `k` and `v`, of several
    values of a name the first.
    """
    if not text:
        return "", "", []
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "fifo", text, []
    path, _, query = rest.partition("?")
    values: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        values.setdefault(_unquoted(name), _unquoted(value))
    words = [word for pair in values.items() for word in pair]
    return scheme, _unquoted(path, plus=False), words


def _unquoted(text: str, *, plus: bool = True) -> str:
    """Percent-decoded, as RFC 3986 has it; in a query a plus is a space."""
    parts = (text.replace("+", " ") if plus else text).split("%")
    out = parts[0].encode()
    for part in parts[1:]:
        try:
            out += bytes.fromhex(part[:2]) + part[2:].encode()
        except ValueError:
            out += b"%" + part.encode()
    return out.decode("utf-8", "surrogateescape")
