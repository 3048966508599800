"""Spawn the interpreter on a plan, answer what it asks for, and turn a failure record into an error.

What each section of the plan holds is run here, step by step, through `doers`: a step's kind names the function that
does it. Nothing is decided here; the plan has decided. Waiting is always for one of two things, a message on the socket
or its end, and the end means that init has died or has become the user's program.
"""

from __future__ import annotations

from errno import EACCES

from runtime import kernel, wire
from runtime import system as os
from runtime.errors import Error, KernelError
from runtime.linux import CLONE_NEWUSER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime.plan import Op, Plan, Step

    #: does a step for the process `pid`; `given` is a descriptor that came with the request, the result one to send back
    Doer = Callable[[Step, "Launch", int], int]


class Launch:
    """One interpreter at work: `pid` is the process to talk about, ours to wait for until it is handed over."""

    __slots__ = ("plan", "pid", "sock", "doers", "warnings", "is_forked", "first_pid", "status", "on_pid")

    def __init__(
        self,
        plan: Plan,
        fds: list[int],
        doers: dict[str, Doer],
        on_pid: Callable[[int], None],
        stdio: Sequence[int | None] | None = None,
    ) -> None:
        self.plan = plan
        self.doers = doers
        self.on_pid = on_pid
        self.warnings: list[str] = []
        self.is_forked = False
        #: wait status of init, where it was our task to collect it
        self.status: int | None = None
        try:
            standard = [number if fd is None else fd for number, fd in enumerate(stdio or (0, 1, 2))]
            self.pid, self.sock = kernel.launch(wire.encode(plan), fds, 3 + plan.preserve, standard)
        except OSError as error:
            from runtime import unprivileged

            raise KernelError("start the init image", error.errno or 0, hint=unprivileged.why_no_image()) from None
        self.first_pid = self.pid

    def serve(self) -> None:
        """Answer init until its socket ends: it waits for start, has become the user's program, or has died.

        Raises the error that a failure record stands for, or says how init died. The caller kills and collects what is left.
        """
        while True:
            try:
                data, given = kernel.receive(self.sock)
            except OSError as error:
                raise KernelError("read from init", error.errno or 0) from None
            if not data:
                return
            try:
                self._answer(*wire.decode_message(data), given)
            finally:
                if given >= 0:
                    os.close(given)

    def _answer(self, kind: int, index: int, value: int, detail: bytes, given: int) -> None:
        op = self.plan.ops[index]
        if kind == wire.ASK:
            self._ask(op, value, given)
        elif kind == wire.PID:
            # init is a child of ours, not of the process that forked it (CLONE_PARENT): it can be waited for
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass  # another thread of a program that uses the API waits for any child
            self.pid = value
            self.is_forked = True
            self.on_pid(value)
            self._reply(0)
        elif kind == wire.FAILED:
            raise self._failure(op, index, value, detail)
        elif kind == wire.WARN:
            self.warnings.append(f"{wire.failure(self.plan, index, value, detail)}, ignoring")
        else:
            raise Error(f"init sent a message of unknown kind {kind}")

    def _failure(self, op: Op, index: int, errno: int, detail: bytes) -> Error:
        """The error, with a hint where it is the administrator who has to allow something."""
        from runtime import refusals

        error = wire.failure(self.plan, index, errno, detail or refusals.detail(self.plan, op, errno).encode())
        if op.name in ("find-exec", "exec"):
            root, (program, *others) = refusals.rootfs_of(self.plan), str(op.s0).rstrip("\0").split("\0")
            if errno == EACCES and root and not others:
                error.hint = refusals.denial(root, program, self.plan)
            elif op.name == "exec":
                error.hint = refusals.of_program(root, program, errno)
        if not error.hint and type(error) is KernelError:
            from runtime import unprivileged

            if op.name == "unshare" and op.a & CLONE_NEWUSER:
                error.hint = unprivileged.why_no_user_ns(errno)
            else:
                error.hint = (
                    refusals.hint(op, errno)
                    or unprivileged.why_powerless(errno)
                    or unprivileged.why_no_mount(op.about, errno)
                )
        return error

    def _ask(self, op: Op, number: int, given: int) -> None:
        result = -1
        try:
            for step in list(self.plan.sections.values())[number]:
                answer = self.doers[step[0]](step, self, given)
                if answer >= 0:
                    result = answer
        except OSError as error:
            self._reply(error.errno or 5)
            raise KernelError(f"{step[0]} {step[1]}", error.errno or 0) from None
        except Error:
            self._reply(125)
            raise
        self._reply(0, result)
        if result >= 0:
            os.close(result)

    def _reply(self, errno: int, fd: int = -1) -> None:
        try:
            kernel.reply(self.sock, errno, fd)
        except (BrokenPipeError, ConnectionResetError):
            pass  # init is gone: the end of the socket says so, and its status why
        except OSError as error:
            # it is there, and would wait for the answer as long as we for its next message
            raise KernelError("answer init", error.errno or 0) from None

    def hang_up(self) -> None:
        """Close the socket; an init that still has work to do ends by itself."""
        if self.sock >= 0:
            os.close(self.sock)
            self.sock = -1

    def destroy(self) -> None:
        """Kill and collect what was launched, at any point of its life."""
        self.hang_up()
        for pid in {self.pid, self.first_pid}:
            try:
                if self.status is None or pid != self.pid:
                    os.kill(pid, 9)  # a child of ours that was not collected yet: the pid cannot be another's
                    os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass

    def has_ended(self) -> bool:
        """Whether init is dead by now; its wait status is kept in `status`."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid:
                self.status = status
        return self.status is not None


class _Done(Exception):
    """What a plan was for has been done."""


def carry_out(plan: Plan, fds: list[int], doers: dict[str, Doer] | None = None) -> list[str]:
    """Run a plan that is for its effects alone (planner.effects) up to where it asks for "done", and end it there; the warnings."""
    from runtime.plan import check

    check(plan)
    launch = Launch(plan, fds, {**(doers or {}), "done": _done}, _leave_alone)
    try:
        launch.serve()
        _, launch.status = os.waitpid(launch.pid, 0)
        raise KernelError(f"the helper ended early with {words_for_status(launch.status)}", 32)
    except _Done:
        return [*plan.warnings, *launch.warnings]
    finally:
        launch.destroy()


def _done(step: Step, launch: Launch, given: int) -> int:
    raise _Done


def _leave_alone(pid: int) -> None:
    pass


def words_for_status(status: int) -> str:
    """A wait status in words: `exit status 3`, `signal 9 (killed)`."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit status {os.WEXITSTATUS(status)}"
