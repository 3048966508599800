"""`--timings`: where the time of a command goes, by phase, printed on standard error when the command is done.

    timings: create web: 31.42 ms
          6.10 ms  start the interpreter (processor time)
          3.02 ms  load modules
          0.41 ms  read and check the documents
          1.20 ms  init: up to ask join-cgroup [init 2]
          ...

Functions that begin a phase are wrapped, by the table below, and only when the option is given: who does not ask pays
nothing. What one phase spends inside another counts for the inner one alone, so that the numbers add up to the first line.
"""

from __future__ import annotations

import time
from importlib import import_module

from runtime import system as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REST = "everything else"

#: where a function is found by whoever calls it, and what it does
_COMMON = (
    ("runtime.store:find", "find the container"),
    ("runtime.store:Entry.load", "find the container"),
    ("runtime.store:Entry.status", "find the container"),
    ("runtime.store:Entry.lock", "wait for other commands at work on it"),
    ("runtime.store:Entry.remove", "state directory"),
    ("runtime.lifecycle:_release", "init: start the program"),
    ("runtime.lifecycle:poststart", "hooks"),
)
_LAUNCHING = (
    ("runtime.bundle:load", "read and check the documents"),
    ("runtime.bundle:load_process", "read and check the documents"),
    ("runtime.cgroups:choose", "decide about the cgroup"),
    ("runtime.cgroups:from_state", "decide about the cgroup"),
    ("runtime.seccomp:prepare", "compile or fetch the seccomp filter"),
    ("runtime.planner:create", "plan"),
    ("runtime.planner:exec_process", "plan"),
    ("runtime.steps:write_pid_file", "hand out the pid"),
    ("runtime.foreground:wait", "the program"),
)
_MAKING = (
    *_LAUNCHING,
    ("runtime.making:check", "plan"),
    ("runtime.reserving:reserve", "state directory"),
    ("runtime.store:Entry.note", "state directory"),
    ("runtime.store:Entry.write", "state directory"),
    ("runtime.store:Entry.save", "state directory"),
    ("runtime.creation:Made._cgroup_step", "cgroup"),
    ("runtime.creation:Made.undo", "undo"),
)
_REMOVAL = (
    ("runtime.removal:kill_and_wait", "kill, and wait for the end"),
    ("runtime.removal:_remove_cgroup", "cgroup"),
    ("runtime.removal:poststop", "hooks"),
)
PHASES = {
    "create": (*_COMMON, *_MAKING),
    "run": (*_COMMON, *_MAKING, *_REMOVAL),
    "restore": (*_COMMON, *_MAKING),
    "exec": (*_COMMON, *_LAUNCHING, ("runtime.joining:check", "plan")),
    "delete": (*_COMMON, *_REMOVAL),
}


class Clock:
    """Seconds by phase; one of them is running at any time."""

    def __init__(self, processor_s: float) -> None:
        self.spent = {"start the interpreter (processor time)": processor_s}
        self.phase = REST
        self.since = time.monotonic()

    def turn(self, phase: str) -> str:
        """From now on it is this phase; the one before."""
        now = time.monotonic()
        before = self.phase
        self.spent[before] = self.spent.get(before, 0.0) + now - self.since
        self.phase, self.since = phase, now
        return before

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with what it takes counted for the phase."""

        def call(*args: Any, **named: Any) -> Any:
            before = self.turn(phase)
            try:
                return function(*args, **named)
            finally:
                self.turn(before)

        return call


def begin(command: str) -> Clock:
    """Wrap the functions of a command's phases."""
    clock = Clock(time.process_time())
    clock.turn("load modules")
    import_module(f"runtime.cli.{command}")
    for place, phase in PHASES.get(command, _COMMON):
        name, _, attribute = place.partition(":")
        owner: Any = import_module(name)
        *path, last = attribute.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, clock.timed(phase, getattr(owner, last)))
    if command in ("create", "run", "exec", "restore"):
        _watch_init(clock)
    clock.turn(REST)
    return clock


def _watch_init(clock: Clock) -> None:
    """Count what init works for the op that it speaks of next, and each answer for itself."""
    from runtime import launch, wire

    kernel: Any = vars(launch)["kernel"]  # what launch makes of it, and not for more than to look at the clock
    receive, answer, ask = kernel.receive, launch.Launch._answer, launch.Launch._ask

    def answered(self: launch.Launch, kind: int, index: int, *rest: Any) -> None:
        waited = clock.spent.pop("init", 0.0)
        phase = f"init: up to {wire.words(self.plan.ops[index])} [init {index}]"
        clock.spent[phase] = clock.spent.get(phase, 0.0) + waited
        answer(self, kind, index, *rest)

    def asked(self: launch.Launch, op: Any, number: int, given: int) -> None:
        # the first step stands for all of an answer, which has seldom more than one
        step = next(iter(list(self.plan.sections.values())[number]), ("none", "", ""))
        clock.timed(f"answer: {step[0]} {step[1]}".strip(), ask)(self, op, number, given)

    changed: tuple[tuple[Any, str, Any], ...] = (
        (launch.Launch, "_answer", answered),
        (launch.Launch, "_ask", asked),
        (kernel, "receive", clock.timed("init", receive)),
        (kernel, "launch", clock.timed("start init", kernel.launch)),
    )
    for owner, name, function in changed:
        setattr(owner, name, function)


def finish(clock: Clock, what: str) -> None:
    """Print what each phase took; a phase that took next to nothing is not worth a line."""
    clock.turn("")
    if "init" in clock.spent:
        clock.spent["init: to its wait for start, or its exec"] = clock.spent.pop("init")
    clock.spent[REST] = clock.spent.pop(REST, 0.0)  # last
    lines = [f"timings: {what}: {sum(clock.spent.values()) * 1000:.2f} ms\n"]
    lines += [f"{seconds * 1000:10.2f} ms  {phase}\n" for phase, seconds in clock.spent.items() if seconds >= 5e-6]
    os.write(2, "".join(lines).encode("utf-8", "backslashreplace"))
