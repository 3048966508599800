"""`pyrunc-shim run`: one container, watched in the foreground without any engine, from create to delete.

    create --> pid file, {"pid": N} --> start --> wait, signals passed on --> exit file, {"exit_status": N} --> delete

The container has our own descriptors unless it is told otherwise: what it prints is not touched, and the end of our input is
the end of its own. With --log its output passes through us, so that a full disk costs output and not the container. Nothing
is started anew, nothing is left behind; killed by SIGKILL, we leave a container that `pyrunc delete --force` removes.
"""

from __future__ import annotations

import os
import sys
from _signal import pidfd_send_signal

from shim import words
from shim.engine import Engine
from shim.exit_files import write_file
from shim.logs import STDERR, STDOUT, BadLog, Driver, K8sFile, RawFile
from shim.loop import Loop
from shim.output import Early, Output
from shim.reaper import Reaper
from shim.words import FLAG, LIST, NUMBER, TEXT, BadOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.console import ConsoleSocket
    from shim.engine import Answer
    from shim.logs import Data
    from shim.scratch import Scratch
    from shim.words import Entry, Options

FAILED, USAGE = 1, 2
SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGCONT, SIGWINCH = 1, 2, 3, 10, 12, 15, 18, 28
#: what is passed on; the first four end a run that has not begun yet
_ENDING = (SIGHUP, SIGINT, SIGQUIT, SIGTERM)
_SIGNALS = (*_ENDING, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH)

TABLE: tuple[Entry, ...] = (
    ("bundle", "b", TEXT, "directory with config.json (.)"),
    ("log", "", TEXT, "append the container's output to this file"),
    ("log-format", "", TEXT, "raw (as it comes), or k8s: a line with time and stream for each line (raw)"),
    ("log-size-max", "", NUMBER, "with k8s: begin the file anew when it would grow longer"),
    ("log-max-files", "", NUMBER, "with k8s: keep so many old ones, as FILE.1 and so on"),
    ("pid-file", "", TEXT, "write the pid of the container's init to this file"),
    ("exit-file", "", TEXT, "write the exit status to this file when the container has ended"),
    ("status-fd", "", NUMBER, 'write {"pid": N}, then {"exit_status": N}, as lines to this descriptor'),
    ("stdin-fifo", "", TEXT, "make this fifo; what is written to it is the container's input"),
    ("preserve-fds", "", NUMBER, "give the container our descriptors 3 to 3 + N - 1"),
    ("no-pivot", "", FLAG, "passed on to the runtime"),
    ("no-new-keyring", "", FLAG, "passed on to the runtime"),
    ("runtime", "", TEXT, "another runtime, by path"),
    ("root", "", TEXT, "the runtime's state directory"),
    ("systemd-cgroup", "", FLAG, "passed on to the runtime"),
    ("rootless", "", TEXT, "passed on to the runtime"),
    ("debug", "", FLAG, "passed on to the runtime"),
    ("runtime-arg", "", LIST, "one more word for the runtime, before the command"),
    ("help", "h", FLAG, "print this"),
)

_USAGE = """\
usage: pyrunc-shim run [OPTION ...] ID

Run the container of a bundle in the foreground, without an engine: create it, start it, wait for it,
delete it. Signals are passed on to it. Where no file is named it has our own input and output.

"""
_AFTER = """
exit status: the container's, 128 + N if signal N ended it; 1 if it could not be run, 2 for a mistake in the words

  mkfifo status; pyrunc-shim run --log web.log --status-fd 3 --bundle web web1 3>status &
  pyrunc-shim run --exit-file job.status --pid-file job.pid --bundle job job1 </dev/null
"""


def main(argv: list[str]) -> int:
    """The exit status."""
    if len(argv) < 2 or argv[1] != "run":
        if argv[1:2] in (["--help"], ["-h"], ["help"]):
            os.write(1, (_USAGE + words.help_lines(TABLE) + _AFTER).encode())
            return 0
        _say(
            f'"{argv[1]}" is no command of mine: run is, and --help'
            if len(argv) > 1
            else "no command: run is one, and --help"
        )
        return USAGE
    try:
        options = words.read(argv[2:], TABLE, status_fd=-1, bundle=".", log_format="raw")
        if options.help:
            os.write(1, (_USAGE + words.help_lines(TABLE) + _AFTER).encode())
            return 0
        _check(options)
    except BadOptions as error:
        _say(str(error))
        return USAGE
    try:
        run = Run(options)
    except BadLog as error:
        _say(str(error))
        return FAILED
    return run.run()


def _check(options: Options) -> None:
    for wrong, why in (
        (not options.words, "no container id"),
        (len(options.words) > 1, f'one container id, and not also "{options.words[-1:]}"'),
        (options.log_format not in ("raw", "k8s"), f'--log-format "{options.log_format}": must be raw or k8s'),
        (
            options.log_format == "raw" and (options.log_size_max or options.log_max_files),
            "--log-size-max: only with k8s",
        ),
        (options.preserve_fds < 0, "--preserve-fds: less than 0"),
        (3 <= options.status_fd < 3 + options.preserve_fds, "--status-fd: one of those of --preserve-fds"),
    ):
        if wrong:
            raise BadOptions(why)
    if options.status_fd >= 0:
        try:
            os.set_inheritable(options.status_fd, False)
        except OSError:
            raise BadOptions(f"--status-fd {options.status_fd}: not open") from None


class Run:
    """One run of one container."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.id = options.words[0]
        self.drivers = _drivers(options)
        self.has_log = bool(options.log)
        self.loop = Loop()
        self.output = Output(self.loop, self.drivers)
        self.reaper = Reaper(self.loop)
        self.engine = Engine(self.loop, self.reaper, options.runtime, _global_words(options))
        self.early: Early | None = None
        self.console: ConsoleSocket | None = None
        self.place: Scratch | None = None
        self.told_fd = -1
        self.pid = 0
        self.pid_fd = -1
        self.is_started = False
        #: signals that came before there was anything to pass them on to
        self.early_signals: list[int] = []
        self.status = FAILED

    def run(self) -> int:
        """The exit status of the whole."""
        for number in _SIGNALS:
            self.loop.on_signal(number, self._forwarder(number))
        try:
            self._create()
        except OSError as error:
            self._fail(f"{error.filename or self.options.bundle}: {_words(error)}")
        self.loop.run()
        return self.status

    # -- create --------------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        options = self.options
        stdin, stdout, stderr = 0, 1, 2
        theirs: list[int] = []
        line = ["create", "--bundle", options.bundle, "--pid-file", self._pid_file()]
        if _has_terminal(options.bundle):
            from shim.console import ConsoleSocket

            self.console = ConsoleSocket(self.loop, self._got_terminal)
            line += ["--console-socket", self.console.path]
        elif options.stdin_fifo:
            stdin = self._open_fifo(options.stdin_fifo)
            theirs.append(stdin)
        if self.console is None and self.has_log:
            out_fd, stdout = os.pipe2(os.O_CLOEXEC)
            error_fd, stderr = os.pipe2(os.O_CLOEXEC)
            theirs += [stdout, stderr]
            self.output.add_pipe(STDOUT, out_fd)
            self.early = Early(self.loop, error_fd, lambda data: self.output.feed(STDERR, data))
        line += ["--no-pivot"] if options.no_pivot else []
        line += ["--no-new-keyring"] if options.no_new_keyring else []
        line += ["--preserve-fds", str(options.preserve_fds)] if options.preserve_fds else []
        passed = range(3, 3 + options.preserve_fds)
        self.engine.call([*line, self.id], self._created, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=passed)
        for fd in theirs:
            os.close(fd)

    def _pid_file(self) -> str:
        if self.options.pid_file:
            return str(self.options.pid_file)
        if not self.engine.runtime:
            # nothing is left of it, however we end
            self.told_fd = os.memfd_create("pid")
            return f"/proc/{os.getpid()}/fd/{self.told_fd}"
        from shim.scratch import Scratch

        self.place = Scratch("shim")
        return self.place.path + "/pid"

    def _open_fifo(self, path: str) -> int:
        """The reading end for the container. We hold a writing one: writers come and go, and none of them ends its input."""
        try:
            os.mkfifo(path, 0o600)
        except FileExistsError:
            pass
        os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _got_terminal(self, master_fd: int) -> None:
        self.output.add_terminal(master_fd)
        if self.options.stdin_fifo:
            from shim.stdio import Copy

            source = self._open_fifo(self.options.stdin_fifo)
            Copy(self.loop, source, os.dup(master_fd), lambda count, errno: None, close_sink=True)

    def _created(self, answer: Answer) -> None:
        if self.early is not None:
            if self.early.over():
                self.output.add_pipe(STDERR, self.early.fd)
            if answer.status:
                os.write(2, self.early.text)
            else:
                self.early.release()
            self.early = None
        if answer.status:
            # it has said why, on our standard error
            self._told({"error": "create failed"})
            self._leave(answer.status)
            return
        if self.console is not None:
            has_terminal = self.console.collect()
            self.console.close()
            if not has_terminal:
                self._fail("the runtime has made no terminal")
                return
        try:
            told = self.options.pid_file or (self.place.path + "/pid" if self.place else self.told_fd)
            self.pid, self.pid_fd = self.reaper.left(told)
        except (OSError, OverflowError, ValueError) as error:
            self._fail(f"read the runtime's pid file: {error}")
            return
        self.reaper.expect(self.pid, self._ended)
        self._told({"pid": self.pid})
        ending = [number for number in self.early_signals if number in _ENDING]
        if ending:
            self.reaper.forget(self.pid)
            self._delete(128 + ending[0])
        else:
            self.engine.call(["start", self.id], self._start_ended, stderr=2)

    # -- run -----------------------------------------------------------------------------------------------------------

    def _start_ended(self, answer: Answer) -> None:
        if answer.status:
            self._told({"error": "start failed"})
            self.reaper.forget(self.pid)
            self._delete(answer.status)
            return
        self.is_started = True
        for number in self.early_signals:
            self._send(number)
        self._look()

    def _forwarder(self, number: int) -> Callable[[], None]:
        def forward() -> None:
            if self.is_started:
                self._send(number)
            else:
                self.early_signals.append(number)

        return forward

    def _send(self, number: int) -> None:
        if self.pid_fd >= 0:
            try:
                pidfd_send_signal(self.pid_fd, number)
            except ProcessLookupError:
                pass  # we shall hear of its end

    #: the container's end, which may be known before that of `start`
    end: int | None = None

    def _ended(self, status: int, at_ns: int) -> None:
        self.end = status
        self._look()

    def _look(self) -> None:
        if self.end is None or not self.is_started:
            return
        self.output.drain()
        for driver in self.drivers:
            driver.sync()
        if self.options.exit_file:
            try:
                write_file(self.options.exit_file, b"%d" % self.end)
            except OSError as error:
                _say(f"write exit file {self.options.exit_file}: {_words(error)}")
        self._told({"exit_status": self.end})
        self._delete(self.end)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _delete(self, status: int) -> None:
        def deleted(answer: Answer) -> None:
            self._leave(status)

        self.is_started = False
        self.engine.call(["delete", "--force", self.id], deleted, stderr=2)

    def _fail(self, why: str) -> None:
        _say(f"run {self.id}: {why}")
        self._told({"error": why})
        self._delete(FAILED)

    def _leave(self, status: int) -> None:
        self.status = status
        self.output.close()
        for driver in self.drivers:
            driver.close()
        if self.console is not None:
            self.console.close()
        if self.place:
            self.place.close()
        self.loop.stop()

    def _told(self, news: dict[str, object]) -> None:
        fd = self.options.status_fd
        if fd < 0:
            return
        from runtime.jsonio import dumps

        try:
            os.write(fd, dumps(news).encode() + b"\n")
        except OSError as error:
            _say(f"--status-fd {fd}: {_words(error)}")


class Standard(Driver):
    """A terminal's output goes to our own: it is one stream, and its other end is the runtime's to give, not ours."""

    def write(self, stream: int, data: Data) -> None:
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            pass  # nobody reads it any more; the container goes on


def _drivers(options: Options) -> list[Driver]:
    if not options.log:
        return [Standard()]
    if options.log_format == "raw":
        return [RawFile(options.log, (), _say)]
    return [K8sFile(options.log, _say, limit=options.log_size_max, keep=options.log_max_files)]


def _global_words(options: Options) -> list[str]:
    found = ["--root", options.root] if options.root else []
    found += ["--systemd-cgroup"] if options.systemd_cgroup else []
    found += ["--rootless", options.rootless] if options.rootless else []
    found += ["--debug"] if options.debug else []
    return [*found, *options.runtime_arg]


def _has_terminal(bundle: str) -> bool:
    """Whether config.json asks for one. What else is wrong with it, if anything, the runtime will say."""
    from runtime.errors import Error
    from runtime.jsonio import loads

    try:
        with open(bundle + "/config.json", "rb") as file:
            config = loads(file.read(), "config.json")
    except (OSError, Error):
        return False
    process = config.get("process") if isinstance(config, dict) else None
    return isinstance(process, dict) and process.get("terminal") is True


def _words(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _say(text: str) -> None:
    sys.stdout.flush()
    try:
        os.write(2, f"pyrunc-shim: {words.one_line(text)}\n".encode())
    except OSError:
        pass  # nobody to tell
