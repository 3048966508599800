"""One container of this shim: its init, the other processes in it, and the runtime's verbs on them.

Every verb is a coroutine (flow.py). What a verb answers when it fails is a Fault with containerd's code and the runtime's own
text, taken from its JSON log. Which events are published, and when, is task.py's.

    create --> init is there, waiting        reaper --> ended --> (start still running? later) --> execs first --> exit told
"""

from __future__ import annotations

import os

from runtime import jsonio
from runtime.errors import Error
from shim.containerd import options as runtime_options
from shim.containerd import rootfs
from shim.containerd.calls import Calls, copy_file, read_pid, remove, words_of, write_private
from shim.containerd.streams import Streams
from shim.containerd.supervised import Task
from shim.containerd.ttrpc import FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, UNKNOWN, Fault
from shim.engine import Engine
from shim.flow import Later, begin
from shim.oom import OomWatch, cgroups_of
from shim.process import EXEC, INIT, RESTORED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from shim.engine import Answer
    from shim.loop import Loop
    from shim.reaper import Reaper
    from shim.spare import Spares

SIGKILL = 9
#: what the runtime answers to a kill that comes too late (containerd's pkg/process/utils.go, checkKillError)
_FINISHED = ("os: process already finished", "container not running", "no such process")


class Container:
    """A container. `ended(task)` is called when an end may be told, `ran_out()` when the kernel has killed for want of memory."""

    __slots__ = (
        "_calls",
        "_log",
        "_loop",
        "_namespace",
        "_oom",
        "_reaper",
        "_request",
        "bundle",
        "cgroups",
        "ended",
        "execs",
        "id",
        "init",
        "is_over",
        "is_pausing",
        "options",
        "prepare",
        "ran_out",
    )

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        namespace: str,
        request: dict[str, Any],
        log: Callable[[str, str], None],
        spares: Spares,
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._namespace = namespace
        self._log = log
        self.id: str = request["id"]
        self.bundle: str = request["bundle"]
        self._request = request
        try:
            self.options = runtime_options.read(request["options"])
        except ValueError as error:
            raise Fault(INVALID_ARGUMENT, str(error)) from None
        words = runtime_options.words(self.options, namespace, self.bundle)
        engine = Engine(loop, reaper, runtime_options.binary(self.options), words, spares)
        self._calls = Calls(engine, f"{self.bundle}/log.json")
        #: have it made ready that this command of the runtime is called soon
        self.prepare: Callable[[str], None] = engine.prepare
        states = RESTORED if request["checkpoint"] else INIT
        self.init = Task(self.id, states, self._streams(request))
        self.execs: dict[str, Task] = {}
        self.cgroups: dict[str, str] = {}
        self._oom: OomWatch | None = None
        self.is_pausing = False
        #: init has ended, which may not be told yet
        self.is_over = False
        self.ended: Callable[[Task], None] = lambda task: None
        self.ran_out: Callable[[], None] = lambda: None

    def task(self, exec_id: str) -> Task:
        """Init for "", else the process of that id."""
        found = self.execs.get(exec_id) if exec_id else self.init
        if found is None:
            raise Fault(NOT_FOUND, f"process does not exist {exec_id}")
        return found

    def _streams(self, request: dict[str, Any]) -> Streams:
        owner = self.options["io_uid"], self.options["io_gid"]
        return Streams(self._loop, self._reaper, request, owner, self._log)

    # -- init ----------------------------------------------------------------------------------------------------------

    async def create(self) -> None:
        """Mount, open the streams, and have the runtime create it; everything is undone where that fails."""
        mounts = self._request["rootfs"]
        target = f"{self.bundle}/rootfs"
        try:
            runtime_options.remember(self.bundle, self.options)
            if mounts:
                try:
                    os.mkdir(target, 0o711)
                except FileExistsError:
                    pass
                await rootfs.mount(mounts, target, self._program)
            await self.init.streams.open(self.id, self._namespace)
            if not self._request["checkpoint"]:
                # of a restore nothing is there before it is started
                words = ["create", "--bundle", self.bundle, "--pid-file", f"{self.bundle}/init.pid"]
                await self._begin_init([*words, *self._switches(), self.id], "OCI runtime create failed")
        except (OSError, ValueError, Fault) as error:
            self.init.streams.close()
            if mounts:
                await rootfs.unmount(target, self._pause)
            if isinstance(error, Fault):
                raise
            raise Fault(UNKNOWN, words_of(error)) from None

    def _switches(self) -> list[str]:
        chosen = {"--no-pivot": "no_pivot_root", "--no-new-keyring": "no_new_keyring"}
        return [*self.init.streams.words(), *(word for word, name in chosen.items() if self.options[name])]

    async def _begin_init(self, words: list[str], what: str) -> None:
        await self._begin(self.init, words, f"{self.bundle}/init.pid", what)
        try:
            self.cgroups = cgroups_of(self.init.process.pid)
            self._oom = OomWatch(self._loop, self.cgroups, lambda: self.ran_out())
        except OSError as error:
            # it has ended already, or its cgroup cannot be watched: it runs all the same
            self._log("warning", f"watch the cgroup of {self.id}: {words_of(error)}, ignoring")

    async def start(self) -> None:
        """Start init."""
        self.init.check("start")
        if self._request["checkpoint"]:
            await self._restore()
        else:
            await self._calls.must(["start", self.id], "OCI runtime start failed")
        self.init.process.note("start")

    async def _restore(self) -> None:
        work = self.options["criu_work_path"] or f"{self.bundle}/work"
        from shim.containerd import criu

        words = criu.restore(self._request, work, f"{self.bundle}/init.pid")
        await self._begin_init([*words, *self._switches(), self.id], "OCI runtime restore failed")

    async def delete(self) -> None:
        """Have its output copied, the runtime delete it, and undo the mounts."""
        self.init.check("delete")
        await self.init.streams.drain()
        answer, text = await self._calls.answer(["delete", self.id])
        # a checkpoint that ends the container has deleted it already
        if answer.status and "does not exist" not in text:
            raise Fault(UNKNOWN, f"failed to delete task: {text}")
        if self.init.process.pid:
            # of one that was only created the delete was the end, and that is told first
            await self.init.process.ended
        self._close_oom()
        if self._request["rootfs"]:
            try:
                await rootfs.unmount(f"{self.bundle}/rootfs", self._pause)
            except OSError as error:
                raise Fault(UNKNOWN, f"failed rootfs umount: {words_of(error)}") from None
        self.init.process.note("delete")

    async def kill(self, task: Task, signal: int, all_: bool) -> None:
        """Signal a process, or all."""
        process = task.process
        if task is not self.init:
            if not process.pid:
                raise Fault(FAILED_PRECONDITION, "process not created")
            if task.is_collected:
                raise Fault(NOT_FOUND, "process already finished")
            # our child, and not collected yet: its number is not free
            os.kill(process.pid, signal)
            return
        task.check("kill")
        if process.state == "stopped" and not all_:
            raise Fault(NOT_FOUND, "process already finished")
        answer, text = await self._calls.answer(["kill", *(["--all"] if all_ else []), self.id, str(signal)])
        if answer.status:
            if any(words in text.lower() for words in _FINISHED):
                raise Fault(NOT_FOUND, "process already finished")
            if "does not exist" in text:
                raise Fault(NOT_FOUND, "no such container")
            raise Fault(UNKNOWN, f"unknown error after kill: {text}")

    async def pause(self) -> None:
        """Freeze all its processes."""
        self.init.check("pause")
        self.is_pausing = True
        try:
            await self._calls.must(["pause", self.id], "OCI runtime pause failed")
        finally:
            self.is_pausing = False
        self.init.process.note("pause")

    async def resume(self) -> None:
        """Thaw them."""
        self.init.check("resume")
        await self._calls.must(["resume", self.id], "OCI runtime resume failed")
        self.init.process.note("resume")

    async def update(self, resources: bytes) -> None:
        """Change its limits."""
        self.init.check("update")
        await self._calls.must(["update", "--resources", "-", self.id], "OCI runtime update failed", input=resources)

    async def checkpoint(self, path: str, options: dict[str, Any]) -> None:
        """Write its processes to files, and end them or not."""
        self.init.check("checkpoint")
        work = options["work_path"] or self.options["criu_work_path"] or f"{self.bundle}/work/criu-work"
        from shim.containerd import criu

        words = criu.checkpoint(options, path, work)
        try:
            await self._calls.must([*words, self.id], "OCI runtime checkpoint failed")
        except Fault as fault:
            log = f"{self.bundle}/criu-dump.log"
            if copy_file(f"{work}/dump.log", log):
                fault = Fault(fault.code, f"{fault.text} path= {log}")
            raise fault from None

    async def pids(self) -> list[int]:
        """All processes in it, as the host numbers them; of one that has ended, and was not deleted yet, what it had as init.

        containerd since 1.7 asks when it is started again, and takes a shim without processes for a failed one: it removes
        it, and with it the status of a container that ended in the meantime.
        """
        if self.init.process.state == "stopped":
            return [self.init.process.pid]
        answer, text = await self._calls.answer(["ps", "--format", "json", self.id])
        if answer.status:
            raise Fault(UNKNOWN, text)
        try:
            found = jsonio.loads(answer.out, "ps")
        except Error as error:
            raise Fault(UNKNOWN, f"list processes of {self.id}: {error}") from None
        return [int(pid) for pid in found] if isinstance(found, list) else []

    # -- other processes -----------------------------------------------------------------------------------------------

    def add(self, request: dict[str, Any]) -> Task:
        """Announce a process: it is started later."""
        self.init.check("exec")
        exec_id = request["exec_id"]
        if not exec_id or "/" in exec_id or exec_id in (".", ".."):
            raise Fault(INVALID_ARGUMENT, f'"{exec_id}" cannot be the id of a process')
        try:
            spec = jsonio.loads(request["spec"]["value"] if request["spec"] else b"", "process")
        except Error as error:
            raise Fault(INVALID_ARGUMENT, str(error)) from None
        if not isinstance(spec, dict):
            raise Fault(INVALID_ARGUMENT, "process: an object expected")
        spec["terminal"] = request["terminal"]
        task = Task(exec_id, EXEC, self._streams(request))
        task.spec = spec
        self.execs[exec_id] = task
        return task

    async def start_exec(self, task: Task) -> None:
        """Start a process that was announced."""
        task.check("start")
        if self.is_over:
            raise Fault(FAILED_PRECONDITION, f"container {self.id} init process is not running")
        place = f"{self.bundle}/{task.id}"
        task.is_begun = True
        try:
            write_private(f"{place}.process.json", jsonio.dumps(task.spec))
            await task.streams.open(self.id, self._namespace)
            words = ["exec", "--process", f"{place}.process.json", *task.streams.words(), "--detach"]
            words += ["--pid-file", f"{place}.pid", self.id]
            await self._begin(task, words, f"{place}.pid", "OCI runtime exec failed")
        except (OSError, ValueError, Fault) as error:
            task.streams.close()
            # it never ran, and never will: nobody is told of an end, and nobody waits for one
            task.process.note("exit")
            task.process.status = 255
            task.process.ended.set()
            raise error if isinstance(error, Fault) else Fault(UNKNOWN, words_of(error)) from None
        finally:
            remove(f"{place}.process.json")
        task.process.note("start")

    async def delete_exec(self, task: Task) -> None:
        """Have its output copied and forget it."""
        task.check("delete")
        await task.streams.drain()
        remove(f"{self.bundle}/{task.id}.pid")
        task.process.note("delete")
        self.execs.pop(task.id, None)

    # -- ends ----------------------------------------------------------------------------------------------------------

    async def _has_ended(self, task: Task, status: int, at_ns: int) -> None:
        """A process has been collected: tell it when it may be told."""
        task.is_collected = True
        if task is self.init:
            self.is_over = True
            # the reason first (CRI: OOMKilled), whatever the loop would have come to first
            if self._oom is not None:
                self._oom.check()
            if not self._has_own_pids():
                # with a pid namespace of its own the kernel has done that
                await self._calls.answer(["kill", "--all", self.id, str(SIGKILL)])
        await task.is_announced
        if task is self.init:
            # the end of a container is the last one to be told
            for other in list(self.execs.values()):
                if other.is_begun:
                    await other.process.ended
        task.process.exit(status, at_ns)
        task.streams.ended()
        self.ended(task)
        # last: who waits goes on in here, and may be init, whose end is told after ours
        task.process.ended.set()

    def _has_own_pids(self) -> bool:
        """Whether the end of init ends all others (pid_namespaces(7)): a new pid namespace, and not somebody's by its path."""
        try:
            with open(f"{self.bundle}/config.json", "rb") as file:
                config: Any = jsonio.loads(file.read(), "config.json")
            namespaces = config["linux"]["namespaces"]
            return any(one["type"] == "pid" and not one.get("path") for one in namespaces)
        except (OSError, Error, LookupError, TypeError, AttributeError):
            return False

    def _close_oom(self) -> None:
        if self._oom is not None:
            self._oom.close()
            self._oom = None

    # -- the runtime ---------------------------------------------------------------------------------------------------

    async def _begin(self, task: Task, words: list[str], pid_file: str, what: str) -> None:
        """Have the runtime make a process that outlives it, and expect its end."""
        remove(pid_file)
        await self._calls.must(words, what, **task.streams.given())
        try:
            pid = read_pid(pid_file)
            # in this very turn: only now does the reaper still know who ended while the runtime ran
            self._reaper.expect(pid, lambda status, at_ns: self._told(task, status, at_ns))
            task.process.pid = pid
            task.is_begun = True
            task.streams.connect()
        except (OSError, ValueError) as error:
            if task is self.init:
                await self._calls.answer(["delete", "--force", self.id])
            elif task.process.pid:
                # our child, not collected yet; nobody will hear of it
                self._reaper.forget(task.process.pid)
                os.kill(task.process.pid, SIGKILL)
            raise Fault(UNKNOWN, f"{what}: {words_of(error)}") from None

    def _told(self, task: Task, status: int, at_ns: int) -> None:
        begin(self._has_ended(task, status, at_ns), self._was_told)

    def _was_told(self, result: object, error: Exception | None) -> None:
        if error is not None:
            self._log("error", f"end of a process of {self.id}: {type(error).__name__}: {error}")

    async def _program(self, argv: list[str]) -> None:
        later = Later()
        Engine(self._loop, self._reaper, argv[0]).call(argv[1:], later.set)
        answer: Answer = await later
        if answer.status:
            raise ValueError(f"{' '.join(argv)}: {answer.err.decode('utf-8', 'replace').strip()}")

    async def _pause(self, seconds: float) -> None:
        later = Later()
        self._loop.later(seconds, later.set)
        await later
