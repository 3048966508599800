"""conformance/matrix.toml: each row of what the peers can do has tests, all of which are there, or says why it cannot have any."""

from __future__ import annotations

import tomllib
from typing import Any

import tree

TABLE: dict[str, dict[str, Any]] = tomllib.loads((tree.ROOT / "conformance/matrix.toml").read_text())
ROWS = {f"{section}: {what}": entry for section, rows in TABLE.items() for what, entry in rows.items()}


def named_by(entry: Any) -> list[str]:
    if isinstance(entry, dict):
        entry = entry.get("tests", [])
    return [entry] if isinstance(entry, str) else list(entry)


def named() -> set[str]:
    """The tests of the table: test_nodes.py looks whether they are there."""
    return {test for entry in ROWS.values() for test in named_by(entry)}


def test_every_row_is_covered() -> None:
    assert len(ROWS) >= 105
    for what, entry in ROWS.items():
        reason = entry.get("reason", "") if isinstance(entry, dict) else ""
        assert named_by(entry) or len(reason) > 40, f"{what}: neither a test nor a reason"
        assert not isinstance(entry, dict) or reason, f"{what}: a table for nothing"
        assert not isinstance(entry, dict) or set(entry) <= {"tests", "reason"}, what


def test_they_run_the_real_thing() -> None:
    """What is only looked at as a plan needs a reason."""
    plain = [what for what, entry in ROWS.items() if not isinstance(entry, dict)]
    paper = [what for what in plain if all(test.startswith(("unit/", "plans/")) for test in named_by(ROWS[what]))]
    assert not paper
