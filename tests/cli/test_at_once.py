"""Several commands on one container at once: each sees it as it is, and loses nothing of what the others did."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: says what `state` says, looked at without a pause in this process, each word that is another than before: of one id after the other, as
#: they come on standard input
READER = """
import select, sys
from runtime import lifecycle
from runtime.errors import Error, NotFound
ctx = lifecycle.Context(sys.argv[1])
id_ = last = ""
while True:
    if not id_ or select.select([0], [], [], 0)[0]:
        id_, last = sys.stdin.readline().strip(), ""
        if not id_:
            break
    try:
        now = lifecycle.state(ctx, id_)["status"]
    except NotFound:
        now = "none"
    except Error as error:
        now = "ERROR: " + str(error)
    if last != now:
        print(now, flush=True)
        last = now
"""


@contextlib.contextmanager
def at_work(pyrunc, id_):
    """As a command does it that is at work on the container: its directory, locked."""
    fd = os.open(pyrunc.root / id_, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def waits(pyrunc, id_, child):
    """Whether a command has found the container, and so waits for its lock."""
    return any(link == str(pyrunc.root / id_) for link in links(child.pid))


def links(pid):
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


@pytest.mark.differs("it has no API")
def test_a_reader_sees_one_life_in_its_order(pyrunc, bundle):
    made = bundle("/bin/probe", "sleep", "1000")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, pyrunc.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )

    def sees(*words):
        """The next words are these, of which the last has to come; others may be too short to be seen."""
        rest = iter(words)
        while (word := reader.stdout.readline().strip()) != words[-1]:
            assert word in rest, f"{word} where one of {words} was to be seen"

    for number in range(25):
        id_ = pyrunc.id(f"life{number}")
        reader.stdin.write(id_ + "\n")
        reader.stdin.flush()
        sees("none")
        pyrunc("create", "-b", made, id_, stdin=subprocess.DEVNULL)
        sees("creating", "created")
        pyrunc("start", id_)
        sees("running")
        pyrunc("kill", id_, "KILL")
        sees("stopped")
        pyrunc("delete", id_)
        sees("none")
    reader.stdin.close()
    assert reader.wait(20) == 0
    reader.stdout.close()


@pytest.mark.requires("limits")
@pytest.mark.differs("it takes no lock")
def test_two_updates_at_once_are_both_kept(pyrunc, running, until):
    box = running()
    children = []
    with at_work(pyrunc, box.id):
        for words in (("--pids-limit", "33"), ("--cpu-shares", "300")):
            children.append(pyrunc.popen("update", *words, box.id, stdin=subprocess.DEVNULL))
            until(lambda: waits(pyrunc, box.id, children[-1]), "waiting for the lock")
    assert [child.wait(20) for child in children] == [0, 0]
    kept = json.loads((pyrunc.root / box.id / "state.json").read_text())["resources"]
    assert kept["pids"]["limit"] == 33 and kept["cpu"]["shares"] == 300


@pytest.mark.differs("it takes no lock")
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_delete_that_waited_for_another_leaves_a_new_container_alone(pyrunc, bundle, until, force):
    id_, made = pyrunc.id(), bundle("/bin/probe", "sleep", "1000")
    aside = pyrunc.root / f"{id_}-aside"
    pyrunc("create", "-b", made, id_, stdin=subprocess.DEVNULL)
    first = pyrunc.pid(id_)
    with at_work(pyrunc, id_):
        child = pyrunc.popen("delete", *force, id_, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: waits(pyrunc, id_, child), "waiting for the lock")
        # what another delete would do, and then another create: it has the name, and the one that is waited for has none
        (pyrunc.root / id_).rename(aside)
        (pyrunc.root / id_).mkdir(0o700)
        (pyrunc.root / id_ / "journal").write_text('{"bundle": "/another"}\n')
    err = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(20) == (0 if force else 1), err
    assert (force and not err) or "does not exist" in err
    assert (pyrunc.root / id_ / "journal").exists()
    shutil.rmtree(pyrunc.root / id_)
    aside.rename(pyrunc.root / id_)
    pyrunc("delete", "--force", id_)
    assert pyrunc.wait(first) == 137


@pytest.mark.differs("it takes no lock")
@pytest.mark.parametrize("verb", ["start", "pause", "resume"])
def test_what_waited_for_a_delete_does_not_find_the_container(pyrunc, bundle, until, verb):
    id_, made = pyrunc.id(), bundle("/bin/probe", "sleep", "1000")
    pyrunc("create", "-b", made, id_, stdin=subprocess.DEVNULL)
    pid = pyrunc.pid(id_)
    pyrunc("kill", id_, "KILL")
    assert pyrunc.wait(pid) == 137
    with at_work(pyrunc, id_):
        child = pyrunc.popen(verb, id_, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        until(lambda: waits(pyrunc, id_, child), "waiting for the lock")
        state = (pyrunc.root / id_).rename(pyrunc.root / f"{id_}-aside")
        for name in ("state.json", "journal"):
            (state / name).rename(pyrunc.root / f"{id_}.{name}")
    err = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(20) == 1 and "does not exist" in err, err
    for name in ("state.json", "journal"):
        (pyrunc.root / f"{id_}.{name}").rename(state / name)
    state.rename(pyrunc.root / id_)
    pyrunc("delete", id_)
