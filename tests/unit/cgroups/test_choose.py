"""Which cgroup a container gets, and what happens where there can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cgroup_hosts import TOP, config, v1_host, v2_host

from runtime import cgroups
from runtime.errors import CgroupError, ConfigError, Error, StateError, Unsupported, UsageError
from runtime.host import Host


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


def test_systemd_where_it_does_not_run() -> None:
    for systemd, manager in ((True, ""), (True, "cgroupfs"), (False, "systemd")):
        with pytest.raises(Unsupported, match="systemd does not run here"):
            cgroups.choose(config("a.slice:b:c"), "web", v1_host(is_systemd=False), systemd, manager)
    with pytest.raises(UsageError, match='"docker"'):
        cgroups.choose(config(), "web", v1_host(), manager="docker")


# -- no cgroup -------------------------------------------------------------------------------------------------------------


def lines(found: Any, conf: dict[str, Any]) -> list[str]:
    return [" ".join(step).rstrip() for step in found.steps(conf)]


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
    monkeypatch.setattr(
        cgroups.os, "access", lambda path, mode: bool(Path(path).stat().st_mode & 0o200)
    )  # as for anybody but root
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
    monkeypatch.setattr("runtime.cgroups.os.access", lambda path, mode: bool(Path(path).stat().st_mode & 0o200))
    (tmp_path / "v1").mkdir()
    v1 = rootless(tmp_path / "v1", set())
    (tmp_path / "v2").mkdir(mode=0o555)
    v2 = v2_host(cgroup_unified=f"{tmp_path}/v2", own_cgroups={"": "/own"}, is_rootless=True)
    for host, why in ((v1, "could not join or create"), (v2, "is not delegated to uid")):
        cgroup = cgroups.choose(config(), "web", host)
        assert cgroup.paths == {} and cgroup.state() == {} and cgroup.steps(config()) == []
        with pytest.raises(Unsupported, match=f"cannot set memory limit: .*{why}") as refused:
            cgroup.steps(config(memory={"limit": 1}))
        assert "root" in refused.value.hint


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

    used_inside = {"asked", "host", "main", "place", "directories", "write", "why", "join_one"}
    assert public(cgroups.fs.Cgroup) - used_inside == public(cgroups.NoCgroup) - {"why", "host"}


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
