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
_FILES = "cgroup.procs cgroup.subtree_control cgroup.threads"


def place_for(host: Any) -> str:
    """A hint for a user who may make no cgroup where he is: how to get to a place where he may."""
    if host.cgroup_mode != "v2":
        return "without root there are no limits on cgroup v1, unless root gives the user a directory in each hierarchy"
    if not host.is_systemd:
        return f"as root, make a cgroup, give the user it and its {_FILES}, and start this from a cgroup below it"
    if os.path.exists(f"/run/user/{host.euid}/systemd"):
        return "the user's own systemd may: systemd-run --user --scope pyrunc ..."
    from runtime.unprivileged import name_of

    name = name_of(host.euid)
    return f"the user's own systemd may: as root, loginctl enable-linger {name}; then systemd-run --user --scope pyrunc ..."


def missing(folder: str, file: str) -> tuple[str, str]:
    """Why a v2 cgroup has no file of a controller, and a hint; ("", "") where the controller is there, and only the file is not."""
    controller = file.partition(".")[0]
    if controller in ("", "cgroup") or controller in walk.text(f"{folder}/cgroup.controllers").split():
        return "", ""
    above = os.path.dirname(folder)
    while os.path.exists(f"{above}/cgroup.controllers"):
        if controller in walk.text(f"{above}/cgroup.controllers").split():
            return f"{above} does not pass the controller {controller} on", _remedy(above, controller)
        above = os.path.dirname(above)
    return "", ""


def _remedy(above: str, controller: str) -> str:
    control = f"{above}/cgroup.subtree_control"
    if os.access(control, os.W_OK):
        if walk.text(f"{above}/cgroup.procs").split():
            return "processes are in it, and what holds processes passes nothing on: start this from a cgroup below it"
        return ""
    if "/user.slice" in above and controller in SYSTEMD and os.path.isdir("/run/systemd/system"):
        return f"it is not delegated to users: as root, {in_words()}"
    return f"it is not delegated: as root, echo +{controller} >{control}"


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
