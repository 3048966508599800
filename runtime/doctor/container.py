"""Why a container does not do what it should: its state, what its init waits for, and what is left of it.

Everything is read from the state directory, /proc and the container's cgroup. No signal is sent, no lock kept.
"""

from __future__ import annotations

import os

from runtime import identity, lifecycle, status
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, guarded, remains
from runtime.doctor.sleeping import Process, children, holders
from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.lifecycle import Context
    from runtime.store import Entry

_TERM = 15
#: how many processes are looked at, and how many of those that are held are shown one by one
_LOOKED_AT, _SHOWN = 4096, 5


def check(ctx: Context, id_: str) -> Iterator[Finding]:
    """Everything about a container."""
    yield from guarded("container", lambda: _check(ctx, id_))


def stands(ctx: Context, id_: str) -> list[str]:
    """Where its init is and what it waits for, sentence by sentence: the state, who is at work on it, the process."""
    found = [one for one in check(ctx, id_) if one.id in ("container.state", "container.lock", "container.init")]
    return [f"{one.found}; {one.advice}" if one.advice and one.id != "container.state" else one.found for one in found]


def _check(ctx: Context, id_: str) -> Iterator[Finding]:
    words = f"pyrunc --root {ctx.root}"
    try:
        entry = lifecycle.find(ctx, id_)
    except Error as error:
        advice = f"undo what its journal names, and remove it:\n  {words} delete --force {id_}"
        yield Finding(ERROR, "container.state", f"container {id_}", error.message, advice)
        return
    try:
        word, pid = entry.status()
        at_work = _workers(entry)
        if entry.state is None:
            yield from _unfinished(entry, word, at_work, f"{words} delete --force {id_}")
            return
        saved = entry.state
        yield _state(entry, saved, word, pid, words)
        yield from _lock(at_work)
        if pid:
            yield from guarded("container.init", lambda: _init(word, pid, saved, words, id_))
            yield from guarded("container.namespaces", lambda: remains.namespaces(pid, saved))
        yield from guarded(
            "container.cgroup", lambda: remains.cgroup(word, pid, saved, f"{words} delete --force {id_}")
        )
        yield from guarded("container.bundle", lambda: remains.bundle(entry, saved))
    finally:
        entry.close()


def _workers(entry: Entry) -> list[int]:
    """Commands that are at work on the container: its directory is locked by them."""
    return [pid for pid in holders(entry.path) if pid != os.getpid()] if entry.is_locked() else []


def _lock(at_work: list[int]) -> Iterator[Finding]:
    for pid in at_work:
        process = Process(pid)
        found = f"process {pid} holds it: {process.argv[:120] or process.name}"
        yield Finding(NOTE, "container.lock", "a command is at work", found, _what_it_does(pid))


def _what_it_does(pid: int) -> str:
    """What a command waits for: a program that it has started (a hook), as likely as not."""
    started = [Process(child) for child in children([pid])]
    hooks = [child for child in started if child.state != "Z" and not child.is_interpreter]
    shown = ", ".join(f"process {child.pid} ({child.argv[:80] or child.name})" for child in hooks)
    return f"it waits for {shown}: a hook that does not end holds it up" if hooks else ""


# -- a create that is not through ------------------------------------------------------------------------------------


def _unfinished(entry: Entry, word: str, at_work: list[int], delete: str) -> Iterator[Finding]:
    journal = entry.journal()
    what = f"container {entry.id}"
    if word == status.CREATING:
        yield Finding(NOTE, "container.state", what, f"creating, since {journal.get('created') or 'a moment'}")
        yield from _lock(at_work)
        pid = journal.get("pid", 0)
        if not identity.has_ended(pid, journal.get("start_time", 0)):
            process = Process(pid)
            yield Finding(NOTE, "container.init", "init", _sentence(process), _what_it_does(pid))
        return
    if not journal:
        yield Finding(
            ERROR, "container.state", what, "its create died before it had done anything", f"remove it:\n  {delete}"
        )
        return
    if not lifecycle.is_orphan_gone(journal):
        found = f"state.json is missing, but process {journal['pid']} runs: somebody has removed the file"
        advice = f"no command can reach it any more; this kills it and removes the rest:\n  {delete}"
        yield Finding(ERROR, "container.state", what, found, advice)
        return
    left = remains.of_journal(journal)
    found = f"its create of {journal.get('created', '?')} died half-way; left are {', '.join(left) or 'its directory alone'}"
    yield Finding(ERROR, "container.state", what, found, f"undo it:\n  {delete}")


# -- one that is there -----------------------------------------------------------------------------------------------


def _state(entry: Entry, saved: dict[str, Any], word: str, pid: int, words: str) -> Finding:
    what = f"container {entry.id}"
    found = f"{word}{f', init is process {pid}' if pid else ''}, created {saved['created'][:19]}"
    if word == status.CREATED:
        if not saved.get("has_process", True):
            return Finding(NOTE, "container.state", what, f"{found}; it has no process, and start will refuse it",
                           f"use `{words} exec {entry.id} ...`, or give it a process in config.json")  # fmt: skip
        advice = f"its engine has not called start, or died before it could:\n  {words} start {entry.id}"
        return Finding(NOTE, "container.state", what, f"{found}; init sleeps on exec.fifo until start", advice)
    if word == status.PAUSED:
        return Finding(WARNING, "container.state", what, f"{found}; nothing in it runs", f"{words} resume {entry.id}")
    if word == status.STOPPED:
        boot = "" if identity.is_this_boot(saved["boot_id"]) else ", before the machine was started"
        found = f"stopped: init was process {saved['pid']}{boot}, created {saved['created'][:19]}"
        return Finding(NOTE, "container.state", what, found, f"{words} delete {entry.id}")
    return Finding(OK, "container.state", what, found)


def _sentence(process: Process) -> str:
    meaning = process.meaning()
    return process.says() + (f": {meaning}" if meaning else "")


def _init(word: str, pid: int, saved: dict[str, Any], words: str, id_: str) -> Iterator[Finding]:
    init = Process(pid)
    if word == status.CREATED:
        yield Finding(OK, "container.init", "init", _sentence(init))
        return
    if init.is_interpreter:
        found = f"{init.says()}: start has been called, and the program is not executed yet"
        yield Finding(NOTE, "container.init", "init", found, _what_it_does(pid))
        return
    # frozen processes are in state D as well, wherever they have slept before
    is_frozen = word == status.PAUSED or remains.is_frozen(saved)
    severity, advice = OK, ""
    if not is_frozen and init.is_stuck():
        severity, advice = ERROR, f"no signal reaches it there{_stack(init)}"
    elif init.state in "Tt":
        severity, advice = WARNING, f"{words} kill {id_} CONT" if init.state == "T" else ""
    elif init.meaning() and "child" not in init.meaning() and not is_frozen:
        severity = NOTE
    yield Finding(severity, "container.init", f"init ({init.argv[:80] or init.name})", _sentence(init), advice)
    if init.tracer:
        tracer = Process(init.tracer)
        found = f"process {tracer.pid} ({tracer.argv[:80] or tracer.name}) traces it, and may hold it"
        yield Finding(WARNING, "container.tracer", "debugger", found)
    if identity.innermost_pid(pid) == 1 and not init.handles(_TERM):
        found = "has no handler for TERM, and the first process of a pid namespace is not ended by a signal without one"
        yield Finding(NOTE, "container.signals", "init", found, f"{words} kill {id_} KILL")
    if not is_frozen:
        yield from _stuck(pid, saved)


def _stack(process: Process) -> str:
    stack = process.stack()
    return f"; innermost in the kernel: {stack}" if stack else ""


def _stuck(pid: int, saved: dict[str, Any]) -> Iterator[Finding]:
    """Other processes of the container that cannot be killed or that somebody holds."""
    found = lifecycle.cgroup_of(saved).pids() if saved["cgroup"] else identity.pids_beside(pid)
    processes = [Process(other) for other in found[:_LOOKED_AT] if other != pid]
    held = [process for process in processes if process.state in ("D", "T", "t")]
    for process in held[:_SHOWN]:
        what = process.argv[:80] or process.name
        if process.is_stuck():
            advice = f"no signal reaches it there{_stack(process)}"
            yield Finding(ERROR, "container.process", what, _sentence(process), advice)
        elif process.state in ("T", "t"):
            yield Finding(WARNING, "container.process", what, _sentence(process))
    if len(held) > _SHOWN:
        yield Finding(NOTE, "container.process", "processes", f"{len(held) - _SHOWN} more that are held")
