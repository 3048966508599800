"""tests/attacks: no attack of the list is missing, its tests are there, each can fail, and the README knows every advisory."""

from __future__ import annotations

import re

import loading
import tree

HERE = tree.ROOT / "tests/attacks"
teeth = loading.module("teeth", HERE / "teeth.py")

#: the list that the ids are of: what is published of runtimes and their shims, by classes of ten
IDS = {
    f"T{number:02}"
    for number in (*range(1, 15), *range(20, 28), *range(30, 39), 42, 50, 51, 52, 60, 61, 62, *range(70, 75))
}
IDS |= {"T04b", "T12b"}
#: and what is special because the runtime is a Python program
IDS |= {f"P{number}" for number in range(1, 19)}
ATTACKS = teeth.attacks()
TEETH = teeth.teeth()


def listed() -> set[str]:
    return {test for attack in ATTACKS.values() for test in attack.get("tests", ())}


def named() -> set[str]:
    """The tests of the list, and those that a broken build turns red: test_nodes.py looks whether they are there."""
    return listed() | {test for tooth in TEETH for test in tooth["red"]}


def test_no_attack_is_missing() -> None:
    assert set(ATTACKS) == IDS
    assert not [
        key for key, attack in ATTACKS.items() if not attack["what"] or not (attack.get("tests") or attack.get("why"))
    ]


def test_every_attack_has_teeth() -> None:
    """A test that was never seen to fail proves nothing."""
    bitten = {key for tooth in TEETH for key in teeth.ids_of(tooth)}
    assert sorted(key for key, attack in ATTACKS.items() if attack.get("tests") and key not in bitten) == []
    unknown = {test.partition("[")[0] for tooth in TEETH for test in tooth["red"]} - listed()
    assert not unknown


def test_every_broken_build_can_be_made() -> None:
    """What a tooth replaces is in the tree, once: `make teeth` would find nothing out otherwise."""
    for tooth in TEETH:
        texts: dict[str, str] = {}
        for edit in tooth["edit"]:
            text = texts.get(edit["file"]) or (tree.ROOT / edit["file"]).read_text()
            texts[edit["file"]] = teeth.broken(text, edit)
        assert texts, tooth["what"]


def test_the_readme_has_every_attack() -> None:
    text = (HERE / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    known = set(re.findall(r"\b(?:T\d\db?|P\d+)\b", "\n".join(rows)))
    assert known == IDS, known ^ IDS
    # an advisory that a test names is in the table
    named_there = set(re.findall(r"CVE-\d{4}-\d+", text))
    for path in HERE.glob("test_*.py"):
        assert not sorted(set(re.findall(r"CVE-\d{4}-\d+", path.read_text())) - named_there), path.name
