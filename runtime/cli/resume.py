"""`resume`: thaw a paused container."""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    lifecycle.resume(context(args), args.id)
    return 0
