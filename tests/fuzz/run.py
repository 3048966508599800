"""Run each fuzzer for a while, print what it did, and write down what it found below build/fuzz.

run.py [--seconds 60] [--seed 1] [--only NAME ...] [--inputs N] [--jobs N]
run.py --reproduce FILE     one input of build/fuzz/findings, by its name

As many are run beside each other as there are processors, each in a process of its own, unless --jobs says another number.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT), str(HERE.parent), str(HERE.parent / "fixtures")]

import runtime.kernel  # noqa: E402 - found through the path above

runtime.kernel.__path__.append(str(ROOT / "build/kernel/runtime/kernel"))

import engine  # noqa: E402
import fence  # noqa: E402
import targets  # noqa: E402

OUT = ROOT / "build/fuzz"
#: libFuzzer's, of tests/fuzz/fuzz_NAME.c; runtime/kernel/build.py builds them
NATIVE = ("plan", "walk", "front")
UNLIMITED = 1 << 60


def main() -> int:
    parser = argparse.ArgumentParser(description="run each fuzzer for a while")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inputs", type=int, default=UNLIMITED)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--reproduce", type=Path)
    parser.add_argument("--no-traces", action="store_true")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-head", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if fence.INSIDE in os.environ:
        fence.close()
        work = Path(os.environ[fence.INSIDE][1:]) / "work"
        if arguments.reproduce:
            return again(arguments.reproduce, work)
        (target,) = (one for one in targets.every() if one.name in arguments.only)
        return one(target, work, arguments)
    if arguments.reproduce:
        return reproduce(arguments.reproduce)
    known = [*NATIVE, *(target.name for target in targets.every())]
    if unknown := {*arguments.only}.difference(known):
        parser.error(f"no such fuzzer: {' '.join(sorted(unknown))}; there are {' '.join(known)}")
    names = [name for name in known if not arguments.only or name in arguments.only]
    if not arguments.no_head:
        print(f"{'fuzzer':<14}{'inputs':>9}{'per s':>8}{'lines':>8}{'kept':>6}{'cpu s':>7}{'findings':>10}", flush=True)
    if len(names) == 1:
        return by_itself(names[0], arguments)
    with ThreadPoolExecutor(max(1, arguments.jobs)) as beside:
        return max(beside.map(lambda name: in_a_process(name, arguments), names))


def in_a_process(name: str, arguments: argparse.Namespace) -> int:
    """Run one of them in a process of its own, and print what it said when it has ended; its exit status."""
    done = subprocess.run(
        [sys.executable, __file__, "--only", name, "--no-head", *words_of(arguments)], stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, end="", flush=True)
    return int(done.returncode != 0)


def words_of(arguments: argparse.Namespace) -> list[str]:
    """How long and how, for another process."""
    words = ["--seconds", str(arguments.seconds), "--inputs", str(arguments.inputs), "--seed", str(arguments.seed)]
    return [*words, *(["--no-traces"] if arguments.no_traces else [])]


def by_itself(name: str, arguments: argparse.Namespace) -> int:
    """Run one of them here, or in its fence; whether it found anything."""
    if name in NATIVE:
        return native(name, arguments)
    (target,) = (one for one in targets.every() if one.name == name)
    if target.is_fenced and os.geteuid():
        print(f"{name:<14}{'needs root':>9}")
        return 0
    with place_of(target) as place:
        if not target.is_fenced:
            return one(target, place / "work", arguments)
        status = fence.enter([__file__, "--only", name, *words_of(arguments)], place)
        if (place / "findings").is_dir():
            shutil.copytree(place / "findings", OUT / "findings", dirs_exist_ok=True)
        return int(status != 0)


@contextmanager
def place_of(target: engine.Target) -> Iterator[Path]:
    """A directory for a fuzzer, gone afterwards."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    place = Path(tempfile.mkdtemp(prefix=f"pyrunc-fuzz-{target.name}-", dir=folder))
    (place / "work").mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def told(name: str, inputs: int, rate: float, lines: int | str, kept: int, used: float, findings: int) -> None:
    """A line of the table."""
    print(f"{name:<14}{inputs:>9}{rate:>8.0f}{lines:>8}{kept:>6}{used:>7.0f}{findings:>10}", flush=True)


def native(name: str, arguments: argparse.Namespace) -> int:
    """Run one of libFuzzer's, on what is committed and what was found before."""
    program, grown, found = ROOT / f"build/fuzz-{name}", OUT / f"corpus/{name}", OUT / "findings"
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={max(1, int(arguments.seconds))}"] if arguments.seconds < UNLIMITED else []
    limits += [f"-runs={arguments.inputs}"] if arguments.inputs < UNLIMITED else []
    words = [
        program,
        *limits,
        f"-seed={arguments.seed % 2**31}",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    words += [f"-artifact_prefix={found}/{name}-", grown, engine.CORPUS / name]
    begin, used = time.monotonic(), sum(os.times()[:4])
    done = subprocess.run(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
    inputs = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    reached = re.findall(r" cov: (\d+)", done.stderr)
    count = int(inputs[-1]) if inputs else 0
    rate = count / max(time.monotonic() - begin, 0.001)
    lines, kept = reached[-1] if reached else 0, len(list(grown.iterdir()))
    told(name, count, rate, lines, kept, sum(os.times()[:4]) - used, int(done.returncode != 0))
    if done.returncode:
        print(
            "    "
            + "\n    ".join(
                line for line in done.stderr.splitlines() if "ERROR" in line or "#" in line[:8] or "Test unit" in line
            )
        )
    return int(done.returncode != 0)


def one(target: engine.Target, place: Path, arguments: argparse.Namespace) -> int:
    """Run one of them, and say what it did; whether it found anything."""
    place.mkdir(exist_ok=True)
    used = sum(os.times()[:4])
    report = engine.fuzz(
        target,
        place,
        seconds=arguments.seconds,
        inputs=arguments.inputs,
        seed=arguments.seed,
        traces=not arguments.no_traces,
    )
    rate = report.inputs / max(report.seconds, 0.001)
    used = sum(os.times()[:4]) - used
    told(target.name, report.inputs, rate, report.reached, report.kept, used, len(report.findings))
    for path in engine.save(place.parent / "findings" if fence.INSIDE in os.environ else OUT / "findings", report):
        print(f"    {path.name}: {(path.with_name(path.name + '.txt')).read_text().splitlines()[0][:180]}", flush=True)
    return 1 if report.findings else 0


def target_of(path: Path) -> engine.Target:
    """What an input is for, by its name."""
    (target,) = (one for one in targets.every() if one.name == path.name.rpartition("-")[0])
    return target


def reproduce(path: Path) -> int:
    """Run one input where its fuzzer is run."""
    target = target_of(path)
    with place_of(target) as place:
        given = Path(shutil.copy(path, place))
        return (
            fence.enter([__file__, "--reproduce", str(given)], place)
            if target.is_fenced
            else again(given, place / "work")
        )


def again(path: Path, place: Path) -> int:
    """Run one input, and say what is wrong about it."""
    target, data = target_of(path), path.read_bytes()
    engine.preload()
    target.begin(place)
    try:
        finding = engine.judge(target, data)
    finally:
        target.end()
    print(finding or "nothing wrong")
    return 1 if finding else 0


if __name__ == "__main__":
    sys.exit(main())
