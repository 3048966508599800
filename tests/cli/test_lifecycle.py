"""create, start, state, kill, delete, run: what each status allows, what each command says and leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import hierarchies
import mkrootfs
import pytest


def test_whole_life(pyrunc, bundle, gone):
    made, id_ = bundle("/bin/probe", "exit", "7"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    state = pyrunc.state(id_)
    assert state["status"] == "created"
    pid = state["pid"]
    assert Path(f"/proc/{pid}").exists()
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 7
    state = pyrunc.state(id_)
    assert (state["status"], state.get("pid", 0)) == ("stopped", 0)
    pyrunc("delete", id_)
    gone(pyrunc, id_, made)
    assert "does not exist" in pyrunc.fails("state", id_)


def test_state_has_the_fields_of_the_specification(pyrunc, bundle):
    made, id_ = bundle("/bin/probe", "sleep", "1000", annotations={"a.b/c": "d", "e": ""}), pyrunc.id()
    before = datetime.now(UTC)
    pyrunc("create", "-b", made, id_)
    result = pyrunc("state", id_)
    assert result.err == ""
    state = json.loads(result.out)
    created = state.pop("created")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", created)
    when = datetime.fromisoformat(created.split(".")[0].rstrip("Z") + "+00:00")
    assert abs((when - before).total_seconds()) < 60
    assert re.fullmatch(r"\d+\.\d+\.\d+(-[\w.]+)?", state.pop("ociVersion"))
    assert isinstance(state["pid"], int)
    assert int(Path(f"/proc/{state['pid']}/status").read_text().split("PPid:")[1].split()[0]) == os.getpid()
    assert state.pop("owner", "") in ("", "root")
    assert {key: state[key] for key in ("id", "status", "bundle", "rootfs", "annotations")} == {
        "id": id_,
        "status": "created",
        "bundle": str(made.path),
        "rootfs": str(made.rootfs),
        "annotations": {"a.b/c": "d", "e": ""},
    }


def test_bundle_is_the_current_directory_by_default_and_stored_absolute(pyrunc, bundle):
    here, rel = (bundle("/bin/probe", "sleep", "1000") for _ in range(2))
    pyrunc("create", pyrunc.id("here"), cwd=here.path)
    pyrunc("create", "--bundle", os.path.relpath(rel.path, "/usr"), pyrunc.id("rel"), cwd="/usr")
    for name, made in (("here", here), ("rel", rel)):
        assert pyrunc.state(pyrunc.id(name))["bundle"] == str(made.path)
        pyrunc("start", pyrunc.id(name), cwd="/")


def test_pid_file_has_the_pid_and_no_newline(pyrunc, bundle, scratch):
    made, id_ = bundle("/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, "--pid-file", scratch / "pid", id_)
    assert (scratch / "pid").read_text() == str(pyrunc.pid(id_))
    assert sorted(name for name in os.listdir(scratch) if "pid" in name) == ["pid"]
    pyrunc("run", "-d", "-b", bundle("/bin/probe", "sleep", "1000"), "--pid-file", "pid2", pyrunc.id("d"), cwd=scratch)
    assert (scratch / "pid2").read_text() == str(pyrunc.pid(pyrunc.id("d")))


def test_pid_file_that_cannot_be_written(pyrunc, make, gone, scratch):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    error = pyrunc.fails("create", "-b", made, "--pid-file", scratch / "no/such/pid", id_)
    assert "no such file or directory" in error and "no/such" in error
    gone(pyrunc, id_, made)


def test_delete_of_created_ends_it(pyrunc, bundle, gone):
    made, id_ = bundle("/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    pyrunc("delete", id_)
    gone(pyrunc, id_, made)
    assert pyrunc.wait(pid) == 128 + signal.SIGKILL


def test_delete_of_running_is_refused_and_force_is_not(pyrunc, running, gone):
    box = running()
    error = pyrunc.fails("delete", box.id)
    assert "not stopped" in error and box.id in error
    assert pyrunc.state(box.id)["status"] == "running"
    pyrunc("delete", "--force", box.id)
    gone(pyrunc, box.id, box.bundle)
    assert pyrunc.wait(box.pid) == 128 + signal.SIGKILL


@pytest.mark.parametrize("spelling", ["--force", "-f", "-force"])
def test_delete_by_force_of_unknown_succeeds(pyrunc, spelling):
    result = pyrunc("delete", spelling, pyrunc.id("never"))
    assert (result.out, result.err) == ("", "")


def test_delete_by_force_of_paused_and_of_created(pyrunc, bundle, running, gone):
    box = running()
    pyrunc("pause", box.id)
    pyrunc("delete", "--force", box.id)
    gone(pyrunc, box.id, box.bundle)
    made, id_ = bundle("/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pyrunc("delete", "-f", id_)
    gone(pyrunc, id_, made)


@pytest.mark.parametrize("verb", ["state", "start", "kill", "delete", "exec", "ps", "pause", "resume"])
def test_unknown_container(pyrunc, verb):
    id_ = pyrunc.id("unknown")
    words = [id_, "/bin/true"] if verb == "exec" else [id_]
    error = pyrunc.fails(verb, *words, status=255 if verb == "exec" else 1)
    assert "does not exist" in error


def test_start_only_once(pyrunc, running):
    box = running()
    assert "cannot start an already running container" in pyrunc.fails("start", box.id)
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(box.pid)
    assert "cannot start a container that has stopped" in pyrunc.fails("start", box.id)


def test_create_of_an_id_in_use_leaves_the_first_alone(pyrunc, running):
    box = running()
    error = pyrunc.fails("create", "-b", box.bundle, box.id)
    assert "already exists" in error
    assert pyrunc.state(box.id)["pid"] == box.pid
    assert box.exec("/bin/true").status == 0


def test_kill_of_stopped(pyrunc, running, until):
    box = running(None, "/bin/true")
    # a zombie whose parent does not wait for it has stopped all the same
    until(lambda: pyrunc.state(box.id)["status"] == "stopped", "stopped")
    error = pyrunc.fails("kill", box.id, "TERM")
    assert "container not running" in error
    assert pyrunc.wait(box.pid) == 0
    assert "container not running" in pyrunc.fails("kill", box.id, "KILL")


def test_kill_of_created(pyrunc, bundle):
    made, id_ = bundle("/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    pyrunc("kill", id_, "KILL")
    assert pyrunc.wait(pid) == 128 + signal.SIGKILL
    assert pyrunc.state(id_)["status"] == "stopped"
    pyrunc("delete", id_)


def test_init_of_created_killed_from_outside(pyrunc, bundle):
    made, id_ = bundle("/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    os.kill(pid, signal.SIGKILL)
    pyrunc.wait(pid)
    assert pyrunc.state(id_)["status"] == "stopped"
    assert "cannot start a container that has stopped" in pyrunc.fails("start", id_)
    pyrunc("delete", id_)


@pytest.mark.parametrize(
    "word, number",
    [
        ("", 15),
        ("TERM", 15),
        ("SIGTERM", 15),
        ("15", 15),
        ("hup", 1),
        ("SigUsr1", 10),
        ("USR2", 12),
        ("34", 34),
        ("64", 64),
    ],
)
def test_kill_knows_signals_by_number_and_name(pyrunc, make, word, number):
    made, id_ = make(None, "/bin/probe", "trap", str(number)), pyrunc.id()
    read, write = os.pipe()
    pyrunc("create", "-b", made, id_, stdout=write)
    os.close(write)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    with os.fdopen(read) as out:
        assert out.readline() == "ready\n"
        pyrunc("kill", id_, *[word][: len(word)])
        assert out.read() == f"signal {number}\n"
    assert pyrunc.wait(pid) == 40 + number


@pytest.mark.parametrize("word", ["NOPE", "SIG", "65", "-1", "9x", "1.5"])
def test_kill_refuses_what_is_no_signal(pyrunc, running, word):
    box = running()
    pyrunc.fails("kill", box.id, *(["--"] if word[0] == "-" else []), word)
    assert pyrunc.state(box.id)["status"] == "running"


def test_kill_all(pyrunc, running, until):
    box = running(None, "/bin/sh", "-c", "/bin/probe sleep 1000 & /bin/probe sleep 1000 & wait")
    until(lambda: len(pyrunc("ps", "-f", "json", box.id).json()) == 3, "three processes")
    pyrunc("kill", "--all", box.id, "KILL")
    assert pyrunc.wait(box.pid) == 137


def test_kill_of_a_shared_pid_namespace_ends_every_process(pyrunc, running, until):
    """config-linux.md: without a pid namespace nothing in the kernel ends the rest with the first."""
    box = running(
        lambda c: mkrootfs.leave_out(c, "pid"),
        "/bin/sh",
        "-c",
        "/bin/probe sleep 1000 & /bin/probe sleep 1000 & wait",
    )
    until(lambda: len(pyrunc("ps", "-f", "json", box.id).json()) == 3, "three processes")
    pids = pyrunc("ps", "-f", "json", box.id).json()
    pyrunc("kill", "-a", box.id, "KILL")
    until(lambda: not [p for p in pids if _alive(p)], "all of them ended")


def test_delete_ends_what_outlived_init(pyrunc, running, until, gone):
    box = running(lambda c: mkrootfs.leave_out(c, "pid"), "/bin/sh", "-c", "/bin/probe sleep 1000 & echo")
    until(lambda: pyrunc.state(box.id)["status"] == "stopped", "init ended")
    pids = [int(word) for word in (box_cgroup(box) / "cgroup.procs").read_text().split()]
    assert len([pid for pid in pids if _alive(pid)]) == 1
    pyrunc("delete", box.id)
    gone(pyrunc, box.id, box.bundle)
    until(lambda: not [p for p in pids if _alive(p)], "no process left")


def box_cgroup(box):
    return hierarchies.place(box.bundle.config["linux"]["cgroupsPath"], "pids")


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("status", [0, 1, 2, 77, 125, 126, 127, 128, 129, 137, 200, 254, 255])
def test_exit_status_of_run(pyrunc, make, status):
    made = make(None, "/bin/probe", "exit", str(status))
    result = pyrunc("run", "-b", made, pyrunc.id(), status=status)
    assert (result.out, result.err) == ("", "")
    assert not pyrunc.exists(pyrunc.id())


@pytest.mark.parametrize("number", [1, 2, 3, 6, 8, 9, 11, 13, 14, 15, 31, 34, 64])
def test_exit_status_of_a_signal(pyrunc, make, number):
    # the first process of a pid namespace is immune to its own signals, so there is none
    made = make(lambda c: mkrootfs.leave_out(c, "pid"), "/bin/probe", "signal", str(number))
    pyrunc("run", "-b", made, pyrunc.id(), status=128 + number)


def test_run_of_a_container_that_is_killed(pyrunc, make, until):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    run = pyrunc.popen("run", "-b", made, id_)
    until(lambda: pyrunc.exists(id_) and pyrunc.state(id_)["status"] == "running", "running")
    pyrunc("kill", id_, "KILL")
    assert run.wait(20) == 137
    assert not pyrunc.exists(id_)


def test_run_keeps_the_container_if_asked(pyrunc, make):
    made, id_ = make(None, "/bin/probe", "exit", "5"), pyrunc.id()
    pyrunc("run", "--keep", "-b", made, id_, status=5)
    assert pyrunc.state(id_)["status"] == "stopped"
    pyrunc("delete", id_)


def test_run_detached(pyrunc, make):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    result = pyrunc("run", "--detach", "-b", made, id_)
    assert (result.out, result.err) == ("", "")
    assert pyrunc.state(id_)["status"] == "running"
    pid = pyrunc.pid(id_)
    pyrunc("kill", id_, "KILL")
    assert pyrunc.wait(pid) == 137


@pytest.mark.differs("a loser removes the winner's state")
def test_one_of_eight_creates_wins(pyrunc, bundle, gone):
    made = bundle("/bin/probe", "sleep", "1000")
    for round_ in range(10):
        id_ = pyrunc.id(f"race{round_}")
        racers = [
            pyrunc.popen("create", "-b", made, id_, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(8)
        ]
        errors = [racer.stderr.read().decode() if racer.wait(60) else "" for racer in racers]
        for racer in racers:
            racer.stderr.close()
        assert [racer.returncode for racer in racers].count(0) == 1, errors
        assert all("exists" in error for error in errors if error), errors
        # and the losers took nothing of the winner's away
        pyrunc("start", id_)
        assert pyrunc.state(id_)["status"] == "running"
        assert pyrunc("exec", id_, "/bin/true").status == 0
        pyrunc("delete", "-f", id_)
        gone(pyrunc, id_, made)


@pytest.mark.parametrize("name", ["a", "0", "A-b_c.d+e", "_", "-x"[1:], "a" * 100, "a..b", "...x"])
def test_good_ids(pyrunc, bundle, name):
    pyrunc("create", "-b", bundle("/bin/probe", "sleep", "1000"), name)
    assert pyrunc.state(name)["id"] == name
    pyrunc("delete", "-f", name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a b", "a\n", "ä", "a:b", "a\\b", "*", "a" * 300])
def test_bad_ids(pyrunc, bundle, name):
    made = bundle("/bin/true")
    before = sorted(os.listdir(pyrunc.root.parent))
    for words in (["create", "-b", str(made)], ["run", "-b", str(made)]):
        error = pyrunc.fails(*words, "--", name)
        assert not name or "id" in error.lower() or "name" in error, error
    for verb in ("state", "start", "kill", "delete"):
        pyrunc.fails(verb, "--", name)
    assert not pyrunc.root.exists() or not os.listdir(pyrunc.root)
    assert sorted(set(os.listdir(pyrunc.root.parent)) - {"state"}) == sorted(set(before) - {"state"})


def test_delete_by_force_goes_nowhere_else(pyrunc, scratch):
    pyrunc.root.mkdir()
    canary = scratch / "canary"
    canary.mkdir()
    (canary / "file").write_text("x")
    for name in ("../canary", "./../canary", str(canary), "..", ".", ""):
        pyrunc("delete", "--force", "--", name, status=None)
    assert (canary / "file").read_text() == "x" and pyrunc.root.is_dir()


def test_one_id_under_two_roots(pyrunc, bundle, scratch):
    made, id_ = bundle("/bin/probe", "sleep", "1000"), pyrunc.id()
    other = bundle("/bin/probe", "sleep", "1000")
    pyrunc("create", "-b", made, id_)
    first = pyrunc.root
    pyrunc.root = scratch / "other"
    try:
        assert "does not exist" in pyrunc.fails("state", id_)
        pyrunc("create", "-b", other, id_)
        assert pyrunc.state(id_)["bundle"] == str(other.path)
        pyrunc("delete", id_)
    finally:
        pyrunc.root = first
    assert pyrunc.state(id_)["bundle"] == str(made.path)


def test_state_directory_is_private(pyrunc, bundle):
    id_ = pyrunc.id()
    pyrunc("create", "-b", bundle("/bin/probe", "sleep", "1000"), id_)
    assert pyrunc.root.stat().st_mode & 0o077 in (0, 0o011)
    entry = (pyrunc.root / id_).stat()
    assert (pyrunc.root.stat().st_mode | entry.st_mode & 0) & 0o066 == 0
    assert entry.st_uid == os.geteuid() and entry.st_mode & 0o022 == 0


def test_waiting_init_is_small_and_ours(pyrunc, bundle):
    """No Python in a container, not even before its program runs (house rule 2)."""
    id_ = pyrunc.id()
    pyrunc("create", "-b", bundle("/bin/probe", "sleep", "1000"), id_)
    pid = pyrunc.pid(id_)
    assert "python" not in os.readlink(f"/proc/{pid}/exe")
    assert "python" not in Path(f"/proc/{pid}/maps").read_text()
    assert Path(f"/proc/{pid}/environ").read_bytes().find(b"PATH=/usr/local/sbin") == -1


@pytest.mark.differs("its init is a Go program of several threads")
def test_waiting_init_has_one_thread_and_hardly_any_memory(pyrunc, bundle):
    id_ = pyrunc.id()
    pyrunc("create", "-b", bundle("/bin/probe", "sleep", "1000"), id_)
    pid = pyrunc.pid(id_)
    assert len(os.listdir(f"/proc/{pid}/task")) == 1
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    assert sum(int(n) for n in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.M)) <= 100
    assert "memfd" in os.readlink(f"/proc/{pid}/exe")


def test_config_may_change_after_create(pyrunc, bundle):
    """runtime.md: any updates to config.json after create must not affect the container."""
    made, id_ = bundle("/bin/probe", "exit", "3"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    (made.path / "config.json").write_text("no longer JSON")
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 3
    (made.path / "config.json").unlink()
    assert pyrunc.state(id_)["status"] == "stopped"
    pyrunc("delete", id_)


@pytest.mark.requires("root")
def test_what_is_mounted_in_the_state_directory_is_not_emptied(pyrunc, make, scratch):
    """runc binds a rootfs there for a restore, and leaves it when it is killed."""
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    (scratch / "precious").mkdir()
    (scratch / "precious/file").touch()
    place = pyrunc.root / id_ / "bound"
    place.mkdir()
    subprocess.run(["mount", "--bind", scratch / "precious", place], check=True)
    assert "bound is a mount point" in pyrunc.fails("delete", id_)
    assert (scratch / "precious/file").exists()
    subprocess.run(["umount", place], check=True)
    pyrunc("delete", "--force", id_)
    assert not (pyrunc.root / id_).exists()
