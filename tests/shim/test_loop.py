"""The loop: descriptors, timers, signals, and what happens when they change while they are served."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import older
import pytest

from shim.loop import Loop

Until = Callable[..., None]


def test_a_ready_descriptor_is_told_with_its_events(loop: Loop, until: Until) -> None:
    read_fd, write_fd = os.pipe()
    seen: list[int] = []
    loop.watch(read_fd, select.EPOLLIN, seen.append)
    os.write(write_fd, b"x")
    until(lambda: seen)
    assert seen[0] & select.EPOLLIN
    os.read(read_fd, 1)
    os.close(write_fd)
    del seen[:]
    until(lambda: seen)
    assert seen[0] & select.EPOLLHUP
    loop.forget(read_fd)
    os.close(read_fd)


def test_change_is_heard_of(loop: Loop, until: Until) -> None:
    ours, theirs = socket.socketpair()
    seen: list[int] = []
    loop.watch(ours.fileno(), select.EPOLLIN, seen.append)
    loop.change(ours.fileno(), select.EPOLLOUT)
    until(lambda: seen)
    assert seen[0] == select.EPOLLOUT
    loop.forget(ours.fileno())
    ours.close(), theirs.close()


def test_one_that_was_forgotten_in_the_same_turn_is_not_told(loop: Loop) -> None:
    """Both are ready; whoever comes first forgets and closes the other, whose number is taken at once by somebody else."""
    pairs = [os.pipe(), os.pipe()]
    told: list[int] = []
    replaced: list[int] = []

    def ready(fd: int) -> None:
        other = next(pair[0] for pair in pairs if pair[0] != fd)
        told.append(fd)
        loop.forget(other)
        os.close(other)
        read_fd, write_fd = os.pipe()
        assert read_fd == other
        replaced.append(write_fd)
        loop.watch(read_fd, select.EPOLLIN, lambda events: told.append(-1))

    for read_fd, write_fd in pairs:
        loop.watch(read_fd, select.EPOLLIN, lambda events, fd=read_fd: ready(fd))
        os.write(write_fd, b"x")
    loop.turn()
    assert len(told) == 1
    assert told[0] != -1
    for read_fd, write_fd in pairs:
        loop.forget(read_fd)
        os.close(read_fd)
        os.close(write_fd)
    os.close(replaced[0])


def test_forgetting_what_is_not_watched_is_fine(loop: Loop) -> None:
    loop.forget(0)
    loop.forget(12345)


def test_a_regular_file_cannot_be_waited_for(loop: Loop, tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "file"), "w") as file:
        with pytest.raises(PermissionError):
            loop.watch(file.fileno(), select.EPOLLIN, lambda events: None)
        assert not loop.is_watching(file.fileno())


def test_timers_come_in_order(loop: Loop, until: Until) -> None:
    seen: list[str] = []
    loop.later(0.02, lambda: seen.append("second"))
    loop.later(0.01, lambda: seen.append("first"))
    never = loop.later(0.015, lambda: seen.append("never"))
    never.cancel()
    never.cancel()
    until(lambda: len(seen) == 2)
    assert seen == ["first", "second"]


def test_a_timer_may_cancel_one_that_is_due_too(loop: Loop) -> None:
    seen: list[str] = []
    second = None

    def first() -> None:
        seen.append("first")
        assert second is not None
        second.cancel()

    loop.later(-2, first)
    second = loop.later(-1, lambda: seen.append("second"))
    loop.turn()
    assert seen == ["first"]


def test_soon_is_not_now_and_not_twice(loop: Loop) -> None:
    seen: list[int] = []

    def again() -> None:
        seen.append(1)
        loop.soon(lambda: seen.append(2))

    loop.soon(again)
    assert seen == []
    loop.turn()
    assert seen == [1], "what is put off while serving belongs to the next turn"
    loop.turn()
    assert seen == [1, 2]


def test_a_signal_is_served_by_the_loop(loop: Loop, until: Until) -> None:
    seen: list[int] = []
    loop.on_signal(signal.SIGUSR1, lambda: seen.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert seen == [], "nothing runs inside a signal handler"
    until(lambda: seen)
    assert seen == [1], "once for any number of them"
    loop.on_signal(signal.SIGUSR1, None)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_flood_of_one_signal_hides_no_other(loop: Loop, until: Until) -> None:
    """The pipe that wakes the loop is full of the one; which others came is known all the same."""
    seen: set[str] = set()
    loop.on_signal(signal.SIGUSR1, lambda: seen.add("usr1"))
    loop.on_signal(signal.SIGUSR2, lambda: seen.add("usr2"))
    for _ in range(70000):
        signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    until(lambda: seen == {"usr1", "usr2"})


def test_run_and_stop(loop: Loop) -> None:
    seen: list[int] = []
    for _ in range(2):
        loop.soon(lambda: seen.append(1))
        loop.soon(loop.stop)
        loop.run()
    assert seen == [1, 1]


def test_an_exception_leaves_run(loop: Loop) -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    loop.soon(fail)
    with pytest.raises(LookupError, match="on purpose"):
        loop.run()


def test_a_stop_outlives_an_exception(loop: Loop) -> None:
    """The shim's loop goes on after a defect: who was to end by then would stay for ever."""

    def fail() -> None:
        loop.stop()
        raise LookupError("on purpose")

    seen: list[int] = []
    loop.soon(fail)
    with pytest.raises(LookupError, match="on purpose"):
        loop.run()
    loop.run()
    loop.soon(lambda: seen.append(1))
    loop.soon(loop.stop)
    loop.run()
    assert seen == [1]


def test_a_forked_child_leaves_the_parents_loop_alone(loop: Loop, until: Until) -> None:
    """The child closes its copy and makes a loop of its own; what the parent watches is watched on."""
    read_fd, write_fd = os.pipe()
    seen: list[int] = []
    loop.watch(read_fd, select.EPOLLIN, seen.append)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop.close()
            own = Loop()
            own.soon(own.stop)
            own.run()
            own.close()
            os.close(read_fd)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    os.write(write_fd, b"x")
    until(lambda: seen)
    loop.forget(read_fd)
    os.close(read_fd)
    os.close(write_fd)


def test_a_signal_whose_byte_is_lost_is_served(loop: Loop) -> None:
    """The interpreter's own handler writes the byte that ends the waiting, and nobody hears of it when it cannot."""
    seen: list[int] = []
    loop.on_signal(signal.SIGALRM, lambda: seen.append(1))
    fd = signal.set_wakeup_fd(-1)
    try:
        late = loop.later(30, lambda: None)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        loop.turn()
        late.cancel()
    finally:
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    assert seen == [1]


def test_closing_gives_the_signals_back(loop: Loop) -> None:
    loop.on_signal(signal.SIGUSR1, lambda: None)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
    loop.close()


def test_what_the_core_imports() -> None:
    """A shim holds for hours what it imports: nothing dear, and of the runtime nothing that only a child needs."""
    names = "shim.loop, shim.reaper, shim.engine, shim.stdio, shim.console, shim.oom"
    code = f"import sys; before = set(sys.modules); import {names}; print(*sorted(set(sys.modules) - before))"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [root, os.path.join(root, "build/kernel")]
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path += {path!r}; {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {name for name in done.stdout.split() if not name.startswith("shim")}
    cheap = {"errno", "fcntl", "gc", "select", "termios", "time", "_socket", "_signal", "_struct", "__future__"}
    cheap |= {"os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc"}
    assert loaded - cheap <= {"runtime", "runtime.kernel", "runtime.system", "runtime.texts"}


#: fs.epoll.max_user_watches is used up; and words of a profile around us
@pytest.mark.parametrize("error", ["ENOSPC", "EPERM", "ENOENT"])
def test_all_of_it_where_epoll_takes_nothing(error: str) -> None:
    """Each test here once more, in an interpreter whose epoll_ctl fails."""
    but = "not where_epoll_takes_nothing" + ("" if error == "EPERM" else " and not regular_file")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", but, __file__]
    hidden = older.command("epoll_ctl", errno=getattr(errno, error))
    done = subprocess.run([*hidden, *argv], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[100%]" in done.stdout
