"""Kernel parameters (`linux.sysctl`), written through the private proc, where no mount of the container can redirect them."""

from __future__ import annotations

from runtime import linux
from runtime.errors import ConfigError, RuleError
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request

_SWAP = str.maketrans("./", "/.")
#: which parameters belong to which namespace, by their files
_OWNERS = {
    "network": ("net/",),
    "ipc": ("kernel/msg", "kernel/sem", "kernel/shm", "fs/mqueue/"),
    "uts": ("kernel/hostname", "kernel/domainname"),
}


def sysctl(request: Request, plan: Plan) -> Iterator[Op]:
    """Write each parameter; which of them belong to a namespace of the container is for `rules` to judge, but for one thing: whether
    a namespace given by path is the host's own, only the host can tell."""
    foreign = _foreign(request)
    for key, value in ((request.config.get("linux") or {}).get("sysctl") or {}).items():
        where = f"/linux/sysctl/{key.replace('~', '~0').replace('/', '~1')}"
        path = file_of(key)
        if ".." in path.split("/") or "" in path.split("/"):
            raise ConfigError(where, f'"{key}" names no kernel parameter')
        for prefix, kind in foreign:
            if path.startswith(prefix):
                why = f'"{key}" is not allowed in the host {kind} namespace'
                raise RuleError(where, why, clause="config-linux.md#sysctl")
        yield Op("write", f"sys/{path}", value, r1="proc", about=f'set sysctl {key} to "{value}"', where=where)


def _foreign(request: Request) -> list[tuple[str, str]]:
    """Beginnings of parameters that would be the host's, because the namespace they belong to was joined and is the host's own."""
    out = []
    for entry in (request.config.get("linux") or {}).get("namespaces") or ():
        kind, path = entry["type"], entry.get("path")
        if path and kind in _OWNERS and request.host.is_own_namespace(linux.NAMESPACES[kind][1], path):
            out += [(prefix, kind) for prefix in _OWNERS[kind]]
    return out


def file_of(key: str) -> str:
    """The file below /proc/sys of a parameter, sysctl(8): the separator that comes first separates, the other is literal."""
    dot, slash = key.find("."), key.find("/")
    if slash >= 0 and (dot < 0 or slash < dot):
        return key
    return key.translate(_SWAP)
