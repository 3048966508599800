"""Fields of a configuration whose trouble shows only when they are carried out: limits, ids, sources of mounts, hooks."""

from __future__ import annotations

import os
import resource

from runtime import linux, unprivileged
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, cgroups, kernel, trial
from runtime.plan import Op
from runtime.planner import sysctl
from runtime.texts import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.host import Host
    from runtime.plan import Plan

_SYS_RESOURCE = 1 << linux.CAPABILITIES.index("CAP_SYS_RESOURCE")
#: hooks that are looked up on the host's side (config.md#posix-platform-hooks)
_HOST_HOOKS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")


def cgroup(plan: Plan) -> Iterator[Finding]:
    """Files of limits that this kernel's cgroups do not have, judged by a cgroup beside the one to be made."""
    made = [step for step, _ in plan.host if step[0] in ("mkdir", "write", "write-either")]
    for _, target, _ in [step for step in made if step[0] == "mkdir" and step[1].startswith("/")]:
        why = cgroups.why_not(target)
        if why:
            yield Finding(ERROR, "bundle.cgroup.place", "/linux/cgroupsPath", f"{target} cannot be made: {why}",
                          "run as root, or ask for a cgroup that you may write to")  # fmt: skip
    for step in made:
        file = cgroups.lacking(step)
        if file:
            found = f"{file}: cgroups of this kernel have no such file"
            yield Finding(ERROR, "bundle.cgroup.file", "/linux/resources", found, "take the limit out")


def process(host: Host, config: dict[str, Any]) -> Iterator[Finding]:
    """Limits of the process and sysctls."""
    wanted = config.get("process") or {}
    privileged = bool(host.capabilities & _SYS_RESOURCE)
    for index, limit in enumerate(wanted.get("rlimits") or ()):
        if high := _too_high(limit, privileged):
            yield Finding(ERROR, "bundle.rlimit", f"/process/rlimits/{index}", *high)
    profile = wanted.get("apparmorProfile") or ""
    if profile and host.has_apparmor:
        why = trial.refused([Op("write", "/proc/self/attr/apparmor/exec", f"exec {profile}", about=profile)])
        if why:
            advice = "load it as root with apparmor_parser, or take it out"
            yield Finding(ERROR, "bundle.apparmor-profile", "/process/apparmorProfile", why, advice)
    score, own = wanted.get("oomScoreAdj"), text("/proc/self/oom_score_adj")
    if score is not None and own.lstrip("-").isdigit() and score < int(own) and not privileged:
        found = f"{score}, and without CAP_SYS_RESOURCE it cannot be lowered below {own}"
        advice, severity = f"raise it to {own}, or leave it out", WARNING if host.is_rootless else ERROR
        yield Finding(severity, "bundle.oom-score-adj", "/process/oomScoreAdj", found, advice)
    for key in (config.get("linux") or {}).get("sysctl") or {}:
        # a namespace of the container's own has the same parameters as ours, but for those of modules
        if not os.path.exists(f"/proc/sys/{sysctl.file_of(key)}"):
            advice = "a module may have to be loaded first, or this kernel is built without it"
            yield Finding(
                WARNING, "bundle.sysctl", "/linux/sysctl", f'"{key}" is not among the parameters of this host', advice
            )


def _too_high(limit: dict[str, Any], privileged: bool) -> tuple[str, str] | None:
    """Why a limit is more than can be had, and what to do."""
    name, asked = limit["type"], limit["hard"]
    number, all_files = linux.RLIMITS.get(name), text("/proc/sys/fs/nr_open")
    if name == "RLIMIT_NOFILE" and all_files.isdigit() and asked > int(all_files):
        advice = f"lower it to {all_files}, or as root raise fs.nr_open"
        return f"{name} {asked}, and fs.nr_open allows nobody more than {all_files}", advice
    hard = resource.getrlimit(number)[1] if number is not None else resource.RLIM_INFINITY
    if hard != resource.RLIM_INFINITY and asked > hard and not privileged:
        advice = f"lower it to {hard}, or raise the limit of whoever starts pyrunc"
        return f"{name} {asked}, and without CAP_SYS_RESOURCE {hard} is the most", advice
    return None


def users(host: Host, config: dict[str, Any]) -> Iterator[Finding]:
    """Ids that an ordinary user may not map."""
    if host.euid == 0:
        return
    section = config.get("linux") or {}
    for key, file, own in (("uidMappings", "/etc/subuid", os.getuid()), ("gidMappings", "/etc/subgid", os.getgid())):
        allowed = [(own, 1), *unprivileged.ranges(file, os.getuid())]
        for index, row in enumerate(section.get(key) or ()):
            first, count = row["hostID"], row["size"]
            if not any(begin <= first and first + count <= begin + size for begin, size in allowed):
                found = f"{count} ids from {first} are not yours to map: {', '.join(f'{size} from {begin}' for begin, size in allowed)} are"
                advice = unprivileged.why_no_ids(file, os.getuid(), [(first, count)])
                yield Finding(ERROR, "bundle.id-mapping", f"/linux/{key}/{index}", found, advice)


def mounts(host: Host, bundle: str, config: dict[str, Any]) -> Iterator[Finding]:
    """Sources that are not there, types of file systems that the kernel does not have, devices and namespaces that are gone."""
    known = kernel.filesystems()
    for index, mount in enumerate(config.get("mounts") or ()):
        where = f"/mounts/{index}"
        options = mount.get("options") or ()
        kind, source = mount.get("type") or "", mount.get("source") or ""
        if kind in ("bind", "rbind") or "bind" in options or "rbind" in options:
            path = os.path.join(bundle, source)
            if source and not os.path.lexists(path):
                found = f"{path} is not there, to be bound to {mount['destination']}"
                yield Finding(
                    ERROR, "bundle.mount.source", f"{where}/source", found, f"mkdir -p {path}, or correct the path"
                )
        elif kind and kind not in (*known, "cgroup", "cgroup2"):
            found = f'"{kind}" is no file system that this kernel has now'
            yield Finding(WARNING, "bundle.mount.type", f"{where}/type", found, f"as root: modprobe {kind}")
    section = config.get("linux") or {}
    for index, namespace in enumerate(section.get("namespaces") or ()):
        path = namespace.get("path")
        if path and not os.path.exists(path):
            found = f"{path} is not there: its process has ended, or the mount is gone"
            yield Finding(
                ERROR,
                "bundle.namespace",
                f"/linux/namespaces/{index}/path",
                found,
                "leave the path out for a new namespace",
            )
    bound = host.in_user_ns or any(one["type"] == "user" for one in section.get("namespaces") or ())
    for index, device in enumerate(section.get("devices") or ()):
        if bound and device["type"] != "p" and not os.path.exists(device["path"]):
            found = f"{device['path']} is not on this host, and in a user namespace a device is bound from there"
            yield Finding(
                ERROR, "bundle.device", f"/linux/devices/{index}", found, "take it out, or make it on the host"
            )


def hooks(config: dict[str, Any]) -> Iterator[Finding]:
    """Hooks whose program is missing on the host."""
    count = 0
    for kind in _HOST_HOOKS:
        for index, hook in enumerate((config.get("hooks") or {}).get(kind) or ()):
            count += 1
            path = hook["path"]
            if not os.path.exists(path):
                why = "is not there"
            elif not os.path.isfile(path) or not os.access(path, os.X_OK):
                why = "is no program that may be executed"
            else:
                continue
            severity = NOTE if kind == "poststop" else ERROR
            yield Finding(
                severity,
                "bundle.hook",
                f"/hooks/{kind}/{index}/path",
                f"{path} {why}",
                "install it, or take the hook out",
            )
    if count:
        yield Finding(OK, "bundle.hooks", "hooks of the host", f"{count} looked at")
