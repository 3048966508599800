"""Every command and option that runc and crun print in their help is taken here, with a value where it takes one there.

Read from the programs themselves, Debian's and whatever newer ones are in PATH. What is not taken has a reason here.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from runtime.cli.grammar import COMMANDS
from runtime.cli.options import FLAG, GLOBAL, HELP

pytestmark = pytest.mark.requires("runc")

PEERS = ("runc", "crun")
#: option -> why it is not taken
NOT_TAKEN = {
    "usage": "the short help of glibc's argp, of which there is no second kind here",
    "V": "a second letter for --version that crun has and runc has not; -v is",
    "?": "argp's letter for help, which runc does not know: --help and -h are",
}
#: command -> why there is none
NO_COMMAND = {
    "help": "help COMMAND is --help: test_help.py",
    "h": "help COMMAND is --help: test_help.py",
}
#: (peer, command, option) -> why it takes a value there and none here, or the other way round
OTHERWISE = dict.fromkeys(
    (("crun", "exec", "tty"), ("crun", "exec", "t")),
    "the value is optional there: --tty=false is taken, as of every flag, and the word after --tty is the id with crun too",
)


def help_of(peer, *words):
    done = subprocess.run(
        [shutil.which(peer, path="/usr/sbin:/usr/bin:/sbin:/bin"), *words, "--help"], capture_output=True, text=True
    )
    return done.stdout


def commands(peer):
    text = help_of(peer).partition("COMMANDS:")[2].partition("\n\n")[0]
    heads = [re.split(r" - |\s{2,}", line.strip())[0] for line in text.splitlines() if line.strip()]
    return [name.strip() for head in heads for name in head.split(",")]


def options(peer, command):
    """Every option by its names: whether it takes a value."""
    text = help_of(peer, *([command] if command else []))
    if peer == "runc":
        text = text.partition("OPTIONS:")[2]
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s+((?:-{1,2}[\w?-]+(?:\[?[= ][\w\[\]=.:]+)?,? ?)+)(?:\s|$)", line)
        if not match:
            continue
        head = re.split(r"\s{2,}", line.strip())[0]
        names = re.findall(r"(?<![\w-])--?([\w?][\w-]*)", head)
        takes = bool(re.search(r" value\b|=", head))
        for name in names:
            found[name] = takes
    return found


def ours(command):
    rows = (*COMMANDS[command][2], HELP) if command else GLOBAL
    return {name: row[1] != FLAG for row in rows for name in row[0]}


CASES = [
    (peer, command)
    for peer in PEERS
    if shutil.which(peer, path="/usr/sbin:/usr/bin:/sbin:/bin")
    for command in ["", *commands(peer)]
]


@pytest.mark.parametrize("peer, command", CASES, ids=[f"{peer}-{command or 'global'}" for peer, command in CASES])
def test_words(peer, command):
    if command in NO_COMMAND:
        assert command not in COMMANDS, f"{command} is built: take it off the list"
        return
    assert not command or command in COMMANDS
    theirs, known = options(peer, command), ours(command)
    assert theirs or "OPTIONS" not in help_of(peer, command), "the help of the peer is laid out otherwise"
    missing = [name for name in theirs if name not in known and name not in NOT_TAKEN]
    assert missing == []
    other = [name for name in theirs if name in known and theirs[name] != known[name]]
    assert [name for name in other if (peer, command, name) not in OTHERWISE] == []


def test_enough_was_read():
    """So that a help page of another layout is no silent pass."""
    read = {peer: [command for name, command in CASES if name == peer] for peer in PEERS}
    assert {"create", "exec", "update", "checkpoint", "events", "features", "ps"} <= set(read["runc"])
    assert {"create", "exec", "update", "delete", "kill", "ps", "spec"} <= set(read["crun"])
    exec_ = options("runc", "exec")
    assert (exec_["cwd"], exec_["t"], exec_["additional-gids"], exec_["env"]) == (True, False, True, True)
    assert {"regex", "r", "force"} <= set(options("crun", "delete"))


def test_reasons_are_needed():
    """A reason for what nobody has any more is taken away."""
    for peer, command, name in OTHERWISE:
        assert options(peer, command)[name] != ours(command)[name]
    assert set(NOT_TAKEN) <= {name for peer, command in CASES for name in options(peer, command)}
