"""pyrunc for Python programs: the verbs of the command line as objects, in process, without an interpreter start.

    from runtime.api import Runtime

    with Runtime().create("/bundles/web") as container:     # deleted at the end, whatever happens
        container.start()
        print(container.exec(["/bin/date"], capture=True).output)
        container.kill("TERM")
        print(container.wait())

Errors are those of `runtime.errors`, with the op, the errno and the place in config.json in `Error.record`. A `Runtime` may be
used from several threads. Waiting is by pidfd, `Container.fileno()`, so that it fits any event loop.
"""

from __future__ import annotations

import os

from runtime import identity, lifecycle
from runtime.errors import Error, NotFound, UsageError
from runtime.linux import SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any

    from runtime.plan import Plan


class Options:
    """The options of a verb, by the names of the command line's (`pid_file`, `no_pivot`, ...); absent ones are None."""

    def __init__(self, **words: Any) -> None:
        self.__dict__.update(words)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def signal_number(signal: int | str) -> int:
    """15, "15", "TERM" and "SIGTERM" are one signal; "RTMIN+3" is another."""
    if isinstance(signal, int):
        number = signal
    else:
        word = signal.upper().removeprefix("SIG")
        base, plus, more = word.partition("+")
        if word.isascii() and word.isdigit():
            number = int(word)
        elif base in SIGNALS and (not plus or (base == "RTMIN" and more.isascii() and more.isdigit())):
            number = SIGNALS[base] + int(more or 0)
        else:
            raise UsageError(f'unknown signal "{signal}"')
    if not 0 <= number <= 64:
        raise UsageError(f'unknown signal "{signal}"')
    return number


class Result:
    """How a process ended: `status` is its exit status (128 + N for signal N), `output` what it wrote, if captured."""

    __slots__ = ("status", "output")

    def __init__(self, status: int, output: bytes = b"") -> None:
        self.status = status
        self.output = output

    def __repr__(self) -> str:
        return f"Result(status={self.status}, output={self.output[:80]!r})"


class Process:
    """A process that was started in a container, a child of the calling program."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None

    def fileno(self) -> int:
        """A pidfd: readable once the process has ended."""
        return self._pidfd

    def wait(self) -> int:
        """Wait for the end; the exit status, 128 + N where signal N ended it."""
        if self._status is None:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            assert result is not None
            killed = result.si_code != os.CLD_EXITED
            self._status = 128 + result.si_status if killed else result.si_status
        return self._status

    def kill(self, signal: int | str = "TERM") -> None:
        """Send a signal; a process that has ended is no error."""
        from _signal import pidfd_send_signal

        try:
            pidfd_send_signal(self._pidfd, signal_number(signal))
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Give up the pidfd."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is None:
            self.kill("KILL")
            self.wait()
        self.close()


class Container:
    """A container by its id. As a context manager it deletes what it names, by force, at the end of the block."""

    def __init__(self, runtime: Runtime, id_: str) -> None:
        self.runtime = runtime
        self.id = id_
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"<Container {self.id}>"

    @property
    def state(self) -> dict[str, Any]:
        """The OCI state as of now: ociVersion, id, status, pid, bundle, ..."""
        return lifecycle.state(self.runtime.context, self.id)

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        return str(self.state["status"])

    @property
    def pid(self) -> int:
        """The pid of init on the host, 0 once it has ended."""
        return int(self.state["pid"])

    def start(self) -> None:
        """Run the user's program; returns when it has been exec'd and the poststart hooks have run."""
        lifecycle.start(self.runtime.context, self.id)

    def kill(self, signal: int | str = "TERM", *, all: bool = False) -> None:
        """Send a signal to init, or to every process of the container."""
        lifecycle.kill(self.runtime.context, self.id, signal_number(signal), all)

    def pause(self) -> None:
        """Freeze every process of the container."""
        lifecycle.pause(self.runtime.context, self.id)

    def resume(self) -> None:
        """Thaw the container."""
        lifecycle.resume(self.runtime.context, self.id)

    def pids(self) -> list[int]:
        """Every process of the container, by its pid on the host."""
        return lifecycle.pids(self.runtime.context, self.id)

    def delete(self, *, force: bool = False) -> None:
        """Remove the container and all that was made for it."""
        lifecycle.delete(self.runtime.context, self.id, force)
        if self._process is not None:
            self._process.wait()  # our child: it must be collected, or it stays a zombie of ours
            self._process.close()
            self._process = None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of init. Its exit status if it is a child of ours; None where it is not, or time is up."""
        import select

        fd = self.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        ended = poll.poll(None if timeout_s is None else timeout_s * 1000)
        return self._process.wait() if ended and self._process is not None else None

    def fileno(self) -> int:
        """A pidfd of init: readable once it has ended."""
        if self._process is None:
            self._process = _Foreign(self.runtime, self.id)
        return self._process.fileno()

    def exec(
        self, args: Sequence[str] = (), *, process: dict[str, Any] | None = None, capture: bool = False, **fields: Any
    ) -> Result:
        """Run a process in the container to its end. `fields` are properties of `process` (config.md#process): `cwd`, `env`,
        `user`, ...; with `capture` what it writes to its standard output and error is returned."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC) if capture else (-1, -1)
        try:
            stdio = (None, write_fd, write_fd) if capture else (None, None, None)
            with self.spawn(args, process=process, stdio=stdio, **fields) as child:
                output = b""
                if capture:
                    os.close(write_fd)
                    write_fd = -1
                    parts = []
                    while data := os.read(read_fd, 65536):
                        parts.append(data)
                    output = b"".join(parts)
                return Result(child.wait(), output)
        finally:
            for fd in (read_fd, write_fd):
                if fd >= 0:
                    os.close(fd)

    def spawn(
        self,
        args: Sequence[str] = (),
        *,
        process: dict[str, Any] | None = None,
        stdio: tuple[int | None, int | None, int | None] = (None, None, None),
        **fields: Any,
    ) -> Process:
        """Start a process in the container and return while it runs."""
        from runtime import joining

        entry = lifecycle.find(self.runtime.context, self.id)
        try:
            if process is None:
                process = {**(lifecycle.config_of(entry).get("process") or {}), "terminal": False}
            process = {**process, **fields}
            if args:
                process["args"] = list(args)
            join = joining.Joining(self.runtime.context, entry, process, Options(detach=True, stdio=stdio))
            try:
                return Process(join.go().pid)
            finally:
                join.close()
        finally:
            entry.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete(force=True)


class _Foreign(Process):
    """The init of a container that another program made: it can be waited for, its exit status is not ours to have."""

    def __init__(self, runtime: Runtime, id_: str) -> None:
        entry = lifecycle.find(runtime.context, id_)
        try:
            saved = entry.state or {}
            pidfd = identity.open_process(saved.get("pid", 0), saved.get("start_time", 0))
        finally:
            entry.close()
        if pidfd < 0:
            raise Error("container not running", code="status")
        self.pid = saved["pid"]
        self._pidfd = pidfd
        self._status = None

    def wait(self) -> int:
        """Wait for the end; -1, because only the parent of a process learns how it ended."""
        import select

        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll()
        return -1


class Runtime:
    """Where containers are kept: `root` as in `--root`, with the same default."""

    def __init__(
        self, root: str = "", *, systemd_cgroup: bool = False, cgroup_manager: str = "", rootless: str = "auto"
    ) -> None:
        self.warnings: list[str] = []
        self.context = lifecycle.Context(
            root,
            systemd_cgroup=systemd_cgroup,
            cgroup_manager=cgroup_manager,
            rootless=rootless,
            is_activated=False,
            warn=self.warnings.append,
        )

    def create(
        self,
        bundle: str | os.PathLike[str],
        id: str = "",
        *,
        stdio: tuple[int | None, int | None, int | None] = (None, None, None),
        **options: Any,
    ) -> Container:
        """Make a container whose init waits for `start`. Without an id it gets a name of its own."""
        from runtime import creation

        id_ = id or f"py-{os.getpid()}-{os.urandom(4).hex()}"
        made = creation.make(
            self.context, id_, os.fspath(bundle), Options(stdio=stdio, **options), waits=True, detached=True
        )
        assert made.launch is not None
        container = Container(self, id_)
        container._process = Process(made.launch.pid)
        made.hand_over()
        return container

    def run(self, bundle: str | os.PathLike[str], id: str = "", **options: Any) -> int:
        """Make a container, run its program to the end, delete it; returns the exit status."""
        with self.create(bundle, id, **options) as container:
            container.start()
            return container.wait() or 0

    def plan(self, bundle: str | os.PathLike[str], id: str = "plan", **options: Any) -> Plan:
        """What `create` would do to the kernel, in order; nothing of it is done."""
        return lifecycle.plan(self.context, id, os.fspath(bundle), Options(**options))

    def get(self, id: str) -> Container:
        """The container of that id; NotFound where there is none."""
        lifecycle.find(self.context, id).close()
        return Container(self, id)

    def __iter__(self) -> Iterator[Container]:
        """Every container that can be read."""
        for found in lifecycle.containers(self.context):
            if "error" not in found:
                yield Container(self, found["id"])

    def __contains__(self, id: str) -> bool:
        try:
            lifecycle.find(self.context, id).close()
        except NotFound:
            return False
        return True
