"""What we say to systemd's own socket, beside what libsystemd says, and what is made of any answer."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_systemd import FakeSystemd, message
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cgroups import dbus, sdbus, systemd_bus
from runtime.cgroups.systemd_bus import Manager
from runtime.errors import CgroupError

ADDRESS = (b"org.freedesktop.systemd1", b"/org/freedesktop/systemd1", b"org.freedesktop.systemd1.Manager", b"Made")

# -- what is said --------------------------------------------------------------------------------------------------------

#: what systemd takes for none: code points that are no characters and never will be
NONE = "".join(
    map(chr, (*range(0xFDD0, 0xFDF0), *(plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF))))
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters=f"\0{NONE}"), max_size=12)
NUMBERS = {"y": (0, 8), "n": (1, 16), "q": (0, 16), "i": (1, 32), "u": (0, 32), "x": (1, 64), "t": (0, 64)}
BASIC = {
    "s": TEXTS,
    "o": st.sampled_from(["/", "/a", "/a/b_1"]),
    "g": st.sampled_from(["", "s", "a(sv)", "ay"]),
    "b": st.booleans(),
    "d": st.floats(allow_nan=False),
    **{
        kind: st.integers(-(1 << bits - 1) if signed else 0, (1 << bits - signed) - 1)
        for kind, (signed, bits) in NUMBERS.items()
    },
}


def values(signature: str) -> st.SearchStrategy[Any]:
    if signature in BASIC:
        return BASIC[signature]
    if signature == "ay":
        return st.lists(BASIC["y"], max_size=9)
    if signature[0] == "a":
        return st.lists(values(signature[1:]), max_size=4)
    return st.tuples(*(values(kind) for kind in signature[1:-1]))


STRUCTS = st.lists(st.sampled_from("sbtyn"), min_size=1, max_size=4).map(lambda kinds: f"({''.join(kinds)})")
SIGNATURES = st.one_of(
    st.sampled_from([*BASIC, "as", "au", "at", "ay", "ab", "ao", "a(ss)", "a(st)", "aas", "a(iiay)"]), STRUCTS
).filter(lambda signature: signature != "a(iiay)")
PROPERTIES = st.lists(
    st.tuples(TEXTS, SIGNATURES.flatmap(lambda kind: st.tuples(st.just(kind), values(kind)))), max_size=6
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Any, FakeSystemd]]]:
    """Ours and libsystemd's, each with a systemd of its own that answers nothing in particular."""
    made: list[tuple[Any, FakeSystemd]] = []
    for is_ours in (True, False):
        fake = FakeSystemd(tmp_path_factory.mktemp("bus"), lambda member, body: ("", ""))
        path = fake.address.removeprefix("unix:path=")
        made.append((dbus.Connection(path, 5) if is_ours else sdbus.Connection(fake.address, 5, is_bus=False), fake))
    yield made
    for connection, fake in made:
        connection.close()
        fake.close()


def read(sent: bytes) -> tuple[Any, ...]:
    """A message's kind, flags, serial, fields and body: the order of the fields is anybody's."""
    order, kind, flags, version, size, serial, length = struct.unpack_from("<cBBBIII", sent)
    assert (order, version) == (b"l", 1) and len(sent) == 16 + length + -length % 8 + size
    fields, head = {}, dbus._Body(sent[: 16 + length], "<", 16)
    while head.at < head.size:
        head.at += -head.at % 8
        code, signature = head.value("y"), head.value("g")
        fields[code] = (signature, head.value(signature))
    return kind, flags, serial, fields, sent[16 + length + -length % 8 :]


@settings(max_examples=200, deadline=None)
@given(unit=TEXTS, properties=PROPERTIES)
def test_the_messages_are_libsystemds(both: list[tuple[Any, FakeSystemd]], unit: str, properties: Any) -> None:
    arguments = [("s", unit), ("s", "replace"), ("a(sv)", properties), ("a(sa(sv))", [])]
    for connection, _ in both:
        connection.call(ADDRESS, arguments, "", 5)
    ours, theirs = (fake.messages[-1] for _, fake in both)
    assert read(ours) == read(theirs)


@pytest.mark.parametrize("arguments", [[], [("s", "x")], [("b", True), ("au", [1, 2])], [("s", ""), ("v", ("t", 5))]])
def test_the_messages_of_other_calls(both: list[tuple[Any, FakeSystemd]], arguments: Any) -> None:
    for connection, _ in both:
        connection.call(ADDRESS, arguments, "", 5)
    ours, theirs = (fake.messages[-1] for _, fake in both)
    assert read(ours) == read(theirs)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("s", "\udcff"),
        ("s", "a\0b"),
        *(("s", text) for text in ("\ufdd0", "a\ufdef", "\uffff", "\U0001fffe")),
        ("g", "y" * 256),
        *(("o", text) for text in ("", "a", "/a/", "//", "/a-b", "/ä")),
    ],
)
def test_what_no_message_may_hold(tmp_path: Path, kind: str, text: str) -> None:
    fake = FakeSystemd(tmp_path, lambda member, body: ("", ""))
    connection = dbus.Connection(fake.address.removeprefix("unix:path="), 5)
    with pytest.raises(dbus.Refusal) as caught:
        connection.call(ADDRESS, [(kind, text)], "", 5)
    assert caught.value.errno == errno.EINVAL
    # nothing of it was sent: the next call is heard
    connection.call(ADDRESS, [], "", 5)
    assert fake.calls == ["Made"]
    connection.close()
    fake.close()


# -- what is heard -------------------------------------------------------------------------------------------------------


class Peer:
    """Whoever is at the other end: says `words`, whatever it hears, and then waits or hangs up."""

    def __init__(self, place: Path, words: bytes, *, stays: bool = True) -> None:
        (place / "systemd").mkdir()
        self.path = f"{place}/systemd/private"
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen(1)
        self.words, self.stays = words, stays
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self.server.accept()[0] as peer:
            peer.recv(65536)
            for byte in range(0, len(self.words), 7):  # in pieces, as a socket may have it
                peer.sendall(self.words[byte : byte + 7])
            if self.stays:
                self.done.wait(20)

    def close(self) -> None:
        self.done.set()
        self.server.shutdown(socket.SHUT_RDWR)  # of one that nobody has called, this wakes accept
        self.thread.join(20)
        self.server.close()


WELCOME = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n"


def answer(kind: int, fields: list[tuple[int, str, Any]], signature: str = "", body: bytes = b"") -> bytes:
    return message(kind, 1, [*fields, (5, "u", 1)], signature, body)


def heard(place: Path, words: bytes, reads: str, *, stays: bool = True, wait_s: float = 5) -> Any:
    peer = Peer(place, words, stays=stays)
    connection = dbus.Connection(peer.path, 5)
    try:
        return connection.call(ADDRESS, [], reads, wait_s)
    finally:
        connection.close()
        peer.close()


def string(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text + b"\0"


def test_an_answer_in_pieces_among_signals(tmp_path: Path) -> None:
    signal = message(4, 9, [(3, "s", "JobRemoved")], "uoss", struct.pack("<I", 7) + string(b"/job") + b"\0" * 3 + string(b"x") + b"\0" * 2 + string(b"done"))  # fmt: skip
    words = WELCOME + signal + message(2, 2, [(5, "u", 77)], "s", string(b"another's")) + answer(2, [], "s", string("ä".encode()))  # fmt: skip
    peer = Peer(tmp_path, words)
    connection = dbus.Connection(peer.path, 5)
    assert connection.call(ADDRESS, [], "s", 5) == "ä"
    assert connection.signal("JobRemoved", "uoss", time.monotonic() + 5) == [7, "/job", "x", "done"]
    with pytest.raises(OSError) as caught:
        connection.signal("JobRemoved", "uoss", time.monotonic() + 0.05)
    assert caught.value.errno == errno.ETIMEDOUT
    connection.close()
    peer.close()


def test_an_answer_of_the_other_byte_order(tmp_path: Path) -> None:
    fields = b"\5\1u\0\0\0\0\1" + b"\x08\1g\0\1u\0"
    head = struct.pack(">cBBBIII", b"B", 2, 0, 1, 4, 5, len(fields))
    assert heard(tmp_path, WELCOME + head + fields + b"\0" * (-len(fields) % 8) + struct.pack(">I", 42), "u") == 42


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("org.freedesktop.DBus.Error.AccessDenied", errno.EACCES),
        ("org.freedesktop.DBus.Error.InvalidArgs", errno.EINVAL),
        ("System.Error.EBUSY", errno.EBUSY),
        ("System.Error.ENONSENSE", errno.EIO),
        ("org.freedesktop.systemd1.UnitExists", errno.EIO),
    ],
)
def test_an_error_is_libsystemds(tmp_path: Path, name: str, number: int) -> None:
    found = []
    for index in range(2):
        (tmp_path / str(index)).mkdir()
        fake = FakeSystemd(tmp_path / str(index), lambda member, body: (name, "Because of that."))
        path = fake.address.removeprefix("unix:path=")
        connection: Any = dbus.Connection(path, 5) if index else sdbus.Connection(fake.address, 5, is_bus=False)
        with pytest.raises(dbus.Refusal) as caught:
            connection.call(ADDRESS, [], "s", 5)
        found.append((caught.value.name, caught.value.words, caught.value.errno))
        connection.close()
        fake.close()
    assert found[0][:2] == found[1][:2] == (name, "Because of that")
    # libsystemd has numbers for systemd's own errors too, which nobody here asks for
    assert found[1][2] == number and (found[0][2] == number or ".systemd1." in name)


GARBAGE = {
    "a length beyond all": struct.pack("<cBBBIII", b"l", 2, 0, 1, 1 << 31, 1, 16) + b"\0" * 64,
    "fields beyond all": struct.pack("<cBBBIII", b"l", 2, 0, 1, 0, 1, 1 << 30) + b"\0" * 64,
    "a field cut short": struct.pack("<cBBBIII", b"l", 2, 0, 1, 0, 1, 5) + b"\5\1u\0\1\0\0\0",
    "a field of no known kind": struct.pack("<cBBBIII", b"l", 2, 0, 1, 0, 1, 8) + b"\5\1z\0\1\0\0\0",
    "a field of no kind": struct.pack("<cBBBIII", b"l", 2, 0, 1, 0, 1, 4) + b"\5\0\0\0\0\0\0\0",
    "a string longer than its message": answer(2, [], "s", struct.pack("<I", 1000) + b"abc\0"),
    "no value where one is read": answer(2, []),
}


@pytest.mark.parametrize("words", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_a_bad_message(tmp_path: Path, words: bytes) -> None:
    with pytest.raises(dbus.Refusal) as caught:
        heard(tmp_path, WELCOME + words, "s")
    assert caught.value.errno == errno.EBADMSG


@settings(max_examples=150, deadline=None)
@given(words=st.binary(max_size=120), is_welcome=st.booleans(), reads=st.sampled_from(["", "s", "u", "vs"]))
def test_any_garbage(tmp_path_factory: pytest.TempPathFactory, words: bytes, is_welcome: bool, reads: str) -> None:
    place = tmp_path_factory.mktemp("g")
    try:
        heard(place, (WELCOME if is_welcome else b"") + words, reads, stays=False)
    except (dbus.Refusal, dbus.NotLetIn):
        pass


@pytest.mark.parametrize("words", [b"REJECTED EXTERNAL\r\n", b"DATA\r\nREJECTED\r\n", b""])
def test_who_is_not_let_in_goes_to_the_next_address(tmp_path: Path, words: bytes) -> None:
    """Nothing has been heard there, so that it may be said again."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    peer, fake = (
        Peer(tmp_path / "a", words, stays=False),
        FakeSystemd(tmp_path / "b", lambda member, body: ("v", "252")),
    )
    connection = Manager([f"unix:path={peer.path}", fake.address])
    assert connection.get("Version", "s") == "252" and connection.address == fake.address and fake.calls == ["Get"]
    connection.close()
    with pytest.raises(CgroupError) as caught:
        (tmp_path / "c").mkdir()
        again = Peer(tmp_path / "c", words, stays=False)
        Manager([f"unix:path={again.path}"]).get("Version", "s")
    assert caught.value.message.startswith(f"cannot reach systemd: {again.path}: ")
    for one in (peer, again, fake):
        one.close()


def test_who_is_let_in_by_the_bus_alone_hears_of_the_end(tmp_path: Path) -> None:
    """There it is told to those who have asked for it, before the job is there."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    answers = {"Hello": ("s", ":1.1"), "AddMatch": ("", ""), "StartTransientUnit": ("job", "done")}
    peer = Peer(tmp_path / "a", b"REJECTED\r\n", stays=False)
    fake = FakeSystemd(tmp_path / "b", lambda member, body: answers[member])
    (tmp_path / "bus").symlink_to(fake.address.removeprefix("unix:path="))
    connection = Manager([f"unix:path={peer.path}", f"unix:path={tmp_path}/bus"])
    connection.start("x.scope", [])
    assert fake.calls == ["Hello", "AddMatch", "StartTransientUnit"]
    connection.close()
    peer.close()
    fake.close()


def test_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(dbus.NotLetIn) as caught:
        heard(tmp_path, b"", "s", wait_s=0.05)
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_user_whose_directory_has_an_odd_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "ü %20"
    place.mkdir()
    fake = FakeSystemd(place, lambda member, body: ("v", "252"))
    monkeypatch.setattr(systemd_bus.os, "environ", {"XDG_RUNTIME_DIR": str(place)})
    connection = Manager(systemd_bus.user_addresses())
    assert connection.get("Version", "s") == "252"
    connection.close()
    fake.close()


@pytest.mark.parametrize(
    "path", ["/%zz/systemd/private", "/%/systemd/private", "/%-1/systemd/private", "/a\0b/systemd/private"]
)
def test_an_address_that_nobody_wrote(path: str) -> None:
    with pytest.raises(CgroupError, match="cannot reach systemd"):
        Manager([f"unix:path={path}"])


def test_who_is_dropped_hangs_up(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    peer = Peer(tmp_path, WELCOME)
    Manager([f"unix:path={peer.path}"])
    peer.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    peer = Peer(tmp_path, b"REJECTED\r\n", stays=False)
    with pytest.raises(CgroupError):
        Manager([f"unix:path={peer.path}"]).get("Version", "s")
    peer.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)
