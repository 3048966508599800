"""Our protobuf is Google's: the same bytes from the same values, the same values from the same bytes, the same refusals."""

from __future__ import annotations

import math
from typing import Any

import google_messages as google
import pytest
from google.protobuf.message import DecodeError as GoogleError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.containerd import messages, stats
from shim.containerd.protobuf import MAP, DecodeError, blank, decode, encode

INNER: Any = {1: ("name", "string"), 2: ("size", "int32"), 15: ("more", ["uint64"]), 16: ("deep", {3: ("on", "bool")})}
LABELS = 17
ALL: Any = {
    1: ("text", "string"),
    2: ("data", "bytes"),
    3: ("flag", "bool"),
    4: ("small", "int32"),
    5: ("large", "int64"),
    6: ("plain", "uint32"),
    7: ("huge", "uint64"),
    8: ("level", "enum"),
    9: ("ratio", "double"),
    10: ("inner", INNER),
    11: ("inners", [INNER]),
    12: ("words", ["string"]),
    13: ("blobs", ["bytes"]),
    14: ("numbers", ["int64"]),
    15: ("levels", ["enum"]),
    16: ("ratios", ["double"]),
    LABELS: ("labels", MAP),
    2047: ("last_of_two_bytes", "uint32"),
    536870911: ("last", "bool"),
}
GOOGLE = google.message_class(ALL)
TABLES = {name: table for name, table in vars(messages).items() if isinstance(table, dict) and name.isupper()}
TABLES.pop("STATUSES")
TABLES |= {f"event {topic}": table for topic, (_, table) in TABLES.pop("EVENTS").items()}
TABLES.pop("CHECKPOINT_OPTIONS_BY_TYPE")
TABLES |= {"METRICS_V1": stats.METRICS_V1, "METRICS_V2": stats.METRICS_V2}

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=20),
    "bytes": st.binary(max_size=200),
    "bool": st.booleans(),
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "enum": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint32": st.integers(0, (1 << 32) - 1),
    "uint64": st.integers(0, (1 << 64) - 1),
    "double": st.floats(allow_nan=False),
    MAP: st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=1),  # the order of entries is nobody's
}


def values(table: Any) -> st.SearchStrategy[dict[str, Any]]:
    fields = {}
    for name, kind in table.values():
        if isinstance(kind, list):
            one = values(kind[0]) if isinstance(kind[0], dict) else SCALARS[kind[0]]
            fields[name] = st.lists(one, max_size=3)
        elif isinstance(kind, dict):
            fields[name] = st.none() | values(kind)
        else:
            fields[name] = SCALARS[kind]
    return st.fixed_dictionaries(fields)


@given(values(ALL))
@settings(max_examples=300, deadline=None)
def test_bytes_are_googles(some: dict[str, Any]) -> None:
    expected = google.build(ALL, some, GOOGLE()).SerializeToString(deterministic=True)
    assert encode(ALL, some) == expected
    assert decode(ALL, expected) == some


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_is_a_message(name: str) -> None:
    """Google's library accepts each table as a message, and reads from it what was written."""
    table = TABLES[name]
    full = filled(table)
    expected = google.build(table, full)
    assert encode(table, full) == expected.SerializeToString(deterministic=True)
    assert decode(table, expected.SerializeToString()) == full == google.values_of(table, expected)


def filled(table: Any, number: int = 1) -> dict[str, Any]:
    samples = {"string": "x", "bytes": b"y", "bool": True, "double": 0.5, MAP: {"a": "b"}}
    found: dict[str, Any] = {}
    for index, (name, kind) in enumerate(table.values(), number):
        one = kind[0] if isinstance(kind, list) else kind
        value = filled(one, index) if isinstance(one, dict) else samples.get(one, index)
        found[name] = [value, value] if isinstance(kind, list) else value
    return found


@given(st.data())
@settings(max_examples=1500, deadline=None)
def test_damaged_messages(data: st.DataObject) -> None:
    """A message with bytes changed, cut or added means to us what it means to Google, or is refused by both."""
    damaged = bytearray(encode(ALL, data.draw(values(ALL))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    same_meaning(bytes(damaged))


@given(st.binary(max_size=40))
@settings(max_examples=1500, deadline=None)
def test_any_bytes(data: bytes) -> None:
    same_meaning(data)


def same_meaning(data: bytes) -> None:
    try:
        message = GOOGLE.FromString(data)
    except GoogleError:
        with pytest.raises(DecodeError):
            decode(ALL, data)
        return
    expected, found = google.values_of(ALL, message), decode(ALL, data)
    if any(field.field_number == LABELS for field in UnknownFieldSet(message)):
        # an entry with something unknown in it: to Google's library for Python unknown as a whole; Go's, which containerd has, takes it
        assert found.pop("labels").items() >= expected.pop("labels").items()
    assert same(found, expected)


def test_an_entry_with_something_unknown_in_it() -> None:
    assert decode(ALL, b"\x8a\x01\x04\n\x00\x08\x00")["labels"] == {"": ""}
    same_meaning(b"\x8a\x01\x04\n\x00\x08\x00")


def same(one: Any, other: Any) -> bool:
    """Equal, where not-a-number is equal to itself."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def test_later_values_win_and_messages_merge() -> None:
    twice = encode(ALL, {"small": 1, "inner": {"name": "a", "more": [1]}}) + encode(
        ALL, {"small": 2, "inner": {"size": 5, "more": [2]}}
    )
    found = decode(ALL, twice)
    assert found["small"] == 2
    assert (found["inner"]["name"], found["inner"]["size"], found["inner"]["more"]) == ("a", 5, [1, 2])
    same_meaning(twice)


def test_unpacked_numbers_are_read() -> None:
    assert decode(ALL, b"\x70\x01\x70\x02\x72\x01\x03")["numbers"] == [1, 2, 3]


def test_unknown_fields_are_skipped() -> None:
    unknown = b"".join((b"\xa0\x06\x05", b"\xa1\x06" + b"8" * 8, b"\xa2\x06\x02hi", b"\xa5\x06" + b"4" * 4))
    group = b"\xa3\x06" + b"\xab\x06\x08\x01\xac\x06" + b"\xa4\x06"
    assert decode(INNER, unknown + group + b"\x0a\x01n") == {**blank(INNER), "name": "n"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x00\x00",
        b"\x0c",
        b"\x0f\x00",
        b"\x0a\x02\xff\xfe",
        b"\xa3\x06" * 200,
        b"\xa3\x06\xac\x06",
        b"\x49\x00\x00",
    ],
)
def test_refusals(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(ALL, data)
    with pytest.raises(GoogleError):
        GOOGLE.FromString(data)


def test_a_field_that_is_none() -> None:
    with pytest.raises(KeyError):
        encode(INNER, {"nmae": "x"})
