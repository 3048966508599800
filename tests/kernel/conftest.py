"""Fixtures of the interpreter's tests.

interpret   run ops to the end of the process: `interpret(*ops, registers={...}, answers={...})` -> interpreter.Done;
            in both builds, one test each
start       the same, not waited for: an interpreter.Interpreter, served and ended by the test or else here
place       a rootfs of the test's own with busybox, and beside it a directory `outside` with a canary file
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import interpreter  # noqa: E402 - found through the path above
from interpreter import Done, Interpreter, refusal  # noqa: E402

from runtime.plan import Op  # noqa: E402


@pytest.fixture(scope="session")
def images() -> None:
    """Both builds, up to date."""
    command = [sys.executable, "runtime/kernel/build.py", "--out", "build/kernel", "--sanitize"]
    done = subprocess.run(command, cwd=interpreter.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=interpreter.IMAGES)
def interpret(request: pytest.FixtureRequest, images: None) -> Callable[..., Done]:
    def run(*ops: Any, **more: Any) -> Done:
        started = Interpreter(*ops, image=request.param, **more)
        try:
            return Done(started.serve())
        finally:
            started.close()

    return run


@pytest.fixture
def start(images: None) -> Iterator[Callable[..., Interpreter]]:
    made: list[Interpreter] = []

    def run(*ops: Any, **more: Any) -> Interpreter:
        made.append(Interpreter(*ops, **more))
        return made[-1]

    yield run
    for one in made:
        one.close()


class Place:
    """A rootfs, and what a hostile one would like to reach."""

    def __init__(self, path: Path) -> None:
        self.rootfs, self.outside = path / "rootfs", path / "outside"
        self.outside.mkdir()
        (self.outside / "canary").write_text("alive")
        (self.outside / "ptmx").write_text("mine")
        self._before = self._seen()

    def _seen(self) -> list[tuple[Any, ...]]:
        seen = []
        for top, directories, files in os.walk(self.outside):
            for name in [".", *directories, *files]:
                st = os.lstat(f"{top}/{name}")
                text = Path(top, name).read_bytes() if name in files else b""
                seen.append((top, name, st.st_mode, st.st_uid, st.st_gid, st.st_ino, st.st_rdev, text))
        return sorted(seen)

    def is_untouched(self) -> bool:
        """Whether all outside is as it was: names, kinds, modes, owners, contents."""
        return self._seen() == self._before


@pytest.fixture
def place(scratch: Path, base_rootfs: Path) -> Place:
    def copy(source: str, to: str) -> None:
        # programs are not written to by anybody, and are most of it
        (os.link if "/bin/" in source else shutil.copy2)(source, to)

    shutil.copytree(base_rootfs, scratch / "rootfs", symlinks=True, copy_function=copy)
    return Place(scratch)


@pytest.fixture(params=["", "ENOSYS", "EPERM"])
def refused(request: pytest.FixtureRequest) -> list[Op]:
    """Ops that make openat2 what it is where a service manager or an old container's filter hides it; nothing the first time."""
    if not request.param:
        return []
    return [Op("seccomp", refusal(437, getattr(errno, request.param)))]
