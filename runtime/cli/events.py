"""`events`: a container's statistics on an interval, and each time that it ran out of memory, one JSON object a line."""

from __future__ import annotations

from runtime import events
from runtime.cli import context, output
from runtime.errors import UsageError
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli.argv import Args


def run(args: Args) -> int:
    if args.interval <= 0:
        raise UsageError("duration interval must be greater than 0", code="usage")
    events.watch(context(args), args.id, args.interval, _tell, once=args.stats)
    return 0


def _tell(event: dict[str, Any]) -> None:
    output.write(dumps(event) + "\n")
