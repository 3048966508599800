"""Older kernels, and profiles around us that do not know newer system calls: each of them missing alone, and all that came after the
oldest Linux that we run on. Either there is another way, or one line says what is missing, and nothing is left.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess

import older
import pytest
import shim_client
from conmon_caller import BIN, ours  # noqa: F401 - a fixture
from hierarchies import VERSION

pytestmark = pytest.mark.requires("root")

#: without these there are no containers: the command that says so
NEEDED = {
    "open_tree": "create",
    "move_mount": "create",
    "fsopen": "create",
    "fsconfig": "create",
    "fsmount": "create",
    "mount_setattr": "create",
    "pidfd_open": "create",
    "pidfd_send_signal": "kill",
    # for what hooks are told
    "memfd_create": "create",
    # of a list of devices
    **({"bpf": "create"} if VERSION == 2 else {}),
}
#: and for these there is another way
SPARE = [name for name in older.CALLS if name not in NEEDED]
TOGETHER = [*SPARE, older.ABOVE_FLOOR]

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}],
}


def simple(config):
    """What engines write most often: mounts of every kind, masks, a filter, hooks."""
    config["mounts"] += [
        {"destination": "/etc/bound", "type": "bind", "source": "/etc/passwd", "options": ["bind", "ro"]},
        {
            "destination": "/bound",
            "type": "bind",
            "source": "/usr/lib",
            "options": ["rbind", "rro", "nosuid", "rprivate"],
        },
        {"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700"]},
    ]
    config["linux"] |= {
        "seccomp": SECCOMP,
        "maskedPaths": ["/proc/kcore", "/sys/firmware"],
        "readonlyPaths": ["/proc/sys"],
    }
    config["hooks"] = {
        kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "createContainer", "poststart", "poststop")
    }
    config["hooks"]["startContainer"] = [{"path": "/bin/true"}]
    config["root"]["readonly"] = True
    config["process"]["cwd"] = "/tmp"


def mapped(config):
    """With a user namespace."""
    simple(config)
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}
    config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "sysfs"]
    config["mounts"][-2]["options"] = ["rbind", "ro"]


CONFIGS = {"simple": simple, "mapped": mapped}


def place(made):
    """What is mounted on: a user of the image's namespace could not make it."""
    for folder in ("bound", "copied", "shared"):
        (made.rootfs / folder).mkdir()
    (made.rootfs / "etc/bound").touch()


@pytest.fixture
def without(pyrunc):
    """without("openat2"): from now on commands are run where it does not exist; the end of the test is not."""
    argv = pyrunc.argv

    def hide(*names, errno=0):
        prefix = older.command(*names, errno=errno)
        pyrunc.argv = lambda *words: [*prefix, *argv(*words)]

    yield hide
    pyrunc.argv = argv


def life(pyrunc, made, id_):
    """Every step of a life; the names of those that fail, and what they say."""
    pyrunc("create", "-b", made, "--pid-file", made.path / "pid", id_)
    pid = pyrunc.pid(id_)
    assert int((made.path / "pid").read_text()) == pid
    pyrunc("start", id_)
    found = pyrunc("exec", id_, "/bin/probe", "report").json()
    # as safe as ever: nothing open, its own cgroup, its own root
    assert [entry["fd"] for entry in found["fds"]] == [0, 1, 2]
    assert found["seccomp"] and found["signals"] == {"blocked": [], "ignored": []}
    assert all(line.endswith(":/") for line in found["cgroup"] if "name=" in line or line.startswith("0:")), found[
        "cgroup"
    ]
    points = {mount["point"]: mount["options"] for mount in found["mounts"]}
    assert {"/etc/bound", "/bound", "/copied", "/proc", "/dev/pts", "/proc/sys"} <= set(points)
    assert "ro" in points["/etc/bound"] and "ro" in points["/proc/sys"] and "ro" in points["/"]
    with open(f"/proc/{pid}/cgroup") as own, open("/proc/self/cgroup") as callers:
        assert made.path.name in own.read() and made.path.name not in callers.read()
    pyrunc("exec", "-d", "--pid-file", made.path / "exec", id_, "/bin/sleep", "1000")
    pyrunc("pause", id_)
    assert pyrunc.state(id_)["status"] == "paused"
    pyrunc("resume", id_)
    pyrunc("update", "--pids-limit", "99", id_)
    assert str(pid) in pyrunc("ps", "-f", "json", id_).out
    pyrunc("kill", id_, "TERM")
    # the namespace ends when everybody in it has been waited for
    pyrunc.wait(int((made.path / "exec").read_text()))
    assert pyrunc.wait(pid) == 128 + signal.SIGTERM
    pyrunc("delete", id_)


def check(pyrunc, make, config, name, gone):
    script = "trap 'exit 143' TERM; while :; do sleep 0.01; done"
    made, id_ = make(CONFIGS[config], "/bin/sh", "-c", script), pyrunc.id()
    place(made)
    if name not in NEEDED:
        life(pyrunc, made, id_)
        return
    if NEEDED[name] != "create":
        pyrunc("create", "-b", made, id_)
        error = pyrunc.fails(NEEDED[name], id_)
    else:
        error = pyrunc.fails("create", "-b", made, id_)
        gone(pyrunc, id_, made)
    assert name in error and "internal error" not in error, error


@pytest.mark.parametrize("name", older.CALLS)
def test_without_a_system_call(pyrunc, make, without, gone, name):
    """One after the other; with a user namespace, which goes through the most of them."""
    without(name)
    check(pyrunc, make, "mapped", name, gone)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("names", [[older.ABOVE_FLOOR], TOGETHER], ids=["floor", "all that can be done without"])
def test_without_many(pyrunc, make, without, gone, names, config):
    without(*names)
    check(pyrunc, make, config, "", gone)


def test_where_they_are_forbidden(pyrunc, make, without, gone):
    """Profiles of engines from before these calls answer EPERM to them, where a kernel would say ENOSYS."""
    without("clone3", "openat2", "faccessat2", "close_range", errno=1)
    check(pyrunc, make, "mapped", "", gone)


def test_a_terminal(pyrunc, make, without, receiver, scratch):
    without(*TOGETHER)
    console = receiver(scratch / "console")
    made, id_ = make(lambda c: c["process"].update(terminal=True), "/bin/sh", "-c", "test -t 0 && exit 5"), pyrunc.id()
    pyrunc("create", "-b", made, "--console-socket", scratch / "console", id_)
    master = console.receive()
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 5
    os.close(master)


@pytest.mark.requires("idmapped-mount")
def test_an_idmapped_mount(pyrunc, make, without, scratch):
    without(*TOGETHER)
    (scratch / "shared").mkdir()
    mount = {"destination": "/shared", "type": "bind", "source": str(scratch / "shared"), "options": ["bind", "idmap"]}

    def edit(config):
        mapped(config)
        config["mounts"].append({**mount, "uidMappings": MAP, "gidMappings": MAP})
        config["hooks"] = {}

    made = make(edit, "/bin/touch", "/shared/made")
    place(made)
    pyrunc("run", "-b", made, pyrunc.id())
    assert (scratch / "shared/made").stat().st_uid == 0


def test_under_the_shims(pyrunc, make, ours, scratch, bundle, monkeypatch):  # noqa: F811 - the fixture
    """All three of them, which start, wait for and kill processes in other ways."""
    prefix = older.command(*TOGETHER)
    made = make(simple, "/bin/sh", "-c", "echo out; exit 3")
    words = [*prefix, BIN / "pyrunc-shim", "run", "--root", pyrunc.root, "--bundle", made.path, pyrunc.id("s")]
    done = subprocess.run(words, env=pyrunc.env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "")

    box = ours("/bin/sh", "-c", "echo out; exit 4")
    argv = box.argv
    box.argv = lambda *more, **how: [*prefix, *argv(*more, **how)]
    assert box.run() == 4
    assert box.lines() == [("stdout", "F", "out")]
    box.daemon_ended()
    pyrunc("delete", box.id)

    text = f'#!/bin/sh\nexec {shlex.join([*prefix, str(shim_client.PROGRAM)])} "$@"\n'
    shim_client.stand_in(monkeypatch, scratch / "shim", text)
    engine = shim_client.Engine(scratch)
    try:
        shim = engine.start(bundle("/bin/sh", "-c", "exit 5").path, pyrunc.id("c"))
        shim.create()
        shim.call("Start", id=shim.id)
        assert shim.wait() == 5
        shim.call("Delete", id=shim.id)
        shim.call("Shutdown", id=shim.id)
        shim.wait_until_gone()
    finally:
        engine.close()
