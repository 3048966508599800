"""Other limits for a cgroup that is there and has some: all of them, or none.

Which of two limits has to be changed first depends on those in force: v1 wants memory <= memory+swap at every moment, a
burst has to fit below its quota, and so on. So nothing is computed: what the kernel refuses as invalid is tried again after
the others, and where that does not help either, everything is put back. systemd, where it knows of the cgroup, is told what
the kernel has taken.
"""

from __future__ import annotations

from errno import EINVAL

from runtime import system as os
from runtime.cgroups import devices, making, resources, walk
from runtime.errors import CgroupError, Error
from runtime.texts import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cgroups import NoCgroup
    from runtime.cgroups.fs import Cgroup, Step


def update(cgroup: Cgroup | NoCgroup, before: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Put the limits of `changed` in force; the resources that the container has then."""
    after = resources.merged(before, changed)
    cgroup.warnings += resources.ignored(changed)
    found = resources.writes(cgroup.version, after, changed=changed)
    rules = _device_rules(cgroup, changed)
    if not found and not rules:
        return after
    if not cgroup.paths:
        cgroup.steps({"linux": {"resources": after}})  # raises, with the reason why there is no cgroup
        return after
    cgroup.asked = changed  # type: ignore[union-attr]
    limits = making.limits(cgroup, found)  # type: ignore[arg-type]
    _check_memory(cgroup, after.get("memory") or {}, changed.get("memory") or {})
    if rules:
        after["devices"] = rules
        limits += making.device_steps(cgroup, rules)  # type: ignore[arg-type]
    undo = _apply(cgroup, limits, before.get("devices"))  # type: ignore[arg-type]
    try:
        rounded = cgroup.tell(found, after, rules)
    except Error:
        _put_back(cgroup, undo)  # type: ignore[arg-type]
        raise
    for step in limits:
        if os.path.basename(step[1]) in rounded:
            cgroup.run(step)
    return after


def _device_rules(cgroup: Cgroup | NoCgroup, changed: dict[str, Any]) -> list[dict[str, Any]]:
    """The device rules to put in place of those in force. Only v2 can do that while processes are about to use a device.

    A list that allows nothing is what engines send along with whatever is to be changed: what create allowed stays allowed.
    """
    rules: list[dict[str, Any]] = changed.get("devices") or []
    return rules if cgroup.version == 2 and any(rule.get("allow") for rule in rules) else []


def _check_memory(cgroup: Any, memory: dict[str, Any], changed: dict[str, Any]) -> None:
    limit = changed.get("limit") or 0
    if not memory.get("checkBeforeUpdate") or limit <= 0:
        return
    file = "memory.usage_in_bytes" if cgroup.version == 1 else "memory.current"
    usage = walk.number(f"{cgroup.place('memory')}/{file}")
    if usage > limit:
        # v2 would kill until what is left fits
        raise CgroupError(f"unable to set memory limit to {limit} (current usage: {usage}, checkBeforeUpdate)")


def _apply(cgroup: Cgroup, steps: list[Step], rules: list[dict[str, Any]] | None) -> list[Step]:
    """Do the steps, and answer those that have it all back."""
    undo: list[Step] = []
    try:
        while steps:
            put_off: list[Step] = []
            why: Error | None = None
            for step in steps:
                old = _in_force(step, rules)
                try:
                    cgroup.run(step)
                except CgroupError as error:
                    if error.record.get("errno") != EINVAL:
                        raise
                    put_off.append(step)
                    why = why or error
                else:
                    undo += old
            if why is not None and len(put_off) == len(steps):
                raise why
            steps = put_off
    except Error:
        _put_back(cgroup, undo)
        raise
    return undo


def _put_back(cgroup: Cgroup, undo: list[Step]) -> None:
    for step in reversed(undo):
        try:
            cgroup.run(step)
        except Error as error:
            cgroup.warnings.append(f"put back the old limit: {error}")


def _in_force(step: Step, rules: list[dict[str, Any]] | None) -> list[Step]:
    """What to do to have again what a step replaces."""
    kind, target, value = step
    if kind.startswith("devices"):
        return [(kind, target, devices.text(devices.state(rules)))]
    folder, _, files = target.rpartition("/")
    for file in files.split(resources.EITHER):
        path = f"{folder}/{file}"
        if os.path.exists(path):
            return [("write", path, _old(walk.text(path), value.split(resources.EITHER)[0]))]
    return []


def _old(text: str, value: str) -> str:
    key, space, setting = value.partition(" ")
    if not space or ":" not in key:
        return text.strip()
    for line in lines(text):
        if line.startswith(key + " "):
            return line  # a file with a line for each device
    return f"{key} {setting.partition('=')[0]}=max" if "=" in setting else f"{key} 0"
