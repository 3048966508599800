"""The fast reader: what it reads as Go would, and what it leaves to click."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cli import argv


def read(line: str) -> argv.Args:
    args = argv.read(line.split())
    assert args is not None, f"not understood: {line}"
    return args


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("state web", {"command": "state", "id": "web", "root": "", "log_format": "text", "debug": False}),
        # go-runc's order of global options
        (
            "--root /r --debug --log /l --log-format json --systemd-cgroup --rootless=true kill --all web 9",
            {
                "root": "/r",
                "debug": True,
                "log": "/l",
                "log_format": "json",
                "systemd_cgroup": True,
                "rootless": "true",
                "command": "kill",
                "all": True,
                "id": "web",
                "signal": "9",
            },
        ),  # fmt: skip
        ("--root=/r --cgroup-manager disabled start web", {"root": "/r", "cgroup_manager": "disabled", "id": "web"}),
        # one dash or two, as Go's flag package has it
        ("run -no-subreaper -bundle /b web", {"no_subreaper": True, "bundle": "/b", "id": "web"}),
        ("run --b /b --d web", {"bundle": "/b", "detach": True}),
        ("create web", {"bundle": ".", "pid_file": "", "preserve_fds": 0, "no_pivot": False}),
        # a value may look like an option
        ("create --pid-file -x -b --root web", {"pid_file": "-x", "bundle": "--root", "id": "web"}),
        ("create --pid-file= web", {"pid_file": ""}),
        ("create --pid-file=a=b web", {"pid_file": "a=b"}),
        ("create --preserve-fds 3 web", {"preserve_fds": 3}),
        ("run --detach=false --keep=T web", {"detach": False, "keep": True}),
        ("run -d --detach=0 web", {"detach": False}),
        ("create -b /a -b /b web", {"bundle": "/b"}),
        # options after the id, as runc takes them
        ("delete web --force", {"id": "web", "force": True}),
        ("delete -- -web", {"id": "-web", "force": False}),
        ("kill web", {"signal": ""}),
        ("kill web KILL", {"signal": "KILL"}),
        # after the id of exec and ps everything is somebody else's
        ("exec -t web ls -l --all", {"tty": True, "id": "web", "args": ["ls", "-l", "--all"]}),
        ("exec web -- ls", {"args": ["--", "ls"]}),
        ("exec -- web ls", {"id": "web", "args": ["ls"]}),
        (
            "exec -e A=1 --env B=2 -g 1 -c kill web x",
            {"env": ["A=1", "B=2"], "additional_gids": ["1"], "cap": ["kill"]},
        ),
        (
            "exec --process /p --detach --pid-file /f web",
            {"process": "/p", "detach": True, "pid_file": "/f", "args": []},
        ),
        ("ps --format json web", {"format": "json", "id": "web", "options": []}),
        ("ps web -ef", {"format": "table", "options": ["-ef"]}),
        ("ps web -f json", {"format": "table", "options": ["-f", "json"]}),
        ("list -q", {"command": "list", "quiet": True, "format": "table"}),
        ("plan", {"bundle": "", "json": False}),
        ("plan --json /b", {"bundle": "/b", "json": True}),
        ("validate /b --json --strict", {"bundle": "/b", "json": True, "strict": True}),
        # the command's own option hides the global one
        ("--rootless true spec", {"rootless": False}),
        ("spec --rootless", {"rootless": True}),
        ("--version", {"command": "version"}),
        ("-v state", {"command": "version"}),
    ],
)
def test_read(line: str, wanted: dict[str, Any]) -> None:
    args = read(line)
    assert {name: getattr(args, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    "line",
    [
        "", "--help", "-h", "--version --help", "state", "state a b", "list a", "nosuch", "nosuch web", "nosuch --help",
        "state --help", "create -h web", "state --root /r web", "--nosuch state web", "state --nosuch web",
        "run -dt web", "create -b/x web", "create --bundel /x web", "create --pid-file", "create --no-pivot=maybe web",
        "create --no-pivot=", "create --preserve-fds x web", "create --preserve-fds -1 web", "create --preserve-fds +1 web",
        "create --preserve-fds 1_0 web", "create --preserve-fds １ web", "create --preserve-fds= web",
        "create --preserve-fds 99999999999 web", "--rootless maybe state web", "--log-format xml state web", "kill web -9",
        "list --format=yaml", "exec", "---x state web", "-- --root state",
    ],
)  # fmt: skip
def test_what_is_left_to_click(line: str) -> None:
    assert argv.read(line.split()) is None


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("word", ["true", "T", "1", "TRUE", "True", "t", "false", "F", "0", "FALSE", "False", "f"])
def test_a_flag_takes_gos_booleans(dash: str, word: str) -> None:
    assert read(f"delete {dash}force={word} web").force is (word[0] in "tT1")


def test_an_empty_word_is_a_word() -> None:
    args = argv.read(["state", ""])
    assert args is not None and args.id == ""


def test_a_lone_dash_is_a_word() -> None:
    assert read("state -").id == "-"


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("5s", 5.0),
        ("1m30s", 90.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("2us", 2e-6),
        ("3µs", 3e-6),
        ("7ns", 7e-9),
    ],
)
def test_a_duration(word: str, wanted: float) -> None:
    assert argv.seconds(word) == pytest.approx(wanted)


@pytest.mark.parametrize("word", ["", "5", "s", ".s", "1.2.3s", "5 s", "-5s", "5x", "5sm", "1d", "５s"])
def test_no_duration(word: str) -> None:
    assert argv.seconds(word) is None


def test_what_can_be_read_of_global_options() -> None:
    found = argv.global_options(["--log", "/l", "--log-format", "json", "--nosuch", "state"])
    assert (found["log"], found["log_format"], found["root"]) == ("/l", "json", "")
