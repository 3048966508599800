"""Waiting for a container in the foreground: forward signals, reap what is given to us, be its terminal.

Signals are blocked before init is launched, so that none is lost or ends us, and taken one by one while waiting. Those that ask for
our end interrupt us until there is a program to forward them to: whatever has been made by then is undone. What init itself gets
is a clean slate: the launcher resets mask and dispositions.
"""

from __future__ import annotations

import _signal

from runtime import kernel
from runtime import system as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.console import Terminal
    from runtime.notify import Notify

SIGPIPE, SIGCHLD, SIGWINCH = 13, 17, 28
#: not forwarded: ours to handle, or about our own descriptors
_OWN = frozenset((SIGPIPE, SIGCHLD, SIGWINCH))
_ALL = _signal.valid_signals()  # without the two that the C library keeps
#: a terminal's ^C and ^\, its end, and a polite request
_ENDING = (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGTERM)


def prepare(is_subreaper: bool) -> None:
    """Before the launch: block what is for the program, make sure that children can be waited for, adopt orphans if wanted."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL)
    for number in _ENDING:
        if _signal.getsignal(number) != _signal.SIG_IGN:  # as nohup(1) wants it
            _signal.signal(number, _signal.default_int_handler)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _ENDING)
    # an ignored SIGCHLD, inherited from a careless caller, would have the kernel collect init's status unseen
    _signal.signal(SIGCHLD, _signal.SIG_DFL)
    if is_subreaper:
        kernel.set_subreaper(True)


def settle() -> None:
    """From here on every signal waits: there is a program to forward it to, or an undoing that it must not interrupt."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL)


def wait(pid: int, pidfd: int, terminal: Terminal | None, notify: Notify | None = None) -> int:
    """Wait until init ends, forwarding every other signal to it; returns its exit status, 128 + N for signal N."""
    if terminal is None and notify is None:
        status = _take_signals(pid, pidfd)
    else:
        status = _watch(pid, pidfd, terminal, notify)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _take_signals(pid: int, pidfd: int) -> int:
    while True:
        status = _reap(pid)
        if status is not None:
            return status
        _handle(_signal.sigwaitinfo(_ALL).si_signo, pidfd, None)


def _reap(pid: int) -> int | None:
    """Collect every child that has ended; the wait status of init if it is one of them."""
    found = None
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if child == 0:
            return found
        if child == pid:
            found = status


def _handle(number: int, pidfd: int, terminal: Terminal | None) -> None:
    if number == SIGWINCH and terminal is not None:
        terminal.resize()
    elif number not in _OWN:
        try:
            _signal.pidfd_send_signal(pidfd, number)
        except OSError:
            pass  # it has just ended: the next turn collects it


def _watch(pid: int, pidfd: int, terminal: Terminal | None, notify: Notify | None) -> int:
    """The same where descriptors are to be watched too: one poll over input, pty, notify socket and signals."""
    import select

    wake_fd = _wake_by_descriptor()
    poll = select.poll()
    poll.register(wake_fd, select.POLLIN)
    if notify is not None:
        poll.register(notify.fileno(), select.POLLIN)
    has_input = has_output = terminal is not None
    if terminal is not None:
        poll.register(terminal.master, select.POLLIN)
        poll.register(0, select.POLLIN)
        terminal.make_raw()
    keys = b""
    try:
        while True:
            status = _reap(pid)
            if status is not None:
                return status
            for fd, events in poll.poll():
                if fd == wake_fd:
                    for number in os.read(wake_fd, 512):
                        _handle(number, pidfd, terminal)
                elif notify is not None and fd == notify.fileno():
                    # the manager's main process is we: it waits for its own child, not for ours
                    if notify.receive(os.getpid(), waits=False):
                        poll.unregister(fd)
                elif fd == 0:
                    data = _read(0)
                    if not data:
                        has_input = False
                        poll.unregister(0)
                        data = b"" if os.isatty(0) else b"\x04"  # the end of piped input is typed for it: ^D
                    keys += data
                elif events & select.POLLIN:
                    _write_all(1, _read(fd))
                elif events & (select.POLLHUP | select.POLLERR):
                    has_output = False
                    poll.unregister(fd)  # every process has closed the terminal; init may live on
            if terminal is None:
                continue
            keys = _type(terminal.master, keys)
            if has_output:
                # what the terminal's queue had no room for is typed when the container has read some of it
                poll.modify(terminal.master, select.POLLIN | (select.POLLOUT if keys else 0))
            if has_input:
                # while the container does not read, neither do we: its terminal's queue is the only buffer
                poll.modify(0, 0 if len(keys) > 4096 else select.POLLIN)
    finally:
        _signal.set_wakeup_fd(-1)
        if terminal is not None:
            _finish(terminal)
            terminal.restore()


def _wake_by_descriptor() -> int:
    """A descriptor that a signal makes readable, the signal's number in it; from here on they are unblocked."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in _ALL:
        try:
            _signal.signal(number, _nothing)
        except (OSError, ValueError):
            pass  # SIGKILL and SIGSTOP, and two that the C library keeps
    _signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _ALL)
    return read_fd


def _nothing(number: int, frame: object) -> None:
    """A handler, so that the signal wakes the poll."""


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 32768)
    except OSError:
        return b""


def _type(master: int, keys: bytes) -> bytes:
    if keys:
        try:
            return keys[os.write(master, keys) :]
        except BlockingIOError:
            return keys
        except OSError:
            return b""
    return keys


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return


def _finish(terminal: Terminal) -> None:
    """What the container wrote last is still in the pty."""
    while data := _read(terminal.master):
        _write_all(1, data)
