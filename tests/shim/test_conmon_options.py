"""The words of pyrunc-conmon, as GLib would read them; and the words that the runtime gets in turn."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conmon_caller import CONMON

from shim.conmon import runtime_call
from shim.conmon.options import TABLE, check, read
from shim.words import FLAG, BadOptions

PODMAN = (
    "--api-version 1 -c ID -u ID -r /usr/bin/runtime -b /bundle -p /pid -n web --exit-dir /exits --full-attach"
    " -l k8s-file:/log --log-level warning --runtime-arg --log-format=json --runtime-arg --log --runtime-arg=/oci-log"
    " -t --conmon-pidfile /conmon --exit-command /usr/bin/podman --exit-command-arg --root --exit-command-arg /x"
    " --exit-command-arg container --exit-command-arg cleanup --exit-command-arg ID"
).split()


def test_podmans_words() -> None:
    options = read(PODMAN)
    check(options)
    assert options.words == ["1"]
    assert options.runtime_arg == ["--log-format=json", "--log", "/oci-log"]
    assert options.exit_command_arg == ["--root", "/x", "container", "cleanup", "ID"]
    assert (options.terminal, options.stdin, options.full_attach, options.api_version) == (True, False, True, True)
    assert (options.log_size_max, options.timeout, options.socket_dir_path) == (-1, 0, "/var/run/crio")


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("-ti", "stdin", True),
        ("-ti", "terminal", True),
        ("-cID", "cid", "ID"),
        ("-tc ID", "cid", "ID"),
        ("--cid=A=B", "cid", "A=B"),
        ("--cid A --cid B", "cid", "B"),
        ("word --cid A other -i", "stdin", True),
        ("--cid --exec", "cid", "--exec"),
        ("-T 5", "timeout", 5),
        ("--log-size-max=-1", "log_size_max", -1),
        ("--pidfile /p", "container_pidfile", "/p"),
        ("--restore-arg a --runtime-opt b", "runtime_opt", ["a", "b"]),
        ("-0 /persist", "persist_dir", "/persist"),
        ("-- --cid A", "cid", ""),
        ("-l a -l b", "log_path", ["a", "b"]),
    ],
)
def test_ways_to_write_an_option(words: str, name: str, value: object) -> None:
    assert getattr(read(words.split()), name) == value


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--nosuch", 'unknown option "--nosuch"'),
        ("-tz", 'unknown option "-z"'),
        ("--terminal=yes", 'unknown option "--terminal=yes"'),
        ("--cid", 'option "--cid" needs a value'),
        ("-c", 'option "-c" needs a value'),
        ("--timeout=soon", 'option "--timeout": "soon" is no number'),
    ],
)
def test_words_that_mean_nothing(words: str, why: str) -> None:
    with pytest.raises(BadOptions, match=re.escape(why)):
        read(words.split())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("--restore /x --exec", "--exec and --restore exclude each other"),
        ("--exec-attach", "--exec-attach is for --exec only"),
        ("--exec", "no process to run: use --exec-process-spec"),
        ("--exit-delay -1", "--exit-delay: less than 0"),
        ("--log-rotate --log-max-files 0", "--log-max-files must be at least 1 with --log-rotate"),
        ("--seccomp-notify-socket /x", "--seccomp-notify-socket: not supported"),
    ],
)
def test_words_that_exclude_each_other(change: str, why: str) -> None:
    with pytest.raises(BadOptions, match=re.escape(why)):
        check(read(PODMAN + change.split()))


@pytest.mark.parametrize(
    ("left_out", "why"), [("-c", "--cid"), ("-u", "--cuuid"), ("-r", "--runtime"), ("-l", "--log-path")]
)
def test_words_that_must_be_there(left_out: str, why: str) -> None:
    at = PODMAN.index(left_out)
    with pytest.raises(BadOptions, match=re.escape(why)):
        check(read(PODMAN[:at] + PODMAN[at + 2 :]))


def test_the_old_exec_needs_no_uuid() -> None:
    check(read("-c ID -n web -r /runtime -p /pid -e -l /log --exec-process-spec /spec".split()))


def test_no_name_stands_for_two() -> None:
    names = [entry[0] for entry in TABLE] + [entry[1] for entry in TABLE if entry[1]]
    assert len(names) == len(set(names))


def test_every_option_of_the_peer_is_known() -> None:
    """conmon's own --help, where it is installed."""
    known = {f"--{entry[0]}" for entry in TABLE}
    ours = set(re.findall(r"--[a-z0-9-]+", run("--help").stdout))
    assert ours >= known
    try:
        theirs = subprocess.run(["/usr/bin/conmon", "--help"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return
    assert set(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", theirs, re.M)) <= known
    flags = {f"--{entry[0]}" for entry in TABLE if entry[2] == FLAG}
    assert "--api-version" in flags


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CONMON, *words], capture_output=True, text=True, timeout=60)


def test_version() -> None:
    said = run("--version")
    assert re.fullmatch(r"conmon version \d+\.\d+\.\d+\ncommit: \S+\n", said.stdout) and said.returncode == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--nosuch", "nosuch"),
        ("", "--cid"),
        ("-c x -u x -l none -r /nosuch", "/nosuch"),
        ("-c x -u x -r /bin/true -l nosuch:/x", "log driver"),
        ("-c x -u x -r /bin/true -l /nosuch/dir/log", "/nosuch/dir/log"),
        ("-c x -u x -r /bin/true -l none --log-level loud", "level"),
        ("-c x -u x -r /bin/true -l /dev/null --log-tag t", "--log-tag"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(words: str, why: str) -> None:
    said = run(*words.split())
    assert said.returncode == 1
    assert why in said.stderr and said.stderr.count("\n") == 1, said.stderr


# -- the runtime's words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "socket", "line"),
    [
        ("-b /b -p /p", "", "create --bundle /b --pid-file /p ID"),
        (
            "-b /b -p /p -t --no-pivot --no-new-keyring --runtime-opt --preserve-fds --runtime-opt 1",
            "/s",
            "create --bundle /b --pid-file /p --no-pivot --no-new-keyring --preserve-fds 1 --console-socket /s ID",
        ),
        (
            "-b /b -p /p --restore /c --runtime-opt --tcp-established",
            "",
            "restore --bundle /b --pid-file /p --detach --image-path /c --work-path /b --tcp-established ID",
        ),
        (
            "-p /p -e --exec-process-spec /spec --no-pivot --runtime-opt --tty",
            "/s",
            "exec --pid-file /p --process /spec --detach --tty --console-socket /s ID",
        ),
    ],
)
def test_the_runtimes_words(words: str, socket: str, line: str) -> None:
    """conmon's order (runtime_args.c), which recordings of real callers show."""
    assert runtime_call.words(read(["-c", "ID", *words.split()]), socket) == line.split()


def test_words_before_the_command() -> None:
    words = "-s --runtime-arg --root=/r --runtime-arg --log --runtime-arg /l".split()
    assert runtime_call.global_words(read(words)) == ["--systemd-cgroup", "--root=/r", "--log", "/l"]
    assert runtime_call.global_words(read([*words, "-e"])) == ["--root=/r", "--log", "/l"]


@pytest.mark.parametrize(
    ("words", "environment", "inherited", "passed"),
    [
        ("", {}, {3, 4}, []),
        ("--runtime-opt --preserve-fds --runtime-opt 2", {}, {3, 4, 9}, [3, 4]),
        ("--runtime-opt=--preserve-fds=1", {}, {3, 4}, [3]),
        ("--runtime-opt=--preserve-fds=1", {"LISTEN_FDS": "1"}, {3, 4, 5}, [3, 4]),
        ("--runtime-opt=--preserve-fds=3", {}, {3, 5}, [3]),
        ("", {"LISTEN_FDS": "x"}, {3}, []),
    ],
)
def test_descriptors_for_the_container(
    words: str, environment: dict[str, str], inherited: set[int], passed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runtime_call.passed_fds(read(words.split()), inherited) == passed


@pytest.mark.parametrize("program", [CONMON, CONMON.parents[1] / "lib/pyrunc/shim/pyrunc-conmon"], ids=["bin", "lib"])
def test_the_runtime_beside_us_is_ours(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the launcher behind front.c."""
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert runtime_call.is_ours(str(CONMON.parent / "pyrunc"))
    assert not runtime_call.is_ours("/bin/true") and not runtime_call.is_ours("/nosuch")
