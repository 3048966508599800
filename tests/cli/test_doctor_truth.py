"""Every line that `doctor` prints of this host, held against what then works: containers, and programs of others.

TRIALS has for each line a trial of what it promises or denies; none looks where doctor looks. A line that has no trial is a failure:
run as root and as ordinary users, on cgroup v1 and v2 (tests/guest), the lines are different ones.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierarchies
import pytest
from features import has

USER = os.geteuid()
#: what a log-in gives an ordinary user
SESSION = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
#: what an ordinary user puts in front of a namespace of another kind
OWN = ["-Ur"] if USER else []


def works(*words: str, **more: Any) -> bool:
    try:
        return subprocess.run(words, capture_output=True, **more).returncode == 0
    except FileNotFoundError:
        return False


class Machine:
    """What the trials use: containers, and the lines by their ids."""

    def __init__(self, pyrunc: Any, make: Any, scratch: Path) -> None:
        self.pyrunc, self.make, self.scratch = pyrunc, make, scratch
        pyrunc.env = {**pyrunc.env, **{name: os.environ[name] for name in SESSION if name in os.environ}}
        self.lines: dict[str, dict[str, str]] = {line["id"]: line for line in self.ask()}
        self.count = 0

    def ask(self) -> Any:
        """The lines; of the driver that the suite uses doctor knows nothing."""
        return self.pyrunc("doctor", "--json", status=None).json()

    def run(self, *args: str, options: tuple[str, ...] = (), edit: Any = None, **linux: Any) -> Any:
        """A container from its beginning to its end, in the place that it gets where nobody names one."""

        def change(config: dict[str, Any]) -> None:
            del config["linux"]["cgroupsPath"]
            config["linux"].update(linux)
            if edit:
                edit(config)

        self.count += 1
        before = [word for word in self.pyrunc.options if word not in hierarchies.OPTIONS]
        self.pyrunc.options, kept = [*before, *options], self.pyrunc.options
        try:
            made = self.make(lambda config: (config["linux"].setdefault("cgroupsPath", ""), change(config)), *args)
            return self.pyrunc("run", "-b", made, self.pyrunc.id(f"t{self.count}"), status=None)
        finally:
            self.pyrunc.options = kept


@pytest.fixture
def machine(pyrunc: Any, make: Any, scratch: Path) -> Machine:
    return Machine(pyrunc, make, scratch)


def is_ok(line: dict[str, str]) -> bool:
    return line["severity"] == "ok"


# -- the kernel --------------------------------------------------------------------------------------------------------------


def version(machine: Machine, line: dict[str, str]) -> bool:
    release = os.uname().release
    numbers = tuple(int(word) for word in release.split("-")[0].split(".")[:2])
    return release in line["found"] and is_ok(line) == (numbers >= (5, 15))


def a_container_runs(machine: Machine, line: dict[str, str]) -> bool:
    return is_ok(line) == (machine.run("/bin/true").status == 0)


def namespaces(machine: Machine, line: dict[str, str]) -> bool:
    flags = {"mount": "-m", "uts": "-u", "ipc": "-i", "network": "-n", "cgroup": "-C", "pid": "-pf", "time": "-T"}
    named = set(line["found"].partition(",")[0].split()) if is_ok(line) else set()
    return named == {kind for kind, flag in flags.items() if works("unshare", *OWN, flag, "true")}


def user_namespace(machine: Machine, line: dict[str, str]) -> bool:
    return is_ok(line) == works("unshare", "-U", "true")


def switch(machine: Machine, line: dict[str, str]) -> bool:
    """A sysctl that forbids: that it is so shows in what it forbids, as a user without privilege."""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if not USER else []
    return not works(*words, "unshare", "-Ur", "true")


def mounts(machine: Machine, line: dict[str, str]) -> bool:
    (machine.scratch / "source").mkdir(exist_ok=True)
    bind = {"destination": "/mnt", "type": "bind", "source": str(machine.scratch / "source"), "options": ["bind", "ro"]}
    done = machine.run("/bin/sh", "-c", "! touch /mnt/x", edit=lambda config: config["mounts"].append(bind))
    return is_ok(line) == (done.status == 0)


def pidfd(machine: Machine, line: dict[str, str]) -> bool:
    fd = os.pidfd_open(os.getpid())
    signal.pidfd_send_signal(fd, 0)  # type: ignore[arg-type]
    os.close(fd)
    return is_ok(line)


def filesystems(machine: Machine, line: dict[str, str]) -> bool:
    place = machine.scratch / "layers"
    for name in ("lower", "upper", "work", "all"):
        (place / name).mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"

    def can_mount(kind: str) -> bool:
        words = ["-o", layers] if kind == "overlay" else []
        return works(
            "unshare", *(OWN or ["-r"]), "-mpfni", "--mount-proc", "mount", "-t", kind, *words, kind, f"{place}/all"
        )

    kinds = ("overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue")
    return not is_ok(line) or all(can_mount(kind) for kind in line["found"].split() if kind in kinds)


# -- who we are ----------------------------------------------------------------------------------------------------------------


def who(machine: Machine, line: dict[str, str]) -> bool:
    return ("root" == line["found"]) if not USER else f"uid {USER};" in line["found"]


def capabilities(machine: Machine, line: dict[str, str]) -> bool:
    """All of them: a container can have each."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16).bit_count()
    return is_ok(line) == (line["found"] == f"all {held}")


def sys_resource(machine: Machine, line: dict[str, str]) -> bool:
    """The line is there where it is missing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 << 20 if hard in (-1, resource.RLIM_INFINITY) else hard
    script = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, %d)); r.setrlimit(r.RLIMIT_CORE, (0, %d))"
    return not works("/usr/bin/python3", "-c", script % (limit - 1, limit))


def id_ranges(machine: Machine, line: dict[str, str]) -> bool:
    """newuidmap and newgidmap give what both files have, or nothing."""
    ids = ("rootless.newuidmap", "rootless.newgidmap", "rootless.subuid", "rootless.subgid")
    is_promised = all(is_ok(machine.lines[id_]) for id_ in ids)
    return is_promised == works("unshare", "-U", "--map-auto", "--map-root-user", "true")


def runtime_dir(machine: Machine, line: dict[str, str]) -> bool:
    probe = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "pyrunc-probe")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return not is_ok(line)
    return is_ok(line)


# -- cgroups -------------------------------------------------------------------------------------------------------------------


#: a limit, where there are any
SOME: dict[str, Any] = {"pids": {"limit": 50}} if has("limits") else {}


def layout(machine: Machine, line: dict[str, str]) -> bool:
    kind = subprocess.run(["stat", "-fc", "%T", "/sys/fs/cgroup"], capture_output=True, text=True).stdout.strip()
    unified = os.path.ismount("/sys/fs/cgroup/unified")
    return line["found"].startswith("v2 alone" if kind == "cgroup2fs" else "hybrid" if unified else "v1")


def driver(machine: Machine, line: dict[str, str]) -> bool:
    done = machine.run("/bin/true", options=("--systemd-cgroup",), resources=SOME)
    return ("can be used" in line["found"]) == (done.status == 0)


def moves(machine: Machine, line: dict[str, str]) -> bool:
    """What it advises is done where the machine is one of ours (tests/guest), and then there is nothing to advise any more."""
    shown = subprocess.run(["findmnt", "-nt", "cgroup,cgroup2", "-o", "OPTIONS"], capture_output=True, text=True).stdout
    if is_ok(line) != ("favordynmods" in shown):
        return False
    is_ours = os.path.isdir("/run/guest") and not os.path.exists("/run/systemd/container")
    if is_ok(line) or USER or not is_ours:
        return True
    subprocess.run(["sh", "-c", line["advice"].splitlines()[1]], check=True)
    return any(other["id"] == "cgroup.moves" and is_ok(other) for other in machine.ask())


def place(machine: Machine, line: dict[str, str]) -> bool:
    return is_ok(line) == (machine.run("/bin/true", resources=SOME).status == 0)


#: controller -> a limit of its kind, in words of both versions
LIMITS: dict[str, dict[str, Any]] = {
    "memory": {"memory": {"limit": 256 << 20}},
    "cpu": {"cpu": {"shares": 500}},
    "cpuset": {"cpu": {"cpus": str(min(os.sched_getaffinity(0)))}},
    "pids": {"pids": {"limit": 50}},
    "io": {"unified": {"io.bfq.weight": "200"}},
    "blkio": {"blockIO": {"weight": 200}},
    "hugetlb": {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
    "net_cls": {"network": {"classID": 5}},
    "net_prio": {"network": {"priorities": [{"name": "lo", "priority": 1}]}},
    "rdma": {"rdma": {"none0": {"hcaHandles": 1}}},
    "misc": {"unified": {"misc.max": "none 1"}},
    "dmem": {"unified": {"dmem.max": "none 1"}},
}


def controller(machine: Machine, line: dict[str, str]) -> bool:
    """A limit of the kind, in the place that doctor speaks of: for users who may make none, systemd's."""
    name = line["id"].rpartition(".")[2]
    if name in ("freezer", "cpuacct", "perf_event", "systemd"):
        return is_ok(line) == os.path.exists(f"/sys/fs/cgroup/{name}/cgroup.procs")
    place = machine.lines.get("cgroup.place", {"severity": "ok"})
    options = () if is_ok(place) else ("--systemd-cgroup",)
    done = machine.run("/bin/true", options=options, resources=LIMITS[name])
    if name in ("rdma", "misc", "dmem"):
        return done.status != 0  # there is nothing of the kind that could be limited
    return is_ok(line) == (done.status == 0)


def devices(machine: Machine, line: dict[str, str]) -> bool:
    """What no rule allows cannot be opened: the kernel's log, which root without rules could read, and a user has no node of."""
    options = () if is_ok(machine.lines.get("cgroup.place", {"severity": "ok"})) else ("--systemd-cgroup",)
    asked = ("open", "/dev/null", "w", "--", "mknod", "/kmsg", "c", "1", "11", "--", "open", "/kmsg", "r")
    rules = [{"allow": False, "access": "rwm"}]
    null, _, log = machine.run("/bin/probe", "each", *asked, options=options, resources={"devices": rules}).json()
    return is_ok(line) == (null["errno"] is None and log["errno"] in ("EPERM", "EACCES", "ENOENT"))


def unmounted(machine: Machine, line: dict[str, str]) -> bool:
    names = line["found"].partition(": ")[2].split()
    return all(machine.run("/bin/true", resources=LIMITS[name]).status for name in names if name in LIMITS)


# -- security ------------------------------------------------------------------------------------------------------------------


def actions(machine: Machine, line: dict[str, str]) -> bool:
    """What becomes of a program whose system call has each action."""
    killed = 128 + signal.SIGSYS
    wanted = {
        "kill_process": killed,
        "kill_thread": killed,
        "trap": killed,
        "errno": 1,
        "trace": 1,
        "log": 0,
        "allow": 0,
    }

    def status(action: str) -> int:
        rule = {"names": ["mkdir", "mkdirat"], "action": f"SCMP_ACT_{action.upper()}"}
        seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        if action == "allow":
            seccomp = {"defaultAction": "SCMP_ACT_ALLOW"}
        return int(machine.run("/bin/mkdir", "/dev/shm/made", seccomp=seccomp).status)

    found = {name: status(name) for name in line["found"].split() if name in wanted}
    assert found == {name: wanted[name] for name in found}
    return is_ok(line) == bool(found)


def library(machine: Machine, line: dict[str, str]) -> bool:
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_LOG"}]}
    return is_ok(line) == (machine.run("/bin/true", seccomp=seccomp).status == 0)


def modules(machine: Machine, line: dict[str, str]) -> bool:
    """Where a module labels processes, /proc says with what."""
    label = machine.run("/bin/cat", "/proc/self/attr/current")
    return is_ok(line) == (label.status == 0 and label.out != "")


def keyring(machine: Machine, line: dict[str, str]) -> bool:
    """A session keyring that is named after the container."""
    done = machine.run("/bin/cat", "/proc/keys", maskedPaths=[])
    return is_ok(line) == (f"_ses.{machine.pyrunc.id(f't{machine.count}')}" in done.out)


# -- what is installed -----------------------------------------------------------------------------------------------------------


def installation(machine: Machine, line: dict[str, str]) -> bool:
    return line["found"].partition(" in ")[0] in machine.pyrunc("--version").out.splitlines()[0]


def state(machine: Machine, line: dict[str, str]) -> bool:
    pyrunc = machine.pyrunc
    assert line["found"].startswith(str(pyrunc.root)), line
    made = machine.make(None, "/bin/true")
    pyrunc("create", "-b", made, pyrunc.id("counted"))
    (after,) = (other for other in machine.ask() if other["id"] == "state.root")
    pyrunc("delete", "--force", pyrunc.id("counted"))
    return is_ok(line) and after["found"] == f"{pyrunc.root}: 1 created"


def criu(machine: Machine, line: dict[str, str]) -> bool:
    """Ours asks the same program to dump a container."""
    pyrunc, id_ = machine.pyrunc, machine.pyrunc.id("dumped")
    made = machine.make(lambda config: config["process"].update(terminal=False), "/bin/sleep", "1000")
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    done = pyrunc("checkpoint", "--image-path", machine.scratch / "images", id_, status=None, timeout=100)
    if done.status:
        pyrunc("kill", id_, "KILL")
    pyrunc.wait(pid)
    pyrunc("delete", "--force", id_)
    return is_ok(line) == (done.status == 0)


Trial = Callable[[Machine, dict[str, str]], bool]
#: an id, or how several begin -> the trial
TRIALS: dict[str, Trial] = {
    "kernel.version": version, "kernel.interpreter": a_container_runs, "kernel.namespaces": namespaces,
    "kernel.mount-api": mounts, "kernel.pidfd": pidfd, "kernel.filesystems": filesystems, "kernel.keyring": keyring,
    "userns.create": user_namespace, "userns.": switch, "privileges.user": who, "privileges.capabilities": capabilities,
    "privileges.sys-resource": sys_resource, "rootless.runtime-dir": runtime_dir, "rootless.": id_ranges,
    "cgroup.layout": layout, "cgroup.driver": driver, "cgroup.moves": moves, "cgroup.place": place, "cgroup.v2.devices": devices,
    "cgroup.v1.devices": devices, "cgroup.v1.unmounted": unmounted, "cgroup.": controller,
    "seccomp.kernel": actions, "seccomp.library": library, "lsm": modules,
    "install.version": installation, "state.root": state, "programs.criu": criu,
}  # fmt: skip


@pytest.mark.differs("it has no doctor")
@pytest.mark.parametrize("group", ["kernel", "userns", "privileges", "rootless", "cgroup", "seccomp", "lsm", ""])
def test_every_line(machine: Machine, group: str) -> None:
    groups = ("kernel", "userns", "privileges", "rootless", "cgroup", "seccomp", "lsm")
    lies = []
    for id_, line in machine.lines.items():
        start = id_.partition(".")[0]
        if start == group or (not group and start not in groups):
            trial = TRIALS.get(id_) or next(
                (TRIALS[name] for name in TRIALS if name[-1] == "." and id_.startswith(name)), None
            )
            assert trial, f"nobody has tried {line}"
            if not trial(machine, line):
                lies.append(line)
    assert not lies
