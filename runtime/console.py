"""Terminals on the host's side: handing a pty's master to a console socket, and being the terminal of a foreground run.

The master comes from init, which made the pair on the container's own devpts. A peer gets it in one message and is given
no time to answer: containerd accepts only after `create` has returned.
"""

from __future__ import annotations

from runtime import kernel
from runtime import system as os
from runtime.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.plan import Step

#: how long a full backlog or buffer of the peer may hold us up
_TIMEOUT_MS = 5000


def send(path: str, fd: int, name: bytes) -> None:
    """Connect to the AF_UNIX stream socket at `path` and send it one descriptor with `name` as the data."""
    try:
        sock = kernel.connect(path, _TIMEOUT_MS)
    except OSError as error:
        raise KernelError(f"connect to {path}", error.errno or 0) from None
    try:
        kernel.send_fd(sock, name, fd, _TIMEOUT_MS)
    except OSError as error:
        raise KernelError(f"send a descriptor to {path}", error.errno or 0) from None
    finally:
        os.close(sock)


def send_listener(step: Step, fd: int, state: bytes, pid: int) -> None:
    """Send a seccomp listener to its agent, with the "container process state" (config-linux.md#containerprocessstate)."""
    from runtime import jsonio

    _, path, metadata = step
    if fd < 0:
        raise KernelError("get the seccomp listener of the process", 9)
    container: dict[str, Any] = jsonio.loads(state, "state")  # type: ignore[assignment]
    message = {"ociVersion": container["ociVersion"], "fds": ["seccompFd"], "pid": pid, "state": container}
    if metadata:
        message["metadata"] = metadata
    try:
        send(path, fd, jsonio.dumps(message).encode("utf-8", "surrogateescape"))
    except KernelError as error:
        where = "/linux/seccomp/listenerPath"
        raise KernelError(f"hand over the seccomp listener: {error.attempt}", error.errno, pointer=where) from None


class Terminal:
    """Our own terminal made raw, and a pty master copied to and from it."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.saved: list[Any] | None = None
        os.set_blocking(master, False)
        # now and not when we begin to wait: init is still held, and its program may ask for the size at once
        self.resize()

    def make_raw(self) -> None:
        """Give the user's keys to the container unread, where standard input is a terminal."""
        import termios
        import tty

        if os.isatty(0):
            self.saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)

    def restore(self) -> None:
        """Put the user's terminal back as it was."""
        import termios

        if self.saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self.saved)
            self.saved = None

    def resize(self) -> None:
        """Give the pty the size of our own terminal, where we have one."""
        import fcntl
        import termios

        for fd in (0, 1, 2):
            if os.isatty(fd):
                size = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
                return
