"""Events to containerd: in order, one after the other, kept while containerd is away.

containerd restarts while containers run, and what happens to them meanwhile is told when it is back. Its own shim gives up after
five attempts in fifteen seconds (pkg/shim/publisher.go); here an event is dropped only where containerd itself refuses it
that often, or where so many wait that the oldest have to go. Without a ttrpc address each event is handed to
`containerd publish`, as ever.
"""

from __future__ import annotations

import os
import time

from shim.containerd.messages import ANY, EVENTS, FORWARD
from shim.containerd.protobuf import encode
from shim.containerd.ttrpc import DEADLINE_EXCEEDED, UNAVAILABLE, Client, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from shim.loop import Loop
    from shim.reaper import Reaper

SERVICE, METHOD = "containerd.services.events.ttrpc.v1.Events", "Forward"
#: how long containerd may take for one event
TIMEOUT_S = 5.0
#: the longest pause between two attempts; the n-th one is n seconds long until then
PAUSE_S = 5
#: how often containerd may refuse one event
TRIES = 5
#: how many wait at most
LIMIT = 2048


class Publisher:
    """Sends events of one containerd namespace. `log(level, text)` is told of what is lost."""

    __slots__ = (
        "_address",
        "_binary",
        "_client",
        "_failures",
        "_idle",
        "_is_sending",
        "_log",
        "_loop",
        "_namespace",
        "_path",
        "_queue",
        "_reaper",
    )

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        namespace: str,
        *,
        ttrpc_address: str,
        address: str,
        binary: str,
        log: Callable[[str, str], None],
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._namespace = namespace
        self._path = ttrpc_address.removeprefix("unix://")
        self._address = address
        self._binary = binary
        self._log = log
        self._queue: list[tuple[str, dict[str, Any]]] = []
        self._client: Client | None = None
        self._is_sending = False
        self._failures = 0
        self._idle: list[Callable[[], None]] = []

    def send(self, topic: str, values: dict[str, Any]) -> None:
        """Queue an event of messages.EVENTS; it happened now."""
        name, table = EVENTS[topic]
        event = {"type_url": f"containerd.events.{name}", "value": encode(table, values)}
        envelope = {
            "timestamp": timestamp(time.time_ns()),
            "namespace": self._namespace,
            "topic": topic,
            "event": event,
        }
        self._queue.append((topic, envelope))
        if len(self._queue) > LIMIT:
            # the one at the head may be on its way
            lost, _ = self._queue.pop(1)
            self._log("error", f"publish event: {LIMIT} wait already, forgetting one for {lost}")
        self._next()

    def when_idle(self, call: Callable[[], None], limit_s: float) -> None:
        """Call once: when nothing waits any more, or after `limit_s` seconds."""
        if not self._queue:
            self._loop.soon(call)
            return
        calls = [call]

        def once() -> None:
            if calls:
                calls.pop()()

        self._idle.append(once)
        self._loop.later(limit_s, once)

    def close(self) -> None:
        """Give up the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _next(self) -> None:
        if self._is_sending:
            return
        if not self._queue:
            while self._idle:
                self._idle.pop()()
            return
        self._is_sending = True
        topic, envelope = self._queue[0]
        if not self._path:
            self._hand_over(topic, envelope)
            return
        try:
            if self._client is None or not self._client.is_open:
                self._client = Client(self._loop, self._path)
        except OSError as error:
            self._sent(Fault(UNAVAILABLE, f"connect to {self._path}: {error.strerror}"))
            return
        metadata = {"containerd-namespace-ttrpc": self._namespace}
        self._client.call(SERVICE, METHOD, encode(FORWARD, {"envelope": envelope}), metadata, self._sent, TIMEOUT_S)

    def _sent(self, fault: Fault | None) -> None:
        self._is_sending = False
        if fault is None:
            self._done()
            return
        self._failures += 1
        if fault.code == UNAVAILABLE and self._failures == 1:
            # the connection was of a containerd that is gone; there may be another one
            self._loop.soon(self._next)
            return
        is_away = fault.code in (UNAVAILABLE, DEADLINE_EXCEEDED)
        if not is_away and self._failures >= TRIES:
            self._log(
                "error", f"publish event: {self._queue[0][0]}: {fault.text}, refused {TRIES} times, forgetting it"
            )
            self._done()
            return
        # nothing overtakes: the order of events is what containerd's clients rely on
        self._is_sending = True
        self._loop.later(min(self._failures, PAUSE_S), self._again)

    def _again(self) -> None:
        self._is_sending = False
        self._next()

    def _done(self) -> None:
        self._failures = 0
        del self._queue[0]
        self._next()

    def _hand_over(self, topic: str, envelope: dict[str, Any]) -> None:
        """Have containerd's own program publish it: the event on its standard input."""
        from shim.engine import Engine

        words = ["--address", self._address, "publish", "--namespace", self._namespace, "--topic", topic]
        Engine(self._loop, self._reaper, self._binary or "containerd").call(
            words,
            lambda answer: self._sent(
                Fault(3, answer.err.decode("utf-8", "replace").strip()) if answer.status else None
            ),
            input=encode(ANY, envelope["event"]),
            env=dict(os.environ),
        )


def timestamp(at_ns: int) -> dict[str, int]:
    """A google.protobuf.Timestamp."""
    return {"seconds": at_ns // 1_000_000_000, "nanos": at_ns % 1_000_000_000}
