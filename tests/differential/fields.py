"""What can be drawn for a configuration: one function a field, with the chance that a case has it.

A function changes the case's configuration so that it stays valid, and has the probe look where the change shows; it returns
False where the field does not go with what was drawn before it. Its name is what `differences.toml` calls it by.
"""

from __future__ import annotations

import random
from typing import Any

from cases import CAPABILITIES, Case

#: capabilities that the caller has on any machine where this runs as root
MORE_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_IPC_LOCK", "CAP_SYSLOG"]


def some(rng: random.Random, things: list[Any], least: int = 1, most: int = 99) -> list[Any]:
    """Some of the things, in an order of their own."""
    return rng.sample(things, rng.randint(least, min(most, len(things))))


# -- namespaces, which others depend on -----------------------------------------------------------------------------------


def fewer_namespaces(case: Case, rng: random.Random) -> None:
    gone = set(some(rng, ["network", "ipc", "uts", "cgroup", "pid"], 1, 3))
    case.linux["namespaces"] = [entry for entry in case.linux["namespaces"] if entry["type"] not in gone]


def given_namespaces(case: Case, rng: random.Random) -> None:
    words = {"network": ("--net", "net"), "ipc": ("--ipc", "ipc"), "uts": ("--uts", "uts")}
    for kind in some(rng, list(words)):
        case.given.append(words[kind][0])
        case.linux["namespaces"] = [entry for entry in case.linux["namespaces"] if entry["type"] != kind]
        case.linux["namespaces"].append({"type": kind, "path": f"@GIVEN@/{words[kind][1]}"})


def user_namespace(case: Case, rng: random.Random) -> object:
    if case.given or len([entry for entry in case.linux["namespaces"]]) < 6:
        return False
    case.linux["namespaces"].insert(rng.randint(0, 6), {"type": "user"})
    size = rng.choice([1000, 65536])
    case.linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": size}]
    case.linux["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": size}]
    return None


def time_namespace(case: Case, rng: random.Random) -> object:
    if case.has("user"):
        return False
    case.linux["namespaces"].append({"type": "time"})
    case.linux["timeOffsets"] = {
        clock: {"secs": rng.randint(1, 100000), "nanosecs": rng.randint(0, 999999999)}
        for clock in some(rng, ["monotonic", "boottime"])
    }
    return None


# -- process --------------------------------------------------------------------------------------------------------------


def args(case: Case, rng: random.Random) -> None:
    case.do("stat", rng.choice(["", " ", "/tmp/a b", "/té", "/x\ty", "-", "--help", "$HOME", "'\"", "a=b", "\\n"]))


def env(case: Case, rng: random.Random) -> None:
    made = ["HOME=/elsewhere", "TERM=vt100", "EMPTY=", "A=1", "A=2", "SPACE=a b", "EQUALS=a=b=c", "UTF=é", "LINE=a\nb", "LISTEN_FDS=7", "lower=x"]  # fmt: skip
    case.process["env"] += some(rng, made, 1, 5)


def no_path(case: Case, rng: random.Random) -> None:
    case.process["env"] = [entry for entry in case.process["env"] if not entry.startswith("PATH=")]


def cwd(case: Case, rng: random.Random) -> None:
    case.process["cwd"] = rng.choice(["/tmp", "/not/there", "/dev", "/proc", "/etc/..", "/link", "/closed"])


def user(case: Case, rng: random.Random) -> None:
    case.process["user"] = {"uid": rng.choice([0, 1, 999]), "gid": rng.choice([0, 5, 999])}
    if rng.random() < 0.6:
        case.process["user"]["additionalGids"] = some(rng, [0, 1, 5, 10, 999], 1, 4)


def umask(case: Case, rng: random.Random) -> None:
    case.process["user"]["umask"] = rng.choice([0, 0o022, 0o027, 0o077, 0o777])
    case.do("mkfile", "/tmp/made")
    case.do("stat", "/tmp/made")


def no_capabilities(case: Case, rng: random.Random) -> None:
    if rng.random() < 0.5:
        del case.process["capabilities"]
    else:
        case.process["capabilities"] = {name: [] for name in ("bounding", "effective", "permitted", "inheritable")}


def capabilities(case: Case, rng: random.Random) -> None:
    bounding = some(rng, CAPABILITIES + MORE_CAPABILITIES, 4)
    permitted = some(rng, bounding)
    inheritable = some(rng, permitted, 0)
    case.process["capabilities"] = {
        "bounding": bounding,
        "permitted": permitted,
        "effective": some(rng, permitted, 0),
        "inheritable": inheritable,
        "ambient": some(rng, inheritable, 0),
    }


def rlimits(case: Case, rng: random.Random) -> None:
    hard = {"RLIMIT_NOFILE": 1024, "RLIMIT_CORE": 4096, "RLIMIT_FSIZE": 1 << 40, "RLIMIT_STACK": 8 << 20,
            "RLIMIT_NPROC": 4096, "RLIMIT_AS": 1 << 40, "RLIMIT_CPU": 3600, "RLIMIT_MEMLOCK": 65536, "RLIMIT_DATA": 1 << 40,
            "RLIMIT_MSGQUEUE": 4096, "RLIMIT_NICE": 0, "RLIMIT_RTPRIO": 0, "RLIMIT_RTTIME": 1 << 30, "RLIMIT_SIGPENDING": 64,
            "RLIMIT_LOCKS": 100, "RLIMIT_RSS": 1 << 30}  # fmt: skip
    case.process["rlimits"] = [
        {"type": name, "hard": hard[name], "soft": hard[name] // rng.choice([1, 2])}
        for name in some(rng, list(hard), 1, 5)
    ]


def no_new_privileges(case: Case, rng: random.Random) -> None:
    case.process["noNewPrivileges"] = rng.random() < 0.8


def oom_score(case: Case, rng: random.Random) -> None:
    case.process["oomScoreAdj"] = rng.choice([0, 1, 100, 999, 1000])


def scheduler(case: Case, rng: random.Random) -> None:
    # those of realtime need a budget, which a new cgroup of v1 does not have
    policy = rng.choice(["SCHED_OTHER", "SCHED_BATCH", "SCHED_IDLE"])
    case.process["scheduler"] = {"policy": policy}
    if policy != "SCHED_IDLE":
        case.process["scheduler"]["nice"] = rng.randint(0, 19)


def io_priority(case: Case, rng: random.Random) -> None:
    case.process["ioPriority"] = {
        "class": rng.choice(["IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"]),
        "priority": rng.randint(0, 7),
    }


def personality(case: Case, rng: random.Random) -> None:
    case.linux["personality"] = {"domain": rng.choice(["LINUX", "LINUX32"])}


# -- names, sysctls, annotations --------------------------------------------------------------------------------------------


def hostname(case: Case, rng: random.Random) -> object:
    if not case.has("uts"):
        return False
    case.config["hostname"] = rng.choice(["box", "a.b.c", "x" * 64])
    return None


def domainname(case: Case, rng: random.Random) -> object:
    if not case.has("uts"):
        return False
    case.config["domainname"] = rng.choice(["example.org", "d"])
    return None


def sysctl(case: Case, rng: random.Random) -> object:
    table = {}
    if case.has("ipc"):
        table |= {
            "kernel.msgmax": "16384",
            "kernel.shmmni": "1000",
            "kernel.sem": "250\t32000\t32\t128",
            "fs.mqueue.msg_max": "20",
        }
    if case.has("network"):
        table |= {"net.ipv4.ip_forward": "1", "net.ipv4.ip_unprivileged_port_start": "80", "net.ipv4.conf.all.rp_filter": "2",
                  "net.ipv4.ping_group_range": "0 1000"}  # fmt: skip
    if not table or case.has("user"):
        return False
    case.linux["sysctl"] = {name: table[name] for name in some(rng, list(table), 1, 4)}
    case.sysctls += list(case.linux["sysctl"])
    return None


def annotations(case: Case, rng: random.Random) -> None:
    case.config["annotations"] = dict(some(rng, [("org.example.a", "1"), ("org.example.é", "ü\n"), ("x", "")]))


# -- linux ------------------------------------------------------------------------------------------------------------------


def masked(case: Case, rng: random.Random) -> None:
    paths = some(rng, ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/etc/file", "/etc/tree", "/not-there", "/proc/timer_list"], 1, 5)  # fmt: skip
    case.linux["maskedPaths"] = paths
    for path in paths:
        case.do("stat", path)
        case.do("open", path, "r")
    case.do("stat", "/etc/tree/below")


def readonly(case: Case, rng: random.Random) -> None:
    paths = some(rng, ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/etc/file", "/etc/tree", "/not-there"], 1, 5)  # fmt: skip
    case.linux["readonlyPaths"] = paths
    for path in paths:
        case.do("open", path, "w")
    case.do("mkfile", "/etc/tree/made")
    case.do("open", "/proc/sys/vm/swappiness", "w")


def devices(case: Case, rng: random.Random) -> None:
    made = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
        {"path": "/dev/deep/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 1, "gid": 2},
        {"path": "/dev/disk", "type": "b", "major": 7, "minor": 200, "fileMode": 0o640},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
        {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 3, "uid": 9},
        {"path": "/tmp/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "gid": 7},
        {"path": "/dev/sticky", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20666},
    ]
    if case.has("user"):
        made = [{**one, "uid": 0, "gid": 0} for one in made[:1]]
    case.linux["devices"] = some(rng, made, 1, 4)
    for device in case.linux["devices"]:
        case.do("stat", str(device["path"]))
        case.do("open", str(device["path"]), "r")


def seccomp(case: Case, rng: random.Random) -> None:
    numbers = {"sched_yield": 24, "times": 100, "getpriority": 140, "sysinfo": 99, "getcpu": 309, "getpgrp": 111}
    chosen = some(rng, list(numbers), 1, 4)
    rules: list[dict[str, Any]] = []
    for name in chosen:
        rule: dict[str, Any] = {"names": [name], "action": "SCMP_ACT_ERRNO"}
        if rng.random() < 0.5:
            rule["errnoRet"] = rng.choice([1, 13, 38, 99])
        if name == "getpriority":
            rule["args"] = [{"index": 0, "value": rng.choice([0, 1]), "op": rng.choice(["SCMP_CMP_EQ", "SCMP_CMP_NE"])}]
        rules.append(rule)
    case.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    if rng.random() < 0.4:
        case.linux["seccomp"]["architectures"] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    for name in chosen:
        case.do("syscall", str(numbers[name]))
    case.do("syscall", "140", "1")


def propagation(case: Case, rng: random.Random) -> None:
    case.linux["rootfsPropagation"] = rng.choice(
        ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"]
    )


def readonly_root(case: Case, rng: random.Random) -> None:
    case.config["root"]["readonly"] = True
    case.do("mkfile", "/made")
    case.do("mkdir", "/tmp/made")


# -- resources ----------------------------------------------------------------------------------------------------------------


def _resources(case: Case) -> dict[str, Any]:
    case.linux.setdefault("cgroupsPath", f"/pyrunc-differential/{case.number}")
    found: dict[str, Any] = case.linux.setdefault("resources", {})
    return found


def memory(case: Case, rng: random.Random) -> None:
    found = {"limit": rng.choice([64 << 20, 100 << 20, 1 << 30])}
    if rng.random() < 0.4:
        found["reservation"] = found["limit"] // 2
    if rng.random() < 0.2:
        found["swappiness"] = rng.choice([0, 60, 100])
    if rng.random() < 0.2:
        found["disableOOMKiller"] = rng.random() < 0.5
    _resources(case)["memory"] = found


def cpu(case: Case, rng: random.Random) -> None:
    found: dict[str, Any] = {"shares": rng.choice([2, 100, 1024, 4096])}
    if rng.random() < 0.6:
        found |= {"quota": rng.choice([20000, 150000, -1]), "period": rng.choice([50000, 100000])}
    if rng.random() < 0.4:
        found |= {"cpus": rng.choice(["0", "0-1", "1"]), "mems": "0"}
    _resources(case)["cpu"] = found


def pids(case: Case, rng: random.Random) -> None:
    _resources(case)["pids"] = {"limit": rng.choice([64, 100, -1, 4096])}


def device_rules(case: Case, rng: random.Random) -> None:
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}] if rng.random() < 0.8 else []
    rules += some(rng, [
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "access": "r"},
        {"allow": True, "type": "b", "access": "m"},
        {"allow": True, "type": "b", "major": 7, "minor": 200, "access": "rw"},
        {"allow": False, "type": "c", "major": 1, "minor": 8, "access": "w"},
    ], 0, 4)  # fmt: skip
    _resources(case)["devices"] = rules
    for path in ("/dev/null", "/dev/zero", "/dev/random", "/dev/tty"):
        case.do("open", path, "w")
    for words in (("c", "10", "229"), ("c", "1", "3"), ("b", "7", "200"), ("c", "4", "64")):
        case.do("mknod", f"/tmp/node-{'-'.join(words)}", *words)


def cgroups_path(case: Case, rng: random.Random) -> None:
    case.linux["cgroupsPath"] = (
        f"{rng.choice(['/', ''])}pyrunc-differential/{rng.choice(['a', 'a/b', 'ü'])}-{case.number}"
    )


# -- the caller, and how it calls ---------------------------------------------------------------------------------------------


def caller_umask(case: Case, rng: random.Random) -> None:
    case.umask = rng.choice([0, 0o027, 0o077])


def caller_signals(case: Case, rng: random.Random) -> None:
    case.ignored = some(rng, [1, 2, 13, 17, 10], 1, 3)


def preserved_descriptors(case: Case, rng: random.Random) -> None:
    case.descriptors = rng.randint(1, 3)
    case.options += ["--preserve-fds", str(rng.randint(1, case.descriptors))]


def listen_descriptors(case: Case, rng: random.Random) -> None:
    case.descriptors = max(case.descriptors, 2)
    case.environ |= {"LISTEN_FDS": str(rng.randint(1, 2)), **rng.choice([{}, {}, {"LISTEN_PID": "1"}])}


def no_new_keyring(case: Case, rng: random.Random) -> None:
    case.options.append("--no-new-keyring")


def no_pivot(case: Case, rng: random.Random) -> None:
    case.options.append("--no-pivot")


def _draws() -> list[tuple[Any, float]]:
    import mounting

    namespaces = [(fewer_namespaces, 0.2), (given_namespaces, 0.1), (user_namespace, 0.12), (time_namespace, 0.06)]
    process = [(args, 0.15), (env, 0.25), (no_path, 0.06), (cwd, 0.2), (user, 0.25), (umask, 0.15), (no_capabilities, 0.06),
               (capabilities, 0.25), (rlimits, 0.25), (no_new_privileges, 0.3), (oom_score, 0.15), (scheduler, 0.06),
               (io_priority, 0.06), (personality, 0.06)]  # fmt: skip
    names = [(hostname, 0.25), (domainname, 0.08), (sysctl, 0.2), (annotations, 0.15)]
    linux = [
        (masked, 0.2),
        (readonly, 0.2),
        (devices, 0.15),
        (seccomp, 0.2),
        (propagation, 0.12),
        (readonly_root, 0.12),
    ]
    resources = [(memory, 0.15), (cpu, 0.15), (pids, 0.15), (device_rules, 0.15), (cgroups_path, 0.1)]
    caller = [(caller_umask, 0.08), (caller_signals, 0.06), (preserved_descriptors, 0.08), (listen_descriptors, 0.06),
              (no_new_keyring, 0.08), (no_pivot, 0.06)]  # fmt: skip
    return [*namespaces, *process, *names, *linux, *resources, *mounting.DRAWS, *caller]


#: in this order, with these chances
DRAWS = _draws()
