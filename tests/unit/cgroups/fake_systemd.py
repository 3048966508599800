"""A systemd that answers as it is told: a socket, the greeting of D-Bus, and messages read and written just far enough."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOB = "/org/freedesktop/systemd1/job/7"

#: member -> (signature, value of one string or number), or (name of an error, its words); None: no answer at all
Answer = Callable[[str, bytes], "tuple[str, Any] | None"]


def _padded(data: bytes, to: int = 8) -> bytes:
    return data + b"\0" * (-len(data) % to)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _field(code: int, kind: str, value: Any) -> bytes:
    """A header field: struct of a byte and a variant."""
    head = bytes([code, len(kind)]) + kind.encode() + b"\0"
    if kind == "g":
        return head + bytes([len(value)]) + value.encode() + b"\0"
    return _padded(head, 4) + (struct.pack("<I", value) if kind == "u" else _string(value))


def message(kind: int, serial: int, fields: list[tuple[int, str, Any]], signature: str, body: bytes) -> bytes:
    """One message of D-Bus (D-Bus specification, Message Format)."""
    if signature:
        fields = [*fields, (8, "g", signature)]
    array = b""
    for field in fields:
        array = _padded(array) + _field(*field)
    head = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), serial, len(array))
    return _padded(head + array) + body


class FakeSystemd:
    """Serves one connection; `calls` are the members that were called, in order, `messages` what was sent for each."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        (folder / "systemd").mkdir()
        self.address = f"unix:path={folder}/systemd/private"
        self.answer = answer
        self.calls: list[str] = []
        self.messages: list[bytes] = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(f"{folder}/systemd/private")
        self.server.listen(1)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.close()

    def _serve(self) -> None:
        try:
            peer, _ = self.server.accept()
        except OSError:
            return
        with peer:
            try:
                self._greet(peer)
                while self._one(peer):
                    pass
            except (OSError, struct.error):
                pass  # the other end has hung up

    def _greet(self, peer: socket.socket) -> None:
        text = b""
        while b"BEGIN\r\n" not in text:
            data = peer.recv(4096)
            if not data:
                raise OSError
            text += data
            if b"AUTH" in text and b"sent" not in text:
                peer.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n" if b"DATA" not in text else b"")
                if b"DATA" in text:
                    peer.sendall(b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n")
                if b"NEGOTIATE_UNIX_FD" in text:
                    peer.sendall(b"AGREE_UNIX_FD\r\n")
        self.rest = text.partition(b"BEGIN\r\n")[2]

    def _read(self, peer: socket.socket, size: int) -> bytes:
        while len(self.rest) < size:
            data = peer.recv(65536)
            if not data:
                raise OSError
            self.rest += data
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def _one(self, peer: socket.socket) -> bool:
        head = self._read(peer, 16)
        _, kind, _, _, size, serial, fields_size = struct.unpack("<cBBBIII", head)
        fields = self._read(peer, fields_size + -fields_size % 8)
        body = self._read(peer, size)
        member = _member(fields)
        self.calls.append(member)
        self.messages.append(head + fields + body)
        found = self.answer(member, body)
        if found is None:
            return True
        signature, value = found
        reply = (5, "u", serial)
        if "." in signature:
            peer.sendall(message(3, 1, [(4, "s", signature), reply], "s", _string(value)))
            return True
        result = ""
        if signature == "job":
            signature, result, value = "o", value, JOB
        data = _string(value) if signature in ("s", "o") else b""
        if signature == "v":
            data = b"\x01s\0\0" + _string(value)
        peer.sendall(message(2, 1, [reply], signature, data))
        if result:
            # of somebody else's job first
            for job, word in (("/org/freedesktop/systemd1/job/6", "failed"), (JOB, result)):
                data = _padded(struct.pack("<I", 7) + _string(job), 4)
                data = _padded(data + _string("x.scope"), 4) + _string(word)
                where = [
                    (1, "o", "/org/freedesktop/systemd1"),
                    (2, "s", "org.freedesktop.systemd1.Manager"),
                    (3, "s", "JobRemoved"),
                ]
                peer.sendall(message(4, 2, where, "uoss", data))
        return True


def _member(fields: bytes) -> str:
    at = fields.index(b"\x03\x01s\0")
    size = struct.unpack_from("<I", fields, at + 4)[0]
    return fields[at + 8 : at + 8 + size].decode()
