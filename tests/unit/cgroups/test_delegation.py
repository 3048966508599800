"""Why a limit has nowhere to go, told from trees of files that look like a hierarchy in which somebody did not delegate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cgroup_hosts import v1_host, v2_host

from runtime.cgroups import delegation, fs
from runtime.errors import Unsupported


def tree(top: Path, *levels: tuple[str, str, str]) -> Path:
    """Cgroups one in another: name, its controllers, those that it passes on."""
    for name, controllers, passed in levels:
        top = top / name
        top.mkdir()
        (top / "cgroup.controllers").write_text(controllers)
        (top / "cgroup.subtree_control").write_text(passed)
        (top / "cgroup.procs").write_text("")
    return top


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegation.os, "access", lambda path, mode: False)


def test_the_cgroup_that_does_not_pass_a_controller_on(tmp_path: Path, denied: None) -> None:
    box = tree(
        tmp_path, ("top", "cpu memory", "cpu memory"), ("user.slice", "cpu memory", "memory"), ("box", "memory", "")
    )
    why, hint = delegation.missing(str(box), "cpu.max")
    assert why == f"{tmp_path}/top/user.slice does not pass the controller cpu on: not permitted"
    assert "not delegated" in hint and "as root" in hint
    assert delegation.missing(str(box), "memory.nosuch") == ("this kernel has no memory.nosuch", "")
    assert delegation.missing(str(box), "hugetlb.1GB.max") == (f"{tmp_path}/top has no controller hugetlb", "")
    assert delegation.missing(str(box), "cgroup.kill") == ("this kernel or this cgroup has no cgroup.kill", "")
    assert delegation.missing(str(tmp_path), "cpu.shares") == ("this kernel or this cgroup has no cpu.shares", "")


def test_a_cgroup_that_holds_processes_itself(tmp_path: Path) -> None:
    box = tree(tmp_path, ("given", "memory", ""), ("box", "", ""))
    threads = tmp_path / "given/cgroup.threads"
    threads.write_text("17\n")
    for kind in ("domain", "domain threaded"):
        (tmp_path / "given/cgroup.type").write_text(f"{kind}\n")
        why, hint = delegation.missing(str(box), "memory.max")
        assert "given does not pass the controller memory on: it holds processes itself" in why
        assert "cgroup below it" in hint
    (tmp_path / "given/cgroup.controllers").write_text("memory pids\n")
    for kind, is_why in (("domain", True), ("domain threaded", False)):
        (tmp_path / "given/cgroup.type").write_text(f"{kind}\n")
        why, _ = delegation.missing(str(box), "pids.max")
        assert "pids on" in why and ("holds processes" in why) == is_why
    threads.write_text("")
    assert delegation.missing(str(box), "memory.max")[0].endswith('memory on: it is "domain threaded"')
    (tmp_path / "given/cgroup.type").write_text("threaded\n")
    assert delegation.missing(str(box), "memory.max")[0].endswith('memory on: it is "threaded"')


def test_the_error_of_a_limit_names_the_delegation(tmp_path: Path, denied: None) -> None:
    box = tree(tmp_path, ("given", "cpu", ""), ("box", "", ""))
    cgroup = fs.Cgroup(2, {"": str(box)}, v2_host(is_rootless=True, euid=1000))
    with pytest.raises(Unsupported, match="given does not pass the controller cpu on") as refused:
        cgroup.write(f"{box}/cpu.max", "1")
    assert "not delegated" in refused.value.hint


def test_where_a_user_may_make_cgroups() -> None:
    assert "cgroup v1" in delegation.place_for(v1_host(is_rootless=True, euid=1000))
    assert "cgroup.subtree_control" in delegation.place_for(v2_host(is_rootless=True, euid=1000))
    systemd = v2_host(is_rootless=True, is_systemd=True, euid=54321)
    assert not os.path.exists("/run/user/54321")
    assert delegation.place_for(systemd).endswith(
        "loginctl enable-linger 54321; then systemd-run --user --scope pyrunc ..."
    )


def test_what_root_is_refused_gets_no_hint() -> None:
    assert delegation.hint_for("/sys/fs/cgroup/x", v2_host()) == delegation.hint_for("/sys/fs/cgroup/x", None) == ""
