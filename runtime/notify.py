"""A service manager's NOTIFY_SOCKET, passed through: the container says READY to us, and we say so to the manager.

    service manager ◀── $NOTIFY_SOCKET ── pyrunc ◀── STATE/notify/notify.sock = /run/notify/notify.sock in the container

Only the line that begins with READY= goes on, followed by MAINPID= of the container's init and a barrier, with which we
wait until the manager has taken note (sd_notify(3), sd_notify_barrier(3)). Everything else the container sends is dropped:
it is not the container's business to speak for us.
"""

from __future__ import annotations

import os

from runtime.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from runtime.store import Entry

#: how long the manager may take to answer the barrier, as with libsystemd
_BARRIER_MS = 30_000
#: how long a manager that does not read may hold us up; meanwhile no signal is forwarded
_SEND_S = 2.0
#: what fits a socket address, unix(7)
_PATH_BYTES = 108


def host_socket() -> str:
    """Where the manager listens, "" without one."""
    return os.environ.get("NOTIFY_SOCKET", "")


class Notify:
    """The container's end of the conversation; readable when the container has said something."""

    def __init__(self, entry: Entry, warn: Callable[[str], None]) -> None:
        import socket

        self.warn = warn
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        directory = os.open("notify", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.fd)
        try:
            try:
                os.unlink("notify.sock", dir_fd=directory)
            except FileNotFoundError:
                pass
            # through the descriptor: a path of more than 107 bytes does not fit a socket address, unix(7)
            path = f"/proc/self/fd/{directory}/notify.sock"
            self.sock.bind(path)
            # whoever the container's user is, it may say that it is ready
            os.chmod(path, 0o777)
        except OSError as error:
            raise StateError(f"listen on {entry.path}/notify/notify.sock: {error.strerror}") from None
        finally:
            os.close(directory)

    def fileno(self) -> int:
        """The socket."""
        return self.sock.fileno()

    def receive(self, pid: int, waits: bool = True) -> bool:
        """Take one message; True once the container was ready and the manager was told, and has taken note if we wait for that."""
        for line in self.sock.recv(4096).split(b"\n"):
            if line.startswith(b"READY="):
                try:
                    _tell(line, pid, waits)
                except OSError as error:
                    # no reason to stop a container that runs
                    words = error.strerror or str(error)
                    self.warn(
                        f"tell {host_socket()} that the container is ready: {words[:1].lower()}{words[1:]}, ignoring"
                    )
                return True
        return False

    def wait(self, pid: int, pidfd: int) -> None:
        """Wait until the container is ready, or gone, and stop listening."""
        import select

        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll())
                if self.fileno() in ready and self.receive(pid):
                    return
                if pidfd in ready:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self.sock.close()


def _tell(ready: bytes, pid: int, waits: bool) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(_SEND_S)
        _connect(sock, host_socket())
        sock.send(ready + b"\n")
        sock.send(b"MAINPID=%d\n" % pid)
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                socket.send_fds(sock, [b"BARRIER=1"], [write_fd])
            finally:
                os.close(write_fd)
            if waits:
                _wait_for_end(read_fd)
        finally:
            os.close(read_fd)


def _connect(sock: socket, path: str) -> None:
    if path.startswith("@"):
        sock.connect("\0" + path[1:])
    elif len(os.fsencode(path)) < _PATH_BYTES:
        sock.connect(path)
    else:
        folder, name = os.path.split(path)
        directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{name}")
        finally:
            os.close(directory)


def _wait_for_end(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(_BARRIER_MS)
