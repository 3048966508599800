"""Waiting for children: the one place that does, for our own and for the orphans of theirs that the kernel gives us.

We are a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): `create` leaves the container's init behind and ends, and init
becomes our child. Its pid is learned from a pid file when `create` is over, and by then it may have ended already:

    hold()                      ends of pids that nobody expects are remembered from here on
    engine.call(("create", ...), done)
    done: expect(pid, ended)    told at once of an end that came first
    release()

Nothing else may wait for a child: two who do steal each other's statuses.
"""

from __future__ import annotations

import os
import time

from runtime import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.loop import Loop

    Ended = Callable[[int, int], None]

SIGCHLD = 17
#: what may keep the kernel from saying who has ended is soon over, or never
_AGAIN_S = 0.1


class Reaper:
    """Collects every child of this process and tells whoever expects it."""

    __slots__ = ("_early", "_expected", "_held", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._expected: dict[int, Ended] = {}
        self._early: dict[int, tuple[int, int]] = {}
        self._held = 0
        # Not inherited by a fork (prctl(2)): every shim asks for itself.
        kernel.set_subreaper(True)
        loop.on_signal(SIGCHLD, self._collect)
        # children that ended before the handler was there sent their signal to nobody
        loop.soon(self._collect)

    def expect(self, pid: int, ended: Ended) -> None:
        """Call ended(status, at_ns) from the loop when the child `pid` has ended.

        status as a shell counts it, 128 + N for signal N; at_ns is the time of day. A pid that is neither a child nor was
        one since hold() is never told of: whoever names it must know.
        """
        early = self._early.pop(pid, None)
        # The number may be in use again, by a child that lives: then what is remembered was somebody else's end.
        if early is not None and not _is_child(pid):
            status, at_ns = early
            self._loop.soon(lambda: ended(status, at_ns))
        else:
            self._expected[pid] = ended

    def left(self, pid_file: str | int) -> tuple[int, int]:
        """The process that the runtime has left to us and says so in that file, and a pidfd of it.

        OSError, OverflowError or ValueError where there is none: a runtime that has written nothing leaves what was in the file before, and
        the end of a stranger is told to nobody.
        """
        with open(pid_file, "rb") as file:
            pid = int(file.read())
        if pid not in self._early and not _is_child(pid):
            raise ValueError(f"{pid} is no process that the runtime has left")
        return pid, os.pidfd_open(pid)

    def forget(self, pid: int) -> None:
        """Expect it no longer; it is collected all the same."""
        self._expected.pop(pid, None)
        self._early.pop(pid, None)

    def hold(self) -> None:
        """Remember the ends of unexpected children until as many release() have been called."""
        self._held += 1

    def release(self) -> None:
        """The pids that mattered are expected by now."""
        self._held -= 1
        assert self._held >= 0, "release() without hold()"
        if self._held == 0:
            self._early.clear()

    def _collect(self) -> None:
        """Wait for all that have ended: SIGCHLD comes once for any number of them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            except OSError:
                # no signal comes again for those that are waiting: whoever expects them must not wait for ever
                self._loop.later(_AGAIN_S, self._collect)
                return
            if pid == 0:
                return
            at_ns = time.time_ns()
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            ended = self._expected.pop(pid, None)
            if ended is not None:
                ended(code, at_ns)
            elif self._held:
                self._early[pid] = code, at_ns


def _is_child(pid: int) -> bool:
    """Whether `pid` is a child of ours now, running or not collected yet."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
