"""A log that is no file: the journal's socket and syslog's, as crun has them in --log journald:ID and syslog:ID.

One datagram a line. The journal gets fields (sd_journal_send(3)), syslog a line with its priority (RFC 3164). Only for who asks for it: it
costs the module `socket`.
"""

from __future__ import annotations

import socket
import time

from runtime import system as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: kind -> where it listens
SOCKETS = {"journald": "/run/systemd/journal/socket", "syslog": "/dev/log"}

#: syslog(3)
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
_LOG_USER = 1 << 3
#: what any kernel takes in one datagram of a unix socket
_BYTES_MAX = 60000


def send(kind: str, id_: str, level: str, message: str, record: dict[str, Any]) -> str:
    """Send one line, a message without line breaks; what went wrong, or ""."""
    data = _fields(id_, level, message, record) if kind == "journald" else _line(id_, level, message)
    path = SOCKETS[kind]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(data[:_BYTES_MAX], path)
    except OSError as error:
        return f"log {kind}:{id_}: {path}: {error.strerror}"
    return ""


def _fields(id_: str, level: str, message: str, record: dict[str, Any]) -> bytes:
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(_PRIORITIES[level]),
        "SYSLOG_IDENTIFIER": "pyrunc",
        "ID": id_,
        **{f"PYRUNC_{key.upper()}": str(value) for key, value in record.items() if value not in ("", None)},
    }
    out = b""
    for key, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        # a value with a line break goes with its length in front of it; a name has letters, digits and _
        name = "".join(c if c.isalnum() and c.isascii() else "_" for c in key).encode()
        out += name + (b"\n" + len(data).to_bytes(8, "little") if b"\n" in data else b"=") + data + b"\n"
    return out


def _line(id_: str, level: str, message: str) -> bytes:
    now = time.localtime()
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[now.tm_mon - 1]
    stamp = f"{month} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    text = f"<{_LOG_USER | _PRIORITIES[level]}>{stamp} {id_ or 'pyrunc'}[{os.getpid()}]: {message}"
    return text.encode("utf-8", "backslashreplace")
