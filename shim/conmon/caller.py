"""The descriptors that whoever started us has left for talking: who writes what, and when.

    _OCI_STARTPIPE   caller -> us   a byte (or the end) when we may begin: by then we are in the right cgroup. With --exec-attach
                                    a second one, when the caller has attached
    _OCI_SYNCPIPE    us -> caller   {"data": PID} or {"data": -1, "message": "..."}; and for an exec {"data": EXIT STATUS}
    _OCI_ATTACHPIPE  us -> caller   {"data": 0} when the attach socket is there (--exec-attach)

That is what Podman reads (--api-version). Without the option the keys are CRI-O's: "pid" of a container, and of an exec
only, at its end, "exit_code". Each message is a line of JSON.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.words import Options

#: Podman's pipes are sockets that keep boundaries (SOCK_SEQPACKET), and it reads them through a buffer of this size: of a longer
#: write it would lose the end, and with it the newline that it waits for
_PACKET_BYTES = 4096


class BadPipe(Exception):
    """An environment variable that names no pipe, as one line."""


def take_pipe(name: str) -> int:
    """The pipe that an environment variable names, not to be inherited any further; -1 without one."""
    text = os.environ.pop(name, "")
    if not text:
        return -1
    try:
        fd = int(text)
        # The variable may be left over from a conmon above us, and the number be a file of our own by now.
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            raise BadPipe(f"{name}={text}: no pipe")
        os.set_inheritable(fd, False)
    except (ValueError, OverflowError):
        raise BadPipe(f'{name}: "{text}" is no number') from None
    except OSError as error:
        raise BadPipe(f"{name}={text}: {os.strerror(error.errno or errno.EBADF).lower()}") from None
    return fd


def wait_for_start(fd: int) -> None:
    """Wait for a byte, or for the caller's end of the pipe to be closed."""
    os.read(fd, 8192)


class Caller:
    """Our end of the two pipes that we write to. A caller that is gone is no reason to end: the container runs."""

    def __init__(self, options: Options) -> None:
        self.is_legacy = not options.api_version
        self.is_exec = bool(options.exec)
        self.sync_fd = take_pipe("_OCI_SYNCPIPE")
        self.attach_fd = take_pipe("_OCI_ATTACHPIPE")
        if options.exec_attach and self.attach_fd < 0:
            raise BadPipe("--exec-attach: no _OCI_ATTACHPIPE in the environment")

    def is_attachable(self) -> None:
        """The attach socket is there."""
        self._write(self.attach_fd, '{"data": 0}')

    def started(self, pid: int) -> None:
        """The container's process is there. In the old dialect an exec says one thing only, its exit status."""
        if not (self.is_legacy and self.is_exec):
            self._report("pid", pid)

    def failed(self, message: bytes, number: int = -1) -> None:
        """It is not there, for the reason that the runtime gave."""
        self._report("exit_code" if self.is_exec else "pid", number, message)

    def ended(self, status: int, message: bytes = b"") -> None:
        """An exec's end; of a container's the caller learns from files."""
        if self.is_exec:
            self._report("exit_code", status, message)

    def close(self) -> None:
        """There will be no more."""
        for fd in (self.sync_fd, self.attach_fd):
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        if fd >= 0:
            os.close(fd)
        self.sync_fd, self.attach_fd = (-1 if held == fd else held for held in (self.sync_fd, self.attach_fd))

    def _report(self, old_key: str, number: int, message: bytes = b"") -> None:
        answer = f'{{"{old_key if self.is_legacy else "data"}": {number}'
        if message:
            from runtime.jsonio import dumps

            answer += f', "message": {dumps(message.decode("utf-8", "replace"))}'
        self._write(self.sync_fd, answer + "}")

    def _write(self, fd: int, answer: str) -> None:
        if fd < 0:
            return
        text = answer.encode() + b"\n"
        try:
            for at in range(0, len(text), _PACKET_BYTES):
                os.write(fd, text[at : at + _PACKET_BYTES])
        except OSError:
            # gone, or not to be told: then the end of the pipe is what it hears, and it does not wait for more
            self._drop(fd)
