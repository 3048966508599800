"""Numbers, sizes and resources documents that `update` makes of its options."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cli import argv, update
from runtime.errors import UsageError


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("0", 0), ("-1", -1), ("4096", 4096), ("64b", 64), ("1k", 1024), ("1KB", 1024), ("1KiB", 1024), ("64m", 64 << 20),
        ("1.5g", 3 << 29), ("2T", 2 << 40), ("2 GiB", 2 << 30),
    ],
)  # fmt: skip
def test_size(word: str, wanted: int) -> None:
    assert update.size(word, "memory") == wanted


@pytest.mark.parametrize("word", ["x", "-2", "1x", "m", ".", "1.2.3", "1mm", "1ibb", "１"])
def test_no_size(word: str) -> None:
    with pytest.raises(UsageError, match="--memory-swap"):
        update.size(word, "memory_swap")


@pytest.mark.parametrize("word", ["x", "-", "--1", "1.0", "+1", "1_0", "9" * 30])
def test_no_number(word: str) -> None:
    with pytest.raises(UsageError, match="--pids-limit"):
        update.number(word, "pids_limit")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], {}),
        (["--memory", "1k", "--memory-swap", "-1"], {"memory": {"limit": 1024, "swap": -1}}),
        (["--cpu-share=5"], {"cpu": {"shares": 5}}),
        (["--cpu-shares", "5", "--cpuset-cpus", "0-1"], {"cpu": {"shares": 5, "cpus": "0-1"}}),
        (["--pids-limit", "-1", "--blkio-weight", "10"], {"pids": {"limit": -1}, "blockIO": {"weight": 10}}),
        (["--kernel-memory", "5"], {}),
    ],
)
def test_resources(words: list[str], wanted: dict[str, Any]) -> None:
    args = argv.read(["update", *words, "web"])
    assert args is not None and update.resources(args) == wanted
