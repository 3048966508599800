"""Of all that a fuzzer has reached what is worth to be committed: few inputs, and of each no more than it takes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import mutation
from engine import Reached, Target, corpus, preload, watch

#: how often a part of one input is left out to see whether it is needed
_MOST_TRIES = 800


def distil(target: Target, place: Path, inputs: list[bytes]) -> list[bytes]:
    """Those that reach a line which no seed reaches, nothing that is committed and no smaller one, each made as small as can be."""
    reached, taken = Reached(), []
    preload()
    target.begin(place)

    def new(data: bytes) -> set[int]:
        reached.forget()
        return set() if watch(target, data, reached) else reached.new()

    try:
        for data in (*target.seeds(), *corpus(target)):
            watch(target, data, reached)
        reached.take()
        for data in sorted(inputs, key=lambda data: (len(data), data)):
            wanted = new(data)
            # what comes and goes is no line that an input reaches
            wanted &= new(data)
            if not wanted:
                continue
            small = shrink(data, lambda less, wanted=wanted: wanted <= new(less))  # type: ignore[misc]
            new(small)
            reached.take()
            taken.append(small)
    finally:
        target.end()
    return taken


def shrink(data: bytes, holds: Callable[[bytes], bool]) -> bytes:
    """What is left when everything is left out without which `holds` is still true: members of a document first, then octets."""
    left = [_MOST_TRIES]

    def tried(less: bytes) -> bool:
        left[0] -= 1
        return left[0] >= 0 and len(less) < len(data) and holds(less)

    data = _members(data, tried)
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data) and left[0] > 0:
            less = data[:at] + data[at + size :]
            if tried(less):
                data = less
            else:
                at += size
        size //= 2
    return data


def _members(data: bytes, tried: Callable[[bytes], bool]) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    index = 0
    while index < len(mutation.places(document)):
        made = copy.deepcopy(document)
        holder, key = mutation.places(made)[index]
        del holder[key]
        less = json.dumps(made, separators=(",", ":")).encode()
        if tried(less):
            document, data = made, less
        else:
            index += 1
    return data
