"""One container, or one exec session, from the runtime's call to the exit command. Everything happens in the loop.

    starting --> waiting   until the caller has attached (--exec-attach)
             --> calling   the runtime: create, restore or exec
             --> running   the process is ours: the kernel gave it to us, its subreaper, when the runtime ended
             --> ended     output drained, logs synced, exit files written, caller told
             --> leaving   --exit-delay, the exit command; clients that have yet to read

The order at the end is the contract: whoever sees an exit file finds the log complete, and the ports that Podman reserves for
the container free; whoever is told by the exit command finds the exit files.
"""

from __future__ import annotations

import gc
import os
from _signal import pidfd_send_signal
from select import EPOLLIN

from shim.conmon import exit_command, runtime_call, set_oom_score
from shim.conmon.attach import Attach
from shim.conmon.control import Control
from shim.engine import Engine
from shim.exit_files import write_file
from shim.logs import STDERR, STDOUT
from shim.loop import Loop
from shim.output import Early, Output
from shim.reaper import Reaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shim.conmon.caller import Caller
    from shim.conmon.messages import Messages
    from shim.conmon.notify import Notify
    from shim.console import ConsoleSocket
    from shim.engine import Answer
    from shim.logs import Driver
    from shim.oom import OomWatch
    from shim.words import Options

FAILED = 1
#: what a process that outlived its time is reported with, and conmon's words for it, which CRI-O compares
_TIMED_OUT, _TIMED_OUT_WORDS = -1, b"command timed out"
#: how long the end of a process that was killed is waited for
_KILL_S = 5.0
SIGINT, SIGQUIT, SIGKILL, SIGTERM = 2, 3, 9, 15


class Monitor:
    """The daemon."""

    def __init__(
        self,
        options: Options,
        messages: Messages,
        caller: Caller,
        drivers: Sequence[Driver] | None,
        inherited: set[int],
        start_fd: int,
        old_score: bytes,
    ) -> None:
        self.options = options
        self.messages = messages
        self.caller = caller
        self.drivers = drivers or ()
        self.is_passthrough = drivers is None
        self.inherited = inherited
        self.start_fd = start_fd
        self.old_score = old_score
        self.loop = Loop()
        self.reaper = Reaper(self.loop)
        runtime = "" if runtime_call.is_ours(options.runtime) else options.runtime
        self.engine = Engine(self.loop, self.reaper, runtime, runtime_call.global_words(options))
        self.attach = Attach(self.loop, messages, self._clients_ready)
        self.output = Output(self.loop, self.drivers, self.attach)
        self.control: Control | None = None
        self.notify: Notify | None = None
        self.console: ConsoleSocket | None = None
        self.oom: OomWatch | None = None
        self.early: Early | None = None
        self.pid_fd = -1
        self.pid = 0
        self.has_timed_out = False
        self.is_leaving = False
        self.is_gone = False
        self.status = FAILED

    def run(self) -> int:
        """The exit status of the whole."""
        options = self.options
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            if not self.is_passthrough:
                self._leave_terminal(null_fd)
            try:
                os.setsid()
            except PermissionError:
                pass  # --sync, and we lead a process group already
            for number in (SIGTERM, SIGQUIT, SIGINT):
                self.loop.on_signal(number, self._forwarder(number))
            self._open_bundle()
        except OSError as error:
            self._fail(f"{error.filename or options.bundle}: {os.strerror(error.errno or 0).lower()}\n".encode())
            # an exit command may still be to run
            if not self.is_gone:
                self.loop.run()
            return self.status
        if options.exec_attach and self.start_fd >= 0:
            self.loop.watch(self.start_fd, EPOLLIN, lambda events: self._caller_attached(null_fd))
        else:
            self._call(null_fd)
        # what exists by now is there for good, and collections pass it by
        gc.freeze()
        gc.enable()
        self.loop.run()
        return self.status

    # -- before the runtime --------------------------------------------------------------------------------------------

    def _leave_terminal(self, null_fd: int) -> None:
        """Hold nothing of the caller's open: it waits for the end of our output."""
        for fd in (0, 1, 2):
            os.dup2(null_fd, fd)

    def _open_bundle(self) -> None:
        """What lies in the bundle for callers and for the container: sockets and fifos, before anybody looks for them."""
        options = self.options
        if options.sdnotify_socket:
            from shim.conmon.notify import Notify

            self.notify = Notify(self.loop, self.messages, options.bundle, options.sdnotify_socket)
        if options.bundle and not self.is_passthrough:
            self.attach.ends_stdin = options.stdin and not options.leave_stdin_open
            self.attach.stdin.is_awaited = options.stdin or options.terminal
            self.attach.listen(options.bundle, "" if options.full_attach else options.socket_dir_path, options.cuuid)
            self.control = Control(self.loop, self.messages, options.bundle, self._reopen)
            if options.exec_attach:
                self.caller.is_attachable()

    def _caller_attached(self, null_fd: int) -> None:
        self.loop.forget(self.start_fd)
        os.read(self.start_fd, 8192)
        os.close(self.start_fd)
        self._call(null_fd)

    def _reopen(self) -> None:
        for driver in self.drivers:
            driver.reopen()

    # -- the runtime ---------------------------------------------------------------------------------------------------

    def _call(self, null_fd: int) -> None:
        """Call the runtime with the container's descriptors as its own: what it is given the container gets."""
        options = self.options
        theirs: list[int] = []
        stdin, stdout, stderr = null_fd, null_fd, 2
        if self.is_passthrough:
            stdin, stdout = 0, 1
        else:
            error_fd, stderr = os.pipe2(os.O_CLOEXEC)
            theirs.append(stderr)
            self.early = Early(self.loop, error_fd, lambda data: self.output.feed(STDERR, data))
        if options.terminal:
            from shim.console import ConsoleSocket

            self.console = ConsoleSocket(self.loop, self._got_terminal)
        elif not self.is_passthrough:
            out_fd, stdout = os.pipe2(os.O_CLOEXEC)
            theirs.append(stdout)
            if options.stdin:
                stdin, in_fd = os.pipe2(os.O_CLOEXEC)
                theirs.append(stdin)
                self._set_stdin(in_fd)
            # nothing is in it before the container runs; read from now on, so that whatever comes first is not lost
            self.output.add_pipe(STDOUT, out_fd)
        passed = runtime_call.passed_fds(options, self.inherited)
        words = runtime_call.words(options, self.console.path if self.console else "")
        self.messages.debug("call " + " ".join([options.runtime, *self.engine.options, *words]))
        self._with_score(
            lambda: self.engine.call(
                words,
                self._called,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=runtime_call.Environment(options.replace_listen_pid),
                pass_fds=passed,
            )
        )
        # they have them; ours would keep a pipe from ending
        if self.is_passthrough:
            self._leave_terminal(null_fd)
        for fd in (*theirs, *passed, null_fd):
            os.close(fd)
        self.inherited -= set(passed)

    def _with_score(self, call: Callable[[], int]) -> None:
        """A container must not be as safe from the kernel's choice as we are; a child has what we have when it is made."""
        if self.old_score:
            set_oom_score(self.old_score)
        pid = call()
        if self.old_score:
            try:
                set_oom_score(b"-1000")
            except OSError:
                pass  # lowering it again needs CAP_SYS_RESOURCE, which is gone only if somebody takes it away
        if pid:
            self.pid_fd = os.pidfd_open(pid)

    def _set_stdin(self, fd: int) -> None:
        self.attach.stdin.open(fd)

    def _got_terminal(self, master_fd: int) -> None:
        import termios

        settings = termios.tcgetattr(master_fd)
        settings[1] |= termios.ONLCR  # as Kubernetes has it
        termios.tcsetattr(master_fd, termios.TCSANOW, settings)
        self._set_stdin(os.dup(master_fd))
        self.output.add_terminal(master_fd)
        if self.control is not None:
            self.control.has_terminal(master_fd)

    def _called(self, answer: Answer) -> None:
        """The runtime has ended, and has left a process to us or an error."""
        self._forget_child()
        text = answer.err
        if self.early is not None:
            # what comes from now on is the container's
            if self.early.over():
                self.output.add_pipe(STDERR, self.early.fd)
            text = self.early.text
        if answer.status != 0:
            self._fail(text or b"runtime ended with status %d and no message\n" % answer.status)
            return
        if self.console is not None:
            has_terminal = self.console.collect()
            self.console.close()
            if not has_terminal:
                self._fail(b"runtime did not set up the terminal\n")
                return
        try:
            self.pid, self.pid_fd = self.reaper.left(self.options.container_pidfile)
        except (OSError, ValueError, OverflowError) as error:
            self._fail(f"read pid file {self.options.container_pidfile}: {error}\n".encode())
            return
        self._started()

    # -- the process ---------------------------------------------------------------------------------------------------

    def _started(self) -> None:
        options = self.options
        if self.early is not None:
            self.early.release()
            self.early = None
        # its end may have come already: the reaper remembers until this function returns
        self.reaper.expect(self.pid, self._ended)
        self.caller.started(self.pid)
        if not options.exec:
            self._watch_memory()
        if options.timeout > 0:
            self.loop.later(options.timeout, self._time_is_over)

    def _watch_memory(self) -> None:
        from shim.oom import OomWatch, cgroups_of

        try:
            self.oom = OomWatch(self.loop, cgroups_of(self.pid), self._out_of_memory)
        except FileNotFoundError:
            pass  # it has ended already
        except OSError as error:
            self.messages.warn(f"watch the memory of {self.pid}: {os.strerror(error.errno or 0).lower()}")

    def _out_of_memory(self) -> None:
        for directory in (self.options.persist_dir, self.options.bundle):
            if directory:
                self._write_file(directory + "/oom", b"")

    def _forwarder(self, number: int) -> Callable[[], None]:
        def forward() -> None:
            if self.pid_fd >= 0:
                try:
                    pidfd_send_signal(self.pid_fd, number)
                except ProcessLookupError:
                    pass  # we shall hear of its end
            elif not self.is_leaving:
                # nothing was begun: the caller has not attached yet
                self._fail(b"ended by signal %d before the start\n" % number)

        return forward

    def _time_is_over(self) -> None:
        if not self.pid:
            return
        self.has_timed_out = True
        # not collected yet, or _ended() had been called: the number is its own, and so is that of its group
        try:
            group = os.getpgid(self.pid)
            if group > 1:
                os.killpg(group, SIGKILL)
            pidfd_send_signal(self.pid_fd, SIGKILL)
        except ProcessLookupError:
            pass
        # what it wrote is read no more; and one that the kernel cannot end now is not waited for
        self.output.close()
        self.loop.later(_KILL_S, lambda: self._ended(_TIMED_OUT, 0))

    def _ended(self, status: int, at_ns: int) -> None:
        if not self.pid:
            return
        self.messages.debug(f"process {self.pid} ended with status {status}")
        if self.has_timed_out:
            self._finish(_TIMED_OUT, _TIMED_OUT_WORDS)
        else:
            self.output.drain()
            self._finish(status)

    def _forget_child(self) -> None:
        if self.pid_fd >= 0:
            os.close(self.pid_fd)
        self.pid_fd, self.pid = -1, 0

    # -- the end -------------------------------------------------------------------------------------------------------

    def _fail(self, message: bytes) -> None:
        """There is no process, for this reason."""
        self.messages.error("runtime: " + message.decode("utf-8", "replace").rstrip("\n"))
        while self.inherited:
            os.close(self.inherited.pop())
        self.caller.failed(message)
        self._leave(FAILED)

    def _finish(self, status: int, message: bytes = b"") -> None:
        """The process has ended: tell everybody, in this order."""
        self._forget_child()
        if self.oom is not None:
            self.oom.check()
            self.oom.close()
        self.output.close()
        for driver in self.drivers:
            if not self.options.no_sync_log:
                driver.sync()
            driver.close()
        while self.inherited:
            os.close(self.inherited.pop())  # before anybody hears of it: the ports of a pod can be bound again
        text = b"%d" % status
        if self.options.persist_dir:
            self._write_file(self.options.persist_dir + "/exit", text)
        if self.options.exit_dir:
            self._write_file(f"{self.options.exit_dir}/{self.options.cid}", text)
        self.caller.ended(status, message)
        self._leave(status)

    def _write_file(self, path: str, content: bytes) -> None:
        try:
            write_file(path, content)
        except OSError as error:
            self.messages.error(f"write {path}: {os.strerror(error.errno or 0).lower()}")

    def _leave(self, status: int) -> None:
        """Close what is ours, and run the exit command."""
        self.status = status
        self.is_leaving = True
        self.caller.close()
        self.output.close()
        for part in (self.control, self.notify, self.console):
            if part is not None:
                part.close()
        self.attach.stdin.close()
        self.attach.stop_listening()
        self.attach.close_idle()
        if self.options.exit_command and self.options.exit_delay:
            self.loop.later(self.options.exit_delay, self._run_exit_command)
        elif self.options.exit_command:
            self._run_exit_command()  # whose end the caller waits for
        else:
            self._gone()

    def _run_exit_command(self) -> None:
        if self.old_score:
            # what it starts, a container perhaps, must not have ours
            set_oom_score(self.old_score)
        exit_command.run(self.options, self.messages, self.reaper, self._gone)

    def _gone(self) -> None:
        """All is done; only clients that have not read everything keep us."""
        self.is_gone = True
        self._clients_ready()

    def _clients_ready(self) -> None:
        if not self.is_leaving:
            self.output.resume()
            return
        self.attach.close_idle()
        if self.is_gone and not self.attach.clients:
            self.loop.stop()
