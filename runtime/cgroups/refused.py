"""What the kernel's refusal of a cgroup file means: the property that asked for it, the file, the reason. For errors alone.

Reads the cgroups concerned and changes nothing. Loaded when a write was refused, so that no success pays for it.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, EPERM, ERANGE, EROFS

from runtime import system as os
from runtime.cgroups import delegation, fs, resources, walk
from runtime.errors import CgroupError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cgroups.fs import Cgroup

#: the word of a line of io.max that stands for a property
_RATES = {
    "throttleReadBpsDevice": "rbps=",
    "throttleWriteBpsDevice": "wbps=",
    "throttleReadIOPSDevice": "riops=",
    "throttleWriteIOPSDevice": "wiops=",
}
_BANDWIDTH = "a quota is at least 1000 us, a period from 1000 to 1000000 us, and a cgroup above may have less to give"
_NO_DISK = "it must be the number of a whole disk that is there"
#: (start of a file's name, errno) -> what the kernel means by it
_REASONS = (
    ("cpu.max.burst", EINVAL, "a burst must not be longer than the quota"),
    ("cpu.max", EINVAL, _BANDWIDTH),
    ("cpu.cfs_burst_us", EINVAL, "a burst must not be longer than the quota"),
    ("cpu.cfs_", EINVAL, _BANDWIDTH),
    ("cpu.weight", EINVAL, "an idle cgroup has no weight"),
    ("io.", ENODEV, _NO_DISK),
    ("io.", ENXIO, _NO_DISK),
    ("blkio.", ENODEV, _NO_DISK),
    ("blkio.", ENXIO, _NO_DISK),
    ("io.bfq.weight", EOPNOTSUPP, "BFQ is not the scheduler of this disk"),
    ("rdma.max", EINVAL, "there is no such RDMA device"),
    ("rdma.max", ENODEV, "there is no such RDMA device"),
)


def error(cgroup: Cgroup, path: str, value: str, refusal: OSError) -> CgroupError | Unsupported:
    """The error to raise for a write that the kernel refused."""
    folder, _, file = path.rpartition("/")
    asked = _asked(cgroup, file, value)
    if refusal.errno == EBUSY and file == "memory.limit_in_bytes":
        usage, peak = (walk.number(f"{folder}/memory.{name}_in_bytes") for name in ("usage", "max_usage"))
        return CgroupError(
            f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak}){asked}", errno=EBUSY
        )
    if refusal.errno in (ENOENT, EACCES, EPERM) and not os.path.exists(path) and os.path.isdir(folder):
        why, hint = delegation.missing(folder, file)
        return Unsupported(f'write "{value}" to {path}: {why}{asked}', hint)
    reason = _reason(cgroup, folder, file, refusal.errno or 0)
    found = fs.failed(f'write "{value}" to {path}', refusal, reason, asked)
    if refusal.errno in (EACCES, EPERM):
        found.hint = delegation.hint_for(path, cgroup.host)
    return found


def _reason(cgroup: Cgroup, folder: str, file: str, number: int) -> str:
    if file in ("cgroup.procs", "tasks") and cgroup.version == 2:
        if number == EBUSY:
            return "it passes controllers on, and may hold no processes itself"
        if number == EOPNOTSUPP:
            return f'it is "{walk.text(f"{folder}/cgroup.type").strip()}": a cgroup above holds processes itself'
    if file in ("cpuset.cpus", "cpuset.mems") and number in (EINVAL, ERANGE, EACCES):
        above = os.path.dirname(folder)
        have = walk.text(f"{above}/{file}.effective") or walk.text(f"{above}/{file}")
        return f"{above} has {have.strip() or 'none'}"
    for start, errno, why in _REASONS:
        if errno == number and file.startswith(start):
            return why
    if number == EROFS:
        return "the hierarchy is mounted read-only"
    return ""


def _asked(cgroup: Cgroup, file: str, value: str) -> str:
    """` [linux.resources.cpu.quota]`: the property that a write comes from; empty for what no property asks for."""
    wanted: dict[str, Any] = cgroup.asked
    if file in (wanted.get("unified") or ()):
        return f" [linux.resources.unified.{file}]"
    found = []
    for prop, _, *files in resources.TABLE:
        name, _, key = prop.partition(".")
        if file not in (files[cgroup.version - 1] or "").split(resources.EITHER) or not (wanted.get(name) or {}).get(
            key
        ):
            continue
        if file != "io.max" or _RATES[key] in value:
            found.append(prop)
    if file.startswith("hugetlb."):
        found.append("hugepageLimits")
    elif file == "rdma.max":
        found.append("rdma")
    return f" [linux.resources.{', linux.resources.'.join(dict.fromkeys(found))}]" if found else ""
