"""linux.resources as writes: each property in both versions, from one table."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cgroups import resources
from runtime.errors import ConfigError, Unsupported


def v1(**what: Any) -> list[str]:
    return [f"{file} = {value}" for _, file, value in resources.writes(1, what)]


def v2(**what: Any) -> list[str]:
    return [f"{file} = {value}" for _, file, value in resources.writes(2, what)]


GOLDENS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, [], []),
    ({"memory": {}, "cpu": {}, "pids": {}, "blockIO": {}, "network": {}}, [], []),
    # zero, null and false leave things alone
    (
        {
            "memory": {"limit": 0, "swap": 0, "reservation": 0, "swappiness": None, "disableOOMKiller": False},
            "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": "", "realtimeRuntime": 0},
            "blockIO": {"weight": 0, "leafWeight": 0, "weightDevice": []},
            "network": {"classID": 0, "priorities": []},
            "pids": {"limit": None},
            "unified": {},
        },
        [],
        [],
    ),
    (
        {"memory": {"limit": 1 << 26, "swap": 3 << 26, "reservation": 1 << 25}},
        [
            "memory.limit_in_bytes = 67108864",
            "memory.memsw.limit_in_bytes = 201326592",
            "memory.soft_limit_in_bytes = 33554432",
        ],
        ["memory.max = 67108864", "memory.swap.max = 134217728", "memory.low = 33554432"],
    ),
    # memory and memory+swap the same: no swap
    (
        {"memory": {"limit": 1 << 26, "swap": 1 << 26}},
        ["memory.limit_in_bytes = 67108864", "memory.memsw.limit_in_bytes = 67108864"],
        ["memory.max = 67108864", "memory.swap.max? = 0"],
    ),
    (
        {"memory": {"limit": 1 << 26, "swap": -1}},
        ["memory.limit_in_bytes = 67108864", "memory.memsw.limit_in_bytes = -1"],
        ["memory.max = 67108864", "memory.swap.max? = max"],
    ),
    # no limit on memory takes the one on memory+swap away as well
    (
        {"memory": {"limit": -1}},
        ["memory.limit_in_bytes = -1", "memory.memsw.limit_in_bytes? = -1"],
        ["memory.max = max", "memory.swap.max? = max"],
    ),
    (
        {"memory": {"limit": -1, "swap": 1 << 26}},
        ["memory.limit_in_bytes = -1", "memory.memsw.limit_in_bytes = 67108864"],
        ["memory.max = max", "memory.swap.max = 67108864"],
    ),
    ({"memory": {"swappiness": -1, "useHierarchy": False, "kernel": 1 << 30}}, [], []),
    (
        {"cpu": {"shares": 1024, "quota": 50000, "period": 200000, "burst": 10000, "idle": 0}},
        [
            "cpu.shares = 1024",
            "cpu.cfs_period_us = 200000",
            "cpu.cfs_quota_us = 50000",
            "cpu.cfs_burst_us = 10000",
            "cpu.idle = 0",
        ],
        ["cpu.weight = 100", "cpu.max = 50000 200000", "cpu.max.burst = 10000", "cpu.idle = 0"],
    ),
    ({"cpu": {"quota": 50000}}, ["cpu.cfs_quota_us = 50000"], ["cpu.max = 50000 100000"]),
    ({"cpu": {"quota": -1}}, ["cpu.cfs_quota_us = -1"], ["cpu.max = max 100000"]),
    ({"cpu": {"period": 5000}}, ["cpu.cfs_period_us = 5000"], ["cpu.max = max 5000"]),
    ({"cpu": {"shares": 2, "idle": 1}}, ["cpu.shares = 2", "cpu.idle = 1"], ["cpu.weight = 1", "cpu.idle = 1"]),
    ({"cpu": {"cpus": "0-1", "mems": "0"}},) + (["cpuset.cpus = 0-1", "cpuset.mems = 0"],) * 2,
    ({"pids": {"limit": 100}},) + (["pids.max = 100"],) * 2,
    ({"pids": {"limit": -1}},) + (["pids.max = max"],) * 2,
    ({"pids": {"limit": 0}},) + (["pids.max = 0"],) * 2,
    (
        {"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}},
        [
            "blkio.bfq.weight|blkio.weight = 500|500",
            "blkio.bfq.weight_device|blkio.weight_device = 8:0 10|8:0 10",
        ],
        ["io.bfq.weight|io.weight = 500|4950", "io.bfq.weight|io.weight = 8:0 10|8:0 1"],
    ),
    (
        {
            "blockIO": {
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}, {"major": 8, "minor": 16, "rate": 0}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2000}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 30}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 40}],
            }
        },
        [
            "blkio.throttle.read_bps_device = 8:0 1000",
            "blkio.throttle.read_bps_device = 8:16 0",
            "blkio.throttle.write_bps_device = 8:0 2000",
            "blkio.throttle.read_iops_device = 8:0 30",
            "blkio.throttle.write_iops_device = 8:0 40",
        ],
        [
            "io.max = 8:0 rbps=1000",
            "io.max = 8:16 rbps=max",
            "io.max = 8:0 wbps=2000",
            "io.max = 8:0 riops=30",
            "io.max = 8:0 wiops=40",
        ],
    ),
    (
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 1 << 30}]},
        [
            "hugetlb.2MB.limit_in_bytes = 0",
            "hugetlb.2MB.rsvd.limit_in_bytes? = 0",
            "hugetlb.1GB.limit_in_bytes = 1073741824",
            "hugetlb.1GB.rsvd.limit_in_bytes? = 1073741824",
        ],
        [
            "hugetlb.2MB.max = 0",
            "hugetlb.2MB.rsvd.max? = 0",
            "hugetlb.1GB.max = 1073741824",
            "hugetlb.1GB.rsvd.max? = 1073741824",
        ],
    ),
    (
        {"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 0}, "rxe": {"hcaObjects": 7}}},
        ["rdma.max = mlx5_1 hca_handle=3 hca_object=0", "rdma.max = rxe hca_object=7"],
        ["rdma.max = mlx5_1 hca_handle=3 hca_object=0", "rdma.max = rxe hca_object=7"],
    ),
    ({"memory": {"useHierarchy": True}}, ["memory.use_hierarchy = 1"], []),
]


@pytest.mark.parametrize("what, first, second", GOLDENS, ids=range(len(GOLDENS)))
def test_writes(what: dict[str, Any], first: list[str], second: list[str]) -> None:
    assert v1(**what) == first
    assert v2(**what) == second


V1_ONLY: list[tuple[dict[str, Any], list[str], str]] = [
    ({"memory": {"kernelTCP": 4096}}, ["memory.kmem.tcp.limit_in_bytes = 4096"], "memory.kernelTCP"),
    ({"memory": {"swappiness": 0}}, ["memory.swappiness = 0"], "memory.swappiness"),
    ({"memory": {"disableOOMKiller": True}}, ["memory.oom_control = 1"], "memory.disableOOMKiller"),
    (
        {"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 100000}},
        ["cpu.rt_period_us = 100000", "cpu.rt_runtime_us = 5000"],
        "cpu.realtimePeriod",
    ),
    ({"blockIO": {"leafWeight": 10}}, ["blkio.leaf_weight = 10"], "blockIO.leafWeight"),
    (
        {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}]}},
        ["blkio.leaf_weight_device = 8:0 20"],
        "blockIO.weightDevice",
    ),
    ({"network": {"classID": 1048577}}, ["net_cls.classid = 1048577"], "network.classID"),
    (
        {"network": {"priorities": [{"name": "eth0", "priority": 5}, {"name": "lo", "priority": 0}]}},
        ["net_prio.ifpriomap = eth0 5", "net_prio.ifpriomap = lo 0"],
        "network.priorities",
    ),
]


@pytest.mark.parametrize("what, first, named", V1_ONLY, ids=[case[2] for case in V1_ONLY])
def test_what_v2_cannot_express_is_refused_by_name(what: dict[str, Any], first: list[str], named: str) -> None:
    assert v1(**what) == first
    with pytest.raises(Unsupported, match=rf"linux\.resources\.{named}: cgroup v2 has no such limit"):
        v2(**what)


def test_unified_is_for_v2_alone() -> None:
    what = {"unified": {"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"}}
    assert v2(**what) == ["memory.high = 1000", "io.max = 8:0 rbps=1", "io.max = 8:16 rbps=2"]
    with pytest.raises(Unsupported, match="linux.resources.unified"):
        v1(**what)


def test_unified_comes_last_and_so_wins() -> None:
    assert v2(pids={"limit": 5}, unified={"pids.max": "7"}) == ["pids.max = 5", "pids.max = 7"]


@pytest.mark.parametrize(
    "name", ["../pids.max", "a/b.c", "memory", ".max", "memory.", "", "memory.max\n", "mem ory.max"]
)
def test_unified_keys_are_names_of_files(name: str) -> None:
    with pytest.raises(ConfigError, match="must be the name of a file"):
        v2(unified={name: "1"})


@pytest.mark.parametrize("size", ["2mb", "MB", "../2MB", "2 MB", "-2MB", "2MB/../x", "", "٢MB"])
def test_page_sizes_cannot_leave_the_cgroup(size: str) -> None:
    for version in (v1, v2):
        with pytest.raises(ConfigError, match=r"hugepageLimits\.0\.pageSize: must be a size"):
            version(hugepageLimits=[{"pageSize": size, "limit": 1}])


@pytest.mark.parametrize(
    "what, why",
    [
        ({"cpu": {"cpus": "0\n1"}}, "cpu.cpus: must not contain a newline"),
        ({"network": {"priorities": [{"name": "lo 5\neth0", "priority": 1}]}}, "network.priorities: must not contain"),
        ({"cpu": {"shares": 1}}, "the minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 262145}}, "the maximum allowed cpu-shares is 262144"),
        ({"memory": {"swappiness": 101}}, "memory.swappiness: must be from 0 to 100, not 101"),
        ({"rdma": {"mlx": {}}}, "rdma.mlx: needs hcaHandles or hcaObjects"),
    ],
)
def test_wrong_values_on_v1(what: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        v1(**what)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "memory, why",
    [({"swap": 1000}, "without memory.limit"), ({"limit": 2000, "swap": 1000}, "must be at least memory.limit")],
)
def test_swap_that_v2_cannot_work_out(memory: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        v2(memory=memory)
    assert why in str(caught.value)


def test_weights_keep_the_ends_and_the_default() -> None:
    weight = resources.weight_of_shares
    assert [weight(shares) for shares in (1, 2, 1024, 262144, 1 << 40)] == [1, 1, 100, 10000, 10000]
    found = [weight(shares) for shares in range(2, 262145, 7)]
    assert found == sorted(found)
    assert [resources.weight_of_blkio(w) for w in (1, 10, 100, 500, 1000)] == [1, 1, 910, 4950, 10000]


def test_the_order_that_the_kernel_needs() -> None:
    everything = {
        "unified": {},
        "cpu": {"cpus": "0", "mems": "0", "shares": 2, "idle": 1, "quota": 1000, "period": 1000, "burst": 1,
                "realtimePeriod": 10, "realtimeRuntime": 5},
        "memory": {"swap": 2, "limit": 1},
    }  # fmt: skip
    files = [line.split(" ")[0] for line in v1(**everything)]
    for before, after in (
        ("cpuset.mems", "memory.limit_in_bytes"),
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("cpu.shares", "cpu.idle"),
        ("cpu.cfs_quota_us", "cpu.cfs_burst_us"),
        ("cpu.rt_period_us", "cpu.rt_runtime_us"),
    ):
        assert files.index(before) < files.index(after)


def test_what_no_kernel_has_is_said() -> None:
    assert "memory.kernel" in resources.ignored({"memory": {"kernel": 5}})[0]
    assert resources.ignored({"memory": {"kernel": 0}}) == resources.ignored({}) == []


def test_every_file_is_named_by_its_controller() -> None:
    for _, _, first, second in resources.TABLE:
        for file in (first, second):
            for name in (file or "").split("|"):
                assert not name or set(name) <= resources._FILE_NAME and "." in name


# -- update ----------------------------------------------------------------------------------------------------------------

BEFORE: dict[str, Any] = {
    "memory": {"limit": 1 << 26, "swap": 1 << 27},
    "cpu": {"shares": 200, "quota": 30000, "period": 90000},
    "pids": {"limit": 20},
    "devices": [{"allow": True}],
}


@pytest.mark.parametrize(
    ("changed", "in_v1", "in_v2"),
    [
        ({}, [], []),
        ({"memory": {"limit": 0}, "cpu": {"shares": 0, "cpus": ""}, "devices": [{"allow": False}]}, [], []),
        ({"pids": {"limit": 5}}, ["pids.max = 5"], ["pids.max = 5"]),
        # 64 MiB of swap were asked for beside the memory
        (
            {"memory": {"limit": 1 << 25}},
            ["memory.limit_in_bytes = 33554432", "memory.memsw.limit_in_bytes = 134217728"],
            ["memory.max = 33554432", "memory.swap.max = 100663296"],
        ),
        ({"memory": {"swap": -1}}, ["memory.memsw.limit_in_bytes = -1"], ["memory.swap.max? = max"]),
        # one file of v2 has both
        (
            {"cpu": {"period": 50000}},
            ["cpu.cfs_period_us = 50000", "cpu.cfs_quota_us = 30000"],
            ["cpu.max = 30000 50000"],
        ),
        (
            {"cpu": {"quota": -1}},
            ["cpu.cfs_period_us = 90000", "cpu.cfs_quota_us = -1"],
            ["cpu.max = max 90000"],
        ),
        (
            {"cpu": {"idle": 0, "burst": 0}},
            ["cpu.cfs_burst_us = 0", "cpu.idle = 0"],
            ["cpu.max.burst = 0", "cpu.idle = 0"],
        ),
    ],
)
def test_only_what_a_change_names(changed: dict[str, Any], in_v1: list[str], in_v2: list[str]) -> None:
    after = resources.merged(BEFORE, changed)
    assert after["devices"] == [{"allow": True}]
    for version, wanted in ((1, in_v1), (2, in_v2)):
        found = resources.writes(version, after, changed=changed)
        assert [f"{file} = {value}" for _, file, value in found] == wanted


def test_no_limit_of_memory_any_more_is_none_of_memory_and_swap_either() -> None:
    """What runc does; a total that stays would be one for memory too on v1, and one for swap alone on v2."""
    before = {"memory": {"limit": 64, "swap": 128, "reservation": 32}}
    for version, words in ((1, "-1"), (2, "max")):
        after = resources.merged(before, {"memory": {"limit": -1}})
        assert after == {"memory": {"limit": -1, "reservation": 32}}
        values = [value for _, _, value in resources.writes(version, after, changed={"memory": {"limit": -1}})]
        assert values == [words, words]
    assert resources.merged(before, {"memory": {"limit": -1, "swap": 256}})["memory"]["swap"] == 256
