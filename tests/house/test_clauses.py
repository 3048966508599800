"""conformance/clauses.toml: every clause of the specification is in it, and every test that it names is there."""

from __future__ import annotations

import loading
import pytest
import tree

CONFORMANCE = tree.ROOT / "conformance"
clauses = loading.module("clauses", CONFORMANCE / "clauses.py")
TABLE = clauses.load()


def test_every_clause_is_covered() -> None:
    wrong = [f"{clause.where}: {clause.number} {clause.words}" for clause in TABLE if not clauses.covered(clause)]
    assert not wrong, "\n".join(wrong)
    assert len({clause.key for clause in TABLE}) == len(TABLE) > 300


def named() -> set[str]:
    """The tests of the table, but for those of runtime-tools: test_nodes.py looks whether they are there."""
    return {test for clause in TABLE for test in clause.tests if not test.startswith("runtime-tools:")}


def test_programs_that_cover_something_pass() -> None:
    tests = {test for clause in TABLE for test in clause.tests} - named()
    programs = {test.partition(":")[2] for test in tests}
    # programs that are skipped or fail cover nothing: those here are known to pass
    assert programs and not [name for name in programs if f"[{name}]" in (CONFORMANCE / "expected/v1.toml").read_text()]


@pytest.mark.requires("specification")
def test_no_clause_of_the_text_is_missing() -> None:
    text = {key for key, _ in clauses.read(clauses.fetch())}
    known = {clause.key for clause in TABLE}
    assert sorted(text - known) == [] and sorted(known - text) == []


def test_the_table_is_in_our_own_words() -> None:
    """No sentence of the specification: each entry names its clause, and no more."""
    assert max(len(clause.words) for clause in TABLE) < 100
