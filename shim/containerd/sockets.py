"""Unix sockets of shims: listening at a path, whether somebody does, and who is at the other end. Loaded by everything here."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket
from _struct import unpack
from errno import EADDRINUSE
from time import time

#: of the names of task sockets, which others have in the same directory
PREFIX = "pyrunc-"
#: a socket that nobody listens on yet is younger
_OLD_S = 5.0


def listen(path: str) -> socket | None:
    """A listening socket at `path`; None where a shim serves there already, which is then the group's."""
    os.makedirs(os.path.dirname(path), 0o711, exist_ok=True)
    while True:
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        is_made = False
        try:
            listener.bind(path)
            is_made = True
            os.chmod(path, 0o600)
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if is_made:
                os.unlink(path)
            if is_made or error.errno != EADDRINUSE:
                raise OSError(error.errno, f"listen on {path}: {error.strerror}") from None
        if is_served(path):
            return None
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def is_served(path: str, kind: int = SOCK_STREAM) -> bool:
    """Whether somebody listens at `path`."""
    connection = socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except BlockingIOError:
        pass  # so many wait for it that one more has no room
    except OSError:
        return False
    finally:
        connection.close()
    return True


def remove_if_dead(path: str, kind: int = SOCK_STREAM) -> bool:
    """Remove a socket's file if nobody listens on it any more; whether it is gone."""
    if is_served(path, kind):
        return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def remove_abandoned(folder: str) -> None:
    """Remove the sockets of shims that were killed together with the `start` that made them: nobody else knows of those."""
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        try:
            if name.startswith(PREFIX) and time() - os.lstat(path).st_mtime > _OLD_S:
                remove_if_dead(path)
        except FileNotFoundError:
            pass  # its own shim has removed it


def peer_of(fd: int) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever is connected, as they were when it connected."""
    connection = socket(fileno=fd)
    try:
        pid, uid, gid = unpack("3i", connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
    finally:
        connection.detach()
    return pid, uid, gid


def digest(text: str) -> str:
    """SHA-256 in hexadecimal; hashlib would load OpenSSL for it, which takes 4 ms."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]  # its name up to Python 3.11
        except ImportError:
            from hashlib import sha256
    return str(sha256(os.fsencode(text)).hexdigest())
