"""Going through a trace line by line of a plan: no call may be left over, and no line without its calls.

    is_quiet(call)    calls that change nothing but the process's own descriptors and memory; taken wherever they are
    Account           the calls of a process, and how far the lines of the plan have explained them; what a line may do is in contracts_*.py

Whatever is neither quiet nor taken by the line whose turn it is raises Unplanned, as does a line whose calls do not come. A
call that is on no list is not quiet: one that nobody has thought of fails the tests instead of passing unseen. Registers are
held against what the descriptors of the calls were opened as, strings and flags against the printed text; the names of flags
are strace's and not ours, so that a wrong table of ours cannot print a lie.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from typing import Any

from tracing import Call, Descriptor, Process, string

Line = dict[str, Any]


class Unplanned(AssertionError):
    """A call without a line, or a line without its calls."""


# -- calls that change nothing -----------------------------------------------------------------------------------------

_QUIET = frozenset(
    """
    access arch_prctl brk clock_gettime clock_nanosleep close close_range dup dup2 dup3 epoll_create1 eventfd2 exit exit_group faccessat
    faccessat2 flock fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getgroups getpid getppid getrandom getresgid getresuid
    getrlimit getsockopt gettid gettimeofday getuid lseek lstat madvise memfd_create mprotect mremap munmap nanosleep newfstatat
    pidfd_open pipe pipe2 poll ppoll pread64 pselect6 read readlink readlinkat recvfrom recvmsg restart_syscall rseq rt_sigaction
    rt_sigprocmask rt_sigreturn rt_sigtimedwait sched_getaffinity sched_yield set_robust_list set_tid_address setsockopt sigaltstack
    socketpair stat statfs statx sysinfo time uname wait4 waitid
    """.split()
)
#: nothing was done, and the same call follows
_TRIED_AGAIN = ("EAGAIN", "EINTR")
_WRITING = frozenset("O_WRONLY O_RDWR O_CREAT O_TRUNC O_APPEND O_TMPFILE".split())


def is_quiet(call: Call) -> bool:
    """Whether a call changes nothing that anybody else could notice."""
    name = call.name
    if name in _QUIET:
        return True
    if name in ("open", "openat", "openat2"):
        found = open_flags(call)
        return "O_PATH" in found or not found & _WRITING
    if name in ("write", "writev", "sendmsg", "sendfile"):
        held = call.fd(0)
        return (
            held is not None and (held.is_socketpair or held.name == "memfd_create") and message(call)[0] not in _TOLD
        )
    if name == "fcntl":
        return call.args[1].startswith(("F_DUPFD", "F_GET", "F_SETFD", "F_SETFL", "F_ADD_SEALS"))
    if name == "mmap":
        return "MAP_PRIVATE" in call.args[3] or "PROT_WRITE" not in call.args[2]
    if name == "ioctl":
        return call.args[1] in ("TCGETS", "FIOCLEX", "FIONCLEX", "FIONBIO", "TIOCGWINSZ")
    if name == "prctl":
        return call.args[0].startswith(("PR_GET_", "PR_CAPBSET_READ")) or call.args[0] == "PR_SET_NAME"
    if name == "socket":
        return call.args[0] == "AF_UNIX"  # what is said to whom is connect's and bind's to tell
    if name == "seccomp":  # whether the kernel knows a flag or an action; without a program nothing is loaded
        return call.args[0].startswith("SECCOMP_GET_") or call.args[2] == "NULL"
    return (name == "prlimit64" and call.args[2] == "NULL") or (name == "kill" and call.args[1] == "0")


def open_flags(call: Call) -> set[str]:
    """The flags of any of the open calls."""
    if call.name == "openat2":
        return set(call.member("flags").split("|"))
    return call.flags(1 if call.name == "open" else 2)


#: messages of the interpreter that a line has to be seen with; a warning (4) is anybody's
_TOLD = (1, 2, 3)


def message(call: Call) -> tuple[int, int]:
    """(kind, op index) of a message on the socket between init and its parent; wire.py."""
    found = re.search(r'iov_base=("(?:[^"\\]|\\.)*")', call.shown) if call.name == "sendmsg" else None
    data = string(found[1]).encode("utf-8", "surrogateescape") if found else b""
    return struct.unpack_from("<II", data) if len(data) >= 16 else (0, 0)


# -- going through a trace ---------------------------------------------------------------------------------------------


class Account:
    """The calls of one process, or of a chain of them, and how far the lines of the plan have explained them."""

    def __init__(
        self, who: str, calls: list[Call], names: dict[str, str], registers: dict[str, Descriptor] | None = None
    ) -> None:
        self.who, self.calls, self.names = who, calls, names
        self.at = 0
        self.line: Line = {"place": "start", "name": "", "text": ""}
        self.registers = registers or {}
        #: the process that became the interpreter, and every pid that $PID may stand for
        self.launched: Process | None = None
        self.pids: list[int] = []
        #: the connection to systemd, where there is one
        self.manager: Call | None = None

    def follow(self, lines: Iterable[Line], table: dict[str, Callable[[Account, str], None]]) -> None:
        """Take the calls of each line, in order."""
        for self.line in lines:
            if self.line["name"] not in table:
                raise Unplanned(f"{self.shown()}: tests/cli/contracts_*.py has no contract for it: add one")
            text = re.sub(r"( (\?exists|\?missing|\?denied|recursive|nofollow))+$", "", self.line["text"])
            table[self.line["name"]](self, text)

    def shown(self) -> str:
        line = self.line
        return f"{line['place']} {line.get('index', '')} {line['name']} {line['text']}".replace(" -1 ", " ")

    def tells_manager(self, call: Call, word: str) -> bool:
        """Whether a call is something said to systemd, with this word in it."""
        is_ours = self.manager is not None and call.fd(0) is self.manager.fd(0)
        return is_ours and call.name == "sendmsg" and word in call.shown

    def fail(self, wanted: str) -> None:
        if self.at >= len(self.calls):
            raise Unplanned(f"the plan says `{self.shown()}`, but {self.who} ended without {wanted}")
        raise Unplanned(
            f"{self.who} did {self.calls[self.at]!r}\nwhere the plan says `{self.shown()}`, which is {wanted}.\n"
            "Either create does more than its plan: add a step to it (runtime/making.py, or a section of runtime/planner);\n"
            "or this line may do that: say so in its contract, in runtime/ops.py and in tests/cli/contracts_*.py."
        )

    def take(
        self,
        names: str,
        fits: Callable[[Call], object] = lambda call: True,
        may: Callable[[Call], object] = lambda call: False,
    ) -> Call:
        """The next call of one of these names that fits; before it only quiet ones, and what the line may do besides."""
        wanted = names.split()
        while self.at < len(self.calls):
            call = self.calls[self.at]
            if call.error in _TRIED_AGAIN:
                self.at += 1
                continue
            if call.name in wanted and fits(call):
                self.at += 1
                return call
            if not is_quiet(call) and not may(call):
                break
            self.at += 1
        self.fail(" or ".join(wanted))
        raise AssertionError

    def next(self) -> Call | None:
        """The next call that is not quiet, not yet taken."""
        return next(
            (call for call in self.calls[self.at :] if not is_quiet(call) and call.error not in _TRIED_AGAIN), None
        )

    def finish(self) -> None:
        """Nothing may be left."""
        self.line = {"place": "end", "name": "", "text": ""}
        if (call := self.next()) is not None:
            self.at = self.calls.index(call)
            self.fail("nothing more")

    # -- what lines name -----------------------------------------------------------------------------------------------

    def real(self, text: str) -> list[str]:
        """The text with what $ROOT, $STATE and $PID stand for; one for each process that $PID may be."""
        for name, value in self.names.items():
            if name[0] == "$":
                text = text.replace(name, value)
        return [text.replace("$PID", str(pid)) for pid in self.pids] if "$PID" in text else [text]

    def is_at(self, held: Descriptor | None, role: str) -> bool:
        """Whether a descriptor is the register's, or nobody's where there is no register (the working directory)."""
        return held is None if role in ("", "host") else held is not None and held is self.registers.get(role)

    def is_below(self, held: Descriptor | None, role: str) -> bool:
        return held is not None and role in self.registers and held.is_below(self.registers[role])

    def fill(self, role: str, call: Call) -> None:
        if role and call.made is not None:
            self.registers[role] = call.made

    def look_up(self, role: str, path: str, may: Callable[[Call], object] = lambda call: False) -> Call:
        """The op's own look at a name of its register's root."""
        return self.take("openat2", lambda c: c.text(1) == path and self.is_looked_up_from(c, role), may)

    def is_looked_up_from(self, call: Call, role: str) -> bool:
        held = call.fd(0)
        return self.is_at(held, role) if role not in ("", "host") else held is None or held.name == "/"


def split_place(text: str) -> tuple[str, str]:
    """`rootfs:/proc` -> (rootfs, /proc)."""
    role, _, path = text.partition(":")
    return role, path


def names(text: str, prefix: str, **special: str) -> set[str]:
    """`nosuid,nodev` -> {MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV}."""
    words = [word for word in text.split(",") if word not in ("", "none", "read")]
    return {prefix + special.get(word, word.upper().replace("-", "_")) for word in words}


def attributes(text: str) -> set[str]:
    return names(text, "MOUNT_ATTR_", ro="RDONLY", atime="_ATIME")


def capabilities(text: str, known: Iterable[str] = ()) -> set[str]:
    return set(known) if text == "all" else names(text, "CAP_")


def number(text: str) -> int:
    """A number as strace prints it: 64*1024, RLIM64_INFINITY."""
    if text.startswith("RLIM"):
        return (1 << 64) - 1
    product = 1
    for factor in text.split("*"):
        product *= int(factor, 0)
    return product


#: what any line may do that makes names below a register: the directories that are missing on the way, the file at the end
def makes_below(account: Account, role: str) -> Callable[[Call], bool]:
    def may(call: Call) -> bool:
        is_file = call.name == "openat" and {"O_CREAT", "O_EXCL", "O_NOFOLLOW"} <= open_flags(call)
        return (call.name == "mkdirat" or is_file) and account.is_below(call.fd(0), role)

    return may


def becomes(a: Account, call: Call, path: str, may: tuple[str, ...] = ()) -> None:
    """The child that a call has made must execute `path`; what it does after that is the program's."""
    before = call.child.until_exec() if call.child is not None else []
    if not before or before[-1].name != "execve" or before[-1].text(0) != path:
        a.fail(f"a child that executes {path}")
    child = Account(f"the child for {path}", before[:-1], a.names)
    child.line = a.line
    while (left := child.next()) is not None:
        child.at = child.calls.index(left)
        if left.name not in may:
            child.fail("none of its")
        child.at += 1


# -- tables of contracts -----------------------------------------------------------------------------------------------

Contract = Callable[[Account, str], None]


def line(table: dict[str, Contract], *kinds: str) -> Callable[[Contract], Contract]:
    """Put a contract into a table under the names of the lines that it is for."""

    def add(contract: Contract) -> Contract:
        table.update(dict.fromkeys(kinds, contract))
        return contract

    return add


def match(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of a line's text."""
    found = re.fullmatch(pattern, text, re.S)
    if not found:
        raise Unplanned(f"a line of the plan reads otherwise than its contract knows it: {text!r} is not {pattern!r}")
    return tuple(group or "" for group in found.groups())
