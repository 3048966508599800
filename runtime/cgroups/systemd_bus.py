"""Speaking to systemd over D-Bus, through libsystemd's sd-bus in cffi's ABI mode: units started, changed and stopped.

    Manager(addresses)     connects to the first of the addresses where somebody answers
    .start .stop .set      a unit; `start` and `stop` wait for the end of systemd's job, never longer than JOB_S
    .get                   a property of the manager or of a unit
    .attach                a process into a unit

The library is opened when a Manager is made and not before: nothing here costs a container whose cgroup systemd does not
make. Waiting has an end everywhere: a manager that hangs must not hang its callers (runc issue 3904).

    we                                  systemd
    StartTransientUnit(name, ...)  ->
                                   <-   the path of a job
                                   <-   JobRemoved(id, job, unit, "done")      to the ones who asked for the job
"""

from __future__ import annotations

import time
from errno import EACCES, EINTR, EPERM, ETIMEDOUT

from runtime import system as os
from runtime.cgroups import gvariant
from runtime.errors import CgroupError, Unsupported
from runtime.host import library_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runtime.cgroups.systemd_properties import Property

SONAME = "libsystemd.so.0"

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
_DENIED = ("org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired")

_C_TYPES = {
    "b": "int *", "y": "uint8_t *", "n": "int16_t *", "q": "uint16_t *", "i": "int32_t *", "u": "uint32_t *",
    "x": "int64_t *", "t": "uint64_t *", "d": "double *",
}  # fmt: skip


class Refusal(Exception):
    """systemd's answer is no: the name of its error, and its words."""

    def __init__(self, name: str, words: str, errno: int) -> None:
        super().__init__(words)
        self.name = name
        self.words = words
        self.errno = errno

    def error(self, attempt: str) -> CgroupError:
        """The error to raise for what was attempted."""
        hint = ""
        if self.name in _DENIED or self.errno in (EACCES, EPERM):
            hint = "without root, containers are units of the user's own systemd: is $XDG_RUNTIME_DIR set?"
        return CgroupError(f"{attempt}: systemd: {self.words}", hint, errno=self.errno)


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


class Manager:
    """A connection to one systemd."""

    __slots__ = ("address", "_ffi", "_lib", "_bus", "_is_daemon", "_matches")

    def __init__(self, addresses: Sequence[str]) -> None:
        self._bus: Any = None
        self._is_daemon = False
        self._matches = False
        self._ffi, self._lib = _library()
        why = []
        for address in addresses:
            errno = self._connect(address)
            if not errno:
                self.address = address
                return
            why.append(f"{address.partition('=')[2] or address}: {os.strerror(errno).lower()}")
        raise CgroupError(f"cannot reach systemd: {'; '.join(why)}")

    def close(self) -> None:
        """Hang up."""
        if self._bus is not None:
            self._lib.sd_bus_close(self._bus)
            self._lib.sd_bus_unref(self._bus)
            self._bus = None

    # -- connecting --------------------------------------------------------------------------------------------------------

    def _connect(self, address: str) -> int:
        """Connect and be let in; an errno where that fails."""
        place = self._ffi.new("sd_bus **")
        self._lib.sd_bus_new(place)
        self._bus = place[0]
        # a socket of systemd's own is no bus: nobody is greeted there, and nobody passes messages on
        self._is_daemon = not address.endswith("/systemd/private")
        errno = -self._lib.sd_bus_set_address(self._bus, address.encode("utf-8", "surrogateescape"))
        if errno <= 0:
            self._lib.sd_bus_set_bus_client(self._bus, self._is_daemon)
            errno = -self._lib.sd_bus_start(self._bus)
        deadline = time.monotonic() + CONNECT_S
        while errno <= 0:
            ready = self._lib.sd_bus_is_ready(self._bus)
            if ready > 0:
                return 0
            errno = -ready if ready < 0 else self._step(deadline)[0]
        self.close()
        return int(errno)

    def _step(self, deadline: float) -> tuple[int, Any]:
        """Do one thing that is to be done, or wait for it: an errno, and a message that came, to be unreferenced."""
        place = self._ffi.new("sd_bus_message **")
        done = self._lib.sd_bus_process(self._bus, place)
        if done < 0:
            return (0 if done == -EINTR else -done), None
        if done > 0:
            return 0, place[0] if place[0] != self._ffi.NULL else None
        left = deadline - time.monotonic()
        if left <= 0:
            return ETIMEDOUT, None
        waited = self._lib.sd_bus_wait(self._bus, max(int(left * 1e6), 1))
        return (-waited if waited < 0 and waited != -EINTR else 0), None

    # -- calls -------------------------------------------------------------------------------------------------------------

    def call(
        self,
        member: bytes,
        arguments: Sequence[tuple[str, Any]],
        reads: str = "",
        *,
        path: bytes = _PATH,
        interface: bytes = _MANAGER,
        destination: bytes = _NAME,
    ) -> Any:
        """Call a method; its answer's first value, of the basic type `reads` ("v" and a type for one in a variant)."""
        ffi, lib = self._ffi, self._lib
        place = ffi.new("sd_bus_message **")
        self._checked(lib.sd_bus_message_new_method_call(self._bus, place, destination, path, interface, member))
        message = place[0]
        place[0] = ffi.NULL
        error = ffi.new("sd_bus_error *")
        try:
            for signature, value in arguments:
                self._append(message, signature, value)
            answer = lib.sd_bus_call(self._bus, message, int(CALL_S * 1e6), error, place)
            if answer < 0:
                name = ffi.string(error.name).decode() if error.name != ffi.NULL else ""
                words = ffi.string(error.message).decode("utf-8", "replace") if error.message != ffi.NULL else ""
                raise Refusal(name, (words or name or os.strerror(-answer)).rstrip("."), -answer)
            return self._read(place[0], reads) if reads else None
        finally:
            lib.sd_bus_error_free(error)
            lib.sd_bus_message_unref(message)
            lib.sd_bus_message_unref(place[0])

    def _append(self, message: Any, signature: str, value: Any) -> None:
        ffi, lib = self._ffi, self._lib
        kind = signature[0]
        if kind in "sog":
            done = lib.sd_bus_message_append_basic(message, kind.encode(), ffi.from_buffer(_text(value)))
        elif kind in _C_TYPES:
            done = lib.sd_bus_message_append_basic(message, kind.encode(), ffi.new(_C_TYPES[kind], value))
        elif signature == "ay":
            done = lib.sd_bus_message_append_array(message, b"y", ffi.from_buffer(bytes(value)), len(value))
        else:
            if kind == "v":
                inner, items = value[0], [value]
            elif kind == "a":
                inner, items = signature[1:], [(signature[1:], item) for item in value]
            else:
                inner, kind = signature[1:-1], "r"
                items = list(zip(gvariant.split(inner), value, strict=True)) if "v" not in inner else _pair(value)
            self._checked(lib.sd_bus_message_open_container(message, kind.encode(), inner.encode()))
            for item_signature, item in items:
                self._append(message, item_signature, item)
            done = lib.sd_bus_message_close_container(message)
        self._checked(done)

    def _read(self, message: Any, reads: str) -> Any:
        if reads[0] == "v":
            self._checked(self._lib.sd_bus_message_enter_container(message, b"v", reads[1:].encode()))
        kind = reads[-1]
        place = self._ffi.new("const char **" if kind in "sog" else _C_TYPES[kind])
        self._checked(self._lib.sd_bus_message_read_basic(message, kind.encode(), place))
        return self._ffi.string(place[0]).decode("utf-8", "surrogateescape") if kind in "sog" else place[0]

    def _checked(self, answer: int) -> None:
        if answer < 0:
            raise Refusal("", os.strerror(-answer).lower(), -answer)

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
        if self._is_daemon and not self._matches:
            # before the job exists, or its end could be missed
            dbus = b"org.freedesktop.DBus"
            self.call(b"AddMatch", [("s", _MATCH)], destination=dbus, path=b"/org/freedesktop/DBus", interface=dbus)
            self._matches = True
        job = self.call(member, arguments, "o")
        while True:
            errno, message = self._step(deadline)
            if errno:
                words = f"not done within {JOB_S:g} s" if errno == ETIMEDOUT else os.strerror(errno).lower()
                raise CgroupError(f"{attempt}: systemd: {words}", errno=errno)
            if message is None:
                continue
            try:
                if self._lib.sd_bus_message_is_signal(message, _MANAGER, b"JobRemoved") > 0:
                    _, path, _, result = (self._read(message, kind) for kind in "uoss")
                    if path == job:
                        return str(result)
            finally:
                self._lib.sd_bus_message_unref(message)


def _properties(properties: Sequence[Property]) -> tuple[str, Any]:
    return "a(sv)", [(name, (signature, value)) for name, signature, value in properties]


def _pair(value: Any) -> list[tuple[str, Any]]:
    """The items of an (sv)."""
    name, variant = value
    return [("s", name), ("v", variant)]


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape") + b"\0"


def _unit_path(unit: str) -> bytes:
    """The object of a unit: its name with all but letters and digits escaped, and a digit at its start (sd_bus_path_encode(3))."""
    name = "".join(c if c.isascii() and c.isalnum() else _percent(c).replace("%", "_") for c in unit)
    if name[0].isdigit():
        name = f"_{ord(name[0]):02x}{name[1:]}"
    return _PATH + b"/unit/" + name.encode()


def _library() -> tuple[Any, Any]:
    from runtime._libsystemd import ffi

    try:
        return ffi, ffi.dlopen(library_path(SONAME) or SONAME)
    except OSError as error:
        # dlopen's words begin with the name
        raise Unsupported(
            f"systemd cannot be spoken to: {error}", hint="it is in Debian's package libsystemd0"
        ) from None
