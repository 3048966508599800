"""The attach socket, stdin and terminals of pyrunc-conmon, by clients that do what Podman's do, and by clients that do not."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conmon_caller import Client, Session, until

Make = Callable[..., Session]

CAT = ("/bin/sh", "-c", "cat; echo end")


@contextlib.contextmanager
def attached(box: Session, receive_bytes: int = 0) -> Iterator[Client]:
    client = box.attach(receive_bytes=receive_bytes)
    yield client
    client.close()


def rss(pid: int) -> int:
    """Resident memory in kB."""
    return int(re.findall(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[0])


def counted(count: int) -> bytes:
    """What `seq COUNT` prints."""
    return b"".join(b"%d\n" % number for number in range(1, count + 1))


def logged(box: Session) -> bytes:
    """The log's text: parts of lines put together."""
    return "".join(line + ("\n" if tag == "F" else "") for _, tag, line in box.lines()).encode()


def test_streams_are_told_apart(session: Make) -> None:
    box = session("/bin/sh", "-c", "echo out; echo err >&2")
    box.create()
    with attached(box) as client:
        box.start()
        assert client.read() == (b"out\n", b"err\n")
    assert box.status() == 0


def test_everybody_gets_everything(session: Make) -> None:
    box = session("/bin/sh", "-c", "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done")
    box.create()
    with attached(box) as one, attached(box) as two, attached(box) as three:
        # connected is not accepted yet: a word and its echo would need a stdin; the peer accepts one per turn too
        three.end_input()
        box.start()
        expected = b"".join(b"line %d\n" % number for number in range(500))
        assert one.read() == two.read() == three.read() == (expected, b"")
    assert box.status() == 0


def test_who_comes_late_gets_the_rest(session: Make) -> None:
    box = session("/bin/sh", "-c", "echo first; read line; echo second")
    box.create("-i")
    box.start()
    until(lambda: box.lines(), "the first line")
    with attached(box) as client:
        client.sock.send(b"go\n")
        assert client.read() == (b"second\n", b"")
    assert box.lines() == [("stdout", "F", "first"), ("stdout", "F", "second")]


def test_input_and_its_end(session: Make) -> None:
    box = session(*CAT)
    box.create("-i")
    box.start()
    with attached(box) as client:
        client.sock.send(b"one\n")
        assert client.read(enough=b"one\n")[0] == b"one\n"
        client.end_input()
        assert client.read()[0] == b"end\n"
    assert box.status() == 0


def test_a_client_that_is_gone_ends_the_input_too(session: Make) -> None:
    box = session(*CAT)
    box.create("-i")
    box.start()
    with attached(box) as client:
        client.sock.send(b"one\n")
        assert client.read(enough=b"one\n")[0] == b"one\n"
    assert box.status() == 0


def test_input_that_is_left_open(session: Make) -> None:
    box = session(*CAT)
    box.create("-i", "--leave-stdin-open")
    box.start()
    for number in range(3):
        with attached(box) as client:
            client.sock.send(b"word %d\n" % number)
            client.end_input()
            assert client.read(enough=b"\n")[0] == b"word %d\n" % number
    assert not (box.exits / box.id).exists()
    box.pyrunc("kill", box.id, "9")
    assert box.status() == 137


def test_without_stdin_there_is_nothing_to_read(session: Make) -> None:
    box = session("/bin/sh", "-c", "cat; echo end; cat <&0")
    assert box.run() == 0
    assert box.lines() == [("stdout", "F", "end")]


def test_much_input_into_a_slow_reader(session: Make) -> None:
    """More than pipe and socket hold; the container reads only later. Not a byte is lost, and none is kept here."""
    box = session("/bin/sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.01; done; md5sum; echo end")
    box.create("-i")
    box.start()
    block = bytes(range(256)) * 128
    with attached(box) as client:
        client.sock.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 100 * len(block):
                sent += client.sock.send(block)
        assert sent < 100 * len(block)
        (box.bundle.rootfs / "tmp" / "go").touch()
        client.sock.settimeout(30)
        while sent < 100 * len(block):
            sent += client.sock.send(block)
        client.end_input()
        out, _ = client.read()
    expected = subprocess.run(["md5sum"], input=block * 100, capture_output=True, check=True).stdout
    assert out == expected + b"end\n" and box.status() == 0


def test_a_client_that_does_not_read(ours: Make) -> None:
    """It holds the container up as a pipe would; nothing is lost, nothing piles up here, and the end is not delayed by it."""
    count = 200_000
    box = ours("/bin/sh", "-c", f"seq {count}; exit 5")
    box.create()
    with attached(box, receive_bytes=4096) as client, attached(box) as other:
        box.start()
        daemon = box.daemon()
        assert other.packet()[:3] == b"\x021\n"
        before = rss(daemon)
        with contextlib.suppress(TimeoutError):
            other.sock.settimeout(0.5)
            while other.packet():
                pass
        # the other one gets no more either: the container waits
        assert rss(daemon) < before + 1024 and not (box.exits / box.id).exists()
        other.close()
        out, _ = client.read()
    assert out == counted(count)
    assert box.status() == 5 and box.daemon_ended() == 5 and logged(box) == counted(count)


def test_a_client_that_stops_reading_and_goes(session: Make) -> None:
    box = session("/bin/sh", "-c", "seq 100000; exit 5")
    box.create()
    client = box.attach(receive_bytes=4096)
    box.start()
    assert client.packet()
    client.close()
    assert box.status() == 5 and logged(box) == counted(100000)


def test_the_end_is_told_while_a_client_has_yet_to_read(ours: Make) -> None:
    """Exit file and exit command do not wait for it; its last packets do."""
    box = ours("/bin/sh", "-c", "head -c 150000 /dev/zero; exit 5")
    note = box.place / "note"
    box.create("--exit-command", "/bin/touch", "--exit-command-arg", note)
    with attached(box) as client:
        box.start()
        assert box.status() == 5
        until(note.exists, "the exit command")
        out, _ = client.read()
    assert out == bytes(150000) and box.daemon_ended() == 5


def test_clients_that_come_and_go(session: Make) -> None:
    box = session("/bin/sh", "-c", "while :; do echo x; done")
    box.create()
    box.start()
    for _ in range(30):
        with attached(box) as client:
            assert client.packet()
    daemon = box.daemon()
    until(lambda: len(os.listdir(f"/proc/{daemon}/fd")) < 26, "their descriptors to be closed")
    box.pyrunc("kill", box.id, "9")
    assert box.status() == 137


# -- terminals -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(session: Make) -> Callable[..., Session]:
    def make(*args: str) -> Session:
        box = session(*args)
        box.bundle.config["process"]["terminal"] = True
        box.bundle.write()
        return box

    return make


def test_a_terminal(terminal: Make) -> None:
    box = terminal("/bin/sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo yes; read line; echo $line >&2")
    box.create("-t")
    with attached(box) as client:
        box.start()
        assert client.read(enough=b"\n")[0] == b"yes\r\n"
        client.sock.send(b"typed\n")
        out, err = client.read()
    # the echo, then the line: all of a terminal is standard output
    assert out == b"typed\r\ntyped\r\n" and err == b""
    assert box.status() == 0
    # a kernel may hand out the echo and its line's end one after the other, which makes a line of two parts in the log
    assert logged(box) == b"yes\r\ntyped\r\ntyped\r\n"
    assert {stream for stream, _, _ in box.lines()} == {"stdout"}


def test_a_terminals_size(terminal: Make) -> None:
    script = "echo ready; while [ ! -e /tmp/end ]; do sleep 0.01; done"
    box = terminal("/bin/sh", "-c", script)
    box.create("-t")
    box.start()
    until(lambda: "ready" in box.log.read_text(), "the container")
    with (box.directory / "ctl").open("w") as ctl:
        ctl.write("1 24 80\n")
    pid = int(box.pid_file.read_text())
    until(lambda: size(pid) == "24 80", "the size")
    with (box.directory / "winsz").open("w") as winsz:
        winsz.write("25 81\n")
    until(lambda: size(pid) == "25 81", "the other size")
    (box.bundle.rootfs / "tmp" / "end").touch()
    assert box.status() == 0


def size(pid: int) -> str:
    """A terminal's size, asked of the container's descriptor."""
    import fcntl
    import struct
    import termios

    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NOCTTY)
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    finally:
        os.close(fd)
    return f"{rows} {columns}"


def test_an_execs_terminal_has_its_size_from_the_start(session: Make) -> None:
    """Podman writes it before the process, and so the terminal, is there."""
    box = session("/bin/sleep", "1000")
    box.create()
    box.start()
    one = box.exec("/bin/sh", "-c", "echo ready; read line; echo $line; exit 4", terminal=True)
    one.begin(one.exec_argv("-t", "--exec-attach"))
    one.go()
    assert one.attach_pipe is not None and one.attach_pipe.recv(100) == b'{"data": 0}\n'
    (one.directory / "ctl").write_text("1 30 90\n")
    with attached(one) as client:
        one.go()
        pid = (one.answer() or {})["data"]
        assert client.read(enough=b"ready\r\n")[0] == b"ready\r\n"
        until(lambda: size(pid) == "30 90", "the size")
        client.sock.send(b"bye\n")
        assert client.read()[0] == b"bye\r\nbye\r\n"
    assert one.answer() == {"data": 4}


def test_what_is_typed_before_the_terminal_is_there(ours: Make) -> None:
    box = ours("/bin/sleep", "1000")
    box.create()
    box.start()
    one = box.exec("/bin/sh", "-c", "read line; echo got $line", terminal=True)
    one.begin(one.exec_argv("-t", "--exec-attach"))
    one.go()
    assert one.attach_pipe is not None and one.attach_pipe.recv(100) == b'{"data": 0}\n'
    with attached(one) as client:
        client.sock.send(b"early\n")
        one.go()
        assert b"got early" in client.read(enough=b"got early")[0]
    assert (one.answer() or {})["data"] > 0 and one.answer() == {"data": 0}


def test_nonsense_on_the_fifos_harms_nobody(session: Make) -> None:
    box = session("/bin/sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done")
    box.create()
    box.start()
    until(lambda: box.log.exists() and "ready" in box.log.read_text(), "the container")
    for name in ("ctl", "winsz"):
        for line in (b"\n", b"nonsense\n", b"9 9 9\n", b"1 2\n", b"-1 -1 -1\n"):
            with (box.directory / name).open("wb") as fifo:
                fifo.write(line)
    os.kill(box.daemon(), 15)
    assert box.status() == 3
