"""README.md's "Use it from an engine", followed to the letter by somebody who has nothing yet, with each engine.

pyrunc is installed as the README says, into a /usr/local of the lab's own; the README's code blocks are what is in the files
that it names, and its command lines are what is typed, the dots at their end filled in. What this machine needs besides (a
place for images that an overlay can be on, no more rights than there are) comes from other files, or from options.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import modules
import newer
import podman_lab
import pytest
from cri import Cri
from images import Image
from lab import Lab, Result, Running, missing, need, until
from packages import SOURCE
from podman_lab import Machine
from readme import Part
from test_containerd_cri import NETWORK, Pod

pytestmark = pytest.mark.newer

PYRUNC = "/usr/local/bin/pyrunc"
#: clients: what else is in this machine's /usr/local is nobody's business
CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS": "1"}
if modules.wanted():
    CLIENT["PATH"] = f"{modules.BUILD / modules.wanted() / 'bin'}:{CLIENT['PATH']}"
SLEEP = ("sleep", "1000")


class Fresh:
    """A lab with pyrunc in /usr/local, and images where an overlay may have its layers."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.env["PATH"] = modules.path()
        own = lab.dir / "usr-local"
        lab.run("mkdir", own)
        lab.run("mount", "-t", "tmpfs", "-o", "mode=755", "usr-local", own)
        lab.run("mkdir", own / "upper", own / "work")
        layers = f"lowerdir=/usr/local,upperdir={own}/upper,workdir={own}/work"
        lab.run("mount", "-t", "overlay", "-o", layers, "overlay", "/usr/local")
        if newer.wanted():
            # a tree without compilers: what `make install` does last, for the interpreter that is there
            places = ["--lib", "/usr/local/lib/pyrunc", "--bin", "/usr/local/bin", "--kernel", SOURCE / "build/kernel"]
            python = f"/usr/bin/python{newer.PYTHON}"
            site = ["--site", newer.STAGED / "site"]
            lab.run(python, "-I", SOURCE / "stage.py", *places, *site, "--interpreter", python)
        else:
            lab.run(*shlex.split(Part().said("make install")), cwd=SOURCE, timeout=300)

    def write(self, path: Path, text: str) -> None:
        (self.lab.root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        (self.lab.root / path.relative_to("/")).write_text(text)

    def room(self, place: str) -> None:
        """A file system of its own for an engine's images."""
        self.lab.run("mkdir", "-p", place)
        self.lab.run("mount", "-t", "tmpfs", "-o", "mode=711", "images", place)

    def client(self, *words: str | Path | int, **more: int) -> Result:
        return self.lab.run(*words, env=CLIENT, **more)

    def ids(self, root: str) -> list[str]:
        """The containers that pyrunc itself knows of."""
        return self.lab.run(PYRUNC, "--root", root, "list", "-q", cwd="/").out.split()

    def parent(self, pid: int | str) -> str:
        """The command line of a process's parent."""
        return self.lab.pids().get(self.lab.parent(int(pid)), "")

    def check(self, engine: str) -> None:
        """What the README has to find fault with the set-up finds none."""
        words = shlex.split(Part().said("pyrunc doctor --engine"))
        assert words[:3] == ["pyrunc", "doctor", "--engine"]
        said = self.lab.run(*words[:3], engine, "--json", cwd="/", status=None).out
        assert [one for one in json.loads(said) if one["severity"] in ("warning", "error")] == [], said


@pytest.fixture(scope="module")
def fresh(new_lab: Callable[[], Lab], engine_runtime: Path) -> Fresh:
    if engine_runtime.name != "pyrunc":
        missing(f"a README of ours about {engine_runtime.name}")
    return Fresh(new_lab())


def test_installed(fresh: Fresh) -> None:
    for name in ("pyrunc", "containerd-shim-pyrunc-v2", "pyrunc-conmon", "pyrunc-shim"):
        assert fresh.lab.run("sh", "-c", f"command -v {name}").out == f"/usr/local/bin/{name}\n"
    said = fresh.lab.run("pyrunc", "--version").out.splitlines()
    assert fresh.lab.run(newer.binaries() / "pyrunc", "--version").out.splitlines()[0] == said[0]
    code = fresh.lab.run("python3", "-c", "import sys; print(open(sys.argv[1]).read())", PYRUNC).out
    assert "/usr/local/lib/pyrunc" in code and str(SOURCE / "build/lib") not in code


# -- Docker ----------------------------------------------------------------------------------------------------------------

DOCKER = Part("Docker")


@pytest.fixture
def dockerd(fresh: Fresh, bb_image: Image) -> Iterator[Callable[..., Running]]:
    """Start dockerd as its package does, without an option, and again."""
    need("docker.io", "iptables")
    lab, daemons = fresh.lab, list[Running]()
    fresh.room("/var/lib/docker")

    def start() -> Running:
        for daemon in daemons:
            assert lab.stop(daemon) == 0
        ready = lambda: fresh.client("docker", "version", status=None).status == 0  # noqa: E731
        daemons[:] = [lab.daemon("dockerd", ready=ready)]
        fresh.client("docker", "load", "-i", bb_image.docker)
        return daemons[0]

    yield start
    fresh.client("sh", "-c", "docker ps -aq | xargs -r docker rm -f")
    for daemon in daemons:
        assert lab.stop(daemon) == 0
    for point in [point for point in lab.mounts() if point.startswith(("/var/lib/docker", "/run/docker"))]:
        lab.run("umount", "--lazy", point)
    (lab.root / "etc/docker/daemon.json").unlink(missing_ok=True)


def reload_docker(fresh: Fresh, daemon: Running) -> None:
    """`systemctl reload docker` is a SIGHUP, by Debian's docker.service."""
    assert DOCKER.said("systemctl reload docker")
    daemon.kill(signal.SIGHUP)
    known = ("docker", "info", "--format", "{{json .Runtimes}}")
    until(lambda: "pyrunc" in json.loads(fresh.client(*known).out), "pyrunc among docker's runtimes")


def runs_in_docker(fresh: Fresh, image: Image, command: list[str], root: str, parent: str) -> None:
    """A container of that command is pyrunc's, and known as such."""
    id_ = fresh.client(*command[:2], "-d", *command[2:], image.name, *SLEEP).out.strip()
    inspect = ("docker", "inspect", "--format", "{{.HostConfig.Runtime}} {{.State.Pid}}", id_)
    runtime, pid = fresh.client(*inspect).out.split()
    assert runtime == "pyrunc"
    assert fresh.ids(root) == [id_]
    assert parent in fresh.parent(pid)
    assert fresh.client("docker", "exec", id_, "echo", "hi").out == "hi\n"
    fresh.client("docker", "rm", "-f", id_)
    assert fresh.ids(root) == []
    fresh.client(*command[:2], "--rm", *command[2:], image.name, "sh", "-c", "exit 7", status=7)
    until(lambda: not [words for words in fresh.lab.pids().values() if "containerd-shim" in words], "the shims' end")


def test_docker_path(fresh: Fresh, dockerd: Callable[..., Running], bb_image: Image) -> None:
    daemon = dockerd()
    fresh.write(DOCKER.file, DOCKER.blocks[0])
    reload_docker(fresh, daemon)
    root = "/run/docker/runtime-runc/moby"
    runs_in_docker(fresh, bb_image, DOCKER.command("docker run"), root, "containerd-shim-runc-v2")
    fresh.check("docker")
    # and for every container, after a restart
    both = DOCKER.blocks[0].rstrip().removesuffix("}") + ", " + DOCKER.said('"default-runtime"') + " }"
    fresh.write(DOCKER.file, both)
    dockerd()
    runs_in_docker(fresh, bb_image, ["docker", "run"], root, "containerd-shim-runc-v2")
    fresh.check("docker")


def test_docker_runtime_type(fresh: Fresh, dockerd: Callable[..., Running], bb_image: Image) -> None:
    if not newer.wanted():
        missing("a dockerd that knows runtimeType")
    daemon = dockerd()
    fresh.write(DOCKER.file, DOCKER.blocks[1])
    reload_docker(fresh, daemon)
    root = "/run/containerd/pyrunc/moby"
    runs_in_docker(fresh, bb_image, DOCKER.command("docker run"), root, "containerd-shim-pyrunc-v2")
    fresh.check("docker")


# -- containerd, and Kubernetes on it --------------------------------------------------------------------------------------

CONTAINERD, KUBERNETES = Part("containerd"), Part("Kubernetes")


@pytest.fixture
def containerd(fresh: Fresh, bb_image: Image, pause_image: Image) -> Iterator[Callable[[], Running]]:
    """Start containerd as its package does, without an option, and again."""
    need("containerd", "containernetworking-plugins", "iptables")
    lab, daemons = fresh.lab, list[Running]()
    fresh.room("/var/lib/containerd")
    fresh.write(Path("/etc/cni/net.d/10-pods.conflist"), json.dumps(NETWORK))
    ready = lambda: fresh.client("ctr", "version", status=None).status == 0  # noqa: E731

    def start() -> Running:
        for daemon in daemons:
            assert lab.stop(daemon) == 0
        daemons[:] = [lab.daemon("containerd", ready=ready)]
        for name in ("default", "k8s.io"):
            for image in (bb_image, pause_image):
                fresh.client("ctr", "--namespace", name, "image", "import", image.oci)
        return daemons[0]

    yield start
    for daemon in daemons:
        assert lab.stop(daemon) == 0
    lab.run("umount", "--lazy", "/var/lib/containerd")


@pytest.mark.parametrize(
    ("beginning", "root", "shim"),
    [
        ("ctr run --runtime", "/run/containerd/pyrunc/default", "containerd-shim-pyrunc-v2"),
        ("ctr run --runc-binary", "/run/containerd/runc/default", "containerd-shim-runc-v2"),
    ],
)
def test_ctr(
    fresh: Fresh, containerd: Callable[[], Running], bb_image: Image, beginning: str, root: str, shim: str
) -> None:
    containerd()
    fresh.client(*CONTAINERD.command(beginning, "-d", bb_image.name, "c1", *SLEEP))
    pid = fresh.client("ctr", "task", "ls").out.splitlines()[1].split()[1]
    assert shim in fresh.parent(pid)
    assert fresh.ids(root) == ["c1"]
    fresh.client("ctr", "task", "rm", "--force", "c1")
    fresh.client("ctr", "container", "rm", "c1")
    assert fresh.ids(root) == []
    fresh.client(*CONTAINERD.command(beginning, "--rm", bb_image.name, "c2", "sh", "-c", "exit 7"), status=7)
    fresh.check("containerd")


#: what this machine needs, by the line of the README with which the file begins
NEEDED = {
    "version = 2": """
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:latest"
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
""",
    "version = 3": """
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
""",
}


def for_this_containerd(block: str) -> str:
    """The file, with the block in it that is for containerd 2, or as the README says that it is for 1.x."""
    if modules.wanted():
        first = KUBERNETES.said("version = 3")
    else:
        first, plugin = KUBERNETES.said("version = 2"), "io.containerd.cri.v1.runtime"
        assert plugin in block
        block = block.replace(plugin, KUBERNETES.said("io.containerd.grpc.v1.cri"))
    return first + NEEDED[first] + block


def uncommented(block: str) -> str:
    """The alternative that stands in the block as a comment, and not the one that it is to."""
    lines = block.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  # or "))
    return "\n".join([*lines[: at - 1], *(line.replace("# ", "", 1) for line in lines[at + 1 :])]) + "\n"


@pytest.mark.parametrize(
    ("chosen", "root", "shim"),
    [
        (str, "/run/containerd/pyrunc/k8s.io", "containerd-shim-pyrunc-v2"),
        (uncommented, "/run/containerd/runc/k8s.io", "containerd-shim-runc-v2"),
    ],
    ids=["our-shim", "its-shim"],
)
def test_kubernetes(
    fresh: Fresh, containerd: Callable[[], Running], chosen: Callable[[str], str], root: str, shim: str
) -> None:
    config, runtime_class = KUBERNETES.blocks
    fresh.write(KUBERNETES.file, for_this_containerd(chosen(config)))
    containerd()
    cri = Cri(fresh.lab.root / "run/containerd/containerd.sock")
    until(cri.is_ready, "CRI ready for pods")
    (handler,) = re.findall(r"^handler: (\S+)$", runtime_class, re.M)
    pod = Pod(cri, SimpleNamespace(lab=fresh.lab), handler)
    id_ = pod.run(*SLEEP)
    assert sorted(fresh.ids(root)) == sorted([pod.id, id_])
    (pid,) = (pid for pid, words in fresh.lab.pids().items() if words == " ".join(SLEEP))
    assert shim in fresh.parent(pid)
    assert pod.exec(id_, "echo", "hi") == ("hi\n", "", 0)
    fresh.check("containerd")
    cri("StopPodSandbox", pod_sandbox_id=pod.id)
    cri("RemovePodSandbox", pod_sandbox_id=pod.id)
    cri.close()
    assert fresh.ids(root) == []


# -- Podman and Buildah ----------------------------------------------------------------------------------------------------

PODMAN = Part("Podman")
CONTAINERFILE = "FROM localhost/bb:latest\nRUN touch /here/began; until [ -e /here/go ]; do sleep 0.1; done\n"


@pytest.fixture(scope="module")
def podman(fresh: Fresh) -> Machine:
    """Without anything of ours in its configuration."""
    machine = Machine(fresh.lab, Path(PYRUNC))
    place = fresh.lab.root / "etc/containers"
    lines = (place / "containers.conf").read_text().splitlines()
    needed = [line for line in lines if "pyrunc" not in line and line != "[engine.runtimes]"]
    (place / "containers.conf").unlink()
    fresh.write(Path("/etc/containers/containers.conf.d/lab.conf"), "\n".join(needed) + "\n")
    machine.known = fresh.lab.mark()
    return machine


def runs_in_podman(fresh: Fresh, machine: Machine, command: list[str], runtime: str) -> None:
    id_ = fresh.client(*command, "run", "-d", podman_lab.BB, *SLEEP).out.strip()
    inspect = ("podman", "container", "inspect", "--format", "{{.OCIRuntime}} {{.State.Pid}}", id_)
    told, pid = fresh.client(*inspect).out.split()
    assert told == runtime
    assert fresh.ids("/run/pyrunc") == [id_]
    assert " /usr/local/lib/pyrunc/shim/pyrunc-conmon " in fresh.parent(pid)
    assert fresh.client(*command, "exec", id_, "echo", "hi").out == "hi\n"
    fresh.client(*command, "rm", "-f", "-t", 0, id_)
    fresh.client(*command, "run", "--rm", podman_lab.BB, "sh", "-c", "exit 7", status=7)
    machine.check()


def test_podman_for_one_command(fresh: Fresh, podman: Machine) -> None:
    runs_in_podman(fresh, podman, PODMAN.command("podman --runtime"), PYRUNC)


def test_podman(fresh: Fresh, podman: Machine) -> None:
    fresh.write(PODMAN.file, PODMAN.blocks[0])
    runs_in_podman(fresh, podman, ["podman"], "pyrunc")
    failed = fresh.client("podman", "run", "--rm", podman_lab.BB, "nosuch", status=127)
    assert 'exec: "nosuch": executable file not found in $PATH' in failed.err
    fresh.check("podman")
    podman.check()


@pytest.mark.parametrize("way", ["option", "environment"])
def test_buildah(fresh: Fresh, podman: Machine, way: str) -> None:
    here = fresh.lab.dir / f"buildah-{way}"
    here.mkdir()
    (here / "Containerfile").write_text(CONTAINERFILE)
    if way == "option":
        command, env = PODMAN.command("buildah bud"), CLIENT
    else:
        command, env = ["buildah", "bud"], {**CLIENT, PODMAN.said("BUILDAH_RUNTIME"): PYRUNC}
    build = fresh.lab.popen(*command, "-v", f"{here}:/here", "-t", way, here, env=env)
    until(lambda: (here / "began").exists() or build.ended(), "the RUN step")
    assert [id_[:7] for id_ in fresh.ids("/run/pyrunc")] == ["buildah"]
    (here / "go").touch()
    assert build.wait() == 0
    fresh.client("podman", "rmi", way)
    podman.check()
