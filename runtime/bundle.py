"""Finds, reads and checks the documents that a caller hands over: a bundle's config.json, process.json, resources.

Hot: while a document is right, only the compiled checks of `specs.config_check` and the pure `rules` are loaded. When they
say no, `specs.explain` is, which finds the line and says what was expected. Nothing is changed here, and nothing in the
root file system is looked at but that it is a directory.
"""

from __future__ import annotations

from errno import ENOENT

from runtime import jsonio, rules
from runtime import system as os
from runtime.errors import ConfigError, Error, KernelError, RuleError
from runtime.linux import S_IFDIR, S_IFMT, S_IFREG
from specs import config_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from specs.explain import Finding

#: the configuration that read_ahead() has found right, by its bytes
_ahead: tuple[bytes, dict[str, Any]] | None = None


class Bundle:
    """A bundle that has been read: its absolute path, the checked document, and the bytes it was read from."""

    __slots__ = ("config", "path", "raw")

    def __init__(self, path: str, config: dict[str, Any], raw: bytes) -> None:
        self.path = path
        self.config = config
        self.raw = raw

    @property
    def rootfs(self) -> str:
        """The absolute path of the root file system's directory."""
        return os.path.normpath(os.path.join(self.path, self.config["root"]["path"]))


def read(bundle_dir: str, config_name: str = "config.json") -> tuple[str, bytes]:
    """The absolute path of a bundle and the unread text of its configuration."""
    try:
        path = os.path.abspath(bundle_dir)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise Error(f'bundle "{bundle_dir}" does not exist', code="no-bundle") from None
    except OSError as error:
        raise KernelError(f'open bundle "{bundle_dir}"', error.errno or 0) from None
    except ValueError:
        raise Error("the path of the bundle contains a NUL character", code="no-bundle") from None
    if mode & S_IFMT != S_IFDIR:
        raise Error(f'bundle "{bundle_dir}" is not a directory', code="no-bundle")
    return path, read_file(os.path.join(path, config_name), config_name)


def read_file(path: str, source: str = "") -> bytes:
    """The bytes of a document; Error where it is missing, no regular file, or larger than any document is."""
    try:
        # O_NONBLOCK: a FIFO must not hold us up until somebody writes to it
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise Error(f'open "{path}": no such file or directory', code="no-config", errno=ENOENT) from None
    except OSError as error:
        raise KernelError(f'open "{path}"', error.errno or 0) from None
    except ValueError:
        raise Error(f"the path of {source or 'a document'} contains a NUL character", code="no-config") from None
    try:
        found = os.fstat(fd)
        if found.st_mode & S_IFMT != S_IFREG:
            raise Error(f'open "{path}": not a regular file', code="no-config")
        if found.st_size > jsonio.LIMIT:
            raise ConfigError("", f"larger than {jsonio.LIMIT} bytes", source=source or path)
        return _read_all(fd)
    except OSError as error:
        raise KernelError(f'read "{path}"', error.errno or 0) from None
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    parts = []
    left = jsonio.LIMIT + 1  # one more than may be: a file that grows meanwhile is then refused as well
    while left > 0:
        part = os.read(fd, min(left, 1 << 16))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_ahead(bundle_dir: str) -> None:
    """Read and check the configuration that load() will be asked for; what is wrong with it is for load() to say.

    Nothing is taken on trust: load() reads the file all the same, and what was found here counts for the very same bytes alone.
    """
    global _ahead
    try:
        _, raw = read(bundle_dir)
        _ahead = raw, _checked(raw, "config.json", "config", config_check.check_config, rules.check)
    except Error:
        pass


def load(bundle_dir: str, config_name: str = "config.json", *, runs: bool = True) -> Bundle:
    """A bundle ready to be run: its configuration checked, its process given, its root file system there.

    One that is only created, not `runs`, needs no process: config.md#process asks for it when start is called.
    """
    global _ahead
    path, raw = read(bundle_dir, config_name)
    known, _ahead = _ahead, None  # given once: whoever has it may change it
    if known is not None and known[0] == raw:
        config = known[1]
    else:
        config = _checked(raw, config_name, "config", config_check.check_config, rules.check)
    process = config.get("process")
    if process is None and runs:
        raise _located(raw, config_name, "/process", "required to start a container", "config.md#process")
    if process is not None and not process.get("args"):
        raise _located(raw, config_name, "/process/args", "required to start a container", "config.md#process")
    bundle = Bundle(path, config, raw)
    if not os.path.isdir(bundle.rootfs):
        if os.path.exists(bundle.rootfs):
            raise Error(f"rootfs ({bundle.rootfs}) is not a directory", code="no-rootfs")
        raise Error(f"rootfs ({bundle.rootfs}) does not exist", code="no-rootfs")
    return bundle


def load_process(document: bytes | str) -> dict[str, Any]:
    """The document of `exec --process`, checked; a string is the path of it, bytes are itself."""
    raw = document if isinstance(document, bytes) else read_file(document)
    path = document if isinstance(document, str) else "process"
    process = _checked(raw, path, "process", config_check.check_process, rules.check_process)
    if not process.get("args"):
        raise _located(raw, path, "/args", "required to start a process", "config.md#process")
    return process


def load_resources(document: bytes | str, source: str = "") -> dict[str, Any]:
    """The document of `update --resources`, checked; a string is the path of it, bytes are itself."""
    raw = document if isinstance(document, bytes) else read_file(document)
    source = source or (document if isinstance(document, str) else "resources")
    return _checked(raw, source, "resources", config_check.check_resources, rules.check_resources)


def load_mounts(path: str) -> list[dict[str, Any]]:
    """The document of `mounts`, an array as config.json has it or an object that has one; each entry has a destination."""
    document: Any = jsonio.loads(read_file(path), path)
    entries = document.get("mounts") if type(document) is dict else document
    if type(entries) is not list or not entries:
        raise ConfigError("", "neither an array of mounts nor an object with one, in `mounts`", source=path)
    for index, entry in enumerate(entries):
        if type(entry) is not dict or type(entry.get("destination")) is not str or not entry["destination"]:
            raise ConfigError(
                f"/mounts/{index}/destination", "required, a path", source=path, clause="config.md#mounts"
            )
    return entries


def check_mounts(entries: list[dict[str, Any]], path: str, config: dict[str, Any]) -> None:
    """Check the mounts that were read from `path` as if they were in the configuration."""
    beside = jsonio.dumps({**config, "mounts": entries}).encode("utf-8", "surrogateescape")
    try:
        _checked(beside, path, "config", config_check.check_config, rules.check)
    except ConfigError as error:
        # without line and column: they are of the text that was checked, which nobody has
        raise ConfigError(error.where, error.why, source=path, clause=error.clause, hint=error.hint) from None


def _checked(
    raw: bytes,
    source: str,
    kind: str,
    check: Callable[[Any], str | None],
    check_rules: Callable[[Any], RuleError | None],
) -> dict[str, Any]:
    """The document in `raw`, or the first thing that is wrong with it."""
    document: Any = jsonio.loads(raw, source)
    if check(document) is not None or check_rules(document) is not None:
        raise _first(raw, source, kind)
    found: dict[str, Any] = document
    return found


# -- cold: what is wrong ----------------------------------------------------------------------------------------------


def findings(raw: bytes, source: str = "config.json", kind: str = "config", strict: bool = False) -> list[Finding]:
    """All that is wrong with a document, in the order of its text; with `strict`, properties that nobody knows too."""
    from specs import explain

    try:
        jsonio.loads(raw, source)
    except ConfigError as error:
        return [explain.Finding(error.where, error.line, error.column, error.why, "", "", error.hint, "", "error")]
    located = explain.Located(raw.decode())
    found = explain.schema_findings(located, kind, strict)
    faults = [finding.pointer for finding in found if finding.severity == "error" and finding.why != explain.UNKNOWN]
    # of a great many faults not all are known, and a rule would trip over the others
    rest = _broken_rules(located.document, kind, faults) if len(faults) < explain.MOST else []
    for broken in rest:
        line, column = located.place(broken.where)
        place = (broken.where, line, column, broken.why, "", "", broken.hint, broken.clause, broken.severity)
        found.append(explain.Finding(*place))
    return sorted(found, key=lambda finding: (finding.line, finding.column))


def _broken_rules(document: Any, kind: str, faults: list[str]) -> list[rules.Finding]:
    if kind == "config" and type(document) is dict:
        return rules.findings_beside(document, faults) if faults else rules.findings(document)
    if faults:
        return []
    return rules.process_findings(document) if kind == "process" else rules.resource_findings(document)


def _first(raw: bytes, source: str, kind: str) -> ConfigError:
    """The first error of a document that has been refused, and how many more there are."""
    found = [finding for finding in findings(raw, source, kind) if finding.severity == "error"]
    if not found:
        # the compiled checks and the schemas disagree: the document is refused all the same
        return ConfigError(
            "", "refused by the checks of specs/config_check.py, which no schema explains", source=source
        )
    # a fault of its own goes before a rule, which may only be broken because of it
    is_plain = [finding.expected != "" or finding.why == "required" for finding in found]
    first = found[is_plain.index(True) if any(is_plain) else 0]
    why = first.why
    if first.expected:
        why += f": expected {first.expected}, found {first.found}"
    hint = first.hint
    if len(found) > 1:
        more = f"{len(found) - 1} more error{'s' if len(found) > 2 else ''} in it"
        if kind == "config":
            more += ", which `pyrunc validate` lists"
        hint = f"{hint}; {more}" if hint else more
    cls = ConfigError if any(is_plain) else RuleError
    return cls(first.pointer, why, source=source, clause=first.clause, hint=hint, line=first.line, column=first.column)


def _located(raw: bytes, source: str, where: str, why: str, clause: str) -> ConfigError:
    from specs import explain

    line, column = explain.Located(raw.decode()).place(where)
    return ConfigError(where, why, source=source, clause=clause, line=line, column=column)
