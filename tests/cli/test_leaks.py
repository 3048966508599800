"""Cycles: after many containers there is no process, mount, cgroup, namespace, descriptor or file more than before.

PYRUNC_CYCLES=1000 in the environment makes it a thousand in a row and 200 at once; the default is what fits into every run.
"""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hierarchies
import pytest
from features import text

CYCLES = int(os.environ.get("PYRUNC_CYCLES", "100"))
PARALLEL = 200 if CYCLES >= 1000 else 40
WORKERS = 4


class Machine:
    """What there is on the machine that a container could leave, as far as it can be told from other tests' doings."""

    def __init__(self, pyrunc, made):
        self.name = made.path.parent.name.encode()
        self.pyrunc = pyrunc
        self.cgroup = made.config["linux"]["cgroupsPath"].lstrip("/")
        self.before = self.now()

    def now(self):
        ours = [line for line in Path("/proc/self/mountinfo").read_bytes().splitlines() if self.name in line]
        return {
            "processes": self.processes(),
            "mounts": ours,
            "cgroups": [str(p) for p in hierarchies.places(self.cgroup + "*")],
            "descriptors": len(os.listdir("/proc/self/fd")),
            "state": sorted(os.listdir(self.pyrunc.root)) if self.pyrunc.root.exists() else [],
        }

    def processes(self):
        """Whoever has our state directory or bundle in his words, or is in our cgroups."""
        collect()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    self.name in (entry / "cmdline").read_bytes()
                    or self.cgroup.encode() in (entry / "cgroup").read_bytes()
                ):
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def check(self, until):
        until(lambda: self.now() == self.before, "as it was before")


def collect():
    """Whatever has ended and was given to us."""
    for task in os.listdir("/proc/self/task"):
        # a thread of a pool may have ended since it was listed
        for pid in text(f"/proc/self/task/{task}/children").split():
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    os.waitpid(int(pid), os.WNOHANG)
            except (OSError, ChildProcessError):
                pass


def network_namespaces():
    """Those that any process is in."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(entry / "ns/net"))
        except OSError:
            pass
    return found


def limited(config):
    config["linux"]["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 64}, "cpu": {"shares": 512}}


@pytest.fixture
def bundles(make):
    """Bundles that share one rootfs: 200 copies would test the disk."""
    made = make(limited, "/bin/true")

    def bundle(name):
        place = made.path.parent / f"cycle-{name}"
        place.mkdir(exist_ok=True)
        config = {**made.config, "root": {"path": str(made.rootfs)}}
        config["linux"] = {**made.config["linux"], "cgroupsPath": f"{made.config['linux']['cgroupsPath']}-{name}"}
        (place / "config.json").write_text(json.dumps(config))
        return place

    bundle.first = made
    return bundle


def cycle(pyrunc, place, id_):
    pyrunc("create", "-b", place, "--pid-file", place / "pid", id_)
    pyrunc("start", id_)
    assert pyrunc.wait(int((place / "pid").read_text())) == 0
    pyrunc("delete", id_)


@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * CYCLES)
def test_one_after_the_other(pyrunc, bundles, until):
    place, id_ = bundles("one"), pyrunc.id()
    cycle(pyrunc, place, id_)  # what is made once and for all, such as caches, is there from now on
    machine = Machine(pyrunc, bundles.first)
    tree = sorted(str(path) for path in bundles.first.rootfs.rglob("*"))
    for _ in range(CYCLES):
        cycle(pyrunc, place, id_)
    machine.check(until)
    assert sorted(str(path) for path in bundles.first.rootfs.rglob("*")) == tree


@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * CYCLES)
def test_many_at_once(pyrunc, bundles, until):
    machine = Machine(pyrunc, bundles.first)

    def one(number):
        place, id_ = bundles(number), pyrunc.id(f"p{number}")
        if number % 2:
            pyrunc("run", "-d", "-b", place, id_)
            pyrunc("delete", "--force", id_)
        else:
            cycle(pyrunc, place, id_)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, range(PARALLEL)))
    machine.check(until)


@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * CYCLES)
def test_failures_one_after_the_other(pyrunc, make, until):
    """Whatever goes wrong, and however late."""
    edits = {
        "no program": lambda c: c["process"].update(args=["/none"]),
        "mount": lambda c: c["mounts"].append({"destination": "/x", "type": "nope", "source": "x"}),
        "sysctl": lambda c: c["linux"].update(sysctl={"net.ipv4.nope": "1"}),
        "hook": lambda c: c.update(hooks={"createRuntime": [{"path": "/bin/false"}]}),
        "limit": lambda c: c["linux"].update(resources={"cpu": {"cpus": "999"}}),
    }
    mades = [make(edit) for edit in edits.values()]
    machines = [Machine(pyrunc, made) for made in mades]
    for _ in range(max(2, CYCLES // 50)):
        for name, made in zip(edits, mades, strict=True):
            result = pyrunc("run", "-b", made, pyrunc.id(), status=1)
            assert result.err, name
    for machine in machines:
        machine.check(until)


def test_no_network_namespace_stays(pyrunc, running, until):
    box = running()
    inode = os.readlink(f"/proc/{box.pid}/ns/net")
    assert inode in network_namespaces()
    pyrunc("delete", "--force", box.id)
    pyrunc.wait(box.pid)
    until(lambda: inode not in network_namespaces(), "the namespace has gone")


def test_killed_commands_leave_nothing_that_delete_does_not_remove(pyrunc, make, until, peer):
    """run killed at a random moment, over and over, then deleted by force."""
    if peer:
        return
    made, id_ = make(limited, "/bin/probe", "sleep", "1000"), pyrunc.id()
    machine = Machine(pyrunc, made)
    for turn in range(12):
        run = pyrunc.popen("run", "-b", made, id_, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            run.wait(turn * 0.006)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
        pyrunc("delete", "--force", id_)
    machine.check(until)
