"""`make chaos`: one fault at a time, at every system call of every command, and what is left afterwards.

    campaign.py [--sample N] [--points VERB[:PROCESS[:CALL|FIRST-LAST[:FAULT]]] ...] [--faults KILL,EIO,...] [--verbs create,exec]
    POINTS='create:2:137' SAMPLE=500 PEER_SAMPLE=100 BENCH_PEERS=runc=/usr/sbin/runc,... in the environment say the same

A point is a verb, one of the processes that take part in it (0 is the command, then in the order in which they are made), the
how many-th system call of it, and what happens there: a signal, or the call's failing. Points are tried by workers
(worker.py), each in namespaces of its own. After each, `delete --force`, and then nothing may be left.

Prints a table, and each point at which something was wrong, by the name under which it can be tried again. Writes
build/chaos.json. Needs root.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE)]
import place as places  # noqa: E402 - found through the path above
import unshared  # noqa: E402 - place's path
from commands import VERBS  # noqa: E402 - found through the path above
from worker import ERRNOS, NAMES, NEVER_FAIL, SIGNALS  # noqa: E402 - found through the path above

OURS = "pyrunc"
#: where one side waits for the other, or makes the other wait
MEETINGS = ("sendmsg", "recvmsg", "sendto", "recvfrom", "ppoll", "poll", "wait4", "waitid", "flock", "clone", "clone3", "vfork", "execve", "execveat", "pidfd_send_signal")  # fmt: skip
Point = tuple[str, int, int, str]


class Workers:
    """As many workers of one runtime as there are processors to be used."""

    def __init__(self, runtime: str, count: int, *, hides_unified: bool = False) -> None:
        self.words = [*unshared.WORDS, "--mount-proc", sys.executable, str(HERE / "worker.py"), runtime]
        self.listed: dict[str, Any] = {}
        self.hides = "hide" if hides_unified else "show"
        self.children = [self._start(number) for number in range(count)]

    def _start(self, number: int) -> subprocess.Popen[str]:
        token = f"{os.getpid()}-{number}-{time.monotonic_ns()}"
        words = [*self.words, token, self.hides]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, number: int, request: dict[str, Any]) -> Any:
        """One request of one worker; one that has died is replaced by another, and its answer is why."""
        child = self.children[number]
        assert child.stdin and child.stdout
        try:
            child.stdin.write(json.dumps(request) + "\n")
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        child.wait()
        self.children[number] = self._start(number)
        return {"status": 0, "name": -1, "said": "", "wrong": ["the worker has died"]}

    def list(self, verb: str) -> Any:
        """The system calls of a verb, asked for once: [[process, call, number], ...]; an answer of another kind says why not."""
        if verb not in self.listed:
            self.listed[verb] = self.ask(0, {"list": verb})
        return self.listed[verb]

    def all(self, points: Iterable[Point]) -> Iterator[tuple[Point, dict[str, Any]]]:
        """Every point with what came of it, in any order."""
        todo, done = iter(points), collections.deque[tuple[Point, dict[str, Any]]]()
        lock, news = threading.Lock(), threading.Semaphore(0)

        def work(number: int) -> None:
            while True:
                with lock:
                    point = next(todo, None)
                if point is None:
                    break
                keys = ("verb", "process", "call", "fault")
                request = dict(zip(keys, point, strict=True))
                request["name"] = request.pop("verb")
                result = self.ask(number, request)
                # where the machine is busy with something else, one that is slow hangs as well, once
                done.append((point, self.ask(number, request) if "hang" in result else result))
                news.release()
            news.release()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(self.children))]
        for thread in threads:
            thread.start()
        ended = 0
        while ended < len(threads):
            news.acquire()
            if done:
                yield done.popleft()
            else:
                ended += 1

    def close(self) -> None:
        for child in self.children:
            assert child.stdin
            child.stdin.close()
        for child in self.children:
            child.wait()


# -- which points there are --------------------------------------------------------------------------------------------------


def points(workers: Workers, asked: argparse.Namespace, *, is_ours: bool = True) -> list[Point]:
    """All that was asked for, those of one verb together."""
    if asked.points:
        wanted = [text.split(":") for text in asked.points]
    else:
        wanted = [[verb] for verb in asked.verbs if is_ours or not getattr(VERBS[verb], "programs", False)]
    out: list[Point] = []
    known: list[list[int]] = []
    for verb, *rest in wanted:
        process, call, fault = [*rest, "", "", ""][:3]
        faults = [fault] if fault else asked.faults
        if process and call and "-" not in call:
            out += [(verb, int(process), int(call), fault) for fault in faults]
        else:
            listed = workers.list(verb)
            if not isinstance(listed, list):
                print(f"{verb}: not tried, since it fails without any fault", file=sys.stderr)
                continue
            first, _, last = call.partition("-")
            wanted_calls = range(int(first or 0), int(last) + 1 if last else sys.maxsize)
            begun = 0 if process else _begun(known, [nr for one, _, nr in listed if one == 0])
            out += [
                (verb, one, number, fault)
                for one, number, nr in listed
                if one not in getattr(VERBS[verb], "others", ())
                if (one or number > begun) and (not process or one == int(process)) and number in wanted_calls
                for fault in faults
                if fault not in ERRNOS or NAMES.get(nr) not in NEVER_FAIL
                if fault != "STOP" or NAMES.get(nr) in MEETINGS
            ]
    return out


def _begun(known: list[list[int]], calls: list[int]) -> int:
    """How many calls a command begins with as the first of the campaign did, which has been tried: that is the interpreter's start."""
    known.append(calls)
    if len(known) == 1:
        return 0
    return next((at for at, (a, b) in enumerate(zip(calls, known[0], strict=False)) if a != b), len(calls))


def spread(found: list[Point], count: int) -> list[Point]:
    """So many of them, evenly."""
    if not count or count >= len(found):
        return found
    return [found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)]


# -- what came of them -------------------------------------------------------------------------------------------------------


class Tally:
    """The figures of one campaign of one runtime."""

    def __init__(self) -> None:
        self.figures = collections.Counter[str]()
        self.bad: list[dict[str, Any]] = []

    def add(self, point: Point, result: dict[str, Any]) -> None:
        figures = self.figures
        figures["points"] += 1
        figures["missed"] += result["name"] < 0 and "wrong" not in result
        for kind in result.get("left", {}):
            figures[kind] += 1
        figures["left something"] += "left" in result
        figures["hang"] += "hang" in result
        figures["wrong status"] += "wrong" in result
        figures["traceback"] += "bug" in result
        figures["interpreter"] += "interpreter" in result
        if {"left", "hang", "wrong", "bug"} & result.keys():
            told = {"point": ":".join(map(str, point)), "call": NAMES.get(result["name"], "?"), **result}
            self.bad.append(told)


COLUMNS = ("points", "missed", *places.KINDS, "hang", "wrong status", "traceback", "interpreter")


def show(report: dict[str, dict[str, Tally]]) -> None:
    """The table: a line for each campaign of each runtime."""
    rows = [("", "", *COLUMNS)]
    for runtime, tallies in report.items():
        total = collections.Counter[str]()
        for name, tally in tallies.items():
            rows.append((runtime, name, *(str(tally.figures[column]) for column in COLUMNS)))
            total.update(tally.figures)
        rows.append((runtime, "all", *(str(total[column]) for column in COLUMNS)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )


def tell(runtime: str, bad: list[dict[str, Any]]) -> None:
    for one in bad:
        parts = [f"left {json.dumps(one['left'])}"] if "left" in one else []
        parts += [f"hang {one['hang']}"] if "hang" in one else []
        parts += one.get("wrong", [])
        parts += ["traceback: " + (one["bug"].splitlines() or [""])[-1]] if "bug" in one else []
        print(
            f"{runtime}: POINTS='{one['point']}' ({one['call']}): {'; '.join(parts)} [status {one['status']}: {one['said'][-160:]}]",
            flush=True,
        )


def runtimes() -> dict[str, str]:
    found = {OURS: str(ROOT / "build/bin/pyrunc")}
    for peer in filter(None, os.environ.get("BENCH_PEERS", "").split(",")):
        name, _, path = peer.partition("=")
        found[name] = path
    return found


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="one fault at a time, at every system call")
    parser.add_argument("--sample", type=int, default=int(os.environ.get("SAMPLE") or 0), metavar="N")
    parser.add_argument("--peer-sample", type=int, default=int(os.environ.get("PEER_SAMPLE") or 0), metavar="N")
    parser.add_argument("--points", nargs="*", default=os.environ.get("POINTS", "").split())
    parser.add_argument("--faults", type=lambda text: text.split(","), default=[*SIGNALS, *ERRNOS, "STOP"])
    parser.add_argument("--verbs", type=lambda text: text.split(","), default=[*VERBS])
    # one more than there are processors: a worker waits for the kernel for a fifth of the time
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)) + 1)
    parser.add_argument("--only", default="", help="this runtime alone")
    parser.add_argument("--output", type=Path, default=ROOT / "build/chaos.json", metavar="FILE")
    return parser.parse_args(words)


def try_all(runtime: str, path: str, asked: argparse.Namespace) -> dict[str, Tally]:
    """Every point that was asked for, with one runtime."""
    tallies: dict[str, Tally] = {}
    workers = Workers(path, asked.workers, hides_unified=runtime == "crun")
    try:
        found = points(workers, asked, is_ours=runtime == OURS)
        chosen = spread(found, asked.sample if runtime == OURS else asked.peer_sample or asked.sample)
        start = time.monotonic()
        for number, (point, result) in enumerate(workers.all(chosen), 1):
            verb = point[0] + (" signals" if point[3] in SIGNALS else " failures" if point[3] in ERRNOS else " stops")
            tally = tallies.setdefault(verb, Tally())
            known = len(tally.bad)
            tally.add(point, result)
            tell(runtime, tally.bad[known:])
            if number % 500 == 0:
                took = time.monotonic() - start
                print(f"{runtime}: {number} of {len(chosen)} points, {took:.0f} s", file=sys.stderr)
    finally:
        workers.close()
    return dict(sorted(tallies.items()))


def main() -> int:
    asked = arguments()
    if os.geteuid():
        raise SystemExit("the campaigns need root")
    places.faults()
    report = {
        name: try_all(name, path, asked) for name, path in runtimes().items() if not asked.only or name == asked.only
    }
    show(report)
    said = {
        runtime: {name: {"figures": tally.figures, "bad": tally.bad} for name, tally in tallies.items()}
        for runtime, tallies in report.items()
    }
    asked.output.write_text(json.dumps(said, indent=1) + "\n")
    ours = report.get(OURS, {})
    return int(any(tally.bad for tally in ours.values()))


if __name__ == "__main__":
    sys.exit(main())
