"""What a user of Podman does with a container that exists: start, attach, exec, look at it, stop it, copy from it."""

from __future__ import annotations

import itertools
import json
import re
import socket
import tarfile

import criu
import pytest
from lab import missing, until
from packages import PATH
from podman_lab import BB, Podman, inside


@pytest.fixture
def box(podman):
    """A container named box that sleeps."""
    podman("run", "-d", "--name", "box", BB, "sleep", "600")
    yield "box"
    podman.remove("box")


@pytest.fixture
def watched(monitored):
    """The same under each conmon: (podman, "box")."""
    monitored("run", "-d", "--name", "box", BB, "sleep", "600")
    yield monitored
    monitored.remove("box")


# -- beginning and end -----------------------------------------------------------------------------------------------------


def test_create_start_wait(monitored):
    monitored("create", "--name", "c", BB, "sh", "-c", "echo said; exit 4")
    assert monitored.inspect("c", "{{.State.Status}}") == "created"
    monitored("start", "c")
    assert monitored("wait", "c").text == "4"
    assert monitored("logs", "c").text == "said"
    # Podman 5's wait ends when the status is known, which may be before its own cleanup
    until(lambda: monitored.inspect("c", "{{.State.Status}} {{.State.ExitCode}}") == "exited 4", "the cleanup")
    assert monitored("start", "--attach", "c", status=4).text == "said"
    monitored("rm", "c")


def test_init_start(podman):
    """podman init makes the container without starting it: its process waits."""
    podman("create", "--name", "c", BB, "sleep", "600")
    podman("init", "c")
    assert podman.inspect("c", "{{.State.Status}}") == "initialized"
    pid = podman.inspect("c", "{{.State.Pid}}")
    assert int(pid) > 0
    podman("start", "c")
    assert podman.inspect("c", "{{.State.Status}} {{.State.Pid}}") == f"running {pid}"
    podman.remove("c")


def test_attach(monitored):
    """attach: what is typed goes in, what comes out is seen."""
    monitored("run", "-d", "-i", "--name", "c", BB, "sh", "-c", "read line; echo got $line; exit 6")
    assert monitored("attach", "c", input="hello\n").out.startswith("got hello\n")  # podman itself adds a line
    assert monitored("wait", "c").text == "6"
    monitored("rm", "c")


def test_attach_detach_keys(monitored):
    """The detach keys leave the container running."""
    monitored("run", "-d", "-it", "--name", "c", BB, "sh")
    screen = monitored.terminal("attach", "--detach-keys", "ctrl-x,x", "c")
    screen.write("echo t-$((40+2))\n")
    screen.expect("t-42")
    keys = itertools.cycle("\x18x")  # one by one: podman knows them only when each comes alone
    until(lambda: (screen.write(next(keys)), screen.process.ended())[1], "podman to detach")
    assert screen.finish() == 0
    assert monitored.inspect("c", "{{.State.Status}}") == "running"
    monitored.remove("c")


def test_attach_twice(monitored):
    """Two clients see the same."""
    monitored("run", "-d", "-i", "--name", "c", BB, "cat")
    first, second = (monitored.dialogue("attach", "c") for _ in range(2))
    until(lambda: (first.write("."), first.take(), second.take(), first.seen and second.seen)[-1], "both attached")
    first.write("\nto both\n")
    for client in (first, second):
        client.expect("to both\n")
    monitored.remove("c")
    for client in (first, second):
        client.finish()


@pytest.mark.parametrize("how, signal", [("stop", 15), ("kill", 9)])
def test_stop_kill(monitored, how, signal):
    script = "trap 'exit 15' TERM; echo up; while :; do sleep 0.05; done"
    monitored("run", "-d", "--name", "c", BB, "sh", "-c", script)
    until(lambda: monitored("logs", "c").out, "the trap")
    monitored(how, "c")
    assert monitored("wait", "c").text == str(15 if how == "stop" else 137)
    monitored("rm", "c")


@pytest.mark.parametrize("signal, status", [("HUP", 129), ("USR1", 138), ("RTMIN+3", 165), ("12", 140)])
def test_kill_signal(podman, signal, status):
    """Signals by name and number. The shell is not the first process: that one ignores what it does not handle."""
    podman("run", "-d", "--name", "c", "--init", BB, "sleep", "600")
    podman("kill", "--signal", signal, "c")
    assert podman("wait", "c").text == str(status)
    podman("rm", "c")


def test_stop_timeout(monitored):
    """Who ignores the stop signal is killed when the time is over."""
    monitored("run", "-d", "--name", "c", BB, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    until(lambda: monitored("logs", "c").out, "the trap")
    monitored("stop", "--time", "1", "c")
    assert monitored.inspect("c", "{{.State.ExitCode}}") == "137"
    monitored("rm", "c")


def test_restart(watched):
    first = watched.inspect("box", "{{.State.Pid}}")
    watched("restart", "--time", "0", "box")
    second = watched.inspect("box", "{{.State.Pid}}")
    assert first != second and watched.inspect("box", "{{.State.Status}}") == "running"


def test_restart_policy(monitored):
    """on-failure starts it again as often as it was told."""
    monitored("run", "-d", "--name", "c", "--restart", "on-failure:2", BB, "sh", "-c", "echo run; exit 1")
    until(lambda: monitored.inspect("c", "{{.RestartCount}} {{.State.Status}}") == "2 exited", "the second restart")
    assert monitored("logs", "c").lines == ["run"] * 3
    monitored.remove("c")


def test_events(podman):
    podman("run", "--rm", "--name", "seen", BB, "true")
    out = podman("events", "--stream=false", "--filter", "container=seen", "--format", "{{.Status}}").lines
    assert [one for one in out if one in ("create", "init", "start", "died", "remove")] == [
        "create", "init", "start", "died", "remove",
    ]  # fmt: skip


# -- exec ------------------------------------------------------------------------------------------------------------------


def test_exec(watched):
    assert watched("exec", "box", "sh", "-c", "echo out; echo err >&2").out == "out\n"
    watched("exec", "box", "sh", "-c", "exit 5", status=5)
    error = watched("exec", "box", "nosuch", status=127).err
    assert 'exec: "nosuch": executable file not found in $PATH' in error
    assert 'exec: "/etc/passwd": permission denied' in watched("exec", "box", "/etc/passwd", status=126).err
    assert watched("exec", "-i", "box", "cat", input="through\n").out == "through\n"


def test_exec_opts(podman, box):
    assert podman("exec", "--user", "alice", box, "id", "-un").text == "alice"
    assert podman("exec", "--workdir", "/var/www", box, "pwd").text == "/var/www"
    assert podman("exec", "--env", "A=b", box, "sh", "-c", "echo $A").text == "b"
    status = podman("exec", "--privileged", box, "grep", "CapEff", "/proc/self/status").text.split()[1]
    assert int(status, 16) == int(inside(podman, "grep", "CapBnd", "/proc/self/status").text.split()[1], 16)
    assert podman("exec", "--detach", box, "sh", "-c", "echo later > /tmp/file").text
    until(lambda: podman("exec", box, "cat", "/tmp/file", status=None).text == "later", "the detached process")


def test_exec_tty(watched):
    screen = watched.terminal("exec", "-it", "box", "sh")
    screen.write("tty; stty size; echo t-$((40+2)); exit 3\n")
    assert "24 80" in screen.expect("t-42")
    assert screen.finish() == 3


def test_exec_preserve_fds(watched, share):
    (share / "three").write_text("from three\n")
    shell = Podman(watched.lab, "sh", "-c", f'exec 3<{share}/three; exec "$@"', "sh", *watched.command)
    assert shell("exec", "--preserve-fds", "1", "box", "sh", "-c", "cat <&3").text == "from three"


def test_exec_many(watched):
    children = [watched.popen("exec", "box", "sh", "-c", f"exit {40 + number}") for number in range(10)]
    assert [child.wait() for child in children] == list(range(40, 50))


def test_exec_large_output(watched, share):
    with (share / "out").open("wb") as out:
        watched("exec", "box", "seq", "200000", stdout=out)
    assert (share / "out").read_text() == "".join(f"{number}\n" for number in range(1, 200001))


# -- looking at it ---------------------------------------------------------------------------------------------------------


def test_top(podman, box):
    lines = podman("top", box, "pid", "comm").lines
    assert [line.split() for line in lines] == [["PID", "COMMAND"], ["1", "sleep"]]


def test_stats(podman, box):
    found = json.loads(podman("stats", "--no-stream", "--format", "json", box).out)[0]
    assert found["name"] == "box" and found["pids"] == "1" and not found["mem_usage"].startswith("0B"), found


def test_pause(podman, box):
    podman("pause", box)
    assert podman.inspect(box, "{{.State.Status}}") == "paused"
    podman("exec", box, "true", status=255)
    podman("unpause", box)
    assert podman("exec", box, "echo", "again").text == "again"


@pytest.mark.requires("cgroup-v1", "cpu-bandwidth-v1")
def test_update(podman, box):
    podman("update", "--memory", "77m", "--cpus", "0.25", box)
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    assert podman("exec", box, "sh", "-c", script).lines == [str(77 << 20), "25000"]


def test_healthcheck(watched):
    """A healthcheck is an exec that podman makes when it is asked to."""
    watched(
        "run",
        "-d",
        "--name",
        "h",
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "disable",
        BB,
        "sleep",
        "60",
    )
    watched("healthcheck", "run", "h", status=1)
    watched("exec", "h", "touch", "/tmp/well")
    watched("healthcheck", "run", "h")
    assert watched.inspect("h", "{{.State.Health.Status}}") == "healthy"
    watched.remove("h")


# -- files -----------------------------------------------------------------------------------------------------------------


def test_cp_diff_commit(podman, box, share):
    (share / "file").write_text("copied in\n")
    podman("cp", share / "file", f"{box}:/etc/copied")
    podman("exec", box, "sh", "-c", "cp /etc/copied /etc/again")
    podman("cp", f"{box}:/etc/again", share / "back")
    assert (share / "back").read_text() == "copied in\n"
    assert {"A /etc/copied", "A /etc/again"} <= set(podman("diff", box).lines)
    podman("commit", "--change", 'CMD ["cat", "/etc/again"]', box, "localhost/committed")
    assert podman("run", "--rm", "localhost/committed").text == "copied in"
    podman("rmi", "localhost/committed")


def test_mount_export(podman, box, share):
    top = podman("mount", box).text
    assert (podman.lab.root / top[1:] / "var/www/index.html").read_text() == "hello-from-image\n"
    podman("umount", box)
    podman("export", "--output", share / "all.tar", box)
    with tarfile.open(share / "all.tar") as archive:
        assert "var/www/index.html" in archive.getnames()


@pytest.fixture
def criu_path(podman, engine_runtime) -> dict[str, str]:
    """PATH with a criu that works on this kernel."""
    if podman.lab.run(engine_runtime, "checkpoint", "--help", status=None).status:
        missing("the runtime's checkpoint")
    try:
        return {"PATH": f"{criu.directory()}:{PATH}"}
    except criu.Unavailable as error:
        missing(f"criu ({error})")
    raise AssertionError


@pytest.mark.parametrize("is_exported", [False, True], ids=["in-place", "exported"])
def test_checkpoint(monitored, criu_path, share, is_exported):
    """Stopped in the middle and gone on with, in its place or from a file; what it did before is still there."""
    script = "echo $$ > /tmp/mark; n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.05; done"
    monitored("run", "-d", "--name", "counter", BB, "sh", "-c", script)

    def count() -> int:
        return int(monitored("exec", "counter", "cat", "/tmp/count").text or 0)

    until(lambda: monitored("exec", "counter", "test", "-s", "/tmp/count", status=None).status == 0, "the first count")
    before = until(lambda: count() > 3 and count(), "a few counts")
    words = ["--export", share / "state.tar"] if is_exported else []
    monitored("container", "checkpoint", *words, "counter", env=criu_path)
    assert monitored.inspect("counter", "{{.State.Checkpointed}} {{.State.Running}}") == "true false"
    if is_exported:
        monitored.remove("counter")
        monitored("container", "restore", "--import", share / "state.tar", env=criu_path)
    else:
        monitored("container", "restore", "counter", env=criu_path)
    until(lambda: count() > before, "a later count")
    monitored.remove("counter")


# -- networks --------------------------------------------------------------------------------------------------------------


def fetched(podman: Podman, port: int) -> bytes:
    """What a web server at a port of the lab answers."""
    with podman.lab.connect(port) as connection:
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    return answer


def test_port_publish(podman):
    podman("run", "-d", "--name", "web", "-p", "8081:80", BB, "httpd", "-f", "-p", "80", "-h", "/var/www")
    assert podman("port", "web").text == "80/tcp -> 0.0.0.0:8081"
    assert b"hello-from-image" in fetched(podman, 8081)
    podman.remove("web")


def test_network(podman):
    """A network of the user's: names are resolved, an address can be chosen."""
    podman("network", "create", "--subnet", "10.98.7.0/24", "own")
    podman("run", "-d", "--name", "web", "--network", "own", "--ip", "10.98.7.77", BB, "httpd", "-f", "-h", "/var/www")
    asked = podman("run", "--rm", "--network", "own", BB, "sh", "-c", "wget -qO- http://web/index.html; nslookup web")
    assert "hello-from-image" in asked.out and "10.98.7.77" in asked.out
    podman("network", "disconnect", "own", "web")
    podman("network", "connect", "own", "web")
    assert re.search(r"inet 10\.98\.7\.", podman("exec", "web", "ip", "addr").out)
    podman.remove("web")
    podman("network", "rm", "own")
