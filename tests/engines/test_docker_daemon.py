"""The daemon itself: what becomes of containers when it stops or is killed, and what it asks for when it is set up otherwise.

Each test has a dockerd with settings of its own.
"""

from __future__ import annotations

import json
import re
import signal

import newer
import pytest
from conftest import needs_checkpoint
from docker_lab import BB, KEPT, Docker, Dockerd
from lab import need, until


@pytest.fixture
def start(new_lab, engine_runtime, bb_image):
    """Start a dockerd with settings; at the end everything must be gone."""
    made: list[Dockerd] = []

    def begin(settings=None, prepare=None):
        lab = new_lab()
        if prepare:
            prepare(lab)
        dockerd = Dockerd(lab, engine_runtime, settings=settings)
        made.append(dockerd)
        dockerd.load(bb_image)
        return Docker(dockerd)

    yield begin
    for dockerd in made:
        ids = dockerd.docker("ps", "-aq").out.split()
        if ids:
            dockerd.docker("rm", "-f", *ids)
        dockerd.close()
        # containerd keeps what it restores from, and CRIU what it has found out about the kernel
        restored = (r"^file: /run/criu\.kdat$", r"/tmp/ctrd-checkpoint\d+(/|$)")
        left = dockerd.lab.left(ignoring=(*KEPT, *restored, r"^cgroup: \S+ /own-parent$"))
        assert left == [], left


COUNT = "n=0; while :; do echo $((n+=1)); usleep 50000; done"


def lives(docker, pid):
    return pid in docker.lab.pids() and "[zombie]" not in docker.lab.pids()[pid]


# -- stopped, killed, started again ----------------------------------------------------------------------------------------


def test_live_restore(start):
    """With live-restore containers run on without the daemon, and are its own again when it is back."""
    docker = start({"live-restore": True})
    id_ = docker.detached("-p", "127.0.0.1:8081:80", BB, "sh", "-c", COUNT)
    ends = docker.detached(BB, "sh", "-c", "while [ ! -e /go ]; do usleep 10000; done; exit 44")
    pid, go = docker.pid(id_), docker.lab.root / docker.inspect(ends, ".GraphDriver.Data.MergedDir").lstrip("/") / "go"
    assert docker.dockerd.stop() == 0
    assert lives(docker, pid)
    go.touch()  # one ends while nobody looks
    docker.dockerd.start()
    assert docker.pid(id_) == pid and docker.inspect(id_, ".State.Status") == "running"
    until(lambda: docker.inspect(ends, ".State.Status") == "exited", "the exit that was missed")
    if not newer.wanted():  # 26.1 says 255, whichever the runtime
        assert docker.inspect(ends, ".State.ExitCode") == "44"
    assert docker.exec(id_, "echo", "hi").out == "hi\n"
    lines = docker.logs(id_).split()
    until(lambda: len(docker.logs(id_).split()) > len(lines), "more lines in the log")
    docker("pause", id_)
    docker("unpause", id_)
    docker("stop", "-t", 0, id_)
    assert docker.inspect(id_, ".State.ExitCode") == "137"


def test_restart_no_live(start):
    """Without it containers are stopped with the daemon; those that shall restart do."""
    docker = start()
    plain, always = docker.sleeping("--stop-timeout", 1), docker.sleeping("--restart", "always", "--stop-timeout", 1)
    pids = [docker.pid(plain), docker.pid(always)]
    assert docker.dockerd.stop() == 0
    assert not [pid for pid in pids if lives(docker, pid)]
    docker.dockerd.start()
    assert docker.inspect(plain, ".State.Status") == "exited" and docker.inspect(plain, ".State.ExitCode") == "137"
    until(lambda: docker.inspect(always, ".State.Running") == "true", "the restart")
    docker("start", plain)
    assert docker.exec(plain, "echo", "hi").out == "hi\n"


def test_daemon_kill9(start):
    """dockerd is killed: what runs on is found again, and can be stopped and removed."""
    docker = start({"live-restore": True})
    id_ = docker.detached(BB, "sh", "-c", COUNT)
    pid = docker.pid(id_)
    docker.dockerd.kill9()
    assert lives(docker, pid)
    docker.dockerd.start()
    assert docker.pid(id_) == pid and docker.exec(id_, "echo", "hi").out == "hi\n"
    before = len(docker.logs(id_).split())
    until(lambda: len(docker.logs(id_).split()) > before, "more lines in the log")
    docker("rm", "-f", id_)
    assert not lives(docker, pid)


def test_daemon_kill9_without_live_restore(start):
    docker = start()
    id_ = docker.sleeping()
    pid = docker.pid(id_)
    docker.dockerd.kill9()
    docker.dockerd.start()
    until(lambda: docker.inspect(id_, ".State.Status") == "exited", "the end of what nobody restores")
    until(lambda: not lives(docker, pid), "the end of its process")
    docker("start", id_)
    assert docker.exec(id_, "echo", "hi").out == "hi\n"


def test_shim_killed(start):
    """The shim is killed: Docker says that the container has ended, and everything of it goes."""
    docker = start()
    id_ = docker.sleeping()
    shim = next(pid for pid, words in docker.lab.pids().items() if "containerd-shim" in words and id_ in words)
    docker.lab.kill(shim, signal.SIGKILL)
    until(lambda: docker.inspect(id_, ".State.Status") == "exited", "the container's end")
    assert docker.inspect(id_, ".State.ExitCode") == "137"
    docker("start", id_)
    assert docker.exec(id_, "echo", "hi").out == "hi\n"


# -- set up otherwise ------------------------------------------------------------------------------------------------------


def test_userns_remap(start):
    """Every container in a user namespace: root inside is nobody outside, and files are theirs."""

    def prepare(lab):
        for name, line in (("passwd", "dockremap:x:990:990::/:/bin/false"), ("group", "dockremap:x:990:")):
            with (lab.root / "etc" / name).open("a") as file:
                file.write(line + "\n")
        for name in ("subuid", "subgid"):
            (lab.root / "etc" / name).write_text("dockremap:200000:65536\n")

    docker = start({"userns-remap": "dockremap"}, prepare)
    assert docker.output(BB, "cat", "/proc/self/uid_map").split() == ["0", "200000", "65536"]
    id_ = docker.sleeping()
    assert (docker.lab.root / f"proc/{docker.pid(id_)}").stat().st_uid == 200000
    docker.exec(id_, "sh", "-c", "echo mine > /file && chown 1000 /file")
    upper = docker.lab.root / docker.inspect(id_, ".GraphDriver.Data.UpperDir").lstrip("/")
    assert (upper / "file").stat().st_uid == 201000
    assert docker.output("-u", "alice", BB, "id", "-u") == "1000"
    assert docker.output("--userns", "host", BB, "cat", "/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    assert docker.shell(
        "echo x > /work/x; ls /dev/loop-control", "--device", "/dev/loop-control", "-v", "/work", "--read-only"
    )


def test_iptables_off(start):
    """Ports are published by docker-proxy alone."""
    need("curl")
    docker = start({"iptables": False, "ip-masq": False})
    docker.detached("-p", "127.0.0.1:8082:80", BB, "httpd", "-f", "-p", "80", "-h", "/var/www")
    url = "http://127.0.0.1:8082/index.html"
    page = until(lambda: docker.lab.run("curl", "-s", "-m", 5, url, status=None).out, "the page")
    assert page == "hello-from-image\n"
    assert "DOCKER" not in docker.lab.run("iptables", "-S").out


def test_no_bridge(start):
    docker = start({"bridge": "none"})
    assert re.findall(r"\d+: (\w+)", docker.output(BB, "ip", "-o", "link")) == ["lo"]
    assert "docker0" not in docker.lab.interfaces()


def test_default_ulimits(start):
    docker = start({"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 100, "Hard": 200}}})
    assert docker.shell("ulimit -n; ulimit -Hn").split() == ["100", "200"]
    assert docker.shell("ulimit -n", "--ulimit", "nofile=50") == "50"


def test_cgroup_parent(start):
    docker = start({"cgroup-parent": "/own-parent"})
    id_ = docker.sleeping()
    lines = (docker.lab.root / f"proc/{docker.pid(id_)}/cgroup").read_text().splitlines()
    assert lines and all(line.endswith(f"/own-parent/{id_}") for line in lines)


def test_runtime_options(start, engine_runtime):
    """`runtimeArgs`: options that dockerd puts before every command; here one that makes its log longer."""
    docker = start({"runtimes": {"ours": {"path": str(engine_runtime), "runtimeArgs": ["--debug"]}}})
    assert docker.output(BB, "echo", "hi") == "hi"


def test_experimental_checkpoint(start, engine_runtime):
    """A container is frozen into files and goes on from there."""
    docker = start({"experimental": True})
    needs_checkpoint(engine_runtime, docker.lab)
    id_ = docker.detached("--security-opt", "seccomp=unconfined", BB, "sh", "-c", COUNT)
    until(lambda: len(docker.logs(id_).split()) > 2, "a count")
    docker("checkpoint", "create", id_, "one")
    docker.becomes(id_, "exited")
    at = int(docker.logs(id_).split()[-1])
    # "content already exists" until containerd has collected what dockerd had it make: a race of these two
    start_again = ("start", "--checkpoint", "one", id_)
    until(lambda: "already exists" not in (result := docker(*start_again, status=None)).err and result, "a free digest")
    docker.becomes(id_, "running")
    until(lambda: int(docker.logs(id_).split()[-1]) > at, "the count going on")
    counts = [int(word) for word in docker.logs(id_).split()]
    assert counts == sorted(counts) and json.loads(docker("inspect", id_).out)[0]["State"]["Running"]
