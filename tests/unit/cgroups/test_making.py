"""The steps that make a cgroup, in order, in both versions; and where an exec with --cgroup joins."""

from __future__ import annotations

from typing import Any

import pytest
from cgroup_hosts import TOP, config, v1_host, v2_host

from runtime import cgroups
from runtime.cgroups import making
from runtime.errors import Unsupported, UsageError


def lines(found: Any, conf: dict[str, Any]) -> list[str]:
    return [" ".join(step).rstrip() for step in found.steps(conf)]


def test_steps_v1() -> None:
    conf = config(
        "/x",
        memory={"limit": 1000, "swap": 2000},
        cpu={"cpus": "0", "shares": 2},
        pids={"limit": 5},
        blockIO={"weight": 10},
        devices=[{"allow": True}],
    )
    cgroup = cgroups.choose(conf, "web", v1_host())
    assert lines(cgroup, conf) == [
        f"mkdir {TOP}/devices/x",
        f"mkdir {TOP}/cpu,cpuacct/x",
        f"mkdir {TOP}/cpuset/x",
        f"mkdir {TOP}/memory/x",
        f"mkdir {TOP}/freezer/x",
        f"mkdir {TOP}/blkio/x",
        f"mkdir {TOP}/pids/x",
        f"mkdir {TOP}/systemd/x",
        f"mkdir {TOP}/unified/x",
        f"write {TOP}/cpuset/x/cpuset.cpus 0",
        f"inherit {TOP}/cpuset/x",
        f"write {TOP}/memory/x/memory.limit_in_bytes 1000",
        f"write {TOP}/memory/x/memory.memsw.limit_in_bytes 2000",
        f"write {TOP}/cpu,cpuacct/x/cpu.shares 2",
        f"write {TOP}/pids/x/pids.max 5",
        f"write-either {TOP}/blkio/x/blkio.bfq.weight|blkio.weight 10|10",
        f"write {TOP}/devices/x/devices.allow a *:* rwm",
    ]
    assert cgroup.memory_limit() == 1000
    assert cgroup.freezer_file() == f"{TOP}/freezer/x/freezer.state"


def test_only_the_limit_on_processes_must_wait_for_the_last_fork() -> None:
    conf = config("/x", memory={"limit": 1000}, pids={"limit": 1}, cpu={"shares": 2})
    for host in (v1_host(), v2_host()):
        steps = cgroups.choose(conf, "web", host).steps(conf)
        assert [step[2] for step in steps if cgroups.is_late(step)] == ["1"]


def test_joins_v1() -> None:
    cgroup = cgroups.choose(config("/x"), "web", v1_host())
    order = ["memory", "pids", "cpuset", "cpu,cpuacct", "devices", "freezer", "blkio", "systemd", "unified"]
    assert cgroup.join_steps() == [("write", f"{TOP}/{name}/x/cgroup.procs", "$PID") for name in order]
    assert cgroup.self_join_steps() == [("write", f"{TOP}/{name}/x/tasks", "0") for name in order[:-1]]
    assert cgroup.clone_into() == f"{TOP}/unified/x"


def test_steps_v2() -> None:
    conf = config("/a/b/x", memory={"limit": 1000, "swap": 1000}, cpu={"cpus": "0"}, pids={"limit": 5})
    cgroup = cgroups.choose(conf, "web", v2_host())
    assert lines(cgroup, conf) == [
        f"mkdir {TOP}/a/b/x",
        f"enable {TOP} cpu cpuset io memory pids",
        f"enable {TOP}/a cpu cpuset io memory pids",
        f"enable {TOP}/a/b cpu cpuset io memory pids",
        f"threaded {TOP}/a/b/x",
        f"cpuset {TOP}/a/b/x/cpuset.cpus 0",
        f"write {TOP}/a/b/x/memory.max 1000",
        f"write?missing {TOP}/a/b/x/memory.swap.max 0",
        f"write {TOP}/a/b/x/pids.max 5",
        f"devices {TOP}/a/b/x deny all, allow b *:* m, allow c *:* m, allow c 1:3 rwm, allow c 1:5 rwm, allow c 1:7 rwm, "
        "allow c 1:8 rwm, allow c 1:9 rwm, allow c 5:0 rwm, allow c 5:2 rwm, allow c 10:200 rwm, allow c 136:* rwm",
    ]
    assert cgroup.join_steps() == [("write", f"{TOP}/a/b/x/cgroup.procs", "$PID")]
    assert cgroup.self_join_steps() == [] and cgroup.clone_into() == f"{TOP}/a/b/x"
    assert cgroup.freezer_file() == f"{TOP}/a/b/x/cgroup.freeze"


@pytest.mark.parametrize(
    "resources, why",
    [
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, r"hugetlb .*linux\.resources\.hugepageLimits"),
        ({"network": {"classID": 1}}, r"net_cls .*linux\.resources\.network\.classID"),
        ({"rdma": {"mlx": {"hcaHandles": 1}}}, r"rdma .*linux\.resources\.rdma"),
    ],
)
def test_a_limit_without_its_controller_is_refused(resources: dict[str, Any], why: str) -> None:
    for host in (v1_host(), v2_host()):
        conf = config("/x", **resources)
        with pytest.raises(Unsupported, match=why if host.cgroup_mode != "v2" else "linux.resources"):
            cgroups.choose(conf, "web", host).steps(conf)


OWNED = {
    "process": {"user": {"uid": 1000}},
    "mounts": [{"destination": "/sys/fs/cgroup/", "type": "cgroup", "source": "cgroup"}],
    "linux": {
        "cgroupsPath": "/x",
        "namespaces": [{"type": "cgroup"}],
        "uidMappings": [
            {"containerID": 0, "hostID": 100000, "size": 1000},
            {"containerID": 1000, "hostID": 5000, "size": 1},
        ],
    },
}


def test_a_container_that_can_write_to_its_own_cgroup_owns_it() -> None:
    cgroup = cgroups.choose(OWNED, "web", v2_host())
    assert cgroup.steps(OWNED)[-1] == ("delegate", f"{TOP}/x", "5000")
    users = cgroups.choose(OWNED, "web", v2_host(is_rootless=True, euid=1000))
    assert users.steps(OWNED)[-1] == ("delegate?denied", f"{TOP}/x", "5000")
    linux: dict[str, Any] = OWNED["linux"]  # type: ignore[assignment]
    change: dict[str, Any]
    for change in (
        {"mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]},
        {"mounts": []},
        {"linux": linux | {"namespaces": [{"type": "cgroup", "path": "/proc/1/ns/cgroup"}]}},
        {"linux": linux | {"uidMappings": []}},
        {"process": {"user": {"uid": 1001}}},
    ):
        assert cgroup.steps(OWNED | change)[-1][0] == "devices"


def test_what_is_ignored_is_warned_about() -> None:
    conf = config("/x", memory={"kernel": 4096})
    cgroup = cgroups.choose(conf, "web", v1_host())
    cgroup.steps(conf)
    assert cgroup.warnings and "memory.kernel" in cgroup.warnings[0]


def test_every_kind_of_step_can_be_run() -> None:
    conf = OWNED | {"linux": OWNED["linux"] | {"resources": {"memory": {"limit": -1}, "blockIO": {"weight": 10}}}}  # type: ignore[operator]
    kinds = {
        step[0]
        for host in (v1_host(), v2_host(), v2_host(is_rootless=True))
        for step in cgroups.choose(conf, "web", host).steps(conf)
    }
    assert kinds - {"mkdir", "write"} <= set(making.RUN)


# -- exec's --cgroup -------------------------------------------------------------------------------------------------------


def test_sub_cgroups() -> None:
    v1 = cgroups.choose(config("/x"), "web", v1_host())
    paths = [step[1] for step in v1.join_steps(["pids,memory:sub/one"])]
    assert f"{TOP}/pids/x/sub/one/cgroup.procs" in paths and f"{TOP}/memory/x/sub/one/cgroup.procs" in paths
    assert f"{TOP}/devices/x/cgroup.procs" in paths
    assert all("/x/sub/cgroup.procs" in step[1] for step in v1.join_steps(["/sub/"]))
    v2 = cgroups.choose(config("/x"), "web", v2_host())
    assert v2.join_steps(["sub"]) == [("write", f"{TOP}/x/sub/cgroup.procs", "$PID")]
    assert v2.clone_into(["sub"]) == f"{TOP}/x/sub"
    # with no controller before the colon it is the unified hierarchy's, whatever colons follow
    assert v2.clone_into([":/a:b/init.scope"]) == f"{TOP}/x/a:b/init.scope"
    assert v1.clone_into([":/init.scope"]) == f"{TOP}/unified/x/init.scope"
    assert f"{TOP}/pids/x/tasks" in [step[1] for step in v1.self_join_steps([":/init.scope"])]


@pytest.mark.parametrize(
    "words",
    [["../y"], ["a/../../y"], ["pids:.."], ["nope:a"], ["pids:a", "pids:b"], ["pids,pids:a"], ["a", "b"], [",:a"]],
)
def test_sub_cgroups_cannot_lead_out(words: list[str]) -> None:
    cgroup = cgroups.choose(config("/x"), "web", v1_host())
    with pytest.raises(UsageError):
        cgroup.join_steps(words)
    with pytest.raises(UsageError):
        cgroup.self_join_steps(words)


def test_v2_has_no_controllers_to_choose_from() -> None:
    with pytest.raises(UsageError, match="no controllers"):
        cgroups.choose(config("/x"), "web", v2_host()).join_steps(["pids:a"])
