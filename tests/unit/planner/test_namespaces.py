"""Namespaces: what is refused, and who may write which map."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import ConfigError, Unsupported

from .conftest import lines, make_plan

ROOTLESS = {"euid": 1000, "egid": 1000, "is_rootless": True, "capabilities": 0}


def mapped(*maps: tuple[int, int, int]) -> dict[str, Any]:
    ids = [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in maps]
    return {"uidMappings": ids, "gidMappings": ids}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"namespaces": [{"type": "mount"}, {"type": "mount"}]}, r"namespaces\.1: a second mount namespace"),
        ({"namespaces": [{"type": "mount"}, {"type": "net"}]}, 'no namespace is called "net"'),
        ({"namespaces": [{"type": "mount"}, {"type": "user"}]}, "needs linux.uidMappings"),
        ({"namespaces": [{"type": "mount"}], "netDevices": {"eth0": {}}}, "needs a network namespace"),
        ({"namespaces": [{"type": "mount"}], "rootfsPropagation": "sared"}, "no mount propagation"),
    ],
)
def test_refused(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make_plan(linux=spec)


@pytest.mark.parametrize(
    ("facts", "maps", "steps"),
    [
        ({}, [(0, 100000, 65536)], ["write /proc/$PID/uid_map", "write /proc/$PID/gid_map"]),
        (
            ROOTLESS,
            [(0, 1000, 1)],
            ["write /proc/$PID/setgroups", "write /proc/$PID/uid_map", "write /proc/$PID/gid_map"],
        ),
        (ROOTLESS, [(0, 1000, 1), (1, 100000, 9)], ["newuidmap $PID", "newgidmap $PID"]),
        (ROOTLESS, [(0, 5, 1)], ["newuidmap $PID", "newgidmap $PID"]),
        (
            {"is_rootless": True, "in_user_ns": True},
            [(0, 1, 9)],
            ["write /proc/$PID/uid_map", "write /proc/$PID/gid_map"],
        ),
    ],
)
def test_who_writes_the_maps(facts: dict[str, Any], maps: list[tuple[int, int, int]], steps: list[str]) -> None:
    plan = make_plan(namespaces=("mount", "user"), linux=mapped(*maps), facts=facts)
    assert [f"{kind} {target}" for kind, target, _ in plan.sections["map-users"]] == steps
    # with setgroups denied, any call of it would fail
    assert bool(lines(plan, "setgroups")) == ("write /proc/$PID/setgroups" not in steps)


def test_groups_cannot_be_set_where_setgroups_is_denied() -> None:
    with pytest.raises(Unsupported, match="additionalGids"):
        make_plan(
            {"user": {"uid": 0, "gid": 0, "additionalGids": [5]}},
            namespaces=("mount", "user"),
            linux=mapped((0, 1000, 1)),
            facts=ROOTLESS,
        )


def test_root_need_not_be_mapped() -> None:
    plan = make_plan(namespaces=("mount", "user"), linux=mapped((1000, 1000, 1)), facts=ROOTLESS)
    assert lines(plan, "setresuid")[0] == "setresuid 1000"


@pytest.mark.parametrize(("facts", "order"), [({}, ["network", "user"]), (ROOTLESS, ["user", "network"])])
def test_a_user_namespace_is_joined_where_the_privilege_is(facts: dict[str, Any], order: list[str]) -> None:
    spaces = [{"type": "mount"}, {"type": "user", "path": "/u"}, {"type": "network", "path": "/n"}]
    plan = make_plan(linux={"namespaces": spaces}, facts=facts)
    assert [line.split()[-1] for line in lines(plan, "setns")] == order


def test_a_fork_only_where_a_child_is_needed() -> None:
    assert not lines(make_plan(namespaces=("mount", "network")), "fork")
    assert lines(make_plan(namespaces=("mount", "pid")), "fork")
    assert lines(make_plan(namespaces=("mount", "time")), "fork")
    assert lines(make_plan(linux={"namespaces": [{"type": "mount"}, {"type": "pid", "path": "/p"}]}), "fork")


@pytest.mark.parametrize(
    "namespaces", [("mount", "user"), ("mount", "user", "pid", "cgroup", "network", "time")], ids=["few", "many"]
)
def test_no_process_of_the_container_can_trace_init(namespaces: tuple[str, ...]) -> None:
    for facts in ({}, ROOTLESS):
        offsets = {"timeOffsets": {"monotonic": {"secs": 1}}}
        plan = make_plan(namespaces=namespaces, linux={**mapped((0, 1000, 1)), **offsets}, facts=facts)
        text = lines(plan, "prctl", "fork", "move-mount")
        last = [line for line in text if "dumpable" in line][-1]
        assert last == "prctl dumpable 0"
        # CVE-2016-9962: before the first process that shares a namespace with the container
        if "fork" in text:
            assert text.index("fork") > max(i for i, line in enumerate(text) if "dumpable" in line)
