"""One supervised process: its state as a table by event, its exit status, and who waits for that.

    created --start--> running --pause--> paused --resume--> running
       |                  |                  |
       +-------exit-------+-------exit-------+--> stopped --delete--> deleted

What a state does not allow is refused with the words that containerd's own shim uses, which people search for. This module
must start nothing and signal nobody: it remembers what happened.
"""

from __future__ import annotations

from shim.flow import Later

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: state -> event -> state
    States = dict[str, dict[str, str]]

#: a container's init
INIT: States = {
    "created": {
        "start": "running",
        "exit": "stopped",
        "delete": "deleted",
        "kill": "created",
        "exec": "created",
        "update": "created",
    },
    "running": {
        "pause": "paused",
        "exit": "stopped",
        "kill": "running",
        "exec": "running",
        "update": "running",
        "checkpoint": "running",
    },
    "paused": {"resume": "running", "exit": "stopped", "kill": "paused", "update": "paused", "checkpoint": "paused"},
    "stopped": {"exit": "stopped", "kill": "stopped", "delete": "deleted"},
    "deleted": {"exit": "deleted"},
}
#: a container that is to be restored from a checkpoint: there is nothing to enter yet
RESTORED: States = {
    **INIT,
    "created": {"start": "running", "exit": "stopped", "delete": "deleted", "kill": "created", "update": "created"},
}
#: another process in a container, which containerd starts after it has announced it
EXEC: States = {
    "created": {"start": "running", "exit": "stopped", "kill": "created", "resize": "created", "delete": "deleted"},
    "running": {"exit": "stopped", "kill": "running", "resize": "running"},
    "stopped": {"exit": "stopped", "kill": "stopped", "delete": "deleted"},
    "deleted": {"exit": "deleted"},
}

#: event -> what is refused, with the state as {}
REFUSALS = {
    "start": "cannot start a {} process",
    "delete": "cannot delete a {} process",
    "pause": "cannot pause a {} container",
    "resume": "cannot resume a {} container",
    "exec": "cannot exec in a {} state",
    "update": "cannot update a {} container",
    "checkpoint": "cannot checkpoint a {} container",
    "resize": "cannot resize a {} container",
    "kill": "cannot kill a {} process",
}
#: and where the words are others
WORDS = {
    ("created", "pause"): "cannot pause task in created state",
    ("created", "resume"): "cannot resume task in created state",
    ("created", "checkpoint"): "cannot checkpoint a task in created state",
    ("running", "resume"): "cannot resume a running process",
}


class Refused(Exception):
    """The state does not allow it."""


class Process:
    """What is known of a process. `pid` is 0 until it has one."""

    __slots__ = ("_states", "ended", "exited_at_ns", "pid", "state", "status")

    def __init__(self, states: States) -> None:
        self._states = states
        self.state = "created"
        self.pid = 0
        #: as a shell counts it, 128 + N for signal N; meaningless before `exited_at_ns` is set
        self.status = 0
        #: time of day, 0 while it has not ended
        self.exited_at_ns = 0
        #: set when it has ended, or when it is certain that it will never run
        self.ended = Later()

    def check(self, event: str) -> None:
        """Refused where the state does not allow the event."""
        if event not in self._states[self.state]:
            words = WORDS.get((self.state, event)) or REFUSALS[event].format(self.state)
            raise Refused(words)

    def note(self, event: str) -> None:
        """The event has happened. An end that came first has the last word."""
        self.state = self._states[self.state].get(event, self.state)

    def exit(self, status: int, at_ns: int) -> None:
        """It has ended: remember how. The caller sets `ended` when all has happened that who waits for it relies on."""
        self.status = status
        self.exited_at_ns = at_ns
        self.note("exit")
