"""Descriptors that came with a message over a local socket (unix(7), SCM_RIGHTS), and the end of some or all."""

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


def close_from(low: int) -> None:
    """Close all from this number on.

    Up to the highest that is open, and not to the limit: where a profile around us forbids close_range(2) each number is a
    call, and the limit of a service may be a thousand million.
    """
    try:
        highest = max(map(int, os.listdir("/proc/self/fd")))
    except (OSError, ValueError):
        # of a directory that is not read to its end, the C library may say that it is empty (readdir(3))
        highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(low, highest + 1)


def close_all(fds: list[int]) -> None:
    """Close them. Whatever close(2) says of one, it is closed: nobody who waits for what comes after it may wait for ever."""
    while fds:
        try:
            os.close(fds.pop())
        except OSError:
            pass
