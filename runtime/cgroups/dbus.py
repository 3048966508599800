"""D-Bus as far as systemd's own socket speaks it, where no daemon is between: one call at a time, and the signals meanwhile.

    Connection(path, wait_s)   connects
    .call                      a method: the first value of its answer
    .signal                    the values of the next signal of a name

For the ordinary case alone, and for its time: to load libsystemd, with the five libraries that it needs, takes as long as all that
is said here. Whoever is not let in asks `sdbus`, which knows every kind of address. The messages are those that libsystemd would
have written, which tests/unit/cgroups/test_dbus.py proves (D-Bus specification, Message Protocol).

    we                                         systemd
    NUL, AUTH EXTERNAL, DATA, BEGIN    ->
                                       <-      DATA, OK         read when there is something to be said
    a call                             ->                       not before: what comes with BEGIN, and is short, systemd leaves lying
                                       <-      the answer, signals
"""

from __future__ import annotations

import select
import time
from errno import EACCES, EBADMSG, ECONNRESET, EINVAL, EIO, EPERM, ETIMEDOUT, errorcode
from struct import calcsize, pack, unpack_from
from struct import error as StructError

from runtime import kernel
from runtime import system as os
from runtime.cgroups import gvariant
from runtime.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: how long a socket whose buffer is full may hold us up
_SEND_MS = 10_000
#: an answer is a few hundred bytes; what claims to be longer than this is none
_MAX_BYTES = 1 << 20
#: who we are the kernel says, so that no number is said that another user namespace would read otherwise
_GREETING = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
_WELCOME = (b"DATA", b"OK ")

_CALL, _ANSWER, _ERROR, _SIGNAL = 1, 2, 3, 4
#: the fields of a header that are written or read here
_PATH, _INTERFACE, _MEMBER, _NAME, _SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8

_FORMATS = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGNMENTS = {**{kind: calcsize(format) for kind, format in _FORMATS.items()}, "s": 4, "o": 4, "a": 4, "(": 8}
_DENIED = ("org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired")
#: what the names of errors come to; all others are an EIO (sd-bus-errors(3))
_ERRNOS = {
    "org.freedesktop.DBus.Error.AccessDenied": EACCES,
    "org.freedesktop.DBus.Error.AuthFailed": EACCES,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": EACCES,
    "org.freedesktop.DBus.Error.InvalidArgs": EINVAL,
}


class Refusal(Exception):
    """systemd's answer is no: the name of its error, and its words."""

    def __init__(self, name: str, words: str, errno: int) -> None:
        super().__init__(words)
        self.name = name
        self.words = words
        self.errno = errno

    def error(self, attempt: str) -> CgroupError:
        """The error to raise for what was attempted."""
        hint = ""
        if self.name in _DENIED or self.errno in (EACCES, EPERM):
            hint = "without root, containers are units of the user's own systemd: is $XDG_RUNTIME_DIR set?"
        return CgroupError(f"{attempt}: systemd: {self.words}", hint, errno=self.errno)


class NotLetIn(OSError):
    """Nobody here knows us, or says a word: nothing of what was said has been heard."""


class Connection:
    """A connection to systemd's own socket. It may answer our greeting while we do something else, up to the first call."""

    __slots__ = ("_fd", "_is_greeted", "_read", "_serial", "_signals")

    def __init__(self, path: str, wait_s: float) -> None:
        """OSError where nobody listens there, or has no room for us within this time."""
        self._fd = -1
        self._read = b""
        self._serial = 0
        self._signals: list[tuple[str, _Body]] = []
        self._is_greeted = False
        self._fd = kernel.connect(path, int(wait_s * 1000))
        try:
            kernel.send_fd(self._fd, _GREETING, -1, _SEND_MS)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # of a program that uses the API, and has done with the container
    __del__ = close

    # -- calls -------------------------------------------------------------------------------------------------------------

    def call(
        self,
        address: tuple[bytes, bytes, bytes, bytes],
        arguments: Sequence[tuple[str, Any]],
        reads: str,
        wait_s: float,
    ) -> Any:
        """Call a method, by its destination, path, interface and name, and wait for its answer: the first value of that, of the
        basic type `reads` ("v" and a type for one in a variant), or None where nothing is to be read.

        Refusal where the answer is no, or does not come in this time; NotLetIn where the greeting is not answered.
        """
        self._serial += 1
        said = message(self._serial, address, arguments)
        deadline = time.monotonic() + wait_s
        try:
            self._greet(deadline)
            kernel.send_fd(self._fd, said, -1, _SEND_MS)
            while True:
                kind, fields, body = self._message(deadline)
                if kind in (_ANSWER, _ERROR) and fields.get(_SERIAL) == self._serial:
                    break
                self._keep(kind, fields, body)
            if kind == _ERROR:
                raise _refused(fields, body)
            if not reads:
                return None
            if reads[0] == "v" and body.value("g") != reads[1:]:
                raise _damaged()
            return body.value(reads[-1])
        except NotLetIn:
            raise
        except OSError as error:
            raise _refusal(error.errno or EIO) from None

    def signal(self, member: str, signature: str, deadline: float) -> list[Any]:
        """The values of the next signal of this name, which may have come already; OSError where none does."""
        while True:
            while self._signals:
                name, body = self._signals.pop(0)
                if name == member:
                    return [body.value(kind) for kind in signature]
            self._keep(*self._message(deadline))

    def _keep(self, kind: int, fields: dict[int, Any], body: _Body) -> None:
        # one of a unit's properties has all of them in it, and nobody here asks for those
        if kind == _SIGNAL and body.size <= 4096:
            self._signals.append((str(fields.get(_MEMBER, "")), body))

    # -- reading -----------------------------------------------------------------------------------------------------------

    def _greet(self, deadline: float) -> None:
        """Read what the greeting is answered with, once."""
        if self._is_greeted:
            return
        try:
            for word in _WELCOME:
                while b"\r\n" not in self._read:
                    self._more(deadline)
                line, _, self._read = self._read.partition(b"\r\n")
                if not line.startswith(word):
                    raise OSError(EACCES, "")
        except OSError as error:
            raise NotLetIn(error.errno, "") from None
        self._is_greeted = True

    def _more(self, deadline: float) -> None:
        """Wait for more to read; OSError where the time is over, or the other end has hung up."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise OSError(ETIMEDOUT, "")
        data = os.read(self._fd, 65536)
        if not data:
            raise OSError(ECONNRESET, "")
        self._read += data

    def _message(self, deadline: float) -> tuple[int, dict[int, Any], _Body]:
        """The next message: its kind, the fields of its header, and its body."""
        while len(self._read) < 16:
            self._more(deadline)
        order = "<" if self._read[:1] == b"l" else ">"
        kind, body_size, fields_size = unpack_from(order + "xBxxIxxxxI", self._read)
        start = 16 + fields_size + -fields_size % 8
        if max(start, body_size) > _MAX_BYTES:
            raise _damaged()
        while len(self._read) < start + body_size:
            self._more(deadline)
        head = _Body(self._read[: 16 + fields_size], order, 16)
        body = _Body(self._read[start : start + body_size], order, 0)
        self._read = self._read[start + body_size :]
        fields = {}
        while head.at < head.size:
            head.at += -head.at % 8
            code = head.value("y")
            fields[code] = head.value(head.value("g"))
        return kind, fields, body


class _Body:
    """Values of basic types, one after the other; OSError where what is there is none."""

    __slots__ = ("at", "data", "order", "size")

    def __init__(self, data: bytes, order: str, at: int) -> None:
        self.data = data
        self.size = len(data)
        self.order = order
        self.at = at

    def value(self, kind: str) -> Any:
        """The next value."""
        try:
            if kind in _FORMATS:
                self.at += -self.at % _ALIGNMENTS[kind]
                (found,) = unpack_from(self.order + _FORMATS[kind], self.data, self.at)
                self.at += _ALIGNMENTS[kind]
                return found
            if kind not in ("s", "o", "g"):
                raise _damaged()
            size = self.value("y" if kind == "g" else "u")
            text = self.data[self.at : self.at + size]
            self.at += size + 1
            if self.at > self.size:
                raise _damaged()
            return text.decode("utf-8", "surrogateescape")
        except StructError:
            raise _damaged() from None


def _refused(fields: dict[int, Any], body: _Body) -> Refusal:
    name = str(fields.get(_NAME, ""))
    words = str(body.value("s")) if str(fields.get(_SIGNATURE, "")).startswith("s") else ""
    errno = _ERRNOS.get(name, EIO)
    if name.startswith("System.Error."):
        errno = next((number for number, word in errorcode.items() if word == name[13:]), EIO)
    return Refusal(name, (words or name or os.strerror(errno)).rstrip("."), errno)


def _refusal(errno: int) -> Refusal:
    """For what the kernel, or the other end's silence, says no to."""
    return Refusal("", os.strerror(errno), errno)


def _damaged() -> OSError:
    return OSError(EBADMSG, "")


# -- writing ---------------------------------------------------------------------------------------------------------------


def message(serial: int, address: tuple[bytes, bytes, bytes, bytes], arguments: Sequence[tuple[str, Any]]) -> bytes:
    """A method call, by its destination, path, interface and name. Refusal where an argument is none that can be said."""
    destination, path, interface, member = address
    body = bytearray()
    for signature, value in arguments:
        _put(body, signature, value)
    fields = [
        (_PATH, "o", path),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        (_DESTINATION, "s", destination),
    ]
    if arguments:
        fields.append((_SIGNATURE, "g", "".join(signature for signature, _ in arguments).encode()))
    head = bytearray(pack("<cBBBIII", b"l", _CALL, 0, 1, len(body), serial, 0))
    for code, kind, value in fields:
        _align(head, 8)
        head.append(code)
        _put(head, "v", (kind, value))
    head[12:16] = pack("<I", len(head) - 16)
    _align(head, 8)
    return bytes(head + body)


def _put(out: bytearray, signature: str, value: Any) -> None:
    """Add a value behind what is there."""
    kind = signature[0]
    if kind in "so":
        text = _text(value)
        if kind == "o" and not _is_path(text):
            raise _refusal(EINVAL)
        _align(out, 4)
        out += pack("<I", len(text)) + text + b"\0"
    elif kind in _FORMATS:
        _align(out, _ALIGNMENTS[kind])
        out += pack("<" + _FORMATS[kind], value)
    elif kind == "v":
        inner, item = value
        _put(out, "g", inner)
        _put(out, inner, item)
    elif kind == "(":
        _align(out, 8)
        for inner, item in zip(members(signature[1:-1]), value, strict=True):
            _put(out, inner, item)
    elif kind == "a":
        _put_array(out, signature[1:], value)
    else:
        text = _text(value)
        if len(text) > 255:
            raise _refusal(EINVAL)
        out.append(len(text))
        out += text + b"\0"


def _put_array(out: bytearray, signature: str, value: Any) -> None:
    _align(out, 4)
    place = len(out)
    out += b"\0\0\0\0"
    # what comes before the first of them does not count, and is there even where there is none
    _align(out, _ALIGNMENTS.get(signature[0], 1))
    start = len(out)
    if signature == "y":
        out += bytes(value)
    else:
        for item in value:
            _put(out, signature, item)
    out[place : place + 4] = pack("<I", len(out) - start)


def members(signature: str) -> list[str]:
    """The types in a struct."""
    # a property, and what is given for a unit: in the structs of a property's value there are no variants
    return {"sv": ["s", "v"], "sa(sv)": ["s", "a(sv)"]}.get(signature) or gvariant.split(signature)


def _text(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        text = value.encode()
    except UnicodeEncodeError:
        raise _refusal(EINVAL) from None
    if b"\0" in text or not (value.isascii() or all(map(_is_character, value))):
        raise _refusal(EINVAL)  # the other end would hang up on either
    return text


def _is_path(text: bytes) -> bool:
    """Whether it is an object path (D-Bus specification, Basic types)."""
    return (
        text == b"/"
        or text[:1] == b"/"
        and all(part and part.isascii() and part.replace(b"_", b"a").isalnum() for part in text[1:].split(b"/"))
    )


def _align(out: bytearray, to: int) -> None:
    out += bytes(-len(out) % to)


def _is_character(one: str) -> bool:
    """Not one of the 66 code points that Unicode says will never be characters, which systemd takes for damage."""
    number = ord(one)
    return not (0xFDD0 <= number <= 0xFDEF or number & 0xFFFE == 0xFFFE)
