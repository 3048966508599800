"""Signals: from a foreground command to its container; and none of the caller's accidents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import mkrootfs
import pytest

VERBS = pytest.mark.parametrize("verb", ["run", "exec"])


def shared_pid(config):
    mkrootfs.leave_out(config, "pid")


@pytest.fixture
def trapping(pyrunc, make, running):
    """A command in the foreground whose process traps one signal, once it does."""

    def trapping(verb, number, **popen):
        words = ["/bin/probe", "trap", str(number)]
        if verb == "run":
            argv = ["run", "-b", make(None, *words), pyrunc.id()]
        else:
            argv = ["exec", running().id, *words]
        command = pyrunc.popen(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **popen)
        assert command.stdout and command.stdout.readline() == b"ready\n"
        return command

    return trapping


@VERBS
@pytest.mark.parametrize(
    "number",
    [1, 2, 3, 10, 12, 15, 18, *(pytest.param(n, marks=pytest.mark.differs("Go ends on it")) for n in (34, 64))],
)
def test_forwarded(trapping, verb, number):
    command = trapping(verb, number)
    command.send_signal(number)
    assert command.stdout.read() == b"signal %d\n" % number
    command.stdout.close()
    assert command.wait(20) == 40 + number


@VERBS
def test_of_the_process_group(trapping, verb):
    """^C in a shell without a terminal of the container's own: the container is told once."""
    command = trapping(verb, 2, start_new_session=True)
    os.killpg(command.pid, signal.SIGINT)
    assert command.stdout.read() == b"signal 2\n"
    command.stdout.close()
    assert command.wait(20) == 42


@VERBS
def test_that_nobody_handles(pyrunc, make, running, verb):
    """The first process of a pid namespace is immune to them; another is not."""
    if verb == "run":
        argv = ["run", "-b", make(shared_pid, "/bin/sh", "-c", "echo up; exec sleep 1000"), pyrunc.id()]
    else:
        argv = ["exec", running().id, "/bin/sh", "-c", "echo up; exec sleep 1000"]
    command = pyrunc.popen(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert command.stdout and command.stdout.readline() == b"up\n"
    command.send_signal(signal.SIGTERM)
    assert command.wait(20) == 128 + 15
    command.stdout.close()


def test_a_run_that_is_killed_leaves_its_container_to_be_deleted(pyrunc, trapping, gone):
    """SIGKILL cannot be handled; the state is there, and delete --force removes what is left."""
    command = trapping("run", 15)
    id_ = pyrunc.id()
    pid = pyrunc.pid(id_)
    command.kill()
    command.wait(20)
    command.stdout.close()
    pyrunc("delete", "--force", id_)
    assert not pyrunc.exists(id_) and not Path(f"/proc/{pid}/exe").exists()


# -- what the caller's own dispositions do to the container ------------------------------------------------------------------


def careless():
    """As a program of Python or Go, or a shell script with trap '', starts its children."""
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD, signal.SIGTERM, 40):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, 64])


@pytest.mark.differs("what its caller ignores and blocks is ignored and blocked in the container")
def test_ignored_and_blocked_signals_do_not_arrive(pyrunc, make):
    made, id_ = make(None, "/bin/probe", "report"), pyrunc.id()
    found = pyrunc("run", "-b", made, id_, preexec_fn=careless).json()
    assert found["signals"] == {"blocked": [], "ignored": []}


@pytest.mark.differs("what its caller ignores and blocks is ignored and blocked in the container")
def test_ignored_and_blocked_signals_do_not_arrive_through_create_or_exec(pyrunc, make):
    made, id_ = make(None, "/bin/sh", "-c", "grep -e SigBlk -e SigIgn /proc/self/status; exec sleep 1000"), pyrunc.id()
    read, write = os.pipe()
    pyrunc("create", "-b", made, id_, stdout=write, preexec_fn=careless)
    os.close(write)
    pyrunc("start", id_, preexec_fn=careless)
    with os.fdopen(read) as out:
        lines = [out.readline(), out.readline()]
    assert [int(line.split()[1], 16) for line in lines] == [0, 0]
    found = pyrunc("exec", id_, "/bin/probe", "report", preexec_fn=careless).json()
    assert found["signals"] == {"blocked": [], "ignored": []}


def test_an_ignored_sigchld_does_not_lose_the_exit_status(pyrunc, make):
    made = make(None, "/bin/probe", "exit", "33")
    pyrunc("run", "-b", made, pyrunc.id(), status=33, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))


def test_a_broken_pipe_ends_the_program(pyrunc, make):
    """SIGPIPE is ignored in Python; in a container it must not be."""
    made = make(None, "/bin/sh", "-c", "(yes; echo $? >&2) | head -n1")
    assert pyrunc("run", "-b", made, pyrunc.id()).err == "141\n"


# -- orphans -----------------------------------------------------------------------------------------------------------------


def zombies_of(pid):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and int(fields[1]) == pid:
            found.append(int(entry.name))
    return found


def test_orphans_are_adopted_and_reaped(pyrunc, make, until):
    """Without a pid namespace they come to the foreground command, which is their subreaper."""
    made = make(shared_pid, "/bin/probe", "orphans", "20")
    run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdin and run.stdout
    found = json.loads(run.stdout.readline())
    assert len(found) == 20
    assert {entry["parent"] for entry in found} == {run.pid}
    until(lambda: not zombies_of(run.pid), "no zombies")
    run.stdin.close()
    run.stdout.close()
    assert run.wait(20) == 0


def test_orphans_are_not_adopted_if_not_wanted(pyrunc, make, until):
    made = make(shared_pid, "/bin/probe", "orphans", "3")
    run = pyrunc.popen(
        "run", "--no-subreaper", "-b", made, pyrunc.id(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert run.stdout
    found = json.loads(run.stdout.readline())
    run.stdout.close()
    assert run.wait(20) == 0
    assert {entry["parent"] for entry in found} == {os.getpid()}  # the next subreaper up


def test_orphans_in_a_pid_namespace_are_inits(pyrunc, make):
    made = make(None, "/bin/probe", "orphans", "3")
    found = pyrunc("run", "-b", made, pyrunc.id(), stdin=subprocess.DEVNULL).json()
    assert {entry["parent"] for entry in found} == {1}


@pytest.mark.differs("1.1 waits for the hook, whatever it is sent")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_hangs_can_be_interrupted(pyrunc, make, gone, until, scratch, kind, number):
    # the last sees the container's files, the others those of the host
    begun = "" if kind == "startContainer" else str(scratch)
    script = f"echo >{begun}/begun; exec sleep 1000"
    made = make(lambda c: c.update(hooks={kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}), "/bin/true")
    id_ = pyrunc.id()
    command = pyrunc.popen("run", "-b", made, id_, stderr=subprocess.PIPE)
    until(((Path(begun) if begun else made.rootfs) / "begun").exists)
    command.send_signal(number)
    assert command.communicate(timeout=20)[1] == b"run %s: interrupted\n" % id_.encode()
    assert command.returncode == 130
    gone(pyrunc, id_, made)
