"""Capabilities: never more than what was asked for, nothing left out without a word."""

from __future__ import annotations

from runtime import linux

from .conftest import EVERY_CAPABILITY, found, lines, make_plan

CHOWN, KILL = 1 << 0, 1 << 5


def masks(**sets: list[str]) -> tuple[tuple[int, ...], list[str]]:
    plan = make_plan({"capabilities": sets})
    (bounding,), (capset,), (ambient,) = (found(plan, name) for name in ("bounding", "capset", "ambient"))
    return (bounding.a, capset.a, capset.b, capset.c, ambient.a), plan.warnings


def test_none_by_default() -> None:
    (bounding,) = found(make_plan(), "bounding")
    assert (bounding.a, bounding.b) == (0, 40)
    assert masks() == ((0, 0, 0, 0, 0), [])


def test_each_set() -> None:
    both = ["CAP_CHOWN", "CAP_KILL"]
    sets = {"bounding": both, "effective": both[:1], "permitted": both, "inheritable": both[1:], "ambient": both[1:]}
    assert masks(**sets) == ((CHOWN | KILL, CHOWN, CHOWN | KILL, KILL, KILL), [])


def test_bounding_fills_no_other_set() -> None:
    # CVE-2022-29162: an inheritable set that nobody asked for
    assert masks(bounding=list(linux.CAPABILITIES)) == ((EVERY_CAPABILITY, 0, 0, 0, 0), [])


def test_unknown_names_are_warned_about_and_never_granted() -> None:
    values, warnings = masks(bounding=["CAP_X", "cap_chown", "CAP_CHOWN"], permitted=["CAP_X"])
    assert values == (CHOWN, 0, 0, 0, 0)
    assert warnings == ["process.capabilities: ignoring unknown or unavailable capabilities: CAP_X, cap_chown"]


def test_what_the_kernel_would_refuse_is_named() -> None:
    values, warnings = masks(effective=["CAP_KILL"], inheritable=["CAP_CHOWN"], ambient=["CAP_CHOWN"])
    assert values == (0, 0, 0, 0, 0)
    assert [warning.partition(":")[0] for warning in warnings] == [
        "process.capabilities.effective",
        "process.capabilities.inheritable",
        "process.capabilities.ambient",
    ]


def test_what_we_lack_ourselves() -> None:
    facts = {"capabilities": EVERY_CAPABILITY & ~KILL, "bounding": EVERY_CAPABILITY & ~KILL, "last_cap": 40}
    names = {kind: ["CAP_KILL", "CAP_CHOWN"] for kind in ("bounding", "permitted")}
    plan = make_plan({"capabilities": names}, facts=facts)
    assert lines(plan, "bounding") == ["bounding chown"]
    assert "CAP_KILL" in plan.warnings[0]
    # a user namespace has them all
    ids = [{"containerID": 0, "hostID": 1, "size": 1}]
    spec = {"uidMappings": ids, "gidMappings": ids}
    plan = make_plan({"capabilities": names}, spec, facts=facts, namespaces=("mount", "user"))
    assert lines(plan, "bounding") == ["bounding chown,kill"] and not plan.warnings


def test_a_capability_newer_than_the_kernel() -> None:
    plan = make_plan({"capabilities": {"bounding": ["CAP_CHECKPOINT_RESTORE"]}}, facts={"last_cap": 39})
    assert lines(plan, "bounding") == ["bounding none"]
    assert "CAP_CHECKPOINT_RESTORE" in plan.warnings[0]


def test_the_working_directory_is_tried_again_as_the_user() -> None:
    assert lines(make_plan(), "chdir") == ["chdir /"]
    plan = make_plan({"user": {"uid": 7, "gid": 7}, "cwd": "/home"})
    order = lines(plan, "chdir", "setresuid")
    assert order == ["chdir /home ?denied", "setresuid 7", "chdir /home (unless done)"]
