"""Makes inputs, hands them to a target, keeps those that reach new lines, and writes down what should not have happened.

A target (targets.py has them all) is a name, seeds, a way to change an input, and `run(data)`, which raises Finding. An input is
bytes, always: what is in the corpus, and what reproduces a finding.

What was reached is the lines of runtime/, shim/ and specs/ that were run, in this process or in a child that it has forked: they are marked
in memory that both share.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

from memory import PACKED, Memory, unpack

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"

#: processor time that no input may take
LIMIT_S = 5.0
#: memory that no input may make us take, besides what we had
LIMIT_BYTES = 1 << 30
#: changed inputs that are larger are not tried: their size alone takes that time
LARGEST_BYTES = 1 << 20
_MAP_BYTES = 1 << 16
#: after so many inputs that reached nothing new only one in a few is watched, which makes it several times as slow
_PATIENCE, _WATCHED = 300, 0.2
_SOURCES = tuple(f"{ROOT}/{name}/" for name in ("runtime", "shim", "specs"))


class Finding(Exception):
    """What an input must not do: `kind` says which of them are one and the same."""

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind


class Target:
    """One kind of input and what reads it."""

    name = ""
    #: things of tests/features.py
    needs: tuple[str, ...] = ()
    #: whether it is only run in namespaces of its own (run.py makes them)
    is_fenced = False

    def begin(self, place: Path) -> None:
        """Make ready, in a directory of its own."""

    def end(self) -> None:
        """Leave nothing."""

    def seeds(self) -> list[bytes]:
        raise NotImplementedError

    def change(self, rng: Random, data: bytes) -> bytes:
        raise NotImplementedError

    def run(self, data: bytes) -> None:
        raise NotImplementedError


class Reached:
    """Which lines have been run, by a number of each in a map that forked children share."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, _MAP_BYTES)
        self.known = bytes(_MAP_BYTES)
        self._codes: dict[CodeType, dict[int, int] | None] = {}

    def _numbers(self, code: CodeType) -> dict[int, int] | None:
        if not code.co_filename.startswith(_SOURCES):
            return None
        name = f"{code.co_filename}:{code.co_qualname}"
        lines = {line for _, _, line in code.co_lines() if line is not None}
        return {line: zlib.crc32(f"{name}:{line - code.co_firstlineno}".encode()) % _MAP_BYTES for line in lines}

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        try:
            numbers = self._codes[code]
        except KeyError:
            numbers = self._codes[code] = self._numbers(code)
        if numbers is None:
            return None
        known, marks = self.known, self.map
        # a function all of whose lines are known is not worth its price
        if all(known[number] for number in numbers.values()):
            self._codes[code] = None
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                marks[numbers.get(frame.f_lineno, 0)] = 1
            return line

        return line

    def take(self) -> int:
        """How many lines are new since the last time."""
        now = self.map[:]
        if now == self.known:
            return 0
        new = sum(now) - sum(self.known)
        self.known = now
        return new

    def new(self) -> set[int]:
        """The numbers of the lines that are new since then."""
        return {number for number, is_marked in enumerate(self.map[:]) if is_marked and not self.known[number]}

    def forget(self) -> None:
        """As it was after the last time."""
        self.map[:] = self.known

    def count(self) -> int:
        return sum(self.known)


@contextmanager
def bounded() -> Iterator[None]:
    """A time that what is in here may take, of the processor's."""

    def late(number: int, frame: FrameType | None) -> None:
        where = f"{frame.f_code.co_filename}:{frame.f_code.co_name}" if frame else ""
        raise Finding("hang", f"more than {LIMIT_S:.0f} s of processor time, in {where}")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def preload() -> None:
    """Load every module now: a child that had to would take longer for that than for its input."""
    import importlib

    for top in ("runtime", "shim", "specs"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if path.stem not in ("__main__", "build", "generate", "libraries_build") and "kernel.build" not in name:
                importlib.import_module(name)
    for name in (
        "runtime.__main__",
        "shim.__main__",
        "jsonschema",
        "click",
        "json",
        "tomllib",
        "subprocess",
        "psutil",
        "pyroute2",
    ):
        importlib.import_module(name)


def judge(target: Target, data: bytes) -> Finding | None:
    """What a target has to say of an input."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with bounded():
            target.run(data)
    except Finding as finding:
        return finding
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        place = f"{Path(steps[-1].filename).name}:{steps[-1].name}"
        return Finding(f"{type(error).__name__} in {place}", "".join(traceback.format_exception(error))[-1500:])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > LIMIT_BYTES:
        return Finding("memory", f"{grown >> 20} MiB more than before")
    return None


def watch(target: Target, data: bytes, reached: Reached) -> Finding | None:
    """The same, and what it reaches."""
    sys.settrace(reached.trace)
    try:
        finding = judge(target, data)
    finally:
        sys.settrace(None)
    # what the trace itself takes is no fault of whoever is traced
    return judge(target, data) if finding is not None else None


class Report:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.inputs = 0
        self.seconds = 0.0
        self.reached = 0
        self.kept = 0
        #: kind -> the first input that did it, and what was said
        self.findings: dict[str, tuple[bytes, str]] = {}


def corpus(target: Target) -> list[bytes]:
    """The inputs that are committed for a target."""
    folder = CORPUS / target.name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [data for path in files for data in (unpack(path) if path.name == PACKED else [path.read_bytes()])]


def fuzz(
    target: Target,
    place: Path,
    *,
    seconds: float = 1e9,
    inputs: int = 1 << 60,
    seed: int = 1,
    traces: bool = True,
    memory: Memory | None = None,
    until: float = 1e9,
    found: Callable[[Report], object] = lambda report: None,
) -> Report:
    """Run the seeds, then inputs made of them and of those that reached something, until the time or the number is used up.

    With a memory it goes on where the last run was, until all of them have taken `until` seconds of a processor. `found` is called
    when there is a finding more.
    """
    report = Report(target)
    rng = Random(f"{seed}/{target.name}")
    reached = Reached()
    kept: list[bytes] = []
    preload()
    target.begin(place)
    fruitless = 0
    began = time.monotonic()
    try:
        waiting = [*target.seeds(), *corpus(target), *(memory.kept() if memory else [])]
        while time.monotonic() - began < seconds and (report.inputs < inputs or waiting):
            if waiting:
                data, is_seed = waiting.pop(), True
            else:
                # the latest ones have been changed the least often
                index = max(rng.randrange(len(kept)), rng.randrange(len(kept)))
                changed = target.change(rng, kept[index])
                data, is_seed = changed if len(changed) <= LARGEST_BYTES else kept[index], False
            is_watched = traces and (is_seed or fruitless < _PATIENCE or rng.random() < _WATCHED)
            finding = watch(target, data, reached) if is_watched else judge(target, data)
            report.inputs += 1
            if finding is not None and finding.kind not in report.findings:
                report.findings[finding.kind] = data, str(finding)
                found(report)
            new = reached.take() if is_watched else 0
            fruitless = 0 if new else fruitless + 1
            if is_seed or (new and len(data) < 1 << 16):
                kept.append(data)
                if memory and not is_seed:
                    memory.keep(data)
            if memory and memory.is_spent(report.inputs, until):
                break
    finally:
        target.end()
    if memory:
        memory.note(report.inputs)
    report.seconds = time.monotonic() - began
    report.reached, report.kept = reached.count(), len(kept)
    return report


def save(folder: Path, report: Report) -> list[Path]:
    """Write the inputs of what was found; where."""
    out = []
    for kind, (data, text) in report.findings.items():
        name = f"{report.target.name}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / f"{name}.txt").write_text(text + "\n", errors="backslashreplace")
        out.append(folder / name)
    return out


def run_child(go: Any, *, seconds: float = 20.0) -> int:
    """Fork, call `go` in the child, and wait for it; its wait status. Finding where it takes too long."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (int(LIMIT_S), int(LIMIT_S) + 1))
            os.setsid()
            status = go()
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
        finally:
            os._exit(status & 0xFF)
    pidfd = os.pidfd_open(pid)
    try:
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Finding("hang", f"no end within {seconds:.0f} s")
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(pidfd)
        if os.getpid() == 1:
            _collect()


def _collect() -> None:
    """As the first process of a fence: what has detached itself and has ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
