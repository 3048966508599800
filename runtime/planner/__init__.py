"""Config and host facts in, plan out: the table of contents of a container's life before its first instruction.

`create` walks the list in `container`, `exec_process` that in `joiner`, top to bottom; each entry is a section, a generator of
ops in the module of its name. Nothing here changes the machine or looks into a rootfs: what a rootfs holds is hostile and may change,
so the ops learn it at the moment of use. Why the order is as it is stands beside each entry; most of it is not a choice.
"""

from __future__ import annotations

from runtime.errors import ConfigError
from runtime.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from runtime.host import Host
    from runtime.plan import Op, Step
    from runtime.planner.mounts import Mount
    from runtime.planner.namespaces import Namespaces
    from runtime.seccomp import Filter

    Section = Callable[["Request", Plan], Iterator[Op]]


class Request:
    """What a plan is made of: the config, the facts, and what the command line and the cgroup's owner have decided."""

    __slots__ = (
        "id",
        "bundle",
        "config",
        "process",
        "host",
        "rootfs",
        "cgroup_steps",
        "join_steps",
        "self_join_steps",
        "clone_into",
        "cgroup_paths",
        "seccomp",
        "preserve",
        "listen_fds",
        "no_pivot",
        "no_new_keyring",
        "detach",
        "wait_for_start",
        "notify_dir",
        "namespaces",
        "has_user_ns",
        "console_size",
        "resolved",
        "mounts",
    )

    if TYPE_CHECKING:
        config: dict[str, Any]
        process: dict[str, Any]
        host: Host

    def __init__(self) -> None:
        self.id = ""
        self.bundle = ""
        self.config = {}
        #: config.process, or the process of an exec
        self.process = {}
        #: absolute path of the rootfs on the host
        self.rootfs = ""
        self.cgroup_steps: Sequence[tuple[Step, str]] = ()
        #: how the parent puts init in, and how init puts itself in where it can: then these are ops and no steps
        self.join_steps: Sequence[Step] = ()
        self.self_join_steps: Sequence[Step] = ()
        #: a v2 cgroup that a fork can be born into, "" for none
        self.clone_into = ""
        #: controller -> path on the host of the container's cgroup
        self.cgroup_paths: dict[str, str] = {}
        self.seccomp: Filter | None = None
        #: how many descriptors from 3 on the program gets, those of LISTEN_FDS among them
        self.preserve = 0
        self.listen_fds = 0
        self.no_pivot = False
        self.no_new_keyring = False
        self.detach = False
        #: whether init waits for `start`, as after `create`, or goes on at once, as in `run`
        self.wait_for_start = False
        #: directory on the host to be bound at /run/notify, "" for none
        self.notify_dir = ""
        #: exec: the OCI types of the namespaces that the container has, to be joined through init's pidfd
        self.namespaces: Sequence[str] = ()
        #: filled by `create` and `exec_process` from the config
        self.has_user_ns = False
        #: (rows, columns), () for process.consoleSize
        self.console_size: tuple[int, ...] = ()
        #: what sections learn from the config and share: see namespaces.resolve
        self.resolved: Namespaces | None = None
        self.mounts: list[Mount] | None = None


def create(request: Request) -> Plan:
    """The plan of a container: its init waits for `start` where the request says so."""
    # in here: `exec` has no use for half of the sections, and would pay for loading them
    from runtime.planner import container, hooks, namespaces

    plan = _plan(request)
    plan.host.extend(request.cgroup_steps)
    if request.wait_for_start:
        plan.inherited += ["go", "status"]
    plan.inherited += [register for register, _ in hooks.outputs(request.config)]
    found = namespaces.resolve(request)
    namespaces.refuse_unprivileged(request)
    if any(kind == "mount" for kind, _, _ in found.joined):
        # in somebody else's mount namespace the cgroup's files may have other paths, or none: the parent does it
        request.self_join_steps = ()
        request.clone_into = ""
    return _compose(container.CREATE, request, plan)


def exec_process(request: Request) -> Plan:
    """The plan of another process in a running container, which it joins through the pidfd of its init."""
    from runtime.planner import joiner, namespaces

    plan = _plan(request)
    plan.inherited.append("init")
    namespaces.resolve_exec(request)
    return _compose(joiner.EXEC, request, plan)


def _plan(request: Request) -> Plan:
    if not request.process.get("args"):
        raise ConfigError("/process/args", "required to start a process", clause="config.md#process")
    plan = Plan()
    plan.preserve = request.preserve
    return plan


def _compose(sections: tuple[tuple[str, Section], ...], request: Request, plan: Plan) -> Plan:
    ops = plan.ops
    for _, section in sections:
        ops.extend(section(request, plan))
    return plan
