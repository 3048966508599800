"""Times commands in a lab, one after the other in rounds: `timing.py PLAN`, JSON in, JSON out. Only the standard library.

{"rounds": N, "env": {...}, "commands": {name: [word, ...]}}; `{n}` in a word becomes a number of its own each time. In every
round each command runs once, in an order that rotates; the first round only warms the machine up. Out: {name: [ms, ...]}.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main(plan: dict) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in plan["commands"]}
    names, number = list(samples), 0
    for turn in range(plan["rounds"] + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            number += 1
            argv = [word.replace("{n}", str(number)) for word in plan["commands"][name]]
            took = run(argv, {**os.environ, **plan["env"]})
            if turn:
                samples[name].append(took)
    return samples


def run(argv: list[str], env: dict[str, str]) -> float:
    """How long a command takes, in milliseconds; one that fails ends it all."""
    null = os.open(os.devnull, os.O_RDWR)
    begin = time.perf_counter()
    files = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
    pid = os.posix_spawnp(argv[0], argv, env, file_actions=files)
    _, status = os.waitpid(pid, 0)
    took = (time.perf_counter() - begin) * 1000
    os.close(null)
    if status:
        sys.exit(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}")
    return took


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        json.dump(main(json.load(file)), sys.stdout)
