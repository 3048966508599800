"""A runtime that an engine has been told of: whether its path leads to a pyrunc that answers, and to this one.

The same for the shim and the monitor. `Names` says how findings of one engine are called.
"""

from __future__ import annotations

import os
import sys

import runtime
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, cgroups, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.doctor.processes import Daemon
    from runtime.host import Host

#: the kernel gives its own start in whole seconds, and the start of a process from there
_BOOT_S = 1.0
RUNTIME, SHIM, MONITOR = "pyrunc", "containerd-shim-pyrunc-v2", "pyrunc-conmon"


def beside(name: str) -> str:
    """Where this installation's program of that name is, as far as it is known: its launchers are in one directory."""
    own = os.path.abspath(sys.argv[0]) if "/" in sys.argv[0] else processes.find_program(sys.argv[0])
    found = os.path.join(os.path.dirname(own), name)
    if os.access(found, os.X_OK):
        return found
    return processes.find_program(name) or f"/usr/local/bin/{name}"


def is_ours(path: str) -> bool:
    """Whether a path is meant to be pyrunc: by its name, or because it leads to this installation's launcher."""
    return "pyrunc" in os.path.basename(path) or processes.is_same_file(path, beside(RUNTIME))


def _is_name(path: str) -> bool:
    """Whether a file may be called that: a document can have texts that are none."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def program(id_: str, what: str, path: str, name: str = RUNTIME, search: str = "") -> Iterator[Finding]:
    """The checks of a configured program: absolute, there, executable, answering, and of this installation.

    `search` are the directories in which a name without a slash is looked for; "" where the engine wants a path.
    """
    right = beside(name)
    if not _is_name(path):
        yield Finding(ERROR, f"{id_}-path", what, f'"{path}": no file can be called that', f"write the path: {right}")
        return
    if not path.startswith("/"):
        found = processes.find_program(path, search) if search and "/" not in path else ""
        if not found:
            where = f"looked for in {search}, and not found" if search else "no absolute path"
            yield Finding(ERROR, f"{id_}-path", what, f'"{path}": {where}', f"write the whole path: {right}")
            return
        yield Finding(
            NOTE,
            f"{id_}-absolute",
            what,
            f'"{path}" is found as {found}, which depends on the engine\'s PATH',
            f"write the whole path: {right}",
        )
        path = found
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        yield Finding(
            ERROR,
            f"{id_}-path",
            what,
            f"{path}: {error.strerror}",
            f"make install, or write the path of the one that is there: {right}",
        )
        return
    if mode & 0o170000 != 0o100000 or not os.access(path, os.X_OK):
        yield Finding(ERROR, f"{id_}-path", what, f"{path}: not a program", f"write the path of the launcher: {right}")
        return
    yield Finding(OK, f"{id_}-path", what, path)
    yield from _version(id_, what, path, name, right)


def _version(id_: str, what: str, path: str, name: str, right: str) -> Iterator[Finding]:
    words = [path, "-v" if name == SHIM else "--version"]
    told = processes.answer(words).splitlines()
    if not told:
        yield Finding(
            ERROR,
            f"{id_}-version",
            what,
            f"`{' '.join(words)}` does not answer",
            f"run it to see why:\n  {' '.join(words)}",
        )
        return
    first = " ".join(line.strip() for line in told[:2])
    if name == RUNTIME and not told[0].startswith("pyrunc version "):
        yield Finding(
            ERROR,
            f"{id_}-version",
            what,
            f'{path} says "{told[0]}": this is not pyrunc',
            f"write the path of pyrunc: {right}",
        )
    elif processes.is_same_file(path, right):
        yield Finding(OK, f"{id_}-version", what, f'"{first}", of this installation')
    elif runtime.VERSION in told[0] or name != RUNTIME:
        yield Finding(NOTE, f"{id_}-version", what, f'"{first}", which is not the {right} that belongs to this command')
    else:
        found = f'"{first}" is another installation: this one is {right}, version {runtime.VERSION}'
        yield Finding(WARNING, f"{id_}-version", what, found, f"write {right}, or remove the one that is not wanted")


def systemd(id_: str, what: str, is_wanted: bool, host: Host, advice: str) -> Finding:
    """Whether the cgroup driver that the engine asks for can be had."""
    if not is_wanted:
        return Finding(OK, id_, what, "cgroupfs")
    if not host.is_systemd:
        return Finding(ERROR, id_, what, "systemd, which does not run here: every create would fail", advice)
    if not cgroups.has_systemd_driver():
        return Finding(
            ERROR, id_, what, "systemd, which this version of pyrunc does not drive: every create would fail", advice
        )
    return Finding(OK, id_, what, "systemd")


def installed(engine: str, name: str, daemon: Daemon | None = None) -> Iterator[Finding]:
    """Whether the engine is there, and its version."""
    path = _program_of(daemon, name)
    id_ = f"engine.{engine}.installed"
    if path:
        told = processes.answer([path, "--version"]).splitlines()
        yield Finding(OK, id_, name, f"{path}: {told[0]}" if told else path)
    else:
        yield Finding(
            ERROR, id_, name, "not installed, or not in PATH", "install it; its configuration is looked at all the same"
        )


def _program_of(daemon: Daemon | None, name: str) -> str:
    return daemon.exe if daemon and os.access(daemon.exe, os.X_OK) else processes.find_program(name)


def version(daemon: Daemon | None, name: str) -> tuple[int, ...]:
    """The version of an engine's program, () where it does not say."""
    path = _program_of(daemon, name)
    for word in processes.answer([path, "--version"]).replace(",", " ").split() if path else ():
        numbers = word.lstrip("v").split(".")
        if len(numbers) > 1 and numbers[0].isdigit() and numbers[1].isdigit():
            return int(numbers[0]), int(numbers[1])
    return ()


def others(engine: str, configs: dict[int, str]) -> Iterator[Finding]:
    """Further daemons of the kind, which are not looked at."""
    if configs:
        found = ", ".join(f"process {pid} with {config}" for pid, config in configs.items())
        yield Finding(NOTE, f"engine.{engine}.others", "not looked at", found, "ask for one with --config")


def restart(service: str, host: Host, verb: str = "restart") -> str:
    """How a daemon is made to read its configuration."""
    if host.is_systemd:
        return f"systemctl {verb} {service}"
    return (
        f"service {service} {verb}"
        if os.path.exists(f"/etc/init.d/{service}")
        else f"stop {service} and start it again"
    )


def running(engine: str, name: str, daemon: Daemon | None, changed: float, advice: str) -> Iterator[Finding]:
    """Whether the daemon runs, and with the configuration that is there now (`changed`: when that was written)."""
    id_ = f"engine.{engine}.running"
    if daemon is None:
        yield Finding(WARNING, id_, name, "does not run here with this configuration", f"as root: {advice}")
        return
    yield Finding(OK, id_, name, f"process {daemon.pid}: {' '.join(daemon.argv)[:200]}")
    if changed > daemon.started + _BOOT_S:
        found = "its configuration was changed after it was started"
        yield Finding(WARNING, f"engine.{engine}.restart", f"process {daemon.pid}", found, f"as root: {advice}")
