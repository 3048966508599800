"""Protocol buffers on the wire, driven by tables: a message is a dict here, a table says which field is which number.

    TABLE = {1: ("id", "string"), 2: ("pid", "uint32"), 3: ("rootfs", [MOUNT]), 4: ("options", ANY), 5: ("labels", MAP)}

    "string" "bytes" "bool" "int32" "int64" "uint32" "uint64" "enum" "double"    a scalar
    a table                                                                      a message
    [scalar or table]                                                            repeated; scalars are packed
    MAP                                                                          map<string, string>

Decoding fills in what is absent (proto3's defaults; None for a message), so that a table's name is always there. Encoding
leaves defaults out and writes fields by number, as Google's library does; tests/shim/test_protobuf.py holds the two equal.
This module must know no message.
"""

from __future__ import annotations

from _struct import pack, unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Table = dict[int, tuple[str, Any]]

#: the type of a field that maps strings to strings
MAP = "map"

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_WIRE_TYPES = {"string": _BYTES, "bytes": _BYTES, "double": _FIXED64}
_DEFAULTS: dict[str, Any] = {"string": "", "bytes": b"", "bool": False, "double": 0.0}
_ENTRY: Table = {1: ("key", "string"), 2: ("value", "string")}
#: how deep unknown groups and messages may nest: Google's library has the same number
_DEPTH = 100
#: two bytes are enough for an empty message, and a message of 4 MiB would become a gigabyte of them
_MOST = 1 << 16
_MASK_64 = (1 << 64) - 1


class DecodeError(ValueError):
    """The bytes are no message of this kind."""


# -- encoding ----------------------------------------------------------------------------------------------------------


def encode(table: Table, values: dict[str, Any]) -> bytes:
    """The message as bytes. A name that the table does not have is a defect of the caller's, and is refused."""
    out = bytearray()
    used = 0
    for number in sorted(table):
        name, kind = table[number]
        value = values.get(name)
        used += name in values
        # a zero below zero equals the default, and is another value
        if value is None or (not value and type(kind) is not dict and str(value) != "-0.0"):
            continue
        if type(kind) is list:
            _put_repeated(out, number, kind[0], value)
        elif kind == MAP:
            for key, item in value.items():
                # of an entry both fields are always written
                entry = bytearray()
                _put(entry, 1, "string", key)
                _put(entry, 2, "string", item)
                _put(out, number, "bytes", entry)
        else:
            _put(out, number, kind, value)
    if used != len(values):
        raise KeyError(f"no field of this message: {sorted(set(values) - {name for name, _ in table.values()})}")
    return bytes(out)


def _put_repeated(out: bytearray, number: int, kind: Any, values: Any) -> None:
    if type(kind) is dict or kind in ("string", "bytes"):
        for value in values:
            _put(out, number, kind, value)
    else:
        packed = bytearray()
        for value in values:
            _put_scalar(packed, kind, value)
        _put_varint(out, number << 3 | _BYTES)
        _put_varint(out, len(packed))
        out += packed


def _put(out: bytearray, number: int, kind: Any, value: Any) -> None:
    """One field with its tag."""
    if type(kind) is dict:
        value, kind = encode(kind, value), "bytes"
    _put_varint(out, number << 3 | _WIRE_TYPES.get(kind, _VARINT))
    _put_scalar(out, kind, value)


def _put_scalar(out: bytearray, kind: str, value: Any) -> None:
    if kind == "string" or kind == "bytes":
        data = value.encode() if kind == "string" else value
        _put_varint(out, len(data))
        out += data
    elif kind == "double":
        out += pack("<d", value)
    else:
        # a negative number is ten bytes long, as two's complement of 64 bits, in the 32-bit types too
        _put_varint(out, int(value) & _MASK_64)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(table: Table, data: bytes, what: str = "") -> dict[str, Any]:
    """The message in `data`, every field of the table present; DecodeError, which names `what` it is, where the bytes are none."""
    try:
        return _decode(table, data, 0, len(data), None, 0)
    except IndexError:
        why = "cut off in the middle of a field"
    except UnicodeDecodeError as error:
        why = f"a string that is not UTF-8: {error.reason}"
    except DecodeError as error:
        why = str(error)
    raise DecodeError(f"{what}: {why}" if what else why)


def blank(table: Table) -> dict[str, Any]:
    """A message of defaults."""
    return {name: _default(kind) for name, kind in table.values()}


def _default(kind: Any) -> Any:
    if type(kind) is list:
        return []
    if type(kind) is dict:
        return None
    return {} if kind == MAP else _DEFAULTS.get(kind, 0)


def _decode(table: Table, data: bytes, at: int, end: int, into: dict[str, Any] | None, depth: int) -> dict[str, Any]:
    """The message from `at` to `end`; merged into one that was there before, as the specification has it."""
    if depth > _DEPTH:
        raise DecodeError(f"more than {_DEPTH} messages within each other")
    values = blank(table) if into is None else into
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3 & 0x1FFFFFFF, tag & 7
        if number == 0 or tag > 0xFFFFFFFF:
            raise DecodeError(f"no field can have the tag {tag}")
        name, kind = table.get(number, ("", None))
        is_repeated = type(kind) is list
        one = kind[0] if is_repeated else kind
        expected = _BYTES if type(one) is dict or one == MAP else _WIRE_TYPES.get(one, _VARINT)
        if kind is None or (wire != expected and not (is_repeated and wire == _BYTES)):
            # unknown, or known by this number as something else: skipped alike
            at = _skip(data, at, end, number, wire, depth)
        elif wire == _BYTES:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise DecodeError("a length beyond the end of the message")
            _take(values, name, kind, data, at, at + length, depth)
            at += length
        else:
            value, at = _scalar(one, data, at, end)
            if is_repeated:
                values[name].append(value)
            else:
                values[name] = value
        if is_repeated and len(values[name]) > _MOST:
            raise DecodeError(f"more than {_MOST} of one field")
    return values


def _take(values: dict[str, Any], name: str, kind: Any, data: bytes, at: int, end: int, depth: int) -> None:
    """A field of bytes: text, a message, or packed scalars."""
    one = kind[0] if type(kind) is list else kind
    if type(one) is dict:
        if kind is one:
            values[name] = _decode(one, data, at, end, values[name], depth + 1)
        else:
            values[name].append(_decode(one, data, at, end, None, depth + 1))
    elif one == MAP:
        entry = _decode(_ENTRY, data, at, end, None, depth + 1)
        values[name][entry["key"]] = entry["value"]
    elif one == "string" or one == "bytes":
        value = data[at:end].decode() if one == "string" else data[at:end]
        if kind is one:
            values[name] = value
        else:
            values[name].append(value)
    else:
        while at < end:
            number, at = _scalar(one, data, at, end)
            values[name].append(number)


def _scalar(kind: str, data: bytes, at: int, end: int) -> tuple[Any, int]:
    if kind == "double":
        if end - at < 8:
            raise DecodeError("cut off in the middle of a field")
        return unpack_from("<d", data, at)[0], at + 8
    value, at = _varint(data, at, end)
    if kind == "bool":
        return value != 0, at
    if kind in ("uint32", "int32", "enum"):
        value &= 0xFFFFFFFF
        if kind != "uint32" and value > 0x7FFFFFFF:
            value -= 1 << 32
    elif kind == "int64" and value > _MASK_64 >> 1:
        value -= 1 << 64
    return value, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value > 0x7F:
        value &= 0x7F
        shift = 7
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise DecodeError("a number longer than ten bytes")
        value &= _MASK_64
    if at > end:
        raise DecodeError("cut off in the middle of a number")
    return value, at


def _skip(data: bytes, at: int, end: int, number: int, wire: int, depth: int) -> int:
    """Where the next field begins."""
    if wire == _VARINT:
        return _varint(data, at, end)[1]
    if wire == _BYTES:
        length, at = _varint(data, at, end)
        at += length
    elif wire == _FIXED64 or wire == _FIXED32:
        at += 8 if wire == _FIXED64 else 4
    elif wire == _GROUP:
        if depth >= _DEPTH:
            raise DecodeError(f"more than {_DEPTH} messages within each other")
        while True:
            tag, at = _varint(data, at, end)
            if tag & 7 == _GROUP_END:
                if tag >> 3 != number:
                    raise DecodeError("the end of a group that did not begin")
                return at
            if tag >> 3 == 0:
                raise DecodeError(f"no field can have the tag {tag}")
            at = _skip(data, at, end, tag >> 3, tag & 7, depth + 1)
    else:
        raise DecodeError(f"no field can have the wire type {wire}")
    if at > end:
        raise DecodeError("a field beyond the end of the message")
    return at
