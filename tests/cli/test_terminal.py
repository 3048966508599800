"""Terminals: handed over through a console socket, or the caller's own in the foreground."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import termios
import time

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


class Receiver:
    """An engine's end of a console socket."""

    def __init__(self, path, backlog=1):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(os.path.dirname(path), os.O_PATH)
        self.sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        os.close(directory)
        self.sock.listen(backlog)
        self.sock.settimeout(20)

    def receive(self):
        """The one descriptor of the one message, checked as go-runc does it."""
        peer, _ = self.sock.accept()
        with peer:
            peer.settimeout(20)
            data, ancillary, flags, _ = peer.recvmsg(4096, socket.CMSG_SPACE(64))
            assert 0 < len(data) < 4096 and not flags & socket.MSG_CTRUNC
            ((level, kind, raw),) = ancillary
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds = array.array("i", raw)
            assert len(fds) == 1
            assert peer.recv(1) == b""
        return fds[0]

    def close(self):
        self.sock.close()


@pytest.fixture
def receiver(scratch):
    made = []

    def receiver(path=None, **more):
        made.append(Receiver(str(path or scratch / f"console{len(made)}.sock"), **more))
        return made[-1]

    yield receiver
    for one in made:
        one.close()


def read_until(fd, what=None, timeout=20, ended=lambda: False):
    """What comes out of a pty until `what` is in it, or until its end."""
    got = b""
    deadline = time.monotonic() + timeout
    while what is None or what not in got:
        is_last = ended()
        ready, _, _ = select.select([fd], [], [], 0 if is_last else 0.1)
        if not ready:
            assert not is_last, f"ended with {got!r}"
            assert time.monotonic() < deadline, f"only {got!r} within {timeout} s"
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: every other end is closed
            data = b""
        if not data:
            assert what is None, f"ended with {got!r}"
            return got
        got += data
    return got


def set_size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


# -- the console socket ------------------------------------------------------------------------------------------------


def test_master_is_sent_to_the_console_socket(pyrunc, make, receiver):
    made, id_ = (
        make(terminal(size=(40, 101)), "/bin/sh", "-c", "read line; echo got $line; /bin/probe tty"),
        pyrunc.id(),
    )
    server = receiver()
    pyrunc("create", "-b", made, "--console-socket", server.path, id_)
    # only now, as containerd does it: create must not have waited for an answer
    master = server.receive()
    assert os.isatty(master)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    os.write(master, b"hello\n")
    text = read_until(master, b"}\r\n").decode()
    found = json.loads(text[text.index("{") :])
    assert text.startswith("hello\r\ngot hello\r\n")
    assert (found["rows"], found["columns"]) == (40, 101)
    assert found["name"] == "/dev/pts/0" and found["echo"] and found["icanon"] and found["isig"]
    assert pyrunc.wait(pid) == 0
    os.close(master)


def test_terminal_in_the_container(pyrunc, make, receiver):
    made, id_ = make(terminal(user=1000), "/bin/probe", "report"), pyrunc.id()
    made.config["mounts"].append({"destination": "/out", "type": "bind", "source": str(made.path), "options": ["bind"]})
    made.config["process"]["args"] = ["/bin/sh", "-c", "/bin/probe report >/out/report"]
    made.write()
    os.chmod(made.path, 0o777)
    server = receiver()
    pyrunc("create", "-b", made, "--console-socket", server.path, id_)
    master, pid = server.receive(), pyrunc.pid(id_)
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 0
    os.close(master)
    found = json.loads((made.path / "report").read_text())
    assert found["stdin"]["tty"] and found["stdin"]["name"] == "/dev/pts/0"
    assert (found["stdin"]["session"], found["stdin"]["foreground"]) == (1, 1)
    console, null = found["devices"]["console"], found["devices"]["null"]
    assert console["type"] == "char" and console["rdev"][0] == 136 and console["uid"] == 1000
    assert null["rdev"] == [1, 3]
    links = {entry["fd"]: entry["link"] for entry in found["fds"]}
    assert links[0] == links[2] == "/dev/pts/0" and set(links) == {0, 1, 2}
    assert [m["type"] for m in found["mounts"] if m["point"] == "/dev/console"] == ["devpts"]


def test_the_pty_is_of_the_containers_devpts(pyrunc, make, receiver):
    made, id_ = make(terminal(), "/bin/probe", "sleep", "1000"), pyrunc.id()
    server = receiver()
    pyrunc("create", "-b", made, "--console-socket", server.path, id_)
    master = server.receive()
    inside = os.stat(f"/proc/{pyrunc.pid(id_)}/root/dev/pts").st_dev
    assert os.fstat(master).st_dev == inside != os.stat("/dev/pts").st_dev
    os.close(master)


def test_hanging_up_ends_the_session(pyrunc, make, receiver):
    made, id_ = make(terminal(), "/bin/probe", "trap", "1"), pyrunc.id()
    server = receiver()
    pyrunc("run", "-d", "-b", made, "--console-socket", server.path, id_)
    master = server.receive()
    read_until(master, b"ready")
    pid = pyrunc.pid(id_)
    os.close(master)
    assert pyrunc.wait(pid) == 41


@pytest.mark.differs("it can only connect to short paths")
def test_socket_with_a_long_path(pyrunc, make, receiver, scratch):
    directory = scratch / ("long" * 30) / ("longer" * 20)
    directory.mkdir(parents=True)
    server = receiver(directory / "console.sock")
    made, id_ = make(terminal(), "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, "--console-socket", server.path, id_)
    os.close(server.receive())


@pytest.mark.differs("it takes it from the bundle on")
def test_socket_by_a_relative_path(pyrunc, make, receiver, scratch):
    server = receiver(scratch / "c.sock")
    made, id_ = make(terminal(), "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, "--console-socket", "c.sock", id_, cwd=scratch)
    os.close(server.receive())


def test_socket_that_is_not_there(refused, scratch):
    refused(
        terminal(),
        "no such file or directory",
        str(scratch / "none"),
        options=("--console-socket", str(scratch / "none")),
    )


def test_socket_that_nobody_listens_on(refused, scratch):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(scratch / "dead"))
    refused(terminal(), "connection refused", options=("--console-socket", str(scratch / "dead")))
    dead.close()
    (scratch / "file").write_text("")
    refused(terminal(), "connection refused", options=("--console-socket", str(scratch / "file")))


@pytest.mark.differs("it waits for ever")
@pytest.mark.slow
def test_socket_whose_backlog_is_full(refused, receiver):
    server = receiver(backlog=0)
    waiting = []
    for _ in range(4):
        peer = socket.socket(socket.AF_UNIX)
        peer.setblocking(False)
        waiting.append(peer)
        try:
            peer.connect(server.path)
        except BlockingIOError:
            break
    else:
        pytest.fail("the backlog never got full")
    refused(terminal(), server.path, options=("--console-socket", server.path))
    for peer in waiting:
        peer.close()


def test_terminal_and_no_socket(refused):
    refused(terminal(), "cannot allocate tty if runc will detach without setting console socket")


def test_socket_and_no_terminal(refused, receiver):
    server = receiver()
    refused(
        None,
        "cannot use console socket if runc will not detach or allocate tty",
        options=("--console-socket", server.path),
    )


def test_pidfd_socket(pyrunc, make, receiver, until, peer):
    if peer == "runc":
        return  # 1.1 has no such option
    made, id_ = make(None, "/bin/probe", "exit", "4"), pyrunc.id()
    server = receiver()
    pyrunc("create", "-b", made, "--pidfd-socket", server.path, id_)
    pidfd, pid = server.receive(), pyrunc.pid(id_)
    assert f"Pid:\t{pid}\n" in open(f"/proc/self/fdinfo/{pidfd}").read()
    pyrunc("start", id_)
    assert select.select([pidfd], [], [], 20)[0]
    assert pyrunc.wait(pid) == 4
    os.close(pidfd)


# -- in the foreground -------------------------------------------------------------------------------------------------


class Foreground:
    """A command that runs in a session of its own with a pty of ours as its terminal."""

    def __init__(self, pyrunc, *words, size=(24, 80)):
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
        return read_until(self.master, what, ended=lambda: self.child.poll() is not None)

    def resize(self, rows, columns):
        set_size(self.master, rows, columns)

    def end(self):
        """Exit status and the rest of the output; the terminal must be as it was."""
        os.set_blocking(self.master, True)
        status = self.child.wait(20)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        rest = read_until(self.master)
        os.close(self.master)
        self.is_closed = True
        return status, rest

    def close(self):
        """After a test that failed."""
        if not self.is_closed:
            os.close(self.slave)
            os.close(self.master)


@pytest.fixture
def foreground(pyrunc):
    made = []

    def foreground(*words, **more):
        made.append(Foreground(pyrunc, *words, **more))
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


def test_exec_with_a_console_socket(pyrunc, foreground, running, receiver, scratch):
    box = running()
    server = receiver()
    process = box.process(
        terminal=True, args=["/bin/probe", "tty"], consoleSize={"height": 5, "width": 6}, user={"uid": 7, "gid": 7}
    )
    pyrunc("exec", "-d", "--pid-file", scratch / "pid", "--console-socket", server.path, "-p", process, box.id)
    master = server.receive()
    text = read_until(master, b"}\r\n")
    assert b'"rows":5,"columns":6' in text and b'"name":"/dev/pts/0"' in text
    assert pyrunc.wait(int((scratch / "pid").read_text())) == 0
    os.close(master)


def test_exec_detached_needs_a_console_socket(pyrunc, foreground, running):
    box = running()
    error = pyrunc.fails("exec", "-d", "-t", box.id, "/bin/true", status=255)
    assert "cannot allocate tty if runc will detach without setting console socket" in error


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
