"""The journal as a log: one entry per line, in the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

import errno
import os
import select
from _socket import AF_UNIX, MSG_NOSIGNAL, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET, socket

from shim.logs import LINE_BYTES, STDERR, STDOUT, BadLog, Driver, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.logs import Complain, Data

#: how long the journal may take to accept an entry before it is dropped
_ACCEPT_MS = 5000
_JOURNAL = "/run/systemd/journal/socket"
_SHORT_ID = 12


class Journald(Driver):
    """Entries of systemd's journal, one per line; the fields are conmon's, which `podman logs` reads."""

    def __init__(
        self,
        cid: str,
        complain: Complain,
        *,
        name: str = "",
        tag: str = "",
        labels: Sequence[str] = (),
        marks_parts: bool = True,
        path: str = _JOURNAL,
    ) -> None:
        if len(cid) <= _SHORT_ID:
            raise BadLog(f"log to the journal: container id must be longer than {_SHORT_ID} characters")
        self.complain = complain
        self.path = path
        self.marks_parts = marks_parts
        self.lost = 0
        self.pending = {STDOUT: b"", STDERR: b""}
        fields = [("CONTAINER_ID_FULL", cid), ("CONTAINER_ID", cid[:_SHORT_ID])]
        fields += [("CONTAINER_TAG", tag)] if tag else []
        fields += [("CONTAINER_NAME", name)] if name else []
        fields += [("SYSLOG_IDENTIFIER", tag or name or cid[:_SHORT_ID])]
        fields += [_label(label) for label in labels]
        self.fields = b"".join(_field(key.encode(), os.fsencode(value)) for key, value in fields)
        self.socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)

    def write(self, stream: int, data: Data) -> None:
        lines = bytes(data).split(b"\n")
        last = lines.pop()
        for line in lines:
            self._send(stream, self.pending[stream] + line + b"\n", False)
            self.pending[stream] = b""
        # the end of the data and not of a line: kept until there is more, or too much
        last = self.pending[stream] + last
        while len(last) >= LINE_BYTES:
            self._send(stream, last[:LINE_BYTES], True)
            last = last[LINE_BYTES:]
        self.pending[stream] = last

    def end(self, stream: int) -> None:
        if self.pending[stream]:
            self._send(stream, self.pending[stream], True)
            self.pending[stream] = b""

    def close(self) -> None:
        self.socket.close()

    def _send(self, stream: int, message: bytes, is_part: bool) -> None:
        priority = b"3" if stream == STDERR else b"6"
        # sd-daemon(3): a program may say itself how important a line is
        if message[:1] == b"<" and message[2:3] == b">" and message[1:2] in b"01234567":
            priority, message = message[1:2], message[3:]
        entry = _field(b"MESSAGE", message) + b"PRIORITY=" + priority + b"\n" + self.fields
        if is_part and self.marks_parts:
            entry += b"CONTAINER_PARTIAL_MESSAGE=true\n"
        try:
            self._deliver(entry)
        except OSError as error:
            if not self.lost:
                self.complain(
                    f"write to the journal {self.path}: {words_of(error)}, dropping output until it works again"
                )
            self.lost += len(message)
            return
        if self.lost:
            self.complain(f"write to the journal {self.path}: works again; {self.lost} bytes of output were lost")
            self.lost = 0

    def _deliver(self, entry: bytes) -> None:
        for _ in range(2):
            try:
                self.socket.sendto(entry, MSG_NOSIGNAL, self.path)
                return
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.socket.fileno(), select.POLLOUT)
                if not poll.poll(_ACCEPT_MS):
                    raise
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._deliver_as_file(entry)
                return
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _deliver_as_file(self, entry: bytes) -> None:
        """What is too large for a datagram is handed over as a sealed file, the journal's native protocol has it."""
        import fcntl

        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(fd, entry)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            ancillary = [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(4, "little"))]
            self.socket.sendmsg((), ancillary, MSG_NOSIGNAL, self.path)
        finally:
            os.close(fd)


def _field(key: bytes, value: bytes) -> bytes:
    """A field of the journal's protocol: one with a newline in its value has the length before it."""
    if b"\n" in value:
        return key + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return key + b"=" + value + b"\n"


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or "=" in value:
        raise BadLog(f'label "{text}": must be KEY=VALUE')
    if not all(c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_" for c in key):
        raise BadLog(f'label "{text}": a key has capital letters, digits and underscores only')
    return key, value
