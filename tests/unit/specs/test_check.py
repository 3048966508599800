"""The compiled checks say yes and no exactly where jsonschema does, and point to where it points."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import config_faults
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import rules
from specs import config_check, explain, generate
from specs.schemas import NAMES, Schemas

CHECKS = {
    "config": config_check.check_config,
    "process": config_check.check_process,
    "resources": config_check.check_resources,
}
DOCUMENTS = {"config": config_faults.full, "process": config_faults.process, "resources": config_faults.resources}
VALIDATORS = {kind: explain.Validator(kind) for kind in CHECKS}
ROOT = Path(__file__).resolve().parents[3]


def agree(kind: str, document: Any) -> str | None:
    """Both answers, which must be one."""
    fault = CHECKS[kind](document)
    pointers = [pointer for pointer, _ in VALIDATORS[kind].errors(document)]
    assert (fault is None) == (not pointers), (fault, pointers)
    assert fault is None or fault in pointers, (fault, pointers)
    return fault


def test_generated_files_are_up_to_date() -> None:
    for name, wanted in generate.render().items():
        assert (ROOT / "specs" / name).read_text() == wanted, f"{name}: run specs/generate.py"


def test_generator_refuses_a_keyword_that_it_would_leave_out() -> None:
    compiler = generate.Compiler()
    compiler.schemas.files["process.schema.json"]["properties"]["cwd"] = {"type": "string", "format": "uri"}
    with pytest.raises(ValueError, match="format"):
        compiler.function(compiler.schemas.root("process.schema.json"))


def test_generator_refuses_an_optional_property_without_null() -> None:
    compiler = generate.Compiler()
    compiler.schemas.files["process.schema.json"]["properties"]["terminal"] = {"type": "boolean"}
    with pytest.raises(ValueError, match="terminal is optional and does not admit null"):
        compiler.function(compiler.schemas.root("process.schema.json"))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_full_document_has_every_property_and_is_valid(kind: str) -> None:
    schemas = Schemas()
    root = schemas.root(f"{kind}.schema.json")
    document = DOCUMENTS[kind]()
    # what may be left empty: the members of lists that stand for nothing
    missing = set(config_faults.places(schemas, root)) - set(config_faults.present(schemas, root, document))
    assert missing <= {"/linux/seccomp/flags/*", "/linux/personality/flags/*"}
    assert agree(kind, document) is None


def test_full_config_breaks_no_rule() -> None:
    assert [(f.where, f.why) for f in rules.findings(config_faults.full())] == []


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas(name: str) -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(Schemas().files[f"{name}.schema.json"])


@pytest.mark.parametrize("name", ["config", "process", "resources", "state", "features"])
def test_every_property_is_described_and_has_a_clause(name: str) -> None:
    schemas = Schemas()

    def walk(node: Any, pointer: str, clause: str) -> None:
        clause = node.schema.get("x-clause", clause)
        for key in node.schema.get("properties", ()):
            below = schemas.property(node, key)
            assert below.schema.get("description"), f"{pointer}/{key} is not described"
            assert below.schema.get("x-clause", clause), f"{pointer}/{key} has no clause"
            walk(below, f"{pointer}/{key}", clause)
        if "items" in node.schema:
            walk(schemas.items(node), pointer + "/*", clause)
        if (members := schemas.members(node)) is not None:
            walk(members, pointer + "/*", clause)

    walk(schemas.root(f"{name}.schema.json"), "", "")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_fault_is_found_where_it_is(kind: str) -> None:
    document = DOCUMENTS[kind]()
    faults = config_faults.faults(kind, document)
    assert len(faults) > 100
    # what is within these is the same schema as that of a document of its own, which is smaller
    own = ("/process/", "/linux/resources/") if kind == "config" else ()
    for fault in faults:
        if not fault.pointer.startswith(own):
            assert agree(kind, fault.apply(part(kind, fault.pointer, document))) == fault.pointer, fault


def part(kind: str, pointer: str, document: dict[str, Any]) -> dict[str, Any]:
    """Of a whole configuration the property that a pointer leads into: jsonschema takes its time for what is beside it."""
    first, *more = explain.words(pointer) or [""]
    if kind != "config" or not more or first not in document:
        return document
    found = {first: document[first]}
    if first == "linux" and more[0] in document["linux"]:
        found = {first: {more[0]: document["linux"][more[0]]}}
    found = {"ociVersion": document["ociVersion"], "root": document["root"], **found}
    assert agree(kind, found) is None
    return found


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_null_is_absence_wherever_a_property_is_optional(kind: str) -> None:
    document = DOCUMENTS[kind]()
    validator = VALIDATORS[kind]
    count = 0
    for pointer in explain.Located(json.dumps(document)).values:
        if not pointer or len(validator.path(pointer)) != len(explain.words(pointer)) + 1:
            continue
        spoilt = config_faults.Fault("type", pointer, None).apply(part(kind, pointer, document))
        name = explain.words(pointer)[-1]
        parent = validator.path(pointer.rpartition("/")[0])[-1]
        is_optional = name in parent.schema.get("properties", ()) and name not in parent.schema.get("required", ())
        assert (agree(kind, spoilt) is None) == is_optional, pointer
        count += is_optional
    assert count > 10


@pytest.mark.parametrize(
    "value", ["1.0.0", "1.0.2-dev", "1.2.0+build.5", "1.10.0-rc.1+x-y", "1.3.0", "1.0.0--", "1.0.0-+"]
)
def test_versions_that_are_understood(value: str) -> None:
    assert agree("config", {"ociVersion": value, "root": {"path": "r"}}) is None


@given(st.text("0123.-+aé\n", max_size=10).map(lambda text: "1." + text))
def test_versions_agree(value: str) -> None:
    agree("config", {"ociVersion": value, "root": {"path": "r"}})


# -- any document -----------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**n + d for n in (8, 9, 10, 12, 16, 20, 31, 32, 53, 63, 64, 70) for d in (-2, -1, 0, 1)]),
    st.floats(allow_nan=False),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=4), st.sampled_from(["", "/", "a\0", "c", "1.0.0"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["", "type", "path", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def spoilt(draw: st.DrawFn, kind: str) -> Any:
    """The full document with up to three places replaced by anything, removed, or added to."""
    document = copy.deepcopy(DOCUMENTS[kind]())
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = document
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], (dict, list)) and draw(st.integers(0, 4)):
                holder = holder[key]
                continue
            what = draw(st.integers(0, 5))
            if what == 0:
                del holder[key]
            elif what == 1 and isinstance(holder, dict):
                holder[draw(st.text(max_size=3))] = draw(ANYTHING)
            else:
                holder[key] = draw(ANYTHING)
            break
    return document


@settings(max_examples=200, deadline=None)
@given(spoilt("config"))
def test_compiled_and_explained_agree_on_config(document: Any) -> None:
    agree("config", document)


@settings(max_examples=100, deadline=None)
@given(spoilt("process"))
def test_compiled_and_explained_agree_on_process(document: Any) -> None:
    agree("process", document)


@settings(max_examples=100, deadline=None)
@given(spoilt("resources"))
def test_compiled_and_explained_agree_on_resources(document: Any) -> None:
    agree("resources", document)


@settings(deadline=None)
@given(ANYTHING)
def test_compiled_and_explained_agree_on_anything(document: Any) -> None:
    for kind in CHECKS:
        agree(kind, document)
