"""The unified hierarchy that stands beside v1, driven as cgroup v2: it has no controllers there, but all the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cgroup_life import DENY, config, run_in, sleep, status

from runtime import cgroups
from runtime.cgroups import fs
from runtime.errors import Unsupported
from runtime.host import Host

pytestmark = pytest.mark.requires("cgroup-v1")
TOP = Path("/sys/fs/cgroup")
_numbers = count(1)


@pytest.fixture
def path(leaks: Any) -> Iterator[str]:
    """A cgroupsPath of the test's own; what is left of it afterwards is a failure (tests/conftest.py, Leaks)."""
    yield f"/pyrunc-test/t{os.getpid()}-uni{next(_numbers)}"


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


def test_v2_without_the_file_of_a_limit(unified: fs.Cgroup) -> None:
    file = f"{unified.paths['']}/memory.max"
    with pytest.raises(Unsupported, match="has no memory.max"):
        unified.run(("write", file, "1"))
    unified.run(("write?missing", file, "1"))
    with pytest.raises(Unsupported, match="has neither io.bfq.weight nor io.weight"):
        unified.run(("write-either", f"{unified.paths['']}/io.bfq.weight|io.weight", "1|2"))
