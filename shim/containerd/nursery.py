"""A shim that runs already forks the next one: no interpreter is started, and what both have loaded is one memory.

    start                                    any shim of the same family
      connect to the nursery's socket ------> accept, fork ----> the new shim: its own session, directory, log, sockets
      words, environment, descriptors ------>                      |
      <---------------------------------------- pid, when it is ready
      "go" ----------------------------------------------------> serves; without it, it ends

A family is what has the same containerd, user, namespaces, limits and installed files: a shim of it cannot be told from one
that `start` has made by itself, which is what `start` does whenever anything here fails, or takes too long. Until "go" the new
shim serves nobody, so that giving up never leaves two shims on one socket.

The socket is a file in containerd's private directory, and not an abstract one: those are open to every container in the host's
network namespace, which is how CVE-2020-15257 made containerd's shim start programs for a container.
"""

from __future__ import annotations

import os
import select
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
)
from _struct import pack

from runtime.texts import lines, text
from shim.containerd.sockets import digest, peer_of, remove_if_dead
from shim.descriptors import received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.loop import Loop, Timer

#: how long `start` waits for a shim that has a lot to do, before it makes one by itself
ASK_S = 2.5
#: how long a nursery waits for a request, and a new shim for the last word of a `start` that does not end
_HEAR_S, _WORD_S = 5.0, 60.0
#: words, environment and all; a message cannot be larger than a socket's buffer
_REQUEST_BYTES = 128 << 10
_PROTOCOL = "1"
#: the directory of the new shim, and its listening socket
_FDS = 2


def family(containerd: str, program: str) -> str:
    """A digest of all that a forked shim has from the one that forks it, and could have got otherwise from `start`'s caller."""
    parts = [_PROTOCOL, containerd, program, str(os.getpriority(os.PRIO_PROCESS, 0))]
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"):
        parts.append(_link(f"/proc/self/ns/{name}"))
    parts += [text("/proc/self/limits"), text("/proc/self/attr/current")]
    same = ("Uid", "Gid", "Groups", "Umask", "Cap", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Mems_allowed")
    parts += [line for line in lines(text("/proc/self/status")) if line.startswith(same)]
    for path in (program, __file__, os.path.join(os.path.dirname(__file__), "../../packed.bin")):
        try:
            found = os.stat(path)
            parts.append(f"{found.st_dev} {found.st_ino} {found.st_mtime_ns} {found.st_size}")
        except OSError:
            parts.append("")
    return digest("\0".join(parts))


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


# -- asking ------------------------------------------------------------------------------------------------------------


class Ready:
    """A new shim that waits for the last word of `start`: go(), or no() where another one serves in its place.

    Where `start` ends without a word, containerd has never heard of that shim: it removes its socket, and ends too.
    """

    __slots__ = ("_connection", "pid")

    def __init__(self, pid: int, connection: socket) -> None:
        self.pid = pid
        self._connection = connection

    def go(self) -> None:
        """Serve."""
        self._say(b"go")

    def no(self) -> None:
        """End, and leave the socket alone."""
        self._say(b"no")

    def _say(self, word: bytes) -> None:
        try:
            self._connection.send(word)
        finally:
            self._connection.close()


def ask(path: str, words: Sequence[str], environment: dict[bytes, bytes], fds: Sequence[int]) -> Ready | None:
    """Have the nursery at `path` fork a shim; None where that did not come to be."""
    entries = [name + b"=" + value for name, value in environment.items()]
    parts = [_PROTOCOL.encode(), str(len(words)).encode(), *(os.fsencode(word) for word in words), *entries]
    request = b"\0".join(parts)
    if len(request) > _REQUEST_BYTES:
        return None
    connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    ready = Ready(0, connection)
    try:
        connection.settimeout(ASK_S)
        connection.connect(path)
        if peer_of(connection.fileno())[1] == os.geteuid():
            numbers = pack(f"{len(fds)}i", *fds)
            connection.sendmsg([request], [(SOL_SOCKET, SCM_RIGHTS, numbers)])
            answer = connection.recv(32)
            if answer.isdigit():
                ready.pid = int(answer)
                return ready
    except OSError:
        pass  # nobody there, busy, or gone meanwhile
    try:
        # a shim that is forked later all the same hears it, and ends
        ready.no()
    except OSError:
        pass
    return None


def wait_for_go(connection: socket, said: bytes | None = None) -> bytes:
    """On the new shim's side: say `said`, or its pid. The last word of `start`, b"" where that has ended without one."""
    try:
        connection.settimeout(_WORD_S)
        try:
            connection.send(str(os.getpid()).encode() if said is None else said)
        except ConnectionError:
            pass  # it has given up, and may have said so
        try:
            return connection.recv(8)
        except ConnectionResetError:
            # it has closed without reading what we said, which is told once, and before what it said
            return connection.recv(8)
    except OSError:
        return b""
    finally:
        connection.close()


def wait_or_end(path: str, connection: socket, said: bytes | None = None) -> None:
    """On the new shim's side: returns when `start` says go; else ends this process, and removes the socket at `path` with it."""
    word = wait_for_go(connection, said)
    if word == b"go":
        return
    if word != b"no":
        # it was killed, and could not do it; after a no somebody else serves there
        try:
            os.unlink(path)
        except OSError:
            pass
    os._exit(int(word != b"no"))


# -- being asked -------------------------------------------------------------------------------------------------------


class Birth:
    """What a new shim is to be; `connection` is where `start` waits for it."""

    __slots__ = ("connection", "directory", "environment", "listener", "words")

    def __init__(self, connection: int, data: bytes, fds: list[int]) -> None:
        parts = data.split(b"\0")
        if len(fds) != _FDS or len(parts) < 2 or parts[0] != _PROTOCOL.encode() or not parts[1].isdigit():
            raise ValueError("no request of this nursery's protocol")
        count = int(parts[1])
        if len(parts) < 2 + count:
            raise ValueError("a request that is cut off")
        self.connection = connection
        self.words = [os.fsdecode(word) for word in parts[2 : 2 + count]]
        self.environment = dict(part.split(b"=", 1) for part in parts[2 + count :] if b"=" in part)
        self.directory, self.listener = fds


class Nursery:
    """The listening side, shared by all shims of the family: whichever accepts, forks."""

    __slots__ = ("_connections", "_loop", "births", "listener")

    def __init__(self, loop: Loop, listener: socket) -> None:
        self._loop = loop
        self.listener = listener
        #: accepted, and not heard yet; a client that says nothing is dropped
        self._connections: dict[int, Timer] = {}
        #: requests to be carried out when the loop has stopped for them
        self.births: list[Birth] = []
        listener.setblocking(False)
        # exclusive: of fifty shims that listen one is woken, and not all of them
        loop.watch(listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE, self._accept)

    def _accept(self, events: int) -> None:
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return  # another shim was quicker
        try:
            is_ours = peer_of(fd)[1] == os.geteuid()
            os.set_blocking(fd, False)
        except OSError:
            is_ours = False  # whoever it is must not wait for ever for an answer
        if not is_ours:
            os.close(fd)
            return
        self._connections[fd] = self._loop.later(_HEAR_S, lambda: self._drop(fd))
        self._loop.watch(fd, select.EPOLLIN, lambda events: self._read(fd))

    def close(self) -> None:
        """Listen no more: who has asked, and was not heard yet, goes its own way."""
        for fd in list(self._connections):
            self._drop(fd)
        self._loop.forget(self.listener.fileno())
        self.listener.close()

    def _drop(self, fd: int) -> None:
        self._forget(fd)
        os.close(fd)

    def _forget(self, fd: int) -> None:
        self._connections.pop(fd).cancel()
        self._loop.forget(fd)

    def _read(self, fd: int) -> None:
        connection = socket(fileno=fd)
        try:
            # room for more, so that descriptors nobody asked for are seen, and closed
            data, control, _, _ = connection.recvmsg(_REQUEST_BYTES, CMSG_LEN(64), MSG_CMSG_CLOEXEC)
        except OSError:
            data, control = b"", []
        finally:
            connection.detach()
        fds = received(control)
        try:
            self.births.append(Birth(fd, data, fds))
        except ValueError:
            for other in fds:
                os.close(other)
            self._drop(fd)
            return
        self._forget(fd)
        # not from within the loop: the child must not come back into the middle of a turn of ours
        self._loop.stop()

    def deliver(self) -> Birth | None:
        """Fork all that were asked for: None for us, its request for the child, in which all signals are blocked."""
        while self.births:
            birth = self.births.pop(0)
            # what comes between the fork and the child's own loop would be written into ours
            before = pthread_sigmask(SIG_BLOCK, valid_signals())
            try:
                pid = os.fork()
            except OSError:
                pid = -1  # `start` sees the end of the connection, and goes its own way
            if pid == 0:
                return birth
            pthread_sigmask(SIG_SETMASK, before)
            for fd in (birth.connection, birth.directory, birth.listener):
                os.close(fd)
        return None


def open_nursery(path: str) -> socket | None:
    """The listening socket of a nursery at `path`; None where there is one, or none can be made: then there is none."""
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK)
    for _ in range(2):
        try:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(64)
            return listener
        except OSError:
            if not remove_if_dead(path, SOCK_SEQPACKET):
                break
    listener.close()
    return None
