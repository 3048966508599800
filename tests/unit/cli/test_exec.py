"""The process that `exec` builds from the container's own and the command's options."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.cli import argv, exec
from runtime.errors import UsageError

TEMPLATE: dict[str, Any] = {
    "terminal": True,
    "args": ["sleep", "1"],
    "cwd": "/work",
    "env": ["PATH=/bin"],
    "user": {"uid": 7, "gid": 8, "additionalGids": [9], "umask": 18},
    "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": [], "ambient": ["CAP_KILL"]},
    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    "noNewPrivileges": False,
}


def build(*words: str) -> dict[str, Any]:
    args = argv.read(["exec", *words, "web", "ls", "-l"])
    assert args is not None
    return exec.apply(TEMPLATE, exec.changes(args), args)


def test_only_the_program_and_the_terminal_differ() -> None:
    assert build() == {**TEMPLATE, "terminal": False, "args": ["ls", "-l"]}


def test_each_option() -> None:
    process = build(
        "-t", "--cwd", "/tmp", "-e", "A=1", "--env", "B=", "-u", "1:2", "-g", "3", "-g", "4", "--no-new-privs",
        "--process-label", "label", "--apparmor", "profile",
    )  # fmt: skip
    assert process["terminal"] is True
    assert process["cwd"] == "/tmp"
    assert process["env"] == ["PATH=/bin", "A=1", "B="]
    assert process["user"] == {"uid": 1, "gid": 2, "additionalGids": [9, 3, 4], "umask": 18}
    assert process["noNewPrivileges"] is True
    assert (process["selinuxLabel"], process["apparmorProfile"]) == ("label", "profile")
    assert TEMPLATE["user"]["additionalGids"] == [9], "the template is not changed"


def test_a_user_without_a_group_keeps_the_containers() -> None:
    assert build("-u", "1")["user"]["gid"] == 8


def test_capabilities_are_never_inheritable_or_ambient() -> None:
    sets = build("-c", "net_raw", "--cap", "CAP_CHOWN", "--cap", "kill")["capabilities"]
    wanted = ["CAP_KILL", "CAP_NET_RAW", "CAP_CHOWN"]
    assert sets["bounding"] == sets["effective"] == wanted
    assert sets["permitted"] == ["CAP_NET_RAW", "CAP_CHOWN", "CAP_KILL"]
    assert (sets["inheritable"], sets["ambient"]) == ([], ["CAP_KILL"])


@pytest.mark.parametrize(
    "word",
    [
        "", "1:", ":1", ":", "+1", " 1", "1 ", "1_0", "１", "0x1", "-1", "4294967295", "4294967296", "9223372036854775808", "1e3", "root",
        "1:2:3", "1:root", "1,2", "00000000001",
    ],
)  # fmt: skip
def test_a_user_is_a_number_in_range_or_an_error(word: str) -> None:
    with pytest.raises(UsageError, match="--user"):
        build("--user=" + word)


@pytest.mark.parametrize(("word", "uid"), [("0", 0), ("4294967294", 4294967294), ("0042", 42)])
def test_a_user_at_the_borders(word: str, uid: int) -> None:
    assert build("-u", word)["user"]["uid"] == uid


@pytest.mark.parametrize(
    "words",
    [
        ("-g", "-1"),
        ("-g", ""),
        ("-g", "users"),
        ("-e", "A"),
        ("-e", "=1"),
        ("-e", ""),
        ("-c", "nosuch"),
        ("-c", ""),
        ("--cwd", "tmp"),
    ],
)
def test_a_value_that_cannot_be_meant(words: tuple[str, str]) -> None:
    with pytest.raises(UsageError):
        build(*words)
