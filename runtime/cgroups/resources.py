"""linux.resources as an ordered list of writes to cgroup files, for cgroup v1 and v2 from the same table. Pure.

A row of TABLE is one property: what its value is in words, and the file that takes it in either version. The controller is
the part of the file's name before the first dot. Here nothing is opened: `fs` carries the list out, `plan` prints it.

Zero, an empty string and null leave the kernel's value alone, as in runc, wherever the specification gives zero no meaning
of its own. What a version cannot express is Unsupported and names the property: a limit is never dropped in silence.
"""

from __future__ import annotations

from runtime.errors import ConfigError, Unsupported
from runtime.texts import lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: (controller, file, value)
    Write = tuple[str, str, str]
    #: value of a property, all properties beside it, version -> what to write: a value, or several in order
    Words = Callable[[Any, dict[str, Any], int], "str | list[str]"]

#: `a|b` in a file's name: the first of the two that is there, and the value has a part for each
EITHER = "|"
#: at the end of a file's name: to be left out where the kernel has no such file
OPTIONAL = "?"

NOTHING: list[str] = []


def _wrong(prop: str, why: str) -> ConfigError:
    return ConfigError("/linux/resources/" + prop.replace(".", "/"), why)


# -- values in words -------------------------------------------------------------------------------------------------------


def _number(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    return str(value) if value else NOTHING


def _number_or_zero(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    return str(value) if value is not None else NOTHING


def _text(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    return value or NOTHING


def _flag(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    return "1" if value else NOTHING


def _bytes(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    # -1 takes a limit away; only v2 has a word for it
    return ("max" if value == -1 and version == 2 else str(value)) if value else NOTHING


def _swap(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    """memory.swap counts memory and swap together, memory.swap.max swap alone."""
    limit = section.get("limit") or 0
    if not value:
        # no limit on memory and nothing said of swap: no limit on either, or v1 would keep memory below memory+swap
        return ("max" if version == 2 else "-1") if limit == -1 else NOTHING
    if version == 1:
        return str(value)
    if value == -1:
        return "max"
    if limit == -1:
        return str(value)
    if limit == 0:
        raise _wrong("memory.swap", "cannot be limited without memory.limit on cgroup v2, which counts swap alone")
    if value < limit:
        raise _wrong("memory.swap", f"must be at least memory.limit, which it includes: {value} < {limit}")
    return str(value - limit)


def _swappiness(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    if value is None or value in (-1, (1 << 64) - 1):
        return NOTHING
    if value > 100:
        raise _wrong("memory.swappiness", f"must be from 0 to 100, not {value}")
    return str(value)


def _shares(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    if not value:
        return NOTHING
    if version == 2:
        return str(weight_of_shares(value))
    # the kernel would round to these without a word
    if value < 2:
        raise _wrong("cpu.shares", "the minimum allowed cpu-shares is 2")
    if value > 262144:
        raise _wrong("cpu.shares", "the maximum allowed cpu-shares is 262144")
    return str(value)


def weight_of_shares(shares: int) -> int:
    """cpu.shares of v1 as cpu.weight of v2: a curve through (2, 1), (1024, 100) and (262144, 10000), runc's since 1.3.2.

    The straight line used before gave the default of v1 less than half of v2's.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2  # only v2 pays for it

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def _quota(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    if not value:
        return NOTHING
    if version == 1:
        return str(value)
    # cpu.max takes both, and "max" for any quota that is no limit; the kernel's default period is 100 ms
    return f"{value if value > 0 else 'max'} {section.get('period') or 100000}"


def _period(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    if not value:
        return NOTHING
    if version == 1:
        return str(value)
    return NOTHING if section.get("quota") else f"max {value}"


def _pids(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    # since version 1.3 of the specification 0 is a limit like any other, and -1 is none (runc since 1.4)
    return NOTHING if value is None else "max" if value < 0 else str(value)


def weight_of_blkio(weight: int) -> int:
    """A weight of blkio, 10 to 1000, as one of io.weight, 1 to 10000."""
    return 1 + max(weight - 10, 0) * 9999 // 990


def _weight(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    # BFQ has kept v1's range in v2, the io.cost controller has not
    return f"{value}|{weight_of_blkio(value) if version == 2 else value}" if value else NOTHING


def _weight_device(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    out = []
    for device in value or ():
        weight = device.get("weight")
        if weight:
            node = f"{device['major']}:{device['minor']}"
            out.append(f"{node} {weight}|{node} {weight_of_blkio(weight) if version == 2 else weight}")
    return out


def _leaf_weight_device(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    return [f"{d['major']}:{d['minor']} {d['leafWeight']}" for d in value or () if d.get("leafWeight")]


def _throttle(key: str) -> Words:
    def words(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
        if version == 1:
            return [f"{d['major']}:{d['minor']} {d['rate']}" for d in value or ()]
        # a rate of 0 is no limit in v1 and an error in v2
        return [f"{d['major']}:{d['minor']} {key}={d['rate'] or 'max'}" for d in value or ()]

    return words


def _interface(value: Any, section: dict[str, Any], version: int) -> str | list[str]:
    return [f"{p['name']} {p['priority']}" for p in value or ()]


# -- the table -------------------------------------------------------------------------------------------------------------

_ALWAYS = ""  # v2 is never otherwise: nothing to write, and nothing lost

#: property, value in words, file of v1, file of v2 (None: there is no such thing in v2); in the order of writing
TABLE: tuple[tuple[str, Words, str, str | None], ...] = (
    # Without CPUs and memory nodes a v1 cpuset takes no process at all.
    ("cpu.cpus", _text, "cpuset.cpus", "cpuset.cpus"),
    ("cpu.mems", _text, "cpuset.mems", "cpuset.mems"),
    # A new cgroup has no limits, and v1 insists that memory <= memory+swap at any moment: memory must come first.
    ("memory.limit", _bytes, "memory.limit_in_bytes", "memory.max"),
    ("memory.swap", _swap, "memory.memsw.limit_in_bytes", "memory.swap.max"),
    ("memory.reservation", _bytes, "memory.soft_limit_in_bytes", "memory.low"),
    ("memory.kernelTCP", _number, "memory.kmem.tcp.limit_in_bytes", None),
    ("memory.disableOOMKiller", _flag, "memory.oom_control", None),
    ("memory.swappiness", _swappiness, "memory.swappiness", None),
    ("memory.useHierarchy", _flag, "memory.use_hierarchy", _ALWAYS),
    # An idle cgroup takes no weight (EINVAL), so that idle must come after it.
    ("cpu.shares", _shares, "cpu.shares", "cpu.weight"),
    # burst must fit below a quota, and the ratio of quota to period below the parent's.
    ("cpu.period", _period, "cpu.cfs_period_us", "cpu.max"),
    ("cpu.quota", _quota, "cpu.cfs_quota_us", "cpu.max"),
    ("cpu.burst", _number_or_zero, "cpu.cfs_burst_us", "cpu.max.burst"),
    ("cpu.idle", _number_or_zero, "cpu.idle", "cpu.idle"),
    # the runtime must be less than the period that is in force
    ("cpu.realtimePeriod", _number, "cpu.rt_period_us", None),
    ("cpu.realtimeRuntime", _number, "cpu.rt_runtime_us", None),
    ("pids.limit", _pids, "pids.max", "pids.max"),
    ("blockIO.weight", _weight, "blkio.bfq.weight|blkio.weight", "io.bfq.weight|io.weight"),
    ("blockIO.leafWeight", _number, "blkio.leaf_weight", None),
    ("blockIO.weightDevice", _weight_device, "blkio.bfq.weight_device|blkio.weight_device", "io.bfq.weight|io.weight"),
    ("blockIO.weightDevice", _leaf_weight_device, "blkio.leaf_weight_device", None),
    ("blockIO.throttleReadBpsDevice", _throttle("rbps"), "blkio.throttle.read_bps_device", "io.max"),
    ("blockIO.throttleWriteBpsDevice", _throttle("wbps"), "blkio.throttle.write_bps_device", "io.max"),
    ("blockIO.throttleReadIOPSDevice", _throttle("riops"), "blkio.throttle.read_iops_device", "io.max"),
    ("blockIO.throttleWriteIOPSDevice", _throttle("wiops"), "blkio.throttle.write_iops_device", "io.max"),
    ("network.classID", _number, "net_cls.classid", None),
    ("network.priorities", _interface, "net_prio.ifpriomap", None),
)  # fmt: skip


#: property -> another whose value in words depends on it, so that a change of the one writes both
_COMPANIONS = {
    "memory.limit": "memory.swap",
    "cpu.period": "cpu.quota",
    "cpu.quota": "cpu.period",
}


def writes(
    version: int, resources: dict[str, Any], host: Any = None, *, changed: dict[str, Any] | None = None
) -> list[Write]:
    """What to write for linux.resources, in order; the device rules are in `devices`.

    With `changed`, which is what `update` was given, only for the properties that it names and those that depend on them.
    """
    out: list[Write] = []
    if not resources:
        return out
    named = None if changed is None else _named(changed)
    for prop, words, file_v1, file_v2 in TABLE:
        name, _, key = prop.partition(".")
        section = resources.get(name)
        if not section or (named is not None and prop not in named):
            continue
        value = words(section.get(key), section, version)
        if not value:
            continue
        file = file_v1 if version == 1 else file_v2
        if file is None:
            raise Unsupported(
                f"config.json: linux.resources.{prop}: cgroup v2 has no such limit, and this host has cgroup v2"
            )
        if not file:
            continue
        if prop == "memory.swap" and value in ("-1", "max", "0") and (value != "-1" or not section.get("swap")):
            file += OPTIONAL  # without swap accounting, no swap and any amount of it are as good as granted
        for text in (value,) if type(value) is str else value:
            out.append(_write(prop, file, text))
    rest = resources if changed is None else changed
    if rest.get("hugepageLimits"):
        out += _hugepages(version, rest["hugepageLimits"])
    if rest.get("rdma"):
        out += _rdma(rest["rdma"])
    if rest.get("unified"):
        out += _unified(version, rest["unified"])
    return out


def _named(changed: dict[str, Any]) -> set[str]:
    found = {
        f"{name}.{key}"
        for name, section in changed.items()
        if type(section) is dict
        for key, value in section.items()
        if _says_something(name, key, value)
    }
    return found | {_COMPANIONS[prop] for prop in found if prop in _COMPANIONS}


def _says_something(name: str, key: str, value: Any) -> bool:
    # engines send 0 for all that they do not want changed; of a few properties 0 is a value
    return bool(value) or (value is not None and f"{name}.{key}" in ("cpu.burst", "cpu.idle", "pids.limit"))


def merged(before: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """The resources that a container has after an update: what the change says nothing about stays."""
    out = dict(before)
    for name, value in changed.items():
        if name == "devices":
            continue  # see updating, which alone knows whether rules can be replaced
        if type(value) is dict:
            old = before.get(name) or {}
            out[name] = {**old, **{key: new for key, new in value.items() if _says_something(name, key, new)}}
            if name == "memory" and value.get("limit") == -1 and not value.get("swap"):
                # no limit of memory any more, and none of memory and swap together either, which would still be one
                out[name].pop("swap", None)
        elif value:
            out[name] = value
    return out


def _write(prop: str, file: str, value: str) -> Write:
    if "\n" in value:
        # one write is one line to the kernel, which would take a second one for another setting
        raise _wrong(prop, f"must not contain a newline: {value!r}")
    return file.partition(".")[0], file, value


def _hugepages(version: int, limits: list[dict[str, Any]]) -> list[Write]:
    out = []
    for index, limit in enumerate(limits):
        size = limit["pageSize"]
        if size[-2:] not in ("KB", "MB", "GB") or not (size[:-2].isascii() and size[:-2].isdigit()):
            # it becomes part of a file's name: with a slash it would name another cgroup's (runc issue 4103)
            raise _wrong(f"hugepageLimits.{index}.pageSize", f'must be a size such as "2MB", not "{size}"')
        file = "limit_in_bytes" if version == 1 else "max"
        out.append(("hugetlb", f"hugetlb.{size}.{file}", str(limit["limit"])))
        # Reserved pages count separately since 5.7; without this a mapping fails by SIGBUS when it is touched.
        out.append(("hugetlb", f"hugetlb.{size}.rsvd.{file}{OPTIONAL}", str(limit["limit"])))
    return out


def _rdma(devices: dict[str, dict[str, Any]]) -> list[Write]:
    out = []
    for name, limit in devices.items():
        text = name
        for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limit.get(key) is not None:
                text += f" {word}={limit[key]}"
        if text == name:
            raise _wrong(f"rdma.{name}", "needs hcaHandles or hcaObjects")
        out.append(_write("rdma", "rdma.max", text))
    return out


_FILE_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


def _unified(version: int, files: dict[str, str]) -> list[Write]:
    if version == 1:
        raise Unsupported("config.json: linux.resources.unified: this host has cgroup v1, and unified is for cgroup v2")
    out = []
    for file, value in files.items():
        controller, dot, parameter = file.partition(".")
        if not (controller and dot and parameter and _FILE_NAME.issuperset(file)):
            raise _wrong("unified", f'"{file}" must be the name of a file, CONTROLLER.PARAMETER')
        # several lines are several settings, and the kernel takes one at a time
        out += [(controller, file, line) for line in lines(value)]
    return out


def ignored(resources: dict[str, Any]) -> list[str]:
    """What the specification has and no kernel does any more, in words for a warning."""
    memory = resources.get("memory") or {}
    if memory.get("kernel"):
        return ["linux.resources.memory.kernel: Linux has had no such limit since 5.16, ignoring"]
    return []
