"""--systemd-cgroup without root: units of the user's own systemd. Run by an ordinary user who is logged in, or lingers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import hierarchies
import pytest

pytestmark = pytest.mark.requires("systemd-user", "cgroup-v2")

MIB = 1 << 20
TOP = Path("/sys/fs/cgroup")


def systemctl(*words):
    return subprocess.run(["systemctl", "--user", *words], check=True, capture_output=True, text=True).stdout


def show(unit, *names):
    listed = systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in listed)


def units(pyrunc):
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", f"*{pyrunc.prefix}*")
    return [line.split()[0] for line in listed.splitlines()]


@pytest.fixture
def scope(pyrunc, make, running):
    """scope(resources, path=...) -> Box with .unit and .path: a container of one's own id, in a unit of one's own systemd."""
    pyrunc.options.append("--systemd-cgroup")
    pyrunc.env = {**pyrunc.env, "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}

    def edited(resources=None, path=":test:{}", name="box"):
        def edit(config):
            linux = config["linux"]
            linux.update(resources=resources or {}, cgroupsPath=path.format(pyrunc.id(name)))

        return edit

    def scope(resources=None, path=":test:{}", name="box"):
        box = running(edited(resources, path, name), name=name)
        box.unit = f"test-{box.id}.scope"
        box.path = TOP / hierarchies.on_v2(Path(f"/proc/{box.pid}/cgroup").read_text())[1:]
        return box

    scope.edited = edited
    yield scope
    pyrunc.clean()
    assert units(pyrunc) == []
    assert [str(path) for path in TOP.rglob(f"*{pyrunc.prefix}*")] == []


def test_a_unit_of_the_users_manager(pyrunc, scope):
    box = scope()
    top = f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
    assert box.path == TOP / top / "user.slice" / box.unit
    assert show(box.unit, "Slice", "Delegate", "ControlGroup", "CollectMode") == {
        "Slice": "user.slice",
        "Delegate": "yes",
        "ControlGroup": f"/{top}/user.slice/{box.unit}",
        "CollectMode": "inactive-or-failed",
    }
    assert hierarchies.on_v2(box.exec("cat", "/proc/self/cgroup").out) == "/"
    pyrunc("pause", box.id)
    assert pyrunc.state(box.id)["status"] == "paused"
    pyrunc("resume", box.id)
    pyrunc("delete", "--force", box.id)
    assert units(pyrunc) == [] and not box.path.exists()


@pytest.mark.requires("limits")
def test_limits(pyrunc, scope):
    box = scope({"memory": {"limit": 64 * MIB}, "pids": {"limit": 64}})
    for _ in range(2):
        assert (box.path / "memory.max").read_text() == f"{64 * MIB}\n"
        assert show(box.unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(64 * MIB), "TasksMax": "64"}
        systemctl("daemon-reload")
    pyrunc("update", "--resources", "-", box.id, input=json.dumps({"memory": {"limit": 96 * MIB}}))
    assert (box.path / "memory.max").read_text() == f"{96 * MIB}\n"
    assert show(box.unit, "MemoryMax") == {"MemoryMax": str(96 * MIB)}


@pytest.mark.requires("limits")
def test_a_controller_that_the_slice_does_not_have_yet(pyrunc, scope):
    """As a pod's, in which nothing has needed it so far: systemd enables it, all the way down."""
    name = f"pyrunctest-{pyrunc.prefix.replace('-', '_')}.slice"
    first = f"{pyrunc.prefix}-first.service"
    subprocess.run(
        ["systemd-run", "--user", "--quiet", f"--slice={name}", f"--unit={first}", "sleep", "1000"], check=True
    )
    try:
        folder = TOP / systemctl("show", name, "--property=ControlGroup").strip().partition("=/")[2]
        assert "cpuset" not in (folder / "cgroup.controllers").read_text().split()
        box = scope({"cpu": {"cpus": "0"}}, path=f"{name}:test:{{}}")
        assert (box.path / "cpuset.cpus").read_text() == "0\n" and box.path.parent == folder
    finally:
        systemctl("stop", first)
        pyrunc.clean()
        systemctl("stop", name)


def test_run_leaves_nothing(pyrunc, make, scope):
    made = make(scope.edited(name="run"), "/bin/sh", "-c", "exit 7")
    for _ in range(2):
        pyrunc("run", "-b", made, pyrunc.id("run"), status=7)
        assert units(pyrunc) == []


def test_without_a_manager(pyrunc, make, scope):
    made = make(scope.edited())
    pyrunc.env.pop("XDG_RUNTIME_DIR")
    error = pyrunc.fails("create", "-b", made, pyrunc.id())
    assert "cannot reach the user's systemd: neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set" in error
    pyrunc.env |= {"XDG_RUNTIME_DIR": "/nowhere", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/no/bus"}
    error = pyrunc.fails("create", "-b", made, pyrunc.id())
    assert "cannot reach systemd: /nowhere/systemd/private: no such file or directory; /no/bus: no such file" in error


def test_over_the_session_bus(pyrunc, scope):
    """Where the environment names a bus alone."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={os.environ['XDG_RUNTIME_DIR']}/bus"
    pyrunc.env.pop("XDG_RUNTIME_DIR")
    pyrunc.env["DBUS_SESSION_BUS_ADDRESS"] = address
    box = scope()
    assert show(box.unit, "ActiveState") == {"ActiveState": "active"}
    pyrunc("delete", "--force", box.id)
    assert units(pyrunc) == []
