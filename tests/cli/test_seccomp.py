"""linux.seccomp: what a filter answers, under no_new_privs and without."""

from __future__ import annotations

import array
import json
import os
import signal
import socket

import mkrootfs
import pytest

pytestmark = pytest.mark.requires("x86-64")

# numbers of x86-64
GETPID, GETPRIORITY, SETPRIORITY, PERSONALITY, CLONE3, LATEST = 39, 140, 141, 135, 435, 999
#: __X32_SYSCALL_BIT: a filter is asked first, also where the kernel has no such calls
X32 = 0x40000000


def seccomp(default="SCMP_ACT_ALLOW", *rules, nnp=True, **more):
    def edit(config):
        config["linux"]["seccomp"] = {"defaultAction": default, "syscalls": list(rules), **more}
        config["process"]["noNewPrivileges"] = nnp

    return edit


def rule(*names, action="SCMP_ACT_ERRNO", **more):
    return {"names": list(names), "action": action, **more}


BOTH = pytest.mark.parametrize("nnp", [True, False], ids=["nnp", "no-nnp"])


@BOTH
def test_denied(each, nnp):
    edit = seccomp(
        "SCMP_ACT_ALLOW",
        rule("getpriority"),
        rule("setpriority", errnoRet=95),
        nnp=nnp,
    )
    found = each(edit, f"syscall {GETPRIORITY} 0 0", f"syscall {SETPRIORITY} 0 0 0", f"syscall {GETPID}")
    assert [answer["errno"] for answer in found] == ["EPERM", "EOPNOTSUPP", None]


@BOTH
def test_reported(report, nnp):
    found = report(seccomp("SCMP_ACT_ALLOW", rule("getpriority"), nnp=nnp))
    assert (found["seccomp"], found["no_new_privs"]) == (2, int(nnp))


@BOTH
@pytest.mark.differs("Debian's 1.1.5 answers EPERM to all")
def test_only_what_is_allowed(pyrunc, make, nnp):
    """As engines write it: everything else is denied, and what is newer than the profile does not exist."""
    names = """access arch_prctl brk capget capset chdir clone close close_range dup2 execve exit exit_group faccessat2 fchdir
        fchown fcntl fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getgroups getpgid getpid getppid getrandom
        getresgid getresuid getrlimit getsid gettid gettimeofday getuid getxattr ioctl lseek lstat mmap mprotect mremap
        munmap nanosleep newfstatat open openat pipe2 poll prctl pread64 prlimit64 read readlink readlinkat rseq rt_sigaction
        rt_sigprocmask rt_sigreturn sched_getaffinity select set_robust_list set_tid_address setfsgid setfsuid setgid setgroups
        setresgid setresuid setsid setuid sigaltstack stat statfs statx uname wait4 write writev ppoll sendmsg recvmsg sendto
        epoll_ctl epoll_pwait faccessat openat2 fchmodat sched_yield tgkill umask vfork""".split()
    made = make(
        seccomp("SCMP_ACT_ERRNO", rule(*names, action="SCMP_ACT_ALLOW"), nnp=nnp),
        *("/bin/probe", "each"),
        *f"syscall {PERSONALITY} 0xffffffff -- syscall {GETPID} -- syscall {LATEST}".split(),
    )
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert [answer["errno"] for answer in found] == ["EPERM", None, "ENOSYS"]


@BOTH
def test_kill_process(pyrunc, make, nnp):
    made = make(
        seccomp("SCMP_ACT_ALLOW", rule("getpriority", action="SCMP_ACT_KILL_PROCESS"), nnp=nnp),
        "/bin/probe",
        "syscall",
        str(GETPRIORITY),
    )
    pyrunc("run", "-b", made, pyrunc.id(), status=128 + 31)


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"])
def test_other_deadly_actions(pyrunc, make, action):
    # without a pid namespace: the first process of one ignores a signal that it has no handler for
    def edit(config):
        seccomp("SCMP_ACT_ALLOW", rule("getpriority", action=action))(config)
        mkrootfs.leave_out(config, "pid")

    pyrunc("run", "-b", make(edit, "/bin/probe", "syscall", str(GETPRIORITY)), pyrunc.id(), status=128 + 31)


def test_conditions_on_arguments(each):
    def condition(index, value, op, **more):
        return {"index": index, "value": value, "op": op, **more}

    edit = seccomp(
        "SCMP_ACT_ALLOW",
        rule("getpriority", errnoRet=90, args=[condition(0, 5, "SCMP_CMP_EQ"), condition(1, 100, "SCMP_CMP_GT")]),
        rule("getpriority", errnoRet=91, args=[condition(0, 0xF0, "SCMP_CMP_MASKED_EQ", valueTwo=0x70)]),
        rule("setpriority", errnoRet=92, args=[condition(0, 1, "SCMP_CMP_EQ"), condition(0, 2, "SCMP_CMP_EQ")]),
    )
    found = each(
        edit,
        *(f"syscall {GETPRIORITY} 5 101", f"syscall {GETPRIORITY} 5 100", f"syscall {GETPRIORITY} 0x7a 0"),
        *(f"syscall {SETPRIORITY} 1 0 0", f"syscall {SETPRIORITY} 2 0 0"),
    )
    # both conditions of an entry must hold; two on one argument are alternatives
    assert [answer["number"] for answer in found] == [90, 22, 91, 92, 92]


@pytest.mark.differs("a default errno is the end of it")
def test_newer_than_the_profile_is_enosys_though_the_default_is_another(each):
    """docker's profile says defaultErrnoRet: 1."""
    edit = seccomp("SCMP_ACT_ERRNO", rule(*ALL_BEFORE_CLONE3, action="SCMP_ACT_ALLOW"), defaultErrnoRet=1)
    found = each(edit, f"syscall {PERSONALITY} 0xffffffff", f"syscall {CLONE3} 0 0", f"syscall {LATEST}")
    assert [answer["errno"] for answer in found] == ["EPERM", "ENOSYS", "ENOSYS"]


def test_errno_zero_means_done(each):
    (found,) = each(seccomp("SCMP_ACT_ALLOW", rule("setpriority", errnoRet=0)), f"syscall {SETPRIORITY} 9 9 9")
    assert (found["result"], found["errno"]) == (0, None)


@pytest.mark.differs("Debian's 1.1.5 answers EPERM")
def test_newer_than_the_profile_is_enosys_also_for_clone3(each):
    """The rule of runc: unknown to the profile means not there, so that programs fall back (glibc and clone3)."""
    edit = seccomp("SCMP_ACT_ERRNO", rule(*ALL_BEFORE_CLONE3, action="SCMP_ACT_ALLOW"))
    found = each(edit, f"syscall {CLONE3} 0 0", f"syscall {LATEST}")
    assert [answer["errno"] for answer in found] == ["ENOSYS", "ENOSYS"]


#: the newest of them is pidfd_open (434), one before clone3
ALL_BEFORE_CLONE3 = """access arch_prctl brk capget capset chdir clone close dup2 execve exit exit_group fchown fcntl fstat futex
    getcwd getdents64 getegid geteuid getgid getpid getppid getrandom gettid getuid ioctl lseek mmap mprotect munmap
    nanosleep newfstatat open openat pidfd_open pipe2 poll prctl pread64 prlimit64 read readlink readlinkat rseq rt_sigaction
    rt_sigprocmask rt_sigreturn set_robust_list set_tid_address setgroups setgid setuid setresgid setresuid setsid stat
    statfs sigaltstack tgkill uname write writev sched_yield sched_getaffinity epoll_ctl epoll_pwait fchdir faccessat
    getrlimit lstat fstatfs""".split()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not-listed"])
def test_architectures(pyrunc, make, listed):
    """A call of an architecture that is in the list is answered by the rules; of any other it is the end of the process."""
    names = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", *(["SCMP_ARCH_X32"] if listed else [])]
    edit = seccomp("SCMP_ACT_ALLOW", rule("getpriority", errnoRet=95), architectures=names)
    made = make(edit, "/bin/probe", "each", "syscall", str(GETPRIORITY), "--", "syscall", str(X32 + GETPRIORITY))
    result = pyrunc("run", "-b", made, pyrunc.id(), status=None)
    if listed:
        assert [answer["errno"] for answer in result.json()] == ["EOPNOTSUPP", "EOPNOTSUPP"]
    else:
        assert result.status == 128 + signal.SIGSYS


@pytest.mark.requires("root")
@pytest.mark.differs("it does not take flags yet")
def test_flags(calls, make, pyrunc):
    """None of them can be seen from inside."""
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    edit = seccomp("SCMP_ACT_ALLOW", rule("getpriority"), flags=flags)
    made = calls("seccomp", "run", "-b", make(edit, "/bin/true"), pyrunc.id())
    (loaded,) = [line for line in made if "SECCOMP_SET_MODE_FILTER, " in line and "= 0" in line]
    assert all(flag in loaded for flag in flags), loaded


def test_names_that_no_kernel_knows_are_passed_over(each):
    """config-linux.md: one name in a profile may exist on other machines only."""
    (found,) = each(seccomp("SCMP_ACT_ALLOW", rule("no_such_syscall", "getpriority")), f"syscall {GETPRIORITY}")
    assert found["errno"] == "EPERM"


@pytest.mark.parametrize(
    "edit",
    [
        seccomp("SCMP_ACT_NOPE"),
        seccomp("SCMP_ACT_ALLOW", rule("getpid", action="SCMP_ACT_NOPE")),
        seccomp("SCMP_ACT_ALLOW", rule("getpid"), architectures=["SCMP_ARCH_NOPE"]),
        seccomp("SCMP_ACT_ALLOW", rule("getpid"), flags=["SECCOMP_FILTER_FLAG_NOPE"]),
        seccomp("SCMP_ACT_ALLOW", rule("getpid", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_NOPE"}])),
        pytest.param(
            seccomp("SCMP_ACT_ALLOW", rule("getpid", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])),
            marks=pytest.mark.differs("it gives a warning"),
        ),
        seccomp("SCMP_ACT_NOTIFY"),
    ],
    ids=["default", "action", "architecture", "flag", "operator", "index", "notify"],
)
def test_wrong_profiles(refused, edit):
    refused(edit)


@BOTH
def test_a_user_without_capabilities(pyrunc, make, nnp):
    """Without no_new_privs the filter must be there before CAP_SYS_ADMIN goes."""

    def edit(config):
        seccomp("SCMP_ACT_ALLOW", rule("getpriority"), nnp=nnp)(config)
        config["process"].update(user={"uid": 1000, "gid": 1000}, capabilities={})

    result = pyrunc("run", "-b", make(edit, "/bin/probe", "syscall", str(GETPRIORITY)), pyrunc.id(), status=1)
    assert result.json()["errno"] == "EPERM"


def test_the_runtime_needs_nothing_that_a_profile_may_forbid(pyrunc, make):
    """After a filter without no_new_privs is loaded, the rest of the way to the program goes through it."""
    forbidden = [
        "mount",
        "umount2",
        "pivot_root",
        "setns",
        "unshare",
        "openat2",
        "clone3",
        "bpf",
        "ptrace",
        "keyctl",
        "socket",
        "kill",
        "sethostname",
        "mknod",
        "chroot",
        "prlimit64",
    ]
    made = make(seccomp("SCMP_ACT_ALLOW", rule(*forbidden), nnp=False), "/bin/echo", "fine")
    id_ = pyrunc.id()
    assert pyrunc("run", "-b", made, id_).out == "fine\n"
    read, write = os.pipe()
    pyrunc("create", "-b", made, id_, stdout=write)
    os.close(write)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    with os.fdopen(read) as out:
        assert out.read() == "fine\n"
    assert pyrunc.wait(pid) == 0


def test_listener(request, pyrunc, make, scratch):
    """SCMP_ACT_NOTIFY: the descriptor and the state go to the socket at listenerPath."""
    server = socket.socket(socket.AF_UNIX)
    request.addfinalizer(server.close)
    server.bind(str(scratch / "agent"))
    server.listen(1)
    server.settimeout(20)

    edit = seccomp(
        "SCMP_ACT_ALLOW",
        rule("getpriority", action="SCMP_ACT_NOTIFY"),
        listenerPath=str(scratch / "agent"),
        listenerMetadata="meta",
    )
    made, id_ = make(edit, "/bin/probe", "sleep", "1000"), pyrunc.id()
    create = pyrunc.popen("create", "-b", made, id_)
    peer, _ = server.accept()
    data, ancillary, _, _ = peer.recvmsg(1 << 20, socket.CMSG_SPACE(4))
    assert create.wait(20) == 0
    fds = array.array("i", ancillary[0][2])
    assert len(fds) == 1 and "seccomp notify" in os.readlink(f"/proc/self/fd/{fds[0]}")
    state = json.loads(data)
    assert (state["fds"], state["metadata"], state["pid"]) == (["seccompFd"], "meta", pyrunc.pid(id_))
    assert (state["state"]["id"], state["state"]["bundle"]) == (id_, str(made.path))
    for fd in fds:
        os.close(fd)
    peer.close()
    server.close()
