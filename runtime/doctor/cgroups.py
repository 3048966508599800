"""Cgroups: which layout, which controllers, and whether this user may make one where a container's would be."""

from __future__ import annotations

import os

from runtime import cgroups
from runtime.cgroups import delegation, walk
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, kernel
from runtime.errors import Error
from runtime.texts import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.host import Host
    from runtime.plan import Step

#: v1 controllers without which limits that every engine sets cannot be had
_USUAL = ("memory", "cpu", "cpuset", "pids", "devices", "freezer", "blkio")
_USUAL_V2 = ("memory", "cpu", "cpuset", "pids", "io")

#: a drop-in by which systemd hands all controllers to users
DELEGATE = f"""as root:
  mkdir -p {os.path.dirname(delegation.DROP_IN)}
  printf '[Service]\\nDelegate={" ".join(delegation.SYSTEMD)}\\n' > {delegation.DROP_IN}
  systemctl daemon-reload"""


def check(host: Host) -> Iterator[Finding]:
    """The layout, then controller by controller."""
    mode = host.cgroup_mode
    if mode == "none":
        advice = "as root:\n  mount -t cgroup2 none /sys/fs/cgroup"
        yield Finding(ERROR, "cgroup.layout", "cgroups", "no hierarchy is mounted", advice)
        return
    words = {
        "v1": "v1 alone",
        "v2": f"v2 alone, at {host.cgroup_unified}",
        "hybrid": f"hybrid: v1 with limits, v2 at {host.cgroup_unified}",
    }
    yield Finding(OK, "cgroup.layout", "cgroups", words[mode])
    yield _driver(host)
    try:
        chosen = cgroups.choose({}, "doctor", host)
    except Error as error:
        yield Finding(ERROR, "cgroup.place", "a container's cgroup", error.message, error.hint)
        return
    yield from _moves(host, walk.text("/proc/self/mountinfo"))
    if isinstance(chosen, cgroups.NoCgroup):
        advice = (
            f"containers run without limits, and every one in linux.resources is an error; {delegation.place_for(host)}"
        )
        yield Finding(WARNING, "cgroup.place", "a container's cgroup", chosen.why, advice)
    if mode == "v2":
        yield from _unified(host, chosen.paths.get("", ""))
    else:
        yield from _hierarchies(host, chosen.paths)


def has_systemd_driver() -> bool:
    """Whether this build can have systemd make cgroups."""
    from importlib.util import find_spec

    return find_spec("runtime.cgroups.systemd") is not None


def _driver(host: Host) -> Finding:
    what = "systemd"
    if not host.is_systemd:
        return Finding(OK, "cgroup.driver", what, "not running here: engines must use the driver cgroupfs")
    if has_systemd_driver():
        from runtime.cgroups import systemd

        try:
            version = systemd.version(host)
        except Error as error:
            advice = (
                error.hint or "configure the engine for cgroupfs, or see why systemd does not answer: systemctl status"
            )
            return Finding(WARNING, "cgroup.driver", what, f"running, but {error.message}", advice)
        return Finding(
            OK, "cgroup.driver", what, f"{version}; the drivers cgroupfs and systemd (--systemd-cgroup) can be used"
        )
    found = "running, but this version of pyrunc knows the driver cgroupfs alone"
    return Finding(
        NOTE, "cgroup.driver", what, found, "configure the engine for cgroupfs: pyrunc doctor --engine ... checks it"
    )


def _moves(host: Host, mountinfo: str) -> Iterator[Finding]:
    """Whether whoever moves a process into a cgroup has to wait, as systemd does with each container's (cgroup-v2.rst, favordynmods)."""
    # before 6.0 no hierarchy could be mounted otherwise; a container's own process is begun in its cgroup where we make it
    if not host.is_systemd or not host.cgroup_unified or kernel.number(host.kernel) < (6, 0):
        return
    what = "moving processes"
    options = {word for line in lines(mountinfo) if " - cgroup" in line for word in line.split()[-1].split(",")}
    if "favordynmods" in options:
        yield Finding(OK, "cgroup.moves", what, "nobody waits for it (favordynmods)")
        return
    found = (
        "takes a grace period of RCU, ten milliseconds and more, in each start of a container with the driver systemd"
    )
    advice = (
        f"where that counts, as root, until the next boot:\n  mount -o remount,favordynmods {host.cgroup_unified}\n"
        "from then on cgroup_favordynmods=1 does it on the kernel's command line (Linux 6.7); forks and exits get slower by a little"
    )
    yield Finding(NOTE, "cgroup.moves", what, found, advice)


def why_not(path: str) -> str:
    """Why a cgroup cannot be made at `path`: judged by its nearest parent that is there; "" where it can."""
    parent = os.path.dirname(path)
    while not os.path.isdir(parent) and parent != "/":
        parent = os.path.dirname(parent)
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        return f"{parent} is mounted read-only"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} is not writable for uid {os.geteuid()}"
    return ""


def _hierarchies(host: Host, paths: dict[str, str]) -> Iterator[Finding]:
    compiled = _compiled()
    unified = walk.text(f"{host.cgroup_unified}/cgroup.controllers").split() if host.cgroup_unified else []
    unified = ["blkio" if name == "io" else name for name in unified]
    names = [*_USUAL, *sorted({*host.cgroup_mounts, *compiled, *unified}.difference(_USUAL))]
    unused = []
    for name in names:
        id_, what = f"cgroup.v1.{name.replace('name=', '')}", name.replace("name=", "named hierarchy ")
        if name in host.cgroup_mounts:
            yield _hierarchy(id_, what, host.cgroup_mounts[name], paths.get(name, ""), WARNING if paths else NOTE)
        elif name in unified:
            where = f"taken by {host.cgroup_unified}: in a hybrid layout no limit can be set there"
            yield Finding(WARNING if name in _USUAL else NOTE, id_, what, where)
        elif name in _USUAL:
            severity = ERROR if name == "devices" and not host.is_rootless else WARNING
            if name in compiled:
                place = f"/sys/fs/cgroup/{name}"
                advice = f"as root:\n  mkdir {place} && mount -t cgroup -o {name} none {place}"
                yield Finding(severity, id_, what, "not mounted", advice)
            else:
                yield Finding(severity, id_, what, "this kernel does not have it", "limits of this kind are errors")
        else:
            unused.append(name)
    if unused:
        yield Finding(NOTE, "cgroup.v1.unmounted", "further controllers", f"not mounted: {' '.join(unused)}")


def _hierarchy(id_: str, what: str, point: str, path: str, severity: str) -> Finding:
    if not path:
        return Finding(severity, id_, what, f"mounted, but uid {os.geteuid()} may make no cgroup in {point}")
    why = why_not(path)
    if why:
        return Finding(ERROR, id_, what, why, "run as root, or have the administrator give you a cgroup")
    return Finding(OK, id_, what, f"cgroups can be made in {os.path.dirname(path)}")


def _compiled() -> dict[str, bool]:
    """The controllers that the kernel has, by their names in v1, and whether a v1 hierarchy has taken them (/proc/cgroups)."""
    rows = [line.split() for line in walk.text("/proc/cgroups").rstrip("\n").split("\n")[1:]]
    return {row[0]: row[1] != "0" for row in rows if len(row) > 3 and row[3] == "1"}


def _unified(host: Host, path: str) -> Iterator[Finding]:
    top = host.cgroup_unified
    compiled = walk.text(f"{top}/cgroup.controllers").split()
    base = os.path.dirname(path) if path else f"{top}/user.slice/user-{host.euid}.slice/user@{host.euid}.service"
    if not os.path.isdir(base) and not path:
        yield _devices(host)  # nothing was given to this user anywhere
        return
    delegated = walk.text(f"{base}/cgroup.controllers").split()
    enabled = walk.text(f"{base}/cgroup.subtree_control").split()
    if path:
        why = why_not(path)
        severity = ERROR if why else OK
        yield Finding(severity, "cgroup.place", "a container's cgroup", why or f"can be made in {base}")
    may_enable = os.access(f"{base}/cgroup.subtree_control", os.W_OK)
    for name in [*_USUAL_V2, *sorted(set(compiled).difference(_USUAL_V2))]:
        id_ = f"cgroup.v2.{name}"
        if name in enabled or (name in delegated and may_enable):
            how = "is enabled" if name in enabled else "can be enabled"
            yield Finding(OK, id_, name, f"{how} in {base}")
        elif name in compiled:
            found, advice = f"not available in {base}", f"as root:\n  echo +{name} > {top}/cgroup.subtree_control"
            if host.is_systemd and name in delegation.SYSTEMD:
                advice = DELEGATE
            elif host.is_systemd:
                found, advice = f"{found}: systemd does not delegate it", ""
            yield Finding(WARNING if name in _USUAL_V2 else NOTE, id_, name, found, advice)
        else:
            found = "this kernel does not have it, or was started without it (cgroup_disable=)"
            if _compiled().get("blkio" if name == "io" else name):
                found = "taken by a hierarchy of cgroup v1"
            yield Finding(WARNING, id_, name, found, "limits of this kind are errors")
    yield _devices(host)


def _devices(host: Host) -> Finding:
    from runtime import kernel as extension
    from runtime.cgroups import devices

    what = "device rules, by a BPF program"
    try:
        os.close(extension.bpf_prog_load(devices.program(devices.state(None))))
    except OSError as error:
        if host.is_rootless:
            return Finding(OK, "cgroup.v2.devices", what, "not needed: an ordinary user's container has his own access")
        return Finding(
            ERROR,
            "cgroup.v2.devices",
            what,
            str(error.strerror),
            "CAP_BPF (or CAP_SYS_ADMIN) and CONFIG_CGROUP_BPF are needed",
        )
    return Finding(OK, "cgroup.v2.devices", what, "the kernel takes it")


def sibling(folder: str) -> str:
    """A cgroup like one to be made in `folder`, whose files are those that the new one will have; "" where there is none."""
    while not os.path.isdir(folder) and folder != "/":
        folder = os.path.dirname(folder)
    try:
        with os.scandir(folder) as found:
            return next((entry.path for entry in found if entry.is_dir(follow_symlinks=False)), "")
    except OSError:
        return ""


def lacking(step: Step) -> str:
    """The file that a step would write a limit to and that no cgroup here has, as far as a cgroup beside tells; "" for none."""
    kind, target, _ = step
    folder, name = os.path.split(target)
    beside = sibling(os.path.dirname(folder)) if kind in ("write", "write-either") and target.startswith("/") else ""
    if not beside:
        return ""
    delegated = f"{beside}/cgroup.controllers"
    if os.path.exists(delegated) and name.partition(".")[0] not in walk.text(delegated).split():
        return ""  # v2: its files come when the controller is enabled, which is a step of its own
    names = name.split("|")
    return "" if any(os.path.exists(f"{beside}/{one}") for one in names) else " or ".join(names)
