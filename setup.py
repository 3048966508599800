"""The wheel's C: what pyproject.toml cannot say. The extension and the image are built by runtime/kernel/build.py, as everywhere.

The extension keeps to Python's stable ABI, so that one wheel does for every Python from 3.11 on.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BASE = "build/wheel"


class BinaryDistribution(Distribution):
    """One that belongs to a platform, although setuptools compiles nothing."""

    def has_ext_modules(self) -> bool:
        return True


class BuildWithKernel(build_py):
    def run(self) -> None:
        super().run()
        out = Path(self.build_lib).resolve()
        programs = Path(BASE).resolve() / "programs"  # planrun is for tests and does not travel
        programs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "runtime/kernel/build.py"), "--out", str(out), "--bin", str(programs)]
        subprocess.run(command, check=True)
        for stamp in (out / "runtime/kernel").glob(".*.stamp"):
            stamp.unlink()


Path(BASE).mkdir(parents=True, exist_ok=True)
setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildWithKernel},
    options={
        # build/ is the Makefile's
        "build": {"build_base": BASE},
        "egg_info": {"egg_base": BASE},
        "bdist_wheel": {"py_limited_api": "cp311", "bdist_dir": f"{BASE}/bdist"},
    },
)
