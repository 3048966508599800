"""How an input is changed into another: documents by their structure, words by their letters, anything by its bytes.

All of it is drawn from a `random.Random`: the same seed makes the same inputs on every machine.
"""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

#: numbers at which types end, in whatever language the other side is written
NUMBERS = (
    0, 1, -1, 2, 7, 64, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 2, 2**32 - 1, 2**32,
    2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**19, 10**40, -(10**40), 0.0, -0.0, 1.0, 0.5, -1.5, 1e9, 1e308,
)  # fmt: skip
TEXTS = (
    "", " ", ".", "..", "/", "//", "/..", "../..", "a", "A", "-", "--", "-1", "0", "1", "=", "=x", "x=", ":", "a:b", ",", "%s", "$STATE",
    "@", "\n", "\r\n", "\t", "\\", '"', "'", "ü", "\u2028", "\x7f", "\x1b[31m", "\U0001f680", "\ufeff", "１２", "1_0", " 1", "+1", "0x10", "1e3",
    "true", "null", "NaN", "/dev/null", "/proc/self/fd/9", "/proc/1/root", "unix:///x", "name=x", "C" * 300, "/" + "d/" * 3000,
)  # fmt: skip
#: what JSON's grammar has no place for, or strings none that a system call could take; put into the text as it is
TOKENS = (
    b"NaN", b"-Infinity", b"Infinity", b"1e400", b"-1e400", b"01", b"1.", b".5", b"+1", b"1" * 400, b"9" * 5000, b"-", b'"\\ud800"',
    b'"\\udc80x"', b'"\\u0000"', b'"a\\u0000b"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\x"', b'"\t"', b"'a'", b"tru", b"{", b"[", b"]", b"}",
    b",", b"/**/", b"[" * 70 + b"]" * 70, b"[" * 100000, b'{"a":' * 200 + b"1" + b"}" * 200, b'"' + b"x" * 70000 + b'"', b"\xef\xbb\xbf", b"\0",
)  # fmt: skip

#: what a list in a document is not multiplied beyond: making such an input would take longer than whoever reads it may
MOST_PLACES = 50_000


def value(rng: Random, known: list[Any]) -> Any:
    """A value to be put in the place of another; `known` are values that mean something to who reads them."""
    kind = rng.randrange(10)
    if kind < 3 and known:
        return copy.deepcopy(rng.choice(known))
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind < 7:
        return text(rng, rng.choice(TEXTS))
    plain: list[Any] = [None, True, False, [], {}, [None], [[]], [{}], {"": None}, {"a": {}}, [1, "a", None]]
    return copy.deepcopy(rng.choice(plain))


def text(rng: Random, old: str) -> str:
    """A text that is nearly the old one."""
    kind, at = rng.randrange(9), rng.randrange(len(old) + 1)
    if kind == 0:
        return old
    if kind == 1:
        return old[:at] + rng.choice(TEXTS) + old[at:]
    if kind == 2:
        return old[:at]
    if kind == 3:
        return old[:at] + old[at + 1 :]
    if kind == 4:
        return old.swapcase()
    if kind == 5:
        return (
            old[:at]
            + chr(rng.choice((0x20, 0x2F, 0x3A, 0x2C, 0x41, 0x7F, 0x80, 0x3B1, 0xE000, 0xDC80, 0xD800)))
            + old[at:]
        )
    if kind == 6:
        return old + old
    if kind == 7:
        return old * rng.choice((3, 50, 400)) if len(old) < 100 else old[::-1]
    return rng.choice(TEXTS)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every place in a document, as what holds it and its key or index there."""
    found: list[tuple[Any, Any]] = []
    left = [document]
    while left:
        holder = left.pop()
        keys = list(holder) if type(holder) is dict else range(len(holder)) if type(holder) is list else ()
        for key in keys:
            found.append((holder, key))
            if type(holder[key]) in (dict, list):
                left.append(holder[key])
    return found


def document(rng: Random, old: Any, known: list[Any], names: list[str]) -> Any:
    """The document with a few of its places changed; `names` are of properties that it may not have yet."""
    made = copy.deepcopy(old)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        found = places(made)
        if not found:
            return value(rng, known)
        holder, key = rng.choice(found)
        item, kind = holder[key], rng.randrange(12)
        if kind == 0:
            del holder[key]
        elif kind == 1 and type(holder) is dict:
            holder[text(rng, str(key))] = holder.pop(key)
        elif kind == 2 and type(item) is dict:
            item[rng.choice(names) if names else "x"] = value(rng, known)
        elif kind == 3 and type(item) is list:
            item.insert(rng.randrange(len(item) + 1), copy.deepcopy(rng.choice(item)) if item else value(rng, known))
        elif kind == 4 and type(item) is list and item:
            times = rng.choice((2, 30, 400)) if len(item) < 20 else 1
            if times * len(places(item)) < MOST_PLACES:
                # copies: what is changed later is one of them, and not all at once
                item[:] = [copy.deepcopy(one) for _ in range(times) for one in item]
        elif kind == 5:
            other, there = rng.choice(found)
            if there in other if type(other) is dict else there < len(other):
                holder[key] = copy.deepcopy(other[there])
        elif kind == 6:
            holder[key] = rng.choice(([item], {"a": item}, [[item]], {str(key): item}))
        elif type(item) is str and kind < 10:
            holder[key] = text(rng, item)
        elif type(item) is int and kind < 9:
            holder[key] = rng.choice(
                (item + 1, item - 1, -item, item * 1000, str(item), float(item % 2**63), rng.choice(NUMBERS))
            )
        else:
            holder[key] = value(rng, known)
    return made


def written(rng: Random, made: Any) -> bytes:
    """The document as a file, most often a well-formed one."""
    try:
        data = json.dumps(made, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b"{}"
    kind = rng.randrange(24)
    if kind == 0:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.choice(TOKENS) + data[at:]
    if kind == 1:
        return data.replace(rng.choice((b"1", b"true", b'"', b"[", b":", b"0")), rng.choice(TOKENS), 1)
    if kind == 2:  # a member twice
        at = data.find(b"{", rng.randrange(len(data)))
        comma = data.find(b",", at)
        return data[: at + 1] + data[at + 1 : comma + 1] + data[at + 1 :] if 0 <= at < comma else data
    if kind == 3:
        return octets(rng, data)
    if kind == 4:
        return (
            rng.choice((b"\xef\xbb\xbf", b" \n", b"\0", b"//\n", b"\xff\xfe"))
            + data
            + rng.choice((b"", b"\n", b"x", b"{}", b"\0"))
        )
    return data


def octets(rng: Random, old: bytes) -> bytes:
    """Bytes that are nearly the old ones."""
    data = bytearray(old)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        kind, at = rng.randrange(8), rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 64)))
        if kind == 0:
            del data[at:end]
        elif kind == 1:
            data[at:at] = data[at:end] * rng.choice((1, 3, 100))
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 10)))
        elif kind == 3:
            data[at:at] = rng.choice(
                (
                    b"\0",
                    b"\n",
                    b" ",
                    b":",
                    b"=",
                    b"\xff" * 4,
                    b"\x80" * 11,
                    b"18446744073709551616",
                    b"-1",
                    b"/",
                    b"\xff",
                )
            )
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 5 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x0A))
        elif kind == 6:
            del data[at:]
        elif data:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.choice((4, 30))]
    return bytes(data[: 1 << 20])
