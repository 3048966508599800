"""Intel RDT and its like: a container's share of caches and memory bandwidth, through the kernel's resctrl filesystem.

A directory of it is a class of service: `schemata` says what its processes may have, `tasks` who they are, and one below
`mon_groups` counts what some of them use. Which directories are made, and which only used, is decided here, before anything is
done, by the rules of config-linux.md, intelrdt; the steps are lines of the plan.
"""

from __future__ import annotations

from runtime import system as os
from runtime import texts
from runtime.errors import ConfigError, KernelError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from runtime.plan import Step

_CLAUSE = "config-linux.md#intelrdt"
#: one that a program stands in for by FUSE, as in the tests, is as good
_KINDS = ("resctrl", "fuse.resctrl")


class Group:
    """The class of service of one container: `steps` put its init into it, `made` is what ends with the container."""

    def __init__(self, asked: dict[str, Any], id_: str) -> None:
        top = _mount_point()
        if not top:
            raise Unsupported(
                "linux.intelRdt: no resctrl filesystem is mounted",
                "as root: mount -t resctrl resctrl /sys/fs/resctrl, where the processor can do it",
                pointer="/linux/intelRdt",
            )
        name = asked.get("closID") or ""
        self.path = top if name == "/" else f"{top}/{name or id_}"
        self._lines = [line for line in (asked.get("l3CacheSchema"), asked.get("memBwSchema")) if line]
        more = asked.get("schemata") or []
        #: directories to be removed with the container, those below others first
        self.made: list[str] = []
        self.steps: list[Step] = []
        if not os.path.isdir(self.path):
            if name and not self._lines and not more:
                raise _wrong("closID", f"{self.path} is not there, and nothing says what it should allow")
            self.steps.append(("mkdir", self.path, ""))
        elif name:
            self._compare()
        if not name:
            self.made.append(self.path)
        # one line a write: the kernel takes or refuses it as a whole
        self.steps += [("write", f"{self.path}/schemata", f"{line}\n") for line in (*self._lines, *more)]
        self.steps.append(("write", f"{self.path}/tasks", "$PID"))
        if asked.get("enableMonitoring"):
            group = f"{self.path}/mon_groups/{id_}"
            self.made.insert(0, group)
            # after the class: to be counted in one of its groups a process must be in it
            self.steps += [("mkdir", group, ""), ("write", f"{group}/tasks", "$PID")]

    def _compare(self) -> None:
        """A class that is there already is somebody's: it must say what we would write (`schemata` may add to it)."""
        found = set(_values(os.fsdecode(texts.read(f"{self.path}/schemata"))))
        for line in self._lines:
            missing = [f"{kind}:{part}" for kind, part in _values(line) if (kind, part) not in found]
            if missing:
                key = "memBwSchema" if line.startswith("MB:") else "l3CacheSchema"
                raise _wrong(key, f"{self.path} is there and does not say {', '.join(missing)}")


def make(path: str) -> None:
    """Make a class or a monitoring group; of both there are only so many."""
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        hint = "there are no more of them: the processor has only so many" if error.errno == 28 else ""
        raise KernelError(f"make resctrl group {path}", error.errno or 0, "/linux/intelRdt", hint=hint) from None


def change(path: str, lines: tuple[str, ...]) -> Callable[[], None]:
    """Write lines to the schemata of a class, all or none; what is returned writes those that were there."""
    try:
        before = os.fsdecode(texts.read(f"{path}/schemata"))
    except OSError as error:
        raise KernelError(f"read {path}/schemata", error.errno or 0) from None

    def put_back() -> None:
        for line in texts.lines(before):
            try:
                _write(f"{path}/schemata", f"{line.strip()}\n")
            except OSError:
                pass  # a line that the kernel shows and does not take back, as of a cache in pseudo-locked mode

    for line in lines:
        try:
            _write(f"{path}/schemata", f"{line}\n")
        except OSError as error:
            put_back()
            raise KernelError(f"write {line!r} to {path}/schemata", error.errno or 0) from None
    return put_back


def remove(paths: list[str]) -> None:
    """Remove what was made for a container. Its processes are gone; what is left of them falls to the group above.

    A group is one only where resctrl is mounted: a damaged record may name anything, and must not keep a container from its end.
    """
    top = _mount_point()
    for path in paths:
        if not top or not path.startswith(f"{top}/"):
            continue
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass  # of a create that did not get so far
        except OSError as error:
            raise KernelError(f"remove resctrl group {path}", error.errno or 0) from None


def _mount_point() -> str:
    for line in texts.lines(os.fsdecode(texts.read("/proc/self/mountinfo"))):
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] in _KINDS:
            return left.split(" ")[4].replace("\\040", " ")
    return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _values(text: str) -> Iterator[tuple[str, str]]:
    """L3:0=f;1=ff as (L3, 0=f), (L3, 1=ff): the kernel fills lines up with blanks, and masks with zeros."""
    for line in texts.lines(text):
        kind, _, parts = line.strip().partition(":")
        for part in parts.split(";"):
            domain, equals, value = part.strip().partition("=")
            if equals:
                yield kind, f"{domain.strip()}={value.strip().lstrip('0') or '0'}"


def _wrong(key: str, why: str) -> ConfigError:
    return ConfigError(f"/linux/intelRdt/{key}", why, clause=_CLAUSE)
