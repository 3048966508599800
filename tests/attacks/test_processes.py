"""Processes of the runtime beside those of a container: what can be got from them, and what they leave behind (classes A and D)."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.requires("root")

ROOT = Path(__file__).resolve().parents[2]


def installed():
    """Every file that a process of ours runs or maps: (major, minor, inode) -> path."""
    found = {}
    places = [ROOT / "build/lib/pyrunc", ROOT / "build/bin", Path(sys.executable).resolve()]
    for place in places:
        for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
            st = path.stat()
            found[os.major(st.st_dev), os.minor(st.st_dev), st.st_ino] = path
    return found


def digest():
    files = [ROOT / "build/bin/pyrunc", Path(sys.executable).resolve(), *(ROOT / "build/lib/pyrunc").rglob("*.so")]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


@pytest.fixture
def got(pyrunc, make, arm, scratch):
    """got("CAP_...", ...): what a program in a container gets hold of while others are started there, as lines of attacker.c."""

    def got(*capabilities, rounds=12, what="", times=0):
        # a machine that is busy may have him look in vain for a while: until he has got `what` so many times
        out = scratch / "out"
        out.mkdir()
        (out / "got").touch()

        def edit(config):
            for kind in ("bounding", "effective", "permitted"):
                config["process"]["capabilities"][kind] += capabilities
            config["mounts"].append({"destination": "/out", "type": "bind", "source": str(out), "options": ["bind"]})
            config["root"]["readonly"] = True

        made = arm(make(edit, "/bin/sh", "-c", "echo >/out/up; exec /bin/attacker grab /out/stop >/out/got"))
        id_ = pyrunc.id()
        pyrunc("create", "-b", made, id_)
        pid = pyrunc.pid(id_)
        pyrunc("start", id_)
        for number in range(20 * rounds):
            pyrunc("exec", id_, "/bin/true")
            lines = (out / "got").read_text().splitlines()
            if number >= rounds - 1 and sum(line.startswith(what) for line in lines) >= times:
                break
        (out / "stop").touch()
        pyrunc.wait(pid)
        return (out / "got").read_text().splitlines()

    return got


# -- our programs and our memory ---------------------------------------------------------------------------------------


def test_programs_of_ours_are_never_seen(got):
    """CVE-2019-5736: a container finds the runtime that joins it as /proc/PID/exe, and writes to it when it has ended."""
    ours, before = installed(), digest()
    lines = got("CAP_SYS_PTRACE", what="exe ", times=2)
    seen = [tuple(map(int, line.split()[1].split(":"))) for line in lines if line.startswith("exe ")]
    assert len(seen) > 1, lines
    assert not [ours[program] for program in seen if program in ours] and "wrote" not in lines
    assert digest() == before


@pytest.mark.parametrize("how", ["argument", "interpreter", "link"])
def test_the_program_is_the_runtimes_own(pyrunc, make, how):
    """CVE-2019-5736: what is started as /proc/self/exe is a sealed copy of nothing valuable, which does nothing without a plan."""
    before = digest()
    made = make(None, {"argument": "/proc/self/exe", "interpreter": "/script", "link": "/link"}[how], "init", "3")
    (made.rootfs / "script").write_text("#!/proc/self/exe\n")
    (made.rootfs / "script").chmod(0o755)
    (made.rootfs / "link").symlink_to("/proc/self/exe")
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    assert os.readlink(f"/proc/{pid}/exe").startswith("/memfd:")
    with open(f"/proc/{pid}/maps") as maps:
        assert not [line for line in maps if "python" in line or str(ROOT) in line]
    pyrunc("start", id_, status=None)
    assert pyrunc.wait(pid) != 0 and digest() == before


def test_who_joins_cannot_be_looked_into(got):
    """CVE-2016-9962, CVE-2016-8649: whoever comes into the pid namespace while he still holds something of the host."""
    lines = [line for line in got(rounds=15) if not line.startswith("exe ")]
    assert lines == []


def test_who_joins_holds_nothing_of_the_host(got):
    """The same where the container may trace any process: then it is seen, and there is nothing to be had."""
    lines = [line.partition(" (deleted) ") for line in got("CAP_SYS_PTRACE", what="mem ", times=1)]
    assert [line for line in lines if line[0].startswith("mem ")], "nobody was seen: the attacker is too slow"
    # the socket to the parent, the pidfd of the container's own init, the cgroup that the fork is born into, and what is
    # looked up in the container once it is inside: its /, its working directory
    held = {line[2].partition("[")[0] for line in lines if line[0].startswith("fd/")}
    held = {name for name in held if not name.startswith(("/sys/fs/cgroup/", "own /"))}
    assert held <= {"socket:", "anon_inode:"}, lines
    assert not [line for line in lines if "fscontext" in line[2]]
    # and what is its root and working directory is the container's
    assert {line[2] for line in lines if line[0].split()[0] in ("root", "cwd")} <= {"own /"}, lines


# -- ways out ------------------------------------------------------------------------------------------------------------

CWDS = ("/proc/self/fd/{n}", "/proc/1/fd/{n}", "/link{n}")


@pytest.fixture
def leaking():
    """What a careless caller leaves open: / as 9, and more, none of it close-on-exec."""
    opened = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
    opened.append(os.open("/", os.O_PATH))
    yield {
        "close_fds": False,
        "preexec_fn": lambda: [os.dup2(fd, 4 + i, inheritable=True) for i, fd in enumerate(opened * 4)],
    }
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("where", ["/proc/self/fd/", "/proc/1/fd/", "/link", "dots"])
def test_no_way_out_by_the_working_directory(pyrunc, make, outside, leaking, where):
    """CVE-2024-21626: with a descriptor of the host's still open, /proc/self/fd/N was a working directory on the host."""
    # whatever it finds there, it is not to be started
    made = make(None, "/bin/sh", "-c", "echo started; ls -ld .")
    for n in range(3, 20):
        (made.rootfs / f"link{n}").symlink_to(f"/proc/self/fd/{n}")
    dots = ("/proc/self/cwd/../../..", "/proc/self/root/../..")
    for number, cwd in enumerate(dots if where == "dots" else [f"{where}{n}" for n in (*range(3, 9), 12)]):
        made.config["process"]["cwd"] = cwd
        made.write()
        result = pyrunc("run", "-b", made, pyrunc.id(str(number)), status=None, **leaking)
        assert result.status != 0 and result.out == "", result


def test_no_way_out_by_the_working_directory_of_exec(pyrunc, running, leaking):
    box = running()
    for n in (3, 4, 5, 6, 9):
        (box.bundle.rootfs / f"link{n}").symlink_to(f"/proc/self/fd/{n}")
        for cwd in (f"/proc/self/fd/{n}", f"/link{n}"):
            result = pyrunc("exec", "--cwd", cwd, box.id, "/bin/echo", "started", status=None, **leaking)
            assert result.status != 0 and result.out == "", result


# -- terminals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_nothing_is_typed_into_the_callers_terminal(pyrunc, make, running, arm, verb):
    """CVE-2016-10124, CVE-2017-5226: TIOCSTI into the terminal that was standard input. The session is the container's own."""
    box = running() if verb == "exec" else None
    made = arm(box.bundle if box else make(None, "/bin/attacker", "tty"))
    words = ["exec", box.id, "/bin/attacker", "tty"] if box else ["run", "-b", str(made), pyrunc.id()]
    pid, master = pty.fork()
    if pid == 0:
        os.execve(pyrunc.argv(*words)[0], pyrunc.argv(*words), pyrunc.env)
    out = b""
    try:
        while data := os.read(master, 4096):
            out += data
    except OSError:
        pass
    os.waitpid(pid, 0)
    os.close(master)
    # pushed, taken as controlling terminal, opened as /dev/tty; a session of its own
    assert out.split()[-4:-1] == [b"0", b"0", b"0"], out


# -- capabilities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "exec", "exec --cap", "exec --process"])
def test_a_user_gets_no_capability_of_a_file(pyrunc, make, running, probe, verb):
    """CVE-2022-24769, CVE-2022-29162: what root had as inheritable became permitted for a user who ran a file of the image."""

    def edit(config):
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        config["process"]["noNewPrivileges"] = False

    made = make(edit, "/bin/capable", "report") if verb == "run" else running(edit).bundle
    path = made.rootfs / "bin/capable"
    path.write_bytes(probe.read_bytes())
    path.chmod(0o755)
    # inheritable alone: it gives what the process has as inheritable, and that is nothing
    subprocess.run(
        ["setcap", "cap_net_raw,cap_sys_admin+i", path], check=True, env={"PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
    )
    if verb == "run":
        found = pyrunc("run", "-b", made, pyrunc.id("r")).json()
    else:
        options = {"exec": [], "exec --cap": ["--cap", "CAP_NET_RAW"], "exec --process": []}[verb]
        id_ = pyrunc.id("box")
        words = [*options, id_, "/bin/capable", "report"]
        if verb == "exec --process":
            document = {**made.config["process"], "args": ["/bin/capable", "report"]}
            (made.path / "process.json").write_text(json.dumps(document))
            words = ["--process", str(made.path / "process.json"), id_]
        found = pyrunc("exec", *words).json()
    sets = found["capabilities"]
    assert not sets["permitted"] and not sets["inheritable"] and not sets["ambient"], sets


# -- whom a signal goes to ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pid", ["0", "-1", "1", "self", "thread", "another", "text"])
def test_a_pid_of_the_state_is_not_believed(pyrunc, running, pid):
    """conmon issues 123 and 124: kill(-1) as root. Nothing is sent to whom the state names, unless it is who was recorded."""
    victim = subprocess.Popen(["sleep", "1000"])
    box = running()
    path = pyrunc.root / box.id / "state.json"
    state = json.loads(path.read_text())
    state["pid"] = {"self": os.getpid(), "thread": victim.pid, "another": victim.pid, "text": "1"}.get(pid) or int(pid)
    path.write_text(json.dumps(state))
    assert pyrunc("kill", box.id, "KILL", status=None).status != 0
    assert victim.poll() is None
    pyrunc("delete", "--force", box.id, status=None)
    assert victim.poll() is None and os.path.exists("/proc/1")
    victim.kill()
    victim.wait()
    # the real one ends with its cgroup, or is ours to end
    try:
        os.kill(box.pid, 9)
    except ProcessLookupError:
        pass


# -- what names a program or a file of the host ---------------------------------------------------------------------------------


def test_nothing_of_the_image_names_a_program_of_the_host(pyrunc, make, scratch):
    """CVE-2026-53488 and others: labels and variables that an image brings, as engines copy them into the config."""
    evil = scratch / "evil"
    evil.write_text(f"#!/bin/sh\\necho x >{scratch}/ran\\n")
    evil.chmod(0o755)
    names = (
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONSTARTUP",
        "BASH_ENV",
        "ENV",
        "PATH",
        "GCONV_PATH",
    )

    def edit(config):
        config["process"]["env"] = [f"{name}={evil}" for name in names]
        config["annotations"] = {
            "io.containerd.image.logger": f"binary://{evil}",
            "org.opencontainers.image.entrypoint": str(evil),
            "org.example.hook": str(evil),
        }
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "env"]}]}

    made, trace = make(edit, "/bin/true"), scratch / "trace"
    calls = "trace=execve,execveat,open,openat,openat2,readlink"
    words = ["strace", "-f", "-qq", "-s", "300", "-e", calls, "-o", trace, *pyrunc.argv("run", "-b", made, pyrunc.id())]
    subprocess.run(words, env=pyrunc.env, check=True, timeout=60)
    text = trace.read_text()
    assert str(made.path) in text and str(evil) not in text
    assert not (scratch / "ran").exists()


def test_nothing_of_the_image_is_opened_but_its_program(pyrunc, make, scratch):
    """CVE-2019-14271: after the root has changed, whatever is loaded or run by us is the image's. Accounts are read, as text."""
    made, trace = make(None, "/bin/true"), scratch / "trace"
    calls = "trace=open,openat,openat2,execve,execveat,pivot_root,mmap"
    words = ["strace", "-f", "-qq", "-e", calls, "-o", trace, *pyrunc.argv("run", "-b", made, pyrunc.id())]
    subprocess.run(words, env=pyrunc.env, check=True, timeout=60, stdin=subprocess.DEVNULL)
    lines = trace.read_text().splitlines()
    init = next(line.split()[0] for line in lines if "pivot_root(" in line)
    own = [line.partition(" ")[2].strip() for line in lines if line.startswith(f"{init} ")]
    inside = own[next(i for i, call in enumerate(own) if call.startswith("pivot_root(")) :]
    (end,) = (i for i, call in enumerate(inside) if call.startswith("execve("))
    opened = [re.search(r'"(.*?)"', call) for call in inside[1:end] if call.startswith("open")]
    # one name after the other where openat2 is hidden
    names = {part for found in opened if found for part in found[1].split("/")}
    assert names <= {"", ".", "etc", "passwd", "dev", "null"}, inside[: end + 1]
    assert '"/bin/true"' in inside[end]
    # memory for the words of the program, and of nothing that was opened
    assert not [call for call in inside[:end] if call.startswith("mmap") and "ANONYMOUS" not in call]


# -- where newer system calls do not exist ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "calls", ["openat2", "clone3", "close_range", "openat2,clone3,close_range,faccessat2,fchmodat2"]
)
def test_nothing_is_weaker_without_a_system_call(pyrunc, running, hidden, calls):
    """A seccomp profile of before these calls is around the runtime: containers run as ever, in their cgroup, with nothing left open."""
    hidden(*calls.split(","))
    box = running()
    found = box.report()
    assert [entry["fd"] for entry in found["fds"]] == [0, 1, 2]
    assert "pyrunc-test" in open(f"/proc/{box.pid}/cgroup").read()
    hosts = {line.split(":", 2)[2] for line in open("/proc/self/cgroup").read().split()}
    own = {line.split(":", 2)[2] for line in open(f"/proc/{box.pid}/cgroup").read().split()}
    assert not own & hosts, own
