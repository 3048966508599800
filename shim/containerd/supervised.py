"""A process of a container as containerd sees it, and what of its end has still to be kept back."""

from __future__ import annotations

from shim.containerd.ttrpc import FAILED_PRECONDITION, Fault
from shim.flow import Later, Turn
from shim.process import Process, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from shim.containerd.streams import Streams
    from shim.process import States


class Task:
    """A process as containerd sees it: what it is, its streams, and an end that may have to wait until it may be told."""

    __slots__ = ("id", "is_announced", "is_begun", "is_collected", "process", "spec", "streams", "turn")

    def __init__(self, id_: str, states: States, streams: Streams) -> None:
        self.id = id_
        self.process = Process(states)
        self.streams = streams
        self.turn = Turn()
        #: of another process than init: its part of the specification
        self.spec: Any = None
        #: begun and not failed: its end will be told
        self.is_begun = False
        #: its pid may be somebody else's by now
        self.is_collected = False
        #: ends are kept back until who started it has been answered
        self.is_announced = Later()

    def check(self, event: str) -> None:
        """Fault where its state does not allow the event."""
        try:
            self.process.check(event)
        except Refused as refused:
            raise Fault(FAILED_PRECONDITION, str(refused)) from None
