"""`update`: other limits for a container, and the memory of what they are now."""

from __future__ import annotations

from runtime import lifecycle, status
from runtime.cgroups import updating
from runtime.errors import Error, StatusError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def update(ctx: lifecycle.Context, id_: str, resources: dict[str, Any], schemas: tuple[str, ...] = ()) -> None:
    """Change limits of the container: all that `resources` names, and lines of its resctrl class, or none."""
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
        put_back = _share(saved, schemas) if schemas else None
        try:
            after = updating.update(cgroup, before, resources)
        except Error:
            if put_back is not None:
                put_back()
            raise
        for warning in cgroup.warnings:
            ctx.warn(warning)
        entry.save({**saved, "resources": after})
    finally:
        entry.close()


def _share(saved: dict[str, Any], schemas: tuple[str, ...]) -> Callable[[], None]:
    """Change what the container's class of service may have; what takes it back."""
    from runtime import intelrdt

    path = saved.get("resctrl_class")
    if not path:
        raise Unsupported(
            f"container {saved['id']} has no class of service of its own: config.json has no linux.intelRdt"
        )
    return intelrdt.change(path, schemas)
