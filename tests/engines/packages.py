"""Debian's packages: of the machine, or of a tree of another release below build/ (newer.py).

need("curl")                  what a test needs, installed when it is not there; else the test is skipped
install("curl", tree=...)     the same for those who make a tree: why it could not be done, or nothing
inside(tree, *words)          run a command in a tree, with the repository at its own path; why it failed, or nothing
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
BUILD = SOURCE / "build"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")

#: for commands that only read and write files; whatever makes containers needs a lab, which is a root of its own
ENTER = """
mount --rbind /dev "$1/dev"; mount -t proc proc "$1/proc"; mount --bind /etc/resolv.conf "$1/etc/resolv.conf"
mkdir -p "$1$2"; mount --bind "$2" "$1$2"
tree=$1; shift 2; exec chroot "$tree" "$@"
"""


def need(*names: str) -> None:
    """Debian's packages, installed when they are not there; the test is skipped if they cannot be."""
    import newer
    from processes import missing

    if why := install(*names, tree=newer.tree()):
        missing(f"Debian package {why}")


def install(*names: str, tree: Path | None = None) -> str:
    """Install what is missing of Debian's packages, one caller after the other; why that failed, or nothing."""
    if not (lacking := _lacking(names, tree)):
        return ""
    if not shutil.which("apt-get", path=PATH) or os.geteuid() != 0:
        return f"{' '.join(lacking)} (install it as root)"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of this run
        if not (lacking := _lacking(names, tree)):
            return ""
        words = (*APT, "install", "-y", "--no-install-recommends", *lacking)
        # the lists may be old, or there are none
        why = _run(tree, *words) and (_run(tree, *APT, "update") or _run(tree, *words))
    return f"{' '.join(lacking)} ({why})" if why else ""


def _lacking(names: tuple[str, ...], tree: Path | None) -> list[str]:
    query = ["dpkg-query", f"--admindir={tree or ''}/var/lib/dpkg", "-W", "-f", "${Status}"]
    return [
        name
        for name in names
        if not subprocess.run([*query, name], capture_output=True, text=True).stdout.endswith("ok installed")
    ]


def _run(tree: Path | None, *words: str) -> str:
    return inside(tree, *words) if tree else logged(*words)


def inside(tree: Path, *words: str) -> str:
    (tree / "etc/resolv.conf").touch()
    script = ["/bin/sh", "-euc", ENTER, "sh", str(tree), str(SOURCE)]
    return logged("unshare", "--mount", "--propagation", "private", *script, *words, name=words[0])


def logged(*words: str, name: str = "") -> str:
    """Run a command, its output into build/apt.log; why it failed, or nothing."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": PATH}
    with (BUILD / "apt.log").open("a") as log:
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/")
        except OSError as error:
            return f"{words[0]}: {error.strerror}"
    return f"{name or words[0]} failed, see build/apt.log" if done.returncode else ""
