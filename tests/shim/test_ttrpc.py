"""The ttrpc server and its client: frames, refusals, peers who misbehave, and everybody else unharmed."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.containerd import ttrpc
from shim.containerd.messages import EMPTY, ID, KEY_VALUE, PID, REQUEST, RESPONSE
from shim.containerd.protobuf import decode, encode
from shim.containerd.ttrpc import Fault
from shim.flow import Later
from shim.loop import Loop

Until = Callable[..., None]
BLOB = {1: ("data", "bytes")}


class Handlers:
    """Methods as a shim would have them: one answers, one waits, one is refused, one is broken."""

    def __init__(self) -> None:
        self.later = Later()
        self.asked: list[str] = []

    async def echo(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request["id"])
        return {"id": request["id"]}

    async def wait(self, request: dict[str, Any]) -> dict[str, Any]:
        await self.later
        return {"pid": 7}

    async def refuse(self, request: dict[str, Any]) -> dict[str, Any]:
        raise Fault(ttrpc.NOT_FOUND, "nobody \udcff here")

    async def broken(self, request: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("a defect")

    async def large(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"data": bytes(ttrpc.MESSAGE_BYTES)}


METHODS: ttrpc.Methods = {
    "Echo": (ID, ID, "echo"),
    "Wait": (ID, PID, "wait"),
    "Refuse": (ID, EMPTY, "refuse"),
    "Broken": (ID, EMPTY, "broken"),
    "Large": (EMPTY, BLOB, "large"),
}


class Peer:
    """A raw client."""

    def __init__(self, path: str, until: Until) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.setblocking(False)
        self.until = until
        self.data = b""
        self.is_over = False

    def send(self, stream: int, service: str, method: str, payload: bytes = b"", kind: int = 1) -> None:
        request = encode(REQUEST, {"service": service, "method": method, "payload": payload})
        self.raw(struct.pack(">IIBB", len(request), stream, kind, 0) + request)

    def raw(self, data: bytes) -> None:
        left = memoryview(data)

        def push() -> bool:
            nonlocal left
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                pass
            return not left

        self.until(push, "taken what was sent")

    def pull(self) -> None:
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.data += data
        self.is_over = not data

    def answer(self) -> tuple[int, int, bytes]:
        """(stream, code, payload or message) of the next answer."""

        def has_come() -> bool:
            self.pull()
            return len(self.data) >= 10 and len(self.data) >= 10 + struct.unpack(">I", self.data[:4])[0]

        self.until(has_come, "an answer")
        length, stream, kind, flags = struct.unpack(">IIBB", self.data[:10])
        assert (kind, flags) == (2, 0)
        found = decode(RESPONSE, self.data[10 : 10 + length])
        self.data = self.data[10 + length :]
        status = found["status"]
        return (stream, status["code"], status["message"].encode()) if status else (stream, 0, found["payload"])

    def is_dropped(self) -> bool:
        self.pull()
        return self.is_over


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def defects() -> list[str]:
    return []


@pytest.fixture
def path(loop: Loop, scratch: Path, handlers: Handlers, defects: list[str]) -> Iterator[str]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(scratch / "s"))
    listener.listen()
    server = ttrpc.Server(
        loop, listener, ("one", "two"), METHODS, handlers, lambda method, error: defects.append(f"{method}: {error}")
    )
    yield str(scratch / "s")
    server.close()
    assert not server.connections


@pytest.fixture
def peer(path: str, until: Until) -> Iterator[Peer]:
    made = Peer(path, until)
    yield made
    made.sock.close()


def test_both_services_answer(peer: Peer) -> None:
    peer.send(1, "one", "Echo", encode(ID, {"id": "a"}))
    peer.send(3, "two", "Echo", encode(ID, {"id": "b"}))
    assert peer.answer() == (1, 0, encode(ID, {"id": "a"}))
    assert peer.answer() == (3, 0, encode(ID, {"id": "b"}))


def test_a_call_that_waits_holds_up_no_other(peer: Peer, handlers: Handlers) -> None:
    peer.send(1, "one", "Wait")
    peer.send(3, "one", "Echo", encode(ID, {"id": "meanwhile"}))
    assert peer.answer()[0] == 3
    handlers.later.set()
    assert peer.answer() == (1, 0, encode(PID, {"pid": 7}))


@pytest.mark.parametrize(("service", "method"), [("three", "Echo"), ("one", "Nothing")])
def test_unknown_is_unimplemented(peer: Peer, service: str, method: str) -> None:
    peer.send(1, service, method)
    stream, code, text = peer.answer()
    assert (stream, code) == (1, 12)
    assert (service if service == "three" else method).encode() in text


def test_refusals_and_defects_are_answers(peer: Peer, defects: list[str]) -> None:
    peer.send(1, "one", "Refuse")
    assert peer.answer() == (1, 5, rb"nobody \udcff here")
    peer.send(3, "one", "Broken")
    assert peer.answer() == (3, 2, b"Broken: RuntimeError: a defect")
    assert defects == ["Broken: a defect"]


def test_messages_that_are_none(peer: Peer) -> None:
    peer.raw(struct.pack(">IIBB", 3, 1, 1, 0) + b"\xff\xff\xff")
    assert peer.answer()[:2] == (1, 3)
    peer.send(3, "one", "Echo", b"\x0a\x7f")
    assert peer.answer()[:2] == (3, 3)
    peer.send(5, "one", "Echo")
    assert peer.answer()[:2] == (5, 0)


def test_too_large_is_answered_and_the_next_one_read(peer: Peer, handlers: Handlers) -> None:
    length = ttrpc.MESSAGE_BYTES + 1
    peer.raw(struct.pack(">IIBB", length, 1, 1, 0) + bytes(length))
    peer.send(3, "one", "Echo", encode(ID, {"id": "after"}))
    assert peer.answer()[:2] == (1, 8)
    assert peer.answer() == (3, 0, encode(ID, {"id": "after"}))
    assert handlers.asked == ["after"]


def test_the_largest_message_is_taken(peer: Peer) -> None:
    filling = {"service": "one", "method": "Echo", "payload": encode(ID, {"id": "x"})}
    room = ttrpc.MESSAGE_BYTES - len(encode(REQUEST, {**filling, "metadata": [{"key": "", "value": "y" * 4_000_000}]}))
    request = encode(REQUEST, {**filling, "metadata": [{"key": "", "value": "y" * (4_000_000 + room)}]})
    assert len(request) == ttrpc.MESSAGE_BYTES
    assert KEY_VALUE[2] == ("value", "string")
    peer.raw(struct.pack(">IIBB", len(request), 1, 1, 0) + request)
    assert peer.answer()[:2] == (1, 0)


def test_an_answer_that_is_too_large(peer: Peer) -> None:
    peer.send(1, "one", "Large")
    assert peer.answer()[:2] == (1, 8)


def test_numbers_of_streams(peer: Peer) -> None:
    peer.send(5, "one", "Echo")
    assert peer.answer()[:2] == (5, 0)
    for stream, kind in ((5, 1), (3, 1), (8, 1), (7, 3)):
        peer.send(stream, "one", "Echo", kind=kind)
        assert peer.answer()[:2] == (stream, 3)
    peer.send(9, "one", "Echo", kind=9)  # of a protocol to come: no answer
    peer.send(11, "one", "Echo")
    assert peer.answer()[:2] == (11, 0)


def test_one_byte_at_a_time(peer: Peer) -> None:
    request = encode(REQUEST, {"service": "one", "method": "Echo", "payload": encode(ID, {"id": "slow"})})
    for byte in struct.pack(">IIBB", len(request), 1, 1, 0) + request:
        peer.raw(bytes([byte]))
    assert peer.answer() == (1, 0, encode(ID, {"id": "slow"}))


def test_a_client_that_vanishes(path: str, until: Until, loop: Loop, handlers: Handlers) -> None:
    """In the middle of a frame, or with a call open, whose answer then finds nobody."""
    first, second, third = Peer(path, until), Peer(path, until), Peer(path, until)
    first.raw(struct.pack(">IIBB", 100, 1, 1, 0) + b"half")
    second.send(1, "one", "Wait")
    third.send(1, "one", "Wait")
    third.send(3, "one", "Echo")
    assert third.answer()[0] == 3
    first.sock.close()
    second.sock.close()
    handlers.later.set()
    assert third.answer() == (1, 0, encode(PID, {"pid": 7}))
    third.sock.close()
    until(lambda: not handlers.later._then, "nobody waits")


def test_a_client_that_takes_no_answers_loses_its_connection(path: str, until: Until) -> None:
    greedy, other = Peer(path, until), Peer(path, until)
    payload = encode(ID, {"id": "x" * 1_000_000})
    stream = -1
    try:
        while not greedy.is_over and stream < 200:
            stream += 2
            greedy.send(stream, "one", "Echo", payload)
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert stream < 100
    other.send(1, "one", "Echo")
    assert other.answer()[:2] == (1, 0)
    greedy.sock.close()
    other.sock.close()


def test_other_users_are_turned_away(path: str, until: Until, scratch: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("needs root, as `make check-root` has it")
    os.chmod(path, 0o777)
    os.chmod(scratch, 0o755)
    sock = socket.socket(socket.AF_UNIX)
    os.seteuid(1000)
    try:
        sock.connect(path)
    finally:
        os.seteuid(0)
    sock.setblocking(False)

    def is_over() -> bool:
        try:
            return sock.recv(1) == b""
        except BlockingIOError:
            return False

    until(is_over, "turned away")
    sock.close()


def test_client(path: str, loop: Loop, until: Until, handlers: Handlers) -> None:
    client = ttrpc.Client(loop, path)
    answers: list[Fault | None] = []
    client.call("one", "Echo", encode(ID, {"id": "c"}), {"k": "v"}, answers.append, 5)
    until(lambda: answers)
    assert (answers, handlers.asked) == ([None], ["c"])
    client.call("one", "Refuse", b"", {}, answers.append, 5)
    until(lambda: len(answers) == 2)
    assert answers[1] is not None and answers[1].code == 5
    client.call("one", "Wait", b"", {}, answers.append, 0.01)
    until(lambda: len(answers) == 3)
    assert answers[2] is not None and answers[2].code == 4
    assert not client.is_open


def test_client_of_a_server_that_goes(loop: Loop, until: Until, scratch: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ttrpc.Client(loop, str(scratch / "nobody"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(scratch / "s"))
    listener.listen()
    client = ttrpc.Client(loop, str(scratch / "s"))
    answers: list[Fault | None] = []
    client.call("one", "Echo", b"", {}, answers.append, 5)
    server, _ = listener.accept()
    server.close()
    listener.close()
    until(lambda: answers)
    assert answers[0] is not None and answers[0].code == 14
