"""What an ordinary user has to be given by the administrator before there can be containers: user namespaces, subordinate ids.

Asked only once the kernel or newuidmap has refused, for a hint that names what is missing and how it is given, and by
`pyrunc doctor`. Nothing here decides anything.
"""

from __future__ import annotations

from errno import EACCES, ENOSPC, EPERM, EUSERS

from runtime import system as os
from runtime.texts import lines, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: (below /proc/sys, value, what it means, what turns it off again) of each switch that forbids user namespaces
SWITCHES = (
    ("user/max_user_namespaces", "0", "user namespaces are turned off", "sysctl user.max_user_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "user namespaces are for root only", "sysctl kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor allows user namespaces to programs with a profile for it only",
     "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
)  # fmt: skip

#: where distributions begin to give subordinate ids (SUB_UID_MIN in login.defs(5)), and how many at a time
FIRST, COUNT = 100000, 65536


# -- user namespaces -------------------------------------------------------------------------------------------------------


def why_no_user_ns(errno: int) -> str:
    """A hint for a user namespace that was refused: which switch forbids it, and how it is turned; "" where none is known to."""
    for name, bad, meaning, remedy in SWITCHES:
        if text(f"/proc/sys/{name}") == bad:
            return f"{meaning} ({name.replace('/', '.')} is {bad}): as root, {remedy}"
    if errno in (ENOSPC, EUSERS):
        return (
            "there are as many as may be, of this user or in one another (32): as root, raise user.max_user_namespaces"
        )
    if errno in (EPERM, EACCES):
        status = text("/proc/self/status")
        if "\nSeccomp:\t2" in status:
            return "a seccomp filter on this process refuses it, as engines load for their containers: start pyrunc without it"
    return ""


def why_powerless(errno: int) -> str:
    """A hint for what root of a new user namespace was refused: AppArmor lets it be made, and takes all privilege from it."""
    name, bad, _, remedy = SWITCHES[2]
    if errno not in (EPERM, EACCES) or os.geteuid() == 0 or text(f"/proc/sys/{name}") != bad:
        return ""
    return f"AppArmor leaves no privilege to user namespaces of programs without a profile for it: as root, {remedy}"


def why_no_mount(attempt: str, errno: int) -> str:
    """A hint for a mount that root of a user namespace was refused; `attempt` are the words of it, `mount TYPE on ...`."""
    if errno != EPERM:
        return ""
    return _MOUNTS.get(" ".join(attempt.split()[:2]), "")


#: what the kernel's EPERM means for those that show something of the host, user_namespaces(7), mount_namespaces(7)
_MOUNTS = {
    "mount sysfs": "sysfs is for the owner of the network namespace: give the container one of its own, or bind the host's /sys, "
    "as `pyrunc spec --rootless` does",
    "mount proc": "no new proc can be mounted where parts of /proc are covered, as in a container, or without a pid namespace of "
    "one's own: have the outer container's /proc unmasked, or bind /proc",
    "mount mqueue": "mqueue is for the owner of the ipc namespace: give the container one of its own",
}


def why_not_moved(path: str, errno: int) -> str:
    """A hint for a process that could not be put into a cgroup whose cgroup.procs may be written to all the same."""
    if errno != EACCES or not path.endswith("/cgroup.procs") or not os.access(path, os.W_OK):
        return ""
    # the kernel asks for the right to write cgroup.procs of the cgroup that both are in (cgroups(7), Delegation)
    own = text("/proc/self/cgroup").partition("0::")[2]
    return f"a user moves processes only within what was given to him: start this from there, and not from {own}"


def why_no_image() -> str:
    """A hint for an interpreter that could not be started: where memfds are not to be executed it takes a user namespace."""
    if text("/proc/sys/vm/memfd_noexec") != "2":
        return ""
    why = "vm.memfd_noexec is 2, and the way round it is a user namespace"
    more = why_no_user_ns(0)
    return f"{why}; {more}" if more else f"{why}: as root, sysctl vm.memfd_noexec=1"


# -- subordinate ids -------------------------------------------------------------------------------------------------------


def name_of(uid: int) -> str:
    """The user's name, or the number of one who has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def ranges(path: str, uid: int) -> list[tuple[int, int]]:
    """(first, count) of each range that the file gives to a user, by name or by number, subuid(5)."""
    names = (str(uid), name_of(uid))
    return [(first, count) for owner, first, count in _entries(path) if owner in names]


def _entries(path: str) -> list[tuple[str, int, int]]:
    found = []
    for line in lines(text(path)):
        owner, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if first.isdigit() and count.isdigit():
            found.append((owner, int(first), int(count)))
    return found


def line_for(path: str, uid: int, wanted: Sequence[tuple[int, int]] = ()) -> str:
    """The line that would give the user a range: the first wanted one that is lacking, or else one that nobody has.

    "" where what is wanted is somebody else's, or below where subordinate ids begin: those are the host's own users.
    """
    taken = [(first, first + count) for _, first, count in _entries(path)]
    own = ranges(path, uid)
    for first, count in wanted:
        if any(a <= first and first + count <= a + n for a, n in own):
            continue
        if first < FIRST or any(first < end and a < first + count for a, end in taken):
            return ""
        return f"{name_of(uid)}:{first}:{count}"
    start = max([FIRST, *(end for _, end in taken)])
    return f"{name_of(uid)}:{start}:{COUNT}"


def why_no_ids(path: str, uid: int, wanted: Sequence[tuple[int, int]]) -> str:
    """A hint for ids that newuidmap or newgidmap would not map: what the user has, and the line of the file that is missing."""
    own = ranges(path, uid)
    has = ", ".join(f"{first}-{first + count - 1}" for first, count in own)
    line = line_for(path, uid, wanted)
    if own and line:
        return f"{path} gives {name_of(uid)} {has}: map no others, or add as root the line {line}"
    if own:
        return f"{path} gives {name_of(uid)} {has}: map no others"
    return f"{path} has nothing for {name_of(uid)}: add as root the line {line or line_for(path, uid)}"


def why_helper_is_powerless(path: str) -> str:
    """What keeps newuidmap or newgidmap from doing its work, "" where nothing does."""
    if "\nNoNewPrivs:\t1" in text("/proc/self/status"):
        return (
            "no_new_privs is set on this process: start pyrunc from a session or service without it (NoNewPrivileges=)"
        )
    info = os.stat(path)
    if not (info.st_mode & 0o4000 and info.st_uid == 0) and not _has_file_capabilities(path):
        return f"{path} is neither set-user-id root nor has file capabilities: as root, chmod u+s {path}"
    if os.statvfs(path).f_flag & 2:  # ST_NOSUID
        return f"the file system of {path} is mounted nosuid: as root, mount -o remount,suid it"
    return ""


def _has_file_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False
