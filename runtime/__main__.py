"""From words to an exit status: read the command line, call the command, say why it failed. The only place that prints an error.

    0            done                           1     anything that went wrong
    the process's status, 128 + signal number   `run` and `exec` in the foreground
    255          `exec`'s own failures, so that a caller can tell them from the program's
    141, 130     nobody read the output; interrupted

It imports what every command needs, and one command; what explains (click, tracebacks) is loaded when there is something
to explain.
"""

from __future__ import annotations

import sys
from _signal import SIG_DFL, SIGCHLD, signal
from errno import EMFILE, ENFILE, ENOSYS

from runtime import log
from runtime import system as os
from runtime.cli import argv
from runtime.errors import ConfigError, Error, Exists, NotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runtime.cli.argv import Args

EXEC_FAILED = 255
INTERRUPTED = 128 + 2


def main() -> NoReturn:
    """Carry out the command line and end the process."""
    try:
        _open_stdio()
        # what a careless caller ignores is inherited, and the kernel would collect the status of our children unseen
        signal(SIGCHLD, SIG_DFL)
    except OSError as error:
        status = _report(Error(f"begin: {error.strerror}"), None)
    else:
        status = call(sys.argv[1:])
    # Not sys.exit: taking the interpreter apart costs 1 to 2 ms, of which nobody has anything. Nothing is left to
    # flush, since everything here is written with os.write.
    os._exit(status & 0xFF)


def call(words: list[str]) -> int:
    """Carry out the command line `words`, errors reported; the exit status."""
    args: Args | None = None
    try:
        args = argv.read(words)
        if args is None:
            from runtime.cli import app, output

            answer = app.read(words)
            if isinstance(answer, str):
                output.write(answer)
                return 0
            args = answer
        return _run(args, words)
    except Error as error:
        return _report(error, args)
    except KeyboardInterrupt:
        _report(Error("interrupted", code="interrupted"), args)
        return INTERRUPTED
    except MemoryError:
        return _report(Error("out of memory", code="memory"), args)
    except RecursionError:
        return _report(Error("nested too deeply", code="nesting"), args)
    except Exception as error:
        return _report(_unexpected(error, args), args)


def _run(args: Args, words: list[str]) -> int:
    log.setup(args.log, args.log_format, "debug" if args.debug else args.log_level)
    if log.is_debug():
        log.debug("command line: " + " ".join(words))
    if "id" in args.__dict__ and args.command != "plan" and not getattr(args, "regex", False):
        from runtime.store import check_id

        check_id(args.id)
    if args.timings:
        return _timed(args)
    module = __import__("runtime.cli." + args.command, None, None, ("run",))
    status = module.run(args)
    return int(status)


def _unexpected(error: Exception, args: Args | None) -> Error:
    if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE):
        # anything that is imported may be what there is no descriptor for, and what explains mistakes as well
        return Error(
            f"open {error.filename or 'a descriptor'}: too many open files", "the limit is ulimit -n", errno=error.errno
        )
    if isinstance(error, OSError) and error.errno == ENOSYS:
        from runtime.refusals import missing

        # the only ones that are called from here: what mounts, clones and looks up names is in init's plan
        calls = "pidfd_open, pidfd_send_signal, memfd_create"
        return Error(f"use {calls}: function not implemented", missing(calls), errno=error.errno)
    from runtime.cli import bug

    return bug.as_refusal(error) if isinstance(error, (OSError, ImportError)) else bug.as_error(error, args)


def _timed(args: Args) -> int:
    """The same, with a word about where its time went."""
    from runtime.cli import timings

    clock = timings.begin(args.command)
    try:
        module = __import__("runtime.cli." + args.command, None, None, ("run",))
        return int(module.run(args))
    finally:
        timings.finish(clock, f"{args.command} {getattr(args, 'id', '')}".rstrip())


def _report(error: Error, args: Args | None) -> int:
    if args is None:
        # the words were not understood, but what could be read of them may say where to log that
        args = getattr(error, "options", None)
        if args is not None:
            log.setup(args.log, args.log_format, "debug" if args.debug else args.log_level)
        command = ""
    else:
        command = args.command
    if error.message:
        # A mistake in the words or in a document has its place already, and a missing container its name
        if command and not isinstance(error, (UsageError, ConfigError, NotFound, Exists)):
            error.message = f"{command} {getattr(args, 'id', '')}".rstrip() + f": {error.message}"
        log.error(error)
    return EXEC_FAILED if command == "exec" else error.status


def _open_stdio() -> None:
    """Put /dev/null where the caller left 0, 1 or 2 closed: a file opened there would be taken for stdio.

    An error message would be written into it, and a container would be given it as its own.
    """
    for fd in (0, 1, 2):
        try:
            os.get_inheritable(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


if __name__ == "__main__":
    main()
