"""Nothing happens that `pyrunc plan` does not show: traced, every call of every process is held against the printed plan.

Containers of many kinds are made, started and deleted under strace. Each call of pyrunc and of init that changes anything
must be what the line whose turn it is says and may do, each line must be seen, and both in the printed order (accounts.py,
contracts_*.py). At the end: a plan with a line too many, too few or changed, and an init that is made
to do more than its plan, are found out.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import contracts_host  # noqa: E402
import contracts_mounts  # noqa: E402
import contracts_unit  # noqa: E402, F401 - its lines are added to the table of contracts_host
import hierarchies  # noqa: E402
import tracing  # noqa: E402
from accounts import Account, Unplanned, message  # noqa: E402

from runtime import wire  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PROFILE = json.loads((ROOT / "tests/fixtures/seccomp/default.json").read_text())

#: newuidmap and newgidmap are powerless under strace
pytestmark = [pytest.mark.differs("it has no plan"), pytest.mark.requires("root")]


class Traced:
    """The plan of a container, and what was done: `verbs` of one life, under strace, one after the other."""

    def __init__(self, pyrunc, made, verbs, options, scratch, program, status):
        id_, self.status = pyrunc.id(), status
        self.id, self.bundle, self.root, self.env = id_, str(made.path), str(pyrunc.root), pyrunc.env
        self.plan = pyrunc("plan", "--json", "--id", id_, *options, made).json()
        words = {
            "create": ["create", "-b", made, *options, id_],
            "run": ["run", "-b", made, *options, id_],
            "start": ["start", id_],
            "delete": ["delete", "--force", id_],
        }
        program = program or pyrunc.argv()[0]
        script = " && ".join(shlex.join([program, *pyrunc.argv(*words[verb])[1:]]) for verb in verbs)
        file = scratch / f"{id_}.trace"
        with tracing.run(
            ["sh", "-c", f"{script}; exit"],
            file,
            env=pyrunc.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as child:
            out, _ = child.communicate(timeout=50)
        assert child.returncode == status, out.decode()
        self.trace = tracing.read(file, program)
        names = [process.name.split() for process in self.trace.commands]
        assert [next(word for word in name if word in words) for name in names] == verbs
        self.verbs = dict(zip(verbs, self.trace.commands, strict=True))

    def account(self, verb):
        names = {"$ROOT": self.root, "$STATE": f"{self.root}/{self.id}", "bundle": self.bundle, "verb": verb}
        names["manager"] = self.env.get("NOTIFY_SOCKET", "")
        return Account(f"`{verb}`", self.verbs[verb].after_exec("pyrunc"), names)

    def check(self, plan=None):
        """Hold all of it against the plan, or against another."""
        plan = self.plan if plan is None else plan
        pids = []
        for verb in self.verbs:
            account = self.account(verb)
            account.pids = pids
            if verb in ("create", "run"):
                self.check_making(account, plan, verb)
            if verb == "start":
                contracts_host.start(account, plan)
            if verb in ("delete", "run"):
                contracts_host.delete(account, plan)
            account.finish()

    def check_making(self, account, plan, verb):
        steps = [line for line in plan if line["place"] == "host" and line["where"] not in ("by start", "by delete")]
        ops = [line for line in plan if line["place"] == "init"]
        if verb == "run":
            # it does not wait for start, so its plan has neither the FIFOs nor the op; the hooks of start are its own then, and
            # the caller hears of it after them
            steps = [line for line in steps if line["name"] not in ("mkfifo", "pid-file")]
            steps += [line for line in plan if line["where"] == "by start"] + [
                line for line in plan if line["name"] == "pid-file"
            ]
            ops = [line for line in ops if line["name"] != "fifo"]
            contracts_host.prepare_to_wait(account)
        launch = next(number for number, line in enumerate(steps) if line["name"] == "launch")
        account.follow(steps[: launch + 1], contracts_host.HOST)
        init = Account("init", account.launched.after_exec("memfd:pyrunc-init"), account.names)
        init.pids = account.pids
        self.init = init
        init.follow(ops, contracts_mounts.INIT)
        if self.status:
            init.take("sendmsg", lambda call: message(call) == (wire.FAILED, ops[-1]["index"]))
        init.finish()
        account.follow(steps[launch + 1 :], contracts_host.HOST)


@pytest.fixture
def traced(pyrunc, make, scratch):
    def traced(edit=None, *args, verbs=("create", "start", "delete"), options=(), program="", status=0):
        made = make(edit, *(args or ("/bin/true",)))
        return Traced(pyrunc, made, list(verbs), [str(word) for word in options], scratch, program, status)

    return traced


_shared = []


@pytest.fixture
def shared(request):
    """The trace of one small container, for all tests that only read it."""
    if not _shared:
        _shared.append(request.getfixturevalue("traced")())
    return _shared[0]


@pytest.fixture
def listening(scratch):
    """listening("name"): the path of a socket that somebody listens on; a manager's takes note of all it is told."""
    opened = []

    def take_note(manager):
        fds = []
        while not fds:
            _, fds, _, _ = socket.recv_fds(manager, 4096, 1)
        os.close(fds[0])  # sd_notify_barrier(3)

    def listening(name, kind=socket.SOCK_STREAM):
        opened.append(socket.socket(socket.AF_UNIX, kind))
        opened[-1].bind(str(scratch / name))
        if kind == socket.SOCK_STREAM:
            opened[-1].listen(1)
        else:
            threading.Thread(target=take_note, args=opened[-1:], daemon=True).start()
        return scratch / name

    yield listening
    for one in opened:
        one.close()


# -- kinds of containers -----------------------------------------------------------------------------------------------


def docker(config):
    """What an engine asks for: a profile, limits, hooks of every kind, a user with groups, mounts, devices, parameters."""
    process, linux = config["process"], config["linux"]
    process.update(
        user={"uid": 1000, "gid": 1000, "additionalGids": [50, 100], "umask": 0o27}, oomScoreAdj=100, cwd="/work/dir"
    )
    process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    process["capabilities"].update(inheritable=["CAP_CHOWN"], ambient=["CAP_CHOWN"])
    linux["resources"] = {
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 50},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        ],
    }
    linux["seccomp"] = copy.deepcopy(PROFILE)
    linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.msgmax": "4096"}
    linux["maskedPaths"] += ["/sys/kernel/debug", "/sys/devices/virtual/powercap", "/nowhere"]
    linux["readonlyPaths"] = ["/proc/bus", "/proc/sys", "/nowhere"]
    linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 1000, "gid": 1000}
    ]
    linux["rootfsPropagation"] = "rslave"
    config["domainname"] = "example"
    config["root"]["readonly"] = True
    config["mounts"] += [
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"],
        },
        {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "rprivate", "ro"]},
        {"destination": "/var/new/place", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "tmpcopyup"]},
    ]
    # the program of an absolute path is found inside as well as outside
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    config["hooks"] = {kind: [{"path": "/bin/true", "timeout": 10}, {"path": "/bin/true"}] for kind in kinds}


def user_namespace(config):
    linux = config["linux"]
    linux["namespaces"] += [{"type": "user"}, {"type": "time"}]
    linux["timeOffsets"] = {"boottime": {"secs": 100}}
    linux["uidMappings"] = linux["gidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 1000},
        {"containerID": 1000, "hostID": 200000, "size": 1},
    ]
    config["process"]["user"] = {"uid": 1000, "gid": 1000}
    config["mounts"].append({"destination": "/mnt", "type": "bind", "source": "/usr", "options": ["bind", "ro"]})
    config["mounts"].append({"destination": "/var/tmp", "type": "tmpfs", "source": "tmpfs"})


def settings(config):
    """Settings of the process, without a pid namespace: nothing forks."""
    config["linux"]["namespaces"] = [{"type": name} for name in ("mount", "uts", "ipc", "network")]
    config["linux"].update(personality={"domain": "LINUX32"}, rootfsPropagation="private")
    config["process"].update(
        ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 3},
        scheduler={"policy": "SCHED_BATCH", "nice": 5},
        noNewPrivileges=False,
    )
    config["linux"]["seccomp"] = copy.deepcopy(PROFILE)
    config["linux"].pop("cgroupsPath", None)


# -- tests -------------------------------------------------------------------------------------------------------------


def test_a_small_container(shared):
    shared.check()


def test_a_container_of_an_engine(traced):
    traced(docker).check()


def test_a_profile_that_is_kept_already_is_not_kept_again(traced):
    first, second = traced(docker), traced(docker)
    assert [[line for line in one.plan if line["name"] == "keep"] != [] for one in (first, second)] == [True, False]
    second.check()


def test_a_container_in_a_user_namespace(traced):
    traced(user_namespace).check()


def test_settings_of_the_process(traced):
    traced(settings).check()


def test_a_terminal_and_files_for_the_caller(traced, listening, scratch):
    def edit(config):
        config["process"].update(terminal=True, consoleSize={"height": 30, "width": 80})

    options = [
        "--console-socket",
        listening("console"),
        "--pidfd-socket",
        listening("pidfd"),
        "--pid-file",
        scratch / "pid",
    ]
    one = traced(edit, options=options)
    assert {"console", "pidfd", "pid-file"} <= {line["name"] for line in one.plan}
    one.check()


def test_namespaces_joined_by_path(traced, holder):
    pid = holder("-n", "-u", "-i")

    def edit(config):
        paths = {"network": "net", "uts": "uts", "ipc": "ipc"}
        config["linux"]["namespaces"] = [
            {"type": kind, **({"path": f"/proc/{pid}/ns/{paths[kind]}"} if kind in paths else {})}
            for kind in ("pid", "mount", "network", "uts", "ipc", "cgroup")
        ]

    traced(edit).check()


def test_a_service_that_says_when_it_is_ready(traced, pyrunc, listening):
    pyrunc.env["NOTIFY_SOCKET"] = str(listening("manager", socket.SOCK_DGRAM))
    traced(None, "/bin/probe", "notify", "READY=1").check()


def test_run_in_the_foreground(traced, scratch):
    hooks = {kind: [{"path": "/bin/true"}] for kind in ("poststart", "poststop")}
    one = traced(lambda config: config.update(hooks=hooks), verbs=["run"], options=["--pid-file", scratch / "pid"])
    one.check()


@pytest.mark.parametrize("verbs", [["create", "start", "delete"], ["run"]], ids=["create", "run"])
def test_output_of_hooks_in_the_container(traced, scratch, verbs):
    hooks = {kind: [{"path": "/bin/true"}] for kind in ("createContainer", "startContainer")}
    files = {f"run.oci.hooks.{name}": str(scratch / name) for name in ("stdout", "stderr")}
    traced(lambda config: config.update(hooks=hooks, annotations=files), verbs=verbs).check()


def test_delete_of_one_that_runs(traced):
    traced(None, "/bin/probe", "sleep", "1000").check()


def test_a_create_that_fails_undoes_its_steps(traced):
    one = traced(None, "/no/such/program", verbs=["create"], status=1)
    account, names = one.account("create"), [line["name"] for line in one.plan]
    one.check_making(
        account, [line for line in one.plan[: names.index("find-exec") + 1] if line["name"] != "pid-file"], "create"
    )
    contracts_host.undo(account, one.plan)
    account.take("write", lambda call: call.args[0].startswith("2<"))
    account.finish()


def test_an_id_map_of_a_mount(traced):
    mapping = [{"containerID": 0, "hostID": 3000, "size": 10}]

    def edit(config):
        config["mounts"].append(
            {
                "destination": "/mnt",
                "type": "bind",
                "source": str(ROOT / "runtime"),
                "options": ["bind"],
                "uidMappings": mapping,
                "gidMappings": mapping,
            }
        )

    traced(edit).check()


def test_each_step_is_one_line(pyrunc, make):
    """Whatever the configuration holds: a value with a line break must not look like a step of its own."""
    made = make(user_namespace, "/bin/true")
    made.config["hooks"] = {"poststop": [{"path": "/bin/x\nhost    1  mkdir /"}]}
    made.write()
    lines = pyrunc("plan", made).out.splitlines()
    assert len(lines) == len(pyrunc("plan", "--json", made).json())
    assert lines[-1].split()[1:] == ["hook", "poststop/0", "/bin/x\\nhost", "1", "mkdir", "/", "by", "delete"]


def test_plan_itself_changes_nothing(pyrunc, make, scratch):
    file = scratch / "trace"
    command = pyrunc.argv("plan", make(docker, "/bin/true"))
    with tracing.run(
        ["sh", "-c", f"{shlex.join(command)}; exit"], file, env=pyrunc.env, stdout=subprocess.PIPE
    ) as child:
        out, _ = child.communicate(timeout=50)
    assert child.returncode == 0 and b"pivot-root" in out
    (process,) = tracing.read(file, command[0]).commands
    account = Account("`plan`", process.after_exec("pyrunc"), {})
    account.take("write", lambda call: call.args[0].startswith("1<"))
    account.finish()


# -- the check itself --------------------------------------------------------------------------------------------------

#: lines whose calls change nothing: without them a trace is as well explained
LOOKS = {
    "open",
    "close",
    "check-device",
    "mountpoint",
    "reopen-null",
    "chown-stdio",
    "home",
    "close-range",
    "find-exec",
    "fifo",
}

#: what is only looked at where it is so already, and the file that is written where it is not (v2)
SEEN_TO = {"enable": "cgroup.subtree_control", "threaded": "cgroup.type"}


def test_a_line_too_many_or_too_few_is_found_out(shared):
    shared.check()
    plan, twice, unseen = shared.plan, [], []
    found = {call.text(1): call.error for call in shared.init.calls if call.name == "openat2"}
    written = {contracts_host.written(call) for call in shared.account("create").calls if call.name == "write"}
    for number, line in enumerate(plan):
        try:
            shared.check([*plan[: number + 1], line, *plan[number + 1 :]])
            twice.append(line)
        except Unplanned:
            pass
        try:
            shared.check([*plan[:number], *plan[number + 1 :]])
        except (Unplanned, StopIteration):
            continue
        is_missing = line["name"] in ("mask", "readonly") and found[line["text"].partition(":")[2]] == "ENOENT"
        is_so = line["name"] in SEEN_TO and f"{line['text'].split(' ')[0]}/{SEEN_TO[line['name']]}" not in written
        if line["name"] not in LOOKS and not is_missing and not is_so:
            unseen.append(line)
    assert not twice
    assert not unseen, unseen


#: lines about the cgroup, by who makes it and of which version
CGROUP = {
    ("cgroupfs", 1): [
        ("write", "devices.deny a", "devices.allow a"), ("write", "tasks 0", "tasks 1"), ("mkdir", "/memory/", "/nowhere/"),
    ],
    ("cgroupfs", 2): [
        ("mkdir", "/fs/cgroup/", "/fs/nowhere/"), ("enable", "/fs/cgroup ", "/fs/nowhere "),
        ("threaded", "/fs/cgroup/", "/fs/nowhere/"), ("devices", "/fs/cgroup/", "/fs/nowhere/"),
    ],
    ("systemd", 2): [
        ("property", " Delegate", " MemoryMax"), ("start-unit", ".scope", ".slice"), ("devices", "/fs/cgroup/", "/fs/nowhere/"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        *CGROUP[hierarchies.MANAGER, hierarchies.VERSION],
        ("note", ", cgroup", ""),
        ("unshare", "network", "user"),
        ("prctl", "no-new-privs 1", "no-new-privs 0"),
        ("fsmount", "nosuid,nodev,noexec", "nosuid,nodev"),
        ("fsconfig", "mode=755", "mode=777"),
        ("mount-setattr", "slave", "private"),
        ("move-mount", "mnt -> at", "rootfs -> at"),
        ("mknod", "1:3", "1:1"),
        ("symlink", "/proc/self/fd", "/proc/1/fd"),
        ("readonly", "/proc/bus", "/proc/buz"),
        ("mask", "/proc/keys", "/proc/kez"),
        ("bounding", "chown,", ""),
        ("capset", "effective chown,", "effective "),
        ("setresuid", "0", "1000"),
        ("exec", "/bin/true", "/bin/false"),
    ],
)  # fmt: skip
def test_a_line_that_says_something_else_is_found_out(shared, name, old, new):
    plan = copy.deepcopy(shared.plan)
    line = next(line for line in plan if line["name"] == name and old in line["text"])
    line["text"] = line["text"].replace(old, new, 1)
    with pytest.raises(Unplanned):
        shared.check(plan)


MORE = {
    "an op at the start": "plan.ops.insert(0, Op('umask', a=0o77))",
    "an op inside the container": "plan.ops.insert([op.name for op in plan.ops].index('pivot-root'), Op('sethostname', 'other'))",
    "an op after start": "plan.ops.insert(-1, Op('umask', a=0o77))",
    "a file": "open('/dev/shm/pyrunc-more', 'w').close(); os.unlink('/dev/shm/pyrunc-more')",
    "a signal": "os.kill(os.getpid(), 28)",
    "a program": "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
    "a limit": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
}


@pytest.mark.parametrize("more", MORE)
def test_an_init_or_a_create_that_does_more_is_found_out(pyrunc, traced, scratch, more):
    """The command as it is, made to do one more thing at the launch: its plan is printed by the real one."""
    launcher = Path(pyrunc.argv()[0]).read_text().splitlines()
    place = launcher.index("sys.exit(main())")
    launcher[place:place] = [
        "import os", "from runtime import wire", "from runtime.plan import Op", "encode = wire.encode", "def more(plan):",
        f"    {MORE[more]}", "    return encode(plan)", "wire.encode = more",
    ]  # fmt: skip
    program = scratch / "pyrunc-more"
    program.write_text("\n".join(launcher) + "\n")
    program.chmod(0o755)
    with pytest.raises(Unplanned):
        traced(program=str(program)).check()
