"""Packages of another release of Debian than the machine's: apt with lists and a cache of its own, verified by Debian's keys.

Nothing is installed, and the machine's own sources stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from making import CACHE, Unavailable, program, run

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Release:
    """What one release offers: `Release("trixie-backports").unpack("linux-source-6.12", directory)`."""

    def __init__(self, name: str) -> None:
        self.name = name
        place = CACHE / "apt" / name
        for part in ("lists/partial", "archives/partial"):
            (place / part).mkdir(parents=True, exist_ok=True)
        (place / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror()} {name} main\n")
        settings = {
            "Dir::Etc::sourcelist": f"{place}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": f"{place}/lists",
            "Dir::Cache": f"{place}",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "APT::Update::Error-Mode": "any",
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        run("apt-get", *self.options, "update")

    def newest(self, pattern: str) -> str:
        """The matching package of the highest version, as far as its name tells."""
        names = run("apt-cache", *self.options, "pkgnames").split()
        found = [name for name in names if re.fullmatch(pattern, name)]
        if not found:
            raise Unavailable(f"Debian {self.name} has no package {pattern}")
        return max(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def unpack(self, package: str, directory: Path) -> None:
        """Download a package and unpack its files into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        run("apt-get", *self.options, "download", package, limit_s=600, cwd=directory)
        (deb,) = directory.glob(f"{package}_*.deb")
        run("dpkg-deb", "-x", deb, directory)
        deb.unlink()


def mirror() -> str:
    """Where the machine's own apt gets its release from."""
    program("apt-get")
    release = codename()
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
    for line in targets.splitlines():
        if line.split()[1:] == [release, "main"]:
            return line.split()[0]
    raise Unavailable("no apt source of Debian's on this machine")


def codename() -> str:
    """The release of Debian that the machine runs, and so the guest: what was built here must run there."""
    try:
        with open("/etc/os-release") as file:
            lines = dict(line.rstrip("\n").partition("=")[::2] for line in file)
    except OSError:
        lines = {}
    name = lines.get("VERSION_CODENAME", "").strip('"')
    if lines.get("ID") != "debian" or not name:
        raise Unavailable("the guest is made from the packages of the machine's own release, and this is no Debian")
    return name
