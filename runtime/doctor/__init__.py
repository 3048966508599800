"""What is wrong with a host, an engine's set-up, a bundle or a container, and what to do about it. For people; cold.

Each module looks at one subject and yields findings. A finding's `id` is stable, so that programs can ask for it by name;
what was looked at and what was found are one line, the advice is for pasting. Nothing here changes what it looks at: the
only processes that are made end at once, and the only files are in memory.

    host.py        kernel.py cgroups.py privileges.py security.py programs.py: what this machine offers and lacks
    engines.py     containerd.py docker.py podman.py crio.py, over entry.py (a runtime that is configured), settings.py (their
                   files) and processes.py (their daemons)
    bundle.py      which fields of a config.json would fail here; rootfs.py: which programs of it are missing
    container.py   why one does not do what it should; sleeping.py: what a process waits for
"""

from __future__ import annotations

from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
#: from good to bad
SEVERITIES = (OK, NOTE, WARNING, ERROR)


class Finding:
    """One thing that was looked at: `what` it is, what was `found`, and what to do (empty where there is nothing to do)."""

    __slots__ = ("advice", "found", "id", "severity", "what")

    def __init__(self, severity: str, id_: str, what: str, found: str, advice: str = "") -> None:
        self.id = id_
        self.severity = severity
        self.what = what
        self.found = found
        self.advice = advice

    def __repr__(self) -> str:
        return f"<{self.severity} {self.id}: {self.what}: {self.found}>"

    def record(self) -> dict[str, str]:
        """The finding as an object of the JSON list."""
        return {name: getattr(self, name) for name in ("id", "severity", "what", "found", "advice")}


def worst(findings: Iterable[Finding]) -> str:
    """The worst severity of them all."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default=OK)


def guarded(id_: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; where it cannot look, that is a finding as well, and hides no other check's."""
    try:
        yield from check()
    except Error as error:
        yield Finding(ERROR, id_, "this check", error.message, error.hint)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        yield Finding(WARNING, id_, "this check", f"cannot look: {error.strerror}{where}")
