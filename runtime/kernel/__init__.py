"""The extension, as functions that raise OSError: start the interpreter, talk to it, and system calls Python has no name for.

Nothing is decided here. The extension itself is loaded with the first call, so that commands which need none of this do
not pay for it. The interpreter, its plan format and its ops are described in README.md beside this file.
"""

from __future__ import annotations

from runtime import system as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: header of a message, and the longest detail (wire.MAX_DETAIL)
_MESSAGE_BYTES = 16 + 2048

_lib: Any = None
_ffi: Any = None


def _load() -> Any:
    global _lib, _ffi
    from runtime.kernel._kernel import ffi, lib

    _ffi = ffi
    _lib = lib
    return _lib


def load() -> None:
    """Load the extension ahead of its first use: for a process that waits, or that is about to fork."""
    if _lib is None:
        _load()


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def launch(
    plan: bytes, fds: list[int], first_fd: int, standard: tuple[int, int, int] | list[int] = (0, 1, 2)
) -> tuple[int, int]:
    """Start the interpreter on an encoded plan; (pid, socket). `fds` fill its registers, 3 up to `first_fd` are passed on as they
    are, and `standard` are what it gets as 0, 1 and 2.

    EBADF where one of those to be passed on is not open, or is close-on-exec: then it was not given to this process for that.
    """
    result = _checked((_lib or _load()).pyrunc_launch(plan, len(plan), fds, len(fds), first_fd, list(standard)))
    return result >> 32, result & 0xFFFFFFFF


def receive(sock: int) -> tuple[bytes, int]:
    """The next message of a socket and the descriptor that came with it, or -1; b"" at its end."""
    lib = _lib or _load()
    buffer = _ffi.new("char[]", _MESSAGE_BYTES)
    while (result := lib.pyrunc_receive(sock, buffer, _MESSAGE_BYTES)) == -4:
        pass  # EINTR: signal handlers of Python's have run by now
    _checked(result)
    return _ffi.buffer(buffer, result & 0xFFFFFFFF)[:], (result >> 32) - 1


def reply(sock: int, errno: int, fd: int = -1) -> None:
    """Answer a message that waits for one: an errno, 0 for success, and a descriptor."""
    lib = _lib or _load()
    while (result := lib.pyrunc_send(sock, errno.to_bytes(4, "little", signed=True), 4, fd, 0)) == -4:
        pass
    _checked(result)


def connect(path: str, timeout_ms: int) -> int:
    """A stream socket connected to the one at `path`, however long that is; ETIMEDOUT where the peer's backlog stays full."""
    lib = _lib or _load()
    while (result := lib.pyrunc_connect(os.fsencode(path), timeout_ms)) == -4:
        pass
    return _checked(result)


def send_fd(sock: int, data: bytes, fd: int, timeout_ms: int) -> None:
    """Send one message with a descriptor (none if -1); ETIMEDOUT where the peer's buffer stays full."""
    lib = _lib or _load()
    while (result := lib.pyrunc_send(sock, data, len(data), fd, timeout_ms)) == -4:
        pass
    _checked(result)


def close_on_exec_from(first: int) -> None:
    """Make every descriptor from `first` on close-on-exec, whoever opened it."""
    (_lib or _load()).pyrunc_close_on_exec_from(first)


def set_subreaper(on: bool) -> None:
    """Become, or no longer be, the parent of descendants that lose theirs."""
    _checked((_lib or _load()).pyrunc_set_subreaper(on))


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends; whoever asks must look whether it has ended already."""
    _checked((_lib or _load()).pyrunc_set_parent_death_signal(number))


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2), for the shim, which mounts an engine's layers where the engine says; a container's own mounts are ops of a plan."""
    words = [os.fsencode(word) for word in (source, target, kind, data)]
    _checked((_lib or _load()).pyrunc_mount(words[0], words[1], words[2], flags, words[3]))


def unmount(target: str, flags: int) -> None:
    """umount2(2), for the shim."""
    _checked((_lib or _load()).pyrunc_unmount(os.fsencode(target), flags))


def own_core_cookie() -> None:
    """Share a core with nobody but our own process group from now on (core scheduling)."""
    _checked((_lib or _load()).pyrunc_own_core_cookie())


def spawn_newuser() -> int:
    """The pid of a child in a new user namespace that does nothing: to be mapped, opened, killed and waited for."""
    return _checked((_lib or _load()).pyrunc_spawn_newuser())


def spawn(path: str, args: list[str], env: list[str], folder: int, standard: tuple[int, int, int]) -> int:
    """Start a program of the host: in a session of its own, in the directory `folder`, with `standard` as 0, 1 and 2 and
    no other descriptor. The pid of a child of ours; safe in a program with threads."""
    lib = _lib or _load()
    words = [[_ffi.new("char[]", os.fsencode(word)) for word in words] for words in (args, env)]
    argv, envp = (_ffi.new("char *[]", [*found, _ffi.NULL]) for found in words)
    return _checked(lib.pyrunc_spawn(os.fsencode(path), argv, envp, folder, *standard))


def bpf_prog_load(program: bytes) -> int:
    """A descriptor of a loaded program of the type that decides about a cgroup's devices."""
    return _checked((_lib or _load()).pyrunc_bpf_prog_load(program, len(program)))


def bpf_prog_attach(cgroup_fd: int, prog_fd: int) -> None:
    """Have a device program alone decide for a cgroup; one that did before is replaced in a single step."""
    _checked((_lib or _load()).pyrunc_bpf_prog_attach(cgroup_fd, prog_fd))


def seccomp_flag_supported(flag: int) -> bool:
    """Whether this kernel knows a flag of seccomp(2)'s SET_MODE_FILTER."""
    return bool((_lib or _load()).pyrunc_seccomp_flag_supported(flag))
