"""Programs of this machine: where they are, what they answer, and which daemons run. Reads /proc, sends no signal."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: where services of a distribution look, and where people put what they build
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ANSWER_S = 10


class Daemon:
    """A process: `argv`, the file it executes, its environment, when it started (seconds since 1970)."""

    __slots__ = ("argv", "cwd", "environment", "exe", "parent", "pid", "started")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.argv = _split(pid, "cmdline")
        self.exe = _link(pid, "exe")
        self.cwd = _link(pid, "cwd")
        self.environment = dict(word.split("=", 1) for word in _split(pid, "environ") if "=" in word)
        self.started = os.stat(f"/proc/{pid}").st_mtime
        self.parent = 0
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self.parent = int(fields[1])
        self.started = _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")

    def option(self, *names: str) -> str:
        """The value of a command-line option, "" where it is not given: `--config FILE` or `--config=FILE`."""
        return next(iter(self.options(*names)), "")

    def options(self, *names: str) -> list[str]:
        """Every value of an option that may be repeated."""
        found = []
        for at, word in enumerate(self.argv[1:], 1):
            name, equals, value = word.partition("=")
            if name.startswith("-") and name.lstrip("-") in names:
                found += [value] if equals else self.argv[at + 1 : at + 2]
        return found

    def resolve(self, path: str) -> str:
        """A path of its command line from the root."""
        return path if path.startswith("/") else os.path.normpath(os.path.join(self.cwd or "/", path))


def _split(pid: int, file: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/{file}", "rb") as found:
            return [os.fsdecode(word) for word in found.read().split(b"\0") if word]
    except OSError:
        return []


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}").removesuffix(" (deleted)")
    except OSError:
        return ""


def _boot_time() -> int:
    with open("/proc/stat", encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("btime ")), 0)


def daemons(name: str) -> list[Daemon]:
    """Processes that run the program `name` in this mount namespace: what another one sees of files is not what we see."""
    return [daemon for daemon in _all(name) if _is_here(daemon.pid)]


def _all(name: str) -> Iterator[Daemon]:
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        argv = _split(pid, "cmdline")
        if argv and name in (os.path.basename(argv[0]), os.path.basename(_link(pid, "exe"))):
            try:
                yield Daemon(pid)
            except (OSError, ValueError):
                continue  # it has just ended


def _is_here(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return True  # another user's: it cannot be told


def find_program(name: str, path: str = "") -> str:
    """Where a program is, "" if it is in none of the directories."""
    for folder in (path or os.environ.get("PATH") or PATH).split(":") + ([] if path else PATH.split(":")):
        found = os.path.join(folder, name)
        if folder.startswith("/") and os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return ""


def said(words: list[str]) -> tuple[int, str]:
    """A program's exit status and what it prints to either stream; -1 where it cannot be run or does not end in time."""
    import subprocess

    try:
        done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return -1, ""
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").strip()


def answer(words: list[str]) -> str:
    """What a program prints; "" where it cannot be run, fails or does not end in time."""
    status, text = said(words)
    return "" if status else text


def is_same_file(one: str, other: str) -> bool:
    """Whether two paths lead to one file."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # also a text that can be no path
        return False
