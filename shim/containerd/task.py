"""containerd's Task service: every method of containerd.task.v2.Task and containerd.task.v3.Task, which are the same.

A method finds its container and process, has container.py do it, and publishes what happened: create, start, exit, delete, in
this order, and the ends of other processes before init's. An end is told after the start that made it possible has been answered.
"""

from __future__ import annotations

import os

from shim.containerd import messages
from shim.containerd.container import Container
from shim.containerd.protobuf import DecodeError, blank, decode, encode
from shim.containerd.publish import timestamp
from shim.containerd.ttrpc import ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND, UNKNOWN, Fault
from shim.flow import Later, begin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from shim.containerd.publish import Publisher
    from shim.containerd.supervised import Task
    from shim.containerd.ttrpc import Methods
    from shim.loop import Loop
    from shim.reaper import Reaper
    from shim.spare import Spares

    Values = dict[str, Any]

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
#: method -> (request, response, name of the handler)
METHODS: Methods = {
    "State": (messages.PROCESS, messages.STATE, "state"),
    "Create": (messages.CREATE, messages.PID, "create"),
    "Start": (messages.PROCESS, messages.PID, "start"),
    "Delete": (messages.PROCESS, messages.DELETED, "delete"),
    "Pids": (messages.ID, messages.PIDS, "pids"),
    "Pause": (messages.ID, messages.EMPTY, "pause"),
    "Resume": (messages.ID, messages.EMPTY, "resume"),
    "Checkpoint": (messages.CHECKPOINT, messages.EMPTY, "checkpoint"),
    "Kill": (messages.KILL, messages.EMPTY, "kill"),
    "Exec": (messages.EXEC, messages.EMPTY, "exec"),
    "ResizePty": (messages.RESIZE, messages.EMPTY, "resize"),
    "CloseIO": (messages.CLOSE_IO, messages.EMPTY, "close_io"),
    "Update": (messages.UPDATE, messages.EMPTY, "update"),
    "Wait": (messages.PROCESS, messages.WAITED, "wait"),
    "Stats": (messages.ID, messages.STATS, "stats"),
    "Connect": (messages.ID, messages.CONNECTED, "connect"),
    "Shutdown": (messages.SHUTDOWN, messages.EMPTY, "shutdown"),
}


class TaskService:
    """The containers of this shim. `stop()` is called when the shim has been shut down and may end."""

    __slots__ = (
        "_creations",
        "_log",
        "_loop",
        "_namespace",
        "_publish",
        "_reaper",
        "_spares",
        "_stop",
        "containers",
        "emptied",
        "leaving",
    )

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        namespace: str,
        publisher: Publisher,
        log: Callable[[str, str], None],
        stop: Callable[[], None],
        spares: Spares,
    ) -> None:
        self._spares = spares
        self._loop = loop
        self._reaper = reaper
        self._namespace = namespace
        self._publish = publisher.send
        self._log = log
        self._stop = stop
        #: None while a container of that id is being created
        self.containers: dict[str, Container | None] = {}
        #: called when the last container is gone
        self.emptied: Callable[[], None] | None = None
        #: called before a Shutdown that ends us is answered
        self.leaving: Callable[[], None] | None = None
        #: of those that are being created: set when that is over
        self._creations: dict[str, Later] = {}

    def _find(self, request: Values) -> tuple[Container, Task]:
        container = self.containers.get(request["id"])
        if container is None:
            raise Fault(NOT_FOUND, f'container "{request["id"]}" was not created here')
        return container, container.task(request.get("exec_id", ""))

    # -- from create to delete -----------------------------------------------------------------------------------------

    async def create(self, request: Values) -> Values:
        """Have a container created, waiting to be started."""
        id_ = request["id"]
        if not id_ or not request["bundle"]:
            raise Fault(INVALID_ARGUMENT, "a container needs an id and a bundle")
        if id_ in self.containers:
            raise Fault(ALREADY_EXISTS, f'container "{id_}" exists already')
        self.containers[id_] = None
        made = self._creations[id_] = Later()
        try:
            container = Container(self._loop, self._reaper, self._namespace, request, self._log, self._spares)
            container.ended = lambda task: self._ended(container, task)
            container.ran_out = lambda: self._publish("/tasks/oom", {"container_id": id_})
            await container.create()
            self.containers[id_] = container
        except BaseException:
            self._forget(id_)
            raise
        finally:
            del self._creations[id_]
            # after our answer
            self._loop.soon(made.set)
        names = ("stdin", "stdout", "stderr", "terminal")
        self._publish(
            "/tasks/create",
            {
                "container_id": id_,
                "bundle": request["bundle"],
                "rootfs": request["rootfs"],
                "io": {name: request[name] for name in names},
                "checkpoint": request["checkpoint"],
                "pid": container.init.process.pid,
            },
        )
        self._announce(container.init)
        return {"pid": container.init.process.pid}

    def unheard(self, method: str, request: Values) -> None:
        """Undo what nobody has been told of: containerd was killed during a create, and its client has forgotten the container."""

        def done(result: object, error: Exception | None) -> None:
            if error is not None:
                self._log("error", f"delete {request['id']}, whose create nobody waits for: {error}")

        if method == "Create":
            begin(self.delete({"id": request["id"], "exec_id": ""}), done)

    async def start(self, request: Values) -> Values:
        """Start init, or a process that Exec has announced."""
        container, task = self._find(request)
        async with task.turn:
            # from here on its end is kept back until we have answered
            task.is_announced = Later()
            try:
                if task is container.init:
                    await container.start()
                    self._publish("/tasks/start", {"container_id": container.id, "pid": task.process.pid})
                else:
                    await container.start_exec(task)
                    values = {"container_id": container.id, "exec_id": task.id, "pid": task.process.pid}
                    self._publish("/tasks/exec-started", values)
            finally:
                self._announce(task)
        return {"pid": task.process.pid}

    def _prepare(self, container: Container, command: str) -> None:
        """After our answer: who has got it calls this next, and needs a moment for it."""
        self._loop.soon(lambda: container.prepare(command))

    def _announce(self, task: Task) -> None:
        """Its end may be told, once the caller has been answered."""
        self._loop.soon(task.is_announced.set)

    def _ended(self, container: Container, task: Task) -> None:
        process = task.process
        self._publish(
            "/tasks/exit",
            {
                "container_id": container.id,
                "id": task.id,
                "pid": process.pid,
                "exit_status": process.status,
                "exited_at": timestamp(process.exited_at_ns),
            },
        )
        if task is container.init:
            self._prepare(container, "delete")

    async def delete(self, request: Values) -> Values:
        """Forget a process that has ended, or never began; init with its container."""
        # containerd has it deleted that no longer waits for its creation, because its own client is gone
        if request["id"] in self._creations:
            await self._creations[request["id"]]
        container, task = self._find(request)
        process = task.process
        async with task.turn:
            if task is container.init:
                await container.delete()
                self._forget(container.id)
            else:
                await container.delete_exec(task)
        exited_at = timestamp(process.exited_at_ns) if process.exited_at_ns else None
        values = {"pid": process.pid, "exit_status": process.status, "exited_at": exited_at}
        if task is container.init:
            self._publish("/tasks/delete", {"container_id": container.id, **values})
        # who still waits for one that was created only
        process.ended.set()
        return values

    def _forget(self, id_: str) -> None:
        self.containers.pop(id_, None)
        if not self.containers and self.emptied is not None:
            self.emptied()

    async def wait(self, request: Values) -> Values:
        """Answer when it has ended."""
        _, task = self._find(request)
        await task.process.ended
        at_ns = task.process.exited_at_ns
        return {"exit_status": task.process.status, "exited_at": timestamp(at_ns) if at_ns else None}

    async def exec(self, request: Values) -> Values:
        """Announce a process; Start starts it."""
        container, _ = self._find({"id": request["id"]})
        if request["exec_id"] in container.execs or request["exec_id"] == container.id:
            raise Fault(ALREADY_EXISTS, f"id {request['exec_id']}")
        container.add(request)
        self._prepare(container, "exec")
        self._publish("/tasks/exec-added", {"container_id": container.id, "exec_id": request["exec_id"]})
        return {}

    # -- while it runs -------------------------------------------------------------------------------------------------

    async def kill(self, request: Values) -> Values:
        """Signal a process, or all of a container; it does not wait for its turn, since others may hang."""
        container, task = self._find(request)
        await container.kill(task, request["signal"], request["all"])
        return {}

    async def pause(self, request: Values) -> Values:
        """Freeze a container."""
        container, init = self._find(request)
        async with init.turn:
            await container.pause()
        self._publish("/tasks/paused", {"container_id": container.id})
        return {}

    async def resume(self, request: Values) -> Values:
        """Thaw it."""
        container, init = self._find(request)
        async with init.turn:
            await container.resume()
        self._publish("/tasks/resumed", {"container_id": container.id})
        return {}

    async def update(self, request: Values) -> Values:
        """Change a container's limits: linux.resources of the specification, as JSON."""
        container, init = self._find(request)
        if request["resources"] is None:
            raise Fault(INVALID_ARGUMENT, "update: no resources given")
        async with init.turn:
            await container.update(request["resources"]["value"])
        return {}

    async def checkpoint(self, request: Values) -> Values:
        """Write a container to files."""
        container, init = self._find(request)
        options = blank(messages.CHECKPOINT_OPTIONS)
        if request["options"] is not None and request["options"]["value"]:
            kind = request["options"]["type_url"].rpartition("/")[2]
            table = messages.CHECKPOINT_OPTIONS_BY_TYPE.get(kind)
            if table is None:
                raise Fault(INVALID_ARGUMENT, f'unsupported option type "{kind}"')
            try:
                options.update(decode(table, request["options"]["value"]))
            except DecodeError as error:
                raise Fault(INVALID_ARGUMENT, f"checkpoint options: {error}") from None
        async with init.turn:
            await container.checkpoint(request["path"], options)
        self._publish("/tasks/checkpointed", {"container_id": container.id, "checkpoint": request["path"]})
        return {}

    async def resize(self, request: Values) -> Values:
        """Give a terminal its size."""
        container, task = self._find(request)
        if task is not container.init:
            task.check("resize")
        task.streams.resize(request["width"], request["height"])
        return {}

    async def close_io(self, request: Values) -> Values:
        """The client has written all of the input."""
        _, task = self._find(request)
        if request["stdin"]:
            task.streams.close_input()
        return {}

    # -- looking -------------------------------------------------------------------------------------------------------

    async def state(self, request: Values) -> Values:
        """What is known of a process."""
        container, task = self._find(request)
        process = task.process
        word = process.state
        # the processes of a paused container are paused, whatever each of them was doing
        if container.is_pausing:
            word = "pausing"
        elif container.init.process.state == "paused" and word == "running":
            word = "paused"
        return {
            "id": task.id,
            "bundle": container.bundle,
            "pid": process.pid,
            "status": messages.STATUSES.get(word, 0),
            "stdin": task.streams.stdin,
            "stdout": task.streams.stdout,
            "stderr": task.streams.stderr,
            "terminal": task.streams.terminal,
            "exit_status": process.status,
            "exited_at": timestamp(process.exited_at_ns) if process.exited_at_ns else None,
            "exec_id": request["exec_id"],
        }

    async def pids(self, request: Values) -> Values:
        """All processes of a container, those of Exec with their id."""
        container, _ = self._find(request)
        ids = {task.process.pid: task.id for task in container.execs.values() if task.process.pid}
        found = []
        for pid in await container.pids():
            info: Values = {"pid": pid}
            if pid in ids:
                details = encode(messages.PROCESS_DETAILS, {"exec_id": ids[pid]})
                info["info"] = {"type_url": "containerd.runc.v1.ProcessDetails", "value": details}
            found.append(info)
        return {"processes": found}

    async def stats(self, request: Values) -> Values:
        """What a container has used, by its cgroup."""
        from shim.containerd.stats import metrics

        container, _ = self._find(request)
        try:
            return {"stats": metrics(container.cgroups)}
        except LookupError as error:
            raise Fault(NOT_FOUND, str(error.args[0])) from None
        except ValueError as error:
            raise Fault(UNKNOWN, f"statistics of {container.id}: {error}") from None

    async def connect(self, request: Values) -> Values:
        """Who we are, asked by a containerd that was restarted too."""
        container = self.containers.get(request["id"])
        return {"shim_pid": os.getpid(), "task_pid": container.init.process.pid if container else 0}

    async def shutdown(self, request: Values) -> Values:
        """End, unless there are containers left."""
        for made in list(self._creations.values()):
            await made
        if not self.containers:
            if self.leaving is not None:
                self.leaving()
            # after the answer
            self._loop.soon(self._stop)
        return {}
