"""`delete`: undo all that was made for a container, whatever state it is in.

The order is what makes an interrupted delete repeatable: processes, cgroup, poststop hooks, and the directory that knows
of them last. No plan, no extension; a container's own files are never touched, nothing of the rootfs is removed by path.
"""

from __future__ import annotations

import select
import time

from runtime import identity, lifecycle, status, store
from runtime import system as os
from runtime.errors import Error, KernelError, NotFound, StateError, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.store import Entry

#: how long to wait for a process that was killed; one in uninterruptible sleep outlives any signal
_DEATH_S = 10.0
#: what a poststop hook without a timeout gets of a delete by force, which has to end: of what a hook fails at the lifecycle says
#: to warn and go on, and whoever asks for force has nothing left to ask for
_HOOK_S = 10.0


def delete(ctx: lifecycle.Context, id_: str, force: bool = False) -> None:
    """Remove a stopped container and all that was made for it; with `force`, kill it first and take any state of things."""
    try:
        entry = store.find(ctx.root, id_)
    except NotFound:
        if force:
            return  # callers clean up after a create that failed, without knowing how far it came
        raise
    try:
        if not entry.lock(0.0) and not _take_over(entry, force):
            raise StatusError("another command is at work on the container, and has been for 10 s", code="busy")
        if entry.is_gone():
            # it was waited for another delete; by now the name may be a new container's, whose directory is not ours to remove
            if force:
                return
            raise NotFound(id_)
        _delete(ctx, entry, force)
    finally:
        entry.close()


def end(ctx: lifecycle.Context, entry: Entry) -> None:
    """The same with `force` for whoever has the lock already."""
    _delete(ctx, entry, True)


def _take_over(entry: Entry, force: bool) -> bool:
    """Get the lock from a command at work: wait for it, and with `force` take its init away, on which it fails, and a poststop
    hook that it waits for."""
    if not force:
        return entry.lock(lifecycle.LOCK_S)
    for _ in range(int(lifecycle.LOCK_S / 0.1)):
        noted = entry.journal()
        kill_and_wait(noted.get("pid", 0), noted.get("start_time", 0), 0.05)
        kill_and_wait(noted.get("hook_pid", 0), noted.get("hook_start_time", 0), 0.05)
        if entry.lock(0.05):
            return True
    return False


def _delete(ctx: lifecycle.Context, entry: Entry, force: bool) -> None:
    try:
        saved = entry.load()
    except StateError:
        # a state file of garbage: the journal still knows what there is to undo
        if not force:
            raise
        saved = None
    word, pid = status.STOPPED, 0
    if saved is not None:
        try:
            word, pid = entry.status()
        except Error:
            # by force: whoever it is, is killed
            if not force:
                raise
            pid = saved["pid"]
    if not force and word != status.CREATED:
        # a created container is killed by a plain delete: engines clean up that way (runc's delete.go)
        status.allow("delete", word, entry.id)
    if saved is None:
        _check_is_container(entry)
    noted = saved if saved is not None else entry.journal()
    if saved is None and not force and not lifecycle.is_orphan_gone(noted):
        hint = "something has removed it, as programs do that tidy up /tmp; delete --force kills the process and removes the rest"
        raise StateError(f"{entry.path}/state.json: missing, but the container's process {noted['pid']} runs", hint)
    cgroup = noted.get("cgroup")
    if word == status.PAUSED and cgroup:
        _kill_frozen(noted, force)
    if pid or saved is None:
        kill_and_wait(noted.get("pid", 0), noted.get("start_time", 0), _DEATH_S)
    if cgroup:
        _clear_cgroup(ctx, entry, cgroup, force)
    remove_groups(noted)
    if noted.get("has_poststop"):
        poststop(ctx, entry, noted, _HOOK_S if force else None)
    entry.remove()


def _check_is_container(entry: Entry) -> None:
    """Raise StateError for a directory with nothing of ours in it: a wrong --root would have us empty somebody's home."""
    names = os.listdir(entry.fd)
    if names and not {"journal", "state.json"} & set(names):
        raise StateError(f"{entry.path}: no container's directory: it has neither a journal nor a state.json")


def _kill_frozen(noted: dict[str, Any], force: bool) -> None:
    try:
        lifecycle.cgroup_of(noted).kill(9)
        lifecycle.cgroup_of(noted).thaw()
    except StateError:
        if not force:
            raise


def _clear_cgroup(ctx: lifecycle.Context, entry: Entry, cgroup: dict[str, Any], force: bool) -> None:
    """Remove the container's cgroup; with `force` a state file that names none is no reason to keep all the rest."""
    try:
        _remove_cgroup(cgroup)
    except StateError as error:
        if not force:
            raise
        # the journal is a record of its own
        noted = entry.journal().get("cgroup")
        try:
            if noted and noted != cgroup:
                _remove_cgroup(noted)
                return
        except StateError:
            pass
        ctx.warn(f"{error}, ignoring: a cgroup may be left")


def remove_groups(noted: dict[str, Any]) -> None:
    """Remove what resctrl has of the container."""
    if noted.get("resctrl"):
        from runtime import intelrdt

        intelrdt.remove(noted["resctrl"])


def _remove_cgroup(cgroup: dict[str, Any]) -> None:
    """Remove the container's cgroup. Empty directories, as nearly always, need nothing but rmdir; whatever holds a process, or is not
    plainly a cgroup's path, is for `cgroups`, which knows more and takes longer to load than all the rest of a delete."""
    paths = cgroup.get("paths")
    if "unit" in cgroup and _has_gone(cgroup, paths):
        return
    places: list[Any] = list(paths.values()) if type(paths) is dict else [None]
    if "unit" not in cgroup and all(
        type(p) is str and p.startswith("/sys/fs/cgroup/") and ".." not in p.split("/") for p in places
    ):
        left = False
        for path in places:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue  # a hierarchy of two controllers, or gone already
            except OSError:
                left = True
        if not left:
            return
    lifecycle.cgroup_of({"cgroup": cgroup}).destroy()


def _has_gone(cgroup: dict[str, Any], paths: Any) -> bool:
    """Whether systemd has removed the unit's cgroup, and thereby forgotten the unit: it does so by itself after the last process."""
    if cgroup.get("collects") is not True or cgroup.get("version") != 2 or type(paths) is not dict:
        return False
    return all(
        type(path) is str and path[:15] == "/sys/fs/cgroup/" and not os.path.isdir(path) for path in paths.values()
    )


def kill_init(entry: Entry) -> None:
    saved = entry.state or {}
    kill_and_wait(saved.get("pid", 0), saved.get("start_time", 0), _DEATH_S)


def kill_and_wait(pid: Any, started: Any, seconds: float) -> None:
    """Kill the process that had this pid and start time, and wait until it is gone."""
    from _signal import pidfd_send_signal

    pidfd = identity.open_process(pid, started)
    if pidfd < 0:
        return
    try:
        try:
            pidfd_send_signal(pidfd, 9)
        except ProcessLookupError:
            return
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not poll.poll(max(0.0, (deadline - time.monotonic()) * 1000)):
            if time.monotonic() >= deadline:
                if seconds < 1:
                    return
                raise KernelError(f"wait for process {pid} to die of SIGKILL, {seconds:.0f} s", 110)
    finally:
        os.close(pidfd)


def poststop(ctx: lifecycle.Context, entry: Entry, noted: dict[str, Any], limit: float | None = None) -> None:
    """Run the poststop hooks, each for at most its timeout, or `limit` seconds where it has none; one that fails is a warning."""
    from runtime import hooks

    def on_pid(pid: int) -> None:
        try:
            # for a delete by force that finds us waiting for it
            entry.note({"hook_pid": pid, "hook_start_time": identity.start_time(pid)})
        except Error:
            pass  # a full or read-only directory must not keep anybody from deleting

    try:
        found = hooks.of(lifecycle.config_of(entry), "poststop", entry.path)
    except Error as error:
        ctx.warn(f"poststop hooks: {error}, ignoring")
        return
    for index, hook in enumerate(found):
        try:
            hooks.run(
                f"poststop[{index}]",
                hook,
                lifecycle.hook_state({**noted, "id": entry.id}, status.STOPPED, 0),
                noted.get("bundle", "/"),
                noted.get("annotations"),
                limit=limit,
                on_pid=on_pid,
            )
        except Error as error:
            # "the remaining hooks and lifecycle continue as if the hook had succeeded" (runtime.md#lifecycle, step 13)
            ctx.warn(f"{error}, ignoring")
