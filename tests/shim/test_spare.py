"""Spares: a call that finds one cannot be told from a call that forks, and what waits for nothing goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim import spare
from shim.engine import Answer, Engine
from shim.loop import Loop
from shim.reaper import Reaper
from shim.spare import Spares

Until = Callable[..., None]
ROOT = Path(__file__).resolve().parents[2]


class Shim:
    """A loop's reaper, spares and engine."""

    def __init__(self, loop: Loop, reaper: Reaper, until: Until, root: object) -> None:
        self.loop, self.reaper, self.until = loop, reaper, until
        self.spares = Spares(loop, reaper)
        self.engine = Engine(loop, reaper, options=("--root", str(root)), spares=self.spares)
        self.plain = Engine(loop, reaper, options=("--root", str(root)))

    def __call__(self, *words: str, plain: bool = False, **more: Any) -> tuple[int, Answer]:
        """(pid of the process that was the call, its answer)."""
        answers: list[Answer] = []
        pid = (self.plain if plain else self.engine).call(words, answers.append, **more)
        assert not answers, "an answer comes from the loop, not from within call()"
        self.until(lambda: answers, f"the answer of {words}")
        return pid, answers[0]

    def waiting(self) -> dict[str, int]:
        return {kind: one.pid for kind, one in self.spares._spares.items()}

    def close(self) -> None:
        pids = self.waiting().values()
        for one in list(self.spares._spares.values()):
            self.spares._drop(one)
        self.until(lambda: not any(is_there(pid) for pid in pids), "the end of the spares")


def is_there(pid: int) -> bool:
    """Whether it runs; nobody may have collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int) -> None:
    end = time.monotonic() + 30
    while is_there(pid):
        assert time.monotonic() < end, f"{pid} goes on"


@pytest.fixture
def shim(pyrunc: Any, loop: Loop, reaper: Reaper, until: Until) -> Any:
    made = Shim(loop, reaper, until, pyrunc.root)
    yield made
    made.close()


def test_a_call_is_the_child_that_waited(shim: Shim) -> None:
    """The same answer as of a call that forks; without a spare of its kind it forks."""
    shim.spares.prepare("start")
    waiting = shim.waiting()["light"]
    pid, answer = shim("start", "nobody")
    assert pid == waiting
    other, forked = shim("start", "nobody", plain=True)
    assert other != waiting
    assert (answer.status, answer.out, answer.err) == (forked.status, forked.out, forked.err) != (0, b"", b"")
    # it failed, and what it left in its memory is nobody's
    assert shim.waiting() == {}
    assert shim("list")[0] != pid


def test_a_container_from_create_to_delete(shim: Shim, pyrunc: Any, bundle: Callable[..., Any], until: Until) -> None:
    """create is one child, which ends; start and delete are another, and init is ours all the same."""
    made = bundle("/bin/sh", "-c", "echo out; exit 5")
    name = pyrunc.id()
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    shim.spares.prepare("create")
    first = shim.waiting()["create"]
    pid_file = made.path / "pid"
    ends: list[int] = []
    answers: list[Answer] = []

    def created(answer: Answer) -> None:
        answers.append(answer)
        shim.reaper.expect(int(pid_file.read_text()), lambda status, at_ns: ends.append(status))

    words = ("create", "--bundle", str(made.path), "--pid-file", str(pid_file), name)
    assert shim.engine.call(words, created, stdout=write_fd, stderr=write_fd) == first
    second = shim.waiting()["light"]
    os.close(write_fd)
    until(lambda: answers, "create")
    assert answers[0].status == 0, answers[0].err
    pid, answer = shim("start", name)
    assert (pid, answer.status, answer.err) == (second, 0, b"")
    until(lambda: ends, "the end of init")
    assert ends == [5]
    # nobody else holds the container's output: not what was create, not what waits
    assert os.read(read_fd, 99) == b"out\n"
    assert os.read(read_fd, 99) == b""
    os.close(read_fd)
    pid, answer = shim("delete", name)
    assert (pid, answer.status, answer.err) == (second, 0, b"")
    until(lambda: not is_there(first), "the end of what was create")


def test_what_waits_holds_nothing(shim: Shim, pyrunc: Any, bundle: Callable[..., Any]) -> None:
    """Neither before a call nor after one: no descriptor of ours or of the call's, and /dev/null as its stdio."""
    made = bundle("/bin/sleep", "100")
    name = pyrunc.id()
    pyrunc("create", "--bundle", made.path, name)
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    shim.spares.prepare("start")
    pid, answer = shim("start", name, stdin=read_fd, stdout=write_fd, stderr=write_fd)
    assert (shim.waiting()["light"], answer.status) == (pid, 0)
    shim.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == 4, "everything closed")
    held = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
    assert held == ["/dev/null", "/dev/null", "/dev/null", "socket"]
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)
    pyrunc("kill", name, "KILL")


def test_the_end_of_a_shim_is_that_of_its_spares(shim: Shim, until: Until) -> None:
    """One that could not even close what it had from the shim holds nothing when end() has returned."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    shim.spares.prepare("start")
    os.kill(shim.waiting()["light"], signal.SIGSTOP)
    shim.spares.prepare("create")
    pids = shim.waiting().values()
    shim.spares.end()
    os.close(write_fd)
    os.set_blocking(read_fd, False)
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)
    assert shim.waiting() == {}
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("more", [{"env": {"PATH": "/bin", "A": "b"}}, {"cwd": "/"}])
def test_a_place_of_the_calls_own_is_not_kept(shim: Shim, pyrunc: Any, bundle: Callable[..., Any], more: Any) -> None:
    made = bundle("/bin/sleep", "100")
    name = pyrunc.id()
    pyrunc("create", "--bundle", made.path, name)
    shim.spares.prepare("start")
    waiting = shim.waiting()["light"]
    pid, answer = shim("start", name, **more)
    assert (pid, answer.status) == (waiting, 0)
    assert shim.waiting() == {}
    pyrunc("kill", name, "KILL")


def test_environment_and_input_arrive(shim: Shim, pyrunc: Any, bundle: Callable[..., Any], scratch: Path) -> None:
    """A hook of start sees the environment of the call; kept descriptors are passed on by their numbers."""
    made = bundle("/bin/cat", "/proc/self/fd/3")
    (scratch / "given").write_text("from 3")
    given = os.open(scratch / "given", os.O_RDONLY | os.O_CLOEXEC)
    name = pyrunc.id()
    shim.spares.prepare("create")
    out = scratch / "out"
    out_fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    words = ("create", "--preserve-fds", "1", "--bundle", str(made.path), name)
    pid, answer = shim(*words, pass_fds=(given,), stdout=out_fd, stderr=out_fd)
    assert answer.status == 0, answer.err
    os.close(given)
    os.close(out_fd)
    assert shim("start", name)[1].status == 0
    shim.until(lambda: out.read_text() == "from 3", "its output")


def test_one_that_was_killed_is_not_missed(shim: Shim) -> None:
    shim.spares.prepare("start")
    waiting = shim.waiting()["light"]
    os.kill(waiting, signal.SIGKILL)
    wait_for_end(waiting)
    # not collected yet, as the loop has not turned
    pid, answer = shim("start", "nobody")
    assert pid != waiting and b"does not exist" in answer.err
    shim.spares.prepare("start")
    waiting = shim.waiting()["light"]
    os.kill(waiting, signal.SIGKILL)
    shim.until(lambda: not shim.waiting(), "its end")
    pid, answer = shim("start", "nobody")
    assert pid != waiting and b"does not exist" in answer.err


def test_killed_in_the_middle_of_a_call(shim: Shim, pyrunc: Any, bundle: Callable[..., Any]) -> None:
    """It is a call like any other: the answer says by what it ended."""
    made = bundle("true")
    config = json.loads((made.path / "config.json").read_text())
    config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"]}]}
    (made.path / "config.json").write_text(json.dumps(config))
    name = pyrunc.id()
    shim.spares.prepare("create")
    answers: list[Answer] = []
    pid = shim.engine.call(("create", "--bundle", str(made.path), name), answers.append)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    shim.until(lambda: len(children.read_text().split()) > 1, "the hook")
    left = [int(child) for child in children.read_text().split()]
    os.kill(pid, signal.SIGKILL)
    shim.until(lambda: answers, "the answer")
    for child in left:
        if is_there(child) and Path(f"/proc/{child}/comm").read_text() == "sleep\n":
            os.kill(child, signal.SIGKILL)
    assert answers[0].status == 128 + signal.SIGKILL
    assert shim("delete", "--force", name)[1].status == 0


def test_what_nobody_calls_goes_away(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "_WAIT_S", 0.1)
    shim.spares.prepare("exec")
    shim.spares.prepare("create")
    pids = shim.waiting()
    assert set(pids) == {"exec", "create"}
    shim.until(lambda: not shim.waiting(), "the time that they wait")
    shim.until(lambda: not any(is_there(pid) for pid in pids.values()), "their end")


def test_there_is_one_of_a_kind(shim: Shim) -> None:
    shim.spares.prepare("start")
    first = shim.waiting()
    shim.spares.prepare("delete")
    assert shim.waiting() == first
    extra = spare.fork("light")
    shim.spares.adopt(extra)
    assert shim.waiting() == first
    shim.until(lambda: not is_there(extra.pid), "the end of the other")


def test_a_request_that_is_too_large_is_forked(shim: Shim) -> None:
    shim.spares.prepare("start")
    waiting = shim.waiting()["light"]
    pid, answer = shim("start", "nobody", env={"A": "x" * (100 << 10)})
    assert pid != waiting and b"does not exist" in answer.err
    shim.until(lambda: not is_there(waiting), "its end")


def test_it_ends_with_us(scratch: Path) -> None:
    script = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / "build/lib/pyrunc")!r})
from shim import spare
one = spare.fork("light")
print(one.pid, flush=True)
time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_there(pid)
        parent.kill()
    wait_for_end(pid)


WARMED = """
import json, sys
sys.path.insert(0, {root!r})
import shim.containerd.serving
from shim import spare
import runtime.__main__
from runtime import ahead, kernel
kernel.set_subreaper(False)
ahead.load(spare.KIND[sys.argv[3]])
before = set(sys.modules)
status = runtime.__main__.call(sys.argv[1:])
print(json.dumps([status, sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("runtime", "specs"))]), file=sys.stderr)
"""


def test_what_is_loaded_is_what_is_needed(
    pyrunc: Any, reaper: Reaper, until: Until, bundle: Callable[..., Any], scratch: Path
) -> None:
    """A usual call of each command imports nothing of ours any more."""
    made = bundle("/bin/sleep", "100")
    name = pyrunc.id()
    process = scratch / "process.json"
    process.write_text(json.dumps({"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}))
    found = []
    for words in (
        ("create", "--bundle", str(made.path), "--pid-file", str(scratch / "pid"), name),
        ("start", name),
        ("exec", "--process", str(process), "--detach", "--pid-file", str(scratch / "exec.pid"), name),
        ("kill", name, "9"),
        ("delete", name),
    ):
        if words[0] == "delete":
            # who ended in there is collected by us, as by the shim: init ends after that
            pid = int((scratch / "pid").read_text())
            until(lambda pid=pid: not is_there(pid), "the end of init")
        script = WARMED.format(root=str(ROOT / "build/lib/pyrunc"))
        # a file: init keeps it open
        with (scratch / "said").open("w") as said:
            subprocess.run(
                [sys.executable, "-c", script, "--root", str(pyrunc.root), *words],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60,
            )  # fmt: skip
        found.append(json.loads((scratch / "said").read_text().splitlines()[-1]))
    assert found == [[0, []]] * 5
