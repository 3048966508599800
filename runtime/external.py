"""What of a container is not its own, as CRIU must be told: mounts that come from the host, namespaces of others, descriptors of the caller.

A dump gives each a name, and a restore says what of the host that name stands for now. The name of a mount is its destination in
config.json: as it is there in both, no name has to be looked up in a rootfs whose links may have been changed in between. Names that
an image does not have do no harm, so that more are given than may be needed, and those that runc gives are among them.
"""

from __future__ import annotations

from runtime import system as os
from runtime.errors import KernelError, Unsupported
from runtime.linux import NAMESPACES
from runtime.planner import mounts as planned
from runtime.texts import lines, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.planner import Request
    from runtime.planner.mounts import Mount

    #: what CRIU calls a mount, and where it is (dump: the other way round)
    Names = list[tuple[str, str]]

#: where the null device hides something, the name is that of the device
_NULL = "/dev/null"
#: bound from the host where a user namespace forbids to make them (planner/devices.py)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
NOTIFY = "/run/notify"
#: CRIU takes these as they are and says so under this name, as in runc and crun; others are joined before anything is restored
_KEYS = {"network": "extRootNetNS", "pid": "extRootPidNS"}
_LINKS = 40


class Point:
    """A line of mountinfo, proc_pid_mountinfo(5)."""

    __slots__ = ("id", "place", "kind", "device")

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        words = left.split(" ")
        self.id, self.device, self.place = words[0], words[2], unescaped(words[4])
        self.kind = right.partition(" ")[0]


def unescaped(word: str) -> str:
    """A path of mountinfo with the blanks that are octal there."""
    if "\\" not in word:
        return word
    head, *rest = word.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def points(pid: int | str) -> dict[str, Point]:
    """The mounts that a process sees, by place; of several on one place the topmost."""
    return {point.place: point for point in _mounts(pid)}


def _mounts(pid: int | str) -> list[Point]:
    try:
        data = read(f"/proc/{pid}/mountinfo")
    except OSError as error:
        raise KernelError(f"read the mounts of process {pid}", error.errno or 0) from None
    # what is no UTF-8 goes back as it came
    return [Point(line) for line in lines(os.fsdecode(data))]


# -- mounts ------------------------------------------------------------------------------------------------------------


def dumped(request: Request, pid: int) -> Names:
    """(place, name) of each mount of the process that comes from outside of the container."""
    there = points(pid)
    names: dict[str, str] = {}
    binds = [mount for mount in planned.read(request) if mount.options.is_bind and not mount.options.is_remount]
    for mount in binds:
        place = _place(pid, mount, there)
        if place:
            names[place] = mount.place
    linux: dict[str, Any] = request.config.get("linux") or {}
    for path in linux.get("maskedPaths") or ():
        if path in there and there[path].kind != "tmpfs":
            names.setdefault(path, _NULL)
    for path in (*_DEVICES, *(device["path"] for device in linux.get("devices") or ()), NOTIFY):
        if path in there:
            names.setdefault(path, path)
    for mount in planned.read(request):
        if mount.kind == "cgroup" and not _has(linux, "cgroup"):
            names |= {path: path for path in there if path.startswith(f"{mount.place}/")}
    # last: what came along with a recursive bind, and nobody has named yet
    for place, name in [*names.items()]:
        recursive = [mount for mount in binds if mount.place == name and mount.options.is_recursive]
        for path in there if recursive else ():
            if path.startswith(f"{place}/"):
                names.setdefault(path, name + path[len(place) :])
    return list(names.items())


def restored(request: Request, notify_dir: str) -> Names:
    """(name, path on the host) of each mount that may have been named by `dumped`."""
    names = {_NULL: _NULL, NOTIFY: notify_dir}
    linux: dict[str, Any] = request.config.get("linux") or {}
    for path in (*_DEVICES, *(device["path"] for device in linux.get("devices") or ())):
        names[path] = path
    host: dict[str, Point] = {}
    for mount in planned.read(request):
        if mount.kind == "cgroup" and not _has(linux, "cgroup"):
            for controller, point in {**request.host.cgroup_mounts, "": request.host.cgroup_unified}.items():
                name = os.path.basename(point) if controller else "unified"
                if point:
                    names[f"{mount.place}/{name}"] = request.cgroup_paths.get(controller) or point
        if not mount.options.is_bind or mount.options.is_remount:
            continue
        source = os.path.normpath(mount.source)
        names[mount.place] = source
        if mount.options.is_recursive:
            host = host or points("self")
            below = source.rstrip("/") + "/"
            names |= {
                mount.place + path[len(below) - 1 :]: path for path in host if path.startswith(below) and path != source
            }
    return list(names.items())


def _has(linux: dict[str, Any], kind: str) -> bool:
    return any(namespace["type"] == kind for namespace in linux.get("namespaces") or ())


def _place(pid: int, mount: Mount, there: dict[str, Point]) -> str:
    """Where a bind of the config is: its destination, or where links in the rootfs led when it was made; "" where it is gone."""
    place: str = mount.place
    if place in there:
        return place
    place = resolved(f"/proc/{pid}/root", place)
    # a link that was changed since may lead to another mount: that one has a name of its own, or is not the source's
    if place in there:
        try:
            device = os.stat(mount.source).st_dev
        except OSError:
            return ""
        if there[place].device == f"{os.major(device)}:{os.minor(device)}":
            return place
    return ""


def resolved(root: str, path: str) -> str:
    """The path without links, as somebody whose root is `root` would find it: a name to compare with, and nothing to be opened."""
    todo = path.split("/")[::-1]
    done: list[str] = []
    links = 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del done[-1:]
            continue
        try:
            link = os.readlink("/".join((root, *done, name)))
        except OSError:
            done.append(name)
            continue
        links += 1
        if links > _LINKS:
            return ""
        if link[:1] == "/":
            done = []
        todo += link.split("/")[::-1]
    return "/" + "/".join(done)


# -- namespaces --------------------------------------------------------------------------------------------------------


def dumped_namespaces(config: dict[str, Any]) -> list[str]:
    """What CRIU is told of the network and pid namespaces that somebody else has made: `net[4026531840]:extRootNetNS`."""
    found = []
    for kind, path in by_path(config):
        if kind in _KEYS:
            try:
                inode = os.stat(path).st_ino
            except OSError as error:
                raise KernelError(f"look at {kind} namespace {path}", error.errno or 0) from None
            found.append(f"{NAMESPACES[kind][1]}[{inode}]:{_KEYS[kind]}")
    return found


def restored_namespaces(config: dict[str, Any]) -> tuple[list[tuple[str, str]], list[dict[str, str]]]:
    """The namespaces that a restore takes over: (name, path) of those to be passed, and the messages for those to be joined."""
    passed, joined = [], []
    for kind, path in by_path(config):
        if kind in ("cgroup", "mount", "time"):
            raise Unsupported(f"linux.namespaces: criu cannot restore into a {kind} namespace given by path: {path}")
        if kind in _KEYS:
            passed.append((_KEYS[kind], path))
        else:
            joined.append({"ns": NAMESPACES[kind][1], "ns_file": path})
    return passed, joined


def by_path(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(type, path) of each namespace that has a path."""
    entries = (config.get("linux") or {}).get("namespaces") or ()
    return [(entry["type"], entry["path"]) for entry in entries if entry.get("path")]


# -- descriptors -------------------------------------------------------------------------------------------------------


def descriptors(init: int, pids: list[int]) -> list[str]:
    """What 0, 1 and 2 of the container are to CRIU: `pipe:[123]`, `file[1b:1a2b]` for a file of the host's, else a path of no meaning.

    Of init; where that has other things there by now, of the first process that still has a pipe with only one end in the container.
    runc writes the same, and takes only the pipes back.
    """
    ends: dict[str, set[int]] = {}
    standard: dict[int, list[str]] = {0: [], 1: [], 2: []}
    own = {point.id for point in _mounts(init)}
    for pid in dict.fromkeys((init, *pids)):
        for fd, target, mode in _open_files(pid):
            if target.startswith("pipe:"):
                ends.setdefault(target, set()).add(mode)
            elif fd in standard and target[:1] == "/":
                target = _outside(pid, fd, own) or target
            if fd in standard:
                standard[fd].append(target)
    found = []
    for targets in standard.values():
        ours = [target for target in targets if len(ends.get(target, ())) == 1]
        found.append(ours[0] if ours else (targets[0] if targets else _NULL))
    return found


def is_passed(word: str) -> bool:
    """Whether a restore replaces this one of `descriptors` by what it has there itself."""
    return word.startswith(("pipe:", "file["))


def _outside(pid: int, fd: int, own: set[str]) -> str:
    """CRIU's name for a file on a mount that the container does not have, "" where it has it."""
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}") as file:
            fields = dict(line.rstrip("\n").partition(":\t")[::2] for line in file)
        inode = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
    except OSError:
        return ""  # closed meanwhile
    mount = fields.get("mnt_id", "")
    return f"file[{int(mount):x}:{inode:x}]" if mount.isdigit() and mount not in own else ""


def _open_files(pid: int) -> list[tuple[int, str, int]]:
    """(number, what it is, access mode) of each open file of a process."""
    out = []
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            # the link's own permissions say for what it was opened, proc_pid_fd(5)
            mode = os.lstat(f"/proc/{pid}/fd/{name}").st_mode & 0o600
        except OSError:
            continue  # closed meanwhile
        out.append((int(name), target, mode))
    return out
