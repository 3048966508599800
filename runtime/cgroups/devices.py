"""linux.resources.devices as lines for the devices controller of cgroup v1, or as a program for cgroup v2. Pure.

The rules are first worked out to what holds in the end: a default, and the exceptions from it. Both forms are then made
from that, so that they cannot differ. Rules apply in order and the last one that matches decides (config-linux.md, device
allow list). The default is to deny, also without any rule: a list that forgets its first rule must not allow everything
(GHSA-g54h-m393-cpwq).
"""

from __future__ import annotations

import sys
from struct import pack

from runtime.errors import ConfigError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: (type "b" or "c", major, minor), ANY where the rule has a wildcard
    Node = tuple[str, int, int]
    #: whether everything is allowed but for the exceptions, and the exceptions with their access bits
    State = tuple[bool, dict[Node, int]]

ANY = -1
# linux/bpf.h: BPF_DEVCG_ACC_*, BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL = 7
_TYPES = {"b": 1, "c": 2}

#: Every container may use these whatever its rules say, as in runc, for which they are the devices that the specification
#: makes a runtime supply (config-linux.md, default devices), pseudo-terminals and tun. Making a device node is allowed for
#: all devices: without a rule that allows it, nobody can open what was made.
DEFAULTS: tuple[tuple[Node, int], ...] = (
    (("b", ANY, ANY), 1),
    (("c", ANY, ANY), 1),
    (("c", 1, 3), 7),  # null
    (("c", 1, 5), 7),  # zero
    (("c", 1, 7), 7),  # full
    (("c", 1, 8), 7),  # random
    (("c", 1, 9), 7),  # urandom
    (("c", 5, 0), 7),  # tty
    (("c", 5, 2), 7),  # ptmx
    (("c", 10, 200), 7),  # net/tun
    (("c", 136, ANY), 7),  # pts/*
)


def state(rules: list[dict[str, Any]] | None) -> State:
    """What the rules come to, with the devices that every container has."""
    default = False
    exceptions: dict[Node, int] = {}
    for index, rule in enumerate(rules or ()):
        allow = bool(rule.get("allow"))
        kinds, major, minor, access = _parsed(rule, index)
        if len(kinds) == 2 and major == minor == ANY and access == _ALL:
            default, exceptions = allow, {}
            continue
        for kind in kinds:
            if allow == default:
                _take(exceptions, (kind, major, minor), access, index)
            else:
                node = (kind, major, minor)
                exceptions[node] = exceptions.get(node, 0) | access
    for node, access in DEFAULTS:
        if not default:
            exceptions[node] = exceptions.get(node, 0) | access
        elif node in exceptions:
            # where everything is allowed, only a rule for this very device is overruled, not all that a wildcard covers
            exceptions[node] &= ~access
    return default, _needed(exceptions)


def _parsed(rule: dict[str, Any], index: int) -> tuple[str, int, int, int]:
    where = f"/linux/resources/devices/{index}"
    kind = rule.get("type") or "a"
    if kind not in ("a", "b", "c"):
        raise ConfigError(where + "/type", f'must be "a", "b" or "c", not "{kind}"')
    wanted = rule.get("access")
    if wanted is None:
        wanted = "rwm"
    # nor is an empty one every access: who writes it, perhaps from a variable that is not set, did not ask for that
    if not wanted or not _ACCESS.keys() >= set(wanted):
        raise ConfigError(where + "/access", f'must be of the letters r, w and m, not "{wanted}"')
    access = sum(_ACCESS[letter] for letter in set(wanted))
    numbers = []
    for name in ("major", "minor"):
        number = rule.get(name)
        if number is None:
            number = ANY
        elif not ANY <= number < 0xFFFFFFFF:  # which is what the kernel has for all
            raise ConfigError(f"{where}/{name}", f"must be a device number, or -1 for all, not {number}")
        numbers.append(number)
    # "a" with a number or less than full access means either type of device; runc widens such a rule to all devices
    return "bc" if kind == "a" else kind, numbers[0], numbers[1], access


def _take(exceptions: dict[Node, int], node: Node, access: int, index: int) -> None:
    """Take access away from the exceptions that the rule covers; raise where it covers only a part of one."""
    for other in list(exceptions):
        if covers(node, other):
            exceptions[other] &= ~access
            if not exceptions[other]:
                del exceptions[other]
        elif exceptions[other] & access and _overlap(node, other):
            raise Unsupported(
                f"config.json: linux.resources.devices.{index}: cannot punch a hole into the earlier rule for "
                f'"{_line(other, exceptions[other])}"'
            )


def covers(wide: Node, narrow: Node) -> bool:
    """Whether every device of `narrow` is one of `wide`."""
    return wide[0] == narrow[0] and wide[1] in (ANY, narrow[1]) and wide[2] in (ANY, narrow[2])


def _overlap(one: Node, other: Node) -> bool:
    return (
        one[0] == other[0]
        and (one[1] == other[1] or ANY in (one[1], other[1]))
        and (one[2] == other[2] or ANY in (one[2], other[2]))
    )


def _needed(exceptions: dict[Node, int]) -> dict[Node, int]:
    """Without those that a wider one makes redundant; a write costs a system call. In the order of the rules."""
    wide = [(node, access) for node, access in exceptions.items() if ANY in node]
    return {
        node: access
        for node, access in exceptions.items()
        if access and not any(w != node and covers(w, node) and not access & ~a for w, a in wide)
    }


def _line(node: Node, access: int) -> str:
    major, minor = ("*" if number == ANY else number for number in node[1:])
    return f"{node[0]} {major}:{minor} {letters(access)}"


def letters(access: int) -> str:
    """Access bits as the letters of a rule."""
    return "".join(letter for letter in "rwm" if access & _ACCESS[letter])


# -- cgroup v1 -------------------------------------------------------------------------------------------------------------


def writes(what: State) -> list[tuple[str, str, str]]:
    """The writes, as `resources.writes` gives them, that bring a new v1 cgroup to the state.

    The first one must be the default: it also clears whatever the new cgroup has taken over from its parent.
    """
    default, exceptions = what
    first, others = ("devices.allow", "devices.deny") if default else ("devices.deny", "devices.allow")
    out = [("devices", first, "a *:* rwm")]
    out += [("devices", others, _line(node, access)) for node, access in exceptions.items()]
    return out


# -- cgroup v2 -------------------------------------------------------------------------------------------------------------


def text(what: State) -> str:
    """The state on one line, as a plan prints it: `deny all, allow c 1:3 rwm, ...`; `program` reads it."""
    default, exceptions = what
    words = ("allow all", "deny ") if default else ("deny all", "allow ")
    return ", ".join([words[0], *(words[1] + _line(node, access) for node, access in exceptions.items())])


def state_of_text(line: str) -> State:
    """The reverse of `text`."""
    first, *others = line.split(", ")
    exceptions: dict[Node, int] = {}
    for words in others:
        _, kind, numbers, letters = words.split(" ")
        major, minor = (ANY if number == "*" else int(number) for number in numbers.split(":"))
        exceptions[kind, major, minor] = sum(_ACCESS[letter] for letter in letters)
    return first == "allow all", exceptions


# Instructions of eBPF (Documentation/bpf/standardization/instruction-set.rst), the few that are needed. Comparisons are of
# 32 bits: the numbers are unsigned, and an immediate value is sign-extended to 64.
_LOAD_32 = 0x61  # dst = *(u32 *)(src + off)
_MOV_REG, _MOV = 0xBC, 0xB4
_AND, _RSH = 0x54, 0x74
_JEQ, _JNE = 0x16, 0x56
_EXIT = 0x95
_RESULT, _CONTEXT, _TYPE, _BITS, _MAJOR, _MINOR, _SCRATCH = 0, 1, 2, 3, 4, 5, 6


def _insn(code: int, dst: int, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    registers = src << 4 | dst if sys.byteorder == "little" else dst << 4 | src
    return pack("=BBhI", code, registers, off, imm & 0xFFFFFFFF)


def program(what: State) -> bytes:
    """A program of type BPF_PROG_TYPE_CGROUP_DEVICE that answers 1 to allow an access and 0 to refuse it."""
    default, exceptions = what
    # struct bpf_cgroup_dev_ctx: u32 access_type (access << 16 | type), u32 major, u32 minor
    out = [
        _insn(_LOAD_32, _TYPE, _CONTEXT, 0),
        _insn(_MOV_REG, _BITS, _TYPE),
        _insn(_AND, _TYPE, imm=0xFFFF),
        _insn(_RSH, _BITS, imm=16),
        _insn(_LOAD_32, _MAJOR, _CONTEXT, 4),
        _insn(_LOAD_32, _MINOR, _CONTEXT, 8),
    ]
    for node, access in exceptions.items():
        out += _exception(node, access, default)
    out += [_insn(_MOV, _RESULT, imm=int(default)), _insn(_EXIT, 0)]
    return b"".join(out)


def _exception(node: Node, access: int, default: bool) -> list[bytes]:
    tests = [(_JNE, _TYPE, _TYPES[node[0]])]
    if node[1] != ANY:
        tests.append((_JNE, _MAJOR, node[1]))
    if node[2] != ANY:
        tests.append((_JNE, _MINOR, node[2]))
    mask: list[bytes] = []
    if access != _ALL:
        # To be allowed, an access needs all its bits in one exception; to be refused, a single one is enough: opening for
        # reading and writing must not pass a rule that denies writing. So does cgroup v1 (device_cgroup.c).
        mask = [_insn(_MOV_REG, _SCRATCH, _BITS), _insn(_AND, _SCRATCH, imm=access if default else ~access)]
        tests.append((_JEQ if default else _JNE, _SCRATCH, 0))
    verdict = [_insn(_MOV, _RESULT, imm=int(not default)), _insn(_EXIT, 0)]
    out: list[bytes] = []
    left = len(tests) + len(mask) + len(verdict)
    for code, register, value in tests:
        if register == _SCRATCH:
            out += mask
            left -= len(mask)
        left -= 1
        out.append(_insn(code, register, off=left, imm=value))
    return out + verdict
