"""What the kubelet does through containerd's CRI: pods, their containers, exec, logs, statistics, port forwarding."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cri as api
import pytest
from conftest import needs_checkpoint
from containerd_lab import KEPT, REACHES, Containerd, check_reach
from cri import Cri, CriError, Stream
from images import Image
from lab import Lab, missing, need, until

pytestmark = pytest.mark.newer

BB = "localhost/bb:latest"
CONFIG = """\
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:latest"
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."runc.v2"]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."runc.v2".options]
  BinaryName = "{runtime}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."pyrunc.v2"]
  runtime_type = "io.containerd.pyrunc.v2"
"""
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.124.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
KEEPS = (*KEPT, "^file: /run/criu.kdat$", r"^interface: pods0$", r"^(file|mount): /run/netns$")
_numbers = itertools.count(1)


class Pod:
    """A pod sandbox of one of the ways to reach the runtime."""

    def __init__(self, cri: Cri, ctrd: Containerd, reach: str, hostname: str = "of-pod", **linux: Any) -> None:
        self.cri, self.lab = cri, ctrd.lab
        self.logs = ctrd.lab.dir / f"logs{next(_numbers)}"
        metadata = {"name": f"pod{next(_numbers)}", "uid": f"uid{next(_numbers)}", "namespace": "tests"}
        self.config = {"metadata": metadata, "hostname": hostname, "log_directory": str(self.logs), "linux": linux}
        self.id: str = cri("RunPodSandbox", config=self.config, runtime_handler=reach)["pod_sandbox_id"]

    def create(self, *words: str, **more: Any) -> str:
        """A container that is not started yet; `linux` and the rest as in ContainerConfig."""
        name = f"c{next(_numbers)}"
        config = {
            "metadata": {"name": name},
            "image": {"image": BB},
            "command": words,
            "log_path": f"{name}.log",
            **more,
        }
        made = self.cri("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        id_: str = made["container_id"]
        return id_

    def run(self, *words: str, **more: Any) -> str:
        id_ = self.create(*words, **more)
        self.cri("StartContainer", container_id=id_)
        return id_

    def exec(self, id_: str, *words: str, timeout: int = 30) -> tuple[str, str, int]:
        done = self.cri("ExecSync", container_id=id_, cmd=words, timeout=timeout)
        return done["stdout"].decode(), done["stderr"].decode(), done["exit_code"]

    def status(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cri("ContainerStatus", container_id=id_)["status"]
        return found

    def ended(self, id_: str) -> dict[str, Any]:
        """Its status, once it has exited."""
        until(lambda: self.status(id_)["state"] == api.EXITED, "exit of the container")
        return self.status(id_)

    def log(self, id_: str) -> list[tuple[str, str]]:
        """(stream, text) of each line of its log."""
        path = Path(self.status(id_)["log_path"])
        lines = [line.split(" ", 3) for line in path.read_text().splitlines()]
        return [(stream, text) for _, stream, _, text in lines]

    def report(self, id_: str) -> dict[str, Any]:
        """What the probe finds in a container."""
        found: dict[str, Any] = json.loads(self.exec(id_, "/bin/probe")[0])
        return found


@pytest.fixture(scope="module")
def ctrd(new_lab: Callable[[], Lab], engine_runtime: Path, bb_image: Image, pause_image: Image) -> Iterator[Containerd]:
    need("containernetworking-plugins", "iptables")
    lab = new_lab()
    place = lab.root / "etc/cni/net.d"
    place.mkdir(parents=True, exist_ok=True)
    (place / "10-pods.conflist").write_text(json.dumps(NETWORK))
    ctrd = Containerd(lab, engine_runtime, more=CONFIG.format(runtime=engine_runtime), disabled=())
    for image in (bb_image, pause_image):
        ctrd.load(image, namespace="k8s.io")
    yield ctrd
    assert ctrd.stop() == 0


@pytest.fixture(scope="module")
def cri(ctrd: Containerd) -> Iterator[Cri]:
    cri = Cri(ctrd.address)
    until(cri.is_ready, "CRI ready for pods")
    yield cri
    cri.close()


@pytest.fixture(params=REACHES)
def new_pod(cri: Cri, ctrd: Containerd, request: pytest.FixtureRequest) -> Iterator[Callable[..., Pod]]:
    check_reach(request.param, ctrd.runtime)
    before = ctrd.lab.mark()
    yield lambda **more: Pod(cri, ctrd, request.param, **more)
    for pod in cri("ListPodSandbox")["items"]:
        cri("StopPodSandbox", pod_sandbox_id=pod["id"])
        cri("RemovePodSandbox", pod_sandbox_id=pod["id"])
    assert cri("ListContainers")["containers"] == []
    if left := ctrd.lab.left(before, ignoring=KEEPS):
        pytest.fail("left behind:\n" + "\n".join(left) + f"\n{ctrd.daemon.tail()}", pytrace=False)


@pytest.fixture
def pod(new_pod: Callable[..., Pod]) -> Pod:
    return new_pod()


# -- pods and containers ---------------------------------------------------------------------------------------------------


def test_version(cri: Cri) -> None:
    answer = cri("Version")
    assert (answer["runtime_name"], answer["runtime_api_version"]) == ("containerd", "v1")


def test_pod_run(cri: Cri, pod: Pod) -> None:
    status = cri("PodSandboxStatus", pod_sandbox_id=pod.id)["status"]
    assert status["state"] == api.READY and status["network"]["ip"].startswith("10.124.0.")
    cri("StopPodSandbox", pod_sandbox_id=pod.id)
    assert cri("PodSandboxStatus", pod_sandbox_id=pod.id)["status"]["state"] == api.NOT_READY
    cri("RemovePodSandbox", pod_sandbox_id=pod.id)
    assert cri("ListPodSandbox")["items"] == []


def test_ctr_run(cri: Cri, pod: Pod) -> None:
    script = "echo $A; pwd; hostname; echo err >&2; sleep 1000"
    id_ = pod.run("sh", "-c", script, envs=[{"key": "A", "value": "b c"}], working_dir="/var/www")
    assert pod.status(id_)["state"] == api.RUNNING
    lines = [("stderr", "err"), ("stdout", "/var/www"), ("stdout", "b c"), ("stdout", "of-pod")]
    until(lambda: sorted(pod.log(id_)) == lines, "all lines in the log")
    cri("StopContainer", container_id=id_, timeout=0)
    assert pod.ended(id_)["exit_code"] == 137
    cri("RemoveContainer", container_id=id_)
    assert cri("ListContainers")["containers"] == []


def test_two_ctrs(pod: Pod) -> None:
    own = {"security_context": {"namespace_options": {"pid": api.CONTAINER}}}
    web = pod.run("httpd", "-f", "-p", "8080", "-h", "/var/www", linux=own)
    other = pod.run("sleep", "1000", linux=own)
    fetch = ("wget", "-q", "-O", "-", "http://127.0.0.1:8080/index.html")
    until(lambda: pod.exec(other, *fetch)[0] == "hello-from-image\n", "the page of the other container")
    # pod-wide namespaces are the same, the others are not
    first, second = (pod.report(id_)["namespaces"] for id_ in (web, other))
    assert {name for name in first if first[name] == second[name]} >= {"net", "ipc", "uts"}
    assert first["pid"] != second["pid"] and first["mnt"] != second["mnt"]


def test_one_shim_for_a_pod(pod: Pod, ctrd: Containerd) -> None:
    for _ in range(2):
        pod.run("sleep", "1000")
    parents = {ctrd.lab.parent(pid) for pid, words in ctrd.lab.pids().items() if words in ("sleep 1000", "/pause")}
    assert len(parents) == 1


def test_pidns_pod(new_pod: Callable[..., Pod]) -> None:
    namespaces = {"namespace_options": {"pid": api.POD}}
    pod = new_pod(security_context=namespaces)
    ids = [pod.run("sleep", str(1000 + n), linux={"security_context": namespaces}) for n in range(2)]
    seen = pod.exec(ids[0], "ps", "-o", "pid,args")[0]
    assert "1 /pause" in seen and "sleep 1000" in seen and "sleep 1001" in seen
    # init's end is not the end of the namespace: what it left behind is killed by the shim
    pod.cri("StopContainer", container_id=ids[0], timeout=0)
    assert "sleep 1000" not in pod.exec(ids[1], "ps", "-o", "args")[0]


def test_pidns_orphans(new_pod: Callable[..., Pod], ctrd: Containerd) -> None:
    """What a container leaves running in the pod's pid namespace ends with the container."""
    namespaces = {"namespace_options": {"pid": api.POD}}
    pod = new_pod(security_context=namespaces)
    id_ = pod.run("sh", "-c", "sleep 1001 & exit 3", linux={"security_context": namespaces})
    assert pod.ended(id_)["exit_code"] == 3
    until(lambda: "sleep 1001" not in ctrd.lab.pids().values(), "end of what the container left running")


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_exit_code(pod: Pod, status: int) -> None:
    found = pod.ended(pod.run("sh", "-c", f"exit {status}"))
    assert (found["exit_code"], found["reason"]) == (status, "Error" if status else "Completed")
    assert found["finished_at"] > 0 and found["started_at"] > 0


def test_stop_timeout(cri: Cri, pod: Pod) -> None:
    willing = pod.run("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    deaf = pod.run("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    for id_ in (willing, deaf):
        until(lambda id_=id_: pod.log(id_) == [("stdout", "ready")], "the trap")
    cri("StopContainer", container_id=willing, timeout=30)
    cri("StopContainer", container_id=deaf, timeout=1)
    assert (pod.ended(willing)["exit_code"], pod.ended(deaf)["exit_code"]) == (7, 137)


def test_no_such_bin(pod: Pod) -> None:
    id_ = pod.create("nosuch")
    with pytest.raises(CriError, match=r'exec: "nosuch": executable file not found in \$PATH'):
        pod.cri("StartContainer", container_id=id_)
    status = pod.status(id_)
    assert status["state"] == api.EXITED and status["reason"] == "StartError"
    assert 'exec: "nosuch": executable file not found in $PATH' in status["message"]


# -- logs ------------------------------------------------------------------------------------------------------------------


def test_logs_reopen(cri: Cri, pod: Pod) -> None:
    id_ = pod.run("sh", "-c", "echo first; until [ -e /go ]; do sleep 0.1; done; echo second; sleep 1000")
    until(lambda: pod.log(id_) == [("stdout", "first")], "the first line")
    path = Path(pod.status(id_)["log_path"])
    path.rename(path.with_suffix(".1"))
    cri("ReopenContainerLog", container_id=id_)
    pod.exec(id_, "touch", "/go")
    until(lambda: path.exists() and pod.log(id_) == [("stdout", "second")], "the second line in a new file")


def test_logs_long_lines(pod: Pod) -> None:
    """16 KiB pieces, marked as partial, and not a byte lost."""
    id_ = pod.run("sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
    pod.ended(id_)
    until(lambda: pod.log(id_)[-1:] == [("stdout", "end")], "the last line")
    assert "".join(text for _, text in pod.log(id_)) == "x" * 100000 + "end"


# -- exec, attach, port-forward --------------------------------------------------------------------------------------------


def test_exec_sync(pod: Pod) -> None:
    id_ = pod.run("sleep", "1000")
    assert pod.exec(id_, "sh", "-c", "echo out; echo err >&2; exit 9") == ("out\n", "err\n", 9)
    with pytest.raises(CriError, match="executable file not found"):
        pod.exec(id_, "nosuch")


def test_exec_timeout(pod: Pod) -> None:
    id_ = pod.run("sleep", "1000")
    with pytest.raises(CriError) as caught:
        pod.exec(id_, "sleep", "999", timeout=1)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    until(lambda: "sleep 999" not in pod.exec(id_, "ps", "-o", "args")[0], "end of the command")


def test_exec_stream(pod: Pod) -> None:
    id_ = pod.run("sleep", "1000")
    script = "echo err >&2; read line; echo got $line; exit 5"
    url = pod.cri("Exec", container_id=id_, cmd=["sh", "-c", script], stdin=True, stdout=True, stderr=True)["url"]
    stream = Stream(pod.lab, url)
    stream.until(api.STDERR, b"err\n")
    stream.write(api.STDIN, b"words\n")
    stream.until(api.STDOUT, b"got words\n")
    assert stream.exit_status() == 5


def test_exec_stream_much(pod: Pod) -> None:
    id_ = pod.run("sleep", "1000")
    url = pod.cri("Exec", container_id=id_, cmd=["head", "-c", "3000000", "/dev/zero"], stdout=True, stderr=True)["url"]
    stream = Stream(pod.lab, url)
    assert stream.exit_status() == 0
    assert stream.seen[api.STDOUT] == bytes(3000000)


def test_exec_tty(pod: Pod) -> None:
    id_ = pod.run("sleep", "1000")
    url = pod.cri("Exec", container_id=id_, cmd=["sh"], stdin=True, stdout=True, tty=True)["url"]
    stream = Stream(pod.lab, url)
    stream.resize(93, 31)
    stream.write(api.STDIN, b"until [ \"$(stty size)\" = '31 93' ]; do :; done; tty; exit 4\n")
    stream.until(api.STDOUT, b"/dev/pts/0\r\n")
    assert stream.exit_status() == 4


def test_attach(pod: Pod) -> None:
    id_ = pod.run("sh", "-c", "read line; echo got $line; exit 6", stdin=True, stdin_once=True)
    url = pod.cri("Attach", container_id=id_, stdin=True, stdout=True, stderr=True)["url"]
    stream = Stream(pod.lab, url)
    stream.write(api.STDIN, b"words\n")
    stream.until(api.STDOUT, b"got words\n")
    assert pod.ended(id_)["exit_code"] == 6
    stream.close()
    assert pod.log(id_) == [("stdout", "got words")]


def test_attach_tty(pod: Pod) -> None:
    id_ = pod.run("sh", stdin=True, tty=True)
    stream = Stream(pod.lab, pod.cri("Attach", container_id=id_, stdin=True, stdout=True, tty=True)["url"])
    stream.resize(97, 33)
    stream.write(api.STDIN, b"until [ \"$(stty size)\" = '33 97' ]; do :; done; tty; exit 8\n")
    stream.until(api.STDOUT, b"/dev/pts/0\r\n")
    assert pod.ended(id_)["exit_code"] == 8
    stream.close()


def test_port_forward(pod: Pod) -> None:
    pod.run("httpd", "-f", "-p", "8080", "-h", "/var/www")
    address = pod.cri("PodSandboxStatus", pod_sandbox_id=pod.id)["status"]["network"]["ip"]
    pod.lab.connect(8080, address).close()  # it listens
    stream = Stream(pod.lab, pod.cri("PortForward", pod_sandbox_id=pod.id, port=[8080])["url"])
    stream.write(0, b"GET /index.html HTTP/1.0\r\n\r\n")
    stream.until(0, b"hello-from-image\n")
    stream.close()


# -- resources and security ------------------------------------------------------------------------------------------------


def test_stats(cri: Cri, new_pod: Callable[..., Pod]) -> None:
    pod = new_pod(cgroup_parent="/of-pod")
    id_ = pod.run("sh", "-c", "head -c 3000000 /dev/zero >/dev/shm/x; echo ready; sleep 1000")
    until(lambda: pod.log(id_) == [("stdout", "ready")], "the container's work")
    found = cri("ContainerStats", container_id=id_)["stats"]
    assert found["attributes"]["id"] == id_
    assert found["cpu"]["usage_core_nano_seconds"]["value"] > 0
    assert found["memory"]["working_set_bytes"]["value"] > 3000000
    processes = cri("PodSandboxStats", pod_sandbox_id=pod.id)["stats"]["linux"]["process"]["process_count"]["value"]
    assert processes >= 1


def test_update(cri: Cri, pod: Pod) -> None:
    id_ = pod.run("sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
    path = f"/k8s.io/{id_}"
    assert pod.lab.cgroup(path, "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    changed = {"memory_limit_in_bytes": 96 << 20, "cpu_quota": 50000, "cpu_period": 100000}
    cri("UpdateContainerResources", container_id=id_, linux=changed)
    assert pod.lab.cgroup(path, "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert pod.lab.cgroup(path, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    # and what it may do with devices is what it was
    assert pod.exec(id_, "sh", "-c", "echo x >/dev/null && head -c 1 /dev/zero | wc -c")[0] == "1\n"


def test_oomkilled(pod: Pod) -> None:
    limit = {"resources": {"memory_limit_in_bytes": 16 << 20}}
    found = pod.ended(pod.run("sh", "-c", "sleep 0.5; exec probe eat 100000000", linux=limit))
    assert (found["exit_code"], found["reason"]) == (137, "OOMKilled")


def test_security(pod: Pod) -> None:
    context = {
        "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]},
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 50},
        "supplemental_groups": [4711],
        "readonly_rootfs": True,
        "no_new_privs": True,
        "seccomp": {"profile_type": api.RUNTIME_DEFAULT},
        "masked_paths": ["/proc/kcore", "/proc/keys"],
        "readonly_paths": ["/proc/sys"],
    }
    found = pod.report(pod.run("sleep", "1000", linux={"security_context": context}))
    assert (found["uid"]["effective"], found["gid"]["effective"]) == (1000, 50)
    assert 4711 in found["groups"] and found["no_new_privs"] == 1 and found["seccomp"] == 2
    assert found["root_readonly"] is True
    assert "CAP_NET_ADMIN" in found["capabilities"]["bounding"] and "CAP_CHOWN" not in found["capabilities"]["bounding"]
    points = {mount["point"]: mount for mount in found["mounts"]}
    assert "/proc/keys" in points and "ro" in points["/proc/sys"]["options"]


def test_privileged(new_pod: Callable[..., Pod]) -> None:
    pod = new_pod(security_context={"privileged": True})
    id_ = pod.run("sleep", "1000", linux={"security_context": {"privileged": True}})
    found = pod.report(id_)
    ours = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
    assert [line for line in found["status"] if line.startswith("CapEff")] == ours
    assert "kmsg" in found["devices"] and found["seccomp"] == 0
    assert pod.exec(id_, "mount", "-t", "tmpfs", "x", "/mnt")[2] == 0


def test_mounts(pod: Pod) -> None:
    source = pod.lab.dir / f"volume{next(_numbers)}"
    source.mkdir()
    (source / "file").write_text("from outside\n")
    mounts = [
        {"container_path": "/in", "host_path": str(source)},
        {"container_path": "/ro", "host_path": str(source), "readonly": True, "propagation": api.HOST_TO_CONTAINER},
        {"container_path": "/etc/one", "host_path": str(source / "file")},
    ]
    id_ = pod.run("sleep", "1000", mounts=mounts)
    assert pod.exec(id_, "cat", "/in/file", "/etc/one")[0] == "from outside\n" * 2
    assert pod.exec(id_, "touch", "/in/new")[2] == 0 and (source / "new").exists()
    assert "Read-only file system" in pod.exec(id_, "touch", "/ro/new")[1]
    pod.lab.run("mount", "-t", "tmpfs", "later", source)
    try:
        assert pod.exec(id_, "grep", "-c", " /ro tmpfs ", "/proc/mounts")[0] == "1\n"
    finally:
        pod.lab.run("umount", source)


def test_sysctl(new_pod: Callable[..., Pod]) -> None:
    pod = new_pod(sysctls={"net.ipv4.ip_unprivileged_port_start": "99", "kernel.shm_rmid_forced": "1"})
    id_ = pod.run("sleep", "1000")
    assert pod.exec(id_, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start")[0] == "99\n"
    assert pod.exec(id_, "cat", "/proc/sys/kernel/shm_rmid_forced")[0] == "1\n"


def test_host_namespaces(new_pod: Callable[..., Pod], ctrd: Containerd) -> None:
    context = {"namespace_options": {"network": api.NODE, "pid": api.NODE, "ipc": api.NODE}}
    pod = new_pod(security_context=context, hostname="")
    found = pod.report(pod.run("sleep", "1000", linux={"security_context": context}))
    for name in ("net", "pid", "ipc"):
        assert found["namespaces"][name] == (Path("/proc") / str(ctrd.lab.init) / "ns" / name).readlink().name


# -- crashes and restarts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_containerd(cri: Cri, pod: Pod, ctrd: Containerd, number: signal.Signals) -> None:
    id_ = pod.run("sh", "-c", "until [ -e /go ]; do sleep 0.1; done; echo after; sleep 1000")
    ctrd.stop(number=number)
    ctrd.start()
    until(cri.is_ready, "CRI ready for pods")
    assert pod.status(id_)["state"] == api.RUNNING
    pod.exec(id_, "touch", "/go")
    until(lambda: pod.log(id_) == [("stdout", "after")], "the log of after the restart")
    cri("StopContainer", container_id=id_, timeout=0)
    assert pod.ended(id_)["exit_code"] == 137


def test_checkpoint(cri: Cri, pod: Pod, engine_runtime: Path) -> None:
    needs_checkpoint(engine_runtime, pod.lab)
    id_ = pod.run("sleep", "1000")
    archive = pod.lab.dir / f"{id_}.tar"
    try:
        cri("CheckpointContainer", container_id=id_, location=str(archive))
    except CriError as error:
        if error.code != "UNIMPLEMENTED":
            raise
        missing("CheckpointContainer in this containerd")
    assert archive.exists() and pod.status(id_)["state"] == api.RUNNING
