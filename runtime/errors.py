"""What can go wrong, as a tree of exceptions, each with the exit status the command line answers.

    Error                 anything pyrunc reports; one line, an optional hint line
    ├── UsageError        the words of the command line are wrong
    ├── ConfigError       a document (config.json, process.json, resources) is wrong at a place
    │   └── RuleError     ... because two fields contradict each other; names the clause
    ├── StateError        a file in the state directory cannot be used
    ├── NotFound          no container of that id
    ├── Exists            a container of that id is there already
    ├── StatusError       the container's status does not allow the verb
    ├── KernelError       a system call refused, in an op or a host step
    │   └── ExecError     ... the one that would have started the user's program
    ├── HookError         a hook failed, timed out or could not be started
    ├── CgroupError       the cgroup could not be made, limited, frozen or removed
    └── Unsupported       the host lacks what the configuration demands

Messages are one line: what was attempted, on what, why it failed, the kernel's own words, where. No capital, no full
stop; user text in double quotes. This module must import nothing dear: it is loaded on every hot path.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def dotted(pointer: str) -> str:
    """A JSON pointer (RFC 6901) as a person writes it: linux.resources.memory."""
    return pointer.strip("/").replace("/", ".").replace("~1", "/").replace("~0", "~")


def lower(error: OSError) -> str:
    """The kernel's words without their capital."""
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]


class Error(Exception):
    """Something pyrunc reports to its user: `message` is one line, `hint` a second one where it is certain."""

    #: exit status of the command line; `exec` answers 255 for its own failures instead (runc does)
    status = 1

    def __init__(self, message: str, hint: str = "", **record: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        #: extra keys for the JSON log line (code, op, errno, path, pointer)
        self.record = record

    def __str__(self) -> str:
        return self.message


class UsageError(Error):
    """The words of the command line are wrong."""


class ConfigError(Error):
    """A document is wrong: `where` is a JSON pointer in it, `source` its file name, `why` what is the matter."""

    def __init__(
        self,
        where: str,
        why: str,
        *,
        source: str = "config.json",
        clause: str = "",
        hint: str = "",
        line: int = 0,
        column: int = 0,
    ) -> None:
        place = f":{line}:{column}" if line else ""
        name = dotted(where)
        text = f"{source}{place}: {name + ': ' if name else ''}{why}"
        if clause:
            text += f" [{clause}]"
        super().__init__(text, hint, pointer=where)
        self.where = where
        self.why = why
        self.source = source
        self.clause = clause
        self.line = line
        self.column = column


class RuleError(ConfigError):
    """Fields that are right one by one but not together; `clause` says which sentence of the specification."""


class StateError(Error):
    """A file in the state directory is missing, unreadable or not ours."""


class NotFound(Error):
    """No container of that id. Callers look for the words "does not exist"."""

    def __init__(self, id_: str) -> None:
        super().__init__(f'container "{id_}" does not exist', code="not-found")
        self.id = id_


class Exists(Error):
    """The id is taken."""

    def __init__(self, id_: str) -> None:
        super().__init__(
            f'container with id "{id_}" already exists: container with given ID already exists', code="exists"
        )
        self.id = id_


class StatusError(Error):
    """The container's status does not allow the verb."""


class KernelError(Error):
    """The kernel refused: `attempt` is what was tried, `errno` why, `place` which op or host step, or `pointer` which property."""

    def __init__(
        self, attempt: str, errno: int, place: str = "", detail: str = "", hint: str = "", pointer: str = ""
    ) -> None:
        from runtime.system import strerror

        # Engines written in Go search for Go's spelling, which has no capital (moby daemon/errors.go, podman
        # libpod/oci_util.go, containerd process/utils.go); with capitals docker turns a 127 into a 125.
        words = strerror(errno)
        text = f"{attempt}: {words[:1].lower()}{words[1:]}"
        if detail:
            text += f" ({detail})"
        if place or pointer:
            text += f" [{place or dotted(pointer)}]"
        super().__init__(text, hint, errno=errno, op=place, attempt=attempt)
        if pointer:
            self.record["pointer"] = pointer
        self.attempt = attempt
        self.errno = errno
        self.place = place
        self.detail = detail


class ExecError(KernelError):
    """The user's program could not be found or executed; the wording is runc's, which engines search for."""


class HookError(Error):
    """A hook failed: which, with what status, and the end of what it printed."""


class CgroupError(Error):
    """The cgroup could not be made, limited, joined, frozen or removed."""


class Unsupported(Error):
    """The host, or this build, lacks what the configuration demands; nothing was skipped in silence."""
