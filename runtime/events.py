"""`events`: what a container uses, on an interval, and each time that it ran out of memory; in the JSON of runc (types/events.go).

The names and units are runc's on either version of cgroups: times in nanoseconds, sizes in bytes, counts of block I/O per device and
kind. What a kernel or its cgroup does not count is left out or 0, as there.
"""

from __future__ import annotations

import select
import time

from runtime import identity, lifecycle, status
from runtime import system as os
from runtime.errors import CgroupError, Unsupported
from runtime.linux import POLL_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
#: what runc says where there is no limit on v2
_UNLIMITED = (1 << 64) - 1
_CPUSET = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip
_NONE = {"limit": 0, "usage": 0, "max": 0, "failcnt": 0}
_BLKIO = {
    "ioServiceBytesRecursive": ("io_service_bytes_recursive", "throttle.io_service_bytes_recursive", "throttle.io_service_bytes"),
    "ioServicedRecursive": ("io_serviced_recursive", "throttle.io_serviced_recursive", "throttle.io_serviced"),
    "ioQueueRecursive": ("io_queued_recursive",),
    "ioServiceTimeRecursive": ("io_service_time_recursive",),
    "ioWaitTimeRecursive": ("io_wait_time_recursive",),
    "ioMergedRecursive": ("io_merged_recursive",),
    "ioTimeRecursive": ("time_recursive",),
    "sectorsRecursive": ("sectors_recursive",),
}  # fmt: skip
_IO_STAT = {
    "rbytes": ("ioServiceBytesRecursive", "Read"),
    "wbytes": ("ioServiceBytesRecursive", "Write"),
    "dbytes": ("ioServiceBytesRecursive", "Discard"),
    "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"),
    "dios": ("ioServicedRecursive", "Discard"),
}
#: /proc/PID/net/dev, proc_pid_net(5): columns of what is received, then of what is sent
_NETWORK = (("Bytes", 0), ("Packets", 1), ("Errors", 2), ("Dropped", 3))


def watch(
    ctx: lifecycle.Context, id_: str, interval_s: float, tell: Callable[[dict[str, Any]], None], *, once: bool
) -> None:
    """Tell the statistics of a container: once, or on an interval together with what happens, until its init has ended."""
    entry = lifecycle.find(ctx, id_)
    try:
        status.allow("events", entry.status()[0], id_)
        saved = entry.state or {}
        pidfd = identity.open_process(saved["pid"], saved["start_time"])
        has_network = "network" in saved["namespaces"]
    finally:
        entry.close()
    cgroup = lifecycle.cgroup_of(saved)
    paths: dict[str, str] = cgroup.paths
    if not paths:
        raise Unsupported(f"statistics of {id_}: it has no cgroup that would count")

    def statistics() -> dict[str, Any]:
        network = list(_interfaces(saved["pid"])) if has_network else []
        return {"type": "stats", "id": id_, "data": data(paths, cgroup.version) | {"network_interfaces": network}}

    if once:
        tell(statistics())
        return
    memory = Memory(paths.get("memory") or paths.get("", ""))
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    memory.register(poll)
    due = time.monotonic() + interval_s
    while True:
        ready = dict(poll.poll(min(max(0.0, due - time.monotonic()) * 1000, POLL_MS)))
        if memory.has_run_out(ready):
            tell({"type": "oom", "id": id_})
        if pidfd in ready:
            return
        if time.monotonic() >= due:
            tell(statistics())
            due += interval_s


class Memory:
    """Notice of the kernel that it has killed for want of memory in a cgroup."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._event_fd = -1
        self._kills = 0

    def register(self, poll: select.poll) -> None:
        """Have the poll wake up for it, if there is a memory controller."""
        try:
            if os.path.exists(f"{self._path}/memory.events"):
                self._fd = os.open(f"{self._path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
                self._kills = self._count()
                poll.register(self._fd, select.POLLPRI)
            elif os.path.exists(f"{self._path}/memory.oom_control"):
                self._register_v1()
                poll.register(self._event_fd, select.POLLIN)
        except FileNotFoundError:
            pass  # the container has just ended

    def _register_v1(self) -> None:
        import os

        self._fd = os.open(f"{self._path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{self._path}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(control, f"{self._event_fd} {self._fd}".encode())
        finally:
            os.close(control)

    def has_run_out(self, ready: dict[int, int]) -> bool:
        """Whether it has happened since the last time; the removal of the cgroup wakes up as well, and is none."""
        if self._event_fd in ready:
            os.read(self._event_fd, 8)
            return os.path.exists(self._path)
        if self._fd in ready and self._event_fd < 0:
            before, self._kills = self._kills, self._count()
            return self._kills > before
        return False

    def _count(self) -> int:
        return _pairs(f"{self._path}/memory.events").get("oom_kill", self._kills)


# -- the numbers -------------------------------------------------------------------------------------------------------


def data(paths: dict[str, str], version: int) -> dict[str, Any]:
    """The member `data` of a statistics event, but for network interfaces."""
    try:
        found = _data_v2(paths[""]) if version == 2 else _data_v1(paths)
    except (ValueError, LookupError):
        # a state file may be damaged, and name any directory there is
        where = next(iter(paths.values()), "")
        raise CgroupError(f"statistics of {where}: its files are not those of a cgroup") from None
    return {**found, "intel_rdt": {}}


def _data_v1(paths: dict[str, str]) -> dict[str, Any]:
    cpu, acct, memory = paths.get("cpu", ""), paths.get("cpuacct", ""), paths.get("memory", "")
    throttled, ticks = _pairs(f"{cpu}/cpu.stat"), _pairs(f"{acct}/cpuacct.stat")
    each = [line.split() for line in _lines(f"{acct}/cpuacct.usage_all")[1:]]
    usage = {
        "total": _number(f"{acct}/cpuacct.usage"),
        "percpu": [int(word) for line in _lines(f"{acct}/cpuacct.usage_percpu") for word in line.split()],
        "percpu_kernel": [int(words[2]) for words in each],
        "percpu_user": [int(words[1]) for words in each],
        "kernel": ticks.get("system", 0) * _TICK_NS,
        "user": ticks.get("user", 0) * _TICK_NS,
    }
    raw = _pairs(f"{memory}/memory.stat")
    names = (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp."))
    return {
        "cpu": {"usage": usage, "throttling": _throttling(throttled, throttled.get("throttled_time", 0))},
        "cpuset": _cpuset(paths.get("cpuset", "")),
        "memory": {
            "cache": raw.get("cache", 0),
            **{name: _memory_entry(f"{memory}/memory.{prefix}") for name, prefix in names},
            "raw": raw,
        },
        "pids": _pids(paths.get("pids", "")),
        "blkio": {name: _blkio(paths.get("blkio", ""), files) for name, files in _BLKIO.items()},
        "hugetlb": _hugetlb(paths.get("hugetlb", ""), "usage_in_bytes", "max_usage_in_bytes"),
    }


def _data_v2(path: str) -> dict[str, Any]:
    cpu, raw = _pairs(f"{path}/cpu.stat"), _pairs(f"{path}/memory.stat")
    usage = {
        "total": cpu.get("usage_usec", 0) * 1000,
        "kernel": cpu.get("system_usec", 0) * 1000,
        "user": cpu.get("user_usec", 0) * 1000,
    }
    events = _pairs(f"{path}/memory.events")
    memory = {
        "limit": _number(f"{path}/memory.max"),
        "usage": _number(f"{path}/memory.current"),
        "max": _number(f"{path}/memory.peak"),
        "failcnt": events.get("max", 0),
    }
    # in runc's words swap counts memory too, as on v1
    limit, used = _number(f"{path}/memory.swap.max"), _number(f"{path}/memory.swap.current")
    is_unlimited = _UNLIMITED in (limit, memory["limit"])
    swap = {
        "limit": _UNLIMITED if is_unlimited else limit + memory["limit"],
        "usage": used + memory["usage"],
        "failcnt": _pairs(f"{path}/memory.swap.events").get("fail", 0),
    }
    throttling = _throttling(cpu, cpu.get("throttled_usec", 0) * 1000)
    found: dict[str, Any] = {
        "cpu": {"usage": usage, "throttling": throttling},
        "cpuset": {key: _numbers(f"{path}/cpuset.{key}.effective") for key in ("cpus", "mems")}
        | dict.fromkeys(_CPUSET, 0),
        # what is counted on v1 alone has its names, as there
        "memory": {
            "cache": raw.get("file", 0),
            "usage": memory,
            "swap": swap,
            "kernel": dict(_NONE),
            "kernelTCP": dict(_NONE),
            "raw": raw,
        },
        "pids": _pids(path),
        "blkio": _io_stat(path),
        "hugetlb": _hugetlb(path, "current", "max"),
    }
    for name, file in (("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")):
        pressure = _pressure(f"{path}/{file}.pressure")
        if pressure:
            found[name]["psi"] = pressure
    return found


def _throttling(found: dict[str, int], time_ns: int) -> dict[str, int]:
    periods, throttled = found.get("nr_periods", 0), found.get("nr_throttled", 0)
    return {"periods": periods, "throttledPeriods": throttled, "throttledTime": time_ns}


def _cpuset(path: str) -> dict[str, Any]:
    lists = {key: _numbers(f"{path}/cpuset.{key}") for key in ("cpus", "mems")}
    return {**lists, **{key: _number(f"{path}/cpuset.{key}") for key in _CPUSET}}


def _memory_entry(prefix: str) -> dict[str, int]:
    files = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    return {name: _number(prefix + file) for name, file in files.items()}


def _pids(path: str) -> dict[str, int]:
    limit = _number(f"{path}/pids.max")
    return {"current": _number(f"{path}/pids.current"), **({} if limit == _UNLIMITED else {"limit": limit})}


def _blkio(path: str, files: tuple[str, ...]) -> list[dict[str, Any]]:
    """Lines `8:0 Read 4096`, or `8:0 4096` where there is no kind, of the first file that has any."""
    for file in files:
        found = []
        for line in _lines(f"{path}/blkio.{file}"):
            device, *words = line.split()
            major, colon, minor = device.partition(":")
            if colon and words:
                op = words[0] if len(words) > 1 else ""
                found.append({"major": int(major), "minor": int(minor), "op": op, "value": int(words[-1])})
        if found:
            return found
    return []


def _io_stat(path: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _BLKIO}
    for line in _lines(f"{path}/io.stat"):
        device, *words = line.split()
        major, _, minor = device.partition(":")
        for word in words:
            key, _, value = word.partition("=")
            if key in _IO_STAT and minor.isdecimal():
                name, op = _IO_STAT[key]
                found[name].append({"major": int(major), "minor": int(minor), "op": op, "value": int(value)})
    return found


def _hugetlb(path: str, usage: str, most: str) -> dict[str, dict[str, int]]:
    found = {}
    for name in os.listdir(path) if path and os.path.isdir(path) else ():
        size = name.removeprefix("hugetlb.").removesuffix(f".{usage}")
        if name == f"hugetlb.{size}.{usage}" and "." not in size:
            failed = _pairs(f"{path}/hugetlb.{size}.events").get("max", 0) or _number(f"{path}/hugetlb.{size}.failcnt")
            found[size] = {"usage": _number(f"{path}/{name}"), "max": _number(f"{path}/hugetlb.{size}.{most}")}
            found[size]["failcnt"] = failed
    return found


def _interfaces(pid: int) -> Iterator[dict[str, Any]]:
    for line in _lines(f"/proc/{pid}/net/dev")[2:]:
        name, _, rest = line.partition(":")
        words = rest.split()
        received = {f"Rx{what}": int(words[at]) for what, at in _NETWORK}
        yield {"Name": name.strip(), **received, **{f"Tx{what}": int(words[8 + at]) for what, at in _NETWORK}}


def _pressure(path: str) -> dict[str, Any]:
    """Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`."""
    found = {}
    for line in _lines(path):
        kind, *words = line.split()
        values = dict(word.split("=", 1) for word in words)
        found[kind] = {key: int(value) if key == "total" else float(value) for key, value in values.items()}
    return found


# -- files -------------------------------------------------------------------------------------------------------------


def _lines(path: str) -> list[str]:
    """The lines of a file, none where it is not there or its controller does not answer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    out = []
    try:
        while part := os.read(fd, 1 << 16):
            out.append(part)
    except OSError:
        return []  # ENODEV: the cgroup is being removed; EOPNOTSUPP: not counted on this kernel
    finally:
        os.close(fd)
    # at line feeds alone: an interface of the container's may have other ends of lines in its name
    text = b"".join(out).decode("utf-8", "replace").removesuffix("\n")
    return text.split("\n") if text else []


def _number(path: str) -> int:
    line = next(iter(_lines(path)), "0")
    return _UNLIMITED if line == "max" else int(line)


def _numbers(path: str) -> list[int]:
    """A list such as 0-3,7."""
    found: list[int] = []
    for part in next(iter(_lines(path)), "").split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def _pairs(path: str) -> dict[str, int]:
    """A file of lines `name number`."""
    return {words[0]: int(words[1]) for line in _lines(path) if len(words := line.split()) == 2}
