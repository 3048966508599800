"""linux.netDevices: moved into the container, named, with their addresses and up; and what becomes of them.

The devices are of a network namespace that stands in for the host's, which pyrunc is run in.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = [pytest.mark.requires("root", "veth-interface"), pytest.mark.differs("it has no such property")]


class Place:
    """A network namespace that holds devices, by a process in it."""

    def __init__(self, pid, pyrunc):
        self.pid, self.pyrunc = pid, pyrunc

    def ip(self, *words):
        enter = ["nsenter", "-t", str(self.pid), "-n", "ip", "-j", *words]
        return subprocess.run(enter, check=True, capture_output=True, text=True).stdout

    def names(self):
        return {link["ifname"] for link in json.loads(self.ip("link"))}

    def run(self, *words, status=0):
        enter = ["nsenter", "-t", str(self.pid), "-n", *self.pyrunc.argv(*words)]
        # the streams of an init that is waiting are pipes of ours: files, not to wait for their ends
        place = self.pyrunc.root.parent
        with open(place / "out", "w+") as out, open(place / "err", "w+") as err:
            done = subprocess.run(enter, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60)
            texts = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
        assert done.returncode == status, texts
        return texts


@pytest.fixture
def host(holder, pyrunc):
    """Stands in for the host, with a pair of devices: d0, whose other end is d1."""
    place = Place(holder("-n"), pyrunc)
    place.ip("link", "add", "d0", "type", "veth", "peer", "d1")
    return place


def devices(**wanted):
    return lambda config: config["linux"].update(netDevices=wanted)


@pytest.fixture
def inside(host, make, pyrunc):
    """inside(edit) -> Place: the network namespace of a container that waits for start, made beside `host`."""

    def inside(edit, name="box"):
        id_ = pyrunc.id(name)
        host.run("create", "-b", make(edit, "/bin/probe", "sleep", "1000"), id_)
        return Place(pyrunc.pid(id_), pyrunc)

    return inside


def link(place, name):
    (found,) = json.loads(place.ip("addr", "show", "dev", name))
    return found


def test_moved(host, inside):
    place = inside(devices(d0={}))
    assert host.names() == {"lo", "d1"} and place.names() == {"lo", "d0"}
    assert "UP" in link(place, "d0")["flags"]


def test_moved_and_renamed(host, inside):
    place = inside(devices(d0={"name": "lan0"}, d1={"name": "d0"}))  # one takes the name that the other had
    assert host.names() == {"lo"} and place.names() == {"lo", "lan0", "d0"}


def test_addresses_and_attributes_are_kept(host, inside):
    host.ip("link", "set", "d0", "mtu", "1400", "address", "02:00:00:00:00:07", "txqueuelen", "77")
    for address in (
        ["10.9.8.7/24", "brd", "+"],
        ["10.9.8.8/24"],
        ["192.0.2.1", "peer", "192.0.2.2/32"],
        ["2001:db8::5/64"],
    ):
        host.ip("addr", "add", *address, "dev", "d0", *(["nodad"] if ":" in address[0] else []))
    host.ip(
        "addr", "add", "10.1.1.1/24", "dev", "d0", "valid_lft", "1000", "preferred_lft", "900"
    )  # which somebody leases
    host.ip("addr", "add", "169.254.7.7/16", "scope", "link", "dev", "d0")
    host.ip("link", "set", "d0", "up")
    found = link(inside(devices(d0={"name": "lan0"})), "lan0")
    assert (found["mtu"], found["address"], found["txqlen"]) == (1400, "02:00:00:00:00:07", 77)
    assert "UP" in found["flags"]
    kept = {
        (a["local"], a["prefixlen"], a.get("broadcast"), a.get("address"))
        for a in found["addr_info"]
        if a["scope"] == "global"
    }
    assert kept == {
        ("10.9.8.7", 24, "10.9.8.255", None),
        ("10.9.8.8", 24, None, None),
        ("192.0.2.1", 32, None, "192.0.2.2"),
        ("2001:db8::5", 64, None, None),
    }
    assert not [a for a in found["addr_info"] if a["scope"] == "link" and a["family"] == "inet"]


def test_a_name_that_is_taken(host, inside, make, pyrunc):
    """Nothing has happened then, not even to the device that could have been moved."""
    made = make(devices(d1={}, d0={"name": "lo"}))
    _, err = host.run("create", "-b", made, pyrunc.id(), status=1)
    assert "move network device d0 into the container as lo: file exists" in err and "/linux/netDevices/d0" in err
    assert host.names() == {"lo", "d0", "d1"} and not pyrunc.exists(pyrunc.id())


def test_a_template_for_the_name(host, inside):
    place = inside(devices(d0={"name": "lan%d"}, d1={"name": "lan%d"}))
    assert place.names() == {"lo", "lan0", "lan1"} and host.names() == {"lo"}


def test_devices_that_cannot_be_moved(host, make, pyrunc):
    """One that is not there, one that belongs to its namespace; the other device stays where it is."""
    for name, words in (("d9", "find network device d9: no such device"), ("lo", "invalid argument")):
        made = make(devices(**{name: {"name": "x0"}}, d0={}))
        _, err = host.run("create", "-b", made, pyrunc.id(name), status=1)
        assert words in err and not pyrunc.exists(pyrunc.id(name))
        assert host.names() == {"lo", "d0", "d1"}


def test_a_namespace_that_is_joined(host, holder, make, pyrunc):
    other = Place(holder("-n"), pyrunc)
    other.ip("link", "add", "d1", "type", "veth", "peer", "b1")  # number and name are in use there

    def edit(config):
        devices(d0={"name": "lan%d"})(config)
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/proc/{other.pid}/ns/net"

    id_ = pyrunc.id()
    host.run("create", "-b", make(edit, "/bin/probe", "sleep", "1000"), id_)
    assert other.names() == {"lo", "d1", "b1", "lan0"} and "UP" in link(other, "lan0")["flags"]
    pyrunc("delete", "--force", id_)
    assert "lan0" in other.names()  # the namespace is somebody else's, and so is what is in it


def test_nothing_else_is_done_inside(host, inside):
    """No route but those that an address brings, no setting of the others."""
    place = inside(devices(d0={}))
    assert [
        route for route in json.loads(place.ip("-4", "route", "show", "table", "all") or "[]") if route["dev"] != "lo"
    ] == []
    assert [a for a in link(place, "d0")["addr_info"] if a["family"] == "inet"] == []


def test_what_becomes_of_them(host, inside, pyrunc, until):
    """delete takes nothing back; with the namespace a virtual device ends, and its peer with it."""
    place = inside(devices(d0={}))
    ns = os.readlink(f"/proc/{place.pid}/ns/net")
    pyrunc("delete", "--force", pyrunc.id("box"))
    until(lambda: host.names() == {"lo"}, f"{ns} is gone")


def test_the_container_uses_it(host, make, pyrunc):
    host.ip("addr", "add", "10.9.8.1/24", "dev", "d1")
    host.ip("link", "set", "d1", "up")
    host.ip("addr", "add", "10.9.8.2/24", "dev", "d0")
    out, _ = host.run(
        "run", "-b", make(devices(d0={"name": "lan0"}), "/bin/ping", "-c", "1", "-W", "10", "10.9.8.1"), pyrunc.id()
    )
    assert "1 packets received" in out
