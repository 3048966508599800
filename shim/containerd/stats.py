"""A container's statistics as containerd's metrics, read from its cgroup's files, v1 or v2.

Field numbers are those of containerd/cgroups' stats/metrics.proto. A file that is not there (a controller that is not enabled, an
older kernel) leaves its fields out. Loaded when somebody asks for statistics; this module must not change a cgroup.
"""

from __future__ import annotations

import os

from shim.containerd.protobuf import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from shim.containerd.protobuf import Table

#: the number that stands for "max"
UNLIMITED = (1 << 64) - 1
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _numbers(*names: str, first: int = 1) -> Table:
    return {number: (name, "uint64") for number, name in enumerate(names, first)}


_RDMA_ENTRY: Table = {1: ("device", "string"), 2: ("hca_handles", "uint32"), 3: ("hca_objects", "uint32")}
_RDMA: Table = {1: ("current", [_RDMA_ENTRY]), 2: ("limit", [_RDMA_ENTRY])}
_PIDS = _numbers("current", "limit")

# -- v1: io.containerd.cgroups.v1.Metrics ------------------------------------------------------------------------------

_MEMORY_V1_NAMES = (
    "cache rss rss_huge mapped_file dirty writeback pgpgin pgpgout pgfault pgmajfault inactive_anon active_anon inactive_file "
    "active_file unevictable"
).split()
_MEMORY_ENTRY = _numbers("limit", "usage", "max", "failcnt")
_BLKIO_ENTRY: Table = {
    1: ("op", "string"),
    2: ("device", "string"),
    3: ("major", "uint64"),
    4: ("minor", "uint64"),
    5: ("value", "uint64"),
}
_BLKIO_NAMES = (
    "io_service_bytes_recursive io_serviced_recursive io_queued_recursive io_service_time_recursive io_wait_time_recursive "
    "io_merged_recursive io_time_recursive sectors_recursive"
).split()
METRICS_V1: Table = {
    1: ("hugetlb", [{**_numbers("usage", "max", "failcnt"), 4: ("pagesize", "string")}]),
    2: ("pids", _PIDS),
    3: (
        "cpu",
        {
            1: ("usage", {**_numbers("total", "kernel", "user"), 4: ("per_cpu", ["uint64"])}),
            2: ("throttling", _numbers("nr_periods", "nr_throttled", "throttled_time")),
        },
    ),
    4: (
        "memory",
        {
            **_numbers(*_MEMORY_V1_NAMES),
            **_numbers("hierarchical_memory_limit", "hierarchical_memsw_limit", first=16),
            **_numbers(*(f"total_{name}" for name in _MEMORY_V1_NAMES), first=18),
            33: ("usage", _MEMORY_ENTRY),
            34: ("swap", _MEMORY_ENTRY),
            35: ("kernel", _MEMORY_ENTRY),
            36: ("kernel_tcp", _MEMORY_ENTRY),
        },
    ),
    5: ("blkio", {number: (name, [_BLKIO_ENTRY]) for number, name in enumerate(_BLKIO_NAMES, 1)}),
    6: ("rdma", _RDMA),
    9: ("memory_oom_control", _numbers("oom_kill_disable", "under_oom", "oom_kill")),
}

# -- v2: io.containerd.cgroups.v2.Metrics ------------------------------------------------------------------------------

_PSI_DATA: Table = {1: ("avg10", "double"), 2: ("avg60", "double"), 3: ("avg300", "double"), 4: ("total", "uint64")}
_PSI: Table = {1: ("some", _PSI_DATA), 2: ("full", _PSI_DATA)}
_MEMORY_V2_NAMES = (
    "anon file kernel_stack slab sock shmem file_mapped file_dirty file_writeback anon_thp inactive_anon active_anon "
    "inactive_file active_file unevictable slab_reclaimable slab_unreclaimable pgfault pgmajfault workingset_refault "
    "workingset_activate workingset_nodereclaim pgrefill pgscan pgsteal pgactivate pgdeactivate pglazyfree pglazyfreed "
    "thp_fault_alloc thp_collapse_alloc usage usage_limit swap_usage swap_limit max_usage swap_max_usage"
).split()
_IO_ENTRY = _numbers("major", "minor", "rbytes", "wbytes", "rios", "wios")
METRICS_V2: Table = {
    1: ("pids", _PIDS),
    2: (
        "cpu",
        {
            **_numbers("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec"),
            7: ("psi", _PSI),
            **_numbers("nr_bursts", "burst_usec", first=8),
        },
    ),
    4: ("memory", {**_numbers(*_MEMORY_V2_NAMES), 38: ("psi", _PSI)}),
    5: ("rdma", _RDMA),
    6: ("io", {1: ("usage", [_IO_ENTRY]), 2: ("psi", _PSI)}),
    7: (
        "hugetlb",
        [{1: ("current", "uint64"), 2: ("max", "uint64"), 3: ("pagesize", "string"), 4: ("failcnt", "uint64")}],
    ),
    8: ("memory_events", _numbers("low", "high", "max", "oom", "oom_kill", "oom_group_kill")),
}

#: memory.stat's own names where the messages have another
_V2_NAMES = {"workingset_refault_file": "workingset_refault", "workingset_activate_file": "workingset_activate"}


def metrics(paths: Mapping[str, str]) -> dict[str, Any]:
    """Statistics as an Any, of the cgroups that oom.cgroups_of() told; LookupError where there are none any more."""
    # A machine with v1 controllers is v1 to containerd's clients, whatever besides is mounted as v2.
    is_v1 = any(name in paths for name in ("memory", "cpu", "cpuacct", "pids", "blkio"))
    used = [path for name, path in paths.items() if bool(name) == is_v1]
    if not any(os.path.isdir(path) for path in used):
        raise LookupError("cgroup does not exist")
    if is_v1:
        return {"type_url": "io.containerd.cgroups.v1.Metrics", "value": encode(METRICS_V1, metrics_v1(paths))}
    return {"type_url": "io.containerd.cgroups.v2.Metrics", "value": encode(METRICS_V2, metrics_v2(paths[""]))}


def metrics_v1(paths: Mapping[str, str]) -> dict[str, Any]:
    """The values of METRICS_V1."""
    found: dict[str, Any] = {}
    if "hugetlb" in paths:
        found["hugetlb"] = _hugetlb(
            paths["hugetlb"], {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
        )
    if "pids" in paths:
        found["pids"] = _pids(paths["pids"], unlimited=0)
    if "cpu" in paths or "cpuacct" in paths:
        found["cpu"] = _cpu_v1(paths)
    if "memory" in paths:
        memory = _named(METRICS_V1[4][1], _pairs(f"{paths['memory']}/memory.stat"))
        for name, prefix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernel_tcp", "kmem.tcp.")):
            entry = _memory_entry(f"{paths['memory']}/memory.{prefix}")
            if entry:
                memory[name] = entry
        found["memory"] = memory
        found["memory_oom_control"] = _named(METRICS_V1[9][1], _pairs(f"{paths['memory']}/memory.oom_control"))
    if "blkio" in paths:
        found["blkio"] = _blkio(paths["blkio"])
    if "rdma" in paths:
        found["rdma"] = _rdma(paths["rdma"])
    return found


def metrics_v2(path: str) -> dict[str, Any]:
    """The values of METRICS_V2."""
    memory = _pairs(f"{path}/memory.stat")
    memory = _named(METRICS_V2[4][1], {_V2_NAMES.get(name, name): value for name, value in memory.items()})
    for name, file in (
        ("usage", "memory.current"),
        ("usage_limit", "memory.max"),
        ("swap_usage", "memory.swap.current"),
        ("swap_limit", "memory.swap.max"),
        ("max_usage", "memory.peak"),
        ("swap_max_usage", "memory.swap.peak"),
    ):
        memory[name] = _number(f"{path}/{file}")
    cpu = _named(METRICS_V2[2][1], _pairs(f"{path}/cpu.stat"))
    found = {
        "pids": _pids(path, unlimited=UNLIMITED),
        "cpu": {**cpu, "psi": _psi(f"{path}/cpu.pressure")},
        "memory": {**memory, "psi": _psi(f"{path}/memory.pressure")},
        "rdma": _rdma(path),
        "io": {"usage": _io(path), "psi": _psi(f"{path}/io.pressure")},
        "hugetlb": _hugetlb(path, {"current": "current", "max": "max"}),
        "memory_events": _named(METRICS_V2[8][1], _pairs(f"{path}/memory.events")),
    }
    return found


# -- files -------------------------------------------------------------------------------------------------------------


def _lines(path: str) -> list[str]:
    """The lines of a file, none where it is not there or its device or controller does not answer."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            text = file.read().removesuffix("\n")
        return text.split("\n") if text else []
    except OSError:
        return []


def _number(path: str, unlimited: int = UNLIMITED) -> int:
    lines = _lines(path)
    if not lines:
        return 0
    return unlimited if lines[0] == "max" else int(lines[0])


def _pairs(path: str) -> dict[str, int]:
    """A file of lines `name number`."""
    found = {}
    for line in _lines(path):
        name, _, value = line.partition(" ")
        found[name] = int(value)
    return found


def _named(table: Table, values: dict[str, int]) -> dict[str, Any]:
    """Those of `values` that the message has."""
    names = {name for name, _ in table.values()}
    return {name: value for name, value in values.items() if name in names}


def _pids(path: str, unlimited: int) -> dict[str, int]:
    return {"current": _number(f"{path}/pids.current"), "limit": _number(f"{path}/pids.max", unlimited)}


def _cpu_v1(paths: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "cpu" in paths:
        found["throttling"] = _named(METRICS_V1[3][1][2][1], _pairs(f"{paths['cpu']}/cpu.stat"))
    if "cpuacct" in paths:
        path = paths["cpuacct"]
        ticks = _pairs(f"{path}/cpuacct.stat")
        found["usage"] = {
            "total": _number(f"{path}/cpuacct.usage"),
            "kernel": ticks.get("system", 0) * _TICK_NS,
            "user": ticks.get("user", 0) * _TICK_NS,
            "per_cpu": [int(word) for line in _lines(f"{path}/cpuacct.usage_percpu") for word in line.split()],
        }
    return found


def _memory_entry(prefix: str) -> dict[str, int]:
    files = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    if not os.path.exists(prefix + "usage_in_bytes"):
        return {}
    return {name: _number(prefix + file) for name, file in files.items()}


def _hugetlb(path: str, files: dict[str, str]) -> list[dict[str, Any]]:
    """One entry per size of pages; on v2 failures are counted in the events."""
    found = []
    last = next(iter(files.values()))
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return []
    for file in names:
        size = file.removeprefix("hugetlb.").removesuffix("." + last)
        if f"hugetlb.{size}.{last}" == file and "." not in size:
            entry: dict[str, Any] = {name: _number(f"{path}/hugetlb.{size}.{end}") for name, end in files.items()}
            if "failcnt" not in files:
                entry["failcnt"] = _pairs(f"{path}/hugetlb.{size}.events").get("max", 0)
            found.append({**entry, "pagesize": size})
    return found


def _blkio(path: str) -> dict[str, list[dict[str, Any]]]:
    """The scheduler's counts; where it keeps none, those of throttling, which are there always."""
    found = {name: _blkio_entries(f"{path}/blkio.{name}") for name in _BLKIO_NAMES}
    if not any(found.values()):
        for name, file in (
            ("io_service_bytes_recursive", "io_service_bytes"),
            ("io_serviced_recursive", "io_serviced"),
        ):
            found[name] = _blkio_entries(f"{path}/blkio.throttle.{file}_recursive")
            found[name] = found[name] or _blkio_entries(f"{path}/blkio.throttle.{file}")
    return found


def _blkio_entries(path: str) -> list[dict[str, Any]]:
    """Lines `8:0 Read 4096`, or `8:0 4096` where there is no kind; the sum over all devices is left out."""
    found = []
    for line in _lines(path):
        words = line.split()
        major, separator, minor = words[0].partition(":")
        if separator and len(words) in (2, 3):
            op = words[1] if len(words) == 3 else ""
            found.append(
                {
                    "op": op,
                    "device": _device(words[0]),
                    "major": int(major),
                    "minor": int(minor),
                    "value": int(words[-1]),
                }
            )
    return found


def _device(number: str) -> str:
    """The device's file, as its driver calls it."""
    for line in _lines(f"/sys/dev/block/{number}/uevent"):
        if line.startswith("DEVNAME="):
            return "/dev/" + line[8:]
    return ""


def _io(path: str) -> list[dict[str, int]]:
    found = []
    for line in _lines(f"{path}/io.stat"):
        device, *words = line.split()
        major, _, minor = device.partition(":")
        entry = {"major": int(major), "minor": int(minor)} if minor else {}
        for word in words:
            name, _, value = word.partition("=")
            if entry and name in ("rbytes", "wbytes", "rios", "wios"):
                entry[name] = int(value)
        if len(entry) > 2:
            found.append(entry)
    return found


def _rdma(path: str) -> dict[str, Any]:
    found = {}
    for name, file in (("current", "rdma.current"), ("limit", "rdma.max")):
        entries = []
        for line in _lines(f"{path}/{file}"):
            device, *words = line.split()
            entry: dict[str, Any] = {"device": device}
            for word in words:
                key, _, value = word.partition("=")
                if key == "hca_handle":
                    entry["hca_handles"] = (1 << 32) - 1 if value == "max" else int(value)
                elif key == "hca_object":
                    entry["hca_objects"] = (1 << 32) - 1 if value == "max" else int(value)
            entries.append(entry)
        found[name] = entries
    return found if any(found.values()) else {}


def _psi(path: str) -> dict[str, Any] | None:
    """Pressure: lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    found: dict[str, Any] = {}
    for line in _lines(path):
        kind, *words = line.split()
        values = dict(word.split("=") for word in words)
        found[kind] = {name: float(values.get(name, 0)) for name in ("avg10", "avg60", "avg300")}
        found[kind]["total"] = int(values.get("total", 0))
    return found or None
