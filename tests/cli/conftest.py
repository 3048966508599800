"""What the suites of the commands use besides tests/conftest.py: containers seen from inside.

    edit        a function that changes a config in place; every fixture here takes one first, or None
    report      report(edit, *sysctls, options=()) runs the probe in a container of its own and returns what it found
    each        each(edit, "write /x", ["mknod", ...]) runs the probe's actions in one container, returns their answers
    refused     refused(edit, *words) creates a container that cannot be: the error; nothing may be left of it
    running     running(edit, *args) -> Box: a container that sleeps (or runs args), to exec in
    until       until(condition, "what") polls with a deadline and returns what the condition returned
    catches     catches(pid, number): whether it has a handler for the signal by now; init without one gets none at all
    receiver    receiver(path) -> Receiver: a console socket that an engine would listen on
    read_until  read_until(fd, b"...") reads a pty until something has come out of it
    user rootless own   an ordinary user, the command as that user runs it, and bundles for it: tests/fixtures/users.py
    calls       calls("chroot,seccomp", *words) runs a command of pyrunc under strace: the lines of these calls, whoever made them
    peer        "" for pyrunc itself, else the name of the runtime that PYRUNC= names

`@pytest.mark.differs("why")` marks what runc 1.1.5, against which this suite was developed, is known to do otherwise (or
cannot do at all); such tests are not run on a peer.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hierarchies
import pytest
from users import own, program, rootless, user  # noqa: F401 - fixtures

PEER = os.path.basename(os.environ.get("PYRUNC", "pyrunc"))
Edit = Callable[[dict[str, Any]], object] | None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "differs(why): runc 1.1.5 does otherwise; not run on a peer")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PEER == "pyrunc":
        return
    left_out = [item for item in items if item.get_closest_marker("differs")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def peer() -> str:
    return "" if PEER == "pyrunc" else PEER


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    def wait(condition: Callable[[], Any], what: str = "", timeout: float = 20) -> Any:
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout} s: {what or condition}", pytrace=False)
            time.sleep(0.005)
        return found

    return wait


@pytest.fixture(scope="session")
def catches() -> Callable[[int, int], bool]:
    def check(pid: int, number: int) -> bool:
        with open(f"/proc/{pid}/status") as file:
            caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
        return bool(caught >> (number - 1) & 1)

    return check


@pytest.fixture
def make(bundle: Any) -> Callable[..., Any]:
    """A bundle whose config was edited."""

    def make(edit: Edit, *args: str) -> Any:
        made = bundle(*args)
        if edit:
            edit(made.config)
            made.write()
        return made

    return make


@pytest.fixture
def report(pyrunc: Any, make: Any) -> Callable[..., Any]:
    def report(edit: Edit = None, *sysctls: str, options: tuple[str, ...] = (), **popen: Any) -> Any:
        made = make(edit, "/bin/probe", "report", *sysctls)
        result = pyrunc("run", "-b", made, *options, pyrunc.id("report"), **popen)
        found = result.json()
        found["stderr"] = result.err
        return found

    return report


def _words(actions: tuple[str | list[str], ...]) -> list[str]:
    words: list[str] = []
    for action in actions:
        words += [*(["--"] if words else []), *(action.split() if isinstance(action, str) else action)]
    return words


@pytest.fixture
def each(pyrunc: Any, make: Any) -> Callable[..., list[dict[str, Any]]]:
    def each(edit: Edit, *actions: str | list[str], options: tuple[str, ...] = ()) -> Any:
        made = make(edit, "/bin/probe", "each", *_words(actions))
        return pyrunc("run", "-b", made, *options, pyrunc.id("each")).json()

    return each


@pytest.fixture
def refused(pyrunc: Any, make: Any, peer: str) -> Callable[..., str]:
    def refused(edit: Edit, *words: str, options: tuple[str, ...] = (), args: tuple[str, ...] = ()) -> str:
        made = make(edit, *args)
        id_ = pyrunc.id("refused")
        words_ = ("create", "-b", made, *options, id_)
        error: str = pyrunc(*words_, status=1).err if peer else pyrunc.fails(*words_)
        for word in words:  # runc's log line has its quotes escaped
            assert word in error.replace('\\"', '"'), error
        gone(pyrunc, id_, made)
        return error

    return refused


def gone(pyrunc: Any, id_: str, made: Any) -> None:
    """Nothing is left of a container: no state, no cgroup (its processes and mounts are looked for at the end)."""
    assert not pyrunc.exists(id_)
    assert not (pyrunc.root / id_).exists()
    assert hierarchies.places(made.config.get("linux", {}).get("cgroupsPath", "/nowhere")) == []


@pytest.fixture(name="gone")
def _gone() -> Callable[..., None]:
    return gone


class Box:
    """A running container."""

    def __init__(self, pyrunc: Any, bundle: Any, id_: str, pid: int) -> None:
        self.pyrunc, self.bundle, self.id, self.pid = pyrunc, bundle, id_, pid

    def exec(self, *args: str, options: tuple[str, ...] = (), **more: Any) -> Any:
        return self.pyrunc("exec", *options, self.id, *args, **more)

    def report(self, *sysctls: str, options: tuple[str, ...] = (), **more: Any) -> Any:
        return self.exec("/bin/probe", "report", *sysctls, options=options, **more).json()

    def each(self, *actions: str | list[str], options: tuple[str, ...] = ()) -> Any:
        return self.exec("/bin/probe", "each", *_words(actions), options=options).json()

    def process(self, **changes: Any) -> Path:
        """A process.json: the container's process, changed."""
        path: Path = self.bundle.path / f"process{len(os.listdir(self.bundle.path))}.json"
        path.write_text(json.dumps({**self.bundle.config["process"], **changes}))
        return path

    def cgroup(self, controller: str) -> Path:
        """Its directory in the hierarchy of a controller; on v2 there is only one."""
        return hierarchies.of_process(self.pid, controller)


@pytest.fixture
def running(pyrunc: Any, make: Any) -> Callable[..., Box]:
    def running(edit: Edit = None, *args: str, name: str = "box", options: tuple[str, ...] = ()) -> Box:
        made = make(edit, *(args or ("/bin/probe", "sleep", "1000")))
        id_ = pyrunc.id(name)
        pyrunc("create", "-b", made, *options, id_)
        box = Box(pyrunc, made, id_, pyrunc.pid(id_))
        pyrunc("start", id_)
        return box

    return running


@pytest.fixture
def calls(pyrunc: Any, scratch: Path) -> Callable[..., list[str]]:
    def calls(names: str, *words: Any) -> list[str]:
        out = scratch / "calls"
        strace = ["strace", "-f", "-qq", "-e", f"trace={names}", "-e", "signal=none", "-o", str(out)]
        subprocess.run(
            [*strace, *pyrunc.argv(*words)], env=pyrunc.env, stdin=subprocess.DEVNULL, check=True, timeout=60
        )
        return [line.split(maxsplit=1)[1] for line in out.read_text().split("\n") if line]

    return calls


@pytest.fixture
def holder(pyrunc: Any) -> Iterator[Callable[..., int]]:
    """holder("-n", "-u"): the pid of a process in new namespaces, to be joined by path."""
    held: list[subprocess.Popen[bytes]] = []

    def hold(*flags: str) -> int:
        if os.geteuid():
            flags = ("-U", "--map-root-user", *flags)
        # `echo` says that unshare has done its work; `cat` waits for the end of its input
        child = subprocess.Popen(
            ["unshare", *flags, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        held.append(child)
        assert child.stdout and child.stdout.readline() == b"\n"
        return child.pid

    yield hold
    for child in held:
        child.communicate()


def mount_of(found: dict[str, Any], point: str) -> dict[str, Any]:
    """The topmost mount on a path, of a report."""
    there = [mount for mount in found["mounts"] if mount["point"] == point]
    assert there, f"nothing is mounted on {point}: {[m['point'] for m in found['mounts']]}"
    top: dict[str, Any] = there[-1]
    return top


@pytest.fixture(name="mount_of", scope="session")
def _mount_of() -> Callable[..., dict[str, Any]]:
    return mount_of


# -- terminals ----------------------------------------------------------------------------------------------------------


class Receiver:
    """An engine's end of a console socket."""

    def __init__(self, path: str, backlog: int = 1) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(os.path.dirname(path), os.O_PATH)
        self.sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        os.close(directory)
        self.sock.listen(backlog)
        self.sock.settimeout(20)

    def receive(self) -> int:
        """The one descriptor of the one message, checked as go-runc does it."""
        peer, _ = self.sock.accept()
        with peer:
            peer.settimeout(20)
            data, ancillary, flags, _ = peer.recvmsg(4096, socket.CMSG_SPACE(64))
            assert 0 < len(data) < 4096 and not flags & socket.MSG_CTRUNC
            ((level, kind, raw),) = ancillary
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds = array.array("i", raw)
            assert len(fds) == 1
            assert peer.recv(1) == b""
        return fds[0]

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def receiver(scratch: Path) -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def receiver(path: Path | None = None, **more: int) -> Receiver:
        made.append(Receiver(str(path or scratch / f"console{len(made)}.sock"), **more))
        return made[-1]

    yield receiver
    for one in made:
        one.close()


def read_until(
    fd: int, what: bytes | None = None, timeout: float = 20, ended: Callable[[], bool] = lambda: False
) -> bytes:
    """What comes out of a pty until `what` is in it, or until its end."""
    got = b""
    deadline = time.monotonic() + timeout
    while what is None or what not in got:
        is_last = ended()
        ready, _, _ = select.select([fd], [], [], 0 if is_last else 0.1)
        if not ready:
            assert not is_last, f"ended with {got!r}"
            assert time.monotonic() < deadline, f"only {got!r} within {timeout} s"
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: every other end is closed
            data = b""
        if not data:
            assert what is None, f"ended with {got!r}"
            return got
        got += data
    return got


@pytest.fixture(name="read_until", scope="session")
def _read_until() -> Callable[..., bytes]:
    return read_until
