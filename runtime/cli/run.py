"""`run`: create, start, wait, delete, in one command."""

from __future__ import annotations

from runtime import inherited, lifecycle
from runtime.cli import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    # before any work: what is opened from here on could take the place of a descriptor that is missing
    inherited.check_preserved(args.preserve_fds + inherited.listen_fds())
    return lifecycle.run(context(args), args.id, args.bundle, args)
