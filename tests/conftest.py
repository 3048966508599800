"""What every test may use. Fixtures, in the order in which a test meets them:

    scratch     a directory of the test's own, mode 0755 (a container's mapped users must get through), removed afterwards
    pyrunc      the command: `pyrunc("state", "web")` runs build/bin/pyrunc with a --root of the test's own and returns a
                Result (.status .out .err .json()); a status other than the expected `status=0` fails the test with what was
                printed, and so does a traceback. Also: pyrunc.popen(...), pyrunc.root, pyrunc.id("web") (an id nobody else
                uses), pyrunc.exists(id), pyrunc.pid(id), pyrunc.wait(id) -> exit status of a detached init, which is our
                child (we are its subreaper). Containers left at the end are deleted by force.
    bundle      a factory: `bundle("/bin/sh", "-c", "...", hostname="x")` makes a bundle from busybox and the probe and returns
                a Bundle (.path .rootfs .config, .write() after a change of .config); keywords replace top-level properties,
                `bundle.linux` etc. do not exist: edit `.config` and `.write()`. cgroupsPath is set to one that is watched.
    probe       path of the static program that reports as JSON what it finds around itself, inside any bundle's rootfs
    leaks       before/after check of descriptors, children, mounts, cgroups, network namespaces and files; automatic for
                whatever uses `pyrunc`; `leaks.check()` in the middle of a test says what there is now

Markers: `@pytest.mark.requires("cgroup-v2")` skips where a feature of tests/features.py is missing. Any other skip, or expected failure, is
turned into a failure, and the last lines name what is missing.

PYRUNC=/usr/sbin/runc in the environment runs the same tests on a peer, to find out what the peer really does.
PYRUNC_TEST_CGROUP_MANAGER=systemd (otherwise cgroupfs) runs them with systemd as the maker of cgroups.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build"
PYRUNC = Path(os.environ.get("PYRUNC", BUILD / "bin" / "pyrunc"))
settings.register_profile("pyrunc", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a slow machine
settings.load_profile("pyrunc")
sys.path[:0] = [str(ROOT), str(HERE), str(HERE / "fixtures")]  # whatever the working directory is
if (BUILD / "kernel" / "runtime" / "kernel").is_dir():
    # The extension lies in build/, the modules in the tree: one package, two directories.
    import runtime.kernel

    runtime.kernel.__path__.append(str(BUILD / "kernel" / "runtime" / "kernel"))

import heeding  # noqa: E402, F401 - for what that does
import hierarchies  # noqa: E402 - found through the path above
import mkrootfs  # noqa: E402 - found through the path above
import programs  # noqa: E402 - found through the path above
import sealed  # noqa: E402 - found through the path above
from features import FEATURES, has, text  # noqa: E402

# -- features: what a kernel or a host may lack ---------------------------------------------------------------------------

_MISSING = "missing feature: "


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        for feature in marker.args:
            if feature not in FEATURES:
                pytest.fail(f'"{feature}" is no feature of tests/features.py', pytrace=False)
            if not has(feature):
                pytest.skip(_MISSING + feature)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.skipped and _MISSING not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid}: skipped, and not for a missing feature of tests/features.py: {report.longrepr}"
        )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: a whole file may not be skipped: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    missing: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        name = str(report.longrepr[2]).partition(_MISSING)[2]
        missing[name] = missing.get(name, 0) + 1
    for name, count in sorted(missing.items()):
        terminalreporter.write_line(f"not on this machine: {name} ({count} test{'s' * (count > 1)} skipped)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)  # quick tests first


# -- directories -----------------------------------------------------------------------------------------------------------

_TOKEN = f"t{os.getpid()}"
_numbers = itertools.count(1)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory of the test's own that mapped users can reach; pytest's tmp_path is 0700 all the way."""
    path = Path(tempfile.mkdtemp(prefix="pyrunc-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    left = [line.split()[4] for line in text("/proc/self/mountinfo").splitlines() if f" {path}" in line]
    for point in reversed(left):
        subprocess.run(["umount", "-l", point], check=False)
    shutil.rmtree(path, ignore_errors=True)


# -- leaks -----------------------------------------------------------------------------------------------------------------


class Leaks:
    """What this worker had before a test; other workers run containers meanwhile, so only our own things count."""

    def __init__(self) -> None:
        self.places: list[Path] = []
        self.before = self.now()

    def now(self) -> dict[str, set[str]]:
        """What there is now, of each kind, as text."""
        mounts = (line.split(" ")[4] for line in text("/proc/self/mountinfo").splitlines())
        places = tuple(str(place) for place in self.places)
        return {
            "descriptor": {_fd(name) for name in os.listdir("/proc/self/fd")} - {""},
            "child": set(_children()),
            "mount": {point for point in mounts if places and point.startswith(places)},
            "cgroup": {str(path) for top in hierarchies.tops() for path in top.glob(f"{_TOKEN}*")},
            # without what is shared by all containers of a root, such as compiled seccomp filters: ":seccomp"
            "file": {str(path) for place in places for path in Path(place).glob("[!:]*")},
        }

    def check(self) -> None:
        """Fail with what is there now and was not before."""
        deadline = time.monotonic() + 2
        while True:
            _reap()
            found = [
                f"{kind}: {thing}"
                for kind, things in self.now().items()
                for thing in sorted(things - self.before[kind])
            ]
            if not found:
                return
            if time.monotonic() > deadline:
                pytest.fail("left behind: " + ", ".join(found), pytrace=False)
            time.sleep(0.01)


def pytest_sessionfinish() -> None:
    for top in hierarchies.tops():
        try:
            top.rmdir()
        except OSError:
            pass  # another worker's tests still run in there


def _fd(name: str) -> str:
    try:
        return f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"
    except OSError:
        return ""  # the one that listed the directory


def _children() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        for pid in text(f"/proc/self/task/{task}/children").split():
            if pid not in _ours:
                yield f"{pid} {text(f'/proc/{pid}/comm').strip()}"


def _reap() -> None:
    """Collect the orphans that were given to us as their subreaper; a Popen of the test's own is not touched."""
    for child in list(_children()):
        pid = int(child.split()[0])
        if pid not in _popens:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


#: children that were here before the first test, such as pytest-xdist's own
_ours: set[str] = set()
_popens: set[int] = set()


@pytest.fixture(scope="session")
def _subreaper() -> None:
    """Orphans of our commands (detached containers) become our children, as they would an engine's shim's."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    _ours.update(child.split()[0] for child in list(_children()))


@pytest.fixture
def leaks(_subreaper: None) -> Iterator[Leaks]:
    watch = Leaks()
    yield watch
    watch.check()


# -- the command -----------------------------------------------------------------------------------------------------------


class Result:
    def __init__(self, args: list[str], status: int, out: str, err: str) -> None:
        self.args, self.status, self.out, self.err = args, status, out, err

    def json(self) -> Any:
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"$ {' '.join(self.args)}\n{self.out}{self.err}[status {self.status}]"


class Command:
    """build/bin/pyrunc with a state directory of the test's own."""

    def __init__(self, place: Path) -> None:
        self.root = place / "state"
        self.options: list[str] = [*hierarchies.OPTIONS]
        self.prefix = f"{_TOKEN}-{next(_numbers)}"
        #: what was wrong with processes of containers (tests/fixtures/sealed.py); whether only the test itself starts them
        self.unsealed, self.is_alone = set[str](), True
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        if os.geteuid() and "XDG_RUNTIME_DIR" in os.environ:
            self.env["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"]  # where the user's systemd is

    def id(self, name: str = "c") -> str:
        """A container id that no other test uses."""
        return f"{self.prefix}-{name}"

    def argv(self, *args: str | Path) -> list[str]:
        return [str(PYRUNC), "--root", str(self.root), *self.options, *map(str, args)]

    def __call__(
        self,
        *args: str | Path,
        status: int | None = 0,
        input: str | bytes | None = None,
        timeout: float = 60,
        **popen: Any,
    ) -> Result:
        """Run to its end; `status` is the exit status that is expected, None for any."""
        if isinstance(input, str):
            input = input.encode()
        # Files and not pipes: a detached container inherits them and would hold a pipe open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as stdin:
            stdin.write(input or b"")
            stdin.seek(0)
            popen = {"stdin": stdin, "stdout": out, "stderr": err, "env": self.env, **popen}
            child = subprocess.Popen(self.argv(*args), **popen)
            _popens.add(child.pid)
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                err.write(b"\n*** killed after %d s\n" % timeout)
            finally:
                _popens.discard(child.pid)
            texts = [(f.seek(0), f.read().decode("utf-8", "backslashreplace"))[1] for f in (out, err)]
        result = Result(self.argv(*args), child.returncode, *texts)
        if "Traceback (most recent call last)" in result.err:
            pytest.fail(f"a traceback reached the user\n{result}", pytrace=False)
        if "create" in args and result.status == 0 and self.is_alone:
            self.unsealed |= sealed.waiting(self.root / str(args[-1]))
        if status is not None and result.status != status:
            pytest.fail(f"exit status {result.status} instead of {status}\n{result}", pytrace=False)
        return result

    def fails(self, *args: str | Path, status: int = 1, **more: Any) -> str:
        """Run what must fail with `status`; the error, which must be there, and be one line (and a hint)."""
        result = self(*args, status=status, **more)
        assert result.err.strip(), f"failed without a word\n{result}"
        assert len(result.err.strip().splitlines()) <= 2, f"more than a line and a hint\n{result}"
        return result.err

    def popen(self, *args: str | Path, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a command; the test waits for it."""
        child = subprocess.Popen(self.argv(*args), **{"env": self.env, **popen})
        _popens.add(child.pid)
        return child

    def state(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self("state", id_).json()
        return found

    def pid(self, id_: str) -> int:
        return int(self.state(id_)["pid"])

    def exists(self, id_: str) -> bool:
        return self("state", id_, status=None).status == 0

    def wait(self, pid: int, timeout: float = 20) -> int:
        """Exit status, as a shell counts, of a detached init or exec process, an orphan given to us."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pytest.fail(f"process {pid} is no child of ours", pytrace=False)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            time.sleep(0.005)
        pytest.fail(f"process {pid} still runs after {timeout} s", pytrace=False)

    def clean(self) -> None:
        for child in list(_popens):
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            _popens.discard(child)
        self.unsealed |= sealed.running(self.root)
        for entry in sorted(self.root.glob("*")) if self.root.is_dir() else ():
            if not entry.name.startswith(".") and entry.is_dir():
                subprocess.run(
                    self.argv("delete", "--force", entry.name), env=self.env, capture_output=True, timeout=60
                )
        _reap()


@pytest.fixture
def pyrunc(leaks: Leaks, scratch: Path) -> Iterator[Command]:
    if not PYRUNC.exists():
        pytest.fail(f"{PYRUNC} is not there: run `make build` first", pytrace=False)
    command = Command(scratch)
    leaks.places.append(command.root)
    yield command
    command.clean()
    assert not command.unsealed
    leaks.check()  # here and not only later: the scratch directory is still there


# -- bundles ---------------------------------------------------------------------------------------------------------------


class Bundle:
    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self.rootfs = path / "rootfs"
        self.write()

    def write(self) -> None:
        """Write .config to config.json, after a change."""
        (self.path / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


@pytest.fixture(scope="session")
def probe() -> Path:
    """tests/fixtures/probe.c, compiled statically, once for all workers."""
    return programs.compiled(HERE / "fixtures" / "probe.c")


@pytest.fixture(scope="session")
def base_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mkrootfs.rootfs(tmp_path_factory.mktemp("rootfs") / "base")


@pytest.fixture
def bundle(scratch: Path, base_rootfs: Path, request: pytest.FixtureRequest) -> Callable[..., Bundle]:
    """Make bundles: busybox, and the probe as /bin/probe where tests/fixtures/probe.c is there."""

    def make(*args: str, **changes: Any) -> Bundle:
        path = scratch / f"bundle{next(_numbers)}"
        shutil.copytree(base_rootfs, path / "rootfs", symlinks=True)
        if (HERE / "fixtures" / "probe.c").exists():
            shutil.copy(request.getfixturevalue("probe"), path / "rootfs" / "bin" / "probe")
        config = mkrootfs.config(*args, **changes)
        if has("own-cgroups"):
            config.get("linux", {}).setdefault("cgroupsPath", hierarchies.cgroups_path(f"{_TOKEN}-{path.name}"))
        return Bundle(path, config)

    return make
