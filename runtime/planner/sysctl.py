"""Kernel parameters (`linux.sysctl`), written through the private proc, where no mount of the container can redirect them."""

from __future__ import annotations

from runtime.errors import ConfigError
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request

_SWAP = str.maketrans("./", "/.")


def sysctl(request: Request, plan: Plan) -> Iterator[Op]:
    """Write each parameter; which of them belong to a namespace of the container is for `rules` to judge."""
    for key, value in ((request.config.get("linux") or {}).get("sysctl") or {}).items():
        where = f"/linux/sysctl/{key.replace('~', '~0').replace('/', '~1')}"
        path = file_of(key)
        if ".." in path.split("/") or "" in path.split("/"):
            raise ConfigError(where, f'"{key}" names no kernel parameter')
        yield Op("write", f"sys/{path}", value, r1="proc", about=f'set sysctl {key} to "{value}"', where=where)


def file_of(key: str) -> str:
    """The file below /proc/sys of a parameter, sysctl(8): the separator that comes first separates, the other is literal."""
    dot, slash = key.find("."), key.find("/")
    if slash >= 0 and (dot < 0 or slash < dot):
        return key
    return key.translate(_SWAP)
