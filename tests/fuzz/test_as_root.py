"""The fuzzers that could harm the machine, for a moment and in namespaces of their own; and libFuzzer's, on their corpora."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import engine  # noqa: E402 - found through the path above
import targets  # noqa: E402

SAMPLE = 40
FENCED = [target.name for target in targets.every() if target.is_fenced]


@pytest.mark.requires("root")
@pytest.mark.parametrize("name", FENCED)
def test_a_sample(name: str) -> None:
    words = [sys.executable, HERE / "run.py", "--only", name, "--inputs", str(SAMPLE), "--seed", "1", "--no-traces"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert name in done.stdout


@pytest.mark.parametrize("name", ["plan", "walk", "front"])
def test_what_libfuzzer_has_reached(name: str) -> None:
    subprocess.run(
        [sys.executable, ROOT / "runtime/kernel/build.py", "--out", ROOT / "build/kernel", "--fuzz"], check=True
    )
    files = sorted((engine.CORPUS / name).iterdir())
    done = subprocess.run([ROOT / f"build/fuzz-{name}", *files], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("Executed") == len(files)


@pytest.mark.requires("root", "runc")
def test_a_sample_beside_runc_and_crun() -> None:
    words = [sys.executable, HERE / "peers.py", "--cases", "12"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 cases" in done.stdout
