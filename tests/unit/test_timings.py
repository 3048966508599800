"""The clock of --timings: phases within phases count once, and every function of the table is there."""

from __future__ import annotations

from importlib import import_module

import pytest

from runtime.cli import timings


@pytest.mark.parametrize("command", [*timings.PHASES, "state"])
def test_every_place_of_the_table_is_there(command: str) -> None:
    for place, phase in timings.PHASES.get(command, timings._COMMON):
        name, _, attribute = place.partition(":")
        found = import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
        assert callable(found) and phase


def test_an_inner_phase_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(timings.time, "monotonic", lambda: now)
    clock = timings.Clock(0.5)

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def outer() -> None:
        spend(1)
        clock.timed("inner", spend)(2)
        spend(4)

    clock.timed("outer", outer)()
    spend(8)
    clock.turn("")
    assert clock.spent == {"start the interpreter (processor time)": 0.5, timings.REST: 8.0, "outer": 5.0, "inner": 2.0}
