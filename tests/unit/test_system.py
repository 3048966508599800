"""`runtime.system` is `os` where it has the same names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import system

WORDS = st.lists(st.sampled_from(["", "/", "//", ".", "..", "a", "bc", "a.b", "/x", "y/", "..."]), max_size=8).map(
    "".join
)


@given(WORDS)
def test_one_path(name: str) -> None:
    for function in ("split", "dirname", "basename", "isabs", "normpath", "abspath"):
        assert getattr(system.path, function)(name) == getattr(os.path, function)(name), function


@given(WORDS, st.lists(WORDS, max_size=3))
def test_join(first: str, more: list[str]) -> None:
    assert system.path.join(first, *more) == os.path.join(first, *more)


@pytest.mark.parametrize(
    "name", ["", "/", "/etc", "/etc/passwd", "/nonexistent", "/proc/self", "/proc/self/exe", "a\0b"]
)
def test_what_is_there(name: str) -> None:
    for function in ("exists", "isdir", "islink"):
        assert getattr(system.path, function)(name) == getattr(os.path, function)(name), function


def test_names_and_environment() -> None:
    for name in ("plain", "ü", "\udcff", b"bytes\xff"):
        assert system.fsencode(name) == os.fsencode(name)
        assert system.fsdecode(name) == os.fsdecode(name)
    for name in system.environ:
        if name in os.environ and not name.startswith("PYTEST"):
            assert system.environ[name] == os.environ[name]


def test_everything_that_hot_modules_use_is_there() -> None:
    import ast

    root = Path(system.__file__).parent
    used = set()
    for file in root.rglob("*.py"):
        text = file.read_text()
        if "system as os" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                    used.add(node.attr)
    assert used
    missing = {name for name in used if not hasattr(system, name)}
    assert not missing - {"PathLike"}
