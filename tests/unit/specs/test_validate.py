"""`validate` in process: a line or an object per finding, and a status that counts errors only."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import config_faults
import pytest

from runtime.cli import validate
from runtime.errors import Error

BAD = """{
  "ociVersion": "1.0.0",
  "root": {"path": "rootfs"},
  "Hostname": "x",
  "typo": 1,
  "process": {"cwd": "/", "user": {"uid": "0", "gid": 0}, "capabilities": {"bounding": ["CAP_X"]}},
  "domainname": "d"
}
"""


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    def run(config: Any, *flags: str) -> tuple[int, str]:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        args = SimpleNamespace(bundle=str(tmp_path), json="json" in flags, strict="strict" in flags)
        status = validate.run(args)  # type: ignore[arg-type]
        return status, capfd.readouterr().out

    return run


def test_a_right_config_says_nothing(run: Any) -> None:
    assert run(config_faults.full()) == (0, "")
    assert run(config_faults.full(), "strict") == (0, "")
    assert run(config_faults.full(), "json") == (0, "[]\n")


def test_each_finding_is_a_line(run: Any) -> None:
    assert run(BAD) == (
        1,
        'config.json:4:3: warning: /Hostname: unknown property; hint: did you mean "hostname"? [config.md#configuration]\n'
        "config.json:6:43: /process/user/uid: wrong type (expected an integer from 0 to 4294967294, found \"0\"); "
        "hint: numbers are written without quotes [config.md#posix-platform-user]\n"
        "config.json:7:17: /domainname: would set the domainname of the host: there is no uts namespace [config.md#hostname]\n",
    )  # fmt: skip


def test_each_finding_is_an_object(run: Any) -> None:
    status, out = run(BAD, "json", "strict")
    found = json.loads(out)
    assert status == 1
    assert [(f["pointer"], f["severity"]) for f in found] == [
        ("/Hostname", "error"), ("/typo", "error"), ("/process/user/uid", "error"), ("/domainname", "error"),
    ]  # fmt: skip
    assert found[2] == {
        "file": "config.json",
        "pointer": "/process/user/uid",
        "line": 6,
        "column": 43,
        "severity": "error",
        "message": "wrong type",
        "expected": "an integer from 0 to 4294967294",
        "found": '"0"',
        "hint": "numbers are written without quotes",
        "clause": "config.md#posix-platform-user",
    }


def test_warnings_are_shown_and_are_no_failure(run: Any) -> None:
    config = {"ociVersion": "1.0.0", "root": {"path": "r"}, "mounts": [{"destination": "x"}], "typo": 1}
    status, out = run(config)
    assert status == 0
    assert out.startswith("config.json:1:") and ": warning: /mounts/0/destination: " in out and out.count("\n") == 1
    status, out = run(config, "strict")
    assert status == 1 and "/typo: unknown property" in out


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[]"])
def test_what_is_no_config_is_a_finding(run: Any, text: str) -> None:
    status, out = run(text)
    assert status == 1 and out.startswith("config.json:1:") and out.count("\n") == 1
    status, out = run(text, "json")
    assert status == 1 and len(json.loads(out)) == 1


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match="does not exist"):
        validate.run(SimpleNamespace(bundle=str(tmp_path / "x"), json=False, strict=False))  # type: ignore[arg-type]
