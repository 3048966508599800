"""linux.resources and annotations as properties of a systemd unit, so that systemd has the limits too. Pure.

What is in force is what `resources` and `devices` write to the cgroup's files. systemd writes those files again from what
it knows whenever it has reason to (a `systemctl daemon-reload`, a change of another property), so that every limit for which
it has a property is told to it. The properties are made from the very list of writes; where systemd has no property (bursts,
huge pages, rdma) it leaves the file alone, and nothing needs to be told.

A property is (name, signature of D-Bus, value). systemd.resource-control(5), org.freedesktop.systemd1(5).
"""

from __future__ import annotations

from runtime.cgroups import devices, gvariant
from runtime.cgroups.resources import EITHER, OPTIONAL
from runtime.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from runtime.cgroups.resources import Write

    #: name, signature, value
    Property = tuple[str, str, Any]
    #: name -> (signature, value)
    Properties = dict[str, tuple[str, Any]]

#: systemd's word for no limit
INFINITY = (1 << 64) - 1
_PERIOD_US = 100_000  # the kernel's own, where there is a quota alone

#: what older versions of systemd do not know: without them the limit is in the files alone
YOUNG = frozenset(
    (
        "AllowedCPUs",
        "AllowedMemoryNodes",
        "CPUQuotaPeriodUSec",
        "MemoryMin",
        "MemoryZSwapMax",
        "OOMPolicy",
        "CollectMode",
    )
)

#: what systemd takes when it makes a unit, and does not change afterwards
FIXED = ("OOMPolicy",)

PREFIX = "org.systemd.property."
#: what decides where the container is, and is decided elsewhere
_OURS = ("PIDs", "Slice", "Delegate")


def step_text(prop: Property) -> str:
    """A property as the plan prints it: MemoryMax=uint64 1048576."""
    name, signature, value = prop
    return f"{name}={gvariant.show(signature, value)}"


def of_text(text: str) -> Property:
    """The reverse of `step_text`."""
    name, _, value = text.partition("=")
    signature, found = gvariant.parse(value)
    return name, signature, found


# -- the unit itself -------------------------------------------------------------------------------------------------------


def unit(name: str, slice_: str, id_: str, version: int) -> list[Property]:
    """What every unit of a container has, before its limits."""
    found: list[Property] = [("Description", "s", f"pyrunc container {id_}")]
    if name.endswith(".slice"):
        found.append(("Wants", "as", [slice_]))
    else:
        found.append(("Slice", "s", slice_))
        # all that is below is the container's: systemd neither removes cgroups there nor moves processes
        found.append(("Delegate", "b", True))
    # a unit that has failed goes away like any other, without anybody having to reset it
    found.append(("CollectMode", "s", "inactive-or-failed"))
    # no ordering against what starts and stops with the machine: the container has an owner who does that
    found.append(("DefaultDependencies", "b", False))
    io = "IOAccounting" if version == 2 else "BlockIOAccounting"
    found += [(name, "b", True) for name in ("MemoryAccounting", "CPUAccounting", io, "TasksAccounting")]
    return found


def of_annotations(config: dict[str, Any]) -> list[Property]:
    """The properties that annotations ask for, org.systemd.property.NAME with a value as GVariant text."""
    found = []
    for key, text in (config.get("annotations") or {}).items():
        if key.startswith(PREFIX):
            found.append(_annotation(key, text))
    return found


def _annotation(key: str, text: str) -> Property:
    where = "/annotations/" + key.replace("~", "~0").replace("/", "~1")
    name = key[len(PREFIX) :]
    if len(name) < 3 or not (name.isascii() and name.isalpha()):
        raise ConfigError(where, f'"{name}" is no name of a property of systemd')
    if name in _OURS:
        raise ConfigError(where, "is for the runtime to say: linux.cgroupsPath names slice and unit")
    if name.endswith("Action") or name in ("RebootArgument", "JobTimeoutRebootArgument"):
        # SuccessAction='poweroff-force' and its like (CVE-2024-3154): no container's affair
        raise ConfigError(where, "is about the whole host and cannot be set for a container")
    try:
        signature, value = gvariant.parse(text)
    except ValueError as error:
        raise ConfigError(where, f'"{text}" is no value of a property: {error}') from None
    if name.endswith("Sec") and name[-4:-3].islower():
        # manuals give times in seconds, D-Bus knows microseconds alone (as in runc: TimeoutStopSec, and not TimeoutStopUSec)
        if type(value) not in (int, float) or not 0 <= value * 1_000_000 <= INFINITY:
            raise ConfigError(where, f'"{text}" is no number of seconds')
        return name[:-3] + "USec", "t", int(value * 1_000_000)
    return name, signature, value


# -- limits ----------------------------------------------------------------------------------------------------------------


def limits(version: int, writes: Iterable[Write], *, has_bfq: bool = False) -> list[Property]:
    """The properties for what `resources` writes; `has_bfq`: whether cgroups have io.bfq.weight here.

    What is no value for systemd is left to the file, where the kernel says what it thinks of it.
    """
    files = _V1 if version == 1 else _V2
    found: Properties = {}
    for _, file, value in writes:
        first, _, second = file.removesuffix(OPTIONAL).partition(EITHER)
        if second:
            # BFQ's file first: its range is another
            one, _, other = value.partition(EITHER)
            first, value = (first, one) if has_bfq and version == 2 else (second, other)
        convert = files.get(first)
        if convert is not None:
            try:
                convert(value, found)
            except ValueError:
                continue
    return [(name, signature, value) for name, (signature, value) in found.items()]


def _number(text: str) -> int:
    """A number as the kernel reads it, with a unit."""
    text = text.strip()
    if text in ("max", "-1", "infinity"):
        return INFINITY
    scale = {"k": 10, "m": 20, "g": 30, "t": 40}.get(text[-1:].lower(), 0)
    digits = text[:-1] if scale else text
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(text)
    return min(int(digits) << scale, INFINITY)


def _as(name: str) -> Callable[[str, Properties], None]:
    def convert(value: str, found: Properties) -> None:
        found[name] = "t", _number(value)

    return convert


def _tasks(value: str, found: Properties) -> None:
    # systemd knows no 0; with a limit of 1 nobody can fork either
    found["TasksMax"] = "t", max(_number(value), 1)


def _weight(value: str, found: Properties) -> None:
    if found.get("CPUWeight") != ("t", 0):
        found["CPUWeight"] = "t", _number(value)


def _idle(value: str, found: Properties) -> None:
    # since systemd 252 a weight of 0 means idle; an idle cgroup has no weight besides, and gets the default one after that
    if _number(value) == 1:
        found["CPUWeight"] = "t", 0
    else:
        found.setdefault("CPUWeight", ("t", INFINITY))


def _cpu_max(value: str, found: Properties) -> None:
    quota, _, period = value.strip().partition(" ")
    _bandwidth(_number(quota), _number(period) if period else _PERIOD_US, found)


def _bandwidth(quota: int, period: int, found: Properties) -> None:
    if not 0 < period < INFINITY:
        raise ValueError(str(period))
    found["CPUQuotaPeriodUSec"] = "t", period
    # systemd keeps whole percents, which a daemon-reload reads back: rather a bit more than a bit less than was asked for
    per_s = quota * 1_000_000 // period
    found["CPUQuotaPerSecUSec"] = "t", INFINITY if quota == INFINITY else -(-per_s // 10_000) * 10_000


def _cfs_quota(value: str, found: Properties) -> None:
    _, period = found.get("CPUQuotaPeriodUSec", ("t", _PERIOD_US))
    _bandwidth(_number(value), period, found)


def _cfs_period(value: str, found: Properties) -> None:
    found["CPUQuotaPeriodUSec"] = "t", _number(value)


def _oom_group(value: str, found: Properties) -> None:
    found["OOMPolicy"] = "s", "kill" if _number(value) else "continue"


def _mask(name: str) -> Callable[[str, Properties], None]:
    def convert(value: str, found: Properties) -> None:
        found[name] = "ay", mask(value)

    return convert


def mask(text: str) -> list[int]:
    """A list of CPUs or memory nodes, "0-2,7", as bytes with a bit for each, the first in the lowest."""
    bits = 0
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        low = _bit(first)
        high = _bit(last) if dash else low
        if high < low:
            raise ValueError(part)
        bits |= (1 << high + 1) - (1 << low)
    return list(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))


def _bit(text: str) -> int:
    number = _number(text)
    if number > 0xFFFF:
        raise ValueError(text)
    return number


def _io_weight(to_property: Callable[[int], int], name: str, per_device: str) -> Callable[[str, Properties], None]:
    def convert(value: str, found: Properties) -> None:
        device, space, weight = value.strip().rpartition(" ")
        if space and device != "default":
            _of_device(per_device, device, to_property(_number(weight)), found)
        else:
            found[name] = "t", to_property(_number(weight))

    return convert


def _weight_of_bfq(weight: int) -> int:
    """The weight of io.weight that systemd writes to io.bfq.weight as this one (BFQ_WEIGHT in its cgroup-util.h)."""
    return weight if weight <= 100 else 100 + (weight - 100) * 11


def _of_device(name: str, device: str, value: int, found: Properties) -> None:
    major, _, minor = device.partition(":")
    if not (major.isdigit() and minor.isdigit()):
        raise ValueError(device)
    _, values = found.setdefault(name, ("a(st)", []))
    values.append((f"/dev/block/{device}", value))


_IO_MAX = {
    "rbps": "IOReadBandwidthMax",
    "wbps": "IOWriteBandwidthMax",
    "riops": "IOReadIOPSMax",
    "wiops": "IOWriteIOPSMax",
}


def _io_max(value: str, found: Properties) -> None:
    device, *settings = value.split()
    for setting in settings:
        key, _, rate = setting.partition("=")
        if key not in _IO_MAX:
            raise ValueError(setting)
        _of_device(_IO_MAX[key], device, _number(rate), found)


def _throttle(name: str) -> Callable[[str, Properties], None]:
    def convert(value: str, found: Properties) -> None:
        device, _, rate = value.strip().partition(" ")
        # v1: no limit is 0 in the file
        _of_device(name, device, _number(rate) or INFINITY, found)

    return convert


_BOTH = {
    "cpuset.cpus": _mask("AllowedCPUs"),
    "cpuset.mems": _mask("AllowedMemoryNodes"),
    "pids.max": _tasks,
}
#: file of a cgroup -> how systemd calls what it holds
_V2: dict[str, Callable[[str, Properties], None]] = {
    **_BOTH,
    "memory.max": _as("MemoryMax"),
    "memory.high": _as("MemoryHigh"),
    "memory.low": _as("MemoryLow"),
    "memory.min": _as("MemoryMin"),
    "memory.swap.max": _as("MemorySwapMax"),
    "memory.zswap.max": _as("MemoryZSwapMax"),
    "memory.oom.group": _oom_group,
    "cpu.weight": _weight,
    "cpu.idle": _idle,
    "cpu.max": _cpu_max,
    "io.weight": _io_weight(int, "IOWeight", "IODeviceWeight"),
    "io.bfq.weight": _io_weight(_weight_of_bfq, "IOWeight", "IODeviceWeight"),
    "io.max": _io_max,
}
#: the same for v1, of which systemd knows less
_V1: dict[str, Callable[[str, Properties], None]] = {
    **_BOTH,
    "memory.limit_in_bytes": _as("MemoryLimit"),
    "cpu.shares": _as("CPUShares"),
    "cpu.cfs_period_us": _cfs_period,
    "cpu.cfs_quota_us": _cfs_quota,
    "blkio.weight": _io_weight(int, "BlockIOWeight", "BlockIODeviceWeight"),
    "blkio.weight_device": _io_weight(int, "BlockIOWeight", "BlockIODeviceWeight"),
    "blkio.throttle.read_bps_device": _throttle("BlockIOReadBandwidth"),
    "blkio.throttle.write_bps_device": _throttle("BlockIOWriteBandwidth"),
}

# -- devices ---------------------------------------------------------------------------------------------------------------


def device_policy(what: devices.State) -> list[Property]:
    """DevicePolicy and DeviceAllow: at least all that the rules allow.

    What systemd cannot express (a hole in a wildcard, a minor number of any major) is wider here and made narrow by our own
    program or lines, which are in force besides.
    """
    default, exceptions = what
    if default:
        return [("DevicePolicy", "s", "auto"), ("DeviceAllow", "a(ss)", [])]
    allowed: dict[str, int] = {}
    for (kind, major, minor), access in exceptions.items():
        path = _device(kind, major, minor)
        allowed[path] = allowed.get(path, 0) | access
    entries = [(path, devices.letters(access)) for path, access in allowed.items()]
    return [("DevicePolicy", "s", "strict"), ("DeviceAllow", "a(ss)", entries)]


def _device(kind: str, major: int, minor: int) -> str:
    word = "char" if kind == "c" else "block"
    if major == devices.ANY:
        return f"{word}-*"
    # by number: the name of a driver or a node need not exist (systemd 240 and later)
    return f"{word}-{major}" if minor == devices.ANY else f"/dev/{word}/{major}:{minor}"
