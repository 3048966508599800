"""What containerd runs the shim's program for: start, delete, -info, -v. The server itself is serving.py.

    start   bind the task service's socket, have a shim serve it (a running one forks it, else we do), print its address
    delete  clean up after a shim that is gone, print how the container ended
    -info   which runtime this is, and what it can do

start's standard output and error are one pipe to containerd, read until its end: nothing but the address may be written, and the
server must hold neither. Flags are Go's: one dash or two, a value after = or as the next word.
"""

from __future__ import annotations

import os
import sys
import time

from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from shim.containerd.nursery import Ready
    from shim.spare import Spare

NAME = "io.containerd.pyrunc.v2"
SOCKET_DIR = "/run/containerd/s"
#: annotations of config.json by which containers share a shim: containerd's own, then CRI's pod
GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
#: containerd's; and front.c's: the descriptor by which it waits for what `start` would print, and a spare's (shim/spare.py)
_FLAGS = {"namespace", "id", "address", "publish-binary", "bundle", "socket", "front", "spare"}
_SWITCHES = {"debug", "v", "info"}
_SIGKILL = 9


def main(argv: list[str]) -> int:
    """The program: its words, its exit status."""
    words, action = _read_words(argv[1:])
    if "v" in words:
        from runtime import VERSION

        _print(f"{argv[0]}:\n  Version:  {VERSION}\n".encode())
        return 0
    if "info" in words:
        return _info()
    if action == "spare":
        return _be_spare(words)
    actions = {"start": _start, "delete": _delete}
    if action not in actions:
        raise UsageError(f'"{action}" is nothing that a shim is run for; {" and ".join(actions)} are')
    for name in ("namespace", "id"):
        if not words.get(name):
            raise UsageError(f"-{name} is missing")
    return actions[action](words)


def _read_words(given: Sequence[str]) -> tuple[dict[str, str], str]:
    """Flags by name, and the action."""
    words: dict[str, str] = {}
    left = list(given)
    while left and left[0].startswith("-"):
        name, separator, value = left.pop(0).lstrip("-").partition("=")
        if name in _SWITCHES:
            if value not in ("false", "0"):
                words[name] = value or "true"
        elif name in _FLAGS and (separator or left):
            words[name] = value if separator else left.pop(0)
        else:
            raise UsageError(f"flag provided but not defined: -{name}")
    return words, left[0] if left else ""


# -- start -------------------------------------------------------------------------------------------------------------


class Start:
    """All that a server needs to know, as words, which is how a nursery is told."""

    NAMES = ("namespace", "id", "address", "ttrpc_address", "publish_binary", "debug", "socket", "nursery")
    __slots__ = NAMES

    def __init__(self, *words: str) -> None:
        (
            self.namespace,
            self.id,
            self.address,
            self.ttrpc_address,
            self.publish_binary,
            self.debug,
            self.socket,
            self.nursery,
        ) = words

    def words(self) -> list[str]:
        """What __init__ takes."""
        return [getattr(self, name) for name in self.NAMES]


def _start(words: dict[str, str]) -> int:
    from shim.containerd import nursery, sockets

    params, options = _read_stdin(words)
    cgroup = _shim_cgroup(options)
    front = words.get("front", "")
    folder = (params["socket_dir"] if params else "") or SOCKET_DIR
    address = words.get("address", "")
    program = os.path.abspath(sys.argv[0])
    nest = f"{folder}/nursery-{nursery.family(address, program)[:32]}"
    given = words.get("spare", "")
    spare = _spare(given) if front and not cgroup and not os.path.exists(nest) else None
    if given and spare is None:
        os.close(int(given.partition(",")[0]))  # it exits
    path = f"{folder}/{sockets.PREFIX}{sockets.digest(_place(words, address))[: -len(sockets.PREFIX)]}"
    start = Start(
        words["namespace"],
        words["id"],
        address,
        (params["containerd_ttrpc_address"] if params else "") or os.environ.get("TTRPC_ADDRESS", ""),
        words.get("publish-binary", ""),
        words.get("debug", ""),
        path,
        nest,
    )
    said = _result(path) if params else f"unix://{path}".encode()
    # 1.6 and 1.7 find the shim by this file when they are restarted, and `delete` its socket
    _write("address", f"unix://{path}")
    listener = sockets.listen(path)
    if listener is None:
        _print(said)
        return 0
    try:
        ready = _serve(start, listener, cgroup, front, spare, said)
        _print(said)
        # containerd reads the address when we have ended: a `start` that is killed before this leaves no shim behind
        ready.go()
    except BaseException:
        # the shim that should serve there, and would remove it, may have been killed
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        raise
    return 0


def _spare(given: str) -> Spare | None:
    """A child for the `create` that comes first: it loads what that needs while we go on.

    `given` by front.c, which has it begin while we begin; else forked before anything else is loaded. It is for who will be the
    server, as it is: what a child has from us must not change any more (shim/spare.py).
    """
    from shim import spare

    if given:
        fd, _, pid = given.partition(",")
        return spare.given(int(fd), int(pid))
    if not _is_settled():
        return None
    _lead()
    return spare.fork("create")


def _be_spare(words: dict[str, str]) -> int:
    """What front.c starts beside the shim."""
    from shim import spare

    fd, _, parent = words.get("spare", "").partition(",")
    if not (fd.isdigit() and parent.isdigit()):
        raise UsageError(f'-spare "{words.get("spare", "")}" is not a descriptor and a process')
    return spare.wait(int(fd), int(parent), "create")


def _lead() -> None:
    """A session of our own, of which front.c may have made us the leader already, and our score."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    _adjust_score(os.getpid())


def _is_settled() -> bool:
    """Whether our environment asks for nothing that the server is still to do for itself, and a child of now would not have."""
    return "NOTIFY_SOCKET" not in os.environ and "SCHED_CORE" not in os.environ


def _place(words: dict[str, str], address: str) -> str:
    """Whose shim it is: the containerd, its namespace, and the container or what it shares a shim by."""
    return os.path.normpath("/".join(part for part in (address, words["namespace"], _group(words["id"])) if part))


def _read_stdin(words: dict[str, str]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(BootstrapParams of containerd 2.3 and later, runtime options), each None where it was not sent."""
    data = b""
    while part := os.read(0, 64 << 10):
        data += part
    if not data:
        return None, None
    from shim.containerd.messages import ANY, BOOTSTRAP_PARAMS
    from shim.containerd.protobuf import DecodeError, decode

    try:
        params = decode(BOOTSTRAP_PARAMS, data)
        # An Any has strings in fields 1 and 2 too: only who names this very container has sent parameters.
        if (params["instance_id"], params["namespace"]) == (words["id"], words["namespace"]):
            sent = [one["value"] for one in params["extensions"] if one["value"]]
            return params, next((any_ for any_ in sent if any_["type_url"].endswith("Options")), None)
    except DecodeError:
        pass
    return None, decode(ANY, data, "standard input")


def _group(id_: str) -> str:
    """What a container's shim is shared by."""
    from runtime import jsonio

    try:
        with open("config.json", "rb") as file:
            config: Any = jsonio.loads(file.read(), "config.json")
        annotations = config.get("annotations") or {}
        return next((annotations[name] for name in GROUPS if annotations.get(name)), id_)
    except (LookupError, TypeError, AttributeError):
        return id_


def _serve(start: Start, listener: socket, cgroup: str, front: str, spare: Spare | None, said: bytes) -> Ready:
    """Have a process ready to serve it: forked by a shim of our family, or by us; with a `front` we are it, and do not return."""
    from shim.containerd import nursery, placing

    ready = None
    # a core scheduling cookie is made before any thread or child, and belongs to one group
    if "SCHED_CORE" not in os.environ:
        folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            from posix import environ

            ready = nursery.ask(start.nursery, start.words(), environ, (folder, listener.fileno()))
        finally:
            os.close(folder)
    if ready is not None and not cgroup:
        try:
            placing.follow(ready.pid)
        except OSError:
            # it cannot be where it should be: one of our own is
            ready.no()
            ready = None
    if ready is None and front:
        if cgroup:
            placing.move(os.getpid(), cgroup)
        if spare is None:
            _lead()
        from _socket import socket

        connection = socket(fileno=int(front))
        os.set_inheritable(connection.fileno(), False)
        _be_server(start, listener, connection, spare, said)
    if spare is not None:
        spare.close()
    if ready is None:
        ready = _fork(start, listener)
    listener.close()
    if cgroup:
        try:
            placing.move(ready.pid, cgroup)
        except OSError:
            ready.no()
            raise
    _adjust_score(ready.pid)
    return ready


def _fork(start: Start, listener: socket) -> Ready:
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET, socketpair

    from shim.containerd import nursery

    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            os.setsid()
            _be_server(start, listener, theirs)
        finally:
            # whatever happened: the child must never come back to what `start` does
            os._exit(1)
    theirs.close()
    return nursery.Ready(pid, ours)


def _be_server(
    start: Start, listener: socket, connection: socket, spare: Spare | None = None, said: bytes | None = None
) -> NoReturn:
    """Serve, leading a session, when who is at the other end has said so."""
    from shim.containerd import nursery

    # at once: containerd reads the pipe that these are until everybody has closed it
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    nursery.wait_or_end(start.socket, connection, said)
    # from here on nothing changes that a fork of ours has from us
    if spare is None and _is_settled():
        from shim.spare import fork

        # while it loads what `create` needs, we load what the server needs
        spare = fork("create")
    from shim.containerd import serving

    serving.begin(start, listener, spare)


def _adjust_score(pid: int) -> None:
    """The kernel should rather end a shim than containerd, which can clean up after it."""
    try:
        with open(f"/proc/{os.getppid()}/oom_score_adj", "rb") as file:
            score = int(file.read())
        _write(f"/proc/{pid}/oom_score_adj", str(min(score + 1, 1000)))
    except OSError:
        pass  # no right to, as in a user namespace; containerd's own goes on as well


def _shim_cgroup(options: dict[str, Any] | None) -> str:
    """The option ShimCgroup; the other options are for create, and nothing is loaded for them here."""
    if options is None or not options["value"]:
        return ""
    if not options["type_url"].endswith("containerd.runc.v1.Options") and b"ShimCgroup" not in options["value"]:
        return ""
    from shim.containerd.options import read

    found: str = read(options)["shim_cgroup"]
    return found


def _result(path: str) -> bytes:
    from shim.containerd.messages import BOOTSTRAP_RESULT
    from shim.containerd.protobuf import encode

    # Version 2 although the same is served as 3: containerd says MAX_SHIM_VERSION=2, and asks each container's start for
    # its group's address.
    return encode(BOOTSTRAP_RESULT, {"version": 2, "address": f"unix://{path}", "protocol": "ttrpc"})


# -- delete ------------------------------------------------------------------------------------------------------------


def _delete(words: dict[str, str]) -> int:
    """The shim is gone, or was never there: have the runtime forget the container, and undo the mounts."""
    from shim.containerd import cleaning
    from shim.containerd.messages import DELETED
    from shim.containerd.protobuf import encode

    bundle = words.get("bundle") or os.getcwd()
    pid = cleaning.clean(bundle, words["namespace"], words["id"])
    now = time.time_ns()
    exited_at = {"seconds": now // 1_000_000_000, "nanos": now % 1_000_000_000}
    _print(encode(DELETED, {"pid": pid, "exit_status": 128 + _SIGKILL, "exited_at": exited_at}))
    return 0


# -- info --------------------------------------------------------------------------------------------------------------


def _info() -> int:
    from shim.containerd import cleaning, options
    from shim.containerd.messages import ANY, RUNTIME_INFO
    from shim.containerd.protobuf import decode, encode

    data = b""
    while part := os.read(0, 64 << 10):
        data += part
    any_ = decode(ANY, data, "standard input") if data else None
    from runtime import VERSION

    info: dict[str, Any] = {"name": NAME, "version": {"version": VERSION}}
    if any_ and any_["type_url"]:
        info["options"] = any_
    answer = cleaning.call_once(options.binary(options.read(any_)), (), ["features"])
    if answer.status == 0:
        kind = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
        info["features"] = {"type_url": kind, "value": answer.out}
    _print(encode(RUNTIME_INFO, info))
    return 0


# -- small things ------------------------------------------------------------------------------------------------------


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _print(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
