"""`mounts`: add mounts to a running container, or remove them (crun)."""

from __future__ import annotations

from runtime import mounting
from runtime.cli import context, output
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def run(args: Args) -> int:
    if args.action not in ("add", "remove"):
        raise UsageError(f'mounts: "{args.action}" is neither add nor remove', code="usage")
    if args.plan:
        output.write(mounting.plan(context(args), args.id, args.action, args.file).text())
    else:
        mounting.change(context(args), args.id, args.action, args.file)
    return 0
