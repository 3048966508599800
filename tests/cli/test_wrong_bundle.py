"""What is wrong with the bundle, or with the place that state is kept in: one clear error, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import unshared

VERBS = pytest.mark.parametrize("verb", ["create", "run"])


@pytest.fixture
def fails(pyrunc, gone, peer):
    """fails(verb, bundle): the error of a command that must fail and leave nothing."""

    def fails(verb, made, *options, id_=None):
        id_ = id_ or pyrunc.id("wrong")
        words = (verb, "-b", str(made), *options, id_)
        error = pyrunc(*words, status=1).err if peer else pyrunc.fails(*words)
        assert error
        if hasattr(made, "config"):
            gone(pyrunc, id_, made)
        assert not (pyrunc.root / id_).exists() and not pyrunc.exists(id_)
        return error

    return fails


# -- the bundle ------------------------------------------------------------------------------------------------------------


@VERBS
def test_no_bundle(fails, scratch, verb):
    error = fails(verb, scratch / "none")
    assert "/none" in error and ("no such file or directory" in error or "does not exist" in error)


@VERBS
def test_no_config(fails, bundle, verb, peer):
    made = bundle()
    (made.path / "config.json").unlink()
    error = fails(verb, made)
    assert "config.json" in error and ("no such file or directory" in error or "not found" in error)


def test_bundle_is_a_file(fails, scratch):
    (scratch / "file").write_text("{}")
    assert "not a directory" in fails("create", scratch / "file")


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"[]", pytest.param(b"null", marks=pytest.mark.differs("it crashes")), b'"text"', b"{}", b'{"ociVersion": "1.0.2"', b'{"process": {"args": ["a"', b"\x00\x01\x02",
        b"\xff\xfe{}", b"{'a': 1}", b'{"a": 1,}', b'{"a": NaN}', b"[" * 100_000, b'{"ociVersion": 7}',
        b'{"ociVersion": "1.0.2", "process": 5}', b'{"ociVersion": "1.0.2", "root": "x", "process": {"args": ["/bin/true"], "cwd": "/"}}',
    ],
    ids=lambda text: repr(text[:24]),
)  # fmt: skip
def test_garbage(fails, bundle, text):
    made = bundle()
    (made.path / "config.json").write_bytes(text)
    error = fails("create", made)
    assert "internal error" not in error and "goroutine" not in error


def test_every_truncation(pyrunc, bundle, peer):
    """Cut anywhere, a config is an error and nothing else."""
    made = bundle("/bin/true")
    whole = (made.path / "config.json").read_bytes().rstrip()
    for length in range(1, len(whole), len(whole) // (10 if peer else 40)):
        (made.path / "config.json").write_bytes(whole[:length])
        result = pyrunc("create", "-b", made, pyrunc.id(), status=1)
        assert "internal error" not in result.err
    assert not pyrunc.exists(pyrunc.id())


def test_config_is_a_directory(fails, bundle):
    made = bundle()
    (made.path / "config.json").unlink()
    (made.path / "config.json").mkdir()
    error = fails("create", made)
    assert "is a directory" in error or "not a regular file" in error


@pytest.mark.differs("it waits for a writer")
def test_config_is_a_fifo(fails, bundle):
    made = bundle()
    (made.path / "config.json").unlink()
    os.mkfifo(made.path / "config.json")
    assert "config.json" in fails("create", made)


def test_an_error_in_the_config_is_told_with_its_place(fails, bundle, peer):
    made = bundle()
    made.config["process"]["cwd"] = 5
    made.write()
    error = fails("create", made)
    assert "process.cwd" in error
    if not peer:
        line = next(
            n for n, text in enumerate((made.path / "config.json").read_text().splitlines(), 1) if '"cwd"' in text
        )
        assert f"config.json:{line}:" in error


def test_unknown_properties_are_accepted(pyrunc, bundle):
    """config.md#extensibility: unknown properties MUST be ignored."""
    made = bundle("/bin/true")
    made.config["x"] = made.config["process"]["y"] = made.config["linux"]["z"] = {"a": [1]}
    made.write()
    result = pyrunc("run", "-b", made, pyrunc.id())
    assert result.err == ""


# -- the root file system ----------------------------------------------------------------------------------------------------


@VERBS
def test_no_rootfs(fails, bundle, verb):
    made = bundle()
    shutil.rmtree(made.rootfs)
    error = fails(verb, made)
    assert "rootfs" in error and ("no such file or directory" in error or "does not exist" in error)


def test_rootfs_is_a_file(fails, bundle):
    made = bundle()
    shutil.rmtree(made.rootfs)
    made.rootfs.write_text("")
    assert "not a directory" in fails("create", made).lower()


def test_rootfs_is_a_dangling_link(fails, bundle):
    made = bundle()
    shutil.rmtree(made.rootfs)
    made.rootfs.symlink_to("nowhere")
    fails("create", made)


@pytest.mark.requires("root")
def test_rootfs_is_the_root(pyrunc, bundle):
    """One's own root as the rootfs: whatever comes of it, nothing of the host changes.

    The host is a mount namespace of the test's own: other tests mount and unmount meanwhile.
    """
    made, id_ = bundle("/bin/true"), pyrunc.id()
    made.config["root"]["path"] = "/"
    made.write()
    before = of_the_root()
    changed = unshared.remounted(pyrunc.argv("run", "-b", made, id_), "private", env=pyrunc.env)
    pyrunc("delete", "--force", id_)
    assert changed == []
    assert of_the_root() == before


def of_the_root():
    """The names in / and /dev, but for the loop devices that tests beside this one take."""
    return [sorted(name for name in os.listdir(path) if not name.startswith("loop")) for path in ("/", "/dev")]


def test_rootfs_is_empty(fails, bundle):
    made = bundle("/bin/true")
    shutil.rmtree(made.rootfs)
    made.rootfs.mkdir()
    assert "no such file or directory" in fails("create", made)
    # the mount points were made; nothing else
    assert set(os.listdir(made.rootfs)) <= {"dev", "proc", "sys"}


def test_rootfs_of_links_that_lead_outside(pyrunc, make, scratch):
    """Every directory that a container needs is a link to a directory of the host: nothing there may change."""
    canary = scratch / "canary"
    names = ("proc", "dev", "sys", "etc", "tmp", "mnt", "run", "root", "home", "var")
    for name in names:
        (canary / name / "sub").mkdir(parents=True)
        (canary / name / "file").write_text("canary")
    before = snapshot(canary)

    def edit(config):
        config["linux"]["maskedPaths"] += ["/etc/file", "/mnt/sub", "/tmp/file"]
        config["linux"]["readonlyPaths"] += ["/run/file", "/root/sub"]
        config["linux"]["devices"] = [{"path": "/home/null", "type": "c", "major": 1, "minor": 3}]
        config["mounts"] += [
            {"destination": "/etc/new/dir", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/var/file", "type": "bind", "source": "/etc/hostname", "options": ["bind"]},
            {"destination": "/mnt/sub", "type": "tmpfs", "source": "tmpfs"},
        ]
        config["process"]["cwd"] = "/tmp/made/by/cwd"

    for target in (str(canary), "../" * 12 + str(canary).lstrip("/")):
        made = make(edit, "/bin/busybox", "touch", "/var/touched")
        for name in names:
            shutil.rmtree(made.rootfs / name, ignore_errors=True)
            (made.rootfs / name).symlink_to(f"{target}/{name}")
        pyrunc("run", "-b", made, pyrunc.id(), status=None)
        pyrunc("run", "-b", made, "--no-pivot", pyrunc.id("no-pivot"), status=None)
        assert snapshot(canary) == before


def snapshot(top):
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, path.read_text() if path.is_file() else "")
    return found


def test_rootfs_whose_program_is_a_link_outside(pyrunc, make, scratch):
    """A link is resolved inside: what the host has at that path is not run."""
    (scratch / "host-program").write_text("#!/bin/sh\necho of the host\n")
    (scratch / "host-program").chmod(0o755)
    made = make(None, "/bin/outside")
    (made.rootfs / "bin/outside").symlink_to(scratch / "host-program")
    result = pyrunc("run", "-b", made, pyrunc.id(), status=1)
    assert "no such file or directory" in result.err and "of the host" not in result.out


def test_links_in_a_circle(fails, bundle):
    made = bundle("/bin/true")
    (made.rootfs / "a").symlink_to("b")
    (made.rootfs / "b").symlink_to("a")
    made.config["mounts"].append({"destination": "/a/x", "type": "tmpfs", "source": "tmpfs"})
    made.write()
    assert "/a/x" in fails("create", made)


# -- the state directory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_root(pyrunc):
    """A state directory on a tmpfs of the given options."""

    def small_root(options):
        pyrunc.root.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "small", str(pyrunc.root)], check=True)

    yield small_root
    subprocess.run(["umount", "-l", str(pyrunc.root)], capture_output=True, check=False)


@VERBS
@pytest.mark.parametrize("options", ["size=4k", "size=8k", "nr_inodes=2", "nr_inodes=3", "nr_inodes=4", "nr_inodes=5"])
@pytest.mark.differs("it leaves a directory that delete --force does not remove")
@pytest.mark.requires("root")
def test_state_directory_is_full(pyrunc, fails, bundle, small_root, verb, options):
    made, id_ = bundle("/bin/true"), pyrunc.id("wrong")
    small_root(options)
    result = pyrunc(verb, "-b", made, id_, status=None)
    if result.status == 0:  # it was enough
        pyrunc("delete", "--force", id_)
    else:
        assert result.status == 1 and "no space left on device" in result.err.lower()
        assert len(result.err.strip().splitlines()) <= 2
    assert not pyrunc.exists(id_)
    assert os.listdir(pyrunc.root) == []


@pytest.mark.requires("root")
def test_state_directory_is_read_only(pyrunc, fails, bundle, small_root):
    small_root("ro")
    assert "read-only file system" in fails("create", bundle("/bin/true")).lower()


def test_state_directory_is_a_file(pyrunc, bundle):
    pyrunc.root.write_text("")
    error = pyrunc.fails("create", "-b", bundle("/bin/true"), pyrunc.id())
    assert "not a directory" in error
    pyrunc.fails("state", pyrunc.id())
    pyrunc.root.unlink()


def test_state_directory_is_made(pyrunc, bundle, scratch):
    pyrunc.root = scratch / "a/b/c"
    pyrunc("run", "-b", bundle("/bin/true"), pyrunc.id())
    assert os.listdir(pyrunc.root) == []


@pytest.fixture
def broken(pyrunc, running):
    """A running container whose state file is replaced."""

    def broken(data):
        box = running()
        (file,) = [path for path in (pyrunc.root / box.id).iterdir() if path.name == "state.json"]
        file.write_bytes(data)
        return box

    return broken


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"{}", b"[]", b"null", b"\x00" * 100, b'{"id": 5}', b"[" * 100_000],
    ids=lambda d: repr(d[:10]),
)
@pytest.mark.differs("its list stops at the first of them")
def test_state_file_of_garbage(pyrunc, running, broken, data, gone):
    other = running(name="other")
    box = broken(data)
    error = pyrunc.fails("state", box.id)
    assert box.id in error and "internal error" not in error
    for verb in ("start", "kill", "ps", "pause", "delete"):
        assert "internal error" not in pyrunc.fails(verb, box.id)
    found = {entry["id"]: entry for entry in pyrunc("list", "-f", "json").json()}
    assert found[other.id]["status"] == "running" and box.id in found
    assert box.id in pyrunc("list").out and box.id in pyrunc("list", "-q").out
    pyrunc("delete", "--force", box.id)
    gone(pyrunc, box.id, box.bundle)
    assert pyrunc.wait(box.pid) == 137
    assert pyrunc.exists(other.id)


@pytest.mark.differs("to it there is no such container any more")
def test_state_file_that_somebody_has_removed(pyrunc, running, gone):
    """What runs is not deleted without force for that, as what a create that has died has left would be."""
    box = running()
    (pyrunc.root / box.id / "state.json").unlink()
    error = pyrunc.fails("delete", box.id)
    assert f"{box.id}/state.json: missing, but the container's process {box.pid} runs\nhint: " in error
    os.kill(box.pid, 0)
    pyrunc("delete", "--force", box.id)
    gone(pyrunc, box.id, box.bundle)
    assert pyrunc.wait(box.pid) == 137


@pytest.mark.differs("it takes the one for the other")
def test_state_file_of_another_container(pyrunc, running):
    """A file that was copied about does not make one container another."""
    first, second = running(name="first"), running(name="second")
    shutil.copy(pyrunc.root / first.id / "state.json", pyrunc.root / second.id / "state.json")
    pyrunc.fails("kill", second.id, "KILL")
    pyrunc("delete", "--force", second.id)
    assert pyrunc.state(first.id)["status"] == "running"
    assert first.exec("/bin/true").status == 0


@pytest.mark.differs("it does not look at the start time of a stopped one")
def test_a_pid_that_is_another_process_by_now(pyrunc, running):
    """A state file from before: its pid is taken, its start time is not."""
    box = running(None, "/bin/true")
    pyrunc.wait(box.pid)
    victim = subprocess.Popen(["sleep", "1000"])
    path = pyrunc.root / box.id / "state.json"
    state = json.loads(path.read_text())
    state["pid"] = victim.pid
    path.write_text(json.dumps(state))
    assert pyrunc.state(box.id)["status"] == "stopped"
    assert "container not running" in pyrunc.fails("kill", box.id, "KILL")
    pyrunc("delete", "--force", box.id)
    assert victim.poll() is None
    victim.kill()
    victim.wait()


def test_entries_that_are_no_containers(pyrunc, running):
    box = running()
    (pyrunc.root / "empty").mkdir()
    (pyrunc.root / "file").write_text("x")
    (pyrunc.root / "link").symlink_to("/")
    result = pyrunc("list", "-q")
    assert box.id in result.out.split()
    # of a create that died at once, as far as anybody can tell: nothing runs there
    assert '"running"' not in pyrunc("state", "empty", status=None).out
    assert pyrunc("start", "empty", status=None).status == 1
    pyrunc("delete", "--force", "empty")
    assert not (pyrunc.root / "empty").exists()
    pyrunc("delete", "--force", "link", status=None)
    assert os.path.isdir("/etc")
    for name in ("file", "link"):
        if os.path.lexists(pyrunc.root / name):
            (pyrunc.root / name).unlink()


# -- what a killed create leaves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08])
@pytest.mark.differs("delete --force does not know what was done before there was a state file")
def test_create_killed_at_any_moment(pyrunc, make, gone, until, delay):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    for turn in range(3):
        create = pyrunc.popen("create", "-b", made, id_, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            create.wait(delay + turn / 500)
        except subprocess.TimeoutExpired:
            create.kill()
            create.wait()
        pyrunc("delete", "--force", id_)
        gone(pyrunc, id_, made)


@pytest.mark.differs("delete --force does not know what was done before there was a state file")
def test_create_killed_while_a_hook_runs(pyrunc, make, gone, until, scratch):
    def edit(config):
        script = f"touch {scratch}/hook; exec sleep 1000"
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    made, id_ = make(edit, "/bin/true"), pyrunc.id()
    create = pyrunc.popen("create", "-b", made, id_, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until((scratch / "hook").exists, "the hook runs")
    create.kill()
    create.wait()
    for entry in Path("/proc").glob("[0-9]*"):  # the hook, which is nobody's now
        try:
            if entry.joinpath("cwd").readlink() == made.path:
                os.kill(int(entry.name), 9)
        except OSError:
            pass
    pyrunc("delete", "--force", id_)
    gone(pyrunc, id_, made)
