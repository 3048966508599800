"""`checkpoint`: the state of a running container into files."""

from __future__ import annotations

from runtime import checkpoint
from runtime import system as os
from runtime.cli import context
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    check_empty(args)
    if args.status_fd is not None:
        # before any work: what is opened from here on could take the place of a descriptor that is missing
        _check_writable(args.status_fd)
    checkpoint.checkpoint(context(args), args.id, args)
    return 0


def check_empty(args: Args) -> None:
    """The namespaces of --empty-ns: the network is one anyway, and no other can be."""
    for kind in args.empty_ns:
        if kind != "network":
            raise UsageError(f'--empty-ns: namespace "{kind}" is not supported', code="usage")


def _check_writable(fd: int) -> None:
    from fcntl import F_GETFL, fcntl

    try:
        is_theirs, flags = os.get_inheritable(fd), fcntl(fd, F_GETFL)
    except (OSError, OverflowError):
        is_theirs = False
    if not is_theirs:
        raise UsageError(f"invalid --status-fd argument {fd}: bad file descriptor", code="usage")
    if flags & 3 == os.O_RDONLY:
        raise UsageError(f"invalid --status-fd argument {fd}: not writable", code="usage")
