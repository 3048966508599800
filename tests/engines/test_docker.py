"""docker run and its neighbours: what a user of Docker does with one container, the process in it and what it prints."""

from __future__ import annotations

import json
import os
import re
import signal
import tarfile

import pytest
from docker_lab import BB, GIVEN, closure, needs_all_capabilities, own_words, running, user
from lab import until

pytestmark = pytest.mark.newer

#: the client tells a terminal's size only after the process has been started
SIZED = "until stty size 2>/dev/null | grep -v '^0 0'; do usleep 10000; done"


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


# -- the daemon and its runtimes -------------------------------------------------------------------------------------------


def test_info(docker, engine_runtime):
    info = json.loads(docker("info", "-f", "{{json .}}").out)
    assert info["DefaultRuntime"] == "ours" and info["Runtimes"]["ours"]["path"] == str(engine_runtime)
    # dockerd reads these from the output of --version of the default runtime
    version = docker.lab.run(engine_runtime, "--version").out
    assert info["RuncCommit"]["ID"] in version and info["RuncCommit"]["ID"]
    assert info["Warnings"] is None or not any("runtime" in line for line in info["Warnings"])


def test_runtime_select(docker, dockerd, engine_runtime):
    """Added beside Docker's own, and chosen for a container."""
    one, other = docker.sleeping("--runtime", "ours"), docker.sleeping("--runtime", "runc")
    assert docker.inspect(one, ".HostConfig.Runtime") == "ours"
    # each finds its own containers, in the one directory that dockerd gives to all runtimes
    for program, id_ in ((engine_runtime, one), ("/usr/sbin/runc", other)):
        assert docker.lab.run(program, "--root", dockerd.states, "state", id_).json()["status"] == "running"
    for id_ in (one, other):
        assert docker.exec(id_, "echo", "hi").out == "hi\n"
    assert "unknown" in docker.fails("run", "--runtime", "nosuch", BB, "true").lower()


# -- run -------------------------------------------------------------------------------------------------------------------


def test_run_rm(docker):
    assert docker.run(BB, "echo", "hi").out == "hi\n"
    assert docker.run(BB, "sh", "-c", "echo no >&2").err == "no\n"


@pytest.mark.parametrize("status", [0, 3, 125, 126, 127, 255])
def test_run_exit_code(docker, status):
    docker.run(BB, "sh", "-c", f"exit {status}", status=status)


def test_run_exit_code_of_a_signal(docker):
    id_ = docker.sleeping()
    client = docker.popen("wait", id_)
    docker("kill", id_)
    assert client.wait() == 0 and docker.inspect(id_, ".State.ExitCode") == "137"
    docker.run("--init", BB, "sh", "-c", "kill -SEGV $$", status=139)


def test_run_127(docker, engine_runtime):
    """The runtime's words reach the user, and the status is the one that shells give."""
    error = docker.run(BB, "nosuch", "--flag", status=127).err
    own_words(error, 'exec: "nosuch": executable file not found in $PATH')
    own_words(docker.run(BB, "/no/such", status=127).err, 'exec: "/no/such": stat /no/such: no such file or directory')
    if engine_runtime.name == "pyrunc":
        # verbatim: what pyrunc writes to its log is all that stands between Docker's own words
        inner = re.search(r"OCI runtime create failed: (.*): unknown\.", error)
        assert inner and re.fullmatch(
            r'create [0-9a-f]{64}: exec: "nosuch": executable file not found in \$PATH', inner[1]
        ), error


def test_run_126(docker):
    own_words(docker.run(BB, "/etc/passwd", status=126).err, 'exec: "/etc/passwd": permission denied')
    own_words(docker.run(BB, "/etc", status=126).err, 'exec: "/etc": ', "permission denied")


def test_run_125(docker):
    """What goes wrong before the program: a mount that cannot be, a sysctl that is none."""
    for binding in ("/etc/passwd:/etc", "/etc:/etc/passwd"):
        error = docker.run("-v", binding, BB, "true", status=125).err
        own_words(error, "not a directory", "Are you trying to mount a directory onto a file (or vice-versa)?")
    result = docker.run("--sysctl", "net.ipv4.nosuch=1", BB, "true", status=None)
    assert result.status in (125, 127) and "nosuch" in result.err, result


def test_run_badcwd(docker):
    assert "not a directory" in docker.run("-w", "/etc/passwd", BB, "true", status=125).err.lower()
    # made by dockerd
    assert docker.output("-w", "/new/place", BB, "pwd") == "/new/place"


def test_run_stdin(docker):
    assert docker.run("-i", BB, "cat", input="one\ntwo\n").out == "one\ntwo\n"
    assert docker.run(BB, "cat", input="unread\n").out == ""
    data = os.urandom(1 << 20).hex()
    assert docker.run("-i", BB, "md5sum", input=data).out == docker.lab.run("md5sum", input=data).out


def test_run_env(docker):
    out = docker.output("-e", "A=b c", "-h", "web", BB, "env").splitlines()
    assert {"A=b c", "HOSTNAME=web", "HOME=/root"} <= set(out)
    assert "TERM=xterm" not in out and not [line for line in out if line.startswith("_OCI")]


def test_run_tty(docker):
    terminal = docker.terminal("run", "--rm", "-it", BB, "sh", "-c", f"tty; {SIZED}; read x; echo got $x; exit 7")
    terminal.expect(r"/dev/pts/0\r\n24 80\r\n")
    terminal.write("word\n")
    terminal.expect("got word\r\n")
    assert terminal.finish() == 7


def test_run_tty_resize(docker):
    terminal = docker.terminal("run", "--rm", "-it", BB, "sh")
    terminal.expect("# ")
    terminal.write("until stty size | grep '40 100'; do usleep 10000; done; exit\n")
    terminal.resize_until("\n40 100\r\n", 100, 40)
    assert terminal.finish() == 0


def test_run_sigint(docker):
    """Ctrl-C on the client reaches the program, which decides what it means."""
    id_ = docker.name("int")
    client = docker.popen(
        "run", "--rm", "--name", id_, BB, "sh", "-c", "trap 'exit 3' INT; while :; do usleep 10000; done"
    )
    until(lambda: docker("inspect", "-f", "{{.State.Running}}", id_, status=None).out == "true\n", "running")
    client.kill(signal.SIGINT)
    assert client.wait() == 3


def test_run_user(docker):
    assert docker.output("-u", "alice", BB, "id") == "uid=1000(alice) gid=1000(alice) groups=50(staff),1000(alice)"
    assert docker.output("-u", "12345:54321", BB, "sh", "-c", "id -u; id -g") == "12345\n54321"
    assert "unable to find user nosuch" in docker.run("-u", "nosuch", BB, "true", status=125).err
    assert docker.output("-u", "alice", BB, "sh", "-c", "grep CapEff /proc/self/status").split()[1] == "0" * 16


def test_run_groupadd(docker):
    groups = docker.output("-u", "alice", "--group-add", "staff", "--group-add", "4000", BB, "id", "-G").split()
    assert set(groups) == {"1000", "50", "4000"}


def test_run_init(docker):
    assert docker.output("--init", BB, "cat", "/proc/1/comm") == "docker-init"
    script = "sh -c 'sleep 0 & exit' & usleep 100000; ps -o stat,comm | grep -c ^Z"
    assert docker.shell(script, "--init", status=1) == "0"


def test_run_stopsignal(docker):
    id_ = docker.detached(
        "--stop-signal",
        "USR1",
        BB,
        "sh",
        "-c",
        "trap 'echo usr1; exit 5' USR1; echo up; while :; do usleep 10000; done",
    )
    until(lambda: "up" in docker.logs(id_), "trap set")
    docker("stop", id_)
    assert docker.inspect(id_, ".State.ExitCode") == "5" and "usr1" in docker.logs(id_)


def test_run_deb(docker, dockerd):
    """A userland with shared libraries, name services and locales: this machine's own, imported as an image."""
    archive = dockerd.dir / "deb.tar"
    programs = ("bash", "ls", "cat", "getent", "id", "head", "env", "uname")
    with tarfile.open(archive, "w", dereference=True) as tar:
        for path in sorted(
            closure(*programs) | {"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/debian_version"}
        ):
            tar.add(path, path.lstrip("/"))
    docker("import", "-c", "ENV PATH=/usr/bin:/bin", "-c", 'CMD ["bash"]', archive, "deb")
    assert (
        docker.output("deb", "bash", "-c", "id -un; getent passwd 0 | head -c 4; printf '%(%Y)T\n' 0")
        == "root\nroot1970"
    )
    assert docker.run("-i", "deb", input="echo $BASH_VERSION; cat /etc/debian_version").out.splitlines()[0]
    docker("rmi", "deb")


def test_gpus(docker):
    assert "could not select device driver" in docker.run("--gpus", "all", BB, "true", status=125).err


# -- logs, attach, exec ----------------------------------------------------------------------------------------------------


def test_detach_logs(docker):
    id_ = docker.detached(BB, "sh", "-c", "echo out; echo err >&2; sleep 1000")
    until(lambda: "out" in docker.logs(id_), "a line in the log")
    both = docker("logs", "-t", id_)
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ out\n", both.out) and both.err.endswith(" err\n")
    follower = docker.terminal("logs", "-f", "--tail", "1", id_)
    docker("kill", id_)
    assert follower.finish() == 0


def test_create_start_wait(docker):
    id_ = docker("create", "--name", docker.name(), BB, "sh", "-c", "echo ran; exit 4").out.strip()
    assert docker.inspect(id_, ".State.Status") == "created"
    docker("start", id_)
    assert docker("wait", id_).out == "4\n"
    assert docker("start", "-a", id_, status=4).out == "ran\n"
    assert docker.logs(id_) == "ran\nran\n"


def test_attach(docker):
    id_ = docker.detached("-i", BB, "sh", "-c", "while read x && [ $x != end ]; do echo got $x; done; exit 6")
    client = docker.dialogue("attach", id_)
    client.write("word\n")
    client.expect("got word\n")
    client.write("end\n")
    assert client.finish() == 6


def test_attach_detach_keys(docker):
    id_ = docker.detached("-it", BB, "sh")
    terminal = docker.terminal("attach", "--detach-keys", "ctrl-x", id_)
    terminal.write("echo a$((1+1))b\n")
    terminal.expect("a2b")
    terminal.write("\x18")
    terminal.finish()
    assert docker.inspect(id_, ".State.Status") == "running"


def test_exec(docker):
    id_ = docker.sleeping()
    assert docker.exec(id_, "echo", "hi").out == "hi\n"
    docker.exec(id_, "sh", "-c", "exit 42", status=42)
    own_words(
        "".join(docker.exec(id_, "nosuch", status=126).__dict__[k] for k in ("out", "err")),
        "executable file not found in $PATH",
    )
    own_words(
        "".join(docker.exec(id_, "/etc/passwd", status=126).__dict__[k] for k in ("out", "err")), "permission denied"
    )
    assert docker("exec", "-i", id_, "cat", input="in\n").out == "in\n"


def test_exec_opts(docker):
    id_ = docker.sleeping("-e", "A=old")
    assert (
        docker("exec", "-e", "A=new", "-w", "/tmp", "-u", "alice", id_, "sh", "-c", "echo $A; pwd; id -un").out
        == "new\n/tmp\nalice\n"
    )
    docker("exec", "-d", id_, "sh", "-c", "echo there > /tmp/file; sleep 1000")
    until(lambda: docker.exec(id_, "cat", "/tmp/file", status=None).out == "there\n", "the detached process")
    assert (
        docker.exec(id_, "sh", "-c", "grep CapEff /proc/self/status").out
        == docker.exec(id_, "grep", "CapEff", "/proc/1/status").out
    )


def test_exec_privileged(docker, engine_runtime):
    needs_all_capabilities(engine_runtime)
    id_ = docker.sleeping()
    usual = int(docker.exec(id_, "grep", "CapEff", "/proc/self/status").out.split()[1], 16)
    more = int(docker("exec", "--privileged", id_, "grep", "CapEff", "/proc/self/status").out.split()[1], 16)
    # dockerd 20.10 asks for those that it knows by name, up to audit_read; what root lacks here is left out
    assert more == GIVEN and usual & more == usual and usual != more


def test_exec_tty(docker):
    id_ = docker.sleeping()
    terminal = docker.terminal("exec", "-it", id_, "sh", "-c", f"tty; {SIZED}; read x; exit $x")
    terminal.expect(r"/dev/pts/0\r\n24 80\r\n")
    terminal.write("9\n")
    assert terminal.finish() == 9


def test_exec_many(docker):
    id_ = docker.sleeping()
    clients = [docker.popen("exec", id_, "sh", "-c", f"exit {n}") for n in range(10)]
    assert [client.wait() for client in clients] == list(range(10))


def test_top(docker):
    id_ = docker.detached(BB, "sh", "-c", "sleep 1000 & sleep 1000")
    until(lambda: docker("top", id_).out.count("sleep 1000") == 2, "two processes")
    assert docker("top", id_, "-o", "pid,comm").out.splitlines()[0].split() == ["PID", "COMMAND"]


def test_rename_inspect(docker):
    old, new = docker.name("old"), docker.name("new")
    docker.sleeping("--name", old)
    docker("rename", old, new)
    found = docker("inspect", new).json()[0]
    assert found["Name"] == f"/{new}" and found["State"]["Running"] and found["Driver"] == "overlay2"
    status = (docker.lab.root / f"proc/{found['State']['Pid']}/status").read_text()
    assert "Name:\tsleep" in status
    docker.fails("inspect", old)


def test_events(docker):
    id_ = docker.name("event")
    since = docker.lab.run("date", "+%s.%N").out.strip()
    docker("run", "--rm", "--name", id_, BB, "sh", "-c", "exit 3", status=3)
    until_ = docker.lab.run("date", "+%s.%N").out.strip()
    lines = docker(
        "events", "--since", since, "--until", until_, "--filter", f"container={id_}", "--format", "{{json .}}"
    ).out.splitlines()
    actions = [json.loads(line) for line in lines]
    assert [one["Action"] for one in actions if one["Action"] != "attach"] == ["create", "start", "die", "destroy"]
    assert next(one for one in actions if one["Action"] == "die")["Actor"]["Attributes"]["exitCode"] == "3"


def test_parallel_10(docker):
    clients = [docker.popen("run", "--rm", BB, "sh", "-c", f"exit {n}") for n in range(10)]
    assert [client.wait(100) for client in clients] == list(range(10))
