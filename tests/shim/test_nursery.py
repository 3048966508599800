"""Shims that are forked by shims: not to be told from others, harmed by nobody's end, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shim_client import Engine, Refused, Shim

from shim.containerd import nursery
from shim.containerd.nursery import Birth

if TYPE_CHECKING:
    from conftest import Bundle, Leaks

MakeBundle = Callable[..., "Bundle"]
SOCKETS = Path("/run/containerd/s")


@pytest.fixture
def engine(leaks: Leaks, scratch: Path) -> Iterator[Engine]:
    before = set(os.listdir(SOCKETS)) if SOCKETS.exists() else set()
    made = Engine(scratch)
    yield made
    for shim in made.shims:
        if shim.is_alive() and shim.log >= 0:
            for method, values in (("Kill", {"signal": 9}), ("Wait", {}), ("Delete", {})):
                try:
                    shim.call(method, id=shim.id, **values)
                except Refused:
                    pass
    made.close()
    for shim in made.shims:
        shim.wait_until_gone()
    # other tests' shims may come and go meanwhile; ours are named by our address
    ours = {Path(shim.path).name for shim in made.shims} | {nest(made).name}
    assert not ours & (set(os.listdir(SOCKETS)) - before)


def nest(engine: Engine) -> Path:
    """The socket of the nursery of the engine's shims."""
    from shim_client import PROGRAM

    lib = PROGRAM.parents[1] / "lib/pyrunc/shim"
    original, nursery.__file__ = nursery.__file__, str(lib / "containerd/nursery.py")
    try:
        # front.c has this one do it
        return SOCKETS / f"nursery-{nursery.family(engine.address, str(lib / PROGRAM.name))[:32]}"
    finally:
        nursery.__file__ = original


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def settle(pid: int, *but: int) -> None:
    """Wait until a shim's spare has gone, which waits for a `create` for a while (shim/spare.py)."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + 30
    while {int(child) for child in children.read_text().split()} - set(but):
        assert time.monotonic() < end, "a child that stays"
        time.sleep(0.01)


def facts(pid: int) -> dict[str, object]:
    """What a process inherits and what is its own, as far as somebody could tell."""
    place = Path(f"/proc/{pid}")
    status = [
        line
        for line in (place / "status").read_text().splitlines()
        if line.startswith(("Sig", "Shd", "Cap", "Seccomp", "Umask"))
    ]
    return {
        "limits": (place / "limits").read_text(),
        "status": [line for line in status if not line.startswith(("SigQ", "SigPnd", "ShdPnd"))],
        "environment": sorted((place / "environ").read_bytes().split(b"\0")),
        "score": (place / "oom_score_adj").read_text(),
        "cgroup": (place / "cgroup").read_text(),
        "session": int((place / "stat").read_text().rpartition(") ")[2].split()[3]) - pid,
        "comm": (place / "comm").read_text(),
        "descriptors": sorted(os.readlink(entry).partition(":")[0].replace(str(os.readlink(place / "cwd")), "CWD") for entry in (place / "fd").iterdir()),
    }  # fmt: skip


def test_the_second_is_forked_and_cannot_be_told_from_the_first(engine: Engine, bundle: MakeBundle) -> None:
    first = engine.start(bundle("sleep", "100").path, f"a{os.getpid()}")
    second = engine.start(bundle("sleep", "100").path, f"b{os.getpid()}")
    assert parent_of(second.pid) == first.pid
    settle(first.pid, second.pid)
    settle(second.pid)
    assert facts(first.pid) == facts(second.pid)
    for one in (first, second):
        words = Path(f"/proc/{one.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[1:]
        assert words == [b"-namespace", b"test", b"-id", one.id.encode(), b"-address", engine.address.encode()]
        assert os.readlink(f"/proc/{one.pid}/cwd") == str(one.bundle)
    assert first.path != second.path


#: of who waits: nothing of containerd's, whose pipe would not end
ALONE = ["null", "null", "null", "packed.bin", "socket"]


def waiting(one: Shim) -> dict[str, object] | None:
    """facts() of the child of a shim that waits for a `create`, when it has closed what it will; None where its time is over."""
    for pid in Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split():
        try:
            while Path(f"/proc/{pid}/cwd").readlink() == one.bundle:
                found = {**facts(int(pid)), "leader": os.getsid(int(pid))}
                if sorted(str(word).rpartition("/")[2] for word in found["descriptors"]) == ALONE:  # type: ignore[attr-defined]
                    return found
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has waited long enough: this machine is slow
    return None


def test_who_waits_for_the_first_create_is_of_the_shims_own_kind(engine: Engine, bundle: MakeBundle) -> None:
    """Forked while the shim is still `start`, or by the shim: its session, limits, score, directory and cgroup are the shim's."""
    seen = 0
    for number in range(6):
        one = engine.start(bundle("true").path, f"w{number}-{os.getpid()}")
        if theirs := waiting(one):
            seen += 1
            ours = {**facts(one.pid), "leader": one.pid}
            for same in ("limits", "environment", "score", "cgroup", "leader"):
                assert ours[same] == theirs[same], same
        run(one)
        assert one.wait() == 0
        one.call("Delete", id=one.id)
        if seen == 2:
            break
    assert seen == 2


def run(one: Shim) -> None:
    one.create()
    one.call("Start", id=one.id)


def test_each_serves_its_own(engine: Engine, bundle: MakeBundle) -> None:
    """A shim that is forked while its parent has a container knows nothing of that."""
    first = engine.start(bundle("sleep", "100").path, f"a{os.getpid()}")
    run(first)
    second = engine.start(bundle("sh", "-c", "exit 5").path, f"b{os.getpid()}")
    with pytest.raises(Refused, match="was not created here"):
        second.call("State", id=first.id)
    run(second)
    assert second.wait() == 5
    second.call("Delete", id=second.id)
    first.call("Kill", id=first.id, signal=9)
    assert first.wait() == 128 + 9


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_one_harms_no_other(engine: Engine, bundle: MakeBundle, how: int) -> None:
    """The first ends; what it forked goes on, and forks in its turn."""
    first = engine.start(bundle("sleep", "100").path, f"a{os.getpid()}")
    second = engine.start(bundle("sleep", "100").path, f"b{os.getpid()}")
    run(second)
    os.kill(first.pid, how)
    first.wait_until_gone()
    assert second.call("State", id=second.id)["status"] == 2
    third = engine.start(bundle("sh", "-c", "exit 6").path, f"c{os.getpid()}")
    assert parent_of(third.pid) == second.pid
    run(third)
    assert third.wait() == 6
    engine.run("delete", first.bundle, first.id)


def test_the_last_removes_what_nobody_else_knows_of(engine: Engine, bundle: MakeBundle) -> None:
    """Sockets of shims that were killed together with their `start`; neither those of others, nor one that is just being made."""
    first = engine.start(bundle("sleep", "100").path, f"a{os.getpid()}")
    names = {f"pyrunc-{os.getpid()}-old": False, f"pyrunc-{os.getpid()}-new": True, f"{os.getpid()}-other": True}
    for name in names:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(SOCKETS / name))
        if not name.endswith("new"):
            os.utime(SOCKETS / name, (0, 0))
    try:
        os.kill(first.pid, signal.SIGTERM)
        first.wait_until_gone()
        assert {name: (SOCKETS / name).exists() for name in names} == names
    finally:
        for name in names:
            (SOCKETS / name).unlink(missing_ok=True)


def test_who_hears_of_the_end_finds_nothing_left(engine: Engine, bundle: MakeBundle) -> None:
    """containerd calls `delete` at the answer to its Shutdown: that starts no interpreter, for which its client would wait."""
    one = engine.start(bundle("true").path, f"a{os.getpid()}")
    run(one)
    assert one.wait() == 0
    one.call("Delete", id=one.id)
    assert Path(one.path).exists() and nest(engine).exists()
    one.call("Shutdown", id=one.id)
    assert not Path(one.path).exists() and not nest(engine).exists()
    one.wait_until_gone()


def test_generations(engine: Engine, bundle: MakeBundle) -> None:
    """One forks the next and ends, over and over: each works, and after a number of them a new one begins."""
    one = engine.start(bundle("true").path, f"g{os.getpid()}-0")
    parents = []
    for number in range(1, 20):
        made = engine.start(bundle("true").path, f"g{os.getpid()}-{number}")
        parents.append(parent_of(made.pid) == one.pid)
        one.close()
        one.wait_until_gone()
        one = made
    assert parents == [True] * 16 + [False] + [True] * 2
    run(one)
    assert one.wait() == 0


def test_a_family_has_the_same_everything(engine: Engine, bundle: MakeBundle) -> None:
    """Another containerd, or other limits than when the first was started: no child of that one."""
    first = engine.start(bundle("true").path, f"a{os.getpid()}")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        second = engine.start(bundle("true").path, f"b{os.getpid()}")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert parent_of(second.pid) != first.pid
    assert "Max open files            " + str(soft - 1) in Path(f"/proc/{second.pid}/limits").read_text()


def test_another_environment_is_the_new_shims(engine: Engine, bundle: MakeBundle, scratch: Path) -> None:
    """A hook of its container sees the variables of this start, and not those of the shim that forked it."""
    first = engine.start(bundle("true").path, f"a{os.getpid()}")
    engine.env = {**engine.env, "MARK": "two words", "NOTIFY_SOCKET": "/nowhere"}
    made = bundle("true")
    script = scratch / "runtime"
    script.write_text(f"#!/bin/sh\nenv >{scratch}/seen\nexit 1\n")
    script.chmod(0o755)
    second = engine.start(made.path, f"b{os.getpid()}")
    assert parent_of(second.pid) == first.pid
    with pytest.raises(Refused):
        second.create(options={"binary_name": str(script)})
    seen = (scratch / "seen").read_text().splitlines()
    assert "MARK=two words" in seen
    assert not [line for line in seen if line.startswith("NOTIFY_SOCKET")]


def test_a_nursery_that_does_not_answer(engine: Engine, bundle: MakeBundle) -> None:
    """Somebody listens and says nothing: after a limit a shim is made all the same, and there are not two."""
    path = nest(engine)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
        mute.bind(str(path))
        mute.listen()
        started = time.monotonic()
        one = engine.start(bundle("sh", "-c", "exit 3").path, f"a{os.getpid()}")
        assert time.monotonic() - started > nursery.ASK_S
        run(one)
        assert one.wait() == 3
    os.unlink(path)


def test_a_stopped_nursery(engine: Engine, bundle: MakeBundle) -> None:
    """A shim that is stopped forks nobody, and when it goes on, what it was asked for meanwhile is not made twice."""
    first = engine.start(bundle("true").path, f"a{os.getpid()}")
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = engine.start(bundle("sh", "-c", "exit 4").path, f"b{os.getpid()}")
        assert parent_of(second.pid) != first.pid
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.call("Connect", id=first.id)["shim_pid"] == first.pid
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    end = time.monotonic() + 10
    while children.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    assert children.read_text() == ""
    run(second)
    assert second.wait() == 4
    assert second.call("Connect", id=second.id)["shim_pid"] == second.pid


def test_a_child_that_outlives_a_killed_shim_for_a_moment(engine: Engine, scratch: Path) -> None:
    """It has the nursery's socket as well, and for as long nobody can say that nobody listens there: `delete` waits for its end."""
    bundle, sockets = scratch / "bundle", scratch / "s"
    bundle.mkdir()
    sockets.mkdir()
    own, nest = sockets / "own", sockets / "nursery-1"
    (bundle / "address").write_text(f"unix://{own}")
    for path, kind in ((own, socket.SOCK_STREAM), (nest, socket.SOCK_SEQPACKET)):
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(str(path))
        listener.listen()
        if path == own:
            listener.close()
    child = os.fork()
    if child == 0:
        held = []
        while True:
            client, _ = listener.accept()
            held.append(client)
            if client.recv(8):
                listener.close()  # before the client is answered by our end
                os._exit(0)
    listener.close()
    try:
        engine.run("delete", bundle, "gone")
        assert os.listdir(sockets) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("who", ["the program", "its Python"])
def test_a_killed_shim_that_is_not_gone_yet(engine: Engine, scratch: Path, who: str) -> None:
    """The kernel closes its connections first, and then what it listened on: containerd runs `delete` in between."""
    bundle, sockets = scratch / "bundle", scratch / "s"
    bundle.mkdir()
    sockets.mkdir()
    (bundle / "address").write_text(f"unix://{sockets}/own")
    if who == "its Python":
        (bundle / "options.json").write_text("{}")
    own, nest = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one, name in ((own, "own"), (nest, "nursery-1")):
        one.bind(f"{sockets}/{name}")
        one.listen()
    child = os.fork()
    if child == 0:
        while True:
            client, _ = own.accept()
            if not client.recv(8):  # somebody waits for our end, and does not only look whether we are there
                own.close()
                nest.close()
                os._exit(0)
    own.close()
    nest.close()
    try:
        engine.run("delete", bundle, "gone")
        assert os.listdir(sockets) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_requests_that_are_none(engine: Engine, bundle: MakeBundle) -> None:
    """Rubbish, too much, too many descriptors, or nothing at all: the shim goes on, and forks who asks properly."""
    first = engine.start(bundle("true").path, f"a{os.getpid()}")
    settle(first.pid)
    before = len(os.listdir(f"/proc/{first.pid}/fd"))
    kept = []
    for data, fds in ((b"hello", []), (b"1\x003\x00a", [0, 1]), (b"1\x000\x00A=b", [0]), (b"1\x008\x00x", [0] * 9)):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(nest(engine)))
        socket.send_fds(sock, [data], fds)
        sock.settimeout(10)
        assert sock.recv(10) == b""
        sock.close()
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    silent.connect(str(nest(engine)))
    kept.append(silent)
    second = engine.start(bundle("true").path, f"b{os.getpid()}")
    assert parent_of(second.pid) == first.pid
    silent.close()
    assert first.call("Connect", id=first.id)["shim_pid"] == first.pid
    end = time.monotonic() + 10
    while len(os.listdir(f"/proc/{first.pid}/fd")) > before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(os.listdir(f"/proc/{first.pid}/fd")) == before


@pytest.mark.parametrize("word", [b"no", b""])
def test_nobody_serves_who_was_not_told_to_go(engine: Engine, bundle: MakeBundle, scratch: Path, word: bytes) -> None:
    """`start` says no, or is killed: the new shim ends; its socket is the next one's, or goes with it."""
    first = engine.start(bundle("true").path, f"a{os.getpid()}")
    place = bundle("true").path
    folder = os.open(place, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scratch / "l"))
        listener.listen()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(nest(engine)))
        words = ["test", "x", engine.address, "", "", "", str(scratch / "l"), str(nest(engine))]
        request = "\0".join(["1", str(len(words)), *words, "PATH=/bin"])
        socket.send_fds(sock, [request.encode()], [folder, listener.fileno()])
        sock.settimeout(10)
        child = int(sock.recv(32))
        assert parent_of(child) == first.pid
        if word:
            sock.send(word)
        sock.close()
        end = time.monotonic() + 10
        while Path(f"/proc/{child}").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not Path(f"/proc/{child}").exists()
    os.close(folder)
    assert (scratch / "l").exists() == (word == b"no")


@pytest.mark.parametrize("word", [b"go", b"no", b""])
def test_the_last_word_is_heard(word: bytes) -> None:
    """Also where `start` has closed its end without reading that the shim is ready, which the kernel calls a reset."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(b"unread")
    if word:
        ours.send(word)
    ours.close()
    assert nursery.wait_for_go(theirs) == word


def test_birth_reads_what_ask_writes() -> None:
    data = b"\0".join([b"1", b"2", b"one", "zwei\u00fc".encode(), b"A=b=c", b"EMPTY=", b"odd"])
    found = Birth(-1, data, [7, 8])
    assert (found.words, found.environment) == (["one", "zwei\u00fc"], {b"A": b"b=c", b"EMPTY": b""})
    assert (found.directory, found.listener) == (7, 8)
    for bad, fds in (
        (b"2\x000", [7, 8]),
        (b"1\x00-1", [7, 8]),
        (b"1\x005\x00a", [7, 8]),
        (b"1\x000", [7]),
        (b"", [7, 8]),
    ):
        with pytest.raises(ValueError):
            Birth(-1, bad, fds)
