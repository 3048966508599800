"""`doctor` tells the truth: what it calls an error fails when it is tried, what it calls ok works, and a container's trouble is named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierarchies
import mkrootfs
import pytest
import unshared
from features import has

Findings = dict[str, list[dict[str, str]]]

KEYS = ["id", "severity", "what", "found", "advice"]
MISSING = "/nonexistent/pyrunc-test"


@pytest.fixture
def doctor(pyrunc: Any) -> Callable[..., Findings]:
    """doctor(words...): the findings by id; the exit status is checked against them."""

    def ask(*words: Any, command: Any = pyrunc) -> Findings:
        result = command("doctor", "--json", *words, status=None)
        found: list[dict[str, str]] = json.loads(result.out)
        assert result.err == ""
        assert all(list(finding) == KEYS and finding["id"] and finding["found"] for finding in found)
        assert {finding["severity"] for finding in found} <= {"ok", "note", "warning", "error"}
        assert result.status == int(any(finding["severity"] == "error" for finding in found)), found
        out: Findings = {}
        for finding in found:
            out.setdefault(finding["id"], []).append(finding)
        return out

    return ask


def bad(found: Findings) -> set[str]:
    return {id_ for id_, findings in found.items() if any(one["severity"] == "error" for one in findings)}


# -- this host -----------------------------------------------------------------------------------------------------------


def test_this_host(doctor: Callable[..., Findings], pyrunc: Any, bundle: Any) -> None:
    """Nothing is wrong with a machine on which containers run; each controller is called what it is."""
    found = doctor()
    assert pyrunc("run", "-b", bundle("/bin/true"), pyrunc.id()).status == 0
    assert bad(found) == set()
    for id_ in (
        "kernel.version",
        "kernel.interpreter",
        "kernel.namespaces",
        "kernel.mount-api",
        "kernel.pidfd",
        "userns.create",
    ):
        assert [one["severity"] for one in found[id_]] == ["ok"], found[id_]
    assert os.uname().release in found["kernel.version"][0]["found"]
    mounted = {
        word for line in Path("/proc/self/cgroup").read_text().splitlines() for word in line.split(":")[1].split(",")
    }
    for name in ("memory", "cpu", "pids", "devices", "freezer"):
        if name in mounted:
            assert found[f"cgroup.v1.{name}"][0]["severity"] == "ok"
    version = pyrunc("--version").out
    assert found["seccomp.library"][0]["found"] in version


def test_as_text(pyrunc: Any) -> None:
    result = pyrunc("doctor")
    lines = result.out.splitlines()
    assert all(len(line) <= 100 or "/" in line for line in lines)
    assert re.fullmatch(r"(\d+ (errors?|warnings?|notes?|ok)(, )?)+", lines[-1])
    findings = [line for line in lines if line.split(" ")[0] in ("ok", "note", "warning", "error")]
    found = json.loads(pyrunc("doctor", "--json").out)
    assert [line.split()[:2] for line in findings] == [[finding["severity"], finding["id"]] for finding in found]


def test_nothing_is_changed(doctor: Callable[..., Findings], pyrunc: Any) -> None:
    doctor()
    assert not pyrunc.root.exists(), "not even the state directory is made"


@pytest.mark.requires("root")
def test_no_mount_is_left_where_mounts_are_shared(pyrunc: Any) -> None:
    """As systemd has them be: a tmpfs that was mounted for a trial would be on top of the host's root."""
    assert unshared.remounted(pyrunc.argv("doctor"), "shared") == []


@pytest.mark.requires("root")
def test_missing_capabilities_are_named(doctor: Callable[..., Findings], pyrunc: Any) -> None:
    argv = pyrunc.argv
    pyrunc.argv = lambda *args: ["setpriv", "--bounding-set=-sys_admin,-mknod", "--", *argv(*args)]
    found = doctor()
    assert {"privileges.sys-admin", "privileges.mknod"} <= bad(found)
    assert found["kernel.namespaces"][0]["found"].endswith("each in a user namespace")


def test_user_namespaces_that_are_turned_off(doctor: Callable[..., Findings], pyrunc: Any) -> None:
    """Tried out, and the sysctl that is the reason is named: here in a user namespace, whose own limit it is."""
    words = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"]
    argv = pyrunc.argv
    pyrunc.argv = lambda *args: [*words, *argv(*args)]
    found = doctor()
    assert found["userns.create"][0]["severity"] in ("warning", "error")
    assert found["userns.max-user-namespaces"][0]["found"].startswith("0: ")


def test_as_an_ordinary_user(doctor: Callable[..., Findings], rootless: Any, user: Any) -> None:
    found = doctor(command=rootless)
    assert f"uid {user.uid}" in found["privileges.user"][0]["found"]
    assert found["rootless.subuid"][0]["found"] == f"65536 ids from {user.first}"
    assert found["rootless.newuidmap"][0]["severity"] == "ok"
    assert found["rootless.runtime-dir"][0]["severity"] == "ok" and bad(found) == set()
    del rootless.env["XDG_RUNTIME_DIR"]
    found = doctor(command=rootless)
    assert bad(found) == {"rootless.runtime-dir", "state.root"}


def test_no_new_privileges_take_newuidmap_away(doctor: Callable[..., Findings], rootless: Any) -> None:
    rootless.inside = ["setpriv", "--no-new-privs", "--"]
    found = doctor(command=rootless)
    assert "no_new_privs" in found["rootless.newuidmap"][0]["found"]


# -- a bundle ------------------------------------------------------------------------------------------------------------


def test_a_bundle_that_runs(doctor: Callable[..., Findings], pyrunc: Any, bundle: Any) -> None:
    made = bundle("sh", "-c", "exit 7")
    found = doctor(made)
    assert all(one["severity"] == "ok" for findings in found.values() for one in findings), found
    assert pyrunc("run", "-b", made, pyrunc.id(), status=7)


def hook(kind: str, path: str) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.setdefault("hooks", {}).update({kind: [{"path": path}]})


def resources(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["linux"].setdefault("resources", {}).update(more)


def process(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["process"].update(more)


def mount(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["mounts"].append({"destination": "/mnt", **more})


FAULTS = {
    "no-program": (process(args=["nosuch"]), "bundle.program", "/process/args/0"),
    "no-file": (process(args=["/bin/nosuch"]), "bundle.program", "/process/args/0"),
    "cwd": (process(cwd="/bin/sh"), "bundle.cwd", "/process/cwd"),
    "type": (process(args=5), "bundle.config", "/process/args"),
    "source": (mount(type="bind", source=MISSING, options=["bind"]), "bundle.mount.source", "/mounts/"),
    "hook": (hook("createRuntime", MISSING), "bundle.hook", "/hooks/createRuntime/0/path"),
    "unified": (resources(unified={"memory.high": "max"}), "bundle.refused", "/linux/resources/unified"),
    "hugepages": (resources(hugepageLimits=[{"pageSize": "3MB", "limit": 0}]), None, "/linux/resources"),
    "apparmor": (
        process(apparmorProfile="x"),
        "bundle.apparmor-profile" if has("lsm-apparmor") else "bundle.refused",
        "/process/apparmorProfile",
    ),
    "selinux": (process(selinuxLabel="x:y:z:s0"), "bundle.refused", "/process/selinuxLabel"),
    "namespace": (
        lambda config: config["linux"]["namespaces"].append({"type": "time", "path": "/proc/2147483647/ns/time"}),
        "bundle.namespace",
        "/linux/namespaces/",
    ),
    "oom": (process(oomScoreAdj=-999), "bundle.oom-score-adj", "/process/oomScoreAdj"),
    "rlimit": (
        process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]),
        "bundle.rlimit",
        "/process/rlimits/0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_an_error_here_fails_when_it_is_tried(
    name: str, doctor: Callable[..., Findings], pyrunc: Any, make: Any
) -> None:
    """And the other way round: a host that can do it is not accused."""
    edit, id_, where = FAULTS[name]
    made = make(edit, "/bin/true")
    found = doctor(made)
    fails = pyrunc("run", "-b", made, pyrunc.id(), status=None).status != 0
    assert bool(bad(found)) == fails, (found, fails)
    if fails and id_:
        wrong = [one for one in found[id_] if one["severity"] == "error"]
        assert len(bad(found)) == 1 and wrong[0]["what"].startswith(where), found
        assert wrong[0]["advice"] or id_ == "bundle.config"


def test_every_fault_is_found_at_once(doctor: Callable[..., Findings], make: Any) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"].update(args=["nosuch"], cwd="/bin/sh")
        config["linux"]["netDevices"] = {"eth0": {}}
        config["linux"]["intelRdt"] = {"closID": "x"}
        config["process"]["capabilities"]["bounding"].append("CAP_NEW")
        config["mounts"].append({"destination": "/mnt", "type": "bind", "source": MISSING, "options": ["bind"]})
        config["hooks"] = {
            "prestart": [{"path": MISSING}],
            "startContainer": [{"path": "/bin/nosuch"}],
            "poststop": [{"path": MISSING}],
        }
        config["futureProperty"] = 1

    found = doctor(make(edit))
    assert {"bundle.program", "bundle.cwd", "bundle.mount.source", "bundle.hook"} <= bad(found)
    refused = {one["what"] for one in found.get("bundle.refused", ())}
    assert refused <= {"/linux/netDevices", "/linux/intelRdt"}
    severities = {one["what"]: one["severity"] for one in found["bundle.hook"]}
    assert severities == {
        "/hooks/prestart/0/path": "error",
        "/hooks/startContainer/0/path": "error",
        "/hooks/poststop/0/path": "note",
    }
    assert {one["what"].split(" ")[0]: one["severity"] for one in found["bundle.config"]}["/futureProperty"] == "note"
    assert any("CAP_NEW" in one["found"] for one in found["bundle.warning"])


def test_a_loader_that_is_missing(doctor: Callable[..., Findings], pyrunc: Any, make: Any) -> None:
    """The error that everybody stares at: `no such file or directory`, and the file is there."""
    made = make(None, "/bin/dynamic")
    data = Path("/bin/sleep").read_bytes()
    (made.rootfs / "bin/dynamic").write_bytes(data)
    (made.rootfs / "bin/dynamic").chmod(0o755)
    found = doctor(made)["bundle.program"][0]
    assert found["severity"] == "error" and "needs the dynamic loader /lib" in found["found"]
    assert "no such file or directory" in pyrunc.fails("run", "-b", made, pyrunc.id())


def test_a_root_file_system_cannot_lead_astray(doctor: Callable[..., Findings], make: Any) -> None:
    made = make(None, "/bin/leads-out")
    (made.rootfs / "bin/leads-out").symlink_to("../../../../../../../../../../../bin/sleep")
    found = doctor(made)["bundle.program"][0]
    assert found["severity"] == "ok", "the bin/sleep that is meant is busybox's, inside"
    os.unlink(made.rootfs / "bin/sleep")
    assert doctor(made)["bundle.program"][0]["severity"] == "error", "this machine has one, and that does not count"
    os.mkfifo(made.rootfs / "bin/sleep", 0o755)
    assert "not a program" in doctor(made)["bundle.program"][0]["found"], "nobody waits for its writer"


def test_an_empty_rootfs_is_an_engines(doctor: Callable[..., Findings], scratch: Path) -> None:
    made = scratch / "empty"
    (made / "rootfs").mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(mkrootfs.config("/bin/true")))
    found = doctor(made)
    assert found["bundle.rootfs"][0]["severity"] == "note" and bad(found) == set()


def test_a_terminal_is_no_fault(doctor: Callable[..., Findings], make: Any) -> None:
    assert bad(doctor(make(process(terminal=True)))) == set()


def test_ids_of_an_ordinary_user(doctor: Callable[..., Findings], rootless: Any, own: Any, user: Any) -> None:
    found = doctor(own(), command=rootless)
    assert bad(found) == set(), found

    def edit(config: dict[str, Any]) -> None:
        config["linux"]["uidMappings"].append({"containerID": 1, "hostID": user.first - 5, "size": 10})

    made = own(edit)
    found = doctor(made, command=rootless)
    assert bad(found) == {"bundle.id-mapping"}
    assert rootless("run", "-b", made, rootless.id(), status=None).status != 0


def test_neither_a_container_nor_a_bundle(pyrunc: Any, scratch: Path) -> None:
    assert "neither a container" in pyrunc.fails("doctor", "nosuch")
    assert "neither a container" in pyrunc.fails("doctor", scratch / "nosuch")
    found = json.loads(pyrunc("doctor", "--json", scratch, status=1).out)
    assert [finding["id"] for finding in found] == ["bundle"] and "config.json" in found[0]["found"]
    assert "one" in pyrunc.fails("doctor", "--engine", "docker", scratch)
    assert "--engine" in pyrunc.fails("doctor", "--config", "x")


# -- a container ---------------------------------------------------------------------------------------------------------


def state(found: Findings) -> str:
    return found["container.state"][0]["found"]


def test_the_life_of_a_container(doctor: Callable[..., Findings], pyrunc: Any, make: Any) -> None:
    made = make(None, "/bin/sleep", "1000")
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    found = doctor(id_)
    assert state(found).startswith("created") and "exec.fifo" in state(found)
    assert found["container.state"][0]["advice"].endswith(f"start {id_}")
    pyrunc("start", id_)
    found = doctor(id_)
    assert state(found).startswith(f"running, init is process {pid}")
    assert found["container.cgroup"][0]["found"] == "1 process"
    assert "TERM" in found["container.signals"][0]["found"], "busybox's sleep has no handler, and kill does nothing"
    assert {one["severity"] for findings in found.values() for one in findings} <= {"ok", "note"}
    pyrunc("pause", id_)
    found = doctor(id_)
    assert state(found).startswith("paused") and found["container.state"][0]["advice"].endswith(f"resume {id_}")
    assert bad(found) == set(), "that it is in state D now is nothing more to be told of"
    pyrunc("resume", id_)
    (made.path / "config.json").write_text("{}")
    assert "changed" in doctor(id_)["container.bundle"][0]["found"]
    pyrunc("kill", id_, "KILL")
    pyrunc.wait(pid)
    found = doctor(id_)
    assert state(found).startswith("stopped") and "container.init" not in found
    pyrunc("delete", id_)


def test_a_hook_that_hangs(doctor: Callable[..., Findings], pyrunc: Any, make: Any, until: Any) -> None:
    """While create is at work; and when it was killed, what it left."""
    made = make(
        lambda config: config.update(hooks={"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "777"]}]})
    )
    id_ = pyrunc.id()
    child = pyrunc.popen("create", "-b", made, id_, stdin=subprocess.DEVNULL)
    sleeper = until(lambda: [int(pid) for pid in _sleepers() if pid], "the hook")[0]
    found = doctor(id_)
    assert state(found).startswith("creating")
    lock = found["container.lock"][0]
    assert f"process {child.pid} " in lock["found"] and f"process {sleeper} (sleep 777)" in lock["advice"]
    assert found["container.init"][0]["what"] == "init"
    child.kill()
    child.wait()
    os.kill(sleeper, signal.SIGKILL)
    pyrunc.wait(sleeper)
    # a scope goes with its last process
    left = "left are its directory alone" if hierarchies.MANAGER == "systemd" else "cgroup /"
    until(lambda: left in state(doctor(id_)), "that is what is left")
    found = doctor(id_)
    assert bad(found) == {"container.state"} and "died half-way" in state(found)
    assert any(id_ in one["what"] for one in doctor()["state.unfinished"])
    advice = found["container.state"][0]["advice"].splitlines()[-1].split()
    assert advice == ["pyrunc", "--root", str(pyrunc.root), "delete", "--force", id_]
    pyrunc(*advice[3:])
    assert "neither a container" in pyrunc.fails("doctor", id_)


def _sleepers() -> list[str]:
    return subprocess.run(["pgrep", "-fx", "sleep 777"], capture_output=True, text=True).stdout.split()


def test_a_hook_inside_that_hangs(doctor: Callable[..., Findings], pyrunc: Any, make: Any, until: Any) -> None:
    """start is at work, and the program is not executed yet: the startContainer hook runs."""
    made = make(
        lambda config: config.update(hooks={"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "778"]}]})
    )
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    child = pyrunc.popen("start", id_, stderr=subprocess.DEVNULL)
    until(lambda: any("sleep 778" in one["advice"] for one in doctor(id_).get("container.init", ())), "the hook")
    found = doctor(id_)
    assert f"process {child.pid} " in found["container.lock"][0]["found"]
    pyrunc("kill", id_, "KILL")
    child.wait(20)
    pyrunc.wait(pid)
    pyrunc("delete", "--force", id_)


def test_limits_that_are_reached(doctor: Callable[..., Findings], running: Any, until: Any) -> None:
    box = running(
        resources(pids={"limit": 2}, cpu={"quota": 2000, "period": 100000}),
        "/bin/sh", "-c", "sleep 1000 & while :; do :; done",
    )  # fmt: skip
    pids, stat = box.cgroup("pids"), box.cgroup("cpu") / "cpu.stat"
    until(lambda: (pids / "pids.current").read_text() == "2\n", "two processes")
    until(lambda: "nr_throttled 0" not in stat.read_text(), "the quota is used up")
    found = doctor(box.id)
    assert found["container.pids"][0]["severity"] == "warning"
    assert "of at most 2" in found["container.pids"][0]["found"]
    assert "quota" in found["container.cpu"][0]["found"] and bad(found) == set()
    box.pyrunc("kill", box.id, "KILL")
    box.pyrunc.wait(box.pid)


def test_memory_that_ran_out(doctor: Callable[..., Findings], running: Any, until: Any) -> None:
    box = running(
        resources(memory={"limit": 8 << 20, "swap": 8 << 20}),
        "/bin/sh",
        "-c",
        # where the kernel takes a second one, because the first is slow to go, it shall not be init
        "trap : TERM; (echo 1000 >/proc/self/oom_score_adj; head -c 64m /dev/zero | tail); read x < /dev/zero & wait; sleep 1000",
    )
    counts = box.cgroup("memory") / ("memory.oom_control" if hierarchies.VERSION == 1 else "memory.events")
    until(lambda: "oom_kill 0" not in counts.read_text(), "a kill")
    until(lambda: box.pyrunc.state(box.id)["status"] == "running", "it goes on")
    found = doctor(box.id)
    assert "killed for want of memory" in found["container.memory"][0]["found"]
    assert "of 8 MiB" in found["container.memory"][0]["found"]
    box.pyrunc("kill", box.id, "KILL")
    box.pyrunc.wait(box.pid)


def test_a_cgroup_above_that_is_frozen(doctor: Callable[..., Findings], running: Any, until: Any) -> None:
    """The container is not paused, its cgroup not frozen, and nothing in it runs."""

    def edit(config: dict[str, Any]) -> None:
        path = config["linux"]["cgroupsPath"]
        is_unit = hierarchies.MANAGER == "systemd"
        config["linux"]["cgroupsPath"] = (
            f"pyrunctestfrozen.slice:{path.partition(':')[2]}" if is_unit else f"{path}/inner"
        )

    box = running(edit)
    inner = box.cgroup("freezer")
    if hierarchies.VERSION == 1:
        (inner.parent / "freezer.state").write_text("FROZEN")
    else:
        (inner.parent / "cgroup.freeze").write_text("1")
    until(lambda: hierarchies.frozen(box.pid), "it is frozen")
    found = doctor(box.id)
    freezer = found["container.freezer"][0]
    assert freezer["severity"] == "error" and freezer["found"].startswith(str(inner.parent))
    subprocess.run(["sh", "-c", freezer["advice"].splitlines()[-1]], check=True)
    assert "container.freezer" not in doctor(box.id)
    box.pyrunc("kill", box.id, "KILL")
    box.pyrunc.wait(box.pid)
    box.pyrunc("delete", box.id)
    for path in hierarchies.places(box.bundle.config["linux"]["cgroupsPath"].removesuffix("/inner")):
        path.rmdir()


def test_a_state_that_somebody_has_removed(doctor: Callable[..., Findings], running: Any, pyrunc: Any) -> None:
    box = running()
    (pyrunc.root / box.id / "state.json").unlink()
    found = doctor(box.id)
    assert bad(found) == {"container.state"}
    assert f"state.json is missing, but process {box.pid} runs" in state(found)
    advice = found["container.state"][0]["advice"].splitlines()[-1].split()
    pyrunc(*advice[3:])
    assert not (pyrunc.root / box.id).exists()


def test_a_state_that_is_garbage(doctor: Callable[..., Findings], pyrunc: Any, scratch: Path) -> None:
    id_ = pyrunc.id()
    (pyrunc.root / id_).mkdir(parents=True, mode=0o700)
    assert "creating" in state(doctor(id_)), "it may be about to lock it"
    os.utime(pyrunc.root / id_, (1, 1))
    assert "before it had done anything" in state(doctor(id_))
    (pyrunc.root / id_ / "state.json").write_text("{")
    found = doctor(id_)
    assert bad(found) == {"container.state"} and "state.json" in state(found)
    assert doctor()["state.broken"][0]["what"] == f"container {id_}"
    pyrunc("delete", "--force", id_)


def test_a_process_that_a_signal_has_stopped(doctor: Callable[..., Findings], running: Any, until: Any) -> None:
    box = running()
    box.exec("/bin/sleep", "1000", options=("-d",))
    (other,) = set(box.pyrunc("ps", "-f", "json", box.id).json()) - {box.pid}
    os.kill(other, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{other}/stat").read_text().rpartition(") ")[2][0] == "T", "it stops")
    found = doctor(box.id)
    assert any(f"process {other} " in one["found"] and "stopped" in one["found"] for one in found["container.process"])
    box.pyrunc("kill", "--all", box.id, "KILL")
    box.pyrunc.wait(other)
    box.pyrunc.wait(box.pid)


# -- engines, by their files ---------------------------------------------------------------------------------------------


@pytest.fixture
def engine(doctor: Callable[..., Findings], scratch: Path) -> Callable[..., Findings]:
    def engine(name: str, text: str) -> Findings:
        path = scratch / f"config-{name}"
        path.write_text(text)
        return doctor("--engine", name, "--config", path)

    return engine


def test_the_runtime_under_test_is_recognised(engine: Callable[..., Findings], pyrunc: Any) -> None:
    ours = pyrunc.argv()[0]
    cri = "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.any"
    texts = {
        "docker": json.dumps({"runtimes": {"any": {"path": ours}}}),
        "podman": f'[engine]\nruntime = "any"\n[engine.runtimes]\nany = ["{ours}"]\n',
        "cri-o": f'[crio.runtime]\ncgroup_manager = "cgroupfs"\n[crio.runtime.runtimes.any]\nruntime_path = "{ours}"\n',
        "containerd": f'version = 2\n[{cri}]\nruntime_type = "io.containerd.runc.v2"\n[{cri}.options]\nBinaryName = "{ours}"\n',
    }
    for name, text in texts.items():
        found = engine(name, text)
        assert found[f"engine.{name}.runtime-path"][0]["severity"] == "ok"
        assert "of this installation" in found[f"engine.{name}.runtime-version"][0]["found"]
        assert found[f"engine.{name}.systemd-cgroup"][0]["severity"] == "ok"


def test_a_link_is_the_same_runtime(engine: Callable[..., Findings], pyrunc: Any, scratch: Path) -> None:
    """The way to have engines use it that know no other name than runc."""
    (scratch / "runc").symlink_to(pyrunc.argv()[0])
    found = engine("docker", json.dumps({"runtimes": {"mine": {"path": str(scratch / "runc")}}}))
    assert "of this installation" in found["engine.docker.runtime-version"][0]["found"]
