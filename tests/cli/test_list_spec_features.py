"""Commands that only read, or write one file."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

# -- list ----------------------------------------------------------------------------------------------------------------

USER = pwd.getpwuid(os.geteuid()).pw_name
HEADER = "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"


def test_no_container(pyrunc) -> None:
    assert pyrunc("list").out == HEADER
    assert pyrunc("list", "--format", "json").json() == []
    assert pyrunc("list", "-q").out == ""


def test_containers_are_listed(pyrunc, bundle) -> None:
    made = bundle("/bin/sleep", "100")
    created, running = pyrunc.id("created"), pyrunc.id("running")
    pyrunc("create", "-b", made, created)
    made.config["linux"]["cgroupsPath"] += "-2"
    made.write()
    pyrunc("run", "-d", "-b", made, running)
    rows = {row.split()[0]: row.split() for row in pyrunc("list").out.splitlines()[1:]}
    assert {id_: row[2] for id_, row in rows.items()} == {created: "created", running: "running"}
    assert rows[running][1] == str(pyrunc.pid(running)) and rows[running][3] == str(made) and rows[running][5] == USER
    found = {entry["id"]: entry for entry in pyrunc("list", "-f", "json").json()}
    state = pyrunc.state(running)
    assert found[running] == {**state, "owner": USER}
    assert pyrunc("list", "-q").out.split() == sorted([created, running])
    for id_ in (created, running):
        pid = pyrunc.pid(id_)
        pyrunc("delete", "-f", id_)
        pyrunc.wait(pid)


def test_a_broken_entry_hides_no_other(pyrunc, bundle, scratch: Path) -> None:
    good, broken = pyrunc.id("good"), pyrunc.id("broken")
    made = bundle("/bin/true")
    pyrunc("create", "-b", made, good)
    pid = pyrunc.pid(good)
    shutil.copytree(pyrunc.root / good, pyrunc.root / broken, ignore=shutil.ignore_patterns("exec.*"))
    (pyrunc.root / broken / "state.json").write_bytes(b'{"garbage')
    log = scratch / "log"
    result = pyrunc("--log", log, "list")
    rows = {row.split()[0]: row.split() for row in result.out.splitlines()[1:]}
    assert rows[good][2] == "created" and rows[broken][2] == "unknown"
    assert broken in log.read_text() and " level=warning " in log.read_text()
    assert result.err == ""
    assert pyrunc("list", "-q").out.split() == sorted([good, broken])
    assert [bool(entry.get("error")) for entry in pyrunc("list", "-f", "json").json()] == [
        id_ == broken for id_ in sorted([good, broken])
    ]
    shutil.rmtree(pyrunc.root / broken)
    pyrunc("delete", "-f", good)
    pyrunc.wait(pid)


# -- state ---------------------------------------------------------------------------------------------------------------


def test_state_is_one_object_and_nothing_else(pyrunc, bundle) -> None:
    made = bundle("/bin/sleep", "100", annotations={"org.example.key": "välue"})
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    result = pyrunc("state", id_)
    state = result.json()
    assert list(state) == ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    assert state["id"] == id_ and state["status"] == "created" and state["pid"] > 0
    assert (state["bundle"], state["rootfs"]) == (str(made.path), str(made.rootfs))
    assert state["annotations"] == {"org.example.key": "välue"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", state["created"])
    assert result.out.startswith('{\n  "ociVersion": ') and result.err == ""
    pid = state["pid"]
    pyrunc("delete", id_)
    pyrunc.wait(pid)


# -- ps ------------------------------------------------------------------------------------------------------------------


@pytest.mark.requires("boot-time")
def test_processes(pyrunc, bundle) -> None:
    made = bundle("/bin/sh", "-c", "sleep 100 & wait")
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", made, id_)
    pid = pyrunc.pid(id_)
    pids = pyrunc("ps", "--format", "json", id_).json()
    assert pid in pids
    lines = pyrunc("ps", id_).out.splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert {int(line.split()[1]) for line in lines[1:]} <= set(pyrunc("ps", "-f", "json", id_).json())
    assert str(pid) in [line.split()[0] for line in pyrunc("ps", id_, "-e", "-o", "pid,comm").out.splitlines()]
    assert "PID" in pyrunc.fails("ps", id_, "-e", "-o", "comm")
    pyrunc("delete", "-f", id_)
    pyrunc.wait(pid)


# -- spec ----------------------------------------------------------------------------------------------------------------


def written(pyrunc, place: Path, *words: str) -> dict:
    place.mkdir()
    result = pyrunc("spec", *words, cwd=place)
    assert (result.out, result.err) == ("", "")
    found: dict = json.loads((place / "config.json").read_text())
    return found


@pytest.mark.parametrize("words", [[], ["--rootless"]], ids=["root", "rootless"])
def test_spec_is_runcs(pyrunc, scratch: Path, words: list[str]) -> None:
    """What the installed runc writes, but for what later ones changed and for our own name."""
    ours = written(pyrunc, scratch / "ours", *words)
    (scratch / "theirs").mkdir()
    runc = shutil.which("runc", path="/usr/sbin:/usr/bin")
    assert runc, "Debian's runc is a test dependency"
    subprocess.run([runc, "spec", *words], cwd=scratch / "theirs", check=True)
    theirs = json.loads((scratch / "theirs/config.json").read_text())
    assert ours["ociVersion"] == "1.3.0" and ours["hostname"] == "pyrunc"
    assert set(theirs["linux"]["maskedPaths"]) <= set(ours["linux"]["maskedPaths"])
    theirs["process"]["capabilities"].pop("ambient", None)
    for config in (ours, theirs):
        for key in ("ociVersion", "hostname"):
            del config[key]
        del config["linux"]["maskedPaths"]
    assert ours == theirs


def test_spec_writes_to_the_bundle_and_over_nothing(pyrunc, scratch: Path) -> None:
    pyrunc("spec", "--bundle", scratch)
    before = (scratch / "config.json").read_bytes()
    assert b'\n\t"ociVersion"' in before
    assert "exists" in pyrunc.fails("spec", "-b", scratch)
    assert (scratch / "config.json").read_bytes() == before
    os.unlink(scratch / "config.json")
    os.symlink("/nowhere/else", scratch / "config.json")
    pyrunc.fails("spec", "-b", scratch)
    assert "no such file" in pyrunc.fails("spec", "-b", scratch / "nowhere")


@pytest.mark.requires("root")
def test_what_spec_writes_is_valid_and_has_a_plan(pyrunc, scratch: Path) -> None:
    config = written(pyrunc, scratch / "b")
    pyrunc("validate", scratch / "b")
    (scratch / "b/rootfs").mkdir()
    config["process"]["terminal"] = False
    (scratch / "b/config.json").write_text(json.dumps(config))
    text = pyrunc("plan", scratch / "b").out
    assert re.search(r"^init +\d+  exec +.*sh", text, re.M)


# -- plan ----------------------------------------------------------------------------------------------------------------


def test_plan_prints_and_does_nothing(pyrunc, bundle) -> None:
    made = bundle("/bin/true")
    text = pyrunc("plan", made).out
    steps = pyrunc("plan", "--json", made).json()
    assert len(text.splitlines()) == len(steps)
    assert set(steps[0]) == {"place", "index", "name", "text", "where"}
    assert [step["place"] for step in steps][-1] == "init" and steps[-1]["name"] == "exec"
    assert pyrunc("plan", cwd=made.path).out == text
    assert not pyrunc.root.exists() or pyrunc("list", "-q").out == ""


# -- features ------------------------------------------------------------------------------------------------------------


def test_features_has_what_engines_read(pyrunc) -> None:
    result = pyrunc("features")
    found = result.json()
    assert result.err == ""
    assert (found["ociVersionMin"], found["ociVersionMax"]) == ("1.0.0", "1.3.0")
    assert found["hooks"] == ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    # containerd: recursive read-only mounts and user namespaces
    assert {"rro", "ro", "rbind", "idmap", "tmpcopyup", "nosymfollow"} <= set(found["mountOptions"])
    assert found["mountOptions"] == sorted(set(found["mountOptions"]))
    linux = found["linux"]
    assert {"user", "pid", "network", "mount", "ipc", "uts", "cgroup"} <= set(linux["namespaces"])
    assert "CAP_SYS_ADMIN" in linux["capabilities"]
    assert linux["cgroup"]["v1"] is True and linux["cgroup"]["v2"] is True
    assert linux["seccomp"]["enabled"] is True and "SCMP_ACT_ERRNO" in linux["seccomp"]["actions"]
    assert linux["mountExtensions"]["idmap"]["enabled"] is True
    assert found["annotations"]["org.pyrunc.version"]


def test_features_promises_no_less_than_runc(pyrunc) -> None:
    runc = shutil.which("runc", path="/usr/sbin:/usr/bin")
    assert runc, "Debian's runc is a test dependency"
    theirs = json.loads(subprocess.run([runc, "features"], check=True, capture_output=True).stdout)
    ours = pyrunc("features").json()
    # noacl is left to the file systems that know it, as data
    assert set(theirs["mountOptions"]) - {"noacl"} <= set(ours["mountOptions"])
    assert set(theirs["linux"]["namespaces"]) <= set(ours["linux"]["namespaces"])
    assert set(theirs["linux"]["capabilities"]) <= set(ours["linux"]["capabilities"])
    assert set(theirs["hooks"]) == set(ours["hooks"])
    assert set(theirs["linux"]["seccomp"]["actions"]) <= set(ours["linux"]["seccomp"]["actions"])
    assert set(theirs["linux"]["seccomp"]["archs"]) <= set(ours["linux"]["seccomp"]["archs"])
