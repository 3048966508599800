"""The table of commands and options is well formed, and has what callers give."""

from __future__ import annotations

import re

import pytest

from runtime.cli import grammar, options
from runtime.cli.argv import attribute

EVERY = [("", option) for option in options.GLOBAL] + [
    (name, option) for name, command in grammar.COMMANDS.items() for option in command[2]
]


@pytest.mark.parametrize(
    ("command", "option"), EVERY, ids=lambda value: value if isinstance(value, str) else value[0][0]
)
def test_an_option_is_well_formed(command: str, option: options.Option) -> None:
    names, kind, default, metavar, text = option
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in names)
    assert len(names[0]) > 1, "the long name comes first"
    assert kind in (options.FLAG, options.TEXT, options.INT, options.DURATION, options.CHOICE, options.LIST)
    assert (kind == options.FLAG) == (metavar == "")
    assert text and text[-1] not in ".?!" and "\n" not in text
    if kind == options.FLAG:
        assert default is False
    if kind == options.CHOICE:
        assert default == "" or default in metavar.split("|")


@pytest.mark.parametrize("command", grammar.COMMANDS)
def test_a_command_has_no_name_twice(command: str) -> None:
    _, positionals, rows, _ = grammar.COMMANDS[command]
    names = [name for option in (*rows, options.HELP) for name in option[0]]
    assert len(names) == len(set(names))
    attributes = [attribute(option) for option in rows] + [positional[0] for positional in positionals]
    assert len(attributes) == len(set(attributes))
    assert "command" not in attributes, "taken by the command itself"


@pytest.mark.parametrize("command", grammar.COMMANDS)
def test_a_payload_comes_last_and_at_most_once(command: str) -> None:
    needs = [need for _, need, _ in grammar.COMMANDS[command][1]]
    assert options.PAYLOAD not in needs[:-1]
    assert needs == sorted(needs, key=(options.ONE, options.MAYBE, options.PAYLOAD).index)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("create", "bundle b console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds config f"),
        ("run", "bundle b console-socket pid-file no-pivot no-new-keyring preserve-fds detach d keep no-subreaper"),
        (
            "exec",
            "process p detach d pid-file console-socket pidfd-socket tty t cwd user u additional-gids g env e cap c no-new-privs "
            "process-label apparmor preserve-fds cgroup ignore-paused",
        ),
        ("kill", "all a regex r"),
        ("delete", "force f regex r"),
        (
            "checkpoint",
            "image-path work-path parent-path leave-running tcp-established tcp-skip-in-flight link-remap ext-unix-sk shell-job "
            "lazy-pages status-fd page-server file-locks pre-dump manage-cgroups-mode empty-ns auto-dedup network-lock tcp-close",
        ),
        (
            "restore",
            "bundle b image-path work-path pid-file console-socket detach d no-subreaper no-pivot tcp-established tcp-close "
            "ext-unix-sk shell-job file-locks manage-cgroups-mode empty-ns auto-dedup lazy-pages lsm-profile lsm-mount-context",
        ),
        ("events", "interval stats"),
        ("list", "format f quiet q"),
        ("ps", "format f"),
        ("spec", "bundle b rootless file f"),
        ("validate", "json strict"),
        ("plan", "json"),
        (
            "update",
            "resources r blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-shares cpu-rt-period cpu-rt-runtime cpu-idle "
            "cpuset-cpus cpuset-mems kernel-memory kernel-memory-tcp memory memory-reservation memory-swap pids-limit "
            "l3-cache-schema mem-bw-schema",
        ),
    ],
)
def test_the_options_of_runc_are_there(command: str, wanted: str) -> None:
    names = {name for option in grammar.COMMANDS[command][2] for name in option[0]}
    assert set(wanted.split()) <= names
