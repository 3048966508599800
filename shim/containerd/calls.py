"""Calls of the runtime for one container, and why one failed: the last error of its JSON log, word for word.

containerd and docker show that text to their users, and decide by it (126, 127, not found). This module must not reword it.
"""

from __future__ import annotations

import os

from runtime import jsonio
from runtime.errors import Error
from shim.containerd.ttrpc import UNKNOWN, Fault
from shim.engine import Engine
from shim.flow import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shim.engine import Answer


class Calls:
    """The runtime, as one container's verbs need it. `log` is the file that `engine`'s options name."""

    __slots__ = ("_engine", "_log")

    def __init__(self, engine: Engine, log: str) -> None:
        self._engine = engine
        self._log = log

    async def must(self, words: list[str], what: str, **given: Any) -> None:
        """Call the runtime; a Fault that begins with `what` where it fails."""
        answer, text = await self.answer(words, **given)
        if answer.status:
            raise Fault(UNKNOWN, f"{what}: {text}")

    async def answer(self, words: list[str], **given: Any) -> tuple[Answer, str]:
        """Call the runtime; its answer, and why it failed where it did."""
        try:
            before = os.stat(self._log).st_size
        except OSError:
            before = 0
        later = Later()
        self._engine.call(words, later.set, **given)
        answer: Answer = await later
        return answer, _reason(answer, self._log, before) if answer.status else ""


def _reason(answer: Answer, path: str, before: int) -> str:
    """The last error that the runtime wrote to its log in this call; else what it printed."""
    printed = (answer.err or answer.out).decode("utf-8", "replace").strip()
    try:
        with open(path, "rb") as file:
            file.seek(before)
            lines = file.read().split(b"\n")
    except OSError as error:
        why = f"open {path}: {(error.strerror or '').lower()}"
        return f"unable to retrieve OCI runtime error ({why}): exit status {answer.status}: {printed}"
    for line in reversed(lines):
        try:
            entry = jsonio.loads(line, "log.json")
        except Error:
            continue
        if isinstance(entry, dict) and entry.get("level") == "error" and entry.get("msg"):
            return str(entry["msg"])
    return f"exit status {answer.status}: {printed}" if printed else f"exit status {answer.status}"


def words_of(error: Exception) -> str:
    """An error in the words that engines search for: the kernel's, without a capital."""
    if isinstance(error, OSError) and error.strerror:
        words = error.strerror[:1].lower() + error.strerror[1:]
        return f"{words}: {error.filename}" if error.filename else words
    return str(error) or type(error).__name__


# -- small files of a bundle -------------------------------------------------------------------------------------------


def read_pid(path: str) -> int:
    """The number in a pid file."""
    with open(path, "rb") as file:
        return int(file.read(32))


def write_private(path: str, text: str) -> None:
    """A file that only we may read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def remove(path: str) -> None:
    """Remove a file if it is there; what is in the bundle goes with the bundle at the latest."""
    try:
        os.unlink(path)
    except OSError:
        pass


def copy_file(source: str, target: str) -> bool:
    """Copy a file; whether there was one."""
    try:
        with open(source, "rb") as reader, open(target, "wb") as writer:
            while data := reader.read(64 << 10):
                writer.write(data)
    except OSError:
        return False
    return True
