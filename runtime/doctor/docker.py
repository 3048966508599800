"""Docker: daemon.json, the flags that dockerd was started with, and what the running daemon says of itself."""

from __future__ import annotations

from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, entry, processes, settings, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.doctor.processes import Daemon
    from runtime.host import Host

FILE, SOCKET = "/etc/docker/daemon.json", "/var/run/docker.sock"
#: runtimes by the name of their shim came with this version
_TYPES_SINCE = (23, 0)
#: names that dockerd keeps for itself
_RESERVED = ("runc", "io.containerd.runc.v2")


def check(host: Host, config: str) -> Iterator[Finding]:
    """Everything about a dockerd."""
    daemons = _daemons(config)
    daemon = daemons[0] if daemons else None
    path = config or (_config_of(daemon) if daemon else FILE)
    yield from entry.installed("docker", "dockerd", daemon)
    yield from entry.others("docker", {one.pid: _config_of(one) for one in daemons[1:]})
    found = settings.Settings()
    try:
        found.values = settings.json(path)
    except FileNotFoundError:
        if config:
            raise
        yield Finding(NOTE, "engine.docker.config", path, "not there")
    else:
        found.files.append(path)
        yield Finding(OK, "engine.docker.config", "configuration", path)
    runtimes = {**found.table("runtimes"), **_added(daemon)}
    ours = {name: value for name, value in runtimes.items() if isinstance(value, dict) and _is_ours(name, value)}
    version = entry.version(daemon, "dockerd")
    if not ours:
        yield Finding(
            ERROR,
            "engine.docker.runtime",
            "runtimes",
            f"no pyrunc among them ({', '.join(runtimes) or 'none is configured'})",
            _snippet(path, host),
        )
    for name, value in ours.items():
        yield from _runtime(name, value, daemon, version)
    default = (daemon and daemon.option("default-runtime")) or found.text("default-runtime") or "runc"
    if ours:
        yield _default(default, ours)
    yield _driver(host, found, daemon, path)
    yield from entry.running("docker", "dockerd", daemon, 0.0, entry.restart("docker", host))
    if daemon:
        yield from _asked(host, found, daemon, ours)


def _config_of(daemon: Daemon) -> str:
    path = daemon.option("config-file")
    return daemon.resolve(path) if path else FILE


def _daemons(config: str) -> list[Daemon]:
    """The dockerds that run with this configuration; without one all of them, the usual one first."""
    found = processes.daemons("dockerd")
    if config:
        return [daemon for daemon in found if processes.is_same_file(_config_of(daemon), config)]
    return sorted(found, key=lambda one: _config_of(one) != FILE)


def _added(daemon: Daemon | None) -> dict[str, Any]:
    """Runtimes of --add-runtime NAME=PATH; they are added to those of the file."""
    pairs = [word.partition("=") for word in (daemon.options("add-runtime") if daemon else ())]
    return {name: {"path": path} for name, _, path in pairs}


def _is_ours(name: str, value: dict[str, Any]) -> bool:
    path = str(value.get("path") or "")
    return "pyrunc" in name or "pyrunc" in str(value.get("runtimeType")) or bool(path and entry.is_ours(path))


def _snippet(path: str, host: Host) -> str:
    return f"""put into {path}, then {entry.restart("docker", host, "reload")}, and `docker run --runtime pyrunc ...` works:
  {{ "runtimes": {{ "pyrunc": {{ "path": "{entry.beside(entry.RUNTIME)}" }} }} }}"""


def _runtime(name: str, value: dict[str, Any], daemon: Daemon | None, version: tuple[int, ...]) -> Iterator[Finding]:
    id_, what = "engine.docker.runtime", f"runtimes.{name}"
    if name in _RESERVED:
        yield Finding(
            ERROR, f"{id_}-name", what, "dockerd keeps this name for itself and would not start", 'call it "pyrunc"'
        )
    kind, path = str(value.get("runtimeType") or ""), str(value.get("path") or "")
    search = daemon.environment.get("PATH", processes.PATH) if daemon else processes.PATH
    if path:
        yield from entry.program(id_, f"{what}.path", path, search=search)
    given = value.get("runtimeArgs")
    if given and not isinstance(given, list):
        yield Finding(ERROR, f"{id_}-args", f"{what}.runtimeArgs", "not a list, and dockerd would not start")
    elif given:
        text = f"{' '.join(map(str, given))}: dockerd puts a shell script around pyrunc, which costs a shell per call"
        yield Finding(NOTE, f"{id_}-args", f"{what}.runtimeArgs", text)
    if kind and version and version < _TYPES_SINCE:
        text = f'"{kind}": dockerd {version[0]}.{version[1]} does not know it, 23 and newer do'
        yield Finding(ERROR, f"{id_}-type", f"{what}.runtimeType", text, f'use "path": "{entry.beside(entry.RUNTIME)}"')
    elif kind and path:
        yield Finding(
            ERROR, f"{id_}-type", what, "has path and runtimeType, of which dockerd takes one", "leave out runtimeType"
        )
    elif kind:
        yield from _shim(what, kind, value, search)
    elif not path:
        yield Finding(
            ERROR,
            f"{id_}-path",
            what,
            "has neither path nor runtimeType",
            f'add "path": "{entry.beside(entry.RUNTIME)}"',
        )


def _shim(what: str, kind: str, value: dict[str, Any], search: str) -> Iterator[Finding]:
    id_ = "engine.docker.shim"
    if kind.startswith("/"):
        yield from entry.program(id_, f"{what}.runtimeType", kind, entry.SHIM)
    else:
        words = kind.split(".")
        name = f"containerd-shim-{'-'.join(words[-2:])}"
        path = processes.find_program(name, search)
        if path:
            yield from entry.program(id_, f"{what}.runtimeType", path, name)
        else:
            advice = f"as root:\n  ln -s {entry.beside(entry.SHIM)} /usr/local/bin/"
            yield Finding(ERROR, f"{id_}-path", f"{what}.runtimeType", f"no {name} in dockerd's PATH", advice)
    options = value.get("options")
    binary = str(options.get("BinaryName") or "") if isinstance(options, dict) else ""
    if binary:
        yield from entry.program("engine.docker.runtime", f"{what}.options.BinaryName", binary, search=search)


def _default(name: str, ours: dict[str, Any]) -> Finding:
    what = "default-runtime"
    if name in ours:
        return Finding(
            OK, "engine.docker.default", what, f"{name}: every container gets it, but for builds with BuildKit"
        )
    handler = next(iter(ours))
    advice = f'`docker run --runtime {handler} ...`, or add "default-runtime": "{handler}"'
    return Finding(NOTE, "engine.docker.default", what, f"{name}: containers that name no runtime get that", advice)


def _driver(host: Host, found: settings.Settings, daemon: Daemon | None, path: str) -> Finding:
    options = [str(word) for word in found.items("exec-opts")] + (daemon.options("exec-opt") if daemon else [])
    driver = next((word.partition("=")[2] for word in options if word.startswith("native.cgroupdriver=")), "")
    # without a word of the administrator dockerd takes systemd where that runs and cgroups are v2
    wanted = driver == "systemd" or (not driver and host.cgroup_mode == "v2" and host.is_systemd)
    advice = f'in {path}:\n  "exec-opts": ["native.cgroupdriver=cgroupfs"]'
    return entry.systemd("engine.docker.systemd-cgroup", "cgroup driver", wanted, host, advice)


def _asked(host: Host, found: settings.Settings, daemon: Daemon, ours: dict[str, Any]) -> Iterator[Finding]:
    """What the daemon answers: whether it knows the runtimes that are configured."""
    import json

    hosts = [*daemon.options("host", "H"), *map(str, found.items("hosts")), f"unix://{SOCKET}"]
    path = next((str(word).removeprefix("unix://") for word in hosts if str(word).startswith("unix://")), SOCKET)
    id_ = "engine.docker.socket"
    try:
        info = json.loads(sockets.get(path, "/info"))
    except OSError as error:
        yield sockets.silent(id_, path, error)
        return
    except ValueError:
        yield Finding(ERROR, id_, path, "answers, but not as dockerd does")
        return
    yield Finding(OK, id_, path, f"answers: dockerd {info.get('ServerVersion', '?')}")
    known = info.get("Runtimes") or {}
    reload = entry.restart("docker", host, "reload")
    unknown = [name for name in ours if name not in known]
    if unknown:
        text = f"does not know {', '.join(unknown)} yet: it was started before, or with another configuration"
        yield Finding(WARNING, "engine.docker.known", f"process {daemon.pid}", text, f"as root: {reload}")
    elif ours:
        names = ", ".join(f"{name}{' (default)' if info.get('DefaultRuntime') == name else ''}" for name in ours)
        yield Finding(OK, "engine.docker.known", f"process {daemon.pid}", f"knows {names}")
