"""`state`: the container's state as JSON (runtime.md, Query State), laid out as runc lays it out.

Nothing but the object may come out, on either stream: callers decode both together. With --verbose it has a key more, `stands`: an
array of sentences, where init is and what it waits for.
"""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context, output
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    found = lifecycle.state(context(args), args.id)
    if args.verbose:
        from runtime.doctor import container

        found["stands"] = container.stands(context(args), args.id)
    output.write(dumps(found, 2) + "\n")
    return 0
