"""A plan: all that the kernel will be asked to do, as plain data, computed before the first of it is done.

A `Plan` has host steps, run by Python before the interpreter is spawned; init ops, run by the interpreter; and
sections, the host steps that an `ask` op has the parent run. What is printed, checked and quoted in errors here is
the very list that `launch` and the interpreter carry out: there is no second description. Pure: no system call.

    registers   hold descriptors; named by role in ops ("rootfs", "proc"), numbered by `wire`
    Op.about    what the op is part of, in words for an error: `mount proc on /proc (nosuid,nodev,noexec)`
    Op.where    the JSON pointer of the property that asked for it: `/mounts/0`
"""

from __future__ import annotations

from runtime import linux
from runtime.errors import Error
from runtime.ops import FLAGS, OPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: a host step: kind ("mkdir", "write", "hook", ...), on what, with what
Step = tuple[str, str, str]


class Op:
    """One operation of the interpreter. Registers are roles, "" where the op has none; strings are text or bytes."""

    __slots__ = ("name", "flags", "r0", "r1", "r2", "a", "b", "c", "s0", "s1", "s2", "about", "where")

    def __init__(
        self,
        name: str,
        s0: str | bytes = "",
        s1: str | bytes = "",
        s2: str | bytes = "",
        *,
        r0: str = "",
        r1: str = "",
        r2: str = "",
        a: int = 0,
        b: int = 0,
        c: int = 0,
        flags: int = 0,
        about: str = "",
        where: str = "",
    ) -> None:
        self.name = name
        self.flags = flags
        self.r0 = r0
        self.r1 = r1
        self.r2 = r2
        self.a = a
        self.b = b
        self.c = c
        self.s0 = s0
        self.s1 = s1
        self.s2 = s2
        self.about = about
        self.where = where

    def __repr__(self) -> str:
        return f"<{self.name} {describe(self)}>"


class Plan:
    """Host steps, init ops, and the sections of host steps that the ops ask for."""

    __slots__ = ("host", "ops", "sections", "inherited", "first_fd", "warnings", "preserve")

    def __init__(self) -> None:
        #: steps before the launch, each with the words for its undoing ("" where nothing is left to undo)
        self.host: list[tuple[Step, str]] = []
        self.ops: list[Op] = []
        #: section name -> steps; an `ask` op names one in s0 and carries its place in this dict in a. After those come the steps
        #: that nobody asks for: "fork", "fifo" and "exec", done when init has got there, and "delete"
        self.sections: dict[str, list[Step]] = {}
        #: registers that the launcher fills, in order
        self.inherited: list[str] = []
        #: how many descriptors from 3 on the container gets as they are
        self.preserve = 0
        #: what was asked for and cannot be had, where the specification wants a warning and no error
        self.warnings: list[str] = []

    def ask(
        self,
        section: str,
        steps: Iterable[Step] = (),
        *,
        get: str = "",
        send: str = "",
        about: str = "",
        where: str = "",
    ) -> Op:
        """An `ask` op for a section of host steps, which is made here."""
        if section not in self.sections:
            self.sections[section] = []
        self.sections[section].extend(steps)
        number = list(self.sections).index(section)
        return Op("ask", section, r0=get, r1=send, a=number, about=about, where=where)

    def lines(self) -> Iterator[tuple[str, int, str, str, str]]:
        """(host or init, index, name, text, note) for each line of the printed plan, in the order it happens."""
        for index, (step, undo) in enumerate(self.host, 1):
            yield ("host", index, step[0], step_text(step), f"undo: {undo}" if undo else "")
        for index, op in enumerate(self.ops):
            yield ("init", index, op.name, describe(op), op.where)
            note = "by start" if op.name == "exec" else ""
            for step in self.sections.get(str(op.s0) if op.name == "ask" else op.name, ()):
                yield ("host", -1, step[0], step_text(step), note)
        for step in self.sections.get("delete", ()):
            yield ("host", -1, step[0], step_text(step), "by delete")

    def text(self) -> str:
        """The plan as `pyrunc plan` prints it, one line each."""
        out = []
        for place, index, name, text, note in self.lines():
            number = f"{index:4}" if index >= 0 else "    "
            line = f"{place} {number}  {name:<14} {text}"
            out.append(f"{line:<100}  {note}".rstrip() if note else line.rstrip())
        return "\n".join(out) + "\n"


def step_text(step: Step) -> str:
    """A host step without its kind: `/sys/fs/cgroup/pids/web/pids.max 100`."""
    return show(f"{step[1]} {step[2]}".rstrip()) if step[2] else show(step[1])


def describe(op: Op) -> str:
    """The op without its name, as the plan prints it: `r5 -> rootfs:/proc`."""
    template = OPS[op.name][1]
    out = []
    rest = template
    while True:
        head, brace, rest = rest.partition("{")
        out.append(head)
        if not brace:
            break
        field, _, rest = rest.partition("}")
        out.append(_field(op, field))
    text = "".join(out)
    if op.flags:
        text += "".join(f" {word}" for bit, word in FLAGS.items() if op.flags & bit)
    return text.strip()


def _field(op: Op, field: str) -> str:
    if field[0] == "<":
        register = getattr(op, field[1:])
        return f" <- {register}" if register else ""
    if field[0] == ">":
        register = getattr(op, field[1:])
        return f" -> {register}" if register else ""
    name, _, form = field.partition(":")
    value = getattr(op, name)
    if form:
        return FORMATS[form](value)
    return show(value)


def show(value: object) -> str:
    """A string of a plan as text on one line: bytes and control characters are escaped."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _caps(mask: int) -> str:
    names = [name[4:].lower() for number, name in enumerate(linux.CAPABILITIES) if mask >> number & 1]
    if len(names) == len(linux.CAPABILITIES):
        return "all"
    return ",".join(names) or "none"


def _gids(blob: bytes) -> str:
    return ",".join(str(int.from_bytes(blob[i : i + 4], "little")) for i in range(0, len(blob), 4)) or "none"


def _items(blob: str | bytes) -> list[str]:
    text = blob.decode("utf-8", "backslashreplace") if isinstance(blob, bytes) else blob
    return text.split("\0")


def _attributes(value: int) -> str:
    if value & linux.MOUNT_ATTR__ATIME == linux.MOUNT_ATTR__ATIME:
        # the whole field, which is cleared to set one of its values
        rest = linux.bit_names(value & ~linux.MOUNT_ATTR__ATIME, linux.MOUNT_ATTRS)
        return f"{rest},atime" if rest else "atime"
    return linux.bit_names(value, linux.MOUNT_ATTRS)


def _propagation(value: int) -> str:
    return f" {linux.PROPAGATION_NAMES.get(value, hex(value))}" if value else ""


_KINDS = {linux.S_IFCHR: "c", linux.S_IFBLK: "b", linux.S_IFIFO: "p", linux.S_IFREG: "f", linux.S_IFDIR: "d"}

FORMATS: dict[str, Callable[..., str]] = {
    "ns": linux.namespace_names,
    "prctl": lambda v: linux.PRCTLS.get(v, str(v)),
    "hex": hex,
    "octal": lambda v: f"0{v:o}",
    "gids": _gids,
    "caps": _caps,
    "at": lambda register: f"{register}:" if register else "host:",
    "open": lambda v: linux.bit_names(v & ~linux.O_CLOEXEC, linux.OPEN_FLAGS) or "read",
    "node": lambda v: f"{_KINDS.get(v & linux.S_IFMT, '?')} 0{v & 0o7777:o}",
    "dev": lambda v: f"{(v >> 8) & 0xFFF | (v >> 32) & ~0xFFF}:{v & 0xFF | (v >> 12) & ~0xFF}",
    "owner": lambda v: f"{v & 0xFFFFFFFF}:{v >> 32}",
    "value": lambda v: f"={show(v)}" if v else "",
    "attrs": lambda v: _attributes(v) or "none",
    "options": lambda v: f" ({show(v)})" if v else "",
    "superblock": lambda v: f" {','.join(word for word, bit in linux.SUPERBLOCK.items() if v & bit)}" if v else "",
    "set": lambda v: f" set {_attributes(v)}" if v else "",
    "clear": lambda v: f" clear {_attributes(v)}" if v else "",
    "command": lambda v: "reconfigure" if v == linux.FSCONFIG_CMD_RECONFIGURE else "",
    "tree": lambda v: (
        ",".join(
            word
            for bit, word in (
                (linux.OPEN_TREE_CLONE, "clone"),
                (linux.AT_RECURSIVE, "recursive"),
                (linux.AT_SYMLINK_NOFOLLOW, "nofollow"),
            )
            if v & bit
        )
        or "as it is"
    ),
    "propagation": _propagation,
    "timeout": lambda v: f" at most {v} ms" if v else "",
    "only": lambda v: " (the root of the host stays)" if v else "",
    "mode": lambda v: " (its mode)" if v else "",
    "there": lambda v: " (which is there)" if v else "",
    "look": lambda v: " (look only)" if v else "",
    "again": lambda v: " (unless done)" if v else "",
    "list": lambda blob: " or ".join(show(item) for item in _items(blob)),
    "first": lambda blob: show(_items(blob)[0]),
    "bpf": lambda blob: f"{len(blob) // 8} instructions",
    "seccomp": lambda v: f" flags {hex(v)}" if v else "",
}


# -- invariants ----------------------------------------------------------------------------------------------------

#: credentials are given up in this order, and it is the only one that works: see capabilities(7)
_CREDENTIALS = ("bounding", "setgroups", "setresgid", "setresuid", "capset", "ambient")
#: registers an op fills, registers it reads
_FILLS = {
    "ask": ("r0",), "open": ("r0",), "mkdirs": ("r0",), "mountpoint": ("r0",), "fsopen": ("r0",), "fspick": ("r0",),
    "fsmount": ("r1",), "mount": ("r0",), "netlink": ("r0",), "open-tree": ("r0",), "open-pty": ("r0", "r2"), "mask": ("r2",), "seccomp": ("r0",),
}  # fmt: skip
_READS = {
    "ask": ("r1",), "fifo": ("r0", "r1"), "fork": ("r0",), "setns": ("r0",), "open": ("r1",), "close": ("r0",), "write": ("r1",),
    "mkdirs": ("r1",), "mountpoint": ("r1", "r2"), "symlink": ("r1",), "mknod": ("r1",), "check-device": ("r0",),
    "fspick": ("r1",), "fsconfig": ("r0", "r1"), "fsmount": ("r0",), "open-tree": ("r1",), "move-mount": ("r0", "r1"),
    "mount-setattr": ("r0", "r1"), "copy-up": ("r0", "r1"), "mask": ("r0", "r1"), "readonly": ("r1",),
    "pivot-root": ("r0",), "chroot": ("r0",), "chdir": ("r1",), "open-pty": ("r1",), "ctty": ("r0",),
    "reopen-null": ("r1",), "unmount": ("r0", "r1"), "run-hook": ("r0", "r1", "r2"), "close-range": ("r0", "r1", "r2"), "inherit": ("r0",),
}  # fmt: skip
#: ops that name a path on the host when they have no register to start from
_HOST_PATHS = frozenset(
    ("open", "write", "mkdirs", "mountpoint", "mknod", "symlink", "fspick", "open-tree", "mask", "readonly")
)


#: registers that each op reads and fills, and the ops that have a rule of their own in check()
_USES = {name: (_READS.get(name, ()), _FILLS.get(name, ())) for name in OPS}
_CHECKED = frozenset(
    ("close", "exec", "ask", "pivot-root", "chroot", "close-range", "chdir", "seccomp", "prctl", "write", "mask", "readonly", "move-mount",
     "unshare", "setns", "inherit", *_CREDENTIALS)
)  # fmt: skip


class PlanError(Error):
    """A plan breaks an invariant: a mistake of ours, found before anything was done."""


class _Credentials:
    """The order in which privileges are given up. Becoming root of a user namespace is a round of its own, which the bounding
    set of the second one ends."""

    def __init__(self) -> None:
        self.rank = 0
        self.is_bounded = False
        self.are_dropped = False

    def take(self, name: str, index: int) -> None:
        place = _CREDENTIALS.index(name)
        if name == "bounding" and not self.is_bounded and not self.are_dropped:
            self.is_bounded, self.rank = True, 0
        if place < self.rank:
            raise PlanError(f"plan: {name} after {_CREDENTIALS[self.rank]} [init {index}]")
        self.rank = place
        if name == "capset":
            self.are_dropped = True


def _check_end(ops: list[Op]) -> None:
    if not ops or ops[-1].name != "exec":
        raise PlanError("plan: exec is not the last op")
    if not any(op.name == "close-range" for op in ops):
        raise PlanError("plan: descriptors are not closed before exec")


def check(plan: Plan) -> None:
    """Raise PlanError unless the plan keeps what the design promises; called before every launch.

    The invariants are those of the threat model: descriptors instead of paths once the rootfs matters, order of the
    privileges given up, nothing of the host reachable after the root has changed.
    """
    ops = plan.ops
    _check_end(ops)
    have = {"", *plan.inherited}
    pivoted = closed = seccomped = locked = mounted = False
    credentials = _Credentials()
    for index, op in enumerate(ops):
        name = op.name
        uses = _USES.get(name)
        if uses is None:
            raise PlanError(f"plan: no op is called {name} [init {index}]")
        reads, fills = uses
        for slot in reads:
            register = getattr(op, slot)
            if register not in have:
                raise PlanError(f"plan: {name} reads {register} before it is filled [init {index}]")
        for slot in fills:
            have.add(getattr(op, slot))
        if pivoted and not op.r1 and name in _HOST_PATHS:
            raise PlanError(f"plan: {name} names a path of the host after the root has changed [init {index}]")
        if name not in _CHECKED:
            continue
        if name == "close":
            have.discard(op.r0)
        elif name == "exec" and index != len(ops) - 1:
            raise PlanError(f"plan: exec before the last op [init {index}]")
        elif name == "ask" and (op.s0 not in plan.sections or list(plan.sections).index(str(op.s0)) != op.a):
            raise PlanError(f"plan: nobody answers {show(op.s0)} [init {index}]")
        elif name in ("pivot-root", "chroot"):
            pivoted = True
        elif name == "close-range":
            closed = True
            have &= {op.r0, op.r1, op.r2, "", *plan.inherited[: op.b]}
        elif name == "chdir" and not closed:
            # CVE-2024-21626: with a descriptor of the host still open, /proc/self/fd/N is a way out of the root
            raise PlanError(f"plan: chdir before close-range [init {index}]")
        elif name in _CREDENTIALS:
            credentials.take(name, index)
        elif name == "prctl" and op.a == linux.PR_SET_NO_NEW_PRIVS:
            locked = True
        elif name == "seccomp":
            seccomped = True
            if locked and not op.r0 and index != len(ops) - 2:
                raise PlanError(f"plan: something runs under the seccomp filter before exec [init {index}]")
            if not locked and credentials.are_dropped:
                raise PlanError(f"plan: the seccomp filter comes after the privilege to load it [init {index}]")
        elif name == "inherit" and pivoted:
            raise PlanError(f"plan: a descriptor of the host would be open in the container [init {index}]")
        elif name == "move-mount" or (name == "setns" and op.a & linux.CLONE_NEWNS):
            mounted = True
        elif name == "write" and not op.r1 and (mounted or str(op.s0).startswith("/proc")):
            # a path of ours may lie under a mount of the container's (CVE-2019-16884, CVE-2025-52881)
            raise PlanError(f"plan: write to {show(op.s0)} and not below a register [init {index}]")
        if seccomped and name in ("mask", "readonly", "move-mount", "unshare", "setns"):
            raise PlanError(f"plan: {name} after the seccomp filter is loaded [init {index}]")
