"""Mount options of crun: links that are mounted, or mounted on, or copied; id maps in the option itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
pytestmark = pytest.mark.differs("words of crun's")


def bind(destination, source, *options, **more):
    entry = {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options], **more}
    return lambda config: config["mounts"].append(entry)


@pytest.fixture
def links(scratch):
    """A file of the host, a link to it, and one that leads nowhere."""
    (scratch / "file").write_text("of the host\n")
    (scratch / "link").symlink_to("file")
    (scratch / "hanging").symlink_to("/no/such/place")
    return scratch


@pytest.fixture
def outcome(pyrunc, make):
    """Run a shell line in a container with the mount, in a rootfs that was made ready for it."""

    def outcome(edit, script, prepare=None, status=0):
        made = make(edit, "/bin/sh", "-c", script)
        if prepare:
            prepare(made.rootfs)
        return pyrunc("run", "-b", made, pyrunc.id(), status=status)

    return outcome


def place_is_link(rootfs):
    (rootfs / "target").write_text("of the image\n")
    (rootfs / "place").symlink_to("target")


# -- src-nofollow, dest-nofollow ------------------------------------------------------------------------------------------


def test_without_either_word_both_links_are_followed(outcome, links):
    found = outcome(bind("/place", links / "link"), "readlink /place; cat /place /target", place_is_link)
    assert found.out == "target\nof the host\nof the host\n"


def test_dest_nofollow_mounts_on_the_link_itself(outcome, links):
    found = outcome(
        bind("/place", links / "link", "dest-nofollow"), "cat /place /target; [ -L /place ]", place_is_link, 1
    )
    assert found.out == "of the host\nof the image\n"


def test_both_mount_a_link_on_a_link(outcome, links):
    edit = bind("/place", links / "hanging", "dest-nofollow", "src-nofollow")
    assert outcome(edit, "readlink /place; cat /target", place_is_link).out == "/no/such/place\nof the image\n"


def test_src_nofollow_mounts_the_link_on_a_file(outcome, links):
    edit = bind("/place", links / "hanging", "src-nofollow")
    assert outcome(edit, "readlink /place").out == "/no/such/place\n"


def test_src_nofollow_of_what_is_no_link(outcome, links):
    assert outcome(bind("/place", links / "file", "src-nofollow"), "cat /place").out == "of the host\n"


@pytest.mark.requires("root")
def test_in_a_user_namespace(outcome, links):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}
        bind("/place", links / "hanging", "dest-nofollow", "src-nofollow")(config)

    assert outcome(edit, "readlink /place; cat /target", place_is_link).out == "/no/such/place\nof the image\n"


def test_dest_nofollow_wants_the_place_to_be_there(refused, links):
    refused(
        bind("/none", links / "file", "dest-nofollow"), "to /none (bind,dest-nofollow)", "no such file or directory"
    )


@pytest.mark.parametrize("place", ["self/exe", "self/fd/0", "self/ns/net"])
def test_dest_nofollow_leaves_the_links_of_procfs_alone(pyrunc, make, links, place):
    """A link that covers one of those would lead whoever follows it next, and that may be us."""
    made = make(bind(f"/alias/{place}", links / "file", "dest-nofollow"))
    (made.rootfs / "alias").symlink_to("/proc")
    done = pyrunc("run", "-b", made, pyrunc.id(), status=1)
    assert f"/alias/{place}" in done.err and "operation not permitted" in done.err


# -- copy-symlink ---------------------------------------------------------------------------------------------------------


def test_copy_symlink(outcome, links):
    script = "readlink /new/deep/link; grep -c /new /proc/self/mountinfo"
    assert (
        outcome(bind("/new/deep/link", links / "hanging", "copy-symlink"), script, status=1).out
        == "/no/such/place\n0\n"
    )


def test_copy_symlink_of_what_is_no_link_is_a_bind(outcome, links):
    assert (
        outcome(bind("/new", links / "file", "copy-symlink"), "cat /new; [ -L /new ]", status=1).out == "of the host\n"
    )


def test_copy_symlink_where_the_same_is_there(outcome, links):
    found = outcome(
        bind("/same", links / "link", "copy-symlink"),
        "readlink /same",
        lambda rootfs: (rootfs / "same").symlink_to("file"),
    )
    assert found.out == "file\n"


@pytest.mark.parametrize("there", ["link", "file", "directory"])
def test_copy_symlink_where_something_else_is_there(pyrunc, make, links, there):
    made = make(bind("/place", links / "link", "copy-symlink"))
    if there == "link":
        (made.rootfs / "place").symlink_to("elsewhere")
    elif there == "file":
        (made.rootfs / "place").write_text("file")
    else:
        (made.rootfs / "place").mkdir()
    done = pyrunc("run", "-b", made, pyrunc.id(), status=1)
    assert f"copy the link {links}/link to /place" in done.err and "file exists" in done.err


def test_copy_symlink_stays_inside_the_root(outcome, links, scratch):
    """The directory that is to hold the link is itself a link of the image, out of it."""
    outside = scratch / "outside"
    outside.mkdir()
    edit = bind("/alias/link", links / "link", "copy-symlink")
    found = outcome(
        edit, "readlink /alias/link", lambda rootfs: (rootfs / "alias").symlink_to(f"../../../../..{outside}")
    )
    assert found.out == "file\n" and not os.listdir(outside)


@pytest.mark.parametrize("word", ["src-nofollow", "dest-nofollow"])
def test_copy_symlink_goes_alone(refused, links, word):
    refused(bind("/place", links / "link", "copy-symlink", word), "copy-symlink goes with neither")


# -- idmap= ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def owned(scratch):
    """A directory of the host with files of several owners."""
    for uid, gid in ((0, 0), (3, 5), (1000, 1000)):
        (scratch / f"{uid}").write_text("")
        os.chown(scratch / f"{uid}", uid, gid)
    return scratch


@pytest.mark.requires("root", "idmapped-mount")
@pytest.mark.parametrize("word", ["idmap", "ridmap"])
def test_maps_in_the_option(each, owned, word):
    edit = bind("/t", owned, f"{word}=uids=0-100-10#1000-7-1;gids=0-200-10#1000-8-1")
    found = each(edit, "stat /t/0", "stat /t/3", "stat /t/1000")
    assert [(one["uid"], one["gid"]) for one in found] == [(100, 200), (103, 205), (7, 8)]


@pytest.mark.requires("root", "idmapped-mount")
def test_maps_of_one_kind_leave_the_other(each, owned):
    found = each(bind("/t", owned, "idmap=uids=0-100-10"), "stat /t/0", "stat /t/3")
    assert [(one["uid"], one["gid"]) for one in found] == [(100, 0), (103, 5)]


@pytest.mark.requires("root", "idmapped-mount")
def test_maps_relative_to_the_user_namespace(each, owned):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}
        bind("/tmp", owned, "idmap=uids=@1000-42-1#0-100007-1;gids=@1000-43-1#0-100009-1")(config)

    found = each(edit, "stat /tmp/1000", "stat /tmp/0")
    assert [(one["uid"], one["gid"]) for one in found] == [(42, 43), (7, 9)]


@pytest.mark.requires("root", "idmapped-mount")
def test_maps_of_a_filesystem(pyrunc, make):
    """Of any filesystem that allows it, as crun's: files of a tmpfs belong to who is mapped."""
    entry = {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["idmap=uids=0-100-10;gids=0-200-10"]}
    made = make(lambda config: config["mounts"].append(entry), "/bin/sh", "-c", "stat -c %u:%g /t")
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "100:200\n"


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("idmap=uids=0-1", '"0-1" of idmap is not three numbers'),
        ("idmap=uids=0-1-x;gids=0-1-1", '"0-1-x" of idmap is not three numbers'),
        ("idmap=uids=0-1-99999999999", "is not three numbers"),
        ("idmap=users=0-1-1", '"users=0-1-1" of idmap is neither'),
        ("idmap=uids=", "is neither uids="),
        # who is not root hears that sooner
        pytest.param("idmap=uids=@0-1-1", "@1 of idmap is no id of the container", marks=pytest.mark.requires("root")),
    ],
)
def test_maps_that_are_none(refused, scratch, option, why):
    refused(bind("/t", scratch, option), "mounts", why)


def test_what_is_mounted_on_the_host_stays_as_it_was(outcome, links, scratch):
    """None of these words changes anything at the source."""
    outcome(bind("/place", links / "link", "dest-nofollow", "src-nofollow"), ":", place_is_link)
    # tests beside this one mount as well, each in a place of its own
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert [point for point in points if point.startswith((f"{links}/", f"{scratch}/", "/place"))] == []
    assert stat.S_ISLNK(os.lstat(links / "link").st_mode)
