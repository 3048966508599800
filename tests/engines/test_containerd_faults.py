"""Many containers, much output, and whatever may be killed: nothing is lost, nobody else is harmed, nothing is left."""

from __future__ import annotations

import errno
import itertools
import random
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from containerd_lab import FIFOS, KEPT, REACHES, Containerd, Ctr, check_reach
from faults import KILLS, STATUSES, Campaign, called_with, wrong_statuses
from images import Image
from lab import Lab, Running, until

BB = "localhost/bb:latest"
#: what may be left of a shim that is not ours
THEIRS = ("process: .*/containerd-shim-runc-v2 ", "file: /run/containerd/s/")


@pytest.fixture(scope="module")
def ctrd(new_lab: Callable[[], Lab], engine_runtime: Path, bb_image: Image) -> Iterator[Containerd]:
    ctrd = Containerd(new_lab(), engine_runtime)
    ctrd.load(bb_image)
    yield ctrd
    assert ctrd.stop() == 0


@pytest.fixture(params=REACHES)
def ctr(ctrd: Containerd, request: pytest.FixtureRequest) -> Iterator[Ctr]:
    check_reach(request.param, ctrd.runtime)
    ctr = Ctr(ctrd, request.param)
    yield ctr
    ctr.clean()
    if left := ctr.left(timeout=40):
        pytest.fail("left behind:\n" + "\n".join(left) + f"\n{ctrd.daemon.tail()}", pytrace=False)


def _shim(ctr: Ctr, id_: str) -> int:
    """The pid of the shim that has a container."""
    pid = next(pid for task, pid, _ in ctr.tasks() if task == id_)
    return ctr.lab.parent(pid)


def _resident_kib(ctr: Ctr, pid: int) -> int:
    """What a process has of its own in memory."""
    lines = (ctr.lab.root / f"proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


# -- exit statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_exit_status_is_lost(ctr: Ctr) -> None:
    def start(status: int) -> Running:
        return ctr.popen("run", "--rm", *ctr.choice, BB, ctr.id("s"), "sh", "-c", f"exit {status}")

    assert wrong_statuses(start, max(STATUSES, 50)) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_exit_status_of_an_exec_is_lost(ctr: Ctr) -> None:
    id_ = ctr.detached_bb("sleep", "1000")
    numbers = itertools.count()

    def start(status: int) -> Running:
        words = ("task", "exec", "--exec-id", f"s{next(numbers)}", id_, "sh", "-c", f"exit {status}")
        return ctr.popen(*words)

    assert wrong_statuses(start, max(STATUSES, 50)) == {}


# -- output ----------------------------------------------------------------------------------------------------------------


def test_much_output(ctr: Ctr) -> None:
    """As fast as it can: every byte arrives, and the shim does not keep them."""
    size = 256 << 20
    command = " ".join(ctr.argv("run", "--rm", *ctr.choice, BB, ctr.id(), "head", "-c", str(size), "/dev/zero"))
    assert ctr.lab.run("sh", "-c", f"{command} | wc -c").out == f"{size}\n"


def test_reader_that_stops(ctr: Ctr) -> None:
    """Output that nobody reads waits in the pipes, costs no memory, and holds up nobody else."""
    other = ctr.detached_bb("sleep", "1000")
    id_, size = ctr.id(), 4 << 20
    # it ends when we have everything: ctr itself stops reading when it is told of the end
    script = f"echo begin; head -c {size} /dev/zero; until [ -e /go ]; do sleep 0.1; done"
    talk = ctr.dialogue("run", *ctr.choice, BB, id_, "sh", "-c", script)
    talk.expect("begin\n")
    shim = _shim(ctr, id_)
    before = _resident_kib(ctr, shim)
    pid = next(pid for task, pid, _ in ctr.tasks() if task == id_)
    blocked = lambda: "pipe" in (ctr.lab.root / f"proc/{_child(ctr.lab, pid)}/wchan").read_text()  # noqa: E731
    until(blocked, "the container waiting for its reader")
    assert ctr.echoes(other)
    assert ctr.echoes(id_)
    assert _resident_kib(ctr, shim) < before + 1024
    until(lambda: talk.take().count("\0") >= size, "every byte")
    assert talk.seen.count("\0") == size
    ctr.exec(id_, "touch", "/go")
    assert talk.finish() == 0


def _child(lab: Lab, pid: int) -> int:
    return int((lab.root / f"proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_full_log_disk(ctr: Ctr) -> None:
    """A log that cannot be written costs its own container its log, and nothing else."""
    disk = ctr.lab.dir / f"full-{ctr.reach}"
    disk.mkdir()
    ctr.lab.run("mount", "-t", "tmpfs", "-o", "size=64k", "full", disk)
    try:
        other = ctr.detached_bb("sleep", "1000")
        script = "head -c 1000000 /dev/zero && echo $? >/wrote; sleep 1000"
        id_ = ctr.detached_bb("sh", "-c", script, options=("--log-uri", f"file://{disk}/log"))
        log = ctr.lab.root / str(disk)[1:] / "log"
        until(lambda: log.stat().st_size >= 60000, "a full disk")
        assert ctr.status(id_) == "RUNNING"
        assert ctr.echoes(other)
        if ctr.reach == "pyrunc.v2":  # under containerd's own it waits for ever
            until(lambda: ctr.exec(id_, "cat", "/wrote", status=None).out == "0\n", "the program to have written")
            words = f"write file://{disk}/log: no space left on device, output after "
            until(lambda: words in ctr.ctrd.log(), "the shim's word about it")
            assert ctr.ctrd.log().count(words) == 1
        ctr.remove(id_)
    finally:
        ctr.lab.run("umount", "-l", disk)


# -- malformed requests, clients that vanish -------------------------------------------------------------------------------

FRAMES = {
    "not-a-frame": b"GET / HTTP/1.1\r\n\r\n",
    "oversized": (1 << 31).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + b"x" * 100000,
    "not-a-request": (5).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + b"\xff" * 5,
    "unfinished": (1000).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x01\x00" + b"x",
    "of-no-type": (0).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x99\x00",
}


@pytest.mark.parametrize("kind", FRAMES)
def test_malformed_frames(ctr: Ctr, kind: str) -> None:
    """To each socket of a shim: what it makes of them is its own affair, but nobody else notices."""
    before = set(_sockets(ctr.lab))
    id_ = ctr.detached_bb("sleep", "1000")
    made = set(_sockets(ctr.lab)) - before
    assert made
    for path in made:
        _send(path, FRAMES[kind])
    assert ctr.echoes(id_)
    ctr("task", "kill", "--signal", "9", id_)
    until(lambda: ctr.status(id_) == "STOPPED", "end of the task")


def _send(path: Path, data: bytes) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as client:
            try:
                client.connect(str(path))
            except OSError as error:
                if error.errno != errno.EPROTOTYPE:
                    raise
                continue
            client.sendall(data)
            return


def _sockets(lab: Lab) -> list[Path]:
    return list((lab.root / "run/containerd/s").iterdir())


def test_clients_that_vanish(ctr: Ctr) -> None:
    """ctr is killed at any moment of a run: the container can be removed, and the shim is gone with it."""
    # what the client would have removed; and containerd's own shim stays where nobody waits for its address any more
    ctr.ignored += [FIFOS, "/containerd-mount", *(THEIRS if ctr.reach == "runc.v2" else ())]
    chance = random.Random(1)
    for _ in range(max(KILLS, 4)):
        id_ = ctr.id("v")
        client = ctr.popen("run", *ctr.choice, BB, id_, "sleep", "1000")
        time.sleep(chance.uniform(0, 0.25))  # where it is hit is the point
        client.kill(signal.SIGKILL)
        client.wait()
        until(lambda: _removed(ctr, id_), f"removal of {id_}")  # noqa: B023 - called at once


def _removed(ctr: Ctr, id_: str) -> bool:
    """Remove it as a user would who finds something half made; whether it is gone."""
    ctr("task", "rm", "--force", id_, status=None)
    ctr("container", "rm", id_, status=None)
    return id_ not in ctr("container", "ls", "-q").out.split() and ctr.status(id_) == ""


# -- kill -9 ---------------------------------------------------------------------------------------------------------------

#: what a container does: ends soon, or goes on until it is removed
ENDS, GOES_ON = "sleep 0.1; exit 3", "sleep 1000; exit 3"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", ["shim", "runtime", "containerd"])
def test_killed_at_random(ctr: Ctr, victim: str) -> None:
    """kill -9 at any moment of a container's life: what was hit is removed, what was not goes on."""
    # ctr removes its fifos only after a task that it has seen to the end
    ctr.ignored += [FIFOS, *(THEIRS if ctr.reach == "runc.v2" else ())]
    other = ctr.detached_bb("sh", "-c", "trap 'exit 44' TERM; while :; do sleep 0.05; done")
    ids: list[str] = []
    clients: list[Running] = []
    root = f"/run/containerd/{'runc' if ctr.reach == 'runc.v2' else 'pyrunc'}/default"

    def start(number: int) -> Running:
        ids.append(ctr.id("k"))
        script = GOES_ON if number % 2 else ENDS
        clients.append(ctr.popen("run", "--rm", *ctr.choice, BB, ids[number], "sh", "-c", script))
        return clients[number]

    def victims(number: int) -> Iterable[int]:
        return [ctr.ctrd.daemon.pid] if victim == "containerd" else _victims(ctr, ids[number], victim)

    def restore() -> None:
        if victim == "containerd":
            ctr.ctrd.stop(number=signal.SIGKILL)
            ctr.ctrd.start()

    def remove(number: int) -> bool:
        # what was killed may have been no loss: the shim has done without it, and ctr goes on. Its container is not removed
        # between that and the task, or containerd has a task that nobody can name, with whichever shim
        if not clients[number].ended() and ctr.status(ids[number]) in ("", "CREATED"):
            return False
        state = ctr.lab.root / f"{root[1:]}/{ids[number]}"
        return _removed(ctr, ids[number]) and not ctr.running_words("exit 3") and not state.exists()

    def force(number: int) -> None:
        ctr.lab.run(ctr.ctrd.runtime, "--root", root, "delete", "--force", ids[number], status=None)
        for pid in [*ctr.running_words("exit 3"), *called_with(ctr.lab, ids[number])]:
            ctr.lab.kill(pid, signal.SIGKILL)

    campaign = Campaign(ctr.lab, victim, start=start, victims=victims, remove=remove, force=force, restore=restore)
    campaign.run(max(KILLS, 4))
    assert ctr.echoes(other)
    ctr("task", "kill", other)
    until(lambda: ctr.status(other) == "STOPPED", "the end of the other")
    assert ctr.exit_status(other) == 44
    ctr.clean()
    # a shim that nobody knows any more needs its time to see that; what others leave for good is not waited for
    ctr.lab.left(ctr.before, ignoring=[*KEPT, *ctr.ignored], timeout=40)
    left = Counter(re.sub(r"\b\w*\d\w*\b", "N", thing) for thing in ctr.lab.left(ctr.before, ignoring=KEPT, timeout=0))
    campaign.report(reach=ctr.reach, runtime=ctr.ctrd.runtime.name, left=left)
    # ctr run --rm may still remove its container by the next containerd, which then has a task that nobody can name; with
    # whichever shim: when that is killed all goes
    assert ctr.reach == "runc.v2" or victim == "containerd" or not campaign.stuck


def _victims(ctr: Ctr, id_: str, victim: str) -> Iterable[int]:
    """The container's shim, or what its shim has called, if they are there at this moment."""
    words = called_with(ctr.lab, id_)
    # what our own shim calls is a fork of it, with the same words
    shims = {pid for pid, said in words.items() if "containerd-shim" in said and ctr.lab.parent(pid) not in words}
    return shims if victim == "shim" else words.keys() - shims
