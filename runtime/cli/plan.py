"""`plan`: print what `create` would do, and do none of it."""

from __future__ import annotations

from runtime import lifecycle
from runtime import system as os
from runtime.cli import context, output
from runtime.errors import UsageError
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    path = args.bundle or "."
    plan = lifecycle.plan(context(args), args.id or _name(path), path, args)
    if args.json:
        steps = [
            {"place": place, "index": index, "name": name, "text": text, "where": note}
            for place, index, name, text, note in plan.lines()
        ]
        output.write(dumps(steps, 2) + "\n")
    else:
        output.write(plan.text())
    return 0


def _name(path: str) -> str:
    """The name of the bundle's directory, where it would do for a container's."""
    from runtime.store import check_id

    name = os.path.basename(os.path.abspath(path))
    try:
        check_id(name)
    except UsageError:
        return "container"
    return name
