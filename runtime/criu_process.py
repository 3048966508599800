"""CRIU as a child of ours: found, started on a socket, asked, listened to, and ended.

It is started by the interpreter, as a plan says, so that nothing but what is named there gets into it. Waiting is for its next message,
and bounded: a CRIU that neither says anything nor writes to its log for that long is ended.
"""

from __future__ import annotations

import select
import socket

from runtime import criu
from runtime import system as os
from runtime.errors import Error, KernelError, Unsupported
from runtime.launch import Launch, words_for_status
from runtime.plan import check
from runtime.planner import restorer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from runtime.plan import Plan, Step

    #: takes (what, pid, descriptor or -1); the descriptor is closed afterwards
    Notified = Callable[[str, int, int], None]

#: where programs of the system are, for callers without a PATH (podman's conmon has none)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: what all of this is written for; runc wants 3.0, but external pid namespaces, and all that Podman does, came later
VERSION_MIN = 31500
#: how long CRIU may be without a message and without a line in its log
SILENCE_S = 600.0
#: how long it may take to put back what it has changed, once it has been told that all is off
_END_S = 10.0
_MESSAGE_BYTES = 1 << 16


class Failed(Error):
    """CRIU could not do what it was asked for."""


class NotThere(Unsupported):
    """There is no CRIU on this host."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f'criu is needed for this, and there is no program of that name in "{path}"',
            "install the package criu, 3.15 or newer, or add its directory to PATH",
            code="no-criu",
        )


def search_path() -> str:
    """$PATH, or where programs usually are."""
    return os.environ.get("PATH") or _PATH


def find() -> str:
    """The path of the program; NotThere where there is none."""
    path = search_path()
    for folder in path.split(":"):
        # a relative directory would be one of the caller's choice, and not of the host's
        found = f"{folder.rstrip('/')}/criu"
        if folder[:1] == "/" and os.access(found, os.X_OK) and not os.path.isdir(found):
            return found
    raise NotThere(path)


class Criu:
    """One CRIU at work; as a `with` block it is ended with the block, and whatever it has begun is undone by itself.

    What it prints goes nowhere, unless it gets the `stdio` of a container that it shall restore: all of it is in its log as well.
    """

    def __init__(
        self,
        stdio: Sequence[int | None] | None = None,
        rootfs: str = "",
        namespaces: Sequence[tuple[str, str]] = (),
        directories: dict[str, str] | None = None,
        *,
        dies_with_us: bool = False,
    ) -> None:
        path = find()
        names = ["socket", *(name for name, _ in namespaces)]
        #: where it writes what it does, once it was asked for something; "" for nowhere
        self.log = ""
        #: `directories` as CRIU may use them, where it has mounts of its own
        self.directories: dict[str, int] = {}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket = ours
        fds = [theirs.fileno()]
        try:
            for kind, place in namespaces:
                fds.append(_opened(kind, place))
            #: by name, what an inherited descriptor is called in there
            self.numbers = restorer.numbers(names)
            words = ["criu", "swrk", str(self.numbers["socket"])]
            plan = restorer.program(path, words, environment(), names, rootfs, directories, dies_with_us=dies_with_us)
            self._launch = self._started(plan, fds, stdio)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for fd in fds[1:]:
                os.close(fd)
        self.pid = self._launch.pid
        self._pidfd = os.pidfd_open(self.pid)

    def _started(self, plan: Plan, fds: list[int], stdio: Sequence[int | None] | None) -> Launch:
        """Run the plan up to its program."""
        check(plan)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            launch = Launch(plan, fds, {"directory": self._take}, _no_fork, stdio or (null, null, null))
        finally:
            os.close(null)
        try:
            launch.serve()
        except BaseException:
            launch.destroy()
            self._give_up()
            raise
        launch.hang_up()
        return launch

    def _take(self, step: Step, launch: Launch, given: int) -> int:
        self.directories[step[1]] = os.dup(given)
        return -1

    def _give_up(self) -> None:
        for fd in self.directories.values():
            os.close(fd)
        self.directories.clear()

    # -- asking ----------------------------------------------------------------------------------------------------

    def version(self) -> int:
        """Its version as a number, 40101 for 4.1.1; Unsupported where it is too old for anything."""
        found = criu.version_of(self.ask({"type": criu.VERSION, "keep_open": True}))
        if found < VERSION_MIN:
            major, rest = divmod(found, 10000)
            raise Unsupported(
                f"criu is of version {major}.{rest // 100}, and 3.15 is the oldest that will do", code="criu"
            )
        return found

    def require(self, *features: str) -> None:
        """Raise Unsupported where this CRIU, or this kernel, lacks one of FEATURES."""
        message = {"type": criu.FEATURE_CHECK, "keep_open": True, "features": dict.fromkeys(features, True)}
        found = self.ask(message).get("features") or {}
        missing = [_FEATURE_WORDS[name] for name in features if not found.get(name)]
        if missing:
            # runc's words, and then what they mean
            names = " ".join(word for word, _ in missing)
            raise Unsupported(
                f"criu is missing features: [{names}]: {', '.join(why for _, why in missing)}", code="criu"
            )

    def ask(self, message: dict[str, Any], notified: Notified | None = None, *, waits: bool = False) -> dict[str, Any]:
        """Have a request answered; Failed where CRIU says no. `waits`: for somebody else's part of the work, however long that takes."""
        self._send(message)
        name = criu.NAMES[message["type"]]
        while True:
            response, given = self._receive(name, waits)
            try:
                if response.get("type") == criu.NOTIFY and notified is not None:
                    notify = response.get("notify") or {}
                    notified(notify.get("script", ""), notify.get("pid", 0), given)
                    self._send({"type": criu.NOTIFY, "notify_success": True})
                    continue
            finally:
                if given >= 0:
                    os.close(given)
            if not response.get("success"):
                kind = criu.NAMES.get(response.get("type", 0), name)
                errno = response.get("cr_errno", 0)
                raise self.failure(f"criu failed: type {kind} errno {errno}", response.get("cr_errmsg", "").strip())
            if response.get("type") != message["type"]:
                raise criu.ProtocolError(f"type {response.get('type')} in answer to {name}")
            return response

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(criu.encode(criu.REQUEST, message))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended: its last words, or its status, say why
        except OSError as error:
            # it would wait for the request as long as we for its answer
            raise KernelError("ask criu", error.errno or 0) from None

    def _receive(self, name: str, waits: bool) -> tuple[dict[str, Any], int]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        seen = self._log_size()
        while not poll.poll(None if waits else SILENCE_S * 1000):
            now = self._log_size()
            if now == seen:
                self.kill()
                raise self.failure(
                    f"criu failed: type {name}: neither a message nor a line in its log for {SILENCE_S:.0f} s, killed"
                )
            seen = now
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            data, ancillary = b"", []
        given = -1
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                given = int.from_bytes(value[:4], "little")
        if not data:
            status = self.wait()
            raise self.failure(
                f"criu failed: type {name}: it ended with {words_for_status(status)} and without an answer"
            )
        try:
            return criu.decode(criu.RESPONSE, data), given
        except Error:
            if given >= 0:
                os.close(given)
            raise

    def _log_size(self) -> int:
        try:
            return os.stat(self.log).st_size if self.log else 0
        except OSError:
            return 0

    def failure(self, what: str, said: str = "") -> Failed:
        """The error, with what the log says; or, without one, what CRIU has said itself."""
        quoted = (criu.quote(_end_of(self.log)) if self.log else "") or said
        hint = f"its log is {self.log}" if self._log_size() else ""
        if 'execvp("iptables-restore"' in quoted:
            hint = f"it holds up the network with iptables, which is not installed{hint and '; ' + hint}"
        return Failed(f"{what}: {quoted}" if quoted else what, hint, code="criu")

    # -- the end of it ---------------------------------------------------------------------------------------------

    def finish(self) -> int:
        """Tell it that there is nothing more to do, and wait until it has ended; its wait status."""
        self._socket.close()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, for as long as it takes to tidy up; its wait status."""
        launch = self._launch
        if launch.status is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(_END_S * 1000):
                self.kill()
            _, launch.status = os.waitpid(self.pid, 0)
        return launch.status

    def kill(self) -> None:
        """End it, whatever it is at."""
        if self._launch.status is None:
            from _signal import pidfd_send_signal

            try:
                pidfd_send_signal(self._pidfd, 9)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """The same as `finish`, and what is left of it is given up."""
        if self._pidfd >= 0:
            self.finish()
            os.close(self._pidfd)
            self._pidfd = -1
            self._give_up()

    def __enter__(self) -> Criu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: runc's name of a feature, and what its lack means
_FEATURE_WORDS = {
    "mem_track": ("MemTrack", "this kernel does not track changes of memory (CONFIG_MEM_SOFT_DIRTY)"),
    "lazy_pages": ("LazyPages", "this kernel has no userfaultfd that would do"),
}


def _no_fork(pid: int) -> None:
    raise AssertionError("a plan for CRIU does not fork")


def environment() -> list[str]:
    """CRIU's environment: ours, with a PATH by which it finds the programs that it needs in turn (tar, ip, iptables-restore)."""
    # LC_CTYPE is what the interpreter has put there at its start
    words = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PATH", "LC_CTYPE", "NOTIFY_SOCKET", "LISTEN_FDS")
    }
    return [f"{name}={value}" for name, value in {**words, "PATH": search_path()}.items()]


def _opened(kind: str, path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open namespace {path} ({kind})", error.errno or 0) from None


def _end_of(path: str) -> bytes:
    """The end of a file, where there is one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        os.lseek(fd, max(0, os.fstat(fd).st_size - criu.QUOTED_BYTES), os.SEEK_SET)
        parts = []
        while part := os.read(fd, 1 << 18):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
