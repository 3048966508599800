"""Help, and what is said to words that are no command line."""

from __future__ import annotations

import pytest

from runtime.cli.grammar import COMMANDS


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["-help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join
)
def test_help_goes_to_stdout(pyrunc, words: list[str]) -> None:
    result = pyrunc(*words)
    assert result.out.startswith("Usage: pyrunc")
    assert result.err == ""


@pytest.mark.parametrize("words", [["help"], ["h"], ["help", "create"]], ids=" ".join)
def test_help_is_a_command_too(pyrunc, words: list[str]) -> None:
    assert pyrunc(*words).out == pyrunc(*words[1:], "--help").out


def test_there_is_no_help_for_what_is_not_there(pyrunc) -> None:
    assert 'unknown command "nosuch"' in pyrunc.fails("nosuch", "--help")


@pytest.mark.parametrize(
    "words", [[], ["stat", "web"], ["state"], ["state", "a", "b"], ["--nosuch"], ["run", "-b"]], ids=" ".join
)
def test_wrong_words(pyrunc, words: list[str]) -> None:
    result = pyrunc(*words, status=1)
    assert result.out == ""
    message, hint = result.err.splitlines()
    assert message and hint.startswith("hint: pyrunc ")


@pytest.mark.parametrize("words", [["--version"], ["-v"], ["-version"]])
def test_version(pyrunc, words: list[str]) -> None:
    result = pyrunc(*words)
    # dockerd splits the first line at "version" and looks for "commit:" and "spec:" at the start of others
    assert result.out.splitlines()[0].startswith("pyrunc version ")
    assert [line.partition(": ")[0] for line in result.out.splitlines()[1:3]] == ["commit", "spec"]
    assert result.err == ""


def test_options_in_gos_spelling(pyrunc) -> None:
    # go-runc gives long options with one dash
    assert "does not exist" in pyrunc.fails("-debug=false", "kill", "-all", pyrunc.id("nosuch"))


def test_the_callers_environment_and_directory_are_not_python_s(pyrunc, scratch) -> None:
    (scratch / "os.py").write_text("raise SystemExit('the bundle was imported')")
    pyrunc(
        "--version",
        cwd=scratch,
        env={"PYTHONPATH": str(scratch), "PYTHONHOME": "/nowhere", "PYTHONSTARTUP": "/nowhere"},
    )


def test_no_environment_at_all(pyrunc) -> None:
    pyrunc("list", env={})
