"""D-Bus through libsystemd's sd-bus, in cffi's ABI mode: every kind of address, a bus with its daemon, and what `dbus` is compared with.

The same calls as `dbus.Connection` has. The library is opened when a connection is made and not before.
"""

from __future__ import annotations

import time
from errno import EINTR, ETIMEDOUT

from runtime import system as os
from runtime.cgroups.dbus import Refusal, members
from runtime.errors import Unsupported
from runtime.host import library_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SONAME = "libsystemd.so.0"

_C_TYPES = {
    "b": "int *", "y": "uint8_t *", "n": "int16_t *", "q": "uint16_t *", "i": "int32_t *", "u": "uint32_t *",
    "x": "int64_t *", "t": "uint64_t *", "d": "double *",
}  # fmt: skip


class Connection:
    """A connection to whoever listens at an address."""

    __slots__ = ("_bus", "_ffi", "_lib")

    def __init__(self, address: str, wait_s: float, *, is_bus: bool = True) -> None:
        """Connect and be let in, greeted by the daemon where there is one; OSError where that fails."""
        self._bus: Any = None
        self._ffi, self._lib = _library()
        place = self._ffi.new("sd_bus **")
        self._lib.sd_bus_new(place)
        self._bus = place[0]
        errno = -self._lib.sd_bus_set_address(self._bus, address.encode("utf-8", "surrogateescape"))
        if errno <= 0:
            self._lib.sd_bus_set_bus_client(self._bus, is_bus)
            errno = -self._lib.sd_bus_start(self._bus)
        deadline = time.monotonic() + wait_s
        while errno <= 0:
            ready = self._lib.sd_bus_is_ready(self._bus)
            if ready > 0:
                return
            errno = -ready if ready < 0 else self._step(deadline)[0]
        self.close()
        raise OSError(errno, "")

    def close(self) -> None:
        """Hang up."""
        if self._bus is not None:
            self._lib.sd_bus_close(self._bus)
            self._lib.sd_bus_unref(self._bus)
            self._bus = None

    __del__ = close

    def call(
        self,
        address: tuple[bytes, bytes, bytes, bytes],
        arguments: Sequence[tuple[str, Any]],
        reads: str,
        wait_s: float,
    ) -> Any:
        """As in `dbus`."""
        ffi, lib = self._ffi, self._lib
        place = ffi.new("sd_bus_message **")
        self._checked(lib.sd_bus_message_new_method_call(self._bus, place, *address))
        message = place[0]
        place[0] = ffi.NULL
        error = ffi.new("sd_bus_error *")
        try:
            for signature, value in arguments:
                self._append(message, signature, value)
            answer = lib.sd_bus_call(self._bus, message, int(wait_s * 1e6), error, place)
            if answer < 0:
                name = ffi.string(error.name).decode() if error.name != ffi.NULL else ""
                words = ffi.string(error.message).decode("utf-8", "replace") if error.message != ffi.NULL else ""
                raise Refusal(name, (words or name or os.strerror(-answer)).rstrip("."), -answer)
            return self._read(place[0], reads) if reads else None
        finally:
            lib.sd_bus_error_free(error)
            lib.sd_bus_message_unref(message)
            lib.sd_bus_message_unref(place[0])

    def signal(self, member: str, signature: str, deadline: float) -> list[Any]:
        """As in `dbus`."""
        while True:
            errno, message = self._step(deadline)
            if errno:
                raise OSError(errno, "")
            if message is None:
                continue
            try:
                if self._lib.sd_bus_message_is_signal(message, self._ffi.NULL, member.encode()) > 0:
                    return [self._read(message, kind) for kind in signature]
            finally:
                self._lib.sd_bus_message_unref(message)

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
                items = list(zip(members(inner), value, strict=True))
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


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape") + b"\0"


def _library() -> tuple[Any, Any]:
    from runtime._libsystemd import ffi

    try:
        return ffi, ffi.dlopen(library_path(SONAME) or SONAME)
    except OSError as error:
        # dlopen's words begin with the name
        raise Unsupported(
            f"systemd cannot be spoken to: {error}", hint="it is in Debian's package libsystemd0"
        ) from None
