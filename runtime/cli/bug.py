"""What nobody expected: an exception that is no Error becomes one, with a number to report it by.

The number is made of the kind of the exception and the functions it came through, so that the same mistake has the same
number on every machine. The traceback goes to the debug log only: users get one line, and no program text.
"""

from __future__ import annotations

import zlib

from runtime import log
from runtime.errors import Error, StateError, dotted, lower

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from runtime.cli.argv import Args


def as_error(unexpected: BaseException, args: Args | None = None) -> Error:
    """The Error that reports `unexpected`, whose traceback is in the debug log now.

    Where the command was about a container whose copy of its configuration is damaged, it is that.
    """
    damage = _damage(args) if args is not None else None
    if damage is not None:
        return damage
    kind = type(unexpected).__name__
    steps = [(_module(frame), frame.f_code.co_name, line) for frame, line in _steps(unexpected)]
    number = zlib.crc32(repr([kind, *(step[:2] for step in steps)]).encode())
    place = f" in {steps[-1][0]}:{steps[-1][2]}" if steps else ""
    _tell(unexpected)
    message = f"internal error {number:08x}{place}: {kind}: {unexpected}".rstrip(": ")
    hint = "" if log.is_debug() else "run again with --debug for the traceback"
    return Error(message, hint, code="internal", bug=f"{number:08x}")


def as_refusal(unforeseen: OSError | ImportError) -> Error:
    """The Error that reports what the kernel, or the loader of programs, has refused where nobody had thought of it: no mistake
    of ours but that there is no better word for it."""
    place = ""
    for frame, line in _steps(unforeseen):
        if _module(frame).startswith(("runtime", "shim", "specs")):
            place = f" [{_module(frame)}:{line}]"
    _tell(unforeseen)
    if isinstance(unforeseen, ImportError):
        return Error(f"load the program: {unforeseen}{place}", code="unforeseen")
    name = f"{unforeseen.filename!s}: " if unforeseen.filename is not None else ""
    words = lower(unforeseen) or type(unforeseen).__name__
    return Error(f"{name}{words}{place}", code="unforeseen", errno=unforeseen.errno or 0)


def _tell(error: BaseException) -> None:
    """Write the traceback to the debug log."""
    if not log.is_debug():
        return
    try:
        # not before: it loads half a library, which may be what could not be loaded
        import traceback
    except (OSError, ImportError):
        log.debug(f"{type(error).__name__}: {error}; there is no traceback of it, since traceback cannot be loaded")
        return
    for line in "".join(traceback.format_exception(error)).splitlines():
        log.debug(line)


def _steps(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames that an exception came through, with the line of each."""
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame, step.tb_lineno
        step = step.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "?"))


def _damage(args: Args) -> Error | None:
    """What is wrong with the files of the container that a command is about: nobody checks them on every command."""
    from runtime import bundle, lifecycle, store
    from runtime.cli import context

    try:
        entry = store.find(context(args).root, getattr(args, "id", ""))
    except Error:
        return None
    try:
        lifecycle.config_of(entry)
        name = f"{entry.path}/config.json"
        found = [finding for finding in bundle.findings(entry.read("config.json"), name) if finding.severity == "error"]
        for finding in found[:1]:
            where = dotted(finding.pointer)
            why = (
                f"{finding.why}: expected {finding.expected}, found {finding.found}"
                if finding.expected
                else finding.why
            )
            text = f"{name}:{finding.line}:{finding.column}: {where + ': ' if where else ''}{why}"
            return StateError(text, "the container's copy was changed: pyrunc delete --force", code="broken-state")
    except Error as error:
        return error
    finally:
        entry.close()
    return None
