"""Ops about terminals, standard descriptors and the user's programs: each succeeds, and fails with its own errno."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from interpreter import Done, private, program, refusal, rootfs, sh, tmpfs

from runtime import linux
from runtime.plan import Op

if TYPE_CHECKING:
    from conftest import Place

Interpret = Callable[..., Done]
CLONE = linux.OPEN_TREE_CLONE
DEVPTS = [
    Op("fsopen", "devpts", r0="c"),
    Op("fsconfig", "ptmxmode", "0666", r0="c", a=linux.FSCONFIG_SET_STRING),
    Op("fsmount", r0="c", r1="pts"),
]


def pivoted(place: Place) -> list[Op]:
    return [*private(), *rootfs(place.rootfs), Op("pivot-root", r0="rootfs")]


# -- terminal and standard descriptors -----------------------------------------------------------------------------------


def test_open_pty_and_ctty(interpret: Interpret) -> None:
    ops = [*private(), *DEVPTS, Op("open-pty", r0="master", r1="pts", r2="tty", a=30, b=90)]
    seen: list[bytes] = []

    def look(fd: int) -> int:
        seen.append(os.readlink(f"/proc/self/fd/{fd}").encode())
        kept.append(os.dup(fd))
        return 0

    kept: list[int] = []
    script = "stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : > /dev/tty && echo tty"
    done = interpret(
        *ops, Op("setsid"), Op("ask", "master", r1="master"), Op("ctty", r0="tty"), sh(script), answers={"master": look}
    )
    text = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed, and all has been read
        while more := os.read(kept[0], 4096):
            text += more
    os.close(kept[0])
    assert done.status == 0 and seen[0].endswith(b"ptmx")
    assert text.split() == [b"30", b"90", b"tty"]


def test_open_pty_wants_devpts(interpret: Interpret, scratch: Path) -> None:
    """CVE-2025-52565: what the container calls ptmx may be anything."""
    fake = [*private(), *tmpfs("pts")]
    assert interpret(*fake, Op("open-pty", r0="m", r1="pts")).error == errno.ENOENT
    for make in (
        Op("mknod", "ptmx", r1="pts", a=linux.S_IFCHR | 0o666, b=linux.makedev(5, 2)),
        Op("mknod", "ptmx", r1="pts", a=linux.S_IFIFO | 0o666),
        Op("symlink", "/dev/pts/ptmx", "ptmx", r1="pts"),
    ):
        assert interpret(*fake, make, Op("open-pty", r0="m", r1="pts")).error == errno.ENODEV


def test_ctty_fails(interpret: Interpret) -> None:
    null = Op("open", "/dev/null", r0="tty", a=linux.O_RDWR)
    assert interpret(Op("setsid"), null, Op("ctty", r0="tty")).error == errno.ENOTTY
    pty = Op("open-pty", r0="master", r1="pts", r2="tty")
    # the session's leader alone gives it a terminal
    unled = [*private(), *DEVPTS, pty, Op("ctty", r0="tty")]
    assert interpret(*unled).error == errno.EPERM


def test_reopen_null(interpret: Interpret, place: Place, refused: list[Op]) -> None:
    os.mknod(place.rootfs / "dev/null", 0o20666, linux.makedev(1, 3))
    ops = [*pivoted(place), *refused, Op("reopen-null", r1="rootfs"), sh("stat -L -c %d /proc/self/fd/0 /dev/null")]
    proc = [Op("fsopen", "proc", r0="c"), Op("fsmount", r0="c", r1="p"), Op("move-mount", "/proc", r0="p", r1="rootfs")]
    done = interpret(*ops[:-1], *proc, ops[-1])
    stdin, null = done.out.split()
    assert (done.status, stdin) == (0, null)


@pytest.mark.parametrize("trap", ["link", "fifo", "zero", "file", "none"])
def test_reopen_null_wants_the_null_device(interpret: Interpret, place: Place, trap: str, refused: list[Op]) -> None:
    """CVE-2026-88265: dev/null of an image that leads to a file of the host."""
    null = place.rootfs / "dev/null"
    if trap == "link":
        null.symlink_to("../../outside/canary")
    elif trap == "fifo":
        os.mkfifo(null)
    elif trap == "zero":
        os.mknod(null, 0o20666, linux.makedev(1, 5))
    elif trap == "file":
        null.write_text("")
    done = interpret(*private(), *rootfs(place.rootfs), *refused, Op("reopen-null", r1="rootfs"))
    assert done.error == (errno.ENOENT if trap == "none" else errno.ENODEV)
    assert place.is_untouched()


def test_chown_stdio(interpret: Interpret, scratch: Path) -> None:
    (scratch / "in").write_text("")
    fd = os.open(scratch / "in", os.O_RDWR)
    done = interpret(Op("chown-stdio", a=1234), sh("stat -L -c %u /proc/self/fd/0 /proc/self/fd/1"), stdin=fd)
    os.close(fd)
    assert done.out.split() == ["1234", "1234"]
    before = os.stat("/dev/null").st_uid
    assert interpret(Op("chown-stdio", a=1234)).status == 0
    assert os.stat("/dev/null").st_uid == before
    # without the right to do it nothing happens
    assert interpret(Op("setresuid", a=1), Op("chown-stdio", a=7), sh("stat -L -c %u /proc/self/fd/1")).out == "0\n"


# -- hooks ---------------------------------------------------------------------------------------------------------------


def hook(script: str, *env: str, timeout_ms: int = 0, state: str = "") -> Op:
    words = ["/bin/sh", "-c", script]
    return Op("run-hook", "/bin/sh", "\0".join(words), "\0".join(env), r0=state, a=timeout_ms, b=3, c=len(env))


@pytest.fixture
def state() -> dict[str, int]:
    fd = os.memfd_create("state")
    os.write(fd, b'{"state":1}')  # and not rewound
    return {"state": fd}


def test_run_hook(interpret: Interpret, state: dict[str, int], scratch: Path) -> None:
    script = (
        f"cat > {scratch}/$NAME; ls /proc/self/fd > {scratch}/fds; grep Sig /proc/self/status > {scratch}/signals;"
        f"env > {scratch}/env; umask > {scratch}/umask; cut -d' ' -f1,6 /proc/$$/stat > {scratch}/session; echo printed"
    )
    hooks = [hook(script, f"NAME={name}", "PATH=/bin:/usr/bin", state="state") for name in ("first", "second")]
    done = interpret(Op("umask", a=0), *hooks, sh("echo payload"), registers=state)
    assert (done.status, done.out) == (0, "payload\n")
    assert (scratch / "first").read_text() == (scratch / "second").read_text() == '{"state":1}'
    assert (scratch / "fds").read_text().split() == ["0", "1", "2", "3"]
    assert {line.split()[0] for line in (scratch / "env").read_text().splitlines()} == {
        "NAME=second", "PATH=/bin:/usr/bin", f"PWD={os.getcwd()}",
    }  # fmt: skip
    assert (scratch / "umask").read_text() == "0022\n"
    pid, session = (scratch / "session").read_text().split()
    assert pid == session
    # 32 and 33 are the C library's: make leaves them ignored, and only the launcher (test_launch) puts that right
    theirs = 1 << 31 | 1 << 32
    for line in (scratch / "signals").read_text().splitlines()[2:4]:
        assert int(line.split()[1], 16) & ~theirs == 0


def test_run_hook_with_outputs_of_its_own(interpret: Interpret, scratch: Path) -> None:
    """Either, both or none are sent to a register; of what is not, the end is quoted."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    fds = {name: os.open(scratch / name, flags, 0o600) for name in ("out", "err")}
    script = "echo a word; echo another >&2; ls /proc/self/fd | tr '\\n' ' ' >&2; exit 7"
    both, out, err = (hook(script) for _ in range(3))
    both.r1 = out.r1 = "out"
    both.r2 = err.r2 = "err"
    details = [interpret(op, registers=fds).detail.strip() for op in (both, out, err)]
    assert details == ["exit status 7", "exit status 7: another 0 1 2 3", "exit status 7: a word"]
    assert (scratch / "out").read_text() == "a word\n" * 2
    assert (scratch / "err").read_text() == "another\n0 1 2 3 " * 2
    both.r1 = "never-filled"
    assert interpret(both, registers=fds).error == errno.EBADF
    assert (scratch / "err").read_text().count("another") == 2
    for fd in fds.values():
        os.close(fd)


def test_run_hook_that_fails(interpret: Interpret) -> None:
    done = interpret(hook("echo a word; echo another >&2; exit 7"))
    assert (done.failed, done.error) == ("run-hook", errno.ECHILD)
    assert done.detail.strip() == "exit status 7: a word another"
    assert interpret(hook("kill -USR1 $$")).detail == "signal 10"
    done = interpret(Op("run-hook", "/missing", "x", "", b=1))
    assert (done.error, done.detail) == (errno.ENOENT, "")
    done = interpret(Op("run-hook", "/etc/passwd", "x", "", b=1))
    assert done.error == errno.EACCES


def test_run_hook_whose_child_holds_the_output(interpret: Interpret, scratch: Path) -> None:
    """A wait for the end of output never ended here (runc)."""
    started = time.monotonic()
    done = interpret(hook(f"sleep 30 & echo $! > {scratch}/pid"))
    assert done.status == 0 and time.monotonic() - started < 20
    os.kill(int((scratch / "pid").read_text()), 9)


def test_run_hook_timeout(interpret: Interpret, scratch: Path) -> None:
    started = time.monotonic()
    done = interpret(hook(f"sleep 30 & echo $! > {scratch}/pid; echo waits; wait", timeout_ms=300))
    assert (done.failed, done.error, done.detail.strip()) == ("run-hook", errno.ETIMEDOUT, "waits")
    assert 0.25 < time.monotonic() - started < 20
    time.sleep(0.05)
    left = Path(f"/proc/{(scratch / 'pid').read_text().strip()}/status")
    assert not left.exists() or "zombie" in left.read_text(), "its child lives on"


@pytest.mark.parametrize("ends", [True, False])
def test_run_hook_that_floods(interpret: Interpret, ends: bool) -> None:
    script = "head -c 60000000 /dev/zero; echo the end; exit 1" if ends else "while :; do echo more; done"
    started = time.monotonic()
    done = interpret(hook(script, "PATH=/bin:/usr/bin", timeout_ms=30000 if ends else 300))
    assert time.monotonic() - started < 20
    assert len(done.detail) <= 1024 + 32
    if ends:
        assert done.detail.endswith("the end ") and done.error == errno.ECHILD
    else:
        assert done.error == errno.ETIMEDOUT


def test_run_hook_that_reads_nothing(interpret: Interpret) -> None:
    fd = os.memfd_create("state")
    os.truncate(fd, 1 << 20)
    assert interpret(hook("exec 0<&-; exit 0", state="s"), registers={"s": fd}).status == 0
    os.close(fd)


# -- home ------------------------------------------------------------------------------------------------------------------


def env_of(interpret: Interpret, place: Place, uid: int, refused: list[Op] | None = None) -> str:
    ops = [*pivoted(place), *(refused or []), Op("home", a=uid), program("/bin/sh", "-c", "echo $HOME", env=["A=b"])]
    done = interpret(*ops)
    assert done.status == 0, done
    return done.out.strip()


@pytest.mark.parametrize(
    ("text", "uid", "home"),
    [
        ("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/a:/bin/sh", 1000, "/home/a"),
        ("root:x:0:0:root:/root:/bin/sh\n", 1000, "/"),
        ("a:x:1000:1:::/bin/sh\n", 1000, "/"),
        ("a:x:1000:1:c:/first:s\nb:x:1000:1:c:/second:s\n", 1000, "/first"),
        ("a:x:01000:1:c:/zeros:s\n", 1000, "/zeros"),
        ("a:x:4294968296:1:c:/wrapped:s\n", 1000, "/"),
        ("a:x:+1000:1:c:/x:s\nb:x: 1000:1:c:/x:s\nc:x:1000 :1:c:/x:s\n", 1000, "/"),
        ("a:x:1000:1:c:/short\n", 1000, "/"),
        ("a:x:1000:1:c:/more:s:and:more\n", 1000, "/more"),
        ("x" * 1000000 + "\na:x:1000:1:c:/after:s\n", 1000, "/after"),
        (":" * 5000 + "a:x:1000:1:c:/within:s\nb:x:1000:1:c:/after:s", 1000, "/after"),
        ("a:x:1000:1:c:/n\0ul:s\nb:x:1000:1:c:/after:s\n", 1000, "/after"),
        ("a:x:1000:1:c:" + "/y" * 511 + ":s\n", 1000, "/"),
        ("\n" * 1100000 + "a:x:1000:1:c:/too/far:s\n", 1000, "/"),
    ],
)
def test_home(interpret: Interpret, place: Place, text: str, uid: int, home: str) -> None:
    (place.rootfs / "etc/passwd").write_text(text)
    assert env_of(interpret, place, uid) == home


@pytest.mark.parametrize("trap", ["fifo", "zero", "sparse", "directory", "outside", "none", "loop", "unreadable"])
def test_home_of_a_hostile_image(interpret: Interpret, place: Place, trap: str, refused: list[Op]) -> None:
    """runc and crun wait for a FIFO for ever."""
    passwd = place.rootfs / "etc/passwd"
    passwd.unlink()
    (place.outside / "canary").write_text("a:x:1000:1:c:/outside:s\n")
    if trap == "fifo":
        os.mkfifo(passwd)
    elif trap == "zero":
        os.mknod(place.rootfs / "dev/zero", 0o20666, linux.makedev(1, 5))
        passwd.symlink_to("/dev/zero")
    elif trap == "sparse":
        with passwd.open("w") as file:
            file.truncate(3 << 40)
    elif trap == "directory":
        passwd.mkdir()
    elif trap == "outside":
        passwd.symlink_to("../../outside/canary")
    elif trap == "loop":
        passwd.symlink_to("passwd")
    elif trap == "unreadable":
        passwd.touch(0)
    started = time.monotonic()
    assert env_of(interpret, place, 1000, refused) == "/"
    assert time.monotonic() - started < 20


# -- executing -------------------------------------------------------------------------------------------------------------


def candidates(name: str, *paths: Path | str, **more: object) -> Op:
    return Op(
        name, "\0".join(map(str, paths)), *(("x", "") if name == "exec" else ()), a=len(paths), b=int(name == "exec")
    )


@pytest.mark.parametrize("name", ["find-exec", "exec"])
def test_find_exec_and_exec(interpret: Interpret, scratch: Path, name: str) -> None:
    plain, folder = scratch / "plain", scratch / "folder"
    plain.write_text("#!/bin/sh\n")
    folder.mkdir()
    none = scratch / "none"

    def error(*paths: Path | str) -> int:
        return interpret(candidates(name, *paths)).error

    assert error("/bin/true") == error(none, "/bin/true") == error(plain, folder, plain / "x", "/bin/true") == 0
    assert error(none) == error(none, plain / "x") == errno.ENOENT
    assert error(none, plain, none) == errno.EACCES
    # execve says EACCES of a directory; find-exec knows better
    assert error(folder) == (errno.EISDIR if name == "find-exec" else errno.EACCES)


def test_find_exec_asks_for_the_user_to_be(interpret: Interpret, scratch: Path) -> None:
    (scratch / "mine").write_text("#!/bin/sh\n")
    (scratch / "mine").chmod(0o700)
    assert interpret(candidates("find-exec", scratch / "mine")).status == 0
    assert interpret(Op("setresuid", a=1), candidates("find-exec", scratch / "mine")).error == errno.EACCES


def test_exec_of_what_is_no_program(interpret: Interpret, scratch: Path) -> None:
    (scratch / "text").write_text("no interpreter here")
    (scratch / "text").chmod(0o755)
    done = interpret(candidates("exec", scratch / "text", "/bin/true"))
    assert (done.failed, done.error, done.status) == ("exec", errno.ENOEXEC, 1)


def test_exec_arguments_and_environment(interpret: Interpret) -> None:
    words = ["sh", "-c", 'for a in "$0" "$@"; do echo "[$a]"; done; env', "", "two words", "", "ü\n"]
    done = interpret(Op("exec", "/bin/sh", "\0".join(words), "\0".join(["E=", "F=1=2"]), a=1, b=len(words), c=2))
    assert done.out.startswith("[]\n[two words]\n[]\n[ü\n]\n") and "E=\n" in done.out and "F=1=2\n" in done.out
    many = [str(i) for i in range(20000)]
    done = interpret(Op("exec", "/bin/sh", "\0".join(["sh", "-c", "echo $#", *many]), "", a=1, b=3 + len(many)))
    assert done.out == "19999\n"


def row(code: int, jt: int, jf: int, k: int) -> bytes:
    return struct.pack("<HBBI", code, jt, jf, k)


ALLOW = row(0x06, 0, 0, 0x7FFF0000)


def test_seccomp(interpret: Interpret) -> None:
    uname_fails = row(0x20, 0, 0, 0) + row(0x15, 0, 1, 63) + row(0x06, 0, 0, 0x50000 | errno.EXDEV) + ALLOW
    done = interpret(Op("seccomp", uname_fails), sh("uname; grep Seccomp: /proc/self/status"))
    assert "nvalid cross-device" in done.out and done.out.endswith("Seccomp:\t2\n")
    # without CAP_SYS_ADMIN only under no_new_privs
    assert interpret(Op("setresuid", a=1), Op("seccomp", ALLOW)).error == errno.EACCES
    for wrong in (b"", ALLOW[:-1], ALLOW * 4097, row(0x06, 0, 0, 0)[:4] * 2 + row(0xFF, 0, 0, 0)):
        assert interpret(Op("seccomp", wrong)).error == errno.EINVAL
    assert interpret(Op("seccomp", ALLOW, a=1 << 20)).error == errno.EINVAL


def test_seccomp_listener(interpret: Interpret) -> None:
    new_listener = 8
    kinds: list[str] = []

    def look(fd: int) -> int:
        kinds.append(os.readlink(f"/proc/self/fd/{fd}"))
        return 0

    done = interpret(Op("seccomp", ALLOW, r0="l", a=new_listener), Op("ask", "x", r1="l"), answers={"x": look})
    assert (done.status, kinds) == (0, ["anon_inode:seccomp notify"])


def test_close_range(interpret: Interpret) -> None:
    fds = {name: os.open("/dev/null", os.O_RDONLY) for name in ("a", "b", "c")}
    closed = Op("close-range", r0="b", a=3)
    look = [Op("check-device", r0="b", a=linux.S_IFCHR, b=linux.makedev(1, 3)), Op("ask", "still talking")]
    done = interpret(closed, *look, registers=fds)
    assert done.status == 0 and done.asked == ["still talking"]
    for name in ("a", "c"):
        assert interpret(closed, Op("check-device", r0=name), registers=fds).error == errno.EBADF
    for fd in fds.values():
        os.close(fd)


def test_close_range_keeps_registers_of_the_launcher(interpret: Interpret) -> None:
    """As many of them as it says, from the first on."""
    fds = {name: os.open("/dev/null", os.O_RDONLY) for name in ("a", "b", "c")}
    look = {name: Op("check-device", r0=name, a=linux.S_IFCHR, b=linux.makedev(1, 3)) for name in fds}
    closed = Op("close-range", a=3, b=2)
    assert interpret(closed, look["a"], look["b"], registers=fds).status == 0
    assert interpret(closed, look["c"], registers=fds).error == errno.EBADF
    assert interpret(Op("close-range", a=3, b=9), registers=fds).error == errno.EINVAL
    for fd in fds.values():
        os.close(fd)


def test_inherit(interpret: Interpret, scratch: Path) -> None:
    for name in ("a", "b"):
        (scratch / name).write_text(f"file {name}")
    fds = {name: os.open(scratch / name, os.O_RDONLY) for name in ("a", "b")}
    # the numbers are the launcher's: after the socket and the plan
    script = "cat <&6; if : <&5; then echo open; fi"
    done = interpret(Op("close-range", r0="a", r1="b", a=3), Op("inherit", r0="b"), sh(script), registers=fds)
    assert done.out.startswith("file b") and "open" not in done.out
    assert interpret(Op("inherit", r0="never-filled")).error == errno.EBADF
    for fd in fds.values():
        os.close(fd)


@pytest.mark.parametrize("error", ["ENOSYS", "EINVAL"])
def test_close_range_without_the_system_call(interpret: Interpret, error: str) -> None:
    fds = {name: os.open("/dev/null", os.O_RDONLY) for name in ("a", "b")}
    gone = Op("seccomp", refusal(436, getattr(errno, error)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))  # which is how many it looks at then
    try:
        done = interpret(gone, Op("close-range", r0="b", a=3), Op("check-device", r0="a"), registers=fds)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (done.failed, done.error) == ("check-device", errno.EBADF)
    for fd in fds.values():
        os.close(fd)


def test_descriptors_that_are_not_open_are_not_closed_one_by_one(interpret: Interpret) -> None:
    """Where close_range(2) may not be called: the limit of a service is a million of them."""
    load, equal, greater, give = 0x20, 0x15, 0x25, 0x06
    # close(2) of a high number kills
    rows = [
        (load, 0, 0, 0), (equal, 0, 1, 436), (give, 0, 0, 0x50000 | errno.ENOSYS), (equal, 0, 3, 3), (load, 0, 0, 16),
        (greater, 0, 1, 400), (give, 0, 0, 0x80000000), (give, 0, 0, 0x7FFF0000),
    ]  # fmt: skip
    program = b"".join(struct.pack("<HBBI", *row) for row in rows)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 1 << 20), limits[1]))
    one = os.open("/dev/null", os.O_RDONLY)
    try:
        os.dup2(one, 390)
        done = interpret(Op("seccomp", program), Op("close-range", a=3), sh("ls /proc/self/fd"), registers={"a": 390})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(390)
        os.close(one)
    assert done.status == 0 and done.out.split() == ["0", "1", "2", "3"]
