"""The steps that make a cgroup and set its limits, in order, and how the rarer kinds of step are done.

mkdir          make the cgroup, and what is missing above it
write          write a value to a file
write-either   write to the first of two files that is there (`a|b`), each with a value of its own
write?missing  write, unless the kernel has no such file
write?denied   write, unless we may not: device rules of a user, who has the same access without them
cpuset         v2: write CPUs or memory nodes, and see that the cgroup has got them
inherit        v1 cpuset: take CPUs and memory nodes over from the cgroup above where there are none
enable         v2: let the cgroups below have controllers, as far as the cgroup has them itself
threaded       v2: where the cgroup above is threaded, be so too: it could take no process otherwise
devices        v2: attach a program that decides on devices
delegate       v2: give the cgroup to the container's user
delegate?denied  the same, unless that is another user than we are, to whom we may give nothing: then it stays ours
"""

from __future__ import annotations

from errno import EACCES, EINVAL, EPERM

from runtime import system as os
from runtime.cgroups import devices, fs, resources, walk
from runtime.errors import CgroupError, Unsupported, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.cgroups.fs import Cgroup, Step

#: controller -> the property that asks for it, for errors
_PROPERTIES = {
    "memory": "memory",
    "cpu": "cpu",
    "cpuset": "cpu",
    "pids": "pids",
    "blkio": "blockIO",
    "io": "blockIO",
    "hugetlb": "hugepageLimits",
    "net_cls": "network.classID",
    "net_prio": "network.priorities",
    "rdma": "rdma",
}


def steps(cgroup: Cgroup, config: dict[str, Any]) -> tuple[int, list[Step]]:
    """The memory limit, and all steps up to where a process may join; raises where a limit has nowhere to go."""
    wanted = (config.get("linux") or {}).get("resources") or {}
    cgroup.asked = wanted
    cgroup.warnings += resources.ignored(wanted)
    wanted_limits = limits(cgroup, resources.writes(cgroup.version, wanted, cgroup.host))
    # The one that tells whether the cgroup is another container's must come first: before it nothing has been changed.
    main = cgroup.main()
    found = [("mkdir", main, "")]
    found += [("mkdir", path, "") for path in cgroup.directories() if path != main]
    if cgroup.version == 2:
        # from the top: a controller can be enabled where the cgroup above has enabled it
        above = _above(main, cgroup.host.cgroup_unified)
        found += [("enable", path, controllers(cgroup.host)) for path in above]
        if len(above) > 1:  # the root is never threaded
            found.append(("threaded", main, ""))
    found += [step for step in wanted_limits if "/cpuset." in step[1]]
    if cgroup.version == 1 and "cpuset" in cgroup.paths:
        # after the configured CPUs, which may be exclusive and not the parent's; before any process joins
        found.append(("inherit", cgroup.paths["cpuset"], ""))
    found += [step for step in wanted_limits if "/cpuset." not in step[1]]
    # The longest part last: in a plan, what follows the limits is the device rules.
    found += device_steps(cgroup, wanted.get("devices"))
    if cgroup.version == 2:
        uid = _owner(config)
        if uid is not None:
            # an option of runtimes, which root of a user namespace has as well (config-linux.md, cgroup ownership)
            found.append(("delegate?denied" if cgroup.host.is_rootless else "delegate", main, str(uid)))
    return (wanted.get("memory") or {}).get("limit") or 0, found


def limits(cgroup: Cgroup, writes: list[tuple[str, str, str]]) -> list[Step]:
    """The steps for writes of `resources`; raises where one has nowhere to go."""
    return [_place(cgroup, write) for write in writes]


def _place(cgroup: Cgroup, write: tuple[str, str, str]) -> Step:
    controller, file, value = write
    path = cgroup.place(controller)
    if cgroup.version == 2 and controller in _PROPERTIES and controller not in controllers(cgroup.host).split():
        path = ""
    if not path:
        why = f"this host has no cgroup controller {controller}"
        if cgroup.version == 1 and cgroup.host.is_rootless and controller in cgroup.host.cgroup_mounts:
            why = "container could not join or create cgroup"
        asked = _PROPERTIES.get(controller, "unified")
        raise Unsupported(f"cannot set {controller} limit: {why} (linux.resources.{asked})")
    kind = "cpuset" if cgroup.version == 2 and file in ("cpuset.cpus", "cpuset.mems") else "write"
    if resources.EITHER in file:
        kind = "write-either"
    elif file.endswith(resources.OPTIONAL):
        kind, file = "write?missing", file[:-1]
    return kind, f"{path}/{file}", value


def controllers(host: Any) -> str:
    """The controllers of the v2 hierarchy, as its root lists them."""
    known = getattr(host, "cgroup_controllers", None)
    return known if known is not None else walk.text(f"{host.cgroup_unified}/cgroup.controllers").strip()


def _above(path: str, top: str) -> list[str]:
    """The cgroups from the root of the hierarchy to the one above `path`."""
    out = [top]
    for name in path[len(top) :].strip("/").split("/")[:-1]:
        out.append(f"{out[-1]}/{name}")
    return out


def device_steps(cgroup: Cgroup, rules: list[dict[str, Any]] | None) -> list[Step]:
    """What brings a new cgroup, on v2 also one in use, to the device rules."""
    what = devices.state(rules)
    # Without root there is nothing to be protected: whoever starts the container has the same access as it will have.
    may_fail = "?denied" if cgroup.host.is_rootless else ""
    if cgroup.version == 2:
        return [("devices" + may_fail, cgroup.main(), devices.text(what))]
    path = cgroup.paths.get("devices")
    if not path:
        return []  # without root; `choose` refuses otherwise
    return [("write" + may_fail, f"{path}/{file}", value) for _, file, value in devices.writes(what)]


def _owner(config: dict[str, Any]) -> int | None:
    """Who shall own the cgroup: the container's user, if it has a cgroup namespace and cgroup2 mounted for writing."""
    linux = config.get("linux") or {}
    if not any(ns["type"] == "cgroup" and not ns.get("path") for ns in linux.get("namespaces") or ()):
        return None
    for mount in config.get("mounts") or ():
        if os.path.normpath(mount["destination"]) == "/sys/fs/cgroup" and mount.get("type") in ("cgroup", "cgroup2"):
            if "ro" in (mount.get("options") or ()):
                return None
            break
    else:
        return None
    uid = ((config.get("process") or {}).get("user") or {}).get("uid", 0)
    for row in linux.get("uidMappings") or ():
        if 0 <= uid - row["containerID"] < row["size"]:
            return int(row["hostID"]) + int(uid) - int(row["containerID"])
    return None


def below(cgroup: Cgroup, sub_cgroups: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Where an exec with --cgroup joins: [CONTROLLER[,CONTROLLER]:]PATH, below the container's own cgroup."""
    out = dict(cgroup.paths)
    seen: set[str] = set()
    for word in sub_cgroups:
        names, colon, path = word.partition(":") if ":" in word else ("", "", word)
        if ".." in path.split("/"):
            raise UsageError(f'bad sub cgroup path: "{path}" leads out of the container\'s cgroup')
        if names and cgroup.version == 2:
            raise UsageError(f'--cgroup "{word}": cgroup v2 has no controllers to choose from')
        if not colon and len(sub_cgroups) > 1:
            raise UsageError(f'--cgroup "{word}": of several, each needs a controller')
        for name in names.split(",") if colon else list(cgroup.paths):
            if name not in out or name in seen:
                what = "is specified more than once" if name in seen else "is none of the container's"
                raise UsageError(f'--cgroup "{word}": controller "{name}" {what}')
            seen.add(name)
            out[name] = os.path.normpath(f"{out[name]}/{path}")
    return out


# -- doing them ------------------------------------------------------------------------------------------------------------


def _write_either(cgroup: Cgroup, target: str, value: str) -> None:
    folder, _, files = target.rpartition("/")
    choices = list(zip(files.split(resources.EITHER), value.split(resources.EITHER), strict=True))
    for file, text in choices:
        if os.path.exists(f"{folder}/{file}"):
            cgroup.write(f"{folder}/{file}", text)
            return
    from runtime.cgroups import delegation

    names = " nor ".join(file for file, _ in choices)
    why, hint = delegation.missing(folder, choices[-1][0])
    raise Unsupported(f"cannot set a limit in {folder}: it has neither {names}: {why}", hint)


def _write_if_there(cgroup: Cgroup, target: str, value: str) -> None:
    if os.path.exists(target):
        cgroup.write(target, value)


def _write_if_allowed(cgroup: Cgroup, target: str, value: str) -> None:
    try:
        fs.write(target, value)
    except OSError as error:
        if error.errno not in (EPERM, EACCES):
            raise cgroup.why(target, value, error) from None


def _cpuset(cgroup: Cgroup, target: str, value: str) -> None:
    old = walk.text(target)
    cgroup.write(target, value)
    if not set(value) <= set("0123456789,-"):
        return  # the kernel knows more words (bitmap_parselist(9)): those who use them know it
    # cgroup v2 takes any, and gives what the cgroup above has where that is none of them (cgroup-v2.rst, cpuset.cpus.effective)
    asked, got = _numbers(value), _numbers(walk.text(f"{target}.effective"))
    if not got <= asked:
        fs.write(target, old)
        raise cgroup.why(target, value, OSError(EINVAL, ""))
    if got < asked:
        lacking = ",".join(str(number) for number in sorted(asked - got))
        cgroup.warnings.append(f'write "{value}" to {target}: {lacking} cannot be had from the cgroup above, ignoring')


def _numbers(words: str) -> set[int]:
    """The numbers of a list such as 0-3,7."""
    found: set[int] = set()
    for word in words.strip().split(","):
        first, _, last = word.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return found


def _inherit(cgroup: Cgroup, target: str, value: str) -> None:
    try:
        walk.inherit_cpuset(target)
    except OSError as error:
        raise fs.failed(f"give {target} CPUs and memory nodes", error) from None


def _enable(cgroup: Cgroup, target: str, value: str) -> None:
    path = f"{target}/cgroup.subtree_control"
    have = set(walk.text(path).split())
    missing = [name for name in value.split() if name not in have]
    if not missing:
        return
    try:
        fs.write(path, " ".join("+" + name for name in missing))
    except OSError:
        # One that cannot be had spoils the write for all. Which are missed shows where a limit finds no file.
        for name in missing:
            try:
                fs.write(path, "+" + name)
            except OSError:
                pass


def _threaded(cgroup: Cgroup, target: str, value: str) -> None:
    if walk.text(f"{target}/cgroup.type").strip() != "domain invalid":
        return
    for path in _above(target, cgroup.host.cgroup_unified):
        if walk.text(f"{path}/cgroup.type").strip() == "domain invalid":
            cgroup.write(f"{path}/cgroup.type", "threaded")
            # what was refused before: of controllers of threads it is possible now
            _enable(cgroup, path, controllers(cgroup.host))
    cgroup.write(f"{target}/cgroup.type", "threaded")


def _devices(cgroup: Cgroup, target: str, value: str) -> None:
    fs.attach_devices(target, devices.program(devices.state_of_text(value)))


def _devices_if_allowed(cgroup: Cgroup, target: str, value: str) -> None:
    try:
        _devices(cgroup, target, value)
    except CgroupError as error:
        if error.record.get("errno") not in (EPERM, EACCES):
            raise


def _delegate(cgroup: Cgroup, target: str, value: str) -> None:
    # which files may be given away, the kernel says itself (cgroup-v2.rst, Delegation)
    names = walk.text("/sys/kernel/cgroup/delegate").split()
    names += ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
    try:
        os.chown(target, int(value), -1)
        for name in dict.fromkeys(names):
            try:
                os.chown(f"{target}/{name}", int(value), -1, follow_symlinks=False)
            except FileNotFoundError:
                pass  # of a controller that is not enabled
    except OSError as error:
        raise fs.failed(f"give {target} to user {value}", error) from None


def _delegate_if_allowed(cgroup: Cgroup, target: str, value: str) -> None:
    try:
        os.chown(target, int(value), -1)
    except PermissionError:
        cgroup.warnings.append(
            f"give {target} to user {value}: only root may: it stays with user {cgroup.host.euid}, ignoring"
        )
        return
    _delegate(cgroup, target, value)


RUN: dict[str, Callable[[Cgroup, str, str], None]] = {
    "write-either": _write_either,
    "write?missing": _write_if_there,
    "write?denied": _write_if_allowed,
    "cpuset": _cpuset,
    "inherit": _inherit,
    "enable": _enable,
    "threaded": _threaded,
    "devices": _devices,
    "devices?denied": _devices_if_allowed,
    "delegate": _delegate,
    "delegate?denied": _delegate_if_allowed,
}
