"""pyrunc for Python programs: the verbs of the command line as objects, in process, without an interpreter start.

    from runtime.api import Runtime

    with Runtime().create("/bundles/web") as container:     # deleted at the end, whatever happens
        container.start()
        print(container.exec(["/bin/date"], capture=True).output)
        container.kill("TERM")
        print(container.wait())

Errors are those of `runtime.errors`; `Error.record` has the op, the errno and the place in config.json where they are known.
Times are in seconds, exit statuses as a shell counts them: 128 + N where signal N ended a process.

A program with threads may use one Runtime, one Container and one Process from any of them. Of the program itself nothing is
changed: not its signals, umask, working directory or descriptors. Its environment means nothing here either, but for
$XDG_RUNTIME_DIR where no root is given: $NOTIFY_SOCKET and $LISTEN_FDS are its own business and no container's. Only SIGCHLD
must not be ignored, or the kernel would throw exit statuses away.
"""

from __future__ import annotations

import os
from collections import deque
from threading import Lock

from runtime import identity, lifecycle
from runtime.child import (
    DEVNULL,
    UNKNOWN,
    Foreign,
    Process,
    Result,
    descriptors,
    refuse_ignored_children,
    signal_number,
)
from runtime.errors import NotFound, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any

    from runtime.child import Stdio
    from runtime.plan import Plan

__all__ = ["DEVNULL", "UNKNOWN", "Container", "Process", "Result", "Runtime", "signal_number"]

_INHERIT: Stdio = (None, None, None)


class Container:
    """A container by its id. As a context manager it deletes what it names, by force, at the end of the block."""

    def __init__(self, runtime: Runtime, id_: str, process: Process | None = None) -> None:
        self.runtime = runtime
        self.id = id_
        self._process = process
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<Container {self.id}>"

    @property
    def state(self) -> dict[str, Any]:
        """The state as of now (runtime.md#state): ociVersion, id, status, pid, bundle, ... NotFound once it is deleted."""
        return lifecycle.state(self.runtime.context, self.id)

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped; NotFound once it is deleted."""
        return str(self.state["status"])

    @property
    def pid(self) -> int:
        """The pid of init on the host, 0 once it has ended."""
        return int(self.state["pid"])

    def start(self) -> None:
        """Run the user's program: it has been executed, and the poststart hooks have run, when this returns.

        StatusError unless the container is created, ExecError where the program cannot be executed, HookError.
        """
        lifecycle.start(self.runtime.context, self.id)

    def kill(self, signal: int | str = "TERM", *, all: bool = False) -> None:
        """Send a signal to init, or to every process of the container. StatusError where init has ended, UsageError."""
        lifecycle.kill(self.runtime.context, self.id, signal_number(signal), all)

    def pause(self) -> None:
        """Freeze every process of the container; Unsupported where it has no cgroup, CgroupError if one cannot be frozen."""
        lifecycle.pause(self.runtime.context, self.id)

    def resume(self) -> None:
        """Thaw the container; StatusError unless it is paused."""
        lifecycle.resume(self.runtime.context, self.id)

    def pids(self) -> list[int]:
        """Every process of the container, by its pid on the host, in order."""
        return lifecycle.pids(self.runtime.context, self.id)

    def delete(self, *, force: bool = False) -> None:
        """Remove the container and all that was made for it. StatusError while it runs, unless `force`, which kills it first."""
        lifecycle.delete(self.runtime.context, self.id, force)
        with self._lock:
            process = self._process
        if process is not None:
            process.wait()  # our child: it must be collected, or it stays a zombie of ours
            process.close()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end of init and return its exit status; TimeoutError after `timeout_s` seconds.

        UNKNOWN where this program did not create the container: a process's parent alone learns how it ended.
        """
        process = self._init()
        return process.wait(timeout_s) if process is not None else UNKNOWN

    def fileno(self) -> int:
        """A pidfd of init, until `delete`: readable once it has ended. StatusError where it has, and was no child of ours."""
        process = self._init()
        if process is None:
            raise StatusError("container not running", code="status")
        return process.fileno()

    def _init(self) -> Process | None:
        with self._lock:
            if self._process is None:
                entry = lifecycle.find(self.runtime.context, self.id)
                try:
                    saved = entry.state or {}
                    pidfd = identity.open_process(saved.get("pid", 0), saved.get("start_time", 0))
                finally:
                    entry.close()
                if pidfd >= 0:
                    self._process = Foreign(saved["pid"], pidfd)
            return self._process

    def exec(
        self,
        args: Sequence[str] = (),
        *,
        capture: bool = False,
        input: bytes | None = None,
        timeout_s: float | None = None,
        **fields: Any,
    ) -> Result:
        """Run a process in the container to its end.

        With `capture` what it writes to its standard output and error is in the result; `input` is what it reads on standard
        input, which is otherwise the program's own. After `timeout_s` seconds it is killed: TimeoutError. Properties of
        `process` (config.md#process) that are to differ from the container's own are given by name: `cwd`, `env`, `user`, ...
        """
        from tempfile import TemporaryFile

        with TemporaryFile() as output, TemporaryFile() as stdin:
            stdin.write(input or b"")
            stdin.seek(0)
            # files and not pipes: whoever is left of the container's processes may hold a pipe open for ever
            stdio = (None if input is None else stdin, output if capture else None, output if capture else None)
            with self.spawn(args, stdio=stdio, **fields) as child:
                status = child.wait(timeout_s)
            output.seek(0)
            return Result(status, output.read())

    def spawn(
        self,
        args: Sequence[str] = (),
        *,
        process: dict[str, Any] | None = None,
        stdio: Stdio = _INHERIT,
        pidfd_socket: str = "",
        console_socket: str = "",
        **fields: Any,
    ) -> Process:
        """Start a process in the container and return while it runs: a child of ours, to be waited for.

        `process` is a whole process.json in place of the container's own, `fields` are properties of it, as with `exec`. ConfigError
        for one that is wrong, StatusError unless the container is created or running, ExecError where its program cannot be executed.
        """
        from runtime import bundle, joining, jsonio

        refuse_ignored_children()
        entry = lifecycle.find(self.runtime.context, self.id)
        try:
            if process is None:
                process = {**(lifecycle.config_of(entry).get("process") or {"cwd": "/"}), "terminal": False}
            process = {**process, **fields, **({"args": list(args)} if args else {})}
            process = bundle.load_process(jsonio.dumps(process).encode("utf-8", "surrogateescape"))
            with descriptors(stdio) as standard:
                options = _Options(
                    detach=True, stdio=standard, pidfd_socket=pidfd_socket, console_socket=console_socket
                )
                join = joining.Joining(self.runtime.context, entry, process, options)
                try:
                    launch = join.go()
                    return Process(launch.pid, os.dup(join.pidfd))
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


class Runtime:
    """Where containers are kept, and how their cgroups are made: the global options of the command line.

    `root` is the directory of the containers' state, with the default of the command line; `rootless` ("auto", "true", "false")
    says whether to go on without cgroups that may not be made. What `create` and `exec` have to warn about is passed to `warn`, or
    else kept in `warnings`, of which there are the last hundred.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "",
        *,
        cgroup_manager: str = "",
        systemd_cgroup: bool = False,
        rootless: str = "auto",
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.warnings: deque[str] = deque(maxlen=100)
        self.context = lifecycle.Context(
            os.fspath(root),
            systemd_cgroup=systemd_cgroup,
            cgroup_manager=cgroup_manager,
            rootless=rootless,
            is_activated=False,
            warn=warn or self.warnings.append,
        )

    def create(
        self,
        bundle: str | os.PathLike[str],
        id: str = "",
        *,
        stdio: Stdio = _INHERIT,
        pid_file: str = "",
        console_socket: str = "",
        pidfd_socket: str = "",
        no_pivot: bool = False,
        no_new_keyring: bool = False,
    ) -> Container:
        """Make a container whose init waits for `start`; without an id it gets one of its own. Its init is a child of ours.

        ConfigError and RuleError for a configuration that is wrong, Exists where the id is taken, Unsupported, KernelError,
        CgroupError or HookError where it cannot be made: nothing is left of it then.
        """
        from runtime import creation

        refuse_ignored_children()
        id_ = id or f"py-{os.getpid()}-{os.urandom(4).hex()}"
        with descriptors(stdio) as standard:
            options = _Options(
                stdio=standard,
                pid_file=pid_file,
                console_socket=console_socket,
                pidfd_socket=pidfd_socket,
                no_pivot=no_pivot,
                no_new_keyring=no_new_keyring,
            )
            made = creation.make(self.context, id_, os.fspath(bundle), options, waits=True, detached=True)
        assert made.launch is not None
        try:
            process = Process(made.launch.pid, os.dup(made.pidfd))
        except OSError:
            made.undo()
            raise
        made.hand_over()  # or it is undone
        return Container(self, id_, process)

    def run(self, bundle: str | os.PathLike[str], id: str = "", *, stdio: Stdio = _INHERIT) -> int:
        """Make a container, run its program to the end, delete it; returns the exit status."""
        with self.create(bundle, id, stdio=stdio) as container:
            container.start()
            return container.wait()

    def plan(self, bundle: str | os.PathLike[str], id: str = "plan", *, no_pivot: bool = False) -> Plan:
        """What `create` would do, in order: `.text()` prints it, `.host` and `.ops` are its lines. Nothing of it is done."""
        return lifecycle.plan(self.context, id, os.fspath(bundle), _Options(no_pivot=no_pivot))

    def get(self, id: str) -> Container:
        """The container of that id, whoever made it; NotFound where there is none."""
        lifecycle.find(self.context, id).close()
        return Container(self, id)

    def __iter__(self) -> Iterator[Container]:
        """Every container under the root that can be read, whoever made it."""
        for found in lifecycle.containers(self.context):
            if "error" not in found:
                yield Container(self, found["id"])

    def __contains__(self, id: str) -> bool:
        try:
            lifecycle.find(self.context, id).close()
        except NotFound:
            return False
        return True


class _Options:
    """The options of a verb, by the names of the command line's; absent ones are None."""

    def __init__(self, **words: Any) -> None:
        self.__dict__.update(words)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
