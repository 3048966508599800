"""What users of `ctr` do with containers, by containerd's own shim and by ours."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mkrootfs
import modules
import newer
import pytest
from conftest import needs_checkpoint
from containerd_lab import FIFOS, KEPT, REACHES, Containerd, Ctr, check_reach
from images import Image
from lab import Lab, missing, need, until

pytestmark = pytest.mark.newer

GRACE = 20  # seconds that containerd may take for what it does in the background


@pytest.fixture(scope="module")
def ctrd(new_lab: Callable[[], Lab], engine_runtime: Path, bb_image: Image, deb_image: Image) -> Iterator[Containerd]:
    ctrd = Containerd(new_lab(), engine_runtime)
    ctrd.load(bb_image)
    ctrd.load(deb_image)
    yield ctrd
    assert ctrd.stop() == 0


def _ctr(ctrd: Containerd, reach: str) -> Iterator[Ctr]:
    ctr = Ctr(ctrd, reach)
    yield ctr
    ctr.clean()
    if left := ctr.left():
        pytest.fail("left behind:\n" + "\n".join(left) + f"\n{ctrd.daemon.tail()}", pytrace=False)


@pytest.fixture(params=REACHES)
def ctr(ctrd: Containerd, request: pytest.FixtureRequest) -> Iterator[Ctr]:
    check_reach(request.param, ctrd.runtime)
    yield from _ctr(ctrd, request.param)


@pytest.fixture
def ctr_runc_v2(ctrd: Containerd) -> Iterator[Ctr]:
    """For what concerns containerd's own shims alone."""
    yield from _ctr(ctrd, "runc.v2")


BB = "localhost/bb:latest"


def report(ctr: Ctr, *options: str | Path) -> dict[str, Any]:
    """What the probe finds in a container that was run with these options."""
    found: dict[str, Any] = ctr.run("--rm", *options, BB, ctr.id(), "/bin/probe").json()
    return found


def allowed(ctr: Ctr, *words: str, options: tuple[str | Path, ...] = ()) -> bool:
    """Whether one of the probe's actions succeeds in a container."""
    return ctr.run("--rm", *options, BB, ctr.id(), "/bin/probe", *words, status=None).status == 0


# -- run -------------------------------------------------------------------------------------------------------------------


def test_run_rm(ctr: Ctr) -> None:
    id_ = ctr.id()
    assert ctr.run("--rm", BB, id_, "echo", "hello").out == "hello\n"
    assert id_ not in ctr("container", "ls", "-q").out


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_run_exit_code(ctr: Ctr, status: int) -> None:
    ctr.run("--rm", BB, ctr.id(), "sh", "-c", f"exit {status}", status=status)


def test_run_stderr(ctr: Ctr) -> None:
    done = ctr.run("--rm", BB, ctr.id(), "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")


def test_run_stdin(ctr: Ctr) -> None:
    # What is written before the task runs can be lost by ctr, which then waits for ever: talk to it when it is there.
    talk = ctr.dialogue("run", "--rm", *ctr.choice, BB, ctr.id(), "sh", "-c", "echo there; cat; echo end")
    talk.expect("there\n")
    talk.write("some words\n")
    talk.expect("some words\n")
    talk.end_input()
    assert talk.finish() == 0
    assert talk.seen.endswith("end\n")


def test_run_tty(ctr: Ctr) -> None:
    tty = ctr.terminal("run", "--rm", "-t", *ctr.choice, BB, ctr.id(), "sh", columns=91, rows=37)
    tty.expect("# ")
    tty.write("tty; stty size\n")
    tty.expect(r"/dev/pts/0\s+37 91\s")
    tty.write("until [ \"$(stty size)\" = '41 101' ]; do :; done; echo resi''zed\n")
    tty.resize_until(r"resized\s", 101, 41)
    tty.write("exit 3\n")
    assert tty.finish() == 3


def test_run_env_cwd(ctr: Ctr) -> None:
    found = report(ctr, "--env", "A=b c", "--env", "EMPTY=", "--cwd", "/var/www")
    assert {"A=b c", "EMPTY=", "PATH=/bin:/sbin:/usr/bin:/usr/sbin"} <= set(found["env"])
    assert found["cwd"] == "/var/www"


def test_run_mount(ctr: Ctr, ctrd: Containerd) -> None:
    source = ctrd.lab.dir / "source"
    source.mkdir(exist_ok=True)
    (source / "file").write_text("from outside\n")
    bind = f"type=bind,src={source},dst=/in,options=rbind"
    tmpfs = "type=tmpfs,src=tmpfs,dst=/fresh,options=size=64k"
    script = "cat /in/file; echo x >/in/new; df -k /fresh | awk 'END {print $2}'"
    options = ["--mount", f"{bind}:rw", "--mount", tmpfs]
    assert ctr.run("--rm", *options, BB, ctr.id(), "sh", "-c", script).out == "from outside\n64\n"
    assert (source / "new").read_text() == "x\n"
    assert not allowed(ctr, "mkfile", "/in/other", options=("--mount", f"{bind}:ro"))


def test_run_readonly(ctr: Ctr) -> None:
    assert allowed(ctr, "mkfile", "/x")
    assert not allowed(ctr, "mkfile", "/x", options=("--read-only",))


def test_run_privileged(ctr: Ctr) -> None:
    found = report(ctr, "--privileged")
    ours = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
    assert [line for line in found["status"] if line.startswith("CapEff")] == ours
    assert all("ro" not in mount["options"] for mount in found["mounts"] if mount["point"] == "/sys")


def test_run_caps(ctr: Ctr) -> None:
    found = report(ctr, "--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN")["capabilities"]
    assert "CAP_NET_ADMIN" in found["effective"] and "CAP_CHOWN" not in found["bounding"]


def test_run_seccomp(ctr: Ctr) -> None:
    assert report(ctr)["seccomp"] == 0
    assert report(ctr, "--seccomp")["seccomp"] == 2
    # a new user namespace needs no capability, and the default profile forbids it to whoever has none
    command = (BB, ctr.id(), "unshare", "-U", "true")
    done = ctr.run("--rm", "--seccomp", *command, status=1)
    assert "Operation not permitted" in done.err, done


def test_run_no_such_bin(ctr: Ctr) -> None:
    id_ = ctr.id()
    assert 'exec: "nosuch": executable file not found in $PATH' in ctr.run("--rm", BB, id_, "nosuch", status=1).err
    assert "no such file or directory" in ctr.run("--rm", BB, ctr.id(), "/nosuch", status=1).err


def test_run_not_executable(ctr: Ctr) -> None:
    assert 'exec: "/etc/passwd": permission denied' in ctr.run("--rm", BB, ctr.id(), "/etc/passwd", status=1).err


def test_run_bad_mount(ctr: Ctr) -> None:
    mount = "type=bind,src=/there/is/none,dst=/x,options=rbind"
    error = ctr.run("--rm", "--mount", mount, BB, ctr.id(), "true", status=1).err
    assert "/there/is/none" in error and "no such file or directory" in error


def test_run_net_host(ctr: Ctr) -> None:
    assert set(report(ctr, "--net-host")["interfaces"]) == ctr.lab.interfaces()
    assert set(report(ctr)["interfaces"]) == {"lo"}


def test_run_limits(ctr: Ctr) -> None:
    limits = ("--memory-limit", str(64 << 20), "--cpu-quota", "50000", "--cpu-period", "100000", "--cpu-shares", "512")
    id_ = ctr.detached_bb("sleep", "1000", options=limits)
    path = f"/default/{id_}"
    assert ctr.lab.cgroup(path, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert ctr.lab.cgroup(path, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert ctr.lab.cgroup(path, "cpu.shares", "cpu.weight") in ("512", "20", "59")


def test_run_device(ctr: Ctr) -> None:
    options = ("--cap-add", "CAP_SYSLOG", "--device", "/dev/kmsg")
    assert report(ctr, *options)["devices"]["kmsg"]["rdev"] == [1, 11]
    assert allowed(ctr, "open", "/dev/kmsg", "r", options=options)
    made = "mknod /kmsg c 1 11 && probe open /kmsg r"
    ctr.run("--rm", *options, BB, ctr.id(), "sh", "-c", made)
    assert '"EPERM"' in ctr.run("--rm", *options[:2], BB, ctr.id(), "sh", "-c", made, status=1).out


def test_run_rlimit_nofile(ctr: Ctr) -> None:
    assert report(ctr)["rlimits"]["RLIMIT_NOFILE"] == [1024, 1024]


def test_run_cgroup_path(ctr: Ctr) -> None:
    id_ = ctr.id()
    found = ctr.run("--rm", "--cgroup", f"made-by-test/{id_}", BB, id_, "/bin/probe").json()["cgroup"]
    assert any(line.endswith(f"/made-by-test/{id_}") for line in found)


def test_run_pidfile(ctr: Ctr) -> None:
    file = ctr.lab.dir / "pid"
    id_ = ctr.detached_bb("sleep", "1000", options=("--pid-file", file))
    assert [pid for task, pid, _ in ctr.tasks() if task == id_] == [int(file.read_text())]


def test_run_config_spec(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000", options=("--env", "A=b"))
    spec = ctr("container", "info", "--spec", id_).json()
    assert "A=b" in spec["process"]["env"]
    bundle = ctr.ctrd.dir / "state/io.containerd.runtime.v2.task/default" / id_
    assert json.loads((bundle / "config.json").read_text())["process"] == spec["process"]


def test_run_uidmap(ctr: Ctr) -> None:
    found = report(ctr, "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    assert found["uid"]["effective"] == 0
    assert found["uid_map"][0].split() == ["0", "100000", "65536"]


def test_run_no_pivot(ctr: Ctr) -> None:
    assert ctr.run("--rm", "--no-pivot", BB, ctr.id(), "cat", "/var/www/index.html").out == "hello-from-image\n"


def test_run_deb(ctr: Ctr) -> None:
    done = ctr.run(
        "--rm", "localhost/deb:latest", ctr.id(), "bash", "-c", "set -e; . /etc/os-release; echo $ID; ls / | wc -l"
    )
    assert done.out.splitlines()[0] == "debian"


def test_run_with_ns(ctr: Ctr) -> None:
    ctr.lab.run("ip", "netns", "add", "for-test")
    try:
        ctr.lab.run("ip", "-n", "for-test", "link", "add", "of-test", "type", "veth", "peer", "name", "its-peer")
        assert "of-test" in report(ctr, "--with-ns", "network:/run/netns/for-test")["interfaces"]
    finally:
        ctr.lab.run("ip", "netns", "delete", "for-test")
        ctr.lab.run("sh", "-c", "umount /run/netns; rmdir /run/netns")
    error = ctr.run("--rm", "--with-ns", "network:/there/is/none", BB, ctr.id(), "true", status=1).err
    assert "/there/is/none" in error


def test_run_rootfs(ctr: Ctr) -> None:
    rootfs = ctr.lab.dir / f"rootfs-{ctr.reach}"
    mkrootfs.rootfs(rootfs)
    assert ctr.run("--rm", "--rootfs", rootfs, ctr.id(), "/bin/cat", "/etc/hosts").out.startswith("127.0.0.1")


def test_run_annotation(ctr: Ctr) -> None:
    options = ("--annotation", "org.example.a=b", "--label", "c=d")
    id_ = ctr.detached_bb("sleep", "1000", options=options)
    info = ctr("container", "info", id_).json()
    assert info["Labels"]["c"] == "d" and info["Spec"]["annotations"]["org.example.a"] == "b"


def test_run_config(ctr: Ctr) -> None:
    bundle = mkrootfs.bundle(
        ctr.lab.dir / f"bundle-{ctr.reach}", "/bin/sh", "-c", "hostname; exit 5", hostname="of-config"
    )
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["path"] = str(bundle / "rootfs")
    (bundle / "config.json").write_text(json.dumps(config))
    assert ctr.run("--rm", "--config", bundle / "config.json", ctr.id(), status=5).out == "of-config\n"


def test_run_bad_config(ctr: Ctr) -> None:
    file = ctr.lab.dir / f"bad-{ctr.reach}.json"
    file.write_text(json.dumps({**mkrootfs.config("true"), "mounts": [{"destination": "/x", "type": "nosuchfs"}]}))
    error = ctr.run("--rm", "--config", file, ctr.id(), status=1).err
    assert "OCI runtime create failed" in error or "failed to create shim task" in error


CNI = {
    "cniVersion": "0.4.0",
    "name": "of-test",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "of-test0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.123.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "loopback"},
    ],
}


def test_run_cni(ctr: Ctr) -> None:
    need("containernetworking-plugins", "iptables")
    place = ctr.lab.root / "etc/cni/net.d"
    place.mkdir(parents=True, exist_ok=True)
    (place / "10-of-test.conflist").write_text(json.dumps(CNI))
    if modules.wanted():  # Debian's ctr knows where Debian has them
        ctr.lab.run("mkdir", "-p", "/opt/cni")
        ctr.lab.run("ln", "-sfn", "/usr/lib/cni", "/opt/cni/bin")
    try:
        found = ctr.run("--rm", "--cni", BB, ctr.id(), "sh", "-c", "ip addr show eth0; ping -c 1 10.123.0.1").out
        assert "10.123.0." in found and "1 packets received" in found
    finally:
        ctr.lab.run("ip", "link", "delete", "of-test0", status=None)


# -- task ------------------------------------------------------------------------------------------------------------------


def test_create_start(ctr: Ctr) -> None:
    id_ = ctr.id("d")
    ctr("container", "create", "--runtime", REACHES[ctr.reach], BB, id_, "sleep", "1000")
    assert ctr.status(id_) == ""
    ctr("task", "start", "-d", id_)
    assert ctr.status(id_) == "RUNNING"
    ctr.remove(id_)


def test_task_ls_ps(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sh", "-c", "sleep 1000 & wait")
    pid = {task: pid for task, pid, _ in ctr.tasks()}[id_]
    listed = until(lambda: len(pids := _listed(ctr, id_)) == 2 and pids, "both processes")
    assert pid in listed and all(ctr.lab.pids()[each].startswith(("sh", "sleep")) for each in listed)


def _listed(ctr: Ctr, id_: str) -> list[int]:
    return [int(line.split()[0]) for line in ctr("task", "ps", id_).out.splitlines()[1:]]


def test_task_exec(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    assert ctr.exec(id_, "sh", "-c", "echo out; echo err >&2").out == "out\n"
    ctr.exec(id_, "sh", "-c", "exit 9", status=9)
    assert ctr.exec(id_, "pwd", options=("--cwd", "/var")).out == "/var\n"
    ctr.exec(id_, "/bin/probe", "signal", "15", status=143)


def test_task_exec_user(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    assert ctr.exec(id_, "id", "-u", options=("--user", "alice")).out == "1000\n"
    assert ctr.exec(id_, "id", "-u", options=("--user", "65534:65534")).out == "65534\n"


def test_task_exec_tty(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    tty = ctr.terminal("task", "exec", "-t", "--exec-id", "e", id_, "sh", columns=93, rows=31)
    tty.expect("# ")
    tty.write("tty; stty size; exit 4\n")
    tty.expect(r"/dev/pts/0\s+31 93\s")
    assert tty.finish() == 4


def test_task_exec_stdin(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    talk = ctr.dialogue("task", "exec", "--exec-id", "e", id_, "sh", "-c", "echo there; cat")
    talk.expect("there\n")
    talk.write("some words\n")
    talk.expect("some words\n")
    talk.end_input()
    assert talk.finish() == 0


def test_task_exec_detach(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    ctr.exec_detached(id_, "sleep", "999")
    assert len(_listed(ctr, id_)) == 2


def test_task_exec_nobin(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    assert 'exec: "nosuch": executable file not found in $PATH' in ctr.exec(id_, "nosuch", status=1).err
    assert ctr.echoes(id_)


def test_task_exec_many(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    script = "sleep 0.$(($1 % 4)); exit $1"
    running = [ctr.popen("task", "exec", "--exec-id", f"e{n}", id_, "sh", "-c", script, "sh", n) for n in range(1, 21)]
    assert [each.wait(60) for each in running] == list(range(1, 21))


def test_task_kill(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sh", "-c", "trap 'exit 7' TERM; echo; while :; do sleep 0.1; done")
    until(lambda: "sleep" in " ".join(ctr.lab.pids().get(pid, "") for pid in _listed(ctr, id_)), "the trap")
    ctr("task", "kill", "--signal", "SIGTERM", id_)
    until(lambda: ctr.status(id_) == "STOPPED", "end of the task")
    assert "not found" in ctr.fails("task", "kill", id_).err or "already finished" in ctr.fails("task", "kill", id_).err
    assert ctr.exit_status(id_) == 7


def test_task_kill_all(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sh", "-c", "sleep 1000 & wait")
    ctr.exec_detached(id_, "sleep", "999")
    ctr("task", "kill", "--all", "--signal", "9", id_)
    until(lambda: ctr.status(id_) == "STOPPED", "end of the task")
    assert ctr.exit_status(id_) == 137


def test_task_kill_exec(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    running = ctr.popen("task", "exec", "--exec-id", "e", id_, "sleep", "999")
    until(lambda: len(_listed(ctr, id_)) == 2, "the exec process")
    ctr("task", "kill", "--exec-id", "e", "--signal", "9", id_)
    assert running.wait() == 137
    assert ctr.status(id_) == "RUNNING"


def test_task_pause_resume(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    ctr("task", "pause", id_)
    assert ctr.status(id_) == "PAUSED"
    assert ctr.lab.cgroup(f"/default/{id_}", "freezer.state", "cgroup.freeze") in ("FROZEN", "1")
    ctr("task", "resume", id_)
    assert ctr.status(id_) == "RUNNING"
    assert ctr.echoes(id_)


def test_task_delete_force(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    assert "failed precondition" in ctr.fails("task", "rm", id_).err
    ctr.remove(id_)
    assert id_ not in ctr("container", "ls", "-q").out


def test_task_metrics(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000", options=("--memory-limit", str(64 << 20)))
    found = ctr("task", "metrics", "--format", "json", id_).json()
    assert found["pids"]["current"] == 1
    memory = found["memory"]
    assert (memory["usage"]["limit"] if isinstance(memory["usage"], dict) else memory["usage_limit"]) == 64 << 20
    cpu = found["cpu"]
    assert (cpu["usage"]["total"] if "usage" in cpu else cpu["usage_usec"]) > 0
    assert id_ in ctr("task", "metrics", id_).out


def test_task_attach(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sh", "-c", "while :; do echo tick; sleep 0.2; done")
    talk = ctr.dialogue("task", "attach", id_)
    talk.expect("tick\n")
    ctr("task", "kill", "--signal", "9", id_)
    assert talk.finish() == 137


COUNTING = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.05; done"


def _count(ctr: Ctr, id_: str) -> int:
    return int(until(lambda: ctr.exec(id_, "cat", "/count", status=None).out, "a first number"))


#: what CRIU keeps of what it found out about the kernel, and containerd of what it has stored
OF_CHECKPOINTS = ("^file: /run/criu.kdat$", "^file: .*/ctrd-checkpoint")


def test_task_checkpoint(ctr: Ctr, engine_runtime: Path) -> None:
    needs_checkpoint(engine_runtime, ctr.lab)
    ctr.ignored += OF_CHECKPOINTS
    id_ = ctr.detached_bb("sh", "-c", COUNTING)
    _count(ctr, id_)
    name = ctr("task", "checkpoint", id_).out.strip()
    assert name in ctr("image", "ls", "-q").out.split()
    at = _count(ctr, id_)
    until(lambda: _count(ctr, id_) > at, "the container counting on")
    ctr("image", "rm", "--sync", name)


def test_task_checkpoint_options(ctr_runc_v2: Ctr, engine_runtime: Path) -> None:
    """ctr passes --image-path and --exit to shims alone that are called runc."""
    ctr = ctr_runc_v2
    needs_checkpoint(engine_runtime, ctr.lab)
    ctr.ignored += OF_CHECKPOINTS
    id_, images = ctr.detached_bb("sleep", "1000"), ctr.lab.dir / "checkpoint"
    images.mkdir()
    ctr("task", "checkpoint", "--exit", "--image-path", images, id_)
    assert (images / "inventory.img").exists()
    until(lambda: ctr.status(id_) == "STOPPED", "end of the task")


def test_ctr_checkpoint(ctr: Ctr, engine_runtime: Path) -> None:
    needs_checkpoint(engine_runtime, ctr.lab)
    ctr.ignored += OF_CHECKPOINTS
    id_, name = ctr.detached_bb("sh", "-c", COUNTING), f"localhost/checkpoint-{ctr.reach}:latest"
    at = _count(ctr, id_)
    ctr("container", "checkpoint", "--rw", "--image", "--task", id_, name)
    ctr.remove(id_)
    again = ctr.id("r")
    attached = ctr.popen("container", "restore", "--rw", "--live", again, name)
    until(lambda: ctr.status(again) == "RUNNING", "the restored container")
    at = max(at, _count(ctr, again))
    until(lambda: _count(ctr, again) > at, "the restored container counting on")
    ctr("task", "kill", "--signal", "9", again)
    attached.wait()
    ctr("image", "rm", name)


# -- events, crashes, restarts ---------------------------------------------------------------------------------------------


@pytest.fixture
def events(ctr: Ctr) -> Iterator[Callable[[str], list[str]]]:
    """A subscription to containerd's events: the topics of what happened to a container, in order."""
    log = ctr.lab.dir / f"events-{ctr.id()}"
    with log.open("wb") as file:
        watch = ctr.popen("events", stdout=file)

    def topics(id_: str) -> list[str]:
        # 2026-01-31 12:00:00.123 +0000 UTC default /tasks/start {"container_id":...}
        lines = [line.split(maxsplit=6) for line in log.read_text().splitlines()]
        return [words[5] for words in lines if len(words) > 6 and f'"{id_}"' in words[6]]

    until(lambda: ctr("image", "label", BB, "a=b") and topics(BB), "the subscription")
    yield topics
    watch.kill()
    watch.wait()


def test_events(ctr: Ctr, events: Callable[[str], list[str]]) -> None:
    if modules.wanted() and ctr.reach == "runc.v2":
        missing("a shim of containerd 2's own that tells every event before it ends")
    id_ = ctr.detached_bb("sleep", "1000")
    ctr.exec(id_, "true")
    ctr.remove(id_)
    until(lambda: {"/containers/delete", "/tasks/delete"} <= {*events(id_)}, "the last event")
    started = ["/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]
    assert [topic for topic in events(id_) if topic.startswith("/tasks")] == [*started, "/tasks/exit", "/tasks/delete"]


def test_oom_event(ctr: Ctr, events: Callable[[str], list[str]]) -> None:
    limit = ("--memory-limit", str(16 << 20))
    id_ = ctr.detached_bb("sh", "-c", "sleep 0.5; probe eat 100000000", options=limit)
    until(lambda: ctr.status(id_) == "STOPPED", "end of the task")
    until(lambda: "/tasks/oom" in events(id_), "/tasks/oom")


def test_parallel_20(ctr: Ctr) -> None:
    running = [ctr.popen("run", "--rm", *ctr.choice, BB, ctr.id("p"), "sh", "-c", f"exit {n}") for n in range(20)]
    assert [each.wait(100) for each in running] == list(range(20))


def test_fifo_logs(ctr: Ctr) -> None:
    log = ctr.lab.dir / f"log-{ctr.reach}"
    id_ = ctr.detached_bb("sh", "-c", "echo one; echo two >&2; sleep 1000", options=("--log-uri", f"file://{log}"))
    until(lambda: log.exists() and sorted(log.read_text().split()) == ["one", "two"], "both lines")
    fifos = ctr.lab.dir / f"fifos-{ctr.reach}"
    fifos.mkdir()
    assert ctr.echoes(id_, options=("--fifo-dir", str(fifos)))


def test_shim_killed(ctr: Ctr) -> None:
    ctr.ignored += [FIFOS, "file: /run/containerd/s/"]  # what its socket was, and nobody is left to remove
    id_, other = ctr.detached_bb("sleep", "1000"), ctr.detached_bb("sleep", "1000")
    pids = {task: pid for task, pid, _ in ctr.tasks()}
    ctr.lab.kill(ctr.lab.parent(pids[id_]), signal.SIGKILL)
    until(lambda: ctr.status(id_) in ("", "STOPPED") and pids[id_] not in ctr.lab.pids(), "end of the container", GRACE)
    assert ctr.status(other) == "RUNNING"
    assert ctr.echoes(other)


def test_restart_containerd(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    pids = {task: pid for task, pid, _ in ctr.tasks()}
    assert ctr.ctrd.stop() == 0
    assert pids[id_] in ctr.lab.pids()
    ctr.ctrd.start()
    assert ctr.status(id_) == "RUNNING"
    assert ctr.echoes(id_)
    ctr("task", "kill", "--signal", "9", id_)
    until(lambda: ctr.status(id_) == "STOPPED", "end of the task")


def test_exit_while_containerd_is_away(ctr: Ctr) -> None:
    if newer.wanted() and ctr.reach == "runc.v2":
        missing("containerd 1.7 that remembers what ended while it was away, with its own shim")
    id_ = ctr.detached_bb("sleep", "1000")
    ends = ctr.detached_bb("sh", "-c", "until [ -e /end ]; do sleep 0.1; done; exit 33")
    pids = {task: pid for task, pid, _ in ctr.tasks()}
    assert ctr.ctrd.stop() == 0
    (ctr.lab.root / f"proc/{pids[ends]}/root/end").write_text("")
    until(lambda: pids[ends] not in ctr.lab.pids(), "end of a container while containerd is away")
    assert pids[id_] in ctr.lab.pids()
    ctr.ctrd.start()
    assert (ctr.status(id_), ctr.status(ends)) == ("RUNNING", "STOPPED")
    assert ctr.exit_status(ends) == 33


def test_containerd_killed(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    ctr.ctrd.stop(number=signal.SIGKILL)
    ctr.ctrd.start()
    assert ctr.status(id_) == "RUNNING"
    assert ctr.echoes(id_)


def test_runtime_v1_shim(ctr_runc_v2: Ctr) -> None:
    ctr = ctr_runc_v2
    assert ctr("run", "--rm", "--runtime", "io.containerd.runc.v1", BB, ctr.id("v"), "echo", "old").out == "old\n"


def test_runtime_v1_linux(ctr_runc_v2: Ctr) -> None:
    if modules.wanted():
        missing("a containerd that knows shims of before version 2")
    ctr = ctr_runc_v2
    assert (
        ctr("run", "--rm", "--runtime", "io.containerd.runtime.v1.linux", BB, ctr.id("v"), "echo", "old").out == "old\n"
    )


@pytest.mark.parametrize("reach", REACHES)
def test_no_leftovers(new_lab: Callable[[], Lab], engine_runtime: Path, bb_image: Image, reach: str) -> None:
    """A containerd that ran containers, and was stopped, leaves what it keeps on purpose and nothing else."""
    check_reach(reach, engine_runtime)
    lab = new_lab()
    ctrd = Containerd(lab, engine_runtime)
    ctrd.load(bb_image)
    ctr = Ctr(ctrd, reach)
    assert ctr.run("--rm", BB, ctr.id(), "echo", "x").out == "x\n"
    ctr.detached_bb("sleep", "1000")
    ctr.clean()
    assert ctrd.stop() == 0
    assert lab.left(ignoring=KEPT) == []
    assert list((ctrd.dir / "state").rglob("config.json")) == []
