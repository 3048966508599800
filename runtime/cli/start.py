"""`start`: let a created container's init go on to its program."""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    lifecycle.start(context(args), args.id)
    return 0
