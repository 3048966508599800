"""A container's cgroup through the cgroup file system: made, limited, joined, frozen, emptied and removed, v1 and v2.

What is to be done comes from `steps`, and `run` does exactly that. A version is data here: v1 has a directory per
hierarchy, v2 has one, and the differences are names of files.

What lies below the container's cgroup may have been made and named by the container (delegation): it is walked by
descriptor, bounded in depth and number, and nothing there is ever done but to read its processes, thaw and remove it.
"""

from __future__ import annotations

import time
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOSYS, EPERM, EROFS

from runtime import system as os
from runtime.cgroups import walk
from runtime.errors import CgroupError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Step = tuple[str, str, str]

DESTROY_S = 5.0
_MAX_LIMIT = (1 << 63) - (1 << 16)  # what v1 reports for no limit is this, rounded to pages of at most 64 KiB

#: where a process must be first: memory, so that what it allocates from now on is charged; then what can refuse it
_JOIN_FIRST = ("memory", "pids", "cpuset", "cpu", "devices", "freezer")


def _make(path: str) -> None:
    """A directory that users in the container read as well, whatever is kept from others by the caller's umask."""
    os.mkdir(path, 0o755)
    if os.stat(path).st_mode & 0o777 != 0o755:
        os.chmod(path, 0o755)


class Cgroup:
    """The cgroup of one container: `paths` is a directory for each v1 controller, or a single one under "" on v2."""

    __slots__ = ("version", "paths", "host", "is_foreign", "made", "created_parents", "warnings", "asked", "_limit")

    def __init__(self, version: int, paths: dict[str, str], host: Any = None) -> None:
        self.version = version
        self.paths = paths
        self.host = host
        #: another container was found in it: not ours to remove
        self.is_foreign = False
        #: directories that `run` has made, and those above them that it had to make (runc leaves these behind, so do we)
        self.made: list[str] = []
        self.created_parents: list[str] = []
        self.warnings: list[str] = []
        #: linux.resources, for errors: which property a write comes from
        self.asked: dict[str, Any] = {}
        self._limit = 0

    # -- what it is --------------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """For a person: the path below the hierarchies' mounts."""
        return self.place("devices") or next(iter(self.paths.values()), "no cgroup")

    def state(self) -> dict[str, Any]:
        """What `from_state` needs to find it again; JSON."""
        return {"version": self.version, "paths": self.paths}

    def place(self, controller: str) -> str:
        """Its directory for a controller, empty if there is none."""
        return self.paths.get("" if self.version == 2 else controller, "")

    def directories(self) -> list[str]:
        """Every directory of it once."""
        return list(dict.fromkeys(self.paths.values()))  # cpu and cpuacct may be one hierarchy

    def exists(self) -> bool:
        """Whether it is there (runc asks the devices hierarchy alone)."""
        return os.path.isdir(self.main())

    def main(self) -> str:
        """The directory that stands for all: the devices hierarchy's, as in runc."""
        return self.place("devices") or next(iter(self.paths.values()))

    # -- making it ---------------------------------------------------------------------------------------------------------

    def steps(self, config: dict[str, Any]) -> list[Step]:
        """Everything there is to do before a process joins, in order; `run` takes these very entries."""
        from runtime.cgroups import making

        self._limit, found = making.steps(self, config)
        return found

    def reach(self) -> None:
        """Begin what takes time while init is launched, which is next."""

    def run(self, step: Step, pid: int = 0) -> None:
        """Do one step; raise CgroupError or Unsupported with the kernel's words. `pid` is the process the cgroup is for."""
        kind, target, value = step
        if kind == "write":
            self.write(target, value)
        elif kind == "mkdir":
            self._mkdir(target)
        else:
            from runtime.cgroups import making

            making.RUN[kind](self, target, value)

    def _mkdir(self, path: str) -> None:
        try:
            _make(path)
        except FileExistsError:
            self._take_over(path)
        except FileNotFoundError:
            self._mkdir_parents(path)
        except OSError as error:
            raise self._failed(f"make cgroup {path}", path, error) from None
        else:
            self.made.append(path)

    def _mkdir_parents(self, path: str) -> None:
        missing = [path]
        while True:
            try:
                _make(missing[-1])
            except FileNotFoundError:
                missing.append(os.path.dirname(missing[-1]))
                continue
            except FileExistsError:
                pass  # a neighbour was faster
            except OSError as error:
                raise self._failed(f"make cgroup {missing[-1]}", missing[-1], error) from None
            else:
                (self.made if len(missing) == 1 else self.created_parents).append(missing[-1])
                if self.version == 1 and missing[-1] != path:
                    walk.inherit_cpuset(missing[-1])  # of a parent: for the container's own there is a step
            missing.pop()
            if not missing:
                return

    def _take_over(self, path: str) -> None:
        """Refuse a cgroup that another container is in, as runc does: limits and kills would be for both."""
        if path == self.main():
            found = walk.pids(path)
            if found:
                self.is_foreign = True
                raise CgroupError(f"container's cgroup is not empty: {len(found)} process(es) found in {path}")
        if path == self.place("freezer") and self.is_frozen():
            self.is_foreign = True
            raise CgroupError(f"container's cgroup unexpectedly frozen: {path}")

    def write(self, path: str, value: str) -> None:
        """Write a value to one of its files, or raise what the kernel says to it."""
        try:
            write(path, value)
        except OSError as error:
            raise self.why(path, value, error) from None

    def why(self, path: str, value: str, error: OSError) -> CgroupError | Unsupported:
        """The error to raise for a write that the kernel refused."""
        from runtime.cgroups import refused

        return refused.error(self, path, value, error)

    def tell(
        self, writes: list[tuple[str, str, str]], after: dict[str, Any], rules: list[dict[str, Any]]
    ) -> tuple[str, ...]:
        """Tell who else has the limits what they are now: nobody here. The files that have then to be written again."""
        return ()

    def _failed(self, attempt: str, path: str, error: OSError) -> CgroupError:
        """The error, with a hint where it is a user who was not given what he needs."""
        refused = failed(attempt, error)
        if error.errno in (EACCES, EPERM):
            from runtime.cgroups import delegation

            refused.hint = delegation.hint_for(path, self.host)
        return refused

    # -- joining it --------------------------------------------------------------------------------------------------------

    def join_steps(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> list[Step]:
        """The writes that put a process in; `sub_cgroups` are exec's --cgroup values, [CONTROLLER[,CONTROLLER]:]PATH."""
        return [("write", f"{path}/cgroup.procs", "$PID") for path in self._joined(sub_cgroups)]

    def self_join_steps(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> list[Step]:
        """The v1 part of it for a process of one thread that puts itself in, each a write of "0"; the rest is `clone_into`.

        This takes a fiftieth of the time: for thread 0, the writer, `tasks` needs no lock against forks, and taking that
        lock waits for an RCU grace period, about 15 ms (cgroup_procs_write_start in kernel/cgroup/cgroup.c).
        """
        v2 = self.clone_into(sub_cgroups)
        return [("write", f"{path}/tasks", "0") for path in self._joined(sub_cgroups) if path != v2]

    def clone_into(self, sub_cgroups: list[str] | tuple[str, ...] = ()) -> str:
        """The v2 directory for clone3(2) with CLONE_INTO_CGROUP, which needs no lock either; empty if there is none."""
        paths = self.paths
        if sub_cgroups:
            from runtime.cgroups import making

            paths = making.below(self, sub_cgroups)
        return paths.get("", "")

    def _joined(self, sub_cgroups: list[str] | tuple[str, ...]) -> list[str]:
        paths = self.paths
        if sub_cgroups:
            from runtime.cgroups import making

            paths = making.below(self, sub_cgroups)
        order = sorted(paths, key=lambda name: _JOIN_FIRST.index(name) if name in _JOIN_FIRST else len(_JOIN_FIRST))
        return list(dict.fromkeys(paths[name] for name in order))

    def join(self, pid: int) -> None:
        """Put a process in."""
        for _, path, _ in self.join_steps():
            self.join_one(path, pid)

    def attach(self, step: Step, pid: int) -> None:
        """Do a join step that somebody else has to do: there is none."""

    def join_one(self, path: str, pid: int) -> None:
        """Do one of the join steps for a process."""
        for _ in range(5):
            try:
                write(path, str(pid))
                return
            except OSError as error:
                # EINVAL: a process so new that the scheduler does not know it yet
                if error.errno != EINVAL:
                    raise self.why(path, str(pid), error) from None
                why = error
                time.sleep(0.03)
        raise self.why(path, str(pid), why) from None

    # -- who is in it ------------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Every process in it and below it, sorted."""
        return walk.pids(self.main()) if self.paths else []

    def is_empty(self) -> bool:
        """Whether no process is in it or below it."""
        return not self.pids()

    def kill(self, signal: int) -> None:
        """Send a signal to every process in it and below it; with SIGKILL none can get away by forking."""
        main = self.main()
        if walk.is_root(main, self.version):
            raise CgroupError(f"{main} is the root of a hierarchy and no container's cgroup")
        if signal == 9 and walk.kill(main):
            return
        freezer = self.place("freezer")
        was_frozen = self.is_frozen()
        if freezer and not was_frozen:
            try:
                # whoever is frozen can neither fork nor leave between being listed and being signalled
                self.freeze()
            except CgroupError:
                pass  # what gets away now is found by the rounds of destroy()
        try:
            walk.signal(main, signal)
        finally:
            if freezer and signal == 9 and self.version == 1:
                walk.thaw(freezer, 1)  # SIGKILL waits for it, also where the container has frozen a part of itself
            elif freezer and not was_frozen:
                self.thaw()

    # -- pausing it --------------------------------------------------------------------------------------------------------

    def freezer_file(self) -> str:
        """The file that says whether it is frozen; empty if none does."""
        path = self.place("freezer")
        return path and f"{path}/{'freezer.state' if self.version == 1 else 'cgroup.freeze'}"

    def is_frozen(self) -> bool:
        """Whether it is frozen, or about to be."""
        path = self.freezer_file()
        return bool(path) and walk.text(path).strip() in ("FROZEN", "FREEZING", "1")

    def freeze(self) -> None:
        """Stop every process in it; raise CgroupError and leave it thawed if that cannot be done in time."""
        from runtime.cgroups import freezer

        freezer.freeze(self, self._freezer())

    def _freezer(self) -> str:
        path = self.freezer_file()
        if not path:
            raise Unsupported("cannot toggle freezer: cgroups not configured for container")
        return path

    def thaw(self) -> None:
        """Let its processes go on."""
        path = self._freezer()
        try:
            write(path, "THAWED" if self.version == 1 else "0")
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV) or os.path.isdir(os.path.dirname(path)):
                raise failed(f"thaw {path}", error) from None

    # -- memory ------------------------------------------------------------------------------------------------------------

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory; 0 if nobody counts."""
        path = self.place("memory")
        return (
            walk.value(f"{path}/{'memory.oom_control' if self.version == 1 else 'memory.events'}", "oom_kill")
            if path
            else 0
        )

    def memory_limit(self) -> int:
        """The lowest limit in bytes of those that hold for it: its own, and of the cgroups above. 0 for none."""
        limits = [self._limit] if self._limit > 0 else []
        path = self.place("memory")
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        while path and os.path.exists(f"{path}/{name}"):
            limit = walk.number(f"{path}/{name}")
            if 0 < limit < _MAX_LIMIT:
                limits.append(limit)
            path = os.path.dirname(path)
        return min(limits, default=0)

    # -- the end of it -----------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Remove it, with every process that is still in it; what is not there is fine."""
        # One rmdir each is all it takes for a container that has ended.
        left = []
        for path in dict.fromkeys(self.made) if self.is_foreign else self.directories():
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                # a read-only mount answers EROFS even for what is not there
                if error.errno not in (EBUSY, EROFS) or os.path.isdir(path):
                    left.append(path)
        if left:
            self._destroy_slowly(left)

    def _destroy_slowly(self, left: list[str]) -> None:
        deadline = time.monotonic() + DESTROY_S
        pause = 0.001
        while True:
            for path in list(left):
                if walk.is_root(path, self.version):
                    raise CgroupError(f"{path} is the root of a hierarchy and no container's cgroup")
                if not walk.kill(path):
                    walk.signal(path, 9)
                if path == self.place("freezer"):
                    walk.thaw(path, self.version)  # v1: what the container froze itself does not die either
                error = walk.remove(path)
                if error is None:
                    left.remove(path)
                elif error.errno != EBUSY or time.monotonic() > deadline:
                    raise failed(f"remove cgroup {path}", error, walk.stuck(walk.pids(path))) from None
            if not left:
                return
            # a process that has been killed stays in its cgroup until it has let go of everything
            time.sleep(pause)
            pause = min(pause * 2, 0.05)


# -- what the steps use ----------------------------------------------------------------------------------------------------


def write(path: str, value: str) -> None:
    """Write one value to one cgroup file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, value.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def failed(attempt: str, error: OSError, detail: str = "", where: str = "") -> CgroupError:
    """What was attempted, and the kernel's words without their capital, by which callers know them."""
    words = os.strerror(error.errno or 0)
    text = f"{attempt}: {words[:1].lower()}{words[1:]}{f' ({detail})' if detail else ''}{where}"
    return CgroupError(text, errno=error.errno or 0)


def attach_devices(path: str, program: bytes) -> None:
    """Load a program that decides on devices and attach it to a v2 cgroup; the extension is needed for this alone."""
    from runtime import kernel

    cgroup_fd = program_fd = -1
    try:
        cgroup_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        program_fd = kernel.bpf_prog_load(program)
        kernel.bpf_prog_attach(cgroup_fd, program_fd)
    except OSError as error:
        missing = "bpf is missing" if error.errno == ENOSYS else ""
        raise failed(f"attach the device rules to {path}", error, missing) from None
    finally:
        for fd in (cgroup_fd, program_fd):
            if fd >= 0:
                os.close(fd)
