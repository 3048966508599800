"""The kernel kills for want of memory inside a container's cgroup: hearing of it, on cgroup v1 and v2.

    v1   an eventfd that is registered with memory.oom_control (cgroup-v1/memory.rst, section 10)
    v2   memory.events, which becomes ready with EPOLLPRI when it changes (kernfs); its count oom_kill tells what happened

v1 wakes up too when the cgroup is removed, which is no such event; v2 does not, and tells only who looks. An end that follows from
such a kill may be known before the loop comes to this: check() looks at once, so that the one can be told before the other.
"""

from __future__ import annotations

import os
import select

from runtime.texts import lines, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shim.loop import Loop


#: the mounts of cgroup hierarchies, as (root, mount point, controllers): looked up once, and a forked shim has them already
_mounts: list[tuple[str, str, list[str]]] = []


def cgroups_of(pid: int) -> dict[str, str]:
    """The directories of a process's cgroups: by controller on v1 ("memory", "pids", ...), and "" for the unified hierarchy."""
    paths: dict[str, str] = {}
    for line in lines(os.fsdecode(read(f"/proc/{pid}/cgroup"))):
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    if not _mounts:
        _find_mounts()
    found: dict[str, str] = {}
    for root, point, controllers in _mounts:
        for name in controllers:
            below = _below(paths[name], root) if name in paths else None
            if below is not None and name not in found:
                found[name] = point + below
    return found


def _find_mounts() -> None:
    for line in lines(os.fsdecode(read("/proc/self/mountinfo"))):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = (_plain(word) for word in before.split(" ")[3:5])
            _mounts.append((root, point, [""] if kind == "cgroup2" else options.split(",")))


def _below(path: str, root: str) -> str | None:
    """What of `path` is below `root`, which is what a mount shows of the hierarchy; None where it does not show it."""
    if root == "/":
        return path if path != "/" else ""
    if path == root or path.startswith(root + "/"):
        return path[len(root) :]
    return None


def _plain(word: str) -> str:
    r"""A word of mountinfo, proc(5): space, tab, newline and backslash are \040 and so on."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word


class OomWatch:
    """Calls happened() from the loop, or from check(), each time the kernel has killed for want of memory in a cgroup.

    `paths` is what cgroups_of() says of the container's init. Without a memory controller nothing will ever happen, and
    `.is_watching` is False.
    """

    #: on v2 the file, and the count in it that grows
    EVENTS = ("memory.events", b"oom_kill")

    __slots__ = ("_directory", "_event_fd", "_file_fd", "_happened", "_kills", "_loop", "is_watching")

    def __init__(self, loop: Loop, paths: Mapping[str, str], happened: Callable[[], None]) -> None:
        self._loop = loop
        self._happened = happened
        self._kills = 0
        self._event_fd = self._file_fd = -1
        self.is_watching = False
        try:
            if "memory" in paths:
                self._directory = paths["memory"]
                self._watch_v1()
            elif "" in paths:
                self._directory = paths[""]
                self._watch_v2()
        except FileNotFoundError:
            # the cgroup is gone already, or has no memory controller
            self.close()
        except OSError:
            self.close()
            raise

    def check(self) -> None:
        """Look now: call happened() if it has."""
        if self._event_fd >= 0:
            self._ready_v1(0)
        elif self._file_fd >= 0:
            self._ready_v2(0)

    def close(self) -> None:
        """Watch no longer."""
        self.is_watching = False
        for fd in (self._event_fd, self._file_fd):
            if fd >= 0:
                self._loop.forget(fd)
                os.close(fd)
        self._event_fd = self._file_fd = -1

    # -- v1 ------------------------------------------------------------------------------------------------------------

    def _watch_v1(self) -> None:
        self._file_fd = os.open(self._directory + "/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(self._directory + "/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(control, f"{self._event_fd} {self._file_fd}".encode())
        finally:
            os.close(control)
        self._loop.watch(self._event_fd, select.EPOLLIN, self._ready_v1)
        self.is_watching = True

    def _ready_v1(self, events: int) -> None:
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            return
        if os.path.exists(self._directory):
            self._happened()
        else:
            self.close()

    # -- v2 ------------------------------------------------------------------------------------------------------------

    def _watch_v2(self) -> None:
        self._file_fd = os.open(f"{self._directory}/{self.EVENTS[0]}", os.O_RDONLY | os.O_CLOEXEC)
        # reading it is what arms it
        self._kills = read_count(self._file_fd, self.EVENTS[1])
        self._loop.watch(self._file_fd, select.EPOLLPRI, self._ready_v2)
        self.is_watching = True

    def _ready_v2(self, events: int) -> None:
        try:
            kills = read_count(self._file_fd, self.EVENTS[1])
        except OSError:
            self.close()  # ENODEV: the cgroup was removed
            return
        if kills > self._kills:
            self._kills = kills
            self._happened()


def read_count(fd: int, name: bytes) -> int:
    """The number after `name` in a file of names and numbers, such as memory.events; 0 where it is not there."""
    for line in os.pread(fd, 4096, 0).split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0
