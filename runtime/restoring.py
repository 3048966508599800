"""`restore`: a container made by CRIU from what `checkpoint` has written, and not by a plan of ours.

The order around it is that of `creation`: reserve the id, write down what there may be to undo, make the cgroup, then CRIU instead of
init, which makes namespaces, mounts and processes as they were. It waits for our answer at two moments,

    setup-namespaces    the namespaces are there and nothing is in them: loopback, and hooks that set up a network
    post-restore        all is there and nothing runs: limits, and the state is saved

and the processes go on after the second. CRIU's children are siblings of its own (rst_sibling), so that init is a child of ours, as after
`create`. From there on it is a container like any other.
"""

from __future__ import annotations

from contextlib import contextmanager
from struct import pack

from runtime import checkpoint, console, creation, criu, external, foreground, jsonio, lifecycle, reserving, steps
from runtime import system as os
from runtime.criu_process import Criu
from runtime.errors import ConfigError, KernelError, StateError
from runtime.launch import Launch, carry_out, words_for_status
from runtime.making import Making
from runtime.planner import Request, restorer
from runtime.texts import lines, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.checkpoint import Directories
    from runtime.plan import Step
    from runtime.store import Entry

_LOG = "restore.log"
#: CRIU is in the container's cgroup while it works, and is no small program: these limits come when it is done
_LATE = ("memory.", "pids.")
_LATE_PROPERTIES = ("MemoryMax=", "MemorySwapMax=", "MemoryHigh=", "MemoryLimit=", "TasksMax=")


def restore(ctx: lifecycle.Context, id_: str, bundle_path: str, options: Any) -> int:
    """Make the container again; attached, wait for the end of its program, delete it and return its exit status."""
    detached = bool(options.detach)
    with checkpoint.Directories(options, made=False) as directories:
        making = Making(_restored(ctx), id_, bundle_path, options, waits=False, detached=detached)
        if not detached:
            foreground.prepare(not options.no_subreaper)
        made = Restored(making, reserving.reserve(ctx.root, id_), directories)
        try:
            made.go()
            if not detached:
                foreground.settle()
        except BaseException:
            if not detached:
                foreground.settle()
            made.undo()
            raise
    return creation.attend(made, detached)


def _restored(ctx: lifecycle.Context) -> lifecycle.Context:
    """The context without what a service manager gives: its program had that before the checkpoint, and its end of it is gone."""
    return lifecycle.Context(
        ctx.root,
        systemd_cgroup=ctx.systemd_cgroup,
        cgroup_manager=ctx.cgroup_manager,
        rootless=ctx.rootless,
        is_activated=False,
        debug=ctx.debug,
        warn=ctx.warn,
    )


class Init(Launch):
    """An init that CRIU has made, to be waited for and ended as one that the interpreter has become."""

    def __init__(self, pid: int) -> None:
        self.pid = self.first_pid = pid
        self.sock = -1
        self.status = None
        self.warnings = []


class Restored(creation.Made):
    """A container that is being restored; `undo`, `close` and the state are those of one that is being made."""

    def __init__(self, making: Making, entry: Entry, directories: Directories) -> None:
        super().__init__(making, entry)
        self.directories = directories
        self.late: list[Step] = []
        self.with_process: list[Step] = []

    def go(self) -> None:
        """Have CRIU restore it."""
        making = self.making
        self.refuse_used_cgroup()
        for step, _ in making.plan.host:
            if step[0] in ("launch", "open"):
                continue  # there is no interpreter, nor anybody in there whom it could give a file to
            if step[1][0] == "$":
                self._own_step(step)
            elif os.path.basename(step[1]).startswith(_LATE):
                self.late.append(step)
            elif step[0] == "property" and step[2].startswith(_LATE_PROPERTIES):
                self.late.append(("set-property", step[1], step[2]))
            elif step[0] == "start-unit" or self.with_process:
                # systemd makes a unit for a process, and what follows needs its cgroup
                self.with_process.append(step)
            else:
                making.cgroup.run(step)
        self.late += [step for step in making.plan.sections["ready"] if step[0].startswith(("write", "set-property"))]
        request = self._request()
        carry_out(restorer.places(request), [])
        self._restore(request)
        for warning in making.cgroup.warnings:
            making.ctx.warn(warning)

    def follow(self, moment: str) -> None:
        """Only the pid file is left to be done: its program is not new, and poststart hooks are for those that are."""
        path = getattr(self.making.options, "pid_file", None)
        if path and self.launch is not None:
            steps.write_pid_file(path, self.launch.pid)

    def _request(self) -> Request:
        making = self.making
        request = Request()
        request.id = making.id
        request.bundle = making.bundle.path
        request.config = making.config
        request.rootfs = making.bundle.rootfs
        request.host = making.host
        request.cgroup_paths = making.cgroup.paths
        return request

    def _restore(self, request: Request) -> None:
        options = self.making.options
        passed, joined = external.restored_namespaces(self.making.config)
        has_mount_ns = "mount" in self.saved["namespaces"]
        os.mkdir("notify", 0o755, dir_fd=self.entry.fd)
        wanted: dict[str, Any] = {
            **self.directories.fds,
            **checkpoint.common(self.making.config, options, _LOG),
            "evasive_devices": True,
            "rst_sibling": True,
            "root": request.rootfs,
            "join_ns": joined,
            "ext_mnt": [
                {"key": name, "val": path} for name, path in external.restored(request, f"{self.entry.path}/notify")
            ],
        }
        for key in ("lsm_profile", "lsm_mount_context"):
            if getattr(options, key):
                wanted[key] = getattr(options, key)
        stdio = getattr(options, "stdio", None) or (None, None, None)
        standard = self._descriptors()
        rootfs = request.rootfs if has_mount_ns else ""
        with (
            _readable(self.directories, self._root_of_user_ns()),
            # left alone it would hold on to half-made processes, none of which could then be killed
            Criu(stdio, rootfs, passed, self.directories.paths, dies_with_us=True) as process,
        ):
            wanted |= process.directories
            wanted["inherit_fd"] = [
                *({"key": name, "fd": process.numbers[name]} for name, _ in passed),
                *({"key": word, "fd": fd} for fd, word in enumerate(standard) if external.is_passed(word)),
            ]
            process.version()
            # children are born where it is, and what it restores is charged to whom it belongs
            for step in self.with_process:
                self.making.cgroup.run(step, process.pid)
            self.making.cgroup.join(process.pid)
            wanted["cg_root"] = [{"ctrl": name, "path": path} for name, path in _cgroups(process.pid)]
            process.log = self.directories.log(_LOG)
            process.ask({"type": criu.RESTORE, "opts": wanted}, self._notified)
            left = process.finish()
            if left or not self.is_ready:
                raise process.failure(f"criu failed: type RESTORE: it ended with {words_for_status(left)}")

    def _root_of_user_ns(self) -> int:
        """Who root of a user namespace that is to be made is on the host; 0 where there is none."""
        linux = self.making.linux
        if any(entry["type"] == "user" and not entry.get("path") for entry in linux.get("namespaces") or ()):
            for mapping in linux["uidMappings"]:
                if mapping["containerID"] == 0:
                    return int(mapping["hostID"])
        return 0

    def _descriptors(self) -> list[str]:
        """What the container's 0, 1 and 2 were called when it was dumped."""
        path = f"{self.directories.images}/{checkpoint.DESCRIPTORS}"
        try:
            fd = os.open(checkpoint.DESCRIPTORS, _READ, dir_fd=self.directories.fds["images_dir_fd"])
        except OSError as error:
            raise KernelError(f"open {path}", error.errno or 0) from None
        try:
            found = jsonio.loads(os.read(fd, 1 << 16), path)
        finally:
            os.close(fd)
        if type(found) is not list or not all(type(word) is str for word in found):
            raise ConfigError("", "not a list of three names", source=path)
        return found[:3]

    # -- while CRIU waits ------------------------------------------------------------------------------------------

    def _notified(self, what: str, pid: int, given: int) -> None:
        if what == "setup-namespaces":
            self._run_hooks(self._made(pid))
        elif what == "orphan-pts-master":
            self._hand_out_terminal(given)
        elif what == "post-restore":
            init = self._made(pid)
            for step in self.late:
                self.making.cgroup.run(step)
            self._note_time_namespace(pid)
            self._save(("save", "$STATE/state.json", ""), init, -1)

    def _made(self, pid: int) -> Launch:
        """Init, of which this may be the first that we hear."""
        if self.launch is None:
            self.launch = Init(pid)
            self._on_pid(pid)
            self.entry.note({"pid": pid, "start_time": self.saved["start_time"]})
        return self.launch

    def _run_hooks(self, init: Launch) -> None:
        """Set up the network: loopback as `create` does, the rest is for hooks; others than these are about a container that is new."""
        linux = self.making.linux
        is_own = any(entry["type"] == "network" and not entry.get("path") for entry in linux.get("namespaces") or ())
        if is_own:
            fd = os.open(f"/proc/{init.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                carry_out(restorer.loopback(), [fd])
            finally:
                os.close(fd)
        hooks = self.making.config.get("hooks") or {}
        for kind in ("prestart", "createRuntime"):
            for index, hook in enumerate(hooks.get(kind) or ()):
                self._hook(("hook", f"{kind}/{index}", hook["path"]), init, -1)

    def _hand_out_terminal(self, given: int) -> None:
        if given < 0:
            raise KernelError("get the terminal of init", 9)
        path = self.making.options.console_socket
        if path:
            console.send(path, given, b"/dev/ptmx")
        elif self.making.detached:
            raise StateError("the image has a terminal, and nobody to hold it: use --console-socket")
        else:
            self.terminal = console.Terminal(os.dup(given))

    def _note_time_namespace(self, pid: int) -> None:
        # CRIU puts what it restores into one, so that clocks go on from where they were: exec has to follow
        try:
            is_own = os.stat(f"/proc/{pid}/ns/time").st_ino != os.stat("/proc/self/ns/time").st_ino
        except OSError:
            return  # a kernel without
        if is_own and "time" not in self.saved["namespaces"]:
            self.saved["namespaces"].append("time")


@contextmanager
def _readable(directories: Directories, uid: int) -> Iterator[None]:
    """Let a user look for files in the image directory, for as long as the block: what is restored in a user namespace reads its images
    as root of that, and finds the directory closed to all but root of the host. The files themselves CRIU makes readable."""
    fd = directories.fds["images_dir_fd"]
    mode = os.fstat(fd).st_mode
    is_needed = uid and not mode & 0o001
    if is_needed:
        try:
            # a list that is there already is somebody's who knows what he wants
            os.setxattr(fd, _ACL, _acl(mode, uid), os.XATTR_CREATE)
        except OSError:
            is_needed = False  # a file system without: CRIU says what it cannot read
    try:
        yield
    finally:
        if is_needed:
            os.removexattr(fd, _ACL)
            os.chmod(fd, mode & 0o7777)


_ACL = "system.posix_acl_access"


def _acl(mode: int, uid: int) -> bytes:
    """An access control list with read and search for one more user, acl(5); the kernel's form of it (linux/posix_acl_xattr.h)."""
    no_id = 0xFFFFFFFF
    owner, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = ((1, owner, no_id), (2, 5, uid), (4, group, no_id), (16, group | 5, no_id), (32, other, no_id))
    return pack("<I", 2) + b"".join(pack("<HHI", *entry) for entry in entries)


_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def _cgroups(pid: int) -> list[tuple[str, str]]:
    """(controller, path) of each cgroup of a process, cgroups(7)."""
    found = []
    for line in lines(os.fsdecode(read(f"/proc/{pid}/cgroup"))):
        _, names, path = line.split(":", 2)
        found += [(name, path) for name in names.split(",")]
    return found
