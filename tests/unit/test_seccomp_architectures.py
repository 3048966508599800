"""Architectures, system calls newer than the profile, and whole profiles: compiled by libseccomp, run by the simulator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import seccomp_simulator as sim
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_made import DEFAULT, EDGES, ENOSYS, EPERM, HOST, LAST, LIBRARY, NATIVE, answer, arg, made, nr, rule

from runtime import seccomp
from runtime.errors import ConfigError, RuleError, Unsupported
from runtime.seccomp_profile import ARCHITECTURES, OPERATORS

# -- architectures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [None, [], ["SCMP_ARCH_X86"], ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86_64"]])
@pytest.mark.requires("x86-64")
def test_the_native_architecture_is_always_filtered(listed: list[str] | None) -> None:
    found = made(rule("read"), architectures=listed)
    assert answer(found, "read") == sim.ALLOW
    assert answer(found, "mount") == EPERM


@pytest.mark.requires("x86-64")
def test_an_unlisted_architecture_is_killed() -> None:
    found = made(rule("read"), defaultAction="SCMP_ACT_LOG")
    assert answer(found, "read", arch=sim.X86) == sim.KILL_THREAD
    assert answer(found, "read", arch=sim.AARCH64) == sim.KILL_THREAD
    # x32 calls arrive as those of x86-64, and must not pass for the call of the same lower bits
    assert sim.run(found.program, sim.X32_BIT | nr("read")) == sim.KILL_THREAD
    assert sim.run(made(rule("read")).program, sim.X32_BIT | nr("read")) == ENOSYS


@pytest.mark.requires("x86-64")
def test_a_listed_architecture_has_its_own_numbers() -> None:
    found = made(rule("read", "futex"), architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    assert answer(found, "read", arch=sim.X86) == sim.ALLOW
    assert sim.run(found.program, nr("mount", sim.X86), arch=sim.X86) == EPERM
    assert sim.run(found.program, nr("read", sim.X32)) == sim.ALLOW
    assert sim.run(found.program, nr("mount", sim.X32)) == EPERM
    assert answer(found, "read", arch=sim.AARCH64) == sim.KILL_THREAD


@pytest.mark.requires("x86-64")
def test_a_call_done_by_multiplexing_is_filtered_both_ways() -> None:
    # on i386 socket(2) is a number of its own and a sub-call of socketcall(2); libseccomp's number for it is negative
    found = made(rule("socket"), architectures=["SCMP_ARCH_X86"])
    assert nr("socket", sim.X86) < 0
    assert sim.run(found.program, 359, arch=sim.X86) == sim.ALLOW
    assert sim.run(found.program, 102, 1, arch=sim.X86) == sim.ALLOW
    assert sim.run(found.program, 102, 2, arch=sim.X86) == EPERM


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_filtered_or_refused_by_name(name: str) -> None:
    token = LIBRARY.lib.seccomp_arch_resolve_name(ARCHITECTURES[name].encode())
    try:
        found = made(rule("read"), architectures=[name])
    except Unsupported as error:
        assert not token and name in str(error)
        return
    except ConfigError as error:
        # the byte order of arguments is another: one program cannot look at both
        assert token and token & 0x40000000 != NATIVE & 0x40000000
        assert error.where == "/linux/seccomp/architectures"
        return
    arch, bit = (sim.X86_64, sim.X32_BIT) if token == sim.X32 else (token, 0)
    assert sim.run(found.program, nr("read", token), arch=arch) == sim.ALLOW
    assert sim.run(found.program, nr("mount", token), arch=arch) == EPERM
    largest = max(nr(name, token) for name in ("read", *LAST["names"]))
    assert sim.run(found.program, bit | largest + 1, arch=arch) == ENOSYS


@pytest.mark.requires("x86-64")
def test_all_architectures_of_one_byte_order_at_once() -> None:
    fit = [
        name
        for name, word in ARCHITECTURES.items()
        if LIBRARY.lib.seccomp_arch_resolve_name(word.encode()) & 0x40000000
    ]
    found = made(rule("read"), architectures=fit)
    assert len(fit) > 8
    assert answer(found, "read") == sim.ALLOW
    assert answer(found, "mount", arch=sim.AARCH64) == EPERM


# -- calls newer than the profile ------------------------------------------------------------------------------------------


@pytest.fixture(params=["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def refusal(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def old(**more: Any) -> bytes:
    """A profile that knows of no call after faccessat2 (439), the one after clone3 and openat2."""
    found = seccomp.prepare(
        {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule("read", "faccessat2", "no_such_call")], **more}, HOST
    )
    assert found is not None
    sim.check(found.program)
    return found.program


def test_newer_calls_answer_enosys_and_older_ones_the_default(refusal: str) -> None:
    program = old(defaultAction=refusal)
    last = nr("faccessat2")
    assert sim.run(program, last, arch=NATIVE) == sim.ALLOW
    assert sim.run(program, nr("clone3"), arch=NATIVE) not in (ENOSYS, sim.ALLOW)
    for number in (last + 1, 447, 462, 471, 600, 9999, 0xFFFFFFFF):
        assert sim.run(program, number, arch=NATIVE) == ENOSYS, number


@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_a_default_that_lets_new_calls_through_stays_so(action: str) -> None:
    program = old(defaultAction=action, syscalls=[rule("faccessat2", action="SCMP_ACT_ERRNO", errnoRet=5)])
    word = {"SCMP_ACT_ALLOW": sim.ALLOW, "SCMP_ACT_LOG": sim.LOG, "SCMP_ACT_TRACE": sim.TRACE | 1}[action]
    assert sim.run(program, 9999, arch=NATIVE) == word


def test_a_default_of_enosys_needs_no_stub() -> None:
    program = old(defaultErrnoRet=38)
    assert sim.run(program, 9999, arch=NATIVE) == sim.run(program, nr("clone3"), arch=NATIVE) == ENOSYS
    assert len(program) < len(old())


def test_every_named_rule_counts_even_one_that_is_skipped() -> None:
    program = old(syscalls=[rule("read"), rule("landlock_add_rule", action="SCMP_ACT_ERRNO")])
    assert sim.run(program, nr("landlock_add_rule"), arch=NATIVE) == EPERM
    assert sim.run(program, nr("landlock_add_rule") + 1, arch=NATIVE) == ENOSYS


def test_unknown_names_do_not_raise_the_largest() -> None:
    assert sim.run(old(), nr("faccessat2") + 1, arch=NATIVE) == ENOSYS


@pytest.mark.requires("x86-64")
def test_each_listed_architecture_has_its_own_stub() -> None:
    program = old(architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    assert sim.run(program, 439, arch=sim.X86) == sim.ALLOW
    assert sim.run(program, 440, arch=sim.X86) == ENOSYS
    assert sim.run(program, sim.X32_BIT | 439) == sim.ALLOW
    assert sim.run(program, sim.X32_BIT | 440) == ENOSYS
    assert sim.run(program, 9999, arch=sim.AARCH64) == sim.KILL_THREAD


# -- whole profiles --------------------------------------------------------------------------------------------------------


def test_the_default_profile() -> None:
    found = seccomp.prepare(DEFAULT, HOST)
    assert found is not None
    sim.check(found.program)
    for name in DEFAULT["syscalls"][0]["names"]:
        if nr(name) >= 0:
            assert answer(found, name) == sim.ALLOW, name
    for name in (
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "kexec_load",
        "init_module",
        "reboot",
        "pivot_root",
    ):
        assert answer(found, name) == EPERM, name
    assert answer(found, "clone3") == ENOSYS
    assert answer(found, "clone", 0x11) == sim.ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(found, "clone", flag | 0x11) == EPERM, hex(flag)
    assert answer(found, "socket", 1) == answer(found, "socket", 41) == sim.ALLOW
    assert answer(found, "socket", 40) == EPERM
    assert answer(found, "personality", 8) == sim.ALLOW
    assert answer(found, "personality", 0x0400000) == EPERM
    assert sim.run(found.program, 9999, arch=NATIVE) == ENOSYS


def test_more_instructions_than_the_kernel_takes_is_said() -> None:
    many = [rule("ioctl", args=[arg(1, n), arg(2, n)]) for n in range(1200)]
    with pytest.raises(RuleError, match=r"the filter needs \d{4,5} instructions and the kernel takes 4096"):
        made(*many)


def test_a_program_longer_than_a_conditional_jump() -> None:
    found = made(*[rule("ioctl", args=[arg(1, n), arg(2, n)]) for n in range(300)])
    assert len(sim.instructions(found.program)) > 600
    assert answer(found, "ioctl", 0, 0, 0) == answer(found, "ioctl", 0, 299, 299) == sim.ALLOW
    assert answer(found, "ioctl", 0, 299, 298) == EPERM
    assert answer(found, "mount") == EPERM


def test_without_memfd_create_the_same_program_comes_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seccomp.prepare(DEFAULT, HOST)

    def denied(*args: object) -> int:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(os, "memfd_create", denied)
    found = seccomp.prepare(DEFAULT, HOST)
    assert found is not None and expected is not None and found.program == expected.program
    with pytest.raises(RuleError, match="instructions"):
        made(*[rule("ioctl", args=[arg(1, n), arg(2, n)]) for n in range(1800)])


def test_no_library_is_unsupported_and_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "find_library", lambda: "/nonexistent/libseccomp.so.2")
    with pytest.raises(Unsupported) as caught:
        made(rule("read"))
    assert "libseccomp2" in caught.value.hint
    assert seccomp.supported() == {"enabled": False}
    assert seccomp.library_version() == ""


def test_what_is_supported_here() -> None:
    found = seccomp.supported()
    assert found["enabled"] is True
    assert {"SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY", "SCMP_ACT_KILL"} <= set(found["actions"])
    assert found["operators"] == sorted(OPERATORS)
    assert {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_RISCV64"} <= set(found["archs"]) <= set(ARCHITECTURES)
    assert len(found["knownFlags"]) == 4
    assert set(found["supportedFlags"]) <= set(found["knownFlags"])
    assert "SECCOMP_FILTER_FLAG_LOG" in found["supportedFlags"]
    assert seccomp.library_version().startswith("2.")


# -- any profile: the program says what the section says -------------------------------------------------------------------

NAMES = [name for name in DEFAULT["syscalls"][0]["names"] if 0 <= nr(name) <= nr("futex_waitv")]
VALUES = st.sampled_from(EDGES) | st.integers(0, 0xFFFFFFFFFFFFFFFF)


def condition(index: int, value: int, op: str, two: int) -> dict[str, Any]:
    return arg(index, value, op, two & value)


ARGS = st.lists(
    st.builds(condition, st.integers(0, 5), VALUES, st.sampled_from(sorted(OPERATORS)), VALUES),
    min_size=1,
    max_size=3,
    unique_by=lambda found: found["index"],
)


@settings(max_examples=60, deadline=None)
@given(
    plain=st.lists(st.sampled_from(NAMES), max_size=60, unique=True),
    conditional=st.dictionaries(st.sampled_from(NAMES), ARGS, max_size=8),
    calls=st.lists(st.lists(VALUES, min_size=6, max_size=6), min_size=1, max_size=6),
)
def test_any_profile(plain: list[str], conditional: dict[str, list[dict[str, Any]]], calls: list[list[int]]) -> None:
    rules = [rule(*plain)] if plain else []
    found = made(*rules, *[rule(name, args=args) for name, args in conditional.items()])
    for name in {*NAMES[::9], *plain, *conditional}:
        for call in calls:
            args = conditional.get(name)
            # the values of the conditions themselves too, or equality would never hold
            exact = [*call]
            for item in args or ():
                exact[item["index"]] = item["valueTwo"] if item["op"] == "SCMP_CMP_MASKED_EQ" else item["value"]
            for values in (call, exact):
                is_met = args is not None and all(
                    sim.holds(item["op"], values[item["index"]], item["value"], item["valueTwo"]) for item in args
                )
                is_allowed = name in plain or name in LAST["names"] or is_met
                assert answer(found, name, *values) == (sim.ALLOW if is_allowed else EPERM), (name, values)
