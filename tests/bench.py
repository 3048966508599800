"""`make bench`: pyrunc beside runc and crun, on the configuration that dockerd writes, commands interleaved in one run.

    bench.py [--runs 30] [--only SCENARIO] [--driver systemd] [--scopes 500] [--pause 0.05]
    RUNS=30 CGROUP_MANAGER=systemd SCOPES=500 PAUSE=0.05 BENCH_PEERS=name=/path,... in the environment say the same

The driver is the maker of cgroups: cgroupfs, each runtime by itself, or systemd. With `scopes`, systemd has so many others already.

Before each container there is a pause. A process that is moved from one cgroup to another, which is what systemd does with each
container's first, waits for a grace period of RCU: 10 to 20 ms, or none at all when somebody else's has just begun. Without a pause
whoever comes after a runtime that moves processes has for nothing what it would have to wait for by itself.

In every round each runtime does each scenario once, in an order that rotates, so that whatever else the machine does falls
on all of them. Commands are started with posix_spawn and collected with wait4; detached containers become our children, so
that their end is waited for and not polled. All of it happens in a mount namespace of its own without
/sys/fs/cgroup/unified, since crun takes a hybrid hierarchy whose cgroup2 has a controller for a pure one.

Prints a table and writes build/bench.json: {driver, scopes, scenarios: {scenario: {runtime: {median_ms | bytes, min, max, runs},
ratios: {peer: x}}}}, where a ratio is pyrunc's median over the peer's. Needs root.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OURS = "pyrunc"
BASELINE = "python -I -S"
CONTAINERS, WORKERS = 200, 4
#: what is about them, where they cannot be had
NEED_LIMITS = ("smallest memory limit",)

sys.path.append(str(ROOT / "tests/fixtures"))
sys.path.append(str(ROOT / "tests"))
import mkrootfs  # noqa: E402 - found through the path above
import older  # noqa: E402 - found through the path above
from bench_places import docker_like, install, mkpeak, scopes  # noqa: E402 - found through the path above
from features import has  # noqa: E402 - found through the path above


def main() -> int:
    parser = argparse.ArgumentParser(description="measure pyrunc and its peers")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or 30))
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO")
    parser.add_argument("--without", action="append", default=[], metavar="RUNTIME")
    parser.add_argument(
        "--driver", choices=("cgroupfs", "systemd"), default=os.environ.get("CGROUP_MANAGER") or "cgroupfs"
    )
    parser.add_argument("--scopes", type=int, default=int(os.environ.get("SCOPES") or 0), metavar="N")
    parser.add_argument("--pause", type=float, default=float(os.environ.get("PAUSE") or 0.05), metavar="S")
    parser.add_argument("--output", type=Path, default=ROOT / "build/bench.json", metavar="FILE")
    parser.add_argument("--install", action="store_true", help="measure an installation on the disk of /tmp")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        if os.geteuid():
            raise SystemExit("the bench needs root")
        unshare = [
            shutil.which("unshare", path=PATH) or "unshare",
            "--mount",
            "--propagation",
            "private",
            sys.executable,
            __file__,
            "--inside",
            *sys.argv[1:],
        ]
        return subprocess.run([*_pretending(), *unshare]).returncode
    if os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER

    place = Path(tempfile.mkdtemp(prefix="pyrunc-bench-", dir="/tmp"))
    place.chmod(0o755)
    options = ["--systemd-cgroup"] if arguments.driver == "systemd" else []
    try:
        found = {name: path for name, path in find().items() if name not in arguments.without}
        if arguments.install:
            found[OURS] = install(place)
        runtimes = [Runtime(name, path, place, options) for name, path in found.items()]
        with scopes(arguments.scopes, progress):
            bench = Bench(runtimes, place, arguments.runs, arguments.only, arguments.pause)
            bench.measure()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report = bench.report()
    others = f", with {arguments.scopes} other scopes" if arguments.scopes else ""
    limits = "" if has("limits") else ", without limits, of which there are none here"
    print(f"cgroups by {arguments.driver}{others}{limits}")
    show(report, list(found))
    said = {"driver": arguments.driver, "scopes": arguments.scopes, "scenarios": report}
    arguments.output.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def _pretending() -> list[str]:
    """What goes in front of all of it where crun could make no container: on v2 it raises a limit, and root may not everywhere."""
    return older.pretends_memlock() if has("cgroup-v2") and not has("cap-sys-resource") else []


def find() -> dict[str, str]:
    """Our runtime and the peers, by name."""
    found = {OURS: str(ROOT / "build/bin/pyrunc")}
    for name in ("runc", "crun"):
        path = shutil.which(name, path=PATH)
        if path:
            found[name] = path
    for peer in filter(None, os.environ.get("BENCH_PEERS", "").split(",")):
        name, _, path = peer.partition("=")
        found[name] = path
    for name, path in found.items():
        if not os.access(path, os.X_OK):
            raise SystemExit(f"{name}: {path} is not executable")
    return found


class Runtime:
    """One runtime: its words, how they are started, and how long they took."""

    def __init__(self, name: str, path: str, place: Path, options: list[str]) -> None:
        self.name = name
        self.log = place / f"{name}.log"
        #: ids are names of cgroups too, where all runtimes and whoever else is at work must be told apart
        self.id = f"bench{os.getpid()}-{name}-"
        self.sleeper = self.id + "sleeper"
        self.prefix = [path, "--root", str(place / f"{name}.state"), *options]
        null = os.open("/dev/null", os.O_RDWR)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.files = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]

    def __call__(self, *words: str | Path, may_fail: bool = False) -> float:
        """Run one command; how long it took, in milliseconds."""
        return self.spawn([*self.prefix, *map(str, words)], may_fail)[0]

    def spawn(self, argv: list[str], may_fail: bool = False) -> tuple[float, int]:
        start = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, {"PATH": PATH}, file_actions=self.files)
        _, status, _ = os.wait4(pid, 0)
        took = (time.perf_counter() - start) * 1000
        if status and not may_fail:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:] or ["no word"]
            raise SystemExit(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}: {last[0]}")
        return took, status


class Bench:
    def __init__(self, runtimes: list[Runtime], place: Path, runs: int, only: list[str], pause_s: float) -> None:
        self.runtimes, self.place, self.runs, self.only, self.pause_s = runtimes, place, runs, only, pause_s
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.numbers = iter(range(1 << 30))
        self.bundle = place / "bundle"
        mkrootfs.bundle(self.bundle, **docker_like(place))
        self.sleeper = place / "sleeper"
        self.sleeper.mkdir()
        (self.sleeper / "rootfs").symlink_to(self.bundle / "rootfs")
        self.write(self.sleeper, args=["/bin/sleep", "100000"])
        self.peak = mkpeak()

    def write(self, bundle: Path, *, args: list[str] | None = None, limit: int = 0) -> None:
        config = docker_like(self.place)
        config["root"]["path"] = str(self.bundle / "rootfs")
        if args:
            config["process"]["args"] = args
        if limit:
            config["linux"]["resources"]["memory"] = {"limit": limit}
        (bundle / "config.json").write_text(json.dumps(config))

    def add(self, scenario: str, runtime: str, value: float) -> None:
        self.samples.setdefault(scenario, {}).setdefault(runtime, []).append(value)

    def wanted(self, *scenarios: str) -> bool:
        if scenarios[0] in NEED_LIMITS and not has("limits"):
            return False
        return not self.only or any(name in self.only for name in scenarios)

    # -- scenarios -----------------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Every scenario, interleaved; the first round only warms the machine up."""
        for runtime in self.runtimes:
            runtime("create", "--bundle", self.sleeper, runtime.sleeper)
            runtime("start", runtime.sleeper)
        try:
            for number in range(self.runs + 1):
                shift = number % len(self.runtimes)
                for runtime in self.runtimes[shift:] + self.runtimes[:shift]:
                    self.round(runtime)
                if number == 0:
                    self.samples.clear()
                progress(f"round {number} of {self.runs}")
        finally:
            for runtime in self.runtimes:
                runtime("delete", "--force", runtime.sleeper, may_fail=True)
        if self.wanted("parallel"):
            for _ in range(3):
                for runtime in self.runtimes:
                    self.parallel(runtime)
        if self.wanted("smallest memory limit"):
            for runtime in self.runtimes:
                self.smallest(runtime)
        progress("")

    def round(self, runtime: Runtime) -> None:
        """Each of the quick scenarios once."""
        if runtime.name == OURS and self.wanted("interpreter"):
            with open(runtime.prefix[0], "rb") as launcher:
                first = launcher.readline()
            python = first[2:].split()[0].decode() if first[:2] == b"#!" else sys.executable
            self.add("interpreter", BASELINE, runtime.spawn([python, "-I", "-S", "-c", "pass"])[0])
        if self.wanted("run"):
            time.sleep(self.pause_s)
            self.add("run", runtime.name, runtime("run", "--bundle", self.bundle, f"{runtime.id}r{next(self.numbers)}"))
        if self.wanted("exec"):
            self.add("exec", runtime.name, runtime("exec", runtime.sleeper, "/bin/true"))
        if self.wanted("state"):
            self.add("state", runtime.name, runtime("state", runtime.sleeper))
        if self.wanted("kill"):
            self.add("kill", runtime.name, runtime("kill", runtime.sleeper, "CONT"))
        if self.wanted("create+start+wait+delete", "create", "start", "delete"):
            time.sleep(self.pause_s)
            times = self.cycle(runtime)
            self.add("create+start+wait+delete", runtime.name, times.pop("all"))
            for name, value in times.items():
                self.add(name, runtime.name, value)
        if self.wanted("create: peak memory", "waiting init: resident", "waiting init: private", "own cgroup: charged"):
            self.memory(runtime)

    def cycle(self, runtime: Runtime) -> dict[str, float]:
        """The life of a container as an engine lives it."""
        id_, pid_file = f"{runtime.id}c{next(self.numbers)}", self.place / f"pid-{threading.get_ident()}"
        times = {}
        begin = time.perf_counter()
        times["create"] = runtime("create", "--bundle", self.bundle, "--pid-file", pid_file, id_)
        pid = int(pid_file.read_text())
        times["start"] = runtime("start", id_)
        os.waitpid(pid, 0)
        times["delete"] = runtime("delete", id_)
        times["all"] = (time.perf_counter() - begin) * 1000
        return times

    def memory(self, runtime: Runtime) -> None:
        """What `create` takes at most, and what a container that waits for start holds."""
        id_, pid_file, peak = f"{runtime.id}m{next(self.numbers)}", self.place / "pid", self.place / "peak.out"
        create = ["create", "--bundle", str(self.sleeper), "--pid-file", str(pid_file), id_]
        runtime.spawn([str(self.peak), str(peak), *runtime.prefix, *create])
        self.add("create: peak memory", runtime.name, int(peak.read_text()))
        pid = int(pid_file.read_text())
        rollup = dict(re.findall(r"^(\w+):\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
        self.add("waiting init: resident", runtime.name, int(rollup["Rss"]) * 1024)
        private = int(rollup["Private_Clean"]) + int(rollup["Private_Dirty"])
        self.add("waiting init: private", runtime.name, private * 1024)
        if has("limits"):
            self.add("own cgroup: charged", runtime.name, charged(pid))
        runtime("delete", "--force", id_)
        os.waitpid(pid, 0)

    def parallel(self, runtime: Runtime) -> None:
        """CONTAINERS lives through WORKERS threads."""
        todo, lock = iter(range(CONTAINERS)), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    if next(todo, None) is None:
                        return
                self.cycle(runtime)

        threads = [threading.Thread(target=work) for _ in range(WORKERS)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.add("parallel", runtime.name, (time.perf_counter() - start) * 1000)
        progress(f"{CONTAINERS} containers of {runtime.name}")

    def smallest(self, runtime: Runtime) -> None:
        """The smallest memory limit with which a container runs /bin/true."""
        bundle = self.place / "small"
        bundle.mkdir(exist_ok=True)
        for limit in (256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 6 << 20, 8 << 20, 16 << 20):
            self.write(bundle, limit=limit)
            id_ = f"{runtime.id}s{next(self.numbers)}"
            _, status = runtime.spawn([*runtime.prefix, "run", "--bundle", str(bundle), id_], may_fail=True)
            runtime("delete", "--force", id_, may_fail=True)
            if status == 0:
                self.add("smallest memory limit", runtime.name, limit)
                return

    # -- results -------------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """bench.json."""
        report: dict[str, Any] = {}
        for scenario, runtimes in self.samples.items():
            key = "bytes" if ":" in scenario or "memory" in scenario else "median_ms"
            entry: dict[str, Any] = {}
            for name, values in runtimes.items():
                numbers = {key: statistics.median(values), "min": min(values), "max": max(values)}
                entry[name] = {name: round(value, 3) for name, value in numbers.items()} | {"runs": len(values)}
            ours = entry.get(OURS, {}).get(key)
            if ours:
                peers = {name: numbers[key] for name, numbers in entry.items() if name != OURS}
                entry["ratios"] = {name: round(ours / value, 3) for name, value in peers.items() if value}
            report[scenario] = entry
        return report


def charged(pid: int) -> int:
    """The memory that the cgroup of a process is charged for."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return int(Path(f"/sys/fs/cgroup/memory{path}/memory.usage_in_bytes").read_text())
        if number == "0" and Path(f"/sys/fs/cgroup{path}/memory.current").exists():
            return int(Path(f"/sys/fs/cgroup{path}/memory.current").read_text())
    return 0


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(report: dict[str, Any], names: list[str]) -> None:
    """The table: medians, and in brackets what ours is of the peer's."""

    def cells(scenario: str, entry: dict[str, Any]) -> Iterator[str]:
        for name in names:
            numbers = entry.get(name)
            if numbers is None:
                yield "-"
                continue
            text = f"{numbers['median_ms']:.2f} ms" if "median_ms" in numbers else f"{numbers['bytes'] / 1024:.0f} kB"
            ratio = entry.get("ratios", {}).get(name)
            yield text + (f" (x{ratio:.2f})" if ratio else "")

    rows = [(scenario, *cells(scenario, entry)) for scenario, entry in report.items() if scenario != "interpreter"]
    table = [("", *names), *rows]
    width_of: Callable[[int], int] = lambda column: max(len(row[column]) for row in table)  # noqa: E731
    widths = [width_of(column) for column in range(len(table[0]))]
    for row in table:
        print(
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
        )
    base = report.get("interpreter", {}).get(BASELINE)
    if base:
        print(f"\n{BASELINE} -c pass: {base['median_ms']:.2f} ms; above that, pyrunc:")
        for scenario in ("state", "start", "kill", "delete"):
            if OURS in report.get(scenario, {}):
                print(f"  {scenario:8} {report[scenario][OURS]['median_ms'] - base['median_ms']:.2f} ms")


if __name__ == "__main__":
    sys.exit(main())
