"""Kills for want of memory: a real one; and the watch of v2 on a file that every hierarchy has, which v1 stands beside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim.loop import Loop
from shim.oom import OomWatch, cgroups_of
from shim.reaper import Reaper

Until = Callable[..., None]
TOP = Path("/sys/fs/cgroup")
IS_V2 = (TOP / "cgroup.controllers").exists()

#: takes memory and holds it
GLUTTON = "import os, sys; sys.stdin.read(1); held = bytearray(100 << 20)"


def cgroup(controller: str, token: str) -> Path:
    """A cgroup of the test's own below where the tests' cgroups are; "" for the unified hierarchy."""
    if controller and IS_V2:
        for above in (TOP, TOP / "pyrunc-test"):
            above.mkdir(exist_ok=True)
            (above / "cgroup.subtree_control").write_text(f"+{controller}")
        controller = ""
    mounted = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if (kind == "cgroup2" and not controller) or (kind == "cgroup" and controller in options.split(",")):
            mounted = before.split(" ")[4]
    assert mounted, f"no hierarchy with {controller}"
    made = Path(mounted) / "pyrunc-test" / f"shim-{os.getpid()}-{token}"
    made.mkdir(parents=True)
    return made


def remove(path: Path, *pids: int) -> None:
    """Kill what is in a cgroup and remove it; its processes are children of ours."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if path.exists():
        path.rmdir()


@pytest.fixture
def memory() -> Iterator[Path]:
    path = cgroup("memory", "oom")
    (path / ("memory.max" if IS_V2 else "memory.limit_in_bytes")).write_text(str(16 << 20))
    if IS_V2 and (path / "memory.swap.max").exists():
        (path / "memory.swap.max").write_text("0")
    yield path
    remove(path)


@pytest.fixture
def unified() -> Iterator[Path]:
    path = cgroup("", "events")
    yield path
    remove(path)


def test_a_kill_is_told_before_its_end(loop: Loop, reaper: Reaper, until: Until, memory: Path) -> None:
    glutton = subprocess.Popen([sys.executable, "-IS", "-c", GLUTTON], stdin=subprocess.PIPE)
    assert glutton.stdin is not None
    (memory / "cgroup.procs").write_text(str(glutton.pid))
    assert cgroups_of(glutton.pid)["" if IS_V2 else "memory"] == str(memory)
    told: list[str] = []
    watch = OomWatch(loop, cgroups_of(glutton.pid), lambda: told.append("oom"))
    assert watch.is_watching

    def ended(status: int, at_ns: int) -> None:
        watch.check()
        told.append(f"end {status}")

    reaper.expect(glutton.pid, ended)
    watch.check()
    assert not told, "nothing has happened yet"
    glutton.stdin.write(b"x")
    glutton.stdin.close()
    until(lambda: told and told[-1].startswith("end"))
    glutton.returncode = 0  # the reaper has collected it
    assert told[-1] == "end 137"
    assert "oom" in told[:-1]
    watch.close()


def test_a_cgroup_that_is_removed_is_no_kill(loop: Loop, until: Until, memory: Path) -> None:
    told: list[str] = []
    watch = OomWatch(loop, {"" if IS_V2 else "memory": str(memory)}, lambda: told.append("oom"))
    memory.rmdir()
    if IS_V2:
        watch.check()  # nothing wakes up whoever waits for memory.events
    until(lambda: not watch.is_watching)
    assert not told
    watch.close()
    watch.check()


class Populated(OomWatch):
    """The watch of v2 on another count of another file, which tells of changes in the same way."""

    EVENTS = ("cgroup.events", b"populated")
    __slots__ = ()


def in_cgroup(path: Path) -> int:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    (path / "cgroup.procs").write_text(str(pid))
    return pid


def test_a_count_that_grows_is_told(loop: Loop, until: Until, unified: Path) -> None:
    told: list[int] = []
    watch = Populated(loop, {"": str(unified)}, lambda: told.append(1))
    assert watch.is_watching
    watch.check()
    assert not told
    pid = in_cgroup(unified)
    until(lambda: told)
    rested: list[int] = []
    loop.later(0.02, lambda: rested.append(1))
    turns = 0
    while not rested:
        loop.turn()
        turns += 1
    assert told == [1]
    assert turns <= 3, "reading the file takes the event back"
    remove(unified, pid)
    until(lambda: not watch.is_watching, "the cgroup's removal")
    assert told == [1], "neither a count that shrinks nor the removal is one"


def test_check_does_not_wait_for_the_loop(loop: Loop, unified: Path) -> None:
    told: list[int] = []
    watch = Populated(loop, {"": str(unified)}, lambda: told.append(1))
    pid = in_cgroup(unified)
    watch.check()
    watch.check()
    assert told == [1]
    remove(unified, pid)
    watch.close()
    watch.close()


def test_without_a_memory_controller_nothing_is_watched(loop: Loop, unified: Path) -> None:
    below = unified / "below"  # to which nothing passes controllers on
    below.mkdir()
    for paths in ({}, {"pids": "/sys/fs/cgroup/pids"}, {"": str(below)}, {"memory": "/nowhere"}, {"": "/nowhere"}):
        watch = OomWatch(loop, paths, lambda: None)
        assert not watch.is_watching
        watch.check()
        watch.close()
    below.rmdir()


def test_cgroups_are_found_where_they_are(unified: Path) -> None:
    pid = in_cgroup(unified)
    found = cgroups_of(pid)
    assert found[""] == str(unified)
    for directory in found.values():
        procs = Path(directory) / "cgroup.procs"
        assert str(pid) in procs.read_text().split()
    remove(unified, pid)
    with pytest.raises(OSError):
        cgroups_of(pid)
