"""The launchers: each name is a face, everything else is refused; whatever goes wrong is one line and never a traceback."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from shim.__main__ import FACES, call

BIN = Path(__file__).resolve().parent.parent.parent / "build/bin"


@pytest.mark.parametrize("name", sorted(FACES))
def test_every_face_has_a_launcher(name: str) -> None:
    assert stat.S_IMODE((BIN / name).stat().st_mode) == 0o755
    launcher = BIN / name
    if name != "pyrunc-shim":  # behind a front.c, which finds the launcher from where it is
        assert launcher.read_bytes()[:4] == b"\x7fELF"
        launcher = BIN.parent / "lib/pyrunc/shim" / name
    assert launcher.read_text().splitlines()[0].endswith(" -ISXutf8")


@pytest.mark.parametrize("name", sorted(FACES))
def test_nonsense_is_answered_in_words(name: str, scratch: Path) -> None:
    done = subprocess.run(
        [BIN / name, "--no-such-option-at-all"], capture_output=True, text=True, timeout=30, cwd=scratch, stdin=subprocess.DEVNULL
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.strip(), "failed without a word"
    assert "Traceback" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(" ")]


def test_another_name_is_refused(scratch: Path) -> None:
    other = scratch / "other-name"
    other.symlink_to(BIN / "pyrunc-shim")
    done = subprocess.run([other], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("other-name: not a name of mine")
    assert len(done.stderr.splitlines()) == 1


def test_standard_descriptors_that_are_missing(scratch: Path) -> None:
    """A file of ours that became descriptor 2 would have the error written into it."""
    other = scratch / "other-name"
    other.symlink_to(BIN / "pyrunc-shim")
    done = subprocess.run(["/bin/sh", "-c", f"exec {other} <&- >&- 2>&-"], timeout=30)
    assert done.returncode == 1


def test_a_face_is_imported_when_it_is_chosen() -> None:
    """None of the others: a shim holds for hours what it imports."""
    words = ["/usr/bin/env", "-i", str(BIN.parent / "venv/bin/python"), "-IS", "-c"]
    root = str(BIN.parent.parent)
    code = f"import sys; sys.path.append({root!r}); import shim.__main__; print(*[n for n in sys.modules if n[:5] == 'shim.'])"
    done = subprocess.run([*words, code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["shim.__main__"]


def test_an_unknown_name_leaves_no_descriptor(capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    assert call(["/somewhere/nobody"]) == 1
    assert capfd.readouterr().err.startswith("nobody: ")
    assert sorted(os.listdir("/proc/self/fd")) == before
