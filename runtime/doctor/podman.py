"""Podman: containers.conf with all its drop-ins, the runtime's name and paths, the monitor."""

from __future__ import annotations

import os

from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, entry, processes, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.host import Host

FILE = "/etc/containers/containers.conf"


def check(host: Host, config: str) -> Iterator[Finding]:
    """Everything about Podman of the user who asks."""
    yield from entry.installed("podman", "podman")
    found = settings.containers_conf(os.path.expanduser("~"), host.euid, dict(os.environ), config)
    if os.environ.get("CONTAINERS_CONF") and not config:
        yield Finding(NOTE, "engine.podman.environment", "$CONTAINERS_CONF", "set: no other containers.conf is read")
    severity = OK if found.files else NOTE
    yield Finding(severity, "engine.podman.config", "configuration", found.shown())
    chosen = found.text("engine", "runtime")
    runtimes = found.table("engine", "runtimes")
    names = [name for name, paths in runtimes.items() if _is_ours(name, paths)]
    if chosen and entry.is_ours(chosen) and chosen not in names:
        names.append(chosen)
    if not names:
        others = ", ".join(runtimes) or "none is configured"
        yield Finding(ERROR, "engine.podman.runtime", "engine.runtimes", f"no pyrunc among them ({others})", _snippet())
    for name in names:
        yield from _runtime(name, runtimes.get(name), found)
    if names:
        yield _default(chosen, names)
    yield _driver(host, found)
    yield from _monitor(found)


def _is_ours(name: str, paths: object) -> bool:
    return "pyrunc" in name or any(entry.is_ours(str(path)) for path in (paths if isinstance(paths, list) else ()))


def _snippet() -> str:
    return f"""put into {FILE} (or ~/.config/containers/containers.conf without root):
  [engine]
  runtime = "pyrunc"
  runtime_supports_json = ["pyrunc", "runc", "crun"]
  runtime_supports_nocgroup = ["pyrunc", "crun"]
  [engine.runtimes]
  pyrunc = ["{entry.beside(entry.RUNTIME)}"]"""


def _runtime(name: str, paths: object, found: settings.Settings) -> Iterator[Finding]:
    id_, what = "engine.podman.runtime", f"engine.runtimes.{name}"
    if name.startswith("/"):
        yield from entry.program(id_, "engine.runtime", name)
    elif not isinstance(paths, list) or not paths:
        advice = f'add:\n  [engine.runtimes]\n  {name} = ["{entry.beside(entry.RUNTIME)}"]'
        yield Finding(ERROR, f"{id_}-path", what, "no list of paths: podman does not know where it is", advice)
    else:
        there = next((str(path) for path in paths if os.path.exists(str(path))), str(paths[0]))
        yield from entry.program(id_, what, there)
    short = os.path.basename(name)
    yield _listed(short, "runtime_supports_json", found, "error texts and exit statuses 126 and 127 are lost")
    yield _listed(short, "runtime_supports_nocgroup", found, "`podman run --cgroups=disabled` is refused")
    if found.get("engine", "runtime_supports_nocgroups") is not None:
        text = "podman does not read it, whatever its manual says"
        yield Finding(
            WARNING, f"{id_}-nocgroup", "engine.runtime_supports_nocgroups", text, "call it runtime_supports_nocgroup"
        )


def _listed(name: str, key: str, found: settings.Settings, cost: str) -> Finding:
    id_ = f"engine.podman.{key.removeprefix('runtime_').replace('_', '-')}"
    words = found.get("engine", key)
    if isinstance(words, list) and name in words:
        return Finding(OK, id_, f"engine.{key}", f"has {name}")
    names = [*map(str, words if isinstance(words, list) else ("crun", "runc")), name]
    listed = ", ".join(f'"{word}"' for word in dict.fromkeys(names))
    severity = WARNING if key == "runtime_supports_json" else NOTE
    return Finding(severity, id_, f"engine.{key}", f"has no {name}: {cost}", f"below [engine]:\n  {key} = [{listed}]")


def _default(chosen: str, names: list[str]) -> Finding:
    if chosen in names:
        return Finding(OK, "engine.podman.default", "engine.runtime", f"{chosen}: every container gets it")
    text = f"{chosen or 'not set'}: containers get another runtime"
    advice = f'`podman --runtime {names[0]} run ...`, or below [engine]:\n  runtime = "{names[0]}"'
    return Finding(NOTE, "engine.podman.default", "engine.runtime", text, advice)


def _driver(host: Host, found: settings.Settings) -> Finding:
    manager = found.text("engine", "cgroup_manager")
    # podman's own choice without a word: systemd where that runs (without root, only with cgroup v2)
    wanted = manager == "systemd" or (not manager and host.is_systemd and (host.euid == 0 or host.cgroup_mode == "v2"))
    advice = 'below [engine]:\n  cgroup_manager = "cgroupfs"'
    return entry.systemd("engine.podman.systemd-cgroup", "cgroup manager", wanted, host, advice)


def _monitor(found: settings.Settings) -> Iterator[Finding]:
    id_, what = "engine.podman.conmon", "engine.conmon_path"
    paths = [str(path) for path in found.items("engine", "conmon_path")]
    there = next((path for path in paths if os.path.exists(path)), "")
    if paths and not there:
        advice = f'below [engine]:\n  conmon_path = ["{entry.beside(entry.MONITOR)}"]'
        yield Finding(ERROR, f"{id_}-path", what, f"none of {', '.join(paths)} is there", advice)
    elif there and entry.is_ours(there):
        yield from entry.program(id_, what, there, entry.MONITOR)
    else:
        default = there or processes.find_program("conmon")
        if default:
            yield Finding(OK, f"{id_}-path", what, f"{default}, which works with pyrunc as well")
        else:
            advice = f'apt install conmon, or below [engine]:\n  conmon_path = ["{entry.beside(entry.MONITOR)}"]'
            yield Finding(ERROR, f"{id_}-path", what, "not set, and no conmon is installed", advice)
