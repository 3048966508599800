"""`restore`: a container from what `checkpoint` has written."""

from __future__ import annotations

from runtime import restoring
from runtime.cli import context
from runtime.cli.checkpoint import check_empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    check_empty(args)
    return restoring.restore(context(args), args.id, args.bundle, args)
