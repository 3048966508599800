"""A container without `process`: it can be made and used, and what it cannot is start (config.md#process, runtime.md#start)."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.differs("1.1 wants a process for create, and says so with a panic")


def none(config):
    del config["process"]


def test_life(pyrunc, make, gone):
    made, id_ = make(none), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    assert pyrunc.state(id_)["status"] == "created"
    assert pyrunc("exec", id_, "/bin/echo", "x").out == "x\n"
    result = pyrunc("start", id_, status=1)
    assert result.err == "config.json: process: required to start a container [runtime.md#start]\n"
    assert pyrunc.state(id_)["status"] == "created"  # as if it had not been tried (runtime.md#errors)
    pyrunc("delete", id_)
    gone(pyrunc, id_, made)


def test_who_waits_has_no_privilege(pyrunc, make):
    made, id_ = make(none), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    with open(f"/proc/{pyrunc.pid(id_)}/status") as file:
        found = dict(line.split(":\t", 1) for line in file.read().splitlines())
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert found["NoNewPrivs"] == "1"


def test_run_wants_one(pyrunc, make, gone):
    made, id_ = make(none), pyrunc.id()
    result = pyrunc("run", "-b", made, id_, status=1)
    assert "process: required to start a container [config.md#process]" in result.err
    gone(pyrunc, id_, made)


def test_plan_shows_that_nothing_runs(pyrunc, make):
    names = [line.split()[2] for line in pyrunc("plan", make(none)).out.splitlines() if line.startswith("init ")]
    assert names[-2:] == ["fifo", "exec"] and "find-exec" not in names
