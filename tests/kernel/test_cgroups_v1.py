"""Real cgroups on a host with cgroup v1: making, limits that hold, joining, freezing, killing, and the end of each."""

from __future__ import annotations

import json
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
from runtime.cgroups import fs, walk
from runtime.errors import CgroupError, Unsupported
from runtime.host import Host

pytestmark = pytest.mark.requires("cgroup-v1")
TOP = Path("/sys/fs/cgroup")
_numbers = count(1)


@pytest.fixture
def path(leaks: Any) -> Iterator[str]:
    """A cgroupsPath of the test's own; what is left of it afterwards is a failure (tests/conftest.py, Leaks)."""
    yield f"/pyrunc-test/t{os.getpid()}-cg{next(_numbers)}"


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., fs.Cgroup]]:
    with factory(path) as make:
        yield make


# -- making ----------------------------------------------------------------------------------------------------------------


def test_cpusets_are_filled_all_the_way_down(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make("/a/b/c")
    root = (TOP / "cpuset/cpuset.cpus").read_text()
    folder = Path(cgroup.paths["cpuset"])
    for _ in range(3):
        assert (folder / "cpuset.cpus").read_text() == root
        assert (folder / "cpuset.mems").read_text().strip() != ""
        folder = folder.parent
    assert cgroup.paths["cpuset"] in cgroup.made
    assert f"{Path(cgroup.paths['cpuset']).parent}" in cgroup.created_parents
    assert status(run_in(cgroup, lambda: None)) == 0


def test_a_cgroup_with_processes_is_not_taken_nor_harmed(make: Callable[..., fs.Cgroup], path: str) -> None:
    first = make(pids={"limit": 7})
    pid = run_in(first, sleep)
    conf = config(path, pids={"limit": 3})
    second = cgroups.choose(conf, "y", Host())
    with pytest.raises(CgroupError, match=r"container's cgroup is not empty: 1 process\(es\) found"):
        for step in second.steps(conf):
            second.run(step)
    second.destroy()
    assert first.pids() == [pid]
    assert Path(first.paths["pids"], "pids.max").read_text() == "7\n"
    os.kill(pid, 9)
    assert status(pid) == -9
    for step in second.steps(conf):  # empty, it may be had
        second.run(step)
    assert Path(first.paths["pids"], "pids.max").read_text() == "3\n"


def test_a_frozen_cgroup_is_not_taken(make: Callable[..., fs.Cgroup], path: str) -> None:
    first = make()
    first.freeze()
    conf = config(path)
    second = cgroups.choose(conf, "y", Host())
    with pytest.raises(CgroupError, match="container's cgroup unexpectedly frozen"):
        for step in second.steps(conf):
            second.run(step)
    second.destroy()
    assert first.exists()
    first.thaw()


def test_a_value_that_the_kernel_refuses(make: Callable[..., fs.Cgroup]) -> None:
    with pytest.raises(CgroupError, match=r'write "77" to .*cpuset.cpus: (numerical result|invalid argument)'):
        make(cpu={"cpus": "77"})


def test_a_limit_that_this_host_has_not_is_refused_before_anything_is_made(
    make: Callable[..., fs.Cgroup], path: str
) -> None:
    with pytest.raises(Unsupported, match=r"cannot set hugetlb limit: .* \(linux.resources.hugepageLimits\)"):
        make(hugepageLimits=[{"pageSize": "2MB", "limit": 0}])
    with pytest.raises(Unsupported, match="unified"):
        make(unified={"memory.max": "1"})
    assert not list(TOP.glob(f"*{path}"))


def test_a_limit_below_what_is_used(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make(memory={"limit": 1 << 26})

    def work() -> None:
        hold = bytearray(8 << 20)
        for at in range(0, len(hold), 4096):
            hold[at] = 1
        time.sleep(60)

    pid = run_in(cgroup, work)
    file = f"{cgroup.paths['memory']}/memory.usage_in_bytes"
    assert eventually(lambda: walk.number(file) > 8 << 20)
    with pytest.raises(
        CgroupError, match=r"unable to set memory limit to 4096 \(current usage: \d+, peak usage: \d+\)"
    ):
        cgroup.run(("write", f"{cgroup.paths['memory']}/memory.limit_in_bytes", "4096"))
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


def test_devices_are_denied(make: Callable[..., fs.Cgroup]) -> None:
    def work(name: str) -> Callable[[], object]:
        return lambda: os.close(os.open(name, os.O_RDONLY))

    cgroup = make(devices=[])
    assert status(run_in(cgroup, work("/dev/null"))) == 0
    assert status(run_in(cgroup, work("/dev/kmsg"))) == 1  # EPERM, c 1:11
    beside = make("-b", devices=[DENY, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}])
    assert status(run_in(beside, work("/dev/kmsg"))) == 0


def test_who_may_have_more_than_the_cgroup_above_is_an_error(make: Callable[..., fs.Cgroup]) -> None:
    make()
    with pytest.raises(CgroupError, match=r'write "c 1:11 r" to .*devices.allow: operation not permitted'):
        make("/below", devices=[{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}])


# -- joining ---------------------------------------------------------------------------------------------------------------


def test_both_ways_of_joining_end_in_the_same_place(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    pid = run_in(cgroup, sleep)
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, where = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), where))
    own = "/" + cgroup.paths["devices"].removeprefix(f"{TOP}/devices/")
    assert {name: where for name, where in found.items() if name} == {name: own for name in cgroup.paths if name}
    cgroup.join(pid)  # from outside, and into the unified hierarchy as well
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert {line.split(":", 2)[2] for line in lines} == {own}
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_joining_what_is_not_there(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    with pytest.raises(CgroupError, match="no such process"):
        cgroup.join(1 << 22)


# -- freezing --------------------------------------------------------------------------------------------------------------


def test_freezing(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    read, written = os.pipe()
    os.set_blocking(read, False)

    def work() -> None:
        while True:
            os.write(written, b"x")
            time.sleep(0.001)

    pid = run_in(cgroup, work)
    cgroup.freeze()
    assert cgroup.is_frozen() and Path(cgroup.freezer_file()).read_text() == "FROZEN\n"
    while True:
        try:
            os.read(read, 65536)
        except BlockingIOError:
            break
    time.sleep(0.05)
    with pytest.raises(BlockingIOError):
        os.read(read, 1)
    cgroup.thaw()
    assert not cgroup.is_frozen()
    os.set_blocking(read, True)
    assert os.read(read, 1) == b"x"
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(written)


def test_a_signal_to_a_paused_container_leaves_it_paused_and_sigkill_ends_it(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    pid = run_in(cgroup, sleep)
    cgroup.freeze()
    cgroup.kill(signal.SIGTERM)
    assert cgroup.is_frozen()
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    cgroup.kill(signal.SIGKILL)
    assert status(pid) in (-signal.SIGKILL, -signal.SIGTERM)


# -- the end ---------------------------------------------------------------------------------------------------------------


def test_sub_cgroups_that_the_container_made(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    pids = []
    deep = cgroup.paths["devices"]
    for name in ("sub one", "..x", "-rf", "ü"):
        deep += f"/{name}"
        os.mkdir(deep)
        pid = run_in(cgroup, sleep)
        pids.append(pid)
        fs.write(f"{deep}/cgroup.procs", str(pid))
    os.mkdir(cgroup.paths["freezer"] + "/self-frozen")
    fs.write(cgroup.paths["freezer"] + "/self-frozen/cgroup.procs", str(pids[0]))
    fs.write(cgroup.paths["freezer"] + "/self-frozen/freezer.state", "FROZEN")
    assert cgroup.pids() == sorted(pids) and not cgroup.is_empty()
    cgroup.destroy()
    assert [status(pid) for pid in pids] == [-9] * 4
    assert not cgroup.exists() and cgroup.pids() == []
    cgroup.destroy()  # nothing there is fine


def test_a_fork_bomb(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make(pids={"limit": 60})

    def work() -> None:
        while True:
            try:
                os.fork()
            except BlockingIOError:
                pass

    pid = run_in(cgroup, work)
    assert eventually(lambda: len(cgroup.pids()) > 20)
    cgroup.kill(9)
    assert status(pid) == -9
    assert eventually(cgroup.is_empty)
    started = time.monotonic()
    cgroup.destroy()
    assert time.monotonic() - started < 20


def test_a_zombie_does_not_keep_it(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make()
    pid = run_in(cgroup, lambda: None)
    assert eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    cgroup.destroy()
    assert not cgroup.exists()
    assert status(pid) == 0


def test_neighbours_are_left_alone(make: Callable[..., fs.Cgroup], path: str) -> None:
    first, second = make("-a"), make("-b")
    one, other = run_in(first, sleep), run_in(second, sleep)
    first.kill(9)
    assert status(one) == -9
    first.destroy()
    assert os.waitpid(other, os.WNOHANG) == (0, 0)
    second.kill(9)
    assert status(other) == -9


def test_the_root_of_a_hierarchy_is_never_killed_or_removed() -> None:
    for root in (
        (1, {"": str(TOP / "unified")}),
        (1, {"devices": str(TOP / "devices")}),
        (2, {"": str(TOP / "unified")}),
    ):
        cgroup = fs.Cgroup(*root, Host())
        with pytest.raises(CgroupError, match="is the root of a hierarchy"):
            cgroup.kill(0)
        with pytest.raises(CgroupError, match="is the root of a hierarchy"):
            cgroup.destroy()


def test_from_the_state_file(make: Callable[..., fs.Cgroup]) -> None:
    cgroup = make(memory={"limit": 1 << 26})
    again = cgroups.from_state(json.loads(json.dumps(cgroup.state())), Host())
    assert again.memory_limit() == 1 << 26 and again.exists() and again.is_empty()
    again.destroy()
    assert not cgroup.exists()
