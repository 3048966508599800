"""A request for a small container on a plain cgroup v2 host, to be changed by each test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime import planner
from runtime.host import Host
from runtime.plan import Op, Plan, check, describe

EVERY_CAPABILITY = (1 << 41) - 1

FACTS: dict[str, Any] = {
    "euid": 0,
    "egid": 0,
    "is_rootless": False,
    "in_user_ns": False,
    "is_setgroups_denied": False,
    "owns_mounts": False,
    "cgroup_mode": "v2",
    "cgroup_mounts": {},
    "cgroup_unified": "/sys/fs/cgroup",
    "own_cgroups": {"": "/"},
    "has_apparmor": False,
    "has_selinux": False,
    "last_cap": 40,
    "capabilities": EVERY_CAPABILITY,
    "bounding": EVERY_CAPABILITY,
    "paths": [],
}

MakeRequest = Callable[..., planner.Request]


def make_request(
    process: dict[str, Any] | None = None,
    linux: dict[str, Any] | None = None,
    *,
    facts: dict[str, Any] | None = None,
    namespaces: tuple[str, ...] = ("mount",),
    request: dict[str, Any] | None = None,
    **config: Any,
) -> planner.Request:
    made = planner.Request()
    made.id = "web"
    made.bundle = "/run/bundle"
    made.rootfs = "/run/bundle/rootfs"
    made.process = {"args": ["/bin/app"], "cwd": "/", "env": ["HOME=/"], **(process or {})}
    spec = {"namespaces": [{"type": kind} for kind in namespaces], **(linux or {})}
    made.config = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": spec, "process": made.process, **config}
    made.host = Host.from_facts({**FACTS, **(facts or {})})
    for name, value in (request or {}).items():
        setattr(made, name, value)
    return made


def make_plan(*args: Any, **keywords: Any) -> Plan:
    plan = planner.create(make_request(*args, **keywords))
    check(plan)
    return plan


def lines(plan: Plan, *names: str, where: str = "") -> list[str]:
    """The text of the ops with one of these names (all of them for none), asked for at `where` or below."""
    return [f"{op.name} {describe(op)}".rstrip() for op in found(plan, *names, where=where)]


def found(plan: Plan, *names: str, where: str = "") -> list[Op]:
    return [op for op in plan.ops if (not names or op.name in names) and op.where.startswith(where)]


@pytest.fixture
def make() -> Any:
    return make_plan
