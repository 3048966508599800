"""Network devices of the host that become a container's: moved into its network namespace, named, addressed as before, and up.

Nothing is moved before all of them are known to be there and their names to be free: a virtual device ends with the
namespace that it is in, so one that was moved for a container which cannot be made would be lost. Nobody takes a device
out again: with the namespace, the kernel gives the physical ones back (config-linux.md, network devices).

rtnetlink(7) over two sockets of pyroute2: one of ours, and one that init has opened in its namespace. By itself pyroute2 would
get the second by forking the interpreter, and what runs in that child is a second pyrunc, with handlers that undo the container.
"""

from __future__ import annotations

from errno import EEXIST, ENODEV

from pyroute2 import IPRoute, NetlinkError

from runtime import system as os
from runtime.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# linux/if.h, linux/if_addr.h: addresses for use anywhere, that somebody set for good
_IFF_UP, _IFA_F_PERMANENT, _SCOPE_UNIVERSE = 1, 0x80, 0
#: what of an address is set anew; its label is the old name, and not among these
_KEPT = {"IFA_ADDRESS": "address", "IFA_LOCAL": "local", "IFA_BROADCAST": "broadcast"}


class Devices:
    """The devices of one container, between two network namespaces."""

    def __init__(self, pid: int, given: int, wanted: list[tuple[str, str]]) -> None:
        """Look whether all can be moved to the namespace of process `pid`, where the socket `given` was opened.

        `wanted` is (name here, name or template there) of each.
        """
        self._there = IPRoute(fileno=os.dup(given))
        self._here = IPRoute()
        self._fd = -1
        try:
            self._fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
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
        try:
            addresses = list(_kept(self._here, index))
            before = _links(self._there)
            if flags & _IFF_UP:
                self._here.link("set", index=index, state="down")  # a device that is up keeps its name
            self._here.link("set", index=index, net_ns_fd=self._fd, ifname=inside)
            # its number stays, unless a device of the other namespace has that one
            index = next(found for new, (found, _) in _links(self._there).items() if _is_it(new, inside, before))
            for address in addresses:
                self._there.addr("add", index=index, **address)
            self._there.link("set", index=index, state="up")
        except NetlinkError as error:
            raise KernelError(_attempt(name, inside), error.code, f"/linux/netDevices/{name}") from None


def _attempt(name: str, inside: str) -> str:
    renamed = f" as {inside}" if inside != name else ""
    return f"move network device {name} into the container{renamed}"


def _is_it(new: str, inside: str, before: dict[str, tuple[int, int]]) -> bool:
    stem = inside.removesuffix("%d")
    if stem == inside:
        return new == inside
    return new not in before and new.startswith(stem) and new[len(stem) :].isdecimal()


def _links(route: Any) -> dict[str, tuple[int, int]]:
    """name -> (number, flags) of each device of the socket's namespace."""
    return {link.get_attr("IFLA_IFNAME"): (link["index"], link["flags"]) for link in route.get_links()}


def _kept(route: Any, index: int) -> Iterator[dict[str, Any]]:
    """The permanent, global addresses of a device, as the arguments that set them anew."""
    for found in route.get_addr(index=index):
        # all flags, where the message's own byte has room for eight
        flags = found.get_attr("IFA_FLAGS") or found["flags"]
        if found["scope"] == _SCOPE_UNIVERSE and flags & _IFA_F_PERMANENT:
            new = {word: found.get_attr(kind) for kind, word in _KEPT.items() if found.get_attr(kind) is not None}
            yield {
                "family": found["family"],
                "prefixlen": found["prefixlen"],
                "scope": found["scope"],
                "flags": flags & ~_IFA_F_PERMANENT,
                **new,
            }
