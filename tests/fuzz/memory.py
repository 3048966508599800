"""What a fuzzer has reached, found and spent over all its runs: a run that is ended at any moment loses ten seconds of it.

corpus/NAME/    inputs that reached something new; the next run begins with them
findings/       what should not have happened: the input, and beside it what it did
spent/NAME      how many inputs there were, and the processor's seconds they took
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

#: how often what was spent is written down
_TICK_S = 10.0
#: many small inputs in one file of a corpus: a list of texts, each octet that is none of UTF-8 as U+DC80 to U+DCFF
PACKED = "reached.json"


class Memory:
    """Below a directory; the clock of what is spent runs from here."""

    def __init__(self, out: Path, name: str) -> None:
        self.corpus = out / "corpus" / name
        self._spent = out / "spent" / name
        for folder in (self.corpus, self._spent.parent):
            folder.mkdir(parents=True, exist_ok=True)
        self._inputs, self._used = 0, _used()
        self._due = time.monotonic() + _TICK_S

    def kept(self) -> list[bytes]:
        """What has been kept; the latest is the last."""
        files = sorted(self.corpus.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [path.read_bytes() for path in files]

    def keep(self, data: bytes) -> None:
        """Once, however often."""
        path = self.corpus / hashlib.sha256(data).hexdigest()[:16]
        if not path.exists():
            path.write_bytes(data)

    def spent(self) -> tuple[int, float]:
        """Inputs, and seconds of a processor, until it was written down last."""
        try:
            inputs, seconds = self._spent.read_text().split()
        except FileNotFoundError:
            return 0, 0.0
        return int(inputs), float(seconds)

    def is_spent(self, inputs: int, until: float) -> bool:
        """Note it now and then; whether so many seconds of a processor have been taken."""
        if time.monotonic() < self._due:
            return False
        self.note(inputs)
        return self.spent()[1] >= until

    def note(self, inputs: int) -> None:
        """Write down what was spent: this many inputs since the clock runs, and what this process and its children took."""
        now = _used()
        before, seconds = self.spent()
        half = self._spent.with_name(f".{self._spent.name}")
        half.write_text(f"{before + inputs - self._inputs} {seconds + now - self._used:.1f}\n")
        half.rename(self._spent)
        self._inputs, self._used = inputs, now
        self._due = time.monotonic() + _TICK_S


def pack(path: Path, inputs: list[bytes]) -> None:
    texts = [data.decode("utf-8", "surrogateescape") for data in inputs]
    path.write_text("[\n" + ",\n".join(json.dumps(text) for text in texts) + "\n]\n")


def unpack(path: Path) -> list[bytes]:
    return [text.encode("utf-8", "surrogateescape") for text in json.loads(path.read_text())]


def _used() -> float:
    return sum(os.times()[:4])
