"""A sample of the campaigns, and each point at which something was wrong once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
import campaign  # noqa: E402 - found through the path above
from worker import NAMES  # noqa: E402 - found through the path above

pytestmark = pytest.mark.requires("root", "x86-64")
#: how many points of each kind of fault
POINTS = int(os.environ.get("CHAOS_POINTS", 32))


@pytest.fixture(scope="module")
def workers() -> Iterator[campaign.Workers]:
    if not Path(campaign.runtimes()[campaign.OURS]).exists():
        pytest.fail("build/bin/pyrunc is not there: run `make build` first", pytrace=False)
    campaign.places.faults()
    found = campaign.Workers(campaign.runtimes()[campaign.OURS], 1)
    yield found
    found.close()


def attempt(workers: campaign.Workers, points: list[campaign.Point]) -> None:
    tally = campaign.Tally()
    for point, result in workers.all(points):
        tally.add(point, result)
    assert points and not tally.bad, json.dumps(tally.bad, indent=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("faults", ["KILL,TERM,INT", ",".join(campaign.ERRNOS), "STOP"])
def test_a_sample(workers: campaign.Workers, faults: str) -> None:
    asked = campaign.arguments(["--faults", faults, "--points"])
    count = POINTS if faults != "STOP" else POINTS // 8
    attempt(workers, campaign.spread(campaign.points(workers, asked), count))


#: verb, process, calls of it by name, how many of them counted from the last, fault
ONCE = {
    "the helper dies after it has forked, before the new process is known": (
        "exec",
        1,
        ("clone3", "exit_group"),
        2,
        "KILL",
    ),
    "an answer to init cannot be sent": ("create", 0, ("sendmsg",), 3, "ENOMEM"),
    "an answer to init is interrupted": ("create", 0, ("sendmsg",), 2, "EINTR"),
    "a capability is taken for one that the kernel does not know": ("create", 2, ("prctl",), 6, "EINVAL"),
    "signals stay blocked": ("run", 1, ("rt_sigprocmask",), 1, "EPERM"),
    "a signal stays ignored": ("run", 1, ("rt_sigaction",), 2, "EPERM"),
    "standard output is taken for closed": ("exec", 1, ("fcntl",), 4, "EINTR"),
    "init does not get the last answer": ("exec", 2, ("recvmsg",), 1, "ENOSPC"),
    "a process that cannot be looked at is taken for gone": ("refused", 0, ("openat",), 6, "EMFILE"),
    "a state that cannot be read": ("force", 0, ("read",), 8, "EIO"),
    "who has ended is not told": ("shim", 0, ("wait4",), 8, "ENOSPC"),
    "signals stay blocked after a fork": ("shim", 0, ("rt_sigprocmask",), 8, "ENOSPC"),
    "nobody is woken by a signal": ("shim", 0, ("write",), 6, "ENOSYS"),
    "what tells the pid is left": ("shim", 0, ("wait4",), 6, "KILL"),
    "the shim waits for a word after one that was lost": ("containerd", 2, ("sendto",), 40, "EPERM"),
    "what a child could not do is taken for the address of a shim": ("containerd", 3, ("prctl",), 1, "ENOSYS"),
    "who stands in for a shim cannot hear it": ("containerd", 1, ("recvfrom",), 1, "EIO"),
    "who stands in for a shim cannot answer it": ("containerd", 1, ("sendto",), 1, "EPERM"),
    "a socket that cannot be listened on is left": ("containerd", 2, ("chmod", "listen"), 4, "EIO"),
    "what a call has said cannot be read": ("containerd", 2, ("pread64",), 10, "ENOSYS"),
    "a shim that was to end goes on": ("containerd", 2, ("read",), 6, "EMFILE"),
    "the list of a child's descriptors is empty": ("shim", 1, ("getdents64",), 4, "ENOENT"),
    "a cgroup is taken for removed": ("resume", 0, ("openat", "write"), 4, "ENOENT"),
    "a child is interrupted before there is a command": ("shim", 1, ("pread64",), 40, "INT"),
}


@pytest.mark.parametrize("what", ONCE)
def test_what_was_wrong_once(workers: campaign.Workers, what: str) -> None:
    verb, process, names, count, fault = ONCE[what]
    listed = workers.list(verb)
    calls = [number for one, number, nr in listed if one == process and NAMES[nr] in names]
    attempt(workers, [(verb, process, number, fault) for number in calls[-count:]])
