"""Children that have loaded what a command of our own runtime needs, and wait for its words: the call that comes next finds one.

A call forks, and what the child then imports is most of what a container's start waits for. It is known before which call comes
next: `create` when a shim begins, `start` while a create is at work, `delete` after that or after an end. So a child is forked
then; and one that was a `start` stays, to be the `delete` of what has ended soon.

    prepare("start") ------------ fork --------->  imports, waits
    call(["start", ...], told)  -- words, environment, descriptors -->  is that call
    told(status)                <-- status, whether it stays ---------  waits, with nothing of that call
    a moment later, or our end  -- end of file ---------------------->  exits

Nothing depends on a spare: where there is none, or it has ended, the call forks as ever. It must know nothing that may change
before its call: it is forked where directory, session, cgroup and limits are what they stay to be.
"""

from __future__ import annotations

import os
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
    socketpair,
)
from _struct import pack
from errno import EMSGSIZE
from select import EPOLLIN

from shim import engine
from shim.descriptors import close_all, received

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shim.loop import Loop, Timer
    from shim.reaper import Reaper

#: command -> the kind of spare that can be it (runtime/ahead.py). A light one stays; the others are parents of what they
#: have made, and must end.
KIND = {"create": "create", "exec": "exec", "start": "light", "delete": "light", "kill": "light"}
#: What was expected and does not come soon costs memory. Who stays is for a container that is over at once; another's end is
#: heard of in time for a new one.
_WAIT_S, _STAY_S = 3.0, 0.3
_SIGKILL = 9
#: a message cannot be larger than a socket's buffer, and carries no more descriptors (unix(7))
_REQUEST_BYTES, _FDS = 64 << 10, 64
#: what is told of a call: status, whether the child stays
_ANSWER = 2


class Spare:
    """One that waits."""

    __slots__ = ("_connection", "_timer", "kind", "pid")

    def __init__(self, kind: str, pid: int, connection: socket) -> None:
        self.kind = kind
        self.pid = pid
        self._connection = connection
        self._timer: Timer | None = None

    def begin(
        self,
        argv: Sequence[str],
        standard: tuple[int, int, int],
        pass_fds: Sequence[int],
        cwd: str | None,
        env: Mapping[str, str] | None,
    ) -> bool:
        """Have it carry out `argv`. False where it cannot: it has ended, or the request is too large; then it is no more."""
        fds = [*standard, *pass_fds]
        request = _pack(argv, cwd, env)
        try:
            if len(request) > _REQUEST_BYTES or len(fds) > _FDS:
                raise OSError(EMSGSIZE, "too large")
            numbers = pack(f"{len(fds)}i", *fds)
            self._connection.sendmsg([request], [(SOL_SOCKET, SCM_RIGHTS, numbers)])
        except OSError:
            self.close()
            return False
        return True

    def hear(self) -> bytes:
        """After begin(): its status and whether it stays, a byte each; nothing where it was killed."""
        try:
            return self._connection.recv(2)
        except OSError:
            return b""

    def wait_for(self, timer: Timer | None) -> None:
        """Until when it waits."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def fileno(self) -> int:
        """The descriptor by which it is told, which is to be kept open."""
        return self._connection.fileno()

    def close(self) -> None:
        """Hear no more of it; one that still waits exits."""
        self.wait_for(None)
        close_all([self._connection.detach()])


class Spares:
    """The spares of a shim, one of a kind at most."""

    __slots__ = ("_is_over", "_loop", "_reaper", "_spares")

    def __init__(self, loop: Loop, reaper: Reaper) -> None:
        self._loop = loop
        self._reaper = reaper
        self._spares: dict[str, Spare] = {}
        self._is_over = False

    def prepare(self, command: str) -> None:
        """Have a child ready for `command`, for a while."""
        kind = KIND[command]
        if kind not in self._spares and not self._is_over:
            try:
                self.adopt(fork(kind))
            except OSError:
                pass  # the call will say so, if it still is so then

    def adopt(self, spare: Spare, wait_s: float | None = None) -> None:
        """Keep one, for a while; it exits where there is one of its kind."""
        self._reaper.expect(spare.pid, lambda status, at_ns: self._drop(spare))
        if spare.kind in self._spares:
            spare.close()
            return
        self._spares[spare.kind] = spare
        spare.wait_for(self._loop.later(_WAIT_S if wait_s is None else wait_s, lambda: self._drop(spare)))

    def call(
        self,
        argv: Sequence[str],
        command: str,
        standard: tuple[int, int, int],
        pass_fds: Sequence[int],
        cwd: str | None,
        env: Mapping[str, str] | None,
        told: Callable[[int], None],
    ) -> int:
        """Have a spare carry out `argv`; 0 without one, else its pid, whose end the caller expects.

        told(status) is called from the loop as soon as it is known, which is before the end, or instead of it.
        """
        spare = self._spares.pop(KIND.get(command, ""), None)
        if spare is None:
            return 0
        spare.wait_for(None)
        self._reaper.forget(spare.pid)
        if not spare.begin(argv, standard, pass_fds, cwd, env):
            return 0

        def ready(events: int) -> None:
            self._loop.forget(spare.fileno())
            said = spare.hear()
            if len(said) < _ANSWER:
                spare.close()  # it was killed; the reaper knows how
                return
            status, stays = said
            self._reaper.forget(spare.pid)
            if stays:
                # before it is told: it may be called at once
                self.adopt(spare, _STAY_S)
            else:
                spare.close()
            told(status)

        self._loop.watch(spare.fileno(), EPOLLIN, ready)
        return spare.pid

    def end(self) -> None:
        """Have all exit, and return when they have: one that has only just been forked may still hold what is open here.

        For the end of a shim: whoever looks whether a socket of ours is served would find that it is. No more is prepared.
        """
        self._is_over = True
        for spare in self._spares.values():
            # still expected, so that nobody has collected it, and the number is its own
            os.kill(spare.pid, _SIGKILL)
            os.waitpid(spare.pid, 0)
            self._reaper.forget(spare.pid)
            spare.close()
        self._spares.clear()

    def _drop(self, spare: Spare) -> None:
        """Have it exit. Its end is expected still: nobody else is to be told of it."""
        if self._spares.get(spare.kind) is spare:
            del self._spares[spare.kind]
        spare.close()


def fork(kind: str) -> Spare:
    """A child of ours that waits to be a call of a command of this kind."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
    try:
        pid = engine.fork_child(lambda: _serve(theirs.detach(), kind))
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Spare(kind, pid, ours)


def given(fd: int, pid: int) -> Spare:
    """A create's that somebody else has started as a child of ours: by wait()."""
    connection = socket(fileno=fd)
    os.set_inheritable(fd, False)
    return Spare("create", pid, connection)


# -- in the child ------------------------------------------------------------------------------------------------------


def wait(fd: int, parent: int, kind: str) -> int:
    """In a process of its own, a child of `parent`'s: what a child of fork() does."""
    return engine.shed(parent) or _serve(fd, kind)


def _serve(fd: int, kind: str) -> int:
    """Be one call after the other; the status of the last."""
    # before anything else: what is open here cannot come to its end for somebody else, least of all our own connection
    fd = engine.keep_only(fd)
    from runtime import ahead

    ahead.load(kind)
    status = 0
    while True:
        request = _request(fd)
        if request is None:
            return status
        argv, cwd, env, fds = request
        kept = [fd]
        status = engine.be_call((fds[0], fds[1], fds[2]), fds[3:], cwd, env, argv, kept)
        # whatever it was given must come to its end elsewhere, and before anybody hears that the call is over
        fd = engine.keep_only(kept[0])
        # a directory or an environment of the call's own would stay too
        stays = status == 0 and kind == "light" and cwd is None and env is None
        os.write(fd, bytes((status & 0xFF, stays)))
        if not stays:
            return status


def _pack(argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> bytes:
    """The number of words, the words, the directory or "", and the environment with "=" before it; with NUL in between."""
    parts = [str(len(argv)), *argv, cwd or ""]
    if env is not None:
        parts += ["=", *(f"{name}={value}" for name, value in env.items())]
    return os.fsencode("\0".join(parts))


def _unpack(data: bytes) -> tuple[list[str], str | None, dict[str, str] | None]:
    parts = os.fsdecode(data).split("\0")
    end = 1 + int(parts[0])
    env = None
    if parts[end + 1 :]:
        env = dict(entry.split("=", 1) for entry in parts[end + 2 :])
    return parts[1:end], parts[end] or None, env


def _request(fd: int) -> tuple[list[str], str | None, dict[str, str] | None, list[int]] | None:
    connection = socket(fileno=fd)
    try:
        data, control, _, _ = connection.recvmsg(_REQUEST_BYTES, CMSG_LEN(4 * _FDS), MSG_CMSG_CLOEXEC)
    finally:
        connection.detach()
    if not data:
        return None
    fds = received(control)
    return (*_unpack(data), fds)
