"""The small parts: versions, ranges of ids, ELF headers, processes, and how findings are shown."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import unprivileged
from runtime.cli import doctor
from runtime.doctor import (
    ERROR,
    NOTE,
    OK,
    SEVERITIES,
    WARNING,
    Finding,
    bundle,
    guarded,
    kernel,
    privileges,
    processes,
    programs,
    rootfs,
    worst,
)
from runtime.doctor.sleeping import Process, children, holders
from runtime.errors import Error, Unsupported
from runtime.host import Host


@pytest.mark.parametrize(
    ("release", "wanted"),
    [("6.18.44-cloud", (6, 18)), ("5.15.0", (5, 15)), ("5.4", (5, 4)), ("6.1+", (6, 1)), ("x", (0, 0)), ("6", (0, 0))],
)
def test_the_number_of_a_release(release: str, wanted: tuple[int, int]) -> None:
    assert kernel.number(release) == wanted


@pytest.mark.parametrize(("release", "severity"), [("5.14.9", ERROR), ("5.15.0", OK), ("10.0", OK)])
def test_an_old_kernel_is_an_error(release: str, severity: str) -> None:
    assert kernel._version(Host.from_facts({"kernel": release, "machine": "x"})).severity == severity


def test_ranges_of_ids_by_name_and_by_number(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("root:100000:65536\nother:1:2\n0:500000:10\nroot:x:1\nbroken\n")
    assert unprivileged.ranges(str(path), 0) == [(100000, 65536), (500000, 10)]
    assert unprivileged.ranges(str(tmp_path / "nosuch"), 0) == []


def test_capabilities_that_are_missing() -> None:
    host = Host.from_facts(
        {"capabilities": ((1 << 41) - 1) & ~(1 << 24) & ~(1 << 21), "last_cap": 40, "in_user_ns": False}
    )
    assert privileges.missing(host) == ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    found = {finding.id: finding.severity for finding in privileges._capabilities(host)}
    assert found == {"privileges.sys-admin": ERROR, "privileges.sys-resource": NOTE}


# -- programs in a root file system --------------------------------------------------------------------------------------

X86 = Host.from_facts({"machine": "x86_64"})


def elf(machine: int = 62, interpreter: str = "") -> bytes:
    """The beginning of a 64-bit little-endian program (elf(5))."""
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    name = interpreter.encode() + b"\0"
    kind = 3 if interpreter else 1
    return head + struct.pack("<IIQQQQQQ", kind, 4, 120, 0, 0, len(name), len(name), 1) + name


@pytest.fixture
def root(tmp_path: Path) -> rootfs.Root:
    for name, data in {
        "static": elf(),
        "dynamic": elf(interpreter="/lib64/ld.so"),
        "whole": elf(interpreter="/ld"),
        "foreign": elf(183),
        "script": b"#! /bin/nosuch -x\n",
        "good": b"#!/ld\n",
        "empty-line": b"#!\n",
        "garbage": b"hello",
        "ld": elf(),
    }.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "data").write_bytes(elf())
    (tmp_path / "outside").symlink_to("/" + "../" * 20 + sys.executable)
    os.mkfifo(tmp_path / "fifo", 0o755)
    return rootfs.Root(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/static", ""),
        ("/whole", ""),
        ("/good", ""),
        ("/dynamic", "needs the dynamic loader /lib64/ld.so"),
        ("/foreign", "is for aarch64, and this is x86_64"),
        ("/script", "is a script for /bin/nosuch, which is not"),
        ("/empty-line", "names no interpreter"),
        ("/garbage", "neither a program of Linux nor a script"),
        ("/data", "not a program"),
        ("/fifo", "not a program"),
        ("/nosuch", "is not there"),
        ("/static/x", "is not there"),
        ("/outside", "is not there"),
    ],
)
def test_what_keeps_a_program_from_running(root: rootfs.Root, name: str, why: str) -> None:
    found = rootfs.runs(X86, root, name)
    assert why in found and bool(found) == bool(why)
    root.close()


def test_a_real_program_and_its_loader() -> None:
    """Of this machine: what runs here has nothing against it."""
    root = rootfs.Root("/")
    assert rootfs.runs(Host(), root, os.path.realpath(sys.executable)) == ""
    root.close()


# -- configurations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pointer", "wanted"),
    [
        ("/a", {"b": [1, {"c~/d": 2}]}),
        ("/b/0", {"a": 1, "b": [{"c~/d": 2}]}),
        ("/b/1/c~0~1d", {"a": 1, "b": [1, {}]}),
    ],
)
def test_a_field_is_taken_out(pointer: str, wanted: object) -> None:
    config = {"a": 1, "b": [1, {"c~/d": 2}]}
    assert bundle.without(config, pointer) == wanted
    assert config == {"a": 1, "b": [1, {"c~/d": 2}]}, "a copy"


def test_candidates_are_fields_that_are_there() -> None:
    config = {"linux": {"resources": {"memory": {}, "a/b": {}}, "seccomp": {"x": 1}}, "mounts": [1, 2], "process": {}}
    assert list(bundle._candidates(config)) == [
        "/linux/resources/memory", "/linux/resources/a~1b", "/linux/seccomp", "/mounts/0", "/mounts/1",
    ]  # fmt: skip


# -- processes -----------------------------------------------------------------------------------------------------------


def test_a_process_that_sleeps() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in children([os.getpid()])
        process = Process(child.pid)
        assert process.parent == os.getpid() and process.tracer == 0
        assert not process.is_stuck() and not process.handles(15)
        assert str(child.pid) in process.says()
    finally:
        child.kill()
        child.wait()
    assert Process(child.pid).says().endswith("is gone")


def test_who_holds_a_lock(tmp_path: Path) -> None:
    assert holders(str(tmp_path)) == []
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"\n"
    assert holders(str(tmp_path)) == [child.pid]
    child.communicate()
    assert holders(str(tmp_path)) == [] and holders("/nowhere") == []


def test_options_of_a_daemon() -> None:
    daemon = processes.Daemon(os.getpid())
    daemon.argv = [
        "dockerd",
        "--config-file",
        "d.json",
        "-H",
        "unix:///a",
        "--add-runtime=x=/y",
        "-H=unix:///b",
        "--debug",
    ]
    daemon.cwd = "/etc"
    assert daemon.option("config-file") == "d.json" and daemon.resolve("../d.json") == "/d.json"
    assert daemon.options("host", "H") == ["unix:///a", "unix:///b"]
    assert daemon.options("add-runtime") == ["x=/y"] and daemon.option("root") == ""


def test_an_answer_is_what_a_program_prints(tmp_path: Path) -> None:
    assert processes.answer(["/bin/echo", "x"]) == "x"
    assert processes.answer(["/bin/false"]) == "" and processes.answer(["/nowhere"]) == ""


# -- how they are shown --------------------------------------------------------------------------------------------------


def test_findings_are_shown_in_100_columns() -> None:
    found = [
        Finding(OK, "a.b", "what", "found " * 40),
        Finding(
            ERROR, "a." + "c" * 40, "what", "it \x1b[2J is " * 20, "do this " * 30 + '\n  paste = "me"\n    x\nor that'
        ),
        Finding(WARNING, "w", "/" + "long" * 50, "here"),
    ]
    lines = doctor.text(found).splitlines()
    assert [line for line in lines if len(line) > doctor.WIDTH] == [line for line in lines if "longlong" in line]
    assert not [line for line in lines if "\x1b" in line or line != line.rstrip()]
    assert '             paste = "me"'.strip() in [line.strip() for line in lines]
    assert lines[-1] == "1 error, 1 warning, 1 ok"
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip() in ('paste = "me"', "x")]
    assert indents[1] - indents[0] == 2, "what is to be pasted keeps its shape"


def test_the_worst_counts() -> None:
    for severity in SEVERITIES:
        assert worst([Finding(OK, "a", "b", "c"), Finding(severity, "a", "b", "c")]) == severity
    assert worst([]) == OK


@pytest.mark.parametrize(
    ("error", "severity"), [(Unsupported("no", "do"), ERROR), (PermissionError(13, "denied", "/x"), WARNING)]
)
def test_a_check_that_fails_is_a_finding(error: Exception, severity: str) -> None:
    def check():  # type: ignore[no-untyped-def]
        yield Finding(NOTE, "first", "b", "c")
        raise error

    found = list(guarded("name", check))
    assert [(finding.id, finding.severity) for finding in found] == [("first", NOTE), ("name", severity)]
    assert isinstance(error, Error) or "/x" in found[1].found


# -- CRIU ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "check", "others", "severity", "word"),
    [
        ("4.1.1", "echo Looks good.", ["iptables-restore"], OK, "content"),
        ("4.1.1", "echo Looks good.", [], WARNING, "iptables-restore, which is not installed"),
        ("4.1.1", "echo 'Error (x): too new'; exit 1", ["iptables-restore"], WARNING, "too new"),
        ("3.11", "exit 0", ["iptables-restore"], WARNING, "too old"),
    ],
)
def test_criu_is_asked_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    check: str,
    others: list[str],
    severity: str,
    word: str,
) -> None:
    for name in ("criu", *others):
        (tmp_path / name).touch(0o755)
    (tmp_path / "criu").write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "Version: {version}";; check) {check};; esac\n'
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(processes, "PATH", str(tmp_path))
    found = programs._criu(Host.from_facts({"euid": 0, "in_user_ns": False}))
    assert found.severity == severity and version in found.found and word in found.found
