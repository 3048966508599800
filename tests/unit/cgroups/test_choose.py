"""Which cgroup a container gets, its steps in order, and what happens where there can be none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runtime import cgroups
from runtime.cgroups import making
from runtime.errors import CgroupError, ConfigError, Error, StateError, Unsupported, UsageError
from runtime.host import Host

TOP = "/sys/fs/cgroup"
V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd")


def v1_host(**facts: Any) -> Host:
    mounts = {name: f"{TOP}/{name.removeprefix('name=')}" for name in V1}
    mounts["cpu"] = mounts["cpuacct"] = f"{TOP}/cpu,cpuacct"
    return Host.from_facts(
        {
            "cgroup_mode": "hybrid",
            "cgroup_mounts": mounts,
            "cgroup_unified": f"{TOP}/unified",
            "own_cgroups": {},
            "is_rootless": False,
            "euid": 0,
        }
        | facts
    )


def v2_host(**facts: Any) -> Host:
    return Host.from_facts(
        {
            "cgroup_mode": "v2",
            "cgroup_mounts": {},
            "cgroup_unified": TOP,
            "own_cgroups": {"": "/user.slice/session-1.scope"},
            "is_rootless": False,
            "euid": 0,
            "cgroup_controllers": "cpu cpuset io memory pids",
        }
        | facts
    )


def config(path: str | None = None, **resources: Any) -> dict[str, Any]:
    linux: dict[str, Any] = {"resources": resources}
    if path is not None:
        linux["cgroupsPath"] = path
    return {"linux": linux}


def chosen(host: Host, path: str | None, id: str = "web") -> str:
    found = cgroups.choose(config(path), id, host)
    assert isinstance(found, cgroups.fs.Cgroup)
    return found.paths["" if host.cgroup_mode == "v2" else "pids"]


@pytest.mark.parametrize(
    "path, where",
    [
        (None, "/web"),
        ("", "/web"),
        ("/a/b", "/a/b"),
        ("/a//b/./c/", "/a/b/c"),
        ("/a/../../b", "/b"),
        ("//b", "/b"),
        ("a/b", "/a/b"),
        ("../../a", "/a"),
        ("a/../../../b", "/b"),
        ("/a b:c", "/a b:c"),
    ],
)
def test_paths(path: str | None, where: str) -> None:
    assert chosen(v1_host(), path) == f"{TOP}/pids{where}"
    # relative ones are beside the caller's own cgroup in v2, which cannot have children with controllers
    prefix = "" if path and path[0] == "/" else "/user.slice"
    assert chosen(v2_host(), path) == f"{TOP}{prefix}{where}"


def test_relative_paths_are_below_our_own_v1_cgroup(tmp_path: Path) -> None:
    (tmp_path / "pids/own").mkdir(parents=True)
    mounts = {"pids": f"{tmp_path}/pids", "devices": f"{tmp_path}/devices"}
    host = v1_host(cgroup_mounts=mounts, own_cgroups={"pids": "/own", "devices": "/of/the/host"}, cgroup_unified="")
    found = cgroups.choose(config("x/y"), "web", host)
    # where a container's own path is one of the host, not to be seen here, the mount is as far up as there is
    assert found.paths == {"pids": f"{tmp_path}/pids/own/x/y", "devices": f"{tmp_path}/devices/x/y"}


@pytest.mark.parametrize("path", ["/", "//", "/..", ".", "..", "a/..", "/a/../.."])
def test_nobody_gets_a_root_cgroup(path: str) -> None:
    for host in (v1_host(), v2_host()):
        with pytest.raises(ConfigError, match="linux.cgroupsPath: must name a cgroup for the container alone"):
            cgroups.choose(config(path), "web", host)


def test_paths_that_no_file_can_have() -> None:
    for path in ("/a\0b", "/a\nb"):
        with pytest.raises(ConfigError, match="linux.cgroupsPath"):
            cgroups.choose(config(path), "web", v1_host())


def test_hybrid_has_the_unified_hierarchy_and_plain_v1_has_not() -> None:
    assert cgroups.choose(config("/x"), "web", v1_host()).paths[""] == f"{TOP}/unified/x"
    assert "" not in cgroups.choose(config("/x"), "web", v1_host(cgroup_unified="")).paths


def test_the_devices_controller_is_not_optional() -> None:
    mounts = {"pids": f"{TOP}/pids"}
    with pytest.raises(Unsupported, match="devices is not mounted"):
        cgroups.choose(config("/x"), "web", v1_host(cgroup_mounts=mounts))
    with pytest.raises(Unsupported, match="devices is not mounted"):
        cgroups.choose(config("/x"), "web", v1_host(cgroup_mounts={}, cgroup_unified="", cgroup_mode="none"))


def test_systemd_is_refused_clearly() -> None:
    for systemd, manager in ((True, ""), (True, "cgroupfs"), (False, "systemd")):
        with pytest.raises(Unsupported, match="systemd as the manager of cgroups is not supported"):
            cgroups.choose(config("a:b:c"), "web", v1_host(), systemd, manager)
    with pytest.raises(UsageError, match='"docker"'):
        cgroups.choose(config(), "web", v1_host(), manager="docker")


# -- steps -----------------------------------------------------------------------------------------------------------------


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
        f"write {TOP}/a/b/x/cpuset.cpus 0",
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


# -- no cgroup -------------------------------------------------------------------------------------------------------------


def rootless(tmp_path: Path, writable: set[str]) -> Host:
    mounts = {}
    for name in ("devices", "memory", "pids"):
        path = tmp_path / name
        path.mkdir()
        path.chmod(0o755 if name in writable else 0o555)
        mounts[name] = str(path)
    return v1_host(cgroup_mounts=mounts, cgroup_unified="", is_rootless=True, euid=1000)


def test_without_root_only_what_may_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = rootless(tmp_path, {"memory"})
    monkeypatch.setattr(os, "access", lambda path, mode: bool(os.stat(path).st_mode & 0o200))  # as for anybody but root
    conf = config(memory={"limit": 1000})
    cgroup = cgroups.choose(conf, "web", host)
    assert cgroup.paths == {"memory": f"{tmp_path}/memory/web"}
    assert lines(cgroup, conf) == [
        f"mkdir {tmp_path}/memory/web",
        f"write {tmp_path}/memory/web/memory.limit_in_bytes 1000",
    ]
    with pytest.raises(Unsupported, match="cannot set pids limit: container could not join or create cgroup"):
        cgroup.steps(config(pids={"limit": 1}))
    # who names a cgroup gets that or an error
    assert set(cgroups.choose(config("/x"), "web", host).paths) == {"memory", "devices", "pids"}


def test_without_root_and_access_no_cgroup_unless_limits_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: bool(os.stat(path).st_mode & 0o200))
    (tmp_path / "v1").mkdir()
    v1 = rootless(tmp_path / "v1", set())
    (tmp_path / "v2").mkdir(mode=0o555)
    v2 = v2_host(cgroup_unified=f"{tmp_path}/v2", own_cgroups={"": "/own"}, is_rootless=True)
    for host, why in ((v1, "could not join or create"), (v2, "rootless needs no limits")):
        cgroup = cgroups.choose(config(), "web", host)
        assert cgroup.paths == {} and cgroup.state() == {} and cgroup.steps(config()) == []
        with pytest.raises(Unsupported, match=f"cannot set memory limit: .*{why}"):
            cgroup.steps(config(memory={"limit": 1}))


def test_device_rules_may_fail_without_root() -> None:
    kinds = {step[0] for step in cgroups.choose(config("/x"), "web", v1_host(is_rootless=True)).steps(config("/x"))}
    assert "write?denied" in kinds
    kinds = {step[0] for step in cgroups.choose(config("/x"), "web", v2_host(is_rootless=True)).steps(config("/x"))}
    assert "devices?denied" in kinds


def test_disabled_is_an_object_that_does_nothing() -> None:
    cgroup = cgroups.choose(config(devices=[{"allow": False}]), "web", v1_host(), manager="disabled")
    assert cgroup.steps(config(devices=[{"allow": False}])) == []
    assert cgroup.join_steps() == cgroup.self_join_steps() == [] and cgroup.clone_into() == ""
    assert cgroup.state() == {} and cgroup.freezer_file() == "" and cgroup.paths == {}
    assert cgroup.pids() == [] and cgroup.is_empty() and not cgroup.exists() and not cgroup.is_frozen()
    assert cgroup.oom_kills() == cgroup.memory_limit() == 0
    cgroup.join(1)
    cgroup.kill(9)
    cgroup.thaw()
    cgroup.destroy()
    for refused in (
        lambda: cgroup.steps(config(pids={"limit": 1})),
        cgroup.freeze,
        lambda: cgroup.run(("mkdir", "/x", "")),
        lambda: cgroup.join_steps(["sub"]),
    ):
        with pytest.raises(Error):
            refused()
    assert isinstance(cgroups.from_state(cgroup.state(), v1_host()), cgroups.NoCgroup)


def test_both_objects_have_the_same_methods() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in vars(cls) if name[0] != "_"}

    used_inside = {"host", "main", "place", "directories", "write", "why", "join_one"}
    assert public(cgroups.fs.Cgroup) - used_inside == public(cgroups.NoCgroup) - {"why"}


# -- state -----------------------------------------------------------------------------------------------------------------


def test_state_goes_round() -> None:
    for host in (v1_host(), v2_host()):
        cgroup = cgroups.choose(config("/x"), "web", host)
        again = cgroups.from_state(cgroup.state(), host)
        assert again.paths == cgroup.paths and again.version == cgroup.version


@pytest.mark.parametrize(
    "saved",
    [
        {"version": 3, "paths": {"pids": "/a/b"}},
        {"version": 1},
        {"version": 1, "paths": {}},
        {"version": 1, "paths": ["/a/b"]},
        {"version": 1, "paths": {"pids": "a/b"}},
        {"version": 1, "paths": {"pids": "/a/../b"}},
        {"version": 1, "paths": {"pids": "/a"}},
        {"version": 1, "paths": {"pids": 5}},
    ],
)
def test_garbage_in_the_state_file(saved: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        cgroups.from_state(saved, v1_host())


def test_a_refused_write_quotes_the_kernel(tmp_path: Path) -> None:
    cgroup = cgroups.fs.Cgroup(1, {"pids": str(tmp_path / "x")}, v1_host())
    with pytest.raises(CgroupError, match=r'write "5" to .*/x/pids.max: no such file or directory'):
        cgroup.run(("write", f"{tmp_path}/x/pids.max", "5"))
    (tmp_path / "x").mkdir()
    with pytest.raises(Unsupported, match=r'write "5" to .*/x/pids.max: this kernel or this cgroup has no pids.max'):
        cgroup.run(("write", f"{tmp_path}/x/pids.max", "5"))
