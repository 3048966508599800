"""The lines of ps that are about a container."""

from __future__ import annotations

import pytest

from runtime.cli import ps
from runtime.errors import UsageError

TABLE = """\
UID          PID    PPID  C STIME TTY          TIME CMD
root           1       0  0 10:00 ?        00:00:01 /sbin/init
root          12       1  0 10:00 ?        00:00:00 sleep 1
root         120       1  0 10:00 ?        00:00:00 sleep 12
"""


def test_only_the_processes_of_the_container() -> None:
    lines = ps.filtered(TABLE, [12]).splitlines()
    assert [line.split()[1] for line in lines] == ["PID", "12"]


def test_the_column_is_found_by_its_title() -> None:
    assert ps.filtered("COMMAND PID\nx 1\ny 2\n", [2]) == "COMMAND PID\ny 2\n"


@pytest.mark.parametrize("text", ["", "COMMAND\nx\n"])
def test_no_column_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="PID"):
        ps.filtered(text, [1])


def test_the_hosts_ps_is_run() -> None:
    assert "PID" in ps._ps(["-ef"]).splitlines()[0]
