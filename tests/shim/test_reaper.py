"""The reaper: ends of children and of orphans, also those that come before anybody asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.loop import Loop
from shim.reaper import Reaper

Until = Callable[..., None]
Ends = list[tuple[int, int]]


def child(code: str, *fds: int) -> int:
    """A child that runs a line of shell, with `fds` as 3, 4, ..."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, 3 + number) for number, fd in enumerate(fds)]
    return os.posix_spawn("/bin/sh", ["sh", "-c", code], {"PATH": "/usr/bin:/bin"}, file_actions=actions)


def note(ends: Ends) -> Callable[[int, int], None]:
    return lambda status, at_ns: ends.append((status, at_ns))


@pytest.mark.parametrize(("code", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)])
def test_an_end_and_its_status(loop: Loop, reaper: Reaper, until: Until, code: str, status: int) -> None:
    ends: Ends = []
    before = time.time_ns()
    reaper.expect(child(code), note(ends))
    until(lambda: ends)
    assert ends[0][0] == status
    assert before <= ends[0][1] <= time.time_ns()


def test_what_the_runtime_has_left(reaper: Reaper, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text(str(one := child("sleep 100")))
    pid, fd = reaper.left(str(file))
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)
    assert pid == one
    for text in (str(os.getppid()), "1", "0", "-5", "", "x", "9" * 10, "9" * 30, "9" * 5000):
        file.write_text(text)
        with pytest.raises((OSError, OverflowError, ValueError)):
            reaper.left(str(file))


def test_many_at_once(loop: Loop, reaper: Reaper, until: Until) -> None:
    """SIGCHLD comes once for any number of them."""
    ends: dict[int, int] = {}
    for number in range(20):
        reaper.expect(child(f"exit {number}"), lambda status, at_ns, number=number: ends.update({number: status}))
    until(lambda: len(ends) == 20)
    assert ends == {number: number for number in range(20)}


def test_an_orphan_is_ours(loop: Loop, reaper: Reaper, until: Until) -> None:
    """As the init that `create` leaves behind: its parent ends, and it ends later."""
    read_fd, write_fd = os.pipe()
    hold_read, hold_write = os.pipe()
    ended: Ends = []
    parent = child("(read x <&8; exit 9) 8<&3 & echo $! >&4", hold_read, write_fd)
    os.close(write_fd)
    os.close(hold_read)
    reaper.expect(parent, note(ended))
    until(lambda: ended)
    orphan = int(os.read(read_fd, 16))
    ends: Ends = []
    reaper.expect(orphan, note(ends))
    assert not ends
    os.write(hold_write, b"\n")
    until(lambda: ends)
    assert ends[0][0] == 9
    os.close(read_fd)
    os.close(hold_write)


def test_an_end_that_came_first_is_told(loop: Loop, reaper: Reaper, until: Until) -> None:
    reaper.hold()
    pid = child("exit 5")
    until(lambda: not alive(pid), "collected unseen")
    ends: Ends = []
    reaper.expect(pid, note(ends))
    assert not ends, "told from the loop, not from within expect()"
    until(lambda: ends)
    assert ends[0][0] == 5
    reaper.release()


@pytest.mark.parametrize("holds", [False, True])
def test_nothing_is_remembered_without_hold(loop: Loop, reaper: Reaper, until: Until, holds: bool) -> None:
    if holds:
        reaper.hold()
    pid = child("exit 5")
    until(lambda: not alive(pid))
    if holds:
        reaper.release()
    ends: Ends = []
    reaper.expect(pid, note(ends))
    marks: list[int] = []
    loop.soon(lambda: loop.soon(lambda: marks.append(1)))
    until(lambda: marks)
    assert not ends


def test_a_number_in_use_again_is_not_taken_for_the_earlier_one(loop: Loop, reaper: Reaper, until: Until) -> None:
    """Only what is remembered makes the difference: a living child of that number is waited for."""
    reaper.hold()
    first = child("exit 3")
    until(lambda: not alive(first))
    # the kernel gives the number out again as soon as we ask for it
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(first - 1))
    hold_read, hold_write = os.pipe()
    second = child("read x <&3; exit 4", hold_read)
    os.close(hold_read)
    if second == first:  # else another process of this machine was quicker
        ends: Ends = []
        reaper.expect(second, note(ends))
        loop.soon(lambda: None)
        loop.turn()
        assert not ends, "the first one's end was told as the second one's"
        os.write(hold_write, b"\n")
        until(lambda: ends)
        assert ends[0][0] == 4
    else:
        os.write(hold_write, b"\n")
        until(lambda: not alive(second))
    os.close(hold_write)
    reaper.release()


def test_a_forgotten_one_is_collected_and_not_told(loop: Loop, reaper: Reaper, until: Until) -> None:
    ends: Ends = []
    pid = child("exit 0")
    reaper.expect(pid, note(ends))
    reaper.forget(pid)
    until(lambda: not alive(pid))
    assert not ends


def test_a_child_that_ended_before_the_reaper_came(loop: Loop, until: Until) -> None:
    pid = child("exit 6")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ends: Ends = []
    Reaper(loop).expect(pid, note(ends))
    until(lambda: ends)
    assert ends[0][0] == 6


def test_a_fork_asks_for_orphans_itself() -> None:
    """PR_SET_CHILD_SUBREAPER is not inherited: a shim that was forked from another must get its own orphans."""
    code = """
import os, sys
sys.path[:0] = {path!r}
import runtime.kernel
runtime.kernel.__path__ += [os.path.join({root!r}, "build/kernel/runtime/kernel")]
from shim.loop import Loop
from shim.reaper import Reaper
loop = Loop(); Reaper(loop)
if os.fork() == 0:
    loop.close()
    loop = Loop(); reaper = Reaper(loop)
    read_fd, write_fd = os.pipe()
    reaper.hold()
    middle = os.fork()
    if middle == 0:
        orphan = os.fork()
        if orphan == 0:
            os._exit(21)
        os.write(write_fd, str(orphan).encode())
        os._exit(0)
    orphan = int(os.read(read_fd, 16))
    reaper.expect(orphan, lambda status, at_ns: os._exit(status))
    loop.run()
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    words = [sys.executable, "-I", "-c", code.format(path=[root], root=root)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "21", done.stderr


def alive(pid: int) -> bool:
    """Whether there is a process of this number, running or not collected yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_release_without_hold_is_a_mistake(reaper: Reaper) -> None:
    with pytest.raises(AssertionError):
        reaper.release()


def test_signals_of_others_are_left_alone(loop: Loop, reaper: Reaper) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
