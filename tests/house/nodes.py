"""The tests that there are, by their nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import tree


def collected(files: set[str]) -> Iterator[str]:
    """The nodes of some files below tests/, as pytest itself finds them."""
    words = ["--collect-only", "-q", "-o", "addopts=--import-mode=importlib -p no:cacheprovider", *sorted(files)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tree.ROOT / "tests", env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        if "::" in line:
            yield line.removeprefix("tests/")
