"""State directories that are full, read-only, or hold what nobody has written there; many commands on one container at once."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Bundle, Command

pytestmark = pytest.mark.requires("root", "own-cgroups")
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", 4))
#: no command may take longer, whatever the others do
LIMIT_S = 15

MakeBundle = Callable[..., "Bundle"]


@pytest.fixture
def sleeper(bundle: MakeBundle) -> Bundle:
    return bundle("/bin/sleep", "1000")


def processes(pyrunc: Command) -> list[str]:
    """Command lines of what is in a cgroup of this test's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if pyrunc.prefix + "-" in path.read_text() or f"/{pyrunc.prefix}" in path.read_text():
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            pass
    return found


@pytest.fixture
def small(pyrunc: Command) -> Iterator[Callable[..., None]]:
    """Mount a file system of the given options at the root of all containers."""
    pyrunc.root.mkdir(mode=0o700)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", pyrunc.root], check=True)

    yield mount
    while os.path.ismount(pyrunc.root):
        subprocess.run(["umount", "-l", pyrunc.root], check=True)


def create_and_delete(pyrunc: Command, sleeper: Bundle, *, leaves_nothing: bool = False) -> None:
    """Where there may be no room: a create that fails says so, and `delete --force` works."""
    id_ = pyrunc.id()
    result = pyrunc("create", "-b", sleeper.path, id_, status=None)
    if result.status:
        assert "no space left on device" in result.err
        assert not (leaves_nothing and os.path.exists(pyrunc.root / id_))
    pyrunc("delete", "--force", id_)
    assert not os.path.exists(pyrunc.root / id_)


@pytest.mark.parametrize("inodes", range(2, 9))
def test_no_room_for_a_file(pyrunc: Command, sleeper: Bundle, small: Callable[..., None], inodes: int) -> None:
    """Of a create that finds no room for one of its files nothing is left, and delete needs none."""
    small(f"mode=700,size=1m,nr_inodes={inodes}")
    create_and_delete(pyrunc, sleeper, leaves_nothing=True)


@pytest.mark.parametrize("kib", [4, 8, 12, 16, 24])
def test_no_room_for_bytes(pyrunc: Command, sleeper: Bundle, small: Callable[..., None], kib: int) -> None:
    small(f"mode=700,size={kib}k")
    create_and_delete(pyrunc, sleeper)


def fill(root: Path) -> None:
    with open(root / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


@pytest.mark.parametrize("started", [False, True])
def test_delete_needs_no_room(pyrunc: Command, sleeper: Bundle, small: Callable[..., None], started: bool) -> None:
    small("mode=700,size=64k")
    sleeper.config["hooks"] = {"poststop": [{"path": "/bin/true"}]}
    sleeper.write()
    id_ = pyrunc.id()
    pyrunc("create", "-b", sleeper.path, id_)
    fill(pyrunc.root)
    if started:
        pyrunc("start", id_)
        pyrunc("kill", id_, "KILL")
    pyrunc("delete", "--force", id_)
    assert os.listdir(pyrunc.root) == ["filler"]


def test_a_read_only_directory(pyrunc: Command, sleeper: Bundle, small: Callable[..., None]) -> None:
    """What can be removed is: the process and the cgroup; the directory is, once that can be."""
    small("mode=700,size=1m")
    id_ = pyrunc.id()
    pyrunc("create", "-b", sleeper.path, id_)
    subprocess.run(["mount", "-o", "remount,ro", pyrunc.root], check=True)
    pyrunc("start", id_)
    assert "read-only file system" in pyrunc.fails("create", "-b", sleeper.path, pyrunc.id("other"))
    assert "read-only file system" in pyrunc.fails("delete", "--force", id_)
    assert processes(pyrunc) == []
    subprocess.run(["mount", "-o", "remount,rw", pyrunc.root], check=True)
    pyrunc("delete", "--force", id_)
    assert not os.path.exists(pyrunc.root / id_)


# -- what nobody has written --------------------------------------------------------------------------------------------------


def _older(text: bytes) -> bytes:
    return json.dumps({**json.loads(text), "version": 0}).encode()


def _without(key: str) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != key}).encode()


def _another(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps(json.loads(text) | changes).encode()


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "truncated": lambda text: text[: len(text) // 2],
    "one byte less": lambda text: text[:-1],
    "zeros": lambda text: bytes(len(text)),
    "noise": lambda text: random.Random(5).randbytes(4096),
    "not an object": lambda text: b"[]",
    "an older format": _older,
    "a newer format": _another(version=99),
    "no pid": _without("pid"),
    "no cgroup": _without("cgroup"),
    "a pid of text": _another(pid="1"),
    "deeply nested": lambda text: b"[" * 100000,
    "16 MiB": lambda text: b" " * (16 << 20) + b"x",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_state_of_garbage(pyrunc: Command, sleeper: Bundle, what: str) -> None:
    """Each verb says so, the others are not hidden by it, and delete by force undoes what the journal knows of."""
    id_, other = pyrunc.id(), pyrunc.id("other")
    pyrunc("run", "-d", "-b", sleeper.path, id_)
    path = pyrunc.root / id_ / "state.json"
    path.write_bytes(GARBAGE[what](path.read_bytes()))
    for words in (
        ("state", id_),
        ("start", id_),
        ("kill", id_),
        ("exec", id_, "true"),
        ("delete", id_),
        ("pause", id_),
    ):
        pyrunc.fails(*words, status=255 if words[0] == "exec" else 1)
    sleeper.config["linux"]["cgroupsPath"] += "-other"
    sleeper.write()
    pyrunc("create", "-b", sleeper.path, other)
    assert other in pyrunc("list", status=None).out
    pyrunc("delete", "--force", id_)
    pyrunc("delete", "--force", other)
    assert processes(pyrunc) == [] and not path.parent.exists()


@pytest.mark.parametrize(
    "journal", [b"", b"\0" * 100, b"{}\n", b'{"pid":1,"start_time":1}\n', b'{"pid":"x","cgroup":7}\n']
)
def test_a_journal_of_garbage_harms_nobody(pyrunc: Command, sleeper: Bundle, journal: bytes) -> None:
    """With a state that is whole it is not needed, and without one nobody is killed by it who is not meant."""
    id_ = pyrunc.id()
    pyrunc("create", "-b", sleeper.path, id_)
    (pyrunc.root / id_ / "journal").write_bytes(journal)
    pyrunc("delete", "--force", id_)
    (pyrunc.root / id_).mkdir(mode=0o700)
    (pyrunc.root / id_ / "journal").write_bytes(journal)
    pyrunc("delete", "--force", id_)
    assert not (pyrunc.root / id_).exists()


# -- many at once --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_everybody_at_one_container(pyrunc: Command, sleeper: Bundle) -> None:
    """create, start, exec, kill, state and delete of one id, each again and again beside the others: each says in a line what it could
    not do, none waits longer than it may, and after a delete by force nothing is left."""
    id_ = pyrunc.id()
    pyrunc.is_alone = False
    verbs: dict[str, tuple[str | Path, ...]] = {
        "create": ("create", "-b", sleeper.path, id_),
        "start": ("start", id_),
        "exec": ("exec", id_, "/bin/true"),
        "kill": ("kill", id_, "KILL"),
        "state": ("state", id_),
        "delete": ("delete", id_),
        "force": ("delete", "--force", id_),
    }
    took: list[float] = []

    def again(words: tuple[str | Path, ...]) -> list[str]:
        wrong = []
        for _ in range(ROUNDS):
            start = time.monotonic()
            result = pyrunc(*words, status=None, timeout=2 * LIMIT_S)
            took.append(time.monotonic() - start)
            if (
                result.status not in (0, 1, 255)
                or (result.status and not result.err.strip())
                or "internal" in result.err
            ):
                wrong.append(repr(result))
        return wrong

    with ThreadPoolExecutor(len(verbs)) as pool:
        wrong = list(itertools.chain(*pool.map(again, verbs.values())))
    pyrunc("delete", "--force", id_)
    assert wrong == [] and max(took) < LIMIT_S
    assert processes(pyrunc) == [] and not (pyrunc.root / id_).exists()


@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * ROUNDS)
def test_create_beside_delete_by_force(pyrunc: Command, sleeper: Bundle) -> None:
    """Whoever wins, in the end there is one container or none, and never a process or a cgroup without one."""
    id_ = pyrunc.id()
    for turn in range(5 * ROUNDS):
        create = pyrunc.popen("create", "-b", sleeper.path, id_, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(turn * 0.004)  # not a wait: where in the create the delete comes
        pyrunc("delete", "--force", id_)
        status = create.wait(LIMIT_S)
        is_there = (pyrunc.root / id_).exists()
        assert bool(processes(pyrunc)) <= is_there, (turn, status)
        pyrunc("delete", "--force", id_)
        assert processes(pyrunc) == []
