"""podman run: what a user of Podman does with one container, the process in it and what it prints."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from lab import until
from podman_lab import BB, DEBIAN, Podman, beyond_runc

pytestmark = pytest.mark.newer


def test_info(podman, engine_runtime):
    found = podman("info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}").text
    assert found == f"{engine_runtime.name} {engine_runtime}"
    assert engine_runtime.name in podman("info", "--format", "{{.Host.OCIRuntime.Version}}").text


def test_info_conmon(monitored):
    """The conmon that was asked for: podman takes another one when it does not like what it was told."""
    found = monitored("info", "--format", "{{.Host.Conmon.Path}} {{.Host.Conmon.Version}}")
    assert found.text.startswith(monitored.command[-1]) and not found.err, found


def test_run_rm(monitored):
    assert monitored("run", "--rm", "--name", "once", BB, "echo", "hi").out == "hi\n"
    monitored("container", "exists", "once", status=1)


# -- exit statuses and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 3, 125, 126, 127, 255])
def test_run_exit_code(monitored, status):
    monitored("run", "--rm", BB, "sh", "-c", f"exit {status}", status=status)


def test_run_exit_code_of_a_signal(monitored):
    monitored("run", "--rm", "--init", BB, "sh", "-c", "kill -KILL $$", status=137)


def refused(podman: Podman, status: int, *words: str) -> str:
    """`podman run` of what cannot be: its error, in which every word of the runtime's own is found."""
    result = podman("run", "--name", "refused", *words, status=status)
    beside = Path(podman.inspect("refused", "{{.ConmonPidFile}}")[1:])
    said = json.loads((podman.lab.root / beside.with_name("oci-log")).read_text())  # one object, or podman shows none
    assert said["level"] == "error" and said["msg"] in result.err, (said, result)
    podman.remove("refused")
    return result.err


def test_run_127(monitored):
    """The runtime's words reach the user, and the status that shells give."""
    assert 'exec: "nosuch": executable file not found in $PATH' in refused(monitored, 127, BB, "nosuch")
    assert 'exec: "/no/such": stat /no/such: no such file or directory' in refused(monitored, 127, BB, "/no/such")


def test_run_126(monitored):
    assert 'exec: "/etc/passwd": permission denied' in refused(monitored, 126, BB, "/etc/passwd")
    refused(monitored, 126, BB, "/etc")


def test_run_bad_mount(podman, share):
    """A source that is not there podman refuses; a directory over a file the runtime must."""
    podman("run", "--rm", "-v", "/no/such:/x", BB, "true", status=125)
    assert "not a directory" in refused(podman, 126, "-v", f"{share}:/var/www/index.html", BB, "true").lower()


def test_run_bad_sysctl(podman):
    assert "nosuch" in refused(podman, 127, "--sysctl", "net.ipv4.nosuch=1", BB, "true")


# -- standard streams, terminals and signals -------------------------------------------------------------------------------


def test_run_stdin(monitored):
    assert monitored("run", "--rm", "-i", BB, "cat", input="one\ntwo\n").out == "one\ntwo\n"
    assert monitored("run", "--rm", BB, "cat", input="unread\n").out == ""


def test_run_stdin_large(monitored, share):
    """Every byte goes in and comes out."""
    data = os.urandom(1 << 20)
    with (share / "out").open("wb") as out:
        monitored("run", "--rm", "-i", BB, "cat", input=data, stdout=out)
    assert (share / "out").read_bytes() == data


def test_run_stderr(monitored):
    result = monitored("run", "--rm", BB, "sh", "-c", "echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


def test_run_tty(monitored):
    screen = monitored.terminal("run", "--rm", "-it", BB, "sh")
    screen.write("tty; test -t 1 && echo t-$((40+2)); exit 7\n")
    assert "/dev/pts/0" in screen.expect("t-42")
    assert screen.finish() == 7


def test_run_tty_resize(monitored):
    screen = monitored.terminal("run", "--rm", "-it", BB, "sh")
    screen.expect("#")
    screen.write("until stty size | grep '^24 80'; do :; done\n")
    screen.expect("\n24 80")
    screen.write("until stty size | grep '^30 101'; do :; done; exit\n")
    screen.resize_until("\n30 101", 101, 30)
    assert screen.finish() == 0


def test_run_tty_without_input(monitored):
    assert monitored("run", "--rm", "-t", BB, "sh", "-c", "tty; echo end").out == "/dev/pts/0\r\nend\r\n"


def test_run_sigint(monitored, share):
    """A signal to podman reaches the container's process."""
    script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.05; done"
    with (share / "out").open("wb") as out:
        child = monitored.popen("run", "--rm", BB, "sh", "-c", script, stdout=out)
    until(lambda: (share / "out").read_text() == "up\n", "the container's first word")
    child.kill(signal.SIGINT)
    assert child.wait() == 9
    assert (share / "out").read_text() == "up\ncaught\n"


# -- the process -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "user, expected",
    [("alice", "1000 1000"), ("1000", "1000 1000"), ("1234:50", "1234 50"), ("nobody", "65534 65534")],
)
def test_run_user(podman, user, expected):
    assert podman("run", "--rm", "--user", user, BB, "sh", "-c", "echo $(id -u) $(id -g)").text == expected


def test_run_groupadd(podman):
    groups = podman("run", "--rm", "--user", "1000", "--group-add", "staff", "--group-add", "77", BB, "id", "-G")
    assert {"50", "77", "1000"} <= set(groups.text.split())


def test_run_env_workdir(podman):
    out = podman("run", "--rm", "-e", "A=b c", "--env", "X=1", "-w", "/var/www", BB, "sh", "-c", 'echo "$A$X $PWD"')
    assert out.text == "b c1 /var/www"


def test_run_entrypoint(podman):
    assert podman("run", "--rm", "--entrypoint", '["/bin/echo","a"]', BB, "b").text == "a b"


def test_run_hostname(podman):
    assert podman("run", "--rm", "--hostname", "inner", BB, "hostname").text == "inner"


def test_run_init(monitored):
    out = monitored("run", "--rm", "--init", BB, "sh", "-c", "cat /proc/1/comm; echo $$")
    name, pid = out.lines
    assert "init" in name or "catatonit" in name, out
    assert int(pid) > 1


def test_run_default_ulimit(podman):
    limits = podman("run", "--rm", BB, "cat", "/proc/self/limits").out
    configured = re.search(r"nofile=(\d+):", (podman.lab.root / "etc/containers/containers.conf").read_text())
    assert re.search(rf"^Max open files +{configured[1]} +{configured[1]}", limits, re.M), limits


@pytest.mark.requires("cap-sys-resource")
def test_run_ulimit(podman):
    """Given a list, podman adds its own defaults to it, which only CAP_SYS_RESOURCE can set."""
    limits = podman("run", "--rm", "--ulimit", "nofile=100:200", BB, "cat", "/proc/self/limits").out
    assert re.search(r"^Max open files +100 +200", limits, re.M), limits


def test_run_ulimit_of_every_kind(podman):
    """The same with all that podman would add said by the user."""
    options = ["--ulimit", "nofile=100:200", "--ulimit", "nproc=30000:30000", "--ulimit", "core=0:0"]
    limits = podman("run", "--rm", *options, BB, "cat", "/proc/self/limits").out
    assert re.search(r"^Max open files +100 +200", limits, re.M), limits
    assert re.search(r"^Max core file size +0 +0", limits, re.M), limits


def test_run_timezone_hosts(podman):
    out = podman("run", "--rm", "--tz", "UTC", "--add-host", "other:10.1.2.3", "--dns", "10.9.9.9", BB,
                 "cat", "/etc/hosts", "/etc/resolv.conf").out  # fmt: skip
    assert re.search(r"^10\.1\.2\.3\s+other", out, re.M) and "nameserver 10.9.9.9" in out, out


def test_run_annotation(podman):
    out = podman("create", "--annotation", "org.example.key=value", "--name", "noted", BB, "true")
    assert podman.inspect("noted", '{{index .Config.Annotations "org.example.key"}}') == "value", out
    podman("start", "--attach", "noted")
    podman("rm", "noted")


@pytest.mark.requires("linux32")
def test_run_personality(podman, engine_runtime):
    beyond_runc(engine_runtime, "linux.personality")
    assert podman("run", "--rm", "--personality", "LINUX32", BB, "uname", "-m").text == "i686"


def test_run_timeout(monitored):
    """conmon ends a container that runs too long, and says -1."""
    monitored("run", "--rm", "--timeout", "1", BB, "sleep", "60", status=255)


def test_run_stopsignal(podman, share):
    script = f"trap 'echo USR1 > {share}/got; exit 0' USR1; touch {share}/up; while :; do sleep 0.05; done"
    podman("run", "-d", "--name", "stopper", "--stop-signal", "USR1", "-v", f"{share}:{share}", BB, "sh", "-c", script)
    until((share / "up").exists, "the trap")
    podman("stop", "stopper")
    assert (share / "got").read_text() == "USR1\n"
    assert podman.inspect("stopper", "{{.State.ExitCode}}") == "0"
    podman("rm", "stopper")


def test_run_deb(podman):
    """A userland with shared libraries."""
    out = podman(
        "run", "--rm", DEBIAN, "bash", "-c", "id -un; ls -d /etc; [[ $BASH_VERSION ]]; grep -c libc /proc/$$/maps"
    )
    assert out.lines[:2] == ["root", "/etc"] and int(out.lines[2]) > 0


def test_run_runtime_flag(podman, engine_runtime):
    """Global options of the runtime, and another state directory."""
    assert podman("--runtime", str(engine_runtime), "run", "--rm", BB, "echo", "by path").text == "by path"
    assert podman("--runtime-flag", "debug", "run", "--rm", BB, "echo", "told").text.endswith("told")


def test_run_rootfs(podman, podman_host):
    """A directory and not an image; the second time below an overlay."""
    place = podman_host.rootfs
    assert podman("run", "--rm", "--rootfs", place, "cat", "/var/www/index.html").text == "hello-from-image"
    podman("run", "--rm", "--rootfs", f"{place}:O", "sh", "-c", "echo changed > /var/www/index.html")
    assert (place / "var/www/index.html").read_text() == "hello-from-image\n"


def test_run_preserve_fds(monitored, share):
    (share / "three").write_text("from three\n")
    shell = Podman(monitored.lab, "sh", "-c", f'exec 3<{share}/three; exec "$@"', "sh", *monitored.command)
    out = shell("run", "--rm", "--preserve-fds", "1", BB, "sh", "-c", "cat <&3; ls /proc/self/fd")
    assert out.lines == ["from three", "0", "1", "2", "3", "4"]  # the last is that of ls


def test_run_passthrough(monitored):
    """The log driver passthrough: the container has podman's own descriptors."""
    result = monitored("run", "--rm", "--log-driver", "passthrough", BB, "sh", "-c", "echo out; echo err >&2; cat",
                       input="in\n")  # fmt: skip
    assert (result.out, result.err) == ("out\nin\n", "err\n")


def test_run_sdnotify(monitored, share):
    """--sdnotify=container: READY=1 of the container's process reaches who asked; =conmon: conmon says so itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(share / "notify"))
        notified.settimeout(20)
        for kind in ("conmon", "container"):
            script = "probe notify READY=1; sleep 60" if kind == "container" else "sleep 60"
            monitored("run", "-d", "--name", f"by-{kind}", "--sdnotify", kind, BB, "sh", "-c", script,
                      env={"NOTIFY_SOCKET": str(share / "notify")})  # fmt: skip
            said = b""
            while b"READY=1" not in said:
                said += notified.recv(4096) + b"\n"
            monitored.remove(f"by-{kind}")


def test_run_pids_are_ours(podman):
    """The process is the first of its pid namespace, and has no descriptors but its own three."""
    out = podman("run", "--rm", BB, "sh", "-c", "echo $$; ls /proc/self/fd")
    assert out.lines[0] == "1" and out.lines[1:] == ["0", "1", "2", "3"], out


def test_detach_logs(monitored):
    monitored("run", "-d", "--name", "talker", BB, "sh", "-c", "echo one; echo two >&2; printf three")
    assert monitored("wait", "talker").text == "0"
    result = monitored("logs", "talker")
    assert (result.out, result.err) == ("one\nthree", "two\n")
    tail = monitored("logs", "--tail", "1", "talker")
    assert "one" not in tail.out and tail.out + tail.err
    stamped = monitored("logs", "--timestamps", "talker").lines[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+ one", stamped), stamped
    monitored("rm", "talker")


def test_logs_follow(monitored):
    """logs -f sees what comes later, and ends with the container."""
    monitored("run", "-d", "--name", "slow", BB, "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert monitored("logs", "-f", "slow").lines == ["1", "2", "3"]
    monitored.remove("slow")


def test_logs_every_line(monitored):
    monitored("run", "-d", "--name", "lines", BB, "seq", "20000")
    monitored("wait", "lines")
    assert monitored("logs", "lines").lines == [str(number) for number in range(1, 20001)]
    monitored("rm", "lines")


def test_logs_long_line(monitored):
    """A line longer than any buffer comes back whole."""
    monitored("run", "-d", "--name", "long", BB, "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
    monitored("wait", "long")
    assert monitored("logs", "long").out == "x" * 100000 + "\nend\n"
    monitored("rm", "long")


def test_logs_none(podman):
    podman("run", "--log-driver", "none", "--name", "silent", BB, "echo", "said")
    assert podman("logs", "silent", status=None).status != 0
    podman("rm", "silent")


def test_logs_size(monitored):
    """--log-opt max-size: the log is cut, the last lines stay."""
    monitored("run", "-d", "--name", "big", "--log-opt", "max-size=10kb", BB, "seq", "5000")
    monitored("wait", "big")
    log = monitored.lab.root / monitored.inspect("big", "{{.HostConfig.LogConfig.Path}}")[1:]
    assert log.stat().st_size <= 20 << 10
    assert monitored("logs", "--tail", "1", "big").text == "5000"
    monitored("rm", "big")


def test_parallel_10(monitored):
    children = [monitored.popen("run", "--rm", BB, "sh", "-c", f"exit {40 + number}") for number in range(10)]
    assert [child.wait(60) for child in children] == list(range(40, 50))
