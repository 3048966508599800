"""`update`: other limits for a container that is there, from a resources document or from options, not from both."""

from __future__ import annotations

from runtime import bundle, lifecycle
from runtime.cli import context
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.cli.argv import Args

#: attribute of the option -> section and key of linux.resources; what is a number there, a size or a text
_NUMBERS = {
    "blkio_weight": ("blockIO", "weight"),
    "cpu_period": ("cpu", "period"),
    "cpu_quota": ("cpu", "quota"),
    "cpu_burst": ("cpu", "burst"),
    "cpu_share": ("cpu", "shares"),
    "cpu_rt_period": ("cpu", "realtimePeriod"),
    "cpu_rt_runtime": ("cpu", "realtimeRuntime"),
    "cpu_idle": ("cpu", "idle"),
    "pids_limit": ("pids", "limit"),
}
_SIZES = {
    "memory": ("memory", "limit"),
    "memory_reservation": ("memory", "reservation"),
    "memory_swap": ("memory", "swap"),
}
_TEXTS = {"cpuset_cpus": ("cpu", "cpus"), "cpuset_mems": ("cpu", "mems")}

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def run(args: Args) -> int:
    lifecycle.update(context(args), args.id, resources(args), tuple(schemas(args)))
    return 0


def schemas(args: Args) -> Iterator[str]:
    """Lines for the container's class of resctrl: caches first, then bandwidth."""
    for option, begin in (("l3_cache_schema", "L3:"), ("mem_bw_schema", "MB:")):
        line = getattr(args, option)
        if line and (not line.startswith(begin) or "\n" in line):
            raise UsageError(
                f'--{option.replace("_", "-")}: "{line}" is not one line that begins with {begin}', code="usage"
            )
        if line:
            yield line


def resources(args: Args) -> dict[str, Any]:
    """What shall be changed, as linux.resources words it and checked as in config.json."""
    found: dict[str, dict[str, Any]] = {}
    for table, read in ((_NUMBERS, number), (_SIZES, size), (_TEXTS, text)):
        for name, (section, key) in table.items():
            word = getattr(args, name)
            if word != "":
                found.setdefault(section, {})[key] = read(word, name)
    if args.resources:
        if found:
            # runc takes the document and drops the rest without a word
            raise UsageError(
                "--resources has all there is to change, no other limit can be given beside it", code="usage"
            )
        return bundle.load_resources(_read(args.resources), "resources" if args.resources == "-" else args.resources)
    from runtime import jsonio

    return bundle.load_resources(jsonio.dumps(found).encode(), "the options") if found else {}


def _read(path: str) -> bytes | str:
    if path != "-":
        return path
    from runtime import system as os

    parts = []
    while part := os.read(0, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def text(word: str, name: str) -> str:
    return word


def number(word: str, name: str) -> int:
    """A whole number, negative too, in ASCII digits."""
    digits = word[1:] if word[0] == "-" else word
    if not digits or digits.strip("0123456789") or len(digits) > 20:
        raise UsageError(f'--{name.replace("_", "-")}: "{word}" is not a number', code="usage")
    return int(word)


def size(word: str, name: str) -> int:
    """Bytes, or with a unit of 1024 as in 64m, 64MB or 64MiB; -1 for no limit."""
    if word == "-1":
        return -1
    unit = word.lstrip("0123456789.")
    amount = word[: len(word) - len(unit)]
    letters = unit.strip().lower()
    for ending in ("ib", "b"):
        if len(letters) > 1:
            letters = letters.removesuffix(ending)
    if letters not in _UNITS or not amount.strip(".") or amount.count(".") > 1 or len(amount) > 20:
        raise UsageError(f'--{name.replace("_", "-")}: "{word}" is no size such as 64m, nor -1', code="usage")
    return int(float(amount) * _UNITS[letters]) if "." in amount else int(amount) * _UNITS[letters]
