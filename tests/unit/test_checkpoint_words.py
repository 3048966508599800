"""What `checkpoint` and `restore` make of words, paths and configurations, without CRIU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import checkpoint, criu_process, external, restoring
from runtime.errors import KernelError, Unsupported, UsageError
from runtime.plan import PlanError, check
from runtime.planner import restorer


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("", None),
        ("127.0.0.1:27", ("127.0.0.1", 27)),
        ("host.name:65535", ("host.name", 65535)),
        ("[::1]:1234", ("::1", 1234)),
    ],
)
def test_page_server(word: str, found: tuple[str, int] | None) -> None:
    assert checkpoint.page_server(word) == found


@pytest.mark.parametrize(
    "word", ["host", ":27", "host:", "::1:27", "host:0", "host:65536", "host:-1", "host:+1", "host:１"]
)
def test_no_page_server(word: str) -> None:
    with pytest.raises(UsageError):
        checkpoint.page_server(word)


def test_the_configuration_file_of_criu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours, runc = tmp_path / "pyrunc.conf", tmp_path / "runc.conf"
    monkeypatch.setattr(checkpoint, "CONFIG_FILES", (str(ours), str(runc)))
    assert checkpoint.config_file({}) == ""
    runc.touch()
    assert checkpoint.config_file({"annotations": {"other": "x"}}) == str(runc)
    ours.touch()
    assert checkpoint.config_file({"annotations": None}) == str(ours)
    assert checkpoint.config_file({"annotations": {"org.criu.config": "/x"}}) == "/x"
    # empty means none at all
    assert checkpoint.config_file({"annotations": {"org.criu.config": ""}}) == ""


def test_criu_is_looked_for_in_absolute_directories_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("relative", "directory", "unexecutable", "good"):
        (tmp_path / folder).mkdir()
    (tmp_path / "directory/criu").mkdir()
    for folder in ("relative", "unexecutable", "good"):
        (tmp_path / folder / "criu").touch(0o755)
    (tmp_path / "unexecutable/criu").chmod(0o644)
    path = f"relative::{tmp_path}/missing:{tmp_path}/directory:{tmp_path}/unexecutable"
    monkeypatch.setitem(os.environ, "PATH", path)
    monkeypatch.setattr(criu_process.os, "environ", os.environ)
    with pytest.raises(criu_process.NotThere) as caught:
        criu_process.find()
    assert "criu" in caught.value.message and "install the package criu" in caught.value.hint
    os.environ["PATH"] += f":{tmp_path}/good/"
    assert criu_process.find() == f"{tmp_path}/good/criu"
    os.environ["PATH"] = ""
    assert "/usr/sbin" in criu_process.search_path().split(":")
    assert any(word.startswith("PATH=/") for word in criu_process.environment())


# -- mounts and namespaces of others -----------------------------------------------------------------------------------


def test_paths_of_mountinfo() -> None:
    assert external.unescaped(r"/a\040b\011c\134d") == "/a b\tc\\d"
    assert external.unescaped("/plain") == "/plain"
    point = external.Point(r"36 35 98:0 /root /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue")
    assert (point.id, point.device, point.place, point.kind) == ("36", "98:0", "/mnt 2", "ext3")
    assert external.points("self")["/proc"].kind == "proc"


def test_links_are_resolved_below_the_root_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "srv/data").mkdir(parents=True)
    (root / "absolute").symlink_to("/srv")
    (root / "relative").symlink_to("srv/data")
    (root / "out").symlink_to("../../../etc")
    (root / "loop").symlink_to("loop")
    found = {
        path: external.resolved(str(root), path)
        for path in ("/absolute/data", "/relative/x", "/out/passwd", "/a/../srv/./x")
    }
    assert found == {
        "/absolute/data": "/srv/data",
        "/relative/x": "/srv/data/x",
        "/out/passwd": "/etc/passwd",
        "/a/../srv/./x": "/srv/x",
    }
    assert external.resolved(str(root), "/loop") == ""


def namespaces(*entries: tuple[str, str]) -> dict[str, object]:
    return {"linux": {"namespaces": [{"type": kind, **({"path": path} if path else {})} for kind, path in entries]}}


def test_namespaces_by_path() -> None:
    own = "/proc/self/ns/net"
    config = namespaces(("mount", ""), ("network", own), ("ipc", "/proc/self/ns/ipc"))
    assert external.dumped_namespaces(config) == [f"net[{os.stat(own).st_ino}]:extRootNetNS"]
    assert external.restored_namespaces(config) == (
        [("extRootNetNS", own)],
        [{"ns": "ipc", "ns_file": "/proc/self/ns/ipc"}],
    )
    assert external.dumped_namespaces({}) == []
    with pytest.raises(KernelError, match="/nowhere"):
        external.dumped_namespaces(namespaces(("pid", "/nowhere")))
    for kind in ("cgroup", "mount", "time"):
        with pytest.raises(Unsupported, match=kind):
            external.restored_namespaces(namespaces((kind, "/x")))


def test_standard_descriptors() -> None:
    read_fd, write_fd = os.pipe()
    try:
        found = external.descriptors(os.getpid(), [os.getpid()])
        assert len(found) == 3 and all(found)
        assert external.is_passed(f"pipe:[{os.fstat(read_fd).st_ino}]") and external.is_passed("file[1b:1a2b]")
        assert not external.is_passed("/dev/null") and not external.is_passed("/a/pipe:[1]")
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_an_access_control_list_is_what_the_kernel_takes(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            os.chmod(fd, 0o700)
            os.setxattr(fd, "system.posix_acl_access", restoring._acl(0o700, 4711))
            assert os.fstat(fd).st_mode & 0o777 == 0o750  # the mask, which is what the group shows
            assert os.getxattr(fd, "system.posix_acl_access") == restoring._acl(0o700, 4711)
        finally:
            os.close(fd)
    assert len(restoring._acl(0o755, 1)) == 4 + 5 * 8


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_program_gets_what_is_named_and_nothing_else() -> None:
    names = ["socket", "extRootNetNS", "extRootPidNS"]
    plan = restorer.program("/sbin/criu", ["criu", "swrk", "5"], ["PATH=/x"], names)
    check(plan)
    assert [op.name for op in plan.ops] == ["close-range", "inherit", "inherit", "inherit", "exec"]
    assert restorer.numbers(names) == {"socket": 5, "extRootNetNS": 6, "extRootPidNS": 7}


def test_with_a_rootfs_it_has_mounts_of_its_own() -> None:
    plan = restorer.program(
        "/sbin/criu", ["criu"], [], ["socket"], "/b/rootfs", {"images_dir_fd": "/i"}, dies_with_us=True
    )
    check(plan)
    text = plan.text()
    assert (
        text.index("pdeathsig")
        < text.index("unshare")
        < text.index("move-mount")
        < text.index("open           host:/i")
    )
    assert "directory" in plan.sections["images_dir_fd"][0]


def test_nothing_is_inherited_by_a_program_of_the_container() -> None:
    from runtime.plan import Op

    plan = restorer.program("/sbin/criu", ["criu"], [], ["socket"])
    plan.ops.insert(0, Op("open", "/x", r0="rootfs"))
    plan.ops.insert(1, Op("chroot", r0="rootfs"))
    with pytest.raises(PlanError, match="open in the container"):
        check(plan)


def test_loopback() -> None:
    plan = restorer.loopback()
    check(plan)
    assert [op.name for op in plan.ops][:3] == ["setns", "link-up", "ask"]
