"""config.json's process: who it is, what it may do, and how it is scheduled."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess

import pytest

CAPS = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"]
#: what can be taken away by a caller's umask: not the owner's own bits, without which a user can do nothing with what he makes
FORGIVEN = 0o777 if os.geteuid() == 0 else 0o077
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def process(**changes):
    """An edit that changes config.process."""
    return lambda config: config["process"].update(changes)


# -- who ---------------------------------------------------------------------------------------------------------------


def test_args_env_and_cwd_arrive_literally(pyrunc, make):
    args = ["/bin/probe", "report", "", "a b", "*", "$HOME", 'q"\\', "ä\u4e2d", "--", "x" * 5000]
    env = ["PATH=/bin", "A=1", "EMPTY=", "B=a=b", "A=2", "UTF=ä", "MULTI=a\nb"]
    made = make(process(args=args, env=env, cwd="/usr"))
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert found["args"] == args
    # of a variable that is there twice the last one arrives alone: getenv(3) would find the first
    kept = dict(word.split("=", 1) for word in found["env"])
    assert len(kept) == len(found["env"])
    assert kept.pop("HOME") == "/root"
    assert kept == {"PATH": "/bin", "A": "2", "EMPTY": "", "B": "a=b", "UTF": "ä", "MULTI": "a\nb"}
    assert found["cwd"] == "/usr"


def test_nothing_of_the_callers_environment_arrives(pyrunc, make, report):
    pyrunc.env = {**pyrunc.env, "LEAK": "1", "PYTHONPATH": "/x", "LD_LIBRARY_PATH": "/x", "PYTHONHOME": "/nowhere"}
    names = {word.split("=")[0] for word in report()["env"]}
    assert names == {"PATH", "HOME"}


def test_empty_environment(report):
    found = report(process(args=["/bin/probe", "report"], env=[]))
    assert {word.split("=")[0] for word in found["env"]} <= {"HOME"}


def test_environment_may_be_left_out(report):
    found = report(lambda c: c["process"].pop("env"))
    assert {word.split("=")[0] for word in found["env"]} <= {"HOME"}


def test_args_of_a_megabyte(pyrunc, make):
    args = ["/bin/probe", "report", *(f"{n:0100}" for n in range(8000))]
    found = pyrunc("run", "-b", make(process(args=args)), pyrunc.id()).json()
    assert found["args"] == args


@pytest.mark.parametrize(
    "user, uid, gid, groups",
    [
        ({"uid": 0, "gid": 0}, 0, 0, []),
        ({"uid": 1000, "gid": 50}, 1000, 50, []),
        pytest.param(
            *({"uid": 4294967294, "gid": 4294967294}, 4294967294, 4294967294, []),
            marks=[pytest.mark.differs("it takes half of the numbers"), pytest.mark.requires("root")],
        ),
        ({"uid": 1, "gid": 2, "additionalGids": [5, 1000, 5, 60000]}, 1, 2, [5, 1000, 60000]),
        ({"uid": 0, "gid": 0, "additionalGids": list(range(100, 300))}, 0, 0, list(range(100, 300))),
    ],
    ids=["root", "alice", "last", "groups", "200-groups"],
)
def test_user(report, user, uid, gid, groups):
    found = report(process(user=user))
    assert set(found["uid"].values()) == {uid}
    assert set(found["gid"].values()) == {gid}
    assert sorted(set(found["groups"]) - {gid}) == groups


@pytest.mark.requires("root")
def test_callers_groups_do_not_arrive(pyrunc, make):
    made = make(None, "/bin/probe", "report")
    result = pyrunc("run", "-b", made, pyrunc.id(), preexec_fn=lambda: os.setgroups([1, 2, 3]))
    assert result.json()["groups"] in ([], [0])


@pytest.mark.parametrize("umask, seen", [(None, "0022"), (0, "0000"), (0o27, "0027"), (0o777, "0777")])
def test_umask(pyrunc, make, umask, seen):
    user = {"uid": 0, "gid": 0, **({} if umask is None else {"umask": umask})}
    made = make(process(user=user), "/bin/probe", "report")
    assert pyrunc("run", "-b", made, pyrunc.id(), preexec_fn=lambda: os.umask(0o135 & FORGIVEN)).json()["umask"] == seen


@pytest.mark.differs("it makes mount points with the caller's umask")
def test_umask_of_the_caller_changes_nothing_that_is_made(pyrunc, make):
    made = make(None, "/bin/probe", "report")
    made.config["mounts"].append({"destination": "/new/dir", "type": "tmpfs", "source": "tmpfs"})
    made.write()
    found = pyrunc("run", "-b", made, pyrunc.id(), preexec_fn=lambda: os.umask(0o777 & FORGIVEN)).json()
    assert found["devices"]["null"]["mode"] == "0666"
    assert (made.rootfs / "new").stat().st_mode & 0o777 == 0o755


def test_home_is_the_users(report):
    def home(**changes):
        env = report(process(**changes))["env"]
        return [word for word in env if word.startswith("HOME=")]

    assert home() == ["HOME=/root"]
    assert home(user={"uid": 1000, "gid": 1000}) == ["HOME=/home"]
    assert home(user={"uid": 4242, "gid": 0}) == ["HOME=/"]
    assert home(env=["PATH=/bin", "HOME=/given"]) == ["HOME=/given"]


def test_session_and_process_group(report):
    found = report()
    assert (found["pid"], found["ppid"], found["pgid"], found["sid"]) == (1, 0, 1, 1)


# -- what it may do ----------------------------------------------------------------------------------------------------


def test_capabilities_of_root(report):
    found = report(process(capabilities={name: CAPS for name in SETS if name != "ambient"}))["capabilities"]
    for name in ("bounding", "effective", "permitted", "inheritable"):
        assert sorted(found[name]) == CAPS, name
    assert found["ambient"] == []


def test_capabilities_of_a_user(report):
    sets = {
        "bounding": CAPS,
        "permitted": CAPS[:4],
        "inheritable": CAPS[:3],
        "effective": CAPS[:4],
        "ambient": CAPS[:2],
    }
    found = report(process(capabilities=sets, user={"uid": 1000, "gid": 1000}))["capabilities"]
    # a program without file capabilities keeps the ambient ones (capabilities(7))
    assert sorted(found["bounding"]) == CAPS
    assert sorted(found["inheritable"]) == CAPS[:3]
    assert sorted(found["ambient"]) == sorted(found["permitted"]) == sorted(found["effective"]) == CAPS[:2]


def test_no_capabilities(report):
    for capabilities in ({}, {name: [] for name in SETS}):
        found = report(process(capabilities=capabilities))["capabilities"]
        assert found == {name: [] for name in SETS}


def test_a_user_without_ambient_capabilities_has_none(report):
    found = report(process(user={"uid": 1000, "gid": 1000}))["capabilities"]
    assert found["effective"] == found["permitted"] == found["ambient"] == []
    assert "CAP_CHOWN" in found["bounding"]


@pytest.mark.differs("it says nothing of an unknown one where no log level is given")
def test_unknown_capabilities_are_warned_about_and_not_granted(pyrunc, report, scratch):
    """config.md, capabilities: a value that cannot be mapped MUST be logged as a warning, and is no failure."""
    pyrunc.options += ["--log", str(scratch / "log")]
    sets = {name: [*CAPS, "CAP_NOPE"] for name in SETS[:3]}
    found = report(process(capabilities=sets))
    assert sorted(found["capabilities"]["effective"]) == CAPS
    assert "CAP_NOPE" in (scratch / "log").read_text()


@pytest.mark.requires("cap-sys-resource")
def test_a_capability_that_the_caller_has(report):
    sets = {name: ["CAP_SYS_RESOURCE"] for name in SETS[:3]}
    assert report(process(capabilities=sets))["capabilities"]["effective"] == ["CAP_SYS_RESOURCE"]


@pytest.mark.differs("it fails: operation not permitted")
@pytest.mark.requires("root")
def test_a_capability_that_the_caller_lacks_is_warned_about(pyrunc, make, scratch):
    """config.md, capabilities: what cannot be granted MUST be logged as a warning."""
    sets = {name: CAPS for name in SETS[:3]}
    made = make(process(capabilities=sets), "/bin/probe", "report")
    command = [
        "setpriv",
        "--bounding-set=-kill",
        *pyrunc.argv("--log", scratch / "log", "run", "-b", made, pyrunc.id()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=pyrunc.env, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)["capabilities"]["effective"]) == sorted(set(CAPS) - {"CAP_KILL"})
    assert "CAP_KILL" in (scratch / "log").read_text()


@pytest.mark.parametrize("value, seen", [(None, 0), (False, 0), (True, 1)])
def test_no_new_privileges(report, value, seen):
    def edit(config):
        config["process"].pop("noNewPrivileges")
        if value is not None:
            config["process"]["noNewPrivileges"] = value

    assert report(edit)["no_new_privs"] == seen


def test_securebits_dumpable_and_parent_death_signal_are_ordinary(report):
    for user in ({"uid": 0, "gid": 0}, {"uid": 1000, "gid": 1000}):
        found = report(process(user=user))
        assert (found["securebits"], found["dumpable"], found["pdeathsig"]) == (0, 1, 0)


# -- limits and schedulers ---------------------------------------------------------------------------------------------


def test_rlimits(report):
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_CPU", "soft": 1000, "hard": 1001},
        {"type": "RLIMIT_NPROC", "soft": 500, "hard": 500},
        {"type": "RLIMIT_MSGQUEUE", "soft": 1, "hard": 2},
        {"type": "RLIMIT_RTTIME", "soft": 2**40, "hard": 2**41},
    ]
    found = report(process(rlimits=limits))["rlimits"]
    for limit in limits:
        assert found[limit["type"]] == [limit["soft"], limit["hard"]], limit


@pytest.mark.differs("it opens files under the container's limits")
def test_tiny_rlimits_do_not_break_the_runtime(pyrunc, make):
    """They hold for the container's program, from its first instruction, and for nothing before it."""
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": 8, "hard": 8},
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NPROC", "soft": 1, "hard": 1},
        {"type": "RLIMIT_AS", "soft": 8 << 20, "hard": 8 << 20},
        {"type": "RLIMIT_MEMLOCK", "soft": 0, "hard": 0},
    ]
    made, id_ = make(process(rlimits=limits, user={"uid": 7, "gid": 7}), "/bin/busybox", "true"), pyrunc.id()
    pyrunc("run", "-b", made, id_)
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 0


@pytest.mark.parametrize(
    "limits",
    [
        [{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}],
        pytest.param(
            [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, {"type": "RLIMIT_NOFILE", "soft": 2, "hard": 2}],
            marks=pytest.mark.differs("it applies both"),
        ),
    ],
    ids=["unknown", "twice"],
)
def test_rlimits_that_are_refused(refused, limits):
    refused(process(rlimits=limits), "RLIMIT_N")


def test_rlimit_that_may_not_be_raised(refused, pyrunc, make, request):
    """It fails rather than run without the limit asked for (only where nobody may raise limits can this be seen)."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != resource.RLIM_INFINITY or os.geteuid():
        return
    made = make(process(rlimits=[{"type": "RLIMIT_CORE", "soft": 10, "hard": 20}]), "/bin/probe", "report")

    def lower():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.CDLL(None).prctl(24, 24, 0, 0, 0)  # PR_CAPBSET_DROP CAP_SYS_RESOURCE

    error = pyrunc.fails("run", "-b", made, pyrunc.id(), preexec_fn=lower)
    assert "rlimit" in error.lower() and "not permitted" in error


@pytest.mark.parametrize("value", [None, 200, 1000])
def test_oom_score_adj(pyrunc, make, value):
    own = int(open("/proc/self/oom_score_adj").read())
    made = make(None if value is None else process(oomScoreAdj=value), "/bin/probe", "report")
    assert pyrunc("run", "-b", made, pyrunc.id()).json()["oom_score_adj"] == str(own if value is None else value)


@pytest.mark.parametrize("value", [-1001, 1001])
def test_oom_score_adj_out_of_range(refused, value):
    refused(process(oomScoreAdj=value), "")


@pytest.mark.differs("it does not know process.scheduler")
@pytest.mark.parametrize(
    "scheduler, seen",
    [
        ({"policy": "SCHED_BATCH", "nice": 5}, {"policy": 3, "nice": 5}),
        ({"policy": "SCHED_IDLE"}, {"policy": 5}),
        ({"policy": "SCHED_OTHER", "nice": 19}, {"policy": 0, "nice": 19}),
    ],
    ids=lambda value: value.get("policy") if isinstance(value.get("policy"), str) else "",
)
def test_scheduler(report, scheduler, seen):
    found = report(process(scheduler=scheduler))["scheduler"]
    assert {key: found[key] for key in seen} == seen


@pytest.mark.differs("it does not know process.scheduler")
@pytest.mark.parametrize("policy, number", [("SCHED_FIFO", 1), ("SCHED_RR", 2)])
def test_realtime_scheduler(pyrunc, make, policy, number):
    """Where the kernel shares out real time by cgroup, a new one has none of it, and a user has none: that is an error, and nothing else."""
    edit = process(scheduler={"policy": policy, "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})
    result = pyrunc("run", "-b", make(edit, "/bin/probe", "report"), pyrunc.id(), status=None)
    if os.geteuid() or os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"):
        assert result.status == 1 and policy in result.err and "operation not permitted" in result.err, result
    else:
        found = result.json()["scheduler"]
        assert (found["policy"], found["priority"], found["flags"]) == (number, 3, 1)


@pytest.mark.differs("it does not know process.scheduler")
@pytest.mark.parametrize(
    "scheduler",
    [{"policy": "SCHED_NOPE"}, {"policy": "SCHED_OTHER", "nice": 30}, {"policy": "SCHED_OTHER", "flags": ["X"]}],
)
def test_scheduler_refused(refused, scheduler):
    refused(process(scheduler=scheduler), "scheduler")


@pytest.mark.differs("it does not know process.ioPriority")
@pytest.mark.parametrize(
    "name, number",
    [
        pytest.param("IOPRIO_CLASS_RT", 1, marks=pytest.mark.requires("root")),
        ("IOPRIO_CLASS_BE", 2),
        ("IOPRIO_CLASS_IDLE", 3),
    ],
)
def test_io_priority(report, name, number):
    found = report(process(ioPriority={"class": name, "priority": 5}))["ioprio"]
    assert found["class"] == number
    assert found["priority"] == 5 or number == 3


@pytest.mark.differs("it does not know linux.personality")
@pytest.mark.parametrize(
    "domain, machine, number",
    [("LINUX", "x86_64", 0), pytest.param("LINUX32", "i686", 8, marks=pytest.mark.requires("i386-calls"))],
)
@pytest.mark.requires("x86-64")
def test_personality(report, domain, machine, number):
    found = report(lambda c: c["linux"].update(personality={"domain": domain}))
    assert (found["machine"], found["personality"]) == (machine, number)


@pytest.mark.differs("it does not know linux.personality")
def test_personality_flags(pyrunc, make, scratch):
    """config-linux.md, personality: the specification has none, so that what is given cannot be meant for anybody."""
    made = make(
        lambda c: c["linux"].update(personality={"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}), "/bin/true"
    )
    pyrunc("--log", scratch / "log", "run", "-b", made, pyrunc.id())
    assert "linux.personality.flags" in (scratch / "log").read_text()


@pytest.mark.differs("it hands on the caller's")
def test_affinity_of_the_caller_is_not_inherited(report):
    every = sorted(os.sched_getaffinity(0))
    assert report(None, preexec_fn=lambda: os.sched_setaffinity(0, every[:1]))["affinity"] == every


@pytest.mark.requires("memory-policy")
@pytest.mark.differs("it does not know linux.memoryPolicy")
def test_memory_policy(report):
    found = report(lambda c: c["linux"].update(memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"}))
    assert found["mempolicy"] == {"mode": 2, "nodes": [0]}


def test_keyring_is_the_containers_own(report, pyrunc):
    assert f"_ses.{pyrunc.prefix}-report" in (report()["keyring"] or "")
    own = report(None, options=("--no-new-keyring",))
    assert "_ses.t" not in (own["keyring"] or "")
