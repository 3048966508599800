"""Devices: the default ones, those of `linux.devices`, and the links that programs expect in /dev.

Made below the "rootfs" register, whose `dev` an image may have made anything (CVE-2026-47766, CVE-2026-41579: a link).
Where a node cannot be made, in a user namespace, the host's is bound instead.
"""

from __future__ import annotations

from runtime import linux
from runtime import system as os
from runtime.errors import ConfigError
from runtime.ops import FLAG_EXISTS
from runtime.plan import Op
from runtime.planner import mounts, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.plan import Plan
    from runtime.planner import Request

#: config-linux.md#default-devices; /dev/console and /dev/ptmx come with a terminal and with devpts
_DEFAULT: tuple[tuple[str, int, int], ...] = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)

_KINDS = {"c": linux.S_IFCHR, "u": linux.S_IFCHR, "b": linux.S_IFBLK, "p": linux.S_IFIFO}

#: config-linux.md#default-devices, runtime-linux.md#dev-symbolic-links
_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)


def devices(request: Request, plan: Plan) -> Iterator[Op]:
    """Make device nodes and links. A /dev bound from elsewhere is somebody's own: nothing is made in it."""
    if any(mount.place == "/dev" and mount.options.is_bind for mount in mounts.read(request)):
        return
    made = (request.config.get("linux") or {}).get("devices") or ()
    own = {os.path.normpath(device["path"]) for device in made}
    is_bound = namespaces.get(request).has_user or request.host.in_user_ns
    for path, major, minor in _DEFAULT:
        if path in own:
            continue
        about = f"make device {path}"
        if is_bound:
            yield from _bind(path, about)
        else:
            yield Op(
                "mknod",
                path,
                r1="rootfs",
                a=linux.S_IFCHR | 0o666,
                b=linux.makedev(major, minor),
                flags=FLAG_EXISTS,
                about=about,
            )
    for index, device in enumerate(made):
        yield from _device(device, f"/linux/devices/{index}", is_bound)
    for place, target in _LINKS:
        yield Op("symlink", target, place, r1="rootfs", flags=FLAG_EXISTS, about=f"link {place} to {target}")
    if request.host.is_there("/proc/kcore"):
        yield Op(
            "symlink", "/proc/kcore", "/dev/core", r1="rootfs", flags=FLAG_EXISTS, about="link /dev/core to /proc/kcore"
        )
    yield Op("symlink", "pts/ptmx", "/dev/ptmx", r1="rootfs", flags=FLAG_EXISTS, about="link /dev/ptmx to pts/ptmx")


def _device(device: dict[str, Any], where: str, is_bound: bool) -> Iterator[Op]:
    path = os.path.normpath("/" + device["path"].lstrip("/"))
    about = f"make device {path}"
    kind = _KINDS.get(device["type"])
    if kind is None:
        raise ConfigError(f"{where}/type", f'no type of device is called "{device["type"]}"')
    number = 0
    if kind != linux.S_IFIFO:
        if "major" not in device or "minor" not in device:
            raise ConfigError(where, "major and minor are required", clause="config-linux.md#devices")
        number = linux.makedev(device["major"], device["minor"])
        if is_bound:
            yield from _bind(path, about, where, kind, number)
            return
    mode = device.get("fileMode")
    yield Op(
        "mknod",
        path,
        r1="rootfs",
        a=kind | (0o666 if mode is None else mode & 0o7777),
        b=number,
        c=(device.get("uid") or 0) | (device.get("gid") or 0) << 32,
        flags=FLAG_EXISTS,
        about=about,
        where=where,
    )


def _bind(path: str, about: str, where: str = "", kind: int = 0, number: int = 0) -> Iterator[Op]:
    about += " (bound from the host)"
    yield Op("open-tree", path, r0="tree", a=linux.OPEN_TREE_CLONE, about=about, where=where)
    if kind:
        # the path is the container's: what the host has there may be another device, or a file
        yield Op("check-device", r0="tree", a=kind, b=number, about=about, where=where)
    yield Op("mountpoint", path, r0="at", r1="rootfs", r2="tree", about=about, where=where)
    yield Op("move-mount", r0="tree", r1="at", about=about, where=where)
