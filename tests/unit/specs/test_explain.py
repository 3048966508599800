"""Each fault has its line and column, what was expected and found, a hint where there is a sure one, and its clause."""

from __future__ import annotations

import json
from typing import Any

import config_faults
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specs import explain

SMALL: dict[str, Any] = {"ociVersion": "1.0.0", "root": {"path": "r"}}


def find(text: str, kind: str = "config", strict: bool = False) -> list[explain.Finding]:
    return explain.schema_findings(explain.Located(text), kind, strict)


def only(document: Any, kind: str = "config", strict: bool = False) -> explain.Finding:
    (finding,) = find(json.dumps(document), kind, strict)
    return finding


# -- places -----------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(JSON, st.sampled_from([None, 0, 2]), st.booleans())
def test_reader_reads_what_json_reads(value: Any, indent: int | None, is_ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
    located = explain.Located(text)
    assert json.dumps(located.document) == json.dumps(value)
    for pointer, at in located.values.items():
        found: Any = value
        for word in explain.words(pointer):
            found = found[int(word) if isinstance(found, list) else word]
        read, _ = json.JSONDecoder().raw_decode(text, at)
        assert json.dumps(read) == json.dumps(found)


def test_places_are_lines_and_columns_from_one() -> None:
    located = explain.Located('{\n  "a": [1,\n    {"b/~": true}]\n}\n')
    assert located.place("") == (1, 1)
    assert located.place("/a") == (2, 8)
    assert located.place("/a/0") == (2, 9)
    assert located.place("/a/1/b~1~0") == (3, 13)
    assert located.place("/a/1/b~1~0", name=True) == (3, 6)


def test_what_is_missing_is_at_what_it_is_missing_in() -> None:
    located = explain.Located('{\n  "a": {"b": 1}}')
    assert located.place("/a/c/d") == (2, 8)


def test_of_two_members_with_one_name_the_last_counts() -> None:
    located = explain.Located('{"a": {"x": 1},\n "a": {"y": 2}}')
    assert located.document == {"a": {"y": 2}}
    assert located.place("/a") == (2, 7)
    assert located.place("/a/x") == (2, 7)  # it is gone


# -- words ------------------------------------------------------------------------------------------------------------

CASES = [
    ({**SMALL, "hostname": 5}, "/hostname", "wrong type", "a string", "5", "", "config.md#hostname"),
    ({**SMALL, "mounts": {}}, "/mounts", "wrong type", "an array", "an empty object", "", "config.md#mounts"),
    ({**SMALL, "linux": []}, "/linux", "wrong type", "an object", "an empty array", "", ""),
    (
        {**SMALL, "process": {"cwd": "/", "user": {"uid": -1, "gid": 0}}},
        "/process/user/uid", "out of range", "an integer from 0 to 4294967294", "-1", "", "config.md#posix-platform-user",
    ),
    (
        {**SMALL, "process": {"cwd": "/", "user": {"uid": "0", "gid": 0}}},
        "/process/user/uid", "wrong type", "an integer from 0 to 4294967294", '"0"', "numbers are written without quotes",
        "config.md#posix-platform-user",
    ),
    (
        {**SMALL, "process": {"cwd": "/", "oomScoreAdj": 1.0}},
        "/process/oomScoreAdj", "wrong type", "an integer from -1000 to 1000", "1.0, which is no integer", "",
        "config.md#linux-process",
    ),
    (
        {**SMALL, "linux": {"namespaces": [{"type": "net"}]}},
        "/linux/namespaces/0/type", "unknown value",
        'one of "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"', '"net"', "", "config-linux.md#namespaces",
    ),
    (
        {**SMALL, "linux": {"seccomp": {"defaultAction": "ALLOW"}}},
        "/linux/seccomp/defaultAction", "unknown value", None, '"ALLOW"', 'did you mean "SCMP_ACT_ALLOW"?',
        "config-linux.md#seccomp",
    ),
    (
        {"ociVersion": "1.0.0", "root": {"pth": "r"}},
        "/root/path", "required", "", "", '"pth" is not known: did you mean "path"?', "config.md#root",
    ),
    ({"root": {"path": "r"}}, "/ociVersion", "required", "", "", "", "config.md#specification-version"),
    (
        {**SMALL, "ociVersion": "2.0.0"},
        "/ociVersion", "malformed", "a version 1.x.y", '"2.0.0"', "", "config.md#specification-version",
    ),
    ({**SMALL, "root": {"path": ""}}, "/root/path", "empty", "a string that is not empty", '""', "", "config.md#root"),
    (
        {**SMALL, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}}},
        "/linux/seccomp/syscalls/0/names", "empty", "at least one entry", "an empty array", "", "config-linux.md#seccomp",
    ),
    (
        {**SMALL, "annotations": {"": "x"}},
        "/annotations/", "empty", "a string that is not empty", '""', "", "config.md#annotations",
    ),
    (
        {**SMALL, "hostname": ["x" * 100]}, "/hostname", "wrong type", "a string", "an array", "", "config.md#hostname",
    ),
    (
        {**SMALL, "linux": {"devices": [{"path": "/dev/x", "type": "x" * 100}]}},
        "/linux/devices/0/type", "unknown value", 'one of "b", "c", "u", "p"',
        'string "' + "x" * 49 + "... of 102 characters", "", "config-linux.md#devices",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
def test_words(case: tuple[Any, ...]) -> None:
    document, pointer, why, expected, found, hint, clause = case
    finding = only(document)
    assert (finding.pointer, finding.why, finding.found, finding.hint) == (pointer, why, found, hint)
    assert expected is None or finding.expected == expected
    assert not clause or finding.clause == clause
    assert finding.severity == "error"
    assert finding.line == 1 and finding.column > 0


def test_all_faults_are_found_in_the_order_of_the_text() -> None:
    text = '{"root": {},\n "process": {"cwd": 5,\n "rlimits": [{"type": "RLIMIT_X", "soft": 0}]},\n "ociVersion": 1}'
    found = [(finding.pointer, finding.line) for finding in find(text)]
    assert found == [
        ("/root/path", 1),
        ("/process/cwd", 2),
        ("/process/rlimits/0/hard", 3),
        ("/process/rlimits/0/type", 3),
        ("/ociVersion", 4),
    ]


@pytest.mark.parametrize(
    ("written", "known", "meant"),
    [
        ("nosuid", ["nosuid", "noexec"], "nosuid"),
        ("hostName", ["hostname", "domainname"], "hostname"),
        ("additionalGIDs", ["additionalGids", "uid"], "additionalGids"),
        ("NOFILE", ["RLIMIT_NOFILE", "RLIMIT_NPROC"], "RLIMIT_NOFILE"),
        ("net", ["pid", "network"], ""),
        ("zzz", ["pid", "network"], ""),
    ],
)
def test_nearest_name(written: str, known: list[str], meant: str) -> None:
    assert explain.nearest(written, known) == meant


# -- unknown properties -----------------------------------------------------------------------------------------------


def test_unknown_properties_are_read_over() -> None:
    assert find(json.dumps({**SMALL, "x": 1, "linux": {"y": {"hostname": 5}}})) == []


def test_unknown_properties_are_errors_when_strict() -> None:
    text = (
        '{"ociVersion": "1.0.0", "root": {"path": "r"},\n "process": {"cwd": "/", "noNewPriviliges": true, "zzz": 1}}'
    )
    found = find(text, strict=True)
    assert [(f.pointer, f.line, f.column, f.why, f.hint, f.severity) for f in found] == [
        ("/process/noNewPriviliges", 2, 26, "unknown property", 'did you mean "noNewPrivileges"?', "error"),
        ("/process/zzz", 2, 51, "unknown property", "", "error"),
    ]


def test_a_name_in_other_capitals_is_worth_a_warning() -> None:
    """Go takes `nonewprivileges` for noNewPrivileges, we do not: to say nothing would be to drop it in silence."""
    finding = only({**SMALL, "process": {"cwd": "/", "nonewprivileges": True}})
    assert (finding.pointer, finding.severity) == ("/process/nonewprivileges", "warning")
    assert finding.hint == 'did you mean "noNewPrivileges"?'


def test_members_of_maps_are_not_unknown() -> None:
    document = {
        **SMALL,
        "annotations": {"any": "x"},
        "linux": {"sysctl": {"any": "x"}, "resources": {"unified": {"a.b": ""}}},
    }
    assert find(json.dumps(document), strict=True) == []


def test_full_config_is_strictly_known() -> None:
    assert find(json.dumps(config_faults.full()), strict=True) == []


def test_faults_and_unknown_properties_together() -> None:
    found = find(json.dumps({"ociVersion": "1.0.0", "rot": {}, "linux": {"sysctl": []}}), strict=True)
    assert [f.pointer for f in found] == ["/root", "/rot", "/linux/sysctl"]
    assert found[0].hint == '"rot" is not known: did you mean "root"?'


@pytest.mark.parametrize("kind", ["state", "features"])
def test_our_own_documents_have_schemas_too(kind: str) -> None:
    good = {
        "state": {
            "ociVersion": "1.2.0",
            "id": "x",
            "status": "running",
            "pid": 5,
            "bundle": "/b",
            "annotations": {"a": "b"},
        },
        "features": {"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0", "linux": {"cgroup": {"v1": True}}},
    }[kind]
    assert find(json.dumps(good), kind, strict=True) == []
    assert find("{}", kind)
