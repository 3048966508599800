"""What a container can be, and which verb each status allows. Pure.

The words are the runtime specification's (runtime.md, State), with runc's `paused` beside them, which engines expect.

                 create ──▶ creating ──▶ created ──start──▶ running ──exit──▶ stopped ──delete──▶ (gone)
                                                              ▲ │
                                                       resume │ ▼ pause
                                                             paused
"""

from __future__ import annotations

from runtime.errors import StatusError

CREATING = "creating"
CREATED = "created"
RUNNING = "running"
PAUSED = "paused"
STOPPED = "stopped"

#: verb -> status -> why not; a pair that is missing is allowed. The words are those that callers search for:
#: containerd maps "container not running" to not found, podman and cri-o read "stopped" and "paused".
_REFUSALS = {
    "start": {
        CREATING: "cannot start a container that is being created",
        RUNNING: "cannot start an already running container",
        PAUSED: "cannot start an already running container",
        STOPPED: "cannot start a container that has stopped",
    },
    "exec": {
        CREATING: "cannot exec in a container that is being created",
        STOPPED: "cannot exec in a stopped container",
        PAUSED: "cannot exec in a paused container (use --ignore-paused to override)",
    },
    "kill": {CREATING: "cannot kill a container that is being created", STOPPED: "container not running"},
    "pause": {
        CREATING: "cannot pause a container that is being created",
        STOPPED: "container not running",
        PAUSED: "cannot pause a container that is paused",
    },
    "resume": {
        CREATING: "cannot resume a container that is being created",
        CREATED: "container not paused",
        RUNNING: "container not paused",
        STOPPED: "container not running",
    },
    "update": {CREATING: "cannot update a container that is being created", STOPPED: "container not running"},
    "mounts": {CREATING: "cannot mount in a container that is being created", STOPPED: "container not running"},
    "delete": {
        CREATING: "cannot delete a container that is being created",
        RUNNING: "cannot delete a container that is not stopped: running",
        PAUSED: "cannot delete a container that is not stopped: paused",
    },
    "events": {CREATING: "container not running", STOPPED: "container not running"},
    "ps": {CREATING: "container not running"},
    "checkpoint": {
        CREATING: "cannot checkpoint a container that is being created",
        CREATED: "container cannot be checkpointed in created state",
        STOPPED: "container cannot be checkpointed in stopped state",
    },
}


def allow(verb: str, status: str, id_: str) -> None:
    """Raise StatusError unless a container of this status may be asked to do `verb`."""
    why = _REFUSALS[verb].get(status)
    if why:
        raise StatusError(why, code="status", id=id_, container_status=status)
