"""Bad input: each property of config.json spoilt in each way gives one clear error with its place, and leaves nothing.

All faults go through `bundle.load` in process; a sample of them, spread over all properties, through the real command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import config_faults
import pytest
from config_faults import Fault

from runtime import bundle
from runtime.errors import ConfigError

#: of each property one value of a wrong type, one out of its range, and its absence; tests/unit/specs takes all of them
FAULTS = list({(fault.kind, fault.pointer): fault for fault in reversed(config_faults.faults())}.values())[::-1]
#: spread over the document, and of each kind of fault
SAMPLE = FAULTS[:: max(1, len(FAULTS) // 40)] + [f for f in FAULTS if f.kind == "missing"][::2]


def dotted(pointer: str) -> str:
    return pointer.strip("/").replace("/", ".")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    (path / "rootfs").mkdir()
    return path


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_every_fault_is_one_error_with_its_place(place: Path, fault: Fault) -> None:
    text = json.dumps(fault.apply(config_faults.full()), indent=2)
    (place / "config.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        bundle.load(str(place))
    error = caught.value
    is_nul = fault.value == "a\0b"
    assert error.where == fault.pointer
    assert 0 < error.line <= text.count("\n") + 1 and error.column > 0
    assert error.message.startswith(f"config.json:{error.line}:{error.column}: {dotted(fault.pointer)}: ")
    assert error.message.isprintable() and len(error.message) < 600
    assert error.clause or is_nul
    line = text.splitlines()[error.line - 1]
    name = fault.pointer.rpartition("/")[2]
    # the line is the property's own, that of the list it is a member of, or where it is missing from
    assert f'"{name}"' in line or name.isdecimal() or fault.kind == "missing", line


def test_there_are_faults_of_every_property() -> None:
    """At least a wrong type and, but for yes-or-no and free values, one out of range; a missing one where it is required."""
    assert len(FAULTS) > 500
    assert {fault.kind for fault in FAULTS} == {"type", "range", "missing"}
    assert len({fault.pointer for fault in FAULTS}) > 200


# -- the real command -------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(pyrunc: Any, bundle: Callable[..., Any], gone: Callable[..., None]) -> Callable[..., str]:
    """Create a container that cannot be; the one line that is said, after a look at what is left."""

    def refused(made: Any = None, *words: str) -> str:
        made = made or bundle()
        id_ = pyrunc.id("bad")
        result = pyrunc("create", "--bundle", made, id_, status=1)
        lines = result.err.splitlines()
        assert result.out == ""
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), result
        gone(pyrunc, id_, made)
        assert pyrunc("list", "--quiet").out == ""
        assert not [name for name in os.listdir(made.path) if name not in ("config.json", "rootfs", "x")]
        for word in words:
            assert word in lines[0], lines[0]
        return lines[0]

    return refused


@pytest.mark.parametrize("fault", SAMPLE, ids=str)
def test_the_command_says_it_too(refused: Any, bundle: Callable[..., Any], fault: Fault) -> None:
    made = bundle()
    made.config = fault.apply(config_faults.full())
    made.write()
    assert f"{dotted(fault.pointer)}: " in refused(made, "config.json:")


def test_garbage_and_truncated_documents(refused: Any, bundle: Callable[..., Any]) -> None:
    made = bundle()
    text = (made.path / "config.json").read_bytes()
    for spoilt, words in (
        (b"", "config.json:1:1: empty"),
        (text[: len(text) // 2], "not JSON: "),
        (text[:-3], "the document is cut off"),
        (b"\x7fELF" + bytes(100), "not JSON"),
        (b"\xff" * 100, "not UTF-8"),
        (b"[" * 5000, "nested"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper than 64 levels"),
        (text.replace(b'"/bin/true"', b'"/bin/true\\u0000"'), "process.args.0: contains a NUL character"),
        (text.replace(b'"/bin/true"', b'"\\udfff"'), "process.args.0: contains half of a surrogate pair"),
        (text + b"{}", "extra data"),
        (b"[]", "expected an object"),
    ):
        (made.path / "config.json").write_bytes(spoilt)
        refused(made, words)


def test_a_document_that_is_no_file(refused: Any, bundle: Callable[..., Any]) -> None:
    made = bundle()
    path = made.path / "config.json"
    path.unlink()
    refused(made, "config.json", "no such file or directory")
    os.mkfifo(path)
    refused(made, "not a regular file")
    path.unlink()
    path.mkdir()
    refused(made, "not a regular file")
    path.rmdir()
    os.symlink("/dev/zero", path)
    refused(made, "not a regular file")
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)
    refused(made, "larger than 16777216 bytes")


def test_a_missing_bundle(pyrunc: Any, scratch: Path) -> None:
    assert "does not exist" in pyrunc.fails("create", "--bundle", scratch / "x", pyrunc.id("bad"))
    assert not pyrunc.root.exists() or "bad" not in "".join(os.listdir(pyrunc.root))


def test_a_missing_rootfs(refused: Any, bundle: Callable[..., Any]) -> None:
    made = bundle()
    made.rootfs.rename(made.path / "x")
    refused(made, f"rootfs ({made.rootfs}) does not exist")
    (made.path / "x").rename(made.rootfs)
    made.config["root"]["path"] = "config.json"
    made.write()
    refused(made, "is not a directory")


def test_rules_across_properties(refused: Any, bundle: Callable[..., Any]) -> None:
    for edit, words in (
        (
            {"hostname": "x", "linux": {"namespaces": [{"type": "mount"}]}},
            "hostname: would set the hostname of the host",
        ),
        ({"linux": {"sysctl": {"vm.swappiness": "1"}}, "hostname": ""}, "it would change the host"),
        ({"linux": {"maskedPaths": ["/proc/kcore"]}, "hostname": ""}, "there is no mount namespace"),
        ({"mounts": [{"destination": "/proc/self", "type": "tmpfs"}]}, "is inside /proc"),
    ):
        made = bundle(**edit)
        refused(made, words)


def test_exec_reads_documents_as_strictly(pyrunc: Any, bundle: Callable[..., Any], scratch: Path) -> None:
    made = bundle("/bin/sleep", "100")
    id_ = pyrunc.id("box")
    pyrunc("create", "--bundle", made, id_)
    pyrunc("start", id_)
    path = scratch / "process.json"
    document = config_faults.process()
    for fault in config_faults.faults("process", document)[::20]:
        path.write_text(json.dumps(fault.apply(document), indent=1))
        error = pyrunc.fails("exec", "--process", path, id_, status=255)
        assert f"{path}:" in error and dotted(fault.pointer) in error


def test_validate_lists_all_of_it(pyrunc: Any, bundle: Callable[..., Any]) -> None:
    made = bundle()
    assert pyrunc("validate", made).out == ""
    assert pyrunc("validate", "--json", "--strict", made).json() == []
    made.config["process"]["user"] = {"uid": -1, "gid": "0"}
    made.config["process"]["noNewPriviliges"] = True
    made.config["linux"]["sysctl"] = {"vm.x": "1"}
    made.write()
    result = pyrunc("validate", made, status=1)
    assert result.err == "" and len(result.out.splitlines()) == 3
    found = pyrunc("validate", "--json", "--strict", made, status=1).json()
    assert {f["pointer"] for f in found} == {
        "/process/user/uid", "/process/user/gid", "/process/noNewPriviliges", "/linux/sysctl/vm.x",
    }  # fmt: skip
    assert all(f["line"] > 1 and f["column"] > 1 and f["clause"] for f in found)
    (typo,) = [f for f in found if f["pointer"].endswith("liges")]
    assert typo["hint"] == 'did you mean "noNewPrivileges"?'
