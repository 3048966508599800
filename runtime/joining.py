"""Another process in a running container: `exec`.

A shorter plan than a container's: join the cgroup, the namespaces of init by its pidfd, become what process.json says,
exec. The pidfd is opened and its start time confirmed before anything else, so that a reused pid cannot be joined.
"""

from __future__ import annotations

from errno import EBUSY

from runtime import cgroups, foreground, identity, inherited, lifecycle, planner, seccomp, status, steps
from runtime import system as os
from runtime.errors import Error, KernelError, StatusError
from runtime.host import Host
from runtime.launch import Launch, words_for_status
from runtime.plan import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.console import Terminal
    from runtime.launch import Doer
    from runtime.plan import Plan, Step
    from runtime.store import Entry


class Joining:
    """One process on its way into a container."""

    def __init__(self, ctx: lifecycle.Context, entry: Entry, process: dict[str, Any], options: Any) -> None:
        self.ctx = ctx
        self.entry = entry
        self.process = process
        self.options = options
        self.terminal: Terminal | None = None
        self.pidfd = -1
        self.is_ready = False
        self.is_detached = bool(getattr(options, "detach", False))
        word, pid = entry.status()
        if word != status.PAUSED or not getattr(options, "ignore_paused", False):
            status.allow("exec", word, entry.id)
        assert entry.state is not None
        self.saved: dict[str, Any] = entry.state
        inherited.check_terminal(process, options, self.is_detached)
        self.config = lifecycle.config_of(entry)
        check_user(self.config, process, entry.id)
        self.host = Host()
        self.cgroup = cgroups.from_state(self.saved["cgroup"], self.host)
        self.sub_cgroups: list[str] = []
        self.filter = seccomp.of_container(self.config, self.host, ctx.cache_dir)
        self.plan = self._plan()
        self.init_fd = identity.open_process(pid, self.saved["start_time"])
        if self.init_fd < 0:
            raise StatusError("cannot exec in a stopped container", code="status")

    def _plan(self) -> Plan:
        asked = getattr(self.options, "cgroup", None) or []
        self.sub_cgroups = sub_cgroups = asked or cgroups.of_init(self.cgroup, self.saved["pid"])
        request = planner.Request()
        request.id = self.entry.id
        request.bundle = self.saved["bundle"]
        request.config = self.config
        request.process = self.process
        request.host = self.host
        request.rootfs = self.saved["rootfs"]
        request.cgroup_steps = []
        request.join_steps = self.cgroup.join_steps(sub_cgroups)
        request.self_join_steps = self.cgroup.self_join_steps(sub_cgroups)
        request.clone_into = self.cgroup.clone_into(sub_cgroups)
        request.cgroup_paths = self.cgroup.paths
        request.seccomp = self.filter
        request.listen_fds = inherited.listen_fds() if self.ctx.is_activated else 0
        request.preserve = (getattr(self.options, "preserve_fds", 0) or 0) + request.listen_fds
        request.no_new_keyring = bool(self.saved.get("no_new_keyring"))
        request.namespaces = self.saved["namespaces"]
        plan = planner.exec_process(request)
        check(plan)
        inherited.check_preserved(plan.preserve)
        return plan

    def go(self) -> Launch:
        """Launch, answer until the program runs; nothing is left of a process that did not get there."""
        try:
            return self._go()
        except Error as error:
            before = self.sub_cgroups
            if error.record.get("errno") != EBUSY or self.is_ready:
                raise
            self.plan = self._plan()
            if self.sub_cgroups == before:
                raise
        # at this very moment the container has begun to pass controllers on: see cgroups.of_init
        return self._go()

    def _go(self) -> Launch:
        doers: dict[str, Doer] = {
            "write": self._write,
            "attach": self._attach,
            "rlimit": self._rlimit,
            "console": self._console,
            "seccomp-listener": self._seccomp_listener,
            "ready": self._ready,
        }
        if "ready" in self.plan.sections:
            self.plan.sections["ready"].append(("ready", "", ""))
        inherited = [{"init": self.init_fd}[name] for name in self.plan.inherited]
        launch = Launch(self.plan, inherited, doers, self._on_pid, getattr(self.options, "stdio", None))
        try:
            if not any(op.name == "fork" for op in self.plan.ops):
                self._on_pid(launch.pid)
            launch.serve()
            if not self.is_ready:
                raise self._how_it_died(launch)
        except BaseException:
            if not self.is_detached:
                foreground.settle()
            launch.destroy()
            raise
        for warning in (*self.plan.warnings, *launch.warnings):
            self.ctx.warn(warning)
        launch.hang_up()
        return launch

    def _how_it_died(self, launch: Launch) -> Error:
        _, wait_status = os.waitpid(launch.pid, 0)
        launch.status = wait_status
        return KernelError(f"the process ended early with {words_for_status(wait_status)}", 32)

    def _on_pid(self, pid: int) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)  # of an attempt before this one
        self.pidfd = os.pidfd_open(pid)

    def _write(self, step: Step, launch: Launch, given: int) -> int:
        steps.write_for(step, launch.pid)
        return -1

    def _attach(self, step: Step, launch: Launch, given: int) -> int:
        self.cgroup.attach(step, launch.pid)
        return -1

    def _seccomp_listener(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import console

        console.send_listener(step, given, lifecycle.hook_state(self.saved, "running", self.saved["pid"]), launch.pid)
        return -1

    def _rlimit(self, step: Step, launch: Launch, given: int) -> int:
        steps.set_rlimit(step, launch.pid)
        return -1

    def _ready(self, step: Step, launch: Launch, given: int) -> int:
        self.is_ready = True
        if not self.is_detached:
            foreground.settle()  # the program may run at any moment now, and signals are for it
        socket = getattr(self.options, "pidfd_socket", None)
        if socket:
            from runtime import console

            console.send(socket, self.pidfd, b"pidfd")
        return -1

    def _console(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import console

        if given < 0:
            raise KernelError("get the terminal of the process", 9)
        socket = getattr(self.options, "console_socket", None)
        if socket:
            console.send(socket, given, b"/dev/ptmx")
        else:
            self.terminal = console.Terminal(os.dup(given))
        return -1

    def close(self) -> None:
        """Give up the pidfds."""
        for fd in (self.pidfd, self.init_fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.init_fd = -1


def check_user(config: dict[str, Any], process: dict[str, Any], id_: str) -> None:
    """Raise RuleError where the container's user namespace has no place for the user or a group of the process."""
    if not (config.get("linux") or {}).get("uidMappings"):
        return
    from runtime import rules, rules_linux

    # of the container itself the rules have seen to it
    for fault in rules_linux.user_is_mapped(rules.Document({**config, "process": process}), ""):
        raise rules.Finding(fault, "config-linux.md#user-namespace-mappings", "error").error(f"exec {id_}")


def run(ctx: lifecycle.Context, entry: Entry, process: dict[str, Any], options: Any) -> int:
    """Run a process in the container; attached, wait for its end and return its exit status."""
    joining = Joining(ctx, entry, process, options)
    try:
        if not joining.is_detached:
            foreground.prepare(False)
        launch = joining.go()
        try:
            path = getattr(options, "pid_file", None)
            if path:
                # written only now: conmon takes a pid file for the proof that the program runs
                steps.write_pid_file(path, launch.pid)
            if joining.is_detached:
                return 0
            code = foreground.wait(launch.pid, joining.pidfd, joining.terminal)
            launch.status = 0
            return code
        except BaseException:
            launch.destroy()
            raise
    finally:
        joining.close()
