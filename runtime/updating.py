"""`update`: other limits for a container, and the memory of what they are now."""

from __future__ import annotations

from runtime import lifecycle, status
from runtime.cgroups import updating
from runtime.errors import StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def update(ctx: lifecycle.Context, id_: str, resources: dict[str, Any]) -> None:
    """Change limits of the container: all that `resources` names, or none."""
    entry = lifecycle.locked(ctx, id_, "update")
    try:
        status.allow("update", entry.status()[0], id_)
        saved = entry.state
        if saved is None:
            raise StatusError("container not running", code="status")
        before = saved.get("resources")
        if before is None:
            # what create was asked for counts too: some files of the kernel hold two properties
            before = (lifecycle.config_of(entry).get("linux") or {}).get("resources") or {}
        cgroup = lifecycle.cgroup_of(saved)
        after = updating.update(cgroup, before, resources)
        for warning in cgroup.warnings:
            ctx.warn(warning)
        entry.save({**saved, "resources": after})
    finally:
        entry.close()
