"""`state`: the container's state as JSON (runtime.md, Query State), laid out as runc lays it out.

Nothing but the object may come out, on either stream: callers decode both together.
"""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context, output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    output.write(output.document(lifecycle.state(context.of(args), args.id), "  ") + "\n")
    return 0
