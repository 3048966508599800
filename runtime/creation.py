"""Making a container: from the bundle to an init that waits for `start`, or that has become the user's program.

    make()      reserve the id, launch init, make the cgroup while it unshares, answer it, save the state
    run()       the same, then wait for the program's end and delete the container

Undoing is in reverse: init is killed and collected, the cgroup removed, the state directory last.
"""

from __future__ import annotations

import time

from runtime import cgroups, foreground, identity, lifecycle, removal, reserving, seccomp, steps, store, wire
from runtime import system as os
from runtime.errors import CgroupError, Error, KernelError, StateError, lower
from runtime.launch import Launch, words_for_status
from runtime.making import IDLE, Making, hook_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.console import Terminal
    from runtime.launch import Doer
    from runtime.netdev import Devices
    from runtime.notify import Notify
    from runtime.plan import Step
    from runtime.store import Entry


class Made:
    """A container that has been launched; until `hand_over` it is undone by `undo`."""

    def __init__(self, making: Making, entry: Entry) -> None:
        self.making = making
        self.entry = entry
        self.launch: Launch | None = None
        self.pidfd = -1
        self.is_ready = False
        self.has_run_hooks = False
        self.terminal: Terminal | None = None
        self.listener: Notify | None = None
        self.devices: Devices | None = None
        self.fds: dict[str, int] = {}
        self.saved: dict[str, Any] = {
            "version": store.VERSION,
            "id": making.id,
            "ociVersion": making.config["ociVersion"],
            "bundle": making.bundle.path,
            "rootfs": os.path.normpath(os.path.join(making.bundle.path, making.config["root"]["path"])),
            "created": timestamp(),
            "annotations": making.config.get("annotations") or {},
            "boot_id": making.host.boot_id,
            "cgroup": making.cgroup.state(),
            "freezer": making.cgroup.freezer_file(),
            "namespaces": [n["type"] for n in making.linux.get("namespaces") or ()],
            "has_poststart": any(step[0] == "hook" for step in making.plan.sections["exec"]),
            "has_poststop": bool(making.plan.sections["delete"]),
            "has_process": making.process is not IDLE,
        }
        self.saved |= making.also_kept()

    def refuse_used_cgroup(self) -> None:
        """Before it is written down as ours: an undo would kill whoever is in there."""
        cgroup = self.making.cgroup
        if cgroup.exists() and not cgroup.is_empty():
            cgroup.is_foreign = True
            raise CgroupError(f"container's cgroup is not empty: {len(cgroup.pids())} process(es) found")

    # -- doing -----------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """Carry the plan out: launch, host steps while init unshares, answers until it waits or has exec'd."""
        making = self.making
        self.refuse_used_cgroup()
        for step, _ in making.plan.host:
            if step[0] == "launch":
                self._launch()
            elif step[1][0] == "$" or step[0] == "open":
                self._own_step(step)
            else:
                self._cgroup_step(step)
        assert self.launch is not None
        oom_kills = making.cgroup.oom_kills()
        self.launch.serve()
        for warning in dict.fromkeys((*making.plan.warnings, *making.cgroup.warnings, *self.launch.warnings)):
            making.ctx.warn(warning)
        if not self.is_ready:
            raise self._how_init_died(oom_kills)

    def _launch(self) -> None:
        making = self.making
        fds, stdio = [self.fds[name] for name in making.plan.inherited], getattr(making.options, "stdio", None)
        making.cgroup.reach()
        self.launch = Launch(making.plan, fds, self._doers(), self._on_pid, stdio)
        while self.fds:
            os.close(self.fds.popitem()[1])
        if "fork" not in making.plan.sections:
            self._on_pid(self.launch.pid)

    def _own_step(self, step: Step) -> None:
        kind, target, value = step
        name = target.partition("/")[2]
        if kind == "note":
            self.entry.note({key: self.saved[key] for key in value.split(", ")})
        elif kind == "keep":
            assert self.making.filter is not None
            seccomp.keep(self.making.filter, self.making.ctx.cache_dir)
        elif kind == "open":
            self.fds[value] = hook_output(target)
        elif kind == "mkdir" and name:
            os.mkdir(name, 0o755, dir_fd=self.entry.fd)
            if not self.making.waits:
                from runtime import notify

                # before the program runs: it may be ready at once
                self.listener = notify.Notify(self.entry, self.making.ctx.warn)
        elif kind == "write":
            self.entry.write(name, self.making.bundle.raw)
        elif kind == "mkfifo":
            try:
                os.mkfifo(name, 0o600, dir_fd=self.entry.fd)
            except OSError as error:
                raise StateError(f"make {self.entry.path}/{name}: {lower(error)}", errno=error.errno) from None
            # opened for both directions, so that neither end waits for the other and no reader means: no init
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
            self.fds[{"exec.fifo": "go", "exec.status": "status"}[name]] = os.open(name, flags, dir_fd=self.entry.fd)

    def _cgroup_step(self, step: Step) -> None:
        launch = self.launch
        assert launch is not None
        try:
            self.making.cgroup.run(step, launch.pid)
        except CgroupError:
            if launch.has_ended():
                launch.serve()  # why init has died is why it could be put into no cgroup
            raise

    def _set_property(self, step: Step, launch: Launch, given: int) -> int:
        self.making.cgroup.run(step, launch.pid)
        return -1

    def _on_pid(self, pid: int) -> None:
        self.pidfd = os.pidfd_open(pid)
        self.saved["pid"] = pid
        self.saved["start_time"] = identity.start_time_of_held(pid, self.pidfd)
        for step in self.making.plan.sections.get("fork", ()):
            self._own_step(step)

    def _doers(self) -> dict[str, Doer]:
        return {
            "write": self._write,
            "mkdir": self._resctrl_group,
            "set-property": self._set_property,
            "newuidmap": self._id_map,
            "newgidmap": self._id_map,
            "idmap": self._user_ns,
            "netdev": self._netdev,
            "hook": self._hook,
            "hook-state": self._hook_state,
            "console": self._console,
            "seccomp-listener": self._seccomp_listener,
            "rlimit": self._rlimit,
            "pidfd": self._pidfd,
            "save": self._save,
            "pid-file": self._pid_file,
        }

    def _write(self, step: Step, launch: Launch, given: int) -> int:
        if cgroups.is_late(step):
            self.making.cgroup.run(step)
        else:
            steps.write_for(step, launch.pid)
        return -1

    def _resctrl_group(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import intelrdt

        intelrdt.make(step[1])
        return -1

    def _id_map(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import userns

        userns.run_helper(step[0], launch.pid, step[2].split())
        return -1

    def _user_ns(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import userns

        return userns.namespace_of(step[2])

    def _netdev(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import netdev

        if self.devices is None:
            wanted = [(one[1], one[2]) for one in self.making.plan.sections["netdev"]]
            self.devices = netdev.Devices(launch.pid, given, wanted)
        self.devices.move(step[1], step[2])
        return -1

    def _hook(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import hooks

        self.has_run_hooks = True
        kind, _, index = step[1].partition("/")
        hook = self.making.config["hooks"][kind][int(index)]
        # prestart is from before there was "creating", and its users expect the word of that time
        word = {"prestart": "created", "poststart": "running"}.get(kind, "creating")
        state = lifecycle.hook_state(self.saved, word, launch.pid)
        hooks.run(f"{kind}[{index}]", hook, state, self.making.bundle.path, self.saved["annotations"])
        return -1

    def _hook_state(self, step: Step, launch: Launch, given: int) -> int:
        # a hook of the container is about to run, and what it does is undone by poststop hooks if it fails
        self.has_run_hooks = True
        fd = os.memfd_create("state", os.MFD_CLOEXEC)
        # runtime.md#state: a hook that runs in the container is told the pid as it is seen there
        os.write(fd, lifecycle.hook_state(self.saved, step[1] or "created", identity.innermost_pid(launch.pid)))
        return fd

    def _console(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import console

        if given < 0:
            raise KernelError("get the terminal of init", 9)
        if getattr(self.making.options, "console_socket", None):
            console.send(step[1], given, b"/dev/ptmx")
        else:
            self.terminal = console.Terminal(os.dup(given))
        return -1

    def _seccomp_listener(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import console

        console.send_listener(step, given, lifecycle.hook_state(self.saved, "creating", launch.pid), launch.pid)
        return -1

    def _rlimit(self, step: Step, launch: Launch, given: int) -> int:
        steps.set_rlimit(step, launch.pid)
        return -1

    def _pidfd(self, step: Step, launch: Launch, given: int) -> int:
        from runtime import console

        console.send(step[1], self.pidfd, b"pidfd")
        return -1

    def _pid_file(self, step: Step, launch: Launch, given: int) -> int:
        # decimal and without a newline, renamed into place: callers poll for the file
        steps.write_pid_file(step[1], launch.pid)
        return -1

    def _save(self, step: Step, launch: Launch, given: int) -> int:
        """The last answer before init goes on: now the container exists for others."""
        if self.making.waits:
            self.saved["tail"] = wire.tail(self.making.plan)
        self.saved["cgroup"] = self.making.cgroup.state()  # what is known only now that it is there
        self.entry.save(self.saved)
        self.is_ready = True
        if not self.making.detached and not (self.making.config.get("hooks") or {}).get("startContainer"):
            foreground.settle()  # the program may run at any moment now, and signals are for it
        return -1

    def _how_init_died(self, oom_kills: int) -> Error:
        """Init ended without a word: killed, by the memory limit as likely as not (interfaces of runc call that EOF)."""
        launch = self.launch
        assert launch is not None
        try:
            _, status = os.waitpid(launch.pid, 0)
        except ChildProcessError:
            status = 0
        launch.status = status
        cgroup = self.making.cgroup
        asked = (((self.making.config.get("linux") or {}).get("resources") or {}).get("memory") or {}).get("limit") or 0
        limit = cgroup.memory_limit() or asked
        record = {"code": "oom", "pointer": "/linux/resources/memory/limit" if limit == asked > 0 else ""}
        if cgroup.oom_kills() > oom_kills:
            why = f"by the memory limit of {steps.in_words(limit)}" if limit else "for want of memory"
            return CgroupError(f"init was killed {why}", **record)
        is_gone = bool(cgroup.paths) and not os.path.isdir(cgroup.place("memory"))  # type: ignore[union-attr]
        if is_gone and asked > 0:
            # systemd is quick to clean up: nobody can be asked any more
            words = steps.in_words(asked)
            return CgroupError(f"init was killed, by the memory limit of {words} as likely as not", **record)
        return KernelError(f"init ended early with {words_for_status(status)}", 32)

    # -- handing over, or undoing ----------------------------------------------------------------------------------

    def follow(self, moment: str) -> None:
        """Do the steps of the plan for when init has got to its op `moment`."""
        assert self.launch is not None
        doers = self._doers()
        for step in self.making.plan.sections.get(moment, ()):
            doers[step[0]](step, self.launch, -1)

    def hand_over(self) -> None:
        """The container stands by itself now; init goes to whoever reaps our children."""
        try:
            self.follow("fifo")
        except Error:
            self.undo()
            raise
        if self.launch is not None:
            self.launch.hang_up()
        self.close()

    def close(self) -> None:
        """Give up every descriptor; the lock goes with the directory's."""
        for held in (self.listener, self.devices):
            if held is not None:
                held.close()
        for fd in (self.pidfd, *self.fds.values()):
            if fd >= 0:
                os.close(fd)
        self.pidfd = -1
        self.fds.clear()
        self.entry.close()

    def undo(self) -> None:
        """Leave nothing behind: process, cgroup, poststop hooks, directory."""
        if self.launch is not None:
            self.launch.destroy()
        try:
            self.making.cgroup.destroy()
            removal.remove_groups(self.saved)
            if self.has_run_hooks and self.saved["has_poststop"]:
                # a runtime that gives up after its first hooks goes on at the last step of the lifecycle
                removal.poststop(self.making.ctx, self.entry, self.saved)
        finally:
            self.entry.remove()
            self.close()


def make(ctx: lifecycle.Context, id_: str, bundle_path: str, options: Any, *, waits: bool, detached: bool) -> Made:
    """Make a container, or leave nothing behind and raise what went wrong."""
    making = Making(ctx, id_, bundle_path, options, waits=waits, detached=detached)
    made = Made(making, reserving.reserve(ctx.root, id_))
    try:
        made.go()
        if not detached:
            foreground.settle()  # in here: an interrupt that has just come is still undone
    except BaseException:
        if not detached:
            foreground.settle()
        made.undo()
        raise
    return made


def run(ctx: lifecycle.Context, id_: str, bundle_path: str, options: Any) -> int:
    """Make a container and run its program; attached, wait for its end, delete it and return its exit status."""
    detached = bool(getattr(options, "detach", False))
    if not detached:
        foreground.prepare(not getattr(options, "no_subreaper", False))
    return attend(make(ctx, id_, bundle_path, options, waits=False, detached=detached), detached)


def attend(made: Made, detached: bool) -> int:
    """Let the program of a container go on by itself, or wait for its end, delete the container and return the exit status."""
    launch = made.launch
    assert launch is not None
    try:
        launch.hang_up()
        made.follow("exec")
        code = _attend(made, launch, detached)
        if detached:
            made.close()
            return 0
        launch.status = 0
    except BaseException:
        made.undo()
        raise
    if getattr(made.making.options, "keep", False):
        made.close()
        return code
    made.making.cgroup.destroy()
    removal.remove_groups(made.saved)
    if made.saved["has_poststop"]:
        removal.poststop(made.making.ctx, made.entry, made.saved)
    made.entry.remove()
    made.close()
    return code


def _attend(made: Made, launch: Launch, detached: bool) -> int:
    """Wait for what the caller wants to wait for: the program's end, or at least its being ready."""
    if made.listener is None:
        return 0 if detached else foreground.wait(launch.pid, made.pidfd, made.terminal)
    if detached:
        made.listener.wait(launch.pid, made.pidfd)
        return 0
    return foreground.wait(launch.pid, made.pidfd, made.terminal, made.listener)


def timestamp() -> str:
    """Now, as RFC 3339 with nanoseconds."""
    now = time.time_ns()
    t = time.gmtime(now // 1_000_000_000)
    return f"{t.tm_year:04}-{t.tm_mon:02}-{t.tm_mday:02}T{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}.{now % 1_000_000_000:09}Z"
