"""Reading and clearing a cgroup's directories, by descriptor, also where the container has made some of its own.

Names below a container's cgroup are the container's choice. They are used with the descriptor of the directory they were
read from, never joined to a path, and there is a bound to how many and how deep.
"""

from __future__ import annotations

from errno import EBUSY, ELOOP, ENAMETOOLONG, ENODEV, ENOENT, ENOTDIR, EOPNOTSUPP

from runtime import system as os
from runtime.texts import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 64
_MAX_CGROUPS = 10_000


def each(path: str, visit: Callable[[int], None], leave: Callable[[int, str], None] | None = None) -> None:
    """Call `visit` with a descriptor of the cgroup and of every one below it; `leave(parent, name)` when done with one."""
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ENAMETOOLONG, ELOOP):
            raise
        return  # not there, or never was: a damaged state names anything
    try:
        _each(fd, visit, leave, _MAX_DEPTH, [_MAX_CGROUPS])
    finally:
        os.close(fd)


def _each(
    fd: int, visit: Callable[[int], None], leave: Callable[[int, str], None] | None, depth: int, left: list[int]
) -> None:
    visit(fd)
    # kernfs counts subdirectories in the link count: without any, the listing of thirty files can be spared
    if depth == 0 or os.fstat(fd).st_nlink <= 2:
        return
    with os.scandir(fd) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        left[0] -= 1
        if left[0] < 0:
            return
        try:
            sub = os.open(name, _DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            continue
        try:
            _each(sub, visit, leave, depth - 1, left)
        finally:
            os.close(sub)
        if leave is not None:
            leave(fd, name)


# -- processes -------------------------------------------------------------------------------------------------------------


def pids(path: str) -> list[int]:
    """Every process in the cgroup and below it, sorted."""
    found: set[int] = set()
    each(path, lambda fd: found.update(_procs(fd)))
    return sorted(found)


def _procs(fd: int) -> list[int]:
    try:
        return [int(word) for word in _read("cgroup.procs", fd).split() if word.isdigit()]
    except OSError as error:
        if error.errno in (ENOENT, ENODEV):
            return []
        if error.errno != EOPNOTSUPP:
            raise
    # of a threaded cgroup only the threads are listed
    try:
        threads = _read("cgroup.threads", fd).split()
    except OSError as error:
        if error.errno in (ENOENT, ENODEV):
            return []
        raise
    return [pid for word in threads if (pid := value(f"/proc/{int(word)}/status", "Tgid:")) > 0]


def kill(path: str) -> bool:
    """Kill everything in a v2 cgroup and below it in one go, which no fork gets away from; whether the kernel can do that."""
    try:
        fd = os.open(f"{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return not os.path.isdir(path)
    try:
        os.write(fd, b"1")
    except OSError as error:
        return error.errno == ENODEV  # removed meanwhile; EOPNOTSUPP where it is threaded
    finally:
        os.close(fd)
    return True


def signal(path: str, number: int) -> None:
    """Send a signal to every process in the cgroup and below it, and to no other: a pid may be reused at any time.

    A process is opened first, and listed again afterwards. If it is still alive when it is signalled, then the pid was its
    own all the time, and it was in the cgroup.
    """
    from _signal import pidfd_send_signal

    opened = {}
    try:
        for pid in pids(path):
            try:
                opened[pid] = os.pidfd_open(pid)
            except (ProcessLookupError, OSError):
                continue  # gone, or beyond our descriptors: the next round
        if not opened:
            return
        for pid in pids(path):
            if pid in opened:
                try:
                    pidfd_send_signal(opened[pid], number)
                except ProcessLookupError:
                    pass
    finally:
        for fd in opened.values():
            os.close(fd)


def stuck(found: list[int]) -> str:
    """Which process is in the way and where it sleeps, for an error: `process 123 (fuse) in state D at wait_answer`."""
    for pid in found[:1]:
        stat = text(f"/proc/{pid}/stat")
        name, _, rest = stat[stat.find("(") + 1 :].rpartition(")")
        where = text(f"/proc/{pid}/wchan")
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return f"process {pid} ({name}) in state {rest.strip()[:1] or '?'}{' at ' + where if where else ''}{more}"
    return "no process in it"


# -- directories -----------------------------------------------------------------------------------------------------------


def remove(path: str) -> OSError | None:
    """Remove the cgroup with all below it; the error if that did not work, None where it is gone."""
    each(path, _nothing, _rmdir_quietly)
    try:
        os.rmdir(path)
    except OSError as error:
        return error if os.path.isdir(path) else None
    return None


def _nothing(fd: int) -> None:
    pass


def _rmdir_quietly(parent: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (EBUSY, ENOENT, ENODEV):
            raise


def thaw(path: str, version: int) -> None:
    """Thaw the cgroup and every one below it."""
    name, value = ("freezer.state", b"THAWED") if version == 1 else ("cgroup.freeze", b"0")

    def visit(fd: int) -> None:
        try:
            file = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=fd)
            try:
                os.write(file, value)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV):
                raise

    each(path, visit)


def inherit_cpuset(path: str) -> None:
    """Give a v1 cpuset the CPUs and memory nodes of its parent where it has none; without them no process can join."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        try:
            if _read(f"{path}/{file}").strip():
                continue
            parent = os.path.dirname(path)
            value = _read(f"{parent}/{file}").strip()
            if not value:
                # made by somebody who did not go on: it takes its own from above first
                inherit_cpuset(parent)
                value = _read(f"{parent}/{file}").strip()
        except FileNotFoundError:
            return  # another hierarchy, or above the root of this one
        fd = os.open(f"{path}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def is_root(path: str, version: int) -> bool:
    """Whether this is the root cgroup of a hierarchy, which is everybody's."""
    if version == 1:
        return os.path.exists(f"{path}/release_agent") or (
            os.path.exists(f"{path}/cgroup.controllers") and not os.path.exists(f"{path}/cgroup.type")
        )
    return os.path.exists(f"{path}/cgroup.procs") and not os.path.exists(f"{path}/cgroup.type")


# -- files -----------------------------------------------------------------------------------------------------------------


def _read(path: str, dir_fd: int | None = None) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        data = os.read(fd, 65536)
        if len(data) < 2048:
            return data  # the end: of a longer file the kernel gives a page at a time, but for less than one line
        out = [data]
        while data:
            data = os.read(fd, 65536)
            out.append(data)
        return b"".join(out)
    finally:
        os.close(fd)


def text(path: str) -> str:
    """What a small file holds; empty if it cannot be read."""
    try:
        return _read(path).decode("utf-8", "replace")
    except OSError:
        return ""


def number(path: str) -> int:
    """The number in a file; -1 for anything else."""
    word = text(path).strip()
    return int(word) if word.isascii() and word.isdigit() else -1


def value(path: str, key: str) -> int:
    """The number beside a key in a file of `key number` lines; 0 if there is none."""
    for line in lines(text(path)):
        name, _, word = line.replace("\t", " ").partition(" ")
        if name == key and word.isascii() and word.isdigit():
            return int(word)
    return 0
