"""Device rules: what they come to, and that cgroup v1 and the eBPF program both do just that.

Two simulators stand in for the kernel: one of device_cgroup.c for the lines, one of the instruction set for the program.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cgroups import devices
from runtime.errors import ConfigError, Unsupported

Rule = dict[str, Any]
M, R, W = 1, 2, 4


# -- cgroup v1, as security/device_cgroup.c does it ------------------------------------------------------------------------


class LegacyDevices:
    def __init__(self) -> None:
        self.default = True  # what a new cgroup has from the root
        self.exceptions: list[list[Any]] = []

    def write(self, file: str, line: str) -> None:
        allow = {"devices.allow": True, "devices.deny": False}[file]
        kind, numbers, letters = line.split(" ")
        if kind == "a":
            self.default, self.exceptions = allow, []
            return
        major, minor = (None if n == "*" else int(n) for n in numbers.split(":"))
        access = sum({"m": M, "r": R, "w": W}[c] for c in letters)
        same = [e for e in self.exceptions if e[:3] == [kind, major, minor]]
        if allow != self.default:
            if same:
                same[0][3] |= access
            else:
                self.exceptions.append([kind, major, minor, access])
        elif same:
            same[0][3] &= ~access
            self.exceptions = [e for e in self.exceptions if e[3]]

    def allows(self, kind: str, major: int, minor: int, access: int) -> bool:
        def matches(e: list[Any]) -> bool:
            bits = access & e[3] if self.default else not access & ~e[3]
            return e[0] == kind and e[1] in (None, major) and e[2] in (None, minor) and bool(bits)

        return any(matches(e) for e in self.exceptions) != self.default


def legacy(state: devices.State) -> LegacyDevices:
    out = LegacyDevices()
    for controller, file, value in devices.writes(state):
        assert controller == "devices"
        out.write(file, value)
    return out


# -- eBPF ------------------------------------------------------------------------------------------------------------------


def run_program(code: bytes, kind: str, major: int, minor: int, access: int) -> bool:
    context = struct.pack("=III", access << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers: list[int | None] = [None] * 11
    registers[1] = 0  # the context's address, which nothing but a load may use
    at = 0
    for _ in range(len(code)):
        op, regs, off, imm = struct.unpack_from("=BBhi", code, at * 8)
        dst, src = (regs & 15, regs >> 4) if sys.byteorder == "little" else (regs >> 4, regs & 15)
        at += 1
        if op == 0x95:
            assert registers[0] in (0, 1)
            return bool(registers[0])
        if op == 0x61:
            assert src == 1
            registers[dst] = struct.unpack_from("=I", context, off)[0]
        elif op == 0xBC:
            assert registers[src] is not None
            registers[dst] = registers[src]
        elif op == 0xB4:
            registers[dst] = imm & 0xFFFFFFFF
        else:
            value = registers[dst]
            assert value is not None and dst != 1, "the verifier refuses what was never written"
            if op == 0x54:
                registers[dst] = value & imm & 0xFFFFFFFF
            elif op == 0x74:
                registers[dst] = value >> imm
            elif op in (0x16, 0x56):
                assert off > 0, "the verifier refuses loops"
                if (value == imm & 0xFFFFFFFF) == (op == 0x16):
                    at += off
            else:
                raise AssertionError(f"instruction {op:#x}")
    raise AssertionError("no end")


# -- the specification: in order, the last rule that matches decides -------------------------------------------------------


def ideal(rules: list[Rule], kind: str, major: int, minor: int, bit: int) -> bool:
    verdict = False
    for rule in rules:
        if rule.get("type", "a") in ("a", kind):
            if rule.get("major", -1) in (-1, major) and rule.get("minor", -1) in (-1, minor):
                if {M: "m", R: "r", W: "w"}[bit] in rule.get("access", "rwm"):
                    verdict = rule["allow"]
    return verdict


def default_rules() -> list[Rule]:
    return [
        {
            "allow": True,
            "type": node[0],
            "major": node[1],
            "minor": node[2],
            "access": "".join(c for c, b in zip("mrw", (M, R, W), strict=True) if access & b),
        }
        for node, access in devices.DEFAULTS
    ]


numbers = st.sampled_from([-1, 1, 3, 5, 8, 10, 200, 0xFFFFFFFE])
rules = st.lists(
    st.fixed_dictionaries(
        {"allow": st.booleans()},
        optional={
            "type": st.sampled_from("abc"),
            "major": numbers,
            "minor": numbers,
            "access": st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"]),
        },
    ),
    max_size=8,
)
NODES = [(k, a, b) for k in "bc" for a in (1, 3, 7, 136, 0xFFFFFFFE) for b in (0, 1, 3, 200, 0xFFFFFFFE)]
MASKS = (M, R, W, R | W, M | R | W)


@settings(max_examples=400, deadline=None)
@given(rules)
def test_v1_and_ebpf_decide_alike(found: list[Rule]) -> None:
    try:
        state = devices.state(found)
    except Unsupported:
        return
    v1, code = legacy(state), devices.program(state)
    for node in NODES:
        for access in MASKS:
            assert v1.allows(*node, access) == run_program(code, *node, access), (node, access, devices.text(state))


@settings(max_examples=400, deadline=None)
@given(rules)
def test_the_last_rule_that_matches_decides(found: list[Rule]) -> None:
    try:
        state = devices.state(found)
    except Unsupported:
        return
    code = devices.program(state)
    if not state[0]:
        for node in NODES:
            for bit in (M, R, W):
                assert run_program(code, *node, bit) == ideal(found + default_rules(), *node, bit)
    else:
        # where everything is allowed, the devices of every container take no more away than they do exactly
        for node in NODES:
            for bit in (R, W):
                if ideal(found, *node, bit):
                    assert run_program(code, *node, bit)


@given(rules)
def test_the_text_of_a_plan_says_it_all(found: list[Rule]) -> None:
    try:
        state = devices.state(found)
    except Unsupported:
        return
    assert devices.state_of_text(devices.text(state)) == state


# -- by example ------------------------------------------------------------------------------------------------------------

DEFAULT_LINES = [
    "devices.deny a *:* rwm",
    "devices.allow b *:* m",
    "devices.allow c *:* m",
    "devices.allow c 1:3 rwm",
    "devices.allow c 1:5 rwm",
    "devices.allow c 1:7 rwm",
    "devices.allow c 1:8 rwm",
    "devices.allow c 1:9 rwm",
    "devices.allow c 5:0 rwm",
    "devices.allow c 5:2 rwm",
    "devices.allow c 10:200 rwm",
    "devices.allow c 136:* rwm",
]


def lines(*found: Rule) -> list[str]:
    return [f"{file} {value}" for _, file, value in devices.writes(devices.state(list(found)))]


def test_without_any_rule_unlisted_devices_are_denied() -> None:
    assert lines() == DEFAULT_LINES
    state = devices.state(None)
    for access in MASKS:
        assert run_program(devices.program(state), "b", 8, 0, access) == (access == M)
        assert run_program(devices.program(state), "c", 1, 1, access) == (access == M)
        assert run_program(devices.program(state), "c", 1, 3, access)


def test_what_engines_write() -> None:
    deny = {"allow": False, "access": "rwm"}
    assert lines(deny) == DEFAULT_LINES
    assert lines(deny, {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"})[1:4] == [
        "devices.allow b 8:0 r",
        "devices.allow b *:* m",
        "devices.allow c *:* m",
    ]
    assert "devices.allow b 8:0 r" in lines(deny, {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"})
    # privileged: one write, and no list
    assert lines(deny, {"allow": True, "access": "rwm"}) == ["devices.allow a *:* rwm"]


def test_what_a_wildcard_covers_is_not_written() -> None:
    assert lines({"allow": True, "type": "c", "access": "rwm"}) == [
        "devices.deny a *:* rwm",
        "devices.allow c *:* rwm",
        "devices.allow b *:* m",
    ]


def test_reading_and_writing_does_not_pass_a_rule_against_writing() -> None:
    state = devices.state([{"allow": True}, {"allow": False, "type": "b", "major": 8, "minor": 0, "access": "w"}])
    for decide in (legacy(state).allows, lambda *a: run_program(devices.program(state), *a)):
        assert decide("b", 8, 0, R)
        assert not decide("b", 8, 0, R | W)
        assert decide("b", 8, 1, R | W)


def test_a_of_a_kind_is_not_a_rule_for_everything() -> None:
    state = devices.state([{"allow": True, "type": "a", "major": 10, "minor": 229, "access": "r"}])
    assert not state[0]
    code = devices.program(state)
    assert run_program(code, "b", 10, 229, R) and run_program(code, "c", 10, 229, R)
    assert not run_program(code, "c", 10, 229, W) and not run_program(code, "b", 8, 0, R)


def test_a_hole_in_a_wildcard_is_refused_by_rule() -> None:
    with pytest.raises(Unsupported, match=r'devices\.1: cannot punch a hole .* "c \*:\* rwm"'):
        devices.state([{"allow": True, "type": "c"}, {"allow": False, "type": "c", "major": 4, "minor": 1}])


@pytest.mark.parametrize(
    "rule, where",
    [
        ({"allow": True, "type": "u"}, "devices.0.type"),
        ({"allow": True, "type": "c", "access": "rx"}, "devices.0.access"),
        ({"allow": True, "access": ""}, "devices.0.access"),
        ({"allow": True, "type": "c", "major": 1 << 32}, "devices.0.major"),
        ({"allow": True, "type": "c", "major": (1 << 32) - 1}, "devices.0.major"),
        ({"allow": True, "type": "c", "minor": -2}, "devices.0.minor"),
    ],
)
def test_wrong_rules(rule: Rule, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        devices.state([rule])
