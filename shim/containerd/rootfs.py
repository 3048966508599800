"""A container's rootfs, where containerd leaves mounting it to the shim: the mounts of a create request, and their end.

Overlays, binds and tmpfs are mounted here, by one system call that cannot wait for anybody. Anything else (block devices, network
and fuse file systems) may: it is given to mount(8), which knows their helpers.
"""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, ENOENT

from runtime import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _SYNCHRONOUS, _REMOUNT, _MANDLOCK, _DIRSYNC = 1, 2, 4, 8, 16, 32, 64, 128
_NOATIME, _NODIRATIME, _BIND, _REC, _SILENT = 1 << 10, 1 << 11, 1 << 12, 1 << 14, 1 << 15
_UNBINDABLE, _PRIVATE, _SLAVE, _SHARED, _RELATIME, _STRICTATIME = 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 24
#: flags of umount2(2)
_DETACH, _NOFOLLOW = 2, 8

#: option -> flag that it sets; `no` before a name that is not here clears it (fstab(5))
_FLAGS = {
    "ro": _RDONLY,
    "nosuid": _NOSUID,
    "nodev": _NODEV,
    "noexec": _NOEXEC,
    "sync": _SYNCHRONOUS,
    "remount": _REMOUNT,
    "mand": _MANDLOCK,
    "dirsync": _DIRSYNC,
    "noatime": _NOATIME,
    "nodiratime": _NODIRATIME,
    "bind": _BIND,
    "rbind": _BIND | _REC,
    "relatime": _RELATIME,
    "strictatime": _STRICTATIME,
    "unbindable": _UNBINDABLE,
    "runbindable": _UNBINDABLE | _REC,
    "private": _PRIVATE,
    "rprivate": _PRIVATE | _REC,
    "slave": _SLAVE,
    "rslave": _SLAVE | _REC,
    "shared": _SHARED,
    "rshared": _SHARED | _REC,
    "defaults": 0,
}
_CLEARED = {
    "rw": _RDONLY,
    "suid": _NOSUID,
    "dev": _NODEV,
    "exec": _NOEXEC,
    "async": _SYNCHRONOUS,
    "nomand": _MANDLOCK,
    "atime": _NOATIME,
    "diratime": _NODIRATIME,
    "norelatime": _RELATIME,
    "nostrictatime": _STRICTATIME,
}
_PROPAGATION = _SHARED | _PRIVATE | _SLAVE | _UNBINDABLE
_IMMEDIATE = ("overlay", "bind", "rbind", "tmpfs", "")
#: what the kernel takes as options of one mount, less what it may add
_DATA_BYTES = os.sysconf("SC_PAGE_SIZE") - 512


async def mount(mounts: list[dict[str, Any]], target: str, program: Callable[[list[str]], Awaitable[None]]) -> None:
    """Mount what containerd sends onto `target`; program(argv) runs mount(8). Undone by the caller where it fails."""
    for one in mounts:
        if one["target"]:
            raise OSError(EINVAL, f"a mount below the rootfs, at {one['target']}, is not supported by this shim")
        kind = one["type"].removeprefix("format/")
        if kind in _IMMEDIATE:
            _mount_now(one["source"], target, kind, one["options"])
        else:
            options = ["-o", ",".join(one["options"])] if one["options"] else []
            await program(["mount", "-n", "-t", kind, *options, "--", one["source"], target])


def _mount_now(source: str, target: str, kind: str, options: list[str]) -> None:
    flags, data = parse(options)
    start = ""
    if len(",".join(data).encode()) >= _DATA_BYTES:
        start, data = shorten(data)
    text = ",".join(data)
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if start else -1
    try:
        if start:
            os.chdir(start)
        kernel.mount(source, target, kind, flags & ~_PROPAGATION & ~(_REC if not flags & _BIND else 0), text)
    except OSError as error:
        raise OSError(error.errno, f"mount {kind or source} on {target}: {(error.strerror or '').lower()}") from None
    finally:
        if before >= 0:
            os.fchdir(before)
            os.close(before)
    if flags & _PROPAGATION:
        # a call of its own: the kernel refuses it together with anything else
        kernel.mount("", target, "", flags & (_PROPAGATION | _REC), "")
    if flags & (_BIND | _RDONLY) == _BIND | _RDONLY:
        # a bind has the flags of what is bound until it is mounted again
        kernel.mount("", target, "", flags & ~_PROPAGATION & ~_REC | _REMOUNT, "")


def parse(options: list[str]) -> tuple[int, list[str]]:
    """Flags of mount(2), and what is left for the file system."""
    flags = 0
    data = []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option in _CLEARED:
            flags &= ~_CLEARED[option]
        else:
            data.append(option)
    return flags, data


def shorten(data: list[str]) -> tuple[str, list[str]]:
    """(directory, options) of an overlay with very many layers: their paths relative to the directory that all are in."""
    out = []
    start = ""
    for option in data:
        name, _, value = option.partition("=")
        layers = value.split(":")
        if name == "lowerdir" and len(layers) > 1:
            start = os.path.commonpath(layers)
            option = "lowerdir=" + ":".join(os.path.relpath(layer, start) for layer in layers)
        out.append(option)
    return start, out


async def unmount(target: str, pause: Callable[[float], Awaitable[None]]) -> None:
    """Undo every mount on `target` and below; fine where there is none. Busy ones are given a second, then detached."""
    for attempt in range(21):
        try:
            while True:
                kernel.unmount(target, _NOFOLLOW | (_DETACH if attempt == 20 else 0))
        except OSError as error:
            if error.errno in (EINVAL, ENOENT):
                return  # no mount any more, or no directory
            if error.errno != EBUSY:
                raise
        if attempt == 0:
            _unmount_below(target)
        await pause(0.05)


def _unmount_below(target: str) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        points = [line.split(" ", 5)[4] for line in lines]
    for point in reversed(points):
        if point.startswith(target + "/"):
            try:
                kernel.unmount(point, _NOFOLLOW)
            except OSError:
                pass  # in use, or its name is written differently: the next attempt at the whole says so
