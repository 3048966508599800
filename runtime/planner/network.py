"""The network namespace: loopback up where it is new, and network devices that the parent moves into it."""

from __future__ import annotations

from runtime import linux
from runtime.errors import ConfigError
from runtime.plan import Op
from runtime.planner import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request


def network(request: Request, plan: Plan) -> Iterator[Op]:
    """Bring loopback up in a new network namespace; in a joined one that was somebody else's task."""
    found = namespaces.get(request)
    if found.new & linux.CLONE_NEWNET:
        yield Op("link-up", "lo", about="bring the loopback interface up", where="/linux/namespaces")
    devices = (request.config.get("linux") or {}).get("netDevices")
    if not devices:
        return
    if not found.flags & linux.CLONE_NEWNET:
        raise ConfigError(
            "/linux/netDevices", "needs a network namespace of the container", clause="config-linux.md#network-devices"
        )
    steps = [("netdev", name, (device or {}).get("name") or name) for name, device in devices.items()]
    about, where = "move network devices", "/linux/netDevices"
    # the parent moves them from its namespace, and finishes them in this one through our socket
    yield Op("netlink", r0="netlink", about=about, where=where)
    yield plan.ask("netdev", steps, send="netlink", about=about, where=where)
    yield Op("close", r0="netlink")
