"""`exec`, `ps` and `kill --all` mean what they mean to runc: the same words to both, on containers of one configuration."""

from __future__ import annotations

import shutil
import subprocess

import pytest

pytestmark = [pytest.mark.requires("root", "runc"), pytest.mark.differs("it is the peer that is asked here")]

#: words after the command and the id -> what is compared besides the status: how many lines come out, or all that does
WORDS = (
    (("exec",), ("/bin/sh", "-c", "exit 3"), "out"),
    (("exec",), ("/bin/sh", "-c", "kill -9 $$"), "out"),
    (("exec",), ("/no/such/program",), "out"),
    (("exec",), ("/bin/sh", "-c", "echo $0 $#; id -u; pwd; umask"), "out"),
    (
        ("exec", "--cwd", "/etc", "--user", "7:8", "--env", "A=b"),
        ("/bin/sh", "-c", "pwd; id -u; id -g; echo $A"),
        "out",
    ),
    (("exec", "--additional-gids", "9", "--user", "7"), ("/bin/sh", "-c", "id -G"), "out"),
    (("exec", "--cap", "CAP_SYS_TIME"), ("/bin/sh", "-c", "grep ^Cap /proc/self/status"), "out"),
    (("exec", "--no-new-privs"), ("/bin/sh", "-c", "grep NoNewPrivs /proc/self/status"), "out"),
    (("exec", "--user", "name"), ("/bin/true",), "out"),
    (("exec",), (), "out"),
    (("ps",), (), "lines"),
    (("ps",), ("-o", "pid,args"), "lines"),
    (("ps",), ("-e", "-o", "args"), "status"),
    (("ps", "--format", "xml"), (), "status"),
    (("kill",), ("NOSUCH",), "status"),
    (("kill",), ("0",), "status"),
    (("kill", "--all"), ("KILL",), "out"),
    (("kill", "--all"), ("KILL",), "out"),
    (("kill",), ("KILL",), "status"),
    (("exec",), ("/bin/true",), "out"),
    (("ps",), (), "status"),
    (("delete",), (), "out"),
    (("kill", "--all"), ("KILL",), "status"),
)


def answers(command, made, id_, ended):
    """What a runtime answers to all of it, in order, on a container with two processes of which init is one."""
    subprocess.run([*command, "run", "-d", "-b", made.path, id_], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    found = []
    for before, after, what in WORDS:
        done = subprocess.run([*command, *before, id_, *after], capture_output=True, text=True, timeout=60)
        told = {"out": done.stdout, "lines": str(done.stdout.count("\n")), "status": ""}[what]
        found.append((" ".join((*before, "ID", *after)), done.returncode, told))
        if before == ("kill", "--all"):
            ended(command, id_)
    return found


def test_exec_ps_and_kill_all(pyrunc, make, until, scratch):
    def ended(command, id_):
        def check():
            done = subprocess.run([*command, "state", id_], capture_output=True, text=True)
            return done.returncode or '"stopped"' in done.stdout

        until(check, "the container has stopped")

    runc = [shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin:/bin"), "--root", str(scratch / "runc")]
    found = [
        answers(command, make(None, "/bin/sh", "-c", "sleep 1000 & sleep 1000"), pyrunc.id(), ended)
        for command in (pyrunc.argv(), runc)
    ]
    different = {ours[0]: (ours[1], theirs[1]) for ours, theirs in zip(*found, strict=True) if ours != theirs}
    assert different == {}
