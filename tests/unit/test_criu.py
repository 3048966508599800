"""CRIU's protocol: the bytes are Google's, what is no message is refused, and its log becomes one line."""

from __future__ import annotations

from typing import Any

import google_messages as google
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import criu
from runtime.criu import BOOL, INT, TEXT, ProtocolError, decode, encode

#: our kinds in the words of the table that Google's library is asked with
_KINDS = {INT: "int64", BOOL: "bool", TEXT: "string"}


def table_of(ours: Any) -> Any:
    def kind_of(kind: Any) -> Any:
        if isinstance(kind, list):
            return [kind_of(kind[0])]
        return table_of(kind) if isinstance(kind, dict) else _KINDS[kind]

    return {number: (name, kind_of(kind)) for number, (name, kind) in ours.items()}


def values_of(table: Any) -> st.SearchStrategy[dict[str, Any]]:
    def value_of(kind: Any) -> st.SearchStrategy[Any]:
        if isinstance(kind, list):
            return st.lists(value_of(kind[0]), min_size=1, max_size=3)
        if isinstance(kind, dict):
            return values_of(kind)
        # proto3, of Google's, leaves out what proto2 sends: a default
        return {INT: st.integers(-(2**31), 2**31 - 1).filter(bool), BOOL: st.just(True), TEXT: st.text(min_size=1)}[
            kind
        ]

    return st.fixed_dictionaries({}, optional={name: value_of(kind) for name, kind in table.values()})


GOOGLE = {name: google.message_class(table_of(getattr(criu, name))) for name in ("REQUEST", "RESPONSE")}


@pytest.mark.parametrize("name", GOOGLE)
def test_the_same_as_google(name: str) -> None:
    table = getattr(criu, name)

    @given(values_of(table))
    def check(values: dict[str, Any]) -> None:
        data = encode(table, values)
        assert decode(table, data) == values
        read = GOOGLE[name].FromString(data)
        assert read.SerializeToString(deterministic=True) == data

    check()


def test_a_field_that_is_there_and_zero_is_sent() -> None:
    # --manage-cgroups-mode ignore is 0, and another thing than no mode at all
    assert encode(criu.OPTIONS, {"manage_cgroups_mode": 0, "leave_running": False}) == b"\x18\x00\x90\x02\x00"
    assert decode(criu.OPTIONS, b"\x18\x00\x90\x02\x00") == {"manage_cgroups_mode": 0, "leave_running": False}


def test_requests_as_criu_reads_them() -> None:
    assert encode(criu.REQUEST, {"type": criu.VERSION, "keep_open": True}) == b"\x08\x0a\x20\x01"
    opts = {"images_dir_fd": 3, "ext_mnt": [{"key": "/a", "val": "/b"}], "external": ["net[4]:x"]}
    assert encode(criu.REQUEST, {"type": criu.DUMP, "opts": opts}) == (
        b"\x08\x01\x12\x18\x08\x03\xba\x01\x08\x0a\x02/a\x12\x02/b\xaa\x02\x08net[4]:x"
    )


def test_a_name_that_is_none_is_a_defect() -> None:
    with pytest.raises(KeyError, match="imagesdir"):
        encode(criu.OPTIONS, {"imagesdir": 3})


def test_responses() -> None:
    version = b"\x08\x0a\x10\x01\x52\x06\x08\x04\x10\x01\x20\x01"
    assert criu.version_of(decode(criu.RESPONSE, version)) == 40101
    assert criu.version_of(decode(criu.RESPONSE, b"\x52\x04\x08\x03\x10\x11")) == 31700
    assert criu.version_of({}) == 0
    assert decode(criu.RESPONSE, b"\x38" + b"\xff" * 9 + b"\x01")["cr_errno"] == -1
    # what a newer CRIU may send besides: a number, eight bytes, four bytes, text
    unknown = b"\x98\x06\x07" + b"\x99\x06" + bytes(8) + b"\x9d\x06" + bytes(4) + b"\x9a\x06\x02hi"
    assert decode(criu.RESPONSE, unknown + b"\x10\x01") == {"success": True}
    # a field of ours with another wire type is as good as unknown
    assert decode(criu.RESPONSE, b"\x0a\x01x") == {}


@pytest.mark.parametrize(
    "data", [b"\x08", b"\x08\x80", b"\x4a\x05abc", b"\x4a", b"\x99\x06\x00", b"\x0b", b"\x08" + b"\x80" * 11]
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(criu.RESPONSE, data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        decode(criu.RESPONSE, data)
    except ProtocolError:
        pass


def test_a_log_is_quoted_on_one_line() -> None:
    log = b"""(00.000001) Version: 4.1.1
(00.042034) Error (criu/util.c:1151): Unable to mount tmpfs in x: Invalid argument
(00.042035)      1: Error (criu/files.c:12): one\ttwo \x1b[2J\xff
(00.042034) Error (criu/util.c:1151): Unable to mount tmpfs in x: Invalid argument
(00.042039) pie: 1: Error (criu/pie/restorer.c:180): can't write lsm profile -2
"""
    assert criu.quote(log) == (
        "Error (criu/util.c:1151): Unable to mount tmpfs in x: Invalid argument; "
        "Error (criu/files.c:12): one two [2J\ufffd; "
        "Error (criu/pie/restorer.c:180): can't write lsm profile -2"
    )
    assert criu.quote(b"(00.1) nothing wrong\n") == ""
    many = criu.quote(b"".join(b"Error (criu/a.c:%d): no\n" % number for number in range(40)))
    assert many.startswith("...; ") and many.endswith("Error (criu/a.c:39): no") and len(many) < 400
    assert len(criu.quote(b"Error (" + b"x" * 100_000)) < 400
