"""Mounts, in the order of the config: made detached, finished, then attached by descriptor at a place inside the root.

No path of the rootfs is resolved twice or outside the root: `mountpoint` opens or makes the place, `move-mount` attaches
to that descriptor (CVE-2021-30465, CVE-2024-45310, CVE-2025-31133 were all a path resolved once more).

    filesystem   fsopen, fsconfig..., fsmount -> mnt     mountpoint -> at     move-mount mnt -> at
                 mount -> mnt, where a word is longer than fsconfig(2) takes
    bind         open-tree clone -> tree                 mountpoint -> at     move-mount tree -> at
"""

from __future__ import annotations

from runtime import annotation, linux
from runtime import system as os
from runtime.errors import ConfigError, Unsupported
from runtime.ops import FLAG_NOFOLLOW, FLAG_RECURSIVE
from runtime.plan import Op
from runtime.planner import cgroup_mounts, idmap, namespaces, rootfs
from runtime.planner.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.plan import Plan
    from runtime.planner import Request

#: filesystems of which the host may have the same instance: it must not become read-only there, only our mount of it.
#: sysfs is none of them, an instance of it that is in use is left as it is
_SHARED = frozenset(
    ("proc", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs", "debugfs", "tracefs", "securityfs", "bpf",
     "pstore", "configfs", "efivarfs", "fusectl", "hugetlbfs", "binfmt_misc")
)  # fmt: skip

#: what may be mounted inside /proc: files that lxcfs and its like emulate. Anything else there could stand between
#: the runtime or an LSM and the real file (CVE-2019-16884)
_PROC_FILES = frozenset(
    ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
     "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled")
)  # fmt: skip

#: fsconfig(2) takes words and values of less than 256 bytes, mount(2) a page of them all together
_WORD_BYTES_MAX = 255
_PAGE_BYTES_MAX = 4095


class Mount:
    """One entry of `mounts`, read: where it goes, what kind it is, its options, and the words for its errors."""

    __slots__ = ("index", "where", "kind", "source", "place", "options", "about", "id_maps", "link")

    def __init__(self, index: int, entry: dict[str, Any], bundle: str, config: dict[str, Any]) -> None:
        self.index = index
        self.where = f"/mounts/{index}"
        self.kind: str = entry.get("type") or ""
        self.source: str = entry.get("source") or ""
        #: a relative destination is taken from the root, as runc does; `..` is resolved by name, before any link
        self.place = os.path.normpath("/" + entry["destination"].lstrip("/"))
        self.options = options = Options(entry.get("options") or ())
        #: what the source says as a link, where the link shall be copied and not followed
        self.link = ""
        if self.kind in ("bind", "rbind") and not options.is_bind:
            options.is_bind = True
            options.is_recursive = self.kind == "rbind"
        if options.is_bind:
            self.kind = "bind"
            self.source = os.path.join(bundle, self.source)
        self.id_maps = idmap.of_mount(entry, options.id_maps, config, self.where)
        options.is_idmapped = options.is_idmapped or self.id_maps is not None
        if options.is_bind:
            self.about = f"bind {self.source} to {self.place}"
        else:
            self.about = f"mount {self.kind} on {self.place}"
        if options.text:
            self.about += f" ({options.text})"


def read(request: Request) -> list[Mount]:
    """The mounts of the config, and the notify socket's after them."""
    if request.mounts is not None:
        return request.mounts
    entries = list(request.config.get("mounts") or ())
    if request.notify_dir:
        options = ["bind", "nosuid", "noexec", "nodev", "ro"]
        entries.append({"destination": "/run/notify", "type": "bind", "source": request.notify_dir, "options": options})
    found = [Mount(index, entry, request.bundle, request.config) for index, entry in enumerate(entries)]
    for mount in found:
        _check(mount)
        if mount.options.copies_link:
            # of the host, like the source itself: a plan may know it
            mount.link = request.host.link_target(mount.source)
    request.mounts = found
    return found


def _check(mount: Mount) -> None:
    options, where, place = mount.options, mount.where, mount.place
    if place == "/":
        raise ConfigError(f"{where}/destination", "a mount on / would hide the rootfs")
    if options.is_bind:
        options.refuse_data(where)
        if not mount.source and not options.is_remount:
            raise ConfigError(where, "a bind mount without a source")
    elif not mount.kind and not options.is_remount:
        raise ConfigError(where, "neither a type nor a bind mount", clause="config.md#posix-platform-mounts")
    if options.copies_link and (options.keeps_source or options.keeps_place):
        raise ConfigError(f"{where}/options", "copy-symlink goes with neither src-nofollow nor dest-nofollow")
    if (options.copies_link or options.keeps_source) and (not options.is_bind or options.is_remount):
        raise ConfigError(f"{where}/options", "copy-symlink and src-nofollow are for bind mounts alone")
    if options.copies_up and mount.kind != "tmpfs":
        raise ConfigError(where, "tmpcopyup is for tmpfs alone")
    if place == "/proc":
        if mount.kind != "proc" and not mount.source.startswith("/proc") and not options.is_remount:
            raise ConfigError(where, f'"{place}" cannot be mounted because it is not of type proc')
    elif place.startswith("/proc/") and place[6:] not in _PROC_FILES:
        raise ConfigError(where, f'"{place}" cannot be mounted because it is inside /proc')


# -- sections --------------------------------------------------------------------------------------------------------


def open_sources(request: Request, plan: Plan) -> Iterator[Op]:
    """Take the sources of binds now, where a user namespace will take away the right to reach them.

    They get their attributes now as well: inside the user namespace those of the host would be locked. The other case is
    a shared rootfs: a clone made before the host's mounts become slaves stays a peer of its original. In the first case it
    must not: root of the user namespace could mount on the host.
    """
    if not _takes_sources_early(request):
        return
    for mount in read(request):
        if mount.options.is_bind and not mount.options.is_remount and not mount.link:
            yield from open_source(mount, request, plan, f"src-{mount.index}")
            if not rootfs.is_shared(request):
                yield rootfs.cut_off(request, f"src-{mount.index}", mount.about, mount.where)


def mounts(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the mounts, each in its turn: a later one may lie on an earlier one."""
    has_sources = _takes_sources_early(request)
    for mount in read(request):
        options = mount.options
        if options.unsettable:
            plan.warnings.append(
                f"{mount.about}: {','.join(options.unsettable)} cannot be set on this kernel, ignoring"
            )
        if options.is_remount:
            yield from _remount(mount)
        elif mount.link:
            yield from copy_link(mount)
        elif options.is_bind:
            theirs = [*options.superblock, *(word for word, _ in options.data)]
            if theirs:
                plan.warnings.append(f"{mount.about}: {','.join(theirs)} is the source filesystem's, ignoring")
            tree = f"src-{mount.index}" if has_sources else "tree"
            if not has_sources:
                yield from open_source(mount, request, plan, tree)
            yield from attach(mount, tree)
            if has_sources:
                yield Op("close", r0=tree)
        elif mount.kind == "cgroup" or (mount.kind == "cgroup2" and cgroup_mounts.is_other(request)):
            yield from cgroup_mounts.cgroup_mount(mount, request)
        else:
            yield from filesystem(mount, request, plan, register(mount))
            yield from attach(mount, register(mount))


def finish(request: Request, plan: Plan) -> Iterator[Op]:
    """Make read-only what had to be written to first: mounts below a tmpfs, devices in /dev."""
    for mount in read(request):
        if is_read_only_late(mount):
            yield read_only(mount, register(mount))


def read_only(mount: Mount, tree: str) -> Op:
    """Make a mount read-only, its filesystem not."""
    about = f"make {mount.place} read-only"
    return Op("mount-setattr", r0=tree, a=linux.MOUNT_ATTR_RDONLY, about=about, where=mount.where)


def register(mount: Mount) -> str:
    """The register that holds a mount which is needed again: read-only in the end, or the terminals' filesystem."""
    if is_held_devpts(mount):
        return "pts"
    return f"mnt-{mount.index}" if is_read_only_late(mount) else "mnt"


def is_held_devpts(mount: Mount) -> bool:
    """Whether this is the filesystem on which the container's terminals are opened."""
    return mount.kind == "devpts" and mount.place == "/dev/pts" and not mount.options.is_remount


def is_read_only_late(mount: Mount) -> bool:
    """Whether the mount has to be written to before it becomes read-only."""
    options = mount.options
    if options.is_bind or options.is_remount or not _of_new(options) & linux.MOUNT_ATTR_RDONLY:
        return False
    return mount.kind == "tmpfs" or (mount.place == "/dev" and mount.kind != "cgroup")


def _of_new(options: Options) -> int:
    """The attributes of a new filesystem: nothing is below it yet, so what is asked for recursively is its own."""
    return options.attr_set & ~options.rattr_clear | options.rattr_set


def _takes_sources_early(request: Request) -> bool:
    return namespaces.leaves_privilege(request) or rootfs.is_shared(request)


# -- binds -----------------------------------------------------------------------------------------------------------


def open_source(mount: Mount, request: Request, plan: Plan, tree: str) -> Iterator[Op]:
    """Take the source of a bind as a tree of its own, with the attributes that are asked for."""
    options, about, where = mount.options, mount.about, mount.where
    clone = linux.OPEN_TREE_CLONE | (linux.AT_RECURSIVE if options.is_recursive else 0)
    if options.keeps_source:
        clone |= linux.AT_SYMLINK_NOFOLLOW
    yield Op("open-tree", mount.source, r0=tree, a=clone, about=about, where=where)
    yield from _attributes(mount, tree)
    yield from idmap.idmap(mount, request, plan, tree)


def _attributes(mount: Mount, tree: str) -> Iterator[Op]:
    # what is not named stays as it is at the source: nosuid of the host's mount is not undone by asking for "ro"
    options, about, where = mount.options, mount.about, mount.where
    if options.attr_set or options.attr_clear:
        yield Op("mount-setattr", r0=tree, a=options.attr_set, b=options.attr_clear, about=about, where=where)
    if options.rattr_set or options.rattr_clear:
        yield _recursively(mount, tree)


def _recursively(mount: Mount, tree: str) -> Op:
    options = mount.options
    return Op(
        "mount-setattr",
        r0=tree,
        a=options.rattr_set,
        b=options.rattr_clear,
        flags=FLAG_RECURSIVE,
        about=mount.about,
        where=mount.where,
    )


def attach(mount: Mount, tree: str) -> Iterator[Op]:
    """Attach a finished tree at its place inside the root, then set its propagation."""
    about, where, root = mount.about, mount.where, "rootfs"
    # proc and sysfs: a link in their place would let an image choose where they appear (CVE-2019-19921)
    flags = FLAG_NOFOLLOW if mount.kind in ("proc", "sysfs") else 0
    if mount.options.keeps_place:
        yield Op("mountpoint", mount.place, r0="at", r1=root, r2=tree, a=1, about=about, where=where)
    elif mount.kind == "tmpfs" and not any(word.startswith("mode=") for word, _ in mount.options.data):
        # a tmpfs takes after the directory that it covers, as with runc; where there is none, it is everybody's like /tmp
        parent = mount.place.rpartition("/")[0]
        if parent:
            yield Op("mkdirs", parent, r1=root, a=0o755, about=about, where=where)
        yield Op("mkdirs", mount.place, r0="at", r1=root, a=0o1777, about=about, where=where)
        yield Op("copy-up", r0=tree, r1="at", a=1, about=about, where=where)
    else:
        yield Op("mountpoint", mount.place, r0="at", r1=root, r2=tree, flags=flags, about=about, where=where)
    if mount.options.copies_up:
        yield Op("copy-up", r0=tree, r1="at", about=f"copy {mount.place} into its tmpfs", where=where)
    yield Op("move-mount", r0=tree, r1="at", about=about, where=where)
    # after the move: a shared or unbindable tree may not be moved everywhere
    for kind, is_recursive in mount.options.propagation:
        flags = FLAG_RECURSIVE if is_recursive else 0
        yield Op("mount-setattr", r0=tree, c=kind, flags=flags, about=about, where=where)


def copy_link(mount: Mount) -> Iterator[Op]:
    """Make a link like the source's in place of a mount; one that is there must say the same."""
    about = f"copy the link {mount.source} to {mount.place}"
    parent = mount.place.rpartition("/")[0]
    if parent:
        yield Op("mkdirs", parent, r1="rootfs", a=0o755, about=about, where=mount.where)
    yield Op("symlink", mount.link, mount.place, r1="rootfs", a=1, about=about, where=mount.where)


# -- filesystems -----------------------------------------------------------------------------------------------------


def filesystem(mount: Mount, request: Request, plan: Plan, mnt: str) -> Iterator[Op]:
    """Make a filesystem, mounted nowhere yet."""
    about, where = mount.about, mount.where
    attributes = _of_new(mount.options)
    if is_read_only_late(mount):
        attributes &= ~linux.MOUNT_ATTR_RDONLY
    label = _label(mount, request)
    if _is_whole(mount, label):
        data = ",".join((*(f'{key}="{value}"' for key, value in label), *(word for word, _ in mount.options.data)))
        flags = sum(linux.SUPERBLOCK[word] for word in _flags(mount))
        yield Op("mount", mount.kind, mount.source, data, r0=mnt, a=flags, about=about, where=where)
        if attributes:
            clear = linux.MOUNT_ATTR__ATIME if attributes & linux.MOUNT_ATTR__ATIME else 0
            yield Op("mount-setattr", r0=mnt, a=attributes, b=clear, about=about, where=where)
    else:
        yield Op("fsopen", mount.kind, r0="fs", about=about, where=where)
        source = [("source", mount.source)] if mount.source else []
        for key, value in (*source, *((word, None) for word in _flags(mount)), *label, *_data(mount)):
            command = linux.FSCONFIG_SET_FLAG if value is None else linux.FSCONFIG_SET_STRING
            yield Op("fsconfig", key, value or "", r0="fs", a=command, about=about, where=where)
        yield Op("fsmount", r0="fs", r1=mnt, a=attributes, about=about, where=where)
    yield from idmap.idmap(mount, request, plan, mnt)


def _is_whole(mount: Mount, label: list[tuple[str, str]]) -> bool:
    """Whether it takes mount(2), which is given everything at once, because a word is longer than fsconfig(2) takes."""
    if not _has_long_words(mount):
        return False
    source = len(os.fsencode(mount.source))
    data = sum(len(os.fsencode(word)) + 1 for word, _ in mount.options.data) + sum(
        len(value) + 20 for _, value in label
    )
    if max(source, data) <= _PAGE_BYTES_MAX:
        return True
    # many layers are added one by one, with overlayfs of Linux 6.8 and later
    parts = [mount.source, *(part for pair in _data(mount) for part in pair if part)]
    if max(len(os.fsencode(part)) for part in parts) <= _WORD_BYTES_MAX:
        return False
    what = "/source" if source > _PAGE_BYTES_MAX else "/options"
    raise ConfigError(mount.where + what, f"more than {_PAGE_BYTES_MAX} bytes, which no mount has room for")


def _has_long_words(mount: Mount) -> bool:
    options = mount.options
    # hardly ever: a character has four bytes at most
    if 4 * max(len(mount.source), len(options.text)) <= _WORD_BYTES_MAX:
        return False
    words = (mount.source, *(part for word, _ in options.data for part in word.partition("=")))
    return any(len(os.fsencode(word)) > _WORD_BYTES_MAX for word in words)


def _flags(mount: Mount) -> list[str]:
    """What is asked of the filesystem as a whole, in the words of fsconfig(2)."""
    found = [flag for flag, is_set in mount.options.superblock.items() if is_set]
    if mount.kind not in _SHARED and mount.options.attr_set & linux.MOUNT_ATTR_RDONLY:
        # a disk is to be opened read-only, and sysfs must not become writable by a remount, or another mount of it
        found.append("ro")
    return found


def _label(mount: Mount, request: Request) -> list[tuple[str, str]]:
    label = (request.config.get("linux") or {}).get("mountLabel")
    if not label or mount.kind in ("proc", "sysfs"):
        return []
    if not request.host.has_selinux:
        raise Unsupported("linux.mountLabel: selinux is disabled or not supported on this host")
    return [(annotation.mount_context(request.config), label)]


def _data(mount: Mount) -> Iterator[tuple[str, str | None]]:
    """What only the filesystem can know, as fsconfig(2) is given it: None for a word without a value."""
    for word, _ in mount.options.data:
        key, equals, value = word.partition("=")
        values: list[str | None] = [value if equals else None]
        if key == "lowerdir" and len(os.fsencode(value)) > _WORD_BYTES_MAX:
            key, values = "lowerdir+", [*value.split(":")]
        for part in values:
            yield key, part


def _remount(mount: Mount) -> Iterator[Op]:
    # the place is opened inside the root first: fspick and mount_setattr by path could be led out of it by a link
    options, where = mount.options, mount.where
    about = f"remount {mount.place} ({options.text})"
    flags = linux.O_PATH | linux.O_CLOEXEC
    resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    yield Op("open", mount.place, r0="at", r1="rootfs", a=flags, b=resolve, about=about, where=where)
    if not options.is_bind and (options.data or options.superblock):
        if _has_long_words(mount):
            raise ConfigError(where + "/options", f"more than {_WORD_BYTES_MAX} bytes, which fsconfig(2) does not take")
        yield Op("fspick", r0="fs", r1="at", about=about, where=where)
        for flag, is_set in options.superblock.items():
            word = flag if is_set else {"sync": "async"}.get(flag, f"no{flag}")
            yield Op("fsconfig", word, r0="fs", a=linux.FSCONFIG_SET_FLAG, about=about, where=where)
        for word, _ in options.data:
            key, equals, value = word.partition("=")
            command = linux.FSCONFIG_SET_STRING if equals else linux.FSCONFIG_SET_FLAG
            yield Op("fsconfig", key, value, r0="fs", a=command, about=about, where=where)
        yield Op("fsconfig", r0="fs", a=linux.FSCONFIG_CMD_RECONFIGURE, about=about, where=where)
    if options.attr_set or options.attr_clear:
        yield Op("mount-setattr", r0="at", a=options.attr_set, b=options.attr_clear, about=about, where=where)
    if options.rattr_set or options.rattr_clear:
        yield _recursively(mount, "at")
    for kind, is_recursive in options.propagation:
        yield Op(
            "mount-setattr", r0="at", c=kind, flags=FLAG_RECURSIVE if is_recursive else 0, about=about, where=where
        )
