"""What the attacks use, besides what the suites of the commands do (tests/cli/conftest.py).

attacker     path of attacker.c, compiled statically; inside a bundle after `arm(bundle)` as /bin/attacker
outside      a directory beside the bundles, with canaries: `outside.check()` fails where anything of it, of the
             host's mounts or of the host's own settings has changed
exchanging   exchanging(folder, "a", "b"): on every processor a process that exchanges the two names, until the test ends
hidden       makes `pyrunc` run where system calls do not exist: hidden("openat2")
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loading
import older
import programs
import pytest
from conmon_caller import ours  # noqa: F401 - a fixture: sessions of pyrunc-conmon
from features import text

HERE = Path(__file__).resolve().parent

cli = loading.module("cli_conftest", HERE.parent / "cli/conftest.py")
# the fixtures of that suite are fixtures of this one
make, running, each, report, until, refused, peer = (
    cli.make,
    cli.running,
    cli.each,
    cli.report,
    cli.until,
    cli.refused,
    cli.peer,
)
receiver, read_until, holder = cli.receiver, cli._read_until, cli.holder


@pytest.fixture(scope="session")
def attacker() -> Path:
    return programs.compiled(HERE / "attacker.c")


@pytest.fixture
def arm(attacker: Path) -> Callable[[Any], Any]:
    def arm(made: Any) -> Any:
        (made.rootfs / "bin/attacker").write_bytes(attacker.read_bytes())
        (made.rootfs / "bin/attacker").chmod(0o755)
        return made

    return arm


class Outside:
    """What a hostile image would like to reach, beside its bundle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        (path / "canary").write_text("alive")
        (path / "ptmx").write_text("mine")
        (path / "dir").mkdir()
        (path / "dir/inner").write_text("alive")
        self.remember()

    def remember(self) -> None:
        """What a test has put there itself is no effect."""
        self._before = self._seen()

    def _seen(self) -> list[tuple[Any, ...]]:
        seen: list[tuple[Any, ...]] = []
        for top, directories, files in os.walk(self.path):
            for name in [".", *directories, *files]:
                st = os.lstat(f"{top}/{name}")
                is_file = name in files and os.path.isfile(f"{top}/{name}") and not os.path.islink(f"{top}/{name}")
                text = Path(top, name).read_bytes() if is_file else b""
                seen.append((top, name, st.st_mode, st.st_uid, st.st_gid, st.st_ino, st.st_rdev, text))
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.path) in line]
        return [*sorted(seen), *mounts, *_settings()]

    def check(self, what: object = "") -> None:
        now = self._seen()
        assert now == self._before, (what, [entry for entry in now if entry not in self._before])


def _settings() -> list[tuple[str, str]]:
    names = ("core_pattern", "hostname", "domainname", "modprobe")
    return [(name, text(f"/proc/sys/kernel/{name}")) for name in names]


@pytest.fixture
def outside(scratch: Path) -> Outside:
    return Outside(scratch / "outside")


class Exchange:
    """Processes that exchange two names, one on each processor."""

    def __init__(self, attacker: Path) -> None:
        self.attacker = attacker
        self.children: list[subprocess.Popen[bytes]] = []

    def __call__(self, folder: Path, a: str, b: str) -> None:
        for cpu in sorted(os.sched_getaffinity(0)):
            child = subprocess.Popen([self.attacker, "exchange", a, b], cwd=folder)
            os.sched_setaffinity(child.pid, {cpu})
            self.children.append(child)

    def pause(self) -> None:
        """No name changes until `resume`."""
        for child in self.children:
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED)

    def resume(self) -> None:
        for child in self.children:
            child.send_signal(signal.SIGCONT)


@pytest.fixture
def exchanging(attacker: Path) -> Iterator[Exchange]:
    exchange = Exchange(attacker)
    yield exchange
    for child in exchange.children:
        child.kill()
        child.wait()


@pytest.fixture
def hidden(pyrunc: Any) -> Callable[..., None]:
    def hidden(*calls: str) -> None:
        if calls:
            argv, prefix = pyrunc.argv, older.command(*calls)
            pyrunc.argv = lambda *words: [*prefix, *argv(*words)]

    return hidden


@pytest.fixture(autouse=True)
def _hidden_by_request(request: pytest.FixtureRequest) -> None:
    """ATTACK_HIDDEN=clone3,close_range hides these from every command of this folder (T42)."""
    if "ATTACK_HIDDEN" in os.environ and "pyrunc" in request.fixturenames:
        request.getfixturevalue("hidden")(*os.environ["ATTACK_HIDDEN"].split(","))
