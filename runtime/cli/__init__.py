"""The command line: words in, one of the runtime's verbs called, text and an exit status out.

`grammar` is the only list of commands and options. `argv` reads words by it, strictly and fast; `app` reads them with
click, by the same list, and explains. One module per command carries it out as `run(args) -> int`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args
    from runtime.lifecycle import Context


def context(args: Args) -> Context:
    """From the global options: where containers are, how cgroups are made, and where warnings go."""
    # imported here because `argv` and `app` know nothing of containers, and a module of its own costs every command
    from runtime import lifecycle, log

    return lifecycle.Context(
        args.root,
        systemd_cgroup=args.systemd_cgroup,
        cgroup_manager=args.cgroup_manager,
        rootless=args.rootless,
        debug=log.is_debug(),
        warn=log.warning,
    )
