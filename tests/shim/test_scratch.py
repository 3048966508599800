"""Directories for a moment: gone when they are closed, and those of somebody who was killed when the next one is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.scratch import Scratch


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # pytest's own are longer than a socket's address has room for
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def left(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


def killed(place: Path) -> None:
    """Somebody makes one with a file in it, and is killed."""
    code = (
        "import os; from shim.scratch import Scratch; made = Scratch('pty'); open(made.path + '/pty.sock', 'w'); "
        "os.kill(os.getpid(), 9)"
    )
    env = {"XDG_RUNTIME_DIR": str(place), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == -signal.SIGKILL


def test_closed_it_is_gone_with_what_is_in_it(place: Path) -> None:
    made = Scratch("pty")
    assert Path(made.path).parent == place and Path(made.path).stat().st_mode & 0o777 == 0o700
    Path(made.path, "pty.sock").touch()
    made.close()
    made.close()
    assert left(place) == []


def test_of_one_who_was_killed_the_next_removes_it(place: Path) -> None:
    killed(place)
    assert len(left(place)) == 1
    other = Scratch("shim")
    assert len(left(place)) == 2  # of another kind
    made = Scratch("pty")
    assert sorted(left(place)) == sorted(os.path.basename(one.path) for one in (made, other))
    made.close()
    other.close()


def test_what_somebody_wants_stays(place: Path) -> None:
    first = Scratch("pty")
    second = Scratch("pty")
    assert len(left(place)) == 2
    # closed by the first, which is not the last to hold it
    child = os.fork()
    if not child:
        signal.pause()
    os.close(first._fd)
    first._fd = -1
    third = Scratch("pty")
    assert Path(first.path).exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    fourth = Scratch("pty")
    assert not Path(first.path).exists() and Path(second.path).exists()
    for made in (second, third, fourth):
        made.close()
    assert left(place) == []


@pytest.mark.requires("root")
def test_other_users_and_links_are_left_alone(place: Path, tmp_path: Path) -> None:
    others, target = place / "pyrunc-pty-0", tmp_path / "target"
    others.mkdir()
    os.chown(others, 12345, 12345)
    target.mkdir()
    (target / "file").touch()
    (place / "pyrunc-pty-1").symlink_to(target)
    (place / "pyrunc-pty-2").touch()
    Scratch("pty").close()
    assert sorted(left(place)) == ["pyrunc-pty-0", "pyrunc-pty-1", "pyrunc-pty-2"] and (target / "file").exists()
