"""pause, resume, ps and list of real containers (test_list_spec_features.py has the forms of their output)."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
from pathlib import Path

import hierarchies
import pytest


def ticks(pid):
    """The processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_pause_and_resume(pyrunc, running, until):
    box = running(None, "/bin/probe", "spin")
    until(lambda: ticks(box.pid) > 1, "it runs")
    pyrunc("pause", box.id)
    assert pyrunc.state(box.id)["status"] == "paused"
    before = ticks(box.pid)
    assert hierarchies.frozen(box.pid)
    assert ticks(box.pid) == before
    pyrunc("resume", box.id)
    assert pyrunc.state(box.id)["status"] == "running"
    until(lambda: ticks(box.pid) > before, "it runs on")


def test_pause_of_what_cannot_be_paused(pyrunc, make, running):
    box = running()
    pyrunc("pause", box.id)
    pyrunc("pause", box.id, status=None)
    assert pyrunc.state(box.id)["status"] == "paused"
    pyrunc("resume", box.id)
    pyrunc.fails("resume", box.id)
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(box.pid)
    pyrunc.fails("pause", box.id)
    pyrunc.fails("resume", box.id)


def test_a_created_container_may_be_paused(pyrunc, make):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pyrunc("pause", id_)
    assert pyrunc.state(id_)["status"] == "paused"
    pyrunc("resume", id_)
    assert pyrunc.state(id_)["status"] == "created"
    pyrunc("start", id_)


@pytest.mark.differs("the process dies only when it is resumed")
def test_kill_of_a_paused_container(pyrunc, running):
    box = running()
    pyrunc("pause", box.id)
    pyrunc("kill", box.id, "KILL")
    assert pyrunc.wait(box.pid) == 137


def test_pause_holds_every_process(pyrunc, running, until):
    box = running(None, "/bin/sh", "-c", "for i in 1 2 3; do sleep 1000 & done; wait")
    until(lambda: len(pyrunc("ps", "-f", "json", box.id).json()) == 4, "all are there")
    pyrunc("pause", box.id)
    for pid in pyrunc("ps", "-f", "json", box.id).json():
        assert "freez" in Path(f"/proc/{pid}/wchan").read_text() or re.search(
            r"State:\s+[DS]", Path(f"/proc/{pid}/status").read_text()
        )
    pyrunc("resume", box.id)


# -- ps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.requires("boot-time")
def test_ps(pyrunc, running, until):
    box = running(None, "/bin/sh", "-c", "sleep 1111 & sleep 2222 & wait")
    until(lambda: len(pyrunc("ps", "--format", "json", box.id).json()) == 3, "three processes")
    pids = pyrunc("ps", "--format=json", box.id).json()
    assert pids == sorted(pids) and box.pid in pids
    lines = pyrunc("ps", box.id).out.splitlines()
    assert lines[0].split()[:3] == ["UID", "PID", "PPID"] and len(lines) == 4
    assert sorted(int(line.split()[1]) for line in lines[1:]) == pids
    assert str(os.getpid()) not in [line.split()[1] for line in lines]


def test_ps_with_options_of_ps(pyrunc, running):
    box = running()
    lines = pyrunc("ps", box.id, "-o", "pid,comm").out.splitlines()
    assert [line.split() for line in lines] == [["PID", "COMMAND"], [str(box.pid), "probe"]]
    lines = pyrunc("ps", box.id, "-eo", "comm,pid").out.splitlines()
    assert lines[-1].split() == ["probe", str(box.pid)] and len(lines) == 2


def test_ps_without_a_column_of_pids(pyrunc, running):
    error = pyrunc.fails("ps", running().id, "-o", "comm")
    assert "PID" in error


def test_ps_counts_processes_of_exec_and_of_cgroups_below(pyrunc, running, until):
    box = running()
    child = pyrunc.popen("exec", box.id, "/bin/sh", "-c", "echo up; exec sleep 1000", stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"up\n"
    assert len(pyrunc("ps", "-f", "json", box.id).json()) == 2
    child.stdout.close()
    pyrunc("kill", box.id, "KILL")
    assert child.wait(20) == 137


# -- list --------------------------------------------------------------------------------------------------------------


def test_list(pyrunc, make, running):
    assert pyrunc("list", "-f", "json").json() in ([], None)
    assert pyrunc("list", "-q").out == ""
    box = running(lambda c: c.update(annotations={"a": "b"}), name="one")
    made = make(None, "/bin/true")
    pyrunc("create", "-b", made, pyrunc.id("two"))
    found = {entry["id"]: entry for entry in pyrunc("list", "--format", "json").json()}
    assert set(found) == {box.id, pyrunc.id("two")}
    one = found[box.id]
    assert (one["status"], one["pid"], one["bundle"]) == ("running", box.pid, str(box.bundle.path))
    assert one["annotations"] == {"a": "b"} and one["owner"] == pwd.getpwuid(os.geteuid()).pw_name
    assert found[pyrunc.id("two")]["status"] == "created"
    lines = pyrunc("list").out.splitlines()
    assert lines[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows[box.id][1:4] == [str(box.pid), "running", str(box.bundle.path)]
    assert sorted(pyrunc("list", "--quiet").out.split()) == sorted(found)


def test_list_of_stopped_ones(pyrunc, running, until):
    box = running(None, "/bin/true")
    pyrunc.wait(box.pid)
    (entry,) = pyrunc("list", "-f", "json").json()
    assert (entry["status"], entry["pid"]) == ("stopped", 0)


def test_list_while_containers_come_and_go(pyrunc, make):
    """Every answer is whole, whatever happens beside it."""
    made = [make(None, "/bin/true") for _ in range(3)]
    runs = [pyrunc.popen("run", "-b", one, pyrunc.id(f"r{n}"), stdin=subprocess.DEVNULL) for n, one in enumerate(made)]
    answers = 0
    while any(run.poll() is None for run in runs) or answers < 3:
        for entry in json.loads(pyrunc("list", "-f", "json").out) or []:
            assert entry["id"].startswith(pyrunc.prefix)
        answers += 1
    assert [run.wait(20) for run in runs] == [0, 0, 0]


def test_ps_of_a_stopped_container_is_empty(pyrunc, running):
    box = running()
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(box.pid)
    assert pyrunc("ps", "--format", "json", box.id).json() == []


@pytest.mark.requires("boot-time")
def test_the_table_of_a_stopped_container_is_empty(pyrunc, running):
    box = running()
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(box.pid)
    lines = pyrunc("ps", box.id).out.splitlines()
    assert len(lines) == 1 and lines[0].split()[:2] == ["UID", "PID"]
