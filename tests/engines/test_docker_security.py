"""docker run's options that say what a container may do: capabilities, seccomp, devices, sysctls, namespaces, users."""

from __future__ import annotations

import json
import re

import pytest
from docker_lab import BB, GIVEN, HELD, is_peer, needs_all_capabilities, own_words, running, user
from lab import missing


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


def status(docker, *options, field="CapEff"):
    """A line of /proc/self/status in a container with those options."""
    return docker.output(*options, BB, "grep", f"{field}:", "/proc/self/status").split()[1]


#: CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
BIND, ADMIN, RAW, SYS_ADMIN = 1 << 10, 1 << 12, 1 << 13, 1 << 21


def test_run_privileged(docker, engine_runtime):
    """Everything that this machine's root has, all devices, nothing masked, /sys and cgroups to be written."""
    needs_all_capabilities(engine_runtime)
    assert int(status(docker, "--privileged"), 16) == GIVEN
    assert status(docker, "--privileged", field="Seccomp") == "0"
    script = "mount -t tmpfs x /mnt && mkdir /sys/fs/cgroup/memory/x && rmdir /sys/fs/cgroup/memory/x && ls -d /dev/loop-control /sys/firmware/* | head -1"
    assert docker.shell(script, "--privileged") == "/dev/loop-control"
    assert docker.shell("hostname changed && hostname", "--privileged") == "changed"


def test_run_caps(docker):
    usual = int(status(docker), 16)
    assert not usual & (ADMIN | SYS_ADMIN) and usual & RAW
    assert int(status(docker, "--cap-drop", "ALL"), 16) == 0
    assert int(status(docker, "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"), 16) == BIND
    assert int(status(docker, "--cap-add", "NET_ADMIN"), 16) == usual | ADMIN
    assert int(status(docker, "--cap-drop", "NET_RAW", field="CapBnd"), 16) == usual & ~RAW
    docker.run("--cap-drop", "CHOWN", BB, "chown", "alice", "/tmp", status=1)
    docker.run("--cap-add", "NET_ADMIN", BB, "ip", "link", "set", "lo", "mtu", "1400")
    docker.run(BB, "ip", "link", "set", "lo", "mtu", "1400", status=2)
    assert "invalid" in docker.run("--cap-add", "NOSUCH", BB, "true", status=125).err


def test_run_seccomp(docker, dockerd):
    assert status(docker, field="Seccomp") == "2"
    assert "Operation not permitted" in docker.run(BB, "unshare", "-U", "true", status=1).err
    assert status(docker, "--security-opt", "seccomp=unconfined", field="Seccomp") == "0"
    profile = dockerd.dir / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    assert "not supported" in docker.run("--security-opt", f"seccomp={profile}", BB, "mkdir", "/x", status=1).err
    profile.write_text(
        json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{**rule, "action": "SCMP_ACT_NONE"}]})
    )
    own_words(docker.run("--security-opt", f"seccomp={profile}", BB, "true", status=125).err, "SCMP_ACT_NONE")


def test_run_nnp(docker):
    assert status(docker, "--security-opt", "no-new-privileges", field="NoNewPrivs") == "1"
    assert status(docker, field="NoNewPrivs") == "0"


def test_run_apparmor_and_labels(docker):
    """Without the LSM an unconfined profile is nothing to do."""
    docker.run("--security-opt", "apparmor=unconfined", "--security-opt", "label=disable", BB, "true")


def test_run_sysctl(docker):
    options = (
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "net.core.somaxconn=77",
        "--sysctl",
        "kernel.msgmax=4096",
    )
    out = docker.output(*options, BB, "sysctl", "-n", "net.ipv4.ip_forward", "net.core.somaxconn", "kernel.msgmax")
    assert out.split() == ["1", "77", "4096"]
    # Docker's own: ports below 1024 and ping need no capability
    assert docker.output("-u", "alice", BB, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "0"
    error = docker.fails("run", "--rm", "--net", "host", "--sysctl", "net.ipv4.ip_forward=1", BB, "true")
    own_words(error, "net.ipv4.ip_forward", "network namespace")


def test_run_device(docker):
    out = docker.shell(
        "stat -c '%t:%T %F' /dev/x; dd if=/dev/x of=/dev/null bs=1 count=1", "--device", "/dev/zero:/dev/x:rwm"
    )
    assert out == "1:5 character special file"
    refused = docker.run("--device", "/dev/loop-control:/dev/x:w", BB, "dd", "if=/dev/x", "count=1", status=1).err
    assert "Operation not permitted" in refused
    # made by the container itself, allowed by a rule, and not without it
    make = "mknod /n c 1 9 && head -c 1 /n | wc -c"
    assert docker.shell(make, "--device-cgroup-rule", "c 1:9 rm") == "1"
    assert docker.shell("mknod /n c 10 237 && ! cat /n 2>/dev/null && echo refused") == "refused"
    names = set(docker.output(BB, "ls", "/dev").split())
    assert {
        "null",
        "zero",
        "full",
        "tty",
        "urandom",
        "random",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "ptmx",
        "pts",
        "shm",
        "mqueue",
    } == names - {"core", "console"}
    assert "no such file or directory" in docker.run("--device", "/dev/nosuch", BB, "true", status=None).err


def test_run_oomscore(docker):
    assert docker.output("--oom-score-adj", 500, BB, "cat", "/proc/self/oom_score_adj") == "500"
    assert docker.output(BB, "cat", "/proc/self/oom_score_adj") == "0"


def test_run_oomscore_neg(docker, engine_runtime):
    """Only CAP_SYS_RESOURCE may lower it; a refusal of the kernel is no warning."""
    result = docker.run("--oom-score-adj", -500, BB, "cat", "/proc/self/oom_score_adj", status=None)
    if not HELD >> 24 & 1:
        assert result.status in (125, 126), result
        if not is_peer(engine_runtime):
            own_words(result.err, "oom_score_adj", "permission denied")
        missing("CAP_SYS_RESOURCE, without which oom_score_adj cannot be lowered")
    assert result.out == "-500\n"


def test_run_pid_host(docker):
    out = docker.output("--pid", "host", BB, "cat", "/proc/1/comm")
    assert out == (docker.lab.root / "proc/1/comm").read_text().strip()
    id_ = docker.detached("--pid", "host", BB, "sh", "-c", "sleep 2001 & sleep 2002")
    docker("rm", "-f", id_)
    assert not [words for words in docker.lab.pids().values() if re.match("sleep 200[12]", words)]


def test_run_pid_container(docker):
    id_ = docker.sleeping()
    assert docker.output("--pid", f"container:{id_}", BB, "cat", "/proc/1/comm") == "sleep"
    docker.run("--pid", f"container:{id_}", BB, "kill", "1")


def test_run_ipc(docker):
    id_ = docker.sleeping("--ipc", "shareable")
    docker.exec(id_, "sh", "-c", "echo shared > /dev/shm/x")
    assert docker.output("--ipc", f"container:{id_}", BB, "cat", "/dev/shm/x") == "shared"
    own = docker.output(BB, "readlink", "/proc/self/ns/ipc")
    assert docker.output("--ipc", "host", BB, "readlink", "/proc/self/ns/ipc") != own
    assert docker.output("--ipc", "none", BB, "ls", "/dev").count("shm") == 0


def test_run_uts(docker):
    assert docker.output("-h", "web", "--domainname", "example.test", BB, "hostname", "-f") == "web.example.test"
    assert docker.output("--uts", "host", BB, "hostname") == docker.lab.run("hostname").out.strip()


def test_run_cgroupns(docker):
    private = docker.output("--cgroupns", "private", BB, "cat", "/proc/self/cgroup").splitlines()
    assert private and all(line.endswith(":/") for line in private)
    host = docker.output("--cgroupns", "host", BB, "cat", "/proc/self/cgroup").splitlines()
    assert all(re.search(r"/docker/[0-9a-f]{64}$", line) for line in host)
    mounted = docker.output("--cgroupns", "private", BB, "cat", "/sys/fs/cgroup/memory/cgroup.procs").split()
    assert "1" in mounted
