"""The kernel: its version, and whether it does what every container needs. What can be tried is tried."""

from __future__ import annotations

from runtime import linux, unprivileged
from runtime import system as os
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, trial
from runtime.ops import FLAG_RECURSIVE
from runtime.plan import Op
from runtime.refusals import FLOOR
from runtime.texts import lines, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.host import Host

_SYS_ADMIN = 1 << linux.CAPABILITIES.index("CAP_SYS_ADMIN")


def check(host: Host) -> Iterator[Finding]:
    """Everything about the kernel."""
    yield _version(host)
    yield _interpreter()
    yield _namespaces(host)
    yield from _user_namespaces(host)
    yield _mounts(host)
    yield _pidfd()
    yield _filesystems()


def is_privileged(host: Host) -> bool:
    """Whether namespaces can be made without a user namespace."""
    return bool(host.capabilities & _SYS_ADMIN)


def number(release: str) -> tuple[int, int]:
    """The version that a release begins with: (6, 18) of `6.18.44-cloud`."""
    major, _, rest = release.partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(major), int(minor)) if major.isdigit() and minor else (0, 0)


def _version(host: Host) -> Finding:
    floor = ".".join(map(str, FLOOR))
    found = f"Linux {host.kernel} on {host.machine}; {floor} or newer is needed"
    if number(host.kernel) >= FLOOR:
        return Finding(OK, "kernel.version", "kernel", found)
    return Finding(
        ERROR, "kernel.version", "kernel", found, "boot a newer kernel: containers cannot be made on this one"
    )


def _interpreter() -> Finding:
    policy = text("/proc/sys/vm/memfd_noexec")
    what = "interpreter from a memfd"
    why = trial.refused([])
    if why:
        advice = (
            "sysctl vm.memfd_noexec=1" if policy == "2" else "the interpreter is a static program in a sealed memfd"
        )
        return Finding(ERROR, "kernel.interpreter", what, f"{why} (vm.memfd_noexec is {policy or 'not there'})", advice)
    return Finding(OK, "kernel.interpreter", what, f"runs (vm.memfd_noexec is {policy or 'not there'})")


def _namespaces(host: Host) -> Finding:
    kinds = [(kind, flag) for kind, (flag, _) in linux.NAMESPACES.items() if kind != "user"]
    privileged = is_privileged(host)
    bad = {kind: trial.refused([trial.unshare(flag, is_privileged=privileged)]) for kind, flag in kinds}
    why = "; ".join(f"{kind}: {reason.rpartition(': ')[2]}" for kind, reason in bad.items() if reason)
    how = "" if privileged else ", each in a user namespace"
    if not why:
        return Finding(OK, "kernel.namespaces", "new namespaces", " ".join(bad) + how)
    advice = "a container without the namespace can be made: leave it out of linux.namespaces"
    if len([reason for reason in bad.values() if reason]) == len(bad):
        advice = (
            "see userns.create"
            if not privileged
            else "look for a seccomp filter or a security module above this process"
        )
    severity = NOTE if [kind for kind, reason in bad.items() if reason] == ["time"] else ERROR
    return Finding(severity, "kernel.namespaces", f"new namespaces{how}", why, advice)


def _user_namespaces(host: Host) -> Iterator[Finding]:
    why = trial.refused([trial.unshare(0, is_privileged=False)])
    worst = ERROR if not is_privileged(host) else WARNING
    if why:
        advice = "containers of ordinary users, and those with linux.uidMappings, cannot be made"
        yield Finding(worst, "userns.create", "new user namespace", why.rpartition(": ")[2], advice)
    else:
        limit = text("/proc/sys/user/max_user_namespaces")
        yield Finding(
            OK, "userns.create", "new user namespace", f"made; at most {limit or '?'} (user.max_user_namespaces)"
        )
    for name, bad, meaning, advice in unprivileged.SWITCHES:
        value = text(f"/proc/sys/{name}")
        if value == bad:
            id_ = f"userns.{name.partition('/')[2].replace('_', '-')}"
            yield Finding(
                WARNING if why else NOTE,
                id_,
                f"sysctl {name.replace('/', '.')}",
                f"{value}: {meaning}",
                f"as root:\n  {advice}",
            )


def _mounts(host: Host) -> Finding:
    ops = [
        trial.unshare(linux.CLONE_NEWNS, is_privileged=is_privileged(host)),
        # must come before anything is mounted: where mounts are shared, which systemd has them be, they would reach the host,
        # and with something on top of its root nobody could make a user namespace any more (EPERM, unshare(2))
        Op("mount-setattr", "/", c=linux.MS_SLAVE, flags=FLAG_RECURSIVE, about="mount_setattr"),
        Op("fsopen", "tmpfs", r0="fs", about="fsopen"),
        Op("fsmount", r0="fs", r1="mnt", about="fsmount"),
        Op("open-tree", "/", r0="tree", a=linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE, about="open_tree"),
        Op("mount-setattr", r0="mnt", a=linux.MOUNT_ATTR_NOSUID, about="mount_setattr"),
        Op("move-mount", "/", r0="mnt", r1="", about="move_mount"),
    ]
    names = "fsopen fsmount open_tree mount_setattr move_mount"
    why = trial.refused(ops)
    if not why:
        return Finding(OK, "kernel.mount-api", "new mount API", names)
    advice = "a seccomp filter above this process, or a security module, refuses them; an engine's default profile of 2021 or later has them"
    if trial.refused(ops[:1]):
        advice = "see kernel.namespaces: they were not reached"
    return Finding(ERROR, "kernel.mount-api", "new mount API", why, advice)


def _pidfd() -> Finding:
    from _signal import pidfd_send_signal

    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as error:
        return Finding(
            ERROR, "kernel.pidfd", "pidfd_open", str(error.strerror), "look for a seccomp filter above this process"
        )
    try:
        pidfd_send_signal(fd, 0)
    except OSError as error:
        return Finding(
            ERROR,
            "kernel.pidfd",
            "pidfd_send_signal",
            str(error.strerror),
            "look for a seccomp filter above this process",
        )
    finally:
        os.close(fd)
    return Finding(OK, "kernel.pidfd", "pidfd_open, pidfd_send_signal", "work")


def filesystems() -> set[str]:
    """The types of file systems that the kernel has now; modules may bring more."""
    return {line.split()[-1] for line in lines(text("/proc/filesystems")) if line.split()}


def _filesystems() -> Finding:
    wanted = ("overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue")
    there = filesystems()
    missing = [name for name in wanted if name not in there]
    if not missing:
        return Finding(OK, "kernel.filesystems", "file systems", " ".join(wanted))
    advice = "".join(f"\n  modprobe {name}" for name in missing)
    return Finding(
        WARNING, "kernel.filesystems", "file systems", f"not loaded: {' '.join(missing)}", f"as root:{advice}"
    )
