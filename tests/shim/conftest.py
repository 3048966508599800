"""What the tests of the shim use: a loop that is closed again, and a way to have it turn until something is so.

loop        a Loop; its signals and descriptors are given back afterwards
reaper      the Reaper on it
until       until(condition, "what") turns the loop until the condition holds; fails after a limit
engine      an Engine on our own runtime as the shim would have it, with a state directory of the test's own (scratch)
nothing_left  fails if the test left descriptors or children behind; the three above use it
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from conmon_caller import ours, session  # noqa: F401 - fixtures: sessions of pyrunc-conmon, and of its peer too

if TYPE_CHECKING:
    from conftest import Leaks

    from shim.engine import Engine
    from shim.loop import Loop
    from shim.reaper import Reaper

LIMIT_S = 30


@pytest.fixture
def loop(leaks: Leaks) -> Iterator[Loop]:
    from shim.loop import Loop

    made = Loop()
    yield made
    made.close()


@pytest.fixture
def reaper(loop: Loop) -> Reaper:
    from shim.reaper import Reaper

    return Reaper(loop)


@pytest.fixture
def until(loop: Loop) -> Callable[..., None]:
    def turn_until(condition: Callable[[], object], what: str = "") -> None:
        end = time.monotonic() + LIMIT_S
        # a loop with nothing left to happen would wait for ever
        limit = loop.later(LIMIT_S, lambda: None)
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"not within {LIMIT_S} s: {what or condition}", pytrace=False)
            loop.turn()
        limit.cancel()

    return turn_until


@pytest.fixture
def engine(loop: Loop, reaper: Reaper, scratch: os.PathLike[str]) -> Engine:
    from shim.engine import Engine

    return Engine(loop, reaper, options=("--root", os.path.join(scratch, "state")))
