"""Ops about mounts: each succeeds, and fails with its own errno. All of it happens in mount namespaces of the interpreter's own."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from interpreter import TIMEOUT_S, Done, Interpreter, private, refusal, rootfs, sh, tmpfs
from seccomp_made import nr

from runtime import linux
from runtime.ops import FLAG_RECURSIVE
from runtime.plan import Op

if TYPE_CHECKING:
    from conftest import Place

Interpret = Callable[..., Done]
RO, NOSUID, NODEV = linux.MOUNT_ATTR_RDONLY, linux.MOUNT_ATTR_NOSUID, linux.MOUNT_ATTR_NODEV
CLONE = linux.OPEN_TREE_CLONE
SHOW = sh("cat /proc/self/mountinfo")


def mounts(done: Done) -> dict[str, list[str]]:
    """Mount point -> its fields in mountinfo."""
    assert done.status == 0, done
    return {line.split()[4]: line.split() for line in done.out.rpartition("MOUNTS\n")[2].splitlines()}


def on(path: Path | str, register: str) -> Op:
    return Op("move-mount", str(path), r0=register)


def test_fsopen_fsconfig_fsmount_move_mount(interpret: Interpret, scratch: Path) -> None:
    size = Op("fsconfig", "size", "8192", r0="t-context", a=linux.FSCONFIG_SET_STRING)
    flag = Op("fsconfig", "ro", r0="t-context", a=linux.FSCONFIG_SET_FLAG)
    opened, *rest = tmpfs("t", NOSUID | NODEV)
    found = mounts(interpret(*private(), opened, size, flag, *rest, on(scratch, "t"), SHOW))[str(scratch)]
    assert "nosuid,nodev" in found[5] and "ro,size=8k" in found[-1]


def test_fsopen_fails(interpret: Interpret) -> None:
    assert interpret(Op("fsopen", "nosuchfs", r0="x")).error == errno.ENODEV


def test_fsconfig_fails_with_the_kernels_words(interpret: Interpret) -> None:
    opened = Op("fsopen", "tmpfs", r0="c")
    wrong = Op("fsconfig", "size", "much", r0="c", a=linux.FSCONFIG_SET_STRING)
    done = interpret(opened, wrong)
    assert (done.failed, done.error, done.detail) == ("fsconfig", errno.EINVAL, "tmpfs: Bad value for 'size'")
    done = interpret(opened, Op("fsconfig", "nosuch", r0="c", a=linux.FSCONFIG_SET_FLAG))
    assert (done.error, "nosuch" in done.detail) == (errno.EINVAL, True)
    assert interpret(opened, Op("fsconfig", "x", r0="c", a=2)).error == errno.EINVAL
    assert interpret(Op("fsconfig", "ro", r0="c")).error == errno.EINVAL


def test_fsmount_fails(interpret: Interpret) -> None:
    # an overlay without directories cannot be made
    done = interpret(*private(), Op("fsopen", "overlay", r0="c"), Op("fsmount", r0="c", r1="m"))
    assert (done.failed, done.error) == ("fsmount", errno.EINVAL)


def test_mount_takes_what_is_too_long_for_fsconfig(interpret: Interpret, scratch: Path) -> None:
    """All at once and in a namespace that ends with it: where mounts are shared, nobody has seen it before it is at its place."""
    name = "t" * 400
    shared = Op("mount-setattr", "/", c=linux.MS_SHARED, flags=FLAG_RECURSIVE)
    made = Op("mount", "tmpfs", name, "size=8192", r0="t", a=linux.SUPERBLOCK["ro"] | linux.SUPERBLOCK["sync"])
    assert not [line for line in mounts(interpret(*private(), shared, made, SHOW)).values() if name in line]
    found = mounts(interpret(*private(), shared, made, on(scratch, "t"), SHOW))[str(scratch)]
    assert found[-2] == name and "ro,sync,size=8k" in found[-1]
    # without a source, and without options
    assert str(scratch) in mounts(interpret(*private(), Op("mount", "tmpfs", r0="t"), on(scratch, "t"), SHOW))


def test_mount_fails(interpret: Interpret) -> None:
    assert interpret(*private(), Op("mount", "nosuchfs", "x", r0="t")).error == errno.ENODEV
    assert interpret(*private(), Op("mount", "tmpfs", "x", "size=much", r0="t")).error == errno.EINVAL
    done = interpret(*private(), Op("mount", "overlay", "x", "lowerdir=/none,upperdir=/none,workdir=/none", r0="t"))
    assert (done.failed, done.error) == ("mount", errno.ENOENT)


def test_a_mount_that_is_waited_for_ends_with_who_waits(images: None) -> None:
    """As with a server that does not answer: neither is left when what made them is killed, also where no pid namespace ends them."""
    notify, new_listener = 0x7FC00000, 8
    rows = bytearray(refusal(nr("mount"), 0))
    struct.pack_into("<I", rows, 2 * 8 + 4, notify)
    rules = ctypes.create_string_buffer(bytes(rows), len(rows))
    ours, theirs = socket.socketpair()
    libc = ctypes.CDLL(None)
    maker = os.fork()
    if maker == 0:
        try:
            program = ctypes.create_string_buffer(struct.pack("HP", len(rows) // 8, ctypes.addressof(rules)))
            listener = libc.syscall(nr("seccomp"), 1, new_listener, program)
            started = Interpreter(Op("mount", "tmpfs", "x", r0="t"))
            socket.send_fds(theirs, [struct.pack("i", started.pid)], [listener])
            os.close(listener)
            started.serve()
        finally:
            os._exit(0)
    theirs.close()
    data, (listener,), _, _ = socket.recv_fds(ours, 4, 1)
    (init,) = struct.unpack("i", data)
    # struct seccomp_notif, seccomp_unotify(2)
    request = ctypes.create_string_buffer(80)
    assert (
        select.select([listener], [], [], TIMEOUT_S)[0]
        and libc.ioctl(listener, ctypes.c_ulong(0xC0502100), request) == 0
    )
    (child,) = struct.unpack_from("=I", request, 8)
    assert f"PPid:\t{init}\n" in Path(f"/proc/{child}/status").read_text()
    watched = os.pidfd_open(child)
    os.kill(init, 9)
    assert select.select([watched], [], [], TIMEOUT_S)[0], "the mount is waited for by a process that nobody knows"
    assert os.waitpid(maker, 0)[1] == 0
    for fd in (watched, listener):
        os.close(fd)
    ours.close()


def test_fsconfig_with_a_descriptor(interpret: Interpret) -> None:
    """Overlay takes its layers by descriptor from 6.13 on; before, the key is unknown with one."""
    layer = Op("open", "/etc", r0="l", a=linux.O_PATH)
    done = interpret(
        Op("fsopen", "overlay", r0="c"), layer, Op("fsconfig", "lowerdir+", r0="c", r1="l", a=linux.FSCONFIG_SET_FD)
    )
    assert done.error in (0, errno.EINVAL)
    assert done.error == 0 or done.detail


def test_fspick(interpret: Interpret, scratch: Path) -> None:
    ops = [*private(), *tmpfs("t"), on(scratch, "t"), Op("fspick", str(scratch), r0="p")]
    flag = Op("fsconfig", "ro", r0="p", a=linux.FSCONFIG_SET_FLAG)
    redo = Op("fsconfig", r0="p", a=linux.FSCONFIG_CMD_RECONFIGURE)
    assert mounts(interpret(*ops, flag, redo, SHOW))[str(scratch)][-1].startswith("ro")
    assert interpret(*private(), Op("fspick", str(scratch), r0="p")).error == errno.EINVAL  # no mount point
    assert interpret(Op("fspick", str(scratch / "no"), r0="p")).error == errno.ENOENT


def test_fspick_by_register(interpret: Interpret, scratch: Path) -> None:
    ops = [*private(), *tmpfs("t"), on(scratch, "t"), Op("fspick", r0="p", r1="t")]
    assert interpret(*ops).status == 0


def test_open_tree_and_move_mount(interpret: Interpret, scratch: Path) -> None:
    (scratch / "a").mkdir()
    (scratch / "a/file").write_text("there")
    (scratch / "b").mkdir()
    tree = Op("open-tree", str(scratch / "a"), r0="t", a=CLONE)
    done = interpret(*private(), tree, on(scratch / "b", "t"), sh(f"cat {scratch}/b/file"))
    assert done.out == "there"
    assert interpret(Op("open-tree", str(scratch / "no"), r0="t", a=CLONE)).error == errno.ENOENT
    here = Op("open", str(scratch), r0="here", a=linux.O_PATH)
    assert interpret(*private(), tree, here, Op("move-mount", "no", r0="t", r1="here")).error == errno.ENOENT
    assert interpret(*private(), here, on(scratch / "b", "here")).error == errno.EINVAL
    # before unshare a directory is one of another mount namespace after it
    assert interpret(here, *private(), Op("open-tree", r0="t", r1="here", a=CLONE)).error == errno.EINVAL


def test_paths_of_registers_stay_inside(interpret: Interpret, place: Place) -> None:
    """A path with a register is one inside it, whatever op it belongs to."""
    (place.rootfs / "mnt/link").symlink_to(place.outside)
    ops = [*private(), *rootfs(place.rootfs), *tmpfs("t")]
    for op in (
        Op("move-mount", "mnt/link", r0="t", r1="rootfs"),
        Op("open-tree", "mnt/link", r0="x", r1="rootfs", a=CLONE),
        Op("fspick", "mnt/link", r0="x", r1="rootfs"),
        Op("mount-setattr", "mnt/link", r0="rootfs", a=RO),
    ):
        assert interpret(*ops, op).error == errno.ENOENT


def test_mount_setattr(interpret: Interpret, scratch: Path) -> None:
    (scratch / "sub").mkdir()
    ops = [*private(), *tmpfs("t"), Op("mkdirs", "sub", r1="t", a=0o755), on(scratch, "t")]
    ops += [*tmpfs("u"), on(scratch / "sub", "u")]
    alone = mounts(interpret(*ops, Op("mount-setattr", r0="t", a=RO), SHOW))
    assert [alone[str(p)][5][:2] for p in (scratch, scratch / "sub")] == ["ro", "rw"]
    both = mounts(interpret(*ops, Op("mount-setattr", r0="t", a=RO, flags=FLAG_RECURSIVE), SHOW))
    assert [both[str(p)][5][:2] for p in (scratch, scratch / "sub")] == ["ro", "ro"]
    shared = mounts(interpret(*ops, Op("mount-setattr", str(scratch), c=linux.MS_SHARED), SHOW))
    assert shared[str(scratch)][6].startswith("shared:")
    assert interpret(*ops, Op("mount-setattr", r0="t", a=1 << 40)).error == errno.EINVAL
    assert interpret(*ops, Op("mount-setattr", r0="t", r1="none", a=linux.MOUNT_ATTR_IDMAP)).error == errno.EBADF


def test_idmapped(interpret: Interpret, scratch: Path) -> None:
    from runtime import userns

    (scratch / "file").write_text("")
    ns = userns.namespace_of("0 100000 1000\n;0 100000 1000\n")
    tree = [Op("open-tree", str(scratch), r0="t", a=CLONE)]
    tree.append(Op("mount-setattr", r0="t", r1="ns", a=linux.MOUNT_ATTR_IDMAP))
    done = interpret(*private(), *tree, on("/mnt", "t"), sh("stat -c '%u %g' /mnt/file"), registers={"ns": ns})
    os.close(ns)
    # a file system without idmapped mounts refuses; the errno must then be the kernel's
    assert (done.out, done.error) in (("100000 100000\n", 0), ("", errno.EINVAL))


def test_copy_up(interpret: Interpret, scratch: Path) -> None:
    source = scratch / "source"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/file").write_text("x" * 300000)
    os.chown(source / "deep/er/file", 1000, 2000)
    (source / "deep/er/file").chmod(0o4711)
    (source / "deep").chmod(0o2750)
    (source / "link").symlink_to("/etc/passwd")
    os.lchown(source / "link", 5, 6)
    os.mkfifo(source / "fifo", 0o611)
    os.mknod(source / "null", 0o20666, linux.makedev(1, 3))
    for name in ("deep/er/file", "deep"):
        os.utime(source / name, ns=(10**18, 10**18 + 5))
    list_ = "cd {} && find . ! -name . -printf '%p %y %m %U %G %l %T@\\n'; stat -c %t:%T null; md5sum < deep/er/file"
    ops = [*private(), Op("umask", a=0), Op("open", str(source), r0="s", a=linux.O_PATH), *tmpfs("t")]
    done = interpret(*ops, Op("copy-up", r0="t", r1="s"), on("/mnt", "t"), sh(list_.format("/mnt")))
    before = interpret(sh(list_.format(source)))
    assert done.status == 0 and sorted(done.out.splitlines()) == sorted(before.out.splitlines())
    assert len(done.out.splitlines()) == 8


def test_copy_up_stays_on_its_filesystem(interpret: Interpret, scratch: Path) -> None:
    (scratch / "mounted").mkdir()
    ops = [*private(), *tmpfs("u"), Op("mkdirs", "inside", r1="u", a=0o755), on(scratch / "mounted", "u")]
    ops += [Op("open", str(scratch), r0="s", a=linux.O_PATH), *tmpfs("t"), Op("copy-up", r0="t", r1="s")]
    assert interpret(*ops, on("/mnt", "t"), sh("cd /mnt; find .")).out.split() == [".", "./mounted"]


def test_copy_up_fails(interpret: Interpret, scratch: Path) -> None:
    (scratch / "big").write_bytes(bytes(20000))
    opened, *rest = tmpfs("t")
    small = Op("fsconfig", "size", "4096", r0="t-context", a=linux.FSCONFIG_SET_STRING)
    ops = [opened, small, *rest, Op("open", str(scratch), r0="s", a=linux.O_PATH)]
    assert interpret(*ops, Op("copy-up", r0="t", r1="s")).error == errno.ENOSPC
    file = Op("open", str(scratch / "big"), r0="s", a=linux.O_PATH)
    assert interpret(*tmpfs("t"), file, Op("copy-up", r0="t", r1="s")).error == errno.ENOTDIR
    deep = scratch / "/".join("d" * 100)
    deep.mkdir(parents=True)
    (scratch / "big").unlink()
    assert interpret(*tmpfs("t"), ops[-1], Op("copy-up", r0="t", r1="s")).error == errno.ENAMETOOLONG


def null() -> Op:
    return Op("open-tree", "/dev/null", r0="null", a=CLONE)


def test_mask(interpret: Interpret, place: Place) -> None:
    for name in ("a", "b"):
        (place.rootfs / "mnt" / name).mkdir()
        (place.rootfs / "mnt" / name / "secret").write_text("secret")
        (place.rootfs / "mnt" / f"{name}.txt").write_text("secret")
    (place.rootfs / "mnt/link").symlink_to("b.txt")
    names = ("/mnt/a", "mnt/b", "/mnt/a.txt", "mnt/link", "/mnt/missing", "/mnt/a.txt/missing")
    masks = [Op("mask", name, r0="null", r1="rootfs", r2="empty") for name in names]
    look = sh(
        f"cd {place.rootfs}/mnt; cat a/* b/*; cat a.txt b.txt; ls -A a b | xargs; touch a/x b/x; chmod 777 a.txt; echo MOUNTS; cat /proc/self/mountinfo"
    )
    done = interpret(*private(), *rootfs(place.rootfs), null(), *masks, look)
    found = mounts(done)
    assert "secret" not in done.out and done.out.count("ead-only") == 3
    for name in ("a", "b"):
        row = found[f"{place.rootfs}/mnt/{name}"]
        assert row[5].startswith("ro,nosuid,nodev,noexec") and row[-1].startswith("ro")
        assert found[f"{place.rootfs}/mnt/{name}.txt"][5].startswith("ro,nosuid,noexec")
    # the same empty directory for both
    assert len({found[f"{place.rootfs}/mnt/{name}"][2] for name in ("a", "b")}) == 1


def test_mask_with_a_device_that_is_not_attached(interpret: Interpret, place: Place) -> None:
    """CVE-2025-31133: what hides a file is the null device that was checked, not what is called so."""
    (place.rootfs / "mnt/file").write_text("secret")
    wrong = Op("open-tree", "/dev/zero", r0="null", a=CLONE)
    mask = Op("mask", "mnt/file", r0="null", r1="rootfs")
    assert interpret(*private(), *rootfs(place.rootfs), wrong, mask).error == errno.ENODEV
    assert interpret(*private(), *rootfs(place.rootfs), mask).error == errno.EBADF
    assert interpret(*private(), *rootfs(place.rootfs), null(), mask).status == 0


def test_readonly(interpret: Interpret, place: Place) -> None:
    (place.rootfs / "mnt/sub").mkdir()
    ops = [*private(), *rootfs(place.rootfs), *tmpfs("t"), Op("move-mount", "mnt/sub", r0="t", r1="rootfs")]
    ops += [Op("readonly", path, r1="rootfs") for path in ("/mnt", "/none/of/it")]
    done = interpret(*ops, sh(f"cd {place.rootfs}/mnt; touch x sub/x; touch ../y && echo rest is writable"))
    assert done.out.count("ead-only") == 2 and "rest is writable" in done.out
    (place.rootfs / "file").write_text("")
    assert interpret(*ops, Op("readonly", "file/x", r1="rootfs")).error == errno.ENOTDIR


def test_pivot_root(interpret: Interpret, place: Place) -> None:
    pivot = [*private(), *rootfs(place.rootfs), Op("pivot-root", r0="rootfs")]
    done = interpret(*pivot, sh("pwd; ls /; wc -l < /proc/self/mountinfo"))
    assert done.out.split()[0] == "/" and "canary" not in done.out and "etc" in done.out
    proc = [Op("fsopen", "proc", r0="c"), Op("fsmount", r0="c", r1="p"), Op("move-mount", "/proc", r0="p", r1="rootfs")]
    done = interpret(*pivot[:-1], *proc, pivot[-1], SHOW)
    assert sorted(mounts(done)) == ["/", "/proc"]
    not_a_mount = Op("open", str(place.rootfs), r0="rootfs", a=linux.O_PATH)
    # of the mount that is the root already: pivot_root(2) says busy
    assert interpret(*private(), not_a_mount, Op("pivot-root", r0="rootfs")).error == errno.EBUSY


def test_pivot_root_leaves_the_host_its_mounts(interpret: Interpret, place: Place, scratch: Path) -> None:
    """The unmounting of the old root must not travel back where the host's mounts are shared."""
    before = system_mounts()
    slave = [Op("unshare", a=linux.CLONE_NEWNS), Op("mount-setattr", "/", c=linux.MS_SHARED, flags=FLAG_RECURSIVE)]
    ops = [*slave, Op("unshare", a=linux.CLONE_NEWNS)]
    ops.append(Op("mount-setattr", "/", c=linux.MS_SLAVE, flags=FLAG_RECURSIVE))
    assert interpret(*ops, *rootfs(place.rootfs), Op("pivot-root", r0="rootfs"), sh("true")).status == 0
    assert system_mounts() == before


def system_mounts() -> list[str]:
    """Those of the host that no test beside this one makes or takes away."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if re.match("/(proc|sys|dev)?(/|$)", line.split()[4])]


def test_chroot(interpret: Interpret, place: Place) -> None:
    done = interpret(*private(), *rootfs(place.rootfs), Op("chroot", r0="rootfs"), sh("pwd; ls -d /etc /outside"))
    assert done.out.startswith("/\n") and "/etc" in done.out and "/outside:" in done.out
    assert interpret(*private(), Op("chroot", r0="none")).error == errno.EBADF


def test_chdir(interpret: Interpret, place: Place, refused: list[Op]) -> None:
    inside = [*private(), *rootfs(place.rootfs), Op("pivot-root", r0="rootfs"), *refused]
    assert interpret(*inside, Op("chdir", "/usr/bin"), sh("pwd")).out == "/usr/bin\n"
    assert interpret(*inside, Op("chdir", "/usr/none")).error == errno.ENOENT
    assert interpret(*inside, Op("chdir", "/etc/passwd")).error == errno.ENOTDIR
    made = Op("chdir", "/new/deep", r1="rootfs", a=0o700)
    assert interpret(*inside, made, sh("pwd; stat -c %a /new")).out == "/new/deep\n700\n"
    again = [Op("chdir", "/etc"), Op("chdir", "/usr", b=1)]
    assert interpret(*inside, *again, sh("pwd")).out == "/etc\n"


@pytest.mark.parametrize("cwd", ["/proc/self/fd/{fd}", "/link", "/proc/self/fd/{fd}/../outside", "/proc/self/cwd/.."])
def test_chdir_to_a_descriptor(interpret: Interpret, place: Place, cwd: str, refused: list[Op]) -> None:
    """CVE-2024-21626: a descriptor of the host, reached through procfs or a link of the image."""
    leak = os.open(place.outside, os.O_PATH)
    path = cwd.format(fd=5)  # the first register
    (place.rootfs / "link").symlink_to("/proc/self/fd/5")
    proc = [Op("fsopen", "proc", r0="c"), Op("fsmount", r0="c", r1="p"), Op("move-mount", "/proc", r0="p", r1="rootfs")]
    ops = [*private(), *rootfs(place.rootfs), *proc, Op("pivot-root", r0="rootfs"), *refused, Op("chdir", path)]
    done = interpret(*ops, sh("ls"), registers={"leak": leak})
    os.close(leak)
    assert (done.failed, done.error) == ("chdir", errno.ELOOP)


def host_proc() -> list[Op]:
    """The procfs that unmount goes through."""
    return [Op("open", "/proc", r0="proc", a=linux.O_PATH | linux.O_DIRECTORY)]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_unmount(interpret: Interpret, place: Place, kind: str) -> None:
    (place.rootfs / "mnt/file").write_text("under it")
    (place.rootfs / "mnt/dir").mkdir()
    name = "mnt/dir" if kind == "directory" else "mnt/file"
    source = "/etc" if kind == "directory" else "/etc/passwd"
    ops = [*private(), *rootfs(place.rootfs), *host_proc(), Op("open-tree", source, r0="t", a=CLONE)]
    ops += [Op("mountpoint", name, r0="at", r1="rootfs", r2="t"), Op("move-mount", r0="t", r1="at")]
    ops += [Op("open", name, r0="top", r1="rootfs", a=linux.O_PATH, b=linux.RESOLVE_IN_ROOT)]
    look, take = Op("unmount", r0="top", r1="proc", a=1), Op("unmount", r0="top", r1="proc")
    assert f"{place.rootfs}/{name}" in mounts(interpret(*ops, look, SHOW))
    assert f"{place.rootfs}/{name}" not in mounts(interpret(*ops, take, SHOW))
    # the mount itself has no place any more, what was under it is no mount
    assert interpret(*ops, take, take).error == errno.EINVAL
    assert interpret(*ops, take, ops[-1], look).error == errno.EINVAL
    assert interpret(*ops, take, sh("pwd")).out == "/\n"


def test_unmount_by_the_mount_itself(interpret: Interpret, place: Place) -> None:
    """Of a descriptor that was held before it was attached: what lies over it by then stays."""
    (place.rootfs / "mnt/dir").mkdir()
    ops = [*private(), *rootfs(place.rootfs), *host_proc(), *tmpfs("below"), *tmpfs("over", RO)]
    ops += [Op("move-mount", "mnt/dir", r0=name, r1="rootfs") for name in ("below", "over")]
    done = interpret(*ops, Op("unmount", r0="over", r1="proc"), SHOW)
    assert mounts(done)[f"{place.rootfs}/mnt/dir"][5].startswith("rw")
    assert interpret(*ops, Op("unmount", r0="below", r1="none")).error == errno.EBADF
    assert interpret(*ops, Op("unmount", r0="none", r1="proc")).error == errno.EBADF


def test_mountpoint_that_is_there_and_may_be_a_link(interpret: Interpret, place: Place) -> None:
    (place.rootfs / "mnt/link").symlink_to("nowhere")
    (place.rootfs / "mnt/out").symlink_to("/")
    ops = [*private(), *rootfs(place.rootfs), Op("open-tree", "/etc/passwd", r0="t", a=CLONE)]
    there = Op("mountpoint", "mnt/link", r0="at", r1="rootfs", r2="t", a=1)
    done = interpret(*ops, there, Op("move-mount", r0="t", r1="at"), SHOW)
    assert f"{place.rootfs}/mnt/link" in mounts(done)
    # nothing is made, and nothing outside of the root reached
    assert interpret(*ops, Op("mountpoint", "mnt/none", r0="at", r1="rootfs", a=1)).error == errno.ENOENT
    outside = Op("mountpoint", f"mnt/out{place.outside}", r0="at", r1="rootfs", a=1)
    assert interpret(*ops, outside).error == errno.ENOENT
    assert not (place.rootfs / "mnt/none").exists()


def test_mountpoint_on_a_link_of_procfs(interpret: Interpret, place: Place) -> None:
    proc = [Op("fsopen", "proc", r0="c"), Op("fsmount", r0="c", r1="p"), Op("move-mount", "/proc", r0="p", r1="rootfs")]
    there = Op("mountpoint", "/proc/self/exe", r0="at", r1="rootfs", a=1)
    assert interpret(*private(), *rootfs(place.rootfs), *proc, there).error == errno.EPERM
