"""Standard output: whole, unbuffered, and with an error where it cannot take what is written.

`sys.stdout` is not used: it is dear to flush at the end of a process that ends by `os._exit`, and a write to it that
fails is noticed only there. Hot: `state` prints through here.
"""

from __future__ import annotations

import os

from _json import encode_basestring

from runtime.errors import Error, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Closed(Error):
    """Nobody reads standard output any more (`pyrunc list | head -1`): no message, and the status of a SIGPIPE."""

    status = 128 + 13

    def __init__(self) -> None:
        super().__init__("")


def write(text: str) -> None:
    """Write all of the text to standard output."""
    # file names need not be UTF-8 and go out as the bytes they came in as
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        raise Closed from None
    except OSError as error:
        raise KernelError("write to standard output", error.errno or 0) from None


def document(value: Any, indent: str, margin: str = "") -> str:
    """JSON, indented as Go's MarshalIndent does it: what runc prints."""
    inner = margin + indent
    if isinstance(value, dict):
        if not value:
            return "{}"
        lines = [f"{inner}{encode_basestring(key)}: {document(item, indent, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, (list, tuple)):
        if not value:
            return "[]"
        return "[\n" + ",\n".join(inner + document(item, indent, inner) for item in value) + f"\n{margin}]"
    return scalar(value)


def scalar(value: Any) -> str:
    """A string, number, boolean or null in JSON."""
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def compact(value: Any) -> str:
    """JSON on one line, as Go's encoder writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode_basestring(key)}:{compact(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(compact(item) for item in value) + "]"
    return scalar(value)
