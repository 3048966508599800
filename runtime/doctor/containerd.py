"""containerd: config.toml with its imports, the CRI plugin's runtimes, the shims, the daemon.

Two generations: 1.x reads version 2 of the file and calls the plugin io.containerd.grpc.v1.cri, 2.x reads version 3, where it
is io.containerd.cri.v1.runtime, version 4, where that is the same, and version 2 with the old name still. In 1.x the runtimes
of the file replace the built-in one, runc; in 2.x they are added to it.
"""

from __future__ import annotations

import os

from runtime.doctor import ERROR, NOTE, OK, Finding, entry, processes, settings, sockets
from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.doctor.processes import Daemon
    from runtime.doctor.settings import Settings
    from runtime.host import Host

FILE, SOCKET = "/etc/containerd/config.toml", "/run/containerd/containerd.sock"
#: version of the file -> name of the plugin in it
PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime", 4: "io.containerd.cri.v1.runtime"}
RUNC_V2, PYRUNC_V2 = "io.containerd.runc.v2", "io.containerd.pyrunc.v2"


def check(host: Host, config: str) -> Iterator[Finding]:
    """Everything about a containerd."""
    daemons = _daemons(config)
    daemon = daemons[0] if daemons else None
    path = config or (_config_of(daemon) if daemon else FILE)
    yield from entry.installed("containerd", "containerd", daemon)
    yield from entry.others("containerd", {one.pid: _config_of(one) for one in daemons[1:]})
    version = entry.version(daemon, "containerd")
    try:
        found = settings.containerd(path, joins=version >= (2,))
    except FileNotFoundError:
        if config:
            raise
        found = settings.Settings()
        snippet = _snippet(2 if version < (2,) else 3, host, path, {})
        yield Finding(
            _for_pods(daemon),
            "engine.containerd.config",
            path,
            "not there: containerd knows runc alone to Kubernetes",
            snippet,
        )
    else:
        yield Finding(OK, "engine.containerd.config", "configuration", found.shown())
        yield from _versions(found, version)
        yield from _runtimes(host, found, daemon, version)
    yield from _shim_of_ours(found, daemon)
    yield from entry.running("containerd", "containerd", daemon, found.changed(), entry.restart("containerd", host))
    if daemon:
        address = daemon.option("address", "a") or found.text("grpc", "address") or SOCKET
        yield sockets.grpc("engine.containerd.socket", address)


def _config_of(daemon: Daemon) -> str:
    path = daemon.option("config", "c")
    return daemon.resolve(path) if path else FILE


def _daemons(config: str) -> list[Daemon]:
    """The containerds that run with this configuration; without one all that no dockerd keeps for itself, the usual one first."""
    dockers = {daemon.pid for daemon in processes.daemons("dockerd")}
    found = processes.daemons("containerd")
    if config:
        return [daemon for daemon in found if processes.is_same_file(_config_of(daemon), config)]
    return sorted((one for one in found if one.parent not in dockers), key=lambda one: _config_of(one) != FILE)


def _snippet(version: int, host: Host, path: str, there: dict[str, Any]) -> str:
    plugin = PLUGINS.get(version, PLUGINS[2])
    restart = entry.restart("containerd", host)
    table = f"plugins.'{plugin}'.containerd.runtimes.pyrunc"
    return f"""put into {path}, below `version = {version}`, then {restart}:
{"" if there else _runc(plugin)}  [{table}]
    runtime_type = "{RUNC_V2}"
    [{table}.options]
      BinaryName = "{entry.beside(entry.RUNTIME)}\""""


def _runc(plugin: str) -> str:
    return f"""  [plugins.'{plugin}'.containerd.runtimes.runc]\n    runtime_type = "{RUNC_V2}"\n"""


def _version_of(found: Settings) -> int:
    """The version that the file says it has, 0 for none; containerd itself refuses what is no number."""
    version = found.get("version")
    if version is not None and type(version) is not int:
        raise Error(f"{found.shown()}: version: not a number")
    return version or 0


def _versions(found: Settings, daemon: tuple[int, ...]) -> Iterator[Finding]:
    """Whether version of the file, name of the plugin and version of containerd belong together."""
    id_, what = "engine.containerd.version", "version of the file"
    version = _version_of(found) or 1
    if version == 1:
        if found.table("plugins"):
            advice = f"add a line at the top:\n  version = {2 if daemon < (2,) else 3}"
            yield Finding(ERROR, id_, what, "1, or none: sections named io.containerd... are ignored", advice)
        return
    if version >= 3 and daemon and daemon < (2,):
        shown = ".".join(map(str, daemon))
        yield Finding(
            ERROR,
            id_,
            what,
            f"{version}, and containerd {shown} reads up to 2",
            "write `version = 2`, and the plugin's name of it",
        )
        return
    if version not in PLUGINS:
        yield Finding(NOTE, id_, what, f"{version}, newer than this command knows; it is read as 3")
    else:
        yield Finding(OK, id_, what, str(version))
    right = PLUGINS.get(version, PLUGINS[3])
    for wrong in set(PLUGINS.values()) - {right}:
        if found.table("plugins", wrong):
            text = f'in version {version} it is called "{right}": this section is ignored'
            yield Finding(
                ERROR, "engine.containerd.plugin", f'section plugins."{wrong}"', text, f'call it plugins."{right}"'
            )


def _runtimes(host: Host, found: Settings, daemon: Daemon | None, version: tuple[int, ...]) -> Iterator[Finding]:
    number = _version_of(found) or (2 if version < (2,) else 3)
    plugin = PLUGINS.get(number, PLUGINS[3])
    disabled = {str(name) for name in found.items("disabled_plugins")}
    is_off = bool(disabled & {"cri", *PLUGINS.values()})
    if is_off:
        text = "CRI is in disabled_plugins: ctr, nerdctl and Docker work, Kubernetes does not"
        yield Finding(NOTE, "engine.containerd.cri", "Kubernetes", text)
    runtimes = found.table("plugins", plugin, "containerd", "runtimes")
    ours = {name: value for name, value in runtimes.items() if isinstance(value, dict) and _is_ours(name, value)}
    if not ours:
        others = ", ".join(runtimes) or "none is configured"
        yield Finding(
            _for_pods(daemon),
            "engine.containerd.runtime",
            "runtimes of CRI",
            f"no pyrunc among them ({others})",
            _snippet(number, host, found.files[0], runtimes),
        )
    for name, value in ours.items():
        yield from _runtime(host, name, value, daemon)
    if ours:
        name = found.text("plugins", plugin, "containerd", "default_runtime_name") or "runc"
        if name in runtimes or is_off or (name == "runc" and (number >= 3 or version >= (2,))):
            yield _default(name, ours)
        else:
            text = f"{name}, and there is no runtimes.{name}: CRI does not start, and no pod is run"
            advice = f"add:\n{_runc(plugin)}" if name == "runc" else "name one that is there"
            yield Finding(ERROR, "engine.containerd.default", "default_runtime_name", text, advice)


def _is_ours(name: str, value: dict[str, Any]) -> bool:
    options = value.get("options")
    binary = str(options.get("BinaryName") or "") if isinstance(options, dict) else ""
    words = (name, str(value.get("runtime_type")), os.path.basename(str(value.get("runtime_path") or "")))
    return any("pyrunc" in word for word in words) or bool(binary and entry.is_ours(binary))


def _default(name: str, ours: dict[str, Any]) -> Finding:
    what = "default_runtime_name"
    if name in ours:
        return Finding(OK, "engine.containerd.default", what, f"{name}: every pod gets it")
    handler = next(iter(ours))
    advice = f"""pods ask for it with `runtimeClassName: {handler}`, once the cluster knows it:
  apiVersion: node.k8s.io/v1
  kind: RuntimeClass
  metadata: {{name: {handler}}}
  handler: {handler}"""
    return Finding(NOTE, "engine.containerd.default", what, f"{name}: pods that name no RuntimeClass get that", advice)


def _runtime(host: Host, name: str, value: dict[str, Any], daemon: Daemon | None) -> Iterator[Finding]:
    id_, what = "engine.containerd.runtime", f"runtimes.{name}"
    kind = str(value.get("runtime_type") or "")
    options = value.get("options")
    options = options if isinstance(options, dict) else {}
    yield from _shim(f"{what}.runtime_type", kind, str(value.get("runtime_path") or ""), daemon)
    for key in options:
        if key.lower().replace("_", "") == "binaryname" and key != "BinaryName":
            yield Finding(
                ERROR, f"{id_}-options", f"{what}.options.{key}", "containerd does not know it", "write BinaryName"
            )
    binary = str(options.get("BinaryName") or "")
    if binary:
        search = daemon.environment.get("PATH", processes.PATH) if daemon else processes.PATH
        yield from entry.program(id_, f"{what}.options.BinaryName", binary, search=search)
    elif kind == RUNC_V2:
        advice = f'  [... .runtimes.{name}.options]\n    BinaryName = "{entry.beside(entry.RUNTIME)}"'
        yield Finding(
            ERROR,
            f"{id_}-path",
            f"{what}.options.BinaryName",
            "not given: containerd would run runc",
            f"add:\n{advice}",
        )
    advice = f"in the section {what}.options, and in kubelet's configuration `cgroupDriver: cgroupfs`:\n  SystemdCgroup = false"
    wanted = options.get("SystemdCgroup") is True
    yield entry.systemd("engine.containerd.systemd-cgroup", f"cgroup driver of {what}", wanted, host, advice)


def _folders(daemon: Daemon | None) -> list[str]:
    """Where containerd looks for a shim: its PATH, then beside itself."""
    path = daemon.environment.get("PATH", "") if daemon else processes.PATH
    own = daemon.exe if daemon else processes.find_program("containerd")
    return [*path.split(":"), os.path.dirname(own)]


def _shim(what: str, kind: str, path: str, daemon: Daemon | None) -> Iterator[Finding]:
    id_ = "engine.containerd.shim"
    path = path or (kind if kind.startswith("/") else "")
    if path:
        name = entry.SHIM if "pyrunc" in path else os.path.basename(path)
        yield from entry.program(id_, what, path, name)
        return
    words = kind.split(".")
    if len(words) < 4 or not kind.startswith("io.containerd."):
        advice = f'runtime_type = "{RUNC_V2}", with options.BinaryName'
        yield Finding(ERROR, f"{id_}-type", what, f'"{kind}" names no shim', f"write:\n  {advice}")
        return
    name = f"containerd-shim-{words[-2]}-{words[-1]}"
    found = processes.find_program(name, ":".join(_folders(daemon)))
    if not found:
        advice = (
            f"make install, or\n  ln -s {entry.beside(name)} /usr/local/bin/"
            if name == entry.SHIM
            else f'use runtime_type = "{RUNC_V2}"'
        )
        text = f"{name} is in no directory of containerd's PATH, and not beside it"
        yield Finding(ERROR, f"{id_}-path", what, text, advice)
    elif name == entry.SHIM:
        yield from entry.program(id_, what, found, name)
    else:
        yield Finding(OK, f"{id_}-path", what, f"{kind} is {found}")


def _for_pods(daemon: Daemon | None) -> str:
    """How bad it is that CRI knows nothing of us: ctr and nerdctl need no more than our shim where containerd looks."""
    return NOTE if processes.find_program(entry.SHIM, ":".join(_folders(daemon))) else ERROR


def _shim_of_ours(found: Settings, daemon: Daemon | None) -> Iterator[Finding]:
    """`ctr run --runtime io.containerd.pyrunc.v2` and nerdctl need no configuration, but the shim."""
    if PYRUNC_V2 in str(found.values):
        return
    path = processes.find_program(entry.SHIM, ":".join(_folders(daemon)))
    what = f"{PYRUNC_V2}, for ctr and nerdctl"
    if path:
        yield Finding(OK, "engine.containerd.shim-by-name", what, path)
    else:
        advice = f"as root:\n  ln -s {entry.beside(entry.SHIM)} /usr/local/bin/"
        yield Finding(NOTE, "engine.containerd.shim-by-name", what, f"no {entry.SHIM} where containerd looks", advice)
