"""`delete`: remove what is left of a container, or with --force all of it."""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    ctx = context(args)
    if args.regex:
        from runtime.cli import matching

        return matching.each(ctx, args.id, lambda id_: lifecycle.delete(ctx, id_, args.force))
    lifecycle.delete(ctx, args.id, args.force)
    return 0
