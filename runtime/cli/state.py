"""`state`: the container's state as JSON (runtime.md, Query State), laid out as runc lays it out.

Nothing but the object may come out, on either stream: callers decode both together.
"""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context, output
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    output.write(dumps(lifecycle.state(context(args), args.id), 2) + "\n")
    return 0
