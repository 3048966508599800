"""What a process inherits from its caller besides words and environment: nothing of it changes what is done, or what a container
finds (P7, P8, P14, P18 and rule R1: what surrounds a caller are accidents)."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import time

import hierarchies
import pytest
from conmon_caller import BIN

pytestmark = pytest.mark.requires("root")

LIBC = ctypes.CDLL(None)
EVERY = sorted(signal.valid_signals())
SUBREAPER, TIMER_SLACK, DEATH_SIGNAL, THP = 36, 29, 1, 41


def ignore_all():
    for number in range(1, 65):
        LIBC.signal(number, 1)  # also the two that Python and the C library would not touch


def block_all():
    LIBC.syscall(14, 2, ctypes.byref(ctypes.c_uint64(2**64 - 1)), 0, 8)  # rt_sigprocmask, SIG_SETMASK


def limited(**soft):
    """Soft limits, by the names of the resource module; hard ones stay, so that nothing is lost for good."""

    def limit():
        for name, value in soft.items():
            number = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (hard if value == "hard" else value, hard))

    return limit


def leaking(count):
    """Directories and files of the host's, and a pipe, open and not close-on-exec, at every number up to `count`."""

    def leak():
        pipe = os.pipe()
        given = [os.open("/", os.O_RDONLY), os.open("/etc", os.O_PATH), os.open("/etc/shadow", os.O_RDONLY), *pipe]
        for number in range(20, count):
            os.dup2(given[number % len(given)], number, inheritable=True)
        os.closerange(3, 20)
        for number in range(3, 20):
            os.dup2(20 + number, number, inheritable=True)

    return leak


def nowhere():
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


#: what is done to a caller, between fork and exec
ACCIDENTS = {
    "umask 0": lambda: os.umask(0),
    "umask 0777": lambda: os.umask(0o777),
    "signals ignored": ignore_all,
    "signals blocked": block_all,
    "signals ignored and blocked": lambda: (ignore_all(), block_all()),
    "one processor": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "hundreds of descriptors": leaking(900),
    "standard input closed": lambda: os.close(0),
    "standard error closed, as the lowest": lambda: (os.close(0), os.close(2)),
    "no working directory": nowhere,
    "another group": lambda: os.setgid(5),
    "other groups": lambda: os.setgroups([1, 2, 3]),
    "a signal when its parent ends": lambda: LIBC.prctl(DEATH_SIGNAL, 9, 0, 0, 0),
    "a subreaper": lambda: LIBC.prctl(SUBREAPER, 1, 0, 0, 0),
    "a session of its own": os.setsid,
    "few descriptors": limited(NOFILE=20),
    "many descriptors": limited(NOFILE="hard"),
    "a small stack": limited(STACK=256 << 10),
    "a stack without limit": limited(STACK=-1),
    "little memory": limited(AS=64 << 20),
    "a second of time": limited(CPU=1),
    "core files": limited(CORE="hard"),
    "no locked memory": limited(MEMLOCK=0),
    "no queued signals": limited(SIGPENDING=0),
}
#: and these are handed on, as by the peers: they are the caller's to give (nice, ionice, chrt, ulimit, choom, setarch)
HANDED_ON = {
    "nice": (lambda: os.nice(19), "nice", 19),
    "batch": (lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)), "scheduler", 3),
    "no randomness": (lambda: LIBC.personality(0x0040000), "personality", 0x0040000),
}
STATUS = (
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed_list",
    "Mems_allowed_list",
    "Groups",
)


def settled(found, *without):
    """What the probe has seen, without what differs between any two containers; limits by themselves."""
    for name in ("namespaces", "keyring", "cgroup", "monotonic", "boottime", "pid", "pgid", "sid", *without):
        found.pop(name, None)
    found["status"] = [line for line in found["status"] if line.split(":")[0] in STATUS]
    for entry in (*found["fds"], *found["mounts"], *found["devices"].values()):
        for name in ("id", "parent", "device", "dev", "ino", "size", "flags"):
            entry.pop(name, None)
    # what was closed is the null device, of the container's own
    found["fds"] = [(entry["fd"], entry["cloexec"]) for entry in found["fds"]]
    return found


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_container_finds_what_it_would_find(pyrunc, make, running, scratch, verb):
    """P7, P8: by the eyes of its program; limits are handed on, and are the one thing that may differ."""
    if verb == "run":
        mount = {"destination": "/new/dir", "type": "tmpfs", "source": "tmpfs"}
        words = [
            "run",
            "-b",
            str(make(lambda c: c["mounts"].append(mount), "/bin/probe", "report").path),
            pyrunc.id("r"),
        ]
    else:
        words = ["exec", running().id, "/bin/probe", "report"]
    plain = settled(pyrunc(*words, cwd=scratch).json(), "rlimits")
    for accident, change in ACCIDENTS.items():
        result = pyrunc(*words, cwd=scratch, close_fds=False, preexec_fn=change)
        assert settled(result.json(), "rlimits") == plain, accident
        assert result.err == "", accident


@pytest.mark.parametrize("what", HANDED_ON)
def test_what_a_caller_hands_on(report, what):
    """The words of nice(1) and its like are meant for what they start."""
    change, name, value = HANDED_ON[what]
    found = report(None, preexec_fn=change)[name]
    assert (found["policy"] if name == "scheduler" else found) == value


def test_limits_are_handed_on_and_those_of_the_configuration_are_not(report):
    limits = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]
    found = report(lambda c: c["process"].update(rlimits=limits), preexec_fn=limited(NOFILE=30, STACK=1 << 20))[
        "rlimits"
    ]
    assert found["RLIMIT_NOFILE"] == [77, 88] and found["RLIMIT_STACK"][0] == 1 << 20


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_what_is_made_on_the_host_has_its_own_modes(pyrunc, make, umask):
    """P14: state, cgroups and places of mounts, whatever the umask."""

    def modes(number, umask):
        made, id_ = make(None, "/bin/true"), pyrunc.id(str(number))
        made.config["mounts"].append({"destination": "/a/b", "type": "tmpfs", "source": "tmpfs"})
        made.write()
        pyrunc("create", "-b", made, id_, preexec_fn=lambda: os.umask(umask))
        places = {"state": pyrunc.root / id_, "a": made.rootfs / "a"}
        found = {f"cgroup {n}": path for n, path in enumerate(hierarchies.places(made.config["linux"]["cgroupsPath"]))}
        for name, place in list(places.items()):
            found |= {f"{name}/{path.relative_to(place)}": path for path in [place, *place.rglob("*")]}
        seen = {name: oct(os.lstat(path).st_mode) for name, path in found.items()}
        pyrunc("delete", "--force", id_)
        return seen

    assert modes(1, umask) == modes(2, 0o022)


@pytest.mark.parametrize("limit", ["FSIZE", "NOFILE", "AS", "NPROC"])
def test_where_nothing_can_be_done_that_is_said(pyrunc, make, limit):
    """Limits under which nothing can work: one line, and nothing is left; not a traceback, and no half of a container."""
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    for value in {"FSIZE": (0, 100, 5000), "NOFILE": range(6, 16), "AS": (24 << 20, 32 << 20), "NPROC": (0,)}[limit]:
        # a message written to a file would be too large for it as well
        read, write = os.pipe()
        result = pyrunc(
            "run", "-b", made, id_, status=None, preexec_fn=limited(**{limit: value}), stdout=write, stderr=write
        )
        os.close(write)
        with os.fdopen(read) as file:
            said = file.read()
        assert (result.status, len(said.splitlines())) in ((0, 0), (1, 1), (1, 2)), (value, said)
        assert not pyrunc.exists(id_) and "Traceback" not in said
        assert hierarchies.places(made.config["linux"]["cgroupsPath"]) == []


@pytest.mark.parametrize("how", ["signals ignored", "signals blocked", "signals ignored and blocked"])
def test_signals_are_forwarded_however_the_caller_has_them(pyrunc, make, until, how):
    """P8: `run` in the foreground; what a caller ignores or blocks is not what its container does."""
    script = "trap 'exit 7' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.01; done"
    read, write = os.pipe()
    run = pyrunc.popen(
        "run", "-b", make(None, "/bin/sh", "-c", script), pyrunc.id(), stdout=write, preexec_fn=ACCIDENTS[how]
    )
    os.close(write)
    with os.fdopen(read) as out:
        assert out.readline() == "up\n"
        run.send_signal(signal.SIGUSR1)
        assert out.readline() == "usr1\n"
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 7


@pytest.mark.parametrize("hidden", ["covered", "unmounted"])
def test_without_proc_one_line_says_so(pyrunc, make, hidden):
    """A /proc that is empty, or none: nothing is taken for granted, and nothing is left."""
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    hide = {"covered": "mount -t tmpfs none /proc", "unmounted": "umount -l /proc"}[hidden]
    argv = pyrunc.argv
    pyrunc.argv = lambda *words: ["unshare", "-m", "/bin/sh", "-c", f'{hide} && exec "$@"', "sh", *argv(*words)]
    for words in (["create", "-b", made, id_], ["state", id_], ["list"], ["delete", "--force", id_], ["--version"]):
        result = pyrunc(*words, status=None)
        assert result.status in (0, 1) and len(result.err.splitlines()) <= 2, result
    programs = [BIN / name for name in ("pyrunc-conmon", "containerd-shim-pyrunc-v2", "pyrunc-shim")]
    for program in programs:
        words = ["unshare", "-m", "/bin/sh", "-c", f'{hide} && exec "$@"', "sh", program, "--no-such-option"]
        done = subprocess.run(words, env=pyrunc.env, capture_output=True, text=True, timeout=60)
        assert (
            done.returncode in (1, 2) and done.stderr.startswith(program.name) and len(done.stderr.splitlines()) == 1
        ), done
    pyrunc.argv = argv
    assert not pyrunc.exists(id_)


# -- the shims, which stay ---------------------------------------------------------------------------------------------------


#: words that are told apart from others in a list of failures (teeth.py)
LASTING = ["signals ignored and blocked", "hundreds of descriptors", "standard input closed", "umask 0777"]


@pytest.mark.parametrize("accident", LASTING, ids=[name.replace(" ", "-") for name in LASTING])
def test_supervision_is_the_same(pyrunc, make, scratch, accident):
    """pyrunc-shim, with the runtime in a child of its own."""
    made = make(None, "/bin/probe", "report")
    words = [BIN / "pyrunc-shim", "run", "--root", pyrunc.root, "--bundle", made.path, pyrunc.id()]

    def seen(**popen):
        done = subprocess.run(words, env=pyrunc.env, cwd=scratch, capture_output=True, text=True, timeout=20, **popen)
        assert (done.returncode, done.stderr) == (0, "")
        return settled(__import__("json").loads(done.stdout), "rlimits", "stdin")

    assert seen(close_fds=False, preexec_fn=ACCIDENTS[accident]) == seen(stdin=subprocess.DEVNULL)


def test_an_exit_command_is_started_in_order(ours, scratch):
    """conmon keeps what it was given besides (ports that Podman reserves) until the end of the container, and no longer."""
    for number, args in enumerate((["/bin/true"], ["/bin/not-there"])):
        seen, script = scratch / f"seen{number}", scratch / f"exit{number}"
        script.write_text(
            f"#!/bin/sh\n{{ ls -l /proc/self/fd; cat /proc/self/status; umask; }} >{seen}.new; mv {seen}.new {seen}\n"
        )
        script.chmod(0o755)
        box = ours(*args, name=f"c{number}")
        kept = os.open("/etc", os.O_RDONLY)
        box.begin(
            box.argv("--exit-command", script),
            pass_fds=(kept, kept),
            preexec_fn=ACCIDENTS["signals ignored and blocked"],
        )
        os.close(kept)
        box.go()
        box.parent_ended()
        box.answer()
        if number == 0:
            box.start()
        end = time.monotonic() + 20
        while not seen.exists():
            assert time.monotonic() < end, box.said()
            time.sleep(0.01)
        found = seen.read_text()
        assert "/etc" not in re.findall(r"-> (.*)", found), found
        signals = dict(re.findall(r"^Sig(Blk|Ign):\t(\w+)", found, re.M))
        assert signals["Blk"] == "0" * 16 and int(signals["Ign"], 16) & ~0x180000000 == 0, signals
        box.daemon_ended()
