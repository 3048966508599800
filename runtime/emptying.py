"""Emptying a state directory that somebody has put things into, which happens to few and is loaded for those alone."""

from __future__ import annotations

import errno

from runtime import system as os
from runtime.errors import StateError, lower

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


def empty(fd: int, but: Collection[str] = (), depth: int = 0) -> None:
    """Empty a directory of ours that somebody put things into, but of some names; by descriptor, following nothing, bounded in depth."""
    if depth > 16:
        raise StateError("remove the state directory: nested too deeply")
    for name in os.listdir(fd):
        if name in but:
            continue
        try:
            os.unlink(name, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise StateError(f"remove {name}: {lower(error)}", errno=error.errno) from None
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                # what somebody has bound in here is not ours to empty: runc does that with a rootfs, for a restore
                if _mount_of(child) != _mount_of(fd):
                    raise StateError(f"remove the state directory: {name} is a mount point", errno=errno.EBUSY)
                empty(child, (), depth + 1)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)


def _mount_of(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return file.read().partition("mnt_id:")[2].partition("\n")[0]


def remove(path: str, fd: int) -> None:
    """Remove the directory itself, whatever is in it."""
    empty(fd)
    try:
        os.rmdir(path)
    except OSError as error:
        raise StateError(f"remove {path}: {lower(error)}", errno=error.errno) from None
