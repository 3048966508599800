"""Descriptors that came with a message over a local socket (unix(7), SCM_RIGHTS), and the end of any."""

from __future__ import annotations

import os
from _socket import SCM_RIGHTS, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def received(control: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Their numbers here, of what recvmsg() has as ancillary data; all of them are the caller's to close."""
    return [
        int.from_bytes(found[at : at + 4], "little")
        for level, kind, found in control
        if level == SOL_SOCKET and kind == SCM_RIGHTS
        for at in range(0, len(found) - 3, 4)
    ]


def close_all(fds: list[int]) -> None:
    """Close them. Whatever close(2) says of one, it is closed: nobody who waits for what comes after it may wait for ever."""
    while fds:
        try:
            os.close(fds.pop())
        except OSError:
            pass
