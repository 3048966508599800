"""Cgroups for tests that make real ones: a factory that cleans up, and children that join and do something."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runtime import cgroups
from runtime.cgroups import fs
from runtime.host import Host

DENY = {"allow": False, "access": "rwm"}


def config(path: str, **resources: Any) -> dict[str, Any]:
    return {"linux": {"cgroupsPath": path, "resources": resources}}


@contextmanager
def factory(path: str) -> Iterator[Callable[..., fs.Cgroup]]:
    """A function that makes a cgroup from resources, at or below `path`; they are destroyed at the end."""
    made = []

    def make(below: str = "", **resources: Any) -> fs.Cgroup:
        conf = config(path + below, **resources)
        cgroup = cgroups.choose(conf, "x", Host())
        assert isinstance(cgroup, fs.Cgroup)
        made.append(cgroup)
        for step in cgroup.steps(conf):
            cgroup.run(step)
        return cgroup

    try:
        yield make
    finally:
        for cgroup in reversed(made):
            cgroup.destroy()
            for parent in reversed(cgroup.created_parents):
                if not parent.endswith("/pyrunc-test"):
                    os.rmdir(parent)


def run_in(cgroup: fs.Cgroup, work: Callable[[], object]) -> int:
    """The pid of a child that has joined by itself and does `work`; its exit status is 0, or the errno that came of it."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            # a v2 cgroup is for being born into; from Python it has to be joined
            for _, file, value in cgroup.self_join_steps() or [("", f"{cgroup.clone_into()}/cgroup.procs", "0")]:
                fs.write(file, value)
            os.write(told, b"x")
            work()
            status = 0
        except OSError as error:
            status = error.errno or 98
        finally:
            os._exit(status)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid


def sleep() -> None:
    time.sleep(60)


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def eventually(true: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
