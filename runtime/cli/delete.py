"""`delete`: remove what is left of a container, or with --force all of it."""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    lifecycle.delete(context(args), args.id, args.force)
    return 0
