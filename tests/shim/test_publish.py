"""Events reach containerd once, in order, whether it is there, comes later, refuses, or has to be told by its own program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shim_client import Engine

from shim.containerd import publish
from shim.containerd.messages import ANY, EVENTS
from shim.containerd.protobuf import decode
from shim.containerd.publish import Publisher
from shim.loop import Loop
from shim.reaper import Reaper

Until = Callable[..., None]


@pytest.fixture
def engine(scratch: Path) -> Iterator[Engine]:
    made = Engine(scratch)
    yield made
    made.close()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def publisher(loop: Loop, reaper: Reaper, engine: Engine, lost: list[str]) -> Iterator[Publisher]:
    made = Publisher(
        loop,
        reaper,
        "ns",
        ttrpc_address=f"unix://{engine.address}.ttrpc",
        address=engine.address,
        binary="",
        log=lambda level, text: lost.append(text),
    )
    yield made
    made.close()


def oom(name: object) -> dict[str, str]:
    return {"container_id": str(name)}


def told(engine: Engine) -> list[str]:
    return [values["container_id"] for _, values in engine.events]


def test_in_order_and_in_the_namespace(publisher: Publisher, engine: Engine, until: Until) -> None:
    for number in range(50):
        publisher.send("/tasks/oom", oom(number))
    until(lambda: len(engine.events) == 50)
    assert told(engine) == [str(number) for number in range(50)]
    assert {values["namespace"] for _, values in engine.events} == {"ns"}
    assert len(engine.connections) == 1


def test_kept_while_nobody_listens(publisher: Publisher, engine: Engine, until: Until, lost: list[str]) -> None:
    publisher.send("/tasks/oom", oom("before"))
    until(lambda: engine.events)
    engine.vanish()
    for name in ("a", "b", "c"):
        publisher.send("/tasks/oom", oom(name))
    until(lambda: publisher._failures > 2, "several attempts")
    engine.listen()
    until(lambda: len(engine.events) == 4)
    assert told(engine) == ["before", "a", "b", "c"]
    assert lost == []


def test_a_connection_that_broke_is_made_anew_at_once(publisher: Publisher, engine: Engine, until: Until) -> None:
    publisher.send("/tasks/oom", oom("one"))
    until(lambda: engine.events)
    engine.vanish()
    engine.listen()
    publisher.send("/tasks/oom", oom("two"))
    until(lambda: not publisher._queue)
    assert told(engine) == ["one", "two"]


def test_one_that_is_refused_again_and_again_is_given_up(
    publisher: Publisher, engine: Engine, until: Until, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """containerd answers with an error, five times: the next one is not held up for ever."""
    monkeypatch.setattr(publish, "PAUSE_S", 0)
    engine.refusing.add("bad")
    for name in ("one", "bad", "next"):
        publisher.send("/tasks/oom", oom(name))
    until(lambda: len(engine.events) == 2)
    assert told(engine) == ["one", "next"]
    assert engine.refusals == publish.TRIES
    assert lost == ["publish event: /tasks/oom: no such container, refused 5 times, forgetting it"]


def test_too_many_that_wait(publisher: Publisher, engine: Engine, lost: list[str], until: Until) -> None:
    engine.vanish()
    for number in range(publish.LIMIT + 3):
        publisher.send("/tasks/oom", oom(number))
    assert len(publisher._queue) == publish.LIMIT
    assert len(lost) == 3
    engine.listen()
    until(lambda: len(engine.events) == publish.LIMIT)
    assert told(engine) == ["0", *(str(number) for number in range(4, publish.LIMIT + 3))]


def test_idle(publisher: Publisher, engine: Engine, until: Until) -> None:
    calls: list[str] = []
    publisher.when_idle(lambda: calls.append("nothing"), 100)
    until(lambda: calls)
    publisher.send("/tasks/oom", oom(1))
    publisher.when_idle(lambda: calls.append("sent"), 100)
    until(lambda: len(calls) == 2)
    assert told(engine) == ["1"]
    engine.vanish()
    publisher.send("/tasks/oom", oom(2))
    publisher.when_idle(lambda: calls.append("late"), 0.01)
    until(lambda: len(calls) == 3)


@pytest.mark.parametrize("status", [0, 1])
def test_through_containerds_own_program(
    loop: Loop,
    reaper: Reaper,
    scratch: Path,
    until: Until,
    lost: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "PAUSE_S", 0)
    program = scratch / "containerd"
    program.write_text(f'#!/bin/sh\necho "$@" >>{scratch}/words\ncat >{scratch}/event\necho why >&2\nexit {status}\n')
    program.chmod(0o755)
    publisher = Publisher(
        loop,
        reaper,
        "ns",
        ttrpc_address="",
        address="/c.sock",
        binary=str(program),
        log=lambda level, text: lost.append(text),
    )
    values: dict[str, Any] = {"container_id": "c", "pid": 5}
    publisher.send("/tasks/start", values)
    until(lambda: not publisher._queue)
    word = "--address /c.sock publish --namespace ns --topic /tasks/start\n"
    assert (scratch / "words").read_text() == word * (publish.TRIES if status else 1)
    event = decode(ANY, (scratch / "event").read_bytes())
    assert event["type_url"] == "containerd.events.TaskStart"
    assert decode(EVENTS["/tasks/start"][1], event["value"]) == values
    assert lost == (
        [f"publish event: /tasks/start: why, refused {publish.TRIES} times, forgetting it"] if status else []
    )
