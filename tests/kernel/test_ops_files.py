"""Ops about files: each succeeds, and fails with its own errno."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interpreter import Done, private, sh, tmpfs

from runtime import linux
from runtime.ops import FLAG_EXISTS, FLAG_NOFOLLOW
from runtime.plan import Op

Interpret = Callable[..., Done]
BENEATH = linux.RESOLVE_BENEATH
IN_ROOT = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS


@pytest.fixture
def here(scratch: Path) -> Iterator[dict[str, int]]:
    """A register of the scratch directory."""
    fd = os.open(scratch, os.O_PATH)
    yield {"here": fd}
    os.close(fd)


def test_open_and_close(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    (scratch / "file").write_text("text")
    opened = Op("open", "file", r0="file", r1="here", b=BENEATH)
    # close-on-exec: the payload has 0, 1, 2, and the one that ls lists with
    assert interpret(opened, sh("ls /proc/self/fd"), registers=here).out.split() == ["0", "1", "2", "3"]
    assert interpret(opened, Op("close", r0="file"), registers=here).status == 0
    assert interpret(opened, Op("close", r0="file"), Op("close", r0="file"), registers=here).error == errno.EBADF


def test_open_makes_files(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    made = Op("open", "new", r0="file", r1="here", a=linux.O_WRONLY | linux.O_CREAT | linux.O_EXCL, c=0o640)
    assert interpret(Op("umask", a=0), made, registers=here).status == 0
    assert stat.S_IMODE((scratch / "new").stat().st_mode) == 0o640
    assert interpret(made, registers=here).error == errno.EEXIST


def test_open_on_the_host(interpret: Interpret, scratch: Path) -> None:
    assert interpret(Op("open", str(scratch), r0="d", a=linux.O_PATH)).status == 0
    assert interpret(Op("open", str(scratch / "no"), r0="d", a=linux.O_PATH)).error == errno.ENOENT


@pytest.mark.parametrize(
    ("path", "resolve", "error"),
    [
        ("../outside", BENEATH, errno.EXDEV),
        ("/etc", BENEATH, errno.EXDEV),
        ("up", BENEATH, errno.EXDEV),
        ("absolute", BENEATH, errno.EXDEV),
        ("loop", IN_ROOT, errno.ELOOP),
        ("file/x", IN_ROOT, errno.ENOTDIR),
        ("../../..", IN_ROOT, 0),
        ("up", IN_ROOT, errno.ENOENT),
        ("absolute", IN_ROOT, errno.ENOENT),
        ("x" * 256, IN_ROOT, errno.ENAMETOOLONG),
        ("", IN_ROOT, errno.ENOENT),
    ],
)
def test_open_stays_inside(
    interpret: Interpret, scratch: Path, path: str, resolve: int, error: int, refused: list[Op]
) -> None:
    top = scratch / "top"
    top.mkdir()
    (top / "up").symlink_to("../../etc/passwd")
    (top / "absolute").symlink_to("/etc/passwd")
    (top / "loop").symlink_to("loop")
    (top / "file").write_text("")
    fd = os.open(top, os.O_PATH)
    done = interpret(*refused, Op("open", path, r0="x", r1="top", a=linux.O_PATH, b=resolve), registers={"top": fd})
    os.close(fd)
    assert done.error == error


def test_write(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    (scratch / "file").write_text("12345")
    assert interpret(Op("write", "file", "abc", r1="here"), registers=here).status == 0
    assert interpret(Op("write", str(scratch / "file"), b"\0\1")).status == 0
    assert (scratch / "file").read_bytes() == b"\0\1c45"
    assert interpret(Op("write", "none", "abc", r1="here"), registers=here).error == errno.ENOENT
    # what the file itself says to it
    assert interpret(Op("write", "/proc/self/oom_score_adj", "much")).error == errno.EINVAL


def test_a_short_write_is_an_error(interpret: Interpret, scratch: Path) -> None:
    ops = [*tmpfs("t"), Op("open", "f", r0="f", r1="t", a=linux.O_WRONLY | linux.O_CREAT, c=0o600)]
    ops.insert(1, Op("fsconfig", "size", "4096", r0="t-context", a=linux.FSCONFIG_SET_STRING))
    done = interpret(*ops, Op("write", "f", b"x" * 6000, r1="t"))
    assert (done.failed, done.error) == ("write", errno.EIO)


def test_write_through_nothing(interpret: Interpret, scratch: Path, here: dict[str, int], refused: list[Op]) -> None:
    """CVE-2019-19921, CVE-2025-52881: no link out, no magic link, no mount in the way to what is written."""
    (scratch / "aim").write_text("old")
    (scratch / "link").symlink_to(scratch / "aim")
    (scratch / "sub").mkdir()
    assert interpret(*refused, Op("write", "link", "new", r1="here"), registers=here).error == errno.EXDEV
    over = [*tmpfs("t"), Op("open", "f", r0="f", r1="t", a=linux.O_WRONLY | linux.O_CREAT, c=0o600)]
    over.append(Op("move-mount", str(scratch / "sub"), r0="t"))
    reopened = Op("open", str(scratch), r0="again", a=linux.O_PATH)
    done = interpret(*private(), *over, reopened, *refused, Op("write", "sub/f", "new", r1="again"))
    assert done.error == errno.EXDEV
    proc = Op("open", "/proc", r0="proc", a=linux.O_PATH)
    stdin = os.open(scratch / "aim", os.O_RDWR)
    done = interpret(proc, *refused, Op("write", "self/fd/0", "new", r1="proc"), stdin=stdin)
    os.close(stdin)
    assert done.error == errno.ELOOP
    assert interpret(proc, *refused, Op("write", "self/oom_score_adj", "500", r1="proc")).status == 0
    assert (scratch / "aim").read_text() == "old"


def test_mkdirs(interpret: Interpret, scratch: Path, here: dict[str, int], refused: list[Op]) -> None:
    path = "a/./b//c/"
    done = interpret(
        Op("umask", a=0), *refused, Op("mkdirs", path, r0="made", r1="here", a=0o751),
        Op("symlink", "x", "/here", r1="made"), registers=here,
    )  # fmt: skip
    assert done.status == 0 and (scratch / "a/b/c/here").is_symlink()
    assert stat.S_IMODE((scratch / "a/b").stat().st_mode) == 0o751
    assert interpret(*refused, Op("mkdirs", path, r1="here", a=0o755), registers=here).status == 0
    (scratch / "file").write_text("")
    for wrong in ("file", "file/x"):
        done = interpret(*refused, Op("mkdirs", wrong, r1="here", a=0o755), registers=here)
        assert done.error == errno.ENOTDIR
    (scratch / "link").symlink_to("a")
    nofollow = Op("mkdirs", "link/.", r1="here", a=0o755, flags=FLAG_NOFOLLOW)
    assert interpret(*refused, nofollow, registers=here).error == errno.ELOOP


def test_mkdirs_on_the_host(interpret: Interpret, scratch: Path) -> None:
    assert interpret(Op("mkdirs", str(scratch / "x/y"), a=0o700)).status == 0
    assert (scratch / "x/y").is_dir()


def test_mountpoint(interpret: Interpret, scratch: Path, here: dict[str, int], refused: list[Op]) -> None:
    (scratch / "source").write_text("")
    file = Op("open", "source", r0="file", r1="here", a=linux.O_PATH)
    made = [
        Op("mountpoint", "d/e", r0="x", r1="here"),
        file,
        Op("mountpoint", "f/g/", r0="x", r1="here", r2="file"),
        Op("mountpoint", "f/g", r0="x", r1="here", r2="file"),
    ]
    assert interpret(Op("umask", a=0), *refused, *made, registers=here).status == 0
    assert (scratch / "d/e").is_dir() and (scratch / "f/g").is_file()
    assert stat.S_IMODE((scratch / "d/e").stat().st_mode) == 0o755
    assert stat.S_IMODE((scratch / "f/g").stat().st_mode) == 0o644
    wrong = {errno.ENOTDIR: Op("mountpoint", "f/g", r0="x", r1="here"), errno.EISDIR: made[2]}
    wrong[errno.EISDIR].s0 = "d"
    for error, op in wrong.items():
        assert interpret(*refused, file, op, registers=here).error == error


@pytest.mark.parametrize("path", ["link", "link/", "/link//.", "sub/../link"])
def test_mountpoint_nofollow(
    interpret: Interpret, scratch: Path, here: dict[str, int], path: str, refused: list[Op]
) -> None:
    """CVE-2019-19921, CVE-2023-28642: /proc as a link; CVE-2026-39822: and a slash after it."""
    (scratch / "sub").mkdir()
    (scratch / "link").symlink_to("sub")
    op = Op("mountpoint", path, r0="x", r1="here", flags=FLAG_NOFOLLOW)
    assert interpret(*refused, op, registers=here).error == errno.ELOOP
    (scratch / "link").unlink()
    assert interpret(*refused, op, registers=here).status == 0


def test_symlink(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    (scratch / "dev").mkdir()
    (scratch / "alias").symlink_to("/dev")
    made = Op("symlink", "/proc/self/fd", "/alias/fd", r1="here")
    assert interpret(made, registers=here).status == 0
    assert os.readlink(scratch / "dev/fd") == "/proc/self/fd"
    assert interpret(made, registers=here).error == errno.EEXIST
    assert interpret(Op("symlink", "x", "/none/fd", r1="here"), registers=here).error == errno.ENOENT
    # with a: one that says the same is taken for it, anything else is not
    same = Op("symlink", "/proc/self/fd", "/alias/fd", r1="here", a=1)
    assert interpret(same, registers=here).status == 0
    for text in ("/proc/self", "/proc/self/fd/", "fd"):
        assert interpret(Op("symlink", text, "/alias/fd", r1="here", a=1), registers=here).error == errno.EEXIST
    assert interpret(Op("symlink", "/dev", "/dev", r1="here", a=1), registers=here).error == errno.EEXIST


NULL = linux.makedev(1, 3)


def node(path: str, **more: Any) -> Op:
    return Op("mknod", path, r1="here", **{"a": linux.S_IFCHR | 0o622, "b": NULL, "c": 1000 | 2000 << 32, **more})


def test_mknod(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    assert interpret(Op("umask", a=0), node("dev/sub/null"), registers=here).status == 0
    st = (scratch / "dev/sub/null").stat()
    assert (stat.S_ISCHR(st.st_mode), stat.S_IMODE(st.st_mode), st.st_rdev) == (True, 0o622, NULL)
    assert (st.st_uid, st.st_gid) == (1000, 2000)
    fifo = node("fifo", a=linux.S_IFIFO | 0o600, b=0, c=0)
    assert interpret(fifo, registers=here).status == 0
    assert stat.S_ISFIFO((scratch / "fifo").stat().st_mode)
    fifo.flags = FLAG_EXISTS
    assert interpret(fifo, registers=here).status == 0


def test_mknod_where_something_is(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    os.mknod(scratch / "null", 0o600 | stat.S_IFCHR, NULL)
    assert interpret(node("null"), registers=here).error == errno.EEXIST
    assert interpret(node("null", flags=FLAG_EXISTS), registers=here).status == 0
    assert (scratch / "null").stat().st_uid == 0, "the one that was there is left alone"
    other = node("null", b=linux.makedev(1, 5), flags=FLAG_EXISTS)
    assert interpret(other, registers=here).error == errno.EEXIST
    (scratch / "link").symlink_to("null")
    assert interpret(node("link", flags=FLAG_EXISTS), registers=here).error == errno.EEXIST


def test_mknod_fails(interpret: Interpret, here: dict[str, int]) -> None:
    assert interpret(Op("capset"), node("n"), registers=here).error == errno.EPERM
    assert interpret(node("n", b=1 << 32), registers=here).error == errno.EINVAL


def test_mknod_corrects_what_an_acl_did(interpret: Interpret, scratch: Path, here: dict[str, int]) -> None:
    """A default ACL is as a umask that cannot be seen."""
    acl = b"\2\0\0\0" + b"".join(struct.pack("<HHi", tag, mode, -1) for tag, mode in ((1, 7), (4, 0), (0x20, 0)))
    os.setxattr(scratch, "system.posix_acl_default", acl)
    assert interpret(Op("umask", a=0), node("null"), registers=here).status == 0
    assert stat.S_IMODE((scratch / "null").stat().st_mode) == 0o622


def test_check_device(interpret: Interpret, here: dict[str, int]) -> None:
    null = Op("open", "/dev/null", r0="n", a=linux.O_PATH)
    assert interpret(null, Op("check-device", r0="n", a=linux.S_IFCHR, b=NULL)).status == 0
    for wrong in ({"a": linux.S_IFBLK, "b": NULL}, {"a": linux.S_IFCHR, "b": linux.makedev(1, 5)}):
        assert interpret(null, Op("check-device", r0="n", **wrong)).error == errno.ENODEV
    assert interpret(Op("check-device", r0="n")).error == errno.EBADF
