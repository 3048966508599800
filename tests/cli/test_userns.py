"""User namespaces made by root: what is taken along from the host, pods that share one, and mounts with id mappings.

The mappings themselves are in test_namespaces.py, those of an ordinary user in test_rootless.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

#: ids of others are mapped, and given files
pytestmark = pytest.mark.requires("root")

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
FIRST = 100000


def mapped(uids=None, gids=None):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = uids or MAP
        config["linux"]["gidMappings"] = gids or uids or MAP

    return edit


def mount(destination, source, *options, **more):
    entry = {"destination": destination, "type": "bind", "source": str(source), "options": list(options), **more}
    return lambda config: config["mounts"].append(entry)


def both(*edits):
    def edit(config):
        for one in edits:
            one(config)

    return edit


@pytest.fixture
def box(pyrunc, make):
    """box(edit, "stat /x", ...): the answers of the probe in a container with a user namespace, whose root owns the rootfs."""

    def box(edit, *actions, owner=FIRST):
        made = make(edit, "/bin/probe", "each", *" -- ".join(actions).split())
        subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", str(made.rootfs)], check=True)
        return pyrunc("run", "-b", made, pyrunc.id()).json()

    return box


@pytest.fixture
def secret(scratch):
    """A directory behind one that only root of the host can pass."""
    (scratch / "secret").mkdir(mode=0o700)
    place = scratch / "secret" / "place"
    place.mkdir()
    (place / "file").write_text("x")
    return place


# -- what is taken along -------------------------------------------------------------------------------------------------


def test_source_that_only_root_can_reach(box, secret):
    edit = both(mapped(), mount("/t", secret, "rbind"), mount("/f", secret / "file", "bind", "ro"))
    found = box(edit, "read /t/file", "read /f", "mkfile /t/new", "write /f x", "stat /t/file")
    assert [answer.get("errno") for answer in found[:4]] == [None, None, "EACCES", "EACCES"]
    assert found[4]["uid"] == 65534  # nobody in there


def test_attributes_of_the_source_stay_locked(box, scratch):
    """What the host has forbidden on a mount is not for the container's root to allow."""
    (scratch / "t").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,nosuid,nodev,mode=755", "none", str(scratch / "t")], check=True)
    found = box(both(mapped(), mount("/t", scratch / "t", "rbind")), "mkfile /t/x")
    assert found[0]["errno"] == "EROFS"
    subprocess.run(["umount", str(scratch / "t")], check=True)


@pytest.mark.differs("it binds FIFOs too")
def test_devices_are_the_hosts(box):
    def edit(config):
        mapped()(config)
        config["linux"]["devices"] = [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o622, "uid": 5, "gid": 6},
        ]

    found = box(edit, "stat /dev/fuse", "stat /dev/null", "stat /dev/pipe", "write /dev/null x", "mknod /x c 1 3")
    assert (found[0]["type"], found[0]["rdev"], found[0]["uid"]) == ("char", [10, 229], 65534)
    assert (found[1]["rdev"], found[3]["errno"], found[4]["errno"]) == ([1, 3], None, "EPERM")
    assert [found[2][key] for key in ("type", "mode", "uid", "gid")] == ["fifo", "0622", 5, 6]


def test_device_that_the_host_does_not_have(refused):
    def edit(config):
        mapped()(config)
        config["linux"]["devices"] = [{"path": "/dev/no-such-device", "type": "c", "major": 10, "minor": 229}]

    refused(edit, "/dev/no-such-device")


def test_sysctls_and_masks(pyrunc, make):
    def edit(config):
        mapped()(config)
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"}

    made = make(edit, "/bin/probe", "report", "net.ipv4.ip_forward", "kernel.shmmax")
    subprocess.run(["chown", "-R", "-h", f"{FIRST}:{FIRST}", str(made.rootfs)], check=True)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert found["sysctls"] == {"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"}
    masks = [m for m in found["mounts"] if m["point"] in ("/proc/keys", "/sys/firmware")]
    assert {m["type"] for m in masks} == {"devtmpfs", "tmpfs"}


def test_hooks_in_the_container_are_run_by_its_root(pyrunc, make, scratch):
    out = scratch / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)

    def edit(config):
        mapped()(config)
        config["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat /proc/self/uid_map >{out}/{kind}"]}]
            for kind in ("createRuntime", "createContainer", "poststop")
        }

    made = make(edit)
    subprocess.run(["chown", "-R", "-h", f"{FIRST}:{FIRST}", str(made.rootfs)], check=True)
    pyrunc("run", "-b", made, pyrunc.id())
    found = {path.name: (path.stat().st_uid, int(path.read_text().split()[1])) for path in out.iterdir()}
    assert found == {"createRuntime": (0, 0), "createContainer": (FIRST, FIRST), "poststop": (0, 0)}


@pytest.mark.differs("it refuses that")
def test_root_need_not_be_mapped(box):
    only = [{"containerID": 1000, "hostID": 101000, "size": 1}]

    def edit(config):
        mapped(only)(config)
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    found = box(edit, "stat /bin", "mkfile /tmp/new", "stat /tmp/new", owner=101000)
    assert [answer["uid"] for answer in (found[0], found[2])] == [1000, 1000]


@pytest.mark.parametrize("groups", [[], [5, 6], range(1, 65536)], ids=["none", "two", "65535"])
def test_groups_are_exactly_those_of_the_configuration(pyrunc, make, groups):
    def edit(config):
        mapped()(config)
        config["process"]["user"] = {"uid": 1000, "gid": 50, "additionalGids": list(groups)}

    made = make(edit, "/bin/probe", "report")
    subprocess.run(["chown", "-R", "-h", f"{FIRST}:{FIRST}", str(made.rootfs)], check=True)
    found = pyrunc("run", "-b", made, pyrunc.id()).json()
    assert set(found["groups"]) - {50} == set(groups) - {50}
    assert found["setgroups"] == "allow"


def test_exec_has_its_own_ids(running, pyrunc):
    def edit(config):
        mapped()(config)
        config["process"]["user"] = {"uid": 7, "gid": 8}

    box = running(edit)
    found = box.report(options=("--user", "1000:50", "-g", "5", "-g", "6"))
    assert set(found["uid"].values()) == {1000} and set(found["gid"].values()) == {50}
    assert sorted(set(found["groups"]) - {50}) == [5, 6]
    assert "mapped" in pyrunc.fails("exec", "--user", "70000", box.id, "/bin/true", status=255)


def test_pod_shares_its_user_namespace(pyrunc, make, running, secret):
    """As with pods whose users are not the host's: every other namespace of the pod is owned by the one that they share."""
    sandbox = running(mapped(), name="sandbox")
    paths = {"user": "user", "network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}

    def edit(config):
        kept = [{"type": kind, "path": f"/proc/{sandbox.pid}/ns/{name}"} for kind, name in paths.items()]
        config["linux"]["namespaces"] = [*kept, {"type": "mount"}, {"type": "cgroup"}]
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = MAP
        config.pop("hostname")
        mount("/t", secret, "rbind")(config)
        config["process"]["user"] = {"uid": 1000, "gid": 50, "additionalGids": [5]}

    made = make(edit, "/bin/probe", "report")
    subprocess.run(["chown", "-R", "-h", f"{FIRST}:{FIRST}", str(made.rootfs)], check=True)
    found = pyrunc("run", "-b", made, pyrunc.id("member")).json()
    for name in paths.values():
        assert found["namespaces"][name] == os.readlink(f"/proc/{sandbox.pid}/ns/{name}"), name
    assert found["namespaces"]["mnt"] != os.readlink(f"/proc/{sandbox.pid}/ns/mnt")
    assert set(found["uid"].values()) == {1000} and 5 in found["groups"]
    assert "/t" in {m["point"] for m in found["mounts"]}


# -- idmapped mounts -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[
    pytest.param("disk", marks=pytest.mark.requires("idmapped-mount")),
    pytest.param("tmpfs", marks=pytest.mark.requires("idmapped-tmpfs")),
])  # fmt: skip
def tree(request, scratch):
    """A directory with files of several users, on the file system of /tmp and on a tmpfs, another tmpfs below it."""
    top = scratch / "tree"
    top.mkdir(mode=0o777)
    mounted = []
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "none", str(top)], check=True)
        mounted.append(top)
    top.chmod(0o777)
    for name, uid, gid in (("zero", 0, 0), ("five", 5, 6), ("far", 5000, 5000)):
        (top / name).write_text(name)
        os.chown(top / name, uid, gid)
    (top / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "none", str(top / "below")], check=True)
    mounted.append(top / "below")
    (top / "below" / "file").touch()
    os.chown(top / "below" / "file", 5, 6)
    yield top
    for place in reversed(mounted):
        subprocess.run(["umount", str(place)], check=True)


def ids(*triples):
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in triples]


def owners(answers):
    return [(answer["uid"], answer["gid"]) for answer in answers]


@pytest.mark.differs("it does not know idmapped mounts")
def test_users_and_groups_are_mapped_apart(each, tree):
    edit = mount("/t", tree, "bind", "idmap", uidMappings=ids((0, 1000, 10)), gidMappings=ids((0, 0, 5), (5, 2000, 5)))
    found = each(edit, "stat /t/zero", "stat /t/five", "stat /t/far")
    # what has no mapping is nobody's
    assert owners(found) == [(1000, 0), (1005, 2001), (65534, 65534)]


@pytest.mark.differs("it does not know idmapped mounts")
@pytest.mark.parametrize("options, below", [
    (["rbind", "idmap"], (5, 6)),
    (["rbind", "ridmap"], (1005, 1006)),
], ids=["idmap", "ridmap"])  # fmt: skip
def test_mounts_below(each, tree, options, below):
    maps = ids((0, 1000, 100))
    found = each(mount("/t", tree, *options, uidMappings=maps, gidMappings=maps), "stat /t/five", "stat /t/below/file")
    assert owners(found) == [(1005, 1006), below]


@pytest.mark.differs("it does not know idmapped mounts")
def test_files_are_made_as_the_ids_that_are_mapped_back(each, tree):
    def edit(config):
        mount("/t", tree, "bind", "idmap", uidMappings=ids((5, 1000, 1)), gidMappings=ids((6, 50, 1)))(config)
        config["process"]["user"] = {"uid": 1000, "gid": 50}

    os.chown(tree, 5, 6)  # nobody writes to what is nobody's
    found = each(edit, "mkfile /t/new", "stat /t/new", "write /t/five x", "write /t/zero x")
    assert [answer.get("errno") for answer in found] == [None, None, None, "EACCES"]
    assert owners(found[1:2]) == [(1000, 50)]
    status = (tree / "new").stat()
    assert (status.st_uid, status.st_gid) == (5, 6)


@pytest.mark.differs("it does not know idmapped mounts")
def test_who_has_no_id_there_makes_nothing(each, tree):
    edit = mount("/t", tree, "bind", "idmap", uidMappings=ids((5, 1000, 1)), gidMappings=ids((6, 50, 1)))
    assert each(edit, "mkfile /t/new")[0]["errno"] == "EOVERFLOW"


@pytest.mark.differs("it does not know idmapped mounts")
def test_a_file(each, tree):
    maps = ids((0, 1000, 100))
    found = each(mount("/f", tree / "five", "bind", "ro", uidMappings=maps, gidMappings=maps), "stat /f", "write /f x")
    assert owners(found[:1]) == [(1005, 1006)] and found[1]["errno"] == "EROFS"


@pytest.mark.differs("it does not know idmapped mounts")
def test_with_a_user_namespace(box, tree):
    """An explicit mapping is to the host's ids, of which those of the user namespace are seen as its own."""
    explicit = {"uidMappings": ids((0, FIRST + 1000, 100)), "gidMappings": ids((0, FIRST, 100))}
    edit = both(mapped(), mount("/own", tree, "bind", "idmap"), mount("/t", tree, "rbind", "ridmap", **explicit))
    found = box(edit, "stat /own/five", "stat /t/five", "stat /t/below/file", "write /own/zero x", "mkfile /own/new")
    assert owners(found[:3]) == [(5, 6), (1005, 6), (1005, 6)]
    assert [answer["errno"] for answer in found[3:]] == [None, None]
    assert (tree / "new").stat().st_uid == 0


@pytest.mark.differs("it does not know idmapped mounts")
def test_by_a_user_namespace_given_by_path(pyrunc, make, running, tree):
    sandbox = running(mapped(), name="sandbox")

    def edit(config):
        config["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{sandbox.pid}/ns/user"})
        mount("/t", tree, "bind", "idmap")(config)

    made = make(edit, "/bin/probe", "each", *"stat /t/five -- stat /t/zero".split())
    subprocess.run(["chown", "-R", "-h", f"{FIRST}:{FIRST}", str(made.rootfs)], check=True)
    assert owners(pyrunc("run", "-b", made, pyrunc.id()).json()) == [(5, 6), (0, 0)]


@pytest.mark.requires("idmapped-tmpfs")
@pytest.mark.differs("it does not know idmapped mounts")
def test_a_filesystem_of_the_containers_own(each):
    maps = ids((0, 1000, 10))
    new = {"destination": "/t", "type": "tmpfs", "source": "none", "options": ["idmap", "mode=755"]}
    found = each(lambda c: c["mounts"].append({**new, "uidMappings": maps, "gidMappings": maps}), "stat /t")
    assert owners(found) == [(1000, 1000)]


@pytest.mark.requires("idmapped-mount")
@pytest.mark.differs("it does not know idmapped mounts")
def test_exec_sees_them_too(running, scratch):
    (scratch / "tree").mkdir()
    (scratch / "tree" / "file").touch()
    maps = ids((0, 1000, 10))
    found = running(mount("/t", scratch / "tree", "bind", uidMappings=maps, gidMappings=maps)).each("stat /t/file")
    assert owners(found) == [(1000, 1000)]


@pytest.mark.differs("it does not know idmapped mounts")
def test_filesystem_that_cannot(refused):
    """The kernel says no more than `invalid argument`."""
    maps = ids((0, 1000, 10))
    error = refused(mount("/t", "/sys/kernel", "bind", "idmap", uidMappings=maps, gidMappings=maps), "/sys/kernel")
    assert "invalid argument" in error and "hint:" in error and "idmapped mounts" in error


@pytest.mark.differs("it does not know idmapped mounts")
@pytest.mark.parametrize("more, word", [
    ({"uidMappings": ids((0, 1000, 1))}, "gidMappings"),
    ({"gidMappings": ids((0, 1000, 1))}, "uidMappings"),
    ({"uidMappings": ids((0, 1000, 5), (3, 2000, 5)), "gidMappings": ids((0, 1000, 5))}, "range of another"),
    ({"uidMappings": ids((0, 1000, 0)), "gidMappings": ids((0, 1000, 5))}, "uidMappings"),
], ids=["users alone", "groups alone", "overlapping", "empty"])  # fmt: skip
def test_mappings_that_are_wrong(refused, scratch, more, word):
    refused(mount("/t", scratch, "bind", **more), word)


def test_what_is_mounted_in_a_bind_does_not_reach_the_host(pyrunc, running, scratch, until):
    """Root of the user namespace may mount in there; a source that stayed a peer of the host's mount would take it to the host."""
    source = scratch / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "source", source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    for name in ("inner", "late"):
        (source / name).mkdir()

    def powerful(config):
        config["process"]["capabilities"] = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}

    sets = both(mapped(), powerful, mount("/mnt", source, "rbind"))
    box = running(sets)
    made = box.exec("/bin/sh", "-c", "mount -t tmpfs own /mnt/inner && grep ' /mnt' /proc/self/mountinfo")
    assert " /mnt/inner " in made.out and "shared:" not in made.out
    assert f" {source}/inner " not in Path("/proc/self/mountinfo").read_text()
    # the other direction is open, as without a user namespace: what the host mounts arrives
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "late", source / "late"], check=True)
    assert " /mnt/late " in Path(f"/proc/{box.pid}/mountinfo").read_text()
