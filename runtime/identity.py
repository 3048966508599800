"""Which process is meant: a pid alone says nothing, since pids are given out again.

A process is its pid, its start time and the boot that both belong to; once a pidfd is open and the start time still the
same, the pidfd is the process (pidfd_open(2)). Signals go to pidfds only. And what it does now: is it exiting, is it frozen.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, EISDIR, ENODEV, ENOENT, ENOTDIR, ESRCH

from runtime import system as os
from runtime.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot (field 22, proc_pid_stat(5)); 0 if it is gone or a zombie.

    KernelError where that cannot be read: whoever took that for gone would remove what is at work.
    """
    fields = _fields(pid)
    return 0 if not fields or fields[0] in (b"Z", b"X", b"x") else int(fields[19])


def start_time_of_held(pid: int, pidfd: int) -> int:
    """As start_time(), of a process whose pidfd is open: 0 only if the kernel says so of the pidfd, too.

    One that runs and that /proc does not know means that /proc is that of another pid namespace: whoever took it for gone
    would call its container stopped.
    """
    started = start_time(pid)
    if not started and not _ends_within(pidfd, 0):
        hint = "/proc has to be that of the pid namespace in which pyrunc is called: see unshare --mount-proc"
        raise KernelError(f"open /proc/{pid}/stat", ENOENT, detail="of a process that runs", hint=hint)
    return started


def _ends_within(pidfd: int, seconds: float) -> bool:
    from select import POLLIN, poll

    ends = poll()
    ends.register(pidfd, POLLIN)
    return bool(ends.poll(seconds * 1000))


def is_exiting(pid: int) -> bool:
    """Whether a process is on its way out, or gone: PF_EXITING of its flags (field 9). KernelError as above."""
    fields = _fields(pid)
    return not fields or bool(int(fields[6]) & 4)


def _fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; none if the process is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KernelError(f"open /proc/{pid}/stat", error.errno or 0) from None
    try:
        text = os.read(fd, 4096)
    except ProcessLookupError:
        return []
    except OSError as error:
        raise KernelError(f"read /proc/{pid}/stat", error.errno or 0) from None
    finally:
        os.close(fd)
    # the name, in parentheses, is the process's own to choose and may hold anything, parentheses too
    return text[text.rindex(b")") + 2 :].split(b" ")


def innermost_pid(pid: int) -> int:
    """The pid of a process in its own pid namespace (NSpid, proc_pid_status(5)); 0 if it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # after the first line, which is the process's own to choose
        _, _, found = os.read(fd, 4096).partition(b"\nNSpid:")
    except OSError:
        return 0
    finally:
        os.close(fd)
    return int(found.partition(b"\n")[0].split()[-1]) if found else 0


def pids_beside(init: int) -> list[int]:
    """Every process in the pid namespace whose first process is `init`, in order; `init` alone where it is not the first.

    Where there is no cgroup this is how a container's processes are found.
    """
    if innermost_pid(init) != 1:
        return [init]
    try:
        namespace = os.stat(f"/proc/{init}/ns/pid").st_ino
    except OSError:
        return [init]
    out = {init}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}/ns/pid").st_ino == namespace:
                    out.add(int(name))
            except OSError:
                pass  # gone, or another user's
    return sorted(out)


def open_process(pid: int, started: int) -> int:
    """A pidfd of the process that had this pid and start time, or -1 where it is gone.

    The start time is read after the pidfd is open: from then on the pid cannot be given to somebody else unnoticed.
    """
    if type(pid) is not int or type(started) is not int or not 1 < pid < 1 << 31 or started <= 0:
        return -1
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (ESRCH, ENOENT, EINVAL):
            return -1  # gone; or the pid is a thread's by now, for which kernels have had each of these words
        raise KernelError(f"open process {pid}", error.errno or 0) from None
    is_same = False
    try:
        is_same = start_time(pid) == started
    finally:
        if not is_same:
            os.close(pidfd)
    return pidfd if is_same else -1


def has_ended(pid: Any, started: Any, seconds: float = 0.0) -> bool:
    """Whether the process that had this pid and start time is gone, or is within some time. KernelError as open_process()."""
    pidfd = open_process(pid, started)
    if pidfd < 0:
        return True
    try:
        return _ends_within(pidfd, seconds)
    finally:
        os.close(pidfd)


def send_signal(pid: int, started: int, signal: int) -> bool:
    """Send a signal to the process that had this pid and start time; False where it has ended."""
    from _signal import pidfd_send_signal

    pidfd = open_process(pid, started)
    if pidfd < 0:
        return False
    try:
        pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise KernelError(f"pidfd_send_signal {signal} to process {pid}", error.errno or 0) from None
    finally:
        os.close(pidfd)
    return True


def is_this_boot(boot_id: str) -> bool:
    """Whether this is still the boot of that id (random(4))."""
    # a state directory that survives a reboot holds pids that are somebody else's by now
    try:
        fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return os.read(fd, 64).decode().strip() == boot_id
    finally:
        os.close(fd)


def is_frozen(path: str) -> bool:
    """Whether the processes of a cgroup are frozen, by its `freezer.state` (v1) or `cgroup.freeze`; not where it is gone."""
    if not path:
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, EACCES):
            return False
        raise KernelError(f"open {path}", error.errno or 0) from None
    try:
        return os.read(fd, 32).strip() in (b"FROZEN", b"FREEZING", b"1")
    except OSError as error:
        if error.errno in (ENODEV, EISDIR):
            return False  # removed meanwhile; or no file of a cgroup's at all
        raise KernelError(f"read {path}", error.errno or 0) from None
    finally:
        os.close(fd)
