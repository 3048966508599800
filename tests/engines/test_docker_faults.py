"""dockerd: known exit statuses by the hundred, clients that vanish, and kill -9 of whatever there is.

By the runtime's path, as everywhere, and by our shim as runtimeType where dockerd knows that.
"""

from __future__ import annotations

import itertools
import re
import signal
from collections import Counter
from pathlib import Path

import newer
import pytest
from docker_lab import BB, KEPT, SHIM, Docker, is_peer, running, user
from faults import KILLS, STATUSES, Campaign, called_with, wrong_statuses
from lab import missing, until

#: how dockerd is told of the runtime -> settings of daemon.json. What runs must go on while dockerd is away.
WAYS = {
    "path": {"live-restore": True},
    "type": {"live-restore": True, "runtimes": {"ours": {"runtimeType": str(SHIM)}}},
}
#: what a container does: ends soon, or goes on until it is removed
ENDS, GOES_ON = "usleep 100000; exit 3", "sleep 1000; exit 3"


@pytest.fixture(scope="module", params=["path", pytest.param("type", marks=pytest.mark.newer)])
def way(request):
    if request.param == "type" and not newer.wanted():
        missing("a dockerd that knows runtimeType")
    return request.param


@pytest.fixture(scope="module")
def dockerd(way, new_lab, engine_runtime, bb_image):
    if way == "type" and is_peer(engine_runtime):
        missing("a shim of the runtime's own")
    yield from running(new_lab, engine_runtime, bb_image, settings=WAYS[way])


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


# -- exit statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_exit_status_is_lost(docker: Docker):
    """Attached, and as dockerd remembers it."""
    names = itertools.count()

    def start(status):
        name = f"s{next(names)}-{status}"
        return docker.popen("run", "--name", name, "--network", "none", BB, "sh", "-c", f"exit {status}")

    assert wrong_statuses(start, STATUSES) == {}
    ids = docker("ps", "-aq").out.split()
    for line in docker("inspect", "-f", "{{.Name}} {{.State.ExitCode}}", *ids).out.splitlines():
        assert re.fullmatch(r"/s\d+-(\d+) \1", line), line
    docker("rm", *ids)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_exit_status_of_an_exec_is_lost(docker: Docker):
    id_ = docker.sleeping("--network", "none")

    def start(status):
        return docker.popen("exec", id_, "sh", "-c", f"exit {status}")

    assert wrong_statuses(start, STATUSES) == {}


# -- clients that vanish, kill -9 ------------------------------------------------------------------------------------------


def removed(docker: Docker, name: str, id_: str) -> bool:
    """Remove it as a user would who finds something half made; whether it is gone, with all its processes and its state."""
    docker("rm", "-f", "-v", name, status=None)
    state = docker.lab.root / f"{docker.dockerd.states}"[1:] / id_
    there = docker("ps", "-aq", "--filter", f"name=^{name}$", status=None)
    processes = [said for said in docker.lab.pids().values() if said.startswith("sh -c") and "exit 3" in said]
    return there.status == 0 and not there.out and not processes and not (id_ and state.exists())


def forgotten(docker: Docker) -> list[str]:
    """Containers that dockerd's containerd has and dockerd has no record of: killed between the two, it never asks for them."""
    known = set(docker("ps", "-aq", "--no-trunc").out.split())
    return sorted(set(docker.dockerd.ctr("containers", "ls", "-q").out.split()) - known)


def remove_forgotten(docker: Docker) -> bool:
    """Have containerd remove them, as it does what others made; whether there were any."""
    ids = forgotten(docker)
    for id_ in ids:
        docker.dockerd.ctr("tasks", "delete", "--force", id_, status=None)
        docker.dockerd.ctr("containers", "delete", id_)
    return bool(ids)


def is_nobodys(docker: Docker, place: str) -> bool:
    """Whether it is the mount of a layer, and dockerd has no record of a container that it would be of."""
    data = Path(f"{docker.lab.root}{docker.dockerd.dir}/data")
    ids = data.glob("image/overlay2/layerdb/mounts/*/mount-id")
    owners = [path.parent.name for path in ids if place.endswith(f"/overlay2/{path.read_text()}/merged")]
    is_layer = re.fullmatch(r"\S+/overlay2/\w+/merged", place)
    return bool(is_layer) and not any((data / "containers" / owner / "config.v2.json").exists() for owner in owners)


def what_is_left(docker: Docker, victim: str) -> Counter[str]:
    """After all rounds, numbers and names apart; what only others can have left is removed after it was counted."""
    things = docker.lab.left(docker.before, ignoring=(*KEPT, *docker.ignored))
    for thing in things:
        kind, name = thing.split()[:2]
        if name.startswith("veth"):
            # the ends of a pair that a killed dockerd had not given away yet: one goes with the other
            docker.lab.run("ip", "link", "delete", name, status=None)
        elif "/containerd-shim-runc-v2 " in thing:
            # its maker was killed before containerd had heard of it; with runc too
            docker.lab.kill(pid := int(name), signal.SIGKILL)
            until(lambda pid=pid: pid not in docker.lab.pids(), "the end of containerd's shim")
        elif victim == "dockerd" and kind == "mount:" and is_nobodys(docker, name):
            # nobody but dockerd makes and removes these, and it was killed in between
            docker.lab.run("umount", name)
    return Counter(re.sub(r"\b\w*\d\w*\b", "N", thing) for thing in things)


def victims(docker: Docker, id_: str, victim: str) -> list[int]:
    """The container's shim, what that has called, dockerd or its containerd, if they are there at this moment."""
    if victim == "dockerd":
        return [docker.dockerd.daemon.pid]
    if victim == "containerd":
        config = f"{docker.dockerd.dir}/exec/containerd/containerd.toml"
        return [pid for pid, said in called_with(docker.lab, config).items() if "containerd " in said]
    words = {pid: said for pid, said in called_with(docker.lab, id_).items() if "libnetwork-setkey" not in said}
    shims = {pid for pid, said in words.items() if "containerd-shim" in said and docker.lab.parent(pid) not in words}
    return list(shims if victim == "shim" else words.keys() - shims)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["shim", "runtime", "dockerd", "containerd", "client"])
def test_killed_at_random(docker: Docker, way: str, victim: str):
    """kill -9 at any moment of a container's life: what was hit is removed, what was not goes on."""
    docker.ignored.append(r"^process: \d+ containerd --config ")  # dockerd has started another one
    if victim == "dockerd":
        # it mounts that by itself while it makes a container, before anybody else has heard of one
        docker.ignored.append(r"^mount: \S+/overlay2/\w+-init/merged$")
    other = docker.detached(BB, "sh", "-c", "trap 'exit 44' TERM; while :; do usleep 50000; done")
    ids = {}
    clients = {}

    def start(number):
        words = ["--name", f"k{number}", BB, "sh", "-c", GOES_ON if number % 2 else ENDS]
        if victim in ("shim", "runtime"):
            ids[number] = docker("create", *words).out.strip()
            clients[number] = docker.popen("start", "-a", f"k{number}")
        else:
            clients[number] = docker.popen("run", "--rm", *words)
        return clients[number]

    def targets(number):
        return [clients[number].pid] if victim == "client" else victims(docker, ids.get(number, ""), victim)

    def restore():
        if victim == "dockerd":
            docker.dockerd.kill9()
            docker.dockerd.start()

    def remove(number):
        return removed(docker, f"k{number}", ids.get(number, ""))

    def force(number):
        for pid, said in docker.lab.pids().items():
            if said.startswith("sh -c") and "exit 3" in said:
                docker.lab.kill(pid, signal.SIGKILL)
        if number in ids:
            root = docker.dockerd.states
            docker.lab.run(docker.dockerd.runtime, "--root", root, "delete", "--force", ids[number])

    campaign = Campaign(
        docker.lab,
        victim,
        start=start,
        victims=targets,
        remove=remove,
        force=force,
        restore=restore,
        forgotten=lambda number: remove_forgotten(docker),
        span_s=0.6,
    )
    campaign.run(KILLS)
    until(lambda: docker.exec(other, "true", status=None).status == 0, "the daemon's return")
    docker("kill", "-s", "TERM", other)
    until(lambda: docker.inspect(other, ".State.Status") == "exited", "the end of the other")
    assert docker.inspect(other, ".State.ExitCode") == "44"
    docker.clean()
    remove_forgotten(docker)
    left = what_is_left(docker, victim)
    campaign.report(engine="docker", way=way, runtime=docker.dockerd.runtime.name, left=left)
    assert is_peer(docker.dockerd.runtime) or not campaign.stuck
