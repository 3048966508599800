"""What the fault tests of all engines share: known exit statuses by the hundred, kill -9 at random, what came of it.

    assert wrong_statuses(lambda status: ctr.popen("run", ..., f"exit {status}"), STATUSES) == {}
    campaign = Campaign(lab, "shim", start=..., victims=..., remove=...)
    campaign.run(KILLS)        # each round: a client, a kill, the clean-up that a user would do
    campaign.report()          # a line of figures, into build/faults.txt: README.md's table

FAULTS of the environment says how many: FAULTS=1000 is a thousand statuses, and a hundred kills of each kind. What a campaign does
is random, but the same each time.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from lab import BUILD, Lab
from processes import Running, until

STATUSES = int(os.environ.get("FAULTS", "10"))
KILLS = max(STATUSES // 10, 1)
#: commands at a time: more would only wait for each other
AT_ONCE = 4
#: how long a client may take to see that its container is gone
CLIENT_S = 20.0
#: and the clean-up until it will never succeed
CLEAN_S = 30.0
#: and what is to be killed, to be there
STRIKE_S = 2.0
#: rounds on top, where nothing was there to be killed in any: a slow machine looks too late
MORE = 20


def wrong_statuses(start: Callable[[int], Running], count: int) -> dict[int, tuple[int, int]]:
    """Run commands several at a time, each told its status; number -> (the status wanted, the other that was reported)."""
    wanted = {number: number % 256 for number in range(count)}
    waiting, running, wrong = list(wanted), dict[int, Running](), dict[int, tuple[int, int]]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number = waiting.pop()
            running[number] = start(wanted[number])
        for number in until(lambda: [n for n, each in running.items() if each.ended()], "end of a command", 60):
            status = running.pop(number).wait()
            if status != wanted[number]:
                wrong[number] = (wanted[number], status)
    return wrong


class Campaign:
    """Rounds of: begin something, kill -9 what belongs to it at some moment, clean up.

    start(number) begins a client; victims(number) are the pids to kill at this moment; restore() starts a daemon again;
    remove(number) tries the clean-up once, and says whether all is gone. Where that never comes, forgotten(number) removes by
    what is below the engine what the engine itself no longer knows, and says whether there was any; else force(number) is what
    is left to a person who looks at the machine. Each of the two is counted. `span_s` is about how long a client takes.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        *,
        start: Callable[[int], Running],
        victims: Callable[[int], Iterable[int]],
        remove: Callable[[int], bool],
        force: Callable[[int], None],
        restore: Callable[[], None] = lambda: None,
        forgotten: Callable[[int], bool] = lambda number: False,
        span_s: float = 0.3,
    ) -> None:
        self.lab, self.name, self.span_s = lab, name, span_s
        #: what was killed last: pid -> its command line
        self.struck: dict[int, str] = {}
        self.start, self.victims, self.remove, self.force, self.restore = start, victims, remove, force, restore
        self.forgotten = forgotten
        self.chance = random.Random(name)
        #: rounds in which something was there to be killed; clients that had to be killed; how the others ended
        self.hits, self.hung, self.statuses = 0, 0, dict[int, int]()
        #: rounds after which something stayed until it was forced; or of which the engine had forgotten a container that was
        #: whole, and that those below it removed
        self.stuck, self.lost = 0, 0
        #: of each round: attempts and seconds until it was clean
        self.attempts: list[int] = []
        self.seconds: list[float] = []

    def run(self, rounds: int) -> None:
        number = -1
        while number + 1 < rounds or (not self.hits and number + 1 < rounds + MORE):
            number += 1
            client = self.start(number)
            # where it is hit is the point, but one must be: from the last round on whatever comes first
            is_last_chance = not self.hits and number >= rounds - 1
            time.sleep(0 if is_last_chance else self.chance.uniform(0, self.span_s))
            self.hits += self._strike(number, client)
            begin = time.monotonic()
            self.restore()
            self.attempts.append(self._clean(number))
            self.seconds.append(time.monotonic() - begin)
            self._collect(client)
        assert self.hits, f"no {self.name} was hit in {number + 1} rounds"

    def _strike(self, number: int, client: Running) -> bool:
        """Kill from now on whatever is there first; not if the client has ended before, or nothing comes: all was over then."""
        deadline = time.monotonic() + STRIKE_S
        while not client.ended() and time.monotonic() < deadline:
            if pids := list(self.victims(number)):
                self.struck = {pid: said for pid, said in self.lab.pids().items() if pid in pids}
                for pid in pids:
                    self.lab.kill(pid, signal.SIGKILL)
                return True
            time.sleep(0.002)
        return False

    def _clean(self, number: int) -> int:
        """How often it was tried."""
        deadline, tries = time.monotonic() + CLEAN_S, 1
        while not self.remove(number):
            if time.monotonic() > deadline:
                if self.forgotten(number):
                    self.lost += 1
                else:
                    self.stuck += 1
                    print(f"round {number} of {self.name} is stuck, {self.struck} killed, with", self.lab.pids())
                    self.force(number)
                until(lambda: self.remove(number), f"the clean-up by force after round {number} of {self.name}", 60)
                break
            tries += 1
            time.sleep(0.02)
        return tries

    def _collect(self, client: Running) -> None:
        deadline = time.monotonic() + CLIENT_S
        while not client.ended() and time.monotonic() < deadline:
            select.select([client._report], [], [], 0.2)
        if not client.ended():
            self.hung += 1
            client.kill(signal.SIGKILL)
        status = client.wait()
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def report(self, **more: object) -> None:
        """What came of it, as a line of JSON."""
        figures = {
            "campaign": self.name,
            "rounds": len(self.seconds),
            "hits": self.hits,
            "again": sum(tries > 1 for tries in self.attempts),
            "most attempts": max(self.attempts),
            "median s": round(median(self.seconds), 2),
            "longest s": round(max(self.seconds), 2),
            "stuck": self.stuck,
            "forgotten": self.lost,
            "hung clients": self.hung,
            "statuses": dict(sorted(self.statuses.items())),
            **more,
        }
        with (BUILD / "faults.txt").open("a") as file:
            print(json.dumps(figures), file=file)


def called_with(lab: Lab, word: str) -> dict[int, str]:
    """The processes of the lab that have this word in their command line; clients of engines apart."""
    found = {}
    for pid, said in lab.pids().items():
        if word in said.split() and not said.startswith(("ctr ", "/usr/bin/docker ", "podman ")):
            found[pid] = said
    return found


def special_files(lab: Lab, *places: str) -> list[str]:
    """Sockets and fifos below these places of the lab."""
    found = []
    for place in places:
        for path in Lab._walk(Path(f"{lab.root}{place}")):
            try:
                mode = path.lstat().st_mode
            except OSError:
                continue  # it has gone meanwhile
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                found.append(str(path)[len(str(lab.root)) :])
    return sorted(found)
