"""Man pages and completions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runtime.cli import generate
from runtime.cli.grammar import COMMANDS
from runtime.cli.options import HELP


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated")
    generate.main(str(path))
    return path


def test_there_is_a_page_for_every_command(out: Path) -> None:
    assert {page.stem for page in (out / "man/man8").iterdir()} == {"pyrunc", *(f"pyrunc-{name}" for name in COMMANDS)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_names_every_option(out: Path, command: str) -> None:
    text = (out / f"man/man8/pyrunc-{command}.8").read_text().replace("\\-", "-")
    assert text.splitlines()[1].startswith(f".TH PYRUNC-{command.upper()} 8")
    for option in (*COMMANDS[command][2], HELP):
        assert f"--{option[0][0]}" in text


def complete(out: Path, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pyrunc; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", out / "completions/bash/pyrunc", "pyrunc", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes(out: Path) -> None:
    assert complete(out, "st") == ["start", "state"]
    assert complete(out, "--log", "x", "--log-f") == ["--log-format"]
    assert complete(out, "--log-format", "j") == ["json"]
    assert complete(out, "create", "--no-") == ["--no-pivot", "--no-new-keyring", "--no-subreaper"]
    assert complete(out, "--root", "/r", "list", "--format", "") == ["table", "json"]


def test_the_same_table_gives_the_same_bytes(out: Path, tmp_path: Path) -> None:
    generate.main(str(tmp_path))
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(out)).read_bytes()
