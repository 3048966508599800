"""linux.resources in systemd's words, and annotations as properties."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cgroups import devices, resources
from runtime.cgroups import systemd_properties as properties
from runtime.errors import ConfigError

INFINITY = (1 << 64) - 1


def limits(version: int, *, has_bfq: bool = False, **wanted: Any) -> dict[str, Any]:
    found = properties.limits(version, resources.writes(version, wanted), has_bfq=has_bfq)
    assert len({name for name, _, _ in found}) == len(found)
    for prop in found:
        assert properties.of_text(properties.step_text(prop)) == prop
    return {name: value for name, _, value in found}


DISK = {"major": 8, "minor": 16}
NODE = "/dev/block/8:16"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"memory": {"limit": 100}}, {"MemoryMax": 100}),
        ({"memory": {"limit": 100, "swap": 300, "reservation": 50}}, {"MemoryMax": 100, "MemorySwapMax": 200, "MemoryLow": 50}),
        ({"memory": {"limit": -1}}, {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
        ({"cpu": {"shares": 1024, "idle": 1}}, {"CPUWeight": 0}),
        ({"cpu": {"shares": 1024, "idle": 0}}, {"CPUWeight": 100}),
        ({"cpu": {"idle": 0}}, {"CPUWeight": INFINITY}),
        ({"cpu": {"quota": 25000, "period": 50000}}, {"CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": 500000}),
        ({"cpu": {"quota": 50000}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 500000}),
        # whole percents, rounded up
        ({"cpu": {"quota": 12345}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 130000}),
        ({"cpu": {"quota": -1, "period": 5000}}, {"CPUQuotaPeriodUSec": 5000, "CPUQuotaPerSecUSec": INFINITY}),
        ({"cpu": {"burst": 5}}, {}),
        ({"cpu": {"cpus": "0-2,9", "mems": "1"}}, {"AllowedCPUs": [7, 2], "AllowedMemoryNodes": [2]}),
        ({"cpu": {"cpus": "nonsense"}}, {}),
        ({"cpu": {"cpus": "5-2"}}, {}),
        ({"cpu": {"cpus": "0-99999999"}}, {}),
        ({"pids": {"limit": 100}}, {"TasksMax": 100}),
        ({"pids": {"limit": 0}}, {"TasksMax": 1}),
        ({"pids": {"limit": -1}}, {"TasksMax": INFINITY}),
        ({"blockIO": {"weight": 10}}, {"IOWeight": 1}),
        ({"blockIO": {"weightDevice": [{**DISK, "weight": 1000}]}}, {"IODeviceWeight": [(NODE, 10000)]}),
        (
            {"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": 5}, {"major": 8, "minor": 0, "rate": 0}],
                         "throttleWriteBpsDevice": [{**DISK, "rate": 6}], "throttleReadIOPSDevice": [{**DISK, "rate": 7}],
                         "throttleWriteIOPSDevice": [{**DISK, "rate": 8}]}},
            {"IOReadBandwidthMax": [(NODE, 5), ("/dev/block/8:0", INFINITY)], "IOWriteBandwidthMax": [(NODE, 6)],
             "IOReadIOPSMax": [(NODE, 7)], "IOWriteIOPSMax": [(NODE, 8)]},
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 5}], "rdma": {"mlx5_1": {"hcaHandles": 1}}}, {}),
        (
            {"unified": {"memory.high": "1M", "memory.min": "2k", "memory.zswap.max": "max", "memory.oom.group": "1",
                         "cpu.weight": "7", "cpu.max": "max", "pids.max": "9", "io.weight": "default 5\n8:16 6",
                         "io.max": "8:16 rbps=max wiops=3", "misc.max": "res_a 1", "memory.low": "much"}},
            {"MemoryHigh": 1 << 20, "MemoryMin": 2048, "MemoryZSwapMax": INFINITY, "OOMPolicy": "kill", "CPUWeight": 7,
             "CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": INFINITY, "TasksMax": 9, "IOWeight": 5,
             "IODeviceWeight": [(NODE, 6)], "IOReadBandwidthMax": [(NODE, INFINITY)], "IOWriteIOPSMax": [(NODE, 3)]},
        ),
        # what is written last holds
        ({"memory": {"limit": 5}, "unified": {"memory.max": "6"}}, {"MemoryMax": 6}),
    ],
)  # fmt: skip
def test_limits_of_v2(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    assert limits(2, **wanted) == found


def test_the_weight_of_bfq_is_what_systemd_makes_the_same_of() -> None:
    """systemd writes 100 + (weight - 100) * 900 / 9900 to io.bfq.weight above 100, and the weight itself below."""
    for weight in (10, 55, 100, 101, 300, 999, 1000):
        told = limits(2, has_bfq=True, blockIO={"weight": weight})["IOWeight"]
        assert (told if told <= 100 else 100 + (told - 100) * 900 // 9900) == weight


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"memory": {"limit": 100, "swap": 300, "reservation": 50}}, {"MemoryLimit": 100}),
        ({"memory": {"limit": -1}}, {"MemoryLimit": INFINITY}),
        ({"cpu": {"shares": 512, "idle": 1}}, {"CPUShares": 512}),
        ({"cpu": {"quota": 25000, "period": 50000}}, {"CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": 500000}),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": INFINITY}),
        ({"cpu": {"cpus": "1"}}, {"AllowedCPUs": [2]}),
        ({"pids": {"limit": 7}}, {"TasksMax": 7}),
        ({"blockIO": {"weight": 500}}, {"BlockIOWeight": 500}),
        ({"blockIO": {"throttleReadBpsDevice": [{**DISK, "rate": 0}]}}, {"BlockIOReadBandwidth": [(NODE, INFINITY)]}),
        ({"blockIO": {"throttleWriteIOPSDevice": [{**DISK, "rate": 5}]}}, {}),
    ],
)
def test_limits_of_v1(wanted: dict[str, Any], found: dict[str, Any]) -> None:
    assert limits(1, has_bfq=True, **wanted) == found


# -- devices ---------------------------------------------------------------------------------------------------------------


def allowed(*rules: dict[str, Any]) -> tuple[str, dict[str, str]]:
    policy, allow = properties.device_policy(devices.state([{"allow": False, "access": "rwm"}, *rules]))
    assert (policy[:2], allow[:2]) == (("DevicePolicy", "s"), ("DeviceAllow", "a(ss)"))
    return policy[2], dict(allow[2])


def test_devices_that_every_container_has() -> None:
    policy, found = allowed()
    assert policy == "strict"
    assert found["/dev/char/1:3"] == "rwm" and found["char-136"] == "rwm"
    assert found["char-*"] == found["block-*"] == "m"


def test_devices_that_are_asked_for() -> None:
    _, found = allowed(
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
    )
    assert found["/dev/char/10:229"] == "rw" and found["block-8"] == "r"


def test_what_systemd_has_no_words_for_is_wider() -> None:
    """A minor number of any major: our own program narrows it down."""
    _, found = allowed({"allow": True, "type": "c", "minor": 5, "access": "r"})
    assert found["char-*"] == "rm"


def test_all_devices() -> None:
    assert allowed({"allow": True, "access": "rwm"}) == ("auto", {})
    # a hole is the program's affair
    hole = {"allow": False, "type": "c", "major": 1, "minor": 14, "access": "rwm"}
    assert allowed({"allow": True, "access": "rwm"}, hole) == ("auto", {})


# -- annotations -----------------------------------------------------------------------------------------------------------


def asked(**values: str) -> list[Any]:
    return properties.of_annotations(
        {"annotations": {f"org.systemd.property.{name}": text for name, text in values.items()}}
    )


def test_annotations() -> None:
    assert asked(TimeoutStopSec="uint64 5", KillSignal="15", Wants="['a', 'b']") == [
        ("TimeoutStopUSec", "t", 5_000_000),
        ("KillSignal", "i", 15),
        ("Wants", "as", ["a", "b"]),
    ]
    assert asked(RuntimeMaxSec="1.5") == [("RuntimeMaxUSec", "t", 1_500_000)]
    # a name of microseconds, and one that only ends so
    assert asked(TimeoutStopUSec="uint64 5", FooUSec="5") == [("TimeoutStopUSec", "t", 5), ("FooUSec", "i", 5)]
    assert properties.of_annotations({"annotations": {"other": "x"}}) == properties.of_annotations({}) == []


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("A", "1", "no name of a property"),
        ("Foo/bar", "1", "no name of a property"),
        ("Foo1", "1", "no name of a property"),
        ("TimeoutStopSec", "'x'", "no number of seconds"),
        ("TimeoutStopSec", "true", "no number of seconds"),
        ("TimeoutStopSec", "-1", "no number of seconds"),
        ("TimeoutStopSec", "uint64 18446744073709551615", "no number of seconds"),
        ("Foo", "bar", '"bar" is no value'),
        ("PIDs", "[1]", "for the runtime to say"),
        ("Slice", "'x.slice'", "for the runtime to say"),
        ("FailureAction", "'reboot'", "about the whole host"),
        ("RebootArgument", "'x'", "about the whole host"),
    ],
)
def test_annotations_that_are_refused(name: str, text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(**{name: text})
    assert why in caught.value.why
    assert caught.value.where == "/annotations/org.systemd.property." + name.replace("/", "~1")
