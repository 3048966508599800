"""Says what is wrong with a document: every fault with its line, what was expected and found, and the nearest known name.

Cold: jsonschema costs more than a whole `create`, so this is loaded only once the compiled check has said no, and by
`validate`. It must agree with that check on every document; `tests/unit/specs` holds the two against each other. It knows
schemas only: the rules across properties are `runtime.rules`.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import jsonschema
import referencing
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing.jsonschema import DRAFT202012

from specs.schemas import Node, Schemas


class Finding(NamedTuple):
    """One fault: `pointer` is where (RFC 6901), `why` in two words, the rest where there is more to say."""

    pointer: str
    line: int
    column: int
    why: str
    expected: str
    found: str
    hint: str
    clause: str
    severity: str  #: "error", or "warning" where the document is accepted all the same


# -- where things are -------------------------------------------------------------------------------------------------


class Located:
    """A document and where its values and names begin in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[str, int] = {}
        self.names: dict[str, int] = {}
        self._ends: list[int] = []
        self.document, _ = self._value(self._skip(0), "")

    def place(self, pointer: str, name: bool = False) -> tuple[int, int]:
        """Line and column of a value (or of its name), or of what encloses it where it is missing."""
        if name and pointer in self.names:
            at = self.names[pointer]
        else:
            while pointer and pointer not in self.values:
                pointer = pointer.rpartition("/")[0]
            at = self.values[pointer]
        if not self._ends:
            # once: a document may have as many faults as lines
            self._ends = [-1, *(found.start() for found in re.finditer("\n", self.text))]
        line = bisect_left(self._ends, at)
        return line, at - self._ends[line - 1]

    # The text has been accepted by a real parser already: this one only has to find its way.

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self.text, at)
        return found.end() if found else at

    def _value(self, at: int, pointer: str) -> tuple[Any, int]:
        self.values[pointer] = at
        first = self.text[at]
        if first == "{":
            return self._object(at, pointer)
        if first == "[":
            return self._array(at, pointer)
        value, end = _DECODER.raw_decode(self.text, at)
        return value, end

    def _object(self, at: int, pointer: str) -> tuple[dict[str, Any], int]:
        out: dict[str, Any] = {}
        at = self._skip(at + 1)
        while self.text[at] != "}":
            start = at
            name, at = _DECODER.raw_decode(self.text, at)
            below = pointer + step(name)
            if out.get(name):
                self._forget(below)
            self.names[below] = start
            at = self._skip(self._skip(at) + 1)  # over the colon
            out[name], at = self._value(at, below)
            at = self._skip(at)
            if self.text[at] == ",":
                at = self._skip(at + 1)
        return out, at + 1

    def _array(self, at: int, pointer: str) -> tuple[list[Any], int]:
        out: list[Any] = []
        at = self._skip(at + 1)
        while self.text[at] != "]":
            value, at = self._value(at, f"{pointer}/{len(out)}")
            out.append(value)
            at = self._skip(at)
            if self.text[at] == ",":
                at = self._skip(at + 1)
        return out, at + 1

    def _forget(self, pointer: str) -> None:
        """Of two members with one name the last counts: the places below the first are no longer there."""
        for place in [p for p in self.values if p.startswith(pointer + "/")]:
            del self.values[place]


#: so many faults are enough for anybody, and each takes a while
MOST = 1000
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def step(name: object) -> str:
    """One word of a JSON pointer."""
    return "/" + str(name).replace("~", "~0").replace("/", "~1")


def words(pointer: str) -> list[str]:
    """The words of a JSON pointer."""
    return [word.replace("~1", "/").replace("~0", "~") for word in pointer.split("/")[1:]]


# -- what jsonschema finds --------------------------------------------------------------------------------------------


def _required(validator: Any, names: list[str], instance: Any, schema: Any) -> Iterator[ValidationError]:
    """As jsonschema's, but the error stands at the missing property."""
    if validator.is_type(instance, "object"):
        for name in names:
            if name not in instance:
                yield ValidationError("required", path=[name], instance=instance)


def _property_names(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """As jsonschema's, but the error stands at the property with that name."""
    if validator.is_type(instance, "object"):
        for name in instance:
            yield from validator.descend(name, names, path=name)


def _is_integer(checker: Any, value: Any) -> bool:
    # JSON Schema takes 1.0 for an integer. Go does not, nor do we: half of what reads this document would not know what
    # to do with it.
    return type(value) is int


class Validator:
    """One of our schemas as jsonschema sees it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.schemas = Schemas()
        # without $schema: at a document that names its dialect jsonschema would go on with its own class, not with ours
        files = {name: {**schema} for name, schema in self.schemas.files.items()}
        for schema in files.values():
            del schema["$schema"]
        registry: referencing.Registry[Any] = referencing.Registry().with_resources(
            (name, DRAFT202012.create_resource(schema)) for name, schema in files.items()
        )
        base = jsonschema.Draft202012Validator
        checker = base.TYPE_CHECKER.redefine("integer", _is_integer)
        cls: Any = extend(base, {"required": _required, "propertyNames": _property_names}, type_checker=checker)  # type: ignore[no-untyped-call]
        self.validator = cls(files[f"{kind}.schema.json"], registry=registry)

    def is_valid(self, document: Any) -> bool:
        return bool(self.validator.is_valid(document))

    def errors(self, document: Any) -> Iterator[tuple[str, Any]]:
        """Each fault with its pointer, one per place."""
        seen = set()
        for error in self._flat(self.validator.iter_errors(document)):
            pointer = "".join(step(word) for word in error.absolute_path)
            if pointer not in seen:
                seen.add(pointer)
                yield pointer, error

    def _flat(self, errors: Any) -> Iterator[Any]:
        for error in errors:
            if error.validator == "anyOf":
                # `the document, or null`: what is wrong with the document
                yield from self._flat(e for e in error.context if e.relative_schema_path[0] == 0)
            else:
                yield error

    def path(self, pointer: str) -> list[Node]:
        """The schemas on the way to a pointer, from the root's on; it ends where nothing is known any more."""
        out = [self.schemas.root(f"{self.kind}.schema.json")]
        for word in words(pointer):
            below = self.below(out[-1], word)
            if below is None:
                break
            out.append(below)
        return out

    def below(self, node: Node, word: str) -> Node | None:
        """The schema of a member."""
        if node.schema.get("type") == "array":
            return self.schemas.items(node) if "items" in node.schema else None
        if word in node.schema.get("properties", {}):
            return self.schemas.property(node, word)
        return self.schemas.members(node)

    def clause(self, pointer: str) -> str:
        """The clause of the specification that a pointer's property is from."""
        return next((n.schema["x-clause"] for n in reversed(self.path(pointer)) if "x-clause" in n.schema), "")


@functools.cache
def validator_of(kind: str) -> Validator:
    """The validator of a kind of document; making one takes longer than using it."""
    return Validator(kind)


# -- in words ---------------------------------------------------------------------------------------------------------

KINDS = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}


def expected(schema: dict[str, Any], keyword: str) -> str:
    """What a schema admits, for somebody who gave something else."""
    if keyword == "minItems":
        return "at least one entry"
    if "enum" in schema:
        known = ", ".join(json.dumps(word) for word in schema["enum"] if word)
        return f"one of {known}"
    kinds = schema.get("type")
    kind = kinds if isinstance(kinds, str) else next((k for k in kinds or () if k != "null"), "")
    if kind == "integer":
        return f"an integer from {schema['minimum']} to {schema['maximum']}"
    if keyword == "pattern":
        return "a version 1.x.y" if "\\." in schema["pattern"] else "a string without NUL characters"
    if keyword == "minLength":
        return "a string that is not empty"
    return KINDS.get(kind, "something else")


def found(value: Any) -> str:
    """A value, in few words."""
    if isinstance(value, (dict, list)):
        return KINDS["object" if isinstance(value, dict) else "array"] if value else f"an empty {_kind(value)}"
    text = json.dumps(value, ensure_ascii=True)
    if len(text) > 60:
        return f"{_kind(value)} {text[:50]}... of {len(text)} characters"
    return f"{text}, which is no integer" if isinstance(value, float) else text


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "object"
    return "array" if isinstance(value, list) else "string" if isinstance(value, str) else "number"


UNKNOWN = "unknown property"
WHY = {
    "type": "wrong type",
    "enum": "unknown value",
    "minimum": "out of range",
    "maximum": "out of range",
    "minLength": "empty",
    "minItems": "empty",
    "pattern": "malformed",
    "required": "required",
}


def hint(error: Any, siblings: dict[str, Any]) -> str:
    """The sure way out, where there is one."""
    value = error.instance
    if error.validator == "required":
        name = error.absolute_path[-1]
        wrong = nearest(str(name), [key for key in value if key not in siblings])
        return f'"{wrong}" is not known: did you mean "{name}"?' if wrong else ""
    if error.validator == "enum" and isinstance(value, str):
        near = nearest(value, [word for word in error.validator_value if word])
        return f'did you mean "{near}"?' if near else ""
    if error.validator == "type" and "integer" in error.validator_value and isinstance(value, str):
        return "numbers are written without quotes" if value.lstrip("-").isdecimal() else ""
    return ""


def nearest(word: str, known: list[str]) -> str:
    """The known word that somebody who wrote `word` probably meant, or nothing."""
    by_letters = {name.lower().replace("_", ""): name for name in known}
    near = difflib.get_close_matches(word.lower().replace("_", ""), by_letters, 1, 0.75)
    if near:
        return by_letters[near[0]]
    # a prefix that was left out: OTHER for SCHED_OTHER
    ends = [name for name in known if len(word) > 2 and name.upper().endswith("_" + word.upper())]
    return ends[0] if len(ends) == 1 else ""


# -- all of it --------------------------------------------------------------------------------------------------------


def schema_findings(located: Located, kind: str, strict: bool = False) -> list[Finding]:
    """The faults of a document of `kind` (config, process, resources, state, features), in the order of the text; of a great many, some."""
    validator = validator_of(kind)
    out = []
    for pointer, error in islice(validator.errors(located.document), MOST):
        keyword = str(error.validator)
        line, column = located.place(pointer)
        parent = validator.path(pointer.rpartition("/")[0])[-1]
        is_missing = keyword == "required"
        out.append(
            Finding(
                pointer,
                line,
                column,
                WHY[keyword],
                "" if is_missing else expected(error.schema, keyword),
                "" if is_missing else found(error.instance),
                hint(error, parent.schema.get("properties", {})),
                validator.clause(pointer),
                "error",
            )
        )
    root = validator.schemas.root(f"{kind}.schema.json")
    out += _unknown(validator, located, root, located.document, "", strict)
    return sorted(out, key=lambda finding: (finding.line, finding.column))


def _unknown(
    validator: Validator, located: Located, node: Node, value: Any, pointer: str, strict: bool
) -> Iterator[Finding]:
    """Properties that the specification does not know.

    It demands that they are read over. One that differs from a known name in nothing but capitals is worth a warning all
    the same: runtimes written in Go take it for that one, and it may be a security setting.
    """
    members: Any = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    known = node.schema.get("properties", {})
    for name, item in members:
        place = pointer + step(name)
        below = validator.below(node, str(name))
        if below is not None:
            yield from _unknown(validator, located, below, item, place, strict)
        elif known and isinstance(value, dict):
            same = [other for other in known if other.lower() == name.lower()]
            if not strict and not same:
                continue
            near = same[0] if same else nearest(name, list(known))
            line, column = located.place(place, name=True)
            yield Finding(
                place,
                line,
                column,
                UNKNOWN,
                "",
                "",
                f'did you mean "{near}"?' if near else "",
                validator.clause(pointer),
                "error" if strict else "warning",
            )
