"""Real cgroups on a host with cgroup v1 (and the unified hierarchy beside it): values against runc's, joins, kills, ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

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


def config(path: str, **resources: Any) -> dict[str, Any]:
    return {"linux": {"cgroupsPath": path, "resources": resources}}


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., fs.Cgroup]]:
    """Make a cgroup from resources; it is destroyed at the end."""
    made = []

    def make(below: str = "", **resources: Any) -> fs.Cgroup:
        conf = config(path + below, **resources)
        cgroup = cgroups.choose(conf, "x", Host())
        assert isinstance(cgroup, fs.Cgroup)
        made.append(cgroup)
        for step in cgroup.steps(conf):
            cgroup.run(step)
        return cgroup

    yield make
    for cgroup in reversed(made):
        cgroup.destroy()
        for parent in reversed(cgroup.created_parents):
            if not parent.endswith("/pyrunc-test"):
                os.rmdir(parent)


def run_in(cgroup: fs.Cgroup, work: Callable[[], object]) -> int:
    """The pid of a child that has joined by itself and does `work`; its exit status is 0, or the errno that came of it."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            for _, file, value in cgroup.self_join_steps():
                fs.write(file, value)
            os.write(told, b"x")
            work()
            status = 0
        except OSError as error:
            status = error.errno or 98
        finally:
            os._exit(status)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def sleep() -> None:
    time.sleep(60)


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def eventually(true: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# -- the same values as runc -----------------------------------------------------------------------------------------------

_VOLATILE = (
    "usage", "stat", "procs", "tasks", "failcnt", "pressure", "pids.current", "pids.peak", "pids.events", "io_service",
    "memory_pressure", "numa_stat", "slabinfo", "effective", "blkio.throttle.io",
)  # fmt: skip


def values(path: str) -> dict[str, Any]:
    """Every setting below every v1 hierarchy, as it can be read back."""
    out: dict[str, Any] = {}
    for folder in sorted(TOP.glob(f"*{path}")):
        out[folder.relative_to(TOP).parts[0]] = "there"
        if folder.is_relative_to(TOP / "unified"):
            continue  # no controllers, no settings
        for file in sorted(folder.iterdir()):
            if file.is_file() and not any(word in file.name for word in _VOLATILE) and os.stat(file).st_mode & 0o400:
                try:
                    text = file.read_text()
                except OSError:
                    continue
                key = f"{folder.relative_to(TOP).parts[0]}/{file.name}"
                out[key] = set(text.splitlines()) if file.name == "devices.list" else text
    assert len(out) > 30
    return out


DENY = {"allow": False, "access": "rwm"}
DOCKER = {
    "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25, "disableOOMKiller": False},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 100},
    "blockIO": {"weight": 500},
    "devices": [
        DENY,
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 7, "access": "r"},
    ],
}
LIKE_RUNC: dict[str, dict[str, Any]] = {
    "nothing": {},
    "docker": DOCKER,
    "privileged": {"devices": [DENY, {"allow": True, "access": "rwm"}]},
    "no memory limit": {"memory": {"limit": -1}, "pids": {"limit": -1}},
    "unlimited swap": {"memory": {"limit": 1 << 26, "swap": -1, "swappiness": 10}},
    "no oom killer": {"memory": {"limit": 1 << 26, "disableOOMKiller": True}},
    "idle": {"cpu": {"shares": 2, "mems": "0"}},
    "deny some": {
        "devices": [
            {"allow": True, "access": "rwm"},
            {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        ]
    },
    "throttled": {
        "blockIO": {
            "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1048576}],
            "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 100}],
        }
    },
}


@pytest.mark.parametrize("name", LIKE_RUNC)
def test_every_file_has_the_value_that_runc_gives_it(
    name: str, path: str, make: Callable[..., fs.Cgroup], bundle: Callable[..., Any], scratch: Path
) -> None:
    runc = shutil.which("runc")
    assert runc, "Debian's package runc is a test dependency"
    made = bundle("/bin/true")
    made.config["linux"] |= config(path, **LIKE_RUNC[name])["linux"]
    made.config["process"]["terminal"] = False
    made.write()
    base = [runc, "--root", str(scratch / "runc")]
    id_ = path.rpartition("/")[2]
    null = subprocess.DEVNULL
    subprocess.run([*base, "create", "--bundle", str(made.path), id_], check=True, stdin=null, stdout=null)
    try:
        theirs = values(path)
    finally:
        subprocess.run([*base, "delete", "--force", id_], check=True)
    cgroup = make(**LIKE_RUNC[name])
    pid = run_in(cgroup, sleep)
    try:
        ours = values(path)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    # runc 1.1 had tun among its own; 1.2.0 to 1.2.3 had not
    for found in (ours, theirs):
        found["devices/devices.list"] -= {"c 10:200 rwm"}
    assert ours == theirs


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
    assert time.monotonic() - started < 3


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


# -- the unified hierarchy beside v1, driven as cgroup v2: no controllers there, but all the rest --------------------------


@pytest.fixture
def unified(path: str) -> Iterator[fs.Cgroup]:
    host = Host()
    point = host.cgroup_unified
    if not point:
        pytest.skip("missing feature: cgroup-v2")
    v2 = Host.from_facts(
        {
            "cgroup_mode": "v2",
            "cgroup_mounts": {},
            "cgroup_unified": point,
            "own_cgroups": {"": "/"},
            "is_rootless": False,
            "euid": 0,
            "cgroup_controllers": "",
        }
    )
    conf = config(path, devices=[DENY], unified={"cgroup.max.depth": "5"})
    cgroup = cgroups.choose(conf, "x", v2)
    assert isinstance(cgroup, fs.Cgroup)
    for step in cgroup.steps(conf):
        cgroup.run(step)
    yield cgroup
    cgroup.destroy()


def run_unified(cgroup: fs.Cgroup, work: Callable[[], object]) -> int:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            fs.write(f"{cgroup.clone_into()}/cgroup.procs", "0")
            os.write(told, b"x")
            work()
            code = 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def test_v2_life(unified: fs.Cgroup) -> None:
    assert Path(unified.paths[""], "cgroup.max.depth").read_text() == "5\n"
    pid = run_unified(unified, sleep)
    assert unified.pids() == [pid]
    unified.freeze()
    assert unified.is_frozen()
    assert "frozen 1" in Path(unified.paths[""], "cgroup.events").read_text()
    unified.kill(9)  # also while it is frozen
    assert status(pid) == -9
    unified.thaw()
    assert not unified.is_frozen()
    for deep in ("a", "a/b"):
        os.mkdir(f"{unified.paths['']}/{deep}")
    other = run_unified(unified, sleep)
    fs.write(f"{unified.paths['']}/a/b/cgroup.procs", str(other))
    assert unified.pids() == [other]
    unified.destroy()
    assert status(other) == -9 and not unified.exists()


def test_v2_devices(unified: fs.Cgroup) -> None:
    def work(name: str) -> Callable[[], object]:
        return lambda: os.close(os.open(name, os.O_RDWR))

    assert status(run_unified(unified, work("/dev/null"))) == 0
    assert status(run_unified(unified, work("/dev/kmsg"))) == 1  # EPERM
    assert status(run_unified(unified, work("/dev/zero"))) == 0


def test_v2_without_the_file_of_a_limit(unified: fs.Cgroup) -> None:
    file = f"{unified.paths['']}/memory.max"
    with pytest.raises(Unsupported, match="has no memory.max"):
        unified.run(("write", file, "1"))
    unified.run(("write?missing", file, "1"))
    with pytest.raises(Unsupported, match="has neither io.bfq.weight nor io.weight"):
        unified.run(("write-either", f"{unified.paths['']}/io.bfq.weight|io.weight", "1|2"))
