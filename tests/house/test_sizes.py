"""Files up to 400 lines, functions up to 60; the C by the numbers of the house guide. A waiver has a reason."""

from __future__ import annotations

import ast

import tree

#: a suite is a list of small tests and read as one: it may be longer
FILE_LINES, SUITE_LINES, FUNCTION_LINES = 400, 700, 60

#: file -> (lines, reason)
FILES: dict[str, tuple[int, str]] = {
    "runtime/kernel/exec.c": (1000, "the interpreter: one switch, one short function per op, read as one text"),
    "runtime/kernel/launch.c": (250, "the extension half"),
    "runtime/kernel/init.c": (80, "_start"),
    "tests/fixtures/probe.c": (1200, "one static program that answers every question about a container"),
}

#: file:function -> (lines, reason)
FUNCTIONS: dict[str, tuple[int, str]] = {}

EVERYWHERE = ("runtime", "shim", "specs", "conformance", "examples", "tests")


def test_files() -> None:
    wrong = []
    for top in EVERYWHERE:
        for path in sorted((tree.ROOT / top).rglob("*")):
            if path.suffix not in (".py", ".c", ".h") or tree.is_generated(path):
                continue
            limit = SUITE_LINES if path.name.startswith("test_") else FILE_LINES
            limit = FILES.get(tree.shown(path), (limit, ""))[0]
            lines = len(path.read_text().splitlines())
            if lines > limit:
                wrong.append(f"{tree.shown(path)}: {lines} lines, {limit} allowed")
    assert not wrong, "\n".join(wrong)


def test_functions() -> None:
    wrong = []
    for top in EVERYWHERE:
        for path in sorted((tree.ROOT / top).rglob("*.py")):
            if tree.is_generated(path):
                continue
            for node in ast.walk(tree.parse(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    limit = FUNCTIONS.get(f"{tree.shown(path)}:{node.name}", (FUNCTION_LINES, ""))[0]
                    if lines > limit:
                        wrong.append(
                            f"{tree.shown(path)}:{node.lineno}: {node.name} has {lines} lines, {limit} allowed"
                        )
    assert not wrong, "\n".join(wrong)


def test_waivers_are_needed() -> None:
    """A waiver for what is short enough, or gone, is taken back."""
    for name in FILES:
        path = tree.ROOT / name
        if name.endswith(".py"):
            assert path.exists() and len(path.read_text().splitlines()) > FILE_LINES, f"{name} needs no waiver"
    for name in FUNCTIONS:
        file, function = name.split(":")
        found = [n for n in ast.walk(tree.parse(tree.ROOT / file)) if getattr(n, "name", "") == function]
        assert found, f"{name} is gone"
