"""Programs of a bundle that are missing in its root file system, or cannot run there.

What is in a root file system is hostile: everything is opened inside of it by openat2(2) with RESOLVE_IN_ROOT, nothing but
regular files is read, and of them the beginning. That an engine will mount something else there is nobody's fault.
"""

from __future__ import annotations

import ctypes
import os
import struct

from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.host import Host

_OPENAT2, _RESOLVE_IN_ROOT, _RESOLVE_NO_MAGICLINKS = 437, 0x10, 0x02
_HEAD_BYTES = 4096
#: e_machine of elf(5) -> uname's word
_MACHINES = {
    3: "i386",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    22: "s390x",
    21: "ppc64le",
    258: "loongarch64",
}
#: what a kernel for one machine runs besides
_ALSO = {"x86_64": {"i386"}, "aarch64": {"arm"}}
_PT_INTERP = 3


class Root:
    """A root file system held open, in which paths are looked up and not beside it."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def close(self) -> None:
        os.close(self.fd)

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        """A descriptor of what is at `path` inside; OSError where there is nothing."""
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.syscall(_OPENAT2, self.fd, os.fsencode(path), how, len(how)))
        if fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return fd

    def program(self, path: str) -> bytes:
        """The beginning of a program; OSError with the errno that execve(2) would give."""
        fd = self.open(path)
        try:
            mode = os.fstat(fd).st_mode
        finally:
            os.close(fd)
        if mode & 0o170000 != 0o100000 or not mode & 0o111:
            raise OSError(13, "not a program that may be executed", path)
        try:
            fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except PermissionError:
            return b""  # executable for those who may not read it
        try:
            return os.read(fd, _HEAD_BYTES)
        finally:
            os.close(fd)


def check(host: Host, bundle: str, config: dict[str, Any]) -> Iterator[Finding]:
    """The container's program, what it is started by, and the hooks that run inside."""
    path = os.path.normpath(os.path.join(bundle, config["root"]["path"]))
    if not os.listdir(path):
        yield Finding(NOTE, "bundle.rootfs", path, "empty: an engine mounts the image there before create")
        return
    root = Root(path)
    try:
        process = config.get("process") or {}
        if process.get("args"):
            yield _program(host, root, process["args"][0], process)
        for index, hook in enumerate((config.get("hooks") or {}).get("startContainer") or ()):
            why = runs(host, root, hook["path"])
            if why:
                yield Finding(
                    ERROR,
                    "bundle.hook",
                    f"/hooks/startContainer/{index}/path",
                    why,
                    "it runs inside: install it in the root file system",
                )
        cwd = process.get("cwd")
        if cwd:
            yield from _cwd(root, cwd)
    finally:
        root.close()


def _program(host: Host, root: Root, name: str, process: dict[str, Any]) -> Finding:
    if "/" in name:
        why = runs(host, root, os.path.join(process.get("cwd") or "/", name))
        found = name
    else:
        paths = next((word[5:] for word in reversed(process.get("env") or ()) if word.startswith("PATH=")), "")
        tried = [os.path.join(folder, name) for folder in paths.split(":") if folder.startswith("/")]
        reasons = {path: runs(host, root, path) for path in tried}
        found = next((path for path, why in reasons.items() if not why), "")
        there = next((why for why in reasons.values() if why and "is not there" not in why), "")
        why = (
            "" if found else there or f'"{name}" is in none of the directories of PATH ({paths or "which is not set"})'
        )
    if not why:
        return Finding(OK, "bundle.program", "/process/args/0", f"{found} is there")
    return Finding(
        ERROR, "bundle.program", "/process/args/0", why, "install it in the root file system, or correct process.args"
    )


def runs(host: Host, root: Root, path: str) -> str:
    """Why a program would not run; "" where nothing speaks against it."""
    try:
        head = root.program(path)
    except OSError as error:
        return f"{path}{' is not there' if error.errno in (2, 20) else f': {error.strerror}'}"
    if head[:2] == b"#!":
        words = head[2:].partition(b"\n")[0].split()
        return (
            _loader(root, os.fsdecode(words[0]), f"{path} is a script for")
            if words
            else f"{path}: its first line names no interpreter"
        )
    if head[:4] != b"\x7fELF":
        return f"{path} is neither a program of Linux nor a script with #!" if head else ""
    machine = _MACHINES.get(_number(head, 18, 2), "another machine")
    if machine != host.machine and machine not in _ALSO.get(host.machine, ()):
        return f"{path} is for {machine}, and this is {host.machine}: the image is for another platform"
    loader = _interpreter(head)
    return _loader(root, loader, f"{path} needs the dynamic loader") if loader else ""


def _loader(root: Root, path: str, why: str) -> str:
    try:
        root.program(path)
    except OSError:
        return f"{why} {path}, which is not in the root file system"
    return ""


def _number(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "little" if head[5:6] == b"\1" else "big")


def _interpreter(head: bytes) -> str:
    """PT_INTERP of elf(5), "" for a static program."""
    is_wide = head[4:5] == b"\2"
    table, size, count = (32, 54, 56) if is_wide else (28, 42, 44)
    begin, step = _number(head, table, 8 if is_wide else 4), _number(head, size, 2)
    for index in range(min(_number(head, count, 2), 64)):
        entry = begin + index * step
        if _number(head, entry, 4) == _PT_INTERP:
            offset = _number(head, entry + (8 if is_wide else 4), 8 if is_wide else 4)
            return os.fsdecode(head[offset : offset + 256].partition(b"\0")[0])
    return ""


def _cwd(root: Root, cwd: str) -> Iterator[Finding]:
    try:
        os.close(root.open(cwd, os.O_PATH | os.O_DIRECTORY))
    except NotADirectoryError:
        yield Finding(ERROR, "bundle.cwd", "/process/cwd", f"{cwd} is no directory", "correct process.cwd")
    except FileNotFoundError:
        yield Finding(NOTE, "bundle.cwd", "/process/cwd", f"{cwd} is not there: it will be made")
    except OSError as error:
        yield Finding(WARNING, "bundle.cwd", "/process/cwd", f"{cwd}: {error.strerror}")
