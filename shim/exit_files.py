"""Small files that somebody waits for: pid files, exit statuses. Under its name there is all of one or nothing."""

from __future__ import annotations

import os


def write_file(path: str, content: bytes) -> None:
    """Write `content` under a name of its own, then give it the name that is waited for."""
    new = f"{path}.{os.getpid()}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, content)
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        raise
    finally:
        os.close(fd)
