"""The part of `os` that the hot commands need, from `posix` itself, where `os` takes it from.

With -S nobody has imported `os` yet, and doing so costs as much as ten modules of ours: it defines classes (environments,
path protocols, walkers) that a command never uses. Hot modules say `from runtime import system as os`; what is called here
as in `os` does the same, which tests/unit/test_system.py proves. Strings are UTF-8 with surrogate escapes, as on any Linux.
"""

# ruff: noqa: F403, F405
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import *
    from os import _exit as _exit
    from os import environ as environ
    from os import path as path
else:
    import posix
    from posix import *

    _exit = posix._exit
    SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2

    #: a copy of the environment at the start; changing it changes nothing
    environ = {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in posix.environ.items()
    }

    def fsencode(name):
        """A file name as the bytes that the kernel takes."""
        name = fspath(name)
        return name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name

    def fsdecode(name):
        """A file name from the kernel as text."""
        name = fspath(name)
        return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name

    class path:
        """What `os.path` has of the same names, for text."""

        def join(first, *more):
            """Paths one after the other; an absolute one starts anew."""
            for word in more:
                if word[:1] == "/":
                    first = word
                elif not first or first[-1] == "/":
                    first += word
                else:
                    first += "/" + word
            return first

        def split(name):
            """(directory, last component)."""
            head, _, tail = name.rpartition("/")
            at = len(name) - len(tail)
            head = name[:at]
            return (head.rstrip("/") or head), tail

        def dirname(name):
            """The directory of a path."""
            return path.split(name)[0]

        def basename(name):
            """The last component of a path."""
            return name.rpartition("/")[2]

        def isabs(name):
            """Whether a path begins at the root."""
            return name[:1] == "/"

        def normpath(name):
            """A path without `.`, `..` and doubled slashes, by its text alone: links are not looked at."""
            if not name:
                return "."
            start = "//" if name[:2] == "//" and name[:3] != "///" else "/" if name[0] == "/" else ""
            out = []
            for word in name.split("/"):
                if word in ("", "."):
                    continue
                if word != ".." or (not start and not out) or (out and out[-1] == ".."):
                    out.append(word)
                elif out:
                    out.pop()
            return start + "/".join(out) or "."

        def abspath(name):
            """A path from the root, normalised."""
            return path.normpath(name if name[:1] == "/" else path.join(getcwd(), name))

        def exists(name):
            """Whether there is something; links are followed."""
            try:
                stat(name)
            except (OSError, ValueError):
                return False
            return True

        def isdir(name):
            """Whether there is a directory; links are followed."""
            try:
                return stat(name).st_mode & 0o170000 == 0o040000
            except (OSError, ValueError):
                return False

        def islink(name):
            """Whether there is a symbolic link."""
            try:
                return lstat(name).st_mode & 0o170000 == 0o120000
            except (OSError, ValueError):
                return False
