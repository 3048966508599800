"""Which fields of a bundle's config.json would fail on this host, and what to do.

The planner is the judge: what it refuses is taken out of the configuration, field by field, until it accepts the rest, so
that every refusal is found and not the first alone. What a plan cannot know is looked at beside it: files, programs, limits.
"""

from __future__ import annotations

import copy
import os

from runtime import bundle as documents
from runtime import jsonio, lifecycle
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, fields, guarded, rootfs
from runtime.errors import Error
from runtime.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.lifecycle import Context
    from runtime.plan import Plan

#: fields that the planner, the cgroups or seccomp may refuse on a host and accept on another, the likeliest first;
#: `*` stands for each of a list or object
_FIELDS = (
    "/linux/resources/*",
    "/linux/seccomp",
    "/linux/netDevices",
    "/linux/intelRdt",
    "/process/apparmorProfile",
    "/process/selinuxLabel",
    "/linux/mountLabel",
    "/process/user/additionalGids",
    "/linux/cgroupsPath",
    "/linux/sysctl/*",
    "/linux/namespaces/*",
    "/linux/timeOffsets",
    "/linux/devices/*",
    "/linux/memoryPolicy",
    "/process/scheduler",
    "/process/execCPUAffinity",
    "/mounts/*",
)
#: more than this many fields are not refused one by one
_ROUNDS = 32


class Options:
    """The options of a `create` by an engine: it brings a socket for a terminal, and the configuration is what is judged."""

    def __init__(self, config: str, console_socket: str) -> None:
        self.config = config
        self.console_socket = console_socket


def check(ctx: Context, path: str) -> Iterator[Finding]:
    """Everything about a bundle."""
    yield from guarded("bundle", lambda: _check(ctx, path))


def _check(ctx: Context, path: str) -> Iterator[Finding]:
    whole, raw = documents.read(path)
    wrong = list(_document(raw))
    yield from wrong
    if any(finding.severity == ERROR for finding in wrong):
        yield Finding(NOTE, "bundle.plan", "the rest", "not looked at, until config.json is right")
        return
    config: Any = jsonio.loads(raw, "config.json")
    host = Host()
    plan, left, refused = _planned(ctx, whole, config)
    yield from refused
    if plan is not None:
        yield Finding(OK if not refused else NOTE, "bundle.plan", "plan", _size(plan, refused))
        for warning in plan.warnings:
            yield Finding(WARNING, "bundle.warning", "create would warn", warning.removesuffix(", ignoring"))
        yield from guarded("bundle.cgroup", lambda: fields.cgroup(plan))
    yield from guarded("bundle.process", lambda: fields.process(host, left))
    yield from guarded("bundle.users", lambda: fields.users(host, left))
    yield from guarded("bundle.mounts", lambda: fields.mounts(host, whole, left))
    yield from guarded("bundle.hooks", lambda: fields.hooks(left))
    yield from guarded("bundle.rootfs", lambda: rootfs.check(host, whole, left))


def _document(raw: bytes) -> Iterator[Finding]:
    """What `validate` finds; what only --strict minds is a note."""
    usual = documents.findings(raw)
    for fault in documents.findings(raw, strict=True):
        severity = fault.severity if fault in usual else NOTE
        what = fault.pointer or "config.json"
        place = f" (line {fault.line})" if fault.line else ""
        expected = f": expected {fault.expected}, found {fault.found}" if fault.expected else ""
        clause = f" [{fault.clause}]" if fault.clause else ""
        yield Finding(severity, "bundle.config", f"{what}{place}", fault.why + expected + clause, fault.hint)
    if not usual:
        yield Finding(OK, "bundle.config", "config.json", "as the specification wants it")


def _size(plan: Plan, refused: list[Finding]) -> str:
    rest = "the rest of it is accepted: " if refused else ""
    return f"{rest}{len(plan.host)} steps of the host, {len(plan.ops)} operations of init"


# -- the planner as judge --------------------------------------------------------------------------------------------


def _planned(ctx: Context, path: str, config: dict[str, Any]) -> tuple[Plan | None, dict[str, Any], list[Finding]]:
    """The plan of what is accepted, that configuration, and what was refused."""
    found: list[Finding] = []
    for _ in range(_ROUNDS):
        plan, error = _plan(ctx, path, config)
        if plan is not None:
            return plan, config, found
        assert error is not None
        pointer, rest = _culprit(ctx, path, config, error)
        what = pointer or str(error.record.get("pointer") or "") or "create"
        found.append(
            Finding(ERROR, "bundle.refused", what, _plain(error.message, what), error.hint or _advice(pointer))
        )
        if not pointer:
            break
        config = rest
    return None, config, found


def _plain(message: str, pointer: str) -> str:
    """The message without the place that stands before it already."""
    return message.removeprefix("config.json: ").removeprefix(pointer.strip("/").replace("/", ".") + ": ")


def _plan(ctx: Context, path: str, config: dict[str, Any]) -> tuple[Plan | None, Error | None]:
    # a file in memory: the planner reads what it is given by path
    fd = os.memfd_create("config.json")
    try:
        os.write(fd, jsonio.dumps(config).encode("utf-8", "surrogateescape"))
        socket = "terminal.sock" if (config.get("process") or {}).get("terminal") else ""
        return lifecycle.plan(ctx, "doctor", path, Options(f"/proc/self/fd/{fd}", socket)), None
    except Error as error:
        return None, error
    finally:
        os.close(fd)


def _culprit(ctx: Context, path: str, config: dict[str, Any], error: Error) -> tuple[str, dict[str, Any]]:
    """The field without which the same error does not come, and the configuration without it."""
    for pointer in _candidates(config):
        rest = without(config, pointer)
        plan, other = _plan(ctx, path, rest)
        if plan is not None or (other is not None and other.message != error.message):
            return pointer, rest
    return "", config


def _candidates(config: dict[str, Any]) -> Iterator[str]:
    for field in _FIELDS:
        parent, _, last = field.rpartition("/")
        value = _at(config, parent)
        if last != "*":
            if isinstance(value, dict) and value.get(last):
                yield field
        elif isinstance(value, dict):
            yield from (f"{parent}/{_escaped(key)}" for key in value)
        elif isinstance(value, list):
            yield from (f"{parent}/{index}" for index in range(len(value)))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _at(config: Any, pointer: str) -> Any:
    for name in pointer.split("/")[1:]:
        config = config.get(name) if isinstance(config, dict) else None
    return config


def without(config: dict[str, Any], pointer: str) -> dict[str, Any]:
    """The configuration without the field at a JSON pointer."""
    out = copy.deepcopy(config)
    *names, last = [word.replace("~1", "/").replace("~0", "~") for word in pointer.split("/")[1:]]
    place: Any = out
    for name in names:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if isinstance(place, list):
        del place[int(last)]
    else:
        del place[last]
    return out


def _advice(pointer: str) -> str:
    if not pointer:
        return ""
    if pointer == "/linux/resources/unified":
        return "take it out, and write the limits as properties of their own"
    if pointer.startswith("/linux/resources/"):
        return "take the limit out, or give this user the controller: `pyrunc doctor` says which there are"
    if pointer == "/linux/seccomp":
        return "apt install libseccomp2"
    if pointer in ("/process/apparmorProfile", "/process/selinuxLabel", "/linux/mountLabel"):
        return "take it out, or boot a kernel with that security module"
    return "take it out, or run this bundle elsewhere"
