"""The attach socket: what the container writes goes to every client, what a client writes goes to the container's stdin.

    client <-- packets: one byte (2 stdout, 3 stderr), then at most 8192 bytes     SOCK_SEQPACKET, several clients
    client --> packets of raw bytes, then shutdown(SHUT_WR) as the end

A client that does not read holds the container's output up, as a pipe would (nothing is lost, and nothing piles up here but
the packets of one read); one that is gone is forgotten at once. A container that does not read its stdin holds its clients up.
"""

from __future__ import annotations

import errno
import os
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SHUT_RD,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    socket,
)
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.conmon.messages import Messages
    from shim.logs import Data
    from shim.loop import Loop

#: the first byte of a packet, by our number of the stream
_MARKS = {1: b"\2", 2: b"\3"}
#: what clients have room for (Podman: 8192 and the mark), and the most that one sends at once
PACKET_BYTES = 8192
_INPUT_BYTES = 32768


def listen_below(directory: str, name: str, kind: int, mode: int) -> socket:
    """A unix socket in a directory of any length; a path of more than 107 bytes fits no address, unix(7)."""
    directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK)
        path = f"/proc/self/fd/{directory_fd}/{name}"
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        # nobody can connect before listen(): the mode is right in time
        sock.bind(path)
        os.chmod(path, mode)
        return sock
    finally:
        os.close(directory_fd)


class Stdin:
    """The container's stdin: a pipe or a terminal's master. What does not fit yet is kept, and no more is read meanwhile."""

    def __init__(self, loop: Loop, fd: int, drained: Callable[[], None]) -> None:
        self.loop = loop
        self.fd = fd
        self.drained = drained
        self.pending = b""
        self.is_ending = False
        #: there will be a descriptor: Podman's clients write as soon as they are connected, a terminal comes later
        self.is_awaited = False
        if fd >= 0:
            os.set_blocking(fd, False)

    def open(self, fd: int) -> None:
        """The awaited descriptor; what was written meanwhile goes first."""
        self.fd, self.is_awaited = fd, False
        os.set_blocking(fd, False)
        self._flush(0)
        if self.is_ending and not self.pending:
            self.close()
        self.drained()

    def write(self, data: bytes) -> bool:
        """Whether all was taken; if not, drained() is called when it is. Without a reader what is written is gone."""
        if self.is_ending or (self.fd < 0 and not self.is_awaited):
            return True
        self.pending += data
        if not self.is_awaited:
            self._flush(0)
        return not self.pending

    def end(self) -> None:
        """The end of the input, after what is still to be written."""
        self.is_ending = True
        if not self.pending and not self.is_awaited:
            self.close()

    def close(self) -> None:
        """Close it now."""
        self.is_awaited = False
        if self.fd >= 0:
            self.loop.forget(self.fd)
            os.close(self.fd)
            self.fd = -1
            self.pending = b""

    def _flush(self, events: int) -> None:
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.fd, self.pending) :]
        except BlockingIOError:
            if not self.loop.is_watching(self.fd):
                self.loop.watch(self.fd, EPOLLOUT, self._flush)
            return
        except OSError:
            self.pending = b""  # nobody reads it any more
        if self.loop.is_watching(self.fd):
            self.loop.forget(self.fd)
            if self.is_ending:
                self.close()
            self.drained()


class _Client:
    """One connection. `packets` are those that it has yet to take."""

    __slots__ = ("events", "is_reading", "packets", "sock")

    def __init__(self, sock: socket) -> None:
        self.sock = sock
        #: what the loop watches it for
        self.events = EPOLLIN
        self.packets: list[bytes] = []
        #: we still read from it: it has not ended its side
        self.is_reading = True


class Attach:
    """All clients of one container. `resumed` is called when none of them holds the output up any more."""

    def __init__(self, loop: Loop, messages: Messages, resumed: Callable[[], None]) -> None:
        self.loop = loop
        self.messages = messages
        self.resumed = resumed
        self.clients: dict[int, _Client] = {}
        self.listener: socket | None = None
        self.path = ""
        self.stdin = Stdin(loop, -1, self.stdin_drained)
        #: whether the first client that ends its side ends the container's stdin
        self.ends_stdin = False

    def listen(self, bundle: str, link_directory: str, cuuid: str) -> None:
        """Make the socket in the bundle; with a link directory also a short way to it, DIRECTORY/CUUID -> bundle."""
        directory = bundle
        if link_directory:
            directory = os.path.join(link_directory, cuuid)
            # as conmon has it: a link as long as a socket's address can be would leave no room for its end
            directory = directory[:-1] if len(os.fsencode(directory)) == 107 else directory
            # a link is one of ours, of this container before it was started again; anything else is not ours to remove
            if os.path.islink(directory):
                os.unlink(directory)
            try:
                os.symlink(bundle, directory)
            except OSError as error:
                error.filename = directory  # of the two names it is this one
                raise
        self.path = os.path.join(directory, "attach")
        self.listener = listen_below(directory, "attach", SOCK_SEQPACKET, 0o700)
        self.listener.listen(10)
        self.loop.watch(self.listener.fileno(), EPOLLIN, self._accept)

    def welcome(self) -> None:
        """Take in everybody who is connected already, before it is their turn.

        Podman connects, then starts the container: what that writes is theirs, and so is its end. But a turn may begin with something
        older than both, the end of another child, and find all of it.
        """
        while self.listener is not None and self._take():
            pass

    def has_stalled(self) -> bool:
        """Whether a client has not taken all that it was sent."""
        return any(client.packets for client in self.clients.values())

    def send(self, stream: int, data: Data) -> None:
        """Hand what was read to every client."""
        if not self.clients:
            return
        mark = _MARKS[stream]
        packets = [mark + data[at : at + PACKET_BYTES] for at in range(0, len(data), PACKET_BYTES)]
        for client in list(self.clients.values()):
            is_waiting = bool(client.packets)
            client.packets += packets
            if not is_waiting:
                self._flush(client)

    def stop_listening(self) -> None:
        """No more clients; the socket's file goes."""
        if self.listener is not None:
            self.loop.forget(self.listener.fileno())
            self.listener.close()
            self.listener = None
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def close_idle(self) -> None:
        """Say goodbye to the clients that have everything; the others are given what they have yet to take."""
        for client in list(self.clients.values()):
            if not client.packets:
                self._drop(client)

    def close(self) -> None:
        """Say goodbye to everybody."""
        for client in list(self.clients.values()):
            self._drop(client)

    # -- clients -------------------------------------------------------------------------------------------------------

    def _accept(self, events: int) -> None:
        self._take()

    def _take(self) -> bool:
        """Take in one client; whether there was one."""
        assert self.listener is not None
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                self.messages.warn(f"accept a client on {self.path}: {os.strerror(error.errno or 0).lower()}")
            return False
        sock = socket(AF_UNIX, SOCK_SEQPACKET, 0, fd)
        sock.setblocking(False)
        client = _Client(sock)
        self.clients[fd] = client
        self.loop.watch(fd, EPOLLIN, lambda events: self._ready(client, events))
        self.messages.debug(f"client {fd} attached")
        return True

    def _ready(self, client: _Client, events: int) -> None:
        if events & EPOLLOUT:
            self._flush(client)
            if not client.packets and not self.has_stalled():
                self.resumed()
        if events & EPOLLIN and client.is_reading and client.sock.fileno() >= 0:
            self._read(client)
        elif events & (EPOLLHUP | EPOLLERR) and client.sock.fileno() >= 0:
            self._gone(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_INPUT_BYTES, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._gone(client)
            return
        if not data:
            self._ended(client)
        elif not self.stdin.write(data):
            # until the container has taken it nobody's input is read
            for other in self.clients.values():
                self._watch(other)

    def _ended(self, client: _Client) -> None:
        client.is_reading = False
        try:
            client.sock.shutdown(SHUT_RD)
        except OSError:
            pass
        self._watch(client)
        if self.ends_stdin:
            self.stdin.end()

    def _gone(self, client: _Client) -> None:
        was_reading = client.is_reading
        had_stalled = self.has_stalled()
        self._drop(client)
        if was_reading and self.ends_stdin:
            self.stdin.end()
        if had_stalled and not self.has_stalled():
            self.resumed()

    def stdin_drained(self) -> None:
        for client in self.clients.values():
            self._watch(client)

    def _flush(self, client: _Client) -> None:
        sent = 0
        try:
            for packet in client.packets:
                client.sock.send(packet, MSG_DONTWAIT | MSG_NOSIGNAL)
                sent += 1
        except BlockingIOError:
            pass
        except OSError as error:
            self.messages.debug(f"client {client.sock.fileno()} is gone: {os.strerror(error.errno or 0).lower()}")
            client.packets = []
            self._gone(client)
            return
        del client.packets[:sent]
        self._watch(client)

    def _watch(self, client: _Client) -> None:
        events = EPOLLIN if client.is_reading and not self.stdin.pending else 0
        events |= EPOLLOUT if client.packets else 0
        if events != client.events:
            client.events = events
            self.loop.change(client.sock.fileno(), events)

    def _drop(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self.loop.forget(fd)
        del self.clients[fd]
        client.sock.close()
        client.packets = []
