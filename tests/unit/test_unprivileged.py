"""What an ordinary user is told to ask the administrator for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import unprivileged

UID = 54321  # of nobody


@pytest.fixture
def subuid(tmp_path: Path) -> Callable[..., str]:
    def write(*lines: str) -> str:
        (tmp_path / "subuid").write_text("".join(f"{line}\n" for line in lines))
        return str(tmp_path / "subuid")

    return write


def test_ranges_are_given_by_name_and_by_number(subuid: Callable[..., str]) -> None:
    path = subuid("root:100000:65536", "0:300000:10", "daemon:165536:65536", "root:broken", "root:1:2:3", "")
    assert unprivileged.ranges(path, 0) == [(100000, 65536), (300000, 10)]
    assert unprivileged.ranges(path, 1) == [(165536, 65536)]
    assert unprivileged.ranges(path + ".no", 1) == []


@pytest.mark.parametrize(
    ("lines", "wanted", "line"),
    [
        ([], [], f"{UID}:100000:65536"),
        (["a:100000:65536", "b:300000:65536"], [], f"{UID}:365536:65536"),
        (["a:100000:65536"], [(200000, 1000)], f"{UID}:200000:1000"),
        # the second is the one that is lacking
        ([f"{UID}:100000:65536"], [(100001, 10), (400000, 5)], f"{UID}:400000:5"),
        # of somebody else, or a user of the host itself: nothing to be given away
        (["a:100000:65536"], [(150000, 65536)], ""),
        ([], [(0, 1)], ""),
        ([], [(1000, 1)], ""),
    ],
)
def test_the_line_that_is_missing(
    subuid: Callable[..., str], lines: list[str], wanted: list[tuple[int, int]], line: str
) -> None:
    assert unprivileged.line_for(subuid(*lines), UID, wanted) == line


def test_a_hint_says_what_there_is_and_what_is_missing(subuid: Callable[..., str]) -> None:
    path = subuid("a:100000:65536")
    hint = unprivileged.why_no_ids(path, UID, [(200000, 65536)])
    assert hint == f"{path} has nothing for {UID}: add as root the line {UID}:200000:65536"
    # what cannot be given is not promised
    assert unprivileged.why_no_ids(path, UID, [(0, 1)]).endswith(f"the line {UID}:165536:65536")
    path = subuid("a:100000:65536", f"{UID}:200000:10")
    assert unprivileged.why_no_ids(path, UID, [(0, 1)]) == f"{path} gives {UID} 200000-200009: map no others"
    assert unprivileged.why_no_ids(path, UID, [(300000, 1)]).endswith(f"or add as root the line {UID}:300000:1")


@pytest.mark.parametrize(("name", "bad", "meaning", "remedy"), unprivileged.SWITCHES)
def test_switches_that_forbid_user_namespaces(
    monkeypatch: pytest.MonkeyPatch, name: str, bad: str, meaning: str, remedy: str
) -> None:
    monkeypatch.setattr(unprivileged, "text", lambda path: bad if path == f"/proc/sys/{name}" else "")
    hint = unprivileged.why_no_user_ns(errno.EPERM)
    assert meaning in hint and remedy in hint and f"{name.replace('/', '.')} is {bad}" in hint


def test_no_switch_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/self/status": "Name:\tx\nSeccomp:\t0\n"}
    monkeypatch.setattr(unprivileged, "text", lambda path: files.get(path, ""))
    assert unprivileged.why_no_user_ns(errno.EPERM) == unprivileged.why_powerless(errno.EPERM) == ""
    assert "as many as may be" in unprivileged.why_no_user_ns(errno.ENOSPC)
    files["/proc/self/status"] = "Name:\tx\nSeccomp:\t2\n"
    assert "seccomp" in unprivileged.why_no_user_ns(errno.EPERM)


def test_apparmor_takes_the_privilege_and_not_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ubuntu 24.04 does: the namespace is made, and what root of it then does is refused."""
    monkeypatch.setattr(unprivileged, "text", lambda path: "1" if "apparmor" in path else "")
    monkeypatch.setattr(unprivileged.os, "geteuid", lambda: 1000)
    assert "AppArmor" in unprivileged.why_powerless(errno.EPERM) and unprivileged.why_powerless(errno.ENOENT) == ""
    monkeypatch.setattr(unprivileged.os, "geteuid", lambda: 0)
    assert unprivileged.why_powerless(errno.EPERM) == ""


def test_a_helper_without_its_right(tmp_path: Path) -> None:
    path = tmp_path / "newuidmap"
    path.touch(mode=0o755)
    assert f"chmod u+s {path}" in unprivileged.why_helper_is_powerless(str(path))
    os.chmod(path, 0o4755)
    is_roots = path.stat().st_uid == 0
    assert (unprivileged.why_helper_is_powerless(str(path)) == "") == is_roots
