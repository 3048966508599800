"""JSON in and out, by the interpreter's C scanner and encoder, and nothing else of the standard library while all is well.

Hot: `import json` costs 6 ms for `re` alone. What goes wrong is explained by the cold half of this module, which may
import both. This module must not know what a document means; it refuses what no document of ours can mean: numbers that
are none, strings that no system call can take (NUL, or half a surrogate pair), and sizes that only an attack has.
"""

from __future__ import annotations

from runtime.errors import ConfigError

try:
    from _json import make_encoder, make_scanner
except ImportError:  # an interpreter without the accelerator: the same answers, later
    make_encoder = None  # type: ignore[assignment, misc]
    make_scanner = None  # type: ignore[assignment, misc]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: a config.json is a few tens of kilobytes; one with every system call and a hundred mounts is still below one megabyte
LIMIT = 16 << 20
#: the specification's deepest place is at seven; the scanner itself would go on until the C stack ends
DEPTH = 64

_WHITESPACE = " \t\n\r"
_CONTAINERS = (dict, list)


class _NotANumber(Exception):
    """NaN or an infinity: words that JavaScript knows and JSON does not; or a number that becomes one."""


def _constant(word: str) -> NoReturn:
    raise _NotANumber(word)


def _finite(word: str) -> float:
    value = float(word)
    if value - value:
        raise _NotANumber(word)
    return value


class _Rules:
    """What the scanner asks its context for; the names are json.JSONDecoder's."""

    strict = True  # no control characters in strings
    object_hook = None
    object_pairs_hook = None  # of two members with one name the last is taken, as Go does
    parse_float = staticmethod(_finite)
    parse_int = int
    parse_constant = staticmethod(_constant)


_scan = make_scanner(_Rules) if make_scanner is not None else None  # type: ignore[arg-type]


def loads(data: bytes, source: str, limit: int = LIMIT, depth: int = DEPTH, *, lone_surrogates: bool = False) -> object:
    """The document in `data`; ConfigError with line and column where it is none.

    `lone_surrogates` admits those that stand for a byte: a document of our own making (state.json) names files by them whose
    names are not UTF-8 (PEP 383).
    """
    if len(data) > limit:
        raise ConfigError("", f"larger than {limit} bytes", source=source)
    try:
        text = data.decode()
        start = len(text) - len(text.lstrip(_WHITESPACE))
        value, end = _scan(text, start) if _scan is not None else _slow_scan(text, start)
        if end != len(text) and text[end:].strip(_WHITESPACE):
            raise ValueError
    except (ValueError, StopIteration, RecursionError, _NotANumber, SystemError):
        # SystemError: the scanner's own error class is json.decoder's, which it does not find while that is not imported
        _explain_text(data, source)
    if _is_deep(value, depth):
        raise ConfigError("", f"nested deeper than {depth} levels", source=source)
    # Both can only be written as escapes: as raw bytes the decoder or the scanner has refused them. Go's encoder escapes
    # `<` and `&`, so the mere presence of an escape says nothing.
    if b"\\u0000" in data or b"\\ud" in data or b"\\uD" in data:
        _check_strings(value, "", data.decode(), source, lone_surrogates)
    return value


def _is_deep(value: object, depth: int) -> bool:
    """Whether containers are nested deeper than `depth`, found level by level: recursion is what this prevents."""
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    while level:
        depth -= 1
        if depth < 0:
            return True
        below: list[Any] = []
        for container in level:
            for item in container.values() if type(container) is dict else container:
                if type(item) is dict or type(item) is list:
                    below.append(item)
        level = below
    return False


def dumps(value: object, indent: int | None = None) -> str:
    """The value as JSON in ASCII, exactly as `json.dumps(value, indent=indent)` writes it; NaN and infinities raise."""
    if indent is None and make_encoder is not None:
        if type(value) is str:
            return _quote(value)
        # markers: a cycle is found by the recursion limit, not by remembering every container
        encoder = make_encoder(None, _refuse, _quote, None, ": ", ", ", False, False, False)
        return "".join(encoder(value, 0))
    if indent is None:
        import json

        return json.dumps(value, allow_nan=False)
    parts: list[str] = []
    _indented(value, "\n", " " * indent, parts.append)
    return "".join(parts)


def _indented(value: Any, line: str, step: str, put: Any) -> None:
    """The laid out text of a value, piece by piece; `line` is a line break and the indentation of the value itself."""
    inner = line + step
    if isinstance(value, dict) and value:
        separator = "{" + inner
        for key, item in value.items():
            put(f"{separator}{_quote(key) if isinstance(key, str) else _quote(dumps(key))}: ")
            _indented(item, inner, step, put)
            separator = "," + inner
        put(line + "}")
    elif isinstance(value, (list, tuple)) and value:
        separator = "[" + inner
        for item in value:
            put(separator)
            _indented(item, inner, step, put)
            separator = "," + inner
        put(line + "]")
    else:
        put(dumps(value))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def pointer(*words: object) -> str:
    """A JSON pointer (RFC 6901) of the words from the root down."""
    return "".join("/" + str(word).replace("~", "~0").replace("/", "~1") for word in words)


# -- cold: what is wrong, and where ---------------------------------------------------------------------------------


def _slow_scan(text: str, start: int) -> tuple[object, int]:
    import json

    return json.JSONDecoder(parse_constant=_constant, parse_float=_finite).raw_decode(text, start)


def _quote_slowly(text: str) -> str:
    import json

    return json.dumps(text)


try:
    from _json import encode_basestring_ascii as _quote
except ImportError:
    _quote = _quote_slowly


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column of an index, both counted from one, the column in characters."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _explain_text(data: bytes, source: str) -> NoReturn:
    """Raise the ConfigError that says why this is no document; called only where the scanner has refused it."""
    import json

    def fault(why: str, at: int, hint: str = "") -> ConfigError:
        line, column = place(text, at)
        return ConfigError("", why, source=source, line=line, column=column, hint=hint)

    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        text = data[: error.start].decode()
        raise fault(f"not UTF-8: byte {data[error.start]:#04x}", len(text)) from None
    if text.startswith("\ufeff"):
        raise fault("starts with a byte order mark, which JSON does not allow", 0)
    if not text.strip(_WHITESPACE):
        raise fault("empty, where a JSON document was expected", len(text))
    try:
        json.loads(text, parse_constant=_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        found = text[error.pos : error.pos + 1]
        why = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        if not text[error.pos :].strip(_WHITESPACE):
            why += ", found the end: the document is cut off"
        elif found.isprintable() and not found.isspace():
            why += f", found {json.dumps(found, ensure_ascii=False)}"
        raise fault(f"not JSON: {why}", error.pos) from None
    except _NotANumber as error:
        # the scanner reads no further than the word: what follows it may be its neighbour, as in NaN5
        at = next((m.start() for m in _tokens(text) if m[0][0] != '"' and m[0].startswith(str(error))), 0)
        is_word = str(error)[-1].isalpha()
        raise fault(f"not JSON: {error} is not a number" if is_word else "a number that is too large", at) from None
    except RecursionError:
        raise fault("nested far too deeply", 0) from None
    except ValueError:  # int() refuses what takes it too long (CVE-2020-10735)
        at = next(
            (
                m.start()
                for m in _tokens(text)
                if m[0][0] != '"' and m[0].lstrip("-")[:640].isdigit() and len(m[0]) > 640
            ),
            0,
        )
        raise fault("a number with too many digits", at) from None
    raise fault("not JSON", 0)


def _tokens(text: str) -> Any:
    """The strings and bare words of a text, as matches; punctuation lies between them."""
    import re

    return re.finditer(r'"(?:[^"\\]|\\.)*"|[-+.\w]+', text)


def _is_unusable(text: str, lone_surrogates: bool) -> str:
    """Why no system call could take this string, or nothing."""
    if "\0" in text:
        return "contains a NUL character (\\u0000), where every string of the kernel ends"
    try:
        text.encode("utf-8", "surrogateescape" if lone_surrogates else "strict")
    except UnicodeEncodeError as error:
        return f"contains half of a surrogate pair (\\u{ord(text[error.start]):04x}), which is no character"
    return ""


def _check_strings(value: Any, where: str, text: str, source: str, lone_surrogates: bool) -> None:
    """Raise ConfigError at the first string or name in `value` that is unusable."""
    items: Any = ()
    if type(value) is dict:
        items = value.items()
    elif type(value) is list:
        items = enumerate(value)
    elif type(value) is str:
        _check_string(value, where, text, source, lone_surrogates)
    for key, item in items:
        if type(key) is str:
            _check_string(key, where, text, source, lone_surrogates)
        _check_strings(item, where + pointer(key), text, source, lone_surrogates)


def _check_string(value: str, where: str, text: str, source: str, lone_surrogates: bool) -> None:
    why = _is_unusable(value, lone_surrogates)
    if not why:
        return
    import json

    line = column = 0
    for match in _tokens(text):
        if match[0][0] == '"' and json.loads(match[0]) == value:
            line, column = place(text, match.start())
            break
    raise ConfigError(where, why, source=source, line=line, column=column)
