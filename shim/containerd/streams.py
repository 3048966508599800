"""The standard streams of a task's process, as a create or exec request names them, and the terminal where it has one.

    ""            nothing: /dev/null          fifo, fifo://    the client's, made by it
    file://       appended to                 binary://        a logger that is started, and reads the container's pipes

Without a terminal the process gets pipes of ours and its bytes are copied (stdio.py): a client that leaves, or reads slowly,
is our business and not the container's. With a terminal there is one stream, and standard error is not asked for.
"""

from __future__ import annotations

import os
import select
from errno import ENXIO, ETIMEDOUT

from shim import stdio, targets
from shim.console import ConsoleSocket, resize
from shim.flow import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from shim.loop import Loop
    from shim.reaper import Reaper

#: how long a logger may take to say that it is ready, to end by itself at the end of its input, and after SIGTERM
_READY_S, _LAST_WORDS_S, _LOGGER_S = 10.0, 2.0, 12.0
#: how long a client may take nothing of what a process that is over has written (ctr stops reading when it is told of the end)
_READER_S = 2.0
#: how long a client's fifos may take to be opened by it, and how soon, and then how rarely, it is looked whether they are; containerd
#: gives what cleans up after a client that has been killed five seconds
_COMES_S, _FIRST_LOOK_S, _LAST_LOOK_S = 4.0, 0.001, 0.1
SIGTERM, SIGKILL = 15, 9


class Streams:
    """Opened by open(), given to the runtime as 0, 1, 2 (or as a console socket), connected by connect() when it has run."""

    __slots__ = (
        "_drained",
        "_holder",
        "_input",
        "_is_draining",
        "_log",
        "_logger",
        "_logger_ended",
        "_loop",
        "_master",
        "_outputs",
        "_owner",
        "_partings",
        "_pipes",
        "_reaper",
        "_sinks",
        "_socket",
        "_source",
        "stderr",
        "stdin",
        "stdout",
        "terminal",
    )

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        request: dict[str, Any],
        owner: tuple[int, int],
        log: Callable[[str, str], None],
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._owner = owner
        self._log = log
        self.stdin: str = request["stdin"]
        self.stdout: str = request["stdout"]
        self.stderr: str = request["stderr"]
        self.terminal: bool = request["terminal"]
        self._pipes: stdio.Pipes | None = None
        self._socket: ConsoleSocket | None = None
        self._master = -1
        #: the client's ends: (scheme, our writer, the reader that keeps it open), for 1 and 2
        self._sinks: list[tuple[int, int]] = [(-1, -1), (-1, -1)]
        self._source = -1
        #: our writer on the fifo for input, until CloseIO
        self._holder = -1
        #: with what it leaves open: of a client's fifo our writer, and the reader beside it; of a file what is copied to it
        self._outputs: dict[stdio.Copy, tuple[int, ...]] = {}
        #: fifos that nobody has come to read yet
        self._partings: list[targets.Parting] = []
        self._is_draining = False
        self._input: stdio.Copy | None = None
        self._logger = 0
        self._logger_ended: Later | None = None
        self._drained = Later()

    # -- before the runtime runs ---------------------------------------------------------------------------------------

    async def open(self, id_: str, namespace: str) -> None:
        """Open what the client has made, and make what the process gets."""
        try:
            if self.stdin:
                # first: a client that opens one fifo after the other may be waiting for this one
                scheme, path, _ = targets.parse_target(self.stdin)
                if scheme != "fifo":
                    raise ValueError(f'standard input can come from a fifo only, not from "{self.stdin}"')
                self._source = targets.open_fifo_for_reading(path)
            if self.terminal:
                self._socket = ConsoleSocket(self._loop, self._received)
                await self._open_sinks(id_, namespace, (self.stdout,))
            else:
                self._pipes = stdio.Pipes(
                    *self._owner,
                    has_stdin=bool(self.stdin),
                    has_stdout=bool(self.stdout),
                    has_stderr=bool(self.stderr),
                )
                await self._open_sinks(id_, namespace, (self.stdout, self.stderr))
        except BaseException:
            self.close()
            raise

    async def _open_sinks(self, id_: str, namespace: str, wanted: tuple[str, ...]) -> None:
        scheme, path, words = targets.parse_target(wanted[0])
        if scheme in ("binary", "binary-v2"):
            await self._start_logger([path, *words], id_, namespace, must_speak=scheme == "binary-v2")
            return
        fifos: dict[int, str] = {}
        for index, target in enumerate(wanted):
            scheme, path, _ = targets.parse_target(target)
            if scheme == "fifo":
                fifos[index] = path
            elif scheme == "file":
                self._sinks[index] = targets.open_file_for_appending(path), -1
            elif scheme:
                raise ValueError(f'output can go to a fifo, file:// or binary://, not to "{target}"')

        await self._open_fifos(fifos)

    async def _open_fifos(self, paths: dict[int, str]) -> None:
        """Open each when its client has, and what nobody comes to read all the same.

        A client's thread may be late, and the process over by then: containerd's client gives up a fifo that it is still opening
        when it is told of the end, and what was written is lost. Its own shim waits, too, and without any limit.
        """
        look_s, waited_s = _FIRST_LOOK_S, 0.0
        while True:
            for index, path in list(paths.items()):
                found = targets.open_read_fifo(path)
                if found is None and waited_s >= _COMES_S:
                    found = targets.open_fifo_for_writing(path)
                if found is not None:
                    self._sinks[index] = found
                    del paths[index]
            if not paths:
                return
            # what is waited for is added up, not read from a clock: on a machine that stood still it is one look
            rested = Later()
            self._loop.later(look_s, rested.set)
            await rested
            waited_s += look_s
            look_s = min(2 * look_s, _LAST_LOOK_S)

    async def _start_logger(self, argv: list[str], id_: str, namespace: str, *, must_speak: bool) -> None:
        """Start the program and wait until it is ready: it reads what is 3 and 4 there, and then writes to 5 or closes it."""
        from shim.engine import spawn

        # one that could not be started would close its end of the ready pipe too
        if not os.access(argv[0], os.X_OK):
            raise ValueError(f'logger "{argv[0]}": not there, or not executable')
        mine = self._pipes
        pipes = mine if mine is not None else stdio.Pipes(has_stdin=False, has_stderr=False)
        ready, their_ready = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            outputs = [fd if fd >= 0 else null for fd in (pipes.from_stdout, pipes.from_stderr)]
            for fd in outputs:
                # ours never wait; a logger has not asked for that
                os.set_blocking(fd, True)
            env = {"CONTAINER_ID": id_, "CONTAINER_NAMESPACE": namespace}
            fds = (*outputs, their_ready)
            # it does not end with us: what the container still writes is as good as what it wrote before
            self._logger = spawn(argv, stdin=null, stdout=null, stderr=2, env=env, pass_fds=fds, dies_with_us=False)
            self._logger_ended = Later()
            self._reaper.expect(self._logger, lambda status, at_ns: self._logger_is_gone())
            for name in ("from_stdout", "from_stderr"):
                if getattr(pipes, name) >= 0:
                    os.close(getattr(pipes, name))
                    setattr(pipes, name, -1)
            if mine is None:
                # of a terminal the copy is ours, into the logger's pipe
                os.set_blocking(pipes.stdout, False)
                self._sinks[0], pipes.stdout = (pipes.stdout, -1), -1
            os.close(their_ready)
            their_ready = -1
            spoke = await self._wait_for_logger(ready)
        except BaseException:
            if mine is None:
                pipes.close()
            raise
        finally:
            for fd in (null, ready, their_ready):
                if fd >= 0:
                    os.close(fd)
        if spoke is None or (must_speak and not spoke):
            raise ValueError(f'logger "{argv[0]}" did not become ready')

    async def _wait_for_logger(self, ready: int) -> bytes | None:
        """What it wrote, b"" where it just closed it, None where it did neither in time."""
        heard = Later()
        timer = self._loop.later(_READY_S, lambda: heard.set(False))
        self._loop.watch(ready, select.EPOLLIN, lambda events: heard.set(True))
        is_ready = await heard
        timer.cancel()
        self._loop.forget(ready)
        return os.read(ready, 1) if is_ready else None

    def given(self) -> dict[str, int]:
        """The keywords of engine.call() that give the process its streams; /dev/null is what it does for what is missing."""
        if self._pipes is None:
            return {}
        named = (("stdin", self._pipes.stdin), ("stdout", self._pipes.stdout), ("stderr", self._pipes.stderr))
        return {name: fd for name, fd in named if fd >= 0}

    def words(self) -> list[str]:
        """The runtime's words for a terminal."""
        return ["--console-socket", self._socket.path] if self._socket is not None else []

    # -- when it has run -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """The process has its ends: begin to copy. ValueError where there should be a terminal and none came."""
        if self._socket is not None:
            has_come = self._socket.collect()
            self._socket.close()
            self._socket = None
            if not has_come:
                raise ValueError("the runtime did not hand over a terminal")
            ends = [self._master]
            to_stdin, is_shared = self._master, True
        else:
            assert self._pipes is not None
            self._pipes.close_theirs()
            ends = [self._pipes.from_stdout, self._pipes.from_stderr]
            to_stdin, is_shared = self._pipes.to_stdin, False
            self._pipes.from_stdout = self._pipes.from_stderr = self._pipes.to_stdin = -1
        for end, target, (sink, keeper) in zip(ends, (self.stdout, self.stderr), self._sinks, strict=False):
            if end >= 0 and keeper >= 0:
                self._copy_output(end, sink, keeper, close_source=not is_shared)
            elif end >= 0 and sink >= 0:
                self._copy_to_file(end, sink, target, close_source=not is_shared)
            elif end >= 0 and is_shared:
                self._copy_output(end, _nowhere(), -1, close_source=False)
        self._sinks = [(-1, -1), (-1, -1)]
        if self._source >= 0 and to_stdin >= 0:
            source, self._source = self._source, -1
            try:
                _, path, _ = targets.parse_target(self.stdin)
                self._holder = targets.hold_fifo(path)
            except OSError as error:
                if error.errno != ENXIO:
                    raise
            self._input = stdio.Copy(self._loop, source, to_stdin, self._input_done, close_sink=not is_shared)
        if not self._outputs:
            self._drained.set()

    def _received(self, master: int) -> None:
        self._master = master

    def _copy_output(self, source: int, sink: int, keeper: int, *, close_source: bool) -> None:
        def done(count: int, errno: int) -> None:
            del self._outputs[copy]
            if keeper >= 0:
                self._part(sink, keeper, is_lost=errno != 0)
            self._look_if_drained()

        copy = stdio.Copy(self._loop, source, sink, done, close_source=close_source, close_sink=keeper < 0)
        self._outputs[copy] = (sink, keeper) if keeper >= 0 else ()

    def _copy_to_file(self, source: int, sink: int, target: str, *, close_source: bool) -> None:
        """As far as there is room for it: what does not fit is lost, and who writes it neither waits nor is ended for it."""

        def done(count: int, errno: int) -> None:
            del self._outputs[copy]
            if errno and errno != ETIMEDOUT:
                self._log("error", f"write {target}: {os.strerror(errno).lower()}, output after {count} bytes is lost")
            if errno and not self._is_draining:
                self._copy_output(source, _nowhere(), -1, close_source=close_source)
            elif close_source:
                os.close(source)
            self._look_if_drained()

        copy = stdio.Copy(self._loop, source, sink, done, close_source=False, close_sink=True)
        self._outputs[copy] = (source,) if close_source else ()

    def _part(self, sink: int, keeper: int, *, is_lost: bool) -> None:
        """Close a fifo when its client has come; where nobody takes anything (`is_lost`) that was waited for already."""
        parting = targets.Parting(self._loop, sink, keeper, self._look_if_drained)
        self._partings.append(parting)
        if is_lost:
            parting.close()
        elif self._is_draining:
            parting.limit(_READER_S)

    def _is_drained(self) -> bool:
        return not self._outputs and all(parting.is_over for parting in self._partings)

    def _look_if_drained(self) -> None:
        if self._is_drained():
            self._drained.set()

    def _input_done(self, count: int, errno: int) -> None:
        self._input = None
        self.close_input()

    def close_input(self) -> None:
        """No further client will write: the input ends when those that have it open have closed it."""
        if self._holder >= 0:
            os.close(self._holder)
            self._holder = -1

    def resize(self, width: int, height: int) -> None:
        """Give the terminal its size; nothing where there is none."""
        if self._master >= 0:
            resize(self._master, width, height)

    # -- the end -------------------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """The process is over: nobody reads its input any more."""
        if self._input is not None:
            self._input.close()
            self._input = None
        self.close_input()

    async def drain(self) -> None:
        """Have everything that the process wrote copied, and close. Who still holds its output is not waited for."""
        self.ended()
        self._is_draining = True
        for parting in self._partings:
            parting.limit(_READER_S)
        for copy in list(self._outputs):
            copy.drain_and_close(_READER_S)
        if not self._is_drained():
            await self._drained
        self._close_files()
        if self._logger_ended is not None and not self._logger_ended.is_set:
            # it has seen the end of its input, and may still be writing; after that it is told, and then made to end
            timers = [
                self._loop.later(_LAST_WORDS_S, lambda: self._signal_logger(SIGTERM)),
                self._loop.later(_LAST_WORDS_S + _LOGGER_S, lambda: self._signal_logger(SIGKILL)),
            ]
            await self._logger_ended
            for timer in timers:
                timer.cancel()

    def close(self) -> None:
        """Close what is open, whatever is still to be copied: the process has not come to be."""
        self.ended()
        for copy, fds in list(self._outputs.items()):
            copy.close()
            for fd in fds:
                os.close(fd)
        self._outputs.clear()
        for parting in self._partings:
            parting.close()
        self._close_files()
        self._signal_logger(SIGTERM)

    def _close_files(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pipes is not None:
            self._pipes.close()
        sinks, self._sinks = self._sinks, [(-1, -1), (-1, -1)]
        for fd in (*sinks[0], *sinks[1], self._master, self._source):
            if fd >= 0:
                os.close(fd)
        self._master = self._source = -1
        self._drained.set()

    def _signal_logger(self, number: int) -> None:
        if self._logger:
            # a child of ours that was not collected yet: its number is not free
            os.kill(self._logger, number)

    def _logger_is_gone(self) -> None:
        self._logger = 0
        if self._logger_ended is not None:
            self._logger_ended.set()


def _nowhere() -> int:
    return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
