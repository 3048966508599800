"""Every property of linux.resources, read back from the kernel's files: as `create` has it, and as `update` changes it.

A row is a property (or some that belong together), a value before, a value, and what each version's files say for the value. A
property that a version does not know must be refused by name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import hierarchies
import pytest

MIB = 1 << 20
VERSION = hierarchies.VERSION


class Row(NamedTuple):
    """What is asked for, and what the files of v1 and v2 say then; None where the version has no such thing."""

    name: str
    before: dict[str, Any]
    value: dict[str, Any]
    v1: dict[str, str] | None
    v2: dict[str, str] | None
    v1_needs: str = ""
    v2_needs: str = ""


def disk() -> tuple[int, int]:
    """A whole block device; its driver does not matter."""
    for name in sorted(os.listdir("/sys/block")):
        major, minor = (int(word) for word in Path("/sys/block", name, "dev").read_text().split(":"))
        if not name.startswith(("nbd", "loop")):
            return major, minor
    return 0, 0


MAJOR, MINOR = disk()
NODE = f"{MAJOR}:{MINOR}"
ALL = ",".join(str(number) for number in sorted(os.sched_getaffinity(0)))
FIRST = str(min(os.sched_getaffinity(0)))


def rate(number: int) -> list[dict[str, int]]:
    return [{"major": MAJOR, "minor": MINOR, "rate": number}]


def throttle(read_bytes: int, write_bytes: int, reads: int, writes: int) -> dict[str, Any]:
    return {
        "throttleReadBpsDevice": rate(read_bytes),
        "throttleWriteBpsDevice": rate(write_bytes),
        "throttleReadIOPSDevice": rate(reads),
        "throttleWriteIOPSDevice": rate(writes),
    }


ROWS = (
    Row(
        "memory.limit",
        {"memory": {"limit": 32 * MIB}},
        {"memory": {"limit": 64 * MIB}},
        {"memory.limit_in_bytes": str(64 * MIB)},
        {"memory.max": str(64 * MIB)},
    ),
    Row(
        "no memory.limit",
        {"memory": {"limit": 64 * MIB, "swap": 128 * MIB}},
        {"memory": {"limit": -1}},
        {"memory.limit_in_bytes": str((1 << 63) - 4096), "memory.memsw.limit_in_bytes": str((1 << 63) - 4096)},
        {"memory.max": "max", "memory.swap.max": "max"},
        "memory-swap-v1",
        "memory-swap-v2",
    ),
    Row(
        "memory.reservation",
        {"memory": {"reservation": 16 * MIB}},
        {"memory": {"reservation": 32 * MIB}},
        {"memory.soft_limit_in_bytes": str(32 * MIB)},
        {"memory.low": str(32 * MIB)},
    ),
    Row(
        "memory.swap",
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        {"memory.limit_in_bytes": str(64 * MIB), "memory.memsw.limit_in_bytes": str(96 * MIB)},
        {"memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB)},
        "memory-swap-v1",
        "memory-swap-v2",
    ),
    Row(
        "no swap at all",
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory.memsw.limit_in_bytes": str(64 * MIB)},
        {"memory.swap.max": "0"},
        "memory-swap-v1",
        "memory-swap-v2",
    ),
    Row(
        "as much swap as there is",
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory": {"limit": 64 * MIB, "swap": -1}},
        {"memory.memsw.limit_in_bytes": str((1 << 63) - 4096)},
        {"memory.swap.max": "max"},
        "memory-swap-v1",
        "memory-swap-v2",
    ),
    Row(
        "memory.swappiness",
        {"memory": {"swappiness": 20}},
        {"memory": {"swappiness": 10}},
        {"memory.swappiness": "10"},
        None,
    ),
    Row(
        "memory.kernelTCP",
        {},
        {"memory": {"kernelTCP": 32 * MIB}},
        {"memory.kmem.tcp.limit_in_bytes": str(32 * MIB)},
        None,
    ),
    Row("memory.disableOOMKiller", {}, {"memory": {"disableOOMKiller": True}}, {}, None),
    *(
        Row(
            f"cpu.shares {shares}",
            {"cpu": {"shares": 400}},
            {"cpu": {"shares": shares}},
            {"cpu.shares": str(shares)},
            {"cpu.weight": weight},
        )
        # the curve of runc 1.3.2 and crun 1.24 through the lowest, the default and the highest of both
        for shares, weight in ((2, "1"), (512, "59"), (1024, "100"), (2048, "174"), (262144, "10000"))
    ),
    Row(
        "cpu.quota and cpu.period",
        {"cpu": {"quota": 30000}},
        {"cpu": {"quota": 25000, "period": 50000}},
        {"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "50000"},
        {"cpu.max": "25000 50000"},
        "cpu-bandwidth-v1",
    ),
    Row(
        "cpu.quota",
        {"cpu": {"quota": 30000}},
        {"cpu": {"quota": 25000}},
        {"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "100000"},
        {"cpu.max": "25000 100000"},
        "cpu-bandwidth-v1",
    ),
    Row(
        "cpu.period",
        {},
        {"cpu": {"period": 50000}},
        {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "50000"},
        {"cpu.max": "max 50000"},
        "cpu-bandwidth-v1",
    ),
    Row(
        "no cpu.quota",
        {"cpu": {"quota": 30000}},
        {"cpu": {"quota": -1}},
        {"cpu.cfs_quota_us": "-1"},
        {"cpu.max": "max 100000"},
        "cpu-bandwidth-v1",
    ),
    Row(
        "cpu.burst",
        {"cpu": {"quota": 20000, "burst": 5000}},
        {"cpu": {"quota": 25000, "burst": 10000}},
        {"cpu.cfs_burst_us": "10000"},
        {"cpu.max": "25000 100000", "cpu.max.burst": "10000"},
        "cpu-bandwidth-v1",
    ),
    Row("cpu.idle", {"cpu": {"shares": 300}}, {"cpu": {"idle": 1}}, {"cpu.idle": "1"}, {"cpu.idle": "1"}),
    Row(
        "cpu.idle no more",
        {"cpu": {"idle": 1}},
        {"cpu": {"idle": 0, "shares": 1024}},
        {"cpu.idle": "0", "cpu.shares": "1024"},
        {"cpu.idle": "0", "cpu.weight": "100"},
    ),
    Row("cpu.realtimePeriod", {}, {"cpu": {"realtimePeriod": 900000}}, {"cpu.rt_period_us": "900000"}, None, "cpu-rt-v1"),
    Row(
        "cpu.cpus and cpu.mems",
        {"cpu": {"cpus": ALL}},
        {"cpu": {"cpus": FIRST, "mems": "0"}},
        {"cpuset.cpus": FIRST, "cpuset.mems": "0"},
        {"cpuset.cpus": FIRST, "cpuset.mems": "0", "cpuset.cpus.effective": FIRST},
    ),
    Row("pids.limit", {"pids": {"limit": 20}}, {"pids": {"limit": 33}}, {"pids.max": "33"}, {"pids.max": "33"}),
    Row("no pids.limit", {"pids": {"limit": 20}}, {"pids": {"limit": -1}}, {"pids.max": "max"}, {"pids.max": "max"}),
    Row("pids.limit 0", {"pids": {"limit": 20}}, {"pids": {"limit": 0}}, {"pids.max": "0"}, {"pids.max": "0"}),
    Row(
        "blockIO.weight",
        {"blockIO": {"weight": 50}},
        {"blockIO": {"weight": 200}},
        {"blkio.bfq.weight": "200"},
        {"io.bfq.weight": "default 200"},
        "blkio-weight-v1",
        "io-bfq-weight-v2",
    ),
    Row("blockIO.leafWeight", {}, {"blockIO": {"leafWeight": 200}}, {"blkio.leaf_weight": "200"}, None, "blkio-leaf-weight-v1"),
    Row(
        "blockIO.throttle*Device",
        {"blockIO": throttle(3 * MIB, 4 * MIB, 100, 200)},
        {"blockIO": throttle(MIB, 2 * MIB, 300, 400)},
        {
            "blkio.throttle.read_bps_device": f"{NODE} {MIB}",
            "blkio.throttle.write_bps_device": f"{NODE} {2 * MIB}",
            "blkio.throttle.read_iops_device": f"{NODE} 300",
            "blkio.throttle.write_iops_device": f"{NODE} 400",
        },
        {"io.max": f"{NODE} rbps={MIB} wbps={2 * MIB} riops=300 wiops=400"},
        "blkio-throttle-v1",
        "io-max-v2",
    ),
    Row(
        "one of blockIO.throttle*Device",
        {"blockIO": throttle(3 * MIB, 4 * MIB, 100, 200)},
        {"blockIO": {"throttleWriteIOPSDevice": rate(400), "throttleReadBpsDevice": rate(0)}},
        None,
        {"io.max": f"{NODE} rbps=max wbps=max riops=max wiops=400"},
        "blkio-throttle-v1",
        "io-max-v2",
    ),
    Row(
        "hugepageLimits",
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 8 * MIB}]},
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]},
        {"hugetlb.2MB.limit_in_bytes": str(4 * MIB), "hugetlb.2MB.rsvd.limit_in_bytes": str(4 * MIB)},
        {"hugetlb.2MB.max": str(4 * MIB), "hugetlb.2MB.rsvd.max": str(4 * MIB)},
        "hugetlb-v1",
        "hugetlb-v2",
    ),
    Row("network.classID", {}, {"network": {"classID": 5}}, {"net_cls.classid": "5"}, None, "net_cls-v1"),
    Row(
        "network.priorities",
        {},
        {"network": {"priorities": [{"name": "lo", "priority": 5}]}},
        {"net_prio.ifpriomap": "lo 5"},
        None,
        "net_prio-v1",
    ),
    *(
        Row(f"unified {file}", {"unified": {file: before}}, {"unified": {file: value}}, None, {file: value}, "", needs)
        for file, before, value, needs in (
            ("memory.high", "40960000", "81920000", ""),
            ("memory.min", "4096", "8192", ""),
            ("memory.max", "40960000", "max", ""),
            ("memory.oom.group", "0", "1", ""),
            ("memory.swap.high", "4096", "8192", "memory-swap-v2"),
            ("cpu.weight", "10", "321", ""),
            ("cpu.max", "10000 50000", "20000 60000", ""),
            ("pids.max", "10", "12", ""),
            ("cgroup.max.depth", "4", "3", ""),
            ("cpuset.cpus.partition", "member", "member", ""),
        )
    ),
)  # fmt: skip
KNOWN = [row for row in ROWS if (row.v1 if VERSION == 1 else row.v2) is not None]
UNKNOWN = [row for row in ROWS if row not in KNOWN]


def params(rows: list[Row]) -> list[Any]:
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.requires(needs)] if needs else [])
        for row in rows
        for needs in [row.v1_needs if VERSION == 1 else row.v2_needs]
    ]


def resources(values):
    return lambda config: config["linux"].update(resources=values)


def check(box, row):
    found = {}
    for file, wanted in ((row.v1 if VERSION == 1 else row.v2) or {}).items():
        text = (box.cgroup(file.partition(".")[0]) / file).read_text().strip()
        # a file with a line for each device: this one's, if it has one
        lines = [line for line in text.splitlines() if line.partition(" ")[0] == wanted.partition(" ")[0]]
        found[file] = lines[0] if lines and " " in wanted else text
    assert found == ((row.v1 if VERSION == 1 else row.v2) or {})


@pytest.mark.differs("it has the older formula of weights, and no burst, idle, rsvd")
@pytest.mark.parametrize("row", params(KNOWN))
def test_create(row, running):
    check(running(resources(row.value)), row)


@pytest.mark.differs("it has the older formula of weights, and no burst, idle, rsvd")
@pytest.mark.parametrize("row", params([row for row in KNOWN if row.name != "one of blockIO.throttle*Device"]))
def test_update(pyrunc, row, running):
    box = running(resources(row.before))
    pyrunc("update", "--resources", "-", box.id, input=json.dumps(row.value))
    check(box, row)


@pytest.mark.differs("it ignores most of them without a word")
@pytest.mark.parametrize("row", UNKNOWN, ids=[row.name for row in UNKNOWN])
def test_what_a_version_does_not_know_is_refused_by_name(row, refused, peer):
    ((section, values),) = row.value.items()
    name = f"{section}.{next(iter(values))}" if section != "unified" else section
    if VERSION == 2 or section == "unified":
        refused(resources(row.value), f"linux.resources.{name}")
