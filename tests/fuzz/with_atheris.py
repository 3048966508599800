"""One of the fuzzers in Python under Atheris, which is libFuzzer that sees the branches of our code.

    with_atheris.py NAME PLACE WORD...      for run.py --engine atheris: a directory of its own, libFuzzer's words

Only for a fuzzer whose inputs are read in this process: what a forked child reaches, Atheris does not see.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "build/fuzz"
#: where run.py has it installed
PACKAGES = ROOT / "build/atheris"
sys.path[:0] = [str(HERE), str(ROOT), str(HERE.parent), str(HERE.parent / "fixtures")]
sys.path.append(str(PACKAGES))


def main() -> None:
    name, place, *words = sys.argv[1:]
    atheris = importlib.import_module("atheris")
    # whatever is not imported for the first time in here is not seen
    with atheris.instrument_imports(include=["runtime", "shim", "specs"]):
        kernel = importlib.import_module("runtime.kernel")
        kernel.__path__.append(str(ROOT / "build/kernel/runtime/kernel"))
        engine = importlib.import_module("engine")
        engine.preload()
    targets = importlib.import_module("targets")
    (target,) = (one for one in targets.every() if one.name == name)
    report = engine.Report(target)
    seeds = Path(place, "seeds")
    seeds.mkdir(exist_ok=True)
    for number, data in enumerate([*target.seeds(), *engine.corpus(target)]):
        (seeds / str(number)).write_bytes(data)
    (work := Path(place, "work")).mkdir(exist_ok=True)
    target.begin(work)

    def run(data: bytes) -> None:
        # a finding is written down, and the run goes on: libFuzzer would end here
        finding = engine.judge(target, data)
        if finding is not None and finding.kind not in report.findings:
            report.findings[finding.kind] = data, str(finding)
            for path in engine.save(OUT / "findings", report):
                print(f"finding: {path.name}: {finding}"[:200].splitlines()[0], file=sys.stderr, flush=True)

    def change(data: bytes, limit: int, seed: int) -> bytes:
        changed: bytes = target.change(Random(seed), data)
        return changed if len(changed) <= limit else data

    # the time an input takes on the clock says little here, and that of the processor is bounded
    limits = [f"-max_len={engine.LARGEST_BYTES}", "-len_control=0", "-timeout=60", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *words, *limits, str(seeds)], run, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
