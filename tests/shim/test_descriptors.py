"""Descriptors: what comes with a message, and the end of what nobody asked for."""

from __future__ import annotations

import os
import resource

import pytest

from shim import descriptors


def test_close_from_goes_no_further_than_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a service may be a thousand million, and without close_range(2) each number is a call."""
    seen: list[tuple[int, int]] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.dup2(0, min(soft, 700) - 1)
    monkeypatch.setattr(os, "closerange", lambda low, high: seen.append((low, high)))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        descriptors.close_from(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(fd)
    assert seen == [(5, fd + 1)]


@pytest.mark.parametrize("is_said", [True, False])
def test_close_from_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, is_said: bool) -> None:
    def listdir(path: str) -> list[str]:
        if is_said:
            raise FileNotFoundError(2, "No such file or directory", path)
        return []  # readdir(3) of what getdents64(2) has no entries of

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(os, "closerange", lambda low, high: seen.append((low, high)))
    descriptors.close_from(5)
    assert seen == [(5, os.sysconf("SC_OPEN_MAX") + 1)]


def test_close_from_leaves_what_is_below() -> None:
    child = os.fork()
    if child == 0:
        low = os.dup2(0, 30)
        highs = [os.dup2(0, number) for number in (31, 32, 90)]
        descriptors.close_from(31)
        kept = {int(name) for name in os.listdir("/proc/self/fd")}
        os._exit(int(not (low in kept and not set(highs[1:]) & kept)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
