"""From words to an exit status, in this process; containers are tests/cli's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import cli, log
from runtime.__main__ import call
from runtime.cli import output, spec
from runtime.errors import Error, UsageError


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    log.setup()


def test_help_goes_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("Usage: pyrunc") and err == ""


def test_version_is_what_dockerd_takes_apart(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0].startswith("pyrunc version ")
    assert [line.partition(": ")[0] for line in lines[1:3]] == ["commit", "spec"]


@pytest.mark.parametrize(
    "words", [[], ["nosuch"], ["state"], ["exec"], ["nosuch", "--help"], ["create", "--bundel", "/"]]
)
def test_wrong_words(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert call(words) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2 and err.splitlines()[1].startswith("hint: pyrunc ")


def test_wrong_words_are_logged_where_the_words_say(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    assert call(["--log", str(path), "--log-format", "json", "state"]) == 1
    assert json.loads(path.read_text())["msg"] == 'state: missing argument "ID"'


def test_an_error_names_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").touch()
    assert call(["spec", "-b", str(tmp_path)]) == 1
    assert capfd.readouterr().err == f'spec: "{tmp_path}/config.json" exists, remove it first\n'


def failing(monkeypatch: pytest.MonkeyPatch, unexpected: BaseException) -> None:
    def example(_: str) -> None:
        raise unexpected.with_traceback(None)

    monkeypatch.setattr(spec, "example", example)


def test_what_nobody_expected_is_one_line_with_a_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, KeyError("secret\nline"))
    path = tmp_path / "log.json"
    words = ["--log", str(path), "--log-format", "json", "spec"]
    assert call(words) == 1
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("spec: internal error ") and "KeyError" in first
    assert second == "hint: run again with --debug for the traceback"
    found = json.loads(path.read_text())
    assert found["bug"] in first and "Traceback" not in path.read_text()
    # the same mistake has the same number, and --debug its traceback, in the log only
    assert call(["--debug", *words]) == 1
    assert capfd.readouterr().err.splitlines() == [first]
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert any("Traceback" in line["msg"] for line in lines if line["level"] == "debug")
    assert lines[-1]["level"] == "error", "callers take the last object"


@pytest.mark.parametrize("unexpected", [ImportError("no such module"), KeyError("which")])
def test_where_what_prints_tracebacks_cannot_be_loaded(
    unexpected: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It needs what cannot be loaded either, as likely as not."""
    failing(monkeypatch, unexpected)
    monkeypatch.setitem(sys.modules, "traceback", None)
    monkeypatch.delitem(sys.modules, "runtime.cli.bug", raising=False)
    monkeypatch.delattr(cli, "bug", raising=False)
    assert call(["--debug", "--log", str(tmp_path / "log"), "spec"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "spec: load the program: no such module [" if type(unexpected) is ImportError else "spec: internal error "
    )
    assert f"{type(unexpected).__name__}: {unexpected}; there is no traceback" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("unexpected", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "spec: interrupted\n"),
        (MemoryError(), 1, "spec: out of memory\n"),
        (RecursionError(), 1, "spec: nested too deeply\n"),
        (output.Closed(), 141, ""),
        (Error("why", "how"), 1, "spec: why\nhint: how\n"),
        (UsageError("which"), 1, "which\n"),
    ],
)
def test_what_else_can_happen(
    unexpected: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, unexpected)
    assert call(["spec"]) == status
    assert capfd.readouterr() == ("", text)
