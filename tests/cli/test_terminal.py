"""Terminals that are handed over through a console socket, as engines do it. In the foreground: test_foreground.py."""

from __future__ import annotations

import json
import os
import select
import socket

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


# -- the console socket ------------------------------------------------------------------------------------------------


def test_master_is_sent_to_the_console_socket(read_until, pyrunc, make, receiver):
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


def test_hanging_up_ends_the_session(read_until, pyrunc, make, receiver):
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


def test_exec_with_a_console_socket(read_until, pyrunc, running, receiver, scratch):
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


def test_exec_detached_needs_a_console_socket(pyrunc, running):
    box = running()
    error = pyrunc.fails("exec", "-d", "-t", box.id, "/bin/true", status=255)
    assert "cannot allocate tty if runc will detach without setting console socket" in error
