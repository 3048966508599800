"""A directory for a moment, that only we may enter: gone when it is closed, and where we are killed before, when the next is made.

Whoever has made one holds a lock on it (flock(2)), which ends with the process. So that it is known of each directory of the kind
whether somebody still wants it, in whatever pid namespace.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_NB, flock

#: where they are, after $XDG_RUNTIME_DIR the first that can be written to: short, since a socket's address has room for 107 bytes
_PLACES = ("/run", "/tmp")
_PREFIX = "pyrunc-"


class Scratch:
    """`path` is a new directory, whose name has `kind` in it."""

    __slots__ = ("_fd", "path")

    def __init__(self, kind: str) -> None:
        places = [os.environ.get("XDG_RUNTIME_DIR", ""), *_PLACES]
        usable = [place for place in places if place and len(place) < 60 and os.access(place, os.W_OK | os.X_OK)]
        place = usable[0] if usable else places[-1]
        _sweep(place, f"{_PREFIX}{kind}-")
        while True:
            self.path = f"{place}/{_PREFIX}{kind}-{os.urandom(8).hex()}"
            os.mkdir(self.path, 0o700)
            self._fd = _locked(self.path)
            if self._fd >= 0:
                return

    def close(self) -> None:
        """Remove it and all that is in it."""
        if self._fd >= 0:
            _remove(self.path, self._fd)
            os.close(self._fd)
            self._fd = -1


def _sweep(place: str, start: str) -> None:
    """Remove those that were left there by somebody who was killed."""
    try:
        names = os.listdir(place)
    except OSError:
        return
    for name in names:
        if name.startswith(start):
            path = f"{place}/{name}"
            fd = _locked(path)
            if fd >= 0:
                _remove(path, fd)
                os.close(fd)


def _locked(path: str) -> int:
    """The directory, locked; -1 where it is somebody's, or not there any more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        # another user's in /tmp is no affair of ours
        if os.fstat(fd).st_uid == os.geteuid():
            flock(fd, LOCK_EX | LOCK_NB)
            # between its making and its locking somebody else may have found nobody who holds it
            if os.path.exists(path):
                return fd
    except OSError:
        pass
    os.close(fd)
    return -1


def _remove(path: str, fd: int) -> None:
    try:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(path)
    except OSError:
        pass  # gone already; what is no file is none of ours, and stays
