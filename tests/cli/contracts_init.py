"""What each init op of a plan may do, and must be seen to do: the table that init's calls are held against.

ONE_CALL    ops that are one system call, and how its arguments say what the line says
INIT        all ops; those of several calls are a function each, in the words of runtime/ops.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from accounts import (
    Account,
    Contract,
    becomes,
    capabilities,
    line,
    makes_below,
    match,
    message,
    names,
    open_flags,
    split_place,
)  # fmt: skip
from tracing import Call, split

from runtime.plan import show

INIT: dict[str, Contract] = {}

# -- ops of one call ---------------------------------------------------------------------------------------------

_NAMESPACES = {"mount": "NS", "network": "NET"}


def _prctl(call: Call, text: str) -> bool:
    option, value = text.rsplit(" ", 1)
    seen = {"SUID_DUMP_DISABLE": "0", "SUID_DUMP_USER": "1"}.get(call.args[1], call.args[1])
    return call.args[0] == f"PR_SET_{option.upper().replace('-', '_')}" and seen == value


def _prints(name: str, *wanted: str) -> bool:
    return all(re.search(rf"\b{re.escape(word)}\b", name) for word in wanted)


def _ids(call: Call, text: str) -> bool:
    return call.args == [text, text, text]


def _capset(call: Call, text: str) -> bool:
    sets = match(r"effective (\S+) permitted (\S+) inheritable (\S+)", text)
    for member, wanted in zip(("effective", "permitted", "inheritable"), sets, strict=True):
        seen = set(re.findall(r"1<<(CAP_\w+)", call.member(member)))
        if seen != capabilities(wanted, seen) or (wanted == "all" and "CAP_SYS_ADMIN" not in seen):
            return False
    return True


#: op -> (call, whether the call says what the line says)
ONE_CALL: dict[str, tuple[str, Callable[[Call, str], object]]] = {
    "umask": ("umask", lambda c, t: int(c.args[0], 8) == int(t, 8)),
    "unshare": ("unshare", lambda c, t: c.flags(0) == names(t, "CLONE_NEW", **_NAMESPACES)),
    "setsid": ("setsid", lambda c, t: True),
    "prctl": ("prctl", _prctl),
    "sethostname": ("sethostname", lambda c, t: show(c.text(0)) == t),
    "setdomainname": ("setdomainname", lambda c, t: show(c.text(0)) == t),
    "personality": ("personality", lambda c, t: {"PER_LINUX": 0, "PER_LINUX32": 8}.get(c.args[0]) == int(t, 16)),
    "scheduler": (
        "sched_setattr",
        lambda c, t: _prints(c.shown, *(w for w in t.split() if w.startswith("SCHED") or w[0].isdigit())),
    ),
    "ioprio": ("ioprio_set", lambda c, t: _prints(c.shown, t.replace(" ", ", "))),
    "affinity": ("sched_setaffinity", lambda c, t: True),
    "mempolicy": ("set_mempolicy", lambda c, t: _prints(c.args[0], t.split()[0])),
    "setgroups": ("setgroups", lambda c, t: ",".join(split(c.args[1].strip("[]"))) == t.replace("none", "")),
    "setresgid": ("setresgid", _ids),
    "setresuid": ("setresuid", _ids),
    "capset": ("capset", _capset),
    "seccomp": ("seccomp", lambda c, t: c.args[0] == "SECCOMP_SET_MODE_FILTER" and f"len={t.split()[0]}" in c.shown),
    "find-exec": ("faccessat2 faccessat", lambda c, t: c.text(1) == t.split(" or ")[0]),
    "home": ("openat2", lambda c, t: c.text(1) == "etc/passwd" and "O_PATH" in open_flags(c)),
}


def _one(call_names: str, fits: Callable[[Call, str], object]) -> Contract:
    def contract(a: Account, text: str) -> None:
        call = a.take(call_names, lambda c: fits(c, text))
        a.fill(text.rpartition(" -> ")[2] if " -> " in text else "", call)

    return contract


INIT.update({name: _one(*row) for name, row in ONE_CALL.items()})


# -- talking, processes ------------------------------------------------------------------------------------------


@line(INIT, "ask")
def _ask(a: Account, text: str) -> None:
    """One message with its own number, and the answer to it, which may carry a descriptor."""
    _, _, role = match(r"(\S+?)( <- \S+)?(?: -> (\S+))?", text)
    a.take("sendmsg", lambda c: message(c) == (1, a.line["index"]))
    a.fill(role, a.take("recvmsg"))


@line(INIT, "fifo")
def _fifo(a: Account, text: str) -> None:
    """Sleep until somebody writes."""
    a.take("ppoll", lambda c: "exec.fifo" in c.shown)


@line(INIT, "fork")
def _fork(a: Account, text: str) -> None:
    """A child, which says that it is there and goes on; the old process ends."""
    role, said = text.removeprefix("<- "), (2, a.line["index"])
    call = a.take(
        "clone3 clone", lambda c: "CLONE_PARENT" in c.shown and ("CLONE_INTO_CGROUP" in c.shown) == bool(role)
    )
    a.finish()
    assert call.child is not None
    a.calls, a.at = call.child.calls, 0
    a.take("sendmsg", lambda c: message(c) == said)
    a.pids.append(call.child.pid)


@line(INIT, "setns")
def _setns(a: Account, text: str) -> None:
    role, kinds = text.split(" ")
    a.take("setns", lambda c: a.is_at(c.fd(0), role) and c.flags(1) == names(kinds, "CLONE_NEW", **_NAMESPACES))


@line(INIT, "keyring")
def _keyring(a: Account, text: str) -> None:
    a.take("keyctl", lambda c: c.args[0] == "KEYCTL_JOIN_SESSION_KEYRING" and c.text(1) == text)
    if (call := a.next()) is not None and call.name == "keyctl":
        a.take("keyctl", lambda c: c.args[0] == "KEYCTL_DESCRIBE")
        a.take("keyctl", lambda c: c.args[0] == "KEYCTL_SETPERM")


@line(INIT, "link-up")
def _link_up(a: Account, text: str) -> None:
    for request in ("SIOCGIFFLAGS", "SIOCSIFFLAGS"):
        call = a.take("ioctl", lambda c, r=request: c.args[1] == r and f'ifr_name="{text}"' in c.shown)
    if not _prints(call.shown, "IFF_UP"):
        a.fail("IFF_UP")


@line(INIT, "bounding")
def _bounding(a: Account, text: str) -> None:
    """Every capability that is not in the set is dropped, and none that is."""
    kept, dropped = capabilities(text), set()
    while (call := a.next()) is not None and call.name == "prctl" and call.args[0] == "PR_CAPBSET_DROP":
        dropped.add(a.take("prctl").args[1])
    if text == "all" and not dropped:
        return
    if kept & dropped or len(kept | dropped) != int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1:
        a.fail(f"a drop of all but {text}: dropped were {sorted(dropped)}")


@line(INIT, "ambient")
def _ambient(a: Account, text: str) -> None:
    a.take("prctl", lambda c: c.args[:2] == ["PR_CAP_AMBIENT", "PR_CAP_AMBIENT_CLEAR_ALL"])
    for name in sorted(capabilities(text)):
        a.take(
            "prctl",
            lambda c: c.args[:2] == ["PR_CAP_AMBIENT", "PR_CAP_AMBIENT_RAISE"] and c.args[2] in capabilities(text),
        )
        assert name


@line(INIT, "run-hook")
def _run_hook(a: Account, text: str) -> None:
    """A child in a session of its own that becomes the program, and nothing else."""
    (path,) = match(r"(.*?)(?: at most \d+ ms)?(?: -> hook-stdout)?(?: -> hook-stderr)?", text)
    call = a.take("clone", lambda c: "CLONE_PIDFD" in c.shown)
    becomes(a, call, path, may=("setsid", "umask"))


@line(INIT, "exec")
def _exec(a: Account, text: str) -> None:
    """What the process does afterwards is its program's business."""
    first = a.take("execve", lambda c: c.text(0) == text)
    if first.error:
        a.take("execve", lambda c: not c.error)  # another place where the program may be
    a.calls = a.calls[: a.at]


# -- files -------------------------------------------------------------------------------------------------------


@line(INIT, "open")
def _open(a: Account, text: str) -> None:
    role, path, register, flags = match(r"([^:]*):(.*) -> (\S+) \((.*)\)", text)
    wanted = names(flags, "O_", **{"write": "WRONLY", "read-write": "RDWR", "create": "CREAT", "exclusive": "EXCL"})
    call = a.take(
        "openat2 openat",
        lambda c: (
            c.text(1) == path
            and a.is_at(c.fd(0), role)
            and open_flags(c) - {"O_RDONLY", "O_CLOEXEC", "O_NOCTTY"} == wanted
        ),
    )
    a.fill(register, call)


@line(INIT, "close")
def _close(a: Account, text: str) -> None:
    a.take("close", lambda c: a.is_at(c.fd(0), text))
    a.registers.pop(text)


@line(INIT, "close-range")
def _close_range(a: Account, text: str) -> None:
    """One call for each gap between the descriptors that are kept."""
    a.take("close_range")
    while a.calls[a.at].name == "close_range":
        a.take("close_range")


@line(INIT, "write")
def _write(a: Account, text: str) -> None:
    role, path = split_place(text)
    opened = a.take(
        "openat2", lambda c: path.startswith(c.text(1) + " ") and a.is_at(c.fd(0), role) and "O_WRONLY" in open_flags(c)
    )
    if not opened.error:
        a.take("write", lambda c: c.fd(0) is opened.made and show(f"{opened.text(1)} {c.text(1)}") == path)


@line(INIT, "mkdirs")
def _mkdirs(a: Account, text: str) -> None:
    place, _, register = match(r"(.*) 0\d+( -> (\S+))?", text)
    _place(a, place, register)


@line(INIT, "mountpoint")
def _mountpoint(a: Account, text: str) -> None:
    place, register = match(r"(.*) like \S* -> (\S+)", text)
    _place(a, place, register)


def _place(a: Account, place: str, register: str) -> None:
    """Look it up; make what is missing of it, by descriptor and below the root; look it up again."""
    role, path = split_place(place)
    path = path.rstrip("/") or "/"
    while True:
        found = a.look_up(role, path, makes_below(a, role))
        if found.error != "ENOENT":
            break
    a.fill(register, found)


@line(INIT, "symlink")
def _symlink(a: Account, text: str) -> None:
    role, path, target = match(r"([^:]*):(.*) -> (.*)", text)
    a.take(
        "symlinkat", lambda c: (c.text(0), c.text(2)) == (target, os.path.basename(path)) and a.is_below(c.fd(1), role)
    )


@line(INIT, "mknod")
def _mknod(a: Account, text: str) -> None:
    """The node, in directories that are made where they are missing; then its owner and mode, on the node just made."""
    role, path, kind, mode, device = match(r"([^:]*):(.*) ([cbp]) 0(\d+) (\d+:\d+) owner \S+", text)

    def fits(c: Call) -> bool:
        made = (
            [int(word, 16 if word[:2] == "0x" else 10) for word in re.findall(r"\w+", c.args[3])[-2:]]
            if len(c.args) > 3
            else [0, 0]
        )
        wanted = f"{ {'c': 'S_IFCHR', 'b': 'S_IFBLK', 'p': 'S_IFIFO'}[kind] }|0{mode}"
        is_device = kind == "p" or device == ":".join(map(str, made))
        return c.text(1) == os.path.basename(path) and c.args[2] == wanted and is_device and a.is_below(c.fd(0), role)

    a.take("mknodat", fits, makes_below(a, role))
    while (call := a.next()) is not None and call.name in ("fchownat", "fchmodat2") and a.is_below(call.fd(0), role):
        a.take(call.name)


@line(INIT, "check-device")
def _check_device(a: Account, text: str) -> None:
    a.take("fstat", lambda c: a.is_at(c.fd(0), text.split(" ")[0]))
