"""events: a container's statistics in runc's JSON, on an interval or once, and out of memory."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
pytestmark = pytest.mark.requires("root")


def stats(pyrunc, id_):
    (line,) = pyrunc("events", "--stats", id_).out.splitlines()
    event = json.loads(line)
    assert (event["type"], event["id"]) == ("stats", id_)
    return event["data"]


def limited(config):
    config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 17}}


def test_once(pyrunc, running, until):
    box = running(limited, "/bin/probe", "spin")
    found = stats(pyrunc, box.id)
    assert found["memory"]["usage"]["limit"] == 64 << 20
    assert 0 < found["memory"]["usage"]["usage"] <= 64 << 20 and found["memory"]["raw"]
    assert (found["pids"]["current"], found["pids"]["limit"]) == (1, 17)
    before = found["cpu"]["usage"]["total"]
    until(lambda: stats(pyrunc, box.id)["cpu"]["usage"]["total"] > before, "it runs")
    assert set(found["blkio"]) >= {"ioServiceBytesRecursive", "ioServicedRecursive", "sectorsRecursive"}
    assert [(one["Name"], one["RxBytes"]) for one in found["network_interfaces"]] == [("lo", 0)]


@pytest.mark.requires("runc")
def test_the_names_are_runcs(pyrunc, running, make, scratch):
    """Whatever runc prints of the same container has its name here, and a number a number."""
    made = make(lambda c: c.update(ociVersion="1.0.2"), "/bin/probe", "sleep", "1000")
    runc, id_ = [shutil.which("runc", path="/usr/sbin:/usr/bin"), "--root", str(scratch / "runc")], pyrunc.id("runc")
    with open(scratch / "out", "w") as out:
        subprocess.run(
            [*runc, "run", "-d", "-b", made, id_], stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True
        )
    try:
        done = subprocess.run([*runc, "events", "--stats", id_], capture_output=True, check=True)
    finally:
        subprocess.run([*runc, "delete", "--force", id_], check=True)
    theirs, ours = json.loads(done.stdout)["data"], stats(pyrunc, running().id)

    def missing(theirs, ours, place=""):
        if isinstance(theirs, dict) and not place.endswith("/raw"):
            for key, value in theirs.items():
                if key not in (ours or {}):
                    yield f"{place}/{key}"
                else:
                    yield from missing(value, ours[key], f"{place}/{key}")
        elif isinstance(theirs, int) and not isinstance(ours, int):
            yield place

    assert list(missing(theirs, ours)) == []


def test_on_an_interval_until_the_end(pyrunc, running):
    box = running()
    child = pyrunc.popen("events", "--interval", "50ms", box.id, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    events = [json.loads(child.stdout.readline()) for _ in range(3)]
    assert [event["type"] for event in events] == ["stats"] * 3
    pyrunc("kill", box.id, "KILL")
    # communicate() would leave out what readline() has read ahead
    rest, err = child.stdout.read(), child.stderr.read()
    assert child.wait(30) == 0 and err == b""
    assert {json.loads(line)["type"] for line in rest.splitlines()} <= {"stats"}


def test_out_of_memory(pyrunc, make, until):
    """One that is killed, while init goes on: a line of its own, at once and not with the next statistics."""
    made = make(limited, "/bin/sh", "-c", "read x; /bin/probe eat 200000000; exec /bin/probe sleep 1000")
    id_ = pyrunc.id()
    fifo = made.path / "go"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    with open(fifo, "r+b", buffering=0) as go:
        pyrunc("create", "-b", made, id_, stdin=go)
        pyrunc("start", id_)
        child = pyrunc.popen("events", "--interval", "1h", id_, stdout=subprocess.PIPE)
        control = "memory.events" if V2 else "cgroup.event_control"
        until(lambda: any("eventfd" in link or control in link for link in links(child.pid)), "it listens")
        go.write(b"\n")
        assert json.loads(child.stdout.readline()) == {"type": "oom", "id": id_}
    pyrunc("delete", "--force", id_)
    assert child.wait(30) == 0


def links(pid):
    try:
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except FileNotFoundError:
        return []


def test_of_what_is_not_there(pyrunc, running):
    assert "does not exist" in pyrunc.fails("events", "--stats", pyrunc.id("nobody"))
    box = running()
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(box.pid)
    assert "container not running" in pyrunc.fails("events", "--stats", box.id)
    assert "interval must be greater than 0" in pyrunc.fails("events", "--interval", "0s", box.id)


@pytest.mark.requires("cgroup-v2")
def test_pressure(pyrunc, running):
    found = stats(pyrunc, running(limited).id)
    if Path("/proc/pressure").exists():
        assert found["memory"]["psi"]["some"]["avg10"] >= 0 and "total" in found["cpu"]["psi"]["some"]
    assert found["memory"]["usage"]["limit"] == 64 << 20
