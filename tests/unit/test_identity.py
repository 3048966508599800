"""Which process is meant, and whether it is on its way out."""

from __future__ import annotations

import os
import subprocess

from runtime import identity


def test_who_is_on_his_way_out() -> None:
    child = subprocess.Popen(["sleep", "100"])
    assert not identity.is_exiting(os.getpid()) and not identity.is_exiting(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
    assert identity.is_exiting(child.pid)
    child.wait()
    assert identity.is_exiting(child.pid)


def test_a_name_with_parentheses() -> None:
    child = subprocess.Popen(["sh", "-c", "printf ') R 1 (' >/proc/self/comm; read x"], stdin=subprocess.PIPE)
    assert not identity.is_exiting(child.pid)
    child.communicate(b"\n")
