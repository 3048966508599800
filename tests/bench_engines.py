"""The second half of `make bench`: pyrunc and its shims beside the peers', under containerd, dockerd and Podman from Debian.

    bench_engines.py [--runs 30] [--only SCENARIO]

Each engine runs in a lab of its own (tests/engines/lab.py), without cgroup v2 beside v1, which Debian's crun refuses. "pyrunc"
is our shim with our runtime, "runc" and "crun" are the engine's own with those; only dockerd of Debian bookworm knows no other
shim than its own, so that dockerd of trixie is measured too (tests/engines/newer.py). Adds to build/bench.json what bench.py has
written there, in its form; memory is unique memory (USS), in bytes. An engine that cannot be installed is left out. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/engines"), str(ROOT / "tests/fixtures")]

import images  # noqa: E402 - found through the path above
import newer  # noqa: E402
import pytest  # noqa: E402
from containerd_lab import REACHES, Containerd  # noqa: E402
from docker_lab import SHIM, Dockerd  # noqa: E402
from lab import BUILD, Lab, until  # noqa: E402
from podman_lab import BB, Machine  # noqa: E402

OURS = newer.binaries() / "pyrunc"
PEERS = {name: path for name in ("runc", "crun") if (path := shutil.which(name, path="/usr/sbin:/usr/bin"))}
GIB = 1 << 30
Samples = dict[str, dict[str, list[float]]]


def main() -> int:
    parser = argparse.ArgumentParser(description="measure engines with pyrunc and its peers")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS") or 30))
    parser.add_argument("--only", action="append", default=[], choices=list(SCENARIOS))
    arguments = parser.parse_args()
    report_file = BUILD / "bench.json"
    report: dict[str, Any] = json.loads(report_file.read_text()) if report_file.exists() else {}
    scenarios = report.setdefault("scenarios", {})
    for name, measure in SCENARIOS.items():
        if arguments.only and name not in arguments.only:
            continue
        try:
            with Lab(omit=["unified"], tree=newer.tree()) as lab:
                samples = measure(lab, arguments.runs)
        except pytest.skip.Exception as error:
            print(f"{name}: left out, {error}")
            continue
        for scenario, runtimes in samples.items():
            scenarios[scenario] = entry(scenario, runtimes)
            show(scenario, scenarios[scenario])
    report_file.write_text(json.dumps(report, indent=1) + "\n")
    if not newer.wanted() and (not arguments.only or "docker" in arguments.only):
        # of Debian bookworm's dockerd the shim is always containerd's
        words = [sys.executable, __file__, "--runs", str(arguments.runs), "--only", "docker"]
        return subprocess.run(words, env={**os.environ, "ENGINES": newer.RELEASE}, check=False).returncode
    return 0


def timed(
    lab: Lab, runs: int, commands: dict[str, list[str]], env: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """Commands of the lab, interleaved."""
    plan = lab.dir / "timing.json"
    plan.write_text(json.dumps({"rounds": runs, "env": env or {}, "commands": commands}))
    script = ROOT / "tests/engines/timing.py"
    found: dict[str, list[float]] = lab.run(
        f"/usr/bin/python{newer.PYTHON}" if newer.wanted() else sys.executable, "-I", script, plan, timeout=1800
    ).json()
    return found


# -- containerd ------------------------------------------------------------------------------------------------------------


def containerd(lab: Lab, runs: int) -> Samples:
    """ctr run, throughput of output, and memory of shims."""
    ctrd = Containerd(lab, OURS)
    image = images.bb()
    ctrd.load(image)
    ctr = ["ctr", "--address", str(ctrd.address)]
    choices = {"pyrunc": ["--runtime", REACHES["pyrunc.v2"]]}
    for name, path in PEERS.items():
        choices[name] = ["--runtime", REACHES["runc.v2"], "--runc-binary", path]
    run = {n: [*ctr, "run", "--rm", *c, image.name, n + "{n}", "/bin/true"] for n, c in choices.items()}
    pour = {
        n: [*ctr, "run", "--rm", *c, image.name, n + "o{n}", "/bin/dd", "if=/dev/zero", "bs=1M", f"count={GIB >> 20}"]
        for n, c in choices.items()
    }
    samples: Samples = {"ctr run --rm": timed(lab, runs, run), "ctr run: 1 GiB of output, ms": timed(lab, 3, pour)}
    samples["ten idle containers: memory of shims"] = {}
    for name, choice in choices.items():
        ids = [f"idle-{name}-{number}" for number in range(10)]
        for id_ in ids:
            ctrd.ctr("run", "-d", *choice, image.name, id_, "/bin/sleep", "1000")
        settle(lab, len(ids))
        samples["ten idle containers: memory of shims"][name] = [shims(lab)]
        for id_ in ids:
            remove(ctrd, id_)
        until(lambda: not shim_pids(lab), f"end of the shims of {name}")
    samples["a further container of a pod: memory"] = pod(ctrd, lab, image, choices)
    ctrd.stop()
    return samples


def pod(ctrd: Containerd, lab: Lab, image: images.Image, choices: dict[str, list[str]]) -> dict[str, list[float]]:
    """How much one more container of a pod adds, of five."""
    found: dict[str, list[float]] = {}
    for name, choice in choices.items():
        ids = [f"pod-{name}-{number}" for number in range(6)]
        for number, id_ in enumerate(ids):
            group = ["--annotation", f"io.kubernetes.cri.sandbox-id={ids[0]}"]
            ctrd.ctr("run", "-d", *choice, *group, image.name, id_, "/bin/sleep", "1000")
            if number == 0:
                settle(lab, 1)
                first = shims(lab)
        settle(lab, 1)
        found[name] = [(shims(lab) - first) / 5]
        for id_ in reversed(ids):
            remove(ctrd, id_)
        until(lambda: not shim_pids(lab), f"end of the shim of {name}")
    return found


def settle(lab: Lab, count: int) -> None:
    """Wait until there are only the shims: ours has a child for a moment after a container's start."""
    until(lambda: len(shim_pids(lab)) == count, f"{count} shims and no more")


def remove(ctrd: Containerd, id_: str) -> None:
    ctrd.ctr("task", "rm", "--force", id_)
    ctrd.ctr("container", "rm", id_)


def shim_pids(lab: Lab) -> list[int]:
    """The shims of a lab. One that was forked from another has its words, and a script those of its interpreter."""
    return [pid for pid, words in lab.pids().items() if "containerd-shim-" in words and "[zombie]" not in words]


def shims(lab: Lab) -> float:
    """The unique memory of all shims together, in bytes."""
    total = 0
    for pid in shim_pids(lab):
        rollup = (lab.root / f"proc/{pid}/smaps_rollup").read_text()
        total += sum(int(kb) for kb in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB$", rollup, re.M))
    return total * 1024


# -- dockerd ---------------------------------------------------------------------------------------------------------------


def docker(lab: Lab, runs: int) -> Samples:
    """docker run with the default runtime and with others by name."""
    runtimes = {name: {"path": path} for name, path in PEERS.items() if name != "runc"}  # which dockerd knows by itself
    ours = {"runtimeType": str(SHIM)} if newer.wanted() else {"path": str(OURS)}
    dockerd = Dockerd(lab, OURS, settings={"runtimes": {"pyrunc": ours, **runtimes}, "default-runtime": "pyrunc"})
    dockerd.load(images.bb())
    commands = {
        name: ["docker", "run", "--rm", *(["--runtime", name] if name != "pyrunc" else []), "bb", "/bin/true"]
        for name in ("pyrunc", *PEERS)
    }
    name = "docker run --rm" + (", our shim as runtimeType" if newer.wanted() else "")
    samples = {name: timed(lab, runs, commands, dockerd.env)}
    dockerd.close()
    return samples


# -- Podman ----------------------------------------------------------------------------------------------------------------


def podman(lab: Lab, runs: int) -> Samples:
    """podman run: our conmon with our runtime, Debian's conmon with the others."""
    Machine(lab, OURS)
    conmons = {"pyrunc": str(BUILD / "bin/pyrunc-conmon")}
    options = {
        name: ["--conmon", conmons.get(name, "/usr/bin/conmon"), "--runtime", path]
        for name, path in {"pyrunc": str(OURS), **PEERS}.items()
    }
    run = {name: ["podman", *words, "run", "--rm", BB, "/bin/true"] for name, words in options.items()}
    pour = {
        name: [
            "podman",
            *words,
            "run",
            "--rm",
            "--log-driver",
            "{driver}",
            BB,
            "/bin/dd",
            "if=/dev/zero",
            "bs=1M",
            "count=256",
        ]
        for name, words in options.items()
    }
    samples = {"podman run --rm": timed(lab, runs, run)}
    for driver in ("none", "k8s-file"):
        commands = {name: [word.replace("{driver}", driver) for word in words] for name, words in pour.items()}
        samples[f"podman run: 256 MiB of output to {driver}, ms"] = timed(lab, 3, commands)
    return samples


SCENARIOS: dict[str, Callable[[Lab, int], Samples]] = {"containerd": containerd, "docker": docker, "podman": podman}


# -- results ---------------------------------------------------------------------------------------------------------------


def entry(scenario: str, runtimes: dict[str, list[float]]) -> dict[str, Any]:
    """One scenario as bench.json has it."""
    key = "bytes" if "memory" in scenario else "median_ms"
    found: dict[str, Any] = {}
    for name, values in runtimes.items():
        numbers = {key: statistics.median(values), "min": min(values), "max": max(values)}
        found[name] = {name: round(value, 3) for name, value in numbers.items()} | {"runs": len(values)}
    ours = found["pyrunc"][key]
    found["ratios"] = {name: round(ours / one[key], 3) for name, one in found.items() if name != "pyrunc" and one[key]}
    return found


def show(scenario: str, found: dict[str, Any]) -> None:
    columns = []
    for name, one in found.items():
        if name != "ratios":
            value = f"{one['bytes'] / 1024:.0f} kB" if "bytes" in one else f"{one['median_ms']:.1f} ms"
            ratio = found["ratios"].get(name)
            columns.append(f"{name} {value}" + (f" (x{ratio:.2f})" if ratio else ""))
    print(f"{scenario:44} {'   '.join(columns)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
