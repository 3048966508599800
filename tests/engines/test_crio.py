"""What the kubelet does through CRI-O with pyrunc and pyrunc-conmon, as README.md sets it up.

ENGINE_RUNTIME=/usr/sbin/runc in the environment: with runc and conmon instead.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cri as api
import pytest
from cri import Cri, CriError
from crio_lab import Crio, CrioPod
from images import Image
from lab import Lab, missing, until
from readme import Part
from test_containerd_cri import (  # noqa: F401 - collected here
    test_attach,
    test_attach_tty,
    test_ctr_run,
    test_exec_stream,
    test_exec_stream_much,
    test_exec_sync,
    test_exec_tty,
    test_exit_code,
    test_host_namespaces,
    test_logs_long_lines,
    test_logs_reopen,
    test_mounts,
    test_oomkilled,
    test_pod_run,
    test_port_forward,
    test_privileged,
    test_security,
    test_stop_timeout,
    test_sysctl,
    test_two_ctrs,
)
from test_readme import Fresh

#: what CRI-O keeps on purpose: parents, locks, databases; and what it leaves whichever the runtime
KEPT = (
    r"^file: /run/(crio|containers|lock|runc|pyrunc|netns|ipcns|utsns|userns|pidns)(/|$)",
    r"^file: /run/(xtables\.lock|cni)",
    r"^interface: (pods0|tunl|gre|sit|ip6|ip_vti|erspan)",
    r"^mount: /var/lib/containers/storage/overlay$",
    r"^cgroup: \S+ /crio$",  # the parent of containers of pods without one
    r"^cgroup: \S+ /crio-conmon-\w+$",  # of a container that could not be made, or that is older than CRI-O's last start
)


@pytest.fixture(scope="module")
def crio(new_lab: Callable[[], Lab], engine_runtime: Path, bb_image: Image, pause_image: Image) -> Iterator[Crio]:
    lab = new_lab()
    Fresh(lab)
    crio = Crio(lab, bb_image, pause_image)
    yield crio
    assert crio.stop() == 0


@pytest.fixture(scope="module")
def ctrd(crio: Crio) -> Crio:
    """The engine, for the tests that were written for containerd's."""
    return crio


@pytest.fixture(scope="module")
def cri(crio: Crio) -> Iterator[Cri]:
    cri = Cri(crio.socket)
    until(cri.is_ready, "CRI ready for pods")
    yield cri
    cri.close()


@pytest.fixture(scope="module")
def handler(engine_runtime: Path) -> str:
    """That of the README's RuntimeClass."""
    (ours,) = re.findall(r"^handler: (\S+)$", Part("Kubernetes").blocks[1], re.M)
    return ours if engine_runtime.name == "pyrunc" else engine_runtime.name


@pytest.fixture
def new_pod(cri: Cri, crio: Crio, handler: str) -> Iterator[Callable[..., CrioPod]]:
    before = crio.lab.mark()
    yield lambda **more: CrioPod(cri, crio, handler, **more)
    for container in cri("ListContainers")["containers"]:
        cri("StopContainer", container_id=container["id"], timeout=0)  # or a pod's stop waits a minute for `sleep`
    for pod in cri("ListPodSandbox")["items"]:
        cri("StopPodSandbox", pod_sandbox_id=pod["id"])
        cri("RemovePodSandbox", pod_sandbox_id=pod["id"])
    assert cri("ListContainers")["containers"] == []
    if left := crio.lab.left(before, ignoring=KEPT):
        pytest.fail("left behind:\n" + "\n".join(left) + f"\n{crio.daemon.tail()}", pytrace=False)


@pytest.fixture
def pod(new_pod: Callable[..., CrioPod]) -> CrioPod:
    return new_pod()


def test_it_is_pyrunc(crio: Crio, pod: CrioPod, handler: str) -> None:
    if handler != "pyrunc":
        missing(f"a README of ours about {handler}")
    id_ = pod.run("sleep", "1000")
    assert crio.lab.run("/usr/local/bin/pyrunc", "--root", "/run/pyrunc", "list", "-q").out.split() == [id_]
    (pid,) = (pid for pid, words in crio.lab.pids().items() if words == "sleep 1000")
    assert " /usr/local/lib/pyrunc/shim/pyrunc-conmon " in crio.lab.pids()[crio.lab.parent(pid)]
    found = crio.lab.run("/usr/local/bin/pyrunc", "doctor", "--engine", "cri-o", "--json", cwd="/", status=None).json()
    assert [one for one in found if one["severity"] in ("warning", "error")] == []


def test_version(cri: Cri) -> None:
    answer = cri("Version")
    assert (answer["runtime_name"], answer["runtime_api_version"]) == ("cri-o", "v1")


def test_no_such_bin(pod: CrioPod) -> None:
    """CRI-O has the runtime create a container when it is told to, so that this is where it fails."""
    with pytest.raises(CriError, match=r"nosuch.*: executable file not found in \$PATH"):
        pod.run("nosuch")


def test_exec_timeout(pod: CrioPod) -> None:
    """An answer of CRI-O's, and no error: of the monitor's own words."""
    id_ = pod.run("sleep", "1000")
    out, err, status = pod.exec(id_, "sleep", "999", timeout=1)
    assert (out, status) == ("", -1) and "command timed out" in err
    until(lambda: "sleep 999" not in pod.exec(id_, "ps", "-o", "args")[0], "end of the command")


def test_stats(cri: Cri, pod: CrioPod) -> None:
    id_ = pod.run("sh", "-c", "head -c 3000000 /dev/zero >/dev/shm/x; echo ready; sleep 1000")
    until(lambda: pod.log(id_) == [("stdout", "ready")], "the container's work")
    found = cri("ContainerStats", container_id=id_)["stats"]
    assert found["attributes"]["id"] == id_
    assert found["cpu"]["usage_core_nano_seconds"]["value"] > 0
    assert found["memory"]["working_set_bytes"]["value"] > 3000000


def test_update(cri: Cri, crio: Crio, pod: CrioPod) -> None:
    id_ = pod.run("sleep", "1000", linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
    limits = ("memory.limit_in_bytes", "memory.max")
    assert pod.exec(id_, "true")[2] == 0
    path = cgroup_of(crio, "sleep 1000")
    assert crio.lab.cgroup(path, *limits) == str(64 << 20)
    changed: dict[str, Any] = {"memory_limit_in_bytes": 96 << 20, "cpu_quota": 50000, "cpu_period": 100000}
    cri("UpdateContainerResources", container_id=id_, linux=changed)
    assert crio.lab.cgroup(path, *limits) == str(96 << 20)
    assert crio.lab.cgroup(path, "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert pod.exec(id_, "sh", "-c", "echo x >/dev/null && head -c 1 /dev/zero | wc -c")[0] == "1\n"


def cgroup_of(crio: Crio, words: str) -> str:
    """The cgroup of a process, as below the lab's own."""
    (pid,) = (pid for pid, said in crio.lab.pids().items() if said == words)
    lines = (crio.lab.root / f"proc/{pid}/cgroup").read_text().splitlines()
    path = next(line.split(":", 2)[2] for line in lines if re.match(r"\d+:(.*,)?memory(,.*)?:|0::", line))
    top = crio.lab.cgroups[0].name
    return path.partition(f"/{top}")[2] or path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_restart_crio(cri: Cri, crio: Crio, pod: CrioPod, number: signal.Signals) -> None:
    """The monitor lives on, and so does what it writes down."""
    id_ = pod.run("sh", "-c", "until [ -e /go ]; do sleep 0.1; done; echo after; sleep 1000")
    ending = pod.run("sh", "-c", "until [ -e /go ]; do sleep 0.1; done; exit 5")
    pid = next(pid for pid, words in crio.lab.pids().items() if "exit 5" in words and words.startswith("sh "))
    crio.stop(number=number)
    (crio.lab.root / "proc" / str(pid) / "root" / "go").touch()
    until(lambda: pid not in crio.lab.pids(), "its end, while CRI-O is away")
    crio.start()
    until(cri.is_ready, "CRI ready for pods")
    assert pod.ended(ending)["exit_code"] == 5
    assert pod.status(id_)["state"] == api.RUNNING
    pod.exec(id_, "touch", "/go")
    until(lambda: pod.log(id_) == [("stdout", "after")], "the log of after the restart")
    cri("StopContainer", container_id=id_, timeout=0)
    assert pod.ended(id_)["exit_code"] == 137
