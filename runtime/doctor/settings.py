"""Configuration files of engines: found, read and merged as each engine does it. Nothing is judged here.

A file that cannot be read is an Error that names it, with the line where its text is wrong.
"""

from __future__ import annotations

import os

from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Settings:
    """The merged configuration, and the files it came from, in the order in which they were read."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.files: list[str] = []

    def get(self, *names: str) -> Any:
        """The value at a path of names, None where there is none."""
        value: Any = self.values
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def table(self, *names: str) -> dict[str, Any]:
        """The table at a path of names, empty where there is none."""
        value = self.get(*names)
        return value if isinstance(value, dict) else {}

    def items(self, *names: str) -> list[Any]:
        """The list at a path of names, empty where there is none."""
        value = self.get(*names)
        return value if isinstance(value, list) else []

    def text(self, *names: str) -> str:
        """The string at a path of names, "" where there is none."""
        value = self.get(*names)
        return value if isinstance(value, str) else ""

    def read_toml(self, path: str) -> None:
        """Merge a file over what is there; a missing one is no error."""
        try:
            values = toml(path)
        except FileNotFoundError:
            return
        self.values = merged(self.values, values)
        self.files.append(path)

    def shown(self) -> str:
        """The names of the files, for a person."""
        return ", ".join(self.files) or "no file"

    def changed(self) -> float:
        """When the newest of the files was changed, in seconds since 1970."""
        return max((os.stat(path).st_mtime for path in self.files), default=0.0)


def toml(path: str) -> dict[str, Any]:
    """The tables of a TOML file; FileNotFoundError where there is none."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Error(f"open {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also of int(), which takes no more than 4300 digits
        raise Error(f"{path}: no valid TOML: {error}") from None


def json(path: str) -> dict[str, Any]:
    """The object of a JSON file; FileNotFoundError where there is none."""
    import json as parser

    try:
        with open(path, encoding="utf-8") as file:
            found = parser.load(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Error(f"open {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Error(f"{path}: no valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise Error(f"{path}: no JSON object")
    return found


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables joined name by name, everything else replaced."""
    out = dict(below)
    for name, value in above.items():
        old = out.get(name)
        out[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def drop_ins(folder: str) -> list[str]:
    """The *.conf files of a drop-in directory, in the order of their names."""
    try:
        return sorted(f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".conf"))
    except OSError:
        return []


def matching(pattern: str) -> list[str]:
    """Files whose last component matches a pattern, in order; containerd's imports have their star there."""
    import fnmatch

    folder, name = os.path.split(pattern)
    try:
        return sorted(os.path.join(folder, found) for found in os.listdir(folder) if fnmatch.fnmatchcase(found, name))
    except OSError:
        return []


def containerd(path: str, *, joins: bool) -> Settings:
    """containerd's configuration with its imports (containerd-config.toml(5)), which go over the file that imports them.

    Where two files have a section for the same plugin, containerd 2 `joins` them; before, the later replaces the earlier.
    """
    found = Settings()
    todo = [path]
    while todo:
        file = todo.pop(0)
        if file in found.files:
            continue
        try:
            values = toml(file)
        except FileNotFoundError:
            if file == path:
                raise
            raise Error(f"{file}: imported by {found.shown()}, and not there") from None
        own = Settings()
        own.values = values
        plugins = merged({}, found.table("plugins"))
        found.values = merged(found.values, values)
        found.files.append(file)
        if not joins:
            found.values["plugins"] = plugins | own.table("plugins")
        for name in own.items("imports"):
            whole = os.path.normpath(os.path.join(os.path.dirname(file), str(name)))
            todo += matching(whole) if "*" in whole else [whole]
    return found


def containers_conf(home: str, euid: int, environment: dict[str, str], file: str = "") -> Settings:
    """Podman's and Buildah's configuration (containers.conf(5)): later files win, lists are replaced unless they append."""
    found = Settings()
    only = file or environment.get("CONTAINERS_CONF", "")
    if only:
        paths = [only]
    else:
        paths = ["/usr/share/containers/containers.conf", *drop_ins("/usr/share/containers/containers.conf.d")]
        paths += ["/etc/containers/containers.conf", *drop_ins("/etc/containers/containers.conf.d")]
        if euid:
            user = os.path.join(environment.get("XDG_CONFIG_HOME") or f"{home}/.config", "containers")
            paths += ["/etc/containers/containers.rootless.conf", *drop_ins("/etc/containers/containers.rootless.d")]
            paths += [f"{user}/containers.conf", *drop_ins(f"{user}/containers.conf.d")]
    if not file and environment.get("CONTAINERS_CONF_OVERRIDE"):
        paths.append(environment["CONTAINERS_CONF_OVERRIDE"])
    for path in paths:
        before = found.table("engine")
        found.read_toml(path)
        if path == only and path not in found.files:
            raise Error(f"open {path}: no such file or directory")
        _append(found, before)
    return found


def _append(found: Settings, before: dict[str, Any]) -> None:
    """Lists that end with {append = true} go on where the earlier file's ended."""
    engine = found.table("engine")
    for name, value in engine.items():
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            old = before.get(name)
            words = [word for word in value if isinstance(word, str)]
            engine[name] = [*(old if value[-1].get("append") and isinstance(old, list) else ()), *words]


def crio(file: str = "") -> Settings:
    """CRI-O's configuration: one file and the drop-ins beside it (crio.conf.d(5))."""
    found = Settings()
    for path in (file or "/etc/crio/crio.conf", *drop_ins(f"{file or '/etc/crio/crio.conf'}.d")):
        found.read_toml(path)
    return found
