"""What each host step of a plan may do, and must be seen to do: the table that pyrunc's own calls are held against.

HOST                steps before the launch and steps of sections, by their kind
start(), delete()   what those commands may do about a container with this plan: wake its init, run its hooks, and undo what
                    the lines say that `create` has done
undo()              what a `create` that fails may do about it
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from accounts import Account, Contract, Line, becomes, line, match, number, open_flags
from tracing import Call

from runtime.plan import show

HOST: dict[str, Contract] = {}


def _is_write_to(call: Call, paths: list[str]) -> bool:
    return call.name in ("openat", "open") and call.path(1 if call.name == "openat" else 0) in paths


def _opens(a: Account, paths: list[str], *flags: str, may=lambda call: False) -> Call:
    return a.take("openat", lambda c: c.path(1) in paths and set(flags) <= open_flags(c), may)


def _writes(a: Account, opened: Call, data: str | None = None) -> str:
    """All that is written to what was just opened, which is `data` where that is given."""
    out, size = "", 0
    while True:
        call = a.take("write", lambda c: c.fd(0) is opened.made)
        out += call.text(1)
        size += call.value
        more = a.next()
        if more is None or more.name != "write" or more.fd(0) is not opened.made:
            break
    if data is not None and show(out.rstrip("\n")) not in a.real(data) and data != f"{size} bytes":
        a.at -= 1
        a.fail(f"a write of {data}")
    return out


# -- what is kept of the container -------------------------------------------------------------------------------------


@line(HOST, "mkdir")
def _mkdir(a: Account, text: str) -> None:
    """The directory, and what is missing above it; parents of a v1 cpuset get its CPUs, without which nothing can join."""
    target, mode = match(r"(\S+)(?: (0\d+))?", text)
    (path,) = a.real(target)

    def may(c: Call) -> bool:
        if c.name == "mkdir":
            return not target.startswith("$STATE") and path.startswith(c.path(0) + "/")
        above = path.startswith(os.path.dirname(written(c)) + "/")
        return above and os.path.basename(written(c)) in ("cpuset.cpus", "cpuset.mems")

    while True:
        call = a.take("mkdir mkdirat", lambda c: c.path(0 if c.name == "mkdir" else 1) == path, may)
        if call.error != "ENOENT":
            break
    if mode and int(call.args[-1], 8) != int(mode, 8):
        a.fail(f"mode {mode}")
    if target.endswith("/notify") and a.names["verb"] == "run":
        _listen(a)


def written(call: Call) -> str:
    """The file that a call opens or writes."""
    if call.name == "openat":
        return call.path(1)
    return call.args[0].partition("<")[2].rpartition(">")[0] if call.name == "write" else ""


@line(HOST, "note")
def _note(a: Account, text: str) -> None:
    """One line to the journal, which is opened with the first, with these members and no others."""
    target, keys = text.split(" ", 1)
    (path,) = a.real(target)
    call = a.take("write", lambda c: written(c) == path, lambda c: _is_write_to(c, [path]))
    if list(json.loads(call.text(1))) != keys.split(", "):
        a.at -= 1
        a.fail(f"a note of {keys}")


@line(HOST, "write", "write?missing", "write?denied")
def _write(a: Account, text: str) -> None:
    """A value to a file; for a value of ours that is a whole document, its length."""
    target, _, value = text.partition(" ")
    paths = a.real(target)
    if a.line["name"] == "write?missing" and not ((call := a.next()) is not None and _is_write_to(call, paths)):
        return
    opened = _opens(a, paths, "O_WRONLY")
    if not opened.error:
        _writes(a, opened, value)


@line(HOST, "cpuset")
def _cpuset(a: Account, text: str) -> None:
    """v2: CPUs or memory nodes; what was there before, and what came of it, is read."""
    target, _, value = text.partition(" ")
    _writes(a, _opens(a, a.real(target), "O_WRONLY"), value)


@line(HOST, "write-either")
def _write_either(a: Account, text: str) -> None:
    target, _, values = text.partition(" ")
    folder, _, files = target.rpartition("/")
    choices = dict(zip((f"{folder}/{file}" for file in files.split("|")), values.split("|"), strict=True))
    opened = _opens(a, list(choices), "O_WRONLY")
    _writes(a, opened, choices[opened.path(1)])


@line(HOST, "inherit")
def _inherit(a: Account, text: str) -> None:
    """cpuset.cpus and cpuset.mems, of the cgroup and of those above it that have none; nothing else."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        a.take("openat", lambda c, f=file: c.path(1) == f"{text}/{f}")
        while (call := a.next()) is not None and os.path.basename(written(call)) == file:
            if not f"{text}/".startswith(os.path.dirname(written(call)) + "/"):
                break
            a.take(call.name)


@line(HOST, "enable")
def _enable(a: Account, text: str) -> None:
    """v2: the controllers that the cgroup does not pass on yet, at once or one by one, each only if it is one of the line's."""
    target, *wanted = text.split(" ")
    path = f"{target}/cgroup.subtree_control"
    a.take("openat", lambda c: c.path(1) == path and "O_WRONLY" not in open_flags(c))
    while (call := a.next()) is not None and written(call) == path:
        if call.name == "write" and not {word[1:] for word in call.text(1).split()} <= set(wanted):
            a.fail(f"one of {wanted}")
        a.take(call.name)


@line(HOST, "threaded")
def _threaded(a: Account, text: str) -> None:
    """v2: the cgroup is asked whether it can take processes; if not, it and those above it become threaded."""
    path = text.strip()
    a.take("openat", lambda c: c.path(1) == f"{path}/cgroup.type" and "O_WRONLY" not in open_flags(c))
    files = {"cgroup.type"}
    while (call := a.next()) is not None and os.path.basename(written(call)) in files:
        if not f"{path}/".startswith(os.path.dirname(written(call)) + "/"):
            break
        files.add("cgroup.subtree_control")
        a.take(call.name)


@line(HOST, "devices", "devices?denied")
def _devices(a: Account, text: str) -> None:
    """v2: a program is loaded and attached to the cgroup, which is asked whether one is to be replaced."""
    asked = ("BPF_PROG_QUERY", "BPF_PROG_GET_FD_BY_ID")
    a.take("openat", lambda c: c.path(1) == text.split(" ")[0])
    a.take("bpf", lambda c: c.args[0] == "BPF_PROG_LOAD" and "BPF_PROG_TYPE_CGROUP_DEVICE" in c.shown)
    a.take(
        "bpf",
        lambda c: c.args[0] == "BPF_PROG_ATTACH" and "BPF_CGROUP_DEVICE" in c.shown,
        lambda c: c.name == "bpf" and c.args[0] in asked,
    )


@line(HOST, "delegate")
def _delegate(a: Account, text: str) -> None:
    """v2: the cgroup and files in it become the user's."""
    target, uid = text.split(" ")
    a.take("chown", lambda c: c.path(0) == target and c.args[1:] == [uid, "-1"])
    while (call := a.next()) is not None and call.name in ("lchown", "fchownat"):
        index = int(call.name == "fchownat")
        if os.path.dirname(call.path(index)) != target or call.args[index + 1 : index + 3] != [uid, "-1"]:
            a.fail(f"a file of {target}")
        a.take(call.name)


@line(HOST, "mkfifo")
def _mkfifo(a: Account, text: str) -> None:
    target, mode = text.split(" ")
    paths = a.real(target)
    a.take("mknodat", lambda c: c.path(1) in paths and c.args[2] == f"S_IFIFO|{mode}")
    _opens(a, paths, "O_RDWR")


@line(HOST, "open")
def _open(a: Account, text: str) -> None:
    """A file of the host that hooks in the container write to, made where it is missing."""
    path, register = text.split(" ")
    flags = {"O_WRONLY", "O_CREAT", "O_APPEND", "O_CLOEXEC"}
    a.take("openat", lambda c: c.path(1) == path and flags <= open_flags(c))
    assert register in ("hook-stdout", "hook-stderr")


@line(HOST, "keep")
def _keep(a: Account, text: str) -> None:
    """A file of the cache: written beside it and renamed; the cache is made where there is none."""
    target, size = text.split(" ", 1)
    (path,) = a.real(target)
    folder = os.path.dirname(path)
    opened = a.take(
        "openat",
        lambda c: os.path.dirname(c.path(1)) == folder and "O_EXCL" in open_flags(c),
        lambda c: (
            (c.name == "mkdir" and c.path(0) in (folder, os.path.dirname(folder)))
            or (c.name == "unlinkat" and os.path.dirname(c.path(1)) == folder)
        ),
    )
    _writes(a, opened, size)
    a.take("renameat", lambda c: c.path(1) == opened.path(1) and c.path(3) == path)


@line(HOST, "save")
def _save(a: Account, text: str) -> None:
    (path,) = a.real(text)
    _writes(a, _opens(a, [f"{path}.new"], "O_CREAT", "O_TRUNC"))
    a.take("renameat", lambda c: (c.path(1), c.path(3)) == (f"{path}.new", path))


@line(HOST, "pid-file")
def _pid_file(a: Account, text: str) -> None:
    path = Path(text)
    new = str(path.with_name(f".{path.name}"))
    _writes(a, _opens(a, [new], "O_CREAT", "O_TRUNC"), "$PID")
    a.take("rename", lambda c: (c.path(0), c.path(1)) == (new, text))


# -- processes ---------------------------------------------------------------------------------------------------------


@line(HOST, "launch")
def _launch(a: Account, text: str) -> None:
    """A child that becomes the sealed image and does nothing before that. systemd, where it is to make a unit, is greeted first."""
    if (first := a.next()) is not None and first.name == "connect" and "/systemd/private" in first.args[1]:
        a.manager = a.take("connect")
        a.take("sendmsg", lambda c: a.tells_manager(c, "AUTH EXTERNAL"))
    call = a.take("clone", lambda c: c.flags(1) >= {"flags=CLONE_VM", "CLONE_VFORK"})
    assert call.child is not None
    before = call.child.until_exec()
    if before[-1].name != "execveat" or "memfd:pyrunc-init" not in before[-1].args[0]:
        a.fail("a child that executes the image")
    child = Account("the launched child", before[:-1], a.names)
    child.line = a.line
    child.finish()
    a.launched = call.child
    a.pids.append(call.child.pid)


@line(HOST, "hook")
def _hook(a: Account, text: str) -> None:
    """A child in a session of its own that becomes the program, started in the bundle; a delete by force may look for that of poststop
    in the journal."""
    kind, path = text.split(" ", 1)
    call = a.take("clone")
    becomes(a, call, path, may=("setsid", "fchdir"))
    assert call.child is not None
    if not any(c.name == "fchdir" and a.names["bundle"] in c.args[0] for c in call.child.until_exec()):
        a.fail("a program in the bundle's directory")
    if kind.startswith("poststop/"):
        a.take("write", lambda c: "hook_pid" in c.text(1), lambda c: c.name == "openat" and c.text(1) == "journal")


@line(HOST, "hook-state")
def _hook_state(a: Account, text: str) -> None:
    a.take("memfd_create", lambda c: c.text(0) == "state")


@line(HOST, "rlimit")
def _rlimit(a: Account, text: str) -> None:
    kind, soft, hard = match(r"(\S+) (\d+):(\d+)", text)

    def fits(c: Call) -> bool:
        seen = (number(c.member("rlim_cur")), number(c.member("rlim_max"))) if c.args[2] != "NULL" else ()
        return c.args[0] in map(str, a.pids) and c.args[1] == kind and seen == (int(soft), int(hard))

    a.take("prlimit64", fits)


@line(HOST, "idmap")
def _idmap(a: Account, text: str) -> None:
    """A child in a user namespace of its own, which is mapped, opened and killed."""
    uid_map, _, gid_map = text.partition(" ")[2].partition(";")
    call = a.take("clone", lambda c: c.flags(1) == {"flags=CLONE_NEWUSER", "SIGCHLD"})
    for name, value in (("uid_map", uid_map), ("gid_map", gid_map)):
        opened = _opens(a, [f"/proc/{call.value}/{name}"], "O_WRONLY")
        if show(_writes(a, opened)).removesuffix("\\n") != value.removesuffix("\\n"):
            a.fail(f"a map of {value}")
    a.take("kill", lambda c: c.args == [str(call.value), "SIGKILL"])


# -- to others ---------------------------------------------------------------------------------------------------------


@line(HOST, "console", "pidfd", "seccomp-listener")
def _send(a: Account, text: str) -> None:
    """One message with one descriptor to the socket of that path; nothing is sent where the terminal is our own."""
    if text == "our own terminal":
        return
    (path,) = match(r"(\S+).*", text)
    call = a.take("connect", lambda c: f'sun_path="{path}"' in c.args[1])
    a.take("sendmsg", lambda c: c.fd(0) is call.fd(0) and "SCM_RIGHTS" in c.shown)


# -- start and delete --------------------------------------------------------------------------------------------------


def start(a: Account, plan: list[Line]) -> None:
    """Wake init through the FIFO that `create` has made, remove both FIFOs, run the hooks that the plan has for it."""
    has_notify = any(step["text"].startswith("$STATE/notify") for step in plan)
    fifos = [step["text"].split(" ")[0] for step in plan if step["name"] == "mkfifo"]
    a.line = {"place": "by start", "name": "fifo", "text": "wait for start"}
    go = a.real(fifos[0])

    def may(c: Call) -> bool:
        return _is_write_to(c, go)  # it is opened twice: the first time says only whether init sleeps there

    if has_notify:
        _listen(a, may)
    a.take("write", lambda c: written(c) in go and c.text(1) == "0", may)
    for fifo in fifos:
        a.take("unlinkat", lambda c, f=fifo: c.path(1) in a.real(f))
    a.follow([step for step in plan if step["where"] == "by start"], HOST)
    if has_notify:
        _tell_manager(a)
    a.finish()


def _listen(a: Account, may: Callable[[Call], object] = lambda call: False) -> None:
    """Listen in the directory that `create` has made for it: what comes in there is passed on to the manager."""
    (folder,) = a.real("$STATE/notify")
    call = a.take("unlinkat", lambda c: c.path(1) == f"{folder}/notify.sock", may)
    # by the descriptor of that directory
    path = f'"/proc/self/fd/{call.args[0].partition("<")[0]}/notify.sock"'
    a.take("bind", lambda c: path in c.args[1])
    a.take("chmod", lambda c: c.args[0] == path)


def _tell_manager(a: Account) -> None:
    """The service manager's own socket, which it named in our environment."""
    call = a.take("connect", lambda c: f'sun_path="{a.names["manager"]}"' in c.args[1])
    while (told := a.next()) is not None and told.name in ("sendto", "sendmsg") and told.fd(0) is call.fd(0):
        a.take(told.name)


def delete(a: Account, plan: list[Line]) -> None:
    """Undo what the lines say has been done, in reverse: the launch, the cgroup; then hooks; the directory last."""
    _undo(a, plan, [step for step in plan if step["where"] == "by delete"])


def undo(a: Account, plan: list[Line]) -> None:
    """The same, by a `create` that fails before it has run a hook."""
    _undo(a, plan, [])


def _undo(a: Account, plan: list[Line], hooks: list[Line]) -> None:
    made = [step["text"].split(" ")[0] for step in plan if step["name"] == "mkdir" and step["where"] == "undo: remove"]
    left = [path for path in made if path[0] != "$"]
    cgroup = set(left)

    def may(c: Call) -> bool:
        # processes that are still in the cgroup are killed, and thawed where the container has frozen them
        file = written(c)
        is_thawing = os.path.dirname(file) in cgroup and file.endswith("/freezer.state")
        # that the FIFO is opened, and closed again, says whether init still sleeps there
        return _kills(a, c) or is_thawing or (c.name == "openat" and file in a.real("$STATE/exec.fifo"))

    while left:
        a.line = next(step for step in plan if step["text"] == left[0])
        call = a.take("rmdir", lambda c: c.path(0) in cgroup, may)
        if call.path(0) in left and not call.error:
            left.remove(call.path(0))
    is_unit = any(step["name"] == "start-unit" for step in plan)  # systemd removes its cgroup
    while is_unit and (call := a.next()) is not None and (may(call) or a.tells_manager(call, "StopUnit")):
        a.take(call.name)
    a.follow(hooks, HOST)
    a.line = next(step for step in plan if step["text"].startswith("$STATE "))
    (state,) = a.real("$STATE")

    def is_in_it(c: Call) -> bool:
        return c.name in ("unlinkat", "rmdir") and os.path.commonpath([c.path(c.name == "unlinkat"), state]) == state

    a.take("fchmod", lambda c: f"<{state}>" in c.args[0] and c.args[1] == "01700")  # what readers know it by
    a.take("rmdir", lambda c: c.path(0) == state and not c.error, is_in_it)


def _kills(a: Account, call: Call) -> bool:
    """Whether it kills what was launched: by its pidfd, or by its pid where it is a child that nobody has collected."""
    if call.name == "kill":
        return call.args[1] == "SIGKILL" and call.args[0] in map(str, a.pids)
    held = call.fd(0)
    is_ours = held is not None and any(f"pidfd_open({pid}," in held.shown for pid in a.pids)
    return call.name == "pidfd_send_signal" and call.args[1] == "SIGKILL" and is_ours


def prepare_to_wait(a: Account) -> None:
    """`run` in the foreground becomes the parent of the container's orphans before it begins."""
    a.line = {"place": "run", "name": "foreground", "text": "adopt orphans"}
    a.take("prctl", lambda c: c.args == ["PR_SET_CHILD_SUBREAPER", "1"])
