"""Give the same configurations and commands to pyrunc and its peers, and hold what shows of it against each other.

    run.py [--cases 300] [--seed 1] [--only NUMBER] [--peer NAME=PATH] [--sample]
    run.py --show NUMBER        print the configuration and the commands of a case
    run.py --record FILE        keep every fact, for
    run.py --replay FILE        the comparison alone, with the table of now

Everything happens in mount and pid namespaces of its own, where /sys/fs/cgroup/unified is not mounted: crun takes a hybrid
hierarchy whose cgroup2 has a controller for a pure one. A difference must be explained by `differences.toml`, and an entry there that
explains nothing is wrong too, unless only a sample is run. Needs root.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests/fixtures")]

import cases  # noqa: E402 - found through the path above
import explained  # noqa: E402
import programs  # noqa: E402
import runtimes  # noqa: E402
import unshared  # noqa: E402

#: what `make differential` runs, and what the table is complete for
CASES, SEED = 300, 1


def main() -> int:
    parser = argparse.ArgumentParser(description="compare pyrunc with its peers on generated configurations")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, action="append", default=[], metavar="NUMBER")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--ours", default=os.environ.get("PYRUNC", str(ROOT / "build/bin/pyrunc")), metavar="PATH")
    parser.add_argument("--sample", action="store_true", help="an entry that explains nothing is not wrong")
    parser.add_argument("--show", type=int, metavar="NUMBER")
    parser.add_argument("--facts", action="store_true", help="print every fact of every runtime")
    parser.add_argument("--progress", action="store_true", help="say how long each case took")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep every fact, for --replay")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="compare what was recorded again, with the table of now"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.show is not None:
        show(cases.make(arguments.seed, arguments.show))
        return 0
    if arguments.replay:
        return replay(arguments)
    if os.geteuid():
        raise SystemExit("the comparison needs root")
    if not arguments.inside:
        return unshared.run([__file__, "--inside", *sys.argv[1:]])
    return compare(arguments)


def compare(arguments: argparse.Namespace) -> int:
    # cgroups have fixed names
    lock = os.open("/run/pyrunc-differential.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    found = runtimes.programs(arguments.ours) | dict(peer.split("=", 1) for peer in arguments.peer)
    table = explained.Table(HERE / "differences.toml", found)
    base = Path(tempfile.mkdtemp(prefix="pyrunc-differential-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", base], check=True)
    # crun gives the host's own to the container's user, where that is its input
    subprocess.run(["mknod", "-m", "666", base / "null", "c", "1", "3"], check=True)
    subprocess.run(["mount", "--bind", base / "null", "/dev/null"], check=True)
    # so that the propagation of what is bound from here shows
    subprocess.run(["mount", "--make-shared", base], check=True)
    begin = time.monotonic()
    try:
        probe = make_probe(base)
        all_ = [runtimes.Runtime(name, path, base) for name, path in found.items()]
        for number in arguments.only or range(arguments.first, arguments.first + arguments.cases):
            started = time.monotonic()
            found_of = one(cases.make(arguments.seed, number), all_, probe, table)
            if arguments.record:
                with arguments.record.open("a") as file:
                    file.write(json.dumps([arguments.seed, number, found_of]) + "\n")
            if arguments.facts:
                for name, facts in found_of.items():
                    print(f"{name}:", *(f"  {fact}: {value}" for fact, value in facts.items()), sep="\n")
            if arguments.progress:
                print(f"case {number}: {time.monotonic() - started:.2f} s", file=sys.stderr, flush=True)
    finally:
        subprocess.run(["umount", "-l", base], check=False)
        base.rmdir()
    wrong = table.report(is_whole=not (arguments.sample or arguments.only or arguments.first))
    print(f"{table.cases} cases of {', '.join(found)} in {time.monotonic() - begin:.0f} s: {table.compared} facts compared, "
          f"{table.explained} differences explained, {wrong} not")  # fmt: skip
    return 1 if wrong else 0


def one(
    case: cases.Case, all_: list[runtimes.Runtime], probe: Path, table: explained.Table
) -> dict[str, dict[str, str]]:
    """A case by each runtime that knows its fields, ours first; the facts by the runtime's name."""
    table.cases += 1
    found = {all_[0].name: all_[0].go(case, probe)}
    for peer in all_[1:]:
        if not table.leaves_out(peer.name, case):
            found[peer.name] = peer.go(case, probe)
            table.compare(peer.name, case, found[all_[0].name], found[peer.name])
    return found


def replay(arguments: argparse.Namespace) -> int:
    """The comparison alone, of facts that were recorded."""
    programs = runtimes.programs(arguments.ours)
    table = explained.Table(HERE / "differences.toml", programs)
    for line in arguments.replay.read_text().splitlines():
        seed, number, found_of = json.loads(line)
        case = cases.make(seed, number)
        table.cases += 1
        ours, *peers = programs
        for name in peers:
            if not table.leaves_out(name, case) and name in found_of:
                table.compare(name, case, found_of[ours], found_of[name])
    return 1 if table.report(is_whole=not arguments.sample) else 0


def make_probe(base: Path) -> Path:
    """The tests' own program, on the filesystem of the bundles, which have it by a link."""
    made = base / "probe"
    shutil.copy(programs.compiled(ROOT / "tests/fixtures/probe.c"), made)
    return made


def show(case: cases.Case) -> None:
    print(case.text("@PLACE@"))
    print("fields:", *case.fields)
    print(
        "caller:", f"umask {case.umask:04o}", f"ignores {case.ignored}", f"{case.descriptors} descriptors", case.environ
    )
    for command in case.commands:
        print("$", *command)


if __name__ == "__main__":
    sys.exit(main())
