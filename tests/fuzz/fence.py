"""Namespaces of its own for what could harm the machine: processes, mounts, network, and a file system that cannot be written to.

In there every file system that could keep something is read-only but the place of the fuzzer, and /sys/fs/cgroup is an empty tmpfs unless
the fuzzer needs real cgroups.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import unshared

#: in the environment of who is inside
INSIDE = "PYRUNC_FUZZ_INSIDE"


def enter(words: list[str], place: Path, *, covers_cgroups: bool) -> int:
    """Run a Python program with these words in there; its exit status."""
    env = {**os.environ, INSIDE: f"{int(covers_cgroups)}{place}"}
    return unshared.run(words, "--net", "--ipc", "--uts", env=env)


def close() -> None:
    """Make what is outside of the place unwritable; from the inside, once."""
    word = os.environ[INSIDE]
    covers, place = word[0] == "1", word[1:]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    subprocess.run(["mount", "--bind", place, place], check=True)
    for point in sorted(set(mounts), key=len):
        if (
            point == "/"
            or not point.startswith(("/proc", "/sys", "/dev/pts", "/dev/mqueue"))
            and not place.startswith(point + "/")
        ):
            # what is a mount of somebody else's in a user namespace may not be changed, and cannot be written to either
            subprocess.run(["mount", "-o", "remount,bind,ro", point], stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/tmp"], check=True)
    if covers:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"], check=True)
