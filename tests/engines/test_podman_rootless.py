"""Podman and Buildah of an ordinary user: the runtime is root of a user namespace that podman made, without cgroups (on v1)."""

from __future__ import annotations

import os

import pytest
from features import has
from lab import missing
from podman_lab import BB, Machine, beyond_runc, inside
from test_podman_lifecycle import fetched

USER, UID = "nestling", 4321


@pytest.fixture(scope="module")
def podman_machine(new_lab, engine_runtime):
    return Machine(new_lab(), engine_runtime, (USER, UID))


@pytest.fixture
def share(share):
    os.chown(share, UID, UID)
    return share


@pytest.fixture
def box(podman):
    podman("run", "-d", "--name", "box", BB, "sleep", "600")
    yield "box"
    podman.remove("box")


def test_info(podman, engine_runtime):
    assert (
        podman("info", "--format", "{{.Host.Security.Rootless}} {{.Host.OCIRuntime.Path}}").text
        == f"true {engine_runtime}"
    )


def test_load(podman):
    assert BB in podman("images", "--format", "{{.Repository}}:{{.Tag}}").lines


def test_run(monitored):
    out = monitored(
        "run", "--rm", BB, "sh", "-c", "id -u; echo $$; cat /proc/self/uid_map; touch /root/x && echo written"
    )
    assert out.lines[:2] == ["0", "1"] and out.lines[-1] == "written"
    assert [line.split() for line in out.lines[2:-1]] == [["0", str(UID), "1"], ["1", "200000", "65536"]]


def test_run_idmap(podman, share):
    """Who the container's users are outside."""
    podman("run", "--rm", "-v", f"{share}:/in", BB, "sh", "-c", "touch /in/root; touch /in/alice; chown 1000 /in/alice")
    assert ((share / "root").stat().st_uid, (share / "alice").stat().st_uid) == (UID, 200999)
    podman("unshare", "rm", share / "alice")


def test_run_net(podman):
    """slirp4netns: an interface of its own, without a privilege."""
    assert "tap0" in podman("run", "--rm", BB, "ls", "/sys/class/net").out


def test_run_net_host(podman):
    out = podman("run", "--rm", "--network", "host", BB, "readlink", "/proc/self/ns/net").text
    assert out == inside(podman, "readlink", "/proc/self/ns/net").text


def test_run_net_none(podman):
    assert podman("run", "--rm", "--network", "none", BB, "ls", "/sys/class/net").text == "lo"


def test_run_exit(monitored):
    monitored("run", "--rm", BB, "sh", "-c", "exit 42", status=42)


def test_run_127(podman):
    error = podman("run", "--rm", BB, "nosuch", status=127).err
    assert 'exec: "nosuch": executable file not found in $PATH' in error
    assert 'exec: "/etc/passwd": permission denied' in podman("run", "--rm", BB, "/etc/passwd", status=126).err


def test_run_user(podman):
    assert podman("run", "--rm", "--user", "alice:staff", BB, "id").text.startswith("uid=1000(alice) gid=50(staff)")


def test_run_keepid(podman, share):
    """--userns=keep-id: the user has the same number inside."""
    out = podman("run", "--rm", "--userns", "keep-id", "-v", f"{share}:/in", BB, "sh", "-c", "id -u; touch /in/file")
    assert out.text == str(UID) and (share / "file").stat().st_uid == UID


def test_run_tty(monitored):
    screen = monitored.terminal("run", "--rm", "-it", BB, "sh")
    screen.write("tty; echo t-$((40+2)); exit 7\n")
    assert "/dev/pts/0" in screen.expect("t-42")
    assert screen.finish() == 7


def test_run_memory(podman):
    """On cgroup v1 a user has none to limit: podman says so and goes on. On v2 he may have, but this one was given none."""
    if has("cgroup-v2"):
        out = podman("run", "--rm", "--memory", "64m", BB, "echo", "ran", status=None)
        assert out.status in (126, 127) and out.text == "" and "memory" in out.err and "cgroup" in out.err
        return
    out = podman("run", "--rm", "--memory", "64m", BB, "echo", "ran")
    assert out.text == "ran"


def test_exec(monitored):
    monitored("run", "-d", "--name", "box", BB, "sleep", "600")
    assert monitored("exec", "box", "sh", "-c", "id -u; cut -c1-30 /proc/1/comm").lines == ["0", "sleep"]
    assert monitored("exec", "--user", "alice", "box", "id", "-un").text == "alice"
    monitored("exec", "box", "sh", "-c", "exit 5", status=5)
    monitored.remove("box")


def test_stop(podman):
    podman("run", "-d", "--name", "c", "--init", BB, "sleep", "600")
    podman("stop", "c")
    assert podman.inspect("c", "{{.State.ExitCode}}") == "143"
    podman("rm", "c")


def test_pause(podman, box):
    refused = podman("pause", box, status=None)
    if "cgroup" in refused.err:
        missing("cgroup-v2: podman pauses nothing of a user's on v1")
    assert podman.inspect(box, "{{.State.Status}}") == "paused"
    podman("unpause", box)


def test_stats(podman, box):
    refused = podman("stats", "--no-stream", box, status=None)
    if "cgroup" in refused.err:
        missing("cgroup-v2: podman counts nothing of a user's on v1")
    assert "box" in refused.out


def test_ps_top(podman, box):
    assert podman("ps", "--format", "{{.Names}} {{.Image}}").text == f"{box} {BB}"
    assert podman("top", box, "pid", "comm").lines[1].split() == ["1", "sleep"]


def test_port(podman):
    podman("run", "-d", "--name", "web", "-p", "8085:80", BB, "httpd", "-f", "-h", "/var/www")
    assert b"hello-from-image" in fetched(podman, 8085)
    podman.remove("web")


def test_privileged(podman):
    out = podman(
        "run", "--rm", "--privileged", BB, "sh", "-c", "mount -t tmpfs x /mnt && grep CapEff /proc/self/status"
    )
    assert int(out.text.split()[1], 16) >> 21 & 1


def test_cgroups_disabled(podman, engine_runtime):
    beyond_runc(engine_runtime, "--cgroup-manager=disabled")
    assert podman("run", "--rm", "--cgroups", "disabled", BB, "echo", "ran").text == "ran"


def test_volume(podman):
    podman("run", "--rm", "-v", "kept:/data", "--user", "alice", "-w", "/tmp", BB, "sh", "-c", "ls -d /data")
    podman("run", "--rm", "-v", "kept:/data", BB, "sh", "-c", "echo stays > /data/file")
    assert podman("run", "--rm", "-v", "kept:/data", BB, "cat", "/data/file").text == "stays"
    podman("volume", "rm", "kept")


def test_build(podman, share):
    (share / "Dockerfile").write_text(
        f"FROM {BB}\nRUN id -u > /uid\nUSER alice\nRUN id -un > /tmp/who\nCMD cat /uid /tmp/who\n"
    )
    podman("build", "--tag", "localhost/built", share)
    assert podman("run", "--rm", "localhost/built").lines == ["0", "alice"]
    podman("rmi", "localhost/built")


def test_buildah(buildah):
    name = buildah("from", BB).text
    assert buildah("run", name, "sh", "-c", "echo $(id -u) $$").text == "0 1"
    error = buildah("run", name, "nosuch", status=None).err.replace('\\"', '"')
    assert 'exec: "nosuch": executable file not found in $PATH' in error
    buildah("rm", name)


def test_pod(podman, pause_image):
    podman("load", "--input", pause_image.docker)
    podman("pod", "create", "--infra-image", pause_image.name, "--name", "pod")
    podman("run", "-d", "--pod", "pod", "--name", "web", BB, "httpd", "-f", "-h", "/var/www")
    asked = podman("run", "--rm", "--pod", "pod", BB, "wget", "-qO-", "http://127.0.0.1/index.html")
    assert asked.text == "hello-from-image"
    podman("pod", "rm", "--force", "--time", "0", "pod")


def test_unshare(podman):
    assert podman("unshare", "id", "-u").text == "0"
