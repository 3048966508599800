"""update: other limits for a container that runs, all of them or none."""

from __future__ import annotations

import json

import hierarchies
import pytest

pytestmark = pytest.mark.requires("limits")

V2 = hierarchies.VERSION == 2
MIB = 1 << 20


def limited(**values):
    return lambda config: config["linux"].update(resources=values)


def read(box, file):
    return (box.cgroup(file.partition(".")[0]) / file).read_text().strip()


def memory(box):
    """The limits of memory, and of memory and swap together, in MiB."""
    if V2:
        limit, swap = read(box, "memory.max"), read(box, "memory.swap.max")
        return [int(limit) // MIB, swap if swap == "max" else (int(limit) + int(swap)) // MIB]
    return [int(read(box, f"memory.{name}limit_in_bytes")) // MIB for name in ("", "memsw.")]


def quota(box):
    """Quota and period."""
    if V2:
        return read(box, "cpu.max").split()
    return [read(box, file) for file in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]


def has_shares(box, shares):
    return read(box, "cpu.weight" if V2 else "cpu.shares") == (WEIGHTS[shares] if V2 else str(shares))


#: cpu.shares -> cpu.weight
WEIGHTS = {200: "29", 300: "39"}


def update(pyrunc, box, resources, **more):
    return pyrunc("update", "--resources", "-", box.id, input=json.dumps(resources), **more)


def test_every_option(pyrunc, running):
    box = running()
    pyrunc(
        "update", "--memory", "64m", "--memory-swap", "128M", "--memory-reservation", str(32 * MIB), "--cpu-period", "50000",
        "--cpu-quota", "20000", "--cpu-shares", "300", "--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "33", box.id,
    )  # fmt: skip
    assert memory(box) == [64, 128]
    assert read(box, "memory.low" if V2 else "memory.soft_limit_in_bytes") == str(32 * MIB)
    assert quota(box) == ["20000", "50000"] and has_shares(box, 300)
    assert [read(box, file) for file in ("cpuset.cpus", "cpuset.mems", "pids.max")] == ["0", "0", "33"]


def test_document_in_a_file_and_on_standard_input(pyrunc, running, scratch):
    box = running()
    (scratch / "r.json").write_text('{"pids": {"limit": 44}}')
    pyrunc("update", f"--resources={scratch}/r.json", box.id)
    assert read(box, "pids.max") == "44"
    update(pyrunc, box, {"pids": {"limit": -1}})
    assert read(box, "pids.max") == "max"


@pytest.mark.parametrize("now", [(16, 32), (64, 64), (256, 512)])
def test_memory_and_swap_in_either_direction(pyrunc, running, now):
    """v1 wants memory <= memory+swap after each write: which comes first depends on what is in force."""
    box = running(limited(memory={"limit": 64 * MIB, "swap": 128 * MIB}))
    update(pyrunc, box, {"memory": {"limit": now[0] * MIB, "swap": now[1] * MIB}})
    assert memory(box) == list(now)


def test_zero_leaves_alone(pyrunc, running):
    """What dockerd sends for `docker update --restart no`."""
    box = running(limited(memory={"limit": 64 * MIB}, cpu={"shares": 200, "quota": 30000}, pids={"limit": 20}))
    nothing = {
        "memory": {"limit": 0, "reservation": 0, "kernel": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0},
        "blockIO": {"weight": 0},
    }
    update(pyrunc, box, nothing)
    assert memory(box)[0] == 64 and has_shares(box, 200) and quota(box)[0] == "30000"
    assert read(box, "pids.max") == "20"


@pytest.mark.requires("root")
def test_devices_are_not_touched(pyrunc, running):
    """containerd sends this rule along with whatever is to be changed."""
    box = running(
        limited(devices=[{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "r"}])
    )
    probes = (
        "mknod /dev/one c 1 14",
        "mknod /dev/console2 c 5 1",
        "open /dev/one r",
        "open /dev/one w",
        "open /dev/console2 r",
    )
    before = [answer["errno"] for answer in box.each(*probes)]
    assert before == [None, None, "ENXIO", "EPERM", "EPERM"]
    update(pyrunc, box, {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 9}})
    assert [answer["errno"] for answer in box.each(*probes[2:])] == before[2:] and read(box, "pids.max") == "9"


@pytest.mark.requires("cgroup-v2")
@pytest.mark.differs("it leaves them alone")
@pytest.mark.requires("root")
def test_devices_are_replaced_where_some_are_allowed(pyrunc, running):
    deny = {"allow": False, "access": "rwm"}
    one, two = ({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "r"} for minor in (14, 13))
    box = running(limited(devices=[deny, one]))
    box.each("mknod /dev/one c 1 14", "mknod /dev/two c 1 13")
    for rules, answers in (([deny, two], ["EPERM", "ENXIO"]), ([deny, one, two], ["ENXIO", "ENXIO"])):
        update(pyrunc, box, {"devices": rules})
        assert [answer["errno"] for answer in box.each("open /dev/one r", "open /dev/two r", "open /dev/null w")] == [
            *answers,
            None,
        ]


def test_all_or_nothing(pyrunc, running):
    """The last of three limits is refused by the kernel: the first two are put back."""
    box = running(limited(memory={"limit": 64 * MIB, "swap": 64 * MIB}, cpu={"shares": 200}))
    error = update(pyrunc, box, {"memory": {"limit": 32 * MIB}, "cpu": {"shares": 300, "quota": 10}}, status=1).err
    assert ("cpu.max" if V2 else "cpu.cfs_quota_us") in error and "invalid argument" in error
    assert "linux.resources.cpu.quota" in error
    assert memory(box) == [64, 64] and has_shares(box, 200)


@pytest.mark.differs("it forgets all but the last document")
def test_updates_add_up(pyrunc, running):
    box = running(limited(memory={"limit": 64 * MIB, "swap": 128 * MIB}))
    update(pyrunc, box, {"cpu": {"shares": 200}})
    update(pyrunc, box, {"memory": {"limit": 32 * MIB}})
    assert memory(box) == [32, 128] and has_shares(box, 200)


@pytest.mark.differs("it asks the kernel, which tries to reclaim")
def test_check_before_update(pyrunc, running):
    box = running(None, "/bin/probe", "sleep", "1000")
    error = update(pyrunc, box, {"memory": {"limit": 4096, "checkBeforeUpdate": True}}, status=1).err
    assert "current usage" in error


def test_created_and_paused_containers(pyrunc, make, running):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pyrunc("update", "--pids-limit", "7", id_)
    box = running(name="paused")
    pyrunc("pause", box.id)
    pyrunc("update", "--pids-limit", "8", box.id)
    assert read(box, "pids.max") == "8" and pyrunc.state(box.id)["status"] == "paused"


def test_of_what_is_not_running(pyrunc, running):
    box = running()
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(box.pid)
    assert "not running" in pyrunc("update", "--pids-limit", "8", box.id, status=1).err
    assert "does not exist" in pyrunc("update", "--pids-limit", "8", pyrunc.id("none"), status=1).err


@pytest.mark.differs("it takes the last one, or fails without a word of which")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pids-limit", "x"], '--pids-limit: "x" is not a number'),
        (["--memory", "12q"], '--memory: "12q" is no size'),
        pytest.param(["--cpu-shares", "1"], "minimum allowed cpu-shares is 2", marks=pytest.mark.requires("cgroup-v1")),
        (["--l3-cache-schema", "L3:0=f"], "has no class of service"),
        (["--mem-bw-schema", "L3:0=f"], "is not one line that begins with MB:"),
        (["--resources", "/no/such"], "/no/such"),
        (["--resources", "/dev/null", "--pids-limit", "3"], "no other limit"),
    ],
)
def test_mistakes(pyrunc, running, words, said):
    box = running()
    before = read(box, "pids.max")
    assert said in pyrunc.fails("update", *words, box.id)
    assert read(box, "pids.max") == before


def test_wrong_document(pyrunc, running):
    box = running()
    for text in ("", "[]", "{", '{"pids": {"limit": "x"}}', '{"memory": {"limit": 1.5}}'):
        error = pyrunc("update", "-r", "-", box.id, input=text, status=1).err
        assert error.strip()
