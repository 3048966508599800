"""Run each fuzzer for a while, print what it did, and write down what it found below build/fuzz.

run.py [--seconds 60] [--seed 1] [--only NAME ...] [--inputs N] [--grow]
run.py --reproduce FILE     one input of build/fuzz/findings, by its name
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
    wrong = 0
    print(f"{'fuzzer':<14}{'inputs':>9}{'per s':>8}{'lines':>8}{'kept':>6}{'findings':>10}")
    for name in NATIVE:
        if not arguments.only or name in arguments.only:
            wrong += native(name, arguments)
    for target in targets.every():
        if arguments.only and target.name not in arguments.only:
            continue
        if target.is_fenced and os.geteuid():
            print(f"{target.name:<14}{'needs root':>9}")
            continue
        with place_of(target) as place:
            if target.is_fenced:
                words = [
                    __file__,
                    "--seconds",
                    str(arguments.seconds),
                    "--inputs",
                    str(arguments.inputs),
                    "--seed",
                    str(arguments.seed),
                ]
                words += ["--only", target.name, *(["--no-traces"] if arguments.no_traces else [])]
                wrong += fence.enter(words, place) != 0
                if (place / "findings").is_dir():
                    shutil.copytree(place / "findings", OUT / "findings", dirs_exist_ok=True)
            else:
                wrong += one(target, place / "work", arguments)
    return 1 if wrong else 0


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
    begin = time.monotonic()
    done = subprocess.run(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
    inputs = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
    reached = re.findall(r" cov: (\d+)", done.stderr)
    count = int(inputs[-1]) if inputs else 0
    rate = count / max(time.monotonic() - begin, 0.001)
    print(
        f"{name:<14}{count:>9}{rate:>8.0f}{reached[-1] if reached else 0:>8}{len(list(grown.iterdir())):>6}{int(done.returncode != 0):>10}",
        flush=True,
    )
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
    report = engine.fuzz(
        target,
        place,
        seconds=arguments.seconds,
        inputs=arguments.inputs,
        seed=arguments.seed,
        traces=not arguments.no_traces,
    )
    rate = report.inputs / max(report.seconds, 0.001)
    print(
        f"{target.name:<14}{report.inputs:>9}{rate:>8.0f}{report.reached:>8}{report.kept:>6}{len(report.findings):>10}",
        flush=True,
    )
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
