"""Terminals and the three standard descriptors.

The pair is opened on the container's own devpts, by the descriptor of that mount; no `/dev/pts/N` is resolved, as an image
or a neighbour could have put a link there (CVE-2025-52565). The master goes to the parent, which hands it on.
"""

from __future__ import annotations

from runtime import linux
from runtime.ops import FLAG_NOFOLLOW
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request

_WHERE = "/process/terminal"


def console(request: Request, plan: Plan) -> Iterator[Op]:
    """Open the terminal, hand over its master, and bind the other side to /dev/console."""
    if not request.process.get("terminal"):
        return
    from runtime.planner import mounts

    if not any(mounts.is_held_devpts(mount) for mount in mounts.read(request)):
        # /dev is somebody else's work, with a devpts in it
        yield _open_devpts("rootfs")
    yield from _pair(request, plan)
    about = "bind the terminal to /dev/console"
    yield Op("open-tree", r0="tree", r1="terminal", a=linux.OPEN_TREE_CLONE, about=about, where=_WHERE)
    # not through a link: the file that is made where none is would be made wherever it points (CVE-2026-88264)
    yield Op(
        "mountpoint", "/dev/console", r0="at", r1="rootfs", r2="tree", flags=FLAG_NOFOLLOW, about=about, where=_WHERE
    )
    yield Op("move-mount", r0="tree", r1="at", about=about, where=_WHERE)


def standard_descriptors(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the terminal the standard descriptors; without one, exchange the host's null device for the container's."""
    if request.process.get("terminal"):
        yield _ctty()
    else:
        yield Op("reopen-null", r1="rootfs", about="reopen the null device inside the container")


def exec_console(request: Request, plan: Plan) -> Iterator[Op]:
    """Open the terminal of a further process on the container's devpts; /dev/console stays that of init."""
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    # what is "/" by now is the container's
    yield Op("open", "/", r0="rootfs", a=flags, about="open the root of the container")
    if request.process.get("terminal"):
        yield _open_devpts("rootfs")
        yield from _pair(request, plan)


def _open_devpts(root: str) -> Op:
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    return Op("open", "/dev/pts", r0="pts", r1=root, a=flags, b=resolve, about="open /dev/pts", where=_WHERE)


def _pair(request: Request, plan: Plan) -> Iterator[Op]:
    size = request.console_size
    if not size:
        wanted = request.process.get("consoleSize") or {}
        size = (wanted.get("height") or 0, wanted.get("width") or 0)
    yield Op(
        "open-pty", r0="master", r1="pts", r2="terminal", a=size[0], b=size[1], about="open a terminal", where=_WHERE
    )
    yield plan.ask("console", [("console", "", "")], send="master", about="hand over the terminal", where=_WHERE)
    # from here on whoever got it is the only one to hold it: its hang-up reaches the container
    yield Op("close", r0="master")
    yield Op("close", r0="pts")


def _ctty() -> Op:
    # the session was made before: only its leader may take a terminal, ioctl_tty(2)
    return Op("ctty", r0="terminal", about="take the terminal", where=_WHERE)
