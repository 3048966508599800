"""Waiting, written as a sequence: coroutines that the loop's callbacks drive. No asyncio, no threads, no scheduler.

    answer = Later()                          someone:  engine.call(words, answer.set)
    status = (await answer).status            set() goes on with whoever waits, then and there

A coroutine runs until it awaits a Later that is not set, and goes on inside that one's set(). What has to happen before
anything else does (reaper.py: expect() inside of done) can therefore be written as the next line.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any


class Later:
    """A value that is not there yet; any number may await it."""

    __slots__ = ("_then", "_value", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._value: Any = None
        self._then: list[Callable[[], None]] = []

    def set(self, value: Any = None) -> None:
        """The value is there: go on with all who wait. Only the first counts."""
        if not self.is_set:
            self.is_set = True
            self._value = value
            while self._then:
                self._then.pop(0)()

    def __await__(self) -> Generator[Later, None, Any]:
        if not self.is_set:
            yield self
        return self._value


class Turn:
    """One at a time, in order of arrival: `async with turn:`."""

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: list[Later] = []

    async def __aenter__(self) -> None:
        if self._is_taken:
            mine = Later()
            self._waiting.append(mine)
            await mine
        self._is_taken = True

    async def __aexit__(self, *error: object) -> None:
        if self._waiting:
            # it stays taken: nobody may come between
            self._waiting.pop(0).set()
        else:
            self._is_taken = False


def begin(coroutine: Coroutine[Any, Any, Any], done: Callable[[Any, Exception | None], None]) -> None:
    """Run a coroutine; done(result, error) when it has come to its end, which may be at once."""
    try:
        later: Later = coroutine.send(None)
    except StopIteration as stop:
        result, error = stop.value, None
    except Exception as raised:
        result, error = None, raised
    else:
        later._then.append(lambda: begin(coroutine, done))
        return
    # outside of the handler: an exception of done's own is not one of the coroutine's
    done(result, error)
