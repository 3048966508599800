"""What pyrunc-conmon itself has to say: lines on standard error, and in the system's log where --syslog asks for it.

As a daemon it has no standard error any more, and syslog is the only place; a message must therefore be whole by itself.
"""

from __future__ import annotations

import os

from shim.words import one_line

#: conmon's names of levels; a level shows itself and those before
_LEVELS = (("error", "fatal", "panic"), ("warn", "warning"), ("info",), ("debug",), ("trace",))
ERROR, WARN, INFO, DEBUG = range(4)
#: priorities of syslog(3), facility user
_PRIORITIES = (8 + 3, 8 + 4, 8 + 6, 8 + 7)
_MARKS = "ewid"


class Messages:
    """Where messages go, and which ones."""

    def __init__(self) -> None:
        self.level = WARN
        self.cid = ""
        self.has_syslog = False

    def set_up(self, level: str, cid: str, has_syslog: bool) -> bool:
        """Whether `level` is one; "" leaves it at warnings."""
        self.cid = cid[:20]
        self.has_syslog = has_syslog
        if not level:
            return True
        for number, names in enumerate(_LEVELS):
            if level.lower() in names:
                self.level = number
                return True
        return False

    def error(self, text: str) -> None:
        """Something failed, and the container or its log with it."""
        self._say(ERROR, text)

    def warn(self, text: str) -> None:
        """Something failed, and life goes on."""
        self._say(WARN, text)

    def debug(self, text: str) -> None:
        """What is being done."""
        self._say(DEBUG, text)

    def _say(self, level: int, text: str) -> None:
        if level > self.level:
            return
        text = "\n".join(one_line(line) for line in text.split("\n"))
        line = f"[conmon:{_MARKS[level]}]: {text}\n".encode()
        try:
            os.write(2, line)
        except OSError:
            pass  # nobody to tell
        if self.has_syslog:
            self._log(level, text)

    def _log(self, level: int, text: str) -> None:
        from _socket import AF_UNIX, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM, socket

        line = f"<{_PRIORITIES[level]}>conmon[{os.getpid()}]: conmon {self.cid}: {text}"
        sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            sock.sendto(line.encode("utf-8", "surrogateescape"), MSG_DONTWAIT, "/dev/log")
        except OSError:
            pass  # no syslog here, or it does not read
        finally:
            sock.close()
