"""Hooks that run outside the container: prestart, createRuntime, poststart, poststop.

A hook is a program of the host. It gets exactly the environment that the configuration gives it, the container's state as
JSON on standard input, and no descriptor but 0, 1 and 2; it runs in a session of its own, so that a timeout can end it
with all its children (an ordinary wait would hang on a child that holds its output: runc does). The hooks that run inside
the container are ops of the plan.
"""

from __future__ import annotations

import _signal
import select
import time

from runtime import kernel
from runtime import system as os
from runtime.errors import HookError, StateError
from runtime.linux import POLL_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Outputs = dict[str, str] | None

_ENDING = (_signal.SIGINT, _signal.SIGQUIT, _signal.SIGHUP, _signal.SIGTERM)
#: how much of a hook's output an error quotes
_OUTPUT = 4096


def of(config: dict[str, Any], kind: str, place: str) -> list[dict[str, Any]]:
    """The hooks of a kind in a container's copy of its configuration, which somebody may have damaged since it was checked."""
    section = config.get("hooks")
    found: Any = section.get(kind) if type(section) is dict else section
    if found is None:
        return []
    for hook in found if type(found) is list else (None,):
        if type(hook) is not dict or type(hook.get("path")) is not str or not hook["path"]:
            break
        texts = [hook.get(name) for name in ("args", "env")]
        if any(
            text is not None and (type(text) is not list or any(type(item) is not str for item in text))
            for text in texts
        ):
            break
        if hook.get("timeout") is not None and (type(hook["timeout"]) is not int or not 0 < hook["timeout"] < 1 << 31):
            break
    else:
        return list(found)
    raise StateError(f"{place}/config.json: hooks.{kind}: not as it was checked", code="broken-state")


def run_all(kind: str, hooks: list[dict[str, Any]], state: bytes, cwd: str, outputs: Outputs = None) -> None:
    """Run hooks in order with `state` on standard input; HookError at the first that fails."""
    for index, hook in enumerate(hooks):
        run(f"{kind}[{index}]", hook, state, cwd, outputs)


def run(
    name: str,
    hook: dict[str, Any],
    state: bytes,
    cwd: str,
    outputs: Outputs = None,
    *,
    limit: float | None = None,
    on_pid: Callable[[int], None] | None = None,
) -> None:
    """Run one hook to its end, for at most its timeout (seconds), or `limit` where it has none; `outputs` are the annotations,
    which may say where its output goes."""
    path = hook["path"]
    env = list(hook.get("env") or ())
    timeout = hook.get("timeout") or limit
    stdin = _state_file(state)
    files = {}
    try:
        files = {fd: open_output(name, path) for fd, path in _paths(outputs)}
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        # what interrupts us waits until there is somebody who kills the hook for it
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING) & _signal.valid_signals()
        try:
            try:
                pid = _spawn(
                    name,
                    path,
                    hook.get("args") or [path],
                    env,
                    cwd,
                    (stdin, files.get(1, write_fd), files.get(2, write_fd)),
                )
            finally:
                os.close(write_fd)
            if on_pid is not None:
                on_pid(pid)
            output, status = _watch(pid, read_fd, timeout, before)
        finally:
            os.close(read_fd)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    finally:
        for fd in (stdin, *files.values()):
            os.close(fd)
    if status is None:
        raise HookError(
            f"{name} {path}: no end after {timeout} s, killed{_quote(output)}", code="hook-timeout", path=path
        )
    if status:
        code = os.waitstatus_to_exitcode(status)
        what = f"exit status {code}" if code >= 0 else f"signal {-code}"
        raise HookError(f"{name} {path}: {what}{_quote(output)}", code="hook-failed", path=path)


def _state_file(state: bytes) -> int:
    # a file and no pipe: a hook that does not read cannot block us, and one that exits cannot kill us (SIGPIPE)
    fd = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(fd, state)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _paths(outputs: Outputs) -> list[tuple[int, str]]:
    found = [(fd, (outputs or {}).get(name)) for fd, name in ((1, "run.oci.hooks.stdout"), (2, "run.oci.hooks.stderr"))]
    return [(fd, path) for fd, path in found if path]


def open_output(name: str, path: str) -> int:
    """The file that an output of a hook is appended to, made where it is missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o700)
    except OSError as error:
        raise HookError(
            f"{name}: open {path} for its output: {error.strerror}", code="hook-failed", path=path
        ) from None
    os.set_blocking(fd, True)
    return fd


def _spawn(name: str, path: str, args: list[str], env: list[str], cwd: str, standard: tuple[int, int, int]) -> int:
    try:
        folder = os.open(cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return kernel.spawn(path, args, env, folder, standard)
        finally:
            os.close(folder)
    except OSError as error:
        words = error.strerror or ""
        raise HookError(
            f"{name} {path}: {words[:1].lower()}{words[1:]}", code="hook-failed", errno=error.errno, path=path
        ) from None


def _watch(pid: int, out: int, timeout: float | None, mask: set[int]) -> tuple[bytes, int | None]:
    """(end of the output, wait status or None where the time was up). Waits for the process, not for its output's end."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(out, select.POLLIN)
    os.set_blocking(out, False)
    deadline = None if timeout is None else time.monotonic() + timeout
    tail = b""
    status: int | None = None
    try:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        while True:
            left = None if deadline is None else min(max(0.0, (deadline - time.monotonic()) * 1000), POLL_MS)
            events = dict(poll.poll(left))
            if out in events:
                data = _drain(out)
                tail = (tail + data)[-_OUTPUT:]
                if not data:
                    poll.unregister(out)
            if pidfd in events:
                status = os.waitpid(pid, 0)[1]
                return (tail + _drain(out))[-_OUTPUT:], status
            if deadline is not None and time.monotonic() >= deadline:
                return tail, None
    finally:
        if status is None:
            os.killpg(pid, 9)
            os.waitpid(pid, 0)
        elif deadline is not None and status:
            _kill_session(pid)
        os.close(pidfd)


def _kill_session(pid: int) -> None:
    # the hook has failed; what it left behind in its session goes with it
    try:
        os.killpg(pid, 9)
    except (ProcessLookupError, PermissionError):
        pass


def _drain(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def _quote(output: bytes) -> str:
    text = " ".join(output.decode("utf-8", "replace").split())
    return f': "{text}"' if text else ""
