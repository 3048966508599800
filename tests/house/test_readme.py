"""What README.md shows is what happens: every `$ pyrunc ... --help` in it is run and compared, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess

import pytest
import tree

README = (tree.ROOT / "README.md").read_text()
SHOWN = re.findall(r"^\$ (pyrunc(?: [a-z]+)? --help)\n(.*?)^```$", README, re.M | re.S)


def test_help_is_shown() -> None:
    assert [command for command, _ in SHOWN if command == "pyrunc --help"]


@pytest.mark.parametrize(("command", "text"), SHOWN, ids=[command for command, _ in SHOWN])
def test_help_matches(command: str, text: str) -> None:
    words = [str(tree.ROOT / "build/bin/pyrunc"), *command.split()[1:]]
    done = subprocess.run(words, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == text.strip()


def test_every_command_is_mentioned() -> None:
    from runtime.cli.grammar import COMMANDS

    names = list(COMMANDS) if isinstance(COMMANDS, dict) else [command.name for command in COMMANDS]
    assert names
    assert not [name for name in names if f"`{name}" not in README and f"pyrunc {name}" not in README]


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (tree.ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (tree.ROOT / target).exists(), target
