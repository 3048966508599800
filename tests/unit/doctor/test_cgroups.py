"""What is said of cgroups, on trees of files that look like those of other hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.doctor import ERROR, NOTE, OK, WARNING, cgroups
from runtime.host import Host

FACTS = {"cgroup_mounts": {}, "own_cgroups": {"": "/user.slice"}, "euid": 0, "is_rootless": False, "is_systemd": False}


def unified(top: Path, controllers: str, enabled: str) -> Host:
    for folder in (top, top / "user.slice"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text(controllers)
        (folder / "cgroup.subtree_control").write_text(enabled)
    return Host.from_facts({**FACTS, "cgroup_mode": "v2", "cgroup_unified": str(top)})


def test_controllers_of_the_unified_hierarchy(tmp_path: Path) -> None:
    host = unified(tmp_path, "cpu memory pids rdma\n", "memory\n")
    found = {finding.id: finding for finding in cgroups._unified(host, f"{tmp_path}/box")}
    severities = {id_.rpartition(".")[2]: finding.severity for id_, finding in found.items()}
    wanted = {"place": OK, "memory": OK, "cpu": OK, "pids": OK, "rdma": OK, "cpuset": WARNING, "io": WARNING}
    assert {name: severities[name] for name in wanted} == wanted
    assert found["cgroup.v2.memory"].found.startswith("is enabled")
    assert found["cgroup.v2.cpu"].found.startswith("can be enabled")


def test_controllers_that_were_not_delegated(tmp_path: Path) -> None:
    host = unified(tmp_path, "cpu memory pids", "memory")
    (tmp_path / "user.slice/cgroup.controllers").write_text("memory")
    found = {finding.id: finding for finding in cgroups._unified(host, f"{tmp_path}/user.slice/box")}
    assert found["cgroup.v2.memory"].severity == OK
    assert found["cgroup.v2.pids"].severity == WARNING and "+pids" in found["cgroup.v2.pids"].advice
    host.is_systemd = True
    found = {finding.id: finding for finding in cgroups._unified(host, f"{tmp_path}/user.slice/box")}
    assert "Delegate=" in found["cgroup.v2.pids"].advice


def test_no_hierarchy_is_an_error() -> None:
    found = list(cgroups.check(Host.from_facts({"cgroup_mode": "none"})))
    assert [(finding.id, finding.severity) for finding in found] == [("cgroup.layout", ERROR)]


def test_hierarchies_that_are_missing(tmp_path: Path) -> None:
    names = ("cpu", "memory", "pids")
    mounts = {name: str(tmp_path / name) for name in names}
    for path in mounts.values():
        Path(path).mkdir()
    host = Host.from_facts({**FACTS, "cgroup_mode": "v1", "cgroup_mounts": mounts, "cgroup_unified": ""})
    paths = {name: f"{mounts[name]}/box" for name in names if name != "pids"}
    found = {finding.id: finding.severity for finding in cgroups._hierarchies(host, paths)}
    wanted = {"memory": OK, "cpu": OK, "pids": WARNING, "devices": ERROR, "freezer": WARNING}
    assert {name: found[f"cgroup.v1.{name}"] for name in wanted} == wanted


def test_the_drivers_that_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups._driver(Host.from_facts({"is_systemd": False})).severity == OK
    user = {"is_systemd": True, "is_rootless": True, "euid": 1000, "in_user_ns": False}
    monkeypatch.setattr("runtime.cgroups.systemd_bus.os.environ", {"XDG_RUNTIME_DIR": "/no/such"})
    there = cgroups._driver(Host.from_facts(user))
    assert there.severity == WARNING and "cannot reach systemd: /no/such/systemd/private: no such file" in there.found
    monkeypatch.setattr("runtime.cgroups.systemd.version", lambda host: "252")
    there = cgroups._driver(Host.from_facts(user))
    assert there.severity == OK and there.found.startswith("252; the drivers cgroupfs and systemd")


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (("write", "new/memory.max", "1"), ""),
        (("write", "new/memory.nosuch", "1"), "memory.nosuch"),
        (("write-either", "new/memory.nosuch|memory.max", "1|1"), ""),
        (("write-either", "new/memory.a|memory.b", "1|1"), "memory.a or memory.b"),
        (("write?missing", "new/memory.nosuch", "1"), ""),
        (("write", "new/hugetlb.2MB.max", "1"), ""),
        (("mkdir", "new", ""), ""),
    ],
)
def test_files_that_no_cgroup_has(tmp_path: Path, step: tuple[str, str, str], wanted: str) -> None:
    """Judged by a neighbour, on v2 only for controllers that it has."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/memory.max").touch()
    (tmp_path / "other/cgroup.controllers").write_text("memory\n")
    kind, target, value = step
    assert cgroups.lacking((kind, f"{tmp_path}/{target}", value)) == wanted


def test_without_a_neighbour_nothing_is_said(tmp_path: Path) -> None:
    assert cgroups.lacking(("write", f"{tmp_path}/new/memory.nosuch", "1")) == ""


MOUNT = "33 26 0:28 / /sys/fs/cgroup rw,nosuid shared:5 - cgroup2 cgroup2 rw,nsdelegate{}\n34 26 0:9 / /favordynmods rw - tmpfs favordynmods rw\n"


@pytest.mark.parametrize(
    ("release", "more", "is_systemd", "severities"),
    [
        ("6.0.1", "", True, [NOTE]),
        ("6.0.1", ",favordynmods,memory_recursiveprot", True, [OK]),
        ("5.19.9", "", True, []),
        ("6.12.0", "", False, []),
    ],
)
def test_who_waits_where_processes_are_moved(release: str, more: str, is_systemd: bool, severities: list[str]) -> None:
    host = Host.from_facts({**FACTS, "cgroup_unified": "/sys/fs/cgroup", "kernel": release, "is_systemd": is_systemd})
    assert [finding.severity for finding in cgroups._moves(host, MOUNT.format(more))] == severities
