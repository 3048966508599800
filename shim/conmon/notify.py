"""What the container says to its service manager (sd_notify(3)), passed on to the one that Podman named: state, and nothing else.

    service manager <-- --sdnotify-socket -- pyrunc-conmon <-- BUNDLE/notify/notify.sock = /run/notify/notify.sock inside

MAINPID is not the container's to say: Podman has told the manager ours. Nor are descriptors, barriers or new watchdog times.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket
from select import EPOLLIN

from shim.conmon.attach import listen_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.conmon.messages import Messages
    from shim.loop import Loop

_WHOLE = (b"READY=1", b"RELOADING=1", b"STOPPING=1", b"WATCHDOG=1", b"WATCHDOG=trigger")
_BEGINNINGS = (b"STATUS=", b"ERRNO=", b"BUSERROR=", b"MONOTONIC_USEC=")


def passed_on(message: bytes) -> bytes:
    """The lines of a message that may go on."""
    lines = [line for line in message.split(b"\n") if line in _WHOLE or line.startswith(_BEGINNINGS)]
    return b"\n".join(lines)


class Notify:
    """Listens in the bundle for as long as the container runs."""

    def __init__(self, loop: Loop, messages: Messages, bundle: str, target: str) -> None:
        self.loop = loop
        self.messages = messages
        self.shown = target
        # an abstract socket's name begins with NUL, which the variable it comes from writes as @
        self.target = "\0" + target[1:] if target.startswith("@") else target
        # whoever the container's user is, it may say that it is ready
        self.sock = listen_below(bundle, "notify/notify.sock", SOCK_DGRAM, 0o777)
        self.out = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
        loop.watch(self.sock.fileno(), EPOLLIN, self._ready)

    def close(self) -> None:
        """Listen no more."""
        self.loop.forget(self.sock.fileno())
        self.sock.close()
        self.out.close()

    def _ready(self, events: int) -> None:
        try:
            message = passed_on(self.sock.recv(32768, MSG_DONTWAIT))
            if message:
                self.out.sendto(message, MSG_DONTWAIT | MSG_NOSIGNAL, self.target)
        except BlockingIOError:
            self.messages.warn(f"notify {self.shown}: it does not read, a message is lost")
        except OSError as error:
            self.messages.warn(f"notify {self.shown}: {os.strerror(error.errno or 0).lower()}")
