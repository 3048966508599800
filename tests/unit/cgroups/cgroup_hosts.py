"""Hosts with cgroup v1 and v2 as dictionaries of facts, and configs that ask for a cgroup."""

from __future__ import annotations

from typing import Any

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
            "is_systemd": False,
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
            "is_systemd": False,
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
