"""Whether the tests of attacks can fail: builds that are broken on purpose (teeth.toml), each of which must make its tests fail.

    make teeth               all of them, one after the other, in a copy of the tree (build/teeth)
    teeth.py T06 T13         those of some ids

A tooth replaces text in files of the copy, builds it, runs the tests that it names there, and is put back. Nothing of the tree itself
is changed. That every text to be replaced is still there, once, is checked by tests/house/test_attacks.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COPY = ROOT / "build/teeth"
#: enough for a race to be lost by whoever can lose it
STARTS = "80"
#: what works on a broken build too: one on which nothing does would fail every test, for no reason of ours
SOUND = ("cli/test_lifecycle.py::test_whole_life", "cli/test_exec.py::test_exit_status")


def attacks() -> dict[str, dict[str, Any]]:
    """attacks.toml: id -> what, tests."""
    return tomllib.loads((HERE / "attacks.toml").read_text())


def teeth() -> list[dict[str, Any]]:
    """teeth.toml: what is broken, how (file, old, new), and the tests that fail."""
    found: list[dict[str, Any]] = tomllib.loads((HERE / "teeth.toml").read_text())["tooth"]
    return found


def ids_of(tooth: dict[str, Any]) -> list[str]:
    """The attacks whose tests it makes fail."""
    red = {test.partition("[")[0] for test in tooth["red"]}
    return [key for key, attack in attacks().items() if red & set(attack.get("tests", ()))]


def broken(text: str, edit: dict[str, str]) -> str:
    """A file's text after an edit; the old text must be there, once."""
    if text.count(edit["old"]) != 1:
        raise ValueError(f"{edit['file']}: {text.count(edit['old'])} times, and not once: {edit['old']!r}")
    return text.replace(edit["old"], edit["new"])


def copy() -> None:
    """The tree as it is now, in build/teeth; what is the same already is left alone, so that little is built."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = [name for name in subprocess.check_output(words).decode().split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        source, target = ROOT / name, COPY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
            shutil.copymode(source, target)
    for path in [path for path in COPY.rglob("*.py") if "build" not in path.relative_to(COPY).parts]:
        if str(path.relative_to(COPY)) not in names:
            path.unlink()
    (COPY / "build").mkdir(exist_ok=True)
    if not (COPY / "build/venv").exists():
        (COPY / "build/venv").symlink_to(ROOT / "build/venv")


def build() -> None:
    done = subprocess.run(["make", "-C", COPY, "build"], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"the broken tree does not build:\n{done.stdout}{done.stderr}")


def run(tooth: dict[str, Any]) -> list[str]:
    """The tests of a tooth that do not fail."""
    words = [str(ROOT / "build/venv/bin/python"), "-m", "pytest", "-rfE", "--timeout=60"]
    command = [*words, *(f"tests/{test}" for test in (*SOUND, *tooth["red"]))]
    env = {**os.environ, "ATTACK_STARTS": STARTS}
    done = subprocess.run(command, cwd=COPY, env=env, capture_output=True, text=True, timeout=1200)
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.M)
    if not failed and " passed" not in done.stdout:
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    # what is found in every test at its end (tests/fixtures/sealed.py) says nothing of what it has done
    unsound = re.findall(r"^FAILED tests/(\S+)", done.stdout, re.M)
    sound = [test for test in SOUND if not any(name.startswith(test) for name in unsound)]
    if len(sound) < len(SOUND):
        return ["all of them, as nothing works at all"]
    return [test for test in tooth["red"] if not any(name.startswith(test) for name in failed)]


def bite(tooth: dict[str, Any]) -> list[str]:
    """Break the copy, build it, run the tests: those that do not fail."""
    kept: dict[Path, str] = {}
    try:
        for edit in tooth["edit"]:
            path = COPY / edit["file"]
            text = path.read_text()
            kept.setdefault(path, text)
            path.write_text(broken(text, edit))
        build()
        return run(tooth)
    finally:
        for path, text in kept.items():
            path.write_text(text)


def main(words: list[str]) -> int:
    wanted = [tooth for tooth in teeth() if not words or set(words) & set(ids_of(tooth))]
    copy()
    blunt = 0
    for tooth in wanted:
        green = bite(tooth)
        blunt += bool(green)
        verdict = f"GREEN, so they prove nothing: {', '.join(green)}" if green else "red"
        print(f"{' '.join(ids_of(tooth)):<16} {tooth['what']}: {verdict}", flush=True)
    print(f"{len(wanted)} broken builds, {blunt} not found out")
    return int(blunt > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
