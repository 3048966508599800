"""Moving a shim between cgroups: to the one that the option ShimCgroup names, or to that of the process that asked for it."""

from __future__ import annotations

import os

from shim.oom import cgroups_of


def move(pid: int, cgroup: str) -> None:
    """Move `pid` to `cgroup` in every hierarchy that has it; OSError where none has."""
    tops = [path for path in _tops() if os.path.isdir(f"{path}/{cgroup}")]
    if not tops:
        raise FileNotFoundError(2, f"load cgroup {cgroup} for the shim: no hierarchy has it")
    for top in tops:
        _write_pid(f"{top}/{cgroup}/cgroup.procs", pid)


def follow(pid: int) -> None:
    """Move `pid` to where we are, unless it is there already: who forked it may have been somewhere else."""
    with open("/proc/self/cgroup", "rb") as ours, open(f"/proc/{pid}/cgroup", "rb") as theirs:
        if ours.read() == theirs.read():
            return
    there = cgroups_of(pid)
    for name, path in cgroups_of(os.getpid()).items():
        if there.get(name) != path:
            _write_pid(f"{path}/cgroup.procs", pid)


def _tops() -> list[str]:
    """The mount points of the hierarchies."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
                found.append(before.split(" ")[4])
    return found


def _write_pid(path: str, pid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)
