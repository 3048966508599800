"""A container's cgroup by way of systemd: a transient unit that systemd makes, and that has the limits as its properties too.

    steps     property, property, ..., start-unit, then the writes of `making`: what is in force is what the files say
    run       collects the properties; start-unit hands them to systemd together with the process that is to be in it
    destroy   a scope without processes goes by itself; only what does not is stopped

A scope needs a process from its beginning, and is gone with its last one. So init is launched first and moved by systemd;
from then on everything is as in `fs`, which does all that is not about the unit: joining by exec, killing, freezing.
"""

from __future__ import annotations

import time
from errno import EBUSY

from runtime import identity
from runtime import system as os
from runtime.cgroups import fs, systemd_properties, walk
from runtime.errors import CgroupError, Unsupported
from runtime.texts import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cgroups.fs import Step
    from runtime.cgroups.systemd_bus import Manager
    from runtime.cgroups.systemd_properties import Property

#: how long a scope without processes may take to go by itself before it is stopped
SETTLE_S = 0.5
#: how long to wait for a unit of the same name that is just going away
TAKEN_S = 5.0
#: with fewer tasks than this, init and the hooks that run in the container might not get as far as the program
FEW_TASKS = 16
#: controllers of v2 that systemd enables by itself for a unit with Delegate=
_MANAGED = frozenset(("cpuset", "cpu", "io", "memory", "pids"))
_SYSTEMD_V1 = "name=systemd"


class Scope(fs.Cgroup):
    """The cgroup of a unit; `unit` is its name, `address` where its manager is."""

    __slots__ = (
        "unit",
        "slice",
        "top",
        "address",
        "is_user",
        "is_new",
        "collects",
        "_asked",
        "_id",
        "_manager",
        "_properties",
        "_tried",
    )

    def __init__(self, version: int, paths: dict[str, str], host: Any, unit: str, is_user: bool) -> None:
        super().__init__(version, paths, host)
        self.unit = unit
        self.slice = ""
        #: where the cgroup of a user's manager is
        self.top = ""
        self.is_user = is_user
        #: the manager's address; "" for where it usually is
        self.address = ""
        #: a container to be, whose init systemd moves into it
        self.is_new = False
        #: whether systemd forgets the unit by itself, however it ended
        self.collects = False
        self._id = ""
        #: what annotations ask for
        self._asked: list[str] = []
        self._manager: Manager | None = None
        self._properties: list[Property] = []
        #: whether systemd was asked for the unit: then there may be one
        self._tried = True

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to find it again; JSON."""
        return {
            **super().state(),
            "unit": self.unit,
            "is_user": self.is_user,
            "address": self.address,
            "collects": self.collects,
        }

    def manager(self) -> Manager:
        """The connection to systemd, made when first needed."""
        if self._manager is None:
            from runtime.cgroups.systemd_bus import Manager, system_addresses, user_addresses

            addresses = user_addresses() if self.is_user else system_addresses()
            if self.address:
                addresses = list(dict.fromkeys([self.address, *addresses]))
            self._manager = Manager(addresses)
            self.address = self._manager.address
        return self._manager

    # -- making it ---------------------------------------------------------------------------------------------------------

    def steps(self, config: dict[str, Any]) -> list[Step]:
        """The unit with its properties, then what `making` has for its cgroup but for what systemd does."""
        from runtime.cgroups import devices, making, resources

        self._limit, found = making.steps(self, config)
        wanted = (config.get("linux") or {}).get("resources") or {}
        writes = resources.writes(self.version, wanted, self.host)
        self._check_delegation(writes)
        props = systemd_properties.unit(self.unit, self.slice, self._id, self.version)
        limits = systemd_properties.limits(self.version, writes, has_bfq=self._has_bfq(writes))
        late = [prop for prop in limits if prop[0] == "TasksMax" and prop[2] < FEW_TASKS]
        props += [prop for prop in limits if prop not in late]
        if not self.is_user:
            # without root systemd can load no program for devices either
            props += systemd_properties.device_policy(devices.state(wanted.get("devices")))
        # what the annotations say comes last and holds
        asked = systemd_properties.of_annotations(config)
        self._asked = [prop[0] for prop in asked]
        props += asked
        out: list[Step] = [("property", self.unit, systemd_properties.step_text(prop)) for prop in props]
        out.append(("start-unit", self.unit, "" if self.unit.endswith(".slice") else "$PID"))
        out += [("set-property", self.unit, systemd_properties.step_text(prop)) for prop in late]
        return out + self._without_systemds(found, writes)

    def _without_systemds(self, steps: list[Step], writes: list[tuple[str, str, str]]) -> list[Step]:
        idle = any(file == "cpu.idle" and value == "1" for _, file, value in writes)
        others = {controller for controller, _, _ in writes} - _MANAGED
        out = []
        for kind, target, value in steps:
            if kind == "mkdir" and (self.version == 2 or target == self.paths.get(_SYSTEMD_V1)):
                continue
            if kind == "threaded":
                continue  # systemd makes no threaded slices
            if kind == "enable":
                value = " ".join(name for name in value.split() if name in others)
                if not value:
                    continue
            if idle and target.endswith("/cpu.weight"):
                continue  # it is idle by now, and the kernel gives no weight to what is
            out.append((kind, target, value))
        return out

    def _check_delegation(self, writes: list[tuple[str, str, str]]) -> None:
        """A user's manager has the controllers that the system's has handed to it, and can give away no others."""
        if not self.is_user:
            return
        # not those of the slice: it has what the units in it have needed so far, and gets more when this one does
        have = walk.text(f"{self.top}/cgroup.controllers").split()
        for controller, _, _ in writes:
            if controller in _MANAGED and controller not in have:
                raise Unsupported(
                    f"cannot set {controller} limit: the user's systemd has no controller {controller}, only "
                    f"{' '.join(have) or 'none'}",
                    f"as root: systemctl edit user@.service, and there: [Service], Delegate={' '.join(sorted(_MANAGED))}",
                )

    def _has_bfq(self, writes: list[tuple[str, str, str]]) -> bool:
        """Whether cgroups have a weight for BFQ, where it matters: the root has no such file, all below it have."""
        if not any(file.startswith("io.bfq.weight") for _, file, _ in writes):
            return False
        # a user's manager when the unit is new, and the unit later on; in both the controller is there, or there is no limit
        places = (self.main(), self.top) if self.is_user else (f"{self.host.cgroup_unified}/init.scope",)
        return any(os.path.exists(f"{place}/io.bfq.weight") for place in places)

    def reach(self) -> None:
        """Greet systemd, which then answers while init is launched."""
        self.manager()

    def run(self, step: Step, pid: int = 0) -> None:
        """Do one step; raise what systemd or the kernel says to it."""
        kind, _, value = step
        if kind == "property":
            self._properties.append(systemd_properties.of_text(value))
        elif kind == "start-unit":
            self._start(pid if value else 0)
        elif kind == "set-property":
            self.set([systemd_properties.of_text(value)])
        else:
            super().run(step, pid)

    def _start(self, pid: int) -> None:
        properties = list(self._properties)
        if pid:
            properties.append(("PIDs", "au", [pid]))
        self._tried = True
        self._start_without_unknown(properties)
        if pid:
            self._check_place(pid)
        self.collects = ("CollectMode", "s", "inactive-or-failed") == _last(properties, "CollectMode")

    def _start_without_unknown(self, properties: list[Property]) -> None:
        """Start the unit; leave out what this systemd is too old to know."""
        from runtime.cgroups import systemd_bus

        deadline = time.monotonic() + TAKEN_S
        while True:
            try:
                self.manager().start(self.unit, properties)
                return
            except systemd_bus.Refusal as refusal:
                if refusal.name == systemd_bus.UNIT_EXISTS:
                    self._wait_for_name(deadline)
                    continue
                unknown = _unknown(refusal.words, properties) if refusal.name == systemd_bus.READ_ONLY else ""
                if unknown not in systemd_properties.YOUNG:
                    raise self._refused(refusal) from None
                properties[:] = [prop for prop in properties if prop[0] != unknown]
                if unknown != "CollectMode":
                    self.warnings.append(
                        f"this version of systemd does not know {unknown}: after a daemon-reload the limit may be lost"
                    )

    def _refused(self, refusal: Any) -> CgroupError:
        error: CgroupError = refusal.error(f"start unit {self.unit}")
        if self._asked:
            # systemd does not always say of which property it speaks, and ours it takes
            error.hint = f"annotations ask for {', '.join(systemd_properties.PREFIX + name for name in self._asked)}"
        return error

    def _wait_for_name(self, deadline: float) -> None:
        """A unit of the name is there: one that is over is made to be forgotten, one that runs is another container's."""
        from runtime.cgroups import systemd_bus

        manager = self.manager()
        manager.reset(self.unit)
        try:
            state = manager.get("ActiveState", "s", self.unit)
        except systemd_bus.Refusal:
            state = "gone"
        if state in ("active", "activating", "reloading") or time.monotonic() > deadline:
            self.is_foreign = True
            raise CgroupError(f"start unit {self.unit}: systemd has a unit of that name already, and it is {state}")
        time.sleep(0.002)

    def _check_place(self, pid: int) -> None:
        """Nothing that follows may be done to a cgroup that init is not in."""
        name = "" if self.version == 2 else _SYSTEMD_V1
        top = self.host.cgroup_unified if self.version == 2 else self.host.cgroup_mounts.get(name, "")
        wanted = self.paths.get(name, "")[len(top) :]
        for line in lines(walk.text(f"/proc/{pid}/cgroup")):
            _, names, found = line.split(":", 2)
            # one that has died meanwhile says so, or is moved no more, and why it has died will be told
            if names == name and found.removesuffix(" (deleted)") != wanted and not identity.is_exiting(pid):
                raise CgroupError(f"start unit {self.unit}: systemd has put the process into {found}, and not {wanted}")

    def _take_over(self, path: str) -> None:
        """v1: systemd has made some of the directories, with init in them."""

    def set(self, properties: list[Property]) -> None:
        """Change properties of the unit, all or none."""
        from runtime.cgroups import systemd_bus

        try:
            self.manager().set(self.unit, properties)
        except systemd_bus.Refusal as refusal:
            raise refusal.error(f"change unit {self.unit}") from None

    def tell(
        self, writes: list[tuple[str, str, str]], after: dict[str, Any], rules: list[dict[str, Any]]
    ) -> tuple[str, ...]:
        """Make the limits that the files have by now, and the device rules if there are others, properties of the unit; systemd
        then writes the files in its turn, and attaches a program of its own."""
        from runtime.cgroups import devices

        found = systemd_properties.limits(self.version, writes, has_bfq=self._has_bfq(writes))
        if (after.get("cpu") or {}).get("idle") == 1 or (after.get("unified") or {}).get("cpu.idle") == "1":
            found = [prop for prop in found if prop[0] != "CPUWeight" or prop[2] == 0]
        for name in (prop[0] for prop in found if prop[0] in systemd_properties.FIXED):
            self.warnings.append(
                f"systemd takes no other {name} for a unit that runs: a daemon-reload will undo this limit"
            )
        found = [prop for prop in found if prop[0] not in systemd_properties.FIXED]
        if rules and not self.is_user:
            # what is given is added to the list, unless it is nothing
            found.append(("DeviceAllow", "a(ss)", []))
            found += systemd_properties.device_policy(devices.state(rules))
        if not found:
            return ()
        self.set(found)
        # of a quota it knows whole percents, and no limit of 0
        return ("cpu.max", "cpu.cfs_quota_us", "pids.max")

    # -- joining it --------------------------------------------------------------------------------------------------------

    def join_steps(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> list[Step]:
        """None for init, which systemd has moved; where we may not move a process ourselves, systemd is asked to."""
        if self._is_joined():
            return []
        found = super().join_steps(sub_cgroups)
        if self._is_out_of_reach():
            return [("attach", self.unit, os.path.dirname(path)[len(self.main()) :]) for _, path, _ in found]
        return found

    def attach(self, step: Step, pid: int) -> None:
        """Do the step `attach` for a process."""
        from runtime.cgroups import systemd_bus

        _, unit, below = step
        try:
            self.manager().attach(unit, below, pid)
        except systemd_bus.Refusal as refusal:
            raise refusal.error(f"join unit {unit}") from None

    def self_join_steps(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> list[Step]:
        """None for init, which systemd has moved; on v1 only to the hierarchies that systemd uses."""
        return [] if self._is_joined() or self._is_out_of_reach() else super().self_join_steps(sub_cgroups)

    def clone_into(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> str:
        """Nowhere for init, which is in it."""
        return "" if self._is_joined() or self._is_out_of_reach() else super().clone_into(sub_cgroups)

    def _is_out_of_reach(self) -> bool:
        """Whether a user's process is outside of what systemd has delegated to the user, a login's session for example: across that
        border nobody but systemd may move processes (cgroups(7), Cgroups delegation containment)."""
        if not self.is_user:
            return False
        head, service, rest = self.main().partition("/user@")
        border = f"{head}{service}{rest.partition('/')[0]}"[len(self.host.cgroup_unified) :]
        own = self.host.own_cgroups.get("", "")
        return bool(service) and own != border and not own.startswith(border + "/")

    def _is_joined(self) -> bool:
        # by systemd, when it started the unit
        return self.is_new and self.version == 2 and self.unit.endswith(".scope")

    # -- the end of it -----------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """End the unit with every process that is still in it, and remove what systemd does not."""
        try:
            if not self.is_foreign and self._tried:
                self._end()
            if self._tried and any(os.path.isdir(path) for path in self.directories()):
                super().destroy()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _end(self) -> None:
        main = self.main()
        is_there = os.path.isdir(main)
        if is_there:
            self._empty(main)
            # Who has a connection does not wait: systemd is told of an empty cgroup 10 ms after its last change at the earliest
            # (CGROUP_FILE_NOTIFY_MIN_INTV), and of a program that ends at once the last one is its beginning.
            is_waited_for = self._manager is None and self.collects and self.unit.endswith(".scope")
            if is_waited_for and self._goes_by_itself():
                return
        elif self.collects:
            return
        try:
            manager = self.manager()
        except CgroupError:
            if is_there:
                raise
            return  # no process and no cgroup: what systemd may know of it, it forgets by itself
        manager.stop(self.unit, collects=self.collects)

    def _empty(self, main: str) -> None:
        """Kill what is left: systemd's own way is to ask, and to wait for a minute and a half."""
        from runtime.cgroups import freezer

        if self.is_empty():
            return
        self.kill(9)
        deadline = time.monotonic() + fs.DESTROY_S
        if self.version == 2:
            freezer.wait_for(main, "populated 0", deadline)
        else:
            while not self.is_empty() and time.monotonic() < deadline:
                time.sleep(0.002)
        left = self.pids()
        if left:
            raise fs.failed(f"remove cgroup {main}", OSError(EBUSY, ""), walk.stuck(left))

    def _goes_by_itself(self) -> bool:
        """Wait for systemd to notice that the last process is gone, and to clean up."""
        path = self.main() if self.version == 2 else self.paths.get(_SYSTEMD_V1, self.main())
        deadline = time.monotonic() + SETTLE_S
        pause = 0.0002
        while os.path.isdir(path):
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
        return True


def _last(properties: list[Property], name: str) -> Property | None:
    return next((prop for prop in reversed(properties) if prop[0] == name), None)


def _unknown(words: str, properties: list[Property]) -> str:
    """The property that systemd complains of."""
    return next((prop[0] for prop in properties if f" {prop[0]}," in words or f" {prop[0]} " in words + " "), "")
