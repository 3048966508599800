"""What a create request says about the runtime: which one, where its state is, and how it is called.

Engines send containerd.runc.v1.Options where they know that a shim understands them, and else runtimeoptions.v1.Options, of
which the body is the same in TOML, under the names of containerd's configuration (BinaryName, SystemdCgroup, ...); containerd
1.x's own client sends containerd.linux.runc.CreateOptions, from before shims had a protocol of their own. The bundle
remembers what matters to `delete`, which has nothing but the bundle.
"""

from __future__ import annotations

import os
import sys
from stat import S_ISREG

from runtime import jsonio
from runtime.errors import Error
from shim.containerd import DEFAULT_ROOT, OPTIONS_FILE
from shim.containerd.calls import write_private
from shim.containerd.messages import LINUX_CREATE_OPTIONS, OPTIONS, RUNTIME_OPTIONS
from shim.containerd.protobuf import blank, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FILE_BYTES = 1 << 20
#: of the TOML form: name -> field
_NAMES = {
    "BinaryName": "binary_name",
    "Root": "root",
    "SystemdCgroup": "systemd_cgroup",
    "NoPivotRoot": "no_pivot_root",
    "NoNewKeyring": "no_new_keyring",
    "ShimCgroup": "shim_cgroup",
    "IoUid": "io_uid",
    "IoGid": "io_gid",
    "CriuPath": "criu_path",
    "CriuImagePath": "criu_image_path",
    "CriuWorkPath": "criu_work_path",
    "TaskApiAddress": "task_api_address",
    "TaskApiVersion": "task_api_version",
}


class OptionsError(ValueError):
    """Runtime options that cannot be understood."""


def read(any_: dict[str, Any] | None) -> dict[str, Any]:
    """The options in an Any, as values of messages.OPTIONS; ValueError where they cannot be understood."""
    if any_ is None or not (any_["type_url"] or any_["value"]):
        return blank(OPTIONS)
    kind = any_["type_url"].rpartition("/")[2]
    if kind == "containerd.runc.v1.Options":
        return decode(OPTIONS, any_["value"], "runtime options")
    if kind == "containerd.linux.runc.CreateOptions":
        return {**blank(OPTIONS), **decode(LINUX_CREATE_OPTIONS, any_["value"], "runtime options")}
    # containerd's CRI called it cri.runtimeoptions.v1.Options before 2.0
    if kind.endswith("runtimeoptions.v1.Options"):
        return _from_toml(decode(RUNTIME_OPTIONS, any_["value"], "runtime options"))
    if kind in ("google.protobuf.Empty", ""):
        return blank(OPTIONS)
    raise OptionsError(f'unsupported option type "{kind}"')


def _from_toml(values: dict[str, Any]) -> dict[str, Any]:
    import tomllib

    source, body = "runtime options", values["config_body"]
    if not body and values["config_path"]:
        source = values["config_path"]
        body = _read(source)
    found = blank(OPTIONS)
    try:
        document = tomllib.loads(body.decode())
    except (ValueError, RecursionError) as error:  # also of int(), which takes no more than 4300 digits
        raise OptionsError(f"{source}: not TOML: {error}") from None
    for name, value in document.items():
        field = _NAMES.get(name)
        if field is None:
            raise OptionsError(f'{source}: no option is called "{name}"; there are {", ".join(_NAMES)}')
        # bool is an int to Python and not to TOML
        if type(value) is not type(found[field]):
            raise OptionsError(f"{source}: {name}: {type(found[field]).__name__} expected, found {value!r}")
        found[field] = value
    return found


def _read(path: str) -> bytes:
    """A file that a request names: whatever it is, no other container of this shim waits for it."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not S_ISREG(os.fstat(fd).st_mode):
            raise OptionsError(f"{path}: not a regular file")
        body = os.read(fd, _FILE_BYTES)
    finally:
        os.close(fd)
    if len(body) == _FILE_BYTES:
        raise OptionsError(f"{path}: {_FILE_BYTES} bytes or more are no runtime options")
    return body


def remember(bundle: str, options: dict[str, Any]) -> None:
    """Write what delete_words() needs into the bundle: under the names that containerd's shim uses."""
    kept = {name: value for name, value in options.items() if value}
    if not kept:
        return
    write_private(f"{bundle}/{OPTIONS_FILE}", jsonio.dumps(kept))
    write_private(f"{bundle}/runtime", options["binary_name"])


def recall(bundle: str) -> dict[str, Any]:
    """What remember() wrote; defaults where nothing was, since a shim may have died before."""
    found = blank(OPTIONS)
    try:
        with open(f"{bundle}/{OPTIONS_FILE}", "rb") as file:
            kept = jsonio.loads(file.read(), OPTIONS_FILE)
    except (OSError, Error):
        return found
    if isinstance(kept, dict):
        found.update({name: value for name, value in kept.items() if type(found.get(name)) is type(value)})
    return found


def binary(options: dict[str, Any]) -> str:
    """The runtime for engine.Engine: "" for our own, which is also meant by its own name or path."""
    name: str = options["binary_name"]
    if not name:
        return ""
    ours = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "pyrunc")
    places = [name]
    if "/" not in name:
        places = [os.path.join(place, name) for place in os.environ.get("PATH", os.defpath).split(":") if place]
    for place in places:
        if os.access(place, os.X_OK):
            try:
                return "" if os.path.samefile(place, ours) else place
            except OSError:
                return place
    # not to be found: calling it says so in the words that engines search for
    return name


def root(options: dict[str, Any], namespace: str) -> str:
    """The runtime's --root."""
    return os.path.join(options["root"] or DEFAULT_ROOT, namespace)


def words(options: dict[str, Any], namespace: str, bundle: str) -> list[str]:
    """The words before the command, as go-runc has them."""
    found = ["--root", root(options, namespace), "--log", f"{bundle}/log.json", "--log-format", "json"]
    return [*found, "--systemd-cgroup"] if options["systemd_cgroup"] else found
