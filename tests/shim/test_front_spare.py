"""The first `create` of all waits in an interpreter of its own, which front.c starts beside the shim's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import shim_client
from shim_client import PROGRAM, Engine, Shim

from shim.containerd import messages
from shim.containerd.protobuf import decode, encode

if TYPE_CHECKING:
    from conftest import Bundle, Leaks

MakeBundle = Callable[..., "Bundle"]
#: where no shim of anybody's is: tests beside this one have theirs in the usual directory
ALONE = """\
#!/bin/sh
exec unshare --mount sh -c 'mkdir -p /run/containerd/s && mount -t tmpfs none /run/containerd/s && exec "$@"' sh {program} "$@"
"""


@pytest.fixture
def engine(leaks: Leaks, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    shim_client.stand_in(monkeypatch, scratch / "alone", ALONE.format(program=PROGRAM))
    yield from shim_client.until_over(Engine(scratch))


@pytest.fixture
def start(engine: Engine) -> Callable[..., Shim]:
    """A shim whose sockets are in a directory of the test's own (containerd 2.3 and later), where we can reach it."""
    ttrpc = engine.env.pop("TTRPC_ADDRESS")

    def begin(place: Path, id_: str = "one", **options: str) -> Shim:
        os.mkfifo(place / "log")
        params = {
            "instance_id": id_,
            "namespace": "test",
            "containerd_ttrpc_address": ttrpc,
            "containerd_binary": "/bin/false",
            "socket_dir": str(engine.place / "sockets"),
        }
        if options:
            any_ = {"type_url": "containerd.runc.v1.Options", "value": encode(messages.OPTIONS, options)}
            params["extensions"] = [{"value": any_}]  # type: ignore[assignment]
        said = engine.run("start", place, id_, input=encode(messages.BOOTSTRAP_PARAMS, params))
        shim = Shim(engine, place, id_, decode(messages.BOOTSTRAP_RESULT, said)["address"])
        engine.shims.append(shim)
        return shim

    return begin


def waiting(shim: Shim) -> list[int]:
    """The children of a shim that were started as such."""
    found = []
    for pid in Path(f"/proc/{shim.pid}/task/{shim.pid}/children").read_text().split():
        try:
            if b"\0-spare\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
        except FileNotFoundError:
            pass
    return found


def until_over(pid: int) -> None:
    end = time.monotonic() + 20
    try:
        # an orphan's parent may be slow to collect it
        while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z":
            assert time.monotonic() < end, f"{pid} is still there"
            time.sleep(0.01)
    except (FileNotFoundError, ProcessLookupError):
        pass


def test_it_is_the_first_create(start: Callable[..., Shim], bundle: MakeBundle, scratch: Path) -> None:
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo $PPID >{scratch}/creator"]}]}
    shim = start(bundle("sh", "-c", "exit 7", hooks=hooks).path)
    (spare,) = waiting(shim)
    # of the shim's own kind, and holding nothing of its starter's: the pipe that `start` writes to has come to its end
    assert os.getsid(spare) == os.getsid(shim.pid) == shim.pid
    for name in ("oom_score_adj", "cgroup", "limits"):
        assert Path(f"/proc/{spare}/{name}").read_text() == Path(f"/proc/{shim.pid}/{name}").read_text()
    assert os.readlink(f"/proc/{spare}/cwd") == str(shim.bundle)
    shim.create()
    assert int((scratch / "creator").read_text()) == spare
    shim.call("Start", id="one")
    assert shim.wait() == 7
    shim.call("Delete", id="one")
    until_over(spare)


def test_it_ends_with_the_shim(start: Callable[..., Shim], bundle: MakeBundle) -> None:
    shim = start(bundle("true").path)
    (spare,) = waiting(shim)
    os.kill(shim.pid, signal.SIGKILL)
    until_over(spare)


def test_where_the_shim_is_put_elsewhere_it_is_not_used(
    start: Callable[..., Shim], bundle: MakeBundle, scratch: Path
) -> None:
    """ShimCgroup: what a container's start takes is counted where the option says."""
    top = Path("/sys/fs/cgroup")
    path = (top / "pids" if (top / "pids").is_dir() else top) / f"pyrunc-test/spare{os.getpid()}"
    path.mkdir(parents=True)
    try:
        hooks = {
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat /proc/$PPID/cgroup >{scratch}/group"]}]
        }
        shim = start(bundle("true", hooks=hooks).path, shim_cgroup=f"/pyrunc-test/spare{os.getpid()}")
        shim.create()
        assert f"/pyrunc-test/spare{os.getpid()}\n" in (scratch / "group").read_text()
        for method, values in (("Kill", {"signal": 9}), ("Wait", {}), ("Delete", {})):
            shim.call(method, id="one", **values)
        shim.close()
        shim.wait_until_gone()
    finally:
        end = time.monotonic() + 30
        while (path / "cgroup.procs").read_text() and time.monotonic() < end:
            time.sleep(0.01)
        path.rmdir()


def test_there_is_none_where_the_shim_is_yet_to_change(
    engine: Engine, start: Callable[..., Shim], bundle: MakeBundle
) -> None:
    engine.env["NOTIFY_SOCKET"] = "/x"  # which the shim takes out of its environment
    assert waiting(start(bundle("true").path)) == []


@pytest.mark.parametrize("given", ["", "x", "3", "3,", "99999,1"])
def test_nobody_else_can_be_one(scratch: Path, given: str) -> None:
    done = subprocess.run([PROGRAM, "-spare", given, "spare"], cwd=scratch, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "Traceback" not in done.stderr
