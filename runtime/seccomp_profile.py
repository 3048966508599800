"""The words of `linux.seccomp` read into numbers: actions, architectures, flags, rules; all mistakes named by their place.

Reading is pure. It must not load libseccomp, which is asked for only once a section is known to be right, and it must not
be imported where a cached filter answers (`seccomp.prepare`).
"""

from __future__ import annotations

from runtime.errors import ConfigError, RuleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: (index, operator, first datum, second datum), in libseccomp's sense
    Condition = tuple[int, int, int, int]

PLACE = "/linux/seccomp"
CLAUSE = "config-linux.md#seccomp"

# What a filter answers, seccomp(2): the action in the upper half of the word, its datum (errno, message) in the lower.
RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_NOTIFY = 0x7FC00000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

ACTIONS = {
    "SCMP_ACT_KILL": RET_KILL_THREAD,  # the old name of KILL_THREAD, libseccomp says so too
    "SCMP_ACT_KILL_PROCESS": RET_KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": RET_KILL_THREAD,
    "SCMP_ACT_TRAP": RET_TRAP,
    "SCMP_ACT_ERRNO": RET_ERRNO,
    "SCMP_ACT_TRACE": RET_TRACE,
    "SCMP_ACT_ALLOW": RET_ALLOW,
    "SCMP_ACT_LOG": RET_LOG,
    "SCMP_ACT_NOTIFY": RET_NOTIFY,
}

#: the kernel's names of the actions, as /proc/sys/kernel/seccomp/actions_avail lists them
KERNEL_ACTIONS = {
    RET_KILL_PROCESS: "kill_process",
    RET_KILL_THREAD: "kill_thread",
    RET_TRAP: "trap",
    RET_ERRNO: "errno",
    RET_NOTIFY: "user_notif",
    RET_TRACE: "trace",
    RET_LOG: "log",
    RET_ALLOW: "allow",
}

#: enum scmp_compare
OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

#: each SCMP_ARCH_ name of the specification -> libseccomp's word for it
ARCHITECTURES = {
    f"SCMP_ARCH_{name.upper()}": name
    for name in (
        "x86", "x86_64", "x32", "arm", "aarch64", "loongarch64", "m68k", "mips", "mips64", "mips64n32", "mipsel",
        "mipsel64", "mipsel64n32", "ppc", "ppc64", "ppc64le", "riscv64", "s390", "s390x", "parisc", "parisc64", "sh", "sheb",
    )
}  # fmt: skip

FLAG_LOG = 2
FLAG_SPEC_ALLOW = 4
FLAG_NEW_LISTENER = 8
FLAG_WAIT_KILLABLE_RECV = 32
#: each SECCOMP_FILTER_FLAG_ of the specification -> what is passed to seccomp(2)
FLAGS = {
    # nothing to synchronise: the filter is loaded by a process of one thread, before the user's program runs
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_LOG": FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FLAG_WAIT_KILLABLE_RECV,
}

#: the kernel turns what is larger than its MAX_ERRNO (4095) into that in silence; libseccomp takes what is below it
ERRNO_MAX = 4094
#: a tracer's message is what SECCOMP_RET_DATA can hold
MESSAGE_MAX = 0xFFFF
EPERM = 1

# The listener's descriptor exists from the moment the filter does, and init sends it to the runtime, under that very filter,
# with the first of these and hears with the second that the agent has it.
HANDOVER = ("sendmsg", "recvmsg")


class Rule:
    """One system call's answer under conditions that must all hold; `place` is the JSON pointer of its entry."""

    __slots__ = ("action", "conditions", "name", "place")

    def __init__(self, name: str, action: int, conditions: tuple[Condition, ...], place: str) -> None:
        self.name = name
        self.action = action
        self.conditions = conditions
        self.place = place


class Profile:
    """A section that was read: `flags` None where it says nothing of them, `rules` in the order of the document."""

    __slots__ = ("architectures", "default", "flags", "names", "notifies", "rules", "warnings")

    def __init__(self, default: int, architectures: list[str], flags: list[str] | None) -> None:
        self.default = default
        self.architectures = architectures
        self.flags = flags
        self.rules: list[Rule] = []
        #: every name of the section, of rules that say the same as the default too
        self.names: dict[str, None] = {}
        self.notifies = False
        self.warnings: list[str] = []


def read(section: dict[str, Any]) -> Profile:
    """The section as numbers; ConfigError at the place of the first mistake."""
    default = _action(section, "defaultAction", "defaultErrnoRet", PLACE)
    if default == RET_NOTIFY:
        raise RuleError(f"{PLACE}/defaultAction", "SCMP_ACT_NOTIFY cannot be the default: init itself could not go on")
    architectures = _words(section, "architectures", ARCHITECTURES, "architecture") or []
    profile = Profile(default, architectures, _words(section, "flags", FLAGS, "flag"))
    for number, entry in enumerate(_list(section, "syscalls", PLACE)):
        _entry(profile, entry, f"{PLACE}/syscalls/{number}")
    _find_overruled(profile)
    if profile.notifies:
        _check_handover(profile)
    return profile


def _entry(profile: Profile, entry: Any, place: str) -> None:
    """Add the rules of one member of `syscalls`."""
    if not isinstance(entry, dict):
        raise ConfigError(place, "must be an object", clause=CLAUSE)
    names = _list(entry, "names", place)
    if not names:
        raise ConfigError(f"{place}/names", "must name at least one system call", clause=CLAUSE)
    action = _action(entry, "action", "errnoRet", place)
    conditions = [_condition(arg, f"{place}/args/{i}") for i, arg in enumerate(_list(entry, "args", place))]
    indexes = {condition[0] for condition in conditions}
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name or not name.isascii() or not name.isprintable():
            raise ConfigError(f"{place}/names/{number}", "must be the name of a system call", clause=CLAUSE)
        profile.names[name] = None
        if action == profile.default:
            continue  # it says nothing new, and libseccomp refuses such a rule
        profile.notifies = profile.notifies or action == RET_NOTIFY
        if len(indexes) == len(conditions):
            profile.rules.append(Rule(name, action, tuple(conditions), place))
            continue
        # libseccomp takes one condition per argument. An entry that has two for one argument becomes one rule for each of
        # its conditions (any of them suffices): the specification is silent, but runc and crun both do this and profiles
        # in use rely on it.
        profile.rules.extend(Rule(name, action, (condition,), place) for condition in conditions)


def _find_overruled(profile: Profile) -> None:
    """Warn of rules that can never decide: the first rule without conditions for a name decides alone."""
    decided: dict[str, Rule] = {}
    for rule in profile.rules:
        if not rule.conditions:
            decided.setdefault(rule.name, rule)
    for rule in profile.rules:
        first = decided.get(rule.name)
        if first is not None and first.action != rule.action:
            profile.warnings.append(
                f'{_dotted(rule.place)}: rule for "{rule.name}" is overruled by {_dotted(first.place)}'
            )


def _check_handover(profile: Profile) -> None:
    """Refuse a profile under which the listener could never reach its agent; init would be stuck, or die without a word.

    A notification for `sendmsg` would wait for an agent that cannot have heard of it yet. Conditions are given the benefit
    of the doubt: they are about arguments.
    """
    for name in HANDOVER:
        actions = {rule.action for rule in profile.rules if rule.name == name and not rule.conditions} or {
            profile.default
        }
        if not actions & {RET_ALLOW, RET_LOG} and not any(
            rule.conditions for rule in profile.rules if rule.name == name
        ):
            raise RuleError(
                f"{PLACE}/syscalls",
                f"SCMP_ACT_NOTIFY needs {name} allowed: the listener is handed to its agent with it",
            )


def _action(holder: dict[str, Any], key: str, errno_key: str, place: str) -> int:
    """The word that the filter answers for an action and the errno beside it."""
    name = holder.get(key)
    if not name:
        raise ConfigError(f"{place}/{key}", "required", clause=CLAUSE)
    action = ACTIONS.get(name) if isinstance(name, str) else None
    if action is None:
        raise ConfigError(
            f"{place}/{key}", f"unknown action {_quoted(name)}", clause=CLAUSE, hint=_nearest(name, ACTIONS)
        )
    datum = holder.get(errno_key)
    if action not in (RET_ERRNO, RET_TRACE):
        if datum is not None:
            # config-linux.md#seccomp: an errno beside an action that cannot carry one MUST be an error
            raise RuleError(f"{place}/{errno_key}", f"{name} cannot return an errno", clause=CLAUSE)
        return action
    if datum is None:
        return action | EPERM
    limit = ERRNO_MAX if action == RET_ERRNO else MESSAGE_MAX
    # 0 is a value: the call then succeeds without being executed
    return action | _number(datum, limit, f"{place}/{errno_key}")


def _condition(arg: Any, place: str) -> Condition:
    if not isinstance(arg, dict):
        raise ConfigError(place, "must be an object", clause=CLAUSE)
    for key in ("index", "value", "op"):
        if arg.get(key) is None:
            raise ConfigError(f"{place}/{key}", "required", clause=CLAUSE)
    name = arg["op"]
    operator = OPERATORS.get(name) if isinstance(name, str) else None
    if operator is None:
        raise ConfigError(
            f"{place}/op", f"unknown operator {_quoted(name)}", clause=CLAUSE, hint=_nearest(name, OPERATORS)
        )
    index = _number(arg["index"], 5, f"{place}/index")
    value = _number(arg["value"], 0xFFFFFFFFFFFFFFFF, f"{place}/value")
    second = 0 if arg.get("valueTwo") is None else _number(arg["valueTwo"], 0xFFFFFFFFFFFFFFFF, f"{place}/valueTwo")
    # for MASKED_EQ `value` is the mask and `valueTwo` what must be left: libseccomp's order as well
    if operator == OPERATORS["SCMP_CMP_MASKED_EQ"] and second & ~value:
        # such a condition never holds, but libseccomp drops the bits in silence and it holds
        raise RuleError(f"{place}/valueTwo", f"{second:#x} has bits that the mask {value:#x} lacks", clause=CLAUSE)
    return index, operator, value, second


def _words(section: dict[str, Any], key: str, known: dict[str, Any], noun: str) -> list[str] | None:
    """A list of known names, None where the key is absent: for flags that is not the same as an empty list."""
    if section.get(key) is None:
        return None
    words = _list(section, key, PLACE)
    for number, word in enumerate(words):
        if not isinstance(word, str) or word not in known:
            place = f"{PLACE}/{key}/{number}"
            raise ConfigError(place, f"unknown {noun} {_quoted(word)}", clause=CLAUSE, hint=_nearest(word, known))
    return words


def _list(holder: dict[str, Any], key: str, place: str) -> list[Any]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"{place}/{key}", "must be an array", clause=CLAUSE)
    return value


def _number(value: Any, limit: int, place: str) -> int:
    # bool is an int to Python, not to JSON
    if type(value) is not int or not 0 <= value <= limit:
        raise ConfigError(place, f"must be an integer from 0 to {limit}, not {_quoted(value)}", clause=CLAUSE)
    return value


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _dotted(place: str) -> str:
    return place.strip("/").replace("/", ".")


def _nearest(word: Any, known: dict[str, Any]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word.upper(), known, 1) if isinstance(word, str) else []
    return f"did you mean {near[0]}?" if near else ""
