"""`mounts add` and `mounts remove`: what a container that runs already sees of them, and what is left when they fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading

import pytest

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
pytestmark = pytest.mark.differs("a command of crun's")


def entry(destination, source, *options, type="bind", **more):
    if type == "bind":
        options = ("rbind", *options)
    return {"destination": destination, "type": type, "source": str(source), "options": list(options), **more}


@pytest.fixture
def change(pyrunc, scratch):
    """change("add", box, entry, ...): the document is written and the command run."""

    def change(verb, box, *entries, status=0, wrap=False):
        path = scratch / "mounts.json"
        path.write_text(json.dumps({"mounts": entries} if wrap else entries))
        return pyrunc("mounts", verb, box.id, path, status=status)

    return change


@pytest.fixture
def source(scratch):
    """A directory of the host with a file in it, and a mount below."""
    (scratch / "source/sub").mkdir(parents=True)
    (scratch / "source/file").write_text("of the host")
    return scratch / "source"


def table(pid):
    """Mount point -> options, of all mounts of a process; what lies on top counts."""
    with open(f"/proc/{pid}/mountinfo") as file:
        rows = [line.split() for line in file]
    return {row[4]: {*row[5].split(","), *row[-1].split(",")} for row in rows}


def points(pid):
    with open(f"/proc/{pid}/mountinfo") as file:
        return [line.split()[4] for line in file]


def of_host(place):
    """What is mounted on the host that could be of this test; tests beside it mount as well, each in a place of its own."""
    outside = [point for point in points("self") if point.split("/")[1] in {"new", "t", "alias", "place"}]
    inside = [point for point in points("self") if point.startswith(f"{place}/")]
    return outside + [point for point in inside if not re.search(r"/bundle\d+/rootfs$", point)]


# -- add ------------------------------------------------------------------------------------------------------------------


def test_add_is_seen_by_who_runs_already(running, change, source, scratch):
    box = running()
    before, host = points(box.pid), of_host(scratch)
    change(
        "add",
        box,
        entry("/new/deep", source, "ro"),
        entry("/new/file", source / "file"),
        entry("/t", "t", "size=64k", "ro", type="tmpfs"),
    )
    found = table(box.pid)
    assert points(box.pid)[len(before) :] == ["/new/deep", "/new/file", "/t"]
    assert "ro" in found["/new/deep"] and "rw" in found["/new/file"] and {"ro", "size=64k"} <= found["/t"]
    answers = box.each("read /new/deep/file", "read /new/file", "mkdir /new/deep/x", "mkdir /t/x")
    assert [one.get("text", one.get("data")) for one in answers[:2]] == ["of the host"] * 2, answers
    assert [one["errno"] for one in answers[2:]] == ["EROFS", "EROFS"], answers
    assert of_host(scratch) == host


def test_add_what_an_object_holds(running, change, source):
    box = running()
    change("add", box, entry("/new", source), wrap=True)
    assert "/new" in table(box.pid)


@pytest.mark.parametrize("state", ["created", "paused"])
def test_add_in_another_state(pyrunc, make, running, change, source, state):
    if state == "created":
        made, id_ = make(None, "/bin/cat", "/new/file"), pyrunc.id()
        pyrunc("create", "-b", made, id_)

        class Box:
            id, pid = id_, pyrunc.pid(id_)
    else:
        Box = running()
        pyrunc("pause", Box.id)
    change("add", Box, entry("/new", source))
    assert "/new" in table(Box.pid)
    if state == "paused":
        pyrunc("resume", Box.id)


# a sysfs beside one of which paths are masked is too much for who is root in there alone (mount_too_revealing() of the kernel)
SYSFS = pytest.param("sysfs", marks=pytest.mark.requires("root"))


@pytest.mark.parametrize("kind", ["proc", SYSFS, "mqueue", "devpts", "ramfs"])
def test_filesystems_of_its_own_namespaces(running, change, kind):
    box = running()
    change("add", box, entry("/new", kind, type=kind))
    assert "/new" in table(box.pid)
    if kind == "proc":
        # the container's processes and no others
        names = os.listdir(f"/proc/{box.pid}/root/new")
        assert [name for name in names if name.isdigit()] == ["1"]
    elif kind == "sysfs":
        assert sorted(os.listdir(f"/proc/{box.pid}/root/new/class/net")) == ["lo"]


@pytest.mark.requires("root")
def test_in_a_user_namespace(running, change, source):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}

    box = running(edit)
    wanted = (entry("/tmp", source, "ro"), entry("/mnt", "t", "size=64k", type="tmpfs"))
    change("add", box, *wanted)
    assert "ro" in table(box.pid)["/tmp"] and "/mnt" in table(box.pid)
    assert os.stat(f"/proc/{box.pid}/root/mnt").st_uid == 100000
    change("remove", box, *wanted)
    assert not {"/tmp", "/mnt"} & {*points(box.pid)}


@pytest.mark.requires("root", "idmapped-mount")
@pytest.mark.parametrize("option", ["idmap=uids=0-7-1;gids=0-8-1", "idmap"])
def test_id_maps(running, change, source, option):
    def edit(config):
        if option == "idmap":
            config["linux"]["namespaces"].append({"type": "user"})
            config["linux"] |= {"uidMappings": MAP, "gidMappings": MAP}

    box = running(edit)
    change("add", box, entry("/tmp", source, option))
    found = os.stat(f"/proc/{box.pid}/root/tmp/file")
    assert (found.st_uid, found.st_gid) == ((100000, 100000) if option == "idmap" else (7, 8))


def test_propagation_and_links(running, change, source, scratch):
    box = running()
    (scratch / "link").symlink_to("/no/where")
    change("add", box, entry("/new", source, "rshared"), entry("/link", scratch / "link", "copy-symlink"))
    assert os.readlink(f"/proc/{box.pid}/root/link") == "/no/where"
    with open(f"/proc/{box.pid}/mountinfo") as file:
        assert any(" /new " in line and "shared:" in line for line in file)


def test_an_ordinary_user(rootless, own, scratch):
    """Who may mount nowhere but in the user namespace of the container takes the source from there."""
    made = own(None, "/bin/probe", "sleep", "1000")
    id_ = rootless.id()
    rootless("run", "-d", "-b", made, id_)
    path = made.path / "mounts.json"
    path.write_text(json.dumps([entry("/tmp", made.path), entry("/mnt", "t", type="tmpfs")]))
    rootless("mounts", "add", id_, path)
    pid = rootless.pid(id_)
    assert {"/tmp", "/mnt"} <= {*points(pid)}
    rootless("mounts", "remove", id_, path)
    assert not {"/tmp", "/mnt"} & {*points(pid)}
    rootless("delete", "--force", id_)


# -- remove ---------------------------------------------------------------------------------------------------------------


def test_the_file_that_has_added_them_removes_them(running, change, source):
    box = running()
    before = points(box.pid)
    wanted = (
        entry("/new", source),
        entry("/new/sub", "t", type="tmpfs"),
        entry("/new/file", "/etc/passwd"),
        entry("/new", "over", type="tmpfs"),
    )
    change("add", box, *wanted)
    assert sorted(points(box.pid)) == sorted([*before, "/new", "/new/sub", "/new/file", "/new"])
    change("remove", box, *wanted)
    assert points(box.pid) == before


def test_remove_while_it_is_used(running, change, source):
    """What is open there stays open; the name is gone."""
    box = running(
        None,
        "/bin/sh",
        "-c",
        "mkdir -p /new; while [ ! -e /new/file ]; do :; done; exec 3</new/file; echo >/ready; exec sleep 1000",
    )
    change("add", box, entry("/new", source))
    ready = f"/proc/{box.pid}/root/ready"
    while not os.path.exists(ready):
        assert os.path.exists(f"/proc/{box.pid}")
    change("remove", box, {"destination": "/new"})
    assert "/new" not in points(box.pid)
    with open(f"/proc/{box.pid}/fd/3") as file:
        assert file.read() == "of the host"


def test_remove_on_a_link_itself(running, change, source):
    box = running()
    (box.bundle.rootfs / "link").symlink_to("target")
    (box.bundle.rootfs / "target").write_text("")
    change("add", box, entry("/link", source / "file", "dest-nofollow"))
    assert "/link" in points(box.pid)
    change("remove", box, {"destination": "/link", "options": ["dest-nofollow"]})
    assert "/link" not in points(box.pid) and os.readlink(box.bundle.rootfs / "link") == "target"


@pytest.mark.parametrize("wrong", ["/etc", "/etc/passwd", "/none"])
def test_remove_all_or_none(running, change, source, wrong):
    box = running()
    change("add", box, entry("/new", source))
    before = points(box.pid)
    done = change("remove", box, {"destination": "/new"}, {"destination": wrong}, status=1)
    assert f"mounts {box.id}: unmount {wrong}: " in done.err
    assert ("invalid argument" in done.err) == ("nothing is mounted there" in done.err) == (wrong != "/none")
    assert points(box.pid) == before


# -- what goes wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (entry("/x", "/no/such/source"), "bind /no/such/source to /x (rbind): no such file or directory"),
        (
            entry("/x", "t", "nosuch=1", type="tmpfs"),
            "mount tmpfs on /x (nosuch=1): invalid argument (tmpfs: Unknown parameter",
        ),
        (
            entry("/etc", "/etc/passwd"),
            "bind /etc/passwd to /etc (rbind): not a directory (its place in the root file system is one)",
        ),
        (entry("/etc/passwd", "t", type="tmpfs"), "mount tmpfs on /etc/passwd: not a directory"),
        (entry("/etc/passwd/x", "/etc"), "bind /etc to /etc/passwd/x (rbind): not a directory"),
        (entry("/x", "x", type="nosuchfs"), "mount nosuchfs on /x: no such device"),
    ],
)
def test_add_all_or_none(running, change, source, last, why):
    """The first would have been attached by the time that the last one fails; what lies over it is none of ours."""
    box = running()
    change("add", box, entry("/new", "older", type="tmpfs"))
    before = points(box.pid)
    done = change("add", box, entry("/new", source), entry("/t", "t", type="tmpfs"), last, status=1)
    line, *hint = done.err.splitlines()
    assert f"mounts {box.id}: {why}" in line and len(hint) <= 1, done.err
    assert points(box.pid) == before


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("", "mounts.json"),
        ("{}", "neither an array of mounts"),
        ("[]", "neither an array of mounts"),
        ('"x"', "neither an array of mounts"),
        ('[{"type": "tmpfs"}]', "mounts.0.destination: required, a path"),
        ('[{"destination": 1}]', "mounts.0.destination: required, a path"),
        ("[1]", "mounts.0.destination: required, a path"),
        ('[{"destination": "/x", "type": 1}]', "mounts.0.type: wrong type"),
        ('[{"destination": "/x", "options": ["remount"]}]', "a remount adds no mount"),
        ('[{"destination": "/", "type": "tmpfs"}]', "would hide the rootfs"),
        ('[{"destination": "/proc/sys", "type": "tmpfs"}]', "inside /proc"),
        ('[{"destination": "/x", "type": "bind", "source": "/etc", "options": ["bind", "nosuidd"]}]', "nosuidd"),
        ('[{"destination": "/x", "type": "cgroup", "source": "c"}]', "only a new container"),
    ],
)
def test_documents_that_are_none(pyrunc, running, scratch, document, why):
    box = running()
    before = points(box.pid)
    (scratch / "mounts.json").write_text(document)
    done = pyrunc("mounts", "add", box.id, scratch / "mounts.json", status=1)
    assert why in done.err and done.err.startswith(("mounts ", str(scratch))), done.err
    assert points(box.pid) == before


def test_the_root_stays(running, change):
    done = change("remove", running(), {"destination": "/x/.."}, status=1)
    assert "mounts.0.destination: the root of the container cannot be unmounted" in done.err


def test_words_and_states(pyrunc, running, scratch, source):
    box, path = running(None, "/bin/true"), scratch / "mounts.json"
    path.write_text(json.dumps([entry("/x", source)]))
    while pyrunc("state", box.id).json()["status"] != "stopped":
        pass
    assert "container not running" in pyrunc("mounts", "add", box.id, path, status=1).err
    assert '"swap" is neither add nor remove' in pyrunc("mounts", "swap", box.id, path, status=1).err
    assert "does not exist" in pyrunc("mounts", "add", "nobody", path, status=1).err
    assert "none.json" in pyrunc("mounts", "add", running(name="other").id, scratch / "none.json", status=1).err
    for words in (("add", box.id), ("add",), (), ("add", box.id, path, "more")):
        assert pyrunc("mounts", *words, status=1).err


@pytest.mark.requires("root")
def test_without_a_mount_namespace(running, change, source, scratch):
    def edit(config):
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "mount"]
        del config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"]

    host = of_host(scratch)
    done = change("add", running(edit), entry("/new", source), status=1)
    assert "no mount namespace of its own" in done.err and of_host(scratch) == host


# -- a container that is not to be trusted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["/../../../..{}", "{}", "../../../../../../..{}"], ids=["up", "absolute", "relative"])
def test_a_destination_through_a_link_stays_inside(running, change, source, scratch, link):
    outside = scratch / "outside"
    outside.mkdir()
    box = running()
    (box.bundle.rootfs / "alias").symlink_to(link.format(outside))
    host = of_host(scratch)
    change("add", box, entry("/alias/x", source), entry("/alias", "t", type="tmpfs"))
    assert f"{outside}/x" in points(box.pid) and str(outside) in points(box.pid)
    assert not os.listdir(outside) and of_host(scratch) == host


def test_a_destination_that_changes_all_the_time(running, change, source, scratch):
    """A directory and a link out of the root take turns in the mount's place."""
    outside = scratch / "outside"
    outside.mkdir()
    box = running()
    place, other = box.bundle.rootfs / "place", box.bundle.rootfs / "other"
    other.symlink_to(f"../../../../..{outside}")
    place.mkdir()
    done = threading.Event()

    def swap():
        spare = box.bundle.rootfs / "spare"
        while not done.is_set():
            for one, two in ((place, spare), (other, place), (place, other), (spare, place)):
                try:
                    os.rename(one, two)
                except OSError:
                    pass

    thread = threading.Thread(target=swap)
    thread.start()
    host = of_host(scratch)
    try:
        for _ in range(40):
            box.pyrunc("mounts", "add", box.id, document(scratch, entry("/place/x", source)), status=None)
    finally:
        done.set()
        thread.join()
    assert not os.listdir(outside) and of_host(scratch) == host


def document(scratch, *entries):
    path = scratch / "document.json"
    path.write_text(json.dumps(entries))
    return path


def test_plan_prints_and_does_nothing(pyrunc, running, scratch, source):
    box = running()
    before = points(box.pid)
    text = pyrunc("mounts", "--plan", "add", box.id, document(scratch, entry("/new", source))).out
    lines = [line.split()[2:5] for line in text.splitlines() if line.startswith("init")]
    assert ["open-tree", f"host:{source}", "->"] in lines and ["setns", "init", "mount"] in lines
    assert ["mountpoint", "rootfs:/new", "like"] in lines and points(box.pid) == before
    text = pyrunc("mounts", "--plan", "remove", box.id, document(scratch, {"destination": "/proc"})).out
    assert text.index("(look only)") < text.rindex("unmount") and points(box.pid) == before


@pytest.mark.requires("root")
def test_what_was_added_is_no_peer_of_the_hosts(running, change, scratch):
    """Else what the container mounts in there would be mounted on the host."""
    source = scratch / "shared"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    box = running()
    change("add", box, entry("/mnt", str(source)))
    with open(f"/proc/{box.pid}/mountinfo") as file:
        (line,) = [line for line in file if line.split()[4] == "/mnt"]
    assert " master:" in line and " shared:" not in line
