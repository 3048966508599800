"""The engine: the same words to our own runtime, forked, and to another one, executed; what either gets and what comes back."""

from __future__ import annotations

import errno
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

from shim import engine as module
from shim.engine import Answer, Engine
from shim.loop import Loop
from shim.reaper import Reaper

Until = Callable[..., None]

#: reports what it finds around itself, as JSON on standard output
LOOK = """#!/bin/sh
exec {python} -IS -c '
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
fds = {{}}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[int(name)] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
print(json.dumps({{
    "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "fds": fds, "stdin": sys.stdin.read(),
    "blocked": int(status["SigBlk"], 16), "ignored": int(os.environ.get("X_IGN") or status["SigIgn"], 16),
}}))
' "$@"
"""

#: 32 and 33, which the C library keeps for itself and Python cannot set; make leaves them ignored
LIBRARY = 0b11 << 31


class Calls:
    """Answers of calls, each waited for."""

    def __init__(self, until: Until) -> None:
        self.until = until

    def __call__(self, engine: Engine, *words: str, **more: Any) -> Answer:
        answers: list[Answer] = []
        engine.call(words, answers.append, **more)
        assert not answers, "an answer comes from the loop, not from within call()"
        self.until(lambda: answers, f"the answer of {words}")
        return answers[0]


@pytest.fixture
def call(until: Until) -> Calls:
    return Calls(until)


@pytest.fixture
def look(scratch: Path) -> Path:
    path = scratch / "look"
    path.write_text(LOOK.format(python=sys.executable))
    path.chmod(0o755)
    return path


# -- our own runtime -----------------------------------------------------------------------------------------------------


def test_our_own_runtime_answers(engine: Engine, call: Calls) -> None:
    answer = call(engine, "list", "--format", "json")
    assert (answer.status, answer.err) == (0, b"")
    assert json.loads(answer.out) == []


def test_an_error_is_an_answer(engine: Engine, call: Calls) -> None:
    answer = call(engine, "state", "nobody")
    assert answer.status == 1
    assert b"does not exist" in answer.err
    assert answer.out == b""


def test_what_cannot_be_read_is_an_answer(engine: Engine, call: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.os, "pread", fail)
    answer = call(engine, "list")
    assert (answer.status, answer.out, answer.err) == (1, b"", b"read what the runtime wrote: input/output error\n")
    assert call(engine, "nonsense").status == 1


def test_the_same_answers_as_from_the_command_line(pyrunc: Any, engine: Engine, call: Calls) -> None:
    for words in (
        ("state", "nobody"),
        ("exec", "nobody", "true"),
        ("kill", "nobody", "KILL"),
        ("nonsense",),
        ("list",),
    ):
        answer = call(Engine(engine._loop, engine._reaper, options=("--root", str(pyrunc.root))), *words)
        alone = pyrunc(*words, status=None)
        assert (answer.status, answer.out.decode()) == (alone.status, alone.out), words
        assert without_time(answer.err.decode()) == without_time(alone.err), words


def without_time(text: str) -> str:
    return " ".join(word for word in text.split() if not word.startswith("time="))


def test_a_container_from_create_to_delete(
    pyrunc: Any, bundle: Callable[..., Any], loop: Loop, reaper: Reaper, call: Calls, until: Until
) -> None:
    """Init is an orphan of the child that created it, and ours: its end is known, its output is in our pipe."""
    made = bundle("/bin/sh", "-c", "echo out; echo err >&2; exit 5")
    engine = Engine(loop, reaper, options=("--root", str(pyrunc.root)))
    name = pyrunc.id()
    out_fd, out_write = os.pipe2(os.O_CLOEXEC)
    err_fd, err_write = os.pipe2(os.O_CLOEXEC)
    pid_file = made.path / "pid"
    ends: list[int] = []
    answers: list[Answer] = []

    def created(answer: Answer) -> None:
        answers.append(answer)
        if answer.status == 0:
            reaper.expect(int(pid_file.read_text()), lambda status, at_ns: ends.append(status))

    words = ["create", "--bundle", str(made), "--pid-file", str(pid_file), name]
    engine.call(words, created, stdout=out_write, stderr=err_write)
    os.close(out_write)
    os.close(err_write)
    until(lambda: answers)
    assert answers[0].status == 0, os.read(err_fd, 4096)
    state = json.loads(call(engine, "state", name).out)
    assert state["status"] == "created"
    assert call(engine, "start", name).status == 0
    until(lambda: ends)
    assert ends == [5]
    assert os.read(out_fd, 100) == b"out\n"
    assert os.read(err_fd, 100) == b"err\n"
    assert os.read(out_fd, 100) == b"", "somebody else holds the container's output"
    assert call(engine, "delete", name).status == 0
    os.close(out_fd)
    os.close(err_fd)


def test_a_grandchild_that_keeps_the_output_delays_nothing(
    pyrunc: Any, bundle: Callable[..., Any], loop: Loop, reaper: Reaper, call: Calls, until: Until
) -> None:
    """Where no descriptor is given the container inherits what catches the runtime's own words."""
    made = bundle("/bin/sh", "-c", "echo from inside; sleep 1000")
    engine = Engine(loop, reaper, options=("--root", str(pyrunc.root)))
    name = pyrunc.id()
    assert call(engine, "create", "--bundle", str(made), name).status == 0
    assert call(engine, "start", name).status == 0
    assert call(engine, "delete", "--force", name).status == 0


def test_the_shim_imports_nothing_for_a_call(engine: Engine, call: Calls) -> None:
    """What a child needs is imported by the child."""
    before = set(sys.modules)
    assert call(engine, "list").status == 0
    assert set(sys.modules) == before


def test_environment_and_directory_are_the_childs(engine: Engine, call: Calls, scratch: Path) -> None:
    """The state directory depends on the environment, a bundle on the working directory."""
    root = call(
        Engine(engine._loop, engine._reaper), "state", "x", env={"XDG_RUNTIME_DIR": str(scratch), "PATH": "/bin"}
    )
    assert root.status == 1
    os.environ["PYRUNC_SHIM_TEST"] = "ours"
    try:
        answer = call(engine, "create", "nobody", cwd=str(scratch), env={"PATH": "/bin"})
        assert b"config.json" in answer.err
        assert os.environ["PYRUNC_SHIM_TEST"] == "ours"
        assert os.getcwd() != str(scratch)
    finally:
        del os.environ["PYRUNC_SHIM_TEST"]


def test_a_directory_that_is_not_there(engine: Engine, call: Calls, scratch: Path) -> None:
    answer = call(engine, "list", cwd=str(scratch / "missing"))
    assert answer.status == 1
    assert answer.err == f"prepare a child: no such file or directory: {scratch}/missing\n".encode()


# -- another one ---------------------------------------------------------------------------------------------------------


def test_what_another_runtime_gets(loop: Loop, reaper: Reaper, call: Calls, look: Path, scratch: Path) -> None:
    given, keep = os.pipe()
    # a shim holds many descriptors, and not all of them close-on-exec
    os.set_inheritable(keep, True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        answer = call(
            Engine(loop, reaper, str(look), ("--root", "/somewhere")),
            "create",
            "web",
            cwd=str(scratch),
            env={"PATH": "/usr/bin:/bin", "A": "b"},
            pass_fds=(given, given),
            input=b"resources",
        )
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    pipe = os.readlink(f"/proc/self/fd/{given}")
    os.close(given)
    os.close(keep)
    assert found["argv"] == ["--root", "/somewhere", "create", "web"]
    assert found["cwd"] == str(scratch)
    assert {name: value for name, value in found["env"].items() if name not in ("PWD", "SHLVL", "_", "LC_CTYPE")} == {
        "PATH": "/usr/bin:/bin",
        "A": "b",
    }
    assert found["stdin"] == "resources"
    assert found["fds"]["3"] == found["fds"]["4"] == pipe
    assert [fd for fd in found["fds"] if int(fd) > 5] == [], "5 is the directory it lists"
    assert found["blocked"] == 0
    # Python itself ignores two
    assert found["ignored"] & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | LIBRARY) == 0


def test_dispositions_are_the_default_ones(loop: Loop, reaper: Reaper, call: Calls, scratch: Path) -> None:
    script = scratch / "status"
    script.write_text("#!/bin/sh\nexec cat /proc/self/status\n")
    script.chmod(0o755)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        text = call(Engine(loop, reaper, str(script))).out.decode()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    assert int(status["SigIgn"], 16) & ~LIBRARY == int(status["SigBlk"], 16) == 0


def test_descriptors_may_have_each_others_numbers(loop: Loop, reaper: Reaper, call: Calls, look: Path) -> None:
    """What is to be 3 is 4 and the other way round, and standard output is among them."""
    first, second = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/full", os.O_RDONLY)
    low = sorted((first, second))
    answer = call(Engine(loop, reaper, str(look)), pass_fds=(low[1], low[0]), env={"PATH": "/usr/bin:/bin"})
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in low]
    os.close(first)
    os.close(second)
    found = json.loads(answer.out)["fds"]
    assert [found["3"], found["4"]] == [links[1], links[0]]


def test_a_runtime_is_looked_up_in_the_given_path(loop: Loop, reaper: Reaper, call: Calls, look: Path) -> None:
    answer = call(Engine(loop, reaper, "look"), "x", env={"PATH": f"/nowhere:{look.parent}:/usr/bin:/bin"})
    assert json.loads(answer.out)["argv"] == ["x"]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("no-such-runtime", 127, 'start "no-such-runtime": executable file not found in $PATH\n'),
        ("/nowhere/runtime", 127, 'start "/nowhere/runtime": no such file or directory\n'),
        ("/etc/passwd", 126, 'start "/etc/passwd": permission denied\n'),
    ],
)
def test_a_runtime_that_cannot_be_started(
    loop: Loop, reaper: Reaper, call: Calls, name: str, status: int, words: str
) -> None:
    answer = call(Engine(loop, reaper, name), "create")
    assert (answer.status, answer.err.decode()) == (status, words)


def test_a_runtime_that_is_killed(loop: Loop, reaper: Reaper, until: Until) -> None:
    answers: list[Answer] = []
    pid = Engine(loop, reaper, "sleep").call(["1000"], answers.append)
    os.kill(pid, signal.SIGKILL)
    until(lambda: answers)
    assert answers[0].status == 137


@pytest.mark.parametrize(("runtime", "words"), [("runc", b"does not exist"), ("crun", b"No such file or directory")])
def test_the_peers_answer_the_same_call(
    loop: Loop, reaper: Reaper, call: Calls, runtime: str, words: bytes, scratch: Path
) -> None:
    answer = call(Engine(loop, reaper, runtime, ("--root", str(scratch / "peer"))), "state", "nobody")
    assert answer.status == 1
    assert words in answer.err


# -- output that is caught -----------------------------------------------------------------------------------------------


def test_of_much_output_the_end_is_kept(loop: Loop, reaper: Reaper, call: Calls) -> None:
    answer = call(
        Engine(loop, reaper, "sh"), "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done"
    )
    assert answer.status == 0
    assert len(answer.err) == module.ERR_BYTES
    assert answer.err.endswith(b"line 19999\n"), "the error comes last"


def test_what_catches_does_not_grow(loop: Loop, reaper: Reaper, call: Calls) -> None:
    """A program that writes for ever into it is refused, and costs nobody's memory."""
    answer = call(Engine(loop, reaper, "sh"), "-c", "head -c 9000000 /dev/zero; echo over $? >&2")
    assert len(answer.out) == module.OUT_BYTES
    assert b"Operation not permitted" in answer.err


def test_much_input(loop: Loop, reaper: Reaper, call: Calls) -> None:
    """More than a pipe would hold, and /dev/stdin may be opened anew."""
    answer = call(Engine(loop, reaper, "sh"), "-c", "wc -c; wc -c </dev/stdin", input=b"x" * 300000)
    assert answer.out.split() == [b"300000", b"300000"]


def test_without_input_there_is_none(loop: Loop, reaper: Reaper, call: Calls) -> None:
    answer = call(Engine(loop, reaper, "cat"))
    assert (answer.status, answer.out) == (0, b"")


def test_a_fork_that_fails_is_an_answer(loop: Loop, reaper: Reaper, call: Calls) -> None:
    """Not an exception in the middle of a loop that serves others."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        answers: list[Answer] = []
        pid = Engine(loop, reaper).call(["list"], answers.append)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pid == 0
    loop.turn()
    assert answers[0].status == 1
    assert answers[0].err.startswith(b"start the runtime: too many open files")


# -- life and death ------------------------------------------------------------------------------------------------------

DYING = """
import os, sys
sys.path.insert(0, {root!r})
import runtime.kernel
runtime.kernel.__path__.append(os.path.join({root!r}, "build/kernel/runtime/kernel"))
from shim.engine import Engine, spawn
from shim.loop import Loop
from shim.reaper import Reaper
loop = Loop()
reaper = Reaper(loop)
null = os.open("/dev/null", os.O_RDWR)
print(Engine(loop, reaper, "sleep").call(["1000"], lambda answer: None, stdout=null, stderr=null))
print(spawn(["sleep", "1000"], stdin=null, stdout=null, stderr=null, dies_with_us=False), flush=True)
sys.stdin.read()
"""


def test_a_call_ends_with_us_and_a_program_of_its_own_does_not(leaks: Any) -> None:
    root = str(Path(__file__).resolve().parent.parent.parent)
    words = [sys.executable, "-I", "-c", DYING.format(root=root)]
    shim = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert shim.stdout is not None
    assert shim.stdin is not None
    called, own = int(shim.stdout.readline()), int(shim.stdout.readline())
    pidfds = [os.pidfd_open(pid) for pid in (called, own)]
    # before that it finds out by itself that the shim has ended, and says so with a status
    end = time.monotonic() + 10
    while Path(f"/proc/{called}/comm").read_text() != "sleep\n":
        assert time.monotonic() < end, "not executed"
        time.sleep(0.005)
    shim.kill()
    shim.wait()
    shim.stdin.close()
    shim.stdout.close()
    # both are ours now, as orphans of the shim's
    assert os.waitstatus_to_exitcode(os.waitpid(called, 0)[1]) == -signal.SIGKILL
    assert os.waitid(os.P_PID, own, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "still running"
    os.kill(own, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]) == -signal.SIGTERM
    for fd in pidfds:
        os.close(fd)


def test_nothing_of_ours_stays_open(loop: Loop, reaper: Reaper, call: Calls) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        call(Engine(loop, reaper, "true"), input=b"x")
        call(Engine(loop, reaper, "nonsense"))
    assert sorted(os.listdir("/proc/self/fd")) == before


PACKED = """
import os, sys
from shim.engine import Engine
from shim.loop import Loop
from shim.reaper import Reaper
loop = Loop()
reaper = Reaper(loop)
answers = []
def done(answer):
    answers.append(answer)
    loop.stop()
read_fd, write_fd = os.pipe()
# the words of a container that needs the descriptors that it is to be given, where ours was
for words in (["state", "nobody"], ["create", "--preserve-fds", "2", "--bundle", "/nowhere", "x"]):
    Engine(loop, reaper, options=["--root", {root!r}]).call(words, done, pass_fds=(read_fd, read_fd))
    loop.run()
for answer in answers:
    os.write(1, b"%d %s\\n" % (answer.status, answer.err.strip()))
loaded = [name for name in sys.modules if name.startswith("runtime.") and not name.startswith("runtime.kernel")]
os.write(1, " ".join(sorted(loaded)).encode())
os._exit(0)
"""


def test_a_child_of_the_packed_shim_finds_its_modules(scratch: Path) -> None:
    """They are read from one open file, which is the one descriptor of ours that a child keeps."""
    lines = (Path(__file__).resolve().parent.parent.parent / "build/bin/pyrunc-shim").read_text().splitlines()
    until_main = [line for line in lines[1:] if not line.startswith(("from shim", "sys.exit"))]
    code = "\n".join([*until_main, PACKED.format(root=str(scratch / "state"))])
    words = [lines[0][2:].split()[0], "-IS", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second, loaded = done.stdout.split("\n")
    assert first.startswith("1 ")
    assert "does not exist" in first
    assert second.startswith("1 ")
    assert "/nowhere" in second
    assert loaded == "runtime.system", "what a child needs is imported by the child"


def test_a_call_is_not_slow_to_notice(loop: Loop, reaper: Reaper, call: Calls) -> None:
    """The answer comes by SIGCHLD: the loop has no timer that it could have come by."""
    start = time.monotonic()
    call(Engine(loop, reaper, "true"))
    assert [timer for timer in loop._timers if timer.at > start] == []
