"""Command lines of the shim's faces, read the way GLib's option parser reads (conmon's), from a table of each face's own.

That is: options and other words in any order, `--opt=value` or `--opt value`, `-c value` or `-cvalue`, `-ti` for `-t -i`, the
last of several values counts, and what is no option is left to the face. What the table does not know is refused by name.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    #: long name, short name, kind, help; the attribute is the long name with underscores unless a fifth word names another
    Entry = tuple[Any, ...]

FLAG, TEXT, LIST, NUMBER = range(4)
#: what fits into 63 bits, whatever it is
_DIGITS = 18


class BadOptions(Exception):
    """What is wrong with the words, as one line."""


class Options:
    """One attribute for each option of a table, and `words` for what is left."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, table: Sequence[Entry]) -> None:
        self.words: list[str] = []
        for entry in table:
            kind = entry[2]
            setattr(
                self, _attribute(entry), [] if kind == LIST else False if kind == FLAG else "" if kind == TEXT else 0
            )


def _attribute(entry: Entry) -> str:
    return str(entry[4]) if len(entry) > 4 else str(entry[0]).replace("-", "_")


def read(words: Sequence[str], table: Sequence[Entry], **defaults: object) -> Options:
    """The options in `words`; BadOptions for one that is unknown or lacks its value."""
    options = Options(table)
    for name, value in defaults.items():
        setattr(options, name, value)
    left = iter(words)
    for word in left:
        if word == "--":
            options.words += left
        elif word.startswith("--"):
            _long(options, table, word[2:], left)
        elif word.startswith("-") and word != "-":
            _short(options, table, word[1:], left)
        else:
            options.words.append(word)
    return options


def _long(options: Options, table: Sequence[Entry], word: str, left: Iterator[str]) -> None:
    name, equals, value = word.partition("=")
    for entry in table:
        # a flag with a value is no option that we have, as with GLib
        if entry[0] == name and not (equals and entry[2] == FLAG):
            break
    else:
        raise BadOptions(f'unknown option "--{word}"')
    _take(options, entry, f"--{name}", value if equals else None, left)


def _short(options: Options, table: Sequence[Entry], letters: str, left: Iterator[str]) -> None:
    for at, letter in enumerate(letters):
        for entry in table:
            if entry[1] == letter:
                break
        else:
            raise BadOptions(f'unknown option "-{letter}"')
        if entry[2] != FLAG:
            _take(options, entry, f"-{letter}", letters[at + 1 :] or None, left)
            return
        _take(options, entry, f"-{letter}", None, left)


def _take(options: Options, entry: Entry, shown: str, value: str | None, left: Iterator[str]) -> None:
    name, kind = _attribute(entry), entry[2]
    if kind == FLAG:
        setattr(options, name, True)
        return
    if value is None:
        value = next(left, None)
        if value is None:
            raise BadOptions(f'option "{shown}" needs a value')
    if kind == LIST:
        getattr(options, name).append(value)
    elif kind == TEXT:
        setattr(options, name, value)
    else:
        digits = value.removeprefix("-")
        # int() would take "1_0", " 1" and "１" too, and any length
        if not digits or digits.strip("0123456789") or len(digits) > _DIGITS:
            raise BadOptions(f'option "{shown}": "{value[:80]}" is no number')
        setattr(options, name, int(value))


def one_line(text: str) -> str:
    """The text without anything that would end a line or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def help_lines(table: Sequence[Entry]) -> str:
    """The options as --help lists them."""
    lines = []
    for entry in table:
        word = f"-{entry[1]}, --{entry[0]}" if entry[1] else f"    --{entry[0]}"
        value = {FLAG: "", NUMBER: " N"}.get(entry[2], " WORD")
        lines.append(f"  {word + value:<40} {entry[3]}\n")
    return "".join(lines)
