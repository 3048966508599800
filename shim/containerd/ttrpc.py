"""ttrpc, containerd's own RPC over a unix socket: a server of unary methods, and a client for one call after the other.

    0        4          8     9     10
    +--------+----------+-----+-----+-----------+
    |len BE32|stream BE32|type |flags| data[len] |     type 1 request, 2 response, 3 data; len at most 4 MiB
    +--------+----------+-----+-----+-----------+

A client's streams are odd and grow; an answer has the number of its request. Many requests of one connection are open at
once (`Wait` for hours, others meanwhile). Whatever a peer sends, it gets one clear answer or loses its own connection, and
nobody else notices. Wire and refusals: PROTOCOL.md and server.go of containerd/ttrpc. This module must know no method.
"""

from __future__ import annotations

import os
import select
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket
from _struct import pack, unpack_from

from shim import flow
from shim.containerd.messages import REQUEST, RESPONSE
from shim.containerd.protobuf import DecodeError, decode, encode
from shim.containerd.sockets import peer_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from shim.containerd.protobuf import Table
    from shim.loop import Loop

    #: method -> (request, response, name of the handler)
    Methods = dict[str, tuple[Table, Table, str]]
    Handler = Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]

HEADER_BYTES = 10
MESSAGE_BYTES = 4 << 20
REQUEST_TYPE, RESPONSE_TYPE, DATA_TYPE = 1, 2, 3

#: google.rpc.Code
UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS = 2, 3, 4, 5, 6
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 9, 12, 13, 14

#: read at once; larger than any usual request
_READ_BYTES = 64 << 10
#: answers that a client does not take; it has as many requests open as it likes, but not for free
_UNSENT_BYTES = 4 * MESSAGE_BYTES


class Fault(Exception):
    """The answer to a call is an error: a code, which containerd decides by, and a text, which its users read."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Channel:
    """Frames in and out of a connected stream socket. `framed(stream, kind, data)` has None as data where it was too large."""

    __slots__ = ("_closed", "_framed", "_input", "_is_full", "_loop", "_output", "_skipped", "fd")

    def __init__(
        self,
        loop: Loop,
        fd: int,
        framed: Callable[[int, int, bytes | None], None],
        closed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._framed = framed
        self._closed = closed
        self._input = bytearray()
        self._output = bytearray()
        #: whether the socket is watched for room
        self._is_full = False
        #: of a message that is too large, what is still to come
        self._skipped = 0
        self.fd = fd
        loop.watch(fd, select.EPOLLIN, self._ready)

    def send(self, stream: int, kind: int, data: bytes) -> None:
        """Send a frame, now or when there is room; nothing where the connection is gone."""
        if self.fd < 0:
            return
        was_empty = not self._output
        self._output += pack(">IIBB", len(data), stream, kind, 0)
        self._output += data
        if was_empty:
            self._write()
        elif len(self._output) > _UNSENT_BYTES:
            self.close()

    def close(self) -> None:
        """Close the connection, and tell its owner once."""
        if self.fd >= 0:
            self._loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1
            self._closed()

    def _write(self) -> None:
        try:
            del self._output[: os.write(self.fd, self._output)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._is_full != bool(self._output):
            self._is_full = not self._is_full
            self._loop.change(self.fd, select.EPOLLIN | (select.EPOLLOUT if self._is_full else 0))

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT and self._output:
            self._write()
        if self.fd >= 0 and events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._input += data
        while self.fd >= 0 and self._next():
            pass

    def _next(self) -> bool:
        """Take the next frame out of the input; whether there was one."""
        if self._skipped:
            count = min(self._skipped, len(self._input))
            del self._input[:count]
            self._skipped -= count
        if self._skipped or len(self._input) < HEADER_BYTES:
            return False
        length, stream, kind, _ = unpack_from(">IIBB", self._input)
        if length > MESSAGE_BYTES:
            del self._input[:HEADER_BYTES]
            self._skipped = length
            self._framed(stream, kind, None)
            return True
        if len(self._input) < HEADER_BYTES + length:
            return False
        data = bytes(self._input[HEADER_BYTES : HEADER_BYTES + length])
        del self._input[: HEADER_BYTES + length]
        self._framed(stream, kind, data)
        return True


class Server:
    """Serves `handlers`, which all `services` have in common, on a listening socket, to processes of our own user alone."""

    __slots__ = (
        "_listener",
        "_loop",
        "connections",
        "defect",
        "deserted",
        "handlers",
        "methods",
        "services",
        "unheard",
    )

    def __init__(
        self,
        loop: Loop,
        listener: socket,
        services: tuple[str, ...],
        methods: Methods,
        handlers: object,
        defect: Callable[[str, Exception], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self.services = services
        self.methods = methods
        self.handlers = handlers
        #: told of exceptions that are no answers
        self.defect = defect
        #: called when the last connection is gone
        self.deserted: Callable[[], None] | None = None
        #: called with the method and the request where one has succeeded, and who asked is gone
        self.unheard: Callable[[str, dict[str, Any]], None] | None = None
        self.connections: set[Connection] = set()
        listener.setblocking(False)
        loop.watch(listener.fileno(), select.EPOLLIN, self._accept)

    def _accept(self, events: int) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return  # gone again, or no descriptor left: the next one may have more luck
        try:
            is_ours = peer_of(fd)[1:] == (os.geteuid(), os.getegid())
            os.set_blocking(fd, False)
        except OSError:
            is_ours = False  # whoever it is must not wait for ever for an answer
        if not is_ours:
            os.close(fd)
            return
        self.connections.add(Connection(self._loop, fd, self))

    def leave(self, connection: Connection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections and self.deserted is not None:
            self.deserted()

    def close(self) -> None:
        """Serve nobody any more; what is being carried out goes on, and its answer is dropped."""
        self.deserted = None
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for connection in list(self.connections):
            connection.channel.close()


class Connection:
    """One client of the server."""

    __slots__ = ("_last_stream", "_server", "channel")

    def __init__(self, loop: Loop, fd: int, server: Server) -> None:
        self._server = server
        self._last_stream = -1
        self.channel = Channel(loop, fd, self._framed, lambda: server.leave(self))

    def _framed(self, stream: int, kind: int, data: bytes | None) -> None:
        try:
            if data is None:
                raise Fault(RESOURCE_EXHAUSTED, f"message length exceeds the limit of {MESSAGE_BYTES} bytes")
            if stream % 2 == 0:
                raise Fault(INVALID_ARGUMENT, "a stream that a client begins has an odd number")
            if kind == DATA_TYPE:
                raise Fault(INVALID_ARGUMENT, f"stream {stream} is not open")
            if kind != REQUEST_TYPE:
                return  # of a later protocol, or an answer nobody asked for
            if stream <= self._last_stream:
                raise Fault(INVALID_ARGUMENT, f"stream {stream} was used before, or is lower than one that was")
            self._last_stream = stream
            self._call(stream, data)
        except Fault as fault:
            self._refuse(stream, fault)

    def _call(self, stream: int, data: bytes) -> None:
        try:
            request = decode(REQUEST, data)
            service, method = request["service"], request["method"]
            if service not in self._server.services:
                raise Fault(UNIMPLEMENTED, f"service {service} is not known here")
            if method not in self._server.methods:
                raise Fault(UNIMPLEMENTED, f"method {method} of {service} is not known here")
            asked, answered, name = self._server.methods[method]
            values = decode(asked, request["payload"])
        except DecodeError as error:
            raise Fault(INVALID_ARGUMENT, f"unmarshal request: {error}")

        def done(result: dict[str, Any] | None, error: Exception | None) -> None:
            if error is None:
                if self.channel.fd < 0 and self._server.unheard is not None:
                    self._server.unheard(method, values)
                self._answer(stream, encode(answered, result or {}))
            elif isinstance(error, Fault):
                self._refuse(stream, error)
            else:
                self._server.defect(method, error)
                self._refuse(stream, Fault(UNKNOWN, f"{method}: {_words(error)}"))

        handler: Handler = getattr(self._server.handlers, name)
        flow.begin(handler(values), done)

    def _answer(self, stream: int, payload: bytes) -> None:
        data = encode(RESPONSE, {"payload": payload})
        if len(data) > MESSAGE_BYTES:
            self._refuse(stream, Fault(RESOURCE_EXHAUSTED, f"the answer exceeds the limit of {MESSAGE_BYTES} bytes"))
        else:
            self.channel.send(stream, RESPONSE_TYPE, data)

    def _refuse(self, stream: int, fault: Fault) -> None:
        status = {"code": fault.code, "message": fault.text[-(MESSAGE_BYTES >> 3) :]}
        # a text may quote a file name that is no UTF-8, which a string of a message must be
        status["message"] = str(status["message"]).encode("utf-8", "backslashreplace").decode()
        self.channel.send(stream, RESPONSE_TYPE, encode(RESPONSE, {"status": status}))


class Client:
    """Calls to a server, one after the other. A connection that breaks or takes too long is over: make another client."""

    __slots__ = ("_channel", "_done", "_loop", "_stream", "_timer")

    def __init__(self, loop: Loop, path: str) -> None:
        """Connect; OSError where nobody listens."""
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        self._loop = loop
        self._stream = -1
        self._done: Callable[[Fault | None], None] | None = None
        self._timer: Any = None
        self._channel = Channel(loop, connection.detach(), self._framed, self._lost)

    @property
    def is_open(self) -> bool:
        """Whether a call may be tried."""
        return self._channel.fd >= 0

    def call(
        self,
        service: str,
        method: str,
        payload: bytes,
        metadata: dict[str, str],
        done: Callable[[Fault | None], None],
        timeout_s: float,
    ) -> None:
        """Call, without interest in the answer's payload; done(None), or done(fault) where it failed."""
        assert self._done is None, "one call after the other"
        self._done = done
        self._stream += 2
        request = {
            "service": service,
            "method": method,
            "payload": payload,
            "timeout_nano": int(timeout_s * 1e9),
            "metadata": [{"key": key, "value": value} for key, value in metadata.items()],
        }
        self._timer = self._loop.later(timeout_s, self._late)
        self._channel.send(self._stream, REQUEST_TYPE, encode(REQUEST, request))

    def close(self) -> None:
        """Give up the connection; who waits for an answer gets an error."""
        self._channel.close()

    def _framed(self, stream: int, kind: int, data: bytes | None) -> None:
        if stream != self._stream or kind != RESPONSE_TYPE:
            return
        try:
            status = decode(RESPONSE, data or b"")["status"]
        except DecodeError:
            self._channel.close()
            return
        self._end(Fault(status["code"], status["message"]) if status and status["code"] else None)

    def _lost(self) -> None:
        # from the loop, so that call() has returned before its done() is called
        self._loop.soon(lambda: self._end(Fault(UNAVAILABLE, "ttrpc: closed")))

    def _late(self) -> None:
        self._end(Fault(DEADLINE_EXCEEDED, "no answer in time"))
        self._channel.close()

    def _end(self, fault: Fault | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            self._timer.cancel()
            done(fault)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
        return f"{text}: {error.filename}" if error.filename else text
    return f"{type(error).__name__}: {error}"
