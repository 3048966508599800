"""Reading `linux.seccomp`: every mistake is named by its place, and nothing unknown is accepted in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import seccomp_simulator as sim
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import ConfigError, RuleError
from runtime.seccomp_profile import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS, read

DEFAULT = json.loads((Path(__file__).parent.parent / "fixtures/seccomp/default.json").read_text())


def section(*syscalls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(syscalls), **more}


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def arg(**changes: Any) -> dict[str, Any]:
    return {"index": 0, "value": 0, "op": "SCMP_CMP_EQ", **changes}


ENTRY = "/linux/seccomp/syscalls/0"
MISTAKES = [
    ({"syscalls": [rule("read")]}, "/linux/seccomp/defaultAction"),
    (section(defaultAction=""), "/linux/seccomp/defaultAction"),
    (section(defaultAction="SCMP_ACT_DENY"), "/linux/seccomp/defaultAction"),
    (section(defaultAction="SCMP_ACT_NOTIFY"), "/linux/seccomp/defaultAction"),
    (section(defaultAction=["SCMP_ACT_KILL"]), "/linux/seccomp/defaultAction"),
    (section(defaultErrnoRet=4095), "/linux/seccomp/defaultErrnoRet"),
    (section(defaultErrnoRet=-1), "/linux/seccomp/defaultErrnoRet"),
    (section(defaultAction="SCMP_ACT_KILL", defaultErrnoRet=1), "/linux/seccomp/defaultErrnoRet"),
    (section(defaultAction="SCMP_ACT_ALLOW", defaultErrnoRet=0), "/linux/seccomp/defaultErrnoRet"),
    (section(architectures=["SCMP_ARCH_X86_64", "x86"]), "/linux/seccomp/architectures/1"),
    (section(architectures="SCMP_ARCH_X86"), "/linux/seccomp/architectures"),
    (section(architectures=[3]), "/linux/seccomp/architectures/0"),
    (section(flags=["SECCOMP_FILTER_FLAG_NEW_LISTENER"]), "/linux/seccomp/flags/0"),
    (section(flags=["SECCOMP_FILTER_FLAG_LOG", "LOG"]), "/linux/seccomp/flags/1"),
    (section(syscalls={}), "/linux/seccomp/syscalls"),
    (section("read"), ENTRY),  # type: ignore[arg-type]
    (section(rule()), f"{ENTRY}/names"),
    (section({"action": "SCMP_ACT_ALLOW"}), f"{ENTRY}/names"),
    (section(rule("")), f"{ENTRY}/names/0"),
    (section(rule("read", 3)), f"{ENTRY}/names/1"),  # type: ignore[arg-type]
    (section(rule("re\0ad")), f"{ENTRY}/names/0"),
    (section(rule("read\nwrite")), f"{ENTRY}/names/0"),
    (section(rule("réad")), f"{ENTRY}/names/0"),
    (section({"names": ["read"]}), f"{ENTRY}/action"),
    (section(rule("read", action="SCMP_ACT_PERMIT")), f"{ENTRY}/action"),
    *[
        (section(rule("read", action=action, errnoRet=1)), f"{ENTRY}/errnoRet")
        for action in ACTIONS
        if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
    ],
    *[
        (section(rule("read", action="SCMP_ACT_ERRNO", errnoRet=value)), f"{ENTRY}/errnoRet")
        for value in (4095, 65536 + 13, -1, True, 1.0, "EPERM", 1 << 64)
    ],
    (section(rule("read", action="SCMP_ACT_TRACE", errnoRet=65536)), f"{ENTRY}/errnoRet"),
    (section(rule("read", args={})), f"{ENTRY}/args"),
    (section(rule("read", args=[0])), f"{ENTRY}/args/0"),
    (section(rule("read", args=[arg(), {"index": 1, "value": 0}])), f"{ENTRY}/args/1/op"),
    (section(rule("read", args=[{"value": 0, "op": "SCMP_CMP_EQ"}])), f"{ENTRY}/args/0/index"),
    (section(rule("read", args=[{"index": 0, "op": "SCMP_CMP_EQ"}])), f"{ENTRY}/args/0/value"),
    (section(rule("read", args=[arg(index=6)])), f"{ENTRY}/args/0/index"),
    (section(rule("read", args=[arg(index=-1)])), f"{ENTRY}/args/0/index"),
    (section(rule("read", args=[arg(op="SCMP_CMP_EQUAL")])), f"{ENTRY}/args/0/op"),
    (section(rule("read", args=[arg(op="==")])), f"{ENTRY}/args/0/op"),
    (section(rule("read", args=[arg(value=-1)])), f"{ENTRY}/args/0/value"),
    (section(rule("read", args=[arg(value=1 << 64)])), f"{ENTRY}/args/0/value"),
    (section(rule("read", args=[arg(value=False)])), f"{ENTRY}/args/0/value"),
    (section(rule("read", args=[arg(value=1.0)])), f"{ENTRY}/args/0/value"),
    (section(rule("read", args=[arg(valueTwo=-1)])), f"{ENTRY}/args/0/valueTwo"),
    (section(rule("read", args=[arg(op="SCMP_CMP_MASKED_EQ", value=6, valueTwo=1)])), f"{ENTRY}/args/0/valueTwo"),
    (section(rule("sendmsg", "recvmsg", action="SCMP_ACT_NOTIFY")), "/linux/seccomp/syscalls"),
    (section(rule("mkdir", action="SCMP_ACT_NOTIFY"), rule("sendmsg")), "/linux/seccomp/syscalls"),
]


@pytest.mark.parametrize(("wrong", "place"), MISTAKES, ids=[f"{n}{place}" for n, (_, place) in enumerate(MISTAKES)])
def test_a_mistake_is_refused_at_its_place(wrong: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(wrong)
    assert caught.value.where == place
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (section(defaultAction="SCMP_ACT_ALOW"), "did you mean SCMP_ACT_ALLOW?"),
        (section(architectures=["SCMP_ARCH_AMD64"]), "did you mean SCMP_ARCH_ARM"),
        (section(rule("read", args=[arg(op="scmp_cmp_eq")])), "did you mean SCMP_CMP_EQ?"),
        (section(flags=["SECCOMP_FILTER_FLAG_TSYN"]), "did you mean SECCOMP_FILTER_FLAG_TSYNC?"),
    ],
)
def test_a_typo_gets_the_nearest_name(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(wrong)
    assert caught.value.hint.startswith(hint)


def test_the_specification_s_names_are_all_known() -> None:
    assert len(ARCHITECTURES) == 23 and len(ACTIONS) == 9 and len(OPERATORS) == 7 and len(FLAGS) == 4


def test_kill_is_kill_thread() -> None:
    assert read(section(defaultAction="SCMP_ACT_KILL")).default == sim.KILL_THREAD
    assert read(section(defaultAction="SCMP_ACT_KILL_THREAD")).default == sim.KILL_THREAD
    assert read(section(defaultAction="SCMP_ACT_KILL_PROCESS")).default == sim.KILL_PROCESS


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"])
def test_an_absent_errno_is_eperm_and_0_is_0(action: str) -> None:
    base = ACTIONS[action]
    assert read(section(defaultAction=action)).default == base | 1
    assert read(section(defaultAction=action, defaultErrnoRet=None)).default == base | 1
    assert read(section(defaultAction=action, defaultErrnoRet=0)).default == base
    assert read(section(defaultAction=action, defaultErrnoRet=4094)).default == base | 4094


def test_a_tracer_s_message_may_fill_the_datum() -> None:
    found = read(section(rule("read", action="SCMP_ACT_TRACE", errnoRet=65535)))
    assert found.rules[0].action == sim.TRACE | 65535


def test_conditions_on_one_argument_become_rules_of_their_own() -> None:
    args = [arg(index=0, value=1), arg(index=1, value=2), arg(index=0, value=3)]
    found = read(section(rule("read", args=args)))
    assert [rule.conditions for rule in found.rules] == [((0, 4, 1, 0),), ((1, 4, 2, 0),), ((0, 4, 3, 0),)]
    found = read(section(rule("read", args=args[:2])))
    assert [rule.conditions for rule in found.rules] == [((0, 4, 1, 0), (1, 4, 2, 0))]


def test_what_says_the_same_as_the_default_is_no_rule_but_a_name() -> None:
    found = read(section(rule("read", action="SCMP_ACT_ERRNO"), rule("write", action="SCMP_ACT_ERRNO", errnoRet=1)))
    assert not found.rules
    assert list(found.names) == ["read", "write"]
    found = read(section(rule("read", action="SCMP_ACT_ERRNO", errnoRet=13)))
    assert [rule.action for rule in found.rules] == [sim.ERRNO | 13]


def test_a_rule_that_can_never_decide_is_warned_about() -> None:
    found = read(section(rule("read"), rule("read", action="SCMP_ACT_KILL", args=[arg()])))
    assert found.warnings == ['linux.seccomp.syscalls.1: rule for "read" is overruled by linux.seccomp.syscalls.0']
    assert not read(section(rule("read"), rule("read", args=[arg()]))).warnings


def test_an_absent_list_of_flags_is_not_an_empty_one() -> None:
    assert read(section()).flags is None
    assert read(section(flags=[])).flags == []


def test_notify_is_noticed_unless_it_says_nothing() -> None:
    assert not read(DEFAULT).notifies
    assert read(section(rule("mkdir", action="SCMP_ACT_NOTIFY"), rule("sendmsg", "recvmsg"))).notifies
    assert read(section(rule("mkdir", action="SCMP_ACT_NOTIFY"), defaultAction="SCMP_ACT_ALLOW")).notifies


def test_the_default_profile_is_right() -> None:
    found = read(DEFAULT)
    assert len(found.names) > 350 and not found.warnings


def test_errors_across_fields_name_the_clause() -> None:
    with pytest.raises(RuleError, match="config-linux.md#seccomp"):
        read(section(rule("read", errnoRet=1)))


KEYS = ["defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls", "names", "action", "errnoRet", "args", "index", "op", "value"]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(sorted(ACTIONS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6))
def test_any_json_is_read_or_refused_by_name(anything: dict[str, Any]) -> None:
    try:
        read(anything)
    except ConfigError as error:
        assert error.where.startswith("/linux/seccomp")
