"""Console sockets: a master from a runtime, from one that is no good, and what is left of either; the size of a terminal."""

from __future__ import annotations

import array
import fcntl
import os
import pty
import socket
import stat
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.console import ConsoleSocket, resize
from shim.engine import Answer, Engine
from shim.loop import Loop
from shim.reaper import Reaper

Until = Callable[..., None]


@pytest.fixture
def received() -> Iterator[list[int]]:
    masters: list[int] = []
    yield masters
    for fd in masters:
        os.close(fd)


@pytest.fixture
def console(loop: Loop, received: list[int]) -> Iterator[ConsoleSocket]:
    made = ConsoleSocket(loop, received.append)
    yield made
    made.close()


def send(path: str, *fds: int) -> None:
    """As a runtime does it: one message with the pty's name, no answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(path)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        peer.sendmsg([b"/dev/pts/0"], control)


def test_a_master_is_received(loop: Loop, until: Until, console: ConsoleSocket, received: list[int]) -> None:
    master, slave = pty.openpty()
    send(console.path, master)
    os.close(master)
    until(lambda: received)
    os.write(slave, b"hello")
    assert os.read(received[0], 100) == b"hello"
    assert not os.get_blocking(received[0])
    assert not os.get_inheritable(received[0])
    os.close(slave)


def test_it_can_be_collected_without_waiting(console: ConsoleSocket, received: list[int]) -> None:
    """The runtime's exit may be known before the message: it is there, since the runtime sent it before it ended."""
    assert not console.collect()
    master, slave = pty.openpty()
    send(console.path, master)
    assert console.collect()
    assert len(received) == 1
    assert console.collect(), "it was received before"
    assert len(received) == 1
    os.close(master)
    os.close(slave)


def test_what_is_no_terminal_is_not_taken(
    loop: Loop, until: Until, console: ConsoleSocket, received: list[int]
) -> None:
    """Without a descriptor, with two, with a file: each is closed, and the right one may still come."""
    master, slave = pty.openpty()
    with open("/dev/null") as null:
        send(console.path)
        send(console.path, null.fileno())
        send(console.path, master, master)
        # and one who only connects
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(console.path)
        assert not console.collect()
        for _ in range(4):
            loop.turn()
        assert not received
    send(console.path, master)
    until(lambda: received)
    os.close(master)
    os.close(slave)


def test_a_second_master_is_not_taken(until: Until, console: ConsoleSocket, received: list[int]) -> None:
    master, slave = pty.openpty()
    send(console.path, master)
    send(console.path, master)
    until(lambda: received)
    console.collect()
    console.collect()
    assert len(received) == 1
    os.close(master)
    os.close(slave)


def test_only_we_may_connect_and_nothing_stays(loop: Loop) -> None:
    console = ConsoleSocket(loop, lambda master: None)
    place = os.path.dirname(console.path)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
    assert len(console.path) < 100, "an address has room for 107 bytes"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(console.path)
        console.collect()
        console.close()
    assert not os.path.exists(place)
    console.close()


def test_a_container_with_a_terminal(
    pyrunc: Any, bundle: Callable[..., Any], loop: Loop, reaper: Reaper, until: Until, received: list[int]
) -> None:
    """With the real runtime: the master arrives, has the size that is given to it, and what is written comes out of it."""
    made = bundle("/bin/sh", "-c", "stty size; echo done")
    made.config["process"]["terminal"] = True
    made.write()
    engine = Engine(loop, reaper, options=("--root", str(pyrunc.root)))
    console = ConsoleSocket(loop, received.append)
    name, pid_file = pyrunc.id(), made.path / "pid"
    answers: list[Answer] = []
    ends: list[int] = []

    def created(answer: Answer) -> None:
        answers.append(answer)
        if answer.status == 0:
            reaper.expect(int(pid_file.read_text()), lambda status, at_ns: ends.append(status))

    words = ["create", "--bundle", str(made), "--pid-file", str(pid_file), "--console-socket", console.path, name]
    engine.call(words, created)
    until(lambda: answers)
    assert answers[0].status == 0, answers[0].err
    assert console.collect()
    console.close()
    resize(received[0], 123, 45)
    engine.call(["start", name], answers.append)
    until(lambda: ends and len(answers) == 2)
    assert answers[1].status == 0, answers[1].err
    assert read_all(received[0]) == b"45 123\r\ndone\r\n"
    engine.call(["delete", name], answers.append)
    until(lambda: len(answers) == 3)


def read_all(master: int) -> bytes:
    """What a terminal still holds after everybody has left it."""
    data = b""
    try:
        while piece := os.read(master, 4096):
            data += piece
    except OSError:
        pass
    return data


def test_resize(scratch: Path) -> None:
    master, slave = pty.openpty()
    resize(master, 80, 24)
    assert struct.unpack("HHHH", fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8))) == (24, 80, 0, 0)
    os.close(master)
    os.close(slave)
