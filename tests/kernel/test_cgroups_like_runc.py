"""A cgroup made by us and one made by runc from the same resources have the same value in every file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cgroup_life import DENY, config, factory, run_in, sleep

from runtime.cgroups import fs

TOP = Path("/sys/fs/cgroup")
IS_V2 = (TOP / "cgroup.controllers").exists()
_numbers = count(1)


@pytest.fixture
def path(leaks: Any) -> Iterator[str]:
    """A cgroupsPath of the test's own; what is left of it afterwards is a failure (tests/conftest.py, Leaks)."""
    yield f"/pyrunc-test/t{os.getpid()}-like{next(_numbers)}"


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., fs.Cgroup]]:
    with factory(path) as make:
        yield make


# -- the same values as runc -----------------------------------------------------------------------------------------------

_VOLATILE = (
    "usage", "stat", "procs", "tasks", "failcnt", "pressure", "pids.current", "pids.peak", "pids.events", "io_service",
    "memory_pressure", "numa_stat", "slabinfo", "effective", "blkio.throttle.io", ".threads", ".current", ".events", ".peak",
)  # fmt: skip


def values(path: str) -> dict[str, Any]:
    """Every setting, of v1 below every hierarchy, as it can be read back."""
    out: dict[str, Any] = {}
    for folder in [TOP / path.lstrip("/")] if IS_V2 else sorted(TOP.glob(f"*{path}")):
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
    assert len(out) > (20 if IS_V2 else 30)
    return out


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


if IS_V2:
    # runc before 1.3.2 had another formula for shares; of some v1 has and v2 has not, it says nothing and we refuse them
    LIKE_RUNC["docker"]["cpu"].pop("shares")
    LIKE_RUNC["idle"]["cpu"].pop("shares")
    LIKE_RUNC["unlimited swap"]["memory"].pop("swappiness")
    del LIKE_RUNC["no oom killer"]
    LIKE_RUNC["some more"] = {"unified": {"memory.high": "40960000", "cpu.weight": "77", "memory.oom.group": "1"}}


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
        found.get("devices/devices.list", set()).discard("c 10:200 rwm")
    assert ours == theirs
