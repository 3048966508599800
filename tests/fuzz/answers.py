"""Commands of ours, called in this process or in a child of it, and what their answers must be like.

Whatever the input: an exit status that is documented, nothing on standard error from a command that succeeds, one line (and perhaps a
hint) from one that fails, which says what is wrong and is no report of a defect of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from engine import Finding, run_child

from runtime import log
from runtime.errors import Error

#: what no line that a user reads may have in it
_DEFECTS = re.compile(
    r"Traceback|internal error|no schema explains|AssertionError|out of memory|nested too deeply|"
    r"\b(Type|Value|Key|Index|Attribute|Overflow|Unicode\w*|Assertion|Recursion|Memory|ZeroDivision|Runtime|Lookup|Decode|Stop\w*)Error\b"
)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Answer:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def called(call: Callable[[], int], stdin: bytes = b"") -> Answer:
    """Call a program's entry in this process, its three standard descriptors being files."""
    files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
    os.write(files[0], stdin)
    os.lseek(files[0], 0, os.SEEK_SET)
    kept = [os.dup(fd) for fd in range(3)]
    try:
        for fd in range(3):
            os.dup2(files[fd], fd)
        status = call()
    finally:
        for fd in range(3):
            os.dup2(kept[fd], fd)
            os.close(kept[fd])
        texts = [read(fd) for fd in files[1:]]
        for fd in files:
            os.close(fd)
    return Answer(status, *texts)


def called_in_child(call: Callable[[], int], stdin: bytes = b"", seconds: float = 20.0) -> Answer:
    """The same in a forked child, whose memory and descriptors are gone with it."""
    files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
    os.write(files[0], stdin)
    os.lseek(files[0], 0, os.SEEK_SET)

    def go() -> int:
        for fd in range(3):
            os.dup2(files[fd], fd)
        return call()

    try:
        status = run_child(go, seconds=seconds)
        texts = [read(fd) for fd in files[1:]]
    finally:
        for fd in files:
            os.close(fd)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        kind = "hang" if code in (-24, -9) else f"signal {-code}"
        raise Finding(kind, texts[1][-500:])
    return Answer(code, *texts)


def refusal(error: Error) -> Answer:
    """What the command line would print of an error."""
    return Answer(error.status, "", log.one_line(error.message) + "\n")


def read(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    data = b""
    while part := os.read(fd, 1 << 20):
        data += part
    return data.decode("utf-8", "backslashreplace")


def check(answer: Answer, *, statuses: tuple[int, ...] = (0, 1), names: str = "", quiet: bool = True) -> Answer:
    """Raise Finding where the answer is not as every answer has to be; `names` is what a failure must name."""
    err = answer.err
    defect = _DEFECTS.search(err)
    if defect:
        where = re.search(r" in ([\w.]+):\d+|\[[^]]*/(\w+\.py):\d+\]", err)
        raise Finding(f"{defect[0]}{' ' + (where[1] or where[2]) if where else ''}", err[-3000:])
    if answer.status not in statuses:
        raise Finding(f"exit status {answer.status}", err[-1000:])
    lines = err.splitlines()
    if answer.status and not err.strip():
        raise Finding("fails without a word")
    if len(lines) > 2 or (len(lines) == 2 and not lines[1].startswith("hint: ")):
        raise Finding("more than a line and a hint", err[-2000:])
    if _UNPRINTABLE.search(err):
        raise Finding("unprintable text in an error", repr(err[-1000:]))
    if answer.status == 0 and quiet and err:
        raise Finding("speaks although it succeeds", err[-1000:])
    if answer.status and names and names not in lines[0]:
        raise Finding("an error that names no place", err[-1000:])
    return answer
