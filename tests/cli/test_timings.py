"""`--timings` and `state --verbose`: where the time of a command goes, and where an init that does not run yet stands."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.differs("it has neither")


def phases(err: str) -> tuple[str, float, dict[str, float]]:
    """(of what, in all, the phases) of what --timings printed, in milliseconds."""
    first, *lines = err.splitlines()
    found = re.fullmatch(r"timings: (.*): ([0-9.]+) ms", first)
    assert found, err
    rows = [re.fullmatch(r" *([0-9.]+) ms  (.*)", line) for line in lines]
    return found[1], float(found[2]), {row[2]: float(row[1]) for row in rows if row}


def test_every_phase_is_accounted_for(pyrunc: Any, bundle: Any) -> None:
    id_ = pyrunc.id()
    made = bundle("/bin/sleep", "1000")
    seen = {}
    for words in (
        ["create", "-b", made, id_],
        ["start", id_],
        ["exec", id_, "/bin/true"],
        ["state", id_],
        ["delete", "-f", id_],
    ):
        of, whole, found = phases(pyrunc("--timings", *words).err)
        assert of == f"{words[0]} {id_}"
        # each line is rounded, and the shortest phases have none
        assert abs(whole - sum(found.values())) < 0.01 * (len(found) + 10)
        seen[words[0]] = set(found)
    assert seen["create"] >= {"read and check the documents", "plan", "start init", "state directory", "load modules"}
    assert any(name.startswith("init: up to ") for name in seen["create"])
    assert "init: start the program" in seen["start"]
    assert seen["exec"] >= {"plan", "start init"}
    assert "kill, and wait for the end" in seen["delete"]


def test_a_hook_has_its_own_line(pyrunc: Any, bundle: Any) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "0.2"]}
    made = bundle("/bin/true", hooks={"createRuntime": [hook], "poststop": [hook]})
    _, whole, found = phases(pyrunc("--timings", "run", "-b", made, pyrunc.id()).err)
    assert found["answer: hook createRuntime/0"] >= 200
    assert found["hooks"] >= 200
    assert whole >= 400


def test_of_a_command_that_fails(pyrunc: Any, bundle: Any) -> None:
    made = bundle("/not/there")
    err = pyrunc("--timings", "create", "-b", made, pyrunc.id(), status=1).err
    of, _, found = phases(err[: err.rindex("create ")])
    assert of.startswith("create") and "undo" in found
    assert "stat /not/there: no such file or directory" in err.splitlines()[-1]


def test_nothing_is_printed_without_it(pyrunc: Any, bundle: Any) -> None:
    assert pyrunc("run", "-b", bundle("/bin/true"), pyrunc.id()).err == ""


def test_where_a_created_one_stands(pyrunc: Any, bundle: Any) -> None:
    id_ = pyrunc.id()
    pyrunc("create", "-b", bundle("/bin/sleep", "1000"), id_)
    plain = pyrunc.state(id_)
    found = pyrunc("state", "--verbose", id_).json()
    assert {key: found[key] for key in plain} == plain
    state, init = found["stands"]
    assert state.startswith(f"created, init is process {plain['pid']}")
    assert state.endswith("init sleeps on exec.fifo until start")
    assert init.startswith(f"process {plain['pid']} (pyrunc:[INIT]) sleeps at ")
    assert "stands" not in plain


def test_who_holds_up_one_that_is_being_created(pyrunc: Any, bundle: Any, until: Any, scratch: Path) -> None:
    id_, gate = pyrunc.id(), scratch / "gate"
    os.mkfifo(gate)
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"read go <{gate}"]}
    child = pyrunc.popen("create", "-b", bundle("/bin/true", hooks={"createRuntime": [hook]}), id_)
    try:
        verbose = ("state", "--verbose", id_)
        until(lambda: (pyrunc.root / id_).exists() and "read go" in pyrunc(*verbose, status=None).out, "the hook")
        found = pyrunc(*verbose).json()
    finally:
        gate.write_text("go\n")
        assert child.wait(20) == 0
    assert found["status"] == "creating"
    sentences = "\n".join(found["stands"])
    assert f"process {child.pid} holds it: " in sentences
    assert f"(sh -c read go <{gate}): a hook that does not end holds it up" in sentences
