"""A host for plans that are made and not run: a plain one, whatever this machine is."""

from __future__ import annotations

from typing import Any

_EVERY_CAPABILITY = (1 << 41) - 1

FACTS: dict[str, Any] = {
    "euid": 0, "egid": 0, "is_rootless": False, "in_user_ns": False, "is_setgroups_denied": False, "owns_mounts": False,
    "cgroup_mode": "v2", "cgroup_mounts": {}, "cgroup_unified": "/sys/fs/cgroup", "own_cgroups": {"": "/"}, "has_apparmor": False,
    "has_selinux": False, "last_cap": 40, "capabilities": _EVERY_CAPABILITY, "bounding": _EVERY_CAPABILITY, "paths": [],
}  # fmt: skip
