"""Which component of a path is at fault, on the real file system, without following links of a rootfs."""

from __future__ import annotations

import os
from errno import EEXIST, ELOOP, ENOENT, ENOEXEC, ENOTDIR
from pathlib import Path

import pytest

from runtime import refusals


@pytest.fixture
def tree(tmp_path: Path) -> str:
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/file").write_text("")
    os.symlink("dir", tmp_path / "link")
    os.symlink("/nowhere/at/all", tmp_path / "dangling")
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("path", "errno", "expected"),
    [
        ("/dir/no/such", ENOENT, "there is no {}/dir/no"),
        ("/dir/sub", ENOENT, ""),
        ("/dir/file/x", ENOTDIR, "{}/dir/file is a file"),
        ("/link/file/x", ENOTDIR, "{}/link/file is a file"),
        ("/fifo/x", ENOTDIR, "{}/fifo is a FIFO"),
        ("/dir/file", ENOTDIR, ""),
        ("/dangling", ENOENT, "{}/dangling is a symbolic link to /nowhere/at/all, which leads nowhere"),
        ("/link", ELOOP, "{}/link is a symbolic link to dir"),
        ("/dir", EEXIST, "{}/dir is a directory"),
    ],
)
def test_on_the_host(tree: str, path: str, errno: int, expected: str) -> None:
    assert refusals.component(tree + path, errno) == expected.format(tree)


def test_in_a_rootfs_the_paths_are_the_containers(tree: str) -> None:
    assert refusals.component("/dir/file/x", ENOTDIR, tree) == "/dir/file is a file"
    assert refusals.component("/dir/file", ENOTDIR, tree, is_directory=True) == "/dir/file is a file"
    assert refusals.component("/dir/no", ENOENT, tree) == "there is no /dir/no"


def test_no_link_of_a_rootfs_is_followed(tree: str) -> None:
    os.symlink("/etc/passwd", f"{tree}/out")
    assert refusals.component("/out/x", ENOTDIR, tree) == ""
    assert refusals.component("/link/file/x", ENOTDIR, tree) == ""
    os.symlink("/bin/sh", f"{tree}/program")
    assert refusals.of_program(tree, "/program", ENOENT) == ""


def test_the_program_is_looked_at_inside_the_rootfs(tree: str) -> None:
    """A link on the way, or `..`, could lead to a device of the host's, and to open one does something to it."""
    (outside := Path(tree, "dir/sub")).joinpath("program").write_bytes(b"text")
    root = Path(tree, "rootfs")
    (root / "bin").mkdir(parents=True)
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../dir/sub")
    (root / "bin/program").symlink_to(outside / "program")
    os.mkfifo(root / "bin/fifo")
    for path in (
        "/absolute/program",
        "/relative/program",
        "/bin/program",
        "/bin/../../dir/sub/program",
        "/bin/fifo",
        "/bin",
    ):
        assert refusals.of_program(str(root), path, ENOEXEC) == "", path
    (root / "bin/own").write_bytes(b"text")
    assert refusals.of_program(str(root), "/bin/own", ENOEXEC)


@pytest.mark.parametrize(
    ("head", "errno", "expected"),
    [
        (b"#!/no/sh -e\n", ENOENT, "its interpreter /no/sh is not there"),
        (b"\x7fELF", ENOENT, "its dynamic linker is not there"),
        (b"\x7fELF", 8, "it is made for another processor, or damaged"),
        (b"text", 8, "it is neither an ELF file nor a script that begins with #! and its interpreter"),
        (b"#!/bin/sh\n", 8, ""),
        (b"#!\n", ENOENT, ""),
    ],
)
def test_why_a_program_is_not_executed(tree: str, head: bytes, errno: int, expected: str) -> None:
    Path(tree, "program").write_bytes(head)
    assert refusals.of_program(tree, "/program", errno) == expected
    assert refusals.of_program(tree, "/missing", errno) == ""
