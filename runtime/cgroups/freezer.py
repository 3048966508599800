"""Freezing a cgroup and waiting until it is frozen, within bounds. Thawing is a plain write and lives in `fs`."""

from __future__ import annotations

import select
import time
from errno import ENODEV, ENOENT

from runtime import system as os
from runtime.cgroups import walk
from runtime.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cgroups.fs import Cgroup

FREEZE_S = 5.0


def freeze(cgroup: Cgroup, path: str) -> None:
    """Stop every process in the cgroup; raise CgroupError, and leave it thawed, if that cannot be done in time."""
    deadline = time.monotonic() + FREEZE_S
    try:
        found = _v1(cgroup, path, deadline) if cgroup.version == 1 else _v2(cgroup, path, deadline)
        if found:
            why = f"it is {found} after {FREEZE_S:g} s, {walk.stuck(cgroup.pids())}"
            raise CgroupError(f"unable to freeze {path}: {why}")
    except BaseException:
        try:
            cgroup.thaw()  # half frozen is worse than either
        except CgroupError:
            pass
        raise


def _v1(cgroup: Cgroup, path: str, deadline: float) -> str:
    tries = 0
    while True:
        # FREEZING must be answered by writing again: the kernel does not go on by itself (freezer-subsystem.rst)
        cgroup.write(path, "FROZEN")
        found = walk.text(path).strip()
        if found == "FROZEN":
            return ""
        tries += 1
        if time.monotonic() > deadline:
            return found
        if tries % 50 == 0:
            # processes that keep appearing keep it from ever getting there: let them all go on for a moment
            cgroup.write(path, "THAWED")
            time.sleep(0.01)
        elif tries > 3:
            time.sleep(0.0005)


def _v2(cgroup: Cgroup, path: str, deadline: float) -> str:
    cgroup.write(path, "1")
    return "" if wait_for(os.path.dirname(path), "frozen 1", deadline) else "not frozen"


def wait_for(path: str, line: str, deadline: float) -> bool:
    """Wait until cgroup.events has a line such as `frozen 1`; whether it came before the deadline."""
    try:
        fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (ENOENT, ENODEV):
            return False
        raise
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while True:
            # read before waiting: the event may have come already
            if line in os.pread(fd, 4096, 0).decode().split("\n"):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    except OSError as error:
        if error.errno == ENODEV:
            return False  # removed meanwhile
        raise
    finally:
        os.close(fd)
