"""What was answered, as facts: a name and a text each, the same for two runtimes that did the same.

What cannot be the same is put in words: the runtime's directory, its id, its pids, the numbers of its namespaces and devices, a time.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
#: lines of /proc/self/status that nothing else of the report has
STATUS = ("Seccomp_filters", "Speculation_Store_Bypass", "SpeculationIndirectBranch", "THP_enabled", "CoreDumping", "Threads", "NStgid", "NSsid", "Umask")  # fmt: skip
#: of the report, what is one value as it is; the rest is below
PLAIN = (
    "args", "cwd", "hostname", "domainname", "machine", "personality", "uid", "gid", "umask", "securebits", "no_new_privs", "dumpable",
    "pdeathsig", "nice", "ioprio", "mempolicy", "affinity", "scheduler", "stdin", "root_readonly", "keyring", "seccomp", "oom_score_adj", "label", "exe",
    "timens_offsets", "uid_map", "gid_map", "setgroups",
)  # fmt: skip
EACH = ("capabilities", "signals", "rlimits", "interfaces", "symlinks", "sysctls")
SORTED = ("groups",)
#: of what an action answers; the rest is of this moment
ANSWERS = ("errno", "result", "text", "type", "mode", "uid", "gid", "rdev", "fd", "flags", "cloexec")


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def namespaces(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


class View:
    """What is this runtime's own, to be put in words."""

    def __init__(self, place: str, id_: str) -> None:
        self.place, self.id = place, id_
        self.init = 0
        #: what the container's probe was asked to do after its report
        self.actions: list[list[str]] = []
        self.given: dict[str, str] = {}
        self.host = namespaces("self")

    def text(self, text: str) -> str:
        return text.replace(self.place, "PLACE").replace(self.id, "ID")

    # -- commands --------------------------------------------------------------------------------------------------------

    def answer(self, command: list[str], status: str, out: str, err: str) -> dict[str, str]:
        """Of a command: the exit status (of a failure of its own only that it is one), what it printed, whether it complained."""
        exact = command[0] in ("exec", "run") or status in ("0", "does not end")
        found = {
            "status": status if exact else "fails",
            "stderr": "something" if err.strip() else "",
            "#said": self.text(err.strip()),
        }
        if command[0] == "exec" and out.startswith(("[", "{")):
            found |= self.output(out)
        elif command[0] in ("state", "list", "ps") and out.lstrip().startswith(("[", "{")):
            found |= self.document(json.loads(out))
        elif command[0] == "list" and "json" in command:
            found["entries"] = out.strip()
        elif command[0] == "list" and "--quiet" not in command:
            found |= self.table(out, "ID")
        elif command[0] == "ps" and out:
            found["header"] = " ".join(out.splitlines()[0].split())
            found["processes"] = str(len(out.splitlines()) - 1)
        elif out:
            found["out"] = self.text(out)
        return found

    def document(self, document: Any) -> dict[str, str]:
        """JSON that a command printed: one fact a key, pids and times in words."""
        if isinstance(document, list) and document and all(isinstance(entry, int) for entry in document):
            return {"pids": shown(["init" if pid == self.init else "other" for pid in sorted(document)])}
        found: dict[str, str] = {}
        entries = document if isinstance(document, list) else [document]
        found["entries"] = str(len(entries))
        for entry in entries:
            for key, value in entry.items():
                if key == "pid" and value:
                    value = "init" if value == self.init else "another pid"
                elif key == "created" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", str(value)):
                    value = "a time"
                found[f".{key}"] = self.text(shown(value))
        return found

    def table(self, out: str, head: str) -> dict[str, str]:
        lines = out.splitlines()
        rows = [self.text(" ".join(line.split())).replace(str(self.init or "-"), "init") for line in lines[1:]]
        rows = [re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "a time", row) for row in rows]
        return {"header": " ".join(lines[0].split()) if lines else "", "rows": shown(rows)}

    # -- from inside -----------------------------------------------------------------------------------------------------

    def output(self, out: str) -> dict[str, str]:
        """What the probe printed: a report and what its actions answered."""
        try:
            document = json.loads(out)
        except ValueError:
            return {"out": self.text(out)}
        found: dict[str, str] = {}
        if not isinstance(document[0], dict) or "namespaces" not in document[0]:
            document = [{}, *document]  # of descriptors alone
            names = [f"fd {number}" for number in range(len(document) - 1)]
        else:
            found = {f"inside {name}": value for name, value in self.report(document[0]).items()}
            names = [" ".join(words) for words in self.actions]
        for name, entry in zip(names, document[1:], strict=False):
            name += " again" * (f"action {name}" in found)
            found[f"action {name}"] = self.text(shown({key: entry[key] for key in ANSWERS if key in entry}))
        return found

    def report(self, report: dict[str, Any]) -> dict[str, str]:
        found = {name: self.text(shown(report[name])) for name in PLAIN}
        for name in EACH:
            for key, value in (report[name] or {}).items():
                found[f"{name} {key}"] = self.text(shown(value))
        for name in SORTED:
            found[name] = shown(sorted(report[name]))
        for entry in report["env"]:
            key, _, value = entry.partition("=")
            found[f"env {key}"] = self.text(shown([*json.loads(found.get(f"env {key}", "[]")), value]))
        found["env order"] = shown([entry.partition("=")[0] for entry in report["env"]])
        for name, link in report["namespaces"].items():
            word = (
                "the caller's" if link == self.host[name] else "as given" if link == self.given.get(name) else "its own"
            )
            found[f"namespace {name}"] = word if link else "unknown"
        if found["namespace pid"] == "its own":
            for name in ("pid", "ppid", "pgid", "sid"):
                found[name] = str(report[name])
        for line in report["status"] or ():
            key, _, value = line.partition(":")
            if key in STATUS and (not key.startswith("NS") or found["namespace pid"] == "its own"):
                found[f"status {key}"] = " ".join(value.split())
        for line in report["cgroup"] or ():
            number, _, rest = line.partition(":")
            name, _, path = rest.partition(":")
            found[f"cgroup {name}"] = self.text(path)
        return {**found, **self.descriptors(report), **self.devices(report), **self.mounts(report)}

    def descriptors(self, report: dict[str, Any]) -> dict[str, str]:
        found = {}
        for entry in report["fds"]:
            kept = {key: entry[key] for key in ("type", "mode", "flags", "cloexec", "tty", "uid", "gid")}
            link = re.sub(r"\d{2,}", "N", self.text(entry["link"] or ""))
            found[f"fd {entry['fd']}"] = shown({**kept, "link": link})
        return found

    def devices(self, report: dict[str, Any]) -> dict[str, str]:
        keys = ("type", "mode", "uid", "gid", "rdev")
        return {
            f"device {name}": shown({key: entry[key] for key in keys if key in entry})
            for name, entry in report["devices"].items()
        }

    def mounts(self, report: dict[str, Any]) -> dict[str, str]:
        """Each mount by its point: what is there from the bottom up; peers of a propagation group by what they are to each other."""
        found: dict[str, str] = {}
        points = {mount["id"]: mount["point"] for mount in report["mounts"] or ()}
        counts: dict[str, int] = {}
        for mount in report["mounts"] or ():
            point = self.text(mount["point"])
            counts[point] = counts.get(point, 0) + 1
            name = f"mount {point}" + (f" #{counts[point]}" if counts[point] > 1 else "")
            super_options = [re.sub(r"^(size|nr_inodes)=(.*)", r"\1=\2", word) for word in mount["super"]]
            found[f"{name} type"] = mount["type"]
            found[f"{name} options"] = shown(sorted(mount["options"]))
            found[f"{name} super"] = self.text(shown(sorted(super_options)))
            found[f"{name} source"] = self.text(mount["source"])
            found[f"{name} root"] = mount["root"].replace("/" + os.path.basename(self.place), "PLACE")
            found[f"{name} on"] = self.text(points.get(mount["parent"], "outside"))
            found[f"{name} propagation"] = shown([re.sub(r":\d+", "", tag) for tag in mount["propagation"]])
        return found

    # -- afterwards ------------------------------------------------------------------------------------------------------

    def left(self, place: Path) -> dict[str, str]:
        """Files of rootfs and outside, with who may do what with them, and what hooks have written."""
        found = {}
        for top in (place / "rootfs", place / "outside"):
            for folder, names, files in os.walk(top):
                for name in (*names, *files):
                    path = Path(folder, name)
                    entry = path.lstat()
                    found[f"/{path.relative_to(place)}"] = f"{entry.st_mode:o} {entry.st_uid}:{entry.st_gid}"
        found["state"] = shown(sorted(entry.name for entry in (place / "state").glob("[!.:]*")))
        hooks = place / "outside/hooks"
        if hooks.exists():
            found |= self.hooks(hooks.read_text().splitlines())
        return found

    def hooks(self, lines: list[str]) -> dict[str, str]:
        """What hooks wrote: each a line of its name, directory and state, and one of every variable that it had."""
        found: dict[str, str] = {}
        order: list[str] = []
        for line in map(self.text, lines):
            words, brace, document = line.partition("{")
            if brace:
                order.append(f"hook {' '.join(words.split()[:2])}")
                state = json.loads(brace + document)
                pid = state.get("pid", 0)
                if pid == self.init or (not self.init and pid > 1):  # of a create that failed there is no pid file
                    state["pid"] = "init"
                found[f"{order[-1]} in"] = " ".join(words.split()[2:])
                for key, value in state.items():
                    found[f"{order[-1]} .{key}"] = shown(value)
            else:
                name, _, value = line.partition("=")
                found[f"{order[-1]} env {name}"] = value
        found["hooks"] = shown(order)
        return found
