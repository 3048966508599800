"""Every mount option of config.md's table by its name, as a container that was mounted with it sees it.

A word that takes something away follows one that has set it. What the kernel shows nowhere (`silent`, `iversion`, and
`norelatime`, which is its default) must be taken, and leave the mount as it is otherwise.
"""

from __future__ import annotations

import subprocess

import pytest

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]

#: option -> (options, seen in /proc/self/mountinfo, not seen there), of a tmpfs
PLAIN: dict[str, tuple[list[str], set[str], set[str]]] = {
    "async": (["sync", "async"], {"rw"}, {"sync"}),
    "atime": (["noatime", "atime"], {"relatime"}, {"noatime"}),
    "defaults": (["defaults"], {"rw", "relatime"}, {"nosuid", "nodev", "noexec"}),
    "dev": (["nodev", "dev"], {"rw"}, {"nodev"}),
    "diratime": (["nodiratime", "diratime"], {"rw"}, {"nodiratime"}),
    "dirsync": (["dirsync"], {"dirsync"}, set()),
    "exec": (["noexec", "exec"], {"rw"}, {"noexec"}),
    "iversion": (["iversion"], {"rw"}, set()),
    "lazytime": (["lazytime"], {"lazytime"}, set()),
    "loud": (["silent", "loud"], {"rw"}, set()),
    "noatime": (["noatime"], {"noatime"}, {"relatime"}),
    "nodev": (["nodev"], {"nodev"}, set()),
    "nodiratime": (["nodiratime"], {"nodiratime"}, set()),
    "noexec": (["noexec"], {"noexec"}, set()),
    "noiversion": (["noiversion"], {"rw"}, set()),
    "nolazytime": (["lazytime", "nolazytime"], {"rw"}, {"lazytime"}),
    "norelatime": (["norelatime"], {"rw"}, {"noatime"}),
    "nostrictatime": (["strictatime", "nostrictatime"], {"relatime"}, set()),
    "nosuid": (["nosuid"], {"nosuid"}, set()),
    "nosymfollow": (["nosymfollow"], {"nosymfollow"}, set()),
    "relatime": (["noatime", "relatime"], {"relatime"}, {"noatime"}),
    "ro": (["ro"], {"ro"}, {"rw"}),
    "rw": (["ro", "rw"], {"rw"}, {"ro"}),
    "silent": (["silent"], {"rw"}, set()),
    "strictatime": (["strictatime"], {"rw"}, {"relatime", "noatime"}),
    "suid": (["nosuid", "suid"], {"rw"}, {"nosuid"}),
    "symfollow": (["nosymfollow", "symfollow"], {"rw"}, {"nosymfollow"}),
    "sync": (["sync"], {"sync"}, set()),
}

#: option -> (options of the mount below, seen in both of an rbind, not seen there)
RECURSIVE: dict[str, tuple[str, set[str], set[str]]] = {
    "ratime": ("noatime", {"relatime"}, {"noatime"}),
    "rdev": ("nodev", set(), {"nodev"}),
    "rdiratime": ("nodiratime", set(), {"nodiratime"}),
    "rexec": ("noexec", set(), {"noexec"}),
    "rnoatime": ("rw", {"noatime"}, set()),
    "rnodiratime": ("rw", {"nodiratime"}, set()),
    "rnodev": ("rw", {"nodev"}, set()),
    "rnoexec": ("rw", {"noexec"}, set()),
    "rnorelatime": ("relatime", set(), {"noatime"}),
    "rnostrictatime": ("strictatime", {"relatime"}, set()),
    "rnosuid": ("rw", {"nosuid"}, set()),
    "rnosymfollow": ("rw", {"nosymfollow"}, set()),
    "rrelatime": ("noatime", {"relatime"}, {"noatime"}),
    "rro": ("rw", {"ro"}, {"rw"}),
    "rrw": ("ro", {"rw"}, {"ro"}),
    "rstrictatime": ("noatime", set(), {"noatime", "relatime"}),
    "rsuid": ("nosuid", set(), {"nosuid"}),
    "rsymfollow": ("nosymfollow", set(), {"nosymfollow"}),
}

#: option -> (what the host's mount is, the tag that mountinfo shows of it: none, or one that begins so)
PROPAGATION = {
    "private": ("shared", ""),
    "rprivate": ("shared", ""),
    "shared": ("private", "shared:"),
    "rshared": ("private", "shared:"),
    "slave": ("shared", "master:"),
    "rslave": ("shared", "master:"),
    "unbindable": ("shared", "unbindable"),
    "runbindable": ("shared", "unbindable"),
}


def mounts(*entries):
    def edit(config):
        for destination, source, kind, options in entries:
            config["mounts"].append({"destination": destination, "type": kind, "source": source, "options": options})

    return edit


def seen(found):
    return {*found["options"], *found["super"]}


@pytest.mark.parametrize("option", PLAIN)
@pytest.mark.differs("it has no words for some, and only adds attributes")
def test_option(report, mount_of, option):
    options, there, absent = PLAIN[option]
    found = mount_of(report(mounts(("/t", "tmpfs", "tmpfs", [*options, "size=64k"]))), "/t")
    # the options of a mount and of its file system are two lists, and "rw" of the second says nothing of the first
    assert there <= seen(found) and not absent & ({*found["options"]} if option in ("ro", "rw") else seen(found)), found
    assert "size=64k" in found["super"]  # a word of the file system's own is its data


@pytest.fixture
def tree(scratch):
    """A directory of the host that is a mount, and another mount in it."""
    made = []

    def tree(below="rw", propagation="private"):
        for place, options in ((scratch / "tree", "rw"), (scratch / "tree/sub", below)):
            place.mkdir()
            made.append(str(place))
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tree", str(place)], check=True)
            subprocess.run(["mount", f"--make-{propagation}", str(place)], check=True)
            if place.name == "sub":
                subprocess.run(["mount", "-o", f"remount,bind,{options}", str(place)], check=True)
        return scratch / "tree"

    yield tree
    for place in reversed(made):
        subprocess.run(["umount", place], check=True)


@pytest.mark.requires("root")
@pytest.mark.parametrize("option", RECURSIVE)
@pytest.mark.differs("a later word of the mount API")
def test_recursive_option(report, mount_of, tree, option):
    below, there, absent = RECURSIVE[option]
    found = report(mounts(("/t", str(tree(below)), "bind", ["rbind", option])))
    for place in ("/t", "/t/sub"):
        options = set(mount_of(found, place)["options"])
        assert there <= options and not absent & options, (place, options)


@pytest.mark.requires("root")
@pytest.mark.parametrize("option", ["bind", "rbind"])
def test_bind(report, tree, option):
    found = report(mounts(("/t", str(tree()), "none", [option])))
    points = {mount["point"] for mount in found["mounts"]}
    assert "/t" in points and ("/t/sub" in points) == (option == "rbind")


@pytest.mark.requires("root")
@pytest.mark.parametrize("option", PROPAGATION)
def test_propagation(report, mount_of, tree, option):
    before, tag = PROPAGATION[option]

    def edit(config):
        config["linux"]["rootfsPropagation"] = "rshared" if "shared" in option else "rslave"
        mounts(("/t", str(tree(propagation=before)), "bind", ["rbind", option]))(config)

    found = report(edit)
    for place in ("/t", "/t/sub") if option.startswith("r") else ("/t",):
        tags = mount_of(found, place)["propagation"]
        assert any(one.startswith(tag) for one in tags) if tag else not tags, (place, tags)


def test_remount(report, mount_of):
    edit = mounts(
        ("/t", "tmpfs", "tmpfs", ["nosuid"]),
        ("/t", "tmpfs", "tmpfs", ["remount", "ro", "nosuid", "noexec"]),
    )
    found = [mount for mount in report(edit)["mounts"] if mount["point"] == "/t"]
    assert len(found) == 1 and {"ro", "nosuid", "noexec"} <= set(found[0]["options"])


@pytest.mark.requires("idmapped-mount")
@pytest.mark.differs("a later word of the mount API")
@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_id_mapping(each, scratch, option):
    """The mappings are those of the mount; ridmap maps what is mounted below it as well."""
    (scratch / "source").mkdir()
    (scratch / "source/file").touch()

    def edit(config):
        entry = {"destination": "/t", "type": "none", "source": str(scratch / "source"), "options": ["rbind", option]}
        config["mounts"].append({**entry, "uidMappings": MAP, "gidMappings": MAP})

    (found,) = each(edit, "stat /t/file")
    assert (found["uid"], found["gid"]) == (100000, 100000)


@pytest.mark.requires("root")
@pytest.mark.parametrize("option", ["idmap", "ridmap"])
@pytest.mark.differs("a later word of the mount API")
def test_id_mapping_of_nothing(refused, scratch, option):
    """Neither mappings of the mount nor a user namespace to take them from."""
    refused(mounts(("/t", str(scratch), "none", ["rbind", option])), "idmap without mappings", "user namespace")


def test_each_option_once():
    """All of the table but what only may be there (mand, nomand, tmpcopyup)."""
    others = {"bind", "rbind", "remount", "idmap", "ridmap"}
    assert len({*PLAIN, *RECURSIVE, *PROPAGATION, *others}) == 28 + 18 + 8 + 5
