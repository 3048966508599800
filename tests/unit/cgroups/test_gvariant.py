"""Values of D-Bus as text: what is read, what is refused, and that what is shown is read as the same."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cgroups import gvariant


@pytest.mark.parametrize(
    ("text", "signature", "value"),
    [
        ("5", "i", 5),
        (" -5 ", "i", -5),
        ("0x10", "i", 16),
        ("byte 255", "y", 255),
        ("int16 -3", "n", -3),
        ("uint16 3", "q", 3),
        ("uint32 4000000000", "u", 4000000000),
        ("int64 -9000000000", "x", -9000000000),
        ("uint64 18446744073709551615", "t", (1 << 64) - 1),
        ("@t 7", "t", 7),
        ("1.5", "d", 1.5),
        ("double 2", "d", 2.0),
        ("true", "b", True),
        ("boolean false", "b", False),
        ("'a b'", "s", "a b"),
        ('"it\'s"', "s", "it's"),
        (r"'it\'s \\ \n \u00e4 \U0001f600'", "s", "it's \\ \n ä 😀"),
        ("objectpath '/a'", "o", "/a"),
        ("signature 'as'", "g", "as"),
        ("['a', 'b']", "as", ["a", "b"]),
        ("@as []", "as", []),
        ("[uint64 1, 2]", "at", [1, 2]),
        ("[[1], [2, 3]]", "aai", [[1], [2, 3]]),
        ("('a', uint32 1)", "(su)", ("a", 1)),
        ("[('/dev/null', 'rw'), ('/dev/zero', 'r')]", "a(ss)", [("/dev/null", "rw"), ("/dev/zero", "r")]),
        ("@a(st) [('a', 5)]", "a(st)", [("a", 5)]),
        ("@a(st) []", "a(st)", []),
    ],
)
def test_reading_and_showing(text: str, signature: str, value: Any) -> None:
    assert gvariant.parse(text) == (signature, value)
    assert gvariant.parse(gvariant.show(signature, value)) == (signature, value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a value is missing"),
        ("uint64", "a value is missing"),
        ("[]", "an empty array needs its type"),
        ("5 6", '"6" after the value'),
        ("'a", "a string without an end"),
        ("'a\\", "a string without an end"),
        ("uint64 -1", "out of range of uint64"),
        ("5000000000", "out of range of int32"),
        ("byte 256", "out of range of byte"),
        ("-1e999", "out of range of double"),
        ("double nan", "out of range of double"),
        ("1_000", "is no value"),
        ("much", '"much" is no value'),
        ("uint64 'x'", 'a string where the type is "t"'),
        ("@s 5", '"5" is no value where the type is "s"'),
        ("@b 5", '"5" is no value where the type is "b"'),
        ("[1, 'a']", 'a string where the type is "i"'),
        ("[1", '"," expected'),
        ("('a', 1", '"," expected'),
        ("@(ss) ('a',)", "a value is missing"),
        ("@(ss) ('a')", "too few values"),
        ("@(s) ('a', 'b')", "too many values"),
        ("@as 5", "is no value where"),
        ("@a 5", "is no type"),
        ("@() 5", "is no type"),
        ("@(s 5", "is no type"),
        ("@ss 5", "is no type"),
        ("@z 5", "is no type that is known here"),
        ("@i uint32 5", 'where the type is "i"'),
        ("'\\u12'", "is no character"),
        ("'\\ud800'", "neither NUL nor half of a character"),
        ("'\\u0000'", "neither NUL nor half of a character"),
        ("[" * 20, "nested too deeply"),
        ("@as " * 20, "nested too deeply"),
    ],
)
def test_what_is_no_value(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        gvariant.parse(text)
    assert why in str(caught.value)


def test_no_text_makes_it_fail_otherwise() -> None:
    """Whatever an annotation says: a value, or a ValueError."""
    letters = "@[]()'\"\\,auist 01-.x"
    state = 1
    for _ in range(20_000):
        text = ""
        for _ in range(state % 9 + 1):
            state = (state * 1103515245 + 12345) % (1 << 31)
            text += letters[(state >> 8) % len(letters)]
        try:
            signature, value = gvariant.parse(text)
        except ValueError:
            continue
        assert gvariant.parse(gvariant.show(signature, value)) == (signature, value), text


def test_splitting_signatures() -> None:
    assert gvariant.split("sa(ss)taau") == ["s", "a(ss)", "t", "aau"]
    for wrong in ("a", "(s", "(", "z", "aa"):
        with pytest.raises(ValueError):
            gvariant.split(wrong)
