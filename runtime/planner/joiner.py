"""The sections of the plan of one more process in a running container, in order."""

from __future__ import annotations

from runtime.planner import capabilities, lsm, namespaces, process, program, terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.planner import Section

#: one more process in a container
EXEC: tuple[tuple[str, Section], ...] = (
    ("private proc", process.private_proc_of_processes),
    ("oom score", process.oom_score),
    # before the first namespace of the container: its root must not trace us (CVE-2016-9962)
    ("not dumpable", process.not_dumpable),
    ("initial affinity", process.initial_affinity),
    ("close the private proc", process.close_proc),
    # with and without a user namespace: of this plan, either is before the first namespace
    ("cgroup, before a user namespace", namespaces.join_cgroup_early),
    ("cgroup", namespaces.join_cgroup),
    ("join namespaces of init", namespaces.join_init),
    ("fork", namespaces.fork),
    ("join the cgroup namespace of init", namespaces.join_cgroup_namespace),
    # as with a container's init, only now in the cgroup for sure
    ("final affinity", process.final_affinity),
    ("session", process.session),
    ("console", terminal.exec_console),
    ("standard descriptors", terminal.standard_descriptors),
    ("process", process.settings),
    ("labels", lsm.labels),
    ("no new privileges", process.no_new_privileges),
    ("environment", program.home),
    ("close descriptors", program.close_range),
    ("ready", process.ready),
    ("working directory", capabilities.working_directory),
    ("seccomp, privileged", program.seccomp_privileged),
    ("credentials", capabilities.credentials),
    ("find the program", program.find),
    ("seccomp with a listener", program.seccomp_listener),
    ("seccomp", program.seccomp_last),
    ("exec", program.execute),
)
