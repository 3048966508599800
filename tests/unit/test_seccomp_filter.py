"""What a compiled filter answers to system calls: libseccomp's own program, run by the simulator.

The corner cases are those that runtimes and libseccomp's users are known to have got wrong; each has a test of its own.
"""

from __future__ import annotations

import itertools

import pytest
import seccomp_simulator as sim
from seccomp_made import EACCES, EDGES, EPERM, HOST, answer, arg, made, rule

from runtime import libseccomp, seccomp
from runtime.errors import ConfigError, RuleError, Unsupported
from runtime.seccomp_profile import OPERATORS

# -- which rules there are -------------------------------------------------------------------------------------------------


def test_an_empty_section_is_no_filter() -> None:
    assert seccomp.prepare({}, HOST) is None
    assert seccomp.prepare({"defaultAction": "", "syscalls": []}, HOST) is None
    assert seccomp.prepare({"architectures": ["SCMP_ARCH_X86"]}, HOST) is None


def test_a_default_alone_is_a_filter() -> None:
    found = seccomp.prepare({"defaultAction": "SCMP_ACT_ALLOW"}, HOST)
    assert found is not None
    sim.check(found.program)
    assert answer(found, "mount") == sim.ALLOW


def test_allowed_and_not() -> None:
    found = made(rule("read", "write"))
    assert answer(found, "read") == answer(found, "write") == sim.ALLOW
    assert answer(found, "mount") == EPERM


def test_conditions_on_several_arguments_must_all_hold() -> None:
    # CVE-2017-18367: any of them was enough
    found = made(rule("socket", args=[arg(0, 16), arg(2, 9)]))
    assert answer(found, "socket", 16, 0, 9) == sim.ALLOW
    assert answer(found, "socket", 16, 0, 8) == EPERM
    assert answer(found, "socket", 15, 0, 9) == EPERM


def test_of_two_conditions_on_one_argument_either_suffices() -> None:
    found = made(rule("personality", args=[arg(0, 0), arg(0, 8)]))
    assert answer(found, "personality", 0) == answer(found, "personality", 8) == sim.ALLOW
    assert answer(found, "personality", 1) == EPERM


def test_of_two_entries_either_suffices() -> None:
    found = made(rule("personality", args=[arg(0, 0)]), rule("personality", args=[arg(0, 8)]))
    assert answer(found, "personality", 0) == answer(found, "personality", 8) == sim.ALLOW
    assert answer(found, "personality", 1) == EPERM


def test_the_same_rule_twice_is_one() -> None:
    found = made(rule("read"), rule("read"), rule("ioctl", args=[arg(1, 5)]), rule("ioctl", args=[arg(1, 5)]))
    assert answer(found, "read") == answer(found, "ioctl", 0, 5) == sim.ALLOW
    assert not [line for line in found.warnings if "overruled" in line]


def test_two_actions_under_the_same_conditions_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        made(rule("ioctl", args=[arg(1, 5)]), rule("ioctl", action="SCMP_ACT_KILL", args=[arg(1, 5)]))
    assert caught.value.where == "/linux/seccomp/syscalls/1"


def test_a_rule_without_conditions_decides_wherever_it_stands() -> None:
    for rules in itertools.permutations([rule("ioctl", action="SCMP_ACT_KILL", args=[arg(1, 5)]), rule("ioctl")]):
        found = made(*rules)
        assert answer(found, "ioctl", 0, 5) == sim.ALLOW
        assert len([line for line in found.warnings if "overruled" in line]) == 1


def test_a_rule_that_equals_the_default_is_skipped() -> None:
    # libseccomp answers EACCES to it
    found = made(rule("mount", action="SCMP_ACT_ERRNO"), rule("umount2", action="SCMP_ACT_ERRNO", errnoRet=1))
    assert answer(found, "mount") == answer(found, "umount2") == EPERM


def test_the_default_s_action_with_another_errno_is_a_rule() -> None:
    found = made(rule("mount", action="SCMP_ACT_ERRNO", errnoRet=13))
    assert answer(found, "mount") == EACCES
    assert answer(found, "umount2") == EPERM
    found = made(rule("mount", action="SCMP_ACT_ERRNO"), defaultErrnoRet=13)
    assert answer(found, "mount") == EPERM
    assert answer(found, "umount2") == EACCES


def test_errno_0_succeeds_without_executing_and_is_not_absence() -> None:
    found = made(rule("mount", action="SCMP_ACT_ERRNO", errnoRet=0))
    assert answer(found, "mount") == sim.ERRNO
    assert answer(made(defaultErrnoRet=0), "mount") == sim.ERRNO


def test_the_largest_errno() -> None:
    assert answer(made(rule("mount", action="SCMP_ACT_ERRNO", errnoRet=4094)), "mount") == sim.ERRNO | 4094


@pytest.mark.parametrize(
    ("action", "word"),
    [
        ("SCMP_ACT_KILL", sim.KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", sim.KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", sim.KILL_PROCESS),
        ("SCMP_ACT_TRAP", sim.TRAP),
        ("SCMP_ACT_TRACE", sim.TRACE | 1),
        ("SCMP_ACT_LOG", sim.LOG),
        ("SCMP_ACT_ALLOW", sim.ALLOW),
    ],
)
def test_each_action_as_rule_and_as_default(action: str, word: int) -> None:
    assert answer(made(rule("mount", action=action)), "mount") == word
    found = made(rule("mount", action="SCMP_ACT_ERRNO", errnoRet=7), defaultAction=action)
    assert answer(found, "umount2") == word
    assert answer(found, "mount") == sim.ERRNO | 7


def test_trace_passes_its_message_to_the_tracer() -> None:
    found = made(rule("mount", action="SCMP_ACT_TRACE", errnoRet=40000))
    assert answer(found, "mount") == sim.TRACE | 40000


def test_unknown_system_calls_are_ignored_and_said() -> None:
    found = made(rule("read", "flibbertigibbet", "write"), rule("flobble"))
    assert answer(found, "read") == answer(found, "write") == sim.ALLOW
    (warning,) = found.warnings
    assert '"flibbertigibbet", "flobble"' in warning and '"read"' not in warning


def test_a_call_of_another_architecture_alone_is_known() -> None:
    assert not made(rule("_llseek", "socketcall", "ugetrlimit")).warnings


# -- comparisons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [op for op in OPERATORS if op != "SCMP_CMP_MASKED_EQ"])
def test_comparisons_are_of_64_unsigned_bits(op: str) -> None:
    # CVE-2019-9893: the halves of 64-bit arguments were compared one without the other
    for value in EDGES:
        found = made(rule("lseek", args=[arg(1, value, op)]))
        for actual in EDGES:
            expected = sim.ALLOW if sim.holds(op, actual, value) else EPERM
            assert answer(found, "lseek", 0, actual) == expected, f"{actual:#x} {op} {value:#x}"


def test_masked_comparison_has_the_mask_first() -> None:
    for mask, datum in ((0x7E020000, 0), (0xFF00000000, 0x1200000000), (1 << 63 | 1, 1 << 63), (0xFFFFFFFFFFFFFFFF, 5)):
        found = made(rule("lseek", args=[arg(1, mask, "SCMP_CMP_MASKED_EQ", datum)]))
        for actual in {*EDGES, datum, datum | ~mask & 0xFFFFFFFFFFFFFFFF, datum ^ mask, mask}:
            expected = sim.ALLOW if actual & mask == datum else EPERM
            assert answer(found, "lseek", 0, actual) == expected, f"{actual:#x} & {mask:#x} == {datum:#x}"


def test_a_32_bit_minus_one_is_not_a_64_bit_one() -> None:
    # personality(0xffffffff): C passes an unsigned long; a caller that sign-extends is another value, as for runc
    found = made(rule("personality", args=[arg(0, 0xFFFFFFFF)]))
    assert answer(found, "personality", 0xFFFFFFFF) == sim.ALLOW
    assert answer(found, "personality", 0xFFFFFFFFFFFFFFFF) == EPERM


# -- flags and notification ------------------------------------------------------------------------------------------------


def test_absent_flags_allow_speculation_and_empty_ones_do_not() -> None:
    assert made().flags == 4
    assert made(flags=[]).flags == 0


@pytest.mark.parametrize(
    ("flags", "bits"),
    [
        (["SECCOMP_FILTER_FLAG_TSYNC"], 0),
        (["SECCOMP_FILTER_FLAG_LOG"], 2),
        (["SECCOMP_FILTER_FLAG_SPEC_ALLOW"], 4),
        (["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"], 6),
    ],
)
def test_flags(flags: list[str], bits: int) -> None:
    assert made(flags=flags).flags == bits


def test_the_log_flag_is_not_the_log_action() -> None:
    found = made(rule("mount", action="SCMP_ACT_LOG"), flags=[])
    assert found.flags == 0 and answer(found, "mount") == sim.LOG
    assert answer(made(flags=["SECCOMP_FILTER_FLAG_LOG"]), "mount") == EPERM


def test_a_flag_that_the_kernel_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # a real kernel's answer to a real flag, of a number that no kernel has yet
    monkeypatch.setitem(libseccomp.FLAGS, "SECCOMP_FILTER_FLAG_LOG", 1 << 30)
    with pytest.raises(Unsupported, match="flags.0: this kernel does not support SECCOMP_FILTER_FLAG_LOG"):
        made(flags=["SECCOMP_FILTER_FLAG_LOG"])


def test_wait_killable_is_about_a_listener() -> None:
    with pytest.raises(RuleError, match="SCMP_ACT_NOTIFY"):
        made(flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])


NOTIFY = rule("mkdirat", action="SCMP_ACT_NOTIFY")


def test_notify_needs_a_listener_and_says_so_in_the_filter() -> None:
    found = made(NOTIFY, listenerPath="/run/agent.sock", listenerMetadata="who", flags=[])
    assert found.listener and found.flags == 8
    assert (found.listener_path, found.listener_metadata) == ("/run/agent.sock", "who")
    assert answer(found, "mkdirat") == sim.NOTIFY
    found = made(NOTIFY, listenerPath="/run/agent.sock", flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])
    assert found.flags == 8 | 32


def test_notify_without_a_listener_path_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        made(NOTIFY)
    assert caught.value.where == "/linux/seccomp/listenerPath"


def test_a_listener_path_without_notify_is_ignored() -> None:
    found = made(listenerPath="/run/agent.sock")
    assert not found.listener and found.flags == 4


def test_metadata_without_a_listener_path_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        made(listenerMetadata="who")
    assert caught.value.where == "/linux/seccomp/listenerMetadata"
