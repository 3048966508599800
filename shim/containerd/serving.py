"""The server: a process of its own that serves the task service until it is shut down, and forks others like it when asked.

    begin()   the child of `start`: a session of its own, nothing of its caller's but the listening socket
    run()     the loop; a birth (nursery.py) is a fork in which everything of the parent is given up before anything is begun

It holds nothing of containerd's but the connections that containerd makes. Its log is the fifo that containerd reads; a failure of
one call is a line there, and never the end of the others.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from _signal import SIG_SETMASK, pthread_sigmask
from _socket import SOCK_SEQPACKET, socket
from posix import environ

from shim.containerd import nursery
from shim.containerd.bootstrap import Start
from shim.containerd.nursery import Birth, Nursery
from shim.containerd.publish import Publisher
from shim.containerd.sockets import remove_abandoned, remove_if_dead
from shim.containerd.task import METHODS, SERVICES, TaskService
from shim.containerd.ttrpc import Server
from shim.descriptors import close_from
from shim.engine import replace_environment
from shim.loop import Loop
from shim.reaper import Reaper
from shim.spare import Spare, Spares, fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from shim.loop import Timer

SIGINT, SIGUSR1, SIGTERM = 2, 10, 15
#: how long events may keep a shim that was shut down
_LAST_EVENTS_S = 2.0
#: so many are no accident any more: a shim that turns in a circle helps nobody
_DEFECTS = 1000
#: after so many a shim forks no more: `start` makes the next one anew
_GENERATIONS = 16
#: how often a shim asks whether it is still needed, while nobody is connected or it has no container; and how soon after the
#: last connection's end, from where on ever more rarely: containerd removes the bundle of what it gives up right then, or never
_ALONE_S, _SOON_S = 10.0, 0.1
#: so long it may have none
_EMPTY_S = 30.0
_LEVELS = ("debug", "info", "warning", "error")


#: first and last address of our words, and our program
_title = (0, 0, "")
#: the open file of our own modules (runtime/packed.py)
_modules = -1


def begin(start: Start, listener: socket, spare: Spare | None) -> NoReturn:
    """Be the server, in a new process that leads its session."""
    status = 1
    try:
        if "NOTIFY_SOCKET" in os.environ:
            replace_environment({name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"})
        if "SCHED_CORE" in os.environ:
            from runtime.kernel import own_core_cookie

            own_core_cookie()
        _look_around()
        _open_standard()
        _close_others([listener.fileno(), *([spare.fileno()] if spare is not None else [])])
        _retitle(start)
        gc.freeze()
        gc.enable()
        run(start, listener, nursery.open_nursery(start.nursery), spare)
        status = 0
    except Exception as error:
        log("error", f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def run(start: Start, listener: socket, nest: socket | None, spare: Spare | None) -> None:
    """Serve until shut down. In a forked shim this is gone through again, as that one."""
    # What a parent had in hand is kept, untouched: looking for garbage in it, or freeing it, would copy its memory, and give
    # back descriptors whose numbers are somebody else's by then. That it adds up is why generations are counted.
    parents: list[Shim] = []
    while True:
        shim = Shim(start, listener, nest, spare)
        birth = shim.serve()
        if birth is None:
            return
        parents.append(shim)
        assert nest is not None
        start, listener = _be_born(birth, nest)
        spare = _spare()
        if len(parents) == _GENERATIONS:
            nest.close()
            nest = None


class Shim:
    """Everything of one shim; nothing of it is kept anywhere else, so that a fork can give it up."""

    __slots__ = (
        "defects",
        "empty_since",
        "has_left",
        "is_over",
        "listener",
        "loop",
        "looking",
        "nursery",
        "pause",
        "publisher",
        "reaper",
        "server",
        "spares",
        "start",
        "tasks",
    )

    def __init__(self, start: Start, listener: socket, nest: socket | None, spare: Spare | None) -> None:
        self.start = start
        self.loop = Loop()
        self.reaper = Reaper(self.loop)
        self.spares = Spares(self.loop, self.reaper)
        if spare is not None:
            self.spares.adopt(spare)
        self.publisher = Publisher(
            self.loop,
            self.reaper,
            start.namespace,
            ttrpc_address=start.ttrpc_address,
            address=start.address,
            binary=start.publish_binary,
            log=log,
        )
        self.tasks = TaskService(
            self.loop, self.reaper, start.namespace, self.publisher, log, self.shut_down, self.spares
        )
        self.server = Server(self.loop, listener, SERVICES, METHODS, self.tasks, _defect)
        self.listener = listener
        self.nursery = Nursery(self.loop, nest) if nest is not None else None
        self.is_over = self.has_left = False
        self.defects = 0
        self.loop.on_signal(SIGTERM, self.shut_down)
        self.loop.on_signal(SIGINT, self.shut_down)
        self.loop.on_signal(SIGUSR1, self.describe)
        self.server.deserted = self._be_deserted
        self.server.unheard = self.tasks.unheard
        self.tasks.emptied = self._be_empty
        self.tasks.leaving = self.leave
        self.looking: Timer | None = None
        self.pause = self.empty_since = 0.0
        self._be_empty()

    def serve(self) -> Birth | None:
        """Serve; None at the end, and in a new shim what it is to be."""
        while True:
            self._run()
            if self.nursery is not None and self.nursery.births:
                birth = self.nursery.deliver()
                if birth is not None:
                    return birth
            if self.is_over:
                self._end()
                return None

    def _run(self) -> None:
        """Until the loop is stopped. A defect of ours in what one container needs must not end the others."""
        while True:
            try:
                self.loop.run()
                return
            except Exception as error:
                _defect("loop", error)
                self.defects += 1
                if self.defects > _DEFECTS:
                    raise

    def shut_down(self) -> None:
        """End when containerd has all events, or soon after."""
        self.publisher.when_idle(self._stop, _LAST_EVENTS_S)

    def _stop(self) -> None:
        self.is_over = True
        self.loop.stop()

    def leave(self) -> None:
        """Remove what others would find us by. Once; and before anybody hears that we end.

        containerd runs our program for `delete` as soon as it has the answer to its Shutdown, or the end of its connection, and
        has its client wait for that: it is over at once where nothing is left (front.c).
        """
        if self.has_left or (self.nursery is not None and self.nursery.births):
            return
        self.has_left = True
        try:
            # before we stop listening: who finds the file gone makes a new one
            os.unlink(self.start.socket)
        except OSError:
            pass
        if self.nursery is not None:
            self.nursery.close()
            # before we look whether the others have closed it too: a spare of ours is none of them
            self.spares.end()
            if remove_if_dead(self.start.nursery, SOCK_SEQPACKET):
                remove_abandoned(os.path.dirname(self.start.socket))

    def _end(self) -> None:
        self.leave()
        self.server.close()

    def _be_empty(self) -> None:
        self.empty_since = time.monotonic()
        self._watch(_ALONE_S)

    def _be_deserted(self) -> None:
        self._watch(_SOON_S)

    def _watch(self, pause: float) -> None:
        if self.looking is not None:
            self.looking.cancel()
        self.pause = pause
        self.looking = self.loop.later(pause, self._look)

    def _look(self) -> None:
        """End where nobody will have us end: containerd has given up a call, because its own client is gone, and forgotten us.

        It finds a shim again by the file "address" in its bundles, and it removes the bundle of what it gives up. It creates a
        container right after it has found a shim, and ends a shim right after the last container is deleted.
        """
        self.looking = None
        containers = self.tasks.containers
        if self.server.connections and containers:
            return
        bundles = [found.bundle if found else "." for found in containers.values()]
        # not the directory itself: where it is the working directory it stays, with nothing in it
        is_known = any(os.path.exists(f"{bundle}/config.json") for bundle in (".", *bundles))
        has_time = bool(containers) or time.monotonic() - self.empty_since < _EMPTY_S
        if (self.server.connections or is_known) and has_time:
            self._watch(min(2 * self.pause, _ALONE_S))
            return
        log(
            "warning",
            "no container, and no request for one" if is_known else "the bundle is gone, and nobody is connected",
        )
        self.shut_down()

    def describe(self) -> None:
        """What we are doing, in the log; containerd's shim answers SIGUSR1 with its stacks."""
        states = [
            f"{id_}={found.init.process.state}/{found.init.process.pid}+{len(found.execs)}"
            if found
            else f"{id_}=creating"
            for id_, found in self.tasks.containers.items()
        ]
        log("info", f"containers: {' '.join(states) or 'none'}; connections: {len(self.server.connections)}")


def _defect(method: str, error: Exception) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" [{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}]" if trace is not None else ""
    log("error", f"{method}: {type(error).__name__}: {error}{place}")


# -- a process of its own ----------------------------------------------------------------------------------------------


def _be_born(birth: Birth, nest: socket) -> tuple[Start, socket]:
    """After the fork: everything of the parent's goes, everything of the request's comes. Ends where `start` has given up."""
    listener = socket(fileno=birth.listener)
    _close_others([nest.fileno(), birth.connection, birth.directory, birth.listener])
    os.setsid()
    os.fchdir(birth.directory)
    os.close(birth.directory)
    birth.environment.pop(b"NOTIFY_SOCKET", None)
    if birth.environment != environ:
        replace_environment({os.fsdecode(name): os.fsdecode(value) for name, value in birth.environment.items()})
    start = Start(*birth.words)
    _open_standard()
    _retitle(start)
    nursery.wait_or_end(start.socket, socket(fileno=birth.connection))
    pthread_sigmask(SIG_SETMASK, ())
    return start, listener


def _spare() -> Spare | None:
    try:
        return fork("create")
    except OSError:
        return None  # the create will say so, if it still is so then


def _open_standard() -> None:
    """/dev/null as 0 and 1, and containerd's log as 2: its fifo is in the bundle, where we are."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    try:
        # For reading too: it opens whoever else has it open, and stays whole while containerd is away. Not waiting: a log that
        # nobody reads must not stop a container.
        fifo = os.open("log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    os.dup2(fifo, 2)
    os.close(fifo)


def _close_others(kept: list[int]) -> None:
    """Close every descriptor but 0, 1, 2, these, and the open file of our own modules."""
    kept.append(_modules)
    kept.sort()
    low = 3
    for fd in kept:
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    close_from(low)


def _look_around() -> None:
    """What every shim of the family needs to know, found once: a fork of us has it."""
    global _modules, _title
    for finder in sys.meta_path:
        if hasattr(finder, "table") and hasattr(finder, "fd"):
            _modules = finder.fd
    with open("/proc/self/stat", "rb") as file:
        # proc(5): arg_start and arg_end are the fields 48 and 49; what is before the last parenthesis may hold spaces
        fields = file.read().rpartition(b") ")[2].split()
    _title = int(fields[45]), int(fields[46]), os.path.abspath(sys.argv[0])


def _retitle(start: Start) -> None:
    """Have `ps` show the words of containerd's shim and not those of whoever forked us, as far as there is room for them."""
    first, last, program = _title
    if not 0 < first < last:
        return
    text = f"{program}\0-namespace\0{start.namespace}\0-id\0{start.id}\0-address\0{start.address}"
    title = text.encode("utf-8", "surrogateescape")
    try:
        memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # a name, and no more
    try:
        os.pwrite(memory, title[: last - first - 1].ljust(last - first, b"\0"), first)
    except OSError:
        pass
    finally:
        os.close(memory)


def log(level: str, text: str) -> None:
    """A line in the form of containerd's own log, which reads it."""
    if level not in _LEVELS[1:]:
        return
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        os.write(2, f'time="{now}" level={level} msg="{quoted}"\n'.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody reads it, and it is full
