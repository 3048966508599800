"""Is this the plan for this config and these facts? One directory per case:

    config.json    what the engine wrote
    facts.json     {"host": a name in hosts.json, or facts on top of one of them; "request": what the command line decided;
                   "process", "namespaces": for an exec; "systemd": the cgroup's steps too, with systemd as the driver}
    create.plan    the plan as `pyrunc plan` prints it, reviewed as text; then what the text leaves out: arguments,
                   environments, warnings, descriptors that are handed in

UPDATE_PLANS=1 writes the plans anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime import cgroups, planner, wire
from runtime.host import Host
from runtime.plan import Plan, check, show

HERE = Path(__file__).resolve().parent
CASES = sorted(path.parent.name for path in HERE.glob("*/config.json"))
#: what a mount, an id and an exec must never do without, whatever the config
MIN_CASES = 25


class Filter:
    """A compiled seccomp filter, as runtime.seccomp makes them."""

    def __init__(self, fact: dict[str, Any]) -> None:
        self.program = bytes.fromhex("060000000000ff7f")  # return SECCOMP_RET_ALLOW
        self.flags = fact.get("flags", 0)
        self.listener = bool(fact.get("listener_path"))
        self.listener_path = fact.get("listener_path", "")
        self.listener_metadata = fact.get("listener_metadata", "")


def load(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = HERE / case
    return json.loads((folder / "config.json").read_text()), json.loads((folder / "facts.json").read_text())


def host_of(facts: dict[str, Any]) -> Host:
    hosts = json.loads((HERE / "hosts.json").read_text())
    wanted = facts["host"]
    if isinstance(wanted, str):
        return Host.from_facts(hosts[wanted])
    return Host.from_facts({**hosts[wanted["like"]], **wanted})


def plan_of(config: dict[str, Any], facts: dict[str, Any]) -> Plan:
    request = planner.Request()
    request.id = "web"
    request.bundle = "/run/bundle"
    request.rootfs = os.path.join(request.bundle, config["root"]["path"])
    request.config = config
    request.process = facts.get("process") or config["process"]
    request.host = host_of(facts)
    request.wait_for_start = "process" not in facts
    for name, value in facts.get("request", {}).items():
        if name == "cgroup_steps":
            value = [(tuple(step), undo) for step, undo in value]
        elif name.endswith("join_steps"):
            value = [tuple(step) for step in value]
        elif name == "seccomp":
            value = Filter(value)
        setattr(request, name, value)
    if facts.get("systemd"):
        cgroup = cgroups.choose(config, request.id, request.host, True)
        request.cgroup_steps = [(step, "") for step in cgroup.steps(config)]
        request.join_steps, request.clone_into = cgroup.join_steps(), cgroup.clone_into()
        request.self_join_steps, request.cgroup_paths = cgroup.self_join_steps(), cgroup.paths
    if "process" in facts:
        request.namespaces = facts["namespaces"]
        return planner.exec_process(request)
    return planner.create(request)


def text_of(plan: Plan) -> str:
    lines = [plan.text()]
    for index, op in enumerate(plan.ops):
        if op.name in ("exec", "run-hook"):
            arguments, environment = (show(str(text).replace("\0", " | ")) for text in (op.s1, op.s2))
            lines.append(f"init {index:4}  arguments ({op.b}): {arguments}".rstrip() + "\n")
            lines.append(f"init {index:4}  environment ({op.c}): {environment}".rstrip() + "\n")
    if plan.inherited:
        lines.append(f"inherited: {', '.join(plan.inherited)}\n")
    if plan.preserve:
        lines.append(f"preserved: {plan.preserve}\n")
    lines += [f"warning: {text}\n" for text in plan.warnings]
    return "".join(lines)


@pytest.mark.parametrize("case", CASES)
def test_plan(case: str) -> None:
    plan = plan_of(*load(case))
    text = text_of(plan)
    golden = HERE / case / "create.plan"
    if os.environ.get("UPDATE_PLANS"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES)
def test_plan_keeps_the_invariants_and_can_be_encoded(case: str) -> None:
    plan = plan_of(*load(case))
    check(plan)
    data = wire.encode(plan)
    assert int.from_bytes(data[8:12], "little") == len(plan.ops)
    for op in plan.ops:
        # every op can be named in an error, and no error names a descriptor where a human would name a thing
        assert op.about or op.name == "close", op
        assert not op.where or op.where.startswith("/"), op


def test_there_are_cases() -> None:
    assert len(CASES) >= MIN_CASES
