"""Config and host facts in, plan out: the table of contents of a container's life before its first instruction.

`create` and `exec_process` walk the two lists below, top to bottom; each entry is a section, a generator of ops in the
module of its name. Nothing here changes the machine or looks into a rootfs: what a rootfs holds is hostile and may change,
so the ops learn it at the moment of use. Why the order is as it is stands beside each entry; most of it is not a choice.
"""

from __future__ import annotations

from runtime.errors import ConfigError
from runtime.plan import Plan
from runtime.planner import (
    capabilities,
    devices,
    hooks,
    lsm,
    mounts,
    namespaces,
    network,
    paths,
    process,
    program,
    rootfs,
    sysctl,
    terminal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from runtime.host import Host
    from runtime.plan import Op, Step
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
        self.resolved: namespaces.Namespaces | None = None
        self.mounts: list[mounts.Mount] | None = None


#: a container, from the caller's descriptors to the user's program
CREATE: tuple[tuple[str, Section], ...] = (
    # on the host: the last moment at which our own /proc files are ours, and host paths are the host's
    ("private proc", process.private_proc),
    ("oom score", process.oom_score),
    ("not dumpable", process.not_dumpable),
    ("namespaces given by path", namespaces.open_by_path),
    # a user namespace takes away the right to reach them: sources of binds are held from here on
    ("bind sources", mounts.open_sources),
    ("cgroup, before a user namespace", namespaces.join_cgroup_early),
    ("join namespaces", namespaces.join),
    # before the other new ones, which shall be owned by it
    ("user namespace", namespaces.user),
    # the parent makes the cgroup while this runs: a network namespace is the slowest thing in the plan
    ("new namespaces", namespaces.unshare_first),
    # before the cgroup namespace, whose root is the cgroup of this moment, and before a fork that could escape it
    ("cgroup", namespaces.join_cgroup),
    ("affinity", process.reset_affinity),
    ("late namespaces", namespaces.unshare_last),
    # only a child is inside a new pid or time namespace
    ("fork", namespaces.fork),
    ("session", process.session),
    ("network", network.network),
    ("rootfs", rootfs.rootfs),
    ("mounts", mounts.mounts),
    ("devices", devices.devices),
    ("console", terminal.console),
    # the container's mounts are there and the host's paths still are: what hooks of the runtime expect
    ("hooks", hooks.outside),
    # after the last program that could want the directory, and while the rootfs can be written
    ("cwd", process.make_cwd),
    ("sysctl", sysctl.sysctl),
    # after hooks, mounts, console and sysctl, none of which shall undo them; before code of the user
    ("readonly paths", paths.readonly_paths),
    ("masked paths", paths.masked_paths),
    # filesystems asked for read-only had to be written until now
    ("read-only mounts", mounts.finish),
    ("pivot", rootfs.pivot),
    ("hostname", process.hostname),
    ("standard descriptors", terminal.standard_descriptors),
    ("process", process.settings),
    # before no_new_privs, which forbids most changes of a label
    ("labels", lsm.labels),
    ("no new privileges", process.no_new_privileges),
    ("environment", program.home),
    ("state for startContainer hooks", hooks.state_for_start),
    # the parent sets limits, which would bind us too, and saves the state: from here on nothing is asked of it
    ("ready", process.ready),
    ("close descriptors", program.close_range),
    ("working directory", capabilities.working_directory),
    # a filter without no_new_privs needs CAP_SYS_ADMIN, which the next section drops
    ("seccomp, privileged", program.seccomp_privileged),
    ("credentials", capabilities.credentials),
    # with the user's own rights, and before `create` answers: a program that is not there is create's error
    ("find the program", program.find),
    ("seccomp with a listener", program.seccomp_listener),
    ("wait for start", program.wait_for_start),
    ("startContainer hooks", hooks.start_container),
    ("seccomp", program.seccomp_last),
    ("exec", program.execute),
)

#: one more process in a container
EXEC: tuple[tuple[str, Section], ...] = (
    ("private proc", process.private_proc_of_processes),
    ("oom score", process.oom_score),
    # before the first namespace of the container: its root must not trace us (CVE-2016-9962)
    ("not dumpable", process.not_dumpable),
    ("initial affinity", process.initial_affinity),
    ("cgroup", namespaces.join_cgroup),
    ("final affinity", process.final_affinity),
    ("join namespaces of init", namespaces.join_init),
    ("fork", namespaces.fork),
    ("session", process.session),
    ("console", terminal.exec_console),
    ("standard descriptors", terminal.standard_descriptors),
    ("process", process.settings),
    ("labels", lsm.labels),
    ("no new privileges", process.no_new_privileges),
    ("environment", program.home),
    ("ready", process.ready),
    ("close descriptors", program.close_range),
    ("working directory", capabilities.working_directory),
    ("seccomp, privileged", program.seccomp_privileged),
    ("credentials", capabilities.credentials),
    ("find the program", program.find),
    ("seccomp with a listener", program.seccomp_listener),
    ("seccomp", program.seccomp_last),
    ("exec", program.execute),
)


def create(request: Request) -> Plan:
    """The plan of a container: its init waits for `start` where the request says so."""
    plan = _plan(request)
    plan.host.extend(request.cgroup_steps)
    if request.wait_for_start:
        plan.inherited += ["go", "status"]
    found = namespaces.resolve(request)
    namespaces.refuse_unprivileged(request)
    if any(kind == "mount" for kind, _, _ in found.joined):
        # in somebody else's mount namespace the cgroup's files may have other paths, or none: the parent does it
        request.self_join_steps = ()
    return _compose(CREATE, request, plan)


def exec_process(request: Request) -> Plan:
    """The plan of another process in a running container, which it joins through the pidfd of its init."""
    plan = _plan(request)
    plan.inherited.append("init")
    namespaces.resolve_exec(request)
    return _compose(EXEC, request, plan)


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
