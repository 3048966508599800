"""Signals by number and by name."""

from __future__ import annotations

import signal

import pytest

from runtime.cli.kill import number
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("", 15), ("9", 9), ("KILL", 9), ("SIGKILL", 9), ("kill", 9), ("sigTerm", 15), ("0", 0), ("64", 64), ("015", 15), ("CLD", 17),
        ("RTMIN", 34), ("RTMIN+1", 35), ("sigrtmin+30", 64), ("RTMAX", 64), ("RTMAX-30", 34), ("SIGRTMAX-0", 64),
    ],
)  # fmt: skip
def test_a_signal(word: str, wanted: int) -> None:
    assert number(word) == wanted


@pytest.mark.parametrize(
    "word",
    [
        "65",
        "99999999999999999999",
        "-9",
        "+9",
        "１",
        "FOO",
        "SIG",
        "SIGSIGKILL",
        "RTMIN+31",
        "RTMIN-1",
        "RTMIN+",
        "RTMAX-31",
        "9 ",
        "KILL\n",
    ],
)
def test_no_signal(word: str) -> None:
    with pytest.raises(UsageError, match="unknown signal"):
        number(word)


def test_every_signal_of_this_machine() -> None:
    for member in signal.Signals:
        assert number(member.name) == number(str(member.value)) == member.value
