"""Which cgroup a container gets, and who drives it: the one place that knows v1, v2, hybrid, systemd and rootless.

    choose(config, id, host, systemd, manager) -> Cgroup      for a container to be
    from_state(saved, host) -> Cgroup                         for one that is there
    of_init(cgroup, pid) -> [":/sub"]                         where in it a further process goes

Both answer an object with the same methods (`fs.Cgroup`, or `NoCgroup` where there is none). Nothing is made here.
"""

from __future__ import annotations

from runtime import system as os
from runtime.cgroups import fs, walk
from runtime.errors import CgroupError, ConfigError, StateError, Unsupported, UsageError
from runtime.texts import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cgroups.fs import Cgroup, Step


def choose(config: dict[str, Any], id: str, host: Any, systemd: bool = False, manager: str = "") -> Cgroup | NoCgroup:
    """The cgroup for a new container; raise where what is asked for cannot be had."""
    if manager not in ("", "cgroupfs", "systemd", "disabled"):
        raise UsageError(f'--cgroup-manager: "{manager}" is none of cgroupfs, systemd, disabled')
    if manager == "disabled":
        none = NoCgroup("cgroups are disabled (--cgroup-manager)")
        if ((config.get("linux") or {}).get("resources") or {}).get("devices"):
            none.warnings.append("linux.resources.devices: not enforced: cgroups are disabled (--cgroup-manager)")
        return none
    asked = (config.get("linux") or {}).get("cgroupsPath") or ""
    if "\0" in asked or "\n" in asked:
        raise ConfigError("/linux/cgroupsPath", "must contain neither NUL nor a newline")
    if systemd or manager == "systemd":
        from runtime.cgroups import systemd as driver

        return driver.choose(asked, id, host)
    inner = _inner(asked, id)
    if host.cgroup_mode == "v2":
        return _unified(inner, asked, host)
    return _hierarchies(inner, asked, host)


def from_state(saved: dict[str, Any], host: Any) -> Cgroup | NoCgroup:
    """The cgroup that an object's `state()` described."""
    if not saved:
        return NoCgroup("the container has no cgroup")
    paths = saved.get("paths")
    if saved.get("version") not in (1, 2) or type(paths) is not dict or not paths:
        raise StateError("the state file does not say which cgroup the container has")
    for path in paths.values():
        # these directories are removed and the processes in them killed: nothing but plain absolute paths will do
        if type(path) is not str or path.count("/") < 2 or path != os.path.normpath(path) or path[0] != "/":
            raise StateError(f"the state file names no cgroup that can be the container's: {path!r}")
    if "unit" in saved:
        from runtime.cgroups import systemd as driver

        scope = driver.from_state(saved, host)
        if scope is None:
            raise StateError(f"the state file names no unit that can be the container's: {saved['unit']!r}")
        return scope
    return fs.Cgroup(saved["version"], paths, host)


def of_init(cgroup: Cgroup | NoCgroup, pid: int) -> list[str]:
    """Where below the container's cgroup a further process joins, as exec's --cgroup would say it; empty for the cgroup itself.

    On v2 a cgroup that passes controllers on may hold no process (cgroups(7), no internal processes). A service manager in
    the container makes its own so, after it has moved itself and all others into cgroups below: then it is that of init.
    """
    own = cgroup.paths.get("", "")
    if own and walk.text(f"{own}/cgroup.subtree_control").strip():
        for line in lines(walk.text(f"/proc/{pid}/cgroup")):
            path = _joined(cgroup.host.cgroup_unified, line[3:]) if line.startswith("0::") else ""
            if path.startswith(own + "/"):
                return [f":{path[len(own) :]}"]
    return []


def is_late(step: Step) -> bool:
    """Whether a step must wait until init has forked for the last time: with a pids.limit of 1 or 0 it could not any more."""
    return step[1].endswith("/pids.max") or step[0] == "set-property"


def _inner(asked: str, id: str) -> str:
    """cgroupsPath as it is meant: absolute from the hierarchies' roots, otherwise from the caller's own cgroup."""
    if not asked:
        return id
    # As in runc `..` cannot climb above where the path begins: /../x is /x, and ../x is x.
    clean = os.path.normpath("/" + asked.lstrip("/"))
    if clean == "/":
        # everything that is done to a container's cgroup, killing and removing included, would hit all others
        raise ConfigError("/linux/cgroupsPath", f'must name a cgroup for the container alone, not "{asked}"')
    return clean if asked[0] == "/" else clean[1:]


def _unified(inner: str, asked: str, host: Any) -> Cgroup | NoCgroup:
    top = host.cgroup_unified
    base = top
    if inner[0] != "/":
        # Beside the caller's cgroup and not in it: a cgroup that holds processes cannot pass controllers on (cgroups(7),
        # no internal processes).
        base = _joined(top, os.path.dirname(host.own_cgroups.get("", "/")))
    path = _joined(base, inner)
    if host.is_rootless and not asked and not _may_make(base, "cgroup.procs"):
        return NoCgroup(f"{base} is not delegated to uid {host.euid}, who may make no cgroup in it", 2, host)
    return fs.Cgroup(2, {"": path}, host)


def _hierarchies(inner: str, asked: str, host: Any) -> Cgroup | NoCgroup:
    mounts: dict[str, str] = dict(host.cgroup_mounts)
    if host.cgroup_unified:
        mounts[""] = host.cgroup_unified  # hybrid: without limits, but systemd and `cgroup.kill` know processes by it
    paths = {}
    for name, top in mounts.items():
        base = top
        if inner[0] != "/":
            base = _joined(top, host.own_cgroups.get(name, "/"))
            if base != top and not os.path.isdir(base):
                base = top  # in a container without a cgroup namespace, the path is one of the host
        if host.is_rootless and not asked and not _may_make(base):
            continue
        paths[name] = _joined(base, inner)
    if not paths and host.is_rootless:
        return NoCgroup("container could not join or create cgroup", 1, host)
    if "devices" not in paths and not host.is_rootless:
        # runc refuses as well: without it nothing keeps a container from the host's disks
        raise Unsupported("the cgroup controller devices is not mounted on this host: device rules cannot be enforced")
    return fs.Cgroup(1, paths, host)


def _joined(top: str, path: str) -> str:
    return os.path.normpath(f"{top}/{path}")


def _may_make(folder: str, *files: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK) and all(os.access(f"{folder}/{file}", os.W_OK) for file in files)


class NoCgroup:
    """In place of a cgroup where there is none: `why` says why, and a limit that is asked for is refused with it."""

    __slots__ = ("why", "paths", "version", "made", "created_parents", "warnings", "is_foreign", "host")

    def __init__(self, why: str, version: int = 1, host: Any = None) -> None:
        self.why = why
        self.version = version
        #: whose lack of rights is the reason, if that is the reason
        self.host = host
        self.paths: dict[str, str] = {}
        self.made: list[str] = []
        self.created_parents: list[str] = []
        self.warnings: list[str] = []
        self.is_foreign = False

    def describe(self) -> str:
        """For a person."""
        return "no cgroup"

    def state(self) -> dict[str, Any]:
        """Nothing to find again."""
        return {}

    def steps(self, config: dict[str, Any]) -> list[Step]:
        """None; raises Unsupported where the configuration has a limit."""
        from runtime.cgroups import resources

        limits = resources.writes(self.version, (config.get("linux") or {}).get("resources") or {})
        if limits:
            raise Unsupported(f"cannot set {limits[0][0]} limit: {self.why}", self._hint())
        return []

    def _hint(self) -> str:
        """How there would be one."""
        if self.host is None:
            return ""
        from runtime.cgroups import delegation

        return delegation.place_for(self.host)

    def reach(self) -> None:
        """There is nothing to begin."""

    def run(self, step: Step, pid: int = 0) -> None:
        """There is nothing to run."""
        raise CgroupError(f"{step[0]} {step[1]}: {self.why}")

    def tell(
        self, writes: list[tuple[str, str, str]], after: dict[str, Any], rules: list[dict[str, Any]]
    ) -> tuple[str, ...]:
        """There is nobody to tell."""
        return ()

    def attach(self, step: Step, pid: int) -> None:
        """There is nothing to attach to."""

    def join_steps(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> list[Step]:
        """None."""
        if sub_cgroups:
            raise UsageError(f"--cgroup: {self.why}")
        return []

    self_join_steps = join_steps

    def clone_into(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> str:
        """Nowhere."""
        return ""

    def join(self, pid: int) -> None:
        """Nothing to join."""

    def pids(self) -> list[int]:
        """Nobody is known to be in it."""
        return []

    def is_empty(self) -> bool:
        """Nobody is known to be in it."""
        return True

    def exists(self) -> bool:
        """It does not."""
        return False

    def kill(self, signal: int) -> None:
        """Nobody is known to be in it."""

    def freezer_file(self) -> str:
        """None."""
        return ""

    def is_frozen(self) -> bool:
        """It cannot be."""
        return False

    def freeze(self) -> None:
        """Refuse: what was to stop would run on."""
        raise Unsupported("cannot toggle freezer: cgroups not configured for container")

    def thaw(self) -> None:
        """It was never frozen."""

    def oom_kills(self) -> int:
        """Nobody counts."""
        return 0

    def memory_limit(self) -> int:
        """None."""
        return 0

    def destroy(self) -> None:
        """Nothing to remove."""
