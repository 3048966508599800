"""What an ordinary user has to be given, and what he is told where it was not: user namespaces, ids, cgroups.

Where a switch is the machine's own, the test turns it in a namespace that has one of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import hierarchies
import pytest

#: words of a shell that does something first
FIRST = ["sh", "-c"]


@pytest.fixture
def error(rootless, own):
    """The two lines of a `run` that must be refused."""

    def error(edit=None):
        made, id_ = own(edit), rootless.id()
        found = rootless.fails("run", "-b", made, id_)
        assert not (rootless.root / id_).exists()
        return found

    return error


def without_user_namespace(config):
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
    config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "user"]


def many(user):
    def edit(config):
        for key, own in (("uidMappings", user.uid), ("gidMappings", user.gid)):
            rows = [(0, own, 1), (1, user.first, 65536)]
            config["linux"][key] = [{"containerID": a, "hostID": b, "size": c} for a, b, c in rows]

    return edit


def limits(config):
    config["linux"]["resources"] = {"memory": {"limit": 1 << 26}, "pids": {"limit": 20}}


# -- user namespaces ---------------------------------------------------------------------------------------------------


def test_user_namespaces_that_are_turned_off(rootless, error):
    off = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    rootless.inside = ["unshare", "-Ur", *FIRST, off, "sh"]
    found = error()
    assert "make a user namespace: no space left on device" in found
    assert "user.max_user_namespaces is 0" in found and "sysctl user.max_user_namespaces=15000" in found


MEMFD = 'echo 2 >/proc/sys/vm/memfd_noexec && exec "$@"'


@pytest.mark.requires("root")
def test_memfds_that_may_not_be_executed(rootless, own):
    """The image is in a tmpfs of a user namespace's then, and nobody in the container can write to it."""
    rootless.before = ["unshare", "-mpf", "--mount-proc", *FIRST, MEMFD, "sh"]
    assert rootless("run", "-b", own(None, "/bin/id", "-u"), rootless.id()).out == "0\n"


@pytest.mark.requires("root")
def test_neither_memfds_nor_user_namespaces(rootless, error):
    rootless.before = ["unshare", "-mpf", "--mount-proc", *FIRST, MEMFD, "sh"]
    rootless.inside = ["unshare", "-U"]  # who has no id there can map none
    assert "vm.memfd_noexec is 2" in error()


# -- subordinate ids ---------------------------------------------------------------------------------------------------


def instead(path, text, scratch):
    """Words of root's that put another file in the place of one, for the command alone."""
    other = scratch / "other"
    if isinstance(text, str):
        other.write_text(text)
    else:
        other.write_bytes(text)
        other.chmod(0o755)
    return ["unshare", "-m", *FIRST, f'mount --bind {other} {path} && exec "$@"', "sh"]


@pytest.mark.requires("root")
def test_no_subordinate_ids(rootless, error, user, scratch):
    rootless.before = instead("/etc/subuid", "somebody:1000000000:65536\n", scratch)
    found = error(many(user))
    assert "newuidmap" in found and "not allowed" in found
    assert f"/etc/subuid has nothing for {user.name}: add as root the line {user.name}:{user.first}:65536" in found
    rootless.before = instead("/etc/subgid", f"{user.name}:1000000000:65536\n", scratch)
    found = error(many(user))
    assert "newgidmap" in found and f"/etc/subgid gives {user.name} 1000000000-1000065535" in found


@pytest.mark.requires("no-subordinate-ids")
def test_a_user_without_subordinate_ids(rootless, error, own, user):
    """More than the one id of his own needs a line of root's; the tools that have none find the one that nobody has."""

    def edit(config):
        for key, first in (("uidMappings", user.uid), ("gidMappings", user.gid)):
            rows = [(0, first, 1), (1, 300000, 65536)]
            config["linux"][key] = [{"containerID": a, "hostID": b, "size": c} for a, b, c in rows]

    found = error(edit)
    assert f"/etc/subuid has nothing for {user.name}: add as root the line {user.name}:300000:65536" in found
    asked = {one["id"]: one for one in rootless("doctor", "--json", status=None).json()}
    assert asked["rootless.subuid"]["severity"] != "ok" and user.name in json.dumps(asked["rootless.subuid"])
    assert rootless("run", "-b", own(None, "/bin/id", "-u"), rootless.id()).out == "0\n"


@pytest.mark.requires("root")
def test_subordinate_ids_by_number_and_in_parts(rootless, own, user, scratch):
    text = f"{user.uid}:{user.first}:10\n{user.name}:{user.first + 100}:50\n"
    rootless.before = instead("/etc/subuid", text, scratch)

    def edit(config):
        many(user)(config)
        rows = [(0, user.uid, 1), (1, user.first, 10), (11, user.first + 100, 50)]
        config["linux"]["uidMappings"] = [{"containerID": a, "hostID": b, "size": c} for a, b, c in rows]

    found = rootless("run", "-b", own(edit, "/bin/cat", "/proc/self/uid_map"), rootless.id()).out
    assert [line.split() for line in found.splitlines()][2] == ["11", str(user.first + 100), "50"]


@pytest.mark.requires("root")
def test_a_helper_without_privilege(rootless, error, user, scratch):
    rootless.before = instead("/usr/bin/newuidmap", Path("/usr/bin/newuidmap").read_bytes(), scratch)
    assert "chmod u+s /usr/bin/newuidmap" in error(many(user))


def test_a_session_without_new_privileges(rootless, error, user):
    rootless.inside = ["setpriv", "--no-new-privs"]
    assert "no_new_privs is set" in error(many(user))


# -- cgroups -----------------------------------------------------------------------------------------------------------


class Given:
    """A part of the v2 hierarchy that root gave to the user, who starts in a cgroup inside it."""

    def __init__(self, parent: Path, user, controllers: str) -> None:
        self.parent, self.top = parent, parent / "given"
        inner = self.top / "inner"
        inner.mkdir(parents=True)
        for above in (parent.parent, parent):
            (above / "cgroup.subtree_control").write_text(controllers)
        for path in (self.top, inner):
            for given in (path, path / "cgroup.procs", path / "cgroup.subtree_control"):
                os.chown(given, user.uid, user.gid)
        #: words of root's before the user's
        self.words = [*FIRST, f'echo $$ >{inner}/cgroup.procs && exec "$@"', "sh"]

    def remove(self) -> None:
        for path in (self.top / "inner", self.top, self.parent):
            path.rmdir()


@pytest.fixture
def given(user):
    made = []

    def give(controllers="+memory +pids +cpu"):
        made.append(Given(Path(f"/sys/fs/cgroup/pyrunc-given-{os.getpid()}"), user, controllers))
        return made[-1]

    yield give
    for one in made:
        one.remove()


@pytest.mark.requires("root", "cgroup-v2")
def test_a_part_that_root_delegated(rootless, own, given):
    """Without systemd: made beside the caller's cgroup, with its limits, and gone afterwards."""
    place = given()
    rootless.before = place.words
    made, id_ = own(limits, "/bin/sh", "-c", "sleep 998 & exec sleep 1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    box = place.top / id_
    assert (box / "memory.max").read_text() == f"{1 << 26}\n" and (box / "pids.max").read_text() == "20\n"
    assert str(rootless.pid(id_)) in (box / "cgroup.procs").read_text().split()
    rootless("update", "--memory", str(1 << 27), id_)
    assert (box / "memory.max").read_text() == f"{1 << 27}\n"
    rootless("pause", id_)
    assert rootless.state(id_)["status"] == "paused" and "frozen 1" in (box / "cgroup.events").read_text()
    rootless("resume", id_)
    assert len(rootless("ps", "--format", "json", id_).json()) == 2
    assert hierarchies.on_v2(rootless("exec", id_, "/bin/cat", "/proc/self/cgroup").out) == "/"
    rootless("delete", "--force", id_)
    assert not box.exists()


@pytest.mark.requires("root", "cgroup-v2")
def test_a_controller_that_was_not_delegated(rootless, error, given):
    place = given("+memory")
    rootless.before = place.words
    found = error(limits)
    assert "pids.max" in found and "does not pass the controller pids on" in found and "not delegated" in found


@pytest.mark.requires("root", "cgroup-v2")
def test_moving_into_a_delegated_part_from_outside(rootless, error, given):
    place = given()

    def edit(config):
        config["linux"]["cgroupsPath"] = str(place.top / "box").removeprefix("/sys/fs/cgroup")

    found = error(edit)
    assert "permission denied" in found and "only within what was given to him" in found


@pytest.mark.requires("no-delegation")
def test_limits_without_delegation(rootless, own, error):
    """They name what is missing; a container without limits runs all the same, and cannot be paused."""
    found = error(limits)
    assert "cannot set memory limit" in found and "\nhint: " in found
    assert "may make no cgroup" in found or "could not join or create cgroup" in found
    made, id_ = own(None, "/bin/probe", "sleep", "1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    assert "cgroups not configured for container" in rootless.fails("pause", id_)
    assert "cannot set memory limit" in rootless.fails("update", "--memory", "64M", id_)
    assert rootless("ps", "--format", "json", id_).json() == [rootless.pid(id_)]


@pytest.mark.requires("cgroup-v2", "own-cgroups")
@pytest.mark.requires("limits")
def test_limits_beside_ones_own_cgroup(rootless, own, user):
    """A service or scope of the user's own systemd: what it delegates can be limited."""
    made, id_ = own(limits, "/bin/probe", "sleep", "1000"), rootless.id()
    if not user.is_us:
        made.config["linux"]["resources"] = {}
        made.write()
    rootless("run", "-d", "-b", made, id_)
    path = hierarchies.on_v2(Path(f"/proc/{rootless.pid(id_)}/cgroup").read_text())
    if user.is_us:
        box = Path(f"/sys/fs/cgroup{path}")
        assert box.name in (id_, f"runc-{id_}.scope") and (box / "memory.max").read_text() == f"{1 << 26}\n"
        rootless("pause", id_)
        assert json.loads(rootless("state", id_).out)["status"] == "paused"
        rootless("resume", id_)


@pytest.mark.requires("cgroup-v2", "own-cgroups", "subordinate-ids")
@pytest.mark.parametrize("uid", [0, 1])
def test_a_cgroup_that_may_be_written(rootless, own, user, scratch, uid):
    """It is for the user that runs in there; where that is another one than the caller, only root may give it away."""

    def edit(config):
        many(user)(config)
        config["process"]["user"]["uid"] = uid
        for mount in config["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                mount["options"] = ["nosuid", "noexec", "nodev"]

    made, log = own(edit, "/bin/sh", "-c", "mkdir /sys/fs/cgroup/below && echo made; id -u"), scratch / "log"
    done = rootless("--log", log, "run", "-b", made, rootless.id())
    if not user.is_us:
        assert done.out == f"{uid}\n"  # without a cgroup there is none to write to
        return
    assert done.out == ("made\n0\n" if uid == 0 else "1\n")
    said = log.read_text() if log.exists() else ""
    assert ("give /sys/fs/cgroup" in said and f"to user {user.first}" in said and "ignoring" in said) == (uid == 1)


# -- what is in there ----------------------------------------------------------------------------------------------------


def network(config):
    config["linux"]["namespaces"].append({"type": "network"})
    at = [found["destination"] for found in config["mounts"]].index("/sys")
    config["mounts"][at] = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}


def test_ping_without_a_privilege(rootless, own):
    """The groups that may ping are the network namespace's own, in its ids."""

    def edit(config):
        network(config)
        config["linux"]["sysctl"] = {"net.ipv4.ping_group_range": "0 0"}

    made = own(edit, "/bin/cat", "/proc/sys/net/ipv4/ping_group_range")
    assert rootless("run", "-b", made, rootless.id()).out == "0\t0\n"


def test_sysfs_of_the_hosts_network(rootless, own, error):
    """It can be mounted by the owner of the network namespace alone; spec --rootless binds the host's instead."""

    def edit(config):
        at = [found["destination"] for found in config["mounts"]].index("/sys")
        config["mounts"][at] = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}

    found = error(edit)
    assert "mount sysfs on /sys (ro): operation not permitted" in found
    assert "network namespace" in found and "bind" in found


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole proc", "masked proc"])
def test_a_container_in_a_container(rootless, own, program, is_whole):
    """The command itself, in a container of the user's: where parts of /proc are covered, no new one may show them."""
    library = Path(program).resolve().parents[1]

    def edit(config):
        if is_whole:
            config["linux"].update(maskedPaths=[], readonlyPaths=[])
        for path in ("/usr", "/lib", "/lib64", "/etc", str(library)):
            config["mounts"].append({"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]})
        config["process"]["env"] = ["PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=/run"]
        config["process"]["capabilities"] = {
            kind: ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETFCAP", "CAP_SYS_CHROOT"]
            for kind in ("bounding", "effective", "permitted")
        }

    def within(config):
        # with a user namespace of its own, what covers /proc is none of its business: those mounts are locked
        if is_whole:
            without_user_namespace(config)
        else:
            for key in ("uidMappings", "gidMappings"):
                config["linux"][key] = [{"containerID": 0, "hostID": 0, "size": 1}]
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "cgroup"]
        config["mounts"] = [one for one in config["mounts"] if one["destination"] in ("/proc", "/dev")]

    inner = own(within, "/bin/sh", "-c", "echo $$; id -u; hostname")
    outer = own(edit, program, "--root", "/run/inner", "run", "-b", "/inner", "in")
    outer.config["mounts"].append(
        {"destination": "/inner", "type": "bind", "source": str(inner.path), "options": ["rbind"]}
    )
    outer.write()
    done = rootless("run", "-b", outer, rootless.id(), status=None)
    if is_whole:
        assert (done.status, done.out.split()) == (0, ["1", "0", "pyrunc"]), done.err
    else:
        assert done.status == 1 and "mount proc on /proc: operation not permitted" in done.err
        assert "parts of /proc are covered" in done.err


@pytest.mark.parametrize("uid", [0, 1000], ids=["root", "user"])
def test_exec_before_the_start(rootless, own, user, uid):
    """Its init sleeps in all that the program will have, and holds nothing more that a process in there could want."""

    def edit(config):
        many(user)(config)
        config["process"]["user"] = {"uid": uid, "gid": uid}

    made, id_ = own(edit, "/bin/probe", "sleep", "1000"), rootless.id()
    rootless("create", "-b", made, id_)
    pid = rootless.pid(id_)
    found = rootless("exec", id_, "/bin/probe", "report").json()
    kinds = ("user", "pid", "ipc", "uts", "mnt")
    assert [found["namespaces"][kind] for kind in kinds] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
    assert set(found["uid"].values()) == {uid}
    if os.geteuid() and uid:
        # began on the host and became another: the kernel shows it to nobody but root
        with pytest.raises(PermissionError):
            os.listdir(f"/proc/{pid}/fd")
    else:
        opened = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if int(path.name) > 2]
        assert sorted(map(os.path.basename, opened)) == ["exec.fifo", "exec.status"]
    assert rootless.state(id_)["status"] == "created"
    rootless("start", id_)
    rootless("exec", id_, "/bin/true")


# -- for doctor ----------------------------------------------------------------------------------------------------------


@pytest.mark.requires("limits")
def test_doctor_agrees(rootless, own):
    """What it calls an error or not of a user is what then happens to his container."""

    def asked():
        return {one["id"]: one["severity"] for one in rootless("doctor", "--json", status=None).json()}

    found = asked()
    assert found["privileges.user"] == found["userns.create"] == found["kernel.mount-api"] == "ok"
    rootless("run", "-b", own(), rootless.id())
    made = own(limits)
    can = rootless("run", "-b", made, rootless.id(), status=None).status == 0
    assert can == (found["cgroup.place"] == "ok")
    rootless.env.pop("XDG_RUNTIME_DIR")
    assert asked()["rootless.runtime-dir"] == "error"
