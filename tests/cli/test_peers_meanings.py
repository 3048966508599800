"""The commands on a running container mean what they mean to runc and to crun: the same words to each, on containers of one configuration.

What they are told when a container is made, and what shows of it inside, is held against both by tests/differential.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

pytestmark = [pytest.mark.requires("root"), pytest.mark.differs("it is the peer that is asked here")]

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: crun takes a hybrid hierarchy whose cgroup2 has a controller for a pure one: its commands see none
WITHOUT_UNIFIED = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'test ! -d "$0" || umount "$0" && exec "$@"',
    "/sys/fs/cgroup/unified",
)

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
    (("pause",), (), "out"),
    (("exec",), ("/bin/echo", "x"), "out"),
    (("resume",), (), "out"),
    (("resume",), (), "status"),
    (("update", "--pids-limit", "77"), (), "out"),
    (("update", "--memory", "64m"), (), "out"),
    (("update", "--memory", "many"), (), "status"),
    (("start",), (), "status"),
    (("delete",), (), "status"),
    (("kill", "--all"), ("KILL",), "out"),
    (("kill", "--all"), ("KILL",), "out"),
    (("kill",), ("KILL",), "status"),
    (("exec",), ("/bin/true",), "out"),
    (("ps",), (), "status"),
    (("delete",), (), "out"),
    (("kill", "--all"), ("KILL",), "status"),
)


_STATUS = "1.8 has 1 for an exec that it cannot do, and as runc 255 since pull request 2245"
#: peer -> (its version, of which this is known; words as they are reported -> why it answers otherwise)
EXCEPTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "runc": ("1.1.5", {}),
    "crun": (
        "1.8.1",
        {
            "exec --additional-gids 9 --user 7 ID /bin/sh -c id -G": "runc's option",
            "exec --cap CAP_SYS_TIME ID /bin/sh -c grep ^Cap /proc/self/status": "with crun they are all that there are; with runc, and "
            "its callers, they are added to the container's",
            "exec --user name ID /bin/true": _STATUS,
            "exec ID": _STATUS,
            "exec ID /bin/echo x": _STATUS,
            "exec ID /bin/true": _STATUS,
            "kill ID NOSUCH": "crun takes a name that it does not know for signal 0 and says that it is done",
            "ps ID -o pid,args": "crun has no options of ps(1), and prints the pids alone",
            "ps ID again": "of a stopped container; crun ends by SIGSEGV",
            "resume ID again": "of a running container; crun says that it is done, runc and its callers take it for a mistake",
            "update --memory 64m ID": "crun takes bytes alone",
        },
    ),
}


#: ps(1) is ours to call, where crun prints pids
PEERS = [
    pytest.param(name, marks=pytest.mark.requires(name, *(["boot-time"] if name == "crun" else [])))
    for name in EXCEPTIONS
]


def answers(command, made, id_):
    """What a runtime answers to all of it, in order, on a container with two processes of which init is one."""
    pid_file = made.path / "pid"
    run = [*command, "run", "-d", "--pid-file", pid_file, "-b", made.path, id_]
    subprocess.run(run, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    init = int(pid_file.read_text())
    found = {}
    try:
        for before, after, what in WORDS:
            words = " ".join((*before, "ID", *after))
            words += " again" * (words in found)
            done = subprocess.run([*command, *before, id_, *after], capture_output=True, text=True, timeout=30)
            told = {"out": done.stdout, "lines": str(done.stdout.count("\n")), "status": ""}[what]
            found[words] = done.returncode, told
            if before == ("kill", "--all") and init:
                # ours, who adopt orphans: a zombie runs, for crun; and an init goes after all others of its pid namespace
                while os.waitpid(-1, 0)[0] != init:
                    pass
                init = 0
    finally:
        subprocess.run([*command, "delete", "--force", id_], capture_output=True, timeout=60)
    return found


@pytest.mark.parametrize("peer", PEERS)
def test_commands_on_a_running_container(pyrunc, make, scratch, peer):
    theirs = [shutil.which(peer, path=PATH), "--root", str(scratch / peer)]
    if peer == "crun":
        theirs = [*WITHOUT_UNIFIED, *theirs]
    edit = lambda config: config.update(ociVersion="1.0.2")  # noqa: E731 - Debian's crun knows no later one
    ours, peers = (
        answers(command, make(edit, "/bin/sh", "-c", "sleep 1000 & sleep 1000"), pyrunc.id())
        for command in (pyrunc.argv(), theirs)
    )
    version, reasons = EXCEPTIONS[peer]
    different = {words: (answer, peers[words]) for words, answer in ours.items() if answer != peers[words]}
    assert {words: pair for words, pair in different.items() if words not in reasons} == {}
    if (
        f" {version}"
        in subprocess.run([shutil.which(peer, path=PATH), "--version"], capture_output=True, text=True).stdout
    ):
        assert set(reasons) <= set(different), "a reason for what is the same"
