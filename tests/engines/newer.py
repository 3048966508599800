"""The engines of a newer Debian, for the same tests: a tree of that release, in which a lab can run (lab.py, `tree`).

    ENGINES=trixie      in the environment: this session's labs run in the tree; unset or "bookworm": on the machine as it is
    tree()              the tree, or None for the machine; a test is skipped if it cannot be had, and says why
    binaries()          where pyrunc is staged for the interpreter that is there
    newer.py            makes both, and prints where they are

The tree is debootstrap's, from the mirror that the machine's own apt uses, with the packages below; no daemon starts in it.
It is made once and kept below build/, with a stamp of what is in it. Its Python is another one than the machine's, so that
pyrunc is staged a second time, by that Python.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from modules import MODULES  # noqa: E402 - found through the path above
from packages import BUILD, SOURCE, inside, install, logged  # noqa: E402
from processes import missing  # noqa: E402

RELEASE = "trixie"
TREE = BUILD / RELEASE
STAMP = BUILD / f"{RELEASE}.stamp"
#: pyrunc for the Python of the tree: bin, lib and the packages of others
STAGED = BUILD / f"{RELEASE}-pyrunc"
PYTHON = "3.13"

PACKAGES = (
    "containerd", "runc", "criu", "containernetworking-plugins",
    "docker.io", "docker-cli", "docker-buildx", "docker-compose", "docker-registry",
    "podman", "podman-compose", "buildah", "skopeo", "conmon", "crun", "netavark", "aardvark-dns", "catatonit",
    "golang-github-containers-common", "slirp4netns", "passt", "fuse-overlayfs", "uidmap",
    "iptables", "nftables", "iproute2", "procps", "curl", f"python{PYTHON}",
)  # fmt: skip


class Unavailable(Exception):
    """Why there is no such tree here."""


def wanted() -> bool:
    """Whether this session is about the newer engines."""
    engines = os.environ.get("ENGINES") or "bookworm"
    if engines not in ("bookworm", RELEASE, *MODULES):
        sys.exit(f"ENGINES={engines}: bookworm (the machine's own), {RELEASE}, {' or '.join(MODULES)}")
    return engines == RELEASE


def tree() -> Path | None:
    """The tree in which this session's labs run; None: in the machine itself."""
    if not wanted():
        return None
    if why := made():
        missing(f"a Debian {RELEASE} tree ({why})")
    return TREE


def binaries() -> Path:
    """The directory of the launchers that this session's engines are given."""
    return (STAGED if wanted() else BUILD) / "bin"


@functools.cache
def made() -> str:
    """Make the tree and stage pyrunc for it, once for all sessions; why that cannot be, or nothing."""
    if os.geteuid() != 0:
        return "root is needed to make it"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f"{RELEASE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers of this session
        try:
            _bootstrap()
            if not STAMP.exists() or STAMP.read_text() != _contents():
                _must(install(*PACKAGES, tree=TREE))
                STAMP.write_text(_contents())
            _stage()
        except Unavailable as error:
            return str(error)
    return ""


def _contents() -> str:
    return " ".join((RELEASE, *sorted(PACKAGES))) + "\n"


# -- the tree --------------------------------------------------------------------------------------------------------------


def _bootstrap() -> None:
    """The release without anything of ours; it appears when it is complete."""
    if TREE.is_dir():
        return
    _must(install("debootstrap", "debian-archive-keyring"))
    why = "no apt source of Debian's on this machine"
    for mirror in _mirrors():
        new = Path(tempfile.mkdtemp(prefix=f"{RELEASE}-", dir=BUILD))
        try:
            why = logged("debootstrap", "--variant=minbase", RELEASE, str(new), mirror)
            if not why:
                # invoke-rc.d: no package may start what it brings
                policy = new / "usr/sbin/policy-rc.d"
                policy.write_text("#!/bin/sh\nexit 101\n")
                policy.chmod(0o755)
                new.chmod(0o755)
                new.rename(TREE)
                return
        finally:
            shutil.rmtree(new, ignore_errors=True)
    raise Unavailable(why)


def _mirrors() -> list[str]:
    """Where the machine's apt gets its own release from."""
    with open("/etc/os-release") as file:
        lines = dict(line.rstrip("\n").partition("=")[::2] for line in file)
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]
    if not shutil.which(words[0]):
        raise Unavailable("no apt on this machine")
    found = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    return sorted(
        {
            uri
            for uri, suite, component in map(str.split, found)
            if (suite, component) == (lines.get("VERSION_CODENAME"), "main")
        }
    )


# -- pyrunc for its Python -------------------------------------------------------------------------------------------------


def _stage() -> None:
    """Packages of others by the pinned versions, and ours by stage.py, as `make install` there would do it."""
    site, pinned = STAGED / "site", SOURCE / "constraints.txt"
    if not (STAGED / ".site").exists() or (STAGED / ".site").stat().st_mtime < pinned.stat().st_mtime:
        sys.path.append(str(SOURCE))
        from stage import DISTRIBUTIONS

        shutil.rmtree(site, ignore_errors=True)
        words = ["-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", "--target", str(site)]
        foreign = ["--python-version", PYTHON, "--only-binary", ":all:", "--constraint", str(pinned)]
        _must(logged(sys.executable, *words, *foreign, *DISTRIBUTIONS, name="pip"))
        (STAGED / ".site").touch()
    stamp, built = STAGED / ".staged", str((BUILD / ".staged").stat().st_mtime_ns)
    if stamp.exists() and stamp.read_text() == built:
        return
    lib, launchers = STAGED / "lib/pyrunc", STAGED / "bin"
    places = ["--lib", str(lib), "--bin", str(launchers), "--kernel", str(BUILD / "kernel"), "--site", str(site)]
    python = f"/usr/bin/python{PYTHON}"
    if why := inside(TREE, python, "-I", str(SOURCE / "stage.py"), *places, "--interpreter", python):
        # what is ours and fails is no missing feature
        raise AssertionError(f"stage.py under Python {PYTHON}: {why}")
    # the commit is git's word, which the tree does not have
    shutil.copy(BUILD / "lib/pyrunc/runtime/COMMIT", lib / "runtime/COMMIT")
    stamp.write_text(built)


def _must(why: str) -> None:
    if why:
        raise Unavailable(why)


if __name__ == "__main__":
    if problem := made():
        sys.exit(problem)
    print(TREE, STAGED / "bin", sep="\n")
