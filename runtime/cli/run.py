"""`run`: create, start, wait, delete, in one command."""

from __future__ import annotations

from runtime import creation, lifecycle
from runtime.cli import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    # before anything is opened: a descriptor of ours must not pass for one that the caller wants preserved
    creation.check_preserved(args.preserve_fds + creation.listen_fds())
    return lifecycle.run(context(args), args.id, args.bundle, args)
