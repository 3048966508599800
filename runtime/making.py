"""Config in, plan out: a container to be, before anything has been done. Everything in here reads, and changes nothing."""

from __future__ import annotations

from runtime import annotation, bundle, cgroups, inherited, lifecycle, planner, seccomp, store
from runtime import system as os
from runtime.host import Host
from runtime.plan import check
from runtime.planner.hooks import outputs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.intelrdt import Group
    from runtime.plan import Plan, Step


#: what the journal says of a container before any of it is there
NOTED = "id, ociVersion, bundle, rootfs, created, annotations, boot_id, cgroup, has_poststop"

#: what waits in a container that has no process: no program, no privilege, and `start` refuses it
IDLE: dict[str, Any] = {"cwd": "/", "args": [""], "noNewPrivileges": True}


class Making:
    """A container to be: its bundle, cgroup and plan, before anything has been done."""

    def __init__(
        self, ctx: lifecycle.Context, id_: str, bundle_path: str, options: Any, *, waits: bool, detached: bool
    ) -> None:
        store.check_id(id_)
        self.ctx = ctx
        self.id = id_
        self.options = options
        name = getattr(options, "config", None) or "config.json"
        self.bundle = bundle.load(bundle_path or ".", name, runs=not waits)
        self.config: dict[str, Any] = self.bundle.config
        self.host = Host()
        self.waits = waits
        self.detached = detached
        self.process: dict[str, Any] = self.config.get("process") or IDLE
        self.linux: dict[str, Any] = self.config.get("linux") or {}
        inherited.check_terminal(self.process, options, detached)
        self.rdt: Group | None = None
        if self.linux.get("intelRdt") is not None:  # {} asks for a class of its own
            from runtime import intelrdt

            self.rdt = intelrdt.Group(self.linux["intelRdt"], id_)
        self.cgroup = cgroups.choose(
            self.config, id_, cgroup_host(self.host, ctx.rootless), ctx.systemd_cgroup, ctx.cgroup_manager
        )
        self.warnings = annotation.check(self.config)
        self.filter = seccomp.of_container(self.config, self.host, ctx.cache_dir, keeps=False)
        self.plan = self._plan()

    def _plan(self) -> Plan:
        options = self.options
        request = planner.Request()
        request.id = self.id
        request.bundle = self.bundle.path
        request.config = self.config
        request.process = self.process
        request.host = self.host
        request.rootfs = os.path.join(self.bundle.path, self.config["root"]["path"])
        early: list[Step] = []
        late: list[Step] = []
        for step in self.cgroup.steps(self.config):
            (late if cgroups.is_late(step) else early).append(step)
        undo = {"mkdir": "remove", "start-unit": "stop"}
        request.cgroup_steps = [(step, undo.get(step[0], "")) for step in early]
        request.join_steps = self.cgroup.join_steps()
        request.self_join_steps = self.cgroup.self_join_steps()
        request.clone_into = self.cgroup.clone_into()
        request.cgroup_paths = self.cgroup.paths
        request.seccomp = self.filter
        request.listen_fds = inherited.listen_fds() if self.ctx.is_activated else 0
        request.preserve = (getattr(options, "preserve_fds", 0) or 0) + request.listen_fds
        request.no_pivot = bool(getattr(options, "no_pivot", False))
        request.no_new_keyring = bool(getattr(options, "no_new_keyring", False))
        request.wait_for_start = self.waits
        if self.ctx.is_activated and os.environ.get("NOTIFY_SOCKET"):
            request.notify_dir = f"{self.ctx.root}/{self.id}/notify"
        plan = planner.create(request)
        self._add_own(plan, request.notify_dir)
        # limits that would stop init itself from forking come when it has done so for the last time
        if self.rdt is not None:
            late += self.rdt.steps
        plan.sections["ready"] += [*late, *self._hand_out("pidfd"), ("save", "$STATE/state.json", "")]
        plan.warnings += [*self.warnings, *self.cgroup.warnings]
        if self.filter is not None:
            plan.warnings.extend(self.filter.warnings)
        check(plan)
        inherited.check_preserved(plan.preserve)
        return plan

    def _add_own(self, plan: Plan, notify_dir: str) -> None:
        """Add what is kept of the container and told to others: there is nothing that `create` does without a line for it."""
        root_mode = "01700" if self.host.euid else "0700"
        own: list[tuple[Step, str]] = [
            (("mkdir", "$ROOT", f"{root_mode} ?exists"), ""),
            (("mkdir", "$STATE", "0700"), "remove"),
            # before the cgroup exists: what may have to be removed, should we be killed
            (("note", "$STATE/journal", NOTED + (", resctrl" if self.rdt is not None else "")), ""),
            (("write", "$STATE/config.json", f"{len(self.bundle.raw)} bytes"), ""),
        ]
        if self.filter is not None and self.filter.record:
            own.append((("keep", f"$ROOT/:seccomp/{self.filter.name}", f"{len(self.filter.record)} bytes"), ""))
        if notify_dir:
            own.append((("mkdir", "$STATE/notify", "0755"), ""))
        if self.waits:
            own += [(("mkfifo", "$STATE/exec.fifo", "0600"), ""), (("mkfifo", "$STATE/exec.status", "0600"), "")]
        own += [(("open", path, register), "") for register, path in outputs(self.config)]
        # from here on two are at work: init does its ops up to the first question while the cgroup is made
        own.append((("launch", "pyrunc init", ""), "kill"))
        noted: Step = ("note", "$STATE/journal", "pid, start_time")
        if any(op.name == "fork" for op in plan.ops):
            plan.sections["fork"] = [noted]
        else:
            own.append((noted, ""))
        plan.host[:0] = own
        if "console" in plan.sections:
            plan.sections["console"] = self._hand_out("console") or [("console", "our own terminal", "")]
        hooks = self.config.get("hooks") or {}
        for kind, section in (("poststart", "exec"), ("poststop", "delete")):
            plan.sections[section] = [
                ("hook", f"{kind}/{index}", hook["path"]) for index, hook in enumerate(hooks.get(kind) or ())
            ]
        plan.sections.setdefault("fifo" if self.waits else "exec", []).extend(self._hand_out("pid-file"))

    def also_kept(self) -> dict[str, Any]:
        """What is kept of the container only where there is any of it."""
        found: dict[str, Any] = {}
        if self.rdt is not None:
            found |= {"resctrl": self.rdt.made, "resctrl_class": self.rdt.path}
        if getattr(self.options, "no_new_keyring", False):
            # whoever is executed in the container later has no other keyring either
            found["no_new_keyring"] = True
        return found

    def _hand_out(self, kind: str) -> list[Step]:
        """The step for an option that names a place where the caller waits for something of the container."""
        option = {"pidfd": "pidfd_socket", "console": "console_socket", "pid-file": "pid_file"}[kind]
        path = getattr(self.options, option, None)
        if kind == "pidfd" and not path:
            path = annotation.get(self.config, "pidfd_receiver")
        return [(kind, path, "")] if path else []


def hook_output(path: str) -> int:
    """The file that hooks in a container write to, opened here: they could not name it."""
    from runtime import hooks

    return hooks.open_output("hooks in the container", path)


def cgroup_host(host: Host, rootless: str) -> Host:
    """The host as the cgroups shall see it: --rootless says whether to go on without those that may not be made."""
    if rootless == "auto":
        return host
    seen = Host()
    seen.is_rootless = rootless == "true"
    return seen
