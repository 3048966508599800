"""The shim's program as containerd runs it: start, delete, -info, -v; its address, its files, its answers."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import shim_client
from shim_client import PROGRAM, Client, Engine, Shim

from runtime.errors import UsageError
from shim.containerd import messages, options
from shim.containerd.bootstrap import _read_words
from shim.containerd.protobuf import blank, decode, encode

if TYPE_CHECKING:
    from conftest import Bundle, Leaks

MakeBundle = Callable[..., "Bundle"]


@pytest.fixture
def engine(leaks: Leaks, scratch: Path) -> Iterator[Engine]:
    yield from shim_client.until_over(Engine(scratch))


def name(engine: Engine, group: str) -> str:
    """The socket of a group: containerd's own rule, and ours in front."""
    return "pyrunc-" + hashlib.sha256(f"{engine.address}/test/{group}".encode()).hexdigest()[:-7]


def test_address(engine: Engine, bundle: MakeBundle) -> None:
    one = engine.start(bundle("true").path, "one")
    assert one.address == f"unix:///run/containerd/s/{name(engine, 'one')}"
    assert (one.bundle / "address").read_text() == one.address
    assert os.stat(one.path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"}, "g"),
        ({"other": "x"}, "one"),
    ],
)
def test_groups(engine: Engine, bundle: MakeBundle, annotations: dict[str, str], group: str) -> None:
    one = engine.start(bundle("true", annotations=annotations).path, "one")
    assert one.path == f"/run/containerd/s/{name(engine, group)}"


def test_a_dead_socket_is_replaced(engine: Engine, bundle: MakeBundle) -> None:
    path = Path(f"/run/containerd/s/{name(engine, 'one')}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    one = engine.start(bundle("true").path, "one")
    assert one.call("Connect", id="one")["shim_pid"] == one.pid


def test_bootstrap_parameters(engine: Engine, bundle: MakeBundle, scratch: Path) -> None:
    """containerd 2.3 and later: parameters on standard input, a message as the answer, another directory."""
    place = bundle("true").path
    os.mkfifo(place / "log")
    params = {
        "instance_id": "one",
        "namespace": "test",
        "log_level": -4,
        "containerd_ttrpc_address": engine.env.pop("TTRPC_ADDRESS"),
        "containerd_binary": "/bin/false",
        "socket_dir": str(scratch / "sockets"),
    }
    answer = decode(
        messages.BOOTSTRAP_RESULT,
        engine.run("start", place, "one", input=encode(messages.BOOTSTRAP_PARAMS, params)),
    )
    assert (answer["version"], answer["protocol"]) == (2, "ttrpc")
    assert answer["address"] == f"unix://{scratch}/sockets/{name(engine, 'one')}"
    one = Shim(engine, place, "one", answer["address"])
    engine.shims.append(one)
    one.create()
    assert engine.wait_for("/tasks/create")["container_id"] == "one"
    one.call("Delete", id="one")


def test_options_on_standard_input_are_no_parameters(engine: Engine, bundle: MakeBundle) -> None:
    sent = encode(messages.OPTIONS, {"binary_name": "runc", "shim_cgroup": ""})
    one = engine.start(
        bundle("true").path,
        "one",
        input=encode(messages.ANY, {"type_url": "containerd.runc.v1.Options", "value": sent}),
    )
    assert one.address.startswith("unix:///")


def test_shim_cgroup(engine: Engine, bundle: MakeBundle) -> None:
    """The shim is moved to the cgroup that the option names, which must be there."""
    group = f"pyrunc-test/shim{os.getpid()}"
    top = Path("/sys/fs/cgroup")
    made = [(top / "pids" if (top / "pids").is_dir() else top) / group]
    for path in made:
        path.mkdir(parents=True)
    sent = encode(messages.OPTIONS, {"shim_cgroup": f"/{group}"})
    data = encode(messages.ANY, {"type_url": "containerd.runc.v1.Options", "value": sent})
    try:
        first = engine.start(bundle("true").path, "one", input=data)
        assert f":/{group}\n" in Path(f"/proc/{first.pid}/cgroup").read_text()
        # one that the first forks is where its own start was
        second = engine.start(bundle("true").path, "two")
        assert Path(f"/proc/{second.pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
        for one in (second, first):
            one.close()
            one.wait_until_gone()
    finally:
        for path in made:
            # a child that waited for the next call ends with its shim, a moment later
            end = time.monotonic() + 30
            while (path / "cgroup.procs").read_text() and time.monotonic() < end:
                time.sleep(0.01)
            path.rmdir()
    place = bundle("true").path
    text = engine.run("start", place, "three", input=data, check=False).decode()
    assert f"load cgroup /{group} for the shim" in text


def test_errors_of_start_are_one_line(engine: Engine, bundle: MakeBundle, scratch: Path) -> None:
    empty = scratch / "empty"
    empty.mkdir()
    text = engine.run("start", empty, "one", check=False).decode()
    assert "config.json" in text and "no such file" in text and len(text.splitlines()) == 1
    (empty / "config.json").write_text("{")
    text = engine.run("start", empty, "one", check=False).decode()
    assert "config.json:1:" in text and len(text.splitlines()) == 1
    assert "is nothing that a shim is run for" in engine.run("stop", empty, "one", check=False).decode() + _error(
        engine, empty
    )


def _error(engine: Engine, place: Path) -> str:
    words = [str(PROGRAM), "-namespace", "test", "-id", "one", "stop"]
    return subprocess.run(words, cwd=place, capture_output=True, text=True, check=False).stderr


def test_delete_of_what_never_was(engine: Engine, bundle: MakeBundle) -> None:
    place = bundle("true").path
    answer = decode(messages.DELETED, engine.run("delete", place, "never"))
    assert (answer["pid"], answer["exit_status"]) == (0, 137)
    assert answer["exited_at"]["seconds"] > 0


def test_version_and_info(scratch: Path) -> None:
    shown = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[1].split()[0] == "Version:"
    info = decode(
        messages.RUNTIME_INFO, subprocess.run([PROGRAM, "-info"], input=b"", capture_output=True, check=True).stdout
    )
    assert info["name"] == "io.containerd.pyrunc.v2"
    assert info["version"]["version"] == shown.split()[2]
    assert info["features"]["type_url"] == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    assert json.loads(info["features"]["value"])["ociVersionMin"]


def test_both_services_and_nothing_else(engine: Engine, bundle: MakeBundle) -> None:
    one = engine.start(bundle("true").path, "one")
    for service in ("containerd.task.v2.Task", "containerd.task.v3.Task"):
        client = Client(one.path, service)
        assert client.call("Connect", id="one")["shim_pid"] == one.pid
        client.close()


def test_words() -> None:
    """Go's flags: one dash or two, = or the next word."""
    given = ["-namespace", "n", "--id=i", "-address", "", "-debug", "-publish-binary=p", "start"]
    words = {"namespace": "n", "id": "i", "address": "", "debug": "true", "publish-binary": "p"}
    assert _read_words(given) == (words, "start")
    assert _read_words(["-debug=false", "delete"]) == ({}, "delete")
    with pytest.raises(UsageError, match="-nonsense"):
        _read_words(["-nonsense", "start"])


# -- options -----------------------------------------------------------------------------------------------------------


def test_options_of_each_kind() -> None:
    wanted = {**blank(messages.OPTIONS), "binary_name": "crun", "systemd_cgroup": True, "io_uid": 5}
    plain = {"type_url": "x.y/containerd.runc.v1.Options", "value": encode(messages.OPTIONS, wanted)}
    body = b'BinaryName = "crun"\nSystemdCgroup = true\nIoUid = 5\n'
    toml = {"type_url": "runtimeoptions.v1.Options", "value": encode(messages.RUNTIME_OPTIONS, {"config_body": body})}
    assert options.read(plain) == options.read(toml) == wanted
    assert options.read({**toml, "type_url": "cri.runtimeoptions.v1.Options"}) == wanted
    assert options.read(None) == options.read({"type_url": "", "value": b""}) == blank(messages.OPTIONS)


@pytest.mark.parametrize("body", ["BinaryName = 5", "SystemdCgroup = 1", "IoUid = true", "Unknown = 1", "not toml"])
def test_options_that_are_none(body: str) -> None:
    value = encode(messages.RUNTIME_OPTIONS, {"config_body": body.encode()})
    with pytest.raises(ValueError, match="runtime options"):
        options.read({"type_url": "runtimeoptions.v1.Options", "value": value})


def test_options_in_a_file(scratch: Path) -> None:
    (scratch / "o.toml").write_text('Root = "/r"')
    value = encode(messages.RUNTIME_OPTIONS, {"config_path": str(scratch / "o.toml")})
    found = options.read({"type_url": "runtimeoptions.v1.Options", "value": value})
    assert options.words(found, "ns", "/b") == ["--root", "/r/ns", "--log", "/b/log.json", "--log-format", "json"]


def test_what_delete_needs_is_remembered(scratch: Path) -> None:
    chosen = {**blank(messages.OPTIONS), "binary_name": "x", "root": "/r", "systemd_cgroup": True}
    options.remember(str(scratch), chosen)
    assert options.recall(str(scratch)) == chosen
    (scratch / "options.json").write_text('{"root": 5, "binary_name": "y", "more": 1}')
    assert options.recall(str(scratch)) == {**blank(messages.OPTIONS), "binary_name": "y"}
    (scratch / "options.json").write_text("{")
    assert options.recall(str(scratch)) == blank(messages.OPTIONS)
