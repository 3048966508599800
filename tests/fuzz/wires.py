"""What engines send to containerd's shim: protobuf, ttrpc frames, options."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from random import Random
from typing import Any

import mutation
from engine import Finding, Target

from shim.containerd import messages, options
from shim.containerd.protobuf import DecodeError, blank, decode, encode
from shim.containerd.task import METHODS

#: tables of messages that arrive from outside
TABLES: dict[str, Any] = {
    name: table
    for name, table in vars(messages).items()
    if name.isupper() and type(table) is dict and all(type(key) is int for key in table)
}


def sample(rng: Random, table: Any, depth: int = 0) -> dict[str, Any]:
    """Values for some fields of a message."""
    out: dict[str, Any] = {}
    for name, kind in table.values():
        if rng.random() < 0.4:
            continue
        one = kind[0] if type(kind) is list else kind
        values = [plain(rng, one, depth) for _ in range(rng.choice((0, 1, 3)) if type(kind) is list else 1)]
        values = [value for value in values if value is not None]
        if type(kind) is list:
            out[name] = values
        elif values:
            out[name] = values[0]
    return out


def plain(rng: Random, kind: Any, depth: int) -> Any:
    if type(kind) is dict:
        return sample(rng, kind, depth + 1) if depth < 5 else None
    if kind == "map":
        return {rng.choice(("a", "", "ü")): rng.choice(("", "b"))}
    if kind == "string":
        return rng.choice(("", "web", "/x", "ü", "x" * 300, "fifo:///x", "binary:///x", "file:///x", "\n"))
    if kind == "bytes":
        return rng.choice((b"", b"{}", b"\xff", b"x" * 40))
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "double":
        return rng.choice((0.0, -0.0, 1e308, -1.5))
    return rng.choice((0, 1, 5, 127, 128, 2**31 - 1))


class Protobuf(Target):
    """Bytes as each of the messages: decoded or refused, and what is decoded is encoded and decoded to the same."""

    name = "protobuf"

    def begin(self, place: Path) -> None:
        self.names = sorted(TABLES)

    def seeds(self) -> list[bytes]:
        rng = Random(1)
        return [
            bytes((number,)) + encode(TABLES[name], sample(rng, TABLES[name]))
            for number, name in enumerate(sorted(TABLES))
            for _ in range(2)
        ]

    def change(self, rng: Random, data: bytes) -> bytes:
        kind = rng.randrange(6)
        if kind == 0:
            number = rng.randrange(len(TABLES))
            return bytes((number,)) + encode(TABLES[self.names[number]], sample(rng, TABLES[self.names[number]]))
        if kind == 1:
            depth = rng.choice((50, 99, 101, 500))
            return data[:1] + rng.choice((b"\x0b", b"\x0a\x7f", b"\x1b")) * depth + data[1:]
        return data[:1] + mutation.octets(rng, data[1:])

    def run(self, data: bytes) -> None:
        table = TABLES[self.names[data[0] % len(self.names)]] if data else {}
        try:
            found = decode(table, data[1:])
        except DecodeError:
            return
        again = decode(table, encode(table, found))
        if repr(again) != repr(found):
            raise Finding("decoded otherwise the second time", f"{found} {again}")


class Options(Target):
    """Runtime options as engines send them, in TOML too."""

    name = "options"
    TOMLS = (
        b'BinaryName = "/bin/x"\nRoot = "/r"\nSystemdCgroup = true\nIoUid = 5\n', b"NoPivotRoot = 1\n", b'Root = ""\n', b"[a]\nb = 1\n",
        b"IoUid = 99999999999999999999999\n", b"x = " + b"[" * 2000, b"IoGid = " + b"9" * 5000, b'Root = "\\ud800"', b'Root = "\\u0000"', b"Root = 1979-05-27\n",
    )  # fmt: skip

    def seeds(self) -> list[bytes]:
        out = []
        for body in self.TOMLS:
            value = encode(messages.RUNTIME_OPTIONS, {"config_body": body})
            out.append(encode(messages.ANY, {"type_url": "runtimeoptions.v1.Options", "value": value}))
        for path in ("/nowhere", "/proc/self/mem", "/", "/dev/zero", "@PLACE@/fifo", "a\nb"):
            value = encode(messages.RUNTIME_OPTIONS, {"config_path": path})
            out.append(encode(messages.ANY, {"type_url": "x/cri.runtimeoptions.v1.Options", "value": value}))
        for kind in ("containerd.runc.v1.Options", "containerd.linux.runc.CreateOptions", "google.protobuf.Empty", "x"):
            out.append(
                encode(
                    messages.ANY,
                    {"type_url": kind, "value": encode(messages.OPTIONS, {"binary_name": "x", "io_uid": 5})},
                )
            )
        return out

    def begin(self, place: Path) -> None:
        self.place = str(place)
        os.mkfifo(place / "fifo")

    def change(self, rng: Random, data: bytes) -> bytes:
        try:
            any_ = decode(messages.ANY, data)
            inner = decode(messages.RUNTIME_OPTIONS, any_["value"])
        except DecodeError:
            return rng.choice(self.seeds())
        if inner["config_body"] and rng.random() < 0.7:
            inner["config_body"] = mutation.octets(rng, inner["config_body"])
            return encode(
                messages.ANY, {"type_url": any_["type_url"], "value": encode(messages.RUNTIME_OPTIONS, inner)}
            )
        return mutation.octets(rng, data)

    def run(self, data: bytes) -> None:
        try:
            any_ = decode(
                messages.ANY, data.replace(b"@PLACE@/fifo", os.fsencode(self.place + "/fifo").ljust(12, b"/")[-12:])
            )
            found = options.read(any_)
        except (ValueError, OSError):
            return  # what __main__ and ttrpc word as an error of the caller's
        if set(found) != set(blank(messages.OPTIONS)):
            raise Finding("options that are none", str(found))


class Server(Target):
    """Frames to a server that has the task service's methods: each gets an answer or is hung up on, and others are served on."""

    name = "ttrpc"

    def begin(self, place: Path) -> None:
        from shim.containerd.ttrpc import Server as Real
        from shim.loop import Loop

        class Handlers:
            def __getattr__(self, name: str) -> Any:
                async def handler(request: dict[str, Any]) -> dict[str, Any]:
                    return {}

                return handler

        self.loop = Loop()
        listener = socket.socket(socket.AF_UNIX)
        self.path = str(place / "s")
        listener.bind(self.path)
        listener.listen(5)
        self.defects: list[str] = []
        self.server = Real(
            self.loop,
            listener,
            ("containerd.task.v2.Task",),
            METHODS,
            Handlers(),
            lambda method, error: self.defects.append(f"{method}: {error!r}"),
        )
        self.other = self.connect()
        self.stream = -1

    def end(self) -> None:
        self.other.close()
        self.server.close()
        self.loop.close()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.setblocking(False)
        return sock

    def seeds(self) -> list[bytes]:
        rng = Random(2)
        out = []
        for number, (method, (table, _, _)) in enumerate(sorted(METHODS.items())):
            payload = encode(table, sample(rng, table))
            out.append(framed(2 * number + 1, request(method, payload)))
        return [
            *out,
            b"".join(out),
            struct.pack(">IIBB", 5 << 20, 1, 1, 0) + b"x" * 100,
            framed(2, b"x"),
            framed(1, b"", 3),
            framed(3, b"", 2),
        ]

    def change(self, rng: Random, data: bytes) -> bytes:
        kind = rng.randrange(5)
        if kind == 0:
            method = rng.choice(sorted(METHODS))
            table = METHODS[method][0]
            return data + framed(
                rng.choice((1, 3, 5, 2, 2**32 - 1)),
                request(method, mutation.octets(rng, encode(table, sample(rng, table)))),
            )
        if kind == 1 and len(data) > 10:
            return (
                struct.pack(
                    ">IIBB",
                    rng.choice((0, 1, len(data) - 10, 4 << 20, (4 << 20) + 1, 2**32 - 1)),
                    rng.choice((1, 3)),
                    rng.randrange(5),
                    0,
                )
                + data[10:]
            )
        return mutation.octets(rng, data)[: 1 << 18]

    def run(self, data: bytes) -> None:
        sock = self.connect()
        answered = b""
        left = memoryview(data)
        end = time.monotonic() + 20
        sent = False
        quiet = 0
        while quiet < 3:
            if time.monotonic() > end:
                raise Finding("hang", "frames that the server does not get through")
            if left:
                try:
                    left = left[sock.send(left) :]
                except BlockingIOError:
                    pass
                except OSError:
                    left = memoryview(b"")
            elif not sent:
                sent = True
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
            limit = self.loop.later(0.0, lambda: None)
            self.loop.turn()
            limit.cancel()
            try:
                part = sock.recv(1 << 16)
                answered += part
                quiet = quiet + 1 if not part and sent else 0
            except BlockingIOError:
                quiet = quiet + 1 if sent and not left else 0
            except OSError:
                quiet += 1
        sock.close()
        for _ in range(3):
            limit = self.loop.later(0.0, lambda: None)
            self.loop.turn()
            limit.cancel()
        if self.defects:
            raise Finding("a defect of the server", self.defects.pop())
        self.check(answered)
        self.ask()
        if len(self.server.connections) != 1:
            raise Finding("a connection is left", str(len(self.server.connections)))

    def check(self, answered: bytes) -> None:
        while answered:
            length, stream, kind, _ = struct.unpack_from(">IIBB", answered)
            if kind != 2 or len(answered) < 10 + length:
                raise Finding("an answer that is none", repr(answered[:60]))
            decode(messages.RESPONSE, answered[10 : 10 + length])
            answered = answered[10 + length :]

    def ask(self) -> None:
        """Somebody else is served as ever."""
        self.stream += 2
        self.other.send(framed(self.stream, request("Connect", b"")))
        for _ in range(50):
            limit = self.loop.later(0.0, lambda: None)
            self.loop.turn()
            limit.cancel()
            try:
                if self.other.recv(1 << 16):
                    return
            except BlockingIOError:
                pass
        raise Finding("others are not served any more")


def request(method: str, payload: bytes) -> bytes:
    return encode(messages.REQUEST, {"service": "containerd.task.v2.Task", "method": method, "payload": payload})


def framed(stream: int, data: bytes, kind: int = 1) -> bytes:
    return struct.pack(">IIBB", len(data), stream, kind, 0) + data
