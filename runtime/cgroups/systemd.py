"""Which unit of which systemd a container gets: the system's, or without root that of the user. Nothing is made here.

slice:prefix:name    as linux.cgroupsPath, see `systemd_units`; what is made of it is a `systemd_scope.Scope`
"""

from __future__ import annotations

from runtime import system as os
from runtime.cgroups import systemd_units
from runtime.cgroups.systemd_scope import Scope
from runtime.errors import CgroupError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cgroups.systemd_units import Unit


def choose(asked: str, id_: str, host: Any) -> Scope:
    """The unit for a new container; raise where there can be none."""
    if not host.is_systemd:
        raise Unsupported(
            "systemd does not run here: it cannot make the container's cgroup",
            "leave out --systemd-cgroup, and give linux.cgroupsPath as a path",
        )
    is_user = _is_user(host)
    unit = systemd_units.unit(asked, id_, is_user)
    if host.cgroup_mode == "none":
        raise Unsupported("no cgroup hierarchy is mounted on this host")
    if host.cgroup_mode != "v2":
        if is_user:
            raise Unsupported("without root, systemd can make cgroups on cgroup v2 alone, and this host has v1")
        return _new(Scope(1, _paths_v1(unit, host), host, unit.name, False), unit, id_)
    scope = Scope(2, {}, host, unit.name, is_user)
    scope.top = host.cgroup_unified + _top(scope, host)
    scope.paths[""] = os.path.normpath(scope.top + unit.path)
    return _new(scope, unit, id_)


def version(host: Any) -> str:
    """The version of the systemd that would make the cgroups, as it says itself; raise where it does not answer."""
    from runtime.cgroups import systemd_bus

    addresses = _user_addresses() if _is_user(host) else systemd_bus.system_addresses()
    manager = systemd_bus.Manager(addresses)
    try:
        return str(manager.get("Version", "s"))
    except systemd_bus.Refusal as refusal:
        raise refusal.error("ask systemd for its version") from None
    finally:
        manager.close()


def _new(scope: Scope, unit: Unit, id_: str) -> Scope:
    scope.slice = unit.slice
    scope.is_new = True
    scope._id = id_
    scope._tried = False
    return scope


def _is_user(host: Any) -> bool:
    """Whether the user's systemd is meant: without root, and for root of a user namespace that has no systemd of its own."""
    if not host.is_rootless:
        return False
    from runtime.cgroups.systemd_bus import SYSTEM_SOCKET

    return not (host.euid == 0 and host.in_user_ns and os.access(SYSTEM_SOCKET, os.W_OK))


def _top(scope: Scope, host: Any) -> str:
    """The cgroup of the manager itself, below which all of its units are."""
    if not scope.is_user:
        return ""
    known = getattr(host, "user_manager_cgroup", None)  # of a test
    if known is not None:
        return str(known)
    from runtime.cgroups import systemd_bus

    _user_addresses()
    try:
        return str(scope.manager().get("ControlGroup", "s"))
    except systemd_bus.Refusal as refusal:
        raise refusal.error("ask the user's systemd for its cgroup") from None


def _user_addresses() -> list[str]:
    from runtime.cgroups import systemd_bus

    found = systemd_bus.user_addresses()
    if not found:
        raise CgroupError(
            "cannot reach the user's systemd: neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set",
            "log in as that user, or: loginctl enable-linger USER; export XDG_RUNTIME_DIR=/run/user/$(id -u USER)",
        )
    return found


def _paths_v1(unit: Unit, host: Any) -> dict[str, str]:
    mounts: dict[str, str] = dict(host.cgroup_mounts)
    if host.cgroup_unified:
        mounts[""] = host.cgroup_unified
    if "devices" not in mounts:
        raise Unsupported("the cgroup controller devices is not mounted on this host: device rules cannot be enforced")
    return {name: os.path.normpath(top + unit.path) for name, top in mounts.items()}


def from_state(saved: dict[str, Any], host: Any) -> Scope | None:
    """The unit that `Scope.state()` described; None where that says nothing of the kind."""
    unit, address = saved.get("unit"), saved.get("address")
    if not systemd_units.is_name(unit) or type(address) is not str:
        return None
    name = systemd_units.cgroup_name(str(unit))
    if any(os.path.basename(path) != name for path in saved["paths"].values()):
        return None
    scope = Scope(saved["version"], saved["paths"], host, str(unit), bool(saved.get("is_user")))
    scope.address = address
    scope.collects = saved.get("collects") is True
    return scope
