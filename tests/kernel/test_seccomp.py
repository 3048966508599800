"""Compiled filters in the kernel: a child loads one as init would and makes the system calls.

The unit tests ask a simulator; here the kernel itself answers, so that neither the simulator nor libseccomp's idea of a call
can be wrong unnoticed. The child is a fork that does nothing but system calls, and reports through a pipe made before.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import seccomp_simulator as sim
from seccomp_made import DEFAULT, HOST, LIBRARY, NATIVE, nr, rule

from runtime import seccomp

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
PR_SET_NO_NEW_PRIVS = 38
EXIT = {
    "names": ["exit_group", "exit", "write", "rt_sigreturn", "sendmsg", "recvmsg", "futex_waitv"],
    "action": "SCMP_ACT_ALLOW",
}


def call(number: int, *args: int) -> int:
    """syscall(2): its result, or minus the errno."""
    ctypes.set_errno(0)
    answer: int = LIBC.syscall(ctypes.c_long(number), *[ctypes.c_ulong(value) for value in args])
    return -ctypes.get_errno() if answer == -1 else answer


def made(*syscalls: dict[str, Any], **more: Any) -> seccomp.Filter:
    found = seccomp.prepare({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [*syscalls, EXIT], **more}, HOST)
    assert found is not None
    return found


def load(found: seccomp.Filter) -> int:
    """seccomp(2), as the op does; the listener's descriptor if there is one."""
    program = ctypes.create_string_buffer(found.program, len(found.program))
    fprog = ctypes.create_string_buffer(struct.pack("HP", len(found.program) // 8, ctypes.addressof(program)))
    return call(nr("seccomp"), 1, found.flags, ctypes.addressof(fprog))


def under(found: seccomp.Filter, *calls: tuple[int, ...]) -> tuple[list[int], int]:
    """The answers to the calls, up to the one that kills, and the exit status (minus a signal)."""
    numbers = [tuple(ctypes.c_ulong(value) for value in one) for one in calls]
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            loaded = load(found)
            os.write(write_fd, struct.pack("q", loaded))
            for one in numbers if loaded >= 0 else ():
                ctypes.set_errno(0)
                answer = LIBC.syscall(*one)
                os.write(write_fd, struct.pack("q", -ctypes.get_errno() if answer == -1 else answer))
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    answers = [value for (value,) in struct.iter_unpack("q", data)]
    assert answers[0] >= 0, f"seccomp(2): {os.strerror(-answers[0])}"
    return answers[1:], status


def test_the_default_profile_loads_and_answers() -> None:
    found = seccomp.prepare(DEFAULT, HOST)
    assert found is not None
    calls = [
        (nr("getppid"),),
        (nr("mount"), 0, 0, 0, 0, 0),
        (nr("unshare"), 0),
        (nr("clone3"), 0, 0),
        (nr("clone"), 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
        (nr("socket"), socket.AF_UNIX, socket.SOCK_STREAM, 0),
        (nr("socket"), 40, socket.SOCK_STREAM, 0),
        (nr("personality"), 0xFFFFFFFF),
        (nr("personality"), 0x0400000),
        (9999,),
    ]
    answers, status = under(found, *calls)
    assert status == 0
    expected = [-errno.EPERM, -errno.EPERM, -errno.ENOSYS, -errno.EPERM]
    assert answers[0] == os.getpid() and answers[1:5] == expected
    assert answers[5] > 2 and answers[6] == -errno.EPERM
    assert answers[7] >= 0 and answers[8] == -errno.EPERM
    assert answers[9] == -errno.ENOSYS


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, 0), (1, -1), (13, -13), (38, -38), (4094, -4094)],
)
def test_errno(number: int, expected: int) -> None:
    # 0: the directory is not made and the caller hears that it was
    found = made(rule("mkdir", action="SCMP_ACT_ERRNO", errnoRet=number), defaultErrnoRet=7)
    path = ctypes.create_string_buffer(b"/tmp/must-not-be-made")
    answers, status = under(found, (nr("mkdir"), ctypes.addressof(path), 0o700))
    assert (answers, status) == ([expected], 0)
    assert not os.path.exists("/tmp/must-not-be-made")


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"])
def test_kill_and_trap_end_in_sigsys(action: str) -> None:
    answers, status = under(made(rule("getppid", action=action)), (nr("getppid"),), (nr("mount"),))
    assert (answers, status) == ([], -signal.SIGSYS)


def test_log_lets_it_pass() -> None:
    found = made(rule("getppid", action="SCMP_ACT_LOG"), flags=["SECCOMP_FILTER_FLAG_LOG"])
    assert under(found, (nr("getppid"),)) == ([os.getpid()], 0)


def test_trace_without_a_tracer_is_enosys() -> None:
    found = made(rule("getppid", action="SCMP_ACT_TRACE", errnoRet=5))
    assert under(found, (nr("getppid"),)) == ([-errno.ENOSYS], 0)


def test_conditions_compare_what_the_kernel_sees() -> None:
    args = [{"index": 0, "value": 0xFFFFFFFF, "op": "SCMP_CMP_GT"}, {"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]
    found = made(rule("lseek", args=args), defaultErrnoRet=77)
    # an allowed lseek of no descriptor is EBADF
    calls = [
        (nr("lseek"), fd, offset, 0)
        for fd in (0x1FFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
        for offset in (5, 1 << 32 | 5)
    ]
    answers, _ = under(found, *calls)
    assert answers == [-errno.EBADF, -77, -77, -77, -errno.EBADF, -77]


def test_the_kernel_and_the_simulator_agree() -> None:
    """Every number of the native architecture that the kernel refuses by filter, the simulator refuses."""
    found = made(rule("getppid", "getuid", "capget", "landlock_add_rule"), defaultErrnoRet=99)
    skipped = {nr(name) for name in ("exit", "exit_group", "rt_sigreturn", "write", "futex_waitv")}
    if NATIVE == sim.X86_64:
        skipped |= {335, 336}  # uretprobe and uprobe: the kernel runs no filter for them, and SIGILL outside a probe
    numbers = [number for number in range(nr("futex_waitv") + 60) if number not in skipped]
    answers, status = under(found, *[(number, 0, 0, 0, 0, 0, 0) for number in numbers])
    assert status == 0 and len(answers) == len(numbers)
    for number, actual in zip(numbers, answers, strict=True):
        word = sim.run(found.program, number, arch=NATIVE)
        if word == sim.ALLOW:
            assert actual not in (-99, -errno.ENOSYS), number
        else:
            assert word & 0xFFFF0000 == sim.ERRNO and actual == -(word & 0xFFFF), number


@pytest.mark.requires("x86-64")
def test_x32_numbers_are_not_native_ones() -> None:
    x32 = 0x40000000 | nr("getppid")
    assert under(made(rule("getppid")), (x32,)) == ([-errno.ENOSYS], 0)
    # where the default lets new calls through, the architecture's own answer counts: it is not listed
    assert under(made(defaultAction="SCMP_ACT_LOG"), (x32,)) == ([], -signal.SIGSYS)


def int80() -> Callable[[int], int]:
    """mov eax, edi; push rbx; int 0x80; pop rbx; ret: a system call of i386 from a 64-bit process."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("53 89f8 31db cd80 5b c3"))
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    function.page = page  # type: ignore[attr-defined] # kept as long as the function
    return function


@pytest.mark.requires("x86-64", "i386-calls")
@pytest.mark.parametrize("listed", [True, False])
def test_i386_calls_have_their_own_numbers(listed: bool) -> None:
    found = made(rule("getppid"), architectures=["SCMP_ARCH_X86"] if listed else [])
    compat = int80()
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            load(found)
            os.write(write_fd, struct.pack("ii", compat(64), compat(21)))  # getppid, mount
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if listed:
        assert status == 0 and struct.unpack("ii", data) == (os.getpid(), -errno.EPERM)
    else:
        assert (data, status) == (b"", -signal.SIGSYS)


@pytest.mark.parametrize(
    "flags",
    [None, [], ["SECCOMP_FILTER_FLAG_LOG"], ["SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]],
)
def test_flags_are_taken(flags: list[str] | None) -> None:
    assert under(made(rule("getppid"), flags=flags), (nr("getppid"),)) == ([os.getpid()], 0)


def test_what_is_said_to_be_supported_is_and_a_flag_of_the_future_is_not() -> None:
    for name in seccomp.supported()["supportedFlags"]:
        notify = [rule("mkdir", action="SCMP_ACT_NOTIFY")] if "KILLABLE" in name else []
        under(made(*notify, rule("close"), flags=[name], listenerPath="/run/agent"), (nr("mkdir") + 1,))
    assert not LIBRARY.has_flag(1 << 30)
    assert not LIBRARY.has_flag(0x80000000)


def test_asking_for_flags_loads_no_filter() -> None:
    def mode() -> list[str]:
        return [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Seccomp")]

    before = mode()
    seccomp.supported()
    assert mode() == before


@pytest.mark.parametrize("flags", [[], ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]])
def test_notify_yields_a_listener_that_answers(flags: list[str]) -> None:
    found = made(rule("mkdirat", action="SCMP_ACT_NOTIFY"), flags=flags, listenerPath="/run/agent")
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            fd = load(found)
            socket.send_fds(theirs, [b"x"], [fd])
            status = call(nr("mkdirat"), 1, 2, 3)
        finally:
            os._exit(status)
    theirs.close()
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    # struct seccomp_notif (80 bytes) and seccomp_notif_resp (24), seccomp_unotify(2)
    request = ctypes.create_string_buffer(80)
    assert LIBC.ioctl(fd, ctypes.c_ulong(0xC0502100), request) == 0
    cookie, caller, _, number, arch = struct.unpack_from("=QIIiI", request)
    assert (caller, number, arch) == (pid, nr("mkdirat"), NATIVE)
    answer = ctypes.create_string_buffer(struct.pack("=QqiI", cookie, 42, 0, 0), 24)
    assert LIBC.ioctl(fd, ctypes.c_ulong(0xC0182101), answer) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    os.close(fd)
    ours.close()


@pytest.mark.parametrize("size", [100, 255, 256, 600])
def test_long_programs_load(size: int) -> None:
    args = [[{"index": 1, "value": n, "op": "SCMP_CMP_EQ"}] for n in range(size)]
    found = made(*[rule("lseek", args=one) for one in args], defaultErrnoRet=77)
    calls = [(nr("lseek"), 0xFFFFFFFF, offset, 0) for offset in (0, size - 1, size)]
    assert under(found, *calls) == ([-errno.EBADF, -errno.EBADF, -77], 0)
