"""Where mounts come from and where they go: sources of every type, destinations in a rootfs that is not to be trusted."""

from __future__ import annotations

import os
import socket
import stat

import pytest


def mount(destination, source, *options, type="bind", **more):
    """An edit that adds one mount."""
    entry = {"destination": destination, "type": type, "source": str(source), "options": list(options), **more}
    if not options:
        del entry["options"]
    return lambda config: config["mounts"].append(entry)


def both(*edits):
    def edit(config):
        for one in edits:
            one(config)

    return edit


# -- sources -----------------------------------------------------------------------------------------------------------


@pytest.mark.requires("root")
def test_files_sockets_fifos_and_devices(each, scratch):
    (scratch / "file").write_text("text")
    os.mkfifo(scratch / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(scratch / "socket"))
    os.mknod(scratch / "device", 0o20666, os.makedev(1, 5))
    names = ("file", "fifo", "socket", "device")
    found = each(
        both(*(mount(f"/new/{name}", scratch / name, "bind") for name in names)),
        *(f"stat /new/{name}" for name in names),
    )
    listener.close()
    assert [answer["type"] for answer in found] == ["file", "fifo", "socket", "char"]
    assert found[0]["size"] == 4


def test_source_through_a_link_of_the_host(pyrunc, make, scratch):
    (scratch / "real").mkdir()
    (scratch / "real/file").write_text("real\n")
    (scratch / "link").symlink_to("real")
    made = make(mount("/t", scratch / "link", "bind"), "/bin/cat", "/t/file")
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "real\n"


def test_a_directory_cannot_be_mounted_on_a_file(refused, scratch):
    error = refused(mount("/etc/passwd", scratch, "bind"), "/etc/passwd")
    assert "not a directory" in error.lower()


def test_a_file_cannot_be_mounted_on_a_directory(refused, scratch):
    (scratch / "file").touch()
    error = refused(mount("/etc", scratch / "file", "bind"), "/etc")
    assert "directory" in error.lower()


# -- destinations ------------------------------------------------------------------------------------------------------


def test_missing_destinations_are_made(pyrunc, make, scratch):
    (scratch / "file").write_text("x")
    made = make(
        both(
            mount("/a/b/c", "t", type="tmpfs"),
            mount("/a/d/file", scratch / "file", "bind"),
            mount("/a/b/c/e", "t", type="tmpfs"),
        ),
        "/bin/probe",
        "report",
    )
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    points = [m["point"] for m in found["mounts"]]
    assert points.index("/a/b/c") < points.index("/a/b/c/e") and "/a/d/file" in points
    assert stat.S_IMODE((made.rootfs / "a/b").stat().st_mode) == 0o755
    assert (made.rootfs / "a/d/file").is_file() and not (made.rootfs / "a/b/c/e").exists()


def test_mounts_are_made_in_the_order_given(report):
    edit = both(
        mount("/t", "one", type="tmpfs"),
        mount("/t", "two", type="tmpfs"),
        mount("/u/v", "x", type="tmpfs"),
        mount("/u", "over", type="tmpfs"),
    )
    mounts = report(edit)["mounts"]
    assert [m["source"] for m in mounts if m["point"] == "/t"] == ["one", "two"]
    assert [m["source"] for m in mounts if m["point"] in ("/u", "/u/v")][-1] == "over"


@pytest.mark.parametrize("link", ["/../../../..{}", "{}", "../../../../../../..{}"], ids=["up", "absolute", "relative"])
def test_destinations_do_not_follow_links_out(pyrunc, make, scratch, link):
    """CVE-2019-16884 and its family: the links of an image lead inside the rootfs, or nowhere."""
    outside = scratch / "outside"
    outside.mkdir()
    (scratch / "source").mkdir()
    (scratch / "source/file").write_text("source\n")
    made = make(mount("/link/sub", scratch / "source", "bind"), "/bin/cat", "/link/sub/file")
    (made.rootfs / "link").symlink_to(link.format(outside))
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "source\n"
    assert os.listdir(outside) == []
    assert (made.rootfs / str(outside).lstrip("/") / "sub").is_dir()


def test_destination_with_dots(pyrunc, make, scratch):
    made = make(mount("/x/../../../y", "t", type="tmpfs"), "/bin/probe", "report")
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert "/y" in [m["point"] for m in found["mounts"]]


@pytest.mark.parametrize("destination", ["/proc/self/exe", "/proc/sys/kernel", "/proc/1"])
def test_nothing_is_mounted_over_parts_of_proc(refused, scratch, destination):
    """CVE-2019-16884 again: a bind there would turn away writes of labels."""
    refused(mount(destination, scratch, "bind"), "/proc")


@pytest.mark.parametrize("destination", ["/proc/uptime", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat"])
def test_files_of_lxcfs_may_be_mounted_over_proc(pyrunc, make, scratch, destination):
    (scratch / "file").write_text("fake\n")
    made = make(mount(destination, scratch / "file", "bind"), "/bin/cat", destination)
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "fake\n"


def test_proc_must_be_proc(refused, scratch):
    def edit(config):
        config["mounts"][0] = {"destination": "/proc", "type": "bind", "source": str(scratch), "options": ["bind"]}

    refused(edit, "/proc")


def test_proc_through_a_link_is_refused(pyrunc, make, gone, scratch, peer):
    """CVE-2019-19921: an image whose /proc is a link would have labels and masks applied elsewhere."""
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    (made.rootfs / "proc").rmdir()
    (made.rootfs / "proc").symlink_to("tmp")
    pyrunc("run", "-b", made, id_, status=1)
    gone(pyrunc, id_, made)
