"""linux.intelRdt, on a resctrl filesystem of the test's own (tests/fixtures/resctrl.py), in a mount namespace that stands for the host's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.requires("root", "fuse"), pytest.mark.differs("resctrl is mounted by FUSE")]
SERVER = Path(__file__).resolve().parent.parent / "fixtures/resctrl.py"


class Host:
    """A mount namespace in which resctrl is mounted."""

    def __init__(self, pid, pyrunc, place, limit):
        self.pid, self.pyrunc, self.place, self.log = pid, pyrunc, place, place.with_name("changes")
        words = ["nsenter", "-t", str(pid), "-m", sys.executable, str(SERVER), str(place), str(self.log), str(limit)]
        self.server = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self.server.stdout and self.server.stdout.readline() == b"mounted\n"

    def run(self, *words, status=0):
        with open(self.place.with_name("out"), "w+") as out, open(self.place.with_name("err"), "w+") as err:
            enter = ["nsenter", "-t", str(self.pid), "-m", *self.pyrunc.argv(*words)]
            done = subprocess.run(enter, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60)
            texts = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
        assert done.returncode == status, texts
        return texts[1]

    def changes(self):
        """What was made, written and removed, in its order: "write /a/tasks 12"."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [" ".join((one["op"], one["path"], *([one["text"].strip()] if "text" in one else []))) for one in found]


@pytest.fixture
def mounted(holder, pyrunc, scratch):
    hosts = []

    def mounted(limit=8):
        place = scratch / "resctrl"
        place.mkdir()
        place.with_name("changes").touch()
        hosts.append(Host(holder("-m"), pyrunc, place, limit))
        return hosts[-1]

    yield mounted
    for host in hosts:
        host.server.kill()
        host.server.communicate()


@pytest.fixture
def created(pyrunc, make):
    """created(host, **intelRdt) -> (id, pid) of a container that waits for start."""

    def created(host, name="box", **asked):
        id_ = pyrunc.id(name)
        host.run("create", "-b", make(lambda c: c["linux"].update(intelRdt=asked), "/bin/probe", "sleep", "1000"), id_)
        return id_, pyrunc.pid(id_)

    return created


@pytest.fixture
def refuses(pyrunc, make):
    """refuses(host, words, **intelRdt): create fails, and nothing of it is left."""

    def refuses(host, *words, **asked):
        made = make(lambda c: c["linux"].update(intelRdt=asked))
        error = host.run("create", "-b", made, pyrunc.id("refused"), status=1)
        assert all(word in error for word in words), error
        assert not (pyrunc.root / pyrunc.id("refused")).exists()

    return refuses


def test_a_group_of_its_own(mounted, created):
    host = mounted()
    id_, pid = created(host, l3CacheSchema="L3:0=f")
    assert host.changes() == [f"mkdir /{id_}", f"write /{id_}/schemata L3:0=f", f"write /{id_}/tasks {pid}"]
    host.run("delete", "--force", id_)
    assert host.changes()[3:] == [f"rmdir /{id_}"]


def test_run_leaves_nothing(mounted, make, pyrunc):
    host, id_ = mounted(), pyrunc.id()
    host.run("run", "-b", make(lambda c: c["linux"].update(intelRdt={"enableMonitoring": True}), "/bin/true"), id_)
    assert host.changes()[-2:] == [f"rmdir /{id_}/mon_groups/{id_}", f"rmdir /{id_}"]


def test_no_resctrl_is_an_error(refused):
    refused(
        lambda c: c["linux"].update(intelRdt={}) or c["linux"]["intelRdt"].update(closID="x"), "no resctrl filesystem"
    )


def test_without_it_nothing_is_touched(mounted, pyrunc, make):
    host = mounted()
    host.run("run", "-b", make(None, "/bin/true"), pyrunc.id())
    assert host.changes() == []


def test_the_default_class(mounted, created):
    host = mounted()
    id_, pid = created(host, closID="/")
    assert host.changes() == [f"write /tasks {pid}"]
    host.run("delete", "--force", id_)
    assert host.changes() == [f"write /tasks {pid}"]


def test_schemas_that_are_wrong(mounted, refuses):
    host = mounted()
    refuses(host, "does not begin with L3:", l3CacheSchema="MB:0=10")
    refuses(host, "does not begin with MB:", memBwSchema="0=10")
    refuses(host, "more than one line", memBwSchema="MB:0=10\nMB:1=10")
    refuses(host, "more than one line", schemata=["L3:0=f\nL3:1=f"])
    assert host.changes() == []
    refuses(host, "L2:0=f", "/schemata: invalid argument", schemata=["L2:0=f"])  # which this processor does not have
    assert host.changes()[-1].startswith("rmdir /")


def test_the_order_of_the_schemas(mounted, created):
    host = mounted()
    id_, pid = created(host, schemata=["L3:1=3", "MB:1=40"], memBwSchema="MB:0=20", l3CacheSchema="L3:0=f")
    written = [change.split(" ", 2)[2] for change in host.changes() if "/schemata" in change]
    assert written == ["L3:0=f", "MB:0=20", "L3:1=3", "MB:1=40"]
    assert host.changes()[-1] == f"write /{id_}/tasks {pid}"


@pytest.mark.parametrize("key, line", [("l3CacheSchema", "L3:0=f;1=f0"), ("memBwSchema", "MB:0=20;1=70")])
def test_either_schema(mounted, created, key, line):
    host = mounted()
    id_, _ = created(host, closID="gold", **{key: line})
    assert "write /gold/schemata " + line in host.changes()


def test_without_schemas_none_is_written(mounted, created):
    host = mounted()
    id_, pid = created(host)
    created(host, "other", enableMonitoring=False)
    assert host.changes()[:2] == [f"mkdir /{id_}", f"write /{id_}/tasks {pid}"]
    assert not [change for change in host.changes() if "/schemata" in change]


def test_a_named_class_is_made(mounted, created):
    """And stays: it may have become others' by then."""
    host = mounted()
    id_, pid = created(host, closID="gold", memBwSchema="MB:0=20")
    assert host.changes() == ["mkdir /gold", "write /gold/schemata MB:0=20", f"write /gold/tasks {pid}"]
    host.run("delete", "--force", id_)
    assert len(host.changes()) == 3


def test_a_named_class_that_is_there(mounted, created, refuses):
    host = mounted()
    created(host, closID="gold", l3CacheSchema="L3:0=00f;1=f", memBwSchema="MB:0=20")
    created(host, "second", closID="gold", l3CacheSchema="L3:1=f;0=0f")  # the same, in other words
    refuses(host, "linux.intelRdt.l3CacheSchema", "does not say L3:1=1f", closID="gold", l3CacheSchema="L3:0=f;1=1f")
    refuses(host, "linux.intelRdt.memBwSchema", "does not say MB:0=30", closID="gold", memBwSchema="MB:0=30")


def test_a_prepared_class(mounted, created, refuses):
    host = mounted()
    refuses(host, "linux.intelRdt.closID", "gold is not there", closID="gold")
    subprocess.run(["nsenter", "-t", str(host.pid), "-m", "mkdir", str(host.place / "gold")], check=True)
    before = len(host.changes())
    id_, pid = created(host, closID="gold")
    host.run("delete", "--force", id_)
    assert host.changes()[before:] == [f"write /gold/tasks {pid}"]


def test_monitoring(mounted, created):
    host = mounted()
    id_, pid = created(host, closID="gold", memBwSchema="MB:0=20", enableMonitoring=True)
    group = f"/gold/mon_groups/{id_}"
    assert host.changes()[2:] == [f"write /gold/tasks {pid}", f"mkdir {group}", f"write {group}/tasks {pid}"]
    host.run("delete", "--force", id_)
    assert host.changes()[5:] == [f"rmdir {group}"]


def test_monitoring_that_is_refused(mounted, created, refuses):
    """No more groups than the processor has: an error, and the container is not made."""
    host, gold = mounted(limit=1), {"closID": "gold", "memBwSchema": "MB:0=20", "enableMonitoring": True}
    for name in ("one", "two"):
        created(host, name, **gold)
    words = ("make resctrl group", "no space left on device", "only so many", "/linux/intelRdt")
    refuses(host, *words, **gold)
    assert sum(change.startswith("mkdir") for change in host.changes()) == 3
    refuses(host, *words)  # a class of its own, of which there is no more either


def test_update(mounted, created):
    """Lines that the kernel refuses, and limits that it refuses, leave the class as it was."""
    host = mounted()
    id_, _ = created(host, l3CacheSchema="L3:0=f;1=f")
    host.run("update", "--mem-bw-schema", "MB:0=30", "--l3-cache-schema", "L3:1=3", id_)
    assert host.changes()[3:] == [f"write /{id_}/schemata L3:1=3", f"write /{id_}/schemata MB:0=30"]

    def schemata():
        words = ["nsenter", "-t", str(host.pid), "-m", "cat", str(host.place / id_ / "schemata")]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    before = schemata()
    assert before == ["L3:0=f;1=3", "MB:0=30;1=100"]
    assert "invalid argument" in host.run(
        "update", "--l3-cache-schema", "L3:0=1", "--mem-bw-schema", "MB:9=1", id_, status=1
    )
    assert schemata() == before
    host.run("update", "--l3-cache-schema", "L3:0=1", "--cpuset-cpus", "4000", id_, status=1)
    assert schemata() == before
