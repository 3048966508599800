"""Hooks of the host: environment, descriptors, standard input, time limits, and what is left of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from runtime import hooks
from runtime.errors import HookError


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "hook.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_hook_gets_state_env_cwd_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hook = {
        "path": script(
            tmp_path, f"cat > {out}; env | sort >> {out}; pwd >> {out}; ls -l /proc/self/fd | wc -l >> {out}"
        ),
        "env": ["A=1", "B=x=y"],
    }
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    os.environ["LEAKED"] = "yes"
    hooks.run("prestart[0]", hook, b'{"id":"web"}\n', str(tmp_path))
    os.close(leak)
    lines = out.read_text().splitlines()
    assert json.loads(lines[0]) == {"id": "web"}
    assert "A=1" in lines and "B=x=y" in lines and str(tmp_path) in lines
    assert not any(line.startswith("LEAKED") for line in lines)
    assert int(lines[-1]) == 5  # a line that says "total", 0, 1, 2, and the one that ls has opened


def test_args_default_to_the_path(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = script(tmp_path, f'echo "$0" "$@" > {out}')
    hooks.run("prestart[0]", {"path": path, "args": ["name", "one", "two"]}, b"", "/")
    assert out.read_text().split()[1:] == ["one", "two"]


def test_a_failure_names_hook_status_and_output(tmp_path: Path) -> None:
    path = script(tmp_path, "echo this is why >&2; exit 3")
    with pytest.raises(HookError) as caught:
        hooks.run("createRuntime[1]", {"path": path}, b"", "/")
    assert str(caught.value) == f'createRuntime[1] {path}: exit status 3: "this is why"'


def test_a_missing_hook(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="no such file or directory"):
        hooks.run("prestart[0]", {"path": "/nonexistent/hook"}, b"", "/")


def test_a_timeout_ends_the_whole_session(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    path = script(tmp_path, f"sleep 300 & echo $! > {mark}; sleep 300")
    before = time.monotonic()
    with pytest.raises(HookError, match="no end after 1 s"):
        hooks.run("prestart[0]", {"path": path, "timeout": 1}, b"", "/")
    assert time.monotonic() - before < 20
    pid = int(mark.read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < deadline


def test_a_limit_is_for_hooks_that_have_no_timeout(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="no end after 0.2 s"):
        hooks.run("poststop[0]", {"path": script(tmp_path, "exec sleep 300")}, b"", "/", limit=0.2)
    hooks.run("poststop[0]", {"path": script(tmp_path, "sleep 0.3"), "timeout": 60}, b"", "/", limit=0.2)


def test_a_child_that_holds_the_output_does_not_hold_us(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    path = script(tmp_path, f"sleep 300 & echo $! > {mark}")
    before = time.monotonic()
    hooks.run("prestart[0]", {"path": path, "timeout": 60}, b"", "/")
    assert time.monotonic() - before < 30
    os.kill(int(mark.read_text()), 9)


def test_a_hook_that_does_not_read_its_state(tmp_path: Path) -> None:
    hooks.run("prestart[0]", {"path": "/bin/true"}, b"x" * 1_000_000, "/")


def test_a_flood_of_output_is_kept_small(tmp_path: Path) -> None:
    path = script(tmp_path, "head -c 50000000 /dev/zero | tr '\\0' x; exit 1")
    with pytest.raises(HookError) as caught:
        hooks.run("prestart[0]", {"path": path}, b"", "/")
    assert len(str(caught.value)) < 6000
