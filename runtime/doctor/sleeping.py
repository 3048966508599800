"""What a process waits for, as far as the kernel tells: its state, the function it sleeps in, who traces it."""

from __future__ import annotations

from runtime.texts import lines, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: beginnings of functions in which processes sleep (proc_pid_wchan(5)), and what that means to a person
_MEANINGS = (
    ("seccomp_do_user_notification", "the seccomp agent has not answered one of its system calls"),
    ("fifo_open", "it opens a FIFO that nobody has open at the other end"),
    ("wait_for_partner", "it opens a FIFO that nobody has open at the other end"),
    ("pipe_read", "it reads from a pipe into which nobody writes"),
    ("anon_pipe_read", "it reads from a pipe into which nobody writes"),
    ("pipe_w", "it writes to a pipe that nobody empties: whoever reads its output has stopped"),
    ("anon_pipe_write", "it writes to a pipe that nobody empties: whoever reads its output has stopped"),
    ("request_wait_answer", "a FUSE file system does not answer"),
    ("fuse_", "a FUSE file system does not answer"),
    ("rpc_wait_bit", "an NFS server does not answer"),
    ("nfs", "an NFS server does not answer"),
    ("__refrigerator", "it is frozen"),
    ("do_freezer_trap", "it is frozen"),
    ("ptrace_stop", "a debugger holds it"),
    ("do_signal_stop", "it was stopped by a signal (SIGSTOP, SIGTSTP)"),
    ("mem_cgroup_oom", "it has reached its memory limit, and nothing is killed for it"),
    ("mem_cgroup_handle_over_high", "it is slowed down for being above memory.high"),
    ("folio_wait_bit", "it waits for a disk"),
    ("io_schedule", "it waits for a disk"),
    ("do_wait", "it waits for a child"),
    ("flock_lock", "it waits for a file lock"),
    ("locks_lock", "it waits for a file lock"),
    ("fcntl_setlk", "it waits for a file lock"),
)
#: how far apart the two looks at a process are that seems to be stuck
_MOMENT_S = 0.2
_SWITCHES = "voluntary_ctxt_switches"
_STATES = {
    "R": "runs", "S": "sleeps", "D": "sleeps in the kernel", "T": "is stopped",
    "t": "is held", "Z": "has ended and was not collected", "X": "is dead", "I": "is idle",
}  # fmt: skip


class Process:
    """A process of /proc: name, state as a letter, the function it sleeps in, its tracer, its words."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        stat = text(f"/proc/{pid}/stat")
        self.name, _, rest = stat[stat.find("(") + 1 :].rpartition(")")
        self.state = rest.strip()[:1]
        self.parent = int(rest.split()[1]) if rest else 0
        where = text(f"/proc/{pid}/wchan")
        self.where = "" if where == "0" else where
        self.status = dict(line.split(":\t", 1) for line in lines(text(f"/proc/{pid}/status")) if ":\t" in line)
        self.argv = text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()

    @property
    def tracer(self) -> int:
        """The pid of a debugger, 0 for none."""
        word = self.status.get("TracerPid", "0")
        return int(word) if word.isdigit() else 0

    @property
    def is_interpreter(self) -> bool:
        """Whether it is an init of ours that has not become the user's program yet."""
        return self.name.startswith("pyrunc:[")

    def is_stuck(self) -> bool:
        """Whether it sleeps in the kernel and stays there; a moment of it is nothing to be told of, every disk causes some."""
        import select

        if self.state != "D" or self.meaning() == "it is frozen":
            return False
        select.select((), (), (), _MOMENT_S)
        later = Process(self.pid)
        return later.state == "D" and later.status.get(_SWITCHES) == self.status.get(_SWITCHES)

    def says(self) -> str:
        """Its state in words, and where it sleeps."""
        words = _STATES.get(self.state, "is gone")
        return f"process {self.pid} ({self.name}) {words}{f' at {self.where}' if self.where else ''}"

    def meaning(self) -> str:
        """What that means, "" where it means nothing in particular."""
        return next((meaning for begin, meaning in _MEANINGS if self.where.startswith(begin)), "")

    def handles(self, signal: int) -> bool:
        """Whether it has a handler for a signal; the first process of a pid namespace gets no other signal from inside."""
        try:
            return bool(int(self.status.get("SigCgt", "0"), 16) >> (signal - 1) & 1)
        except ValueError:
            return True

    def stack(self, limit: int = 6) -> str:
        """The innermost functions of its kernel stack, where we may read it (proc_pid_stack(5))."""
        names = [line.split("] ")[-1].partition("+")[0] for line in lines(text(f"/proc/{self.pid}/stack"))]
        return " < ".join(names[:limit])


def children(parents: Iterable[int]) -> list[int]:
    """The children of processes."""
    import os

    wanted = set(parents)
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = text(f"/proc/{name}/stat").rpartition(")")[2].split()
            if len(stat) > 1 and int(stat[1]) in wanted:
                found.append(int(name))
    return sorted(found)


def holders(path: str) -> list[int]:
    """Processes that hold a lock of flock(2) on a file or directory, as /proc/locks has them."""
    import os

    try:
        info = os.stat(path)
    except OSError:
        return []
    wanted = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    found = []
    for line in lines(text("/proc/locks")):
        words = line.split()
        # 1: FLOCK ADVISORY WRITE 1234 00:1a:5678 0 EOF; a waiter has -> as its second word
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == wanted and words[4].isdigit():
            found.append(int(words[4]))
    return [pid for pid in found if pid > 0]
