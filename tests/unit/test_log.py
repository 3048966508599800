"""The log file and standard error: the bytes that containerd, podman and people read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import log
from runtime.errors import ConfigError, Error, KernelError

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    log.setup()


def test_json_has_one_object_and_stderr_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.json"
    log.setup(str(path), "json")
    log.warning("not wanted")
    log.debug("not wanted")
    log.error(KernelError("mount proc on /proc", 1, "init 13", hint="is it a mount?"))
    found = json.loads(path.read_text())  # the whole file, as podman does
    assert found["level"] == "error"
    assert found["msg"] == "mount proc on /proc: operation not permitted [init 13]"
    assert re.fullmatch(TIME, found["time"])
    assert (found["errno"], found["op"], found["hint"]) == (1, "init 13", "is it a mount?")
    assert path.read_text().count("\n") == 1
    assert capfd.readouterr() == (
        "",
        "mount proc on /proc: operation not permitted [init 13]\nhint: is it a mount?\n",
    )


def test_text_is_logrus(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.setup(str(path))
    log.warning("careful")
    log.error(Error('a "b"\nc\t\x1b[31m\\', code="x"))
    first, second = path.read_text().splitlines()
    assert re.fullmatch(f'time="{TIME}" level=warning msg="careful"', first)
    assert re.fullmatch(rf'time="{TIME}" level=error msg="(.*)" code="x"', second)
    assert r"a \"b\"\\nc\\t\\x1b[31m\\" in second


def test_the_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text("before\n")
    log.setup(str(path), "json")
    log.error(Error("after"))
    assert path.read_text().startswith("before\n{")


def test_nothing_to_say_makes_no_file(tmp_path: Path) -> None:
    log.setup(str(tmp_path / "log.json"), "json")
    log.warning("quiet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("level", "form", "kept"),
    [
        ("", "text", ["warning", "error"]), ("", "json", ["error"]), ("debug", "json", ["debug", "warning", "error"]),
        ("info", "text", ["warning", "error"]), ("warning", "json", ["warning", "error"]), ("error", "text", ["error"]),
    ],
)  # fmt: skip
def test_levels(tmp_path: Path, level: str, form: str, kept: list[str]) -> None:
    path = tmp_path / "log"
    log.setup(str(path), form, level)
    log.debug("d")
    log.warning("w")
    log.error(Error("e"))
    assert re.findall(r'level"?[=:]"?(\w+)', path.read_text()) == kept
    assert log.is_debug() == (level == "debug")


def test_without_a_file_a_warning_is_not_printed_where_a_caller_reads(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup()
    log.warning("quiet")
    assert capfd.readouterr().err == ""
    log.setup(level="warning")
    log.warning("asked for")
    assert 'level=warning msg="asked for"' in capfd.readouterr().err


def test_a_log_file_that_cannot_be_written_is_mentioned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.setup(str(tmp_path / "no" / "log"))
    log.error(Error("first"))
    first, second = capfd.readouterr().err.splitlines()
    assert first == "first"
    assert second.startswith("hint: log file ") and "No such file" in second
    log.error(Error("first", "look there"))
    first, second = capfd.readouterr().err.splitlines()
    assert first == "first"
    assert second.startswith("hint: look there; log file ") and "No such file" in second


def test_a_long_message_is_one_short_write(capfd: pytest.CaptureFixture[str]) -> None:
    log.setup()
    log.error(Error("x" * 100_000))
    err = capfd.readouterr().err
    assert len(err) < 8192 and err.endswith(" ...\n")


def test_unprintable_text_becomes_printable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.json"
    log.setup(str(path), "json")
    log.error(Error("name \udcff \x00 \u2028 é"))
    assert json.loads(path.read_text())["msg"] == r"name \udcff \x00 \u2028 é"
    assert capfd.readouterr().err == "name \\udcff \\x00 \\u2028 é\n"


def test_extra_keys_do_not_replace_the_three(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    log.setup(str(path), "json")
    log.error(Error("text", level="debug", msg="x", time="y", op="", path="/p", pointer=None, ok=True))
    found = json.loads(path.read_text())
    assert (found["level"], found["msg"], found["path"], found["ok"]) == ("error", "text", "/p", True)
    assert "op" not in found and "pointer" not in found


def test_a_config_error_has_its_pointer(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    log.setup(str(path), "json")
    log.error(ConfigError("/process/args", "required"))
    assert json.loads(path.read_text())["pointer"] == "/process/args"
