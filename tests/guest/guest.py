"""Run a command in the guest, a machine of its own with cgroup v2 alone and systemd: `make guest`.

    guest.py [--user tester|loner] [--kernel cloud|container] [--limit S] [--env NAME=VALUE] [--back DIR] [--] [COMMAND ARG...]

Without a command, a shell on this terminal. The exit status is the command's; 124 when the time was up, 125 when the guest did
not boot or died, 126 when there is none here, and why.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from making import Unavailable, say
from session import UNAVAILABLE, Machine, Request, run


def machine(kernel: str) -> Machine:
    """The kind of guest of that name; what it is made of is made when it is not there."""
    if kernel == "cloud":
        from cloud import Cloud

        return Cloud()
    if kernel == "container":
        from container import Container

        return Container()
    from uml import Uml

    return Uml()


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="run a command on cgroup v2 and systemd, in a guest")
    parser.add_argument("--user", default="root", help="as root, tester (with subordinate ids) or loner (without)")
    parser.add_argument(
        "--kernel",
        choices=("uml", "cloud", "container"),
        default="uml",
        help="User-Mode Linux, Debian's under QEMU, or the machine's own",
    )
    parser.add_argument("--limit", type=float, default=3600, metavar="S", help="seconds that it may take")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", type=_variable)
    parser.add_argument("--back", type=Path, metavar="DIR", help="where what it puts into /run/guest/back goes")
    parser.add_argument("--setup", action="store_true", help="only make kernel and image")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser.parse_args(words)


def _variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def main() -> int:
    given = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    words = given.command[1:] if given.command[:1] == ["--"] else given.command
    try:
        made = machine(given.kernel)
        if given.setup:
            return 0
        if not words and not os.isatty(0):
            raise Unavailable("there is no terminal here, and no command was given")
        if not words and not made.lines["terminal"]:
            raise Unavailable("this kind of guest has no terminal: give a command")
        shell = () if words else ("/bin/bash", "-i")
        request = Request(
            (*words, *shell), given.user, tuple(given.env), given.limit, given.back, has_terminal=not words
        )
        return run(made, request)
    except Unavailable as error:
        say(str(error))
        return UNAVAILABLE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
