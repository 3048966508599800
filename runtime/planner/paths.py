"""Masked and read-only paths: what of /proc and /sys a container shall not see, or not write.

Each is one op that opens its target once, inside the root, and never by name again (CVE-2025-31133, GHSA-3q8j-pf29-vwv8).
"""

from __future__ import annotations

from runtime import linux
from runtime.errors import ConfigError
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request


def readonly_paths(request: Request, plan: Plan) -> Iterator[Op]:
    """Make paths read-only; one that is not there is skipped."""
    for path, where in _paths(request, "readonlyPaths"):
        yield Op("readonly", path, r1="rootfs", about=f"make {path} read-only", where=where)


def masked_paths(request: Request, plan: Plan) -> Iterator[Op]:
    """Hide paths; one that is not there is skipped."""
    for path, where in _paths(request, "maskedPaths"):
        yield Op("mask", path, r0="null", r1="rootfs", r2="empty", about=f"mask {path}", where=where)


def null_device(request: Request, plan: Plan) -> Iterator[Op]:
    """Hold the host's null device for masks: the container's own /dev/null is the container's to replace (CVE-2025-31133)."""
    if not (request.config.get("linux") or {}).get("maskedPaths"):
        return
    flags = linux.O_PATH | linux.O_NOFOLLOW | linux.O_CLOEXEC
    about = "open the null device"
    yield Op("open", "/dev/null", r0="null", a=flags, about=about)
    yield Op("check-device", r0="null", a=linux.S_IFCHR, b=linux.makedev(1, 3), about=about)


def _paths(request: Request, key: str) -> Iterator[tuple[str, str]]:
    for index, path in enumerate((request.config.get("linux") or {}).get(key) or ()):
        where = f"/linux/{key}/{index}"
        if path[:1] != "/":
            raise ConfigError(where, f'"{path}" is not an absolute path', clause=f"config-linux.md#{key.lower()}")
        yield path, where
