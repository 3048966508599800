"""Configurations with one thing changed, given to pyrunc, runc and crun: who takes them and who refuses them.

    peers.py [--cases N] [--show NUMBER]

A case is a small configuration with one place removed, or something else put there: every place, and each of what is put there. So there
is a number of them, and that is all of them; --cases takes so many, spread over all. What a place is changed into says what kind of change
it is: missing, null, type (another type), number, text. A difference must be explained by an entry of peers.toml,

    peer        the name of a runtime, or several           kinds     the kinds of changes, all where it is missing
    place       patterns of shell kind for JSON pointers    value     a regular expression for the new value as JSON
    ours        "takes" or "refuses"                        reason    why it is right as it is

and an entry that explains nothing is wrong too, unless only some are run. Everything happens behind a fence (fence.py) with real cgroups.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT), str(HERE.parent / "fixtures")]

import fence  # noqa: E402 - found through the path above
import mkrootfs  # noqa: E402
import mutation  # noqa: E402

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT_S = 20
_MISSING = object()
#: changes that would only say something about this machine, or about where the fence is: no case has them
_LEFT_OUT = ("/linux/cgroupsPath", "/root/path", "/linux/namespaces", "/hooks")


def base() -> dict[str, Any]:
    """What every case begins with: small, and taken by everybody."""
    return {
        "ociVersion": "1.0.2",
        "hostname": "web",
        "root": {"path": "rootfs", "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
            "args": ["/bin/true", "x"],
            "env": ["PATH=/bin", "A=b"],
            "cwd": "/",
            "capabilities": {name: ["CAP_CHOWN", "CAP_KILL"] for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
            "noNewPrivileges": True,
            "oomScoreAdj": 100,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/mnt", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]},
        ],
        "annotations": {"com.example.key": "value"},
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}],
                "memory": {"limit": 1 << 28},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "pids": {"limit": 50},
            },
            "sysctl": {"net.ipv4.ip_forward": "0"},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "rootfsPropagation": "private",
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}]}],
            },
        },
    }  # fmt: skip


class Case:
    """One place of the configuration, and what is there instead."""

    def __init__(self, number: int, place: str, new: Any) -> None:
        self.number, self.place = number, place
        self.config = base()
        holder, key = {pointer: (holder, key) for pointer, holder, key in pointers(self.config)}[place]
        self.kind = kind_of(holder[key], new)
        self.shown = "(missing)" if new is _MISSING else json.dumps(new)
        if new is _MISSING:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(new)


def cases() -> list[tuple[str, Any]]:
    """All of them: a place, and what is there instead."""
    found = []
    for pointer, holder, key in pointers(base()):
        seen = {json.dumps(holder[key])}
        for new in () if pointer.startswith(_LEFT_OUT) else changes(holder[key]):
            shown = "(missing)" if new is _MISSING else json.dumps(new)
            if shown not in seen:
                seen.add(shown)
                found.append((pointer, new))
    return found


def changes(old: Any) -> list[Any]:
    """What is put in the place of a value."""
    new: list[Any] = [_MISSING, None]
    if type(old) is int:
        # what a container could be harmed by is for tests of its own: here it is whether it is understood
        new += [number for number in mutation.NUMBERS if type(number) is int]
    elif type(old) is str:
        new += ["", " ", "/", "..", "x", "\n", old.lower(), old.upper(), old + "x", old[:-1]]
        new += ["a" * 300, "\u00fc", "-1", "a\0b"]
    elif type(old) is list and old:
        new += [[], [*old, old[0]], [None], [[]]]
    return [*new, "x", "", 5, -1, 1.5, 1.0, True, False, [], {}, ["x"], {"a": "b"}]


def pointers(document: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Every place, with what holds it."""
    found = []
    for key in list(document) if type(document) is dict else range(len(document)):
        here = f"{at}/{key}"
        found.append((here, document, key))
        if type(document[key]) in (dict, list):
            found += pointers(document[key], here)
    return found


def kind_of(old: Any, new: Any) -> str:
    if new is _MISSING or new is None:
        return "missing" if new is _MISSING else "null"
    if type(old) is not type(new):
        return "type"
    return "number" if type(new) is int else "text" if type(new) is str else "other"


class Table:
    def __init__(self, path: Path) -> None:
        self.entries: list[dict[str, Any]] = tomllib.loads(path.read_text()).get("difference", [])
        for entry in self.entries:
            if set(entry) - {"peer", "place", "kinds", "value", "ours", "reason"} or not entry.get("reason"):
                raise SystemExit(f"{path.name}: {entry}: unknown keys, or no reason")
            entry["count"] = 0

    def explains(self, peer: str, case: Case, takes: bool) -> bool:
        for entry in self.entries:
            if (
                peer in listed(entry["peer"])
                and any(fnmatchcase(case.place, pattern) for pattern in listed(entry["place"]))
                and case.kind in entry.get("kinds", [case.kind])
                and re.fullmatch(entry.get("value", ".*"), case.shown, re.S)
                and (entry["ours"] == "takes") == takes
            ):
                entry["count"] += 1
                return True
        return False


def listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def verdict(program: str, place: Path, case: Case, peer: str) -> tuple[bool, str]:
    """Whether the runtime makes the container, and what it says."""
    id_ = f"pyrunc-fuzz-{peer}-{case.number}"
    case.config["linux"] = case.config.get("linux", {})
    if type(case.config["linux"]) is dict:
        case.config["linux"]["cgroupsPath"] = f"/pyrunc-fuzz/{id_}"
    (place / "config.json").write_text(json.dumps(case.config))
    words = [program, "--root", str(place / f"state-{peer}")]
    with tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            [*words, "create", "--bundle", str(place), id_], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
            env={"PATH": PATH}, start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = child.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            status = None
        err.seek(0)
        said = err.read().decode("utf-8", "replace").strip()[-200:]
    subprocess.run([*words, "delete", "--force", id_], capture_output=True, env={"PATH": PATH}, timeout=60)
    for top in Path("/sys/fs/cgroup").glob(f"*/pyrunc-fuzz/{id_}"):
        try:
            top.rmdir()
        except OSError:
            pass
    return status == 0, "no end" if status is None else said


def compare(arguments: argparse.Namespace, place: Path) -> int:
    table = Table(HERE / "peers.toml")
    programs = {
        "pyrunc": str(ROOT / "build/bin/pyrunc"),
        **{name: shutil.which(name, path=PATH) for name in ("runc", "crun")},
    }
    mkrootfs.rootfs(place / "rootfs")
    wrong: dict[str, list[str]] = {}
    compared = explained = refused = 0
    if os.path.ismount("/sys/fs/cgroup/unified"):
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    known = cases()
    wanted = arguments.cases or len(known)
    numbers = [number * len(known) // wanted for number in range(wanted)]
    for number in numbers:
        case = Case(number, *known[number])
        found = {peer: verdict(program, place, case, peer) for peer, program in programs.items() if program}
        ours, words = found.pop("pyrunc")
        refused += not ours
        if re.search(r"internal error|Traceback", words) or (not ours and len(words.splitlines()) > 2):
            wrong.setdefault("pyrunc: not a line", []).append(f"{number} {case.place} = {case.shown[:60]}: {words}")
        for peer, (theirs, said) in found.items():
            compared += 1
            if theirs == ours:
                continue
            if table.explains(peer, case, ours):
                explained += 1
                continue
            what = f"{peer} {'refuses' if ours else 'takes'} {re.sub('/[0-9]+', '/*', case.place)} ({case.kind})"
            wrong.setdefault(what, []).append(f"{number} {case.shown[:60]}: {words if not ours else said}")
    for what, found_there in sorted(wrong.items()):
        print(f"{what}: {len(found_there)}", *found_there[:3], sep="\n    ")
    idle = [] if arguments.cases else [entry for entry in table.entries if not entry["count"]]
    for entry in idle:
        print(f"explains nothing: {entry['peer']} {entry['place']}: {entry['reason']}")
    print(
        f"{len(numbers)} cases, {refused} refused, {compared} verdicts compared, {explained} differences explained, {sum(map(len, wrong.values()))} not"
    )
    return 1 if wrong or idle else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="who takes a changed configuration, and who refuses it")
    parser.add_argument("--cases", type=int)
    parser.add_argument("--show", type=int)
    arguments = parser.parse_args()
    if arguments.show is not None:
        case = Case(arguments.show, *cases()[arguments.show])
        print(case.place, case.kind, case.shown)
        return 0
    if fence.INSIDE in os.environ:
        fence.close()
        return compare(arguments, Path(os.environ[fence.INSIDE][1:]))
    if os.geteuid():
        raise SystemExit("the comparison needs root")
    place = Path(tempfile.mkdtemp(prefix="pyrunc-fuzz-peers-", dir="/dev/shm"))
    place.chmod(0o755)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return fence.enter([__file__, *sys.argv[1:]], place, makes_containers=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for top in Path("/sys/fs/cgroup").glob("*/pyrunc-fuzz"):
            try:
                top.rmdir()
            except OSError:
                pass


if __name__ == "__main__":
    sys.exit(main())
