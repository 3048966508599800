"""Mounts of a running container, `mounts add` and `mounts remove`: all that a document names, or none of it.

A helper, the interpreter with a plan of `planner.running`, joins the container's mount namespace. It gives each mount to us before it
attaches it, so that what has been attached can be taken back by its own descriptor when a later one fails. Nothing of it is
kept: mounts end with the container's mount namespace, and a restart of the container has those of its configuration.
"""

from __future__ import annotations

from errno import EINVAL

from runtime import bundle, identity, lifecycle, planner, status
from runtime import system as os
from runtime.errors import ConfigError, Error, KernelError, StatusError
from runtime.host import Host
from runtime.launch import carry_out
from runtime.planner import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.launch import Launch
    from runtime.plan import Plan, Step
    from runtime.planner import Request
    from runtime.store import Entry


class Mounting:
    """A change of a container's mounts: its plan, and what of it has been done."""

    def __init__(self, entry: Entry, verb: str, path: str) -> None:
        word, self.pid = entry.status()
        status.allow("mounts", word, entry.id)
        if entry.state is None:
            raise StatusError("container not running", code="status")
        self.saved = entry.state
        self.config = lifecycle.config_of(entry)
        self.verb = verb
        self.entries: list[dict[str, Any]] = bundle.load_mounts(path)
        #: (place, the mount) of each that may be attached by now
        self.held: list[tuple[str, int]] = []
        try:
            if verb == "add":
                bundle.check_mounts(self.entries, path, self.config)
                self.plan = running.add(self._request(), self.pid)
            else:
                self.plan = running.remove(self._request(), self.entries)
        except ConfigError as error:
            raise ConfigError(error.where, error.why, source=path, clause=error.clause, hint=error.hint) from None

    def _request(self) -> Request:
        request = planner.Request()
        request.id = self.saved["id"]
        request.bundle = self.saved["bundle"]
        request.rootfs = self.saved["rootfs"]
        request.config = {**self.config, "mounts": self.entries}
        request.host = Host()
        request.namespaces = self.saved["namespaces"]
        return request

    def go(self) -> list[str]:
        """Carry the plan out, or take back what was done of it; the warnings."""
        init_fd = identity.open_process(self.pid, self.saved["start_time"])
        if init_fd < 0:
            raise StatusError("container not running", code="status")
        try:
            return carry_out(self.plan, [init_fd], {"hold": self._hold, "idmap": _user_ns})
        except Error as error:
            if self.verb == "remove" and error.record.get("errno") == EINVAL:
                error.hint = (
                    error.hint or "nothing is mounted there, or it may not be unmounted from within the container"
                )
            self._undo(init_fd, error)
            raise
        finally:
            for _, fd in self.held:
                os.close(fd)
            os.close(init_fd)

    def _undo(self, init_fd: int, error: Error) -> None:
        for place, fd in reversed(self.held):
            plan = running.undo(self._request(), place)
            try:
                carry_out(plan, [init_fd, fd])
            except Error as second:
                # EINVAL: it had not been attached yet
                if second.record.get("errno") != EINVAL:
                    error.message += f"; and what was mounted before is still there: {second.message}"

    def _hold(self, step: Step, launch: Launch, given: int) -> int:
        if given < 0:
            raise KernelError(f"get the mount for {step[1]}", 9)
        self.held.append((step[1], os.dup(given)))
        return -1


def _user_ns(step: Step, launch: Launch, given: int) -> int:
    from runtime import userns

    return userns.namespace_of(step[2])


def change(ctx: lifecycle.Context, id_: str, verb: str, path: str) -> None:
    """Add the mounts that the document at `path` names to the container, or with `remove` take them away."""
    entry = lifecycle.locked(ctx, id_, "mounts")
    try:
        for warning in Mounting(entry, verb, path).go():
            ctx.warn(warning)
    finally:
        entry.close()


def plan(ctx: lifecycle.Context, id_: str, verb: str, path: str) -> Plan:
    """What `change` would do, nothing of it done."""
    entry = lifecycle.find(ctx, id_)
    try:
        return Mounting(entry, verb, path).plan
    finally:
        entry.close()
