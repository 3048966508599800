"""What the runtime is called with: words, descriptors, environment; conmon's order of words, which tests of callers compare."""

from __future__ import annotations

import os
import sys
from _collections_abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from shim.words import Options

#: where our launcher is when front.c stands before it: the programs are in bin/ beside lib/
_BEHIND_FRONT = "/lib/pyrunc/shim"


def global_words(options: Options) -> list[str]:
    """The words before the command."""
    is_systemd = options.systemd_cgroup and not options.exec
    return [*(["--systemd-cgroup"] if is_systemd else []), *options.runtime_arg]


def words(options: Options, console_socket: str) -> list[str]:
    """The command and what follows."""
    if options.exec:
        line = ["exec", "--pid-file", options.container_pidfile, "--process", options.exec_process_spec, "--detach"]
    else:
        line = ["restore" if options.restore else "create"]
        line += ["--bundle", options.bundle, "--pid-file", options.container_pidfile]
        line += ["--no-pivot"] if options.no_pivot else []
        line += ["--no-new-keyring"] if options.no_new_keyring else []
        if options.restore:
            line += ["--detach", "--image-path", options.restore, "--work-path", options.bundle]
    line += options.runtime_opt
    line += ["--console-socket", console_socket] if console_socket else []
    return [*line, options.cid]


def is_ours(path: str) -> bool:
    """Whether this is the runtime that was installed with us: then its code is here already, and is entered by a fork."""
    folder = os.path.dirname(sys.argv[0])
    if folder.endswith(_BEHIND_FRONT):
        folder = folder.removesuffix(_BEHIND_FRONT) + "/bin"
    try:
        return os.path.samefile(folder + "/pyrunc", path)
    except OSError:
        return False


def passed_fds(options: Options, inherited: set[int]) -> list[int]:
    """The descriptors for the container: from 3 on, as many as --preserve-fds and LISTEN_FDS say."""
    count = _number(os.environ.get("LISTEN_FDS", ""))
    given = options.runtime_opt
    for at, word in enumerate(given):
        if word.startswith("--preserve-fds="):
            count += _number(word.partition("=")[2])
        elif word == "--preserve-fds" and at + 1 < len(given):
            count += _number(given[at + 1])
    fds = []
    # without a gap: where one is missing the others would get wrong numbers, and the runtime says which it is
    for fd in range(3, 3 + count):
        if fd not in inherited:
            break
        fds.append(fd)
    return fds


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


class Environment(Mapping[str, str]):
    """Ours, for a child that reads it when it exists: LISTEN_PID is to be that child's pid, sd_listen_fds(3)."""

    def __init__(self, replaces_listen_pid: bool) -> None:
        self.held = dict(os.environ)
        owner = self.held.get("LISTEN_PID", "")
        self.replaces = owner != "" and (replaces_listen_pid or owner == str(os.getpid()))

    def __getitem__(self, name: str) -> str:
        if name == "LISTEN_PID" and self.replaces:
            return str(os.getpid())
        return self.held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)
