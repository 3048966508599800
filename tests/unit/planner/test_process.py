"""Settings of the process: what is refused, and what becomes bytes."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from runtime.errors import ConfigError, Unsupported
from runtime.planner.process import number_mask

from .conftest import found, lines, make_plan


@pytest.mark.parametrize(
    ("process", "why"),
    [
        ({"args": []}, r"process\.args: required"),
        ({"cwd": "relative"}, '"relative" is not an absolute path'),
        ({"user": {"uid": 4294967295, "gid": 0}}, "4294967295 is no id"),
        ({"user": {"uid": 0, "gid": -1}}, "-1 is no id"),
        ({"user": {"uid": 0, "gid": 0, "additionalGids": [5, 4294967295]}}, r"additionalGids\.1: 4294967295 is no id"),
        ({"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, 'no limit is called "RLIMIT_X"'),
        ({"scheduler": {"policy": "SCHED_X"}}, '"SCHED_X" is none of SCHED_OTHER'),
        ({"scheduler": {"policy": "SCHED_FIFO", "flags": ["X"]}}, '"X" is none of'),
        ({"ioPriority": {"class": "X"}}, '"X" is none of'),
    ],
)
def test_refused(process: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make_plan(process)


def test_names_need_a_namespace() -> None:
    for key in ("hostname", "domainname"):
        with pytest.raises(ConfigError, match="without a private UTS namespace"):
            make_plan(**{key: "x"})


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("0", 1),
        ("1-3", 0b1110),
        ("0-1,7", 0b10000011),
        ("5,5", 32),
        ("63", 1 << 63),
        ("64", 1 << 64),
        ("8191", 1 << 8191),
    ],
)
def test_lists_of_numbers(text: str, mask: int) -> None:
    blob = number_mask(text, "/x")
    assert int.from_bytes(blob, "little") == mask
    assert len(blob) % 8 == 0


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-2", "1,,2", "8192", "0-99999999999", "١"])
def test_no_lists_of_numbers(text: str) -> None:
    with pytest.raises(ConfigError):
        number_mask(text, "/x")


def test_scheduler_blob() -> None:
    wanted = {"policy": "SCHED_RR", "nice": -3, "priority": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    (op,) = found(make_plan({"scheduler": wanted}), "scheduler")
    assert struct.unpack("=IIQiIQQQ", op.s0) == (48, 2, 1, -3, 7, 0, 0, 0)


def test_memory_policy_counts_one_more_bit_than_it_reads() -> None:
    (op,) = found(make_plan(linux={"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "1"}}), "mempolicy")
    assert (op.a, op.b, op.s0) == (2, 65, (2).to_bytes(8, "little"))
    (op,) = found(make_plan(linux={"memoryPolicy": {"mode": "MPOL_DEFAULT"}}), "mempolicy")
    assert (op.a, op.b, op.s0) == (0, 0, b"")


def test_umask() -> None:
    assert lines(make_plan(), "umask") == ["umask 00", "umask 022"]
    assert lines(make_plan({"user": {"uid": 0, "gid": 0, "umask": 0}}), "umask") == ["umask 00", "umask 00"]


def test_lsm_that_the_host_lacks() -> None:
    with pytest.raises(Unsupported, match="apparmor: config provided but apparmor not supported"):
        make_plan({"apparmorProfile": "docker-default"})
    with pytest.raises(Unsupported, match="selinux label is specified in config"):
        make_plan({"selinuxLabel": "a:b:c"})
    # what is asked for is so already
    assert make_plan({"apparmorProfile": "unconfined"})


def test_proc_shows_only_processes_unless_parameters_are_to_be_set() -> None:
    assert "fsconfig fs subset=pid" in lines(make_plan())
    assert "fsconfig fs subset=pid" not in lines(make_plan(linux={"sysctl": {"net.x": "1"}}))


@pytest.mark.parametrize("key", ["net..core", "net.ipv4.", ".x", "/net/x", "net/../kernel/core_pattern"])
def test_no_kernel_parameters(key: str) -> None:
    with pytest.raises(ConfigError, match="names no kernel parameter"):
        make_plan(linux={"sysctl": {key: "1"}})


@pytest.mark.parametrize(
    ("kind", "path", "why"),
    [("maskedPaths", "proc/keys", "not an absolute path"), ("readonlyPaths", "", "not an absolute path")],
)
def test_paths(kind: str, path: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make_plan(linux={kind: [path]})


def test_sysctls_of_the_hosts_own_namespace_are_refused() -> None:
    linux = {
        "namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/1/ns/net"}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
    }
    host = {"own_namespaces": ["/proc/1/ns/net"]}
    with pytest.raises(ConfigError, match="not allowed in the host network namespace"):
        make_plan(linux=linux, facts=host)
    assert make_plan(linux=linux)
