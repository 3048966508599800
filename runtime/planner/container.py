"""The sections of a container's plan, in order. Why the order is as it is stands beside each entry; most of it is not a choice."""

from __future__ import annotations

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
    from runtime.planner import Section

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
    ("late namespaces", namespaces.unshare_last),
    # only a child is inside a new pid or time namespace
    ("fork", namespaces.fork),
    # in the cgroup at last: a fork may be the moment of joining it, and being put into a cpuset overrides an affinity
    ("affinity", process.reset_affinity),
    ("session", process.session),
    ("rootfs", rootfs.rootfs),
    ("mounts", mounts.mounts),
    ("devices", devices.devices),
    ("console", terminal.console),
    # As late as hooks allow: the kernel may still be busy with the network namespaces of containers just deleted, and what
    # changes a network waits for that
    ("network", network.network),
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
    ("close descriptors", program.close_range),
    # the parent sets limits, which would bind us too, and saves the state: from here on nothing is asked of it. With few descriptors
    # open: RLIMIT_NOFILE counts numbers, and what is opened from now on gets the lowest
    ("ready", process.ready),
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
