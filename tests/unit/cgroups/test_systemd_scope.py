"""The steps that make a unit, on v2 and v1, for root and for a user; what a state file keeps of it. systemd is not spoken to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cgroup_hosts import TOP, config, v1_host, v2_host

from runtime import cgroups
from runtime.cgroups.systemd_scope import Scope
from runtime.errors import CgroupError, ConfigError, StateError, Unsupported
from runtime.host import Host

USER = "/user.slice/user-1000.slice/user@1000.service"


def scope(host: Host, path: str | None = "a.slice:b:web", id_: str = "web", **more: Any) -> Scope:
    found = cgroups.choose(config(path, **more), id_, host, True)
    assert isinstance(found, Scope)
    return found


def v2(**facts: Any) -> Host:
    return v2_host(is_systemd=True, **facts)


def user_host(**facts: Any) -> Host:
    return v2(**{"is_rootless": True, "euid": 1000, "in_user_ns": False, "user_manager_cgroup": USER, **facts})


def lines(found: Scope, **resources: Any) -> list[str]:
    return [" ".join(step).rstrip() for step in found.steps(config(**resources))]


def test_the_steps() -> None:
    """As a plan prints them: properties, the unit, then the files without what systemd does by itself."""
    found = scope(v2())
    assert found.paths == {"": f"{TOP}/a.slice/b-web.scope"}
    made = lines(found, memory={"limit": 1 << 20}, cpu={"cpus": "0"}, pids={"limit": 100})
    devices = [line for line in made if "Device" in line or line.startswith("devices")]
    assert [line for line in made if line not in devices] == [
        "property b-web.scope Description='pyrunc container web'",
        "property b-web.scope Slice='a.slice'",
        "property b-web.scope Delegate=true",
        "property b-web.scope CollectMode='inactive-or-failed'",
        "property b-web.scope DefaultDependencies=false",
        "property b-web.scope MemoryAccounting=true",
        "property b-web.scope CPUAccounting=true",
        "property b-web.scope IOAccounting=true",
        "property b-web.scope TasksAccounting=true",
        "property b-web.scope AllowedCPUs=[byte 1]",
        "property b-web.scope MemoryMax=uint64 1048576",
        "property b-web.scope TasksMax=uint64 100",
        "start-unit b-web.scope $PID",
        f"cpuset {TOP}/a.slice/b-web.scope/cpuset.cpus 0",
        f"write {TOP}/a.slice/b-web.scope/memory.max 1048576",
        f"write {TOP}/a.slice/b-web.scope/pids.max 100",
    ]
    assert devices[0] == "property b-web.scope DevicePolicy='strict'" and devices[-1].startswith("devices ")
    # systemd has moved init
    assert found.join_steps() == found.self_join_steps() == [] and found.clone_into() == ""


def test_annotations_come_last() -> None:
    conf = config("a.slice:b:web") | {"annotations": {"org.systemd.property.Delegation": "'x'"}}
    steps = scope(v2()).steps(conf)
    assert steps[[step[0] for step in steps].index("start-unit") - 1] == ("property", "b-web.scope", "Delegation='x'")


def test_few_tasks_come_late() -> None:
    steps = scope(v2()).steps(config(pids={"limit": 1}))
    late = [step for step in steps if cgroups.is_late(step)]
    assert late == [
        ("set-property", "b-web.scope", "TasksMax=uint64 1"),
        ("write", f"{TOP}/a.slice/b-web.scope/pids.max", "1"),
    ]
    assert not any("TasksMax" in step[2] for step in steps if step not in late)


def test_an_idle_cgroup_gets_no_weight() -> None:
    made = lines(scope(v2()), cpu={"shares": 512, "idle": 1})
    assert "property b-web.scope CPUWeight=uint64 0" in made
    assert not any("cpu.weight" in line for line in made)
    assert f"write {TOP}/a.slice/b-web.scope/cpu.idle 1" in made


def test_controllers_that_systemd_does_not_know_are_enabled_by_us() -> None:
    host = v2(cgroup_controllers="cpu cpuset io memory pids hugetlb rdma")
    made = lines(scope(host), hugepageLimits=[{"pageSize": "2MB", "limit": 5}], memory={"limit": 5})
    assert [line for line in made if line.startswith("enable")] == [
        f"enable {TOP} hugetlb",
        f"enable {TOP}/a.slice hugetlb",
    ]


def test_a_slice_is_joined_by_hand() -> None:
    found = scope(v2(), "a.slice:b:a-c.slice")
    made = lines(found)
    assert "property a-c.slice Wants=['a.slice']" in made and "start-unit a-c.slice" in made
    assert found.join_steps() == [("write", f"{TOP}/a.slice/a-c.slice/cgroup.procs", "$PID")]


def test_on_v1() -> None:
    found = scope(v1_host(is_systemd=True))
    assert found.paths["memory"] == f"{TOP}/memory/a.slice/b-web.scope"
    assert found.paths[""] == f"{TOP}/unified/a.slice/b-web.scope"
    made = lines(found, memory={"limit": 5}, cpu={"shares": 5})
    assert "property b-web.scope MemoryLimit=uint64 5" in made and "property b-web.scope CPUShares=uint64 5" in made
    assert "property b-web.scope BlockIOAccounting=true" in made
    # systemd makes its own
    assert f"mkdir {TOP}/memory/a.slice/b-web.scope" in made and f"mkdir {TOP}/systemd/a.slice/b-web.scope" not in made
    # those of the hierarchies that systemd does not use
    assert ("write", f"{TOP}/freezer/a.slice/b-web.scope/tasks", "0") in found.self_join_steps()
    with pytest.raises(Unsupported, match="devices is not mounted"):
        scope(v1_host(is_systemd=True, cgroup_mounts={"name=systemd": f"{TOP}/systemd"}))


# -- without root ----------------------------------------------------------------------------------------------------------


def test_a_users_unit(tmp_path: Path) -> None:
    found = scope(user_host(), None)
    assert found.is_user and found.paths == {"": f"{TOP}{USER}/user.slice/runc-web.scope"}
    # no program for devices can be loaded: systemd would say so in its log, for each container
    assert not any("Device" in line for line in lines(found))


def test_limits_that_the_user_has_no_controller_for(tmp_path: Path) -> None:
    place = tmp_path / USER.strip("/")
    place.mkdir(parents=True)
    (place / "cgroup.controllers").write_text("memory pids\n")
    # a slice has what its units have needed so far: systemd enables more
    (place / "a.slice").mkdir()
    (place / "a.slice/cgroup.controllers").write_text("\n")
    found = scope(user_host(cgroup_unified=str(tmp_path)))
    assert any("MemoryMax" in line for line in lines(found, memory={"limit": 5}))
    with pytest.raises(Unsupported) as caught:
        lines(found, cpu={"shares": 5})
    assert "the user's systemd has no controller cpu, only memory pids" in caught.value.message
    assert "Delegate=cpu cpuset io memory pids" in caught.value.hint


def test_no_units_of_users_on_v1() -> None:
    with pytest.raises(Unsupported, match="on cgroup v2 alone"):
        scope(v1_host(is_systemd=True, is_rootless=True, euid=1000, in_user_ns=False))


def test_whose_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root of a user namespace: of a container with a systemd of its own, or of what Podman has made of a user."""
    host = user_host(euid=0, in_user_ns=True)
    monkeypatch.setattr("runtime.cgroups.systemd.os.access", lambda path, mode: False)
    assert scope(host).is_user
    monkeypatch.setattr("runtime.cgroups.systemd.os.access", lambda path, mode: path == "/run/systemd/private")
    assert not scope(host).is_user
    # --rootless=true
    assert scope(user_host(euid=0)).is_user


def test_no_manager_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    host = user_host()
    del host.user_manager_cgroup  # type: ignore[attr-defined]
    monkeypatch.setattr("runtime.cgroups.systemd_bus.os.environ", {})
    with pytest.raises(CgroupError) as caught:
        scope(host)
    assert (
        "neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS" in caught.value.message and "linger" in caught.value.hint
    )


def test_who_may_not_move_processes_asks_systemd_to() -> None:
    saved = scope(user_host()).state()
    outside = cgroups.from_state(saved, user_host(own_cgroups={"": "/user.slice/user-1000.slice/session-1.scope"}))
    assert outside.join_steps() == [("attach", "b-web.scope", "")]
    assert outside.self_join_steps() == [] and outside.clone_into() == ""
    assert outside.join_steps(["x/y"]) == [("attach", "b-web.scope", "/x/y")]
    inside = cgroups.from_state(saved, user_host(own_cgroups={"": f"{USER}/app.slice/x.service"}))
    assert inside.join_steps() == [("write", f"{TOP}{USER}/a.slice/b-web.scope/cgroup.procs", "$PID")]
    assert inside.clone_into() == f"{TOP}{USER}/a.slice/b-web.scope"


# -- state -----------------------------------------------------------------------------------------------------------------


def test_state_goes_round() -> None:
    found = scope(v2())
    found.address, found.collects = "unix:path=/x", True
    again = cgroups.from_state(found.state(), v2())
    assert isinstance(again, Scope) and again.state() == found.state()
    # exec joins like any other process
    assert again.join_steps() == [("write", f"{TOP}/a.slice/b-web.scope/cgroup.procs", "$PID")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": "c-web.scope"},
        {"unit": "b-web.service"},
        {"unit": 5},
        {"unit": "../b-web.scope"},
        {"address": 5},
        {"paths": {"": "/a/b"}},
    ],
)
def test_garbage_in_the_state_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(StateError):
        cgroups.from_state(scope(v2()).state() | wrong, v2())


def test_paths_are_no_units() -> None:
    for path in ("/a/b", "a.slice:b", "a.slice:b:c\nd"):
        with pytest.raises(ConfigError) as caught:
            scope(v2(), path)
        assert caught.value.where == "/linux/cgroupsPath"


@pytest.mark.parametrize("is_connected", [True, False])
def test_who_has_a_connection_does_not_wait_for_systemd_to_notice(tmp_path: Path, is_connected: bool) -> None:
    """It hears of an empty cgroup some time after that is empty."""
    place = tmp_path / "x.scope"
    place.mkdir()
    (place / "cgroup.events").write_text("populated 0\n")
    stopped: list[tuple[str, bool]] = []

    class Systemd:
        def stop(self, unit: str, *, collects: bool) -> None:
            stopped.append((unit, collects))
            (place / "cgroup.events").unlink()
            place.rmdir()

        def close(self) -> None:
            pass

    waits: list[bool] = []

    class Noticed(Scope):
        def _goes_by_itself(self) -> bool:
            waits.append(True)
            Systemd().stop("x.scope", collects=True)
            return True

    scope = Noticed(2, {"": str(place)}, v2(), "x.scope", False)
    scope.collects = True
    scope._manager = Systemd() if is_connected else None  # type: ignore[assignment]
    scope.destroy()
    assert len(stopped) == 1 and waits == ([] if is_connected else [True])
