"""The image is hostile: whatever it holds, nothing outside is made, changed, opened, mounted on or run (classes A and B).

Each is tried as the command does it, also where openat2 is hidden. What single ops do with the same traps: tests/kernel/test_hostile_rootfs.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.requires("root")

HIDDEN = pytest.mark.parametrize("calls", [(), ("openat2",)], ids=["openat2", "no openat2"])


def without(*places):
    """An edit that leaves mounts out, and what lies below them."""

    def edit(config):
        config["mounts"] = [
            m for m in config["mounts"] if not any((m["destination"] + "/").startswith(p + "/") for p in places)
        ]

    return edit


# -- /dev ------------------------------------------------------------------------------------------------------------------

#: what /dev of the image is: links to what lies beside the bundle, as seen from the bundle's rootfs
DEVS = {
    "absolute": {"dev": "{outside}"},
    "relative": {"dev": "../../outside"},
    "two links": {"dev": "second", "second": "third/../../../outside", "third/": ""},
    "dangling": {"dev": "../../outside/not/there"},
    "a directory of it": {"dev/": "", "dev/pts": "../../../outside", "dev/shm": "{outside}/dir"},
}


@HIDDEN
@pytest.mark.parametrize("trap", DEVS)
def test_dev_is_a_link(pyrunc, make, outside, hidden, trap, calls):
    """CVE-2026-47766, CVE-2026-41579: device nodes and links of /dev were made, and ptmx removed, on the host."""
    hidden(*calls)
    keep = ("/dev/pts", "/dev/shm") if trap == "a directory of it" else ()
    made = make(without("/dev"), "/bin/true")
    made.config["mounts"] += [{"destination": p, "type": "tmpfs", "source": "tmpfs"} for p in keep]
    made.write()
    (made.rootfs / "dev").rmdir()
    for name, target in DEVS[trap].items():
        if name.endswith("/"):
            (made.rootfs / name).mkdir()
        else:
            (made.rootfs / name).symlink_to(target.format(outside=outside.path))
    pyrunc("run", "-b", made, pyrunc.id(), status=None)
    outside.check(trap)


@HIDDEN
def test_dev_null_is_a_link(pyrunc, make, outside, hidden, calls):
    """CVE-2026-88265: what /dev/null led to became standard input, and the user's."""
    hidden(*calls)
    made = make(without("/dev"), "/bin/sh", "-c", "cat; cat <&0; echo x >&2")
    made.config["process"]["user"] = {"uid": 4242, "gid": 4242}
    made.write()
    (made.rootfs / "dev/null").symlink_to("../../../outside/canary")
    with open("/dev/null", "r+b") as null:
        result = pyrunc("run", "-b", made, pyrunc.id(), status=None, stdin=null)
    assert "alive" not in result.out
    outside.check()


@HIDDEN
@pytest.mark.parametrize("readonly", [False, True])
def test_dev_console_is_a_link(pyrunc, make, outside, hidden, receiver, readonly, calls):
    """CVE-2026-88264: the file that a terminal is bound over was made where the link led to."""
    hidden(*calls)
    made = make(lambda config: config["root"].update(readonly=readonly), "/bin/true")
    made.config["mounts"] = [m for m in made.config["mounts"] if m["destination"] not in ("/dev", "/dev/shm")]
    made.config["process"]["terminal"] = True
    made.write()
    (made.rootfs / "dev/console").symlink_to("../../../outside/created")
    listener = receiver()
    pyrunc("create", "-b", made, "--console-socket", listener.path, pyrunc.id(), status=None)
    outside.check()


# -- what is read of the image ------------------------------------------------------------------------------------------------

PASSWDS = ("fifo", "zero", "sparse", "long line", "nul", "directory", "outside", "unreadable")


@pytest.mark.parametrize("trap", PASSWDS)
def test_accounts_that_never_end(pyrunc, make, outside, scratch, trap):
    """A FIFO holds both leading runtimes up for ever, a device or a sparse file keeps them busy. HOME is / then."""
    made = make(None, "/bin/sh", "-c", "echo $HOME")
    for name in ("etc/passwd", "etc/group"):
        path = made.rootfs / name
        path.unlink()
        if trap == "fifo":
            os.mkfifo(path)
        elif trap == "zero":
            path.symlink_to("/dev/zero")
        elif trap == "sparse":
            with path.open("w") as file:
                file.truncate(3 << 30)
        elif trap == "long line":
            path.write_text("x" * 1_000_000 + "\n")
        elif trap == "nul":
            path.write_bytes(b"root:x:0:0:root:/a\0b:/bin/sh\n")
        elif trap == "directory":
            path.mkdir()
        elif trap == "outside":
            (outside.path / "accounts").write_text("root:x:0:0:root:/outside:/bin/sh\n")
            path.symlink_to("../../../outside/accounts")
        elif trap == "unreadable":
            path.touch(0)
    result = pyrunc("run", "-b", made, pyrunc.id(), timeout=10)
    assert result.out == "/\n"


@HIDDEN
def test_working_directory_is_made_inside(pyrunc, make, outside, hidden, calls):
    """CVE-2026-55686 and others: WORKDIR of an image was made, and given away, through links."""
    hidden(*calls)
    made = make(None, "/bin/pwd", "-P")
    (made.rootfs / "link").symlink_to(outside.path)
    (made.rootfs / "deep").symlink_to("../../outside/dir")
    (made.rootfs / "up").symlink_to("../..")
    for number, cwd in enumerate(("/link/new", "/deep/er/new", "/up/../../../../outside/new")):
        made.config["process"]["cwd"] = cwd
        made.write()
        pyrunc("run", "-b", made, pyrunc.id(str(number)), status=None)
        outside.check(cwd)


# -- places of mounts ------------------------------------------------------------------------------------------------------

LINKS = {
    "rel": "../../outside",
    "abs": "{outside}",
    "two": "second/dir",
    "second": "etc/../../../../outside",
    "dangle": "{outside}/not/there",
    "magic": "/proc/self/root{outside}",
    **{f"chain{number}": f"chain{number + 1}" for number in range(40)},
    "chain40": "{outside}",
}
DIRECTORIES = (
    "/rel", "/rel/new/dir", "/abs/", "/abs/x/../y", "//abs//z", "/two", "/two/./x", "/dangle", "/dangle/x",
    "/root/../../outside/dir", "/" + "n" * 255,
)  # fmt: skip
#: for filesystems in which no directory can be made
SEPARATE = ("/rel/new/dir", "/abs/x/../y", "//abs//z", "/two", "/dangle/x", "/" + "n" * 255)
#: kind of mount -> (places that are inside, and all of which one container can have; places that are refused)
KINDS = {
    "tmpfs": (DIRECTORIES, ("/magic", "/magic/dir", "/chain0/x", "/" + "n" * 256, "/proc/self/root/x")),
    "mqueue": (SEPARATE, ()),
    "devpts": (SEPARATE, ()),
    "cgroup": (DIRECTORIES, ()),
    "bind dir": (DIRECTORIES, ("/magic/dir",)),
    "bind file": (("/two", "/dangle", "/abs/f"), ("/magic/f",)),
    "proc": ((), ("/rel", "/two")),
    "sysfs": ((), ("/rel", "/abs")),
}


@HIDDEN
@pytest.mark.parametrize("kind", KINDS)
def test_places_of_mounts_are_inside(pyrunc, make, outside, scratch, hidden, kind, calls):
    """CVE-2015-1335, CVE-2019-18837, CVE-2024-45310, CVE-2026-39822: where a destination leads, through whatever links."""
    hidden(*calls)
    (scratch / "dir").mkdir()
    (scratch / "file").write_text("file")
    mount = {"type": kind, "source": kind}
    if kind.startswith("bind"):
        mount = {"type": "bind", "source": str(scratch / kind.split()[1]), "options": ["bind"]}
    inside, refused = KINDS[kind]
    for places in (inside, *((place,) for place in refused)):
        if not places:
            continue
        made = make(None, "/bin/cut", "-d", " ", "-f", "5", "/proc/self/mountinfo")
        made.config["mounts"] += [{"destination": place, **mount} for place in places]
        made.write()
        for name, target in LINKS.items():
            (made.rootfs / name).symlink_to(target.format(outside=outside.path))
        result = pyrunc("run", "-b", made, pyrunc.id(), status=None)
        outside.check((kind, places))
        assert (result.status == 0) == (places is inside), result
        # what is inside is seen there
        assert result.status or len(result.out.splitlines()) >= 6 + len(places)


# -- who is asked to clean up ----------------------------------------------------------------------------------------------


def test_delete_does_nothing_in_the_rootfs(pyrunc, make, outside, scratch):
    """CVE-2024-23652: what had been made for a mount was removed by its path, which was a link by then."""
    made = make(lambda config: config["mounts"].append({"destination": "/a/b/c", "type": "tmpfs", "source": "t"}))
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    shutil.rmtree(made.rootfs / "a")
    (made.rootfs / "a").symlink_to(outside.path)
    (outside.path / "b/c").mkdir(parents=True)
    outside.remember()
    trace = scratch / "trace"
    subprocess.run(["strace", "-f", "-qq", "-y", "-e", "trace=%file,%desc", "-o", trace, *pyrunc.argv("delete", "--force", id_)],
                   env=pyrunc.env, check=True, timeout=60)  # fmt: skip
    text = trace.read_text()
    assert f"{pyrunc.root}/{id_}" in text and str(made.rootfs) not in text
    outside.check()


# -- devices and terminals that somebody else prepared ---------------------------------------------------------------------


def bound_dev(config, source):
    config["mounts"] = [
        *(m for m in config["mounts"] if not m["destination"].startswith("/dev")),
        {"destination": "/dev", "type": "bind", "source": str(source), "options": ["bind", "rw"]},
    ]


NULLS = {"link": "/proc/version", "fifo": "", "absent": "", "zero": "1:5", "file": ""}


@pytest.mark.parametrize("trap", NULLS)
def test_masks_are_not_the_containers_own_null(pyrunc, make, scratch, trap):
    """CVE-2025-31133: a container's /dev/null that leads to a file of procfs had that file bound over the mask, writable."""
    dev = scratch / "dev"
    dev.mkdir()
    if trap == "link":
        (dev / "null").symlink_to("/proc/version")
    elif trap == "fifo":
        os.mkfifo(dev / "null")
    elif trap == "zero":
        os.mknod(dev / "null", 0o20666, os.makedev(1, 5))
    elif trap == "file":
        (dev / "null").write_text("leaked")
    made = make(lambda config: bound_dev(config, dev), "/bin/cat", "/proc/keys", "/proc/timer_list")
    made.config["linux"]["maskedPaths"] = ["/proc/keys", "/proc/timer_list"]
    made.write()
    result = pyrunc("run", "-b", made, pyrunc.id(), status=None, timeout=10)
    assert result.out == ""


def test_the_null_device_of_masks_cannot_be_changed(pyrunc, make):
    """The mask is a clone of the host's node: its mode and owner are not the container's to change."""
    before = os.stat("/dev/null")
    script = "chmod 0 /proc/keys; chown 5:5 /proc/keys; mount -o remount,bind,rw /proc/keys; echo done"
    made = make(None, "/bin/sh", "-c", script)
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "done\n"
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)


@pytest.mark.parametrize(
    "trap", ["numbers are links", "ptmx is a link", "ptmx is a file", "ptmx is a device", "another devpts"]
)
def test_terminals_that_somebody_prepared(pyrunc, make, outside, scratch, receiver, trap):
    """CVE-2025-52565: /dev/pts/N was opened by its name, and a link there bound over /dev/console before the masks."""
    pts = scratch / "pts"
    pts.mkdir()
    options = ["bind", "rw"]
    source: object = pts
    if trap == "numbers are links":
        (pts / "ptmx").symlink_to("/dev/ptmx")
        for number in range(10):
            (pts / str(number)).symlink_to("/proc/sysrq-trigger")
    elif trap == "ptmx is a link":
        (pts / "ptmx").symlink_to("../../../outside/canary")
    elif trap == "ptmx is a file":
        (pts / "ptmx").write_text("x")
    elif trap == "ptmx is a device":
        os.mknod(pts / "ptmx", 0o20666, os.makedev(1, 3))
    else:
        source = "/dev/pts"
    made = make(None, "/bin/sleep", "1000")
    mounts = [m for m in made.config["mounts"] if m["destination"] != "/dev/pts"]
    mounts.insert(2, {"destination": "/dev/pts", "type": "bind", "source": str(source), "options": options})
    made.config.update(mounts=mounts)
    made.config["process"]["terminal"] = True
    made.write()
    listener = receiver()
    id_ = pyrunc.id()
    result = pyrunc("create", "-b", made, "--console-socket", listener.path, id_, status=None, timeout=10)
    if trap != "another devpts":
        assert result.status == 1 and "open a terminal" in result.err
    else:
        master = listener.receive()
        st = os.fstat(master)
        assert st.st_rdev == os.makedev(5, 2) and st.st_ino == 2 and os.ttyname(master)
        os.close(master)
    outside.check()


# -- the state directory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trap", ["world-writable", "of another user", "a link"])
def test_a_root_that_others_prepared_is_refused(pyrunc, make, outside, trap):
    """CVE-2015-1331, CVE-2019-12439: a directory at a known place that somebody else had made first."""
    if trap == "a link":
        outside.path.chmod(0o777)
        pyrunc.root.symlink_to(outside.path)
        outside.remember()
    else:
        pyrunc.root.mkdir()
        pyrunc.root.chmod(0o777 if trap == "world-writable" else 0o700)
        if trap == "of another user":
            os.chown(pyrunc.root, 4242, 4242)
    pyrunc.fails("create", "-b", make(None, "/bin/true"), pyrunc.id())
    outside.check()
    if trap == "a link":
        pyrunc.root.unlink()
    else:
        assert not [name for name in os.listdir(pyrunc.root) if not name.startswith(":")]
        os.chown(pyrunc.root, 0, 0)
        pyrunc.root.chmod(0o700)
