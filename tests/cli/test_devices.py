"""linux.devices, the devices and links that every container has, and what may be done with them."""

from __future__ import annotations

import os

import pytest

DEFAULT = {"null": [1, 3], "zero": [1, 5], "full": [1, 7], "random": [1, 8], "urandom": [1, 9], "tty": [5, 0]}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def devices(*entries, allow=True):
    def edit(config):
        config["linux"]["devices"] = list(entries)
        if allow:
            config["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}

    return edit


def test_default_devices(report):
    found = report()
    for name, number in DEFAULT.items():
        device = found["devices"][name]
        assert (device["type"], device["rdev"], device["mode"]) == ("char", number, "0666"), name
        # a user's are those of the host, whose root he is not
        assert (device["uid"], device["gid"]) == ((65534, 65534) if os.geteuid() else (0, 0))
    links = dict(found["symlinks"])
    core = links.pop("core", "/proc/kcore")  # where the kernel has it
    assert core == "/proc/kcore" and links == LINKS


def test_default_devices_work(each):
    found = each(
        None,
        *(f"open /dev/{name} r" for name in DEFAULT if name != "tty"),
        "write /dev/null",
        "write /dev/full",
        "open /dev/tty r",
    )
    assert [answer["errno"] for answer in found] == [None] * 5 + [None, "ENOSPC", "ENXIO"]


@pytest.mark.requires("root")
def test_devices_of_every_type(report):
    found = report(
        devices(
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/sub/dir/block", "type": "b", "major": 7, "minor": 3, "fileMode": 0o600},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
            {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3},
        )
    )["devices"]
    fuse = found["fuse"]
    assert (fuse["type"], fuse["rdev"], fuse["mode"], fuse["uid"], fuse["gid"]) == ("char", [10, 229], "0640", 7, 8)
    assert (found["pipe"]["type"], found["pipe"]["mode"]) == ("fifo", "0622")
    assert (found["unbuffered"]["type"], found["unbuffered"]["rdev"]) == ("char", [1, 3])
    assert found["sub"]["type"] == "directory"


@pytest.mark.requires("root")
def test_device_in_missing_directories_and_outside_dev(each):
    edit = devices(
        {"path": "/dev/sub/dir/block", "type": "b", "major": 7, "minor": 3, "fileMode": 0o600},
        {"path": "/srv/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
    )
    block, null = each(edit, "stat /dev/sub/dir/block", "stat /srv/null")
    assert (block["type"], block["rdev"], block["mode"]) == ("block", [7, 3], "0600")
    assert (null["type"], null["rdev"]) == ("char", [1, 3])


@pytest.mark.requires("root")
def test_mode_is_exact_whatever_the_umask(pyrunc, make):
    made = make(
        devices({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o777}),
        "/bin/probe",
        "stat",
        "/dev/x",
    )
    assert pyrunc("run", "-b", made, pyrunc.id(), preexec_fn=lambda: os.umask(0o77)).json()["mode"] == "0777"


@pytest.mark.requires("root")
def test_a_default_device_given_again_has_the_given_properties(report):
    found = report(
        devices({"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5, "gid": 6})
    )
    null = found["devices"]["null"]
    assert (null["mode"], null["uid"], null["gid"]) == ("0600", 5, 6)


@pytest.mark.differs("it leaves the file there, and says nothing")
def test_device_may_not_be_something_else_that_is_there(refused):
    """A file at the place of a device is not taken for it."""

    def edit(config):
        devices({"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3})(config)

    refused(edit, "/etc/passwd")


@pytest.mark.parametrize(
    "device",
    [
        {"path": "/dev/x", "type": "x", "major": 1, "minor": 3},
        {"path": "/dev/x", "type": "c", "major": 1},
        {"path": "/dev/x"},
    ],
    ids=["type", "minor-missing", "type-missing"],
)
def test_devices_that_are_refused(refused, peer, device):
    if peer and device.get("type") == "c":
        return  # it takes a missing number for 0
    refused(devices(device))


def test_two_devices_of_one_path(refused, peer):
    if peer:
        return
    device = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}
    refused(devices(device, {**device, "minor": 5}), "/dev/x")


def test_devices_are_not_made_outside_through_a_link(pyrunc, make, scratch):
    made = make(devices({"path": "/srv/link/null", "type": "c", "major": 1, "minor": 3}), "/bin/true")
    outside = scratch / "outside"
    outside.mkdir()
    (made.rootfs / "srv").mkdir(exist_ok=True)
    (made.rootfs / "srv/link").symlink_to(outside)
    pyrunc("run", "-b", made, pyrunc.id(), status=None)
    assert os.listdir(outside) == []


def test_without_a_dev_of_its_own(report):
    """The rootfs' own /dev: engines without a tmpfs there still get the devices."""

    def edit(config):
        config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/dev")]

    found = report(edit)
    assert found["devices"]["null"]["rdev"] == [1, 3] and found["symlinks"]["fd"] == "/proc/self/fd"


@pytest.mark.requires("root")
def test_dev_bound_from_the_host_is_left_alone(pyrunc, make, scratch):
    """Nothing is made in a directory that is the host's."""
    host = scratch / "dev"
    (host / "pts").mkdir(parents=True)
    (host / "shm").mkdir()
    os.mknod(host / "null", 0o20666, os.makedev(1, 3))

    def edit(config):
        config["mounts"] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "bind", "source": str(host), "options": ["rbind"]},
        ]

    made = make(edit, "/bin/true")
    pyrunc("run", "-b", made, pyrunc.id())
    assert sorted(os.listdir(host)) == ["null", "pts", "shm"]
