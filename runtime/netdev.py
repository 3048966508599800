"""Network devices of the host that become a container's: moved into its network namespace, named, addressed as before, and up.

Nothing is moved before all of them are known to be there and their names to be free: a virtual device ends with the
namespace that it is in, so one that was moved for a container which cannot be made would be lost. Nobody takes a device
out again: with the namespace, the kernel gives the physical ones back (config-linux.md, network devices).

A dozen messages of rtnetlink(7), spoken over one socket of ours and one that init has opened in its namespace. Libraries get
the second by forking the interpreter, and what then runs in the child is a second pyrunc, with handlers that undo the container.
"""

from __future__ import annotations

import socket
import struct
from errno import EEXIST, ENODEV

from runtime import system as os
from runtime.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Attributes = dict[int, bytes]

#: how long to wait for an answer of the kernel, which gives it at once
_ANSWER_S = 10.0

# linux/netlink.h, linux/rtnetlink.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE_NEW = 1, 4, 0x300, 0x600
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
# linux/if_link.h, linux/if.h
_IFLA_IFNAME, _IFLA_NET_NS_FD, _IFF_UP = 3, 28, 1
# linux/if_addr.h: addresses for use anywhere, that somebody set for good; their label is the old name, and not among these
_IFA_FLAGS, _IFA_F_PERMANENT, _SCOPE_UNIVERSE = 8, 0x80, 0
_IFA_KEPT = (1, 2, 4)  # IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, which flags are changed
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index


class Devices:
    """The devices of one container, between two network namespaces."""

    def __init__(self, pid: int, given: int, wanted: list[tuple[str, str]]) -> None:
        """Look whether all can be moved to the namespace of process `pid`, where the socket `given` was opened.

        `wanted` is (name here, name or template there) of each.
        """
        self._there = socket.socket(fileno=os.dup(given))
        self._here = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._fd = -1
        try:
            self._fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            for sock in (self._here, self._there):
                sock.settimeout(_ANSWER_S)
            here, there = _links(self._here), _links(self._there)
            for name, inside in wanted:
                if name not in here:
                    raise KernelError(f"find network device {name}", ENODEV, f"/linux/netDevices/{name}")
                if inside in there:
                    raise KernelError(_attempt(name, inside), EEXIST, f"/linux/netDevices/{name}")
            self._links = {name: here[name] for name, _ in wanted}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up the sockets."""
        self._here.close()
        self._there.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def move(self, name: str, inside: str) -> None:
        """Move one of them. Where `inside` ends with %d, the kernel chooses the first number that is free."""
        index, flags = self._links[name]
        addresses = list(_kept(self._here, index))
        before = _links(self._there)
        try:
            if flags & _IFF_UP:
                _set(self._here, index, 0, b"")  # a device that is up keeps its name
            place = _attribute(_IFLA_NET_NS_FD, struct.pack("=I", self._fd))
            _set(self._here, index, None, place + _attribute(_IFLA_IFNAME, inside.encode() + b"\0"))
            # its number stays, unless a device of the other namespace has that one
            index = next(found for new, (found, _) in _links(self._there).items() if _is_it(new, inside, before))
            for message, attributes in addresses:
                body = _ADDRESS.pack(*message, index) + attributes
                _ask(self._there, _NEWADDR, _ACK | _CREATE_NEW, body)
            _set(self._there, index, _IFF_UP, b"")
        except OSError as error:
            raise KernelError(_attempt(name, inside), error.errno or 0, f"/linux/netDevices/{name}") from None


def _attempt(name: str, inside: str) -> str:
    renamed = f" as {inside}" if inside != name else ""
    return f"move network device {name} into the container{renamed}"


def _is_it(new: str, inside: str, before: dict[str, tuple[int, int]]) -> bool:
    stem = inside.removesuffix("%d")
    if stem == inside:
        return new == inside
    return new not in before and new.startswith(stem) and new[len(stem) :].isdecimal()


# -- rtnetlink ---------------------------------------------------------------------------------------------------------


def _links(sock: socket.socket) -> dict[str, tuple[int, int]]:
    """name -> (number, flags) of each device of the socket's namespace."""
    found = {}
    for body in _ask(sock, _GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0)):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        name = _attributes(body[_LINK.size :])[_IFLA_IFNAME].rstrip(b"\0")
        found[name.decode("utf-8", "surrogateescape")] = (index, flags)
    return found


def _kept(sock: socket.socket, index: int) -> Iterator[tuple[tuple[int, int, int, int], bytes]]:
    """The permanent, global addresses of a device, as messages that set them anew: without its number."""
    for body in _ask(sock, _GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, prefix, flags, scope, of = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size :])
        if _IFA_FLAGS in attributes:  # all of them, where the byte of the message has room for eight
            (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
        if of == index and scope == _SCOPE_UNIVERSE and flags & _IFA_F_PERMANENT:
            new = b"".join(_attribute(key, attributes[key]) for key in _IFA_KEPT if key in attributes)
            flags &= ~_IFA_F_PERMANENT
            yield (family, prefix, flags & 0xFF, scope), new + _attribute(_IFA_FLAGS, struct.pack("=I", flags))


def _set(sock: socket.socket, index: int, flags: int | None, attributes: bytes) -> None:
    """Change a device: whether it is up, unless `flags` is None, and what the attributes say."""
    change = 0 if flags is None else _IFF_UP
    _ask(sock, _NEWLINK, _ACK, _LINK.pack(0, 0, index, flags or 0, change) + attributes)


def _ask(sock: socket.socket, kind: int, flags: int, body: bytes) -> list[bytes]:
    """One request and the bodies of its answers; an OSError where the kernel refuses."""
    sock.sendto(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 0, 0) + body, (0, 0))
    found: list[bytes] = []
    while True:
        data = sock.recv(1 << 18)
        while data:
            length, answer, *_ = _HEADER.unpack_from(data)
            part, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if answer in (_NLMSG_ERROR, _NLMSG_DONE):
                (error,) = struct.unpack_from("=i", part)
                if error:
                    raise OSError(-error, os.strerror(-error))
                return found
            found.append(part)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Attributes:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found
