"""Drive the interpreter op by op: start it on any list of ops, serve its socket, collect what it and the payload said.

Nothing here asks plan.check(): a test may want a plan that no planner would make. `IMAGES` are the two builds of the same text,
the static image as the runtime starts it, and the hosted one under address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtime import kernel, linux, wire
from runtime.ops import FLAG_RECURSIVE
from runtime.plan import Op, Plan

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("static", "sanitized")
TIMEOUT_S = 20

Answer = int | tuple[int, int]


def sh(script: str) -> Op:
    """The payload: a shell, the host's or the one that busybox is inside a rootfs."""
    return program("/bin/sh", "-c", script)


def program(*words: str, env: Sequence[str] = ()) -> Op:
    """Execute words[0] with all of them as arguments."""
    return Op("exec", words[0], "\0".join(words), "\0".join(env), a=1, b=len(words), c=len(env))


def private() -> list[Op]:
    """A mount namespace of the interpreter's own, from which nothing gets back."""
    return [
        Op("unshare", a=linux.CLONE_NEWNS),
        Op("mount-setattr", "/", c=linux.MS_PRIVATE, flags=FLAG_RECURSIVE),
    ]


def tmpfs(register: str, attributes: int = 0) -> list[Op]:
    """A tmpfs that is mounted nowhere yet."""
    return [
        Op("fsopen", "tmpfs", r0=f"{register}-context"),
        Op("fsmount", r0=f"{register}-context", r1=register, a=attributes),
        Op("close", r0=f"{register}-context"),
    ]


def rootfs(path: Path, register: str = "rootfs") -> list[Op]:
    """A directory of the host as the root that is going to be ours: a mount of its own, and its descriptor."""
    return [
        Op("open-tree", str(path), r0=register, a=linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE),
        Op("move-mount", str(path), r0=register),
    ]


def refusal(call: int, error: int) -> bytes:
    """A seccomp program that answers one system call with an errno."""
    load, equal, give = 0x20, 0x15, 0x06
    rows = [(load, 0, 0, 0), (equal, 0, 1, call), (give, 0, 0, 0x50000 | error), (give, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("<HBBI", *row) for row in rows)


class Interpreter:
    """One interpreter at work."""

    def __init__(
        self,
        *ops: Op,
        registers: Mapping[str, int] | None = None,
        preserve: int = 0,
        answers: Mapping[str, Answer | Callable[[int], Answer]] | None = None,
        stdin: int | None = None,
        image: str = "static",
    ) -> None:
        plan = Plan()
        plan.ops = list(ops)
        if plan.ops[-1].name != "exec":
            plan.ops.append(program("/bin/true"))
        plan.inherited = list(registers or {})
        plan.preserve = preserve
        self.sections = list(dict.fromkeys(str(op.s0) for op in plan.ops if op.name == "ask"))
        for op in plan.ops:
            if op.name == "ask":
                op.a = self.sections.index(str(op.s0))
        self.answers = dict(answers or {})
        #: (op index, errno, detail)
        self.failures: list[tuple[int, int, bytes]] = []
        self.warnings: list[tuple[int, int, bytes]] = []
        self.asked: list[str] = []
        self.pids: list[int] = []
        self.status: int | None = None
        self.plan = plan
        self._out = os.memfd_create("out")
        null = os.open("/dev/null", os.O_RDONLY)
        start = kernel.launch if image == "static" else _launch_sanitized
        try:
            self.pid, self.sock = start(
                wire.encode(plan),
                list((registers or {}).values()),
                3 + preserve,
                (null if stdin is None else stdin, self._out, self._out),
            )
        except OSError:
            os.close(self._out)
            raise
        finally:
            os.close(null)

    def serve(self) -> Interpreter:
        """Answer until the socket ends."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while True:
            if not poll.poll(TIMEOUT_S * 1000):
                os.kill(self.pid, 9)
                raise TimeoutError(f"the interpreter is silent for {TIMEOUT_S} s: {self.out!r}")
            data, fd = kernel.receive(self.sock)
            if not data:
                return self
            kind, index, value, detail = wire.decode_message(data)
            if kind == wire.ASK:
                self._answer(self.sections[value], fd)
            elif kind == wire.PID:
                os.waitpid(self.pid, 0)
                self.pid = value
                self.pids.append(value)
                kernel.reply(self.sock, 0)
            else:
                (self.failures if kind == wire.FAILED else self.warnings).append((index, value, detail))
            if fd >= 0:
                os.close(fd)

    def _answer(self, section: str, fd: int) -> None:
        self.asked.append(section)
        answer = self.answers.get(section, 0)
        if callable(answer):
            answer = answer(fd)
        error, given = answer if isinstance(answer, tuple) else (answer, -1)
        kernel.reply(self.sock, error, given)

    def wait(self) -> int:
        """The exit status, minus the signal where one ended it."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.kill(self.pid, 9)
                deadline += 5
            else:
                time.sleep(0.001)
        return self.status

    @property
    def out(self) -> str:
        """What the payload, and whatever hooks, wrote on 1 and 2."""
        size = os.fstat(self._out).st_size
        return os.pread(self._out, size, 0).decode("utf-8", "replace")

    def close(self) -> None:
        """Give back the descriptors; the process is ended where it has not."""
        if self.sock >= 0:
            os.close(self.sock)
            self.sock = -1
        if self.status is None:
            os.kill(self.pid, 9)
            self.wait()
        if self._out >= 0:
            os.close(self._out)
            self._out = -1


class Done:
    """What is left of an interpreter that has ended."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.status = interpreter.wait()
        self.out = interpreter.out
        self.failures, self.warnings = interpreter.failures, interpreter.warnings
        self.asked, self.pids = interpreter.asked, interpreter.pids
        self.plan = interpreter.plan

    @property
    def error(self) -> int:
        """The errno of the one failure; 0 if there was none."""
        assert len(self.failures) <= 1, self.failures
        return self.failures[0][1] if self.failures else 0

    @property
    def failed(self) -> str:
        """The name of the op that failed."""
        return self.plan.ops[self.failures[0][0]].name if self.failures else ""

    @property
    def detail(self) -> str:
        return self.failures[0][2].decode() if self.failures else ""

    def __repr__(self) -> str:
        return f"status {self.status}, {self.failed} {self.failures}, warnings {self.warnings}\n{self.out}"


def _launch_sanitized(plan: bytes, fds: list[int], first_fd: int, standard: Sequence[int]) -> tuple[int, int]:
    """What kernel.launch does, for planrun-asan."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    plan_fd = os.memfd_create("plan")
    os.write(plan_fd, plan)
    os.lseek(plan_fd, 0, 0)
    sources = [theirs.fileno(), plan_fd, *fds]
    pid = os.fork()
    if pid == 0:
        try:
            least = first_fd + len(sources)
            high = [fcntl.fcntl(fd, fcntl.F_DUPFD, least) for fd in sources]
            stdio = [fcntl.fcntl(fd, fcntl.F_DUPFD, least) for fd in standard]
            for number, fd in enumerate(stdio):
                os.dup2(fd, number)
            for number, fd in enumerate(high, first_fd):
                os.dup2(fd, number)
            os.closerange(least, 1024)
            # as the launcher does: a caller may ignore what it likes, and Python ignores SIGPIPE
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            image = str(ROOT / "build" / "planrun-asan")
            os.execve(image, [image, "init", str(first_fd)], {"ASAN_OPTIONS": "detect_leaks=0:exitcode=99"})
        finally:
            os._exit(127)
    os.close(plan_fd)
    theirs.close()
    return pid, ours.detach()
