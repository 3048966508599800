"""CRI-O: crio.conf and its drop-ins, the runtimes by name, the monitor, the daemon."""

from __future__ import annotations

import os

from runtime.doctor import ERROR, NOTE, OK, Finding, entry, processes, settings, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.doctor.processes import Daemon
    from runtime.host import Host

FILE, SOCKET = "/etc/crio/crio.conf", "/var/run/crio/crio.sock"


def check(host: Host, config: str) -> Iterator[Finding]:
    """Everything about a CRI-O."""
    daemon = next((one for one in processes.daemons("crio") if not config or _reads(one, config)), None)
    path = config or (daemon.resolve(daemon.option("config", "c")) if daemon and daemon.option("config", "c") else "")
    yield from entry.installed("cri-o", "crio", daemon)
    found = settings.crio(path)
    if path and not found.files:
        raise FileNotFoundError(2, "not there", path)
    yield Finding(OK if found.files else NOTE, "engine.cri-o.config", "configuration", found.shown())
    runtimes = found.table("crio", "runtime", "runtimes")
    ours = {name: value for name, value in runtimes.items() if isinstance(value, dict) and _is_ours(name, value)}
    if not ours:
        others = ", ".join(runtimes) or "none is configured"
        yield Finding(
            ERROR, "engine.cri-o.runtime", "crio.runtime.runtimes", f"no pyrunc among them ({others})", _snippet(host)
        )
    for name, value in ours.items():
        yield from _runtime(name, value, daemon)
    default = found.text("crio", "runtime", "default_runtime") or "crun or runc"
    if default in ours:
        yield Finding(OK, "engine.cri-o.default", "default_runtime", f"{default}: every pod gets it")
    elif ours:
        advice = f'pods ask for it by a RuntimeClass with `handler: {next(iter(ours))}`, or below [crio.runtime]:\n  default_runtime = "{next(iter(ours))}"'
        yield Finding(
            NOTE,
            "engine.cri-o.default",
            "default_runtime",
            f"{default}: pods that name no RuntimeClass get that",
            advice,
        )
    yield _driver(host, found)
    yield from entry.running("cri-o", "crio", daemon, found.changed(), entry.restart("crio", host))
    if daemon:
        yield sockets.grpc(
            "engine.cri-o.socket", daemon.option("listen") or found.text("crio", "api", "listen") or SOCKET
        )


def _reads(daemon: Daemon, config: str) -> bool:
    return processes.is_same_file(daemon.resolve(daemon.option("config", "c") or FILE), config)


def _is_ours(name: str, value: dict[str, Any]) -> bool:
    path = str(value.get("runtime_path") or "")
    return "pyrunc" in name or bool(path and entry.is_ours(path))


def _snippet(host: Host) -> str:
    return f"""put into {FILE}.d/pyrunc.conf, then {entry.restart("crio", host)}:
  [crio.runtime.runtimes.pyrunc]
  runtime_path = "{entry.beside(entry.RUNTIME)}"
  runtime_type = "oci"
  runtime_root = "/run/pyrunc\""""


def _runtime(name: str, value: dict[str, Any], daemon: Daemon | None) -> Iterator[Finding]:
    id_, what = "engine.cri-o.runtime", f"runtimes.{name}"
    search = daemon.environment.get("PATH", processes.PATH) if daemon else processes.PATH
    yield from entry.program(id_, f"{what}.runtime_path", str(value.get("runtime_path") or name), search=search)
    kind = str(value.get("runtime_type") or "oci")
    if kind == "oci":
        yield Finding(OK, f"{id_}-type", f"{what}.runtime_type", kind)
    else:
        yield Finding(
            ERROR,
            f"{id_}-type",
            f"{what}.runtime_type",
            f'"{kind}" is for other programs than pyrunc',
            'runtime_type = "oci"',
        )
    monitor = str(value.get("monitor_path") or "")
    if monitor and entry.is_ours(monitor):
        yield from entry.program("engine.cri-o.conmon", f"{what}.monitor_path", monitor, entry.MONITOR, search)
    elif monitor and not os.access(monitor, os.X_OK):
        yield Finding(
            ERROR, "engine.cri-o.conmon-path", f"{what}.monitor_path", f"{monitor}: not a program", "apt install conmon"
        )


def _driver(host: Host, found: settings.Settings) -> Finding:
    # without a word CRI-O takes systemd, also where it does not run
    wanted = (found.text("crio", "runtime", "cgroup_manager") or "systemd") == "systemd"
    advice = 'below [crio.runtime], and in kubelet\'s configuration `cgroupDriver: cgroupfs`:\n  cgroup_manager = "cgroupfs"\n  conmon_cgroup = "pod"'
    return entry.systemd("engine.cri-o.systemd-cgroup", "cgroup_manager", wanted, host, advice)
