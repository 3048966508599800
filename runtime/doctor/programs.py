"""This installation, the state directory and the programs that some commands call."""

from __future__ import annotations

import os
import sys

import runtime
from runtime import lifecycle
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding
from runtime.doctor.processes import answer, find_program, said
from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.host import Host
    from runtime.lifecycle import Context

#: the oldest CRIU that checkpoint and restore ask
CRIU = (3, 15)


def check(ctx: Context, host: Host) -> Iterator[Finding]:
    """What is there besides the kernel."""
    yield _installation()
    yield from _state(ctx, host)
    yield _criu(host)


def _installation() -> Finding:
    python = ".".join(map(str, sys.version_info[:3]))
    found = f"{runtime.VERSION} in {os.path.dirname(os.path.dirname(runtime.__file__))}, Python {python}"
    return Finding(OK, "install.version", "pyrunc", found)


def _state(ctx: Context, host: Host) -> Iterator[Finding]:
    what = "state directory"
    try:
        info = os.stat(ctx.root)
    except FileNotFoundError:
        parent = os.path.dirname(ctx.root)
        while not os.path.isdir(parent) and parent != "/":
            parent = os.path.dirname(parent)
        if os.access(parent, os.W_OK):
            yield Finding(OK, "state.root", what, f"{ctx.root}, made by the first container")
        else:
            yield Finding(
                ERROR,
                "state.root",
                what,
                f"{ctx.root} is not there and cannot be made in {parent}",
                "give --root, or set XDG_RUNTIME_DIR",
            )
        return
    if info.st_uid not in (0, host.euid) or info.st_mode & 0o002:
        found = f"{ctx.root}: belongs to uid {info.st_uid}, mode {info.st_mode & 0o7777:04o}: others could have us run what they like"
        yield Finding(ERROR, "state.root", what, found, f"chmod 700 {ctx.root}, or give another --root")
        return
    if not os.access(ctx.root, os.W_OK):
        yield Finding(ERROR, "state.root", what, f"{ctx.root} is not writable", "give --root, or set XDG_RUNTIME_DIR")
        return
    counted: dict[str, int] = {}
    for container in lifecycle.containers(ctx):
        status = container.get("status", "unknown")
        counted[status] = counted.get(status, 0) + 1
        if "error" in container:
            yield Finding(
                WARNING,
                "state.broken",
                f"container {container['id']}",
                container["error"],
                _delete(ctx, container["id"]),
            )
        elif status == "stopped" and _died(ctx, container["id"]):
            found = "its create died half-way, and left what its journal names"
            yield Finding(
                WARNING, "state.unfinished", f"container {container['id']}", found, _delete(ctx, container["id"])
            )
    words = ", ".join(f"{count} {status}" for status, count in sorted(counted.items())) or "no containers"
    yield Finding(OK, "state.root", what, f"{ctx.root}: {words}")


def _died(ctx: Context, id_: str) -> bool:
    try:
        entry = lifecycle.find(ctx, id_)
    except Error:
        return False
    try:
        return entry.status()[0] == "stopped" and entry.state is None
    except Error:
        return False
    finally:
        entry.close()


def _delete(ctx: Context, id_: str) -> str:
    return f"pyrunc --root {ctx.root} delete --force {id_}"


def _criu(host: Host) -> Finding:
    id_, what = "programs.criu", "CRIU, for checkpoint and restore"
    path = find_program("criu")
    if not path:
        return Finding(NOTE, id_, what, "not installed", "install Debian's package criu, if you need it")
    word = answer([path, "--version"]).partition("Version:")[2].split()[:1] or ["?"]
    version = tuple(int(number) for number in word[0].partition("-")[0].split(".")[:2] if number.isdigit())
    shown = f"{path} is {word[0]}"
    if version < CRIU:
        return Finding(WARNING, id_, what, f"{shown}, which is too old", f"install {'.'.join(map(str, CRIU))} or newer")
    if host.euid or host.in_user_ns:
        return Finding(
            NOTE, id_, what, f"{shown}, and needs root: an ordinary user's containers cannot be checkpointed"
        )
    # CRIU knows best which kernels it gets along with
    status, text = said([path, "check"])
    if status:
        why = next(
            (line for line in text.splitlines() if "Error" in line), text.partition("\n")[0] or "it does not say why"
        )
        return Finding(
            WARNING, id_, what, f"{shown}, and `criu check` fails: {why}", "install a newer CRIU: kernels outrun it"
        )
    if not find_program("iptables-restore"):
        return Finding(
            WARNING, id_, what, f"{shown}; a network namespace is held up with iptables-restore, which is not installed",
            "install Debian's package iptables",
        )  # fmt: skip
    return Finding(OK, id_, what, f"{shown}, and `criu check` is content")
