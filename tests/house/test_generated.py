"""Generated files are committed and up to date: each generator is run on a copy of the tree, and nothing may change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tree

#: what writes -> how it is run; a generator whose file is missing is a failure like any other
GENERATORS = {
    "runtime/kernel/generate.py": ["runtime/kernel/generate.py"],
    "runtime/libraries_build.py": ["-m", "runtime.libraries_build"],
    "specs/generate.py": ["specs/generate.py"],
}


@pytest.mark.parametrize("generator", GENERATORS)
def test_generated_files_are_up_to_date(generator: str, tmp_path: Path) -> None:
    for package in tree.PACKAGES:
        shutil.copytree(tree.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    before = contents(tmp_path)
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *GENERATORS[generator]], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    after = contents(tmp_path)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"run {generator}: {', '.join(changed)}"


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_generated_files_say_so() -> None:
    """At least the known ones; a file that is generated and does not say so would be edited one day."""
    for name in (
        "runtime/kernel/ops.h",
        "specs/config_check.py",
        "specs/config_types.py",
        "runtime/_libseccomp.py",
        "runtime/_libsystemd.py",
    ):
        assert tree.is_generated(tree.ROOT / name), name
