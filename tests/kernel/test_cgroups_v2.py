"""Real cgroups on a host with cgroup v2 alone: controllers along the way, limits that hold, threads, and the end of each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cgroup_life import DENY, config, eventually, factory, run_in, sleep, status

from runtime import cgroups
from runtime.cgroups import fs, updating
from runtime.errors import CgroupError, Unsupported
from runtime.host import Host

pytestmark = pytest.mark.requires("cgroup-v2")
TOP = Path("/sys/fs/cgroup")
_numbers = count(1)


@pytest.fixture
def path(leaks: Any) -> Iterator[str]:
    """A cgroupsPath of the test's own; what is left of it afterwards is a failure (tests/conftest.py, Leaks)."""
    yield f"/pyrunc-test/t{os.getpid()}-v2{next(_numbers)}"


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., fs.Cgroup]]:
    with factory(path) as make:
        yield make


def text(cgroup: fs.Cgroup, file: str) -> str:
    return Path(cgroup.paths[""], file).read_text().strip()


def attempt(path: str, **resources: Any) -> fs.Cgroup:
    """A cgroup that is made, or removed again where that fails."""
    conf = config(path, **resources)
    cgroup = cgroups.choose(conf, "x", Host())
    assert isinstance(cgroup, fs.Cgroup)
    try:
        for step in cgroup.steps(conf):
            cgroup.run(step)
    except BaseException:
        cgroup.destroy()
        for parent in reversed(cgroup.created_parents):
            if not parent.endswith("/pyrunc-test"):
                os.rmdir(parent)
        raise
    return cgroup


# -- making ----------------------------------------------------------------------------------------------------------------


def test_controllers_are_enabled_all_the_way_down(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make("/a/b", memory={"limit": 1 << 26}, cpu={"shares": 512}, pids={"limit": 9})
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(text(cgroup, "cgroup.controllers").split())
    assert text(cgroup, "cgroup.subtree_control") == ""
    assert [text(cgroup, file) for file in ("memory.max", "cpu.weight", "pids.max")] == [str(1 << 26), "59", "9"]


def test_a_cgroup_above_that_holds_processes_passes_nothing_on(path: str, make: Callable[..., fs.Cgroup]) -> None:
    above = make()
    pid = run_in(above, sleep)
    with pytest.raises(Unsupported) as raised:
        attempt(f"{path}/below", memory={"limit": 1 << 26})
    assert f"{above.paths['']} does not pass the controller memory on: it holds processes itself" in str(raised.value)
    assert str(raised.value).endswith("[linux.resources.memory.limit]")
    assert not Path(above.paths[""], "below").exists()
    beside = attempt(f"{path}/below")  # without limits, all is well
    beside.destroy()
    os.kill(pid, 9)
    assert status(pid) == -9


def test_what_threads_could_have_is_not_passed_on_beside_processes_below(
    path: str, make: Callable[..., fs.Cgroup]
) -> None:
    """cgroups(7): once a cgroup below has processes too, it takes no threaded controllers from one that has some itself."""
    above, below = make(), make("/by-somebody")
    controllers = Path(above.paths[""], "cgroup.subtree_control")
    controllers.write_text(" ".join(f"-{name}" for name in controllers.read_text().split()))
    pids = [run_in(below, sleep), run_in(above, sleep)]
    assert (sorted(above.pids()), below.pids()) == (sorted(pids), [pids[0]])
    with pytest.raises(Unsupported, match="does not pass the controller pids on: it holds processes itself"):
        attempt(f"{path}/third", pids={"limit": 9})
    for pid in pids:
        os.kill(pid, 9)
        assert status(pid) == -9


def test_a_cgroup_with_processes_is_not_taken_nor_harmed(make: Callable[..., fs.Cgroup], path: str) -> None:
    first = make(pids={"limit": 7})
    pid = run_in(first, sleep)
    conf = config(path, pids={"limit": 3})
    second = cgroups.choose(conf, "y", Host())
    with pytest.raises(CgroupError, match=r"container's cgroup is not empty: 1 process\(es\) found"):
        for step in second.steps(conf):
            second.run(step)
    second.destroy()
    assert first.pids() == [pid] and text(first, "pids.max") == "7"
    os.kill(pid, 9)
    assert status(pid) == -9
    for step in second.steps(conf):  # empty, it may be had
        second.run(step)
    assert text(first, "pids.max") == "3"


def test_a_frozen_cgroup_is_not_taken(make: Callable[..., fs.Cgroup], path: str) -> None:
    first = make()
    first.freeze()
    with pytest.raises(CgroupError, match="container's cgroup unexpectedly frozen"):
        conf = config(path)
        second = cgroups.choose(conf, "y", Host())
        for step in second.steps(conf):
            second.run(step)
    assert first.exists()
    first.thaw()


@pytest.mark.parametrize(
    "resources, words",
    [
        (
            {"cpu": {"quota": 100, "period": 50000}},
            ['"100 50000"', "cpu.max: invalid argument (a quota is at least 1000 us", "linux.resources.cpu.quota]"],
        ),
        (
            {"cpu": {"quota": 20000, "burst": 40000}},
            ["cpu.max.burst: invalid argument (a burst", "[linux.resources.cpu.burst]"],
        ),
        ({"cpu": {"cpus": "4000"}}, ["cpuset.cpus: ", "has 0", "[linux.resources.cpu.cpus]"]),
        ({"cpu": {"mems": "40"}}, ["cpuset.mems: ", "has 0", "[linux.resources.cpu.mems]"]),
        ({"cpu": {"cpus": "x"}}, ['write "x" to', "cpuset.cpus: invalid argument"]),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 4000, "rate": 1}]}},
            [
                '"8:4000 rbps=1"',
                "io.max: no such device (",
                "whole disk",
                "[linux.resources.blockIO.throttleReadBpsDevice]",
            ],
        ),
        ({"unified": {"memory.high": "lots"}}, ["memory.high: invalid argument [linux.resources.unified.memory.high]"]),
        (
            {"unified": {"memory.nothing": "1"}},
            ["memory.nothing: this kernel has no memory.nothing [linux.resources.unified"],
        ),
        ({"unified": {"nothing.max": "1"}}, ["has no controller nothing [linux.resources.unified.nothing.max]"]),
        ({"rdma": {"none0": {"hcaHandles": 3}}}, ["rdma"]),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}, ["hugetlb"]),
        ({"memory": {"swappiness": 3}}, ["linux.resources.memory.swappiness: cgroup v2 has no such limit"]),
    ],
)
def test_what_is_refused_is_said_and_leaves_nothing(path: str, leaks: Any, resources: Any, words: list[str]) -> None:
    with pytest.raises((CgroupError, Unsupported)) as raised:
        attempt(path, **resources)
    for word in words:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)
    leaks.check()


def test_cpus_that_the_cgroup_above_does_not_have(path: str, make: Callable[..., fs.Cgroup]) -> None:
    """The kernel takes them and gives those of the cgroup above instead."""
    above = make(cpu={"cpus": "0"})
    if len(os.sched_getaffinity(0)) < 2:
        return
    with pytest.raises(CgroupError, match=r"cpuset.cpus: .* has 0"):
        attempt(f"{path}/below", cpu={"cpus": "1"})
    assert not Path(above.paths[""], "below").exists()


def test_a_memory_limit_below_what_is_used(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make(memory={"limit": 1 << 26})
    pid = run_in(cgroup, lambda: (bytearray(8 << 20), time.sleep(60)))
    assert eventually(lambda: int(text(cgroup, "memory.current")) > 4096 * 10)
    with pytest.raises(CgroupError, match=r"unable to set memory limit to 4096 \(current usage: \d+"):
        updating.update(cgroup, {}, {"memory": {"limit": 4096, "checkBeforeUpdate": True}})
    assert text(cgroup, "memory.max") == str(1 << 26)
    os.kill(pid, 9)
    os.waitpid(pid, 0)


# -- limits that hold ------------------------------------------------------------------------------------------------------


def test_limits_hold(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make(pids={"limit": 1}, memory={"limit": 1 << 22, "swap": 1 << 22})
    assert status(run_in(cgroup, lambda: os.fork() or os._exit(0))) == 11  # EAGAIN
    before = cgroup.oom_kills()
    assert status(run_in(cgroup, lambda: bytes(bytearray(64 << 20)))) == -9
    assert cgroup.oom_kills() == before + 1
    assert cgroup.memory_limit() == 1 << 22


def test_who_may_have_more_than_the_cgroup_above_may_not_use_it(make: Callable[..., fs.Cgroup]) -> None:
    """Unlike on v1 it can be asked for: the program of each cgroup on the way has to agree."""
    kmsg = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    make(devices=[DENY])
    below = make("/below", devices=[DENY, kmsg])
    assert status(run_in(below, lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY)))) == 1  # EPERM
    beside = make("-b", devices=[DENY, kmsg])
    assert status(run_in(beside, lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY)))) == 0


# -- threads ---------------------------------------------------------------------------------------------------------------


def test_below_a_threaded_cgroup_everything_is_threaded(path: str, make: Callable[..., fs.Cgroup]) -> None:
    above = make()
    fs.write(f"{above.paths['']}/cgroup.subtree_control", "+pids +cpu")
    inner = Path(above.paths[""], "inner")
    inner.mkdir()
    (inner / "cgroup.type").write_text("threaded")
    below = attempt(f"{path}/inner/deep/box", pids={"limit": 9}, cpu={"shares": 2})
    assert text(below, "cgroup.type") == "threaded" and text(below, "pids.max") == "9"
    pid = run_in(below, sleep)
    # the kernel lists threads alone there: they are taken for the processes that they are of
    assert below.pids() == [pid] and not below.is_empty()
    below.freeze()
    assert below.is_frozen()
    below.thaw()
    below.kill(signal.SIGKILL)  # cgroup.kill is for whole processes and refused
    assert status(pid) == -9
    with pytest.raises(Unsupported, match="does not pass the controller memory on: it is "):
        attempt(f"{path}/inner/other", memory={"limit": 1 << 26})
    below.destroy()
    os.rmdir(inner / "deep")
    os.rmdir(inner)


# -- the end ---------------------------------------------------------------------------------------------------------------


def test_sub_cgroups_that_the_container_made(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    deep, pids = cgroup.paths[""], []
    for name in ("sub one", "..x", "-rf", "ü"):
        deep += f"/{name}"
        os.mkdir(deep)
        pid = run_in(cgroup, sleep)
        pids.append(pid)
        fs.write(f"{deep}/cgroup.procs", str(pid))
    fs.write(f"{deep}/cgroup.freeze", "1")
    assert cgroup.pids() == sorted(pids) and not cgroup.is_empty() and not cgroup.is_frozen()
    cgroup.destroy()
    assert [status(pid) for pid in pids] == [-9] * 4
    assert not cgroup.exists() and cgroup.pids() == []
    cgroup.destroy()  # nothing there is fine


def test_a_signal_to_a_paused_container_leaves_it_paused_and_sigkill_ends_it(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    ready, told = os.pipe()

    def work() -> None:
        # without a handler it would end at once: unlike on v1 a signal that is fatal reaches the frozen too
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(3))
        os.write(told, b"x")
        sleep()

    pid = run_in(cgroup, work)
    assert os.read(ready, 1) == b"x"
    cgroup.freeze()
    cgroup.kill(signal.SIGTERM)
    assert cgroup.is_frozen()
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    cgroup.kill(signal.SIGKILL)
    assert status(pid) == -signal.SIGKILL
    os.close(ready)
    os.close(told)


def test_a_fork_bomb(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make(pids={"limit": 60})

    def work() -> None:
        while True:
            try:
                os.fork()
            except BlockingIOError:
                pass

    pid = run_in(cgroup, work)
    assert eventually(lambda: len(cgroup.pids()) > 20, 60)
    cgroup.destroy()
    assert status(pid) == -9 and not cgroup.exists()


def test_the_root_of_the_hierarchy_is_never_killed_or_removed() -> None:
    cgroup = fs.Cgroup(2, {"": str(TOP)}, Host())
    with pytest.raises(CgroupError, match="is the root of a hierarchy"):
        cgroup.kill(0)
    with pytest.raises(CgroupError, match="is the root of a hierarchy"):
        cgroup.destroy()
