"""What the steps of a plan's sections do, by their kind, where `exec` and `create` have the same to do."""

from __future__ import annotations

from runtime import system as os
from runtime.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.plan import Step


def write_for(step: Step, pid: int) -> None:
    """Write a value to a file, both with $PID in place of init's pid."""
    path = step[1].replace("$PID", str(pid))
    value = step[2].replace("$PID", str(pid))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        # user_namespaces(7), Defining user and group ID mappings; root of the host may map anything
        is_map = path.endswith(("/uid_map", "/gid_map")) and error.errno == 1
        hint = (
            "only ids that this user namespace has itself can be mapped in one below it, and root with CAP_SETFCAP alone"
            if is_map
            else ""
        )
        if not is_map:
            from runtime.unprivileged import why_not_moved

            hint = why_not_moved(path, error.errno or 0)
        raise KernelError(f"write {value!r} to {path}", error.errno or 0, hint=hint) from None


def set_rlimit(step: Step, pid: int) -> None:
    """Set a limit of init from outside, where root's privilege is still whole (prlimit(2))."""
    import resource

    from runtime.linux import RLIMITS

    soft, _, hard = step[2].partition(":")
    try:
        resource.prlimit(pid, RLIMITS[step[1]], (_limit(int(soft)), _limit(int(hard))))
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else 22
        from runtime.refusals import of_rlimit

        raise KernelError(
            f"set {step[1]} to {step[2]}", number or 1, pointer="/process/rlimits", hint=of_rlimit(number or 1)
        ) from None


def _limit(value: int) -> int:
    # the C library's prlimit takes a signed number, and -1 is infinity
    return value - (1 << 64) if value >= 1 << 63 else value


def write_pid_file(path: str, pid: int) -> None:
    """Write a pid file in one piece: `.name` first, then renamed. An open file, /dev/fd/N or /proc/PID/fd/N, is written to."""
    folder, name = os.path.split(path)
    is_open = folder == "/dev/fd" or (folder.startswith("/proc/") and folder.endswith("/fd"))
    new = path if is_open else os.path.join(folder, f".{name}")
    try:
        fd = os.open(new, os.O_WRONLY | (0 if is_open else os.O_CREAT | os.O_TRUNC) | os.O_CLOEXEC, 0o666)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
        if not is_open:
            os.rename(new, path)
    except OSError as error:
        raise KernelError(f"write pid file {path}", error.errno or 0) from None


def in_words(size_bytes: int) -> str:
    """A size as people write limits: 512 KiB, 4 MiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} bytes"
