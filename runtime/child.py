"""A child process as a Python program holds it: waited for by any thread, signalled, watched by an event loop. See `api`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from threading import Lock

from runtime.errors import Error, UsageError
from runtime.linux import POLL_MS, SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Protocol

    class HasFileno(Protocol):
        def fileno(self) -> int:
            """A descriptor."""

    #: what a process gets as 0, 1 and 2: a descriptor or an open file, or None for the program's own
    Stdio = tuple[int | HasFileno | None, int | HasFileno | None, int | HasFileno | None]

#: in place of a descriptor: /dev/null (the same as subprocess.DEVNULL)
DEVNULL = -3
#: in place of an exit status: the process has ended, and it was not ours to learn how
UNKNOWN = -1


def signal_number(signal: int | str) -> int:
    """15, "15", "TERM" and "SIGTERM" are one signal; "RTMIN+3" is another. UsageError for what is none."""
    if isinstance(signal, int):
        number = int(signal)
    else:
        word = signal.upper().removeprefix("SIG")
        base, plus, more = word.partition("+")
        if word.isascii() and word.isdigit():
            number = int(word)
        elif base in SIGNALS and (not plus or (base == "RTMIN" and more.isascii() and more.isdigit())):
            number = SIGNALS[base] + int(more or 0)
        else:
            raise UsageError(f'unknown signal "{signal}"')
    if not 0 <= number <= 64:
        raise UsageError(f'unknown signal "{signal}"')
    return number


class Result:
    """How a process ended: `status` is its exit status, `output` what it wrote, if that was captured."""

    __slots__ = ("status", "output")

    def __init__(self, status: int, output: bytes = b"") -> None:
        self.status = status
        self.output = output

    def __repr__(self) -> str:
        return f"Result(status={self.status}, output={self.output[:80]!r})"


class Process:
    """A process that was started in a container, a child of the calling program. As a context manager it ends with the block."""

    _pidfd = -1

    def __init__(self, pid: int, pidfd: int = -1) -> None:
        self.pid = pid
        self._pidfd = pidfd if pidfd >= 0 else os.pidfd_open(pid)
        self._status: int | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}>"

    def __del__(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def fileno(self) -> int:
        """A pidfd, until `close`: readable once the process has ended, for the event loop of your choice."""
        return self._pidfd

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end and return the exit status, to each thread that asks; TimeoutError after `timeout_s` seconds.

        UNKNOWN where another part of the program has collected the status, as `os.wait()` does, whoever's child it is.
        """
        with self._lock:
            if self._status is not None:
                return self._status
            pidfd = os.dup(self._pidfd)  # another thread may close it while we wait
        try:
            if not _is_readable(pidfd, timeout_s):
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s:g} s")
            with self._lock:
                if self._status is None:
                    self._status = self._collect(pidfd)
                return self._status
        finally:
            os.close(pidfd)

    def _collect(self, pidfd: int) -> int:
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        except ChildProcessError:
            return UNKNOWN
        assert result is not None
        return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status

    def kill(self, signal: int | str = "TERM") -> None:
        """Send a signal; a process that has ended is no error. UsageError for what is no signal."""
        from _signal import pidfd_send_signal

        number = signal_number(signal)
        with self._lock:
            if self._status is None and self._pidfd >= 0:
                try:
                    pidfd_send_signal(self._pidfd, number)
                except ProcessLookupError:
                    pass

    def close(self) -> None:
        """Give up the pidfd. The process runs on; `wait` still knows how it ended, if it has been waited for."""
        with self._lock:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill("KILL")
        self.wait()
        self.close()


class Foreign(Process):
    """The init of a container that another program made: only the parent of a process learns how it ended."""

    def _collect(self, pidfd: int) -> int:
        return UNKNOWN


def _is_readable(fd: int, timeout_s: float | None) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else min(max(0.0, timeout_s) * 1000, POLL_MS)))


def refuse_ignored_children() -> None:
    """Raise where the kernel would collect the exit statuses of our children unseen."""
    import signal

    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        raise Error(
            "SIGCHLD is ignored by this program", "set it to SIG_DFL: the exit statuses of containers would be lost"
        )


@contextmanager
def descriptors(stdio: Stdio) -> Iterator[list[int | None]]:
    """Numbers for what a caller gives as standard descriptors, for as long as the block lasts."""
    null = os.open(os.devnull, os.O_RDWR) if DEVNULL in stdio else -1
    try:
        yield [null if fd == DEVNULL else fd if fd is None or isinstance(fd, int) else fd.fileno() for fd in stdio]
    finally:
        if null >= 0:
            os.close(null)
