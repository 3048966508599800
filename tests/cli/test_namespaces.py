"""linux.namespaces: new, joined by path, or the caller's; id maps and time offsets."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import mkrootfs
import pytest

#: type of config.json -> (file under /proc/PID/ns, flag of unshare(1))
TYPES = {
    "pid": ("pid", "-p"),
    "network": ("net", "-n"),
    "ipc": ("ipc", "-i"),
    "uts": ("uts", "-u"),
    "cgroup": ("cgroup", "-C"),
    "mount": ("mnt", "-m"),
}
MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]


IS_ROOT = os.geteuid() == 0


def own(name):
    return os.readlink(f"/proc/self/ns/{name}")


def without(*types):
    return lambda config: mkrootfs.leave_out(config, *types)


def joining(kind, path):
    def edit(config):
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != kind]
        config["linux"]["namespaces"].append({"type": kind, "path": path})
        if kind == "uts":
            config.pop("hostname")
        beside = f"{os.path.dirname(path)}/user"
        if not IS_ROOT and os.path.exists(beside) and os.readlink(beside) != own("user"):
            # a user joins what belongs to a user namespace of his, and that one first
            without("user")(config)
            config["linux"]["namespaces"].append({"type": "user", "path": beside})

    return edit


def user(uid_map=None, gid_map=None):
    def edit(config):
        without("user")(config)
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = uid_map or MAP
        config["linux"]["gidMappings"] = gid_map or uid_map or MAP

    return edit


def open_to(made, uid=100000, gid=100000):
    """Give a rootfs to mapped users, as an engine does with its copy."""
    subprocess.run(["chown", "-R", "-h", f"{uid}:{gid}", str(made.rootfs)], check=True)


def test_new_ones(report):
    found = report()["namespaces"]
    for name, _ in TYPES.values():
        assert found[name] != own(name), name
    assert (found["user"] == own("user")) == IS_ROOT
    assert found["time"] in (own("time"), None)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "mount"])
def test_left_out_is_the_callers(report, kind):
    found = report(without(kind))["namespaces"]
    for other, (name, _) in TYPES.items():
        assert (found[name] == own(name)) == (other == kind), other


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("mount", "pid")])
def test_joined_by_path(report, holder, kind):
    name, flag = TYPES[kind]
    pid = holder(flag)
    found = report(joining(kind, f"/proc/{pid}/ns/{name}"))["namespaces"]
    assert found[name] == os.readlink(f"/proc/{pid}/ns/{name}") != own(name)


def test_pid_namespace_joined_by_path(pyrunc, running, report):
    """The namespace of another container, as a pod shares it."""
    box = running()
    found = report(joining("pid", f"/proc/{box.pid}/ns/pid"))
    assert found["namespaces"]["pid"] == os.readlink(f"/proc/{box.pid}/ns/pid")
    assert found["pid"] > 1 and found["ppid"] == 0


def test_mount_namespace_joined_by_path(report, holder):
    pid = holder("-m")
    found = report(joining("mount", f"/proc/{pid}/ns/mnt"))
    assert found["namespaces"]["mnt"] == os.readlink(f"/proc/{pid}/ns/mnt")
    assert found["root_readonly"] is False


@pytest.mark.requires("root")
def test_kept_by_a_bind_mount(pyrunc, report, holder, scratch):
    pid = holder("-n")
    (scratch / "netns").touch()
    subprocess.run(["mount", "--bind", f"/proc/{pid}/ns/net", str(scratch / "netns")], check=True)
    expected = os.readlink(f"/proc/{pid}/ns/net")
    found = report(joining("network", str(scratch / "netns")))
    subprocess.run(["umount", str(scratch / "netns")], check=True)
    assert found["namespaces"]["net"] == expected


@pytest.mark.parametrize(
    "kind, path, word",
    [
        ("network", "/proc/self/ns/uts", "/proc/self/ns/uts"),
        ("uts", "/no/such/namespace", "/no/such/namespace"),
        ("ipc", "/etc/passwd", "/etc/passwd"),
        ("pid", "/proc", "/proc"),
    ],
)
def test_path_that_is_no_such_namespace(refused, peer, kind, path, word):
    refused(joining(kind, path), *(() if peer else (word,)))


@pytest.mark.parametrize("kinds", [["network", "network"], ["nope"], ["net"]], ids=str)
def test_list_that_is_wrong(refused, kinds):
    def edit(config):
        config["linux"]["namespaces"] += [{"type": kind} for kind in kinds]

    refused(edit, kinds[0])


def test_new_network_namespace_has_loopback_up(report):
    assert report()["interfaces"] == {"lo": "up"}


def test_joined_network_namespace_is_left_as_it_is(report, holder):
    pid = holder("-n")
    assert report(joining("network", f"/proc/{pid}/ns/net"))["interfaces"] == {"lo": "down"}


def test_loopback_works(pyrunc, make):
    # either side may have gone before the other has read: both try again
    server = "(while :; do echo hello | nc -l -p 99 >/dev/null; done) &"
    client = 'for i in $(seq 500); do [ "$(nc 127.0.0.1 99 </dev/null)" = hello ] && exit 7; usleep 10000; done'
    made = make(None, "/bin/sh", "-c", f"{server} {client}; exit 1")
    assert pyrunc("run", "-b", made, pyrunc.id(), status=7).out == ""


# -- user namespaces ---------------------------------------------------------------------------------------------------


@pytest.mark.requires("root")
def test_user_namespace(pyrunc, make):
    made = make(user(), "/bin/probe", "report")
    open_to(made)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert found["namespaces"]["user"] != own("user")
    assert [line.split() for line in found["uid_map"]] == [["0", "100000", "65536"]]
    assert [line.split() for line in found["gid_map"]] == [["0", "100000", "65536"]]
    assert set(found["uid"].values()) == {0} and set(found["gid"].values()) == {0}
    assert found["setgroups"] == "allow"
    assert "CAP_CHOWN" in found["capabilities"]["effective"]
    # every namespace of the container is owned by the new one: its root may do in them what root does
    assert found["hostname"] == "pyrunc" and found["interfaces"] == {"lo": "up"}
    # device nodes cannot be made in there: the host's are bound
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert found["devices"][name]["type"] == "char", name
    assert [m["root"] for m in found["mounts"] if m["point"] == "/dev/null"] == ["/null"]


@pytest.mark.requires("root")
def test_user_namespace_with_a_user_and_groups(pyrunc, make):
    def edit(config):
        user()(config)
        config["process"]["user"] = {"uid": 1000, "gid": 50, "additionalGids": [5, 6]}

    made = make(edit, "/bin/probe", "report")
    open_to(made)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert set(found["uid"].values()) == {1000} and set(found["gid"].values()) == {50}
    assert sorted(set(found["groups"]) - {50}) == [5, 6]


@pytest.mark.requires("root")
def test_several_mappings(pyrunc, make):
    uids = [
        {"containerID": 0, "hostID": 300000, "size": 10},
        {"containerID": 10, "hostID": 200000, "size": 1},
        {"containerID": 1000, "hostID": 400000, "size": 1000},
    ]
    made = make(user(uids), "/bin/probe", "report")
    open_to(made, 300000, 300000)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert [[int(n) for n in line.split()] for line in found["uid_map"]] == [
        [0, 300000, 10],
        [10, 200000, 1],
        [1000, 400000, 1000],
    ]


@pytest.mark.requires("root")
def test_files_made_belong_to_mapped_root(pyrunc, make):
    made = make(user(), "/bin/sh", "-c", "echo x >/file; chown 7:8 /file; mkdir /dir")
    open_to(made)
    pyrunc("run", "-b", made, pyrunc.id())
    found = (made.rootfs / "file").stat()
    assert (found.st_uid, found.st_gid) == (100007, 100008)
    assert (made.rootfs / "dir").stat().st_uid == 100000


def test_unmapped_user_is_refused(refused):
    def edit(config):
        user([{"containerID": 0, "hostID": 100000, "size": 10}])(config)
        config["process"]["user"] = {"uid": 11, "gid": 0}

    refused(edit)


def test_user_namespace_without_mappings(refused):
    refused(lambda c: [user()(c), c["linux"].pop("uidMappings"), c["linux"].pop("gidMappings")])


@pytest.mark.parametrize(
    "mapping",
    [
        [{"containerID": 0, "hostID": 100000, "size": 0}],
        [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 5, "hostID": 200000, "size": 10}],
    ],
    ids=["empty", "overlapping"],
)
def test_mappings_that_are_wrong(refused, mapping):
    refused(user(mapping))


@pytest.mark.requires("root")
def test_user_namespace_joined_by_path(pyrunc, make, holder):
    """With the mappings that somebody else has written."""
    pid = holder("-U", "--map-root-user")

    def edit(config):
        config["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{pid}/ns/user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1}]
        config["mounts"] = [m for m in config["mounts"] if m["destination"] in ("/proc", "/dev")]

    made = make(edit, "/bin/probe", "report")
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert found["namespaces"]["user"] == os.readlink(f"/proc/{pid}/ns/user")
    assert found["uid"]["effective"] == 0


@pytest.mark.requires("root")
def test_user_namespace_without_a_network_namespace_of_its_own(pyrunc, make):
    """sysfs of the host's network cannot be mounted in there; without one, it works."""

    def edit(config):
        user()(config)
        without("network")(config)
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/sys"]

    made = make(edit, "/bin/probe", "report")
    open_to(made)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert found["namespaces"]["net"] == own("net")


@pytest.mark.requires("root")
def test_exit_status_and_kill_with_a_user_namespace(pyrunc, make):
    made, id_ = make(user(), "/bin/probe", "sleep", "1000"), pyrunc.id()
    open_to(made)
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    assert os.readlink(f"/proc/{pid}/ns/user") != own("user")
    pyrunc("start", id_)
    pyrunc("kill", id_, "KILL")
    assert pyrunc.wait(pid) == 137


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.differs("it does not know time namespaces")
@pytest.mark.requires("time-namespace")
def test_time_offsets(report):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"monotonic": {"secs": 100000, "nanosecs": 7}, "boottime": {"secs": 200000}}

    found = report(edit)
    assert found["namespaces"]["time"] != own("time")
    assert [line.split() for line in found["timens_offsets"]] == [
        ["monotonic", "100000", "7"],
        ["boottime", "200000", "0"],
    ]
    assert abs(found["monotonic"] - time.clock_gettime(time.CLOCK_MONOTONIC) - 100000) < 60
    assert abs(found["boottime"] - time.clock_gettime(time.CLOCK_BOOTTIME) - 200000) < 60


@pytest.mark.differs("it does not know time namespaces")
@pytest.mark.requires("time-namespace", "root")
def test_time_namespace_without_offsets_and_with_a_user_namespace(pyrunc, make):
    def edit(config):
        user()(config)
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 5}}

    made = make(edit, "/bin/probe", "report")
    open_to(made)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert found["timens_offsets"][-1].split() == ["boottime", "5", "0"]


@pytest.mark.differs("it does not know time namespaces")
@pytest.mark.requires("time-namespace")
def test_time_namespace_for_exec(pyrunc, running):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"monotonic": {"secs": 100000}}

    box = running(edit)
    found = box.report()
    assert found["namespaces"]["time"] == os.readlink(f"/proc/{box.pid}/ns/time")
    assert found["monotonic"] > 100000


@pytest.mark.differs("it does not know time namespaces")
def test_time_offsets_without_a_time_namespace(refused):
    refused(lambda c: c["linux"].update(timeOffsets={"monotonic": {"secs": 1}}), "time")


# -- seen from outside -------------------------------------------------------------------------------------------------


def test_no_mount_of_the_container_is_seen_outside(pyrunc, running):
    box = running()
    for pid in (os.getpid(), box.pid):
        points = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        assert not [point for point in points if point.startswith(str(box.bundle.rootfs))]


def test_nothing_of_the_host_is_mounted_inside(report):
    points = [mount["point"] for mount in report()["mounts"]]
    expected = {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"}
    hidden = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
    readonly = {"/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
    # a user makes no devices, his are bound
    devices = set() if IS_ROOT else {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert set(points) <= expected | hidden | readonly | devices
    assert expected <= set(points)
