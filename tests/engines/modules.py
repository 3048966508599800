"""Engines that Debian does not have, built from Go modules, once, below build/: containerd 2 and CRI-O.

    ENGINES=containerd2     in the environment: this session is about that engine, in labs of the machine as it is
    wanted()                which of them it is, or nothing
    programs()              the directory of its programs; a test is skipped if they cannot be made, and says why
    modules.py NAME         makes them, and prints where they are

Each is the module's own choice of dependencies, by its go.mod and go.sum; `go` checks them, and comes with the machine.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from packages import BUILD, PATH, install  # noqa: E402 - found through the path above
from processes import missing  # noqa: E402


class Module(NamedTuple):
    path: str
    version: str
    commands: tuple[str, ...]
    tags: str
    #: Debian's, which it is built with
    packages: tuple[str, ...] = ()


MODULES = {
    "containerd2": Module(
        "github.com/containerd/containerd/v2",
        "v2.4.2",
        ("containerd", "ctr", "containerd-shim-runc-v2"),
        "no_btrfs no_devmapper no_zfs",
    ),
    "crio": Module(
        "github.com/cri-o/cri-o",
        "v1.34.0",
        ("crio",),
        "containers_image_openpgp containers_image_ostree_stub exclude_graphdriver_btrfs btrfs_noversion seccomp",
        ("gcc", "libc6-dev", "libseccomp-dev"),
    ),
}


def wanted() -> str:
    """The name of the engine that this session is about, if it is one of these."""
    engines = os.environ.get("ENGINES", "")
    return engines if engines in MODULES else ""


def chosen(fixtures: list[str]) -> bool:
    """Whether a test with these fixtures is of this session: CRI-O's are of no other, containerd's of most."""
    about = "crio" if "crio" in fixtures else "containerd2" if {"ctrd", "containerd"} & {*fixtures} else ""
    return about == wanted() if wanted() else about != "crio"


def programs() -> Path | None:
    """Where the programs of the engine are that this session is about; None: where the machine has them."""
    name = wanted()
    if not name:
        return None
    if why := made(name):
        missing(f"{name} ({why})")
    return BUILD / name / "bin"


def path() -> str:
    """The PATH by which this session's engines are found."""
    found = programs()
    return f"{found}:{PATH}" if found else PATH


@functools.cache
def made(name: str) -> str:
    """Build an engine, once for all sessions; why that cannot be, or nothing."""
    module, place = MODULES[name], BUILD / name
    place.mkdir(parents=True, exist_ok=True)
    stamp = place / "built"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers of this session
        if stamp.exists() and stamp.read_text() == repr(module):
            return ""
        go = shutil.which("go", path=f"{PATH}:/usr/local/go/bin")
        if not go:
            return "no go on this machine"
        if why := install(*module.packages):
            return why
        why = _build(go, module, place)
        if not why:
            stamp.write_text(repr(module))
        return why


def _build(go: str, module: Module, place: Path) -> str:
    home = os.environ.get("HOME") or str(place / "home")
    env = {**os.environ, "HOME": home, "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}
    env["CGO_ENABLED"] = "1" if module.packages else "0"
    words = [go, "mod", "download", "-json", f"{module.path}@{module.version}"]
    told = subprocess.run(words, capture_output=True, text=True, env=env, cwd="/")
    if told.returncode:
        return json.loads(told.stdout).get("Error", "") if told.stdout else told.stderr.strip()
    shutil.rmtree(place / "bin", ignore_errors=True)
    # nothing is in a hurry: minutes of both processors, which somebody may be using
    words = ["nice", go, "build", "-trimpath", "-tags", module.tags, "-ldflags=-s -w", "-o", f"{place}/bin/"]
    with (place / "build.log").open("w") as log:
        built = subprocess.run(
            [*words, *(f"./cmd/{command}" for command in module.commands)],
            cwd=json.loads(told.stdout)["Dir"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
        )  # fmt: skip
    return f"go build failed, see {place}/build.log" if built.returncode else ""


if __name__ == "__main__":
    if problem := made(sys.argv[1]):
        sys.exit(problem)
    print(BUILD / sys.argv[1] / "bin")
