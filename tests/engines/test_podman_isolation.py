"""podman run: mounts, limits, privileges and namespaces, each seen from inside the container or in its cgroups."""

from __future__ import annotations

import json
import os
import re

import pytest
from lab import until
from podman_lab import BB, beyond_runc, inside

# -- mounts ----------------------------------------------------------------------------------------------------------------


def test_run_bind(podman, share):
    (share / "file").write_text("from outside\n")
    script = "cat /in/file /one; echo back > /in/back; echo x > /one || echo refused"
    out = podman("run", "--rm", "-v", f"{share}:/in", "-v", f"{share}/file:/one:ro", BB, "sh", "-c", script)
    assert out.lines == ["from outside", "from outside", "refused"]
    assert (share / "back").read_text() == "back\n"


def test_run_mount(podman, share):
    """--mount with options of its own."""
    (share / "file").write_text("x")
    options = f"type=bind,source={share},target=/in,ro=true,bind-propagation=rprivate"
    line = podman("run", "--rm", "--mount", options, BB, "sh", "-c", "grep ' /in ' /proc/self/mountinfo").text
    assert " ro," in line and "shared:" not in line and "master:" not in line, line


def test_run_volume(podman):
    podman("volume", "create", "kept")
    podman("run", "--rm", "-v", "kept:/data", BB, "sh", "-c", "echo stays > /data/file")
    assert podman("run", "--rm", "-v", "kept:/data:ro", BB, "cat", "/data/file").text == "stays"
    podman("volume", "rm", "kept")


def test_run_volume_copies_up(podman):
    """A new volume over a directory of the image begins with what the image has there."""
    assert podman("run", "--rm", "-v", "new:/var/www", BB, "cat", "/var/www/index.html").text == "hello-from-image"
    podman("volume", "rm", "new")


def test_run_overlay_vol(podman, share):
    (share / "file").write_text("below\n")
    script = "cat /in/file; echo above > /in/file; cat /in/file"
    assert podman("run", "--rm", "-v", f"{share}:/in:O", BB, "sh", "-c", script).lines == ["below", "above"]
    assert (share / "file").read_text() == "below\n"


@pytest.mark.requires("idmapped-mount")
def test_run_idmap_vol(podman, engine_runtime, share):
    """An idmapped volume: what belongs to root outside belongs to root of the user namespace."""
    beyond_runc(engine_runtime, "idmapped mounts")
    (share / "file").write_text("x")
    options = ["--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", "-v", f"{share}:/in:idmap"]
    script = "stat -c '%u %g' /in/file; echo y > /in/new; stat -c %u /in/new"
    assert podman("run", "--rm", *options, BB, "sh", "-c", script).lines == ["0 0", "0"]
    assert (share / "new").stat().st_uid == 0


def test_run_tmpfs_shm(podman):
    out = podman("run", "--rm", "--tmpfs", "/scratch:size=1m,mode=1777", "--shm-size", "2m", BB,
                 "sh", "-c", "df -k /scratch /dev/shm | awk 'NR>1 {print $2}'; stat -c %a /scratch")  # fmt: skip
    assert out.lines == ["1024", "2048", "1777"]


def test_run_readonly(podman):
    script = "touch /x 2>/dev/null || echo refused; touch /tmp/x /run/x /dev/shm/x && echo allowed"
    assert podman("run", "--rm", "--read-only", BB, "sh", "-c", script).lines == ["refused", "allowed"]


def test_run_mask_unmask(podman, share):
    script = "wc -c < /proc/keys; cat /proc/timer_list | wc -c"
    masked = podman("run", "--rm", BB, "sh", "-c", script).lines
    assert masked == ["0", "0"]
    opened = podman("run", "--rm", "--security-opt", "unmask=ALL", "--security-opt", "mask=/var/www", BB,
                    "sh", "-c", f"{script}; ls /var/www | wc -l; test -w /proc/sys/kernel/shm_rmid_forced && echo rw")  # fmt: skip
    assert opened.lines[0] != "0" and opened.lines[2] == "0", opened


def test_run_propagation(podman, share):
    """A mount made outside, later, comes into a container with rslave, and none into one with rprivate."""
    (share / "sub").mkdir()
    for name, kind in (("slave", "rslave"), ("alone", "rprivate")):
        podman("run", "-d", "--name", name, "-v", f"{share}:/in:{kind}", BB, "sleep", "60")
    inside(podman, "mount", "-t", "tmpfs", "later", f"{share}/sub")
    inside(podman, "touch", f"{share}/sub/seen")
    assert podman("exec", "slave", "ls", "/in/sub").text == "seen"
    assert podman("exec", "alone", "ls", "/in/sub").text == ""
    inside(podman, "umount", f"{share}/sub")
    podman.remove("slave", "alone")


def test_run_device(podman):
    script = "stat -c %t:%T /dev/other; dd if=/dev/other of=/dev/null bs=1 count=1 2>/dev/null && echo read"
    assert podman("run", "--rm", "--device", "/dev/zero:/dev/other:rm", BB, "sh", "-c", script).lines == ["1:5", "read"]
    script = "mknod /dev/mem0 c 1 1 && cat /dev/mem0 > /dev/null"
    podman("run", "--rm", "--cap-add", "MKNOD", BB, "sh", "-c", script, status=1)


# -- privileges ------------------------------------------------------------------------------------------------------------


def capabilities(status: str, which: str = "CapEff") -> int:
    return int(re.search(rf"^{which}:\s*(\w+)", status, re.M)[1], 16)


def test_run_privileged(podman):
    out = podman("run", "--rm", "--privileged", BB, "sh", "-c",
                 "mount -t tmpfs x /mnt && echo mounted; ls /dev | wc -l; cat /proc/self/status").out  # fmt: skip
    assert out.startswith("mounted\n") and int(out.splitlines()[1]) > 20
    ours = capabilities(inside(podman, "cat", "/proc/self/status").out, "CapBnd")
    assert capabilities(out) == ours
    assert re.search(r"^Seccomp:\s+0$", out, re.M)


def test_run_caps(podman):
    add = capabilities(podman("run", "--rm", "--cap-add", "NET_ADMIN", BB, "cat", "/proc/self/status").out)
    drop = capabilities(podman("run", "--rm", "--cap-drop", "CHOWN", BB, "cat", "/proc/self/status").out)
    none = capabilities(podman("run", "--rm", "--cap-drop", "ALL", BB, "cat", "/proc/self/status").out)
    assert add >> 12 & 1 and not drop & 1 and add & 1 and none == 0
    script = "chown 1 /tmp 2>/dev/null || echo refused"
    assert podman("run", "--rm", "--cap-drop", "CHOWN", BB, "sh", "-c", script).text == "refused"
    user = podman("run", "--rm", "--user", "1000", BB, "cat", "/proc/self/status").out
    assert capabilities(user) == 0 and capabilities(user, "CapBnd")


def test_run_seccomp(podman, share):
    """podman's own profile forbids unshare; a profile of the user's forbids what it names."""
    assert podman("run", "--rm", BB, "sh", "-c", "grep ^Seccomp: /proc/self/status").text.split()[1] == "2"
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    }
    (share / "profile.json").write_text(json.dumps(profile))
    result = podman("run", "--rm", "--security-opt", f"seccomp={share}/profile.json", BB, "mkdir", "/x", status=1)
    assert "Function not implemented" in result.err
    podman("run", "--rm", "--security-opt", "seccomp=unconfined", BB, "mkdir", "/x")


def test_run_nnp(podman):
    script = ["grep", "NoNewPrivs", "/proc/self/status"]
    assert podman("run", "--rm", "--security-opt", "no-new-privileges", BB, *script).text.endswith("1")
    assert podman("run", "--rm", BB, *script).text.endswith("0")


# -- limits ----------------------------------------------------------------------------------------------------------------


def limit(podman, name, controller, file):
    """What a cgroup file of a running container says, as the machine sees it."""
    pid = podman.inspect(name, "{{.State.Pid}}")
    for line in inside(podman, "cat", f"/proc/{pid}/cgroup").lines:
        _, controllers, path = line.split(":")
        if controller in controllers.split(","):
            return (podman.lab.root / f"sys/fs/cgroup/{controller}{path}/{file}").read_text().strip()
        if not controllers and controller == "unified":
            return (podman.lab.root / f"sys/fs/cgroup{path}/{file}").read_text().strip()
    raise AssertionError(f"no cgroup of {controller}")


@pytest.fixture
def limited(podman):
    """limited("--memory", "64m") -> the name of a container that sleeps under these limits."""
    names = []

    def run(*options):
        names.append(f"limited{len(names)}")
        podman("run", "-d", "--name", names[-1], *options, BB, "sleep", "60")
        return names[-1]

    yield run
    podman.remove(*names)


@pytest.mark.requires("cgroup-v1")
def test_run_memory(podman, limited):
    name = limited("--memory", "64m", "--memory-reservation", "32m")
    assert limit(podman, name, "memory", "memory.limit_in_bytes") == str(64 << 20)
    assert limit(podman, name, "memory", "memory.soft_limit_in_bytes") == str(32 << 20)


@pytest.mark.requires("cgroup-v1", "cpu-bandwidth-v1")
def test_run_cpu(podman, limited):
    name = limited("--cpus", "0.5", "--cpuset-cpus", "0")
    assert limit(podman, name, "cpu", "cpu.cfs_quota_us") == "50000"
    assert limit(podman, name, "cpuset", "cpuset.cpus") == "0"
    assert limit(podman, limited("--cpu-shares", "77"), "cpu", "cpu.shares") == "77"


@pytest.mark.requires("cgroup-v1")
def test_run_pids(podman, limited):
    assert limit(podman, limited("--pids-limit", "20"), "pids", "pids.max") == "20"
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait"
    assert "fork" in podman("run", "--rm", "--pids-limit", "5", BB, "sh", "-c", script, status=None).err


@pytest.mark.requires("blkio-throttle-v1")
def test_run_blkio(podman, limited):
    device = os.stat("/").st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(f"/dev/block/{numbers}") and not os.path.exists(f"/sys/dev/block/{numbers}"):
        numbers = next(iter(os.listdir("/sys/dev/block")))
    name = os.path.basename(os.readlink(f"/sys/dev/block/{numbers}"))
    found = limited("--device-read-bps", f"/dev/{name}:1mb")
    assert limit(podman, found, "blkio", "blkio.throttle.read_bps_device") == f"{numbers} 1048576"


def test_run_sysctl(podman):
    out = podman("run", "--rm", "--sysctl", "net.core.somaxconn=77", "--sysctl", "kernel.msgmax=7777", BB,
                 "cat", "/proc/sys/net/core/somaxconn", "/proc/sys/kernel/msgmax")  # fmt: skip
    assert out.lines == ["77", "7777"]


def test_run_oomscore(podman):
    assert podman("run", "--rm", "--oom-score-adj", "77", BB, "cat", "/proc/self/oom_score_adj").text == "77"


# -- namespaces ------------------------------------------------------------------------------------------------------------


def test_run_pid_host(podman):
    out = podman("run", "--rm", "--pid", "host", BB, "sh", "-c", "readlink /proc/self/ns/pid; cat /proc/1/comm")
    assert out.lines[0] == inside(podman, "readlink", "/proc/self/ns/pid").text
    assert out.lines[1] == (podman.lab.root / "proc/1/comm").read_text().strip()


def test_run_net_none(podman):
    assert podman("run", "--rm", "--network", "none", BB, "ls", "/sys/class/net").text == "lo"


def test_run_net_host(podman):
    out = podman("run", "--rm", "--network", "host", BB, "readlink", "/proc/self/ns/net").text
    assert out == inside(podman, "readlink", "/proc/self/ns/net").text


def test_run_net_ns(podman):
    """A network namespace that somebody made before."""
    inside(podman, "ip", "netns", "add", "made")
    inside(podman, "ip", "-n", "made", "link", "add", "mark0", "type", "bridge")
    out = podman("run", "--rm", "--network", "ns:/run/netns/made", BB, "ls", "/sys/class/net").text
    inside(podman, "ip", "netns", "del", "made")
    assert set(out.split()) == {"lo", "mark0"}


def test_run_join(podman):
    podman("run", "-d", "--name", "first", "--hostname", "shown", BB, "sleep", "60")
    options = [f"--{kind}=container:first" for kind in ("pid", "ipc", "network", "uts")]
    script = "for kind in net ipc pid uts; do readlink /proc/self/ns/$kind; done"
    out = podman("run", "--rm", *options, BB, "sh", "-c", f"hostname; cat /proc/1/comm; {script}").lines
    inner = podman("exec", "first", "sh", "-c", script).lines
    podman.remove("first")
    assert out == ["shown", "sleep", *inner]


def test_run_cgroupns(podman):
    own = podman("run", "--rm", "--cgroupns", "private", BB, "cat", "/proc/self/cgroup").lines
    assert own and all(line.endswith(":/") for line in own), own
    seen = podman("run", "--rm", "--cgroupns", "host", BB, "cat", "/proc/self/cgroup").out
    assert "/libpod" in seen, seen


def removed(cgroup):
    """Remove a cgroup with the one that conmon was in; whether it is gone."""
    for path in (*cgroup.glob("*/"), cgroup):
        try:
            path.rmdir()
        except OSError:
            return False
    return True


def test_run_cgroup_parent(podman):
    seen = podman("run", "--rm", "--cgroupns", "host", "--cgroup-parent", "/chosen", BB, "cat", "/proc/self/cgroup")
    assert "/chosen/libpod-" in seen.out, seen
    top = podman.lab.root / "sys/fs/cgroup"
    for path in [*top.glob("*/chosen"), *top.glob("chosen")]:
        until(lambda path=path: removed(path), f"end of the conmon in {path}")  # podman leaves the parent to its user


def test_run_cgroups_disabled(podman, engine_runtime):
    """No cgroup is made: the process stays in that of podman."""
    beyond_runc(engine_runtime, "--cgroup-manager=disabled")
    ours = inside(podman, "cat", "/proc/self/cgroup").lines
    seen = podman("run", "--rm", "--cgroups", "disabled", "--cgroupns", "host", BB, "cat", "/proc/self/cgroup")
    assert seen.lines == ours


def test_run_cgroups_no_conmon(podman):
    seen = podman("run", "--rm", "--cgroups", "no-conmon", "--cgroupns", "host", BB, "cat", "/proc/self/cgroup")
    assert "/libpod-" in seen.out


@pytest.mark.requires("systemd")
def test_run_cgroups_split(podman):
    podman("run", "--rm", "--cgroups", "split", BB, "true")


def test_run_uidmap(podman):
    options = ["--uidmap", "0:100000:5000", "--gidmap", "0:200000:5000"]
    out = podman("run", "--rm", *options, BB, "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /x")
    assert [line.split() for line in out.lines] == [["0"], ["0", "100000", "5000"], ["0", "200000", "5000"]]


def test_run_userns_auto(podman):
    found = podman("run", "--rm", "--userns", "auto:size=2000", BB, "cat", "/proc/self/uid_map").text.split()
    assert found[0] == "0" and found[2] == "2000" and int(found[1]) >= 300000


def test_run_userns_exec(podman):
    podman("run", "-d", "--name", "mapped", "--uidmap", "0:100000:5000", "--gidmap", "0:100000:5000", BB, "sleep", "60")
    assert podman("exec", "mapped", "sh", "-c", "id -u; cut -c1-30 /proc/self/uid_map").lines[0] == "0"
    assert podman("exec", "--user", "alice", "mapped", "id", "-un").text == "alice"
    pid = podman.inspect("mapped", "{{.State.Pid}}")
    assert inside(podman, "stat", "-c", "%u", f"/proc/{pid}").text == "100000"
    podman.remove("mapped")


def test_oomkilled(monitored):
    """The kernel kills for memory; the exit status says 137, and a conmon that watches cgroup v1 says why."""
    script = "x=a; while :; do x=$x$x; done"
    monitored("run", "--name", "hungry", "--memory", "16m", BB, "sh", "-c", script, status=137)
    killed = monitored.inspect("hungry", "{{.State.OOMKilled}}")
    monitored("rm", "hungry")
    if not monitored.is_ours:
        # conmon writes its file into its working directory as well, which is the machine's root
        monitored.lab.run("rm", "-f", "/oom")
    assert killed == "true" or not monitored.is_ours, "conmon 2.1.6 misses the event of cgroup v1, ours may not"
