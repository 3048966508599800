"""The fast reader of the command line: accepts what it understands fully, and answers None to anything else.

It reads as Go's flag package does, because the callers were written for that: `-flag` is `--flag`, a value follows as
the next word (whatever it begins with) or after `=`, a flag may say `=true` or `=false`, `--` ends the options.
Global options come before the command. `exec` and `ps` take no options after the id: what follows is for somebody
else. Hot: no import but the table. It must not explain: `app` does, and proves in tests that it agrees.
"""

from __future__ import annotations

from runtime.cli.grammar import COMMANDS
from runtime.cli.options import CHOICE, DURATION, FLAG, GLOBAL, HELP, INT, LIST, ONE, PAYLOAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli.options import Option


class Args:
    """What was asked for: `command`, the global options, the command's options and its positionals as attributes."""

    command = ""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Args) and self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return "Args(" + ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items()) + ")"


class _NotUnderstood(Exception):
    """A word that this reader leaves to click."""


#: the words that Go's strconv.ParseBool takes
BOOLEANS = {
    "1": True, "t": True, "T": True, "true": True, "TRUE": True, "True": True,
    "0": False, "f": False, "F": False, "false": False, "FALSE": False, "False": False,
}  # fmt: skip

_DIGITS = "0123456789"
#: more digits than any number on this command line has, and few enough for any integer type they end up in
_INT_DIGITS = 9


def attribute(option: Option) -> str:
    """The attribute of Args that an option sets: `pid_file` for `--pid-file`."""
    return option[0][0].replace("-", "_")


def read(words: list[str]) -> Args | None:
    """The arguments that `words` (argv without the program's name) mean, or None: let `app.read` say what is wrong."""
    values: dict[str, Any] = {}
    try:
        rest = _options(GLOBAL, words, 0, values, None)
        if values["help"]:
            return None
        if values["version"]:
            return Args(command="version", **values)
        if rest == len(words):
            return None
        command = words[rest]
        if command not in COMMANDS:
            return None
        _, positionals, options, _ = COMMANDS[command]
        found: list[str] = []
        payload = bool(positionals) and positionals[-1][1] == PAYLOAD
        rest = _options((*options, HELP), words, rest + 1, values, None if payload else found)
        if values["help"]:
            return None
        found += words[rest:]
        _take(positionals, found, values)
    except _NotUnderstood:
        return None
    return Args(command=command, **values)


def global_options(words: list[str]) -> dict[str, Any]:
    """The global options, as far as `words` can be read: where to log that they cannot."""
    values: dict[str, Any] = {}
    try:
        _options(GLOBAL, words, 0, values, None)
    except _NotUnderstood:
        pass
    return values


def _options(
    options: tuple[Option, ...], words: list[str], at: int, values: dict[str, Any], between: list[str] | None
) -> int:
    """Read options from words[at:] into `values`; return where they end. Words `between` them are kept, if allowed."""
    known = {}
    for option in options:
        values[attribute(option)] = [] if option[1] == LIST else option[2]
        for name in option[0]:
            known[name] = option
    while at < len(words):
        word = words[at]
        if word == "--":
            return at + 1
        if word[:1] != "-" or word == "-":
            if between is None:
                return at
            between.append(word)
            at += 1
            continue
        at += 1
        name, equals, value = word[2 if word[1] == "-" else 1 :].partition("=")
        chosen = known.get(name)
        if chosen is None:
            raise _NotUnderstood
        if chosen[1] == FLAG:
            values[attribute(chosen)] = _boolean(value) if equals else True
            continue
        if not equals:
            if at == len(words):
                raise _NotUnderstood
            value = words[at]
            at += 1
        if chosen[1] == LIST:
            values[attribute(chosen)].append(value)
        else:
            values[attribute(chosen)] = _value(chosen, value)
    return at


def _boolean(word: str) -> bool:
    if word not in BOOLEANS:
        raise _NotUnderstood
    return BOOLEANS[word]


def _value(option: Option, word: str) -> object:
    kind = option[1]
    if kind == INT:
        # strip() leaves nothing only if every character is an ASCII digit: "+1", " 1", "1_0" and "１" are mistakes
        if not word or word.strip(_DIGITS) or len(word) > _INT_DIGITS:
            raise _NotUnderstood
        return int(word)
    if kind == CHOICE and word not in option[3].split("|"):
        raise _NotUnderstood
    if kind == DURATION:
        seconds_s = seconds(word)
        if seconds_s is None:
            raise _NotUnderstood
        return seconds_s
    return word


_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(word: str) -> float | None:
    """A duration as Go spells it (`1m30s`, `250ms`), in seconds; None if it is not one."""
    total = 0.0
    rest = "" if word == "0" else word
    while rest:
        unit = rest.lstrip(_DIGITS + ".")
        number = rest[: len(rest) - len(unit)]
        rest = unit.lstrip("nuµmsh")
        unit = unit[: len(unit) - len(rest)]
        if unit not in _UNITS_S or number.count(".") > 1 or not number.strip("."):
            return None
        total += float(number) * _UNITS_S[unit]
    return total if word else None


def _take(positionals: tuple[tuple[str, str, str], ...], words: list[str], values: dict[str, Any]) -> None:
    """Give the words that are no options to the positionals, which must use them up."""
    at = 0
    for name, need, _ in positionals:
        if need == PAYLOAD:
            values[name] = words[at:]
            at = len(words)
        elif at < len(words):
            values[name] = words[at]
            at += 1
        elif need == ONE:
            raise _NotUnderstood
        else:
            values[name] = ""
    if at < len(words):
        raise _NotUnderstood
