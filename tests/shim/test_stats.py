"""Metrics from cgroup files: made-up cgroups of both versions, and this machine's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.containerd import stats
from shim.containerd.protobuf import decode
from shim.oom import cgroups_of


def write(place: Path, files: dict[str, str]) -> str:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name).write_text(text)
    return str(place)


def cgroups_v1(tmp_path: Path) -> dict[str, str]:
    """A container's cgroups of every controller."""
    memory = {
        "memory.stat": "cache 1\nrss 2\nrss_huge 3\npgpgin 7\nhierarchical_memory_limit 16\n"
        "hierarchical_memsw_limit 17\ntotal_cache 18\ntotal_unevictable 32\nswap 99\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 4\n",
    }
    for prefix, base in (("", 10), ("memsw.", 20)):
        for index, name in enumerate(("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes", "failcnt")):
            memory[f"memory.{prefix}{name}"] = f"{base + index}\n"
    return {
        "memory": write(tmp_path / "memory", memory),
        "pids": write(tmp_path / "pids", {"pids.current": "3\n", "pids.max": "max\n"}),
        "cpu": write(tmp_path / "cpu", {"cpu.stat": "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n"}),
        "cpuacct": write(
            tmp_path / "cpuacct",
            {"cpuacct.usage": "1000\n", "cpuacct.stat": "user 5\nsystem 7\n", "cpuacct.usage_percpu": "400 600 \n"},
        ),
        "blkio": write(
            tmp_path / "blkio",
            {
                "blkio.io_service_bytes_recursive": "",
                "blkio.throttle.io_service_bytes": "1:0 Read 4096\n1:0 Write 8\nTotal 4104\n",
                "blkio.throttle.io_serviced": "1:0 Read 2\n",
            },
        ),
        "hugetlb": write(
            tmp_path / "hugetlb",
            {
                "hugetlb.2MB.usage_in_bytes": "1\n",
                "hugetlb.2MB.max_usage_in_bytes": "2\n",
                "hugetlb.2MB.failcnt": "3\n",
                "hugetlb.2MB.rsvd.failcnt": "9\n",
            },
        ),
        "rdma": write(
            tmp_path / "rdma", {"rdma.current": "mlx hca_handle=2 hca_object=3\n", "rdma.max": "mlx hca_handle=max\n"}
        ),
        "": str(tmp_path / "unified"),
    }


def test_v1(tmp_path: Path) -> None:
    paths = cgroups_v1(tmp_path)
    found = stats.metrics(paths)
    assert found["type_url"] == "io.containerd.cgroups.v1.Metrics"
    values = decode(stats.METRICS_V1, found["value"])
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert values["cpu"] == {
        "usage": {"total": 1000, "kernel": 7 * tick, "user": 5 * tick, "per_cpu": [400, 600]},
        "throttling": {"nr_periods": 1, "nr_throttled": 2, "throttled_time": 3},
    }
    assert values["pids"] == {"current": 3, "limit": 0}
    got = values["memory"]
    assert (got["cache"], got["pgpgin"], got["total_unevictable"], got["hierarchical_memsw_limit"]) == (1, 7, 32, 17)
    assert got["usage"] == {"limit": 10, "usage": 11, "max": 12, "failcnt": 13}
    assert got["swap"] == {"limit": 20, "usage": 21, "max": 22, "failcnt": 23}
    assert got["kernel"] is None
    assert values["memory_oom_control"] == {"oom_kill_disable": 0, "under_oom": 1, "oom_kill": 4}
    device = {"device": "/dev/ram0" if Path("/sys/dev/block/1:0").exists() else "", "major": 1, "minor": 0}
    assert values["blkio"]["io_service_bytes_recursive"] == [
        {"op": "Read", **device, "value": 4096},
        {"op": "Write", **device, "value": 8},
    ]
    assert values["blkio"]["io_serviced_recursive"] == [{"op": "Read", **device, "value": 2}]
    assert values["hugetlb"] == [{"usage": 1, "max": 2, "failcnt": 3, "pagesize": "2MB"}]
    assert values["rdma"]["current"] == [{"device": "mlx", "hca_handles": 2, "hca_objects": 3}]
    assert values["rdma"]["limit"] == [{"device": "mlx", "hca_handles": (1 << 32) - 1, "hca_objects": 0}]


def test_v2(tmp_path: Path) -> None:
    place = write(
        tmp_path,
        {
            "pids.current": "3\n",
            "pids.max": "max\n",
            "cpu.stat": "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 1\nnr_bursts 8\nburst_usec 9\n",
            "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=5\n",
            "memory.stat": "anon 1\nfile 2\nthp_collapse_alloc 31\nworkingset_refault_anon 5\nworkingset_refault_file 20\nnew 1\n",
            "memory.current": "100\n",
            "memory.max": "max\n",
            "memory.swap.max": "50\n",
            "memory.peak": "120\n",
            "memory.events": "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
            "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n",
            "hugetlb.2MB.current": "4\n",
            "hugetlb.2MB.max": "max\n",
            "hugetlb.2MB.events": "max 7\n",
            "hugetlb.2MB.rsvd.current": "1\n",
        },
    )
    found = stats.metrics({"": place})
    assert found["type_url"] == "io.containerd.cgroups.v2.Metrics"
    values = decode(stats.METRICS_V2, found["value"])
    assert values["pids"] == {"current": 3, "limit": (1 << 64) - 1}
    cpu = values["cpu"]
    assert (cpu["usage_usec"], cpu["system_usec"], cpu["nr_bursts"], cpu["burst_usec"]) == (10, 4, 8, 9)
    assert cpu["psi"]["some"] == {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 77}
    memory = values["memory"]
    assert (memory["anon"], memory["thp_collapse_alloc"], memory["workingset_refault"]) == (1, 31, 20)
    names = ("usage", "usage_limit", "swap_usage", "swap_limit", "max_usage")
    assert [memory[name] for name in names] == [100, (1 << 64) - 1, 0, 50, 120]
    assert memory["psi"] is None
    assert values["memory_events"]["oom_kill"] == 5
    assert values["io"]["usage"] == [{"major": 8, "minor": 0, "rbytes": 1, "wbytes": 2, "rios": 3, "wios": 4}]
    assert values["hugetlb"] == [{"current": 4, "max": (1 << 64) - 1, "pagesize": "2MB", "failcnt": 7}]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="cgroup does not exist"):
        stats.metrics({"memory": str(tmp_path / "gone")})
    with pytest.raises(LookupError):
        stats.metrics({})
    # a cgroup whose controllers have no files at all: everything is zero, and nothing fails
    assert decode(stats.METRICS_V2, stats.metrics({"": str(tmp_path)})["value"])["pids"]["current"] == 0


def test_this_machine() -> None:
    """Our own cgroup, whatever it is: something is counted, and the message can be read."""
    found = stats.metrics(cgroups_of(os.getpid()))
    table = stats.METRICS_V1 if found["type_url"].endswith("v1.Metrics") else stats.METRICS_V2
    values = decode(table, found["value"])
    assert any(values[name] for name in ("memory", "cpu", "pids"))
