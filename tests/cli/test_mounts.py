"""mounts: every option, and the file systems of the kernel. Sources and destinations: test_mount_places.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]


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


@pytest.fixture
def tree(scratch):
    """A directory of the host with something in it, and another file system mounted below."""
    top = scratch / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text("of the host\n")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tree", str(top / "sub")], check=True)
    (top / "sub/below").write_text("below\n")
    yield top
    subprocess.run(["umount", str(top / "sub")], check=True)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, has, has_not",
    [
        ([], ["rw", "relatime"], ["ro", "nosuid", "nodev", "noexec"]),
        (["ro"], ["ro"], ["rw"]),
        (["ro", "rw"], ["rw"], ["ro"]),
        (["nosuid", "nodev", "noexec"], ["nosuid", "nodev", "noexec"], []),
        (["nosuid", "suid", "noexec", "exec", "nodev", "dev"], [], ["nosuid", "nodev", "noexec"]),
        (["noatime"], ["noatime"], ["relatime"]),
        (["relatime"], ["relatime"], ["noatime"]),
        (["strictatime"], [], ["noatime", "relatime"]),
        (["nodiratime"], ["nodiratime"], []),
        (["noatime", "nodiratime", "ro"], ["noatime", "nodiratime", "ro"], []),
        pytest.param(["defaults"], ["rw"], ["ro"], marks=pytest.mark.differs("it hands the word to the filesystem")),
        pytest.param(["nosymfollow"], ["nosymfollow"], [], marks=pytest.mark.differs("a later word of the mount API")),
    ],
    ids=lambda words: ",".join(words) if words else "none",
)
@pytest.mark.parametrize("kind", ["tmpfs", pytest.param("bind", marks=pytest.mark.requires("root"))])
def test_attributes(report, mount_of, scratch, kind, options, has, has_not):
    if kind == "bind":
        # of a mount whose attributes are the kernel's own; an option that is not given leaves the source's
        (scratch / "source").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "source", str(scratch / "source")], check=True)
        edit = mount("/target", scratch / "source", "bind", *options)
    else:
        edit = mount("/target", "source", *options, type="tmpfs")
    found = mount_of(report(edit), "/target")
    assert set(has) <= set(found["options"]) and not set(has_not) & set(found["options"]), found


@pytest.mark.parametrize(
    "clearing",
    [
        pytest.param(["rw", "suid", "dev", "exec"], marks=pytest.mark.differs("it only adds attributes"), id="cleared"),
        pytest.param([], id="kept"),
    ],
)
@pytest.mark.requires("root")
def test_a_bind_has_the_attributes_of_its_source_unless_told_otherwise(report, mount_of, scratch, clearing):
    source = scratch / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec,noatime", "source", str(source)], check=True)
    found = mount_of(report(mount("/target", source, "rbind", *clearing)), "/target")
    left = {"nosuid", "nodev", "noexec", "noatime"} & set(found["options"])
    assert left == ({"noatime"} if clearing else {"nosuid", "nodev", "noexec", "noatime"})


@pytest.mark.requires("root")
def test_attributes_have_their_effect(each, scratch):
    (scratch / "file").write_text("x")
    os.mknod(scratch / "null", 0o20666, os.makedev(1, 3))
    edit = both(
        mount("/ro", scratch, "bind", "ro"),
        mount("/noexec", scratch, "bind", "noexec"),
        mount("/nodev", scratch, "bind", "nodev"),
        mount("/rw", scratch, "bind"),
    )
    found = each(
        edit,
        *(
            "write /ro/file",
            "mkfile /ro/new",
            "mmapx /noexec/file",
            "mmapx /rw/file",
            "open /nodev/null r",
            "open /rw/null r",
        ),
        "write /rw/file changed",
    )
    assert [answer["errno"] for answer in found] == ["EROFS", "EROFS", "EPERM", None, "EACCES", None, None]
    assert (scratch / "file").read_text() == "changed"


@pytest.mark.requires("root")
def test_bind_and_rbind(report, tree):
    found = report(
        both(mount("/bind", tree, "bind"), mount("/rbind", tree, "rbind"), mount("/b2", tree, "bind", type="none"))
    )
    points = [m["point"] for m in found["mounts"]]
    assert "/bind" in points and "/bind/sub" not in points
    assert "/rbind" in points and "/rbind/sub" in points
    assert "/b2" in points


@pytest.mark.requires("root")
def test_a_read_only_rbind_leaves_what_is_below_writable(each, report, mount_of, tree):
    found = report(mount("/t", tree, "rbind", "ro"))
    assert "ro" in mount_of(found, "/t")["options"] and "rw" in mount_of(found, "/t/sub")["options"]


@pytest.mark.parametrize(
    "option, seen",
    [
        ("rro", "ro"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rnoexec", "noexec"),
        ("rnoatime", "noatime"),
        ("rnodiratime", "nodiratime"),
    ],
)
@pytest.mark.requires("root")
def test_recursive_attributes(report, mount_of, tree, option, seen):
    found = report(mount("/t", tree, "rbind", option))
    assert seen in mount_of(found, "/t")["options"] and seen in mount_of(found, "/t/sub")["options"]
    # and the host's own mount is not what was changed
    own = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert [seen in line[5].split(",") for line in own if line[4] == str(tree / "sub")] == [False]


@pytest.mark.requires("root")
def test_recursive_attributes_cleared(report, mount_of, tree):
    subprocess.run(["mount", "-o", "remount,bind,nosuid,noexec", str(tree / "sub")], check=True)
    found = report(mount("/t", tree, "rbind", "rsuid", "rro"))
    below = mount_of(found, "/t/sub")["options"]
    assert "nosuid" not in below and "noexec" in below and "ro" in below


@pytest.mark.parametrize(
    "option, pattern",
    [
        ("private", ""),
        ("shared", "shared:"),
        ("slave", "master:"),
        ("unbindable", "unbindable"),
        ("rprivate", ""),
        ("rshared", "shared:"),
    ],
)
@pytest.mark.requires("root")
def test_propagation(report, mount_of, tree, option, pattern):
    subprocess.run(["mount", "--make-shared", str(tree / "sub")], check=True)
    found = report(
        both(
            lambda c: c["linux"].update(rootfsPropagation="rshared" if "shared" in option else "rslave"),
            mount("/t", tree / "sub", "bind", option),
        )
    )
    tags = mount_of(found, "/t")["propagation"]
    assert (tags == []) if not pattern else any(tag.startswith(pattern) for tag in tags), tags


def test_tmpfs_data(each, report, mount_of):
    edit = mount("/t", "tmpfs", "size=64k", "mode=1711", "uid=7", "gid=8", "nr_inodes=20", "nosuid", type="tmpfs")
    (found,) = each(edit, "stat /t")
    assert (found["mode"], found["uid"], found["gid"], found["blocks"] * found["block_size"]) == ("1711", 7, 8, 65536)
    assert {"size=64k", "nr_inodes=20"} <= set(mount_of(report(edit), "/t")["super"])


@pytest.mark.parametrize(
    "edit",
    [mount("/t", "tmpfs", "size=nonsense", type="tmpfs"), mount("/t", "x", "nope=1", type="tmpfs")],
    ids=["value", "name"],
)
def test_data_that_the_filesystem_refuses(refused, edit):
    refused(edit, "/t", "invalid argument")


@pytest.fixture
def deep(scratch):
    """Directories for an overlay whose names are longer than fsconfig(2) takes, two layers with a file each."""
    top = scratch / ("d" * 200) / ("e" * 100)
    for name in ("one", "two", "upper", "work"):
        (top / name).mkdir(parents=True)
    for name in ("one", "two"):
        (top / name / name).write_text(f"{name}\n")
    return top


def test_layers_with_long_names(report, mount_of, pyrunc, make, deep):
    layers = f"lowerdir={deep}/one:{deep}/two"
    edit = mount(
        "/t", "o", layers, f"upperdir={deep}/upper", f"workdir={deep}/work", "nosuid", "noatime", type="overlay"
    )
    found = mount_of(report(edit), "/t")
    assert {"nosuid", "noatime"} <= set(found["options"]) and f"upperdir={deep}/upper" in found["super"]
    made = make(edit, "/bin/sh", "-c", "cat /t/one /t/two; echo new >/t/new")
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "one\ntwo\n"
    assert (deep / "upper/new").read_text() == "new\n"
    # without an upper directory it is read-only, and so is one that is asked to be
    for words in ([layers], [layers, f"upperdir={deep}/upper", f"workdir={deep}/work", "ro"]):
        made = make(
            mount("/t", "o", *words, type="overlay"), "/bin/sh", "-c", "cat /t/one; echo 2>/dev/null >/t/x || echo ro"
        )
        assert pyrunc("run", "-b", made, pyrunc.id()).out == "one\nro\n"


@pytest.mark.parametrize("is_user", [False, pytest.param(True, marks=pytest.mark.requires("root"))])
def test_a_source_with_a_long_name(pyrunc, make, mount_of, is_user):
    def user(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = MAP

    edits = [mount("/t", "s" * 1000, "size=64k", type="tmpfs"), mount("/t/p", "p" * 300, type="proc")]
    made = make(both(*edits, *([user] if is_user else [])), "/bin/probe", "report")
    if is_user:
        subprocess.run(["chown", "-R", "-h", "100000:100000", str(made.rootfs)], check=True)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert mount_of(found, "/t")["source"] == "s" * 1000 and "size=64k" in mount_of(found, "/t")["super"]
    assert mount_of(found, "/t/p")["source"] == "p" * 300


@pytest.mark.differs("mount(2) gets a page of it, and ignores the rest")
def test_options_that_nothing_has_room_for(refused, deep):
    refused(mount("/t", "x", "size=64k", "x" * 5000, type="tmpfs"), "mounts.5.options", "more than 4095 bytes")
    refused(mount("/t", "x" * 5000, type="tmpfs"), "mounts.5.source", "more than 4095 bytes")
    again = mount("/t", "x", "remount", "mode=" + "0" * 300, type="tmpfs")
    refused(both(mount("/t", "x", type="tmpfs"), again), "mounts.6.options", "more than 255 bytes")


@pytest.mark.differs("it does not say which")
def test_a_long_layer_that_is_not_there(refused, deep):
    refused(mount("/t", "o", f"lowerdir={deep}/one:{deep}/none", type="overlay"), f"there is no {deep}/none")


@pytest.mark.differs("it hands the unknown word to mount(2), which ignores it for a bind")
def test_a_misspelt_option_of_a_bind_is_refused(refused, scratch):
    refused(mount("/t", scratch, "bind", "nosiud"), "nosiud")


def test_unknown_filesystem(refused):
    refused(mount("/t", "x", type="nopefs"), "no such device")


@pytest.mark.parametrize("missing", ["/no/such/source", "relative/none"])
def test_missing_source_of_a_bind(refused, missing):
    refused(mount("/t", missing, "bind"), missing, "no such file or directory")


def test_source_relative_to_the_bundle(pyrunc, make):
    made = make(mount("/t", "beside", "bind"), "/bin/cat", "/t/file")
    (made.path / "beside").mkdir()
    (made.path / "beside/file").write_text("beside\n")
    assert pyrunc("run", "-b", made, pyrunc.id(), cwd="/").out == "beside\n"


@pytest.mark.differs("it leaves the directory's own mode")
def test_tmpcopyup_keeps_the_mode(pyrunc, make):
    made = make(mount("/copied", "tmpfs", "tmpcopyup", type="tmpfs"), "/bin/probe", "stat", "/copied")
    (made.rootfs / "copied").mkdir(mode=0o711)
    assert pyrunc("run", "-b", made, pyrunc.id()).json()["mode"] == "0711"


@pytest.mark.requires("root")
def test_tmpcopyup(pyrunc, make):
    made = make(
        mount("/copied", "tmpfs", "tmpcopyup", type="tmpfs"),
        "/bin/sh",
        "-c",
        "cd /copied && cat file sub/link && stat -c '%a %u %g %h' file && readlink sub/link && echo new >file",
    )
    source = made.rootfs / "copied"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("text\n")
    (source / "file").chmod(0o640)
    os.chown(source / "file", 7, 8)
    (source / "sub/link").symlink_to("../file")
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "text\ntext\n640 7 8 1\n../file\n"
    assert (source / "file").read_text() == "text\n"


# -- proc, sysfs, devpts, mqueue -----------------------------------------------------------------------------------------


def test_filesystems_of_the_kernel(report, mount_of):
    found = report(mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev", type="mqueue"))
    for point, kind in {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/sys": "sysfs",
        "/dev/mqueue": "mqueue",
    }.items():
        assert mount_of(found, point)["type"] == kind
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount_of(found, "/sys")["options"])
    assert {"mode=620", "ptmxmode=666"} <= set(mount_of(found, "/dev/pts")["super"])
    assert "size=65536k" in mount_of(found, "/dev/shm")["super"]


def test_sysfs_read_only_cannot_be_written(each):
    (found,) = each(None, "mkdir /sys/new")
    assert found["errno"] in ("EROFS", "EPERM")


def test_proc_options(report, mount_of):
    def edit(config):
        config["mounts"][0]["options"] = ["nosuid", "noexec", "nodev", "hidepid=2", "ro"]

    found = mount_of(report(edit), "/proc")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(found["options"])
    assert {"hidepid=invisible"} & set(found["super"]) or {"hidepid=2"} & set(found["super"])


# -- id-mapped mounts ----------------------------------------------------------------------------------------------------


@pytest.mark.requires("idmapped-tmpfs")
@pytest.mark.differs("it does not know idmapped mounts")
@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_idmapped(each, scratch, option):
    place = Path("/dev/shm") / scratch.name
    place.mkdir()
    try:
        (place / "file").touch()
        os.chown(place / "file", 5, 6)
        mappings = [{"containerID": 0, "hostID": 1000, "size": 100}]
        edit = mount("/t", place, "rbind", option, uidMappings=mappings, gidMappings=mappings)
        found = each(edit, "stat /t/file", "stat /t")
        assert [(answer["uid"], answer["gid"]) for answer in found] == [(1005, 1006), (1000, 1000)]
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)


@pytest.mark.requires("idmapped-tmpfs")
@pytest.mark.differs("it does not know idmapped mounts")
def test_idmapped_by_the_user_namespace(pyrunc, make, scratch):
    """Files of the host's root are the container's root's, without a chown."""
    place = Path("/dev/shm") / scratch.name
    place.mkdir()
    try:
        (place / "file").write_text("x")

        def edit(config):
            config["linux"]["namespaces"].append({"type": "user"})
            config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = MAP
            mount("/t", place, "bind", "idmap")(config)

        made = make(edit, "/bin/probe", "each", *"stat /t/file -- write /t/file -- mkfile /t/new".split())
        subprocess.run(["chown", "-R", "-h", "100000:100000", str(made.rootfs)], check=True)
        found = pyrunc("run", "-b", made, pyrunc.id()).json()
        assert (found[0]["uid"], found[1]["errno"], found[2]["errno"]) == (0, None, None)
        assert (place / "new").stat().st_uid == 0
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)


@pytest.mark.differs("it does not know idmapped mounts")
@pytest.mark.requires("root")
def test_idmap_without_mappings(refused, scratch):
    refused(mount("/t", scratch, "bind", "idmap"), "mappings")
