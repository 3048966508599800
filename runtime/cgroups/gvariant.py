"""Values of D-Bus as text and back: the form that `busctl` and systemd.directives know as GVariant text. Pure.

    parse("uint64 5")  -> ("t", 5)              show("t", 5)                -> "uint64 5"
    parse("['a', 'b']") -> ("as", ["a", "b"])   show("a(ss)", [("x", "r")]) -> "[('x', 'r')]"

A plan prints the properties of a unit this way, annotations give them this way, and what is sent to systemd is read from it.
A number without a type is an int32, as in GVariant; an empty array needs its type (`@as []`).
"""

from __future__ import annotations

from math import isfinite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: keyword -> signature of a number
_KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t",
    "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_WORDS = {signature: word for word, signature in _KEYWORDS.items() if signature not in "bisd"}

#: signature of an integer -> its least and greatest value
_RANGES = {
    "y": (0, 0xFF), "n": (-1 << 15, (1 << 15) - 1), "q": (0, 0xFFFF), "i": (-1 << 31, (1 << 31) - 1), "u": (0, (1 << 32) - 1),
    "x": (-1 << 63, (1 << 63) - 1), "t": (0, (1 << 64) - 1),
}  # fmt: skip

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
#: deeper than any property of systemd, and than what D-Bus allows
_MAX_DEPTH = 8


def parse(text: str) -> tuple[str, Any]:
    """The signature and the value of a text; ValueError says what is wrong with it."""
    reader = _Reader(text)
    found = reader.value(_MAX_DEPTH)
    reader.space()
    if reader.at < len(text):
        raise ValueError(f'"{text[reader.at :][:20]}" after the value')
    return found


def show(signature: str, value: Any) -> str:
    """The text of a value; `parse` reads it."""
    kind = signature[0]
    if kind == "b":
        return "true" if value else "false"
    if kind in "sog":
        text = "'" + _quoted(value) + "'"
        return text if kind == "s" else f"{_WORDS[kind]} {text}"
    if kind in _RANGES or kind == "d":
        return f"{_WORDS[kind]} {value}" if kind in _WORDS else str(value)
    if kind == "(":
        inner = split(signature[1:-1])
        return "(" + ", ".join(show(one, item) for one, item in zip(inner, value, strict=True)) + ")"
    if kind != "a":
        raise ValueError(f"no text for the type {signature}")
    if not value:
        return f"@{signature} []"
    first = show(signature[1:], value[0])
    rest = (show(signature[1:], item) for item in value[1:])
    if signature[1] in _WORDS:
        # the type of the first is the type of all
        rest = (text.partition(" ")[2] for text in rest)
    return "[" + ", ".join([first, *rest]) + "]"


def _quoted(text: str) -> str:
    if "\\" not in text and "'" not in text and text.isprintable():
        return text
    out = []
    for letter in text:
        if letter in "\\'":
            out.append("\\" + letter)
        elif letter.isprintable():
            out.append(letter)
        else:
            out.append(f"\\u{ord(letter):04x}" if ord(letter) <= 0xFFFF else f"\\U{ord(letter):08x}")
    return "".join(out)


def split(signature: str) -> list[str]:
    """The complete types that a signature consists of: "sa(ss)t" is "s", "a(ss)" and "t"."""
    out = []
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        out.append(signature[at:end])
        at = end
    return out


def _end(signature: str, at: int) -> int:
    while at < len(signature) and signature[at] == "a":
        at += 1
    if at >= len(signature):
        raise ValueError(f'"{signature}" is no type')
    if signature[at] == "(":
        at += 1
        if signature[at : at + 1] == ")":
            raise ValueError(f'"{signature}" is no type')
        while at < len(signature) and signature[at] != ")":
            at = _end(signature, at)
        if at >= len(signature):
            raise ValueError(f'"{signature}" is no type')
    elif signature[at] not in "bynqiuxtdsog":
        raise ValueError(f'"{signature}" is no type that is known here')
    return at + 1


class _Reader:
    """One text, read from left to right."""

    __slots__ = ("text", "at")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def space(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def takes(self, letter: str) -> bool:
        """Whether this letter comes next, which then is read."""
        self.space()
        if self.text[self.at : self.at + 1] != letter:
            return False
        self.at += 1
        return True

    def needs(self, letter: str) -> None:
        if not self.takes(letter):
            raise ValueError(f'"{letter}" expected at "{self.text[self.at :][:20]}"')

    def word(self) -> str:
        self.space()
        start = self.at
        while self.text[self.at : self.at + 1] not in (*" \t\n,:[](){}<>'\"", ""):
            self.at += 1
        return self.text[start : self.at]

    def value(self, depth: int, signature: str = "") -> tuple[str, Any]:
        """A value, of the type `signature` where that is known already."""
        if depth == 0:
            raise ValueError("nested too deeply")
        if self.takes("@"):
            given = self._signature()
            if signature not in ("", given):
                raise ValueError(f'"{given}" where the type is "{signature}"')
            return self.value(depth - 1, given)
        if self.takes("["):
            return self._array(depth, signature)
        if self.takes("("):
            return self._tuple(depth, signature)
        if self.text[self.at : self.at + 1] in ("'", '"'):
            if signature not in ("", "s", "o", "g"):
                raise ValueError(f'a string where the type is "{signature}"')
            return signature or "s", self._string()
        word = self.word()
        if word in ("true", "false"):
            if signature not in ("", "b"):
                raise ValueError(f'"{word}" where the type is "{signature}"')
            return "b", word == "true"
        if word in _KEYWORDS:
            if signature not in ("", _KEYWORDS[word]):
                raise ValueError(f'"{word}" where the type is "{signature}"')
            return self.value(depth - 1, _KEYWORDS[word])
        return _number(word, signature)

    def _signature(self) -> str:
        start = self.at
        while self.text[self.at : self.at + 1] not in (" ", "[", "'", '"', "") or self.at == start:
            self.at += 1
            if self.at > len(self.text):
                break
        found = self.text[start : self.at]
        if len(split(found)) != 1:
            raise ValueError(f'"{found}" is no type')
        return found

    def _array(self, depth: int, signature: str) -> tuple[str, Any]:
        if signature and signature[0] != "a":
            raise ValueError(f'an array where the type is "{signature}"')
        inner = signature[1:]
        out: list[Any] = []
        if not self.takes("]"):
            while True:
                # the first one decides for all
                inner, item = self.value(depth - 1, inner)
                out.append(item)
                if self.takes("]"):
                    break
                self.needs(",")
        if not inner:
            raise ValueError("an empty array needs its type, such as @as []")
        return "a" + inner, out

    def _tuple(self, depth: int, signature: str) -> tuple[str, Any]:
        if signature and signature[0] != "(":
            raise ValueError(f'a tuple where the type is "{signature}"')
        wanted = split(signature[1:-1]) if signature else []
        kinds: list[str] = []
        out: list[Any] = []
        while True:
            if signature and len(out) == len(wanted):
                raise ValueError(f'too many values where the type is "{signature}"')
            kind, item = self.value(depth - 1, wanted[len(out)] if signature else "")
            kinds.append(kind)
            out.append(item)
            if self.takes(")"):
                break
            self.needs(",")
        if signature and len(out) != len(wanted):
            raise ValueError(f'too few values where the type is "{signature}"')
        return f"({''.join(kinds)})", tuple(out)

    def _string(self) -> str:
        quote = self.text[self.at]
        self.at += 1
        end = self.text.find(quote, self.at)
        plain = self.text[self.at : end]
        if end >= 0 and "\\" not in plain:  # as nearly always
            self.at = end + 1
            return _sendable(plain)
        out: list[str] = []
        while True:
            letter = self.text[self.at : self.at + 1]
            if not letter:
                raise ValueError("a string without an end")
            self.at += 1
            if letter == quote:
                return _sendable("".join(out))
            out.append(self._escaped() if letter == "\\" else letter)

    def _escaped(self) -> str:
        letter = self.text[self.at : self.at + 1]
        self.at += 1
        digits = {"u": 4, "U": 8}.get(letter)
        if digits is None:
            return _ESCAPES.get(letter, letter)
        code = self.text[self.at : self.at + digits]
        self.at += digits
        try:
            return chr(int(code, 16))
        except (ValueError, OverflowError):
            raise ValueError(f'"\\{letter}{code}" is no character') from None


def _sendable(text: str) -> str:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("a string of D-Bus holds neither NUL nor half of a character")
    return text


def _number(word: str, signature: str) -> tuple[str, Any]:
    kind = signature or ("i" if not any(letter in word for letter in ".eE") or word[:2] == "0x" else "d")
    try:
        value: Any = float(word) if kind == "d" else int(word, 0) if kind in _RANGES else None
    except ValueError:
        value = None
    if value is None or word.strip() != word or "_" in word:
        expected = f' where the type is "{signature}"' if signature else ""
        raise ValueError(f'"{word}" is no value{expected}' if word else f"a value is missing{expected}")
    if kind in _RANGES and not _RANGES[kind][0] <= value <= _RANGES[kind][1]:
        raise ValueError(f"{word} is out of range of {next(w for w, s in _KEYWORDS.items() if s == kind)}")
    if kind == "d" and not isfinite(value):
        raise ValueError(f"{word} is out of range of double")
    return kind, value
