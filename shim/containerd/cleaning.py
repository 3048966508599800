"""`delete`: what is left of a container whose shim is gone, or has just ended in order. Nothing here may need the shim.

containerd runs this after every task, and nearly always there is nothing left to do: that is looked at first, since every
module loaded here is time between the end of a container and the next one.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SHUT_WR, SOCK_CLOEXEC, SOCK_SEQPACKET, SOCK_STREAM, socket

from shim.containerd import DEFAULT_ROOT, OPTIONS_FILE
from shim.containerd.sockets import remove_if_dead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.engine import Answer

#: how long a shim that is busy is waited for
_HEARD_S = 1.0


def clean(bundle: str, namespace: str, id_: str) -> int:
    """Delete the container by force, undo its mounts, remove dead sockets; the pid that its init had, 0 where it is not known."""
    if os.path.exists(f"{bundle}/{OPTIONS_FILE}") or os.path.lexists(f"{DEFAULT_ROOT}/{namespace}/{id_}"):
        _delete(bundle, namespace, id_)
    target = f"{bundle}/rootfs"
    if _is_mounted(target):
        _unmount(target)
    _remove_dead(f"{bundle}/address")
    try:
        with open(f"{bundle}/init.pid", "rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0


def _delete(bundle: str, namespace: str, id_: str) -> None:
    from shim.containerd import options

    chosen = options.recall(bundle)
    runtime = options.binary(chosen)
    # of our own runtime we know where it would be
    if runtime or os.path.lexists(os.path.join(options.root(chosen, namespace), id_)):
        answer = call_once(runtime, options.words(chosen, namespace, bundle), ["delete", "--force", id_])
        if answer.status:
            # containerd shows what is on standard error, and goes on
            os.write(2, b"delete by force: " + answer.err)


def call_once(runtime: str, words: Sequence[str], command: Sequence[str]) -> Answer:
    """Call the runtime, where nothing else is to be done meanwhile."""
    from shim.engine import Engine
    from shim.loop import Loop
    from shim.reaper import Reaper

    answers: list[Answer] = []
    loop = Loop()

    def done(answer: Answer) -> None:
        answers.append(answer)
        loop.stop()

    Engine(loop, Reaper(loop), runtime, words).call(command, done)
    loop.run()
    loop.close()
    return answers[0]


def _is_mounted(target: str) -> bool:
    word = os.fsencode(target)
    # as words of mountinfo are, proc(5)
    for character in b"\\ \t\n":
        word = word.replace(b"%c" % character, b"\\%03o" % character)
    with open("/proc/self/mountinfo", "rb") as file:
        return b" %b " % word in file.read()


def _unmount(target: str) -> None:
    from shim.containerd import rootfs
    from shim.flow import Later, begin
    from shim.loop import Loop

    loop = Loop()
    failures: list[Exception] = []

    def done(result: object, error: Exception | None) -> None:
        if error is not None:
            failures.append(error)
        loop.stop()

    async def pause(seconds: float) -> None:
        later = Later()
        loop.later(seconds, later.set)
        await later

    loop.soon(lambda: begin(rootfs.unmount(target, pause), done))
    loop.run()
    loop.close()
    if failures:
        raise failures[0]


def _remove_dead(path: str) -> None:
    """Sockets that a killed shim has left: its own, and its family's if it was the last."""
    try:
        with open(path, "rb") as file:
            own = os.fsdecode(file.read().strip()).removeprefix("unix://")
    except OSError:
        return
    if not own.startswith("/"):
        return
    was_killed = os.path.lexists(own)
    if was_killed:
        _outlive(own, SOCK_STREAM)
        was_killed = remove_if_dead(own)
    folder = os.path.dirname(own)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = f"{folder}/{name}"
        if name.startswith("nursery-") and not remove_if_dead(path, SOCK_SEQPACKET) and was_killed:
            _outlive(path, SOCK_SEQPACKET)
            remove_if_dead(path, SOCK_SEQPACKET)


def _outlive(path: str, kind: int) -> None:
    """Return when the shim that listens at `path` has heard us, or when the last who had that socket has ended.

    One that was killed just now still listens when its connections have ended already; and a child that it was about to make has
    the socket, too, until the kernel has told it so.
    """
    connection = socket(AF_UNIX, kind | SOCK_CLOEXEC)
    try:
        connection.settimeout(_HEARD_S)
        connection.connect(path)
        # nothing that is answered: who is alive closes the connection; where nobody is, the kernel does
        if kind == SOCK_SEQPACKET:
            connection.send(b"?")
        else:
            connection.shutdown(SHUT_WR)
        connection.recv(1)
    except OSError:
        pass
    finally:
        connection.close()
