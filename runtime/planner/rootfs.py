"""The root filesystem: propagation, the rootfs as a mount of its own behind the register "rootfs", and becoming the root.

The one path of the rootfs is resolved once, on the host; from then on it is a descriptor. Nothing may be mounted or made
below it by name.
"""

from __future__ import annotations

from runtime import linux
from runtime.errors import ConfigError
from runtime.ops import FLAG_RECURSIVE
from runtime.plan import Op
from runtime.planner import namespaces, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request


def propagation(request: Request) -> tuple[int, bool]:
    """(type, recursive) of linux.rootfsPropagation, (0, False) where it is not given."""
    word = (request.config.get("linux") or {}).get("rootfsPropagation") or ""
    if not word:
        return 0, False
    if word not in linux.PROPAGATION:
        raise ConfigError("/linux/rootfsPropagation", f'no mount propagation is called "{word}"')
    return linux.PROPAGATION[word]


def is_shared(request: Request) -> bool:
    """Whether mounts of the container shall reach the host: then bind sources are taken before the host's become slaves."""
    return propagation(request)[0] == linux.MS_SHARED


def rootfs(request: Request, plan: Plan) -> Iterator[Op]:
    """Cut our copy of the host's mounts off from the host, then make the rootfs a mount that can become the root."""
    kind, _ = propagation(request)
    if has_mount_ns(request):
        yield cut_off(request)
    yield from paths.null_device(request, plan)
    about = f"open rootfs {request.rootfs}"
    where = "/root/path"
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    yield Op("open", request.rootfs, r0="at", a=flags, about=about, where=where)
    tree = linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE
    yield Op("open-tree", r0="rootfs", r1="at", a=tree, about=about, where=where)
    if (kind and kind != linux.MS_SLAVE) or not has_mount_ns(request):
        # a slave of the host made shared would still receive; it is to have peers of its own only
        yield Op("mount-setattr", r0="rootfs", c=linux.MS_PRIVATE, about=about, where=where)
    if has_mount_ns(request):
        # in its own place, so that hooks find the container's mounts below root.path
        yield Op("move-mount", r0="rootfs", r1="at", about=f"mount rootfs {request.rootfs}", where=where)
    # Without a mount namespace the clone stays attached to nothing: the container's mounts are made in a tree that nobody on
    # the host can see, and that ends with its last process. runc makes them on the host, where they stay. Linux 6.15.
    yield Op("close", r0="at")


def has_mount_ns(request: Request) -> bool:
    """Whether the container's mounts are in a namespace of its own; where not, in a tree without one."""
    return bool(namespaces.get(request).flags & linux.CLONE_NEWNS)


def cut_off(
    request: Request,
    tree: str = "",
    about: str = "cut mounts off from the host",
    where: str = "/linux/rootfsPropagation",
) -> Op:
    """Have nothing that is mounted below leave for the host: of a tree that was taken from there, or of all mounts."""
    # Slaves, unless the config says private: what the host mounts later still arrives, what we mount never leaves.
    # Also with "shared": the new root is made shared at the end, and the parent of a new root must not be, pivot_root(2).
    kind, _ = propagation(request)
    is_private = kind in (linux.MS_PRIVATE, linux.MS_UNBINDABLE)
    return Op(
        "mount-setattr",
        "" if tree else "/",
        r0=tree,
        c=linux.MS_PRIVATE if is_private else linux.MS_SLAVE,
        flags=FLAG_RECURSIVE,
        about=about,
        where=where,
    )


def pivot(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the rootfs the root. No path of the host means anything after this."""
    if (request.config.get("root") or {}).get("readonly"):
        yield Op(
            "mount-setattr",
            r0="rootfs",
            a=linux.MOUNT_ATTR_RDONLY,
            about="make the rootfs read-only",
            where="/root/readonly",
        )
    if not has_mount_ns(request):
        # the host's root stays where it is
        yield Op("chroot", r0="rootfs", a=1, about="change the root to the rootfs", where="/root/path")
    elif request.no_pivot:
        yield Op("chroot", r0="rootfs", about="move the rootfs over the root", where="/root/path")
    else:
        yield Op("pivot-root", r0="rootfs", about="pivot to the rootfs", where="/root/path")
    kind, is_recursive = propagation(request)
    if kind and kind != linux.MS_PRIVATE:
        # only now: it is a property of the new root, and before the pivot it would have been the host's business
        yield Op(
            "mount-setattr",
            r0="rootfs",
            c=kind,
            flags=FLAG_RECURSIVE if is_recursive else 0,
            about="set the propagation of the rootfs",
            where="/linux/rootfsPropagation",
        )
