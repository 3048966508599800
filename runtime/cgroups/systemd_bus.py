"""Speaking to systemd over D-Bus: units started, changed and stopped.

    Manager(addresses)     connects to the first of the addresses where somebody answers
    .start .stop .set      a unit; `start` and `stop` wait for the end of systemd's job, never longer than JOB_S
    .get                   a property of the manager or of a unit
    .attach                a process into a unit

Where systemd's own socket is, `dbus` speaks to it; over a bus, libsystemd (`sdbus`). Neither is loaded before a Manager is made: nothing
here costs a container whose cgroup systemd does not make. Waiting has an end everywhere: a manager that hangs must not hang its
callers (runc issue 3904).

    we                                  systemd
    StartTransientUnit(name, ...)  ->
                                   <-   the path of a job
                                   <-   JobRemoved(id, job, unit, "done")      to the ones who asked for the job
"""

from __future__ import annotations

import time
from errno import EINVAL, ETIMEDOUT

from runtime import system as os
from runtime.cgroups import dbus
from runtime.cgroups.dbus import Refusal as Refusal
from runtime.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runtime.cgroups.systemd_properties import Property

CONNECT_S = 10.0
CALL_S = 15.0
#: as in runc; a start takes milliseconds, and a host that needs this long has other problems
JOB_S = 30.0

_NAME = b"org.freedesktop.systemd1"
_PATH = b"/org/freedesktop/systemd1"
_MANAGER = b"org.freedesktop.systemd1.Manager"
_UNIT = b"org.freedesktop.systemd1.Unit"
_PROPERTIES = b"org.freedesktop.DBus.Properties"
_MATCH = (
    "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',"
    "member='JobRemoved',path='/org/freedesktop/systemd1'"
)

UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
READ_ONLY = "org.freedesktop.DBus.Error.PropertyReadOnly"

#: where systemd listens itself, below /run or the user's directory
_OWN_SOCKET = "/systemd/private"


def system_addresses() -> list[str]:
    """Where the system's manager is: its own socket, which needs no other daemon to be there or to have time, then the bus."""
    bus = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    return ["unix:path=" + SYSTEM_SOCKET, bus]


SYSTEM_SOCKET = "/run/systemd/private"


def user_addresses() -> list[str]:
    """Where the user's manager is; empty where the environment does not say."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    bus = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    found = [f"unix:path={_escaped(folder)}/systemd/private"] if folder else []
    if bus:
        found.append(bus)
    elif folder:
        found.append(f"unix:path={_escaped(folder)}/bus")
    return found


def _escaped(path: str) -> str:
    # D-Bus specification, Server Addresses
    plain = "-_/.\\*"
    return "".join(c if c.isascii() and (c.isalnum() or c in plain) else _percent(c) for c in path)


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def _plain(text: str) -> str:
    """The reverse of `_escaped`; OSError for what that never says."""
    first, *rest = text.split("%")
    found = first.encode("utf-8", "surrogateescape")
    for part in rest:
        try:
            found += int(part[:2], 16).to_bytes(1, "big") + part[2:].encode("utf-8", "surrogateescape")
        except (ValueError, OverflowError):
            raise OSError(EINVAL, "") from None
    return found.decode("utf-8", "surrogateescape")


class Manager:
    """A connection to one systemd."""

    __slots__ = ("address", "_is_daemon", "_left", "_link", "_matches", "_unreached")

    def __init__(self, addresses: Sequence[str]) -> None:
        self.address = ""
        self._link: Any = None
        self._is_daemon = False
        self._matches = False
        self._left = list(addresses)
        self._unreached: list[str] = []
        self._connect()

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _connect(self) -> None:
        """Connect to the first of the addresses that are left."""
        while self._left:
            address = self.address = self._left.pop(0)
            # a socket of systemd's own is no bus: nobody passes messages on there
            path = address.removeprefix("unix:path=")
            self._is_daemon = not (path.endswith(_OWN_SOCKET) and path.startswith("/"))
            try:
                if self._is_daemon:
                    from runtime.cgroups import sdbus

                    self._link = sdbus.Connection(address, CONNECT_S)
                else:
                    self._link = dbus.Connection(_plain(path), CONNECT_S)
                return
            except OSError as error:
                self._missed(error)
        raise CgroupError(f"cannot reach systemd: {'; '.join(self._unreached)}")

    def _missed(self, error: OSError) -> None:
        where = self.address.partition("=")[2] or self.address
        self._unreached.append(f"{where}: {os.strerror(error.errno or 0).lower()}")

    def call(
        self,
        member: bytes,
        arguments: Sequence[tuple[str, Any]],
        reads: str = "",
        *,
        path: bytes = _PATH,
        interface: bytes = _MANAGER,
    ) -> Any:
        """Call a method; its answer's first value, of the basic type `reads` ("v" and a type for one in a variant)."""
        while True:
            try:
                self._listen()
                return self._link.call((_NAME, path, interface, member), arguments, reads, CALL_S)
            except dbus.NotLetIn as error:
                self.close()
                self._missed(error)
                self._connect()

    def _listen(self) -> None:
        """Over a bus the end of a job is told to those who asked for it, before the job exists: or it could be missed."""
        if self._is_daemon and not self._matches:
            name, path = b"org.freedesktop.DBus", b"/org/freedesktop/DBus"
            self._link.call((name, path, name, b"AddMatch"), [("s", _MATCH)], "", CALL_S)
            self._matches = True

    # -- units -------------------------------------------------------------------------------------------------------------

    def start(self, unit: str, properties: Sequence[Property]) -> None:
        """Have systemd make and start a unit of this moment, and wait until it has; Refusal or CgroupError otherwise."""
        arguments = [("s", unit), ("s", "replace"), _properties(properties), ("a(sa(sv))", [])]
        result = self._job(b"StartTransientUnit", arguments, f"start unit {unit}")
        if result != "done":
            why = self._why(unit)
            raise CgroupError(
                f'start unit {unit}: systemd says "{result}"{why}', f"systemd's own log has more: journalctl -u {unit}"
            )

    def stop(self, unit: str, *, collects: bool = False) -> None:
        """Have systemd stop a unit and forget about it, which it does by itself of one that it `collects`; one that is not there is
        fine."""
        try:
            self._job(b"StopUnit", [("s", unit), ("s", "replace")], f"stop unit {unit}")
        except Refusal as refusal:
            if refusal.name != NO_SUCH_UNIT:
                raise refusal.error(f"stop unit {unit}") from None
        if not collects:
            self.reset(unit)

    def reset(self, unit: str) -> None:
        """Have systemd forget that a unit has failed, which is what some are kept for."""
        try:
            self.call(b"ResetFailedUnit", [("s", unit)])
        except Refusal:
            pass  # it is not there any more, which is what was wanted

    def set(self, unit: str, properties: Sequence[Property]) -> None:
        """Change properties of a unit until the next boot, all or none, and wait until its cgroup has them too."""
        self.call(b"SetUnitProperties", [("s", unit), ("b", True), _properties(properties)])
        # It answers before it writes: cgroups are done before the next message is read.
        self.call(b"Ping", [], interface=b"org.freedesktop.DBus.Peer")

    def attach(self, unit: str, below: str, pid: int) -> None:
        """Have systemd put a process into a unit, or into a cgroup below it."""
        self.call(b"AttachProcessesToUnit", [("s", unit), ("s", below), ("au", [pid])])

    def get(self, name: str, signature: str, unit: str = "") -> Any:
        """A property of a unit, or of the manager itself."""
        path, interface = (_unit_path(unit), _UNIT) if unit else (_PATH, _MANAGER)
        arguments = [("s", interface.decode()), ("s", name)]
        return self.call(b"Get", arguments, "v" + signature, path=path, interface=_PROPERTIES)

    def _why(self, unit: str) -> str:
        """What systemd says of a unit that has failed, in parentheses."""
        kind = b"org.freedesktop.systemd1." + (b"Scope" if unit.endswith(".scope") else b"Slice")
        try:
            arguments = [("s", kind.decode()), ("s", "Result")]
            result = self.call(b"Get", arguments, "vs", path=_unit_path(unit), interface=_PROPERTIES)
        except Refusal:
            return ""
        return f" (result: {result})" if result != "success" else ""

    def _job(self, member: bytes, arguments: Sequence[tuple[str, Any]], attempt: str) -> str:
        """Ask for a job and wait for its end: systemd's word for how it ended."""
        deadline = time.monotonic() + JOB_S
        job = self.call(member, arguments, "o")
        try:
            while True:
                _, path, _, result = self._link.signal("JobRemoved", "uoss", deadline)
                if path == job:
                    return str(result)
        except OSError as error:
            errno = error.errno or 0
            words = f"not done within {JOB_S:g} s" if errno == ETIMEDOUT else os.strerror(errno).lower()
            raise CgroupError(f"{attempt}: systemd: {words}", errno=errno) from None


def _properties(properties: Sequence[Property]) -> tuple[str, Any]:
    return "a(sv)", [(name, (signature, value)) for name, signature, value in properties]


def _unit_path(unit: str) -> bytes:
    """The object of a unit: its name with all but letters and digits escaped, and a digit at its start (sd_bus_path_encode(3))."""
    name = "".join(c if c.isascii() and c.isalnum() else _percent(c).replace("%", "_") for c in unit)
    if name[0].isdigit():
        name = f"_{ord(name[0]):02x}{name[1:]}"
    return _PATH + b"/unit/" + name.encode()
