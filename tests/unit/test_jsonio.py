"""JSON is read as `json` reads it but for what no document of ours can mean, and written exactly as `json` writes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import jsonio
from runtime.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


def refused(data: bytes, **more: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        jsonio.loads(data, "x.json", **more)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.json")
    return caught.value


# -- reading ----------------------------------------------------------------------------------------------------------


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_reads_what_json_reads(value: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    assert json.dumps(jsonio.loads(f" \n{text}\t\r\n".encode(), "x")) == json.dumps(value)


def test_of_two_members_with_one_name_the_last_counts() -> None:
    assert jsonio.loads(b'{"a": 1, "b": 2, "a": 3}', "x") == {"a": 3, "b": 2}


def test_great_integers_stay_exact() -> None:
    assert jsonio.loads(b"[18446744073709551615, -9223372036854775808]", "x") == [2**64 - 1, -(2**63)]
    assert type(jsonio.loads(b"1.0", "x")) is float


@pytest.mark.parametrize(
    ("data", "place", "why"),
    [
        (b"", (1, 1), "empty, where a JSON document was expected"),
        (b" \n ", (2, 2), "empty, where a JSON document was expected"),
        (b"{", (1, 2), "not JSON: expecting property name enclosed in double quotes, found the end: the document is cut off"),
        (b'{"a": [1,\n 2', (2, 3), "not JSON: expecting ',' delimiter, found the end: the document is cut off"),
        (b'{"a": "x', (1, 7), 'not JSON: unterminated string starting, found "\\""'),
        (b"[1,]", (1, 4), 'not JSON: expecting value, found "]"'),
        (b"{'a': 1}", (1, 2), "not JSON: expecting property name enclosed in double quotes, found \"'\""),
        (b"{}\n{}", (2, 1), 'not JSON: extra data, found "{"'),
        (b'["a\tb"]', (1, 4), "not JSON: invalid control character"),
        (b'["a\0b"]', (1, 4), "not JSON: invalid control character"),
        (b'["\\x"]', (1, 3), 'not JSON: invalid \\escape, found "\\\\"'),
        (b'{"s": "NaN",\n"a": NaN}', (2, 6), "not JSON: NaN is not a number"),
        (b"[-Infinity]", (1, 2), "not JSON: -Infinity is not a number"),
        (b"[Infinity]", (1, 2), "not JSON: Infinity is not a number"),
        (b'["1e999",\n-1e999]', (2, 1), "a number that is too large"),
        (b'{\n"a": "\xff"}', (2, 7), "not UTF-8: byte 0xff"),
        (b"\xed\xa0\x80", (1, 1), "not UTF-8: byte 0xed"),
        (b"\xef\xbb\xbf{}", (1, 1), "starts with a byte order mark, which JSON does not allow"),
        ("{}".encode("utf-16"), (1, 1), "not UTF-8: byte 0xff"),
        (b"[1,\n" + b"9" * 5000 + b"]", (2, 1), "a number with too many digits"),
        (b"[" * 100000, (1, 1), "nested far too deeply"),
        (b"\x7fELF\x02\x01\x01\0\0", (1, 1), "not JSON: expecting value"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_what_is_no_document_is_refused_with_its_place(data: bytes, place: tuple[int, int], why: str) -> None:
    error = refused(data)
    assert error.why == why
    assert (error.line, error.column) == place
    assert str(error) == f"x.json:{place[0]}:{place[1]}: {why}"


@given(st.binary(max_size=40))
def test_garbage_is_a_config_error_or_a_document(data: bytes) -> None:
    try:
        jsonio.loads(data, "x")
    except ConfigError:
        with pytest.raises((ValueError, AssertionError)):
            json.loads(data.decode(), parse_constant=lambda word: pytest.fail(word, pytrace=False))
            assert b"\\u" not in data
    else:
        json.loads(data.decode())


@pytest.mark.parametrize(
    ("data", "pointer", "column"),
    [
        (b'{"a": ["b", "c\\u0000d"]}', "/a/1", 13),
        (b'{"a": {"b/c\\u0000": 1}}', "/a", 8),
        (b'{"a~": {"x": "\\ud800"}}', "/a~0/x", 14),
        (b'{"a": "\\uDC80"}', "/a", 7),
        (b'["\\u0000"]', "/0", 2),
    ],
)
def test_strings_that_nothing_can_take_are_refused_with_their_place(data: bytes, pointer: str, column: int) -> None:
    error = refused(data)
    assert (error.where, error.line, error.column) == (pointer, 1, column)


def test_escapes_that_look_alike_are_taken() -> None:
    assert jsonio.loads(b'["\\\\u0000", "\\\\ud800", "\\ud83d\\ude00", "\\u003c"]', "x") == [
        "\\u0000",
        "\\ud800",
        "😀",
        "<",
    ]


def test_our_own_documents_may_name_files_that_are_not_utf_8() -> None:
    name = b"/tmp/\xff".decode("utf-8", "surrogateescape")
    data = jsonio.dumps({"bundle": name}).encode()
    refused(data)
    assert jsonio.loads(data, "x", lone_surrogates=True) == {"bundle": name}
    with pytest.raises(ConfigError):
        jsonio.loads(b'["\\u0000"]', "x", lone_surrogates=True)


def test_size_is_limited() -> None:
    assert jsonio.loads(b" " * 98 + b"[]", "x", limit=100) == []
    assert refused(b" " * 99 + b"[]", limit=100).why == "larger than 100 bytes"
    assert refused(b'"' + b"x" * jsonio.LIMIT + b'"').why == "larger than 16777216 bytes"


def test_depth_is_limited() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        jsonio.loads(opening * 63 + b"[]" + closing * 63, "x")
        assert refused(opening * 64 + b"[]" + closing * 64).why == "nested deeper than 64 levels"
    # brackets inside strings are no nesting
    assert jsonio.loads(b'["' + b"[" * 100 + b'"]', "x") == ["[" * 100]


# -- writing ----------------------------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
)


@given(ANY_JSON, st.sampled_from([None, 0, 1, 2, 4]))
def test_writes_what_json_writes(value: Any, indent: int | None) -> None:
    assert jsonio.dumps(value, indent) == json.dumps(value, indent=indent)


def test_what_json_cannot_say_is_not_written() -> None:
    for value in (float("nan"), float("inf"), [float("-inf")]):
        for indent in (None, 2):
            with pytest.raises(ValueError):
                jsonio.dumps(value, indent)
    with pytest.raises(TypeError, match="bytes is not JSON serializable"):
        jsonio.dumps({"a": b""})


def test_no_library_is_loaded_while_all_is_well() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from runtime import jsonio\n"
        "value = jsonio.loads(b'{\"a\": [1, 2.5, null, \"\\\\u003c\"]}', 'x')\n"
        "assert jsonio.dumps(value) and jsonio.dumps(value, 2)\n"
        "print(*sorted({'json', 're', 'typing', 'enum', 'functools', 'os'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_an_interpreter_without_the_accelerator_gives_the_same_answers() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['_json'] = None\n"
        "from runtime import jsonio\n"
        "from runtime.errors import ConfigError\n"
        "assert jsonio._scan is None and jsonio.make_encoder is None\n"
        "value = jsonio.loads(b' {\"a\": [1, 2.5, null, \"\\\\u00e9\"]} ', 'x')\n"
        "print(jsonio.dumps(value)); print(jsonio.dumps(value, 1))\n"
        "for bad in (b'[1,]', b'[NaN]', b'[] x', b'[' * 100000):\n"
        "    try: print('accepted', jsonio.loads(bad, 'x'))\n"
        "    except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code, str(ROOT)], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        '{"a": [1, 2.5, null, "\\u00e9"]}', "{", ' "a": [', "  1,", "  2.5,", "  null,", '  "\\u00e9"', " ]", "}",
        'x:1:4: not JSON: expecting value, found "]"', "x:1:2: not JSON: NaN is not a number",
        'x:1:4: not JSON: extra data, found "x"', "x:1:1: nested far too deeply",
    ]  # fmt: skip


def test_pointers_are_escaped() -> None:
    assert jsonio.pointer("a/b", 3, "~") == "/a~1b/3/~0"
