"""Copying: every byte arrives, nobody who stops or leaves costs memory, time or our life; pipes, fifos and files of clients."""

from __future__ import annotations

import errno
import hashlib
import os
import pty
import select
import signal
import socket
import stat
import threading
import tty
from collections.abc import Callable
from pathlib import Path

import pytest

from shim import stdio, targets
from shim.loop import Loop
from shim.stdio import Copy

Until = Callable[..., None]
Ends = list[tuple[int, int]]


def noted(ends: Ends) -> Callable[[int, int], None]:
    return lambda count, errno: ends.append((count, errno))


def pattern(length: int) -> bytes:
    """Bytes of which no part looks like another."""
    return b"".join(hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(length // 32 + 1))[:length]


class Reader(threading.Thread):
    """Somebody at the other end, who reads to the end."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self.fd, self.data = fd, b""
        self.start()

    def run(self) -> None:
        while piece := os.read(self.fd, 1 << 20):
            self.data += piece


class Writer(threading.Thread):
    def __init__(self, fd: int, data: bytes, piece: int = 1 << 20) -> None:
        super().__init__(daemon=True)
        self.fd, self.data, self.piece = fd, data, piece
        self.start()

    def run(self) -> None:
        view = memoryview(self.data)
        while view:
            view = view[os.write(self.fd, view[: self.piece]) :]
        os.close(self.fd)


def pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC)


# -- every byte ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_every_byte_arrives_through_a_fifo(loop: Loop, until: Until, scratch: Path, piece: int) -> None:
    data = pattern(20_000 if piece < 4096 else 5_000_000)
    os.mkfifo(scratch / "fifo")
    fd, keeper = targets.open_fifo_for_writing(str(scratch / "fifo"))
    client = os.open(scratch / "fifo", os.O_RDONLY)
    source, write_fd = pipe()
    ends: Ends = []
    copy = Copy(loop, source, fd, noted(ends), close_sink=True)
    reader, writer = Reader(client), Writer(write_fd, data, piece)
    until(lambda: ends)
    os.close(keeper)
    reader.join()
    writer.join()
    os.close(client)
    assert ends == [(len(data), 0)]
    assert copy.count == len(data)
    assert reader.data == data


def test_every_byte_arrives_in_a_file_that_is_appended_to(loop: Loop, until: Until, scratch: Path) -> None:
    """Where the kernel does not splice (O_APPEND); what was there stays."""
    data = pattern(3_000_000)
    path = scratch / "a/b/log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"before")
    source, write_fd = pipe()
    ends: Ends = []
    Copy(loop, source, targets.open_file_for_appending(str(path)), noted(ends), close_sink=True)
    writer = Writer(write_fd, data)
    until(lambda: ends)
    writer.join()
    assert ends == [(len(data), 0)]
    assert path.read_bytes() == b"before" + data


def test_from_and_to_a_socket(loop: Loop, until: Until) -> None:
    data = pattern(2_000_000)
    (ours, theirs), (back, far) = socket.socketpair(), socket.socketpair()
    ends: Ends = []
    Copy(loop, ours.fileno(), back.fileno(), noted(ends), close_source=False)
    writer, reader = Writer(theirs.detach(), data), Reader(far.fileno())
    until(lambda: ends)
    ours.close(), back.close()
    writer.join(), reader.join()
    far.close()
    assert ends == [(len(data), 0)]
    assert reader.data == data


def test_from_a_file(loop: Loop, until: Until, scratch: Path) -> None:
    """A regular file cannot be waited for; it is read as fast as the other side takes it."""
    data = pattern(1_000_000)
    (scratch / "file").write_bytes(data)
    read_fd, sink = pipe()
    reader = Reader(read_fd)
    ends: Ends = []
    Copy(loop, os.open(scratch / "file", os.O_RDONLY | os.O_CLOEXEC), sink, noted(ends), close_sink=True)
    until(lambda: ends)
    reader.join()
    os.close(read_fd)
    assert ends == [(len(data), 0)]
    assert reader.data == data


def test_a_terminal_both_ways(loop: Loop, until: Until) -> None:
    """One master is the source of one copy and the sink of another; everybody's leaving is an end and no error."""
    data = pattern(200_000).hex().encode()
    master, slave = pty.openpty()
    tty.setraw(slave)
    out_read, out = pipe()
    source, typed = pipe()
    output: Ends = []
    input: Ends = []
    Copy(loop, master, out, noted(output), close_source=False, close_sink=True)
    Copy(loop, source, master, noted(input))
    reader = Reader(out_read)
    writer = Writer(typed, data)
    echoed = threading.Thread(target=lambda: echo(slave, len(data)), daemon=True)
    echoed.start()
    until(lambda: output and input)
    for thread in (reader, writer, echoed):
        thread.join()
    os.close(master)
    os.close(out_read)
    assert input == [(len(data), 0)]
    assert output == [(len(data), 0)]
    assert reader.data == data


def echo(slave: int, length: int) -> None:
    """A program in the terminal: it says again what is typed, then leaves."""
    while length:
        piece = os.read(slave, 1000)
        length -= len(piece)
        while piece:
            piece = piece[os.write(slave, piece) :]
    os.close(slave)


# -- those who stop, and those who leave -------------------------------------------------------------------------------------


@pytest.mark.parametrize("appends", [False, True])
def test_a_reader_who_stops_holds_the_writer_up_and_costs_nothing(loop: Loop, scratch: Path, appends: bool) -> None:
    """Neither is memory used nor the processor: the loop comes to rest, and what is not read stays with the writer."""
    os.mkfifo(scratch / "fifo")
    fd, keeper = targets.open_fifo_for_writing(str(scratch / "fifo"))
    source, write_fd = pipe()
    os.set_blocking(write_fd, False)
    ends: Ends = []
    copy = Copy(loop, source, fd, noted(ends), close_sink=True)
    copy._is_splicing = not appends
    written, is_stuck = 0, False
    data = pattern(1 << 16)
    while not is_stuck:
        is_stuck = True
        try:
            while True:
                written += os.write(write_fd, data)
                is_stuck = False
        except BlockingIOError:
            pass
        rest = False

        def rested() -> None:
            nonlocal rest
            rest = True

        loop.later(0.02, rested)
        turns = 0
        while not rest:
            loop.turn()
            turns += 1
        assert turns < 50, "it spins"
    assert written <= 3 * (1 << 16) + 4096, "the pipe, the fifo and one buffer"
    read = b""
    while len(read) < written:
        try:
            read += os.read(keeper, 1 << 16)
        except BlockingIOError:
            loop.turn()
    assert read == (data * 4)[:written]
    os.close(write_fd)
    while not ends:
        loop.turn()
    assert ends == [(written, 0)]
    os.close(keeper)


@pytest.mark.parametrize("splices", [True, False])
def test_a_reader_who_leaves_is_an_error_and_not_our_end(loop: Loop, until: Until, splices: bool) -> None:
    """EPIPE and no SIGPIPE; the writer is told in turn, as the pipe it writes to is closed."""
    source, write_fd = pipe()
    read_fd, sink = pipe()
    ends: Ends = []
    copy = Copy(loop, source, sink, noted(ends), close_sink=True)
    copy._is_splicing = splices
    os.close(read_fd)
    os.write(write_fd, b"to nobody")
    until(lambda: ends)
    assert ends == [(0, errno.EPIPE)]
    with pytest.raises(BrokenPipeError):
        os.write(write_fd, b"x")
    os.close(write_fd)


def test_a_reader_who_leaves_while_the_sink_is_full(loop: Loop, until: Until) -> None:
    source, write_fd = pipe()
    read_fd, sink = pipe()
    os.set_blocking(sink, False)
    os.write(sink, bytes(1 << 16))
    ends: Ends = []
    Copy(loop, source, sink, noted(ends), close_sink=True)
    os.write(write_fd, b"late")
    loop.turn()
    assert not ends
    os.close(read_fd)
    until(lambda: ends)
    assert ends == [(0, errno.EPIPE)]
    os.close(write_fd)


def test_a_client_may_go_and_another_come(loop: Loop, until: Until, scratch: Path) -> None:
    """The keeper holds what nobody has read for the next one."""
    os.mkfifo(scratch / "fifo")
    fd, keeper = targets.open_fifo_for_writing(str(scratch / "fifo"))
    source, write_fd = pipe()
    ends: Ends = []
    Copy(loop, source, fd, noted(ends), close_sink=True)
    for word in (b"first", b"second"):
        client = os.open(scratch / "fifo", os.O_RDONLY)
        os.write(write_fd, word)
        loop.turn()
        assert os.read(client, 100) == word
        os.close(client)
    os.write(write_fd, b"nobody is there")
    os.close(write_fd)
    until(lambda: ends)
    assert os.read(keeper, 100) == b"nobody is there"
    os.close(keeper)


def test_what_nobody_has_read_is_held(loop: Loop, until: Until, scratch: Path) -> None:
    """Also where somebody has it open by now: he may give up what he has only just got."""
    os.mkfifo(scratch / "fifo")
    fd, keeper = targets.open_fifo_for_writing(str(scratch / "fifo"))
    os.write(fd, b"said")
    ends: list[bool] = []
    parting = targets.Parting(loop, fd, keeper, lambda: ends.append(True))
    loop.turn()
    assert not ends and not parting.is_over
    client = os.open(scratch / "fifo", os.O_RDONLY)
    for _ in range(3):
        loop.turn()
    assert not ends
    assert os.read(client, 100) == b"said"
    until(lambda: ends)
    assert ends == [True] and parting.is_over
    assert os.read(client, 100) == b""
    os.close(client)


@pytest.mark.parametrize("data", [b"", b"said"])
def test_where_there_is_nothing_to_read_nothing_is_held(loop: Loop, scratch: Path, data: bytes) -> None:
    os.mkfifo(scratch / "fifo")
    fd, keeper = targets.open_fifo_for_writing(str(scratch / "fifo"))
    client = os.open(scratch / "fifo", os.O_RDONLY) if data else -1
    os.write(fd, data)
    if data:
        assert os.read(client, 100) == data
    ends: list[bool] = []
    assert targets.Parting(loop, fd, keeper, lambda: ends.append(True)).is_over
    assert ends == [True]
    if data:
        assert os.read(client, 100) == b""
        os.close(client)


def test_nobody_is_waited_for_longer_than_that(loop: Loop, until: Until, scratch: Path) -> None:
    os.mkfifo(scratch / "fifo")
    fd, keeper = targets.open_fifo_for_writing(str(scratch / "fifo"))
    os.write(fd, b"said")
    ends: list[bool] = []
    parting = targets.Parting(loop, fd, keeper, lambda: ends.append(True))
    parting.limit(0.05)
    until(lambda: ends)
    assert parting.is_over
    parting.close()
    assert ends == [True]


def test_a_disk_that_is_full(loop: Loop, until: Until) -> None:
    source, write_fd = pipe()
    ends: Ends = []
    Copy(loop, source, os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC), noted(ends), close_sink=True)
    os.write(write_fd, b"x")
    until(lambda: ends)
    assert ends == [(0, errno.ENOSPC)]
    os.close(write_fd)


def test_a_fifo_nobody_has_opened_has_not_ended(loop: Loop, until: Until, scratch: Path) -> None:
    """Input waits for its first writer, and with a writer of ours for the next ones too."""
    os.mkfifo(scratch / "fifo")
    source = targets.open_fifo_for_reading(str(scratch / "fifo"))
    read_fd, sink = pipe()
    ends: Ends = []
    Copy(loop, source, sink, noted(ends), close_sink=True)
    rested: list[int] = []
    loop.later(0.05, lambda: rested.append(1))
    until(lambda: rested)
    assert not ends
    held = targets.hold_fifo(str(scratch / "fifo"))
    for word in (b"first", b"second"):
        client = os.open(scratch / "fifo", os.O_WRONLY)
        os.write(client, word)
        os.close(client)
        loop.turn()
        assert os.read(read_fd, 100) == word
    assert not ends
    os.close(held)
    until(lambda: ends)
    assert ends == [(11, 0)]
    assert os.read(read_fd, 1) == b"", "the container is told of the end"
    os.close(read_fd)


def test_what_others_hold_too_stays_as_it_was(loop: Loop, until: Until) -> None:
    """A shell's terminal must not be made non-blocking: the flag is the open file's, and the shell's next."""
    read_fd, sink = pipe()
    source, write_fd = pipe()
    ends: Ends = []
    Copy(loop, source, sink, noted(ends))
    os.write(write_fd, b"x")
    os.close(write_fd)
    until(lambda: ends)
    assert os.get_blocking(sink)
    os.close(sink)
    assert os.read(read_fd, 10) == b"x"
    os.close(read_fd)


# -- the end of the process, but not of its output -----------------------------------------------------------------------------


@pytest.mark.parametrize("splices", [True, False])
def test_draining_takes_what_is_there_and_waits_for_nobody(loop: Loop, until: Until, splices: bool) -> None:
    """Somebody still holds the pipe, and writes nothing."""
    source, write_fd = pipe()
    read_fd, sink = pipe()
    ends: Ends = []
    copy = Copy(loop, source, sink, noted(ends), close_sink=True)
    copy._is_splicing = splices
    data = pattern(60_000)
    os.write(write_fd, data)
    copy.drain_and_close()
    copy.drain_and_close()
    assert not ends, "told from the loop"
    until(lambda: ends)
    assert ends == [(len(data), 0)]
    assert os.read(read_fd, 1 << 20) == data
    assert os.read(read_fd, 1) == b"", "the client is told of the end"
    os.close(read_fd)
    with pytest.raises(BrokenPipeError):
        os.write(write_fd, b"later")
    os.close(write_fd)


def test_draining_a_pipe_larger_than_the_client_takes_at_once(loop: Loop, until: Until) -> None:
    source, write_fd = pipe()
    read_fd, sink = pipe()
    ends: Ends = []
    copy = Copy(loop, source, sink, noted(ends), close_sink=True)
    os.set_blocking(write_fd, False)
    data = pattern(1 << 16)
    written = os.write(write_fd, data)
    loop.turn()
    written += os.write(write_fd, data)
    copy.drain_and_close()
    reader = Reader(read_fd)
    until(lambda: ends)
    reader.join()
    os.close(read_fd)
    os.close(write_fd)
    assert ends == [(written, 0)]
    assert reader.data == (data + data)[:written]


def test_draining_gives_up_on_who_takes_nothing(loop: Loop, until: Until) -> None:
    source, write_fd = pipe()
    read_fd, sink = pipe()
    os.set_blocking(sink, False)
    os.write(sink, bytes(1 << 16))
    ends: Ends = []
    copy = Copy(loop, source, sink, noted(ends), close_sink=True)
    os.write(write_fd, b"never taken")
    copy.drain_and_close(limit_s=0.05)
    until(lambda: ends)
    assert ends == [(0, errno.ETIMEDOUT)]
    os.close(read_fd)
    os.close(write_fd)


def test_draining_waits_for_who_is_slow(loop: Loop, until: Until) -> None:
    """The limit is on a sink that takes nothing, and not on the time that everything takes."""
    source, write_fd = pipe()
    read_fd, sink = pipe()
    os.set_blocking(sink, False)
    os.write(sink, bytes(1 << 16))
    os.write(write_fd, bytes(1 << 16))
    ends: Ends = []
    copy = Copy(loop, source, sink, noted(ends), close_sink=True)
    limit_s, steps = 1.0, 8

    def read() -> None:
        os.read(read_fd, (1 << 16) // steps)
        if not ends:
            loop.later(limit_s * 1.5 / steps, read)

    read()
    copy.drain_and_close(limit_s)
    until(lambda: ends)
    assert ends == [(1 << 16, 0)]
    os.close(read_fd)
    os.close(write_fd)


def test_closing_tells_nobody(loop: Loop) -> None:
    source, write_fd = pipe()
    read_fd, sink = pipe()
    ends: Ends = []
    copy = Copy(loop, source, sink, noted(ends), close_sink=True)
    copy.drain_and_close()
    copy.close()
    copy.close()
    loop.turn()
    assert not ends
    with pytest.raises(BrokenPipeError):
        os.write(write_fd, b"x")
    assert os.read(read_fd, 1) == b""
    os.close(write_fd)
    os.close(read_fd)


# -- pipes and targets -----------------------------------------------------------------------------------------------------------


def test_pipes_belong_to_the_processs_user() -> None:
    pipes = stdio.Pipes(1234, 5678)
    for fd in (pipes.stdin, pipes.stdout, pipes.stderr):
        found = os.fstat(fd)
        assert (found.st_uid, found.st_gid) == (1234, 5678)
        assert os.get_blocking(fd), "the process expects ordinary descriptors"
        assert not os.get_inheritable(fd)
    for fd in (pipes.to_stdin, pipes.from_stdout, pipes.from_stderr):
        assert not os.get_blocking(fd)
    os.write(pipes.to_stdin, b"in")
    assert os.read(pipes.stdin, 10) == b"in"
    os.write(pipes.stdout, b"out")
    os.write(pipes.stderr, b"err")
    pipes.close_theirs()
    assert os.read(pipes.from_stdout, 10) + os.read(pipes.from_stderr, 10) == b"outerr"
    assert os.read(pipes.from_stdout, 10) == b""
    pipes.close()
    pipes.close()


def test_pipes_only_where_wanted() -> None:
    pipes = stdio.Pipes(has_stdin=False, has_stderr=False)
    assert [pipes.stdin, pipes.to_stdin, pipes.stderr, pipes.from_stderr] == [-1] * 4
    assert pipes.stdout >= 0
    pipes.close()


def test_a_file_is_made_with_its_directories(scratch: Path) -> None:
    path = scratch / "new/deep/log"
    os.close(targets.open_file_for_appending(str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    (scratch / "plain").write_text("")
    with pytest.raises(NotADirectoryError):
        targets.open_file_for_appending(str(scratch / "plain/log"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ("", "", [])),
        ("/run/x/fifo", ("fifo", "/run/x/fifo", [])),
        ("fifo:///run/x/fifo", ("fifo", "/run/x/fifo", [])),
        ("file:///var/log/a%20b", ("file", "/var/log/a b", [])),
        ("binary:///usr/bin/logger?id=a&path=%2Fx+y&flag", ("binary", "/usr/bin/logger", ["id", "a", "path", "/x y", "flag", ""])),
        ("binary-v2:///l?a=1&a=2", ("binary-v2", "/l", ["a", "1"])),
        ("file:///a%zz+b", ("file", "/a%zz+b", [])),
    ],
)  # fmt: skip
def test_what_a_path_of_a_request_means(text: str, found: tuple[str, str, list[str]]) -> None:
    assert targets.parse_target(text) == found


def test_nobody_is_woken_for_a_sink_that_has_room(loop: Loop) -> None:
    """Only one of the two is watched at a time: a terminal or fifo with room would be ready for ever."""
    source, write_fd = pipe()
    read_fd, sink = pipe()
    copy = Copy(loop, source, sink, lambda count, errno: None, close_sink=True)
    rested: list[int] = []
    loop.later(0.02, lambda: rested.append(1))
    turns = 0
    while not rested:
        loop.turn()
        turns += 1
    assert turns <= 2
    assert select.select([read_fd], [], [], 0)[0] == []
    copy.close()
    os.close(read_fd)
    os.close(write_fd)
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
