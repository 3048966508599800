"""What the steps of a plan may do that have systemd make the cgroup, a unit of its own: the same table as contracts_host.py."""

from __future__ import annotations

import re

from accounts import Account, line
from contracts_host import HOST
from tracing import string


@line(HOST, "property")
def _property(a: Account, text: str) -> None:
    """Collected for the unit that follows."""
    a.names["properties"] = f"{a.names.get('properties', '')} {text.split(' ')[1].partition('=')[0]}"


@line(HOST, "start-unit")
def _start_unit(a: Account, text: str) -> None:
    """One call to systemd, by its own socket, with the properties of the lines before it and the process, and no others."""
    unit, _, pid = text.partition(" ")
    if a.manager is None:
        a.fail("a connection to systemd")
    told = ""
    while (call := a.next()) is not None and a.tells_manager(call, ""):
        told += "".join(string(part) for part in re.findall(r'iov_base=("(?:[^"\\]|\\.)*")', call.shown))
        a.take(call.name)
    # a name, and the signature of its value with its length before it
    found = re.findall(r"([A-Z]\w+)\0(.)([a-z(){}]+)\0", told.partition("StartTransientUnit")[2], re.S)
    names = [name for name, size, signature in found if ord(size) == len(signature)]
    if unit not in told or names != [*a.names.pop("properties", "").split(), *(["PIDs"] if pid else [])]:
        a.at -= 1
        a.fail(f"a unit of these properties and not of {names}")
