"""What is said when a command fails, in the words that engines search for, and where it is said."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

UNKNOWN = ["state", "start", "kill", "delete", "pause", "resume", "ps"]


@pytest.mark.parametrize("command", UNKNOWN)
def test_an_unknown_container_does_not_exist(pyrunc, command: str) -> None:
    # containerd, podman and cri-o look for "does not exist"
    assert "does not exist" in pyrunc.fails(command, pyrunc.id("nosuch"))


def test_deleting_an_unknown_container_by_force_is_no_error(pyrunc) -> None:
    result = pyrunc("delete", "--force", pyrunc.id("nosuch"))
    assert (result.out, result.err) == ("", "")


def test_execs_own_failures_have_their_own_status(pyrunc) -> None:
    assert "does not exist" in pyrunc.fails("exec", pyrunc.id("nosuch"), "ls", status=255)
    pyrunc.fails("exec", pyrunc.id("nosuch"), status=255)  # no program
    pyrunc.fails("exec", "--process", "/nowhere/process.json", pyrunc.id("nosuch"), status=255)
    pyrunc.fails("exec", status=1)  # wrong words


@pytest.mark.parametrize("id_", ["", ".", "..", "a/b", "../x", "a b", "é", "a\nb", "a" * 1025, "x;y", "~"])
@pytest.mark.parametrize(
    "command", ["create", "run", "start", "state", "kill", "delete", "exec", "ps", "pause", "resume"]
)
def test_an_id_is_a_name_and_no_path(pyrunc, command: str, id_: str) -> None:
    words = ["--", id_] if command != "exec" else ["--", id_, "ls"]
    assert "container" in pyrunc.fails(command, *words, status=255 if command == "exec" else 1)
    assert not pyrunc.root.exists() or not [name for name in os.listdir(pyrunc.root) if not name.startswith(":")]


def test_an_unknown_id_may_not_be_forced_out_of_the_root(pyrunc, scratch: Path) -> None:
    (scratch / "precious").mkdir()
    pyrunc.fails("delete", "--force", "../precious")
    assert (scratch / "precious").is_dir()


def log_options(path: Path, *more: str) -> list[str]:
    return ["--log", str(path), "--log-format", "json", *more]


def test_the_json_log_has_one_object(pyrunc, scratch: Path) -> None:
    path = scratch / "log.json"
    err = pyrunc.fails(*log_options(path), "state", pyrunc.id("nosuch"))
    found = json.loads(path.read_text())
    assert found["level"] == "error"
    assert found["msg"] + "\n" == err
    assert found["time"][-1] == "Z"


def test_the_log_is_appended_to(pyrunc, scratch: Path) -> None:
    path = scratch / "log.json"
    for name in ("a", "b"):
        pyrunc.fails(*log_options(path), "state", pyrunc.id(name))
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["msg"] != second["msg"]


def test_the_text_log(pyrunc, scratch: Path) -> None:
    path = scratch / "log"
    pyrunc.fails("--log", path, "state", pyrunc.id("nosuch"))
    assert path.read_text().startswith('time="') and " level=error msg=" in path.read_text()


def test_success_logs_nothing_and_prints_nothing_on_stderr(pyrunc, scratch: Path) -> None:
    path = scratch / "log.json"
    result = pyrunc(*log_options(path), "list")
    assert result.err == "" and not path.exists()


def test_debug_adds_lines_before_the_error(pyrunc, scratch: Path) -> None:
    path = scratch / "log.json"
    pyrunc.fails(*log_options(path, "--debug"), "state", pyrunc.id("nosuch"))
    levels = [json.loads(line)["level"] for line in path.read_text().splitlines()]
    assert levels[0] == "debug" and levels[-1] == "error" and levels.count("error") == 1


def test_a_log_that_cannot_be_written_does_not_hide_the_error(pyrunc) -> None:
    err = pyrunc.fails("--log", "/nowhere/log", "state", pyrunc.id("nosuch"))
    assert "does not exist" in err.splitlines()[0] and "/nowhere/log" in err.splitlines()[1]


def test_a_missing_bundle(pyrunc) -> None:
    err = pyrunc.fails("create", "-b", "/nowhere", pyrunc.id())
    assert "/nowhere" in err and "does not exist" in err
    assert not pyrunc.exists(pyrunc.id())


def test_a_missing_program(pyrunc, bundle) -> None:
    for name, words, text in (
        ("a", ["nosuch"], 'exec: "nosuch": executable file not found in $PATH'),
        ("b", ["/nosuch"], 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        ("c", ["/etc"], "is a directory|permission denied"),
        ("d", ["/etc/passwd"], "permission denied"),
    ):
        made = bundle(*words)
        (made.rootfs / "etc").mkdir(exist_ok=True)
        (made.rootfs / "etc/passwd").write_text("")
        path = made.path / "log.json"
        err = pyrunc.fails(*log_options(path), "create", "-b", made, pyrunc.id(name))
        assert any(part in err for part in text.split("|")), err
        assert json.loads(path.read_text())["msg"] == err.splitlines()[0]
        assert not pyrunc.exists(pyrunc.id(name))


@pytest.mark.parametrize("signal", ["65", "-1", "NOSUCH", "9x"])
def test_an_unknown_signal(pyrunc, signal: str) -> None:
    assert "signal" in pyrunc.fails("kill", "--", pyrunc.id("nosuch"), signal)


def test_nobody_reads_the_output(pyrunc) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = pyrunc("features", status=141, stdout=writing)
    os.close(writing)
    assert result.err == ""


def test_the_output_cannot_be_written(pyrunc) -> None:
    with open("/dev/full", "wb") as full:
        result = pyrunc("list", status=1, stdout=full)
    assert "no space left on device" in result.err


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_stdio_is_no_file_of_ours(pyrunc, scratch: Path, closed: str) -> None:
    path = scratch / "log.json"
    words = pyrunc.argv(*log_options(path), "state", pyrunc.id("nosuch"))
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], env=pyrunc.env)
    assert done.returncode == 1
    assert "does not exist" in json.loads(path.read_text())["msg"]


def test_descriptors_to_preserve_must_be_the_callers(pyrunc, bundle) -> None:
    # a descriptor of ours that took the place would be a way into the host
    made = bundle("/bin/sh", "-c", "ls /proc/self/fd")
    for command in (["create"], ["run"]):
        assert "descriptor 3" in pyrunc.fails(*command, "--preserve-fds", "1", "-b", made, pyrunc.id())


def test_exec_preserves_only_the_callers_descriptors(pyrunc, bundle) -> None:
    made = bundle("/bin/sleep", "100")
    pyrunc("run", "-d", "-b", made, pyrunc.id())
    assert "descriptor 3" in pyrunc.fails("exec", "--preserve-fds", "1", pyrunc.id(), "ls", status=255)
    pid = pyrunc.pid(pyrunc.id())
    pyrunc("delete", "-f", pyrunc.id())
    pyrunc.wait(pid)
