"""From the global options to the runtime: the context that every verb of `lifecycle` takes."""

from __future__ import annotations

from runtime import lifecycle, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args


def of(args: Args) -> lifecycle.Context:
    """Where containers are, how cgroups are made, and where warnings go."""
    return lifecycle.Context(
        args.root,
        systemd_cgroup=args.systemd_cgroup,
        cgroup_manager=args.cgroup_manager,
        debug=log.is_debug(),
        warn=log.warning,
    )
