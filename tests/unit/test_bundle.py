"""A bundle is read once and checked whole; what is wrong is said in one line with its place in the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import config_faults
import pytest

from runtime import bundle
from runtime.errors import ConfigError, Error, KernelError, RuleError
from specs import explain

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {
    "ociVersion": "1.0.0",
    "root": {"path": "rootfs"},
    "process": {"cwd": "/", "args": ["/bin/true"]},
}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A bundle with this text, or document, as its config.json."""

    def make(config: Any = None, name: str = "config.json") -> Path:
        (tmp_path / "rootfs").mkdir(exist_ok=True)
        text = config if isinstance(config, (bytes, str)) else json.dumps(SMALL if config is None else config)
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path

    return make


def refused(path: Path | str, kind: type[Error] = Error, config_name: str = "config.json") -> Error:
    with pytest.raises(kind) as caught:
        bundle.load(str(path), config_name)
    assert "\n" not in caught.value.message and "\n" not in caught.value.hint
    return caught.value


# -- what is right ----------------------------------------------------------------------------------------------------


def test_a_bundle_has_its_path_document_and_bytes(make: Make) -> None:
    path = make(config_faults.full())
    found = bundle.load(str(path))
    assert found.path == str(path) and found.rootfs == str(path / "rootfs")
    assert found.config == config_faults.full()
    assert found.raw == (path / "config.json").read_bytes()


def test_a_relative_bundle_becomes_absolute(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make()
    monkeypatch.chdir(path.parent)
    assert bundle.load(path.name).path == str(path)
    monkeypatch.chdir(path)
    assert bundle.load(".").path == str(path)


def test_the_root_may_be_absolute_or_a_link(make: Make) -> None:
    path = make({**SMALL, "root": {"path": str(make() / "rootfs")}})
    assert bundle.load(str(path)).rootfs == str(path / "rootfs")
    os.symlink("rootfs", path / "link")
    assert bundle.load(str(make({**SMALL, "root": {"path": "./link/"}}))).rootfs == str(path / "link")


def test_the_document_may_have_another_name(make: Make) -> None:
    path = make(name="other.json")
    assert bundle.load(str(path), "other.json").config == SMALL
    assert "config.json" in str(refused(path))


def test_a_name_of_bytes_that_are_no_utf_8(make: Make) -> None:
    path = make()
    odd = os.fsencode(path) + b"\xff"
    os.rename(path, odd)
    try:
        assert os.fsencode(bundle.load(os.fsdecode(odd)).path) == odd
    finally:
        os.rename(odd, path)


def test_no_library_is_loaded_while_all_is_well(make: Make) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from runtime import bundle\n"
        "bundle.load(sys.argv[2])\n"
        "print(*sorted({'json', 're', 'typing', 'enum', 'jsonschema', 'specs.explain', 'os'} & set(sys.modules)))"
    )
    path = make(config_faults.full())
    done = subprocess.run([sys.executable, "-IS", "-c", code, ROOT, path], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


# -- what is not there ------------------------------------------------------------------------------------------------


def test_what_was_read_ahead_counts_once_and_for_the_same_bytes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make()
    checks: list[Any] = []
    check = bundle.config_check.check_config
    monkeypatch.setattr(bundle.config_check, "check_config", lambda config: checks.append(config) or check(config))
    bundle.read_ahead(str(path))
    assert bundle.load(str(path)).config is checks[0] and len(checks) == 1
    assert bundle.load(str(path)).config is checks[1], "what somebody has, and may have changed, is nobody else's"
    bundle.read_ahead(str(path))
    make({**SMALL, "annotations": {"a": "b"}})
    assert bundle.load(str(path)).config["annotations"] == {"a": "b"}
    assert bundle.load(str(path)).config["annotations"] == {"a": "b"}


def test_what_is_wrong_ahead_is_said_when_it_is_asked_for(make: Make, tmp_path: Path) -> None:
    bundle.read_ahead(str(tmp_path / "nowhere"))
    path = make({**SMALL, "hostname": 1})
    bundle.read_ahead(str(path))
    assert "hostname" in refused(path, ConfigError).message
    # still there after another one was right
    make()
    bundle.read_ahead(str(path))
    make({**SMALL, "hostname": 1})
    assert "hostname" in refused(path, ConfigError).message


def test_a_missing_bundle(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert refused(path).message == f'bundle "{path}" does not exist'
    path.touch()
    assert refused(path).message == f'bundle "{path}" is not a directory'
    assert "not a directory" in refused(path / "x", KernelError).message
    assert "NUL" in refused("/tmp/\0").message


def test_a_missing_config(tmp_path: Path) -> None:
    assert refused(tmp_path).message == f'open "{tmp_path}/config.json": no such file or directory'


def test_a_config_that_is_no_file(make: Make) -> None:
    path = make()
    (path / "config.json").unlink()
    (path / "config.json").mkdir()
    assert refused(path).message.endswith("not a regular file")
    (path / "config.json").rmdir()
    os.mkfifo(path / "config.json")  # nobody ever writes to it
    assert refused(path).message.endswith("not a regular file")
    (path / "config.json").unlink()
    os.symlink("/dev/zero", path / "config.json")
    assert refused(path).message.endswith("not a regular file")
    (path / "config.json").unlink()
    os.symlink("config.json", path / "config.json")
    assert "symbolic links" in refused(path, KernelError).message


def test_a_config_that_is_too_large(make: Make) -> None:
    path = make()
    os.truncate(path / "config.json", 1 << 40)
    assert refused(path, ConfigError).message == "config.json: larger than 16777216 bytes"
    # one whose size is not told
    with pytest.raises(ConfigError, match="not JSON"):
        bundle.findings(b"x", "x") and bundle.load_process("/proc/self/status")


@pytest.mark.parametrize("root", ["nowhere", "/nowhere/x", "rootfs/../gone", "file/x"])
def test_a_missing_rootfs(make: Make, root: str) -> None:
    path = make({**SMALL, "root": {"path": root}})
    (path / "file").touch()
    wanted = os.path.normpath(path / root)
    assert refused(path).message == f"rootfs ({wanted}) does not exist"


def test_a_rootfs_that_is_no_directory(make: Make) -> None:
    path = make({**SMALL, "root": {"path": "config.json"}})
    assert refused(path).message == f"rootfs ({path}/config.json) is not a directory"


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_text_that_is_no_json(make: Make) -> None:
    text = json.dumps(SMALL, indent=1)
    error = refused(make(text[:40]), ConfigError)
    assert error.message.startswith("config.json:4:") and "not JSON: " in error.message
    for cut in range(len(text) - 1):
        refused(make(text[:cut]), ConfigError)


def test_a_document_that_is_no_object(make: Make) -> None:
    for text in ("[]", "null", "5", '"x"'):
        error = refused(make(text), ConfigError)
        assert error.message.startswith("config.json:1:1: wrong type: expected an object, found "), error


def test_a_fault_has_its_line_and_clause(make: Make) -> None:
    text = json.dumps({**SMALL, "hostname": 5}, indent=2)
    error = refused(make(text), ConfigError)
    assert error.message == ("config.json:12:15: hostname: wrong type: expected a string, found 5 [config.md#hostname]")
    assert isinstance(error, ConfigError) and error.hint == ""
    assert (error.where, error.line, error.column) == ("/hostname", 12, 15)
    assert error.record["pointer"] == "/hostname"


def test_a_broken_rule_has_them_too(make: Make) -> None:
    text = json.dumps({**SMALL, "hostname": "x"}, indent=2)
    error = refused(make(text), RuleError)
    assert error.message == (
        "config.json:12:15: hostname: would set the hostname of the host: there is no uts namespace [config.md#hostname]"
    )


def test_more_faults_are_counted(make: Make) -> None:
    error = refused(make({**SMALL, "hostname": 5, "domainname": 6}), ConfigError)
    assert error.hint == "1 more error in it, which `pyrunc validate` lists"
    config = {**SMALL, "process": {"cwd": "x", "user": {"uid": "0", "gid": 0}, "rlimits": 5}}
    error = refused(make(config), ConfigError)
    # cwd breaks a rule only, and comes earlier
    assert "process.user.uid: wrong type" in error.message
    assert error.hint == "numbers are written without quotes; 2 more errors in it, which `pyrunc validate` lists"


def test_a_sure_hint_comes_first(make: Make) -> None:
    error = refused(make({**SMALL, "process": {"cwd": "/", "user": {"uid": "0", "gid": "0"}}}), ConfigError)
    assert error.hint == "numbers are written without quotes; 1 more error in it, which `pyrunc validate` lists"


def test_warnings_do_not_refuse(make: Make) -> None:
    config = {**SMALL, "Hostname": "x", "process": {**SMALL["process"], "capabilities": {"bounding": ["CAP_X"]}}}
    bundle.load(str(make(config)))


def test_a_process_is_required_to_create(make: Make) -> None:
    config = {key: value for key, value in SMALL.items() if key != "process"}
    error = refused(make(config), ConfigError)
    assert error.message == "config.json:1:1: process: required to start a container [config.md#process]"
    error = refused(make({**SMALL, "process": {"cwd": "/"}}), ConfigError)
    assert error.message == "config.json:1:64: process.args: required to start a container [config.md#process]"
    assert bundle.findings(json.dumps(config).encode()) == []


@pytest.mark.parametrize("text", ['{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": NaN}', "[" * 99, b"\xff"])
def test_findings_of_what_cannot_be_read(text: str | bytes) -> None:
    raw = text.encode() if isinstance(text, str) else text
    (finding,) = bundle.findings(raw)
    assert finding.severity == "error" and finding.why


def test_findings_of_everything_at_once() -> None:
    config = config_faults.full()
    config["process"]["cwd"] = "x"  # a rule
    config["linux"]["rootfsPropagation"] = "r"  # a schema
    config["typo"] = 1
    raw = json.dumps(config, indent=1).encode()
    assert [f.pointer for f in bundle.findings(raw)] == ["/process/cwd", "/linux/rootfsPropagation"]
    assert [f.pointer for f in bundle.findings(raw, strict=True)] == [
        "/process/cwd",
        "/linux/rootfsPropagation",
        "/typo",
    ]


def test_more_faults_than_are_listed() -> None:
    """A rule could trip over one that is not among them: here over a namespace that is no object."""
    broken = {**SMALL, "mounts": [{"destination": 5}] * (explain.MOST + 1), "linux": {"namespaces": [[]]}}
    found = bundle.findings(json.dumps(broken).encode())
    assert len(found) == explain.MOST and all(f.pointer.startswith("/mounts/") for f in found)


# -- documents of their own -------------------------------------------------------------------------------------------


def test_process_documents(tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    path.write_text(json.dumps(config_faults.process()))
    assert bundle.load_process(str(path)) == config_faults.process()
    for document, words in (
        ({"args": ["x"]}, ":1:1: cwd: required [config.md#process]"),
        ({"cwd": "/"}, ":1:1: args: required to start a process"),
        ({"cwd": "/", "args": []}, "args: empty"),
        ({"cwd": "x", "args": ["x"]}, ':1:9: cwd: "x" is not an absolute path'),
        ({"cwd": "/", "args": ["x"], "user": {"uid": 2**32 - 1, "gid": 0}}, "user.uid: out of range"),
        ([], "expected an object"),
    ):
        path.write_text(json.dumps(document))
        with pytest.raises(ConfigError) as caught:
            bundle.load_process(str(path))
        assert caught.value.message.startswith(f"{path}:") and words in caught.value.message
    with pytest.raises(Error, match="no such file or directory"):
        bundle.load_process(str(tmp_path / "nowhere"))


def test_resources_documents(tmp_path: Path) -> None:
    text = json.dumps(config_faults.resources())
    path = tmp_path / "r.json"
    path.write_text(text)
    assert bundle.load_resources(str(path)) == bundle.load_resources(text.encode()) == config_faults.resources()
    with pytest.raises(ConfigError, match=r"^resources:1:22: memory.limit: out of range"):
        bundle.load_resources(b'{"memory": {"limit": -2}}')
    with pytest.raises(RuleError, match=r'^-:1:21: unified.*"a/b" is not the name of a cgroup file'):
        bundle.load_resources(b'{"unified": {"a/b": "1", "x.y": ""}}', "-")
