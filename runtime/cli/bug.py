"""What nobody expected: an exception that is no Error becomes one, with a number to report it by.

The number is made of the kind of the exception and the functions it came through, so that the same mistake has the same
number on every machine. The traceback goes to the debug log only: users get one line, and no program text.
"""

from __future__ import annotations

import traceback
import zlib
from types import FrameType

from runtime import log
from runtime.errors import Error


def as_error(unexpected: BaseException) -> Error:
    """The Error that reports `unexpected`, whose traceback is in the debug log now."""
    kind = type(unexpected).__name__
    steps = [
        (_module(frame), frame.f_code.co_name, line) for frame, line in traceback.walk_tb(unexpected.__traceback__)
    ]
    number = zlib.crc32(repr([kind, *(step[:2] for step in steps)]).encode())
    place = f" in {steps[-1][0]}:{steps[-1][2]}" if steps else ""
    for line in "".join(traceback.format_exception(unexpected)).splitlines():
        log.debug(line)
    message = f"internal error {number:08x}{place}: {kind}: {unexpected}".rstrip(": ")
    hint = "" if log.is_debug() else "run again with --debug for the traceback"
    return Error(message, hint, code="internal", bug=f"{number:08x}")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))
