"""Checkpoints and restores that cannot be, or that are killed: a clear word, a container left alone, and nothing left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from checkpoints import COUNT, _in_path, _subject  # noqa: F401 - fixtures among them

pytestmark = pytest.mark.requires("criu")


def test_no_criu(pyrunc, running):
    box = running()
    pyrunc.env["PATH"] = "/nowhere:relative"
    for words in (("checkpoint",), ("restore", "-b", box.bundle)):
        id_ = box.id if words == ("checkpoint",) else pyrunc.id("other")
        (box.bundle.path / "images").mkdir(exist_ok=True)
        (box.bundle.path / "images/descriptors.json").write_text("[]")
        box.bundle.config["linux"]["cgroupsPath"] += "-other"
        box.bundle.write()
        error = pyrunc.fails(*words, "--image-path", box.bundle.path / "images", id_)
        assert 'no program of that name in "/nowhere:relative"' in error and "install the package criu" in error
    assert pyrunc.state(box.id)["status"] == "running"


@pytest.mark.parametrize("status", ["created", "stopped"])
def test_wrong_status(status, pyrunc, make):
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    if status == "stopped":
        pid = pyrunc.pid(id_)
        pyrunc("start", id_)
        pyrunc.wait(pid)
    error = pyrunc.fails("checkpoint", "--image-path", made.path / "images", id_)
    assert f"container cannot be checkpointed in {status} state" in error
    assert not (made.path / "images").exists()


def test_the_container_is_not_there(pyrunc, scratch):
    assert "does not exist" in pyrunc.fails("checkpoint", "--image-path", scratch / "images", pyrunc.id())


def test_an_id_in_use(pyrunc, subject):
    one = subject()
    one.checkpoint("--leave-running")
    assert "already exists" in one.restore(status=1).err
    one.counts()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parent-path", "/absolute"], "--parent-path must be relative"),
        (["--parent-path", "nowhere"], "invalid --parent-path: "),
        (["--page-server", "localhost"], "use --page-server ADDRESS:PORT"),
        (["--page-server", "::1:27"], "use --page-server ADDRESS:PORT"),
        (["--page-server", "localhost:x"], 'invalid port number "x"'),
        (["--empty-ns", "user"], '--empty-ns: namespace "user" is not supported'),
        (["--status-fd", "77"], "invalid --status-fd argument 77"),
        (["--manage-cgroups-mode", "hard"], '"hard" is not one of'),
        (["--image-path"], "flag needs an argument: --image-path"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, list) else "",
)
def test_wrong_words(words, message, pyrunc, subject):
    one = subject()
    at = len(words) - 1 if words == ["--image-path"] else len(words)
    error = pyrunc.fails(
        "checkpoint", *(["--image-path", one.images] if at else []), *words[:at], *([one.id] if at else words)
    )
    assert message in error
    one.counts()


def test_a_missing_image_directory(pyrunc, make, gone):
    made, id_ = make(None), pyrunc.id()
    error = pyrunc.fails("restore", "-d", "--image-path", made.path / "nowhere", "-b", made, id_)
    assert f"open image directory {made.path}/nowhere: no such file or directory" in error
    gone(pyrunc, id_, made)


@pytest.mark.parametrize("garbage", ["empty", "no-inventory", "inventory", "core", "descriptors"])
def test_images_of_garbage(garbage, pyrunc, subject, gone):
    one = subject()
    one.checkpoint()
    if garbage == "empty":
        for file in one.images.iterdir():
            file.unlink()
    elif garbage == "no-inventory":
        (one.images / "inventory.img").unlink()
    elif garbage == "descriptors":
        (one.images / "descriptors.json").write_text('{"0": 1}')
    else:
        (file,) = list(one.images.glob(f"{garbage}*.img"))[:1]
        file.write_bytes(os.urandom(200))
    error = pyrunc.fails("restore", "-d", "--image-path", one.images, "-b", one.made, one.id)
    if garbage in ("empty", "descriptors"):
        assert "descriptors.json" in error
    else:
        assert "criu failed: type RESTORE" in error and f"its log is {one.images}/restore.log" in error
    gone(pyrunc, one.id, one.made)


def test_what_criu_refuses_is_quoted_and_leaves_the_container_alone(subject):
    """A socket whose other end is outside."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        one = subject(None, "/bin/sh", "-c", COUNT, stdin=theirs)
        one.counts()
        error = one.checkpoint(status=1).err
        assert (
            "criu failed: type DUMP" in error and "Error (criu/" in error and f"its log is {one.work}/dump.log" in error
        )
        one.counts()


@pytest.mark.requires("criu")
def test_a_feature_that_the_kernel_lacks_is_named(pyrunc, subject):
    one = subject()
    result = one.checkpoint("--pre-dump", status=None)
    if result.status:
        assert "criu is missing features: [MemTrack]: this kernel does not track changes of memory" in result.err
    one.counts()


@pytest.mark.parametrize("moment", range(4))
def test_killed_on_the_way(moment, pyrunc, subject, until, gone):
    """Wherever a restore is killed, with CRIU or without, `delete --force` finds all that it has made."""
    one = subject()
    one.checkpoint()
    log = one.work / "restore.log"
    child = pyrunc.popen("restore", "-d", "--image-path", one.images, "--work-path", one.work, "-b", one.made, one.id)
    marks = [None, b"Preparing cgroups yard", b"Running setup-namespaces scripts", b"Forking task with"]
    mark = marks[moment]
    if mark is None:
        until(lambda: (pyrunc.root / one.id / "journal").exists() or child.poll() is not None, "the journal")
    else:
        until(lambda: (log.exists() and mark in log.read_bytes()) or child.poll() is not None, "CRIU at work")
    criu_too = (
        [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
        if child.poll() is None
        else []
    )
    child.kill()
    for pid in criu_too if moment % 2 else ():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    child.wait()
    pyrunc("delete", "--force", one.id)
    gone(pyrunc, one.id, one.made)
    one.restore()
    one.counts()


def test_killed_while_dumping(pyrunc, subject, until):
    """CRIU, left alone, lets the container go on."""
    one = subject()
    one.counts()
    pid = one.pid
    child = pyrunc.popen("checkpoint", "--image-path", one.images, "--work-path", one.work, one.id)
    log = one.work / "dump.log"
    until(
        lambda: (log.exists() and b"Running network-lock scripts" in log.read_bytes()) or child.poll() is not None,
        "CRIU",
    )
    child.kill()
    child.wait()
    ends = (b"Dumping FAILED", b"Dumping finished")
    until(lambda: log.exists() and any(end in log.read_bytes() for end in ends), "the end of CRIU")
    if pyrunc.exists(one.id) and pyrunc.state(one.id)["status"] == "running":
        assert one.pid == pid
        one.counts()
    pyrunc("delete", "--force", one.id)
