"""Why the kernel refused an op: which component of a path is at fault, and what an errno means there.

Asked only once an op has failed. What is found is a word for a person, in brackets or as a hint, and never decides anything: it
is looked for afterwards, from the host, where things may have changed. Paths of the container are looked at inside its rootfs, no
link of it is followed, and nothing is opened but the file that was to be executed, if it is a regular one.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EEXIST, EINVAL, ELOOP, ENODEV, ENOENT, ENOEXEC, ENOSYS, ENOTDIR, EPERM, ERANGE

from runtime.linux import CLONE_NEWUSER
from runtime.texts import lines, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.plan import Op, Plan

_KINDS = {
    stat.S_IFREG: "a file", stat.S_IFLNK: "a symbolic link", stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory",
}  # fmt: skip
#: Linux 5.14 has the last of the calls that every plan uses (mount_setattr with all its flags); 5.15 is its long-term release
FLOOR = (5, 15)
#: ops whose path is of the container
_INSIDE = ("mountpoint", "mkdirs", "mknod", "chdir")
_SYS_RESOURCE = 24


def component(path: str, errno: int, root: str = "", *, is_directory: bool = False) -> str:
    """Which component of a path it is about, "" where none can be told; the last one must be a directory if told so."""
    parts = [part for part in path.split("/") if part]
    shown = ""
    for number, part in enumerate(parts):
        shown += "/" + part
        is_last = number == len(parts) - 1
        try:
            info = os.lstat(root + shown)
        except FileNotFoundError:
            # not "does not exist": engines take these words for a container that is gone
            return f"there is no {shown}" if errno == ENOENT else ""
        except OSError:
            return ""
        if stat.S_ISLNK(info.st_mode):
            target = os.readlink(root + shown)
            if errno == ELOOP:
                return f"{shown} is a symbolic link to {target}"
            if root:
                return ""  # where it leads in there is not for us to find out
            if not os.path.exists(shown):
                return f"{shown} is a symbolic link to {target}, which leads nowhere"
            info = os.stat(shown)
        if errno == EACCES and not root and not os.access(shown, os.R_OK if is_last else os.X_OK, effective_ids=True):
            return f"{shown} is not to be {'read' if is_last else 'passed'} by user {os.geteuid()}: {_rights(info)}"
        if errno == ENOTDIR and not stat.S_ISDIR(info.st_mode) and (not is_last or is_directory):
            return f"{shown} is {_KINDS[stat.S_IFMT(info.st_mode)]}"
        if errno == EEXIST and is_last:
            return f"{shown} is {_KINDS[stat.S_IFMT(info.st_mode)]}"
    return ""


def _rights(info: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(info.st_mode):04o} of {info.st_uid}:{info.st_gid}"


def denial(root: str, path: str, plan: Plan) -> str:
    """Which directory the process's user may not pass, or that its program is not to be executed, "" where that cannot be told."""
    ids = {op.where: op for op in plan.ops if op.name in ("setresuid", "setresgid", "setgroups", "unshare")}
    if "/process/user/uid" not in ids or any(op.name == "unshare" and op.a & CLONE_NEWUSER for op in plan.ops):
        return ""  # the ids of a file are others in a user namespace
    uid, gids = ids["/process/user/uid"].a, [op.a for where, op in ids.items() if where == "/process/user/gid"]
    if (groups := ids.get("/process/user/additionalGids")) is not None and isinstance(groups.s0, bytes):
        gids += memoryview(groups.s0).cast("I")
    parts = [part for part in path.split("/") if part]
    shown = ""
    for number, part in enumerate(parts):
        shown += "/" + part
        try:
            info = os.lstat(root + shown)
        except OSError:
            return ""
        is_last = number == len(parts) - 1
        if not stat.S_ISDIR(info.st_mode) and not (is_last and stat.S_ISREG(info.st_mode)):
            return ""
        # path_resolution(7): of three classes the first that fits; root passes everything, and executes what anybody may
        shift = 6 if info.st_uid == uid else 3 if info.st_gid in gids else 0
        may = info.st_mode & 0o111 if uid == 0 and is_last else uid == 0 or info.st_mode >> shift & 1
        if not may:
            return f"{shown} is not to be {'executed' if is_last else 'passed'} by user {uid}: {_rights(info)}"
    try:
        is_noexec = os.statvfs(root + shown).f_flag & os.ST_NOEXEC
    except OSError:
        return ""
    return f"{shown} is on a file system that is mounted noexec" if is_noexec else ""


def rootfs_of(plan: Plan) -> str:
    """The host's path of the rootfs, as the plan opens it."""
    return next((str(op.s0) for op in plan.ops if op.name == "open" and op.where == "/root/path"), "")


def detail(plan: Plan, op: Op, errno: int) -> str:
    """What to say in brackets behind the kernel's words, "" for nothing."""
    path = op.s0 if isinstance(op.s0, str) else ""
    if op.name in _INSIDE:
        return component(path, errno, rootfs_of(plan), is_directory=op.name in ("mountpoint", "mkdirs", "chdir"))
    if op.name in ("open", "open-tree") and path:
        return component(path, errno, is_directory=op.where == "/root/path")
    if op.name in ("fsconfig", "fsmount", "mount") and errno == ENOENT:
        _, _, options = op.about.rpartition(" (")
        for word in options.removesuffix(")").split(","):
            key, _, value = word.partition("=")
            for layer in value.split(":") if key in ("lowerdir", "upperdir", "workdir") else ():
                found = component(layer, errno)
                if found:
                    return f"{key}: {found}"
    if op.name == "setns" and errno == EINVAL:
        return _namespace(op)
    return ""


def _namespace(op: Op) -> str:
    path = op.about.rpartition(" ")[2]
    try:
        link = os.readlink(path)
    except OSError:
        return f"{path} is not a namespace"
    kind, colon, _ = link.partition(":[")
    return f"{path} is of kind {kind}" if colon else f"{path} is not a namespace"


def missing(calls: str) -> str:
    """A hint for system calls that do not exist here."""
    oldest = ".".join(map(str, FLOOR))
    return f"{calls}: Linux {oldest} or newer has that, unless a seccomp profile of before then is around pyrunc"


def hint(op: Op, errno: int) -> str:
    """What there is to be done about it, or to know, "" where that is not certain."""
    where = op.where
    if errno == ENOSYS:
        return missing(op.name.replace("-", "_"))
    if op.name in ("fsopen", "mount") and errno == ENODEV:
        kind = op.about.split()[1]  # mount KIND on ...
        return (
            f"this kernel has no filesystem {kind}, or no module for it: /proc/filesystems has those that it knows now"
        )
    if op.name == "mount-setattr" and errno == EINVAL and "idmap" in op.about:
        return ""  # wire knows
    if where.startswith("/linux/sysctl/") and errno == ENOENT:
        return f"there is no {where[14:]} in the namespaces of this container, or not on this kernel"
    if where == "/process/scheduler" and errno == EPERM:
        if "FIFO" in op.about or "RR" in op.about:
            return "a realtime policy takes CAP_SYS_NICE, and a cgroup of v1 a budget besides: linux.resources.cpu.realtimeRuntime"
        return "that takes CAP_SYS_NICE"
    if where == "/process/oomScoreAdj" and errno == EACCES:
        return "to go below what its caller has takes CAP_SYS_RESOURCE" + _lacking(_SYS_RESOURCE)
    if where == "/linux/timeOffsets" and errno == ERANGE:
        uptime = text("/proc/uptime").partition(".")[0]
        return f"a clock may not go below zero, and the host's is at {uptime} s"
    if where == "/linux/memoryPolicy" and errno == EINVAL:
        return f"this machine has the memory nodes {text('/sys/devices/system/node/has_memory') or '0'}"
    return ""


def _lacking(number: int) -> str:
    """That this process has not the capability, where it has not."""
    for line in lines(text("/proc/self/status")):
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> number & 1:
            return ", which this process has not"
    return ""


def of_rlimit(errno: int) -> str:
    """A hint for a limit that was refused."""
    if errno != EPERM:
        return ""
    ceiling = text("/proc/sys/fs/nr_open")
    return f"to raise a hard limit takes CAP_SYS_RESOURCE{_lacking(_SYS_RESOURCE)}; RLIMIT_NOFILE ends at fs.nr_open, {ceiling}"


def of_program(rootfs: str, path: str, errno: int) -> str:
    """A hint for a program that is there and cannot be executed: its interpreter, or what it is made for."""
    if errno not in (ENOENT, ENOEXEC) or not path.startswith("/") or not rootfs:
        return ""
    if component(path, ENOENT, rootfs):
        return ""
    head = _head(rootfs, path)
    if not head:
        return ""
    if errno == ENOENT and head[:2] == b"#!":
        words = head[2:].partition(b"\n")[0].split()
        return f"its interpreter {words[0].decode('utf-8', 'replace')} is not there" if words else ""
    if errno == ENOENT and head[:4] == b"\x7fELF":
        return "its dynamic linker is not there"
    if errno == ENOEXEC and head[:4] == b"\x7fELF":
        return "it is made for another processor, or damaged"
    if errno == ENOEXEC and head[:2] != b"#!":
        return "it is neither an ELF file nor a script that begins with #! and its interpreter"
    return ""


def _head(rootfs: str, path: str) -> bytes:
    """How a regular file of the rootfs begins; nothing where a link is on the way, which may lead to a device of the host's."""
    head = b""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        return head
    try:
        fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return head
    try:
        for part in parts:
            inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
        # for reading only now: to open a device is to do something to it
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
                head = file.read(256)
    except OSError:
        pass  # gone meanwhile, or a link, or not to be read: then there is no hint
    finally:
        os.close(fd)
    return head
