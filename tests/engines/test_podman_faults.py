"""Podman with conmon and with pyrunc-conmon: known exit statuses by the hundred, clients that vanish, nonsense, kill -9.

There is no daemon: whoever is killed is missed by nobody but the container that it was for.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest
from faults import KILLS, STATUSES, Campaign, called_with, special_files, wrong_statuses
from lab import until
from podman_lab import BB, KEPT, Machine, Podman

#: what a container does: ends soon, or goes on until it is removed
ENDS, GOES_ON = "usleep 100000; exit 3", "sleep 1000; exit 3"
#: where conmon and the runtime keep what is each container's own
PLACES = ("/run", "/tmp", "/var/lib/containers/storage/overlay-containers")


@pytest.fixture
def lasting(monitored: Podman, podman_host: Machine):
    """A container that must not notice anything: it ends with 44 when it is told to."""
    monitored("run", "-d", "--name", "other", BB, "sh", "-c", "trap 'exit 44' TERM; while :; do usleep 50000; done")
    yield monitored
    monitored("kill", "--signal", "TERM", "other")
    assert monitored("wait", "other").text == "44"
    monitored.remove("other")


def userdata(podman: Podman, name: str) -> Path:
    """Where conmon has the container's sockets and fifos."""
    return podman.lab.root / podman.inspect(name, "{{.StaticDir}}")[1:]


# -- exit statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_exit_status_is_lost(monitored: Podman):
    def start(status):
        return monitored.popen("run", "--rm", "--network", "none", BB, "sh", "-c", f"exit {status}")

    assert wrong_statuses(start, STATUSES) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_exit_status_of_an_exec_is_lost(lasting: Podman):
    def start(status):
        return lasting.popen("exec", "other", "sh", "-c", f"exit {status}")

    assert wrong_statuses(start, STATUSES) == {}


# -- disks, clients, nonsense ----------------------------------------------------------------------------------------------


def test_full_log_disk(lasting: Podman, share: Path):
    """A log that cannot be written costs its own container its log: neither its output to a client, nor its status."""
    disk = share / "disk"
    disk.mkdir()
    lasting.lab.run("mount", "-t", "tmpfs", "-o", "size=64k", "full", disk)
    try:
        words = ["--log-driver", "k8s-file", "--log-opt", f"path={disk}/log"]
        count = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 3"
        done = lasting("run", "--rm", *words, BB, "sh", "-c", count, status=3)
        assert done.lines == [f"line {number}" for number in range(20000)]
    finally:
        lasting.lab.run("umount", disk)


def test_clients_that_vanish(lasting: Podman):
    """Killed while they are being sent output: the container goes on, and its log has everything."""
    count = "i=0; while [ ! -e /go ]; do echo line $i; i=$((i+1)); usleep 1000; done; echo end $i; exit 5"
    lasting("run", "-d", "--name", "writer", BB, "sh", "-c", count)
    chance = random.Random(1)
    for _ in range(KILLS + 2):
        client = lasting.dialogue("attach", "--no-stdin", "writer")
        client.expect(r"line \d+\n")
        until(lambda: chance.random() < 0.2 or client.take() == "", "a moment")  # noqa: B023 - called at once
        client.process.kill(signal.SIGKILL)
        client.finish()
    lasting("exec", "writer", "touch", "/go")
    assert lasting("wait", "writer").text == "5"
    lines = lasting("logs", "writer").lines
    assert lines == [f"line {number}" for number in range(len(lines) - 1)] + [f"end {len(lines) - 1}"]
    lasting.remove("writer")


NONSENSE = {
    "attach": (b"\0", b"\xff" * 100000, b"x", b"2 0 0\n"),
    "ctl": (b"\n", b"1\n", b"1 1\n", b"9 9 9\n", b"1 -1 99999999999999999999\n", b"\0\xff\n", b"x" * 60000, b"\n"),
    "winsz": (b"\n", b"1\n", b"-1 -1\n", b"a b\n", b"9" * 60000, b"\n"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense(lasting: Podman, name: str):
    """To a container's socket and its fifos: it goes on, its client sees what it sees, and the status is its own."""
    lasting("run", "-d", "-i", "--name", "victim", BB, "sh", "-c", "trap 'exit 7' TERM; while :; do usleep 50000; done")
    place = userdata(lasting, "victim")
    for data in NONSENSE[name]:
        say(place, name, data)
    assert lasting("exec", "victim", "echo", "unharmed").text == "unharmed"
    lasting("kill", "--signal", "TERM", "victim")
    assert lasting("wait", "victim").text == "7"
    lasting.remove("victim")


def say(place: Path, name: str, data: bytes) -> None:
    if name != "attach":
        with open(place / name, "wb", buffering=0) as fifo:
            fifo.write(data)
        return
    folder = os.open(place, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(f"/proc/self/fd/{folder}/{name}")
            client.send(data)
    finally:
        os.close(folder)


# -- kill -9 ---------------------------------------------------------------------------------------------------------------


def victims(podman: Podman, id_: str, victim: str) -> list[int]:
    """The container's conmon, or what that has called, if they are there at this moment."""
    words = {
        pid: said
        for pid, said in called_with(podman.lab, id_).items()
        if not re.match(r"\S*podman ", said) and "netns" not in said
    }
    # what pyrunc-conmon calls is a fork of it, with the same words
    monitors = {pid for pid, said in words.items() if "conmon --api" in said and podman.lab.parent(pid) not in words}
    return list(monitors if victim == "conmon" else words.keys() - monitors)


def removed(podman: Podman, name: str, id_: str) -> bool:
    """Remove it as a user would who finds something half made; whether it is gone, with all its processes and its state."""
    # under some runtimes a client holds the container's lock for as long as nobody kills it
    Podman(podman.lab, "timeout", "20", *podman.command)("rm", "--force", "--time", "0", name, status=None)
    if podman("container", "exists", name, status=None).status != 1:
        return False
    words = [said for said in podman.lab.pids().values() if f" {id_ or name} " in f"{said} " or "exit 3" in said]
    # of a client whose container is gone nothing more is wanted
    words = [said for said in words if not said.startswith("podman ")]
    states = [state for top in ("runc", "pyrunc", "crun") for state in podman.lab.root.glob(f"run/{top}/{id_ or '-'}")]
    return not words and not states


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["conmon", "runtime", "podman"])
def test_killed_at_random(lasting: Podman, podman_host: Machine, victim: str):
    """kill -9 at any moment of a container's life: what was hit is removed, what was not goes on."""
    ids, clients = {}, {}
    before, mark = special_files(lasting.lab, *PLACES), lasting.lab.mark()

    def start(number):
        words = ["--name", f"k{number}", BB, "sh", "-c", GOES_ON if number % 2 else ENDS]
        if victim == "podman":
            clients[number] = lasting.popen("run", "--rm", *words)
        else:
            ids[number] = lasting("create", *words).text
            clients[number] = lasting.popen("start", "--attach", f"k{number}")
        return clients[number]

    def targets(number):
        return [clients[number].pid] if victim == "podman" else victims(lasting, ids[number], victim)

    def remove(number):
        return removed(lasting, f"k{number}", ids.get(number, ""))

    def force(number):
        for pid, said in lasting.lab.pids().items():
            if "exit 3" in said or "runc init" in said or ids.get(number, "-") in said:
                lasting.lab.kill(pid, signal.SIGKILL)
        if number in ids:
            lasting.lab.run(podman_host.runtime, "delete", "--force", ids[number], status=None)

    campaign = Campaign(lasting.lab, victim, start=start, victims=targets, remove=remove, force=force, span_s=0.6)
    campaign.run(KILLS)
    assert lasting("exec", "other", "echo", "unharmed").text == "unharmed"
    files = [path for path in special_files(lasting.lab, *PLACES) if path not in before]
    things = [*lasting.lab.left(mark, ignoring=(*KEPT, "usleep")), *files]
    left = Counter(re.sub(r"\b\w*\d\w*\b", "N", thing) for thing in things)
    monitor = "pyrunc-conmon" if lasting.is_ours else "conmon"
    campaign.report(engine="podman", conmon=monitor, runtime=podman_host.runtime.name, left=left)
    assert files == []
    assert not lasting.is_ours or not campaign.stuck
