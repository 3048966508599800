"""User namespaces, from the outside: writing id maps for init, and namespaces made only to hold a mapping.

A map line is `inside outside count`, user_namespaces(7). Root writes any map itself. Without root only one's own id may be
mapped that way; for more, the setuid helpers newuidmap and newgidmap are called by absolute path, never through PATH.
"""

from __future__ import annotations

from runtime import kernel
from runtime import system as os
from runtime.errors import KernelError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_HELPER_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


def helper(name: str) -> str:
    """The absolute path of newuidmap or newgidmap; Unsupported where it is not installed."""
    for folder in _HELPER_FOLDERS:
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    raise Unsupported(
        f"{name}: not installed, and without root it alone can map more than one id", "install the package uidmap"
    )


def run_helper(name: str, pid: int, words: Sequence[str]) -> None:
    """Have newuidmap or newgidmap write the map of a process: words are `inside outside count`, repeated."""
    path = helper(name)
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.posix_spawn(
            path,
            [name, str(pid), *words],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, write_fd, 1), (os.POSIX_SPAWN_DUP2, write_fd, 2)],
            setsigmask=(),
            setsigdef=range(1, 32),
        )
    finally:
        os.close(write_fd)
    output = b""
    while data := os.read(read_fd, 4096):
        output = (output + data)[:4096]
    os.close(read_fd)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        text = " ".join(output.decode("utf-8", "replace").split())
        hint = _why_refused(name, path, text, words)
        raise KernelError(f"{name} {pid} {' '.join(words)}", 1, detail=text or f"exit status {status}", hint=hint)


def _why_refused(name: str, path: str, text: str, words: Sequence[str]) -> str:
    from runtime import unprivileged

    if "not allowed" not in text:
        return unprivileged.why_helper_is_powerless(path)
    file, own = ("/etc/subuid", os.geteuid()) if name == "newuidmap" else ("/etc/subgid", os.getegid())
    found = [(int(first), int(count)) for first, count in zip(words[1::3], words[2::3], strict=True)]
    return unprivileged.why_no_ids(file, os.geteuid(), [entry for entry in found if entry != (own, 1)])


def namespace_of(maps: str) -> int:
    """A descriptor of a user namespace with the maps "UIDS;GIDS" and no process in it, for an idmapped mount (mount_setattr(2))."""
    uid_map, _, gid_map = maps.partition(";")
    pid = kernel.spawn_newuser()
    try:
        for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            except OSError as error:
                raise KernelError(f"write /proc/{pid}/{name} {text!r}", error.errno or 0) from None
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
