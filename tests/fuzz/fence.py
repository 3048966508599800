"""Namespaces of its own for what could harm the machine: processes, mounts, network, and a file system that cannot be written to.

In there every file system that could keep something is read-only but the place of the fuzzer and where it keeps what it has found; and the
kernel's settings are, and /sys/fs/cgroup is an empty tmpfs, unless containers are made, which need the real ones.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import unshared

#: in the environment of who is inside
INSIDE = "PYRUNC_FUZZ_INSIDE"


def enter(words: list[str], place: Path, *, makes_containers: bool = False) -> int:
    """Run a Python program with these words in there; its exit status."""
    env = {**os.environ, INSIDE: f"{int(makes_containers)}{place}"}
    return unshared.run(words, "--net", "--ipc", "--uts", env=env)


def close(*kept: Path) -> None:
    """Make what is outside of the place, and of what is kept, unwritable; from the inside, once."""
    word = os.environ[INSIDE]
    makes_containers, place = word[0] == "1", word[1:]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # mounts of their own: what they are in becomes read-only, too
    settings = [] if makes_containers else ["/proc/sys"]
    for point in (place, *kept, *settings):
        subprocess.run(["mount", "--bind", point, point], check=True)
    kept = ("/proc/", "/sys/fs/cgroup/", "/dev/pts/", "/dev/mqueue/")
    covered = {point for point in mounts if not f"{point}/".startswith(kept)}
    for point in sorted({*covered, *settings}, key=len):
        # what is a mount of somebody else's in a user namespace may not be changed, and cannot be written to either
        subprocess.run(["mount", "-o", "remount,bind,ro", point], stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/tmp"], check=True)
    if not makes_containers:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"], check=True)
