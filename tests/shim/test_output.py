"""What a container writes, read here: when a stream is left alone for a moment, and that nothing is lost by it."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from fcntl import F_GETPIPE_SZ, fcntl
from pathlib import Path

import pytest

from shim import output
from shim.conmon.attach import Attach
from shim.conmon.messages import Messages
from shim.logs import STDERR, STDOUT, Driver
from shim.loop import Loop
from shim.output import Output

Until = Callable[..., None]


class Kept(Driver):
    """A log in memory."""

    def __init__(self) -> None:
        self.data = {STDOUT: b"", STDERR: b""}
        self.ended: list[int] = []

    def write(self, stream: int, data: bytes | memoryview) -> None:
        self.data[stream] += data

    def end(self, stream: int) -> None:
        self.ended.append(stream)


class Stream:
    """An Output of one pipe with a log, and the other end of the pipe."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.log = loop, Kept()
        self.output = Output(loop, [self.log])
        self.fd, self.out = os.pipe2(os.O_CLOEXEC)
        self.output.add_pipe(STDOUT, self.fd)

    def write(self, data: bytes, times: int) -> None:
        """A turn for each; the pipe has room for all."""
        for _ in range(times):
            os.write(self.out, data)
            self.loop.turn()

    @property
    def is_left_alone(self) -> bool:
        return not self.loop.is_watching(self.fd)

    def close(self) -> None:
        self.output.close()
        os.close(self.output.null_fd)
        if self.out >= 0:
            os.close(self.out)


@pytest.fixture
def stream(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    # whatever the machine is doing meanwhile, the reads of a test come soon enough after each other
    monkeypatch.setattr(output, "_BUSY_S", 1.0)
    made = Stream(loop)
    yield made
    made.close()


def test_who_writes_much_is_read_at_once(stream: Stream) -> None:
    size = fcntl(stream.fd, F_GETPIPE_SZ)
    stream.write(b"x" * (output._LITTLE_BYTES + 1), 100)
    assert not stream.is_left_alone and fcntl(stream.fd, F_GETPIPE_SZ) == size
    assert len(stream.log.data[STDOUT]) == 100 * (output._LITTLE_BYTES + 1)


def test_who_writes_little_again_and_again_is_left_alone_for_a_moment(stream: Stream, until: Until) -> None:
    stream.write(b"line\n", output._BUSY_READS + 1)
    assert stream.is_left_alone and fcntl(stream.fd, F_GETPIPE_SZ) == output._BUSY_PIPE_BYTES
    os.write(stream.out, b"more\n" * 40000)
    until(lambda: not stream.is_left_alone, "the end of the rest")
    until(lambda: stream.log.data[STDOUT].endswith(b"more\n" * 40000), "what was written meanwhile")
    assert stream.log.data[STDOUT] == b"line\n" * (output._BUSY_READS + 1) + b"more\n" * 40000


def test_the_end_does_not_wait_for_that(stream: Stream) -> None:
    stream.write(b"line\n", output._BUSY_READS + 1)
    os.write(stream.out, b"last\n")
    assert stream.is_left_alone
    stream.output.drain()
    assert stream.log.data[STDOUT].endswith(b"line\nlast\n") and stream.log.ended == [STDOUT]


def test_a_few_lines_are_nothing(stream: Stream) -> None:
    stream.write(b"line\n", output._BUSY_READS)
    assert not stream.is_left_alone


@pytest.mark.parametrize("is_over", [False, True])
def test_who_is_connected_gets_it_whosever_turn_it_is(loop: Loop, tmp_path: Path, is_over: bool) -> None:
    """Podman connects and starts the container. A turn that began with something older closed the socket on it: reset, which Podman takes
    for an end, and the output was lost without a word.
    """
    attach = Attach(loop, Messages(), lambda: None)
    attach.listen(str(tmp_path), "", "")
    made = Output(loop, [], attach)
    fd, out = os.pipe2(os.O_CLOEXEC)
    made.add_pipe(STDOUT, fd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(20)
        client.connect(attach.path)
        os.write(out, b"out\n")
        os.close(out)
        if is_over:
            made.drain()
        else:
            made._ready(STDOUT, select.EPOLLIN)
        attach.stop_listening()
        attach.close()
        assert (client.recv(100), client.recv(100)) == (b"\2out\n", b"")
    made.close()
    os.close(made.null_fd)
