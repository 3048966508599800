"""What a command is given by its caller besides words: descriptors to pass on, and somebody to hold a terminal."""

from __future__ import annotations

from runtime import system as os
from runtime.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def listen_fds() -> int:
    """How many descriptors a service manager handed over with LISTEN_FDS, sd_listen_fds(3)."""
    owner = os.environ.get("LISTEN_PID", "")
    if owner and owner != str(os.getpid()):
        return 0  # left over from whoever started our caller: the descriptors are not there
    text = os.environ.get("LISTEN_FDS", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def check_preserved(count: int) -> None:
    """Raise ConfigError unless the descriptors from 3 on that shall be preserved are there, and the caller's."""
    for fd in range(3, 3 + count):
        # ours are all close-on-exec, which nothing that came through an exec is: one of ours would lead into the host
        try:
            is_theirs = os.get_inheritable(fd)
        except OSError:
            is_theirs = False
        if not is_theirs:
            raise ConfigError("", f"descriptor {fd} is not open", source="--preserve-fds") from None


def check_terminal(process: dict[str, Any], options: Any, detached: bool) -> None:
    """Raise ConfigError where a terminal is wanted and nobody would hold it, or the other way round (runc's words)."""
    socket = getattr(options, "console_socket", None)
    if process.get("terminal"):
        if detached and not socket:
            raise ConfigError(
                "/process/terminal", "cannot allocate tty if runc will detach without setting console socket"
            )
    elif socket:
        raise ConfigError("/process/terminal", "cannot use console socket if runc will not detach or allocate tty")
