"""Which unit of systemd a cgroupsPath of the form slice:prefix:name asks for, and where systemd puts its cgroup. Pure.

    machine.slice:libpod:4f2a    libpod-4f2a.scope in machine.slice
    :docker:4f2a                 docker-4f2a.scope in system.slice, without root in user.slice
    a.slice:any:a-b.slice        a slice, whose place is in its own name

A slice is in the slice that its name begins with: a-b.slice is /a.slice/a-b.slice (systemd.slice(5)).
"""

from __future__ import annotations

from runtime.errors import ConfigError

WHERE = "/linux/cgroupsPath"

#: systemd.unit(5); names of templates are no names of units, but a scope may have an @
_LETTERS = dict.fromkeys(map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"))
_MAX_LENGTH = 255

#: a cgroup of such a name could be taken for a file of the kernel's: systemd puts an underscore before it (cg_escape)
_KERNEL_NAMES = ("notify_on_release", "release_agent", "tasks")
_CONTROLLERS = ("cgroup", "cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids")


class Unit:
    """A unit to be: its name, the slice it is in, and the path of its cgroup below the manager's."""

    __slots__ = ("name", "slice", "path")

    def __init__(self, name: str, slice_: str, path: str) -> None:
        self.name = name
        self.slice = slice_
        self.path = path


def unit(asked: str, id_: str, is_user: bool) -> Unit:
    """The unit that cgroupsPath asks for; an empty one asks for a scope named after the container."""
    slice_, prefix, name = ("", "runc", escaped(id_)) if not asked else _parts(asked)
    slice_ = slice_ or ("user.slice" if is_user else "system.slice")
    above = expand(slice_)
    if name.endswith(".slice"):
        path = expand(name)
        if path.rpartition("/")[0] != above:
            raise _wrong(f'the slice "{name}" is in {_parent(name)} by its name, and not in "{slice_}"')
        return Unit(name, slice_, path)
    name = f"{prefix}-{name}.scope"
    check(name)
    return Unit(name, slice_, f"{above}/{cgroup_name(name)}")


def _parts(asked: str) -> list[str]:
    parts = asked.split(":")
    if len(parts) != 3:
        hint = "a path is for the driver cgroupfs: leave out --systemd-cgroup" if "/" in asked else ""
        raise ConfigError(
            WHERE, f'expected "slice:prefix:name" where systemd makes the cgroup, not "{asked}"', hint=hint
        )
    if not parts[2]:
        raise _wrong(f'"{asked}" gives the unit no name')
    return parts


def expand(slice_: str) -> str:
    """The path of a slice's cgroup: a-b.slice is /a.slice/a-b.slice, and -.slice, the root of all, is ""."""
    name = slice_.removesuffix(".slice")
    if name == slice_:
        raise _wrong(f'"{slice_}" is no slice: the name of one ends in .slice')
    if name == "-":
        return ""
    words = name.split("-")
    if not all(words):
        raise _wrong(f'"{slice_}" is no slice: a dash stands between the names of two slices')
    check(slice_)
    return "".join(f"/{cgroup_name('-'.join(words[: end + 1]) + '.slice')}" for end in range(len(words)))


def _parent(slice_: str) -> str:
    above = slice_.removesuffix(".slice").rpartition("-")[0]
    return f"{above or '-'}.slice"


def check(name: str) -> None:
    """Raise ConfigError unless systemd takes the name for a unit."""
    left = name.translate(_LETTERS)
    if left:
        raise _wrong(f'"{name}" cannot be the name of a unit: "{left[0]}" is no letter, digit or one of :-_.\\@')
    if len(name) > _MAX_LENGTH:
        raise _wrong(
            f'"{name[:20]}..." cannot be the name of a unit: it has {len(name)} letters, at most 255 are allowed'
        )


def escaped(id_: str) -> str:
    """An id of a container as a part of a unit's name: it may hold a "+", which that may not (systemd-escape(1))."""
    return id_.replace("+", "\\x2b")


def cgroup_name(name: str) -> str:
    """The directory of a unit's cgroup: its name, unless the kernel could have a file of that name."""
    if name[0] in "_." or name in _KERNEL_NAMES or name.partition(".")[0] in _CONTROLLERS:
        return "_" + name
    return name


def is_name(name: object) -> bool:
    """Whether this can be the name of a container's unit."""
    return (
        type(name) is str
        and name.endswith((".scope", ".slice"))
        and len(name) <= _MAX_LENGTH
        and not name.translate(_LETTERS)
    )


def _wrong(why: str) -> ConfigError:
    return ConfigError(WHERE, why)
