"""A worker: process 1 of namespaces of its own, who tries points one after the other.

Reads a line of JSON from standard input for each request and answers with a line on standard output:

    {"list": VERB}                                 the system calls of a verb: [[process, call, number], ...]
    {"verb": V, "process": P, "call": N, "fault": F}    what came of that fault there

F is a signal's name, an errno's name, or STOP, which keeps the process waiting for a while.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from typing import Any

import place as places
from commands import VERBS, Verb
from place import HANG_S, ID, Place

SIGNALS = ("KILL", "TERM", "INT")
#: what is none of ours goes its own way: programs of containers, and CRIU, which hangs where it is traced itself
OTHERS = ("busybox", "true", "criu", "ld-linux-x86-64.so.2")
ERRNOS = ("ENOSYS", "EPERM", "EINVAL", "ENOENT", "EIO", "ENOMEM", "EMFILE", "ENOSPC", "EINTR")
#: these return no error: whoever calls them does not look
NEVER_FAIL = (
    "brk",
    "futex",
    "exit",
    "exit_group",
    "rt_sigreturn",
    "getpid",
    "getppid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
)
STOP_MS = 1000
NAMES = places.call_names()
#: a call that says there is nothing is believed: whoever removes something has been told that it is gone
BELIEVED = ("rmdir", "unlink", "unlinkat")
#: the C library's start of the interpreter, which nobody can word; the interpreter's own is some hundred calls more
LOADING = 60
#: what a program says when it has met what it did not expect
BUG = re.compile(
    r"Traceback \(most recent|internal error [0-9a-f]{8}|^Fatal Python error|^panic:|^fatal error:|^SIG[A-Z]+:", re.M
)


class Worker:
    def __init__(self, runtime: str, token: str) -> None:
        self.place = Place(runtime, token)
        self.faults = str(places.faults())
        self.verbs: dict[str, Verb] = {}
        self.kept: Verb | None = None
        self.before: dict[str, set[str]] = {}

    def verb(self, name: str) -> Verb:
        """The verb, after it has been done once without any fault."""
        if name not in self.verbs:
            verb = VERBS[name](self.place)
            self.ready(verb)
            status, out, err, _ = self.place.run(verb.argv(), to=verb.to)
            if status not in (verb.good or (1,)):
                raise SystemExit(f"{name} fails without any fault: status {status}: {err.strip()}")
            wrong = verb.effect(out, "")
            if wrong:
                raise SystemExit(f"{name} without any fault: {wrong}")
            verb.baseline = self.facts(verb, out)
            self.verbs[name] = verb
            self.clean()
        return self.verbs[name]

    def facts(self, verb: Verb, out: str) -> str:
        if "END\n" in out:
            return out
        return verb.facts_of_init() if type(verb).__name__ in ("Create", "Start") else ""

    def ready(self, verb: Verb) -> None:
        if self.kept is not None and (self.kept is not verb or self.place.state().get("status") != "running"):
            self.clean()
        if self.kept is None:
            if not verb.ready():
                self.place.tidy()
                if not verb.ready():
                    raise SystemExit(f"what {type(verb).__name__} needs cannot be made")
            self.before = self.place.seen()
            self.kept = verb if verb.keeps else None

    def clean(self) -> list[str]:
        """`delete --force`, as a user would after whatever happened; what was wrong about it."""
        self.kept = None
        status, _, err, seconds = self.place("delete", "--force", ID)
        wrong = []
        if status == -100 or seconds > HANG_S:
            wrong.append(f"delete --force took {seconds:.0f} s")
        elif status and not (not self.place.is_ours and "does not exist" in err):
            wrong.append(f"delete --force: status {status}: {err.strip()[-200:]}")
        if status and self.place.left(self.place.empty):
            self.place.tidy()
        return wrong

    # -- requests ------------------------------------------------------------------------------------------------------

    def trace(self, verb: Verb, *options: str) -> tuple[list[list[str]], int, str, str]:
        """The verb under faults.c: what that tells, line by line as words; exit status and output of the command."""
        trace = self.place.out / "trace"
        trace.write_text("")
        others = [word for name in OTHERS for word in ("-x", name)]
        words = [self.faults, "-o", str(trace), *others, "-t", str(HANG_S), *options]
        if verb.attaches:
            words += ["-a", str(verb.pid)]
        status, out, err, _ = self.place.run([*words, *verb.argv()], 4 * HANG_S, verb.to)
        told = [line.split() for line in trace.read_text().splitlines()]
        ends = [int(line[1]) for line in told if line[0] == "end"]
        if status or not ends:
            raise SystemExit(f"faults: status {status}: {err}")
        return told, os.waitstatus_to_exitcode(ends[0]), out, err

    def list(self, name: str) -> list[list[int]]:
        verb = self.verb(name)
        self.ready(verb)
        told, _, _, _ = self.trace(verb)
        self.clean()
        return [[int(word) for word in line[1:4]] for line in told if line[0] == "call"]

    def point(self, name: str, process: int, call: int, fault: str) -> dict[str, Any]:
        verb = self.verb(name)
        self.ready(verb)
        told, status, out, err = self.trace(verb, "-p", str(process), "-n", str(call), *_options(fault))
        result: dict[str, Any] = {"status": status, "said": err.strip()[-300:]}
        hits = [line for line in told if line[0] == "hit"]
        result["name"] = int(hits[0][3]) if hits else -1
        if any(line[0] == "hang" for line in told):
            result["hang"] = [line[1:] for line in told if line[0] == "in"]
        if BUG.search(err):
            # what the interpreter says of itself, before the first line of ours or after the last one
            is_ours = "runtime/" in err or "internal error" in err or not self.place.is_ours
            result["bug" if is_ours else "interpreter"] = err.strip()[-1500:]
        first, path = (hits[0][4], hits[0][5] if len(hits[0]) > 5 else "") if hits else ("", "")
        is_believed = fault == "ENOENT" and self.is_believed(NAMES.get(result["name"], ""), path)
        cannot_tell = NAMES.get(result["name"]) == "write" and first == "2" and fault in ERRNOS
        if fault in ERRNOS and status == -signal.SIGSEGV and not process and call < LOADING:
            result["interpreter"] = "it could not be loaded"
        wrong = []
        if "hang" not in result and "interpreter" not in result:
            why = self.judge(verb, process, fault, status, out, err)
            is_excused = (
                is_believed
                and why.startswith(("delete left", "status 0"))
                or cannot_tell
                and why.endswith("without a word")
            )
            wrong = [why] if why and not is_excused else []
        keeps = self.kept is verb
        left = self.place.left(self.before) if keeps else {}
        if keeps and self.place.state().get("pid") != verb.pid:
            wrong += [] if is_believed else ["the container has suffered"]
            keeps = False
        if not keeps or left:
            wrong += self.clean()
            left = self.place.left(self.place.empty, verb.grace_s)
        if left:
            if not is_believed:
                result["left"] = left
            self.place.tidy()
        if wrong:
            result["wrong"] = wrong
        return result

    def is_believed(self, name: str, path: str) -> bool:
        """Whether a call that says that there is no such thing is believed: of a file that is removed, that there is no such
        process, or no such container."""
        is_one = re.fullmatch(r"/proc/\d+/stat", path) or path == f"{self.place.root}/{ID}"
        return name in BELIEVED or name in ("openat", "newfstatat") and bool(is_one)

    def judge(self, verb: Verb, process: int, fault: str, status: int, out: str, err: str) -> str:
        """What is wrong about how the command has ended; empty if nothing is."""
        number = int(getattr(signal, f"SIG{fault}", 0)) if fault in SIGNALS else 0
        if status in verb.good:
            why = verb.effect(out, fault)
            if why and process and self.place.state().get("status") == "stopped":
                return ""  # init was killed when the command had nothing more to do with it
            facts = verb.facts_of_init() if not why and type(verb).__name__ in ("Create", "Start") else ""
            return why or verb.same(facts, fault) if facts else why
        if process == 0 and number and status == -number:
            return ""
        if number and status == 128 + number:
            return ""  # the program of the container has ended by it, or init before it
        if verb.programs and status == 1:
            return ""  # who has started it says no more
        if status <= 0:
            return f"status {status}"
        if not err.strip():
            return f"status {status} without a word"
        return ""


def _options(fault: str) -> list[str]:
    if fault == "STOP":
        return ["-z", str(STOP_MS)]
    if fault in SIGNALS:
        return ["-s", str(int(getattr(signal, f"SIG{fault}")))]
    kept = [word for number, name in NAMES.items() if name in NEVER_FAIL for word in ("-k", str(number))]
    return ["-e", str(getattr(errno, fault)), *kept]


def main() -> None:
    runtime, token, hides = sys.argv[1:]
    places.alone(hides == "hide")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for whoever gives us our points
    worker = Worker(runtime, token)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker.place.empty = worker.place.seen()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            answer = worker.list(request["list"]) if "list" in request else worker.point(**request)
            answers.write(json.dumps(answer) + "\n")
    finally:
        worker.place.close()


if __name__ == "__main__":
    main()
