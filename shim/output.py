"""What a container writes: read, logged, handed to attached clients. Read no faster than clients take it, and never kept.

A pipe is at its end when nobody can write to it any more. A terminal has no such end: its master reports a hang-up whenever no
process has it open, which may change, and so it is asked again a little later until the container's process is known to be gone.

Who writes small pieces as fast as it can is read in large ones: where such reads bring little, the pipe is left alone for a
millisecond, and is as large as it takes for the writer not to notice.
"""

from __future__ import annotations

import errno
import os
import time
from fcntl import F_SETPIPE_SZ, fcntl
from select import EPOLLHUP, EPOLLIN

from shim.logs import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shim.conmon.attach import Attach
    from shim.logs import Data, Driver
    from shim.loop import Loop

#: what a pipe holds. There is one buffer for all that is read, which is never given back: what is, comes back page by page.
_READ_BYTES = 64 << 10
#: the most that can be in a pipe (/proc/sys/fs/pipe-max-size) when its last writer of ours has ended; who goes on writing, in the
#: background, must not keep us from ending
_DRAIN_BYTES = 1 << 20
#: how often a terminal is asked whether somebody has it open again
_HANGUP_S = 0.1
#: a stream is busy when so many reads in a row came within that time of each other, and is left alone after one of less than this
_BUSY_READS, _BUSY_S, _LITTLE_BYTES = 16, 0.001, 16384
#: for busy streams only: the kernel allows a user so many pages in pipes (pipe-user-pages-soft), and then gives tiny ones
_BUSY_PIPE_BYTES = 256 << 10


class _Pace:
    """How fast a stream is being written."""

    __slots__ = ("is_large", "last", "reads")

    def __init__(self) -> None:
        self.last = 0.0
        self.reads = 0
        self.is_large = False


#: how much of the runtime's standard error is kept while it runs, and the most that is an error's text
_EARLY_BYTES, _TEXT_BYTES = 65536, 8191


class Early:
    """The container's standard error while the runtime has it: kept until it is known whose words these are.

    More than a runtime ever says is not kept, but given to feed() at once: nobody may be held up by us.
    """

    def __init__(self, loop: Loop, fd: int, feed: Callable[[bytes], None]) -> None:
        self.loop = loop
        self.fd = fd
        self.feed = feed
        #: how it begins: the error, if the runtime fails
        self.text = b""
        self.kept = b""
        self.is_kept = True
        os.set_blocking(fd, False)
        loop.watch(fd, EPOLLIN, self._ready)

    def over(self) -> bool:
        """The runtime has ended: whether somebody still has the other end. If not, the descriptor is closed."""
        for _ in range(_DRAIN_BYTES // _EARLY_BYTES):
            if not self._read():
                break
        is_open = self.loop.is_watching(self.fd)
        self.loop.forget(self.fd)
        if not is_open:
            os.close(self.fd)
        return is_open

    def release(self) -> None:
        """They are the container's: hand them on."""
        self.is_kept = False
        if self.kept:
            self.feed(self.kept)
            self.kept = b""

    def _ready(self, events: int) -> None:
        self._read()

    def _read(self) -> int:
        if not self.loop.is_watching(self.fd):
            return 0
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self.loop.forget(self.fd)
        self.text += data[: _TEXT_BYTES - len(self.text)]
        self.kept += data
        if not self.is_kept or len(self.kept) > _EARLY_BYTES:
            self.release()
        return len(data)


class Output:
    """Both streams of a container. `drivers` are its logs, `attach` its clients if it can have any."""

    def __init__(self, loop: Loop, drivers: Sequence[Driver], attach: Attach | None = None) -> None:
        self.loop = loop
        self.drivers = drivers
        self.attach = attach
        self.fds: dict[int, int] = {}
        self.paces = {STDOUT: _Pace(), STDERR: _Pace()}
        self.terminal_fd = -1
        self.is_paused = False
        self.null_fd = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self.buffer = memoryview(b"")

    def add_pipe(self, stream: int, fd: int) -> None:
        """Read this pipe from now on; it is ours to close."""
        os.set_blocking(fd, False)
        self.fds[stream] = fd
        self._watch(stream)

    def add_terminal(self, fd: int) -> None:
        """Read a terminal's master, as standard output; it is ours to close."""
        self.terminal_fd = fd
        self.fds[STDOUT] = fd
        self._watch(STDOUT)

    def feed(self, stream: int, data: Data) -> None:
        """Log and hand on what was read, here or elsewhere."""
        for driver in self.drivers:
            driver.write(stream, data)
        if self.attach is None or not self.attach.clients:
            return
        self.attach.send(stream, data)
        if not self.is_paused and self.attach.has_stalled():
            self.is_paused = True
            for fd in self.fds.values():
                self.loop.forget(fd)

    def resume(self) -> None:
        """The clients have taken what they were sent."""
        if self.is_paused:
            self.is_paused = False
            for stream in self.fds:
                self._watch(stream)

    def drain(self) -> None:
        """The process has ended: take what it left in the pipes, then close them."""
        if self.attach is not None:
            self.attach.welcome()
        for stream in (STDOUT, STDERR):
            left = _DRAIN_BYTES
            while left > 0 and stream in self.fds:
                count = self._read(stream)
                if not count:
                    break
                left -= count
        self.close()

    def close(self) -> None:
        """Read no more."""
        for stream in list(self.fds):
            self._close(stream)

    def _watch(self, stream: int) -> None:
        fd = self.fds.get(stream, -1)
        if fd >= 0 and not self.is_paused and not self.loop.is_watching(fd):
            self.loop.watch(fd, EPOLLIN, lambda events: self._ready(stream, events))

    def _rest(self, stream: int, seconds: float) -> None:
        self.loop.forget(self.fds[stream])
        self.loop.later(seconds, lambda: self._watch(stream))

    def _ready(self, stream: int, events: int) -> None:
        if events & EPOLLIN:
            count = self._read(stream)
            if count and self.drivers:
                self._pace(stream, count)
        elif events & EPOLLHUP and self.fds[stream] == self.terminal_fd:
            self._rest(stream, _HANGUP_S)
        else:
            self._close(stream)

    def _pace(self, stream: int, count: int) -> None:
        """Let a pipe fill that is being written all the time: each read costs the same, whatever it brings."""
        pace, now = self.paces[stream], time.monotonic()
        pace.reads = pace.reads + 1 if now - pace.last < 2 * _BUSY_S else 0
        pace.last = now
        fd = self.fds.get(stream, -1)
        if count >= _LITTLE_BYTES or pace.reads < _BUSY_READS or self.is_paused or fd < 0 or fd == self.terminal_fd:
            return
        if not pace.is_large:
            pace.is_large = True
            try:
                fcntl(fd, F_SETPIPE_SZ, _BUSY_PIPE_BYTES)
            except OSError:
                pass  # this user has too many large ones already
        self._rest(stream, _BUSY_S)

    def _read(self, stream: int) -> int:
        """Take one piece; how much, 0 when there is nothing, and the stream is closed when there will be nothing."""
        fd = self.fds[stream]
        if self.attach is not None and not self.attach.clients:
            self.attach.welcome()
        try:
            if not self.drivers and fd != self.terminal_fd and not (self.attach and self.attach.clients):
                count = os.splice(fd, self.null_fd, _DRAIN_BYTES, flags=os.SPLICE_F_NONBLOCK)
            else:
                if not self.buffer:
                    self.buffer = memoryview(bytearray(_READ_BYTES))
                count = os.readv(fd, (self.buffer,))
                if count:
                    self.feed(stream, self.buffer[:count])
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return 0  # a terminal that nobody has open
        if not count:
            self._close(stream)
        return count

    def _close(self, stream: int) -> None:
        fd = self.fds.pop(stream)
        self.loop.forget(fd)
        os.close(fd)
        for driver in self.drivers:
            driver.end(stream)
