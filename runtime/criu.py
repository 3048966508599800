"""CRIU's protocol: its messages as bytes, and what it writes as words. Pure.

CRIU is asked over a SOCK_SEQPACKET pair, one message of protocol buffers a packet (criu's images/rpc.proto):

    pyrunc                                  criu swrk FD
       │ ── VERSION, FEATURE_CHECK (keep_open) ──▶ │
       │ ◀── the same type, success ────────────── │
       │ ── DUMP | PRE_DUMP | RESTORE, opts ─────▶ │
       │ ◀── NOTIFY "setup-namespaces", pid ────── │   it waits: nothing goes on before the answer
       │ ── NOTIFY, notify_success ──────────────▶ │
       │ ◀── the type of the request, success ──── │

A message is a dict here, and a table says which field is which number: what is in the dict is sent, a default too, since in this
version of the language (proto2) a field that is there and zero is not the same as one that is not there.
"""

from __future__ import annotations

from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Table = dict[int, tuple[str, Any]]

# kinds of fields; besides, a table is a message, and [kind] a repeated field
INT, BOOL, TEXT = "int", "bool", "text"

# types of requests and responses
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
NAMES = {1: "DUMP", 2: "RESTORE", 4: "PRE_DUMP", 6: "NOTIFY", 9: "FEATURE_CHECK", 10: "VERSION"}

#: --manage-cgroups-mode
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5, "": 6}

#: --network-lock
NETWORK_LOCKS = {"iptables": 1, "nftables": 2, "skip": 3}

_PAIR: Table = {1: ("key", TEXT), 2: ("val", TEXT)}
OPTIONS: Table = {
    1: ("images_dir_fd", INT),
    2: ("pid", INT),
    3: ("leave_running", BOOL),
    4: ("ext_unix_sk", BOOL),
    5: ("tcp_established", BOOL),
    6: ("evasive_devices", BOOL),
    7: ("shell_job", BOOL),
    8: ("file_locks", BOOL),
    9: ("log_level", INT),
    10: ("log_file", TEXT),
    11: ("ps", {1: ("address", TEXT), 2: ("port", INT)}),
    12: ("notify_scripts", BOOL),
    13: ("root", TEXT),
    14: ("parent_img", TEXT),
    15: ("track_mem", BOOL),
    16: ("auto_dedup", BOOL),
    17: ("work_dir_fd", INT),
    18: ("link_remap", BOOL),
    23: ("ext_mnt", [_PAIR]),
    24: ("manage_cgroups", BOOL),
    25: ("cg_root", [{1: ("ctrl", TEXT), 2: ("path", TEXT)}]),
    26: ("rst_sibling", BOOL),
    27: ("inherit_fd", [{1: ("key", TEXT), 2: ("fd", INT)}]),
    34: ("manage_cgroups_mode", INT),
    37: ("external", [TEXT]),
    38: ("empty_ns", INT),
    39: ("join_ns", [{1: ("ns", TEXT), 2: ("ns_file", TEXT)}]),
    44: ("freeze_cgroup", TEXT),
    46: ("tcp_skip_in_flight", BOOL),
    48: ("lazy_pages", BOOL),
    50: ("orphan_pts_master", BOOL),
    51: ("config_file", TEXT),
    52: ("tcp_close", BOOL),
    53: ("lsm_profile", TEXT),
    63: ("lsm_mount_context", TEXT),
    64: ("network_lock", INT),
}
FEATURES: Table = {1: ("mem_track", BOOL), 2: ("lazy_pages", BOOL)}
REQUEST: Table = {
    1: ("type", INT),
    2: ("opts", OPTIONS),
    3: ("notify_success", BOOL),
    4: ("keep_open", BOOL),
    5: ("features", FEATURES),
}
RESPONSE: Table = {
    1: ("type", INT),
    2: ("success", BOOL),
    4: ("restore", {1: ("pid", INT)}),
    5: ("notify", {1: ("script", TEXT), 2: ("pid", INT)}),
    7: ("cr_errno", INT),
    8: ("features", FEATURES),
    9: ("cr_errmsg", TEXT),
    10: ("version", {1: ("major", INT), 2: ("minor", INT), 4: ("sublevel", INT)}),
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_U64 = (1 << 64) - 1


class ProtocolError(Error):
    """What CRIU has sent is no message of the protocol."""

    def __init__(self, why: str) -> None:
        super().__init__(f"criu sent what is no message: {why}", code="criu")


# -- encoding ----------------------------------------------------------------------------------------------------------


def encode(table: Table, message: dict[str, Any]) -> bytes:
    """A message as bytes, fields in the order of their numbers; a name that the table does not have is a KeyError."""
    unknown = message.keys() - {name for name, _ in table.values()}
    if unknown:
        raise KeyError(f"no field of this message: {', '.join(sorted(unknown))}")
    out = bytearray()
    for number, (name, kind) in sorted(table.items()):
        if name in message:
            is_repeated = type(kind) is list
            for value in message[name] if is_repeated else (message[name],):
                _put(out, number, kind[0] if is_repeated else kind, value)
    return bytes(out)


def _put(out: bytearray, number: int, kind: Any, value: Any) -> None:
    if kind == INT or kind == BOOL:
        _put_varint(out, number << 3 | _VARINT)
        # a negative number is two's complement of 64 bits, in the 32-bit types too
        _put_varint(out, int(value) & _U64)
        return
    data = value.encode("utf-8", "surrogateescape") if kind == TEXT else encode(kind, value)
    _put_varint(out, number << 3 | _BYTES)
    _put_varint(out, len(data))
    out += data


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# -- decoding ----------------------------------------------------------------------------------------------------------


def decode(table: Table, data: bytes) -> dict[str, Any]:
    """The fields of a message that are there; what the table does not know is skipped."""
    out: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire == _FIXED64 or wire == _FIXED32:
            value, at = None, at + (8 if wire == _FIXED64 else 4)
        else:
            raise ProtocolError(f"a field of wire type {wire}")
        if at > len(data):
            raise ProtocolError("cut off in the middle of a field")
        name, kind = table.get(number, ("", None))
        one = kind[0] if type(kind) is list else kind
        if one is None or wire != (_VARINT if one in (INT, BOOL) else _BYTES):
            continue
        value = _value(one, value)
        if type(kind) is list:
            out.setdefault(name, []).append(value)
        else:
            out[name] = value
    return out


def _value(kind: Any, value: Any) -> Any:
    if kind == INT:
        return value - (1 << 64) if value >> 63 else value
    if kind == BOOL:
        return value != 0
    return value.decode("utf-8", "surrogateescape") if kind == TEXT else decode(kind, value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            raise ProtocolError("cut off in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, at
    raise ProtocolError("a number longer than ten bytes")


# -- words -------------------------------------------------------------------------------------------------------------

#: how much of a log an error quotes, and of how much of it the end is looked at
_QUOTED_LINES, QUOTED_BYTES = 6, 1 << 20


def quote(log: bytes) -> str:
    """The errors in CRIU's log on one line, each from `Error (criu/...` on and once; of many, the last, which are nearest to the end."""
    found: list[str] = []
    for line in log.decode("utf-8", "replace").splitlines():
        _, mark, rest = line.partition("Error (")
        text = " ".join("".join(c if c.isprintable() else " " for c in mark + rest[:300]).split())
        if text and text not in found:
            found.append(text)
    left_out = len(found) - _QUOTED_LINES
    return "; ".join([*(["..."] if left_out > 0 else []), *found[-_QUOTED_LINES:]])


def version_of(response: dict[str, Any]) -> int:
    """What CRIU answers about its version, as one number: 40101 is 4.1.1."""
    found = response.get("version") or {}
    return int(found.get("major", 0)) * 10000 + int(found.get("minor", 0)) * 100 + int(found.get("sublevel", 0))
