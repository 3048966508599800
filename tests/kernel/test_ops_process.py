"""Ops about the parent, processes, namespaces and credentials: each succeeds, and fails with its own errno.

`umask` and `personality` have no failure: those calls cannot fail. Nor can `home` and `chown-stdio` by their contracts.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from interpreter import Done, Interpreter, private, program, sh

from runtime import linux, wire
from runtime.ops import FLAG_DENIED, FLAG_EXISTS, FLAG_MISSING
from runtime.plan import Op

Interpret = Callable[..., Done]
Start = Callable[..., Interpreter]


def field(done: Done, name: str) -> str:
    """A line of /proc/self/status that the payload has printed."""
    assert done.status == 0, done
    return next(line.split(":", 1)[1].strip() for line in done.out.splitlines() if line.startswith(f"{name}:"))


STATUS = sh("cat /proc/self/status")


# -- the parent --------------------------------------------------------------------------------------------------------


def test_ask(interpret: Interpret) -> None:
    done = interpret(Op("ask", "first"), Op("ask", "second"))
    assert (done.status, done.asked) == (0, ["first", "second"])


def test_ask_passes_descriptors(interpret: Interpret, scratch: Path) -> None:
    (scratch / "file").write_text("of the host")
    fd = os.open(scratch / "file", os.O_RDONLY)
    back: list[str] = []

    def keep(given: int) -> int:
        back.append(os.readlink(f"/proc/self/fd/{given}"))
        return 0

    done = interpret(Op("ask", "get", r0="file"), Op("ask", "give", r1="file"), answers={"get": (0, fd), "give": keep})
    os.close(fd)
    assert (done.status, back) == (0, [str(scratch / "file")])


def test_ask_refused(interpret: Interpret) -> None:
    done = interpret(Op("ask", "x"), answers={"x": errno.ENOTEMPTY})
    assert (done.failed, done.error, done.status) == ("ask", errno.ENOTEMPTY, 1)


def test_ask_without_the_descriptor(interpret: Interpret) -> None:
    assert interpret(Op("ask", "x", r0="file")).error == errno.EBADF
    assert interpret(Op("ask", "x", r1="never-filled")).error == errno.EBADF


def test_a_parent_that_hangs_up_ends_init(start: Start) -> None:
    init = start(Op("ask", "x"), sh("echo still here"))
    os.close(init.sock)
    init.sock = -1
    assert (init.wait(), init.out) == (1, "")


class Fifos:
    """The two FIFOs of a created container."""

    def __init__(self, scratch: Path) -> None:
        self.go, self.status = scratch / "go", scratch / "status"
        os.mkfifo(self.go)
        os.mkfifo(self.status)
        self.reader = os.open(self.status, os.O_RDONLY | os.O_NONBLOCK)
        self.registers = {
            "go": os.open(self.go, os.O_RDONLY | os.O_NONBLOCK),
            "status": os.open(self.status, os.O_WRONLY),
        }

    def given(self) -> None:
        for fd in self.registers.values():
            os.close(fd)

    def send(self, data: bytes) -> None:
        fd = os.open(self.go, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, data)
        os.close(fd)

    def answer(self) -> bytes:
        """All that comes, to the end."""
        data = b""
        os.set_blocking(self.reader, True)
        while more := os.read(self.reader, 4096):
            data += more
        return data


def test_fifo(start: Start, scratch: Path) -> None:
    fifos = Fifos(scratch)
    init = start(Op("fifo", r0="go", r1="status"), sh("echo started"), registers=fifos.registers)
    fifos.given()
    init.serve()  # the end of the socket means: waiting
    assert not select.select([], [], [], 0.1)[0] and init.out == ""
    fifos.send(b"\0")
    assert fifos.answer() == b""  # the end of the status FIFO means: executed
    assert (init.wait(), init.out) == (0, "started\n")


def test_fifo_survives_a_starter_that_dies(start: Start, scratch: Path) -> None:
    fifos = Fifos(scratch)
    init = start(Op("fifo", r0="go"), sh("echo started"), registers=fifos.registers)
    fifos.given()
    init.serve()
    fifos.send(b"")
    # that has woken it; what spins is never asleep again
    end = time.monotonic() + 20
    while Path(f"/proc/{init.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "S":
        assert time.monotonic() < end, "it spins"
    fifos.send(b"\0")
    assert (init.wait(), init.out) == (0, "started\n")


def test_fifo_reports_failures(start: Start, scratch: Path) -> None:
    fifos = Fifos(scratch)
    init = start(Op("fifo", r0="go", r1="status"), program("/missing"), registers=fifos.registers)
    fifos.given()
    init.serve()
    fifos.send(b"\0")
    assert wire.decode_message(fifos.answer()) == (wire.FAILED, 1, errno.ENOENT, b"")
    assert init.wait() == 1 and not init.failures


def test_fifo_without_a_reader_of_the_status(start: Start, scratch: Path) -> None:
    fifos = Fifos(scratch)
    denied = Op("sethostname", "x", flags=FLAG_DENIED)
    init = start(
        Op("setresuid", a=1000), Op("fifo", r0="go", r1="status"), denied, sh("echo on"), registers=fifos.registers
    )
    fifos.given()
    os.close(fifos.reader)
    init.serve()
    fifos.send(b"\0")
    assert (init.wait(), init.out) == (0, "on\n")


def test_fifo_wants_fifos(interpret: Interpret) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    assert interpret(Op("fifo", r0="go"), registers={"go": fd}).error == errno.EINVAL
    os.close(fd)
    assert interpret(Op("fifo", r0="go")).error == errno.EBADF


# -- flags -------------------------------------------------------------------------------------------------------------


def test_flags(interpret: Interpret, scratch: Path) -> None:
    fd = os.open(scratch, os.O_PATH)
    link = Op("symlink", "target", "link", r1="here")
    again = Op("symlink", "other", "link", r1="here", flags=FLAG_EXISTS)
    missing = Op("open", "nothing", r0="x", r1="here", a=os.O_PATH, flags=FLAG_MISSING)
    denied = Op("write", "no-permission", "x", r1="here", flags=FLAG_DENIED)
    (scratch / "no-permission").write_text("")
    scratch.chmod(0o777)
    user = Op("setresuid", a=1000)
    done = interpret(link, again, missing, user, denied, registers={"here": fd})
    assert done.status == 0 and os.readlink(scratch / "link") == "target"
    assert done.warnings == [(4, errno.EACCES, b"")]
    (scratch / "link").unlink()
    assert interpret(link, link, registers={"here": fd}).error == errno.EEXIST
    os.close(fd)


# -- processes and namespaces ------------------------------------------------------------------------------------------


def test_unshare_sethostname_setdomainname(interpret: Interpret) -> None:
    done = interpret(
        Op("unshare", a=linux.CLONE_NEWUTS), Op("sethostname", "inside"), Op("setdomainname", "example.org"),
        sh("cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"),
    )  # fmt: skip
    assert done.out == "inside\nexample.org\n"
    assert os.uname().nodename != "inside"


def test_unshare_fails(interpret: Interpret) -> None:
    assert interpret(Op("unshare", a=1)).error == errno.EINVAL


def test_names_that_are_too_long(interpret: Interpret) -> None:
    for name in ("sethostname", "setdomainname"):
        done = interpret(Op("unshare", a=linux.CLONE_NEWUTS), Op(name, "x" * 65))
        assert (done.failed, done.error) == (name, errno.EINVAL)


def test_setns(interpret: Interpret) -> None:
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    done = interpret(
        Op("unshare", a=linux.CLONE_NEWUTS), Op("setns", r0="ns", a=linux.CLONE_NEWUTS),
        sh("readlink /proc/self/ns/uts"), registers={"ns": fd},
    )  # fmt: skip
    assert done.out.strip() == os.readlink("/proc/self/ns/uts")
    assert interpret(Op("setns", r0="ns", a=linux.CLONE_NEWNET), registers={"ns": fd}).error == errno.EINVAL
    os.close(fd)
    assert interpret(Op("setns", r0="ns", a=0)).error == errno.EBADF


def test_setns_by_pidfd(interpret: Interpret) -> None:
    fd = os.pidfd_open(os.getpid())
    flags = linux.CLONE_NEWUTS | linux.CLONE_NEWIPC
    done = interpret(Op("unshare", a=flags), Op("setns", r0="p", a=flags), registers={"p": fd})
    os.close(fd)
    assert done.status == 0


def test_fork(interpret: Interpret) -> None:
    done = interpret(Op("unshare", a=linux.CLONE_NEWPID), Op("fork"), sh("echo $$ $PPID"))
    assert (done.status, done.out, len(done.pids)) == (0, "1 0\n", 1)


def test_fork_twice(interpret: Interpret) -> None:
    """The first process of a pid namespace cannot give its children to its parent, clone(2)."""
    done = interpret(Op("unshare", a=linux.CLONE_NEWPID), Op("fork"), Op("fork"))
    assert (done.failed, done.error) == ("fork", errno.EINVAL)


def test_fork_into_what_is_no_cgroup(interpret: Interpret) -> None:
    fd = os.open("/", os.O_PATH)
    done = interpret(Op("fork", r0="cgroup"), registers={"cgroup": fd})
    os.close(fd)
    assert (done.failed, done.error) == ("fork", errno.EBADF)


def test_setsid(interpret: Interpret) -> None:
    done = interpret(Op("setsid"), sh("cut -d' ' -f1,6 /proc/$$/stat"))
    pid, session = done.out.split()
    assert pid == session
    assert interpret(Op("setsid"), Op("setsid")).error == errno.EPERM


def test_prctl(interpret: Interpret) -> None:
    assert field(interpret(Op("prctl", a=linux.PR_SET_NO_NEW_PRIVS, b=1), STATUS), "NoNewPrivs") == "1"
    assert interpret(Op("prctl", a=linux.PR_SET_NO_NEW_PRIVS, b=2)).error == errno.EINVAL


def test_keyring(interpret: Interpret) -> None:
    done = interpret(Op("keyring", "_ses.kernel-test", a=0xFFFFFFFF, b=0x80000), sh("cat /proc/keys"))
    line = next(line for line in done.out.splitlines() if "_ses.kernel-test" in line)
    assert int(line.split()[4], 16) & 0x80000
    assert interpret(Op("keyring", ".reserved")).error == errno.EPERM


@pytest.mark.requires("i386-calls")
def test_personality(interpret: Interpret) -> None:
    assert interpret(Op("personality", a=8), sh("uname -m")).out.strip() not in (os.uname().machine, "")


def test_umask(interpret: Interpret) -> None:
    assert field(interpret(Op("umask", a=0o37), STATUS), "Umask") == "0037"


def scheduler(policy: int, nice: int = 0) -> Op:
    return Op("scheduler", struct.pack("<IIQiIQQQ", 48, policy, 0, nice, 0, 0, 0, 0), "text")


def test_scheduler(interpret: Interpret) -> None:
    done = interpret(scheduler(3, 7), sh("cat /proc/self/sched | grep policy; nice"))
    assert done.out.split()[-3:] == [":", "3", "7"]
    assert interpret(scheduler(99)).error == errno.EINVAL


def test_ioprio(interpret: Interpret) -> None:
    assert interpret(Op("ioprio", a=2 << 13 | 6), program("/usr/bin/ionice")).out == "best-effort: prio 6\n"
    assert interpret(Op("ioprio", a=7 << 13)).error == errno.EINVAL


def test_affinity(interpret: Interpret) -> None:
    assert field(interpret(Op("affinity", b"\1", "0"), STATUS), "Cpus_allowed_list") == "0"
    assert interpret(Op("affinity", bytes(8), "none")).error == errno.EINVAL


def test_mempolicy(interpret: Interpret) -> None:
    bind = 2
    done = interpret(Op("mempolicy", bytes([1, *bytes(7)]), "bind", a=bind, b=64), sh("cat /proc/self/numa_maps"))
    if Path("/proc/self/numa_maps").exists():
        assert "bind:0" in done.out
        assert interpret(Op("mempolicy", b"\1" + bytes(7), "x", a=99, b=64)).error == errno.EINVAL
    else:
        assert (done.failed, done.error) == ("mempolicy", errno.ENOSYS)
    # more bits than there are: refused before the kernel reads on
    assert interpret(Op("mempolicy", b"\1", "x", a=bind, b=64)).error == errno.EINVAL


def test_link_up(interpret: Interpret) -> None:
    done = interpret(
        Op("unshare", a=linux.CLONE_NEWNET), Op("link-up", "lo"), program("/bin/busybox", "ifconfig", "lo")
    )
    assert "UP LOOPBACK" in done.out
    for name in ("nosuch0", "x" * 16):
        assert interpret(Op("unshare", a=linux.CLONE_NEWNET), Op("link-up", name)).error == errno.ENODEV


def test_netlink(interpret: Interpret) -> None:
    """The socket speaks of the namespace that it was opened in, whoever has it: here loopback is up, and alone."""
    found = []

    def ask(given: int) -> int:
        with socket.socket(fileno=os.dup(given)) as sock:
            assert sock.family == socket.AF_NETLINK and sock.proto == socket.NETLINK_ROUTE
            sock.settimeout(10)
            sock.sendto(struct.pack("=IHHII", 32, 18, 0x301, 0, 0) + bytes(16), (0, 0))  # RTM_GETLINK, all of them
            found.append(sock.recv(1 << 16))
        return 0

    new = Op("unshare", a=linux.CLONE_NEWNET)
    done = interpret(new, Op("link-up", "lo"), Op("netlink", r0="nl"), Op("ask", "x", r1="nl"), answers={"x": ask})
    assert done.status == 0 and found[0].count(b"lo\0") == 1
    assert struct.unpack_from("=HiI", found[0], 18)[1:] == (1, 0x10049)  # struct ifinfomsg: number 1, up and running


def test_netlink_fails(start: Start) -> None:
    """Without room for a descriptor, whose limit is set while init waits for an answer."""
    started: list[Interpreter] = []

    def limit(given: int) -> int:
        resource.prlimit(started[0].pid, resource.RLIMIT_NOFILE, (0, 0))
        return 0

    started.append(start(Op("ask", "x"), Op("netlink", r0="nl"), answers={"x": limit}))
    done = Done(started[0].serve())
    assert (done.failed, done.error) == ("netlink", errno.EMFILE)


# -- credentials -------------------------------------------------------------------------------------------------------


def test_setgroups(interpret: Interpret) -> None:
    done = interpret(Op("setgroups", struct.pack("<3I", 5, 7, 100000)), STATUS)
    assert field(done, "Groups").split() == ["5", "7", "100000"]
    assert field(interpret(Op("setgroups", b""), STATUS), "Groups") == ""
    assert interpret(Op("setresuid", a=1), Op("setgroups", bytes(4))).error == errno.EPERM
    assert interpret(Op("setgroups", bytes(3))).error == errno.EINVAL


def test_setresgid_and_setresuid(interpret: Interpret) -> None:
    done = interpret(Op("setresgid", a=2000), Op("setresuid", a=1000), STATUS)
    assert (field(done, "Uid").split(), field(done, "Gid").split()) == (["1000"] * 4, ["2000"] * 4)
    for name in ("setresgid", "setresuid"):
        # crun took 4294967295 for "leave it as it is", which was root
        for number in (0xFFFFFFFF, 1 << 32):
            assert interpret(Op(name, a=number)).error == errno.EINVAL
        assert interpret(Op("setresuid", a=1000), Op(name, a=1)).error == errno.EPERM


CHOWN = 1


def test_bounding(interpret: Interpret) -> None:
    done = interpret(Op("bounding", a=CHOWN, b=63), STATUS)
    assert int(field(done, "CapBnd"), 16) == CHOWN
    assert interpret(Op("setresuid", a=1), Op("bounding", a=CHOWN, b=40)).error == errno.EPERM


def test_capset_and_ambient(interpret: Interpret) -> None:
    done = interpret(Op("capset", a=CHOWN, b=CHOWN | 2, c=CHOWN), Op("ambient", a=CHOWN), STATUS)
    assert [int(field(done, name), 16) for name in ("CapInh", "CapAmb")] == [CHOWN, CHOWN]
    assert interpret(Op("setresuid", a=1), Op("capset", a=CHOWN, b=CHOWN, c=0)).error == errno.EPERM
    assert interpret(Op("capset", a=0, b=0, c=0), Op("ambient", a=CHOWN)).error == errno.EPERM


def test_ambient_capabilities_reach_a_user(interpret: Interpret) -> None:
    keep = Op("prctl", a=linux.PR_SET_KEEPCAPS, b=1)
    done = interpret(
        keep, Op("setresuid", a=1000), Op("capset", a=CHOWN, b=CHOWN, c=CHOWN), Op("ambient", a=CHOWN), STATUS
    )
    assert int(field(done, "CapEff"), 16) == CHOWN


def test_a_failing_op_is_named(interpret: Interpret) -> None:
    done = interpret(*private(), Op("setsid"), Op("setsid"))
    assert done.failures == [(3, errno.EPERM, b"")] and done.failed == "setsid"
