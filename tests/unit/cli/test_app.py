"""Click: the same answers as the fast reader's, help, and mistakes explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.cli import app, argv
from runtime.cli.grammar import COMMANDS
from runtime.cli.options import CHOICE, DURATION, FLAG, GLOBAL, HELP, INT, LIST, ONE, PAYLOAD

if TYPE_CHECKING:
    from runtime.cli.options import Option

WORDS = st.sampled_from(
    [
        "web",
        "",
        "-",
        "--",
        "a=b",
        "-x",
        "--root",
        "/b",
        "9",
        "true",
        "--help",
        "-f",
        "json",
        "0",
        "-td",
        "--no-pivot=false",
        "é",
        "-1",
    ]
)


@st.composite
def option(draw: st.DrawFn, options: tuple[Option, ...]) -> list[str]:
    """One option as somebody might write it, now and then wrongly."""
    names, kind, _, metavar, _ = draw(st.sampled_from(options))
    name = draw(st.sampled_from(["-", "--"])) + draw(st.sampled_from(names))
    if draw(st.integers(0, 19)) == 0:
        name += draw(st.sampled_from(["x", "=", "-"]))
    if kind == FLAG:
        return [name + draw(st.sampled_from(["", "", "", "=true", "=false", "=1", "=F", "=no"]))]
    if kind == CHOICE:
        value = draw(st.sampled_from([*metavar.split("|"), "other"]))
    elif kind == INT:
        value = draw(st.sampled_from(["0", "3", "007", "-1", "1_0", "x", "1234567890"]))
    else:
        value = draw(WORDS)
    return [f"{name}={value}"] if draw(st.booleans()) else [name, value]


@st.composite
def command_line(draw: st.DrawFn) -> list[str]:
    def some(options: tuple[Option, ...], most: int) -> list[str]:
        usual = tuple(o for o in options if o[0][0] not in ("help", "version"))
        pool = options if draw(st.integers(0, 9)) == 0 else usual
        return [word for _ in range(draw(st.integers(0, most)) if pool else 0) for word in draw(option(pool))]

    words = some(GLOBAL, 3)
    command = draw(st.sampled_from([*COMMANDS, "nosuch"]))
    words.append(command)
    positionals, options = COMMANDS[command][1:3] if command in COMMANDS else ((), ())
    words += some(options or (HELP,), 3)
    words += draw(st.lists(WORDS, min_size=len(positionals[:1]), max_size=2))
    if positionals and positionals[-1][1] != PAYLOAD:
        words += some(options or (HELP,), 1)
    return words


def test_click_accepts_what_argv_accepts_with_the_same_values() -> None:
    seen: dict[str, int] = {}
    refused = 0

    @settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.one_of(command_line(), command_line(), st.lists(WORDS | st.sampled_from([*COMMANDS]), max_size=6)))
    def compare(words: list[str]) -> None:
        nonlocal refused
        fast = argv.read(words)
        if fast is not None:
            seen[fast.command] = seen.get(fast.command, 0) + 1
            assert app.read(words) == fast
            return
        refused += 1
        # and what argv leaves to it ends in an answer or in an explanation, never in an exception of another kind
        try:
            answer = app.read(words)
        except app.BadWords as error:
            assert error.message and "\n" not in error.message
        else:
            assert isinstance(answer, (str, argv.Args))

    compare()
    # not empty: there were lines that argv accepts, and lines that it does not
    assert len(seen) > len(COMMANDS) // 2 and refused > 50


EVERY_OPTION = [(command, option) for command, (_, _, options, _) in COMMANDS.items() for option in options]


@pytest.mark.parametrize(("command", "option"), EVERY_OPTION, ids=lambda v: v if isinstance(v, str) else v[0][0])
def test_each_option_in_each_spelling(command: str, option: Option) -> None:
    names, kind, _, metavar, _ = option
    value = {CHOICE: metavar.split("|")[-1], INT: "7", DURATION: "1m"}.get(kind, "value")
    needs = [need for _, need, _ in COMMANDS[command][1]]
    rest = ["web"] * max(needs.count(ONE), min(1, len(needs)))
    read: list[Any] = []
    for name in names:
        for dash in ("-", "--"):
            spellings = (
                [[dash + name], [dash + name + "=true"]]
                if kind == FLAG
                else [[dash + name, value], [f"{dash}{name}={value}"]]
            )
            for spelled in spellings:
                words = [command, *spelled, *rest]
                fast = argv.read(words)
                assert fast is not None and fast == app.read(words), words
                read.append(getattr(fast, argv.attribute(option)))
    wanted: Any = {FLAG: True, INT: 7, DURATION: 60.0, LIST: [value]}.get(kind, value)
    assert read == [wanted] * len(read)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no command given"),
        ("nosuch", 'unknown command "nosuch"'),
        ("stat web", 'unknown command "stat", did you mean "state"?'),
        ("nosuch --help", 'unknown command "nosuch"'),
        ("--nosuch state web", "no such option: --nosuch"),
        ("create --bundel /x web", "create: no such option: --bundel, did you mean --bundle?"),
        ("create -bundel /x web", "create: no such option: --bundel, did you mean --bundle?"),
        ("state --root /r web", "state: no such option: --root, give it before state"),
        ("state", 'state: missing argument "ID"'),
        ("state a b", "state: got unexpected extra argument (b)"),
        ("create --preserve-fds x web", 'create: invalid value for "--preserve-fds": "x" is not a decimal number'),
        ("create --pid-file", 'create: option "--pid-file" requires an argument'),
        ("create --no-pivot=maybe web", 'create: option "--no-pivot" does not take a value'),
        ("--rootless maybe state web", 'invalid value for "--rootless": "maybe" is not one of "auto", "true", "false"'),
    ],
)
def test_a_mistake_is_explained(line: str, message: str) -> None:
    with pytest.raises(app.BadWords) as caught:
        app.read(line.split())
    assert caught.value.message == message
    assert caught.value.status == 1


def test_an_option_without_its_value_is_explained_in_gos_words_too() -> None:
    # podman asks `restore --lsm-mount-context` whether a container can be restored into a pod, and looks for these words
    with pytest.raises(app.BadWords) as caught:
        app.read(["restore", "--lsm-mount-context"])
    assert "flag needs an argument: --lsm-mount-context" in caught.value.hint


def test_a_mistake_knows_where_to_be_logged() -> None:
    with pytest.raises(app.BadWords) as caught:
        app.read(["--log", "/l", "--log-format", "json", "state"])
    assert (caught.value.options.log, caught.value.options.log_format) == ("/l", "json")


def test_bundled_short_flags() -> None:
    assert app.read(["exec", "-td", "web", "ls"]) == argv.read(["exec", "-t", "-d", "web", "ls"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option(command: str) -> None:
    text = app.read([command, "--help"])
    assert isinstance(text, str) and text.startswith(f"Usage: pyrunc {command}")
    for option in (*COMMANDS[command][2], HELP):
        assert f"--{option[0][0]}" in text
    assert text == app.read([command, "-h"])


def test_global_help_lists_every_command() -> None:
    text = app.read(["--help"])
    assert isinstance(text, str)
    assert [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()] == list(COMMANDS)
    for option in GLOBAL:
        assert f"--{option[0][0]}" in text
