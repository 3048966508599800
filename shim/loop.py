"""One epoll loop: descriptors, timers and signals of the process, each answered by a function. No threads, no asyncio.

    signal --> handlers --> bytes in a pipe --+
    descriptor ready -------------------------+--> epoll_wait --> the functions, one after the other --> again
    the next timer is due --------------------+

A function that takes long holds up everything: whatever waits is done by a child (engine.py) or by readiness. An exception
of a function leaves run(): nothing is caught here. The loop must not know what it is used for.

Where the kernel takes no more descriptors for epoll (fs.epoll.max_user_watches is a limit of the user's, and another program may
have used it up) the others are asked with poll(2), turn by turn: slower, and nobody notices.

Whoever watches a descriptor must forget it before closing it. The kernel watches the open file and not its number: as long
as somebody else holds the same file (a child, a duplicate), a closed number would go on being reported, for ever.
"""

from __future__ import annotations

import errno
import os
import select
import time
from _signal import SIG_DFL, SIG_IGN, set_wakeup_fd, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: numbers and not the constants of `signal`, which is dear to import
SIGPIPE = 13
#: longer than this the kernel does not wait at once: it counts milliseconds in 31 bits, which are 24 days
_WAIT_S = 86400.0
#: at most so many descriptors in one turn; the others wait for the next
_EVENTS = 64
#: events that poll(2) has too; EPOLLEXCLUSIVE it has not
_POLLED = 0xFFFF
#: kinds of files (inode(7)); those of the kernel's own, a pidfd or an eventfd, have none
_FIFO, _SOCKET = 0o010000, 0o140000


class Timer:
    """A call that is due once, at a time of the monotonic clock."""

    __slots__ = ("_loop", "at", "call")

    def __init__(self, loop: Loop, at: float, call: Callable[[], None]) -> None:
        self._loop = loop
        self.at = at
        self.call = call

    def cancel(self) -> None:
        """Never mind; nothing happens where it was called already or is cancelled."""
        self._loop._drop(self)


class Loop:
    """What this process waits for. There is one: signals belong to the process.

    A fork shares the kernel's side of it: the child must close() its copy, and nothing else, before it makes its own. Forgetting
    there would take the descriptor away from the parent too.
    """

    __slots__ = (
        "_epoll",
        "_forgotten",
        "_is_stopped",
        "_pending",
        "_polled",
        "_ready",
        "_signals",
        "_soon",
        "_timers",
        "_wake_fd",
        "_waker_fd",
    )

    def __init__(self) -> None:
        self._epoll = select.epoll(select.EPOLL_CLOEXEC)
        self._ready: dict[int, Callable[[int], None]] = {}
        #: those that epoll did not take, and their events
        self._polled: dict[int, int] = {}
        #: forgotten since the turn began: what epoll still reports of them is about somebody who is gone
        self._forgotten: set[int] = set()
        self._timers: list[Timer] = []
        self._soon: list[Callable[[], None]] = []
        self._signals: dict[int, Callable[[], None]] = {}
        self._pending: set[int] = set()
        self._is_stopped = False
        # who writes to a pipe that nobody reads gets EPIPE, and lives
        signal(SIGPIPE, SIG_IGN)
        self._wake_fd, self._waker_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # a full pipe wakes just as well; which signals came is remembered by _note
        set_wakeup_fd(self._waker_fd, warn_on_full_buffer=False)
        self.watch(self._wake_fd, select.EPOLLIN, self._woken)

    # -- descriptors ---------------------------------------------------------------------------------------------------

    def watch(self, fd: int, events: int, ready: Callable[[int], None]) -> None:
        """Call ready(events) from run() whenever one of `events` (select.EPOLLIN ...) is there; EPOLLHUP and EPOLLERR always are.

        PermissionError where the file is none that one can wait for, such as a regular one.
        """
        assert fd not in self._ready, f"descriptor {fd} is watched already"
        try:
            self._epoll.register(fd, events)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EEXIST) or (error.errno == errno.EPERM and not _can_wait(fd)):
                raise
            self._polled[fd] = events
        self._ready[fd] = ready
        # epoll may have more to say about an earlier file of this number in this very turn: `ready` will look and find
        # nothing, or will not be asked at all; what is there is reported again
        self._forgotten.add(fd)

    def change(self, fd: int, events: int) -> None:
        """Watch for other events from now on. Without any, an end or an error is reported still: forget() to hear nothing."""
        if fd not in self._polled:
            try:
                self._epoll.modify(fd, events)
                return
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                self._unregister(fd)
        self._polled[fd] = events

    def forget(self, fd: int) -> None:
        """Watch no longer; to be called before the descriptor is closed. One that is not watched is fine."""
        if self._ready.pop(fd, None) is not None:
            self._forgotten.add(fd)
            if self._polled.pop(fd, None) is None:
                self._unregister(fd)

    def _unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # it was closed already; and for anything else nothing could be done

    def is_watching(self, fd: int) -> bool:
        """Whether somebody watches this descriptor; a second one takes a duplicate of it."""
        return fd in self._ready

    # -- time ----------------------------------------------------------------------------------------------------------

    def later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call once, when `delay_s` seconds are over."""
        timer = Timer(self, time.monotonic() + delay_s, call)
        self._timers.append(timer)
        return timer

    def soon(self, call: Callable[[], None]) -> None:
        """Call once at the next turn: not from within whoever asks for it."""
        self._soon.append(call)

    def _drop(self, timer: Timer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    # -- signals -------------------------------------------------------------------------------------------------------

    def on_signal(self, number: int, call: Callable[[], None] | None) -> None:
        """Call from run() after the signal came, once for any number of them; None for the default disposition again."""
        if call is None:
            self._signals.pop(number, None)
            signal(number, SIG_DFL)
        else:
            self._signals[number] = call
            signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._pending.add(number)
        # The interpreter goes on waiting after a signal, and only the byte of its handler in C ends that: where it could not be
        # written nobody is told, so one more goes after it. 0 is no signal's number.
        try:
            os.write(self._waker_fd, b"\0")
        except OSError:
            pass

    def _woken(self, events: int) -> None:
        try:
            # one byte per signal, its number; the handler in Python may be later than the byte
            self._pending.update(os.read(self._wake_fd, 4096))
        except BlockingIOError:
            pass
        while self._pending:
            call = self._signals.get(self._pending.pop())
            if call is not None:
                call()

    # -- turning -------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Wait once, then call all that is due: first descriptors, then timers, then what was put off."""
        wait_s = -1.0
        if self._soon:
            wait_s = 0.0
        elif self._timers:
            wait_s = min(max(0.0, min(timer.at for timer in self._timers) - time.monotonic()), _WAIT_S)
        found = self._poll(wait_s) if self._polled else self._epoll.poll(wait_s, _EVENTS)
        self._forgotten.clear()
        for fd, events in found:
            if fd not in self._forgotten:
                ready = self._ready.get(fd)
                if ready is not None:
                    ready(events)
        if self._timers:
            now = time.monotonic()
            for timer in sorted((t for t in self._timers if t.at <= now), key=_at):
                # an earlier one may have cancelled it
                if timer in self._timers:
                    self._timers.remove(timer)
                    timer.call()
        # what these put off in turn is for the next turn, so that descriptors get theirs
        calls, self._soon = self._soon, []
        for call in calls:
            call()

    def _poll(self, wait_s: float) -> list[tuple[int, int]]:
        """The same where epoll did not take all: it is one of those that are asked."""
        poll = select.poll()
        poll.register(self._epoll.fileno(), select.POLLIN)
        for fd, events in self._polled.items():
            poll.register(fd, events & _POLLED)
        told = poll.poll(None if wait_s < 0 else wait_s * 1000)
        for fd, events in told:
            if events & select.POLLNVAL:
                self._polled.pop(fd, None)  # closed before it was forgotten: epoll would have noticed by itself
        found = [(fd, events) for fd, events in told if fd in self._polled]
        return [*found, *self._epoll.poll(0, _EVENTS)]

    def run(self) -> None:
        """Serve until stop() is called. May be called again: after an exception it goes on, unless it was to stop by then."""
        while not self._is_stopped:
            self.turn()
        self._is_stopped = False

    def stop(self) -> None:
        """Have run() return after what it is doing now, or at once where it is called next."""
        self._is_stopped = True

    def close(self) -> None:
        """Give back the loop's own descriptors; what was watched stays open, and is its owner's. Timers are gone."""
        for number in self._signals:
            signal(number, SIG_DFL)
        self._signals.clear()
        if not self._epoll.closed:
            set_wakeup_fd(-1)
            os.close(self._wake_fd)
            os.close(self._waker_fd)
            # Nothing is unregistered: after a fork the kernel's table is the parent's too.
            self._epoll.close()
        self._ready.clear()
        self._polled.clear()
        self._timers.clear()
        self._soon.clear()


def _can_wait(fd: int) -> bool:
    """Whether a file is of a kind that one can wait for, whatever epoll has said of it."""
    return os.fstat(fd).st_mode & 0o170000 in (0, _FIFO, _SOCKET) or os.isatty(fd)


def _at(timer: Timer) -> float:
    return timer.at
