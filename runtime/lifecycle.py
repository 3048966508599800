"""The verbs: create, start, run, exec, kill, delete, pause, resume, update, state; their order and their rollback.

Each verb is a short list of steps. What could fail half-way is undone in reverse; what cannot be undone by a process that
was killed is written to the container's journal before it is done, so that `delete --force` can undo it later.

Verbs that make processes import the planner and the extension when they run; `state`, `start`, `kill` and `delete` do
with the state directory alone.
"""

from __future__ import annotations

from runtime import identity, jsonio, status, store
from runtime import system as os
from runtime.errors import ConfigError, Error, NotFound, StateError, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.notify import Notify
    from runtime.plan import Plan
    from runtime.store import Entry

#: how long a verb waits for another that is at work on the same container
LOCK_S = 10.0
#: how long the process of a create that has died may take to see that
_ORPHAN_S = 1.0


class Context:
    """Where containers are kept and how cgroups are driven: the global options, for every verb."""

    __slots__ = ("root", "systemd_cgroup", "cgroup_manager", "rootless", "is_activated", "debug", "warn", "cache_dir")

    def __init__(
        self,
        root: str = "",
        *,
        systemd_cgroup: bool = False,
        cgroup_manager: str = "",
        rootless: str = "auto",
        is_activated: bool = True,
        debug: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        if not root:
            from runtime.host import Host

            host = Host()
            root = store.default_root(host.euid, host.in_user_ns if host.euid == 0 else True)
        self.root = os.path.abspath(root)
        self.systemd_cgroup = systemd_cgroup
        self.cgroup_manager = cgroup_manager
        #: whether a cgroup that may not be made is done without: "true", "false", or "auto", which is without root
        self.rootless = rootless
        #: whether $NOTIFY_SOCKET and $LISTEN_FDS are the container's; those of a program that uses the API are its own
        self.is_activated = is_activated
        self.debug = debug
        self.warn = warn or _ignore
        #: compiled seccomp filters, shared by all containers of this root; no valid id starts like it
        self.cache_dir = self.root + "/:seccomp"


def _ignore(message: str) -> None:
    pass


# -- making a container ------------------------------------------------------------------------------------------------


def create(ctx: Context, id_: str, bundle_path: str, options: Any) -> None:
    """Make the container and leave its init asleep until `start`."""
    from runtime import creation

    made = creation.make(ctx, id_, bundle_path, options, waits=True, detached=True)
    made.hand_over()


def run(ctx: Context, id_: str, bundle_path: str, options: Any) -> int:
    """Make the container and run its program; attached, wait for its end, delete it and return its exit status."""
    from runtime import creation

    return creation.run(ctx, id_, bundle_path, options)


def exec_(ctx: Context, id_: str, process: dict[str, Any], options: Any) -> int:
    """Run another process in the container; attached, wait for its end and return its exit status."""
    from runtime import joining

    entry = find(ctx, id_)
    try:
        return joining.run(ctx, entry, process, options)
    finally:
        entry.close()


def plan(ctx: Context, id_: str, bundle_path: str, options: Any) -> Plan:
    """The plan that `create` would carry out, nothing of it done."""
    from runtime import making

    return making.Making(ctx, id_, bundle_path, options, waits=True, detached=True).plan


# -- finding one -------------------------------------------------------------------------------------------------------


def find(ctx: Context, id_: str) -> Entry:
    """The container's directory with its state read; NotFound where there is none."""
    entry = store.find(ctx.root, id_)
    try:
        entry.load()
    except Error:
        entry.close()
        raise
    return entry


def state(ctx: Context, id_: str) -> dict[str, Any]:
    """The container's state as the specification words it (runtime.md, State), with runc's additions."""
    entry = find(ctx, id_)
    try:
        return _describe(entry)
    finally:
        entry.close()


def _describe(entry: Entry) -> dict[str, Any]:
    word, pid = entry.status()
    saved = entry.state
    if saved is None:
        saved = entry.journal()
    return {
        "ociVersion": saved.get("ociVersion", "1.3.0"),
        "id": entry.id,
        "pid": pid,
        "status": word,
        "bundle": saved.get("bundle", ""),
        "rootfs": saved.get("rootfs", ""),
        "created": saved.get("created", ""),
        **({"annotations": saved["annotations"]} if saved.get("annotations") else {}),
        "owner": "",
    }


def is_orphan_gone(noted: dict[str, Any]) -> bool:
    """Whether the process that the journal of a container without a state.json names has ended: that of a create that has died
    does so in a moment, since nobody answers it any more."""
    return identity.has_ended(noted.get("pid", 0), noted.get("start_time", 0), _ORPHAN_S)


def containers(ctx: Context) -> list[dict[str, Any]]:
    """Every container under the root; one that cannot be read is `{"id": ..., "error": ...}` and hides no other."""
    out = []
    for id_ in store.ids(ctx.root):
        try:
            entry = find(ctx, id_)
        except NotFound:
            continue  # deleted since the directory was listed
        except Error as error:
            out.append({"id": id_, "error": error.message})
            continue
        try:
            found = _describe(entry)
            found["uid"] = os.fstat(entry.fd).st_uid
            out.append(found)
        except NotFound:
            continue
        except Error as error:
            out.append({"id": id_, "error": error.message})
        finally:
            entry.close()
    return out


def process_template(ctx: Context, id_: str) -> dict[str, Any]:
    """`process` of the configuration that the container was made from: what `exec` without --process starts from."""
    entry = find(ctx, id_)
    try:
        process = config_of(entry).get("process")
    finally:
        entry.close()
    return process if type(process) is dict else {"cwd": "/"}


def config_of(entry: Entry) -> dict[str, Any]:
    """The configuration that the container was made from, as it was then."""
    config = jsonio.loads(entry.read("config.json"), f"{entry.path}/config.json")
    if type(config) is not dict:
        raise StateError(f"{entry.path}/config.json: not an object", code="broken-state")
    return config


def hook_state(saved: dict[str, Any], word: str, pid: int) -> bytes:
    """The state that a hook reads on standard input."""
    out = {"ociVersion": saved.get("ociVersion", "1.3.0"), "id": saved["id"], "status": word}
    out |= {"pid": pid} if pid else {}
    out["bundle"] = saved.get("bundle", "")
    if saved.get("annotations"):
        out["annotations"] = saved["annotations"]
    return jsonio.dumps(out).encode("utf-8", "surrogateescape")


# -- the life of one ---------------------------------------------------------------------------------------------------


def start(ctx: Context, id_: str) -> None:
    """Let init go on to the user's program, and say whether it got there."""
    entry = locked(ctx, id_, "start")
    try:
        word, pid = entry.status()
        status.allow("start", word, id_)
        if not (entry.state or {}).get("has_process", True):
            # nothing is changed by this: what is created can still be used by exec, and deleted
            raise ConfigError("/process", "required to start a container", clause="runtime.md#start")
        listener: Notify | None = None
        if ctx.is_activated and os.environ.get("NOTIFY_SOCKET") and os.path.isdir(f"{entry.path}/notify"):
            from runtime import notify

            # before the program runs: it may be ready at once
            listener = notify.Notify(entry, ctx.warn)
        _release(entry)
        saved = entry.state
        if saved and saved.get("has_poststart"):
            poststart(entry, pid)
        if listener is not None:
            _wait_until_ready(entry, pid, listener)
    finally:
        entry.close()


def _wait_until_ready(entry: Entry, pid: int, listener: Notify) -> None:
    pidfd = identity.open_process(pid, (entry.state or {})["start_time"])
    if pidfd >= 0:
        try:
            listener.wait(pid, pidfd)
        finally:
            os.close(pidfd)


def _release(entry: Entry) -> None:
    """Wake init through its FIFO and wait until its status FIFO ends: with a failure record, or with its exec."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # the reading end first: nothing that init reports may be lost
        status_fd = os.open("exec.status", os.O_RDONLY | flags, dir_fd=entry.fd)
    except OSError as error:
        raise StateError(f"open {entry.path}/exec.status: {error.strerror}") from None
    try:
        try:
            go_fd = os.open("exec.fifo", os.O_WRONLY | flags, dir_fd=entry.fd)
        except OSError:
            raise StatusError("cannot start a container that has stopped", code="status") from None
        os.write(go_fd, b"0")
        os.close(go_fd)
        os.set_blocking(status_fd, True)
        record = os.read(status_fd, 4096)
    finally:
        os.close(status_fd)
    for name in ("exec.fifo", "exec.status"):
        try:
            os.unlink(name, dir_fd=entry.fd)
        except OSError:
            pass  # a full or read-only directory changes nothing: without a reader the FIFO says "started"
    if record:
        _raise_recorded(entry, record)


def _raise_recorded(entry: Entry, record: bytes) -> None:
    from runtime import wire

    _, index, errno, detail = wire.decode_message(record)
    saved = entry.state or {}
    known = saved.get("tail", {}).get(str(index)) or ["", f"init op {index}", ""]
    raise wire.recorded_failure(known, index, errno, detail, saved.get("rootfs", ""))


def poststart(entry: Entry, pid: int) -> None:
    """Run the poststart hooks; the container is killed where one fails."""
    from runtime import hooks

    saved = entry.state or {}
    said = hook_state(saved, status.RUNNING, pid)
    try:
        found = hooks.of(config_of(entry), "poststart", entry.path)
        hooks.run_all("poststart", found, said, saved["bundle"], saved.get("annotations"))
    except Error:
        from runtime import removal

        removal.kill_init(entry)
        raise


def kill(ctx: Context, id_: str, signal: int, all_: bool = False) -> None:
    """Send a signal to init, or to every process of the container."""
    entry = find(ctx, id_)
    try:
        word, pid = entry.status()
        saved = entry.state
        if word == status.STOPPED and saved is not None and all_:
            # a container without a pid namespace of its own outlives its init; --all ends what is left of it, and
            # callers expect success where there is nothing left
            cgroup_of(saved).kill(signal)
            return
        status.allow("kill", word, id_)
        if saved is None:
            raise StatusError("container not running", code="status")
        if all_ and not saved["cgroup"]:
            for process in identity.pids_beside(pid):
                identity.send_signal(process, identity.start_time(process), signal)
        elif all_ or (signal == 9 and "pid" not in saved["namespaces"] and saved["cgroup"]):
            cgroup_of(saved).kill(signal)
            if not all_:
                # gone by now, unless it is in another cgroup
                identity.send_signal(pid, saved["start_time"], signal)
        elif not identity.send_signal(pid, saved["start_time"], signal):
            raise StatusError("container not running: no such process", code="status")
        if signal == 9 and word == status.PAUSED:
            # a frozen process of cgroup v1 dies only when it is thawed
            cgroup_of(saved).thaw()
    finally:
        entry.close()


def cgroup_of(saved: dict[str, Any]) -> Any:
    """The container's cgroup, as its state or journal has it."""
    from runtime import cgroups
    from runtime.host import Host

    return cgroups.from_state(saved["cgroup"], Host())


def pause(ctx: Context, id_: str) -> None:
    """Freeze every process of the container."""
    _set_frozen(ctx, id_, "pause")


def resume(ctx: Context, id_: str) -> None:
    """Thaw the container."""
    _set_frozen(ctx, id_, "resume")


def _set_frozen(ctx: Context, id_: str, verb: str) -> None:
    entry = locked(ctx, id_, verb)
    try:
        status.allow(verb, entry.status()[0], id_)
        cgroup = cgroup_of(entry.state or {})
        cgroup.freeze() if verb == "pause" else cgroup.thaw()
    finally:
        entry.close()


def update(ctx: Context, id_: str, resources: dict[str, Any], schemas: tuple[str, ...] = ()) -> None:
    """Change limits of the container: all that `resources` names, and lines of its resctrl class, or none."""
    from runtime import updating

    updating.update(ctx, id_, resources, schemas)


def pids(ctx: Context, id_: str) -> list[int]:
    """Every process of the container, by its pid on the host; of a stopped one what has outlived init, or none."""
    entry = find(ctx, id_)
    try:
        word, pid = entry.status()
        status.allow("ps", word, id_)
        found: list[int] = cgroup_of(entry.state).pids() if entry.state and entry.state["cgroup"] else []
        return found or (identity.pids_beside(pid) if pid else [])
    finally:
        entry.close()


# -- the end of one --------------------------------------------------------------------------------------------------


def delete(ctx: Context, id_: str, force: bool = False) -> None:
    """Remove a stopped container and all that was made for it; with `force`, kill it first and take any state of things."""
    from runtime import removal

    removal.delete(ctx, id_, force)


def locked(ctx: Context, id_: str, verb: str) -> Entry:
    """The container's directory with its lock, and its state as it is with that: what was read before, others may have changed."""
    entry = store.find(ctx.root, id_)
    try:
        is_ours = entry.lock()
        if entry.load() is None:
            # one that is being created is not waited for
            entry.unlock()
            is_ours = False
            status.allow(verb, entry.status()[0], id_)
        if not is_ours:
            if not entry.lock(LOCK_S):
                raise StatusError("another command is at work on the container, and has been for 10 s", code="busy")
            if entry.load() is None:
                raise NotFound(id_)
    except Error:
        entry.close()
        raise
    return entry
