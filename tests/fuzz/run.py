"""Run each fuzzer for a while, print what it did, and write down what it found below build/fuzz.

run.py [--seconds 60] [--seed 1] [--only NAME ...] [--inputs N] [--jobs N] [--grow] [--until 3600] [--engine atheris]
run.py --reproduce FILE     one input of build/fuzz/findings, by its name
run.py --distil [--only NAME ...]   of all that was reached what is worth to be committed, to build/fuzz/distilled

As many are run beside each other as there are processors, each in a process of its own, unless --jobs says another number. With --grow
each goes on where its last run was, and keeps for the next one what it reaches; with --until it does so until all its runs have taken
that many seconds of a processor. With --engine atheris it is those in Python whose inputs are read in one process, under Atheris.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT), str(HERE.parent), str(HERE.parent / "fixtures")]

import runtime.kernel  # noqa: E402 - found through the path above

runtime.kernel.__path__.append(str(ROOT / "build/kernel/runtime/kernel"))

import distil  # noqa: E402
import engine  # noqa: E402
import fence  # noqa: E402
import targets  # noqa: E402
from memory import PACKED, Memory, pack, unpack  # noqa: E402

OUT = ROOT / "build/fuzz"
#: libFuzzer's, of tests/fuzz/fuzz_NAME.c; runtime/kernel/build.py builds them
NATIVE = ("plan", "walk", "front")
UNLIMITED = 1 << 60
#: libFuzzer does not say what it has spent before its end
_SLICE_S = 300


def main() -> int:
    parser = argparse.ArgumentParser(description="run each fuzzer for a while")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inputs", type=int, default=UNLIMITED)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--reproduce", type=Path)
    parser.add_argument("--no-traces", action="store_true")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--until", type=float, default=0.0)
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    parser.add_argument("--no-head", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.grow |= bool(arguments.until)
    if arguments.until and arguments.seconds == parser.get_default("seconds"):
        arguments.seconds = UNLIMITED
    if fence.INSIDE in os.environ:
        fence.close(OUT)
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
    if arguments.engine == "atheris":
        seen = {target.name for target in targets.every() if not target.is_fenced}
        names = [name for name in names if name in seen]
    if arguments.until:
        names = [name for name in names if Memory(OUT, name).spent()[1] < arguments.until]
    if not arguments.no_head and not arguments.distil:
        head = f"{'fuzzer':<14}{'inputs':>9}{'per s':>8}{'lines':>8}{'kept':>6}{'cpu s':>7}{'findings':>10}"
        print(f"{head}{'in all':>12}{'cpu s':>7}" if arguments.grow else head, flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    if len(names) == 1:
        return by_itself(names[0], arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    running: set[subprocess.Popen[str]] = set()
    with ThreadPoolExecutor(max(1, arguments.jobs)) as beside:
        try:
            return max(beside.map(lambda name: in_a_process(name, arguments, running), names), default=0)
        except BaseException:
            beside.shutdown(wait=False, cancel_futures=True)
            for program in running:
                program.terminate()
            raise


def in_a_process(name: str, arguments: argparse.Namespace, running: set[subprocess.Popen[str]]) -> int:
    """Run one of them in a process of its own, and print what it said when it has ended; its exit status."""
    words = [sys.executable, __file__, "--only", name, "--no-head", *words_of(arguments)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        running.add(program)
        said, _ = program.communicate()
        running.discard(program)
    print(said, end="", flush=True)
    return int(program.returncode != 0)


def words_of(arguments: argparse.Namespace) -> list[str]:
    """How long and how, for another process."""
    words = ["--seconds", str(arguments.seconds), "--inputs", str(arguments.inputs), "--seed", str(arguments.seed)]
    words += ["--until", str(arguments.until), "--engine", arguments.engine]
    flags = {"--no-traces": arguments.no_traces, "--grow": arguments.grow, "--distil": arguments.distil}
    return [*words, *(flag for flag, is_on in flags.items() if is_on)]


def by_itself(name: str, arguments: argparse.Namespace) -> int:
    """Run one of them here, or in its fence; whether it found anything."""
    if name in NATIVE:
        if arguments.distil:
            return native_distilled(name)
        return native(name, arguments, [ROOT / f"build/fuzz-{name}"], [engine.CORPUS / name])
    (target,) = (one for one in targets.every() if one.name == name)
    if target.is_fenced and os.geteuid():
        print(f"{name:<14}{'needs root':>9}")
        return 0
    with place_of(target) as place:
        if not target.is_fenced:
            is_seen = arguments.engine == "atheris" and not arguments.distil
            return (with_atheris if is_seen else one)(target, place / "work", arguments)
        return int(fence.enter([__file__, "--only", name, *words_of(arguments)], place) != 0)


@contextmanager
def place_of(target: engine.Target) -> Iterator[Path]:
    """A directory for a fuzzer, gone afterwards."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    place = Path(tempfile.mkdtemp(prefix=f"pyrunc-fuzz-{target.name}-", dir=folder))
    (place / "work").mkdir()

    def ended(number: int, frame: object) -> None:
        # not as an exception: what is being tried may catch every one
        shutil.rmtree(place, ignore_errors=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, ended)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def told(
    name: str, inputs: int, rate: float, lines: int | str, kept: int, used: float, findings: int, memory: Memory | None
) -> None:
    """A line of the table."""
    in_all = "{:>12}{:>7.0f}".format(*memory.spent()) if memory else ""
    print(f"{name:<14}{inputs:>9}{rate:>8.0f}{lines:>8}{kept:>6}{used:>7.0f}{findings:>10}{in_all}", flush=True)


def distilled(target: engine.Target, place: Path) -> int:
    """Write down what is worth to be committed."""
    kept = Memory(OUT, target.name).kept()
    taken = distil.distil(target, place, kept)
    folder = OUT / "distilled" / target.name
    folder.mkdir(parents=True, exist_ok=True)
    before = engine.CORPUS / target.name / PACKED
    pack(folder / PACKED, [*(unpack(before) if before.exists() else []), *taken])
    print(f"{target.name:<14}{len(taken)} of {len(kept)} inputs, {sum(map(len, taken))} bytes", flush=True)
    return 0


def native(name: str, arguments: argparse.Namespace, program: Sequence[str | Path], folders: Sequence[Path]) -> int:
    """Run one of libFuzzer's, or one under Atheris, on what was reached before and what else there is to begin with."""
    if not arguments.grow:
        with tempfile.TemporaryDirectory(prefix="pyrunc-fuzz-") as place:
            return sliced(name, arguments, program, folders, Memory(Path(place), name))
    return sliced(name, arguments, program, folders, Memory(OUT, name))


def sliced(
    name: str, arguments: argparse.Namespace, program: Sequence[str | Path], folders: Sequence[Path], memory: Memory
) -> int:
    """The same, with what it remembers: one run after the other until its time is over, since only its end says what it has done."""
    (OUT / "findings").mkdir(parents=True, exist_ok=True)
    begin, used, count, findings = time.monotonic(), sum(os.times()[:4]), 0, list[str]()
    while True:
        seconds = min(arguments.seconds - (time.monotonic() - begin), _SLICE_S)
        if arguments.until:
            seconds = min(seconds, arguments.until - memory.spent()[1])
        try:
            done = libfuzzer(name, max(1, int(seconds)), arguments, memory, program, folders)
            inputs = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
            count += int(inputs[-1]) if inputs else 0
        finally:
            memory.note(count)
        findings += re.findall(r"(?m)^finding: (.*)", done.stderr)
        is_over = time.monotonic() - begin > arguments.seconds - 1 or (0 < arguments.until <= memory.spent()[1] + 1)
        if done.returncode or is_over or arguments.inputs < UNLIMITED:
            break
    if done.returncode:
        lines_said = done.stderr.splitlines()
        findings += [line for line in lines_said if "ERROR" in line or "#" in line[:8] or "Test unit" in line]
    reached = re.findall(r" cov: (\d+)", done.stderr)
    rate = count / max(time.monotonic() - begin, 0.001)
    lines, kept, used = reached[-1] if reached else 0, len(memory.kept()), sum(os.times()[:4]) - used
    told(name, count, rate, lines, kept, used, len(findings), memory if arguments.grow else None)
    print("".join(f"    {line}\n" for line in findings), end="", flush=True)
    return int(bool(findings or done.returncode))


def native_distilled(name: str) -> int:
    """What of libFuzzer's corpus is worth to be committed."""
    folder = OUT / "distilled" / name
    folder.mkdir(parents=True, exist_ok=True)
    words = [ROOT / f"build/fuzz-{name}", "-set_cover_merge=1", folder, Memory(OUT, name).corpus]
    return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode


def libfuzzer(
    name: str,
    seconds: int,
    arguments: argparse.Namespace,
    memory: Memory,
    program: Sequence[str | Path],
    folders: Sequence[Path],
) -> subprocess.CompletedProcess[str]:
    """Its program, for so long; it ends with us."""
    limits = [f"-max_total_time={seconds}"]
    limits += [f"-runs={arguments.inputs}"] if arguments.inputs < UNLIMITED else []
    # another one for each slice, and the same ones in each run with that seed
    limits += [f"-seed={(arguments.seed + memory.spent()[0]) % 2**31}"]
    limits += ["-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={OUT}/findings/{name}-"]
    words = [*program, *limits, memory.corpus, *folders]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    ) as running:

        def ended(number: int, frame: object) -> None:
            running.kill()
            sys.exit(128 + number)

        before = signal.signal(signal.SIGTERM, ended)
        try:
            said = running.communicate()[1]
        finally:
            signal.signal(signal.SIGTERM, before)
    return subprocess.CompletedProcess(words, running.returncode, "", said)


def with_atheris(target: engine.Target, place: Path, arguments: argparse.Namespace) -> int:
    """Run one of those in Python under Atheris."""
    program = [sys.executable, HERE / "with_atheris.py", target.name, place]
    return native(target.name, arguments, program, [])


def one(target: engine.Target, place: Path, arguments: argparse.Namespace) -> int:
    """Run one of them, and say what it did; whether it found anything."""
    place.mkdir(exist_ok=True)
    if arguments.distil:
        return distilled(target, place)
    used = sum(os.times()[:4])
    memory = Memory(OUT, target.name) if arguments.grow else None
    report = engine.fuzz(
        target,
        place,
        seconds=arguments.seconds,
        inputs=arguments.inputs,
        seed=arguments.seed,
        traces=not arguments.no_traces,
        memory=memory,
        until=arguments.until or UNLIMITED,
        found=lambda report: engine.save(OUT / "findings", report),
    )
    rate = report.inputs / max(report.seconds, 0.001)
    used = sum(os.times()[:4]) - used
    told(target.name, report.inputs, rate, report.reached, report.kept, used, len(report.findings), memory)
    for path in engine.save(OUT / "findings", report):
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
