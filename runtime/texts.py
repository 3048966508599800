"""Texts of the kernel's, files of /proc, /sys and cgroups, and such of /etc: how they are read, and where their lines end.

Hot, and in every shim: without open(), whose layers of decoders cost a forked shim more memory than all else that it reads.
"""

from __future__ import annotations

from runtime import system as os


def read(path: str) -> bytes:
    """What a file holds, to its end: the kernel gives a page at a time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        out = []
        while data := os.read(fd, 65536):
            out.append(data)
        return b"".join(out)
    finally:
        os.close(fd)


def text(path: str) -> str:
    """What a file holds, to be looked at and printed; "" where it cannot be read."""
    try:
        return read(path).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def lines(text: str) -> list[str]:
    """The lines of a text: at line feeds alone, which are what the kernel escapes. splitlines of Python knows more ends of lines,
    and where a process or a mount has a say in the text it may put one of those into it."""
    return [line for line in text.split("\n") if line]
