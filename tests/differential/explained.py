"""The table of differences that are as they should be, and the comparison that reads it.

An entry `[[difference]]` of the table has

    peer      the name of a runtime, or several
    fact      patterns of shell kind for names of facts, without the number of the command
    fields    only in cases with all of these fields
    ours, theirs    regular expressions that the two texts must match; a fact that is not there is the empty text
    often     false where it is a race of the peer's: then it need not explain anything in a run
    reason    why it is right as it is: a clause, or what the peer does

and an entry `[[unknown]]` a peer, the version `before` which it does not know a `field`, and the facts that then mean nothing; without
facts the peer is not given the case at all.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cases import Case

_KEYS = {
    "difference": {"peer", "fact", "fields", "ours", "theirs", "often", "reason"},
    "unknown": {"peer", "before", "field", "facts", "reason"},
}


class Table:
    def __init__(self, path: Path, programs: dict[str, str]) -> None:
        self.entries: list[dict[str, Any]] = []
        self.unknown: list[dict[str, Any]] = []
        self.cases = self.compared = self.explained = 0
        #: (peer, fact without its number) -> what was different, of each case
        self.wrong: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        versions = {name: version(program) for name, program in programs.items()}
        document = tomllib.loads(path.read_text())
        for kind, entries in document.items():
            for entry in entries:
                if set(entry) - _KEYS[kind] or not entry.get("reason"):
                    raise SystemExit(f"{path.name}: [[{kind}]] {entry}: unknown keys, or no reason")
                entry["count"] = 0
        for entry in document.get("difference", ()):
            entry["peer"] = listed(entry["peer"])
            if set(entry["peer"]) & set(programs):
                self.entries.append(entry)
        for entry in document.get("unknown", ()):
            if entry["peer"] in programs and versions[entry["peer"]] < numbers(entry["before"]):
                self.unknown.append(entry)

    def leaves_out(self, peer: str, case: Case) -> bool:
        """Whether the peer is too old for a field of the case, and would refuse it, or do something else altogether."""
        found = [e for e in self.unknown if e["peer"] == peer and e["field"] in case.fields and "facts" not in e]
        for entry in found:
            entry["count"] += 1
        return bool(found)

    def compare(self, peer: str, case: Case, ours: dict[str, str], theirs: dict[str, str]) -> None:
        """Hold the facts of a case against each other, up to a command that ended otherwise: what follows is another story."""
        parted = 1 << 30
        for name in {**ours, **theirs}:
            number, _, fact = name.partition(" ")
            if int(number) > parted or fact.rpartition(" ")[2].startswith("#"):
                continue
            self.compared += 1
            mine, other = ours.get(name, ""), theirs.get(name, "")
            if mine == other:
                continue
            if fact.endswith(" status"):
                parted = min(parted, int(number))
            if self.is_explained(peer, case, fact, mine, other):
                self.explained += 1
            else:
                said = [facts.get(f"{name.rpartition(' ')[0]} #said", "")[-300:] for facts in (ours, theirs)]
                if fact.endswith(" status"):
                    mine, other = (f"{text}  {words}" for text, words in zip((mine, other), said, strict=True))
                self.wrong.setdefault((peer, fact), []).append((case.name, mine, other))

    def is_explained(self, peer: str, case: Case, fact: str, ours: str, theirs: str) -> bool:
        for entry in self.unknown:
            if entry["peer"] == peer and entry["field"] in case.fields and matches(fact, entry.get("facts", ())):
                entry["count"] += 1
                return True
        for entry in self.entries:
            if (
                peer in entry["peer"]
                and matches(fact, entry["fact"])
                and set(entry.get("fields", ())) <= set(case.fields)
                and re.fullmatch(entry.get("ours", ".*"), ours, re.S)
                and re.fullmatch(entry.get("theirs", ".*"), theirs, re.S)
            ):
                entry["count"] += 1
                return True
        return False

    def report(self, is_whole: bool) -> int:
        """Print what is not explained, and what explains nothing; how many these are."""
        for (peer, fact), found in sorted(self.wrong.items()):
            print(f"{peer}: {fact}: in {len(found)} cases, {', '.join(name for name, _, _ in found[:5])}")
            for _, mine, other in sorted({(f, *rest) for f, *rest in ((0, m, o) for _, m, o in found)})[:3]:
                print(f"    ours    {mine or '(not there)'}\n    theirs  {other or '(not there)'}")
        idle = [entry for entry in (*self.entries, *self.unknown) if not entry["count"] and entry.get("often", True)]
        idle = idle if is_whole else []
        for entry in idle:
            print(f"explains nothing: {entry['peer']} {entry.get('fact') or entry.get('field')}: {entry['reason']}")
        return len(self.wrong) + len(idle)


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def matches(fact: str, patterns: Any) -> bool:
    return any(fnmatchcase(fact, pattern) for pattern in listed(patterns))


def version(program: str) -> tuple[int, ...]:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+(?:\.\d+)*)", done.stdout)
    return numbers(found[1]) if found else (0,)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))
