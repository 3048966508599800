"""What this process may do: capabilities as root, subordinate ids and their programs as anybody else."""

from __future__ import annotations

import os

from runtime import linux, unprivileged, userns
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding
from runtime.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.host import Host

#: what a missing capability costs; of the others the container goes without them, with a warning
_COSTS = {
    "CAP_SYS_ADMIN": (ERROR, "no namespace, mount or cgroup can be made"),
    "CAP_SYS_CHROOT": (WARNING, "exec, and mount namespaces given by path, are refused (setns)"),
    "CAP_SETUID": (ERROR, "a process can become no other user"),
    "CAP_SETGID": (ERROR, "a process can become no other group"),
    "CAP_MKNOD": (ERROR, "devices cannot be made"),
    "CAP_SETPCAP": (ERROR, "capabilities cannot be dropped"),
    "CAP_KILL": (WARNING, "containers of other users cannot be killed"),
    "CAP_DAC_OVERRIDE": (WARNING, "files of other users cannot be reached"),
    "CAP_CHOWN": (WARNING, "terminals and standard streams keep their owner"),
    "CAP_FOWNER": (WARNING, "modes of other users' files cannot be set"),
    "CAP_NET_ADMIN": (WARNING, "the loopback interface of a container stays down, net.* sysctls are refused"),
    "CAP_SYS_PTRACE": (NOTE, "/proc of other users' processes is closed"),
    "CAP_SYS_RESOURCE": (NOTE, "process.rlimits above the present hard limits and a lower oomScoreAdj are refused"),
    "CAP_BPF": (NOTE, "device rules on cgroup v2 need CAP_SYS_ADMIN instead"),
}


def check(host: Host) -> Iterator[Finding]:
    """Who we are and what that allows."""
    yield _who(host)
    if host.euid == 0:
        yield from _capabilities(host)
    if host.is_rootless:
        yield from _subordinate(host)
        yield _runtime_dir(host)


def _who(host: Host) -> Finding:
    inside = ", of a user namespace that somebody else made" if host.in_user_ns else ""
    name = "root" if host.euid == 0 else f"uid {host.euid}"
    rootless = "; containers are rootless" if host.is_rootless else ""
    return Finding(OK, "privileges.user", "user", f"{name}{inside}{rootless}")


def missing(host: Host) -> list[str]:
    """The capabilities that this process does not have."""
    return [
        name for bit, name in enumerate(linux.CAPABILITIES) if bit <= host.last_cap and not host.capabilities >> bit & 1
    ]


def _capabilities(host: Host) -> Iterator[Finding]:
    absent = missing(host)
    if not absent:
        yield Finding(OK, "privileges.capabilities", "capabilities", f"all {host.last_cap + 1}")
        return
    advice = "give them to the service, container or session that pyrunc is started from"
    for name in absent:
        if name in _COSTS:
            severity, cost = _COSTS[name]
            if host.in_user_ns and severity == ERROR:
                severity = WARNING
            id_ = f"privileges.{name[4:].lower().replace('_', '-')}"
            yield Finding(severity, id_, name, f"root has not got it here: {cost}", "" if severity == NOTE else advice)
    rest = [name for name in absent if name not in _COSTS]
    if rest:
        found = f"root has not got {' '.join(rest)}: containers that ask for them go without"
        yield Finding(NOTE, "privileges.capabilities", "capabilities", found)


def _subordinate(host: Host) -> Iterator[Finding]:
    uid = os.getuid()
    only = "only one's own id can be mapped: images whose files belong to several users do not work"
    for program, file in (("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid")):
        try:
            path = userns.helper(program)
        except Error as error:
            yield Finding(
                WARNING,
                f"rootless.{program}",
                program,
                f"not installed: {only}",
                f"{error.hint}:\n  apt install uidmap",
            )
            continue
        why, _, advice = unprivileged.why_helper_is_powerless(path).partition(": ")
        if why:
            yield Finding(WARNING, f"rootless.{program}", program, f"{why}: {only}", advice)
        else:
            yield Finding(OK, f"rootless.{program}", program, path)
        owned = unprivileged.ranges(file, uid)
        id_ = f"rootless.{os.path.basename(file)}"
        if owned:
            yield Finding(OK, id_, file, ", ".join(f"{count} ids from {first}" for first, count in owned))
        else:
            advice = f"as root:\n  echo {unprivileged.line_for(file, uid)} >>{file}"
            yield Finding(WARNING, id_, file, f"no range for {unprivileged.name_of(uid)}: {only}", advice)


def _runtime_dir(host: Host) -> Finding:
    what = "$XDG_RUNTIME_DIR"
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    if host.euid == 0:
        return Finding(OK, "rootless.runtime-dir", what, path or "not set, and not needed by root of a user namespace")
    if not path:
        advice = "log in through PAM (or `loginctl enable-linger`), or give --root with every command"
        return Finding(
            ERROR, "rootless.runtime-dir", what, "not set: there is no place for the containers' state", advice
        )
    try:
        info = os.stat(path)
    except OSError as error:
        return Finding(
            ERROR, "rootless.runtime-dir", what, f"{path}: {error.strerror}", f"mkdir -m 700 {path}, or give --root"
        )
    if info.st_uid != host.euid:
        advice = f"it is left over from another user's session: export XDG_RUNTIME_DIR=/run/user/{host.euid}"
        return Finding(ERROR, "rootless.runtime-dir", what, f"{path} belongs to uid {info.st_uid}", advice)
    return Finding(OK, "rootless.runtime-dir", what, path)
