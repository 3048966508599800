"""What the hot commands load, as a set and not by a stopwatch: each is run, and sys.modules compared with an allow-list.

The commands leave by _exit, so the launcher's lines are run here with an _exit that first writes down what is loaded. Without
root only the four quick commands are run, on a container that is not there.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import mkrootfs
import pytest
import tree

LAUNCHER = tree.ROOT / "build/bin/pyrunc"

#: the first row of the house guide's price list and what it brings along; all else is dear, or banned
ALLOWED = {
    "os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc", "errno", "fcntl", "struct", "_struct",
    "time", "_json", "select", "resource", "_signal", "_cffi_backend",
    "gc",  # built in: the launcher turns it off
    "_blake2",  # the digest of a seccomp profile, without hashlib, which loads OpenSSL
}  # fmt: skip

#: of our own, what no hot command needs when all is well
NEVER = {
    "runtime.api", "runtime.child", "runtime.cli.app", "runtime.cli.bug", "runtime.cli.generate", "runtime.netdev", "runtime.checkpoint",
    "runtime.restoring", "runtime.criu", "runtime.criu_process", "runtime.external", "runtime.planner.restorer", "runtime.planner.running", "runtime.mounting", "runtime.journal",
    "runtime.events", "runtime.libraries_build", "specs.config_types",
    # who does without systemd pays nothing for it
    "runtime.cgroups.systemd", "runtime.cgroups.systemd_scope", "runtime.cgroups.systemd_bus", "runtime.cgroups.dbus", "runtime.cgroups.sdbus", "runtime.cgroups.systemd_units",
    "runtime.cgroups.systemd_properties", "runtime.cgroups.gvariant", "runtime._libsystemd",
}  # fmt: skip

#: what the four quick verbs leave alone besides: plans, documents and the extension
QUICK_NEVER = {
    "_cffi_backend",
    "runtime.kernel",
    "runtime.planner",
    "runtime.plan",
    "runtime.ops",
    "runtime.bundle",
    "specs",
}
QUICK = ("state", "start", "kill", "delete")

TRACE = """
import posix, sys
leave = posix._exit
def record(status):
    fd = posix.open({out!r}, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o600)
    posix.write(fd, " ".join(sorted(set(sys.modules) - {bare!r})).encode())
    leave(status)
posix._exit = record
sys.argv = ["pyrunc", *sys.argv[1:]]
"""


def launcher() -> tuple[str, str]:
    """The interpreter of the launcher and its lines after the first."""
    first, _, rest = LAUNCHER.read_text().partition("\n")
    return first[2:].split()[0], rest


class Traced:
    """Commands of one container, and what each of them loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.interpreter, self.lines = launcher()
        bare = [self.interpreter, "-IS", "-c", "import sys; print(*sys.modules)"]
        self.bare = set(subprocess.run(bare, check=True, capture_output=True, text=True).stdout.split())
        self.loaded: dict[str, set[str]] = {}

    def run(self, name: str, *words: str | Path, status: int = 0) -> None:
        out = self.place / f"{name}.modules"
        code = TRACE.format(out=str(out), bare=self.bare) + self.lines
        command = [self.interpreter, "-IS", "-c", code, "--root", str(self.place / "state"), *map(str, words)]
        with open(
            self.place / "errors", "w+"
        ) as errors:  # a file: the container keeps it open, and nobody waits for that
            null = subprocess.DEVNULL
            done = subprocess.run(
                command, env={"PATH": "/usr/bin:/bin"}, stdin=null, stdout=null, stderr=errors, timeout=60
            )
            errors.seek(0)
            assert done.returncode == status, f"{words}: {errors.read()}"
        assert out.exists(), f"{name} did not leave by _exit: the interpreter tidies up for milliseconds"
        self.loaded[name] = set(out.read_text().split())


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    place = tmp_path_factory.mktemp("hot")
    commands = Traced(place)
    if os.geteuid() != 0:
        for name in QUICK:
            commands.run(name, name, "nobody", status=1)
        return commands.loaded
    profile = json.loads((tree.ROOT / "tests/fixtures/seccomp/default.json").read_text())
    config = mkrootfs.config("/bin/sleep", "1000")
    config["linux"] |= {
        "seccomp": profile,
        "cgroupsPath": f"/pyrunc-test/hot-{os.getpid()}",
        "resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 64}, "cpu": {"shares": 512}},
    }
    sleeper = mkrootfs.bundle(place / "sleeper", **config)
    config["process"]["args"] = ["/bin/true"]
    config["linux"]["cgroupsPath"] += "-run"
    runner = mkrootfs.bundle(place / "runner", **config)
    try:
        commands.run("first", "run", "--bundle", runner, "r0")  # fills the cache of compiled filters
        commands.run("run", "run", "--bundle", runner, "r1")
        commands.run("create", "create", "--bundle", sleeper, "--pid-file", place / "pid", "c")
        commands.run("start", "start", "c")
        commands.run("state", "state", "c")
        commands.run("exec", "exec", "c", "/bin/true")
        commands.run("kill", "kill", "c", "KILL")
        wait_for_end(int((place / "pid").read_text()))
        commands.run("delete", "delete", "c")
    finally:
        subprocess.run([LAUNCHER, "--root", place / "state", "delete", "--force", "c"], capture_output=True)
    del commands.loaded["first"]
    return commands.loaded


def wait_for_end(pid: int) -> None:
    """Until a process is gone or a zombie; it is no child of ours, so poll its pidfd."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([fd], [], [], 20)
    os.close(fd)


def is_ours(module: str) -> bool:
    return module.split(".")[0] in tree.PACKAGES


def test_nothing_dear_is_loaded(traced: dict[str, set[str]]) -> None:
    wrong = {name: sorted(m for m in loaded if m not in ALLOWED and not is_ours(m)) for name, loaded in traced.items()}
    assert not {name: modules for name, modules in wrong.items() if modules}


def test_of_ours_only_what_is_needed(traced: dict[str, set[str]]) -> None:
    wrong = {}
    for name, loaded in traced.items():
        banned = NEVER | (QUICK_NEVER if name in QUICK else set())
        wrong[name] = sorted(m for m in loaded if m in banned or any(m.startswith(b + ".") for b in banned))
    assert not {name: modules for name, modules in wrong.items() if modules}


def test_a_command_loads_its_own_module_only(traced: dict[str, set[str]]) -> None:
    commands = {
        f"runtime.cli.{name}" for name in (*traced, "list", "ps", "pause", "resume", "spec", "plan", "validate")
    }
    for name, loaded in traced.items():
        assert loaded & commands == {f"runtime.cli.{name}"}


def test_the_launcher_is_eleven_lines() -> None:
    """-I, -S and UTF-8 whatever the locale is, the interpreter's real path, no generated entry script (they import re)."""
    lines = LAUNCHER.read_text().splitlines()
    assert len(lines) == 11
    assert lines[0] == f"#!{os.path.realpath(lines[0][2:].split()[0])} -ISXutf8"


def test_the_byte_code_is_never_checked() -> None:
    """An unchecked hash (PEP 552): flags 1, so that the interpreter does not even stat the source."""
    cached = sorted((tree.ROOT / "build/lib/pyrunc/runtime").rglob(f"*.{sys.implementation.cache_tag}.pyc"))
    assert cached
    assert [path for path in cached if path.read_bytes()[4:8] != b"\x01\0\0\0"] == []
