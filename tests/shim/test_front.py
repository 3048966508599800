"""The programs in front of two faces (front.c): they answer a `delete` that finds nothing, and conmon's version, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conmon_caller import CONMON
from shim_client import PROGRAM

from shim.conmon.options import VERSION
from shim.containerd import DEFAULT_ROOT, messages
from shim.containerd.protobuf import decode


@pytest.fixture
def place(scratch: Path) -> Path:
    """A bundle whose task went as it should."""
    (scratch / "rootfs").mkdir()
    (scratch / "init.pid").write_text("4711")
    (scratch / "address").write_text(f"unix://{scratch}/gone")
    return scratch


def delete(place: Path) -> tuple[int, bytes]:
    """How many programs were executed for a `delete`, and what it answered."""
    trace = place / "trace"
    words = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(trace), str(PROGRAM)]
    words += ["-namespace", "front", "-address", "/x", "-publish-binary", "/y", "-id", f"f{os.getpid()}", "delete"]
    done = subprocess.run(words, cwd=place, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    calls = trace.read_text().count("execve(")
    trace.unlink()
    return calls, done.stdout


def listening(path: Path, kind: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as one:
        one.bind(str(path))
        one.listen()
        yield one


@pytest.mark.parametrize("name", ["plain", "a b\\ c\n", "no text \udc80"])
def test_what_is_mounted_goes_whatever_its_name(scratch: Path, name: str) -> None:
    (rootfs := scratch / name / "rootfs").mkdir(parents=True)
    script = """mount -t tmpfs t "$1" && cd "$1/.." && "$2" -namespace front -address /x -publish-binary /y -id "$3" delete >/dev/null || exit
        mountpoint -q rootfs && exit 9; exit 0"""
    words = ["unshare", "-m", "sh", "-c", script, "sh", rootfs, str(PROGRAM), f"f{os.getpid()}"]
    done = subprocess.run(words, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_is_left(place: Path) -> None:
    calls, answer = delete(place)
    found = decode(messages.DELETED, answer)
    assert (calls, found["pid"], found["exit_status"]) == (1, 4711, 137)
    assert found["exited_at"]["seconds"] > 0


def test_living_neighbours_are_no_matter(place: Path) -> None:
    for _ in listening(place / "nursery-1", socket.SOCK_SEQPACKET):
        for _ in listening(place / "gone", socket.SOCK_STREAM):
            assert delete(place)[0] == 1


def dead(name: str, kind: int) -> Callable[[Path], object]:
    def leave(place: Path) -> None:
        for _ in listening(place / name, kind):
            pass

    return leave


LEFT = {
    "options": lambda place: (place / "options.json").write_text("{}"),
    "dead socket": dead("gone", socket.SOCK_STREAM),
    "dead nursery": dead("nursery-1", socket.SOCK_SEQPACKET),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_is_left_is_for_the_shim(place: Path, what: str) -> None:
    LEFT[what](place)
    calls, answer = delete(place)
    assert calls > 1 and decode(messages.DELETED, answer)["pid"] == 4711


def test_a_mount_is_undone(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "left", place / "rootfs"], check=True)
    calls, _ = delete(place)
    assert calls > 1 and not os.path.ismount(place / "rootfs")


def test_a_state_is_deleted(place: Path) -> None:
    state = Path(DEFAULT_ROOT) / "front" / f"f{os.getpid()}"
    state.mkdir(parents=True)
    calls, _ = delete(place)
    assert calls > 1 and not state.exists()


def test_whatever_is_not_understood_is_for_the_shim() -> None:
    done = subprocess.run([PROGRAM, "-what", "x", "delete"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (
        1,
        "containerd-shim-pyrunc-v2: flag provided but not defined: -what",
    )


@pytest.mark.parametrize(("words", "programs"), [(["--version"], 1), (["--version", "--version"], 2)])
def test_conmons_version(scratch: Path, words: list[str], programs: int) -> None:
    """Podman waits for it before it does anything else. The program in front says it as the Python does."""
    trace = scratch / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", trace]
    done = subprocess.run([*strace, CONMON, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"conmon version {VERSION}\ncommit: pyrunc\n" and not done.stderr
    assert trace.read_text().count("execve(") == programs


def test_a_start_that_was_killed_leaves_no_socket(scratch: Path) -> None:
    """The interpreter is killed when it has bound the shim's socket: whoever waits for it removes that."""
    (scratch / "config.json").write_text("{}")
    words = ["strace", "-f", "-qq", "-e", "inject=listen:signal=SIGKILL", "-o", "/dev/null", str(PROGRAM)]
    words += ["-namespace", "front", "-address", str(scratch), "-id", f"f{os.getpid()}", "start"]
    done = subprocess.run(words, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (128 + 9, b"")
    path = Path((scratch / "address").read_text().removeprefix("unix://"))
    assert path.parent.is_dir() and not path.exists()
