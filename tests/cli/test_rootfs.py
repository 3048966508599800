"""The root file system as a whole: read-only, propagation, pivot; and what hides parts of it: cgroup mounts, masked paths."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import hierarchies
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


# -- cgroups -------------------------------------------------------------------------------------------------------------


def cgroups(*options, namespace=True):
    def edit(config):
        mount("/sys/fs/cgroup", "cgroup", "nosuid", "nodev", "noexec", *options, type="cgroup")(config)
        if not namespace:
            config["linux"]["namespaces"].remove({"type": "cgroup"})

    return edit


@pytest.mark.requires("cgroup-v1")
@pytest.mark.parametrize("namespace", [True, False], ids=["own-namespace", "hosts-namespace"])
@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_cgroup_mounts(pyrunc, make, namespace, mode):
    made = make(cgroups(mode, "relatime", namespace=namespace), "/bin/probe", "report")
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    mounts = {m["point"]: m for m in found["mounts"] if m["point"].startswith("/sys/fs/cgroup")}
    assert mounts["/sys/fs/cgroup"]["type"] == "tmpfs"
    for controller in ("memory", "pids", "cpu", "devices", "freezer", "cpuset", "systemd"):
        one = mounts[f"/sys/fs/cgroup/{controller}"]
        assert one["type"] == "cgroup"
        assert ("ro" if mode == "ro" else "rw") in one["options"]
        assert {"nosuid", "nodev", "noexec"} <= set(one["options"])


@pytest.mark.requires("cgroup-v1")
@pytest.mark.parametrize("namespace", [True, False], ids=["own-namespace", "hosts-namespace"])
def test_the_root_of_a_cgroup_mount_is_the_containers_own(pyrunc, make, namespace):
    made = make(
        both(cgroups("ro", namespace=namespace), lambda c: c["linux"].update(resources={"pids": {"limit": 77}})),
        "/bin/cat",
        "/sys/fs/cgroup/pids/pids.max",
    )
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "77\n"


@pytest.mark.requires("cgroup-v1")
def test_a_writable_cgroup_mount_can_be_written(pyrunc, make):
    made = make(
        cgroups("rw"),
        "/bin/probe",
        "each",
        *"mkdir /sys/fs/cgroup/pids/sub -- read /sys/fs/cgroup/pids/sub/pids.max".split(),
    )
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert [answer["errno"] for answer in found] == [None, None] and found[1]["text"] == "max\n"


@pytest.mark.requires("cgroup-v2")
@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
@pytest.mark.parametrize("namespace", [True, False], ids=["own-namespace", "hosts-namespace"])
@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_cgroup_mounts_on_v2(pyrunc, make, namespace, mode, kind):
    made = make(
        both(cgroups(mode, "relatime", namespace=namespace), lambda c: c["mounts"][-1].update(type=kind)),
        "/bin/probe",
        "report",
    )
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    (one,) = [m for m in found["mounts"] if m["point"].startswith("/sys/fs/cgroup")]
    assert one["type"] == "cgroup2" and mode in one["options"]
    assert {"nosuid", "nodev", "noexec"} <= set(one["options"])


@pytest.mark.requires("cgroup-v2")
@pytest.mark.parametrize("namespace", [True, False], ids=["own-namespace", "hosts-namespace"])
def test_what_a_cgroup_mount_shows_on_v2(pyrunc, make, namespace):
    """The container's own cgroup; without a namespace of its own, all of them, as the peers have it."""
    made = make(
        both(cgroups("rw", namespace=namespace), lambda c: c["linux"].update(resources={"pids": {"limit": 77}})),
        *("/bin/sh", "-c", "cat /proc/self/cgroup; cat /sys/fs/cgroup/$1/pids.max; mkdir /sys/fs/cgroup/$1/sub", "sh"),
    )
    path = "/" + hierarchies.below_the_top(made.config["linux"]["cgroupsPath"])
    # a user can mount none of the host's, and gets the container's own bound
    made.config["process"]["args"].append("" if namespace or os.geteuid() else path)
    made.write()
    assert pyrunc("run", "-b", made, pyrunc.id()).out == f"0::{'/' if namespace else path}\n77\n"


# -- the root itself -----------------------------------------------------------------------------------------------------


def test_read_only_root(pyrunc, make):
    made = make(
        both(lambda c: c["root"].update(readonly=True), mount("/new/dir", "t", type="tmpfs")),
        "/bin/probe",
        "each",
        *"mkfile /file -- mkfile /new/dir/file -- mkfile /dev/file -- mkfile /dev/shm/file".split(),
    )
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert [answer["errno"] for answer in found] == ["EROFS", None, None, None]
    assert not (made.rootfs / "file").exists()


def test_read_only_root_is_not_the_hosts(pyrunc, make):
    made = make(lambda c: c["root"].update(readonly=True), "/bin/probe", "report")
    assert pyrunc("run", "-b", made, pyrunc.id()).json()["root_readonly"] is True
    (made.rootfs / "still").write_text("writable")


def test_dev_read_only_has_its_devices_all_the_same(each):
    def edit(config):
        config["mounts"][1]["options"].append("ro")

    found = each(edit, "stat /dev/null", "mkfile /dev/new", "stat /dev/pts/ptmx")
    assert [answer["errno"] for answer in found] == [None, "EROFS", None]


@pytest.mark.differs("it refuses a link")
def test_root_path_may_be_absolute_or_a_link(pyrunc, make, scratch):
    made = make(None, "/bin/echo", "fine")
    made.config["root"]["path"] = str(made.rootfs)
    made.write()
    assert pyrunc("run", "-b", made, pyrunc.id("absolute")).out == "fine\n"
    (scratch / "link").symlink_to(made.rootfs)
    made.config["root"]["path"] = str(scratch / "link")
    made.write()
    assert pyrunc("run", "-b", made, pyrunc.id("link")).out == "fine\n"


@pytest.mark.requires("root")
def test_root_that_is_a_mount_point(pyrunc, make):
    """As overlayfs makes it for every engine."""
    made = make(None, "/bin/probe", "report")
    subprocess.run(["mount", "--bind", str(made.rootfs), str(made.rootfs)], check=True)
    try:
        found = pyrunc("run", "-b", made, pyrunc.id()).json()
        assert [m["point"] for m in found["mounts"]].count("/") == 1
    finally:
        subprocess.run(["umount", str(made.rootfs)], check=True)


def test_no_pivot(report, each):
    found = report(None, options=("--no-pivot",))
    assert found["hostname"] == "pyrunc" and found["pid"] == 1
    (answer,) = each(None, "stat /../../../../work", options=("--no-pivot",))
    assert answer["errno"] == "ENOENT"


@pytest.mark.requires("root")
@pytest.mark.parametrize("options", [(), ("--no-pivot",)], ids=["pivot", "no-pivot"])
def test_how_the_root_is_changed(calls, make, pyrunc, options):
    """Where the root is the kernel's own ramfs, pivot_root(2) cannot be called at all: it is not, then."""
    made = calls("pivot_root,chroot", "run", "-b", make(None, "/bin/true"), *options, pyrunc.id())
    names = {line.partition("(")[0] for line in made if line.endswith("= 0")}
    assert names == ({"chroot"} if options else {"pivot_root"}), made


@pytest.mark.parametrize(
    "word, pattern",
    [
        ("private", ""),
        ("slave", "master:"),
        ("shared", "shared:"),
        ("unbindable", "unbindable"),
        ("rprivate", ""),
        ("rslave", "master:"),
        ("rshared", "shared:"),
    ],
)
@pytest.mark.differs("the root is private whatever was asked for")
@pytest.mark.requires("root")
def test_rootfs_propagation(pyrunc, make, mount_of, scratch, word, pattern):
    made = make(lambda c: c["linux"].update(rootfsPropagation=word), "/bin/probe", "report")
    subprocess.run(["mount", "--bind", str(made.rootfs), str(made.rootfs)], check=True)
    subprocess.run(["mount", "--make-shared", str(made.rootfs)], check=True)
    try:
        tags = mount_of(pyrunc("run", "-b", made, pyrunc.id()).json(), "/")["propagation"]
    finally:
        subprocess.run(["umount", str(made.rootfs)], check=True)
    assert not any(tag.startswith("shared:") for tag in tags) or pattern == "shared:"
    if pattern:
        assert any(tag.startswith(pattern) for tag in tags), tags


def test_rootfs_propagation_unknown(refused):
    refused(lambda c: c["linux"].update(rootfsPropagation="sideways"), "sideways")


@pytest.mark.requires("root")
def test_mounts_of_the_host_arrive_later_in_a_slave(pyrunc, running, scratch, until):
    place = scratch / "shared"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "x", str(place)], check=True)
    subprocess.run(["mount", "--make-shared", str(place)], check=True)
    (place / "sub").mkdir()
    box = running(both(lambda c: c["linux"].update(rootfsPropagation="rslave"), mount("/t", place, "rbind", "rslave")))
    subprocess.run(["mount", "-t", "tmpfs", "late", str(place / "sub")], check=True)
    assert "late" in [m["source"] for m in box.report()["mounts"] if m["point"] == "/t/sub"]
    # and never the other way
    subprocess.run(["nsenter", "-t", str(box.pid), "-m", "mount", "-t", "tmpfs", "back", "/t/sub"], check=True)
    assert " back " not in Path("/proc/self/mountinfo").read_text()


# -- masked and read-only paths ------------------------------------------------------------------------------------------


def test_masked_paths(pyrunc, make):
    def edit(config):
        config["linux"]["maskedPaths"] = ["/secret/file", "/secret/dir", "/no/such/path", "/proc/keys"]

    made = make(
        edit,
        "/bin/probe",
        "each",
        *"read /secret/file -- mkfile /secret/dir/x -- read /secret/dir/file -- stat /proc/keys -- write /secret/file".split(),
    )
    (made.rootfs / "secret/dir").mkdir(parents=True)
    (made.rootfs / "secret/file").write_text("secret")
    (made.rootfs / "secret/dir/file").write_text("secret")
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert (found[0]["errno"], found[0]["text"]) == (None, "")
    assert found[1]["errno"] == "EROFS"
    assert found[2]["errno"] == "ENOENT"
    assert found[3]["type"] == "char"
    assert (made.rootfs / "secret/file").read_text() == "secret"


@pytest.mark.differs("it fails: not a directory")
def test_masked_path_below_a_file(each):
    """As absent as any other path that cannot be."""
    (found,) = each(lambda c: c["linux"].update(maskedPaths=["/etc/passwd/x"]), "read /etc/passwd")
    assert found["errno"] is None


def test_readonly_paths(pyrunc, make, scratch):
    (scratch / "file").touch()

    def edit(config):
        config["linux"]["readonlyPaths"] = ["/ro/dir", "/ro/file", "/no/such/path", "/bound", "/proc/sys"]
        mount("/bound", scratch, "bind")(config)

    made = make(
        edit,
        *("/bin/probe", "each"),
        *"mkfile /ro/dir/x -- write /ro/file -- mkfile /ro/other -- write /bound/file -- write /proc/sys/kernel/domainname x".split(),
    )
    (made.rootfs / "ro/dir").mkdir(parents=True)
    (made.rootfs / "ro/file").touch()
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    # what is somebody else's is refused for that, before it is looked at whether it could be written
    assert [answer["errno"] for answer in found[:4]] == ["EROFS", "EROFS", None, "EROFS"]
    assert found[4]["errno"] == ("EACCES" if os.geteuid() else "EROFS")


def test_readonly_paths_keep_other_attributes(report, mount_of):
    def edit(config):
        mount("/t", "t", "nosuid", "noexec", "nodev", type="tmpfs")(config)
        config["linux"]["readonlyPaths"] = ["/t"]

    assert {"ro", "nosuid", "noexec", "nodev"} <= set(mount_of(report(edit), "/t")["options"])


def test_masks_do_not_follow_links_out(pyrunc, make, scratch):
    """A link at a masked path: what it leads to inside is hidden, what it would lead to outside is not touched."""
    (scratch / "canary").write_text("canary")

    def edit(config):
        config["linux"]["maskedPaths"] = ["/link"]
        config["linux"]["readonlyPaths"] = ["/rolink"]

    made = make(edit, "/bin/true")
    (made.rootfs / "link").symlink_to(scratch / "canary")
    (made.rootfs / "rolink").symlink_to(scratch)
    pyrunc("run", "-b", made, pyrunc.id())
    (scratch / "canary").write_text("still writable")


@pytest.mark.parametrize("key", ["maskedPaths", "readonlyPaths"])
@pytest.mark.differs("it takes it from its own directory on")
def test_paths_must_be_absolute(refused, key):
    refused(lambda c: c["linux"].update({key: ["relative"]}), "relative")
