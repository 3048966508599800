"""Modules are called by what they are about, say so in a docstring, and nothing names the place where it was written."""

from __future__ import annotations

import ast
import re
import subprocess

import tree

BANNED = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "manager", "types", "lib", "shared"}


def test_module_names() -> None:
    assert not [name for name in tree.modules() if BANNED & set(name.split("."))]


def test_every_module_opens_with_a_docstring() -> None:
    wrong = []
    for top in ("runtime", "shim", "specs", "conformance", "examples", "tests"):
        for path in sorted((tree.ROOT / top).rglob("*.py")):
            if path.read_text().strip() and not tree.is_generated(path) and not ast.get_docstring(tree.parse(path)):
                wrong.append(tree.shown(path))
    assert not wrong, "no docstring: " + ", ".join(wrong)


def test_every_command_module_exports_run() -> None:
    """A module of cli/ whose name is a command's has run(); the others are the machinery, named here."""
    machinery = {
        "__init__",
        "app",
        "argv",
        "bug",
        "context",
        "generate",
        "grammar",
        "matching",
        "options",
        "output",
        "timings",
    }
    wrong = []
    for path in sorted((tree.ROOT / "runtime/cli").glob("*.py")):
        functions = {node.name for node in tree.parse(path).body if isinstance(node, ast.FunctionDef)}
        if path.stem not in machinery and "run" not in functions:
            wrong.append(tree.shown(path))
    assert not wrong, "no run(): " + ", ".join(wrong)


def test_no_place_and_no_person() -> None:
    """No text of the repository holds a path of the machine it was written on, or a note without an owner."""
    banned = re.compile(r"/work/(main|shared)|/root/go|\bTODO\b(?!\(#\d+\))|\bFIXME\b|\bXXX\b(?!X)")
    command = ["git", "-C", str(tree.ROOT), "ls-files", "-co", "--exclude-standard"]
    if (tree.ROOT / ".git").exists():
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    else:  # an unpacked source archive
        found = (path.relative_to(tree.ROOT) for path in tree.ROOT.rglob("*"))
        names = [
            str(path) for path in found if path.parts[0] not in ("build", "dist") and "__pycache__" not in path.parts
        ]
    wrong = []
    for name in names:
        path = tree.ROOT / name
        if not name or not path.is_file() or path.samefile(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if banned.search(line):
                wrong.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)
