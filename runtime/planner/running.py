"""Mounts of a container that runs: plans of a helper that joins its mount namespace, makes or unmakes them, and ends.

What comes from the host is taken before the host is left: sources of binds as trees of their own, a procfs. What is inside is as
hostile as it was when the container was made, and is met by the same ops: a place is opened once, inside the root, and mounted on
or unmounted by that descriptor.

    add      sources -> join -> filesystems -> hold each, still mounted nowhere -> attach, in the order given
    undo     of one that is held: unmount it by its own descriptor, wherever it lies by now
    remove   look at every place, then unmount, the last one first
"""

from __future__ import annotations

from runtime import linux
from runtime import system as os
from runtime.errors import ConfigError, StatusError, Unsupported
from runtime.plan import Op, Plan
from runtime.planner import cgroup_mounts, effects, mounts, namespaces, rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from runtime.planner import Request
    from runtime.planner.mounts import Mount

#: filesystems that show a namespace of whoever mounts them. Nobody joins more than that: in the container's pid namespace the helper
#: could be killed by it
_SHOWN = {
    "proc": linux.CLONE_NEWPID,
    "sysfs": linux.CLONE_NEWNET,
    "mqueue": linux.CLONE_NEWIPC,
    "cgroup2": linux.CLONE_NEWCGROUP,
}


def add(request: Request, pid: int) -> Plan:
    """Mount what the config's `mounts` say in the container whose init is `pid`, held as "init"."""
    plan, found = _begin(request), []
    for mount in mounts.read(request):
        if mount.options.is_remount:
            raise ConfigError(f"{mount.where}/options", "a remount adds no mount")
        if mount.kind == "cgroup" or (mount.kind == "cgroup2" and cgroup_mounts.is_bound(request)):
            raise Unsupported(f"{mount.about}: only a new container can get the cgroup hierarchies of the host")
        found.append(mount)
    shown = 0
    for mount in found:
        shown |= _SHOWN.get(mount.kind, 0)
    if not namespaces.get(request).uid_map and any(mount.options.is_idmapped and not mount.id_maps for mount in found):
        # of a user namespace that somebody else has made. That the pid is still init's shows when its pidfd is joined
        plan.ops.append(
            Op("open", f"/proc/{pid}/ns/user", r0="ns-user", a=linux.O_CLOEXEC, about="open its user namespace")
        )
    sources: list[Op] = []
    for mount in found:
        if _is_bind(mount):
            sources += mounts.open_source(mount, request, plan, _tree(mount))
            if not rootfs.is_shared(request):
                # as of those that it was made with: no peer of the host's, where the container could mount otherwise
                sources.append(rootfs.cut_off(request, _tree(mount), mount.about, mount.where))
    plan.ops += _join(request, shown, sources)
    plan.ops += namespaces.fork(request, plan) if shown & linux.CLONE_NEWPID else ()
    plan.ops.append(_root())
    for mount in found:
        if not _is_bind(mount) and not mount.link:
            plan.ops += mounts.filesystem(mount, request, plan, _tree(mount))
    for mount in found:
        if not mount.link:
            step = ("hold", mount.place, str(mount.index))
            plan.ops.append(
                plan.ask(f"hold-{mount.index}", [step], send=_tree(mount), about=mount.about, where=mount.where)
            )
    for mount in found:
        plan.ops += mounts.copy_link(mount) if mount.link else mounts.attach(mount, _tree(mount))
    plan.ops += [mounts.read_only(mount, _tree(mount)) for mount in found if mounts.is_read_only_late(mount)]
    return effects.done(plan)


def undo(request: Request, place: str) -> Plan:
    """Take back a mount that is handed in as "mount"."""
    plan = _begin(request)
    plan.inherited.append("mount")
    plan.ops += [_procfs(), *_join(request, 0, ())]
    plan.ops.append(Op("unmount", r0="mount", r1="proc", about=f"unmount {place}"))
    return effects.done(plan)


def remove(request: Request, entries: Sequence[dict[str, Any]]) -> Plan:
    """Unmount what lies on top at the destinations: all of them, or where one of them is no mount, none."""
    plan = _begin(request)
    plan.ops += [_procfs(), *_join(request, 0, ()), _root()]
    places = []
    for index, entry in enumerate(entries):
        place = os.path.normpath("/" + entry["destination"].lstrip("/"))
        where = f"/mounts/{index}/destination"
        if place == "/":
            raise ConfigError(where, "the root of the container cannot be unmounted")
        places.append((place, "dest-nofollow" in (entry.get("options") or ()), where))
    for place, is_link, where in dict.fromkeys(places):
        # what lies on another of them may be covered by it until that is gone
        if not any(place.startswith(f"{other}/") for other, _, _ in places):
            plan.ops += _unmount(place, is_link, where, look=True)
    # the last one first: the file that has added them removes them, also where one lies on another
    for place, is_link, where in reversed(places):
        plan.ops += _unmount(place, is_link, where, look=False)
    return effects.done(plan)


def _unmount(place: str, is_link: bool, where: str, *, look: bool) -> Iterator[Op]:
    about = f"unmount {place}"
    flags = linux.O_PATH | linux.O_CLOEXEC | (linux.O_NOFOLLOW if is_link else 0)
    resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    yield Op("open", place, r0="at", r1="rootfs", a=flags, b=resolve, about=about, where=where)
    yield Op("unmount", r0="at", r1="proc", a=int(look), about=about, where=where)


def _begin(request: Request) -> Plan:
    plan = Plan()
    plan.inherited.append("init")
    namespaces.resolve_exec(request)
    if not namespaces.get(request).flags & linux.CLONE_NEWNS:
        raise StatusError(
            "the container has no mount namespace of its own: its mounts end with its processes", code="status"
        )
    plan.ops += [Op("umask", a=0, about="clear the umask"), namespaces.not_dumpable()]
    return plan


def _join(request: Request, shown: int, sources: Sequence[Op]) -> Iterator[Op]:
    """Take the sources where there is the right to, and enter the container's mounts as root of its user namespace."""
    found, host = namespaces.get(request), request.host
    # what is not joined need not be forked for
    found.flags &= linux.CLONE_NEWNS | linux.CLONE_NEWUSER | shown
    user, rest = found.flags & linux.CLONE_NEWUSER, found.flags & ~linux.CLONE_NEWUSER
    about = "join the container's namespaces"
    if user and host.is_rootless and not (host.in_user_ns and host.owns_mounts):
        # no right to mount but in there: a copy of the host's mounts that is the user namespace's has the sources
        yield Op("setns", r0="init", a=user, about="join the container's user namespace")
        yield from namespaces.become_root_beside_init(request)
        if sources:
            yield Op("unshare", a=linux.CLONE_NEWNS, about="make a mount namespace to take the sources from")
        yield from sources
        yield Op("setns", r0="init", a=rest, about=about)
        return
    yield from sources
    if user and not host.is_rootless:
        # the others may not be owned by it: where the privilege is the host's, that comes last
        yield Op("setns", r0="init", a=rest, about=about)
        yield Op("setns", r0="init", a=user, about="join the container's user namespace")
    else:
        yield Op("setns", r0="init", a=rest | user, about=about)
    if user:
        yield from namespaces.become_root_beside_init(request)


def _is_bind(mount: Mount) -> bool:
    return mount.options.is_bind and not mount.link


def _tree(mount: Mount) -> str:
    # a register each: all are held before the first is attached
    return f"mount-{mount.index}"


def _procfs() -> Op:
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    return Op("open", "/proc", r0="proc", a=flags, about="open the procfs of the host")


def _root() -> Op:
    # joining a mount namespace sets the root to what lies on top at its own
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    return Op("open", "/", r0="rootfs", a=flags, about="open the container's root")
