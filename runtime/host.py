"""Facts about this machine, each looked up when it is first asked for, and only then.

A fact is about the host and may be baked into a plan. Nothing here may look at the contents of a rootfs: they are
hostile and may change, so the interpreter learns them at the moment of use. Tests build a Host from a dict.
"""

from __future__ import annotations

import sys

from runtime import system as os
from runtime.texts import lines, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Host:
    """Facts as attributes. `Host()` asks the machine, `Host.from_facts({...})` answers from a dict alone."""

    if TYPE_CHECKING:
        euid: int
        egid: int
        is_rootless: bool
        in_user_ns: bool
        is_setgroups_denied: bool
        owns_mounts: bool
        cgroup_mode: str
        cgroup_mounts: dict[str, str]
        cgroup_unified: str
        own_cgroups: dict[str, str]
        has_apparmor: bool
        has_selinux: bool
        last_cap: int
        capabilities: int
        bounding: int
        kernel: str
        machine: str
        is_systemd: bool
        has_openat2: bool
        boot_id: str
        page_size: int
        has_time_ns: bool
        no_new_privs: bool

    def __init__(self) -> None:
        self._facts: dict[str, Any] | None = None

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Host:
        """A host that is what `facts` says; a fact that is not in there is an AttributeError."""
        host = cls()
        host._facts = facts
        for name, value in facts.items():
            setattr(host, name, value)
        return host

    def __getattr__(self, name: str) -> Any:
        # reached only for a fact not yet looked up: the answer becomes an ordinary attribute
        find = None if name[0] == "_" or self._facts is not None else _FINDERS.get(name)
        if find is None:
            raise AttributeError(name)
        value: Any = find(self)
        setattr(self, name, value)
        return value

    def is_directory(self, path: str) -> bool:
        """Whether a path of the host (never one inside a rootfs) is a directory; links are followed."""
        if self._facts is not None:
            return path in self._facts.get("directories", ())
        try:
            return os.stat(path).st_mode & 0o170000 == 0o040000
        except OSError:
            return False

    def is_there(self, path: str) -> bool:
        """Whether a path of the host (never one inside a rootfs) exists."""
        if self._facts is not None:
            return path in self._facts.get("paths", ()) or path in self._facts.get("directories", ())
        try:
            os.stat(path)
        except OSError:
            return False
        return True

    def is_own_namespace(self, name: str, path: str) -> bool:
        """Whether a path names the namespace that this process is in; `name` is the kernel's, as in /proc/self/ns."""
        if self._facts is not None:
            return path in self._facts.get("own_namespaces", ())
        try:
            named, own = os.stat(path), os.stat(f"/proc/self/ns/{name}")
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)

    def link_target(self, path: str) -> str:
        """What a link says; "" where the path names none."""
        if self._facts is not None:
            return str(self._facts.get("links", {}).get(path, ""))
        try:
            return os.readlink(path)
        except OSError:
            return ""

    def facts(self) -> dict[str, Any]:
        """Every fact, looked up now."""
        return {name: getattr(self, name) for name in _FINDERS}


def library_path(name: str) -> str:
    """The path of a shared library, "" if it is in none of the usual places.

    Found here and opened by this path, so that no variable of the caller's environment (LD_LIBRARY_PATH) chooses another.
    """
    multiarch = getattr(sys.implementation, "_multiarch", "")
    for directory in (f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib", f"/lib/{multiarch}", "/lib64", "/lib"):
        path = f"{directory}/{name}"
        try:
            os.stat(path)
        except OSError:
            continue
        return path
    return ""


def _status(host: Host, key: bytes) -> str:
    text = host.__dict__.get("_status_text")
    if text is None:
        text = host.__dict__["_status_text"] = read("/proc/self/status")
    start = text.find(b"\n" + key + b":")
    return text[start + len(key) + 2 : text.index(b"\n", start + 1)].decode().strip() if start >= 0 else ""


def _in_user_ns(host: Host) -> bool:
    # the initial user namespace maps every id to itself, user_namespaces(7)
    try:
        return read("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]
    except OSError:
        return False


def _is_setgroups_denied(host: Host) -> bool:
    # user_namespaces(7): the price of a map that was written without privilege
    try:
        return read("/proc/self/setgroups").strip() == b"deny"
    except OSError:
        return False


def _owns_mounts(host: Host) -> bool:
    """Whether our mount namespace belongs to the user namespace that we are root of: then we may clone its mounts."""
    if host.euid != 0:
        return False
    from fcntl import ioctl

    namespace = owner = -1
    try:
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        owner = ioctl(namespace, 0xB701)  # NS_GET_USERNS, ioctl_ns(2)
        return os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino
    except OSError:
        return False  # its owner is beyond what we can see
    finally:
        for fd in (namespace, owner):
            if fd >= 0:
                os.close(fd)


def _is_rootless(host: Host) -> bool:
    # runc's rule: no root, or root of a user namespace that somebody else made
    return host.euid != 0 or host.in_user_ns


def _cgroup_mounts(host: Host) -> dict[str, str]:
    """v1 hierarchies as {controller or "name=x": mountpoint}; the first mount of each counts, as in runc."""
    mounts: dict[str, str] = {}
    unified = ""
    for line in read("/proc/self/mountinfo").split(b"\n"):
        place = line.find(b" - cgroup")
        if place < 0:
            continue
        kind, _, rest = line[place + 3 :].partition(b" ")
        words = line.split(b" ", 5)
        point = words[4].decode("utf-8", "surrogateescape")
        if not _is_seen(point, words[2]):
            continue
        if kind == b"cgroup2":
            unified = unified or point
        elif kind == b"cgroup":
            for word in rest.split(b" ")[-1].decode().split(","):
                if word in _CONTROLLERS or word.startswith("name="):
                    mounts.setdefault(word, point)
    host.cgroup_unified = unified
    return mounts


def _is_seen(point: str, device: bytes) -> bool:
    """Whether the mount of that device is what the path leads to: mountinfo lists what other mounts have covered too."""
    try:
        found = os.stat(point).st_dev
    except OSError:
        return False
    return device == b"%d:%d" % (os.major(found), os.minor(found))


#: controllers of cgroup v1 that Linux has had, see cgroups(7)
_CONTROLLERS = frozenset(
    ("cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls", "net_prio", "perf_event",
     "hugetlb", "pids", "rdma", "misc")
)  # fmt: skip


def _cgroup_unified(host: Host) -> str:
    host.cgroup_mounts  # noqa: B018 - the same read of mountinfo fills both
    return str(host.__dict__["cgroup_unified"])


def _cgroup_mode(host: Host) -> str:
    if not host.cgroup_mounts:
        return "v2" if host.cgroup_unified else "none"
    return "hybrid" if host.cgroup_unified else "v1"


def _own_cgroups(host: Host) -> dict[str, str]:
    own = {}
    for line in lines(os.fsdecode(read("/proc/self/cgroup"))):
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            own[name] = path
    return own


def _has_selinux(host: Host) -> bool:
    return os.path.exists("/sys/fs/selinux/status")


def _has_apparmor(host: Host) -> bool:
    try:
        return read("/sys/module/apparmor/parameters/enabled")[:1] == b"Y"
    except OSError:
        return False


def _has_openat2(host: Host) -> bool:
    # RESOLVE_IN_ROOT is newer than any kernel that we run on; a service manager's filter may still hide it
    return True


def _last_cap(host: Host) -> int:
    try:
        return int(read("/proc/sys/kernel/cap_last_cap"))
    except OSError:
        from runtime.linux import CAPABILITIES

        return len(CAPABILITIES) - 1


_FINDERS: dict[str, Callable[[Host], Any]] = {
    "euid": lambda host: os.geteuid(),
    "egid": lambda host: os.getegid(),
    "in_user_ns": _in_user_ns,
    "is_setgroups_denied": _is_setgroups_denied,
    "owns_mounts": _owns_mounts,
    "is_rootless": _is_rootless,
    "cgroup_mounts": _cgroup_mounts,
    "cgroup_unified": _cgroup_unified,
    "cgroup_mode": _cgroup_mode,
    "own_cgroups": _own_cgroups,
    "has_apparmor": _has_apparmor,
    "has_selinux": _has_selinux,
    "last_cap": _last_cap,
    "capabilities": lambda host: int(_status(host, b"CapPrm"), 16),
    "bounding": lambda host: int(_status(host, b"CapBnd"), 16),
    "no_new_privs": lambda host: _status(host, b"NoNewPrivs") == "1",
    "kernel": lambda host: os.uname().release,
    "machine": lambda host: os.uname().machine,
    "is_systemd": lambda host: os.path.isdir("/run/systemd/system"),
    "has_openat2": _has_openat2,
    "boot_id": lambda host: read("/proc/sys/kernel/random/boot_id").decode().strip(),
    "page_size": lambda host: os.sysconf("SC_PAGESIZE"),
    "has_time_ns": lambda host: os.path.exists("/proc/self/ns/time"),
}
