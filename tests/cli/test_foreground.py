"""Containers and execs with a terminal in the foreground: the caller's own terminal, made raw, is theirs."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios

import pytest


def terminal(user=None, size=None, **changes):
    def edit(config):
        config["process"]["terminal"] = True
        if user:
            config["process"]["user"] = {"uid": user, "gid": user}
        if size:
            config["process"]["consoleSize"] = {"height": size[0], "width": size[1]}
        config["process"].update(changes)

    return edit


def set_size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Foreground:
    """A command that runs in a session of its own with a pty of ours as its terminal."""

    def __init__(self, pyrunc, read_until, *words, size=(24, 80)):
        self.read_until = read_until
        self.master, slave = pty.openpty()
        set_size(self.master, *size)
        self.before = termios.tcgetattr(slave)

        def become_leader():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.child = pyrunc.popen(*words, stdin=slave, stdout=slave, stderr=slave, preexec_fn=become_leader)
        self.slave = slave
        self.is_closed = False

    def type(self, keys):
        os.write(self.master, keys)

    def until(self, what):
        return self.read_until(self.master, what, ended=lambda: self.child.poll() is not None)

    def resize(self, rows, columns):
        set_size(self.master, rows, columns)

    def end(self):
        """Exit status and the rest of the output; the terminal must be as it was."""
        os.set_blocking(self.master, True)
        status = self.child.wait(20)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        rest = self.read_until(self.master)
        os.close(self.master)
        self.is_closed = True
        return status, rest

    def close(self):
        """After a test that failed."""
        if not self.is_closed:
            os.close(self.slave)
            os.close(self.master)


@pytest.fixture
def foreground(pyrunc, read_until):
    made = []

    def foreground(*words, **more):
        made.append(Foreground(pyrunc, read_until, *words, **more))
        return made[-1]

    yield foreground
    for one in made:
        one.close()


@pytest.mark.differs("its program may run before the size is set")
def test_run_in_the_foreground(pyrunc, foreground, make):
    made = make(terminal(), "/bin/sh", "-c", "stty size; tty; read x; echo got $x; exit 3")
    front = foreground("run", "-b", made, pyrunc.id(), size=(33, 99))
    assert b"33 99\r\n/dev/pts/0\r\n" in front.until(b"pts/0\r\n")
    front.type(b"hello\r")
    front.until(b"got hello\r\n")
    assert front.end()[0] == 3


def test_output_of_the_last_moment_is_not_lost(pyrunc, foreground, make):
    made = make(terminal(), "/bin/sh", "-c", "seq 1 20000; echo the end")
    front = foreground("run", "-b", made, pyrunc.id())
    text = front.until(b"the end\r\n")
    assert text.count(b"\n") == 20001
    assert front.end()[0] == 0


def test_keys_that_mean_signals_go_to_the_container(pyrunc, foreground, make):
    made = make(terminal(), "/bin/probe", "trap", "2")
    front = foreground("run", "-b", made, pyrunc.id())
    front.until(b"ready\r\n")
    front.type(b"\x03")
    front.until(b"signal 2\r\n")
    assert front.end()[0] == 42


def test_end_of_input_is_the_containers_to_notice(pyrunc, foreground, make):
    made = make(terminal(), "/bin/sh", "-c", "cat; echo ended")
    front = foreground("run", "-b", made, pyrunc.id())
    front.type(b"line\r")
    front.until(b"line\r\nline\r\n")
    front.type(b"\x04")
    front.until(b"ended\r\n")
    assert front.end()[0] == 0


def test_a_new_size_arrives(pyrunc, foreground, make):
    made = make(terminal(), "/bin/probe", "tty", "watch")
    front = foreground("run", "-b", made, pyrunc.id(), size=(10, 20))
    assert b'"rows":10,"columns":20' in front.until(b"}\r\n")
    front.resize(50, 60)
    assert b'"rows":50,"columns":60' in front.until(b"}\r\n")
    front.type(b"\x04")
    assert front.end()[0] == 0


@pytest.mark.differs("its program may run before the size is set")
def test_console_size_does_not_hide_the_terminals_own(pyrunc, foreground, make):
    made = make(terminal(size=(11, 22)), "/bin/probe", "tty")
    front = foreground("run", "-b", made, pyrunc.id(), size=(44, 55))
    assert b'"rows":44,"columns":55' in front.until(b"}\r\n")
    assert front.end()[0] == 0


def test_fast_typing_into_a_container_that_does_not_read(pyrunc, foreground, make):
    made = make(terminal(), "/bin/sh", "-c", "stty raw -echo; echo go; head -c 60000 | wc -c")
    front = foreground("run", "-b", made, pyrunc.id())
    front.until(b"go")
    block, sent = b"x" * 1000, 0
    while sent < 60:
        _, writable, _ = select.select([], [front.master], [], 20)
        assert writable
        front.type(block)
        sent += 1
    front.until(b"60000")
    assert front.end()[0] == 0


def test_terminal_is_restored_when_the_container_is_killed(pyrunc, foreground, make):
    made, id_ = make(terminal(), "/bin/sh", "-c", "echo up; exec sleep 1000"), pyrunc.id()
    front = foreground("run", "-b", made, id_)
    front.until(b"up\r\n")
    pyrunc("kill", id_, "KILL")
    assert front.end()[0] == 137


# -- exec --------------------------------------------------------------------------------------------------------------


@pytest.mark.differs("its program may run before the size is set")
def test_exec_in_the_foreground(pyrunc, foreground, running):
    box = running()
    front = foreground("exec", "-t", box.id, "/bin/probe", "tty", "watch", size=(12, 34))
    first = front.until(b"}\r\n")
    assert b'"rows":12,"columns":34' in first and b'"tty":true' in first
    front.resize(70, 71)
    assert b'"rows":70,"columns":71' in front.until(b"}\r\n")
    front.type(b"\x04")
    assert front.end()[0] == 0
    front = foreground("exec", "-t", box.id, "/bin/probe", "trap", "2")
    front.until(b"ready\r\n")
    front.type(b"\x03")
    assert front.end()[0] == 42


def test_exec_cannot_reach_the_callers_terminal(pyrunc, foreground, running):
    """TIOCSTI and friends: a process that is not given the caller's terminal has no controlling terminal at all."""
    box = running()
    front = foreground("exec", box.id, "/bin/sh", "-c", "cat </dev/tty || echo none")
    front.until(b"none\r\n")
    assert front.end()[0] == 0


def test_signals_reach_a_run_with_a_terminal(pyrunc, foreground, make):
    made = make(terminal(), "/bin/probe", "trap", "15")
    front = foreground("run", "-b", made, pyrunc.id())
    front.until(b"ready\r\n")
    front.child.send_signal(signal.SIGTERM)
    assert front.end()[0] == 55
