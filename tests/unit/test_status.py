"""Which verb each status allows, against a table of its own."""

from __future__ import annotations

import pytest

from runtime import status
from runtime.errors import StatusError

ALLOWED = {
    "start": {"created"},
    "exec": {"created", "running"},
    "kill": {"created", "running", "paused"},
    "pause": {"created", "running"},
    "resume": {"paused"},
    "update": {"created", "running", "paused"},
    "delete": {"created", "stopped"},
    "ps": {"created", "running", "paused", "stopped"},
    "checkpoint": {"running", "paused"},
}
EVERY = ("creating", "created", "running", "paused", "stopped")


@pytest.mark.parametrize("word", EVERY)
@pytest.mark.parametrize("verb", ALLOWED)
def test_allow(verb: str, word: str) -> None:
    if word in ALLOWED[verb]:
        status.allow(verb, word, "web")
        return
    with pytest.raises(StatusError):
        status.allow(verb, word, "web")


def test_the_words_that_engines_search_for() -> None:
    with pytest.raises(StatusError, match="container not running"):
        status.allow("kill", "stopped", "web")
    with pytest.raises(StatusError, match="cannot start a container that has stopped"):
        status.allow("start", "stopped", "web")
    with pytest.raises(StatusError, match="stopped container"):
        status.allow("exec", "stopped", "web")
