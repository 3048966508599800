"""Each rule refuses what it is about, at its place and with its clause, and nothing of a configuration that is right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import config_faults
import pytest

from runtime import rules, rules_linux

Edit = Callable[[dict[str, Any]], object]


def put(path: str, value: Any) -> Edit:
    """An edit that sets one place of the full configuration; `-` after the last slash appends to a list."""

    def edit(config: dict[str, Any]) -> None:
        holder: Any = config
        *way, last = path.split("/")
        for word in way:
            holder = holder[int(word) if isinstance(holder, list) else word]
        if last == "-":
            holder.append(value)
        elif isinstance(holder, list):
            holder[int(last)] = value
        else:
            holder[last] = value

    return edit


def without_namespace(kind: str) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        linux = config["linux"]
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != kind]

    return edit


def joined(kind: str, **changes: Any) -> Edit:
    """An edit that joins a namespace by its path instead of making a new one."""

    def edit(config: dict[str, Any]) -> None:
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == kind:
                entry["path"] = f"/proc/1/ns/{kind}"
        config["linux"].update(changes)

    return edit


def sysctl(name: str) -> Edit:
    return put("linux/sysctl", {name: "1"})


def mount(destination: str, kind: str = "tmpfs", *options: str, **more: Any) -> Edit:
    return put("mounts/0", {"destination": destination, "type": kind, "options": list(options), **more})


MAP = {"containerID": 0, "hostID": 1000, "size": 10}
RULE = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
DEADLINE = {"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}

#: edit, place, words of the reason
BROKEN: list[tuple[Edit, str, str]] = [
    # process
    (put("process/cwd", "tmp"), "/process/cwd", '"tmp" is not an absolute path'),
    (put("process/args", []), "/process/args", "empty"),
    (put("process/args", [""]), "/process/args/0", "empty"),
    (put("process/env/-", "NAME"), "/process/env/2", '"NAME" is not NAME=VALUE'),
    (put("process/env/-", "=x"), "/process/env/2", '"=x" is not NAME=VALUE'),
    (put("process/rlimits/-", {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}), "/process/rlimits/1/type", "limited twice"),
    (put("process/rlimits/0/soft", 65), "/process/rlimits/0/soft", "65 is above the hard limit, 64"),
    (put("process/scheduler", {"policy": "SCHED_FIFO"}), "/process/scheduler/priority", "takes a priority from 1 to 99"),
    (put("process/scheduler", {"policy": "SCHED_RR", "priority": 1, "nice": 1}), "/process/scheduler/nice", "no nice value"),
    (put("process/scheduler", {"policy": "SCHED_OTHER", "priority": 1}), "/process/scheduler/priority", "no priority"),
    (put("process/scheduler", {"policy": "SCHED_BATCH", "period": 1}), "/process/scheduler/period", "takes no period"),
    (put("process/scheduler", {**DEADLINE, "runtime": 3}), "/process/scheduler/runtime", "runtime <= deadline <= period"),
    (put("process/scheduler", {**DEADLINE, "period": 1}), "/process/scheduler/runtime", "runtime <= deadline <= period"),
    *((put("process/execCPUAffinity/final", text), "/process/execCPUAffinity/final", "is not a list of processors")
      for text in ("x", "1-", "-1", "3-1", "1,,2", "1;2", "0-1-2", "٣")),
    # mounts
    (mount("/proc"), "/mounts/0/type", '"tmpfs" cannot stand in for proc'),
    (mount("/./proc//"), "/mounts/0/type", '"tmpfs" cannot stand in for proc'),
    (mount("/proc/self/attr"), "/mounts/0/destination", "is inside /proc"),
    (mount("/proc/./self/../sys/kernel", "bind", "bind"), "/mounts/0/destination", "is inside /proc"),
    (mount("../x/../../proc/1"), "/mounts/0/destination", "is inside /proc"),
    (mount("proc/sys"), "/mounts/0/destination", "is inside /proc"),
    (mount("/proc/1", "proc"), "/mounts/0/destination", "is inside /proc"),
    (mount("/proc/cpuinfo/x", "bind"), "/mounts/0/destination", "is inside /proc"),
    (mount("/x", "bind", uidMappings=[MAP]), "/mounts/0/gidMappings", "required"),
    (mount("/x", "bind", gidMappings=[MAP]), "/mounts/0/uidMappings", "required"),
    (mount("/x", "bind", uidMappings=[MAP, MAP], gidMappings=[MAP]), "/mounts/0/uidMappings/1/containerID", "another mapping"),
    # names and hooks
    (without_namespace("uts"), "/hostname", "there is no uts namespace"),
    (without_namespace("uts"), "/domainname", "there is no uts namespace"),
    (put("hostname", "é" * 33), "/hostname", "longer than 64 bytes"),
    (put("hooks/poststop/0/path", "true"), "/hooks/poststop/0/path", '"true" is not an absolute path'),
    # namespaces
    (put("linux/namespaces/-", {"type": "pid"}), "/linux/namespaces/8/type", "pid is listed twice"),
    (put("linux/namespaces/0/path", "ns"), "/linux/namespaces/0/path", "not an absolute path"),
    (without_namespace("user"), "/linux/uidMappings", "there is no user namespace"),
    (put("linux/gidMappings", None), "/linux/gidMappings", "required: a new user namespace"),
    (put("linux/uidMappings", []), "/linux/uidMappings", "required: a new user namespace"),
    (put("linux/uidMappings/-", {**MAP, "size": 1}), "/linux/uidMappings/1/containerID", "another mapping"),
    (put("linux/uidMappings/-", {"containerID": 70000, "hostID": 165535, "size": 1}), "/linux/uidMappings/1/hostID",
     "165535 is in the range of another mapping"),
    (put("linux/uidMappings/0/size", 2**32 - 1), "/linux/uidMappings/0/size", "beyond the greatest id"),
    (put("linux/gidMappings", [{"containerID": i, "hostID": i, "size": 1} for i in range(341)]), "/linux/gidMappings",
     "more than 340 ranges"),
    (put("process/user/uid", 65536), "/process/user/uid", "65536 is not mapped"),
    (put("process/user/gid", 70000), "/process/user/gid", "70000 is not mapped"),
    (put("process/user/additionalGids/-", 70000), "/process/user/additionalGids/1", "70000 is not mapped"),
    (without_namespace("time"), "/linux/timeOffsets", "there is no time namespace"),
    (joined("time"), "/linux/timeOffsets", "its offsets are fixed"),
    (put("linux/timeOffsets/realtime", {"secs": 1}), "/linux/timeOffsets/realtime", 'unknown clock "realtime"'),
    (without_namespace("mount"), "/linux/maskedPaths", "there is no mount namespace"),
    (without_namespace("mount"), "/linux/readonlyPaths", "there is no mount namespace"),
    (put("linux/maskedPaths/-", "proc/kcore"), "/linux/maskedPaths/1", "not an absolute path"),
    (put("linux/readonlyPaths/-", "x"), "/linux/readonlyPaths/1", "not an absolute path"),
    (without_namespace("network"), "/linux/netDevices", "there is no network namespace"),
    *((put("linux/netDevices", {name: {}}), "/linux/netDevices/" + name.replace("/", "~1"), "cannot be the name")
      for name in ("", ".", "..", "a/b", "a b", "a:b", "a" * 16, "eth%d")),
    (put("linux/netDevices/eth0/name", "a/b"), "/linux/netDevices/eth0/name", "cannot be the name"),
    (put("linux/netDevices/eth0/name", "a%dx"), "/linux/netDevices/eth0/name", "cannot be the name"),
    (put("linux/netDevices/eth0/name", "%d"), "/linux/netDevices/eth0/name", "cannot be the name"),
    (put("linux/netDevices/eth1", {}), "/linux/netDevices/eth1", 'two devices would be called "eth1"'),
    # sysctl
    (without_namespace("network"), "/linux/sysctl/net.ipv4.ip_forward", "there is no network namespace"),
    *((sysctl(name), "/linux/sysctl/" + name.replace("/", "~1"), "it would change the host")
      for name in ("kernel.core_pattern", "vm.swappiness", "kernel/core_pattern", "fs.file-max", "network.x", "kernel",
                   "fs.mqueue", "kernel.msgmaxx", "net_x.y")),
    *((sysctl(name), "/linux/sysctl/" + name.replace("/", "~1"), "is not the name of a kernel parameter")
      for name in ("net..ipv4", "net/../kernel/core_pattern", "net.//.kernel.core_pattern", "net/./x", "/net/x", "net/x/", ".net")),
    (sysctl("kernel.hostname"), "/linux/sysctl/kernel.hostname", "what the property hostname is for"),
    (sysctl("kernel.domainname"), "/linux/sysctl/kernel.domainname", "what the property domainname is for"),
    # devices and the like
    (put("linux/devices/0/path", "dev/x"), "/linux/devices/0/path", "not an absolute path"),
    (put("linux/devices/0/major", None), "/linux/devices/0/major", "required: type c"),
    (put("linux/devices/0/minor", None), "/linux/devices/0/minor", "required: type c"),
    (put("linux/cgroupsPath", "/a/../../b"), "/linux/cgroupsPath", 'contains ".."'),
    (put("linux/cgroupsPath", "x.slice:p:.."), "/linux/cgroupsPath", 'contains ".."'),
    *((put("linux/intelRdt/closID", name), "/linux/intelRdt/closID", "cannot be the name of a directory")
      for name in (".", "..", "a/b", "a\nb", "//", "info")),
    (put("linux/intelRdt/l3CacheSchema", "0=f"), "/linux/intelRdt/l3CacheSchema", "does not begin with L3:"),
    (put("linux/intelRdt/memBwSchema", "L3:0=f"), "/linux/intelRdt/memBwSchema", "does not begin with MB:"),
    (put("linux/intelRdt/memBwSchema", "MB:0=7\nL3:0=f"), "/linux/intelRdt/memBwSchema", "more than one line"),
    (put("linux/intelRdt/schemata", ["L3:0=f", "a\nb"]), "/linux/intelRdt/schemata/1", "more than one line"),
    (put("linux/memoryPolicy/nodes", "a"), "/linux/memoryPolicy/nodes", "is not a list of nodes"),
    (put("linux/memoryPolicy/nodes", ""), "/linux/memoryPolicy/nodes", "required: MPOL_BIND"),
    (put("linux/memoryPolicy/mode", "MPOL_LOCAL"), "/linux/memoryPolicy/nodes", "MPOL_LOCAL takes no nodes"),
    (put("linux/memoryPolicy/flags/-", "MPOL_F_RELATIVE_NODES"), "/linux/memoryPolicy/flags", "static and relative"),
    # resources
    (put("linux/resources/memory/swap", 1 << 20), "/linux/resources/memory/swap", "is below memory.limit"),
    (put("linux/resources/memory/limit", -1), "/linux/resources/memory/swap", "memory is unlimited"),
    (put("linux/resources/blockIO/weight", 9), "/linux/resources/blockIO/weight", "9 is not from 10 to 1000"),
    (put("linux/resources/blockIO/weightDevice/0/leafWeight", 1), "/linux/resources/blockIO/weightDevice/0/leafWeight", "not from 10"),
    (put("linux/resources/blockIO/weightDevice/0", {"major": 8, "minor": 0}), "/linux/resources/blockIO/weightDevice/0",
     "neither a weight nor a leafWeight"),
    (put("linux/resources/rdma", {"mlx5_0": {}}), "/linux/resources/rdma/mlx5_0", "neither hcaHandles nor hcaObjects"),
    *((put("linux/resources/hugepageLimits/0/pageSize", size), "/linux/resources/hugepageLimits/0/pageSize", "is not a page size")
      for size in ("2M", "02MB", "MB", "../x.MB", "2mb", "0MB", "2 MB", "1TB")),
    (put("linux/resources/hugepageLimits/-", {"pageSize": "2MB", "limit": 1}), "/linux/resources/hugepageLimits/1/pageSize", "twice"),
    *((put("linux/resources/unified", {name: "1"}), "/linux/resources/unified/" + name.replace("/", "~1"), "not the name of a cgroup file")
      for name in ("a/b.c", "../x.y", "memory", ".x", "x.", "a..b")),
    (put("linux/resources/devices/0/access", "rx"), "/linux/resources/devices/0/access", "letters other than r, w and m"),
    (put("linux/resources/rdma", {"a b": {"hcaObjects": 1}}), "/linux/resources/rdma/a b", "is not the name of a device"),
    (put("linux/resources/network/priorities/0/name", "lo 1\n"), "/linux/resources/network/priorities/0/name", "name of an interface"),
    # seccomp
    (put("linux/seccomp/defaultAction", "SCMP_ACT_ALLOW"), "/linux/seccomp/defaultErrnoRet", "cannot return an errno"),
    (put("linux/seccomp/syscalls/0/action", "SCMP_ACT_KILL"), "/linux/seccomp/syscalls/0/errnoRet", "cannot return an errno"),
    (put("linux/seccomp/syscalls/0/errnoRet", 4095), "/linux/seccomp/syscalls/0/errnoRet", "the greatest is 4094"),
    (put("linux/seccomp/defaultErrnoRet", 65535), "/linux/seccomp/defaultErrnoRet", "the greatest is 4094"),
    (put("linux/seccomp", {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}), "/linux/seccomp/defaultAction", "cannot be the default"),
    (put("linux/seccomp/listenerPath", ""), "/linux/seccomp/listenerMetadata", "no listenerPath"),
    (put("linux/seccomp/listenerPath", "x"), "/linux/seccomp/listenerPath", "not an absolute path"),
    (put("linux/seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [RULE]}), "/linux/seccomp/syscalls/0/action", "needs a listenerPath"),
    (put("linux/seccomp/syscalls/-", {**RULE, "names": ["read", "sendmsg"]}), "/linux/seccomp/syscalls/1/names/1", "sendmsg hands the listener"),
    (put("linux/seccomp/syscalls/0/args/0/valueTwo", 256), "/linux/seccomp/syscalls/0/args/0/valueTwo", "0x100 has bits"),
]  # fmt: skip


def edited(edit: Edit) -> dict[str, Any]:
    config = copy.deepcopy(config_faults.full())
    edit(config)
    return config


@pytest.mark.parametrize(("edit", "where", "why"), BROKEN, ids=[f"{n}:{case[1]}" for n, case in enumerate(BROKEN)])
def test_broken(edit: Edit, where: str, why: str) -> None:
    config = edited(edit)
    found = [f for f in rules.findings(config) if f.severity == "error"]
    (finding,) = [f for f in found if f.where == where]
    assert why in finding.why
    assert "\n" not in finding.why.replace("\n", "") and finding.clause
    first = rules.check(config)
    assert first is not None and (first.where, first.why) == (found[0].where, found[0].why)
    assert str(first).startswith("config.json: ") and str(first).endswith(f"[{found[0].clause}]")


def test_every_rule_is_broken_by_a_case() -> None:
    """A rule that no case breaks could be left out unnoticed."""
    tables = (
        rules.PROCESS, rules.CONFIG, rules_linux.LINUX, rules_linux.RESOURCES, rules_linux.SECCOMP,
    )  # fmt: skip
    for table in tables:
        for clause, rule in table:
            hit = False
            for edit, _, _ in BROKEN:
                config = edited(edit)
                subjects = {
                    id(rules.PROCESS): (config["process"], "/process"),
                    id(rules.CONFIG): (rules.Document(config), ""),
                    id(rules_linux.LINUX): (rules.Document(config), "/linux"),
                    id(rules_linux.RESOURCES): (config["linux"]["resources"], "/linux/resources"),
                    id(rules_linux.SECCOMP): (config["linux"]["seccomp"], "/linux/seccomp"),
                }
                if list(rule(*subjects[id(table)])):
                    hit = True
                    break
            assert hit, f"{rule.__name__} [{clause}]"


def drop(*names: str) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        for name in names:
            holder: Any = config
            *way, last = name.split("/")
            for word in way:
                holder = holder[word]
            del holder[last]

    return edit


RIGHT: list[Edit] = [
    lambda config: None,
    lambda config: config.clear(),
    drop("linux", "hostname", "domainname", "process"),
    drop("process"),
    drop("process/args"),
    put("process/env", ["A="]),
    put("linux/netDevices", {"eth0": {"name": "lan%d"}, "eth1": {"name": "lan%d"}}),
    put("process/execCPUAffinity", {"initial": "", "final": "0-3,7"}),
    put("process/rlimits/0/soft", 0),
    put("process/scheduler", {"policy": "SCHED_FIFO", "priority": 99}),
    put("process/scheduler", {"policy": "SCHED_BATCH", "nice": -20}),
    put("process/scheduler", {"policy": "SCHED_IDLE"}),
    put("process/scheduler", {**DEADLINE, "period": 0}),
    mount("/proc", "proc"),
    mount("/proc", "bind", "rbind"),
    mount("/proc/cpuinfo", "bind", "bind"),
    mount("/proc//./uptime", "bind", "bind"),
    mount("/proc/sys/kernel/ns_last_pid", "bind", "bind"),
    mount("/process"),
    mount("/proc/../tmp"),
    mount("/x", "tmpfs", uidMappings=[MAP], gidMappings=[MAP]),
    mount("/x", "none", "rbind", "ridmap"),
    joined("user", uidMappings=None, gidMappings=None),
    joined("user"),
    joined("time", timeOffsets={}),
    joined("uts"),
    joined("network"),
    joined("mount"),
    put("linux/timeOffsets", {"boottime": {"secs": 0}}),
    sysctl("kernel.shm_rmid_forced"),
    sysctl("kernel/msgmax"),
    sysctl("fs.mqueue.msg_max"),
    sysctl("net/ipv4/conf/eth0.1/forwarding"),
    sysctl("net.ipv4.conf.eth0/1.forwarding"),
    sysctl("user.max_user_namespaces"),
    lambda config: (config.pop("domainname"), sysctl("kernel.domainname")(config)),
    put("linux/devices/0", {"type": "p", "path": "/dev/pipe"}),
    put("linux/cgroupsPath", "system.slice:a..b:c"),
    put("linux/memoryPolicy", {"mode": "MPOL_DEFAULT"}),
    put("linux/memoryPolicy", {"mode": "MPOL_PREFERRED"}),
    put("linux/resources/memory", {"limit": -1, "swap": -1}),
    put("linux/resources/memory", {"limit": 1 << 20, "swap": -1}),
    put("linux/resources/memory", {"limit": 1 << 20, "swap": 0}),
    put("linux/resources/memory", {"limit": 1 << 20, "swap": 1 << 20}),
    put("linux/resources/blockIO/weight", 0),
    put("linux/resources/devices/0/access", None),
    put("linux/seccomp/syscalls/0", {"names": ["x"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535}),
    put("linux/seccomp/syscalls/-", RULE),
]


@pytest.mark.parametrize("edit", RIGHT)
def test_right(edit: Edit) -> None:
    config = edited(edit)
    assert [(f.where, f.why) for f in rules.findings(config)] == []
    assert rules.check(config) is None


@pytest.mark.parametrize(
    ("edit", "where", "why"),
    [
        (mount("x"), "/mounts/0/destination", '"x" is not absolute, taken from /'),
        (put("linux/personality/flags", ["X"]), "/linux/personality/flags", "no flags in this version"),
        (put("process/capabilities/bounding/-", "CAP_X"), "/process/capabilities/bounding/1", 'unknown capability "CAP_X", ignoring'),
        (put("process/capabilities/effective/-", "CAP_KILL"), "/process/capabilities/effective/1", "is not permitted, ignoring"),
        (put("process/capabilities/inheritable/-", "CAP_KILL"), "/process/capabilities/inheritable/1", "is not bounding, ignoring"),
        (put("process/capabilities/ambient/-", "CAP_KILL"), "/process/capabilities/ambient/1", "is not permitted and inheritable"),
    ],
)  # fmt: skip
def test_warnings_do_not_refuse(edit: Edit, where: str, why: str) -> None:
    config = edited(edit)
    (finding,) = rules.findings(config)
    assert (finding.where, finding.severity) == (where, "warning")
    assert why in finding.why
    assert rules.check(config) is None


def test_documents_of_their_own() -> None:
    process = config_faults.process()
    assert rules.check_process(process) is None and rules.process_findings(process) == []
    error = rules.check_process({**process, "cwd": "x"})
    assert error is not None and str(error).startswith('process.json: cwd: "x" is not')
    # a warning alone is no error
    assert rules.check_process({**process, "capabilities": {"bounding": ["CAP_X"]}}) is None
    resources = config_faults.resources()
    assert rules.check_resources(resources) is None
    error = rules.check_resources({"unified": {"x": ""}})
    assert error is not None and error.where == "/unified/x"


def test_rules_hold_beside_faults() -> None:
    config = edited(put("process/cwd", "x"))
    config["mounts"] = [{"destination": "/proc/x"}, {"destination": 5}, 7]
    config["linux"]["seccomp"] = 3
    faults = ["/mounts/1/destination", "/mounts/2", "/linux/seccomp"]
    assert {f.where for f in rules.findings_beside(config, faults)} == {"/process/cwd", "/mounts/0/destination"}


def test_a_misspelt_namespace_is_not_taken_for_a_missing_one() -> None:
    config = edited(put("linux/namespaces/4/type", "utf"))
    assert rules.findings_beside(config, ["/linux/namespaces/4/type"]) == []


@pytest.mark.parametrize("section", ["process", "linux", "mounts", "hooks"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {}, [1], {"x": 1}])
def test_rules_survive_any_fault(section: str, value: Any) -> None:
    rules.findings_beside({**config_faults.full(), section: value}, [f"/{section}"])


@pytest.mark.parametrize("fault", config_faults.faults(), ids=str)
def test_rules_survive_each_fault(fault: config_faults.Fault) -> None:
    found = rules.findings_beside(fault.apply(config_faults.full()), [fault.pointer])
    assert [f for f in found if (f.where + "/").startswith(fault.pointer + "/")] == []
