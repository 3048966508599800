"""The commands that a case gives: a short life with a report from inside, one in the foreground, or a long one with many verbs.

Of the words, `ID`, `BUNDLE` and `PIDFILE` stand for what a runtime has for them.
"""

from __future__ import annotations

import random

from cases import Case
from fields import some

SLEEP = ["/bin/probe", "sleep", "1000"]


def choose(case: Case, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.6:
        _report(case, rng)
    elif kind < 0.7:
        _foreground(case, rng)
    else:
        _long(case, rng)


def _create(case: Case) -> list[str]:
    return ["create", *case.options, "--bundle", "BUNDLE", "--pid-file", "PIDFILE", "ID"]


def _report(case: Case, rng: random.Random) -> None:
    case.commands = [_create(case), ["state", "ID"], ["@cgroup"]]
    if rng.random() < 0.1:
        case.commands.append(["kill", "ID", rng.choice(["KILL", "9"])])
        case.commands += [["@wait"], ["start", "ID"]]
    elif rng.random() < 0.1:
        case.commands += [_create(case), ["exec", "ID", "/bin/probe", "exit", "3"]]
    if ["@wait"] not in case.commands:
        case.commands += [["start", "ID"], ["@wait"], ["@output"]]
    case.commands += [["state", "ID"], ["delete", *rng.choice([[], [], ["--force"]]), "ID"], ["state", "ID"], ["@left"]]


def _foreground(case: Case, rng: random.Random) -> None:
    if rng.random() < 0.5:
        case.args = [
            "/bin/probe",
            *rng.choice([["exit", "0"], ["exit", "7"], ["exit", "255"], ["signal", "15"], ["fds"]]),
        ]
    elif rng.random() < 0.2:
        case.args = [rng.choice(["/not/there", "nothing", "/etc/file", "/etc/tree", ""])]
    case.commands = [["run", *case.options, "--bundle", "BUNDLE", "--pid-file", "PIDFILE", "ID"], ["@output"]]
    case.commands += [["state", "ID"], ["delete", "--force", "ID"], ["delete", "ID"], ["@left"]]


def _exec(case: Case, rng: random.Random) -> list[str]:
    options: list[str] = []
    table = [
        ["--cwd", rng.choice(["/tmp", "/", "/etc"])],
        ["--env", rng.choice(["A=1", "HOME=/x", "EMPTY=", "PATH=/bin"])],
        ["--user", rng.choice(["0", "999", "1:5", "0:0"])],
        ["--cap", rng.choice(["CAP_NET_ADMIN", "CAP_CHOWN"])],
        ["--no-new-privs"],
    ]
    for words in some(rng, table, 0, 3):
        options += words
    program = rng.choice([["each", "report"], ["each", "report"], ["exit", "5"], ["signal", "9"], ["fds"]])
    if rng.random() < 0.1:
        return ["exec", *options, "ID", rng.choice(["/not/there", "nothing", "/etc/file", "/etc/tree"])]
    return ["exec", *options, "ID", "/bin/probe", *program]


def _update(rng: random.Random) -> list[str]:
    table = [["--memory", str(128 << 20)], ["--pids-limit", "77"], ["--cpu-share", "333"], ["--cpu-quota", "60000", "--cpu-period", "100000"],
             ["--cpuset-cpus", "0"], ["--memory-reservation", str(32 << 20)], ["--blkio-weight", "0"]]  # fmt: skip
    return ["update", *(word for words in some(rng, table, 1, 3) for word in words), "ID"]


def _long(case: Case, rng: random.Random) -> None:
    case.args = rng.choice([SLEEP, SLEEP, ["/bin/probe", "trap", "15"]])
    case.commands = [_create(case)]
    if rng.random() < 0.3:
        case.commands += some(
            rng,
            [
                ["list", "--quiet"],
                ["ps", "--format", "json", "ID"],
                ["pause", "ID"],
                ["resume", "ID"],
                ["kill", "ID", "0"],
            ],
            1,
            2,
        )
    case.commands.append(["start", "ID"])
    paused = False
    for _ in range(rng.randint(3, 8)):
        table = [
            _exec(case, rng), _exec(case, rng), _exec(case, rng), ["state", "ID"], ["list", "--quiet"], ["list", "--format", "json"],
            ["list"], ["ps", "--format", "json", "ID"], ["ps", "ID"], _update(rng), ["@cgroup"], ["kill", "ID", rng.choice(["0", "CONT", "18"])],
            ["kill", "ID", rng.choice(["SIGNOTHING", "999", "-1"])], ["start", "ID"], ["delete", "ID"], _create(case), ["pause", "ID"], ["resume", "ID"],
            ["state", "other"], ["kill", "other"], ["delete", "other"], ["delete", "--force", "other"], ["exec", "other", "/bin/probe"], ["pause", "other"],
        ]  # fmt: skip
        words = rng.choice(table)
        if paused and words[0] in ("exec", "kill"):
            words = ["state", "ID"]  # peers disagree on what waits for whom, and some of them wait for ever
        if words == ["pause", "ID"]:
            paused = True
        elif words == ["resume", "ID"]:
            paused = False
        case.commands.append(words)
    if paused:
        case.commands.append(["resume", "ID"])
    if rng.random() < 0.7:
        case.commands += [
            ["kill", *rng.choice([[], ["--all"]]), "ID", rng.choice(["KILL", "SIGKILL", "9"])],
            ["@wait"],
            ["state", "ID"],
        ]
        case.commands += some(
            rng,
            [["exec", "ID", "/bin/probe"], ["kill", "ID"], ["pause", "ID"], ["ps", "ID"], ["list"], ["start", "ID"]],
            0,
            2,
        )
        case.commands.append(["delete", "ID"])
    else:
        case.commands.append(["delete", "--force", "ID"])
    case.commands += [["state", "ID"], ["list", "--format", "json"], ["@left"]]
