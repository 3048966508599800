"""The standard streams of a supervised process: pipes for it, and copying between those and what its client has (targets.py).

    container --1--> pipe --Copy--> client's fifo            the fifo is full: the pipe fills up, then the container waits
    container <-0--- pipe <-Copy--- client's fifo

Bytes go from file to file inside the kernel (splice(2)) and are never ours; where it cannot do that (a file that is appended to,
some terminals) they are read and written, one buffer at a time. Nothing is read that there is no room for, so a reader who stops
costs no memory, and no byte is lost. Nothing here decides when a process has ended: drain_and_close() is told.
"""

from __future__ import annotations

import os
import select
from errno import EIO, EPIPE, ETIMEDOUT
from fcntl import F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, fcntl

from shim.descriptors import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.loop import Loop, Timer

    Done = Callable[[int, int], None]

#: what is asked of one splice; a pipe gives what it holds, 64 KiB as a rule
_SPLICE_BYTES = 1 << 20
#: how often in a row: others wait meanwhile
_ROUNDS = 16
#: one buffer where the kernel cannot copy by itself
_READ_BYTES = 32 << 10
#: containerd's shim gives processes that outlive their init so long to have their output taken
DRAIN_S = 10.0

_S_IFMT, _S_IFREG = 0o170000, 0o100000
#: the device that every pty's master is (devices.txt)
_PTMX = os.makedev(5, 2)


class Copy:
    """One direction, from `source` to `sink`, until the source ends or either fails; then done(count, errno), once.

    `count` is what reached the sink, `errno` is 0 at the source's end (a terminal that everybody closed ends too). Both
    descriptors are the copy's to use until then, and are closed at the end as `close_source` and `close_sink` say. Nothing is
    read before the source says that there is something: a fifo that nobody has opened yet has not ended.
    """

    __slots__ = (
        "_close_sink",
        "_close_source",
        "_done",
        "_held",
        "_is_draining",
        "_is_due",
        "_is_over",
        "_is_splicing",
        "_loop",
        "_own",
        "_sink",
        "_source",
        "_timer",
        "_watched",
        "count",
    )

    def __init__(
        self,
        loop: Loop,
        source: int,
        sink: int,
        done: Done,
        *,
        close_source: bool = True,
        close_sink: bool = False,
    ) -> None:
        self._loop = loop
        self._done = done
        self._close_source = [source] if close_source else []
        self._close_sink = [sink] if close_sink else []
        #: descriptors of our own, closed at the end
        self._own: list[int] = []
        self._source = self._never_waiting(source, os.O_RDONLY)
        self._sink = self._never_waiting(sink, os.O_WRONLY)
        self._is_splicing = True
        #: what was read and found no room
        self._held = memoryview(b"")
        self._is_draining = False
        self._is_due = False
        self._is_over = False
        self._timer: Timer | None = None
        #: the descriptor that is watched, or -1: the source, or the sink while that is full
        self._watched = -1
        #: how many bytes the sink has taken
        self.count = 0
        self._wait(is_full=False)

    def drain_and_close(self, limit_s: float = DRAIN_S) -> None:
        """The process is over: copy what is there, and end without waiting for the source's end, which may never come.

        A sink that takes nothing for `limit_s` seconds ends it with ETIMEDOUT.
        """
        if not self._is_over and not self._is_draining:
            self._is_draining = True
            self._limit(limit_s)
            self._again()

    def _limit(self, limit_s: float) -> None:
        count = self.count

        def late() -> None:
            # a reader that is slow is not one that has gone
            if self.count != count:
                self._limit(limit_s)
            else:
                self._finish(ETIMEDOUT)

        self._timer = self._loop.later(limit_s, late)

    def close(self) -> None:
        """End now, whatever is still to be copied, and tell nobody."""
        self._finish(-1)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _never_waiting(self, fd: int, access: int) -> int:
        """A descriptor of the same file on which reading or writing never waits."""
        flags = fcntl(fd, F_GETFL)
        found = os.fstat(fd)
        if flags & os.O_NONBLOCK or found.st_mode & _S_IFMT == _S_IFREG:
            return fd
        try:
            if found.st_rdev == _PTMX:
                raise PermissionError  # opened anew it would be another terminal's
            # The flag belongs to the open file, which others may hold too (a shell's terminal): open it for us alone.
            own = os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            # sockets cannot be opened, nor can what we have no right to
            fcntl(fd, F_SETFL, flags | os.O_NONBLOCK)
            return fd
        self._own.append(own)
        return own

    def _wait(self, *, is_full: bool) -> None:
        """Watch the sink while it is full, else the source, and never the other: an end that cannot be taken would spin."""
        fd = self._sink if is_full else self._source
        if fd == self._watched:
            return
        self._unwatch()
        if self._loop.is_watching(fd):
            # A terminal's master is the source of one copy and the sink of another. Only a descriptor of its own can be
            # watched besides.
            fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)
            self._own.append(fd)
            if is_full:
                self._sink = fd
            else:
                self._source = fd
        try:
            self._loop.watch(fd, select.EPOLLOUT if is_full else select.EPOLLIN, self._ready)
            self._watched = fd
        except PermissionError:
            # a regular file: there is always something, or its end
            self._again()

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.forget(self._watched)
            self._watched = -1

    def _again(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.soon(self._pump)

    def _ready(self, events: int) -> None:
        self._pump()

    # -- copying -------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Copy for a while. An end of whatever kind is seen by trying: EPOLLHUP comes while there is still something to read."""
        self._is_due = False
        if self._is_over:
            return
        try:
            for _ in range(_ROUNDS):
                if not (self._splice() if self._is_splicing else self._read_and_write()):
                    self._finish(0)
                    return
        except BlockingIOError:
            if self._is_draining and not self._held and self._has_room():
                self._finish(0)
            else:
                self._wait(is_full=bool(self._held) or not self._has_room())
            return
        except OSError as error:
            if error.errno != EPIPE and self._is_splicing:
                # not for these two files, or not now; what a pipe or a terminal had is still there
                self._is_splicing = False
                self._again()
            else:
                # EIO of a terminal's master: everybody has closed the other side
                is_end = error.errno == EIO and not self._held and os.isatty(self._source)
                self._finish(0 if is_end else error.errno or EIO)
            return
        self._wait(is_full=False)
        if self._is_draining:
            # there may be nothing left, of which nobody would tell
            self._again()

    def _splice(self) -> int:
        count = os.splice(self._source, self._sink, _SPLICE_BYTES, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        self.count += count
        return count

    def _read_and_write(self) -> int:
        """One buffer, of which the next is not read before all of it is written."""
        if not self._held:
            self._held = memoryview(os.read(self._source, _READ_BYTES))
        length = len(self._held)
        while self._held:
            written = os.write(self._sink, self._held)
            self.count += written
            self._held = self._held[written:]
        return length

    def _has_room(self) -> bool:
        """Whether the sink would take something, or has failed, which the next attempt will tell."""
        poll = select.poll()
        poll.register(self._sink, select.POLLOUT)
        return bool(poll.poll(0))

    def _finish(self, errno: int) -> None:
        """The end; `errno` is -1 where nobody wants to be told."""
        if self._is_over:
            return
        self._is_over = True
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
        for fds in (self._own, self._close_source, self._close_sink):
            close_all(fds)
        if errno >= 0:
            self._done(self.count, errno)


# -- pipes for a process without a terminal --------------------------------------------------------------------------------


class Pipes:
    """Three pipes, or fewer: stdin, stdout and stderr are the process's ends, the others ours. -1 where there is none.

    The process's user owns them, so that it may open /dev/stdout and its like anew.
    """

    __slots__ = ("from_stderr", "from_stdout", "stderr", "stdin", "stdout", "to_stdin")

    def __init__(
        self, uid: int = 0, gid: int = 0, *, has_stdin: bool = True, has_stdout: bool = True, has_stderr: bool = True
    ) -> None:
        self.stdin = self.to_stdin = self.stdout = self.from_stdout = self.stderr = self.from_stderr = -1
        try:
            if has_stdin:
                self.stdin, self.to_stdin = os.pipe2(os.O_CLOEXEC)
            if has_stdout:
                self.from_stdout, self.stdout = os.pipe2(os.O_CLOEXEC)
            if has_stderr:
                self.from_stderr, self.stderr = os.pipe2(os.O_CLOEXEC)
            for fd in (self.to_stdin, self.from_stdout, self.from_stderr):
                if fd >= 0:
                    os.set_blocking(fd, False)
            if uid or gid:
                for fd in (self.stdin, self.stdout, self.stderr):
                    if fd >= 0:
                        os.fchown(fd, uid, gid)
        except OSError:
            self.close()
            raise

    def close_theirs(self) -> None:
        """After the process has got its ends: while we hold one, ours would not see the end of it."""
        self._close("stdin", "stdout", "stderr")

    def close(self) -> None:
        """Close what is still open of all; an end that was given to somebody else is to be set to -1 before."""
        self._close("stdin", "to_stdin", "stdout", "from_stdout", "stderr", "from_stderr")

    def _close(self, *names: str) -> None:
        for name in names:
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
