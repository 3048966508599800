"""The plan as data: what is printed is what is encoded, and the invariants refuse what must not run."""

from __future__ import annotations

import struct

import pytest

from runtime import linux, wire
from runtime.ops import FLAG_DENIED, FLAG_EXISTS, FLAGS, OPS
from runtime.plan import Op, Plan, PlanError, check, describe


def plan_of(*ops: Op, inherited: tuple[str, ...] = ()) -> Plan:
    plan = Plan()
    plan.inherited = list(inherited)
    plan.ops = [*ops, Op("close-range", a=3), Op("exec", "/bin/true", "true", "", a=1, b=1)]
    return plan


def test_every_op_has_its_own_number() -> None:
    numbers = [number for number, _, _ in OPS.values()]
    assert len(set(numbers)) == len(numbers)
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("name", OPS)
def test_every_op_describes_itself(name: str) -> None:
    text = describe(
        Op(name, b"\1\0\0\0" if name == "setgroups" else "one", "two", "three", r0="a", r1="b", r2="c", a=1, b=2, c=3)
    )
    assert "{" not in text and "\n" not in text


def test_describe_shows_registers_by_role_and_flags_by_name() -> None:
    assert describe(Op("move-mount", r0="m", r1="rootfs")) == "m -> rootfs:"
    assert describe(Op("unshare", a=linux.CLONE_NEWNS | linux.CLONE_NEWPID)) == "mount,pid"
    assert describe(Op("symlink", "/proc/self/fd", "dev/fd", r1="rootfs", flags=FLAG_EXISTS)).endswith("?exists")
    assert describe(Op("capset", a=1 << 21, b=0, c=0)) == "effective sys_admin permitted none inheritable none"


def test_user_text_cannot_break_a_line_of_the_plan() -> None:
    assert "\n" not in describe(Op("sethostname", "a\nb\x1b[2J"))


def test_flags_do_not_overlap() -> None:
    bits = 0
    for bit in FLAGS:
        assert not bits & bit
        bits |= bit


def refused(*ops: Op, inherited: tuple[str, ...] = ()) -> str:
    with pytest.raises(PlanError) as caught:
        check(plan_of(*ops, inherited=inherited))
    return str(caught.value)


def test_a_good_plan_passes() -> None:
    plan = plan_of(Op("open", "/proc", r0="proc", a=linux.O_PATH), Op("write", "self/oom_score_adj", "5", r1="proc"))
    check(plan)


def test_exec_must_be_last() -> None:
    plan = plan_of()
    plan.ops.append(Op("umask"))
    with pytest.raises(PlanError, match="exec is not the last"):
        check(plan)


def test_a_register_must_be_filled_before_it_is_read() -> None:
    assert "reads proc before" in refused(Op("write", "x", "y", r1="proc"))


def test_a_closed_register_is_gone() -> None:
    ops = (Op("open", "/", r0="d"), Op("close", r0="d"), Op("write", "x", "y", r1="d"))
    assert "reads d before" in refused(*ops)


def test_an_ask_needs_an_answerer() -> None:
    assert "nobody answers" in refused(Op("ask", "nothing"))


def test_no_host_path_after_the_root_has_changed() -> None:
    ops = (Op("open", "/r", r0="rootfs"), Op("pivot-root", r0="rootfs"), Op("open", "/etc/shadow", r0="x"))
    assert "path of the host" in refused(*ops)


def test_chdir_only_with_descriptors_closed() -> None:
    assert "chdir before close-range" in refused(Op("chdir", "/"))


def test_privileges_are_given_up_in_order() -> None:
    assert "setresgid after setresuid" in refused(Op("setresuid", a=1), Op("setresgid", a=1))
    assert "bounding after capset" in refused(Op("capset"), Op("bounding"))


def test_no_mounts_under_a_seccomp_filter() -> None:
    ops = (Op("open", "/", r0="rootfs"), Op("seccomp", bytes(8)), Op("readonly", "proc", r1="rootfs"))
    assert "after the seccomp filter" in refused(*ops)


def test_encoding_matches_the_layout() -> None:
    plan = plan_of(Op("write", "self/x", "värt", r1="proc", flags=FLAG_DENIED, a=-1), inherited=("proc",))
    data = wire.encode(plan)
    magic, version, ops, inherited, pool, size, first, registers = struct.unpack_from("<8I", data)
    assert (magic, version, ops, inherited, first, registers) == (wire.MAGIC, wire.VERSION, 3, 1, 3, 1)
    assert data[:4] == b"PLAN" and pool == 32 + 64 * 3 and len(data) == pool + size
    number, flags, r0, r1, r2, a, b, c, off0, len0, off1, len1, off2, len2 = struct.unpack_from("<5H6x3Q6I", data, 32)
    assert (number, flags, r0, r1, r2) == (OPS["write"][0], FLAG_DENIED, 0xFFFF, 0, 0xFFFF)
    assert a == 2**64 - 1
    assert data[pool + off0 : pool + off0 + len0 + 1] == b"self/x\0"
    assert data[pool + off1 : pool + off1 + len1 + 1] == "värt".encode() + b"\0"
    assert (off2, len2) == (0, 0) and off0 % 8 == off1 % 8 == 0


def test_a_failure_finds_its_op() -> None:
    plan = plan_of(Op("fsopen", "proc", r0="fs", about="mount proc on /proc (nosuid)", where="/mounts/0"))
    error = wire.failure(plan, 0, 1, b"")
    assert str(error) == "mount proc on /proc (nosuid): operation not permitted [mounts.0, init 0]"
    assert error.record["pointer"] == "/mounts/0"
    assert "init 99" in str(wire.failure(plan, 99, 22, b""))


def test_the_tail_is_what_follows_the_wait_for_start() -> None:
    plan = plan_of(
        Op("umask"), Op("fifo"), Op("run-hook", "/h", about="startContainer[0] /h", where="/hooks/startContainer/0")
    )
    tail = wire.tail(plan)
    assert tail["2"] == ["run-hook", "startContainer[0] /h", "/hooks/startContainer/0"]
    assert set(tail) == {"2", "3", "4"}
    assert "startContainer[0] /h" in str(wire.recorded_failure(tail["2"], 2, 10, b"exit status 3"))


def test_the_printed_plan_lists_the_steps_of_each_ask() -> None:
    plan = Plan()
    plan.host = [(("mkdir", "$STATE", "0700"), "remove")]
    plan.ops = [plan.ask("ready", [("rlimit", "RLIMIT_NOFILE", "1:2")])]
    lines = plan.text().splitlines()
    assert lines[0].startswith("host    1  mkdir") and lines[0].endswith("undo: remove")
    assert lines[1].split() == ["init", "0", "ask", "ready"]
    assert lines[2].split() == ["host", "rlimit", "RLIMIT_NOFILE", "1:2"]
