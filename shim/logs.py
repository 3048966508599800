"""Where a container's output is kept: drivers that are handed what was read, and the names they are chosen by.

    k8s-file:PATH, PATH   lines as the CRI has them: `2006-01-02T15:04:05.123456789+01:00 stdout F message`; F ends a line, and P is
                          part of one that is still being written or is longer than LINE_BYTES
    journald              one entry per line, in the journal's native protocol
    none, off, null       nothing
    passthrough           nothing here: the container writes to its caller's own descriptors

A log that cannot be written (a full disk, no permission any more) must never stop the container or this process: what does
not fit is dropped, one message says so, and a second one how much it was when writing works again. Records stay whole: one
that was written in part is taken back. Nothing is kept in memory but the unfinished line that the journal is yet to be given.
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Complain = Callable[[str], None]
    #: what was read; a memoryview is the reader's buffer, and filled anew afterwards
    Data = bytes | memoryview

STDOUT, STDERR = 1, 2
_NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}

#: the longest piece of a line in one record, conmon's
LINE_BYTES = 8192


class BadLog(Exception):
    """A log that cannot be had, as one line."""


class Driver:
    """What every log can do; the drivers of this module replace what they need."""

    def write(self, stream: int, data: Data) -> None:
        """Keep what was read of STDOUT or STDERR; never raises because of the log."""
        raise NotImplementedError

    def end(self, stream: int) -> None:
        """There will be no more of this stream."""

    def reopen(self) -> None:
        """Somebody has moved the log away: begin anew under its name."""

    def sync(self) -> None:
        """Wait until what was written is on the disk."""

    def close(self) -> None:
        """Give back the descriptor."""


class _File(Driver):
    """A file that is appended to; what it may not hold is dropped, and said once."""

    def __init__(self, path: str, allowed: Sequence[str], complain: Complain) -> None:
        self.path = path
        self.complain = complain
        self.lost = 0
        try:
            self.fd = _open_below(path, allowed)
            self.size = os.fstat(self.fd).st_size
        except OSError as error:
            raise BadLog(f"open log {path}: {words_of(error)}") from None

    def put(self, pieces: Sequence[Data], size: int) -> bool:
        """Append `pieces`, `size` bytes in all; where not all of it fits, what fits of whole records."""
        done = 0
        try:
            done = os.writev(self.fd, pieces)
            if done < size:
                view = memoryview(b"".join(pieces))
                while done < size:
                    done += os.write(self.fd, view[done:])
        except OSError as error:
            self._failed(error, b"".join(pieces), done)
            return False
        self.size += done
        if self.lost:
            self.complain(f"write log {self.path}: works again; {self.lost} bytes of output were lost")
            self.lost = 0
        return True

    def _failed(self, error: OSError, data: bytes, done: int) -> None:
        whole = self.whole(data, done)
        self.size += whole
        if done > whole:
            try:
                # half a record would become one with the next that fits
                os.ftruncate(self.fd, self.size)
            except OSError:
                self.size += done - whole
        if not self.lost:
            self.complain(f"write log {self.path}: {words_of(error)}, dropping output until it can be written again")
        self.lost += len(data) - whole

    def whole(self, data: bytes, done: int) -> int:
        """How much of the first `done` bytes may stay."""
        return data.rfind(b"\n", 0, done) + 1

    def reopen(self) -> None:
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            self.complain(f"open log {self.path} anew: {words_of(error)}, going on with the old one")
            return
        os.close(self.fd)
        self.fd = fd
        self.size = os.fstat(fd).st_size

    def sync(self) -> None:
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a terminal, a pipe
                self.complain(f"sync log {self.path}: {words_of(error)}")

    def close(self) -> None:
        os.close(self.fd)
        self.fd = -1


class RawFile(_File):
    """The output as it came, both streams."""

    def write(self, stream: int, data: Data) -> None:
        self.put((data,), len(data))

    def whole(self, data: bytes, done: int) -> int:
        return done


class K8sFile(_File):
    """Lines with time and stream. `limit` bytes to a file, of which `keep` old ones stay as PATH.1, PATH.2; `total` bytes in all."""

    def __init__(
        self,
        path: str,
        complain: Complain,
        *,
        limit: int = -1,
        total: int = -1,
        keep: int = 0,
        allowed: Sequence[str] = (),
    ) -> None:
        super().__init__(path, allowed, complain)
        self.limit = limit
        self.total = total
        self.keep = keep
        self.written = self.size
        self.second = -1
        self.date = self.zone = b""

    def write(self, stream: int, data: Data) -> None:
        if self.total > 0 and self.written >= self.total:
            return
        pieces = self.records(stream, data)
        size = sum(map(len, pieces))
        is_fitting = self.limit <= 0 or self.size + size <= self.limit
        if is_fitting and (self.total <= 0 or self.written + size <= self.total):
            if self.put(pieces, size):
                self.written += size
            return
        for record in b"".join(pieces)[:-1].split(b"\n"):
            self._write_one(record + b"\n")

    def _write_one(self, record: bytes) -> None:
        if self.total > 0 and self.written >= self.total:
            return
        if self.limit > 0 and self.size + len(record) > self.limit:
            self._begin_anew()
        if self.put((record,), len(record)):
            self.written += len(record)
            if self.total > 0 and self.written >= self.total:
                self.complain(f"log {self.path}: reached {self.total} bytes, no more output is logged")

    def records(self, stream: int, data: Data) -> list[Data]:
        """`data` as records, in pieces. All of them have the time at which it was read: nobody knows another.

        A piece that is part of `data` is no copy. There are never so many that one call could not write them (IOV_MAX): of two
        turns that follow each other, LINE_BYTES at least are used up.
        """
        head = self._stamp() + _NAMES[stream]
        full, part = head + b" F ", head + b" P "
        between = b"\n" + full
        pieces: list[Data] = []
        at, end = 0, len(data)
        while at < end:
            reach = data[at : at + LINE_BYTES]
            # as many whole lines as there are within reach, at the speed of bytes.replace
            lines, newline, _ = bytes(reach).rpartition(b"\n")
            if newline:
                pieces += (full, lines.replace(b"\n", between), newline)
                at += len(lines) + 1
            else:
                pieces += (part, reach, b"\n")
                at += LINE_BYTES
        return pieces

    def _stamp(self) -> bytes:
        second, nano = divmod(time.time_ns(), 1_000_000_000)
        if second != self.second:
            at = time.localtime(second)
            self.second = second
            self.date = b"%d-%02d-%02dT%02d:%02d:%02d" % at[:6]
            sign, offset = (b"-", -at.tm_gmtoff) if at.tm_gmtoff < 0 else (b"+", at.tm_gmtoff)
            self.zone = b"%b%02d:%02d " % (sign, offset // 3600, offset % 3600 // 60)
        return b"%b.%09d%b" % (self.date, nano, self.zone)

    def _begin_anew(self) -> None:
        """An empty file under the same name; the old one is gone, or kept as PATH.1."""
        new = self.path + ".new"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            for number in range(self.keep, 0, -1):
                older = f"{self.path}.{number - 1}" if number > 1 else self.path
                try:
                    os.rename(older, f"{self.path}.{number}")
                except FileNotFoundError:
                    pass
            os.rename(new, self.path)
        except OSError as error:
            # The limit is the user's word: the file is emptied where it cannot be replaced.
            self.complain(f"begin log {self.path} anew: {words_of(error)}, emptying it instead")
            os.ftruncate(self.fd, 0)
        else:
            os.close(self.fd)
            self.fd = fd
        self.size = 0


def parse(text: str) -> tuple[str, str]:
    """Driver and path that a --log-path names; BadLog for none."""
    driver, colon, path = text.partition(":")
    if driver in ("off", "null", "none"):
        return "none", ""
    if driver in ("passthrough", "journald"):
        return driver, ""
    if driver in ("k8s-file", ""):
        if not path:
            raise BadLog(f'log path "{text}": needs the name of a file')
        return "k8s-file", path
    if not colon:
        return "k8s-file", text
    raise BadLog(f'log path "{text}": no such log driver "{driver}"')


def _open_below(path: str, allowed: Sequence[str]) -> int:
    """The log file, in a directory below one of those that are allowed if any are named: asked of the open directory itself."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    if not allowed:
        return os.open(path, flags, 0o640)
    parent, slash, name = path.rpartition("/")
    directory = os.open(parent or slash or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        place = _place(directory)
        if not any(place.startswith(_allowed_place(top)) for top in allowed):
            raise BadLog(f"open log {path}: not in a directory of --log-allowlist-dir")
        return os.open(name, flags | os.O_NOFOLLOW, 0o640, dir_fd=directory)
    finally:
        os.close(directory)


def _allowed_place(path: str) -> str:
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _place(directory)
    finally:
        os.close(directory)


def _place(directory: int) -> str:
    """Where an open directory is, links resolved, with a slash at its end."""
    return os.readlink(f"/proc/self/fd/{directory}").rstrip("/") + "/"


def words_of(error: OSError) -> str:
    """The kernel's, without a capital."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
