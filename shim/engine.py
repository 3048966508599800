"""Calling the runtime: words in, exit status and output out. The only link to runtime/, and its contract is the command line.

    runtime ""      our own: a child is forked and enters runtime.__main__ with the words. No interpreter start, and what the
                    child imports is gone when it exits
    runtime "..."   another one: an ordinary exec, of a path or of a name that is looked up in PATH

The child of either kind has the caller's descriptors as 0, 1, 2, what is passed on as 3, 4, ... and no other; the signals of a
process that was just started; and it is killed when we end. What it prints where it was given no descriptor is caught in
memory files and not in pipes: a grandchild that keeps one open delays nothing, and one that fills it holds nothing up.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from _signal import (
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
    valid_signals,
)
from fcntl import F_ADD_SEALS, F_DUPFD_CLOEXEC, F_SEAL_GROW, fcntl

from runtime import kernel
from shim.descriptors import close_all, close_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shim.loop import Loop
    from shim.reaper import Reaper
    from shim.spare import Spares

    Done = Callable[["Answer"], None]

#: what an answer holds at most of standard output, which is a document, and of the end of standard error, where the error is
OUT_BYTES = 1 << 20
ERR_BYTES = 64 << 10
#: statuses of a program that could not be started, as a shell has them
NOT_EXECUTABLE, NOT_FOUND = 126, 127

SIGINT, SIGKILL, SIGPIPE, SIGXFSZ = 2, 9, 13, 25
_ALL = valid_signals()


class Answer:
    """How a call ended. A call that could not even be started has a status, and says why in `err`, like any other."""

    __slots__ = ("err", "out", "status")

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        #: as a shell counts it: 128 + N for signal N
        self.status = status
        #: what was written to standard output and error where the caller gave no descriptor for it
        self.out = out
        self.err = err


class Engine:
    """The runtime that containers are made with. `options` are words before the command: --root, --log, ..."""

    __slots__ = ("_loop", "_reaper", "_spares", "options", "runtime")

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        runtime: str = "",
        options: Sequence[str] = (),
        spares: Spares | None = None,
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._spares = spares
        self.runtime = runtime
        self.options = tuple(options)

    def prepare(self, command: str) -> None:
        """`command` is called soon: have a child ready that has loaded what it needs, if we have spares and it is our runtime."""
        if self._spares is not None and not self.runtime:
            self._spares.prepare(command)

    def call(
        self,
        words: Sequence[str],
        done: Done,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        input: bytes = b"",
    ) -> int:
        """Start the runtime with `words`; done(answer) is called from the loop when it has exited. The pid, or 0 without one.

        The descriptors stay the caller's. `input` is what it reads where no stdin is given; `env` replaces the environment.
        While it runs, and until done() has returned, the reaper remembers whose ends nobody expected: see reaper.hold().
        """
        caught: list[int] = []
        try:
            if stdin is None:
                stdin = _file_of(input)
                caught.append(stdin)
            out = stdout if stdout is not None else _catcher("stdout", caught)
            err = stderr if stderr is not None else _catcher("stderr", caught)
            how = (stdin, out, err), pass_fds, cwd, env
            pid = self._begin(words, *how, lambda status: ended(status, 0))
        except OSError as error:
            close_all(caught)
            text = f"start the runtime: {_words(error)}\n".encode()
            self._loop.soon(lambda: done(Answer(1, b"", text)))
            return 0
        has_out, has_err = stdout is None, stderr is None
        is_over = False
        self._reaper.hold()

        def ended(status: int, at_ns: int) -> None:
            nonlocal is_over
            if is_over:
                return  # a spare has said so, and then exited
            is_over = True
            try:
                texts = _caught(out, OUT_BYTES) if has_out else b"", _caught(err, ERR_BYTES) if has_err else b""
                answer = Answer(status, *texts)
            except OSError as error:
                # somebody waits for an answer, and what it said is not known
                answer = Answer(status or 1, b"", f"read what the runtime wrote: {_words(error)}\n".encode())
            close_all(caught)
            try:
                done(answer)
            finally:
                self._reaper.release()

        self._reaper.expect(pid, ended)
        return pid

    def _begin(
        self,
        words: Sequence[str],
        standard: tuple[int, int, int],
        pass_fds: Sequence[int],
        cwd: str | None,
        env: Mapping[str, str] | None,
        told: Callable[[int], None],
    ) -> int:
        argv = [*self.options, *words]
        if self.runtime:
            stdin, stdout, stderr = standard
            argv.insert(0, self.runtime)
            return spawn(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, pass_fds=pass_fds)
        pid = 0 if self._spares is None else self._spares.call(argv, words[0], standard, pass_fds, cwd, env, told)
        if not pid:
            pid = _fork(standard, pass_fds, cwd, env, lambda: _enter(argv))
        if words[0] == "create":
            self.prepare("start")
        return pid


def spawn(
    argv: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    dies_with_us: bool = True,
) -> int:
    """Start a program of the host, by path or by a name that is looked up in PATH; the pid of a child of ours.

    Where it cannot be executed, that is what it says on `stderr`, with status 126 or 127.
    """
    return _fork((stdin, stdout, stderr), pass_fds, cwd, env, lambda: _execute(argv), dies_with_us=dies_with_us)


# -- on the child's side -----------------------------------------------------------------------------------------------


def _fork(
    standard: tuple[int, int, int],
    pass_fds: Sequence[int],
    cwd: str | None,
    env: Mapping[str, str] | None,
    enter: Callable[[], int],
    *,
    dies_with_us: bool = True,
) -> int:
    """A child that is cut off from us and then runs enter(), of which the result is its exit status."""
    return fork_child(lambda: _become(standard, pass_fds, cwd, env, enter), dies_with_us=dies_with_us)


def fork_child(run: Callable[[], int], *, dies_with_us: bool = True) -> int:
    """A child with the dispositions of a process that was just started and all signals blocked; run() is its exit status."""
    parent = os.getpid()
    # A signal that comes between the fork and the reset would be written into the loop's pipe, which is ours too.
    before = pthread_sigmask(SIG_BLOCK, _ALL)
    try:
        pid = os.fork()
        if pid == 0:
            status = NOT_EXECUTABLE
            try:
                status = shed(parent if dies_with_us else 0) or run()
            except (OSError, ImportError, KeyboardInterrupt) as error:
                # a call that fails without a word cannot be told from a runtime that says nothing
                why = _words(error) if isinstance(error, OSError) else str(error) or "interrupted"
                _say(f"prepare a child: {why}")
            finally:
                # Whatever happened: a child must never return into the loop, a second shim on the same descriptors.
                os._exit(status & 0xFF)
    finally:
        try:
            pthread_sigmask(SIG_SETMASK, before)
        except OSError:  # with all of them blocked we would never hear of its end
            pthread_sigmask(SIG_SETMASK, before)
    return pid


def shed(parent: int) -> int:
    """In a child: give up what was its parent's, and end with it. Not 0 where that has ended already."""
    # Garbage of ours stays where it is: looking for it would write to (and so copy) every page of the shim.
    gc.disable()
    set_wakeup_fd(-1)
    for number in _ALL:
        try:
            if getsignal(number) is not SIG_DFL:
                signal(number, SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL and SIGSTOP
    # our own end must end it, as go-runc's callers have it: half a `create` without a shim is nobody's
    if parent:
        kernel.set_parent_death_signal(SIGKILL)
        if os.getppid() != parent:
            return 128 + SIGKILL  # we ended before the kernel knew
    return 0


def _become(
    standard: tuple[int, int, int],
    pass_fds: Sequence[int],
    cwd: str | None,
    env: Mapping[str, str] | None,
    enter: Callable[[], int],
    kept: list[int] | None = None,
) -> int:
    try:
        _arrange(standard, pass_fds, kept)
        pthread_sigmask(SIG_SETMASK, ())
        if cwd is not None:
            os.chdir(cwd)
        if env is not None:
            replace_environment(env)
    except OSError as error:
        _say(f"prepare a child: {_words(error)}")
        return 1
    return enter()


def be_call(
    standard: tuple[int, int, int],
    pass_fds: Sequence[int],
    cwd: str | None,
    env: Mapping[str, str] | None,
    argv: list[str],
    kept: list[int],
) -> int:
    """In a child that waited for it (spare.py): what a child of Engine.call() does. `kept`: descriptors, as in _arrange()."""
    return _become(standard, pass_fds, cwd, env, lambda: _enter(argv), kept)


def keep_only(fd: int) -> int:
    """All signals blocked, /dev/null as 0, 1, 2, and but for the open file of our own modules only `fd`, by the number returned."""
    pthread_sigmask(SIG_BLOCK, _ALL)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    kept = [fd]
    _arrange((null, null, null), (), kept)
    return kept[0]


def _arrange(standard: tuple[int, int, int], pass_fds: Sequence[int], kept: list[int] | None = None) -> None:
    """Put descriptors where the program expects them and close all others, but for the open file of our own modules, and what
    is in `kept`, which get other numbers; no program that is executed has these."""
    kept = [] if kept is None else kept
    wanted = (*standard, *pass_fds)
    first_free = len(wanted)
    packed = [finder for finder in sys.meta_path if hasattr(finder, "table") and hasattr(finder, "fd")]
    # first all out of the way: one may have the number that another is to get
    high = [fcntl(fd, F_DUPFD_CLOEXEC, 2 * first_free + 8) for fd in wanted]
    ours = [fcntl(fd, F_DUPFD_CLOEXEC, 2 * first_free + 8) for fd in (*kept, *(finder.fd for finder in packed))]
    for number, fd in enumerate(high):
        os.dup2(fd, number)
    for number, fd in enumerate(ours, first_free):
        os.dup2(fd, number, inheritable=False)
    for index in range(len(kept)):
        kept[index] = first_free + index
    for number, finder in enumerate(packed, first_free + len(kept)):
        finder.fd = number
    first_free += len(ours)
    close_from(first_free)


def replace_environment(env: Mapping[str, str]) -> None:
    """Make `env` what the C library, `os`, `posix` and the runtime's own copy hold: each has been filled by now."""
    import posix

    from runtime import system

    os.environ.clear()
    os.environ.update(env)
    for held in (posix.environ, system.environ):
        held.clear()
    posix.environ.update({os.fsencode(name): os.fsencode(value) for name, value in env.items()})
    system.environ.update(env)


def _enter(argv: list[str]) -> int:
    """Be the runtime: the same words in, the same exit status out, as from a command line."""
    # what the interpreter gives a program at its start
    signal(SIGPIPE, SIG_IGN)
    signal(SIGXFSZ, SIG_IGN)
    signal(SIGINT, default_int_handler)
    sys.argv = ["pyrunc", *argv]
    from runtime.__main__ import call

    return call(argv)


def _execute(argv: Sequence[str]) -> int:
    try:
        os.execvpe(argv[0], list(argv), os.environ)
    except OSError as error:
        is_missing = error.errno == errno.ENOENT
        if is_missing and "/" not in argv[0]:
            # Go's words, which engines search for
            _say(f'start "{argv[0]}": executable file not found in $PATH')
        else:
            error.filename = None  # the one name that is shown already
            _say(f'start "{argv[0]}": {_words(error)}')
        return NOT_FOUND if is_missing else NOT_EXECUTABLE


def _say(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "surrogateescape") + b"\n")
    except OSError:
        pass  # nobody to tell; the exit status says it too


# -- on our side -------------------------------------------------------------------------------------------------------


def _file_of(data: bytes) -> int:
    """Something to read `data` from and then its end, of any size, without anybody having to write meanwhile."""
    if not data:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def _catcher(name: str, caught: list[int]) -> int:
    """A file in memory that does not grow: what a grandchild writes on and on must not become ours to keep."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    caught.append(fd)
    os.ftruncate(fd, OUT_BYTES)
    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW)
    return fd


def _caught(fd: int, limit: int) -> bytes:
    """The last `limit` bytes that were written. Its place is shared with whoever wrote, and so says how far they came."""
    length = os.lseek(fd, 0, os.SEEK_CUR)
    start = max(0, length - limit)
    return os.pread(fd, length - start, start)


def _words(error: OSError) -> str:
    """The kernel's words as engines search for them: without a capital (runtime/errors.py)."""
    text = error.strerror or str(error)
    text = text[:1].lower() + text[1:]
    return f"{text}: {error.filename}" if error.filename else text
