"""Podman of the ordinary user who runs the tests, on cgroup v2 with a systemd of his own: with either maker of cgroups, under either conmon.

Unlike in test_podman_rootless.py, where root makes the user and there are no cgroups for him, he has limits here.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
from here import Here
from lab import need, until
from podman_lab import BB, CONMONS, PACKAGES, REGISTRIES_CONF, Podman

pytestmark = [pytest.mark.requires("systemd-user", "cgroup-v2"), pytest.mark.timeout(600)]

CONTAINERS_CONF = """\
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "{manager}"
events_logger = "file"
lock_type = "file"
runtime = "{name}"
tmp_dir = "{run}/libpod"
runtime_supports_json = ["{name}"]
runtime_supports_nocgroup = ["{name}"]
[engine.runtimes]
{name} = ["{runtime}"]
"""
STORAGE_CONF = '[storage]\ndriver = "overlay"\ngraphroot = "{home}/storage"\nrunroot = "{run}/storage"\n'
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def here(engine_runtime) -> Iterator[Here]:
    """Podman's files, with the images, in a home of the tests'."""
    need(*PACKAGES, "uidmap", "slirp4netns")
    here = Here()
    place = here.dir / "home/.config/containers"
    place.mkdir(parents=True)
    paths = {"home": here.dir / "home", "run": here.dir / "run"}
    for manager in ("systemd", "cgroupfs"):
        text = CONTAINERS_CONF.format(manager=manager, name=engine_runtime.name, runtime=engine_runtime, **paths)
        (here.dir / f"{manager}.conf").write_text(text)
    (place / "storage.conf").write_text(STORAGE_CONF.format(**paths))
    (place / "registries.conf").write_text(REGISTRIES_CONF)
    (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    here.env["CONTAINERS_CONF"] = str(here.dir / "systemd.conf")
    for image in (images.bb(), images.pause()):
        here.run("podman", "load", "--input", image.docker, timeout=120)
    yield here
    here.run("podman", "unshare", "rm", "-rf", here.dir, status=None)


@pytest.fixture(params=["systemd", "cgroupfs"])
def manager(request) -> str:
    """Who makes the cgroups."""
    return str(request.param)


@pytest.fixture(params=CONMONS, ids=lambda path: Path(path).name)
def podman(here, manager, request) -> Iterator[Podman]:
    settings = f"CONTAINERS_CONF={here.dir}/{manager}.conf"
    podman = Podman(here, "env", settings, "podman", "--conmon", request.param)
    yield podman
    if left := what_is_left(podman):
        for words in ("pod rm --all --force --time 0", "rm --all --force --time 0"):
            podman(*words.split(), status=None)
        pytest.fail("left behind: " + " ".join(left), pytrace=False)


def what_is_left(podman) -> list[str]:
    found = podman("ps", "--all", "--format", "{{.Names}}").lines
    runtime_dir = Path(os.environ["XDG_RUNTIME_DIR"])
    # without what is shared by all containers of a root, such as compiled seccomp filters
    places = [runtime_dir.glob(f"{name}/[!:.]*") for name in ("pyrunc", "crun", "runc")]
    scopes = own_cgroups().rglob("libpod-*") if not found else ()
    return found + [str(path) for path in itertools.chain(*places, scopes) if "libpod_parent" not in path.name]


def own_cgroups() -> Path:
    """The cgroup of the user's systemd."""
    own = Path("/proc/self/cgroup").read_text().partition("0::")[2].strip()
    head, _, rest = own.partition("/user@")
    return CGROUPS / f"{head}/user@{rest.partition('/')[0]}".lstrip("/")


def cgroup_of(podman, name) -> Path:
    pid = podman.inspect(name, "{{.State.Pid}}")
    return CGROUPS / Path(f"/proc/{pid}/cgroup").read_text().partition("0::/")[2].strip()


@pytest.fixture
def box(podman):
    """A container named box that sleeps."""
    podman("run", "-d", "--name", "box", "--network", "none", BB, "sleep", "600")
    yield "box"
    podman.remove("box")


def test_info(podman, manager, engine_runtime):
    words = "{{.Host.Security.Rootless}} {{.Host.CgroupsVersion}} {{.Host.CgroupManager}} {{.Host.OCIRuntime.Path}}"
    assert podman("info", "--format", words).text == f"true v2 {manager} {engine_runtime}"


def test_run(podman):
    script = "id -u; echo $$; cat /proc/self/cgroup; touch /root/x && echo written >&2; exit 42"
    done = podman("run", "--rm", "--network", "none", BB, "sh", "-c", script, status=42)
    assert done.lines == ["0", "1", "0::/"] and done.err == "written\n"


def test_run_as_another_user(podman):
    out = podman("run", "--rm", "--network", "none", "--user", "alice:staff", BB, "id")
    assert out.text.startswith("uid=1000(alice) gid=50(staff)")


def test_run_of_a_program_that_is_not_there(podman):
    error = podman("run", "--rm", "--network", "none", BB, "nosuch", status=127).err
    assert 'exec: "nosuch": executable file not found in $PATH' in error


def test_run_with_a_terminal(podman):
    screen = podman.terminal("run", "--rm", "-it", "--network", "none", BB, "sh")
    screen.write("tty; stat -c '%u %t' /dev/console; echo t-$((40+2)); exit 7\n")
    shown = screen.expect("t-42")
    assert "/dev/pts/0" in shown and "0 88" in shown, shown
    assert screen.finish() == 7


def test_limits(podman, manager):
    """In force, seen from inside and from outside, and of systemd's kind where it makes the cgroup."""
    limits = ("--memory", "64m", "--pids-limit", "77", "--cpus", "0.5", "--cpuset-cpus", "0")
    podman("run", "-d", "--name", "box", "--network", "none", *limits, BB, "sleep", "600")
    files = ("memory.max", "pids.max", "cpu.max", "cpuset.cpus")
    inside = podman("exec", "box", *("sh", "-c", 'cd /sys/fs/cgroup; cat "$@"', "sh", *files)).lines
    assert inside == [str(64 << 20), "77", "50000 100000", "0"]
    place = cgroup_of(podman, "box")
    assert [(place / file).read_text().strip() for file in files] == inside
    assert place.is_relative_to(own_cgroups()) and (place.suffix == ".scope") == (manager == "systemd"), place
    podman.remove("box")


def test_out_of_memory(podman):
    script = "head -c 60000000 /dev/zero | tail -c 60000000 >/dev/null"
    words = ("--memory", "20m", "--memory-swap", "20m", "--network", "none", BB, "sh", "-c", f"exec sh -c '{script}'")
    assert podman("run", "--name", "box", *words, status=None).status == 137
    podman.remove("box")


def test_exec(podman, box):
    assert podman("exec", box, "sh", "-c", "id -u; cat /proc/1/comm /proc/self/cgroup").lines == ["0", "sleep", "0::/"]
    assert podman("exec", "--user", "alice", box, "id", "-un").text == "alice"
    podman("exec", box, "sh", "-c", "exit 5", status=5)
    assert podman("exec", "-i", box, "cat", input="hello").out == "hello"
    assert "executable file not found" in podman("exec", box, "nosuch", status=127).err


def test_exec_with_a_terminal(podman, box):
    screen = podman.terminal("exec", "-it", box, "sh")
    screen.write("tty; echo t-$((40+2)); exit 3\n")
    assert "/dev/pts/" in screen.expect("t-42")
    assert screen.finish() == 3


def test_logs(podman):
    podman("run", "-d", "--name", "box", "--network", "none", BB, "sh", "-c", "echo out; echo err >&2; echo $(seq 9)")
    podman("wait", "box")
    done = podman("logs", "box")
    assert done.lines == ["out", "1 2 3 4 5 6 7 8 9"] and done.err == "err\n"
    # two pipes are read in whichever order: what was written last need not be the last line
    last = podman("logs", "--tail", "1", "box")
    assert last.out + last.err in ("1 2 3 4 5 6 7 8 9\n", "err\n")
    podman("rm", "box")


def test_created_and_then_started(podman):
    podman("create", "--name", "box", "--network", "none", BB, "sleep", "600")
    podman("init", "box")
    assert podman.inspect("box", "{{.State.Status}}") == "initialized"
    podman("start", "box")
    podman("stop", "--time", "0", "box")
    assert podman.inspect("box", "{{.State.ExitCode}}") == "137"
    podman("start", "box")
    assert podman("exec", "box", "echo", "again").text == "again"
    podman.remove("box")


def test_pause(podman, box):
    podman("pause", box)
    assert podman.inspect(box, "{{.State.Status}}") == "paused"
    assert "frozen 1" in (cgroup_of(podman, box) / "cgroup.events").read_text()
    podman("unpause", box)
    assert podman("exec", box, "echo", "awake").text == "awake"


def test_update(podman, box):
    if "update" not in podman("--help").out:
        pytest.skip("missing feature: a podman that has update")
    podman("update", "--memory", "96m", box)
    assert (cgroup_of(podman, box) / "memory.max").read_text() == f"{96 << 20}\n"


def test_stats_and_top(podman, box):
    assert "box" in podman("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", box).out
    assert podman("top", box, "pid", "comm").lines[1].split() == ["1", "sleep"]


def fetched(port) -> bytes:
    """What the web server at a port of this machine answers."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        while part := connection.recv(4096):
            answer += part
    return answer


def is_served(port) -> bool:
    # what forwards the port may be there before the server
    try:
        return b"hello-from-image" in fetched(port)
    except OSError:
        return False


def test_published_port(podman):
    podman("run", "-d", "--name", "web", "-p", "8085:80", BB, "httpd", "-f", "-h", "/var/www")
    assert podman("port", "web").text == "80/tcp -> 0.0.0.0:8085"
    until(lambda: is_served(8085), "the page")
    podman.remove("web")


def test_network_of_its_own(podman):
    """slirp4netns: an interface of its own, without a privilege."""
    assert "tap0" in podman("run", "--rm", BB, "ls", "/sys/class/net").out


def test_network_of_the_host(podman):
    """Whose sysfs may not be mounted: podman has it bound."""
    out = podman("run", "--rm", "--network", "host", BB, "sh", "-c", "readlink /proc/self/ns/net; ls -d /sys/class/net")
    assert out.lines == [os.readlink("/proc/self/ns/net"), "/sys/class/net"]


def test_pod(podman):
    """A pod's containers share its network; as a whole it is published, paused, stopped and started."""
    podman("pod", "create", "--infra-image", images.pause().name, "--name", "pod", "-p", "8086:80")
    podman("run", "-d", "--pod", "pod", "--name", "web", BB, "httpd", "-f", "-h", "/var/www")
    asked = podman("run", "--rm", "--pod", "pod", BB, "wget", "-qO-", "http://127.0.0.1/index.html")
    assert asked.text == "hello-from-image"
    until(lambda: is_served(8086), "the page")
    podman("pod", "pause", "pod")
    assert podman.inspect("web", "{{.State.Status}}") == "paused"
    podman("pod", "unpause", "pod")
    podman("pod", "stop", "--time", "0", "pod")
    podman("pod", "start", "pod")
    assert podman("exec", "web", "wget", "-qO-", "http://127.0.0.1/index.html").text == "hello-from-image"
    podman("pod", "rm", "--force", "--time", "0", "pod")


def test_devices(podman):
    """They are bound from the host: a user makes none."""
    words = ("--device", "/dev/fuse", "--network", "none", BB, "sh", "-c", "stat -c '%t %T' /dev/fuse; : >/dev/null")
    assert podman("run", "--rm", *words).text == "a e5"


def test_keep_id(podman):
    """--userns=keep-id: the user has the same number inside."""
    assert podman("run", "--rm", "--userns", "keep-id", "--network", "none", BB, "id", "-u").text == str(os.geteuid())


def test_volume_of_the_users(podman, here):
    """Who the container's users are outside."""
    share = here.dir / "share"
    share.mkdir(exist_ok=True)
    words = (
        "--network",
        "none",
        "-v",
        f"{share}:/in",
        BB,
        "sh",
        "-c",
        "touch /in/root /in/alice; chown 1000 /in/alice",
    )
    podman("run", "--rm", *words)
    assert (share / "root").stat().st_uid == os.geteuid() != (share / "alice").stat().st_uid
    podman("unshare", "rm", "-r", share)


def test_restart_policy(podman):
    podman("run", "-d", "--name", "box", "--network", "none", "--restart", "on-failure:2", BB, "false")
    until(lambda: podman.inspect("box", "{{.RestartCount}} {{.State.Status}}") == "2 exited", "the last restart")
    podman("rm", "box")


def test_health(podman):
    words = ("--health-cmd", "true", "--health-interval", "disable", "--network", "none", BB, "sleep", "600")
    podman("run", "-d", "--name", "box", *words)
    podman("healthcheck", "run", "box")
    podman.remove("box")
