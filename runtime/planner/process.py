"""The process itself: its private /proc, oom score, session, keyring, names, umask, scheduling, limits.

What has to be written below /proc goes through the register "proc", a procfs of our own that nobody can mount over. A
write that an overmount could redirect was the hole behind CVE-2019-16884, CVE-2019-19921 and CVE-2025-52881.
"""

from __future__ import annotations

from struct import Struct

from runtime import linux
from runtime.errors import ConfigError
from runtime.ops import FLAG_DENIED
from runtime.plan import Op
from runtime.planner import lsm, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from runtime.plan import Plan
    from runtime.planner import Request

#: struct sched_attr, sched_setattr(2): size policy flags nice priority runtime deadline period
_sched_attr = Struct("=IIQiIQQQ")

#: enough for 8192 processors; the kernel takes what it has of them
_ALL_CPUS = b"\xff" * 1024

_WHERE = "/process"


# -- on the host -------------------------------------------------------------------------------------------------------


def private_proc(request: Request, plan: Plan) -> Iterator[Op]:
    """Mount a procfs that only we hold; without the right to mount, the host's is taken while it is still the host's."""
    yield from _private_proc(request, has_sysctl=bool((request.config.get("linux") or {}).get("sysctl")))


def private_proc_of_processes(request: Request, plan: Plan) -> Iterator[Op]:
    """The same for an exec, which sets no kernel parameters."""
    yield from _private_proc(request, has_sysctl=False)


def _private_proc(request: Request, *, has_sysctl: bool) -> Iterator[Op]:
    # modes of what we make are exactly those asked for, until the user's umask is set
    yield Op("umask", a=0, about="clear the umask")
    about = "open a private proc"
    if request.host.is_rootless:
        flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
        yield Op("open", "/proc", r0="proc", a=flags, about=about)
        return
    yield Op("fsopen", "proc", r0="fs", about=about)
    if not has_sysctl:
        # processes only: what is not there, /proc/sysrq-trigger or /proc/sys, no write of ours can be led to
        yield Op("fsconfig", "subset", "pid", r0="fs", a=linux.FSCONFIG_SET_STRING, about=about)
    attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
    yield Op("fsmount", r0="fs", r1="proc", a=attributes, about=about)


def close_proc(request: Request, plan: Plan) -> Iterator[Op]:
    """Let go of the private proc before the fork into the container, unless a label is to be written through it.

    It shows the host's processes, and their roots: who may trace any process in there, with CAP_SYS_PTRACE, could take it
    from us whether we are dumpable or not (CVE-2016-9962).
    """
    if not request.host.is_rootless:
        yield Op("close", r0="fs")
    if not request.process.get("apparmorProfile") and not request.process.get("selinuxLabel"):
        yield Op("close", r0="proc")


def oom_score(request: Request, plan: Plan) -> Iterator[Op]:
    """Set the oom score first of all: once we are undumpable the file is root's, and lowering it is the host's privilege."""
    score = request.process.get("oomScoreAdj")
    if score is None:
        return
    yield Op(
        "write",
        "self/oom_score_adj",
        str(score),
        r1="proc",
        flags=FLAG_DENIED if request.host.is_rootless else 0,
        about=f"set oom_score_adj to {score}",
        where=f"{_WHERE}/oomScoreAdj",
    )


def not_dumpable(request: Request, plan: Plan) -> Iterator[Op]:
    """Become undumpable, unless id maps must be written first by a parent that is not root: then right after those."""
    if request.host.is_rootless and namespaces.get(request).new & linux.CLONE_NEWUSER:
        return
    yield namespaces.not_dumpable()


# -- affinity ----------------------------------------------------------------------------------------------------------


def reset_affinity(request: Request, plan: Plan) -> Iterator[Op]:
    """Forget the caller's affinity, which is an accident; the cpuset of the cgroup, joined by now, still binds."""
    yield Op("affinity", _ALL_CPUS, "all processors", flags=FLAG_DENIED, about="reset the processor affinity")


def initial_affinity(request: Request, plan: Plan) -> Iterator[Op]:
    """Where an exec starts, before it joins the cgroup."""
    yield from _affinity(request, "initial")


def final_affinity(request: Request, plan: Plan) -> Iterator[Op]:
    """Where an exec runs, after it has joined the cgroup: what the config wants, else wherever the cpuset allows."""
    if (request.process.get("execCPUAffinity") or {}).get("final"):
        yield from _affinity(request, "final")
    else:
        yield from reset_affinity(request, plan)


def _affinity(request: Request, key: str) -> Iterator[Op]:
    text = (request.process.get("execCPUAffinity") or {}).get(key)
    if text:
        where = f"{_WHERE}/execCPUAffinity/{key}"
        mask = number_mask(text, where)
        yield Op("affinity", mask, text, about=f"set the {key} processor affinity to {text}", where=where)


def number_mask(text: str, where: str) -> bytes:
    """A list such as `0-3,7` as a little-endian bit mask, in whole longs as the kernel wants it; cpuset(7)."""
    mask = 0
    for item in text.replace(" ", "").split(","):
        first, dash, last = item.partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise ConfigError(where, f'"{text}" is no list of numbers such as 0-3,7')
        low, high = int(first), int(last or first)
        if low > high or high >= 8 * len(_ALL_CPUS):
            raise ConfigError(where, f'"{item}" is no range of numbers below {8 * len(_ALL_CPUS)}')
        mask |= (1 << high + 1) - (1 << low)
    return mask.to_bytes((mask.bit_length() + 63) // 64 * 8, "little")


# -- inside ------------------------------------------------------------------------------------------------------------


def session(request: Request, plan: Plan) -> Iterator[Op]:
    """A session of its own, so that no terminal of the caller can be typed into (CVE-2016-10124), and a session keyring."""
    yield Op("setsid", about="start a session")
    host = request.host
    if host.egid and not host.euid and not request.has_user_ns and not host.in_user_ns:
        # file systems and files that are made belong to the group of who makes them, and not to root's caller's (sudo -g)
        yield Op("setresgid", a=0, about="become group 0")
    if request.no_new_keyring:
        return
    yield from lsm.label_new_keys(request)
    # joined by name by every exec of the container; searchable by its user, or in a user namespace by whom the id maps to
    permission = 0x8 if request.has_user_ns else 0x80000
    yield Op("keyring", f"_ses.{request.id}", a=0xFFFFFFFF, b=permission, about="join the session keyring")
    yield from lsm.label_keys_as_usual(request)


def make_cwd(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the working directory where the image has none; it is entered later, when nothing of the host is open."""
    cwd = request.process.get("cwd") or "/"
    if cwd[:1] != "/":
        raise ConfigError(f"{_WHERE}/cwd", f'"{cwd}" is not an absolute path', clause="config.md#process")
    if cwd != "/":
        yield Op("mkdirs", cwd, r1="rootfs", a=0o755, about=f"make working directory {cwd}", where=f"{_WHERE}/cwd")


def hostname(request: Request, plan: Plan) -> Iterator[Op]:
    """Name the host and its domain, while we still have the privilege."""
    config = request.config
    for key, op in (("hostname", "sethostname"), ("domainname", "setdomainname")):
        name = config.get(key)
        if not name:
            continue
        if not namespaces.get(request).flags & linux.CLONE_NEWUTS:
            raise ConfigError(
                f"/{key}", f"unable to set {key} without a private UTS namespace", clause=f"config.md#{key}"
            )
        yield Op(op, name, about=f'set {key} "{name}"', where=f"/{key}")


def settings(request: Request, plan: Plan) -> Iterator[Op]:
    """What neither needs nor changes privilege: umask, scheduling, personality, memory policy, owner of the terminal."""
    process = request.process
    spec = request.config.get("linux") or {}
    user = process.get("user") or {}
    umask = user.get("umask")
    yield Op("umask", a=0o022 if umask is None else umask, about="set the umask", where=f"{_WHERE}/user/umask")
    # after the cgroup: a deadline policy is refused to a process that is then confined to fewer processors
    if process.get("scheduler"):
        yield _scheduler(process["scheduler"])
    if process.get("ioPriority"):
        yield _io_priority(process["ioPriority"])
    if spec.get("personality"):
        yield _personality(spec["personality"], plan)
    if (spec.get("memoryPolicy") or {}).get("mode"):
        yield _memory_policy(spec["memoryPolicy"])
    # while we may give files away; a terminal that stayed root's could not be reopened by the user
    yield Op(
        "chown-stdio",
        a=user.get("uid", 0),
        about="give the standard descriptors to the user",
        where=f"{_WHERE}/user/uid",
    )


def no_new_privileges(request: Request, plan: Plan) -> Iterator[Op]:
    """Set no_new_privs, prctl(2)."""
    if request.process.get("noNewPrivileges"):
        where = f"{_WHERE}/noNewPrivileges"
        yield Op("prctl", a=linux.PR_SET_NO_NEW_PRIVS, b=1, about="set no_new_privs", where=where)


def ready(request: Request, plan: Plan) -> Iterator[Op]:
    """Have the parent set the limits and take note that all went well; whatever it adds to the section is done here."""
    limits = request.process.get("rlimits") or ()
    steps = [("rlimit", limit["type"], f"{limit['soft']}:{limit['hard']}") for limit in limits]
    for index, limit in enumerate(limits):
        if limit["type"] not in linux.RLIMITS:
            raise ConfigError(f"{_WHERE}/rlimits/{index}/type", f'no limit is called "{limit["type"]}"')
    yield plan.ask("ready", steps, about="get ready")


def _scheduler(wanted: dict[str, Any]) -> Op:
    where = f"{_WHERE}/scheduler"
    policy = _value(linux.SCHED_POLICIES, wanted["policy"], f"{where}/policy")
    flags = _values(linux.SCHED_FLAGS, wanted.get("flags") or (), f"{where}/flags")
    blob = _sched_attr.pack(
        _sched_attr.size,
        policy,
        flags,
        wanted.get("nice") or 0,
        wanted.get("priority") or 0,
        wanted.get("runtime") or 0,
        wanted.get("deadline") or 0,
        wanted.get("period") or 0,
    )
    text = wanted["policy"]
    for key in ("nice", "priority", "runtime", "deadline", "period"):
        if wanted.get(key):
            text += f" {key} {wanted[key]}"
    return Op("scheduler", blob, text, about=f"set scheduler {text}", where=where)


def _io_priority(wanted: dict[str, Any]) -> Op:
    where = f"{_WHERE}/ioPriority"
    number = _value(linux.IOPRIO_CLASSES, wanted["class"], f"{where}/class")
    level = wanted.get("priority") or 0
    text = f"{wanted['class']} {level}"
    return Op(
        "ioprio", "", text, a=number << linux.IOPRIO_CLASS_SHIFT | level, about=f"set io priority {text}", where=where
    )


def _personality(wanted: dict[str, Any], plan: Plan) -> Op:
    where = "/linux/personality"
    value = _value(linux.PERSONALITIES, wanted["domain"], f"{where}/domain")
    if wanted.get("flags"):
        # the specification defines none yet
        plan.warnings.append("linux.personality.flags: not supported, ignoring")
    return Op("personality", a=value, about=f"set personality {wanted['domain']}", where=where)


def _memory_policy(wanted: dict[str, Any]) -> Op:
    where = "/linux/memoryPolicy"
    mode = _value(linux.MEMPOLICY_MODES, wanted["mode"], f"{where}/mode")
    mode |= _values(linux.MEMPOLICY_FLAGS, wanted.get("flags") or (), f"{where}/flags")
    nodes = wanted.get("nodes") or ""
    mask = number_mask(nodes, f"{where}/nodes") if nodes else b""
    text = f"{wanted['mode']} {nodes}".rstrip()
    # set_mempolicy(2) counts one more bit than it reads
    count = 8 * len(mask) + 1 if mask else 0
    return Op("mempolicy", mask, text, a=mode, b=count, about=f"set memory policy {text}", where=where)


def _value(table: dict[str, int], name: str, where: str) -> int:
    if name not in table:
        raise ConfigError(where, f'"{name}" is none of {", ".join(table)}')
    return table[name]


def _values(table: dict[str, int], names: Iterable[str], where: str) -> int:
    bits = 0
    for name in names:
        bits |= _value(table, name, where)
    return bits
