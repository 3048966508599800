"""The program that is run when all is over: `podman container cleanup`, which may start the container anew.

It has our environment and no descriptor but /dev/null, and its status changes nothing: ours is the container's.
"""

from __future__ import annotations

import os
from _signal import valid_signals

from runtime import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from shim.conmon.messages import Messages
    from shim.reaper import Reaper
    from shim.words import Options


def run(options: Options, messages: Messages, reaper: Reaper, done: Callable[[], None]) -> None:
    """Start it; done() when it has ended, or could not be started."""

    def ended(status: int, at_ns: int) -> None:
        if status:
            messages.warn(f"exit command {options.exit_command}: ended with status {status}")
        done()

    # what it leaves behind on purpose is not ours to wait for: the conmon of a container that it starts again, for one
    kernel.set_subreaper(False)
    try:
        # everything else of ours is close-on-exec
        pid = os.posix_spawn(
            options.exit_command,
            [options.exit_command, *options.exit_command_arg],
            os.environ,
            setsigmask=(),
            setsigdef=valid_signals(),
        )
    except OSError as error:
        messages.error(f"run exit command {options.exit_command}: {os.strerror(error.errno or 0).lower()}")
        done()
    else:
        reaper.expect(pid, ended)
