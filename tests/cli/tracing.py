"""What processes really did: a trace of strace, read back as calls with their arguments and the descriptors they hold.

    trace = run(["sh", "-c", ...], file)        start it under strace; `read(file)` once it has ended
    trace.commands[0]                           a Process: .name (`pyrunc create`), .calls in order, .children
    call.name, .args, .value, .text(0), .path(0), .fd(0), .made

A descriptor here is what was opened, not its number: duplicates are one `Descriptor`, whoever has them under whatever number,
and one that was opened by name below another knows its parent. So a call can be held against a register of a plan.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: -v and -s: nothing abbreviated. No filter: a call that is not on a list of calls to look for would go unseen.
STRACE = ("strace", "-f", "-qq", "-y", "-v", "-s", "4096", "--decode-pids=pidns", "-e", "signal=none", "-o")

_LINE = re.compile(r"(\d+) +(?:<\.\.\. \w+ resumed>)?(.*)", re.S)
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (.*)$", re.S)
_FD = re.compile(r"(\d+)<")


class Descriptor:
    """Something open: `name` is how it was named below `parent`, `shown` what the kernel says it is."""

    def __init__(
        self, name: str, parent: Descriptor | None = None, shown: str = "", *, is_socketpair: bool = False
    ) -> None:
        self.name, self.parent, self.shown, self.is_socketpair = name, parent, shown, is_socketpair

    def is_below(self, other: Descriptor) -> bool:
        """Whether it is the other, or was opened by a name below it."""
        return self is other or (self.parent is not None and self.parent.is_below(other))

    def __repr__(self) -> str:
        return f"<{self.shown or self.name}>"


class Call:
    """One system call of one process."""

    def __init__(self, pid: int, line: int, text: str) -> None:
        self.pid, self.line, self.shown = pid, line, text
        found = _CALL.match(text)
        self.name, self._arguments, self.result = found.groups() if found else (text.partition("(")[0], "", "?")
        self._args: list[str] | None = None
        self.held: dict[int, Descriptor] = {}
        #: what it opened
        self.made: Descriptor | None = None
        #: the process that it made
        self.child: Process | None = None

    @property
    def args(self) -> list[str]:
        if self._args is None:
            self._args = split(self._arguments)
        return self._args

    @property
    def value(self) -> int:
        """What it returned; -1 for failures and for calls that never returned."""
        found = re.match(r"0x[0-9a-f]+|-?\d+", self.result)
        return int(found[0], 16 if found[0][:2] == "0x" else 10) if found else -1

    @property
    def error(self) -> str:
        """ENOENT, or ""."""
        found = re.match(r"-1 (E\w+)", self.result)
        return found[1] if found else ""

    def text(self, index: int) -> str:
        """A string argument, as it is."""
        return string(self.args[index]) if index < len(self.args) else ""

    def flags(self, index: int) -> set[str]:
        """An argument of flags, or a member of a structure: flags("attr_set")."""
        return set(self.args[index].split("|")) - {"0"}

    def member(self, name: str) -> str:
        """The text of a structure's member, wherever it is in the arguments."""
        found = re.search(rf"[{{ ]{name}=", self._arguments)
        return split(self._arguments[found.end() :].partition("}")[0])[0].partition(" /*")[0] if found else ""

    def fd(self, index: int) -> Descriptor | None:
        """What a descriptor argument stands for."""
        return self.held.get(index)

    def path(self, index: int) -> str:
        """A path argument as an absolute one: relative to the descriptor before it, or to the working directory."""
        name = self.text(index)
        if name.startswith("/") or index == 0:
            return os.path.normpath(name)
        base = self.args[index - 1].partition("<")[2].rpartition(">")[0]
        return os.path.normpath(f"{base}/{name}") if name else base

    def __repr__(self) -> str:
        return f"{self.shown[:240]}  (line {self.line} of the trace)"


class Process:
    """A process: its calls in order, up to its end or to its becoming a program that is none of ours."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.calls: list[Call] = []

    @property
    def name(self) -> str:
        """What was executed last, the options left out: `pyrunc create web`."""
        for call in reversed(self.calls):
            if call.name == "execve" and call.value == 0:
                words = [string(word) for word in split(call.args[1].strip("[]"))]
                return " ".join([os.path.basename(words[0]), *words[1:]])
        return f"process {self.pid}"

    def until_exec(self) -> list[Call]:
        """Its calls before it became another program, and that one."""
        for number, call in enumerate(self.calls, 1):
            if call.name in ("execve", "execveat") and call.value == 0:
                return self.calls[:number]
        return self.calls

    def after_exec(self, image: str) -> list[Call]:
        """Its calls since it became `image`."""
        for number, call in enumerate(self.calls, 1):
            if call.name in ("execve", "execveat") and call.value == 0 and image in call.shown:
                return self.calls[number:]
        return []


# -- text --------------------------------------------------------------------------------------------------------------


def split(text: str) -> list[str]:
    """The arguments of a call, or the items of a list: at commas that are in no string, bracket or descriptor's name."""
    out, start, depth, i = [], 0, 0, 0
    while i < len(text):
        c = text[i]
        if c == '"':
            i += 1
            while i < len(text) and text[i] != '"':
                i += 2 if text[i] == "\\" else 1
        elif c == "<" and (text[i - 1].isdigit() or text[i - 1] == "D") and text[i + 1 : i + 2] != "<":
            i = text.find(">", i)  # 5</etc/passwd>, AT_FDCWD</>; but not 1<<CAP_CHOWN
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            out.append(text[start:i].strip())
            start = i + 1
        i += 1
    out.append(text[start:].strip())
    return out if out != [""] else []


def string(text: str) -> str:
    """A string as strace prints it, as it is: bytes that are no UTF-8 as surrogates."""
    if not text.startswith('"'):
        return ""
    data: bytes = ast.literal_eval("b" + text.removesuffix("..."))
    return data.decode("utf-8", "surrogateescape")


# -- reading -----------------------------------------------------------------------------------------------------------


class Trace:
    """All processes of a trace; `commands` are the children of the first one that became `program`, in order."""

    def __init__(self, lines: Sequence[str], program: str) -> None:
        self.processes: dict[int, Process] = {}
        first = 0
        for call in _calls(lines):
            first = first or call.pid
            self.processes.setdefault(call.pid, Process(call.pid)).calls.append(call)
        root = self.processes[first]
        self._hold(root, {})
        self.commands = [
            call.child
            for call in root.calls
            if call.child is not None and any(c.name == "execve" and c.text(0) == program for c in call.child.calls)
        ]

    def _hold(self, process: Process, table: dict[int, Descriptor]) -> None:
        """Go through a process with its descriptors, and into its children when they are born."""
        for call in process.calls:
            if call.name in _WITHOUT_DESCRIPTORS:
                continue
            for index, arg in enumerate(call.args):
                found = _FD.match(arg)
                if found and int(found[1]) in table:
                    call.held[index] = table[int(found[1])]
            _change(call, table)
            if call.name in ("clone", "clone3", "fork", "vfork") and call.value > 0:
                inside = re.search(r"/\* (\d+) in strace's PID NS", call.result)
                call.child = self.processes.get(int(inside[1]) if inside else call.value)
                if call.child is not None:
                    self._hold(call.child, dict(table))


def _calls(lines: Sequence[str]) -> Iterator[Call]:
    """Calls in the order in which they began; one that was interrupted by another process's is put together."""
    started: dict[int, tuple[int, str]] = {}
    done: list[tuple[int, int, str]] = []
    for number, line in enumerate(lines, 1):
        found = _LINE.match(line.rstrip("\n"))
        if not found or found[2].startswith(("+++", "---")):
            continue
        pid, text = int(found[1]), found[2]
        if text.endswith("<unfinished ...>"):
            started[pid] = (number, text.removesuffix("<unfinished ...>"))
        elif " resumed>" in line[:60] and pid in started:
            begun, head = started.pop(pid)
            done.append((begun, pid, head + text))
        else:
            done.append((number, pid, text))
    done += [(number, pid, text) for pid, (number, text) in started.items()]
    for number, pid, text in sorted(done):
        yield Call(pid, number, text)


_WITHOUT_DESCRIPTORS = frozenset(
    ("read", "pread64", "rt_sigaction", "rt_sigprocmask", "brk", "mprotect", "munmap", "lseek")
)
#: call -> (index of the directory, index of the name) of what it opens
_OPENS: Mapping[str, tuple[int, int]] = {
    "open": (-1, 0), "openat": (0, 1), "openat2": (0, 1), "open_tree": (0, 1), "fspick": (0, 1),
}  # fmt: skip
_MAKES = frozenset(
    ("fsopen", "fsmount", "memfd_create", "socket", "pidfd_open", "seccomp", "accept4", "epoll_create1", "eventfd2")
)


def _change(call: Call, table: dict[int, Descriptor]) -> None:
    """What a call does to the descriptors of its process."""
    name, value = call.name, call.value
    if name in ("socketpair", "pipe2"):
        for number in map(int, _FD.findall(call.args[-1] if name == "socketpair" else call.args[0])):
            table[number] = Descriptor(name, is_socketpair=True)
    elif name == "recvmsg" and "SCM_RIGHTS" in call.shown:
        for number in map(int, re.findall(r"cmsg_data=\[(\d+)", call.shown)):
            call.made = table[number] = Descriptor("received")
    elif value < 0:
        return
    elif name == "close":
        table.pop(int(call.args[0].partition("<")[0]), None)
    elif name == "close_range" and "CLOEXEC" not in call.shown:
        first, last = (int(word) if word.isdigit() else 1 << 32 for word in call.args[:2])
        for number in [number for number in table if first <= number <= last]:
            del table[number]
    elif name in ("dup", "dup2", "dup3") or (name == "fcntl" and call.args[1].startswith("F_DUPFD")):
        if call.fd(0) is not None:
            call.made = table[value] = call.held[0]
        else:
            table.pop(value, None)
    elif name in _OPENS:
        directory, at = _OPENS[name]
        call.made = table[value] = Descriptor(
            call.text(at), call.held.get(directory), call.result.partition("<")[2][:-1]
        )
    elif name in _MAKES or (name == "ioctl" and call.args[1] == "TIOCGPTPEER"):
        call.made = table[value] = Descriptor(name, call.held.get(0), call.shown)


def run(command: Sequence[str], file: Path, **popen: object) -> subprocess.Popen[bytes]:
    """Start a command under strace, all its children included."""
    return subprocess.Popen([*STRACE, str(file), *command], **popen)  # type: ignore[call-overload,no-any-return]


def read(file: Path, program: str) -> Trace:
    """The trace of a command that has ended."""
    return Trace(file.read_text("utf-8", "surrogateescape").split("\n"), program)
