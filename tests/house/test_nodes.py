"""Every test that one of the tables names is there: attacks and their teeth, clauses of the specification, rows of the peers."""

from __future__ import annotations

import nodes
import test_attacks
import test_clauses
import test_matrix


def test_every_test_is_there() -> None:
    tables = {table.__name__: table.named() for table in (test_attacks, test_clauses, test_matrix)}
    # collected once for all: pytest reads a thousand tests for it
    there = set(nodes.collected({test.partition("::")[0] for tests in tables.values() for test in tests}))
    there |= {node.partition("[")[0] for node in there}
    assert {name: sorted(tests - there) for name, tests in tables.items() if tests - there} == {}
