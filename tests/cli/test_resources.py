"""linux.resources and linux.cgroupsPath: where the cgroup is, and that limits have their effect; test_resources_read_back has the values."""

from __future__ import annotations

import os
from pathlib import Path

import hierarchies
import pytest

V2 = hierarchies.VERSION == 2


def resources(**values):
    return lambda config: config["linux"].update(resources=values)


def read(box, controller, file):
    return (box.cgroup(controller) / file).read_text().strip()


# -- the cgroup itself ---------------------------------------------------------------------------------------------------


def test_a_process_is_in_its_cgroup_in_every_hierarchy(pyrunc, running):
    box = running()
    path = box.bundle.config["linux"]["cgroupsPath"]
    text = Path(f"/proc/{box.pid}/cgroup").read_text()
    for found in text.splitlines() if hierarchies.VERSION == 1 else [hierarchies.on_v2(text)]:
        # relative to the caller's own cgroup where it is in one
        assert found.endswith("/" + hierarchies.below_the_top(path)), found
    assert hierarchies.place(path, "pids").is_dir()


def test_the_first_process_is_never_seen_outside(pyrunc, make):
    """No moment at which the container could have left something in the caller's cgroup."""
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    assert (
        hierarchies.below_the_top(made.config["linux"]["cgroupsPath"])
        in Path(f"/proc/{pyrunc.pid(id_)}/cgroup").read_text()
    )


@pytest.mark.parametrize("path", [None] if hierarchies.MANAGER == "systemd" else ["pyrunc-test/relative", None])
def test_relative_and_default_path(pyrunc, make, path):
    def edit(config):
        config["linux"].pop("cgroupsPath")
        if path:
            config["linux"]["cgroupsPath"] = f"{path}-{pyrunc.prefix}"

    made, id_ = make(edit, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    name = f"{path}-{pyrunc.prefix}" if path else id_
    if hierarchies.MANAGER == "systemd":
        name = f"runc-{id_}.scope"
    text = Path(f"/proc/{pyrunc.pid(id_)}/cgroup").read_text()
    places = text.split() if hierarchies.VERSION == 1 else [hierarchies.on_v2(text)]
    assert all(place.endswith("/" + name) for place in places), places
    made_at = hierarchies.of_process(pyrunc.pid(id_), "pids")
    pyrunc("delete", "-f", id_)
    assert not made_at.exists() and not hierarchies.places(name)


@pytest.mark.parametrize("path", ["/../../pyrunc-test/{}", "../../../pyrunc-test/{}", "/pyrunc-test/x/../{}"])
def test_path_with_dots_stays_below_the_root(pyrunc, make, path):
    name = f"{pyrunc.prefix}-dots"
    made, id_ = make(lambda c: c["linux"].update(cgroupsPath=path.format(name)), "/bin/true"), pyrunc.id()
    pyrunc("run", "-b", made, id_, status=None)
    assert not os.path.exists(f"/pyrunc-test/{name}") and not os.path.exists(f"/sys/fs/pyrunc-test/{name}")
    assert not hierarchies.places(f"pyrunc-test/{name}")


@pytest.mark.differs("it warns, and puts both in one")
def test_a_cgroup_in_use_is_refused(pyrunc, running, make):
    """Limits and kills would be for both."""
    box = running()
    made = make(lambda c: c["linux"].update(cgroupsPath=box.bundle.config["linux"]["cgroupsPath"]))
    error = pyrunc.fails("create", "-b", made, pyrunc.id("second"))
    assert "cgroup" in error and "not empty" in error
    assert box.exec("/bin/true").status == 0 and read(box, "pids", "cgroup.procs").split() == [str(box.pid)]


@pytest.mark.requires("limits")
def test_an_empty_cgroup_that_is_there_is_taken(pyrunc, make):
    made, id_ = make(resources(pids={"limit": 50}), "/bin/true"), pyrunc.id()
    path = hierarchies.place(made.config["linux"]["cgroupsPath"], "pids")
    path.mkdir(parents=True)
    pyrunc("run", "-b", made, id_)
    if path.exists():  # whoever made it removes it, or the runtime does
        path.rmdir()


def test_cgroups_made_inside_are_removed(pyrunc, running, gone, until):
    def edit(config):
        config["mounts"].append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
        )

    below = "/sys/fs/cgroup/a/b" if V2 else "/sys/fs/cgroup/pids/a/b"
    box = running(edit, "/bin/sh", "-c", f"mkdir -p {below} && echo 0 >{below}/cgroup.procs && exec sleep 1000")
    until(lambda: str(box.cgroup("pids")).endswith("/a/b"), "it has moved")
    pyrunc("delete", "--force", box.id)
    gone(pyrunc, box.id, box.bundle)


# -- memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.requires("limits")
def test_memory_is_limited_and_told(pyrunc, make):
    made, id_ = make(resources(memory={"limit": 16 << 20}), "/bin/probe", "eat", str(64 << 20)), pyrunc.id()
    pyrunc("run", "-b", made, id_, status=137)


@pytest.mark.requires("limits")
def test_memory_within_the_limit(each):
    (found,) = each(resources(memory={"limit": 64 << 20}), f"eat {16 << 20}")
    assert found["errno"] is None


@pytest.mark.differs("its init needs some four MiB itself")
@pytest.mark.requires("limits")
def test_a_tiny_limit_of_memory_suffices(pyrunc, make):
    """No interpreter and no runtime's heap is charged to the container."""
    made, id_ = make(resources(memory={"limit": 512 << 10}), "/bin/true"), pyrunc.id()
    pyrunc("run", "-b", made, id_)
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 0


@pytest.mark.differs("it says: can't get final child's PID from pipe: EOF")
@pytest.mark.requires("limits")
def test_a_limit_that_init_itself_cannot_live_with(pyrunc, make, gone):
    made, id_ = make(resources(memory={"limit": 4096}), "/bin/true"), pyrunc.id()
    error = pyrunc.fails("create", "-b", made, id_)
    assert "memory" in error and ("limit" in error or "out of memory" in error.lower())
    gone(pyrunc, id_, made)


# -- cpu, cpuset, pids -----------------------------------------------------------------------------------------------------


@pytest.mark.requires("limits")
def test_cpu_out_of_range(refused):
    file = "cpu.max" if V2 else "cpu.cfs_quota_us"
    refused(
        resources(cpu={"quota": 100, "period": 50000}),
        file,
        "invalid argument",
        "1000 us",
        "linux.resources.cpu.quota]",
    )


@pytest.mark.requires("limits")
def test_cpuset(pyrunc, report, running):
    first = min(os.sched_getaffinity(0))
    box = running(resources(cpu={"cpus": str(first), "mems": "0"}))
    assert read(box, "cpuset", "cpuset.cpus") == str(first)
    assert box.report()["affinity"] == [first]
    assert report(resources(cpu={"cpus": str(first)}))["affinity"] == [first]


@pytest.mark.requires("limits")
def test_cpuset_that_is_not_there(refused):
    refused(resources(cpu={"cpus": "4000"}), "cpuset.cpus", "[linux.resources.cpu.cpus]")


@pytest.mark.requires("limits")
def test_pids(pyrunc, make):
    made = make(resources(pids={"limit": 10}), "/bin/probe", "fork-bomb-lite", "50")
    assert pyrunc("run", "-b", made, pyrunc.id()).json() == {"forked": 9, "errno": "EAGAIN"}


@pytest.mark.requires("limits")
def test_a_pids_limit_of_one_is_enough_to_start(pyrunc, make):
    made, id_ = make(resources(pids={"limit": 1}), "/bin/true"), pyrunc.id()
    pyrunc("run", "-b", made, id_)


# -- blkio -----------------------------------------------------------------------------------------------------------------


# -- devices ---------------------------------------------------------------------------------------------------------------

#: no driver answers to them: opening one is ENXIO where the cgroup lets it through, and EPERM where it does not
NODES = ["mknod /dev/one c 1 14", "mknod /dev/two c 1 13"]


@pytest.mark.requires("root")
def test_devices_are_denied_by_default(each):
    found = each(
        resources(devices=[{"allow": False, "access": "rwm"}]),
        *NODES,
        *("open /dev/one r", "open /dev/null w", "open /dev/zero r", "mknod /dev/block b 259 777", "open /dev/block r"),
    )
    # making a node is allowed by default, using it is not
    assert [answer["errno"] for answer in found] == [None, None, "EPERM", None, None, None, "EPERM"]


@pytest.mark.requires("root")
def test_no_rules_are_no_free_pass(each):
    """config-linux.md leaves the default to the runtime; every peer denies."""
    found = each(None, *NODES, "open /dev/one r")
    assert [answer["errno"] for answer in found] == [None, None, "EPERM"]


@pytest.mark.requires("root")
def test_devices_that_are_allowed(each):
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 14, "access": "r"},
    ]
    found = each(resources(devices=rules), *NODES, "open /dev/one r", "open /dev/one w", "open /dev/two r")
    assert [answer["errno"] for answer in found] == [None, None, "ENXIO", "EPERM", "EPERM"]


def test_devices_denied_after_allowed(pyrunc, make):
    """The device controller of v1 cannot make a hole in a wildcard: then it must be said, and not be allowed."""
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "access": "rwm"},
        {"allow": False, "type": "c", "major": 1, "minor": 13, "access": "rwm"},
    ]
    made = make(
        resources(devices=rules),
        *"/bin/probe each mknod /dev/one c 1 14 -- mknod /dev/two c 1 13 -- open /dev/one r -- open /dev/two r".split(),
    )
    result = pyrunc("run", "-b", made, pyrunc.id(), status=None)
    if result.status == 0:
        assert [answer["errno"] for answer in result.json()][2:] == ["ENXIO", "EPERM"]
    else:
        assert result.status == 1 and "hole" in result.err, result


def test_default_devices_stay_usable_whatever_the_rules(each):
    found = each(
        resources(devices=[{"allow": False, "access": "rwm"}, {"allow": False, "type": "c", "major": 5, "access": "rwm"}]),
        "open /dev/null w", "open /dev/urandom r", "open /dev/ptmx r",
    )  # fmt: skip
    assert [answer["errno"] for answer in found] == [None] * 3


@pytest.mark.requires("root")
def test_all_devices_allowed(each):
    found = each(resources(devices=[{"allow": True, "access": "rwm"}]), *NODES, "open /dev/one r", "open /dev/two w")
    assert [answer["errno"] for answer in found] == [None, None, "ENXIO", "ENXIO"]


# -- what this host cannot do ----------------------------------------------------------------------------------------------


@pytest.mark.requires("cgroup-v1")
def test_unified_is_refused_on_v1(refused):
    refused(resources(unified={"memory.high": "1000000"}), "unified")


@pytest.mark.requires("cgroup-v1")
@pytest.mark.differs("it skips limits of controllers that are not there")
def test_limits_that_this_host_does_not_have_are_refused(refused):
    if not list(Path("/sys/fs/cgroup").glob("*net_cls*")):
        refused(resources(network={"classID": 5}), "net_cls")
    if not list(Path("/sys/fs/cgroup").glob("*net_prio*")):
        refused(resources(network={"priorities": [{"name": "lo", "priority": 5}]}), "net_prio")
    if not Path("/sys/fs/cgroup/rdma").exists():
        refused(resources(rdma={"mlx5_1": {"hcaHandles": 3}}), "rdma")


@pytest.mark.requires("limits")
def test_nothing_is_left_of_a_failed_limit(refused):
    refused(resources(pids={"limit": 10}, cpu={"cpus": "nonsense"}), "cpuset.cpus")
