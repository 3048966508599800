"""What there is of a container outside its process: namespaces, cgroup, bundle; and what a create that died has left."""

from __future__ import annotations

import os

from runtime import identity, lifecycle, linux, status
from runtime.cgroups import walk
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding
from runtime.steps import in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.cgroups.fs import Cgroup
    from runtime.store import Entry

#: of this share of its limit and more a container is called short of something
_SHORT = 0.95


def of_journal(journal: dict[str, Any]) -> list[str]:
    """Which of the things that a journal names are still there."""
    found = []
    pid = journal.get("pid")
    if type(pid) is int and journal.get("start_time") and identity.start_time(pid) == journal["start_time"]:
        found.append(f"process {pid}")
    paths = (journal.get("cgroup") or {}).get("paths") or {}
    named = [path for path in (paths.values() if type(paths) is dict else ()) if type(path) is str]
    there = [path for path in dict.fromkeys(named) if os.path.isdir(path)]
    if there:
        found.append(f"cgroup {there[0]}" + (f", in {len(there)} hierarchies" if len(there) > 1 else ""))
    return found


# -- namespaces ------------------------------------------------------------------------------------------------------


def namespaces(pid: int, saved: dict[str, Any]) -> Iterator[Finding]:
    """Whether init is still in namespaces other than ours."""
    own, unreadable = [], []
    for kind in saved["namespaces"]:
        name = linux.NAMESPACES.get(kind, (0, ""))[1]
        try:
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino == os.stat(f"/proc/self/ns/{name}").st_ino:
                own.append(kind)
        except OSError as error:
            unreadable.append(f"{kind}: {error.strerror}")
    what = "namespaces"
    if unreadable:
        yield Finding(NOTE, "container.namespaces", what, f"cannot be looked at: {', '.join(unreadable)}")
    elif own:
        yield Finding(
            NOTE, "container.namespaces", what, f"those of this shell: {' '.join(own)} (given by path, or left)"
        )
    else:
        yield Finding(OK, "container.namespaces", what, " ".join(saved["namespaces"]) or "those of the host")
    yield _mounts(pid)


def _mounts(pid: int) -> Finding:
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace", newline="\n") as file:
            lines = [line for line in file.read().split("\n") if line]
        root = os.readlink(f"/proc/{pid}/root")
    except OSError as error:
        return Finding(NOTE, "container.mounts", "mounts", f"cannot be looked at: {error.strerror}")
    deleted = [line.split(" ")[4] for line in lines if line.split(" ")[3].endswith("//deleted")]
    if deleted:
        text = f"{len(lines)}; the sources of {', '.join(deleted[:5])} have been removed"
        return Finding(
            WARNING, "container.mounts", "mounts", text, "files written there are lost: make the container anew"
        )
    if root == "/" and not lines:
        return Finding(ERROR, "container.mounts", "mounts", "none: its root file system has been unmounted")
    return Finding(OK, "container.mounts", "mounts", f"{len(lines)}")


# -- cgroup ----------------------------------------------------------------------------------------------------------


def cgroup(word: str, pid: int, saved: dict[str, Any], delete: str) -> Iterator[Finding]:
    """Whether its cgroup is there, who is in it, and whether it has come to its limits."""
    made = lifecycle.cgroup_of(saved)
    if not made.paths:
        yield Finding(NOTE, "container.cgroup", "cgroup", "none: nothing is limited, and it cannot be paused")
        return
    missing = [path for path in made.directories() if not os.path.isdir(path)]
    if word == status.STOPPED:
        yield _left(made, missing, delete)
        return
    if missing:
        yield Finding(
            WARNING,
            "container.cgroup",
            "cgroup",
            f"gone: {', '.join(missing)}",
            "somebody has removed it: limits are not kept, make the container anew",
        )
        return
    pids = made.pids()
    severity = OK if pid in pids else WARNING
    outside = "" if pid in pids else ", and init is not in it: somebody has moved it"
    yield Finding(
        severity, "container.cgroup", made.describe(), f"{len(pids)} process{'es' if len(pids) != 1 else ''}{outside}"
    )
    yield from _frozen(made, word)
    yield from _memory(made)
    yield from _pids(made)
    yield from _cpu(made)


def _left(made: Cgroup, missing: list[str], delete: str) -> Finding:
    there = [path for path in made.directories() if path not in missing]
    pids = made.pids() if there else []
    if pids:
        text = f"{made.describe()} still has {len(pids)} process(es): {walk.stuck(pids)}"
        return Finding(WARNING, "container.cgroup", "cgroup", text, delete)
    return Finding(OK, "container.cgroup", "cgroup", "empty; delete removes it" if there else "gone")


def is_frozen(saved: dict[str, Any]) -> bool:
    """Whether its processes are frozen, be it by a cgroup above theirs."""
    made = lifecycle.cgroup_of(saved)
    if made.version == 2 and made.paths:
        return walk.value(f"{made.main()}/cgroup.events", "frozen") == 1
    return bool(made.is_frozen())


def _frozen(made: Cgroup, word: str) -> Iterator[Finding]:
    """A freeze that does not come to its end, or one of a cgroup above."""
    path = made.place("freezer")
    if not path:
        return
    if made.version == 1:
        state = walk.text(f"{path}/freezer.state").strip()
        above = walk.number(f"{path}/freezer.parent_freezing") == 1
        if state == "FREEZING":
            yield Finding(
                ERROR,
                "container.freezer",
                "freezer",
                f"on its way for ever: {walk.stuck(made.pids())}",
                f"thaw it:\n  echo THAWED > {path}/freezer.state",
            )
    else:
        own = walk.text(f"{path}/cgroup.freeze").strip() == "1"
        above = walk.value(f"{path}/cgroup.events", "frozen") == 1 and not own
    if above:
        file = "freezer.state" if made.version == 1 else "cgroup.freeze"
        frozen = _frozen_above(os.path.dirname(path), file)
        value = "THAWED" if made.version == 1 else "0"
        yield Finding(
            ERROR,
            "container.freezer",
            "freezer",
            f"{frozen} is frozen, and all below it",
            f"thaw that one:\n  echo {value} > {frozen}/{file}",
        )


def _frozen_above(path: str, file: str) -> str:
    while path.count("/") > 3:
        above = walk.text(f"{os.path.dirname(path)}/{file}").strip()
        own = walk.text(f"{path}/{file}").strip()
        if own in ("1", "FROZEN", "FREEZING") and above not in ("1", "FROZEN", "FREEZING"):
            return path
        path = os.path.dirname(path)
    return path


def _memory(made: Cgroup) -> Iterator[Finding]:
    path = made.place("memory")
    if not path:
        return
    kills, limit = made.oom_kills(), made.memory_limit()
    usage = walk.number(f"{path}/{'memory.usage_in_bytes' if made.version == 1 else 'memory.current'}")
    if usage < 0:
        return
    bound = f" of {in_words(limit)}" if limit else ", not limited"
    used = f"{usage >> 10} KiB used{bound}"
    if kills:
        text = f"{kills} process{'es were' if kills != 1 else ' was'} killed for want of memory; {used}"
        yield Finding(
            WARNING, "container.memory", "memory", text, "raise linux.resources.memory.limit (`pyrunc update --memory`)"
        )
    elif made.version == 1 and walk.value(f"{path}/memory.oom_control", "under_oom"):
        text = f"at its limit, and the out-of-memory killer is off: its processes wait; {used}"
        yield Finding(
            ERROR,
            "container.memory",
            "memory",
            text,
            "raise the limit (`pyrunc update --memory`), or end a process of it",
        )
    elif limit and usage >= limit * _SHORT:
        yield Finding(NOTE, "container.memory", "memory", used)
    else:
        yield Finding(OK, "container.memory", "memory", used)


def _pids(made: Cgroup) -> Iterator[Finding]:
    path = made.place("pids")
    limit, now = (walk.number(f"{path}/pids.{name}") for name in ("max", "current")) if path else (-1, -1)
    if limit < 0 or now < 0:
        return
    refused = walk.value(f"{path}/pids.events", "max")
    text = f"{now} processes and threads of at most {limit}"
    if now >= limit or refused:
        text += f"; {refused} times one more was refused" if refused else ""
        yield Finding(
            WARNING,
            "container.pids",
            "processes",
            text,
            "raise linux.resources.pids.limit (`pyrunc update --pids-limit`)",
        )
    else:
        yield Finding(OK, "container.pids", "processes", text)


def _cpu(made: Cgroup) -> Iterator[Finding]:
    path = made.place("cpu")
    periods, throttled = (
        (walk.value(f"{path}/cpu.stat", f"nr_{name}") for name in ("periods", "throttled")) if path else (0, 0)
    )
    if periods and throttled:
        share = 100 * throttled // periods
        severity = NOTE if share < 50 else WARNING
        yield Finding(severity, "container.cpu", "processor", f"held back by its quota in {share} % of all periods",
                      "raise linux.resources.cpu.quota (`pyrunc update --cpu-quota`)")  # fmt: skip


# -- bundle ----------------------------------------------------------------------------------------------------------


def bundle(entry: Entry, saved: dict[str, Any]) -> Iterator[Finding]:
    """Whether the bundle is still there and what it was."""
    what, path = "bundle", saved["bundle"]
    if not os.path.isdir(path):
        hooks = "; its poststop hooks were to run there" if saved.get("has_poststop") else ""
        yield Finding(
            NOTE, "container.bundle", what, f"{path} is gone{hooks}", "it is not needed to delete the container"
        )
        return
    try:
        with open(f"{path}/config.json", "rb") as file:
            same = file.read() == entry.read("config.json")
    except OSError:
        same = True  # engines write it elsewhere, or remove it
    if same:
        yield Finding(OK, "container.bundle", what, path)
    else:
        yield Finding(
            NOTE,
            "container.bundle",
            what,
            f"{path}/config.json has been changed since",
            "that has no effect on this container",
        )
