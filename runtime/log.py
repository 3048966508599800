"""The log: runc's text and json lines, written to the file that --log names, and to standard error.

    time="2026-01-02T03:04:05Z" level=error msg="..."                  --log-format text
    {"level":"error","msg":"...","time":"2026-01-02T03:04:05Z"}        --log-format json

containerd takes the last object with level "error" of the file, podman decodes the whole file as one object. So a
command that fails writes exactly one object, and a json log has nothing below errors in it unless asked for. Standard
error gets nothing at all from a command that succeeds, because go-runc reads it as part of the output.

The file is opened when there is something to write, and not at start as in runc: most commands have nothing to say, its
readers take a missing file for an empty one, and each open on the way of every command is paid by every command.
Only `__main__` reports errors here; below floor 4 nothing is logged above debug. Hot: it imports what is loaded anyway.
"""

from __future__ import annotations

import time

from runtime import system as os
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.errors import Error

LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
#: standard error is one write: conmon forwards what it reads at once, up to this many bytes
_STDERR_BYTES = 8000

_path = ""
#: kind of a log that is no file, and its identifier: see `journal`
_target = ("", "")
_is_json = False
_threshold = LEVELS["warning"]
_is_wanted = False


def setup(path: str = "", form: str = "text", level: str = "") -> None:
    """Where the lines of this process go, in which form, and from which level on ("": the form's own).

    `path` may begin with file:, and journald:ID and syslog:ID are no files (crun).
    """
    global _path, _target, _is_json, _threshold, _is_wanted
    kind, colon, rest = path.partition(":")
    _target = (kind, rest) if colon and kind in ("journald", "syslog") else ("", "")
    _path = rest if colon and kind == "file" else path
    _is_json = form == "json"
    _threshold = LEVELS[level or ("error" if _is_json else "warning")]
    #: whether somebody who reads standard error has asked for lines that are no errors
    _is_wanted = bool(level)


def debug(message: str) -> None:
    """A line about what is being done."""
    _note("debug", message)


def warning(message: str) -> None:
    """A line about what was asked for and is not had, where the specification wants no error."""
    _note("warning", message)


def is_debug() -> bool:
    """Whether debug lines are kept: their text may be dear to make."""
    return _threshold == 0


def error(failure: Error) -> None:
    """Say why the command fails: one object or line in the log file, and on standard error one line and its hint."""
    hint = one_line(failure.hint)
    if _path:
        record = dict(failure.record)
        if hint:
            record["hint"] = hint
        trouble = _record("error", one_line(failure.message), record)
        hint += ("; " if hint and trouble else "") + trouble
    _print(one_line(failure.message) + "\n" + (f"hint: {hint}\n" if hint else ""))


def _note(level: str, message: str) -> None:
    if LEVELS[level] < _threshold:
        return
    if _path:
        _record(level, one_line(message), {})
    elif _is_wanted or os.isatty(2):
        # without a file a line is for a person: one who asked for it, or who sits at this terminal. Callers that read
        # standard error, or have made it the container's, get nothing
        _print(_line(level, one_line(message), {}))


def _record(level: str, message: str, record: dict[str, Any]) -> str:
    """Put a line where the log is; what went wrong, or ""."""
    if not _target[0]:
        return _append(_line(level, message, record))
    from runtime import journal

    return journal.send(*_target, level, message, record)


def _line(level: str, message: str, record: dict[str, Any]) -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    extra = [
        (key, value) for key, value in record.items() if key not in ("level", "msg", "time") and value not in ("", None)
    ]
    if not _is_json:
        more = "".join(f" {key}={_scalar(value)}" for key, value in extra)
        return f'time="{now}" level={level} msg={dumps(message)}{more}\n'
    more = "".join(f",{dumps(key)}:{_scalar(value)}" for key, value in extra)
    return f'{{"level":"{level}","msg":{dumps(message)},"time":"{now}"{more}}}\n'


def _scalar(value: Any) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) is int else dumps(one_line(str(value)))


def one_line(text: str) -> str:
    """The text without anything that would end a line or steer a terminal: `a\\nb`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _append(line: str) -> str:
    """Append one line in one write, so that commands which share the file do not mix; what went wrong, or ""."""
    try:
        # no O_SYNC, which runc has: a reader on this machine sees the line as soon as it is written
        fd = os.open(_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
        try:
            os.write(fd, line.encode("utf-8", "backslashreplace"))
        finally:
            os.close(fd)
    except (OSError, ValueError) as trouble:
        return f"log file {one_line(_path)}: {getattr(trouble, 'strerror', None) or trouble}"
    return ""


def _print(text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > _STDERR_BYTES:
        data = data[: _STDERR_BYTES - 5] + b" ...\n"
    try:
        os.write(2, data)
    except OSError:
        pass  # closed, or nobody reads: the exit status remains
