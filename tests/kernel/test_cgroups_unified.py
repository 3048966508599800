"""The unified hierarchy, driven as cgroup v2 without its controllers, which it has not where it stands beside v1: all the rest."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cgroup_life import DENY, config, run_in, sleep, status

from runtime import cgroups, kernel
from runtime.cgroups import devices, fs, updating
from runtime.errors import CgroupError, Unsupported
from runtime.host import Host

pytestmark = pytest.mark.requires("cgroup-unified")
_numbers = count(1)
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def path(leaks: Any) -> Iterator[str]:
    """A cgroupsPath of the test's own; what is left of it afterwards is a failure (tests/conftest.py, Leaks)."""
    yield f"/pyrunc-test/t{os.getpid()}-uni{next(_numbers)}"


@pytest.fixture
def unified(path: str) -> Iterator[fs.Cgroup]:
    host = Host()
    point = host.cgroup_unified
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


def test_v2_life(unified: fs.Cgroup) -> None:
    assert Path(unified.paths[""], "cgroup.max.depth").read_text() == "5\n"
    pid = run_in(unified, sleep)
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
    other = run_in(unified, sleep)
    fs.write(f"{unified.paths['']}/a/b/cgroup.procs", str(other))
    assert unified.pids() == [other]
    unified.destroy()
    assert status(other) == -9 and not unified.exists()


def test_v2_devices(unified: fs.Cgroup) -> None:
    def work(name: str) -> Callable[[], object]:
        return lambda: os.close(os.open(name, os.O_RDWR))

    assert status(run_in(unified, work("/dev/null"))) == 0
    assert status(run_in(unified, work("/dev/kmsg"))) == 1  # EPERM
    assert status(run_in(unified, work("/dev/zero"))) == 0


def test_v2_device_rules_replace_those_that_were_there(unified: fs.Cgroup) -> None:
    """In one step: of a program that allows and one that denies both would have to agree."""

    def kmsg(number: int = 0) -> int:
        return status(run_in(unified, lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY))))

    assert kmsg() == 1  # EPERM
    for text, expected in (("allow all", 0), ("deny all", 1), ("deny all, allow c 1:11 r", 0)):
        unified.run(("devices", unified.paths[""], text))
        assert kmsg() == expected
        assert len(attached(unified.paths[""])) == 1


def test_v2_device_rules_are_updated(unified: fs.Cgroup) -> None:
    def kmsg() -> int:
        return status(run_in(unified, lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY))))

    allowed = [DENY, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    assert updating.update(unified, {"devices": [DENY]}, {"devices": allowed}) == {"devices": allowed}
    assert kmsg() == 0 and len(attached(unified.paths[""])) == 1
    # what engines send along with whatever they want changed takes nothing away
    assert updating.update(unified, {"devices": allowed}, {"devices": [DENY]}) == {"devices": allowed}
    assert kmsg() == 0
    # all or nothing
    with pytest.raises(CgroupError, match=r"cgroup.max.depth: .*\[linux.resources.unified.cgroup.max.depth\]"):
        change = {
            "devices": [DENY, {"allow": True, "type": "c", "major": 1, "minor": 12}],
            "unified": {"cgroup.max.depth": "x"},
        }
        updating.update(unified, {"devices": allowed}, change)
    assert kmsg() == 0


def test_v2_device_rules_that_others_have_attached_too(unified: fs.Cgroup) -> None:
    folder = os.open(unified.paths[""], os.O_RDONLY)
    others = [kernel.bpf_prog_load(devices.program((False, {}))) for _ in range(2)]
    for fd in others:
        attach(folder, fd, 2)  # BPF_F_ALLOW_MULTI
    assert len(attached(unified.paths[""])) == 3
    unified.run(("devices", unified.paths[""], "allow all"))
    assert len(attached(unified.paths[""])) == 1
    assert status(run_in(unified, lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY)))) == 0
    for fd in (*others, folder):
        os.close(fd)


def test_v2_a_device_program_that_suffers_no_other(path: str, unified: fs.Cgroup) -> None:
    beside = unified.paths[""] + "-beside"
    os.mkdir(beside)
    folder, program = os.open(beside, os.O_RDONLY), kernel.bpf_prog_load(devices.program((False, {})))
    try:
        attach(folder, program, 0)  # neither BPF_F_ALLOW_MULTI nor BPF_F_ALLOW_OVERRIDE
        before = attached(beside)
        fs.attach_devices(beside, devices.program((True, {})))
        assert len(attached(beside)) == 1 and attached(beside) != before
    finally:
        os.close(folder)
        os.close(program)
        os.rmdir(beside)


def bpf(command: int, *words: int) -> tuple[int, ctypes.Array[ctypes.c_uint32]]:
    attr = (ctypes.c_uint32 * 32)(*words)
    number = {"x86_64": 321}.get(os.uname().machine, 280)
    return ctypes.CDLL(None, use_errno=True).syscall(number, command, attr, ctypes.sizeof(attr)), attr


def attach(folder: int, program: int, flags: int) -> None:
    result, _ = bpf(8, folder, program, 6, flags)  # BPF_PROG_ATTACH, BPF_CGROUP_DEVICE
    assert result == 0, os.strerror(ctypes.get_errno())


def attached(path: str) -> list[int]:
    """The ids of the device programs of a cgroup."""
    ids = (ctypes.c_uint32 * 64)()
    address = ctypes.addressof(ids)
    folder = os.open(path, os.O_RDONLY)
    # BPF_PROG_QUERY: target, type, query flags, attach flags, a pointer, how many there is room for
    result, attr = bpf(16, folder, 6, 0, 0, address & 0xFFFFFFFF, address >> 32, 64)
    os.close(folder)
    assert result == 0, os.strerror(ctypes.get_errno())
    return list(ids[: attr[6]])


def test_v2_without_the_file_of_a_limit(unified: fs.Cgroup) -> None:
    file = f"{unified.paths['']}/hugetlb.2MB.none"
    with pytest.raises(Unsupported, match=r"hugetlb.2MB.none: .*(has no|does not pass the) controller hugetlb"):
        unified.run(("write", file, "1"))
    unified.run(("write?missing", file, "1"))
    with pytest.raises(Unsupported, match="has neither hugetlb.none nor hugetlb.nothing"):
        unified.run(("write-either", f"{unified.paths['']}/hugetlb.none|hugetlb.nothing", "1|2"))


@pytest.mark.parametrize("covered", [False, True], ids=["listed", "unlisted"])
def test_v2_files_of_the_owner(unified: fs.Cgroup, covered: bool) -> None:
    """Those that the kernel lists, as far as they are there; three, where it has no list (config-linux.md, cgroup ownership)."""
    place = unified.place("")
    script = f"from runtime.cgroups import making; making.RUN['delegate'](None, {place!r}, '4711')"
    cover = "mount -t tmpfs none /sys/kernel/cgroup && " if covered else ""
    subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{cover}exec "$0" -c "$1"', sys.executable, script], cwd=ROOT, check=True
    )
    listed = set() if covered else set(Path("/sys/kernel/cgroup/delegate").read_text().split())
    wanted = {name for name in os.listdir(place) if name in listed} | {
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    }
    assert os.stat(place).st_uid == 4711
    assert {name for name in os.listdir(place) if os.stat(f"{place}/{name}").st_uid} == wanted
