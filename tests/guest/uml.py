"""User-Mode Linux: the guest as an ordinary process, which sees the host's directories by hostfs."""

from __future__ import annotations

import os
from pathlib import Path

from image import image
from kernel import MODULES, OLDEST, kernel, registers, version
from session import INIT

MEMORY_MB = 1536


class Uml:
    """A machine that session.py can start."""

    #: what the lines of inside.sh are called in the guest; `terminal` is the one on which somebody types
    lines = {"out": "ttyS0", "err": "ttyS1", "status": "ttyS2", "back": "ttyS3", "terminal": "ttyS4"}

    def __init__(self) -> None:
        self.kernel, self.image = kernel(), image()
        self.is_old = version(self.kernel) < OLDEST

    def source(self, directory: Path) -> str:
        """Where the guest finds a directory of the host's, as root/usr/local/lib/guest/mount takes it."""
        return f"hostfs:{directory}"

    def command(self, work: Path, tree: Path, fds: dict[str, int], has_terminal: bool) -> list[str]:
        words = [
            "env", f"TMPDIR={_memory_place(work)}", *self._kernel(), f"mem={MEMORY_MB}M", f"umid={work.name}", f"uml_dir={work}/", "quiet",
            f"ubd0={work}/root.cow,{self.image}", "root=/dev/ubda1", "rootfstype=ext4", "rw",
            "con=null", f"con0=null,fd:{fds['console']}", "ssl=null",
        ]  # fmt: skip
        words += [f"ssl{self.lines[name][4:]}=null,fd:{fds[name]}" for name in ("out", "err", "status", "back")]
        if has_terminal:
            words.append(f"ssl{self.lines['terminal'][4:]}=fd:0,fd:1")
        return [*words, f"guest.run=hostfs:{work}/run", *INIT]

    def end(self, work: Path) -> None:
        """It was one process, or a few that end with it."""

    def _kernel(self) -> list[str]:
        if self.is_old:
            return [f"LD_PRELOAD={registers()}", str(self.kernel), f"guest.modules=hostfs:{MODULES}"]
        return [str(self.kernel), f"ncpus={len(os.sched_getaffinity(0))}", "seccomp=on"]


def _memory_place(work: Path) -> Path:
    """Where the guest's memory, a file, is kept: in memory, where there is enough of it to be had and to be executed."""
    shm = Path("/dev/shm")
    if shm.is_dir():
        there = os.statvfs(shm)
        if there.f_bavail * there.f_frsize > MEMORY_MB << 20 and not there.f_flag & os.ST_NOEXEC:
            return shm
    return work
