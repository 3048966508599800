"""Containers on cgroup v2 that use cgroups themselves, as a systemd, a dockerd or a program of threads in one does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import hierarchies
import mkrootfs
import pytest
from features import cgroup_parent

pytestmark = pytest.mark.requires("cgroup-v2")

CGROUPS = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid", "noexec"]}
#: what a service manager does before anything else: out of its own cgroup, and controllers for those below
MANAGER = (
    "cd /sys/fs/cgroup; mkdir init.scope services; sh -c 'echo 0 >services/cgroup.procs; exec sleep 1001' & "
    "echo 0 >init.scope/cgroup.procs; until read pid <services/cgroup.procs; do :; done; "
    "echo '+memory +pids' >cgroup.subtree_control && echo up >/up; exec sleep 1000"
)


def writable(config):
    config["mounts"].append(dict(CGROUPS))


@pytest.fixture
def managed(running, until):
    """A container whose init has moved itself and others into cgroups below the container's."""

    def managed(*edits):
        def edit(config):
            writable(config)
            for one in edits:
                one(config)

        box = running(edit, "/bin/sh", "-c", MANAGER)
        until(lambda: (box.bundle.rootfs / "up").exists(), "it has moved")
        return box

    return managed


def own(box):
    return hierarchies.place((box if hasattr(box, "config") else box.bundle).config["linux"]["cgroupsPath"], "")


@pytest.mark.requires("limits")
def test_exec_beside_a_manager_of_services(managed, pyrunc):
    """The container's own cgroup may hold no process any more: an exec is where init is."""
    box = managed()
    assert (own(box) / "cgroup.procs").read_text() == ""
    assert (own(box) / "cgroup.subtree_control").read_text().split() == ["memory", "pids"]
    # seen from the cgroup namespace, and from outside
    assert hierarchies.on_v2(box.exec("/bin/cat", "/proc/self/cgroup").out) == "/init.scope"
    pid_file = box.bundle.path / "pid"
    box.exec("/bin/sleep", "1002", options=("-d", "--pid-file", str(pid_file)))
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cgroup").read_text().endswith("/init.scope\n")
    # --cgroup says where it shall be, and is not overruled
    assert (
        hierarchies.on_v2(box.exec("/bin/cat", "/proc/self/cgroup", options=("--cgroup", "services")).out)
        == "/services"
    )
    error = pyrunc.fails("exec", "--cgroup", "/", box.id, "/bin/true", status=255)
    assert "busy" in error and str(own(box)) in error
    # everyone is seen: ps, pause and kill reach below
    found = pyrunc("ps", "--format", "json", box.id).json()
    assert {box.pid, pid} < set(found) and len(found) == 3
    pyrunc("pause", box.id)
    frozen = [(folder / "cgroup.events").read_text() for folder in (own(box), *own(box).glob("*.scope"))]
    assert all("frozen 1" in text for text in frozen) and pyrunc.state(box.id)["status"] == "paused"
    pyrunc("resume", box.id)
    pyrunc("kill", "--all", box.id, "KILL")
    # the first process of a pid namespace is the last to go, and waits for this one, which is our child
    assert pyrunc.wait(pid) == 137 and pyrunc.wait(box.pid) == 137
    pyrunc("delete", box.id)
    assert not own(box).exists()


@pytest.mark.requires("limits")
def test_delete_by_force_with_cgroups_below(managed, pyrunc, gone):
    box = managed(lambda c: mkrootfs.leave_out(c, "pid"))
    pids = pyrunc("ps", "--format", "json", box.id).json()
    assert len(pids) == 2
    pyrunc("delete", "--force", box.id)
    gone(pyrunc, box.id, box.bundle)
    assert not own(box).exists()


@pytest.mark.requires("limits")
def test_exec_without_a_pid_namespace_beside_a_manager_of_services(managed):
    box = managed(lambda c: mkrootfs.leave_out(c, "pid"))
    assert hierarchies.on_v2(box.exec("/bin/cat", "/proc/self/cgroup").out) == "/init.scope"


@pytest.mark.requires("limits")
def test_exec_is_in_the_cgroup_namespace_and_under_the_limits(running):
    box = running(lambda c: c["linux"].update(resources={"pids": {"limit": 60}, "cpu": {"cpus": "0"}}))
    assert hierarchies.on_v2(box.exec("/bin/cat", "/proc/self/cgroup").out) == "/"
    assert box.report()["affinity"] == [0]
    assert os.readlink(f"/proc/{box.pid}/ns/cgroup") == box.exec("/bin/readlink", "/proc/self/ns/cgroup").out.strip()


def test_threads_in_cgroups_of_their_own(running, pyrunc, until):
    """A threaded cgroup below: the container's own stays the one that says who is there."""
    box = running(
        writable,
        "/bin/sh", "-c", "cd /sys/fs/cgroup; mkdir fast; echo threaded >fast/cgroup.type; echo 0 >fast/cgroup.procs; exec sleep 1000",
    )  # fmt: skip
    until(lambda: Path(f"/proc/{box.pid}/cgroup").read_text().endswith("/fast\n"), "it has moved")
    assert (own(box) / "cgroup.type").read_text() == "domain threaded\n"
    assert pyrunc("ps", "--format", "json", box.id).json() == [box.pid]
    assert hierarchies.on_v2(box.exec("/bin/cat", "/proc/self/cgroup").out) == "/"
    pyrunc("pause", box.id)
    pyrunc("resume", box.id)
    pyrunc("delete", "--force", box.id)


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
@pytest.mark.requires("root")
def test_the_hosts_mount_keeps_its_options(pyrunc, make, kind):
    """Mounted anew in the host's cgroup namespace, cgroup2 would take the new mount's options for all of its mounts."""

    def edit(config):
        writable(config)
        config["mounts"][-1]["type"] = kind
        config["linux"]["namespaces"].remove({"type": "cgroup"})

    def options():
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line.split()[-1] for line in lines if " - cgroup2 " in line]

    before = options()
    made = make(edit, "/bin/ls", "/sys/fs/cgroup")
    top = hierarchies.below_the_top(made.config["linux"]["cgroupsPath"]).partition("/")[0]
    assert top in pyrunc("run", "-b", made, pyrunc.id()).out.split()
    assert options() == before


# -- delegation ------------------------------------------------------------------------------------------------------------

DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def in_user_namespace(config):
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def owners(box):
    return {path.name: path.stat().st_uid for path in own(box).iterdir()} | {".": own(box).stat().st_uid}


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.requires("root")
def test_the_containers_user_owns_its_cgroup(running, uid):
    def edit(config):
        writable(config)
        in_user_namespace(config)
        config["process"]["user"] = {"uid": uid, "gid": 0}

    box = running(edit)
    subprocess.run(["chown", "-R", "-h", "100000:100000", str(box.bundle.rootfs)], check=True)
    found = owners(box)
    delegated = set(Path("/sys/kernel/cgroup/delegate").read_text().split()) & set(found)
    assert set(DELEGATED) <= delegated
    assert {name for name, owner in found.items() if owner == 100000 + uid} == delegated | {"."}
    assert {owner for name, owner in found.items() if name not in delegated | {"."}} == {0}
    made = box.exec(
        "/bin/sh",
        "-c",
        "mkdir /sys/fs/cgroup/mine && echo 0 >/sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup",
    )
    assert hierarchies.on_v2(made.out) == "/mine"
    # not its own limits: those are the caller's
    assert box.exec("/bin/sh", "-c", "echo max >/sys/fs/cgroup/pids.max", status=1).status == 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["mounts"][-1].update(options=["ro"]),
        lambda c: c["mounts"].pop(),
        lambda c: c["linux"]["namespaces"].remove({"type": "cgroup"}),
    ],
    ids=["read-only", "not-mounted", "hosts-namespace"],
)
@pytest.mark.requires("root")
def test_nobody_owns_what_cannot_be_written(running, edit):
    """config-linux.md, cgroup ownership."""

    def all_of_it(config):
        writable(config)
        in_user_namespace(config)
        edit(config)

    assert set(owners(running(all_of_it)).values()) == {0}


# -- the end of memory -----------------------------------------------------------------------------------------------------


def test_a_limit_of_memory_is_told_by_name(pyrunc, make):
    made, id_ = make(lambda c: c["linux"].update(resources={"memory": {"limit": 4096}}), "/bin/true"), pyrunc.id()
    error = pyrunc.fails("create", "-b", made, id_)
    assert "memory" in error and ("limit" in error or "out of memory" in error.lower())
    assert not own(made).exists()


@pytest.mark.requires("own-cgroups", "two-cpus")
@pytest.mark.requires("limits")
def test_what_is_found_out_late_is_warned_about(pyrunc, make):
    """That the cgroup above has fewer processors is known once the cgroup has got those that it could get."""
    pyrunc.options = []
    path = f"{cgroup_parent()}/pyrunc-test/{pyrunc.id('above')}"
    edit = {"cgroupsPath": f"{path}/box", "resources": {"cpu": {"cpus": "0-1"}}}
    made = make(lambda c: c["linux"].update(edit), "/bin/true")
    above = hierarchies.place(path, "")
    above.mkdir(parents=True)
    for folder in (above.parents[1], above.parent):
        (folder / "cgroup.subtree_control").write_text("+cpuset")
    (above / "cpuset.cpus").write_text("0")
    pyrunc("--log", made.path / "log", "run", "-b", made, pyrunc.id())
    above.rmdir()
    (line,) = (made.path / "log").read_text().splitlines()
    assert "level=warning" in line and "cpuset.cpus: 1 cannot be had from the cgroup above, ignoring" in line


@pytest.mark.requires("root")
def test_devices_of_a_container_in_a_container(running, pyrunc):
    """Rules of the cgroup above hold below as well."""
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 14, "access": "r"},
        {"allow": False, "type": "c", "major": 1, "minor": 13, "access": "rwm"},
    ]

    def edit(config):
        writable(config)
        config["linux"].update(resources={"devices": rules})

    box = running(edit)
    found = box.each(
        "mknod /dev/one c 1 14", "mknod /dev/two c 1 13", "open /dev/one r", "open /dev/one w", "open /dev/two r"
    )
    assert [answer["errno"] for answer in found] == [None, None, "ENXIO", "EPERM", "EPERM"]
    assert [answer["errno"] for answer in box.each("mkdir /sys/fs/cgroup/below")] == [None]
    below = box.exec(
        "/bin/sh",
        "-c",
        "echo 0 >/sys/fs/cgroup/below/cgroup.procs; exec /bin/probe each open /dev/one r -- open /dev/two r",
    )
    assert [answer["errno"] for answer in below.json()] == ["ENXIO", "EPERM"]
