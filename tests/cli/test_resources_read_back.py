"""Every property of linux.resources, read back from the kernel's files and from systemd: as `create` has it, and as `update` changes it.

A row is a property (or some that belong together), a value before, a value, what each version's files say for the value, and
where systemd makes the cgroups, what it says, then and after a `systemctl daemon-reload`, at which it reads its units again from
what it has written down. A property that a version does not know must be refused by name.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hierarchies
import pytest
from features import has

from specs import schemas

MIB = 1 << 20
VERSION = hierarchies.VERSION


class Row(NamedTuple):
    """What is asked for, and what the files of v1 and v2 say then; None where the version has no such thing.

    `unit` has the properties of systemd for it, none where systemd has none; `again`, what files say otherwise once systemd has
    written them from its properties; `updated`, what files say otherwise after an update.
    """

    name: str
    before: dict[str, Any]
    value: dict[str, Any]
    v1: dict[str, str] | None
    v2: dict[str, str] | None
    v1_needs: str = ""
    v2_needs: str = ""
    unit: dict[str, str] = {}
    again: dict[str, str] = {}
    updated: dict[str, str] = {}


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
        unit={"MemoryMax": str(64 * MIB)},
    ),
    Row(
        "no memory.limit",
        {"memory": {"limit": 64 * MIB, "swap": 128 * MIB}},
        {"memory": {"limit": -1}},
        {"memory.limit_in_bytes": str((1 << 63) - 4096), "memory.memsw.limit_in_bytes": str((1 << 63) - 4096)},
        {"memory.max": "max", "memory.swap.max": "max"},
        "memory-swap-v1",
        "memory-swap-v2",
        {"MemoryMax": "infinity", "MemorySwapMax": "infinity"},
    ),
    Row(
        "memory.reservation",
        {"memory": {"reservation": 16 * MIB}},
        {"memory": {"reservation": 32 * MIB}},
        {"memory.soft_limit_in_bytes": str(32 * MIB)},
        {"memory.low": str(32 * MIB)},
        unit={"MemoryLow": str(32 * MIB)},
    ),
    Row(
        "memory.swap",
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        {"memory.limit_in_bytes": str(64 * MIB), "memory.memsw.limit_in_bytes": str(96 * MIB)},
        {"memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB)},
        "memory-swap-v1",
        "memory-swap-v2",
        {"MemoryMax": str(64 * MIB), "MemorySwapMax": str(32 * MIB)},
    ),
    Row(
        "no swap at all",
        {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}},
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory.memsw.limit_in_bytes": str(64 * MIB)},
        {"memory.swap.max": "0"},
        "memory-swap-v1",
        "memory-swap-v2",
        {"MemorySwapMax": "0"},
    ),
    Row(
        "as much swap as there is",
        {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}},
        {"memory": {"limit": 64 * MIB, "swap": -1}},
        {"memory.memsw.limit_in_bytes": str((1 << 63) - 4096)},
        {"memory.swap.max": "max"},
        "memory-swap-v1",
        "memory-swap-v2",
        {"MemorySwapMax": "infinity"},
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
    Row(
        "memory.disableOOMKiller",
        {},
        {"memory": {"disableOOMKiller": True}},
        {"memory.oom_control": "oom_kill_disable 1"},
        None,
    ),
    Row("memory.useHierarchy", {}, {"memory": {"useHierarchy": True}}, {"memory.use_hierarchy": "1"}, {}),
    *(
        Row(
            f"cpu.shares {shares}",
            {"cpu": {"shares": 400}},
            {"cpu": {"shares": shares}},
            {"cpu.shares": str(shares)},
            {"cpu.weight": weight},
            unit={"CPUWeight": weight},
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
        unit={"CPUQuotaPerSecUSec": "500ms", "CPUQuotaPeriodUSec": "50ms"},
    ),
    Row(
        "cpu.quota",
        {"cpu": {"quota": 30000}},
        {"cpu": {"quota": 25000}},
        {"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "100000"},
        {"cpu.max": "25000 100000"},
        "cpu-bandwidth-v1",
        unit={"CPUQuotaPerSecUSec": "250ms", "CPUQuotaPeriodUSec": "100ms"},
    ),
    Row(
        "cpu.period",
        {},
        {"cpu": {"period": 50000}},
        {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "50000"},
        {"cpu.max": "max 50000"},
        "cpu-bandwidth-v1",
        unit={"CPUQuotaPerSecUSec": "infinity", "CPUQuotaPeriodUSec": "50ms"},
        again={"cpu.max": "max 100000"},  # of what is no limit the period is systemd's to choose
    ),
    Row(
        "no cpu.quota",
        {"cpu": {"quota": 30000}},
        {"cpu": {"quota": -1}},
        {"cpu.cfs_quota_us": "-1"},
        {"cpu.max": "max 100000"},
        "cpu-bandwidth-v1",
        unit={"CPUQuotaPerSecUSec": "infinity"},
    ),
    Row(
        "cpu.burst",
        {"cpu": {"quota": 20000, "burst": 5000}},
        {"cpu": {"quota": 25000, "burst": 10000}},
        {"cpu.cfs_burst_us": "10000"},
        {"cpu.max": "25000 100000", "cpu.max.burst": "10000"},
        "cpu-bandwidth-v1",
        unit={"CPUQuotaPerSecUSec": "250ms"},
    ),
    Row(
        "cpu.idle",
        {"cpu": {"shares": 300}},
        {"cpu": {"idle": 1}},
        {"cpu.idle": "1"},
        {"cpu.idle": "1"},
        unit={"CPUWeight": "idle"},
    ),
    Row(
        "cpu.idle no more",
        {"cpu": {"idle": 1}},
        {"cpu": {"idle": 0, "shares": 1024}},
        {"cpu.idle": "0", "cpu.shares": "1024"},
        {"cpu.idle": "0", "cpu.weight": "100"},
        unit={"CPUWeight": "100"},
    ),
    Row("cpu.realtimePeriod", {}, {"cpu": {"realtimePeriod": 900000}}, {"cpu.rt_period_us": "900000"}, None, "cpu-rt-v1"),
    Row(
        "cpu.cpus and cpu.mems",
        {"cpu": {"cpus": ALL}},
        {"cpu": {"cpus": FIRST, "mems": "0"}},
        {"cpuset.cpus": FIRST, "cpuset.mems": "0"},
        {"cpuset.cpus": FIRST, "cpuset.mems": "0", "cpuset.cpus.effective": FIRST},
        unit={"AllowedCPUs": FIRST, "AllowedMemoryNodes": "0"},
    ),
    *(
        Row(
            f"pids.limit {limit}",
            {"pids": {"limit": 20}},
            {"pids": {"limit": limit}},
            {"pids.max": text},
            {"pids.max": text},
            unit={"TasksMax": tasks},
            again={"pids.max": "1"} if limit == 0 else {},  # systemd knows no 0, and with 1 nobody can fork either
        )
        for limit, text, tasks in ((33, "33", "33"), (-1, "max", "infinity"), (0, "0", "1"))
    ),
    Row(
        "blockIO.weight",
        {"blockIO": {"weight": 50}},
        {"blockIO": {"weight": 200}},
        {"blkio.bfq.weight": "200"},
        {"io.bfq.weight": "default 200"},
        "blkio-weight-v1",
        "io-bfq-weight-v2",
        {"IOWeight": "1200"},  # of which systemd makes 200 again for BFQ
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
        {
            "IOReadBandwidthMax": f"/dev/block/{NODE} {MIB}",
            "IOWriteBandwidthMax": f"/dev/block/{NODE} {2 * MIB}",
            "IOReadIOPSMax": f"/dev/block/{NODE} 300",
            "IOWriteIOPSMax": f"/dev/block/{NODE} 400",
        },
    ),
    Row(
        "one of blockIO.throttle*Device",
        {"blockIO": throttle(3 * MIB, 4 * MIB, 100, 200)},
        {"blockIO": {"throttleWriteIOPSDevice": rate(400), "throttleReadBpsDevice": rate(0)}},
        None,
        {"io.max": f"{NODE} rbps=max wbps=max riops=max wiops=400"},
        "blkio-throttle-v1",
        "io-max-v2",
        {"IOWriteIOPSMax": f"/dev/block/{NODE} 400"},
        updated={"io.max": f"{NODE} rbps=max wbps={4 * MIB} riops=100 wiops=400"},
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
        Row(
            f"unified {file}",
            {"unified": {file: before}},
            {"unified": {file: value}},
            None,
            {file: value},
            "",
            needs,
            unit,
            {"cpu.max": "20400 60000"} if file == "cpu.max" else {},  # systemd counts whole percents
        )
        for file, before, value, needs, unit in (
            ("memory.high", "40960000", "81920000", "", {"MemoryHigh": "81920000"}),
            ("memory.low", "4096", "8192", "", {"MemoryLow": "8192"}),
            ("memory.min", "4096", "8192", "", {"MemoryMin": "8192"}),
            ("memory.max", "40960000", "max", "", {"MemoryMax": "infinity"}),
            ("memory.swap.max", "4096", "8192", "memory-swap-v2", {"MemorySwapMax": "8192"}),
            ("memory.swap.high", "4096", "8192", "memory-swap-v2", {}),
            ("cpu.weight", "10", "321", "", {"CPUWeight": "321"}),
            ("cpu.idle", "0", "1", "", {"CPUWeight": "idle"}),
            ("cpu.max", "10000 50000", "20000 60000", "", {"CPUQuotaPerSecUSec": "340ms", "CPUQuotaPeriodUSec": "60ms"}),
            ("cpu.max.burst", "0", "0", "", {}),
            ("pids.max", "10", "42", "", {"TasksMax": "42"}),
            ("cpuset.cpus", ALL, FIRST, "", {"AllowedCPUs": FIRST}),
            ("cpuset.mems", "0", "0", "", {"AllowedMemoryNodes": "0"}),
            ("cpuset.cpus.partition", "member", "member", "", {}),
            ("io.max", f"{NODE} rbps=4096", f"{NODE} rbps=8192 wbps=max riops=max wiops=max", "io-max-v2",
             {"IOReadBandwidthMax": f"/dev/block/{NODE} 8192"}),
            ("io.bfq.weight", "default 50", "default 300", "io-bfq-weight-v2", {"IOWeight": "2300"}),
            ("hugetlb.2MB.max", "0", str(2 * MIB), "hugetlb-v2", {}),
            ("cgroup.max.depth", "4", "3", "", {}),
            ("cgroup.max.descendants", "4", "3", "", {}),
        )
    ),
)  # fmt: skip
KNOWN = [row for row in ROWS if (row.v1 if VERSION == 1 else row.v2) is not None]
#: containers for some of the rows at a time
PARTS = 5
UNKNOWN = [row for row in ROWS if row not in KNOWN]


def params(rows: list[Row]) -> list[Any]:
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.requires(needs)] if needs else [])
        for row in rows
        for needs in [row.v1_needs if VERSION == 1 else row.v2_needs]
    ]


def resources(values):
    return lambda config: config["linux"].update(resources=values)


def files(box, wanted):
    found = {}
    for file, value in wanted.items():
        text = (box.cgroup(file.partition(".")[0]) / file).read_text().strip()
        # a file with a line for each device, or each kind: this one's, if it has one
        lines = [line for line in text.splitlines() if line.partition(" ")[0] == value.partition(" ")[0]]
        found[file] = lines[0] if lines and " " in value else text
    return found


def systemctl(*words):
    manager = ["--user"] if os.geteuid() else []
    return subprocess.run(["systemctl", *manager, *words], check=True, capture_output=True, text=True).stdout


def of_unit(box, names):
    if not names:
        return {}
    shown = systemctl("show", unit_of(box), *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in shown.splitlines())


def unit_of(box):
    return Path(f"/proc/{box.pid}/cgroup").read_text().strip().rpartition("/")[2]


def said(row, is_updated):
    return {**((row.v1 if VERSION == 1 else row.v2) or {}), **(row.updated if is_updated else {})}


def check(box, row, is_updated=False):
    wanted = said(row, is_updated)
    assert files(box, wanted) == wanted
    if hierarchies.MANAGER == "systemd":
        assert of_unit(box, row.unit) == row.unit


@pytest.mark.differs("it has the older formula of weights, and no burst, idle, rsvd")
@pytest.mark.parametrize("row", params(KNOWN))
def test_create(row, running):
    check(running(resources(row.value)), row)


@pytest.mark.differs("it has the older formula of weights, and no burst, idle, rsvd")
@pytest.mark.parametrize("row", params([row for row in KNOWN if not (VERSION == 1 and row.updated)]))
def test_update(row, pyrunc, running):
    box = running(resources(row.before))
    pyrunc("update", "--resources", "-", box.id, input=json.dumps(row.value))
    check(box, row, True)


@pytest.mark.requires("systemd", "cgroup-v2", "own-cgroups")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("is_updated", [False, True], ids=["create", "update"])
def test_systemd_loses_nothing(is_updated, part, pyrunc, make):
    """A container for each row. At a daemon-reload systemd reads its units again from what it has written down, and at the next
    change of a property, whichever, it writes all the files that it knows of."""
    pyrunc.options = ["--systemd-cgroup"]
    made = make(None, "/bin/true")
    boxes = []
    for number, row in enumerate(KNOWN[part::PARTS]):
        if row.v2_needs and not has(row.v2_needs):
            continue
        made.config["linux"]["resources"] = row.before if is_updated else row.value
        made.config["linux"]["cgroupsPath"] = f"{hierarchies.SLICE}:test:{pyrunc.prefix}-{number}"
        made.write()
        id_ = pyrunc.id(str(number))
        pyrunc("create", "-b", made, id_)
        if is_updated:
            pyrunc("update", "--resources", "-", id_, input=json.dumps(row.value))
        boxes.append((row, Created(pyrunc.pid(id_))))
    systemctl("daemon-reload")
    for row, box in boxes:
        assert of_unit(box, row.unit) == row.unit, row.name
        wanted = said(row, is_updated)
        again = {**wanted, **row.again}
        found = files(box, wanted)
        assert all(found[file] in (wanted[file], again[file]) for file in wanted), (row.name, found)
        systemctl("set-property", "--runtime", unit_of(box), "TasksAccounting=no")
        assert files(box, again) == again, row.name


def check_again(box, row):
    """What systemd has kept over a daemon-reload, it writes with the next change of a property."""
    if hierarchies.MANAGER == "systemd":
        systemctl("daemon-reload")
        systemctl("set-property", "--runtime", unit_of(box), "TasksAccounting=no")
        check(box, row)


class Created(NamedTuple):
    """A container that waits for start."""

    pid: int

    def cgroup(self, controller):
        return hierarchies.of_process(self.pid, controller)


@pytest.mark.differs("it ignores most of them without a word")
@pytest.mark.parametrize("row", UNKNOWN, ids=[row.name for row in UNKNOWN])
def test_what_a_version_does_not_know_is_refused_by_name(row, refused, peer):
    ((section, values),) = row.value.items()
    name = f"{section}.{next(iter(values))}" if section != "unified" else section
    if VERSION == 2 or section == "unified":
        refused(resources(row.value), f"linux.resources.{name}")


# -- what is no row ------------------------------------------------------------------------------------------------------

#: properties that take more than a write, and the tests of each
ELSEWHERE = {
    "memory.kernel": ["test_resources_read_back.py::test_a_limit_that_no_kernel_has_any_more"],
    # no limit, but what is asked before one is changed
    "memory.checkBeforeUpdate": ["test_update.py::test_check_before_update"],
    "cpu.realtimeRuntime": ["test_resources_read_back.py::test_realtime"],
    "blockIO.weightDevice": ["test_resources_read_back.py::test_weights_of_devices"],
    "rdma": ["test_resources_read_back.py::test_rdma"],
    # rules are no file
    "devices": [
        "test_update.py::test_devices_are_replaced_where_some_are_allowed",
        "test_systemd_cgroup.py::test_devices",
        "test_systemd_cgroup.py::test_devices_of_an_update",
    ],
}


def test_no_property_is_forgotten():
    known = schemas.Schemas()
    found = set()
    for name in (root := known.root("resources.schema.json")).schema["properties"]:
        section = known.property(root, name)
        inner = section.schema.get("properties")
        found |= {f"{name}.{key}" for key in inner} if inner else {name}
    tested = {
        name if section == "unified" or type(value) is not dict else f"{name}.{key}"
        for row in ROWS
        for name, value in row.value.items()
        for section in [name]
        for key in (value if type(value) is dict else [""])
    }
    assert found == tested | set(ELSEWHERE)
    for file, _, name in (place.partition("::") for places in ELSEWHERE.values() for place in places):
        assert f"\ndef {name}(" in Path(__file__).with_name(file).read_text(), name


@pytest.mark.differs("it says nothing")
def test_a_limit_that_no_kernel_has_any_more(pyrunc, running, scratch):
    log = scratch / "log"
    pyrunc.options += ["--log", str(log)]
    box = running(resources({"memory": {"kernel": 32 * MIB, "limit": 64 * MIB}}))
    assert "linux.resources.memory.kernel" in log.read_text()
    log.unlink()
    pyrunc("update", "--resources", "-", box.id, input=json.dumps({"memory": {"kernel": 16 * MIB}}))
    assert "linux.resources.memory.kernel" in log.read_text()


@pytest.mark.requires("cgroup-v1", "cpu-rt-v1", "root")
def test_realtime(pyrunc, running):
    """Right below the root of the hierarchy, which alone has some to give away."""

    def edit(config):
        config["linux"].update(cgroupsPath=f"/{pyrunc.prefix}", resources={"cpu": {"realtimeRuntime": 10000}})

    box = running(edit)
    assert files(box, {"cpu.rt_runtime_us": "10000"}) == {"cpu.rt_runtime_us": "10000"}
    changed = {"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 900000}}
    pyrunc("update", "--resources", "-", box.id, input=json.dumps(changed))
    wanted = {"cpu.rt_runtime_us": "5000", "cpu.rt_period_us": "900000"}
    assert files(box, wanted) == wanted


@pytest.fixture
def scheduled(tmp_path) -> Iterator[str]:
    """A disk of the test's own of which BFQ is the scheduler, as MAJOR:MINOR."""
    (tmp_path / "disk").write_bytes(bytes(MIB))
    words = ["losetup", "--find", "--show", str(tmp_path / "disk")]
    device = Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
    try:
        (Path("/sys/block") / device.name / "queue/scheduler").write_text("bfq")
        yield (Path("/sys/block") / device.name / "dev").read_text().strip()
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.requires("root", "loop-bfq")
@pytest.mark.requires(*(["blkio-weight-v1"] if VERSION == 1 else ["io-bfq-weight-v2"]))
def test_weights_of_devices(pyrunc, running, scheduled):
    major, minor = (int(number) for number in scheduled.split(":"))

    def asked(weight):
        return {"blockIO": {"weightDevice": [{"major": major, "minor": minor, "weight": weight}]}}

    def row(weight):
        v1, v2 = {"blkio.bfq.weight_device": f"{scheduled} {weight}"}, {"io.bfq.weight": f"{scheduled} {weight}"}
        unit = {"IODeviceWeight": f"/dev/block/{scheduled} {100 + (weight - 100) * 11}"}
        return Row("blockIO.weightDevice", {}, asked(weight), v1, v2, unit=unit)

    box = running(resources(asked(150)))
    check(box, row(150))
    check_again(box, row(150))
    pyrunc("update", "--resources", "-", box.id, input=json.dumps(asked(300)))
    check(box, row(300))
    check_again(box, row(300))


@pytest.mark.requires("rdma-device", "root")
def test_rdma(pyrunc, running):
    device = os.listdir("/sys/class/infiniband")[0]

    def row(handles, objects):
        said = {"rdma.max": f"{device} hca_handle={handles} hca_object={objects}"}
        return Row("rdma", {}, {"rdma": {device: {"hcaHandles": handles, "hcaObjects": objects}}}, said, said)

    box = running(resources(row(3, 100).value))
    check(box, row(3, 100))
    pyrunc("update", "--resources", "-", box.id, input=json.dumps({"rdma": {device: {"hcaHandles": 5}}}))
    check(box, row(5, 100))


@pytest.mark.requires("cgroup-v2")
def test_killed_together(pyrunc, running, scratch):
    """systemd has a word for it, but takes no other for a unit that runs: after an update the file alone has it, until systemd
    writes its own, which is warned of."""
    group = {"memory.oom.group": "1"}
    box = running(resources({"unified": group}))
    check(box, Row("memory.oom.group", {}, {}, None, group, unit={"OOMPolicy": "kill"}))
    box = running(resources({"unified": {"memory.oom.group": "0"}}), name="second")
    pyrunc.options += ["--log", str(scratch / "log")]
    pyrunc("update", "--resources", "-", box.id, input=json.dumps({"unified": group}))
    assert files(box, group) == group
    assert (scratch / "log").exists() == (hierarchies.MANAGER == "systemd")
