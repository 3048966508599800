"""Run the suites in guests, two at a time: `make test-guest`.

    suites.py [--all] [NAME...]     the quick part, everything, or the suites of these names
    suites.py --kernel container    the quick part of the suites in guests of that kind
    suites.py --list

Each suite has a guest of its own, which it gets from guest.py. Its results come back as build/tests/guest-NAME.xml (or .json, of
the conformance suite), for total.py to count. A suite that cannot run here counts as skipped and says why; one whose guest dies, or does not
end in time, has failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

from guest import machine
from making import HERE, ROOT, Unavailable, say
from session import UNAVAILABLE
from uml import Uml

RESULTS = ROOT / "build/tests"
PYTHON = "build/venv/bin/python"
#: guests at the same time: the smallest machine has two processors
AT_ONCE = 2

#: what differs most between one host and another: limits, freezing, devices, and how a container is begun and ended
QUICK = (
    "tests/cli/test_lifecycle.py", "tests/cli/test_resources.py", "tests/cli/test_update.py", "tests/cli/test_devices.py",
    "tests/cli/test_pause_ps_list.py", "tests/cli/test_doctor_truth.py",
)  # fmt: skip
QUICK_SYSTEMD = (*QUICK, "tests/cli/test_systemd_cgroup.py")
QUICK_USER = (
    "tests/cli/test_lifecycle.py", "tests/cli/test_rootless.py", "tests/cli/test_rootless_given.py",
    "tests/cli/test_systemd_user.py", "tests/cli/test_doctor_truth.py",
)  # fmt: skip
#: of root's quick part and of a user's, what needs no controllers
QUICK_CONTAINER = (
    "tests/cli/test_systemd_cgroup.py", "tests/cli/test_cgroup_v2.py", "tests/cli/test_lifecycle.py", "tests/cli/test_resources.py",
    "tests/cli/test_devices.py", "tests/cli/test_pause_ps_list.py", "tests/cli/test_doctor_truth.py",
)  # fmt: skip
#: what the quick part is without on a kernel that is three times slower
LONG = {"tests/cli/test_lifecycle.py", "tests/cli/test_rootless.py"}


class Suite(NamedTuple):
    """What one guest runs: tests by their files, as whom, with whom as maker of cgroups."""

    name: str
    files: tuple[str, ...]
    user: str = "root"
    manager: str = "cgroupfs"
    kernel: str = "uml"
    limit_s: float = 1200
    #: only the tests that require one of these features (tests/features.py)
    requires: tuple[str, ...] = ()
    #: hierarchies of cgroup v1 that are all there is of cgroups: of controllers that systemd has not taken for v2
    hierarchies: tuple[str, ...] = ()
    #: what is run of it where nothing is asked for; nothing: not at all
    quick: tuple[str, ...] = ()


#: the longest first, so that the two that run at the same time end together
SUITES = (
    Suite("cgroupfs", ("tests/cli", "tests/attacks"), quick=QUICK, limit_s=2700),
    Suite("systemd", ("tests/cli",), manager="systemd", quick=QUICK_SYSTEMD, limit_s=2700),
    Suite("tester", ("tests/cli",), user="tester", quick=QUICK_USER, limit_s=2700),
    Suite("podman", ("tests/engines/test_podman*.py", "tests/engines/test_buildah.py"), limit_s=2700),
    Suite("kernel", ("tests/kernel",), quick=("tests/kernel/test_cgroups_v2.py",)),
    Suite("shim", ("tests/shim",)),
    Suite("shim-systemd", ("tests/shim",), manager="systemd"),
    Suite("tester-systemd", (*QUICK_SYSTEMD, *QUICK_USER), user="tester", manager="systemd"),
    Suite("tester-podman", ("tests/engines/test_podman_user.py",), user="tester", limit_s=2700),
    Suite("loner", QUICK_USER, user="loner"),
    Suite("differential", ("tests/differential",)),
    Suite("conformance", ("conformance",)),
    Suite("container", QUICK_CONTAINER, manager="systemd", kernel="container", quick=QUICK_CONTAINER),
    Suite("container-tester", QUICK_USER, user="tester", manager="systemd", kernel="container", quick=QUICK_USER),
    Suite("container-loner", QUICK_USER, user="loner", kernel="container", quick=QUICK_USER),
    Suite("cloud", ("tests/cli",), kernel="cloud", requires=("criu", "hugetlb-v2", "memory-policy"), limit_s=1800),
    Suite("cloud-v1", ("tests/cli",), kernel="cloud", requires=("hugetlb-v1", "net_cls-v1", "net_prio-v1"),
          hierarchies=("net_cls,net_prio", "hugetlb", "devices", "freezer", "none,name=systemd"), limit_s=900),
)  # fmt: skip

#: the command after the hierarchies, in a mount namespace that has these alone
_V1 = """modprobe cls_cgroup && mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup || exit 1
while [ "$1" != -- ]; do
    place=/sys/fs/cgroup/${1#none,name=}
    mkdir "$place" && mount -t cgroup -o "$1" cgroup "$place" || exit 1
    for name in $(echo "${1#none,name=}" | tr , " "); do [ -e "/sys/fs/cgroup/$name" ] || ln -s "$place" "/sys/fs/cgroup/$name"; done
    shift
done
shift
exec "$@" """


def words(suite: Suite, is_quick: bool) -> list[str]:
    """The command that runs a suite in its guest."""
    back = f"/run/guest/back/guest-{suite.name}"
    if suite.files == ("conformance",):
        # without the results of the host, which are there already
        script = f'rm -f build/conformance.json; {PYTHON} conformance/run.py || status=$?; cp build/conformance.json "$0"; exit $status'
        return ["/bin/sh", "-c", script, f"{back}.json"]
    workers = os.environ.get("WORKERS") or "2"
    options = ["-n", workers, "--junit-xml", f"{back}.xml", "-p", "telling"]
    if "tests/engines" in suite.files[0]:
        options += ["--dist", "loadfile"]  # one machine for all of a file
    if suite.requires:
        options += ["-p", "selection"]
    command = [PYTHON, "-m", "pytest", *options, *files(suite, is_quick)]
    if suite.hierarchies:
        return ["unshare", "--mount", "sh", "-c", _V1, "sh", *suite.hierarchies, "--", *command]
    return command


def files(suite: Suite, is_quick: bool) -> list[str]:
    """Those of a suite's files that there are."""
    patterns = suite.quick if is_quick else suite.files
    found = [str(path.relative_to(ROOT)) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return list(dict.fromkeys(found))


def environment(suite: Suite) -> dict[str, str]:
    env = {"PYRUNC_TEST_CGROUP_MANAGER": suite.manager, "PYTHONPATH": str(HERE)}
    if suite.requires:
        env["PYRUNC_TEST_REQUIRES"] = " ".join(suite.requires)
    return env


def run(suite: Suite, is_quick: bool) -> int:
    """One suite in its guest, each line of what it says under its name; 0 when all of it passed, or was skipped for a reason."""
    for old in RESULTS.glob(f"guest-{suite.name}.*"):
        old.unlink()
    began = time.monotonic()
    settings = [f"--env={name}={value}" for name, value in environment(suite).items()]
    options = ["--user", suite.user, "--kernel", suite.kernel, "--limit", str(suite.limit_s), "--back", str(RESULTS)]
    command = [sys.executable, "-u", str(HERE / "guest.py"), *options, *settings, "--", *words(suite, is_quick)]
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as child:
        _running.add(child)
        for line in child.stdout or ():
            last = line.strip() or last
            print(f"{suite.name:>10}  {line}", end="", flush=True)
    _running.discard(child)
    status = child.returncode
    say(f"{suite.name}: exit status {status} after {time.monotonic() - began:.0f} s")
    if status == UNAVAILABLE:
        record(suite.name, "skipped", f"missing feature: a guest ({last})")
        return 0
    if not list(RESULTS.glob(f"guest-{suite.name}.*")):
        record(suite.name, "error", last)
        return 1
    return int(status != 0)


_running: set[subprocess.Popen[str]] = set()


def record(name: str, kind: str, why: str) -> None:
    """The result of a suite that has none of its own: one test, skipped or in error."""
    counts = {"tests": "1", "failures": "0", "errors": "0", "skipped": "0"}
    counts["skipped" if kind == "skipped" else "errors"] = "1"
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name=f"guest-{name}", **counts)
    case = ElementTree.SubElement(suite, "testcase", classname="guest", name=name)
    ElementTree.SubElement(case, kind, message=why)
    ElementTree.ElementTree(suites).write(RESULTS / f"guest-{name}.xml", "unicode")


def prepare(chosen: list[Suite]) -> None:
    """What the suites would compile or fetch, which the guest has neither compiler nor network for."""
    programs = [
        ["runtime/kernel/build.py", "--out", "build/kernel", "--sanitize", "--fuzz"],
        ["tests/engines/images.py"],
        ["tests/fixtures/programs.py"],
    ]
    if any(suite.files == ("conformance",) for suite in chosen):
        programs.append(["conformance/run.py", "--build-only"])
    for program in programs:
        done = subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{program[0]} failed: {(done.stderr or done.stdout).strip()}")


@functools.cache
def why_not(kernel: str) -> str:
    """Make the kernel and the image, in nobody's time; why there are none here, or nothing."""
    try:
        made = machine(kernel)
        if isinstance(made, Uml):
            # what failed to be made is not tried again by each suite
            os.environ["PYRUNC_GUEST_KERNEL"] = str(made.kernel)
            if made.is_old:
                _slow.add(kernel)
    except Unavailable as error:
        return str(error)
    return ""


_slow: set[str] = set()


def lighter(suite: Suite) -> Suite:
    """The suite as its kernel, made by now, can bear it."""
    quick = tuple(name for name in suite.quick if name not in LONG or suite.kernel not in _slow)
    return suite._replace(quick=quick)


def can_run(suite: Suite) -> bool:
    if why := why_not(suite.kernel):
        say(f"{suite.name}: skipped: {why}")
        record(suite.name, "skipped", f"missing feature: a guest ({why})")
    return not why


def main() -> int:
    parser = argparse.ArgumentParser(description="run the suites in guests with cgroup v2 and systemd")
    parser.add_argument("--all", action="store_true", help="not the quick part alone")
    parser.add_argument(
        "--kernel", choices=sorted({suite.kernel for suite in SUITES}), help="only in guests of this kind"
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these suites, the whole of each")
    given = parser.parse_args()
    unknown = set(given.names) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"no such suite: {' '.join(sorted(unknown))}")
    is_quick = not given.all and not given.names
    wanted = [suite for suite in SUITES if not given.names or suite.name in given.names]
    wanted = [suite for suite in wanted if given.kernel in (None, suite.kernel)]
    chosen = [suite for suite in wanted if files(suite, is_quick)]
    if given.list:
        for suite in chosen:
            print(f"{suite.name:20} {suite.user:8} {suite.manager:9} {suite.kernel:6} {' '.join(suite.files)}")
        return 0
    RESULTS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    able = [lighter(suite) for suite in chosen if can_run(suite)]
    if able:
        prepare(able)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            results = list(pool.map(lambda suite: run(suite, is_quick), able))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(_running):
                child.terminate()
            raise
    made = [str(path) for suite in chosen for path in RESULTS.glob(f"guest-{suite.name}.*")]
    subprocess.run([sys.executable, HERE.parent / "total.py", *made])
    return max(results, default=0)


if __name__ == "__main__":
    sys.exit(main())
