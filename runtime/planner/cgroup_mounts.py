"""Mounts of type `cgroup`: what a container sees of its cgroups, in each of the three worlds that hosts live in.

    v2                     the unified hierarchy; in a cgroup namespace its root is the container's own cgroup
    v2, no cgroup          in a cgroup namespace nothing, read-only: its root would be the cgroup of a user who has none to give
    v1, cgroup namespace   a tmpfs, and each hierarchy mounted below it
    v1                     a tmpfs, and of each hierarchy the container's own cgroup bound below it
    hybrid                 as v1, and the unified hierarchy at `unified`

Hierarchies with several controllers (`cpu,cpuacct`) get a link for each name, which is where programs look.
"""

from __future__ import annotations

from runtime import linux
from runtime import system as os
from runtime.ops import FLAG_EXISTS, FLAG_RECURSIVE
from runtime.plan import Op
from runtime.planner import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.planner import Request
    from runtime.planner.mounts import Mount

#: what a mount of cgroups never needs
_ATTRIBUTES = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC


def cgroup_mount(mount: Mount, request: Request) -> Iterator[Op]:
    """The ops for a mount of type `cgroup`, or for one of type `cgroup2` where `is_other`."""
    if mount.kind == "cgroup2" or request.host.cgroup_mode == "v2":
        yield from _unified(mount, request)
    else:
        yield from _hierarchies(mount, request)


def is_other(request: Request) -> bool:
    """Whether a container sees no mount of its own of the unified hierarchy."""
    return is_bound(request) or _is_covered(request)


def is_bound(request: Request) -> bool:
    """Whether the unified hierarchy that a container sees is a bind of the host's mount, and no mount of its own."""
    return bool(request.host.cgroup_unified) and not _has_cgroup_ns(request)


def _is_covered(request: Request) -> bool:
    """Whether the container shares the cgroup of a user who may make none: its files tell of the user's other processes."""
    is_alone = request.host.cgroup_mode == "v2" and _has_cgroup_ns(request)
    return is_alone and request.host.is_rootless and not request.cgroup_paths


def _unified(mount: Mount, request: Request) -> Iterator[Op]:
    about, where, options = mount.about, mount.where, mount.options
    top = request.host.cgroup_unified
    if _is_covered(request):
        yield Op("fsopen", "tmpfs", r0="fs", about=about, where=where)
        yield Op("fsconfig", "source", "tmpfs", r0="fs", a=linux.FSCONFIG_SET_STRING, about=about, where=where)
        yield Op("fsconfig", "mode", "755", r0="fs", a=linux.FSCONFIG_SET_STRING, about=about, where=where)
        attributes = _ATTRIBUTES | linux.MOUNT_ATTR_RDONLY
        yield Op("fsmount", r0="fs", r1="mnt", a=attributes, about=about, where=where)
    elif not is_bound(request):
        yield Op("fsopen", "cgroup2", r0="fs", about=about, where=where)
        if mount.source:
            yield Op("fsconfig", "source", mount.source, r0="fs", a=linux.FSCONFIG_SET_STRING, about=about, where=where)
        yield Op("fsmount", r0="fs", r1="mnt", a=options.attr_set, about=about, where=where)
    else:
        # In the host's cgroup namespace a user namespace may not mount the hierarchy, and where root does, the options of
        # that mount become those of the host's: it would lose nsdelegate and memory_recursiveprot (apply_cgroup_root_flags)
        source = top if _can_mount(request) else request.cgroup_paths.get("") or top
        clone = linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE
        yield Op("open-tree", source, r0="mnt", a=clone, about=about, where=where)
        if options.attr_set or options.attr_clear:
            yield Op("mount-setattr", r0="mnt", a=options.attr_set, b=options.attr_clear, about=about, where=where)
    yield from _attach(mount, "mnt")


def _hierarchies(mount: Mount, request: Request) -> Iterator[Op]:
    about, where, host = mount.about, mount.where, request.host
    yield Op("fsopen", "tmpfs", r0="fs", about=about, where=where)
    yield Op("fsconfig", "source", "tmpfs", r0="fs", a=linux.FSCONFIG_SET_STRING, about=about, where=where)
    yield Op("fsconfig", "mode", "755", r0="fs", a=linux.FSCONFIG_SET_STRING, about=about, where=where)
    yield Op("fsmount", r0="fs", r1="cgroups", a=_ATTRIBUTES, about=about, where=where)
    yield from _attach(mount, "cgroups")
    points: dict[str, list[str]] = {}
    for controller, point in host.cgroup_mounts.items():
        points.setdefault(point, []).append(controller)
    if host.cgroup_unified:
        points.setdefault(host.cgroup_unified, []).append("")
    is_read_only = mount.options.attr_set & linux.MOUNT_ATTR_RDONLY
    for point, controllers in points.items():
        name = "unified" if controllers == [""] else os.path.basename(point)
        yield from _hierarchy(mount, request, name, point, controllers)
        for controller in controllers:
            if controller and "=" not in controller and controller != name:
                link = f"/{controller}"
                yield Op("symlink", name, link, r1="cgroups", flags=FLAG_EXISTS, about=about, where=where)
    if is_read_only:
        yield Op("mount-setattr", r0="cgroups", a=linux.MOUNT_ATTR_RDONLY, about=about, where=where)


def _hierarchy(mount: Mount, request: Request, name: str, point: str, controllers: list[str]) -> Iterator[Op]:
    about = f"{mount.about}: {name}"
    where = mount.where
    is_read_only = mount.options.attr_set & linux.MOUNT_ATTR_RDONLY
    if _has_cgroup_ns(request) and _can_mount(request):
        is_unified = controllers == [""]
        yield Op("fsopen", "cgroup2" if is_unified else "cgroup", r0="fs", about=about, where=where)
        source = "systemd" if controllers == ["name=systemd"] else "cgroup"
        yield Op("fsconfig", "source", source, r0="fs", a=linux.FSCONFIG_SET_STRING, about=about, where=where)
        for controller in controllers:
            key, _, value = controller.partition("=")
            if key:
                command = linux.FSCONFIG_SET_STRING if value else linux.FSCONFIG_SET_FLAG
                yield Op("fsconfig", key, value, r0="fs", a=command, about=about, where=where)
        yield Op("fsmount", r0="fs", r1="tree", a=_ATTRIBUTES | is_read_only, about=about, where=where)
    else:
        yield Op(
            "open-tree",
            _own_cgroup(request, point, controllers[0]),
            r0="tree",
            a=linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE,
            about=about,
            where=where,
        )
        yield Op("mount-setattr", r0="tree", a=_ATTRIBUTES | is_read_only, about=about, where=where)
    yield Op("mountpoint", f"/{name}", r0="at", r1="cgroups", r2="tree", about=about, where=where)
    yield Op("move-mount", r0="tree", r1="at", about=about, where=where)


def _own_cgroup(request: Request, point: str, controller: str) -> str:
    """Where on the host the container's cgroup of a hierarchy is; the runtime's own where it has none there."""
    path = request.cgroup_paths.get(controller)
    if path:
        return path
    own = request.host.own_cgroups.get(controller, "/")
    return point + own if own != "/" else point


def _has_cgroup_ns(request: Request) -> bool:
    return bool(namespaces.get(request).flags & linux.CLONE_NEWCGROUP)


def _can_mount(request: Request) -> bool:
    # cgroups(7): a mount wants privilege in the user namespace that owns our cgroup namespace
    is_privileged = not namespaces.get(request).has_user and not request.host.is_rootless
    return is_privileged or _has_cgroup_ns(request)


def _attach(mount: Mount, tree: str) -> Iterator[Op]:
    about, where = mount.about, mount.where
    yield Op("mountpoint", mount.place, r0="at", r1="rootfs", r2=tree, about=about, where=where)
    yield Op("move-mount", r0=tree, r1="at", about=about, where=where)
    for kind, is_recursive in mount.options.propagation:
        flags = FLAG_RECURSIVE if is_recursive else 0
        yield Op("mount-setattr", r0=tree, c=kind, flags=flags, about=about, where=where)
