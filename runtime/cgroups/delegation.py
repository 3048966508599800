"""Why a user, or a cgroup, has not been given what a limit needs: the words and hints of errors, and `doctor`'s.

A cgroup of v2 has the files of those controllers only that every cgroup above it passes on (cgroup.subtree_control), and a
user may make cgroups, and move processes, only below one that was given to him, with these files (cgroups(7), Delegation).
Nothing is changed here, and nothing asked before something has been refused.
"""

from __future__ import annotations

from errno import EACCES

from runtime import system as os
from runtime.cgroups import walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: what systemd can delegate, systemd.resource-control(5); all of it is given to users by this drop-in
SYSTEMD = ("cpu", "cpuset", "io", "memory", "pids")
DROP_IN = "/etc/systemd/system/user@.service.d/delegate.conf"
#: what cgroups(7) lets a threaded cgroup have
_THREADED = ("cpu", "cpuset", "perf_event", "pids")
_FILES = "cgroup.procs cgroup.subtree_control cgroup.threads"


def place_for(host: Any) -> str:
    """A hint for a user who may make no cgroup where he is: how to get to a place where he may."""
    if host.cgroup_mode != "v2":
        return "without root there are no limits on cgroup v1, unless root gives the user a directory in each hierarchy"
    if not host.is_systemd:
        return f"as root, make a cgroup, give the user it and its {_FILES}, and start this from a cgroup below it"
    if os.path.exists(f"/run/user/{host.euid}/systemd"):
        return "the user's own systemd may: --systemd-cgroup, or systemd-run --user --scope pyrunc ..."
    from runtime.unprivileged import name_of

    name = name_of(host.euid)
    return f"the user's own systemd may: as root, loginctl enable-linger {name}; then systemd-run --user --scope pyrunc ..."


def missing(folder: str, file: str) -> tuple[str, str]:
    """Why a cgroup does not have a file, and a hint: on v2, which cgroup above does not pass its controller on."""
    controller = file.partition(".")[0]
    here, below = folder, ""
    while controller != "cgroup" and (have := _controllers(here)) is not None:
        if controller in have:
            if not below:
                return f"this kernel has no {file}", ""
            why, hint = _why_not(here, controller)
            return f"{here} does not pass the controller {controller} on{why}", hint
        here, below = os.path.dirname(here), here
    return (f"{below} has no controller {controller}" if below else f"this kernel or this cgroup has no {file}"), ""


def _controllers(cgroup: str) -> list[str] | None:
    """Those that a v2 cgroup has; None for a directory that is no such cgroup."""
    path = f"{cgroup}/cgroup.controllers"
    return walk.text(path).split() if os.path.exists(path) else None


def _why_not(path: str, controller: str) -> tuple[str, str]:
    """Why a cgroup does not pass on a controller that it has, and what to do."""
    control = f"{path}/cgroup.subtree_control"
    if not os.access(control, os.W_OK):
        if "/user.slice" in path and controller in SYSTEMD and os.path.isdir("/run/systemd/system"):
            return ": not permitted", f"it is not delegated to users: as root, {in_words()}"
        return ": not permitted", f"it is not delegated: as root, echo +{controller} >{control}"
    kind = walk.text(f"{path}/cgroup.type").strip()  # the root, which may hold processes, has none
    # not cgroup.procs, where those of threaded cgroups below it are too
    has_threads = bool(walk.text(f"{path}/cgroup.threads").strip())
    # beside its own processes a cgroup passes on what threads can have, but only where no others are below it
    if has_threads and (kind == "domain" or kind == "domain threaded" and controller not in _THREADED):
        return (
            ": it holds processes itself",
            "what holds processes passes nothing on: start this from a cgroup below it",
        )
    if controller not in _THREADED and kind not in ("", "domain"):
        return f': it is "{kind}"', ""
    return "", ""


def in_words() -> str:
    """How the administrator has systemd give users every controller, in one line."""
    words = " ".join(SYSTEMD)
    return f'put "[Service]" and "Delegate={words}" into {DROP_IN}, and run systemctl daemon-reload'


def hint_for(path: str, host: Any) -> str:
    """A hint for a cgroup that may not be made, or a process that may not be moved into it."""
    if host is None or not host.is_rootless:
        return ""
    if path.endswith("/cgroup.procs"):
        from runtime.unprivileged import why_not_moved

        return why_not_moved(path, EACCES)
    return place_for(host)
