"""Cases for the comparison: configurations that are valid, and the commands that are given to them, from a number alone.

A case is a small configuration that some of the fields of `fields.py` have changed, each drawn with a chance of its own, and a
list of commands. The same seed and number make the same case on every machine. `@PLACE@` in a configuration is the
directory that a runtime has for the case: it has `rootfs`, and `outside` to bind from.

Words of the commands that are no runtime's begin with `@`:

    @wait       until init has ended            @cgroup     read the files of the container's cgroups
    @output     what the program has printed    @left       what there is in rootfs and outside now
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

PATH = "PATH=/bin:/sbin:/usr/bin:/usr/sbin"
#: every runtime of this world takes it, and what is newer than it is ignored where it is not known
VERSION = "1.0.2"
CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


class Case:
    """One configuration with the commands that it is given to."""

    def __init__(self, seed: int, number: int) -> None:
        self.seed, self.number = seed, number
        self.rng = random.Random(f"{seed}/{number}")
        #: the fields that have changed the configuration, by name
        self.fields: list[str] = []
        self.config = small()
        #: words of `create` and `run` besides those that every case has
        self.options: list[str] = []
        #: what the probe does after its report, or another program instead of it
        self.actions: list[list[str]] = []
        self.sysctls: list[str] = []
        self.args: list[str] = []
        self.commands: list[list[str]] = []
        #: of the caller: its umask, environment, ignored signals, descriptors above the standard ones
        self.umask = 0o022
        self.environ: dict[str, str] = {}
        self.ignored: list[int] = []
        self.descriptors = 0
        #: namespaces of another process that the configuration names, as words of unshare(1)
        self.given: list[str] = []

    @property
    def name(self) -> str:
        return f"{self.seed}/{self.number}"

    @property
    def process(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["process"]
        return found

    @property
    def linux(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["linux"]
        return found

    def has(self, namespace: str) -> bool:
        """Whether the container has this namespace for itself, and not the caller's or that of another process."""
        return any(entry["type"] == namespace and "path" not in entry for entry in self.linux["namespaces"])

    def do(self, *words: str) -> None:
        """Have the probe do one more thing after its report."""
        self.actions.append(list(words))

    def finish(self) -> None:
        """The program and its arguments, once every field has been drawn."""
        args = ["/bin/probe", "each", "report", *self.sysctls]
        for words in self.actions:
            args += ["--", *words]
        self.process["args"] = self.args or args

    def text(self, place: str) -> str:
        """config.json for a runtime that has this directory."""
        return json.dumps(self.config, indent=1).replace("@PLACE@", place)


def small() -> dict[str, Any]:
    """What every case begins with."""
    devpts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    return {
        "ociVersion": VERSION,
        "process": {
            "args": ["/bin/probe"],
            "env": [PATH],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": devpts},
        ],
        "linux": {"namespaces": [{"type": name} for name in NAMESPACES]},
    }  # fmt: skip


def make(seed: int, number: int) -> Case:
    """The case of this number."""
    import fields
    import verbs

    case = Case(seed, number)
    draws: list[tuple[Callable[[Case, random.Random], object], float]] = list(fields.DRAWS)
    for draw, chance in draws:
        if case.rng.random() < chance and draw(case, case.rng) is not False:
            case.fields.append(draw.__name__)
    verbs.choose(case, case.rng)
    case.finish()
    return case
