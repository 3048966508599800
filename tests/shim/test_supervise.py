"""`pyrunc-shim run`: what somebody who scripts bundles sees of it. The real runtime, the real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conmon_caller import BIN, LIMIT_S, text, until

if TYPE_CHECKING:
    from conftest import Bundle, Command

SHIM = BIN / "pyrunc-shim"


class Shim:
    """The program with a state directory of the test's own."""

    def __init__(self, pyrunc: Command) -> None:
        self.pyrunc = pyrunc
        self.started: list[subprocess.Popen[bytes]] = []

    def argv(self, bundle: Bundle, id_: str, *more: str | Path) -> list[str]:
        return [str(SHIM), "run", "--root", str(self.pyrunc.root), "--bundle", str(bundle), *map(str, more), id_]

    def __call__(
        self, bundle: Bundle, *more: str | Path, status: int = 0, **popen: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end; nothing of the container is left."""
        id_ = self.pyrunc.id()
        done = subprocess.run(
            self.argv(bundle, id_, *more), env=self.pyrunc.env, capture_output=True, timeout=60, **popen
        )
        assert done.returncode == status, done
        assert b"Traceback" not in done.stderr and not self.pyrunc.exists(id_)
        return done

    def popen(self, bundle: Bundle, id_: str, *more: str | Path, **popen: Any) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(self.argv(bundle, id_, *more), env=self.pyrunc.env, **popen)
        self.started.append(made)
        return made


@pytest.fixture
def shim(pyrunc: Command) -> Iterator[Shim]:
    made = Shim(pyrunc)
    yield made
    for program in made.started:
        for pipe in (program.stdin, program.stdout, program.stderr):
            if pipe is not None:
                pipe.close()
        if program.poll() is None:
            program.kill()
            program.wait()


def test_streams_and_status_are_the_containers(shim: Shim, bundle: Callable[..., Bundle]) -> None:
    done = shim(bundle("/bin/sh", "-c", "cat; echo err >&2; exit 3"), status=3, input=b"in\0put\n")
    assert (done.stdout, done.stderr) == (b"in\0put\n", b"err\n")


def test_a_signals_status(shim: Shim, bundle: Callable[..., Bundle]) -> None:
    shim(bundle("/bin/sh", "-c", "kill -9 $$; kill -KILL -1; exit 77"), status=77)


def test_killed(shim: Shim, bundle: Callable[..., Bundle]) -> None:
    id_ = shim.pyrunc.id()
    program = shim.popen(bundle("/bin/sleep", "1000"), id_)
    until(lambda: shim.pyrunc("state", id_, status=None).out.count('"running"'), "the container")
    shim.pyrunc("kill", id_, "KILL")
    assert program.wait(LIMIT_S) == 137
    assert not shim.pyrunc.exists(id_)


def test_files_and_news(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    read_fd, write_fd = os.pipe()
    exit_file, pid_file = scratch / "exit", scratch / "pid"
    words = ["--exit-file", exit_file, "--pid-file", pid_file, "--status-fd", str(write_fd)]
    shim(bundle("/bin/sh", "-c", "exit 9"), *words, status=9, pass_fds=[write_fd])
    os.close(write_fd)
    with os.fdopen(read_fd) as news:
        pid, end = [json.loads(line) for line in news]
    assert pid == {"pid": int(pid_file.read_text())} and end == {"exit_status": 9}
    assert exit_file.read_text() == "9"


def test_the_pid_is_told_before_the_end(shim: Shim, bundle: Callable[..., Bundle]) -> None:
    read_fd, write_fd = os.pipe()
    id_ = shim.pyrunc.id()
    program = shim.popen(bundle("/bin/sleep", "1000"), id_, "--status-fd", str(write_fd), pass_fds=[write_fd])
    os.close(write_fd)
    with os.fdopen(read_fd) as news:
        pid = json.loads(news.readline())["pid"]
        assert Path(f"/proc/{pid}").exists()
        program.terminate()
        # the pid is known from its creation on, and what was killed before its start cannot be started
        until(lambda: shim.pyrunc("state", id_).json()["status"] == "running", "the container")
        # not init's habit to end by it: no handler, pid 1
        shim.pyrunc("kill", id_, "KILL")
        assert json.loads(news.readline()) == {"exit_status": 137}
    assert program.wait(LIMIT_S) == 137


def test_a_log(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    log = scratch / "log"
    for _ in range(2):
        done = shim(bundle("/bin/sh", "-c", "printf 'one\\0two\\n'"), "--log", log)
        assert done.stdout == done.stderr == b""
    assert log.read_bytes() == b"one\0two\n" * 2


def test_a_log_with_times(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    log = scratch / "log"
    words = ["--log", log, "--log-format", "k8s", "--log-size-max", "200", "--log-max-files", "1"]
    shim(bundle("/bin/sh", "-c", "for i in 1 2 3 4 5 6; do echo line $i; done"), *words)
    lines = [line.split(" ", 3)[1:] for name in ("log.1", "log") for line in (scratch / name).read_text().splitlines()]
    assert lines == [["stdout", "F", f"line {number}"] for number in range(7 - len(lines), 7)] and len(lines) > 3


def test_a_full_log_disk(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    """It costs output, not the container, and is said once."""
    small = scratch / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=True)
    try:
        done = shim(bundle("/bin/sh", "-c", "seq 20000; exit 4"), "--log", small / "log", status=4)
        assert done.stderr.count(b"\n") == 1 and b"no space left on device" in done.stderr
        assert (small / "log").read_bytes()[:8] == b"1\n2\n3\n4\n"
    finally:
        subprocess.run(["umount", small], check=True)


def test_input_by_a_fifo(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    """Writers come and go."""
    fifo = scratch / "in"
    program = shim.popen(
        bundle("/bin/sh", "-c", "read a; read b; echo $a $b"),
        shim.pyrunc.id(),
        "--stdin-fifo",
        fifo,
        stdout=subprocess.PIPE,
    )
    until(fifo.exists, "the fifo")
    for word in ("one\n", "two\n"):
        fifo.write_text(word)
    assert program.communicate(timeout=LIMIT_S)[0] == b"one two\n" and program.returncode == 0


def test_a_terminal(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    """Its output is ours, its input comes from the fifo."""
    box = bundle("/bin/sh", "-c", "test -t 0 && echo terminal; read line; echo got $line")
    box.config["process"]["terminal"] = True
    box.write()
    fifo = scratch / "in"
    program = shim.popen(box, shim.pyrunc.id(), "--stdin-fifo", fifo, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    until(fifo.exists, "the fifo")
    fifo.write_text("word\n")
    out = program.communicate(timeout=LIMIT_S)[0]
    assert b"terminal\r\n" in out and b"got word\r\n" in out and program.returncode == 0


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH]
)
def test_signals_are_passed_on(
    shim: Shim, bundle: Callable[..., Bundle], scratch: Path, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    log = scratch / "log"
    box = bundle("/bin/sh", "-c", f"trap 'exit 21' {name}; echo ready; while :; do sleep 0.01; done")
    program = shim.popen(box, shim.pyrunc.id(), "--log", log)
    until(lambda: text(log) == "ready\n", "the container")
    program.send_signal(number)
    assert program.wait(LIMIT_S) == 21


def test_a_signal_before_the_start_ends_it(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    """A hook holds the creation up; the signal is not lost, and the process never runs."""
    box = bundle("/bin/sh", "-c", "touch /tmp/ran; sleep 1000")
    hook = f"touch {scratch}/in-hook; while [ ! -e {scratch}/go ]; do sleep 0.01; done"
    box.config["hooks"] = {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/usr/bin:/bin"]}]}
    box.write()
    id_ = shim.pyrunc.id()
    program = shim.popen(box, id_)
    until((scratch / "in-hook").exists, "the hook")
    program.terminate()
    until(lambda: signal.SIGTERM not in pending(program.pid), "the signal to be taken")
    (scratch / "go").touch()
    assert program.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert not (box.rootfs / "tmp" / "ran").exists() and not shim.pyrunc.exists(id_)


def pending(pid: int) -> set[int]:
    """Signals that a process has yet to take."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line for line in lines if line.startswith("ShdPnd")).split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_preserved_descriptors(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    (scratch / "file").write_text("content\n")
    script = f'exec 3<{scratch}/file; exec "$@"'
    argv = shim.argv(bundle("/bin/cat", "/proc/self/fd/3"), shim.pyrunc.id(), "--preserve-fds", "1")
    done = subprocess.run(["/bin/sh", "-c", script, "sh", *argv], env=shim.pyrunc.env, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"content\n")


def test_another_runtime(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    runtime = scratch / "runtime"
    runtime.write_text(f'#!/bin/sh\necho "$3" >> {scratch}/calls\nexec {BIN}/pyrunc "$@"\n')
    runtime.chmod(0o755)
    shim(bundle("/bin/sh", "-c", "exit 6"), "--runtime", runtime, status=6)
    assert (scratch / "calls").read_text().split() == ["create", "start", "delete"]


def test_what_cannot_be_created(shim: Shim, bundle: Callable[..., Bundle], scratch: Path) -> None:
    read_fd, write_fd = os.pipe()
    log = scratch / "log"
    for more in ([], ["--log", log], ["--status-fd", str(write_fd)]):
        done = shim(bundle("/nosuch"), *more, status=1, pass_fds=[write_fd])
        assert (
            done.stderr.count(b"\n") == 1 and b'exec: "/nosuch": stat /nosuch: no such file or directory' in done.stderr
        )
    os.close(write_fd)
    with os.fdopen(read_fd) as news:
        assert json.loads(news.read()) == {"error": "create failed"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--nosuch", "x"], 'unknown option "--nosuch"'),
        ([], "no container id"),
        (["x", "y"], "one container id"),
        (["--log-format", "xml", "x"], "must be raw or k8s"),
        (["--status-fd", "77", "x"], "--status-fd 77: not open"),
    ],
)
def test_mistakes(words: list[str], why: str) -> None:
    done = subprocess.run([SHIM, "run", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and why in done.stderr and done.stderr.count("\n") == 1


def test_a_log_that_cannot_be_opened(shim: Shim, bundle: Callable[..., Bundle]) -> None:
    done = shim(bundle("/bin/true"), "--log", "/nosuch/log", status=1)
    assert done.stderr == b"pyrunc-shim: open log /nosuch/log: no such file or directory\n"


def test_help() -> None:
    for words in (["--help"], ["run", "--help"], ["run", "-h"]):
        done = subprocess.run([SHIM, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.startswith("usage: pyrunc-shim run") and not done.stderr
        assert all(len(line) < 120 for line in done.stdout.splitlines())
    done = subprocess.run([SHIM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--help" in done.stderr
