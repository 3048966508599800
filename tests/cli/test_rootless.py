"""Containers of an ordinary user, with one id of his own or with ranges of subordinate ones, and of a user namespace's root.

The user is made for the tests and removed afterwards; his configurations begin as `spec --rootless` writes them.
"""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import hierarchies
import pytest


@pytest.fixture
def report(rootless, own):
    def report(edit=None, *sysctls, **process):
        return rootless("run", "-b", own(edit, "/bin/probe", "report", *sysctls, **process), rootless.id()).json()

    return report


@pytest.fixture
def refused(rootless, own, peer):
    """The error of a container that cannot be made; nothing of it is left."""

    def refused(edit, *words):
        made, id_ = own(edit), rootless.id()
        error = rootless("run", "-b", made, id_, status=1).err if peer else rootless.fails("run", "-b", made, id_)
        for word in words if not peer else ():
            assert word in error, error
        assert not (rootless.root / id_).exists()
        return error

    return refused


def mapping(*uids, gids=None):
    """Replace the mappings: triples of first id inside, first id outside, count."""

    def edit(config):
        for key, found in (("uidMappings", uids), ("gidMappings", gids or uids)):
            config["linux"][key] = [{"containerID": a, "hostID": b, "size": c} for a, b, c in found]

    return edit


def without_user_namespace(config):
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [found for found in namespaces if found["type"] != "user"]


def both(*edits):
    def edit(config):
        for one in edits:
            one(config)

    return edit


def mount(destination, source, *options):
    entry = {"destination": destination, "type": "bind", "source": str(source), "options": list(options)}
    return lambda config: config["mounts"].append(entry)


def numbers(lines):
    return [[int(word) for word in line.split()] for line in lines]


# -- one id ------------------------------------------------------------------------------------------------------------


def test_own_id_alone(report, user):
    found = report()
    assert numbers(found["uid_map"]) == [[0, user.uid, 1]]
    assert numbers(found["gid_map"]) == [[0, user.gid, 1]]
    assert set(found["uid"].values()) == {0} and set(found["gid"].values()) == {0}
    # user_namespaces(7): without it the kernel does not take the map of an ordinary user (CVE-2014-8989)
    assert found["setgroups"] == "deny"
    assert set(found["groups"]) <= {0}
    for name in ("user", "pid", "ipc", "uts", "mnt"):
        assert found["namespaces"][name] != os.readlink(f"/proc/self/ns/{name}"), name
    assert found["namespaces"]["net"] == os.readlink("/proc/self/ns/net")


def test_no_capability_outlives_the_program_that_was_given_it(report):
    found = report()["capabilities"]
    assert found["ambient"] == found["inheritable"] == []
    assert found["bounding"] == found["permitted"] == ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]


def test_mounts_of_spec(rootless, own):
    made = own(None, "/bin/probe", "each", *"stat /sys -- mkdir /sys/x -- write /proc/sys/kernel/hostname x".split())
    made.config["process"]["args"] += "-- write /dev/null x -- mkfile /dev/shm/x -- mkfile /new".split()
    made.write()
    found = rootless("run", "-b", made, rootless.id()).json()
    # sysfs belongs to whoever owns the network namespace, which is the host's: it is bound, and read-only
    assert found[0]["uid"] == 65534
    assert [answer.get("errno") for answer in found[1:]] == ["EROFS", "EACCES", None, None, None]


def test_files_made_belong_to_the_user(rootless, own, user):
    made = own(None, "/bin/sh", "-c", "echo x >/file")
    rootless("run", "-b", made, rootless.id())
    found = (made.rootfs / "file").stat()
    assert (found.st_uid, found.st_gid) == (user.uid, user.gid)


def test_state_is_kept_in_the_runtime_directory(rootless, own, user, peer):
    id_ = rootless.id()
    rootless("create", "-b", own(), id_)
    assert stat.S_IMODE(rootless.root.stat().st_mode) == 0o1700  # sticky: not to be cleaned away
    if not peer:
        entry = (rootless.root / id_).stat()
        assert (entry.st_uid, stat.S_IMODE(entry.st_mode)) == (user.uid, 0o700)


def test_whole_life(rootless, own, user, scratch, until, catches):
    made, id_ = own(None, "/bin/probe", "trap", "15"), rootless.id()
    rootless("create", "-b", made, "--pid-file", made.path / "pid", id_)
    pid = int((made.path / "pid").read_text())
    assert rootless.state(id_)["status"] == "created"
    assert os.stat(f"/proc/{pid}").st_uid in (0, user.uid)  # root's while it is undumpable, proc(5)
    rootless("start", id_)
    assert rootless.state(id_)["status"] == "running"
    assert rootless("list", "-q").out == f"{id_}\n" and user.name in rootless("list").out
    assert rootless("exec", id_, "/bin/sh", "-c", "id -u; exit 7", status=7).out == "0\n"
    until(lambda: catches(pid, 15))
    rootless("kill", id_, "TERM")
    assert rootless.wait(pid) == 40 + 15
    assert rootless.state(id_)["status"] == "stopped"
    rootless("delete", id_)
    assert not (rootless.root / id_).exists()


def test_exec_is_where_init_is(rootless, own):
    made, id_ = own(None, "/bin/probe", "sleep", "1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    found = rootless("exec", id_, "/bin/probe", "report").json()
    pid = rootless.pid(id_)
    for name in ("user", "pid", "ipc", "uts", "mnt", "net"):
        assert found["namespaces"][name] == os.readlink(f"/proc/{pid}/ns/{name}"), name
    assert found["hostname"] and set(found["uid"].values()) == {0}
    assert found["capabilities"]["effective"] == ["CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"]
    # others of the container must not look into the one that joins: it is no child of init
    assert found["ppid"] == 0


@pytest.mark.differs("it leaves the groups out without a word")
def test_ids_that_an_exec_cannot_have(rootless, own):
    made, id_ = own(None, "/bin/probe", "sleep", "1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    assert "5 is not mapped" in rootless.fails("exec", "--user", "5", id_, "/bin/true", status=255)
    assert "5 is not mapped" in rootless.fails("exec", "--user", "0:5", id_, "/bin/true", status=255)
    assert "5 is not mapped" in rootless.fails("exec", "-g", "5", id_, "/bin/true", status=255)
    # nothing is missing where the only group is one's own
    assert rootless("exec", "-g", "0", id_, "/bin/true")


def test_terminal(rootless, own, receiver, read_until, user):
    made, id_ = own(None, "/bin/sh", "-c", "read line; echo got $line; tty; stat -c %u $(tty)"), rootless.id()
    made.config["process"]["terminal"] = True
    made.write()
    server = receiver()
    os.chmod(server.path, 0o777)
    rootless("create", "-b", made, "--console-socket", server.path, id_)
    master, pid = server.receive(), rootless.pid(id_)
    rootless("start", id_)
    os.write(master, b"hello\n")
    assert read_until(master, b"/pts/0\r\n0\r\n").startswith(b"hello\r\ngot hello\r\n/dev/pts/0\r\n")
    assert rootless.wait(pid) == 0
    assert os.fstat(master).st_uid in (0, user.uid)
    os.close(master)


def in_the_foreground(rootless, made):
    """Run it on a terminal: the command, and both ends."""
    made.config["process"]["terminal"] = True
    made.write()
    master, slave = pty.openpty()
    return rootless.popen("run", "-b", made, rootless.id(), stdin=slave, stdout=slave, stderr=slave), master, slave


def test_terminal_in_the_foreground(rootless, own, read_until):
    made = own(None, "/bin/sh", "-c", "tty; read x; echo got $x; exit 3")
    command, master, slave = in_the_foreground(rootless, made)
    assert b"/dev/pts/0" in read_until(master, b"pts/0\r\n")
    os.write(master, b"hello\r")
    read_until(master, b"got hello\r\n")
    assert command.wait(20) == 3
    os.close(slave)
    os.close(master)


def test_console(rootless, own, read_until):
    """/dev/console is the terminal, of the container's root."""
    made = own(None, "/bin/sh", "-c", "stat -c '%u %t' /dev/console; echo said >/dev/console; read x")
    command, master, slave = in_the_foreground(rootless, made)
    assert "0 88" in read_until(master, b"said\r\n").decode()
    os.write(master, b"\r")
    assert command.wait(20) == 0
    os.close(slave)
    os.close(master)


def test_terminal_of_exec(rootless, own, receiver, read_until):
    made, id_ = own(None, "/bin/probe", "sleep", "1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    server = receiver()
    os.chmod(server.path, 0o777)
    process = {**made.config["process"], "terminal": True, "args": ["/bin/sh", "-c", "tty; exec sleep 1000"]}
    (made.path / "process.json").write_text(json.dumps(process))
    pid_file = made.path / "pid"
    words = ["--process", made.path / "process.json", "--pid-file", pid_file, "--console-socket", server.path]
    rootless("exec", "-d", *words, id_)
    master = server.receive()
    assert read_until(master, b"/dev/pts/0\r\n")
    os.close(master)
    assert rootless.wait(int(pid_file.read_text())) == 129


def test_binds(rootless, own, user, scratch):
    (scratch / "mine").mkdir(mode=0o700)
    (scratch / "mine" / "file").write_text("x")
    user.owns(scratch / "mine")
    edit = both(
        mount("/rw", scratch / "mine", "rbind"),
        mount("/ro", scratch / "mine", "bind", "ro", "noexec"),
        mount("/etc/file", scratch / "mine" / "file", "bind"),
        mount("/roots", "/usr", "bind"),
    )
    actions = "mkfile /rw/new -- mkfile /ro/other -- read /etc/file -- mkfile /roots/new -- stat /roots"
    found = rootless("run", "-b", own(edit, "/bin/probe", "each", *actions.split()), rootless.id()).json()
    assert [answer.get("errno") for answer in found[:4]] == [None, "EROFS", None, "EACCES"]
    assert found[4]["uid"] == 65534  # nobody in there
    assert (scratch / "mine" / "new").stat().st_uid == user.uid


@pytest.mark.requires("root")
def test_bind_of_what_the_user_cannot_reach(refused, scratch):
    (scratch / "secret").mkdir(mode=0o700)
    (scratch / "secret" / "file").touch()
    refused(mount("/file", scratch / "secret" / "file", "bind"), "secret/file", "permission denied")


def test_network_namespace_of_its_own(report):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "network"})
        config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "80"}
        at = [found["destination"] for found in config["mounts"]].index("/sys")
        config["mounts"][at] = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}

    found = report(edit, "net.ipv4.ip_unprivileged_port_start")
    assert found["interfaces"] == {"lo": "up"}
    assert found["sysctls"] == {"net.ipv4.ip_unprivileged_port_start": "80"}


def test_devices_are_bound_from_the_host(rootless, own):
    def edit(config):
        config["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]

    actions = "stat /dev/fuse -- stat /dev/null -- write /dev/null x -- mknod /dev/x c 1 3"
    found = rootless("run", "-b", own(edit, "/bin/probe", "each", *actions.split()), rootless.id()).json()
    assert (found[0]["rdev"], found[1]["rdev"]) == ([10, 229], [1, 3])
    assert [answer.get("errno") for answer in found[2:]] == [None, "EPERM"]


def test_device_that_the_host_does_not_have(refused):
    def edit(config):
        config["linux"]["devices"] = [{"path": "/dev/no-such-device", "type": "c", "major": 10, "minor": 229}]

    refused(edit, "/dev/no-such-device", "bound from the host", "no such file or directory")


@pytest.mark.differs("it binds whatever is there")
@pytest.mark.parametrize("path, kind, minor", [("/dev/zero", "c", 3), ("/dev/null", "b", 3), ("/etc/passwd", "c", 3)])
def test_device_that_is_another_one_on_the_host(refused, path, kind, minor):
    """The path is where the container wants it; what the host has there is looked at before it is bound."""
    entry = {"path": path, "type": kind, "major": 1, "minor": minor}
    refused(lambda c: c["linux"].update(devices=[entry]), f"make device {path}", "no such device")


def test_hooks(rootless, own, user, scratch):
    """They run as the user, the ones of the container as its root."""
    out = scratch / "out"
    out.mkdir()
    user.owns(out)

    def edit(config):
        config["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"id -u >{out}/{kind}"]}]
            for kind in ("createRuntime", "createContainer", "poststart", "poststop")
        }

    rootless("run", "-b", own(edit), rootless.id())
    found = {path.name: int(path.read_text()) for path in out.iterdir()}
    assert found == {"createRuntime": user.uid, "createContainer": 0, "poststart": user.uid, "poststop": user.uid}


#: a path of the host's cgroups, and what is said of it; whom root makes for a test has no systemd of his own
HAS_SYSTEMD = hierarchies.MANAGER == "systemd" and os.geteuid() != 0
NOT_OURS = ["slice:prefix:name"] if HAS_SYSTEMD else ["cgroup", "of", "permission denied"]
LIMITED = pytest.mark.requires("no-delegation")


@pytest.mark.parametrize("edit, words", [
    (without_user_namespace, ["rootless container requires user namespaces", "spec --rootless"]),
    (lambda c: c["linux"].update(cgroupsPath="/of/mine"), NOT_OURS),
    pytest.param(lambda c: c["linux"].update(resources={"memory": {"limit": 1 << 30}}), ["memory", "cgroup"], marks=LIMITED),
    pytest.param(lambda c: c["linux"].update(resources={"pids": {"limit": 10}}), ["pids", "cgroup"], marks=LIMITED),
    (lambda c: c["process"].update(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 << 30}]),
     ["RLIMIT_NOFILE", "operation not permitted"]),
    (lambda c: c["linux"].update(sysctl={"net.ipv4.ip_forward": "1"}), ["net.ipv4.ip_forward"]),
    (lambda c: c["process"].update(user={"uid": 1, "gid": 0}), ["1 is not mapped"]),
], ids=["no user namespace", "cgroupsPath", "memory", "pids", "rlimit", "sysctl of the host", "unmapped user"])  # fmt: skip
def test_what_a_user_cannot_have(refused, edit, words):
    refused(edit, *words)


def test_device_rules_are_no_limit(rootless, own):
    """Every configuration has them, and they keep nobody from what he has anyway."""
    made = own(lambda c: c["linux"].update(resources={"devices": [{"allow": False, "access": "rwm"}]}))
    rootless("--log", made.path / "log", "run", "-b", made, rootless.id())
    assert not (made.path / "log").exists(), "nothing to warn of either"


@pytest.mark.requires("idmapped-mount")
@pytest.mark.differs("it does not know idmapped mounts")
def test_idmapped_mounts_need_root(refused, scratch):
    refused(mount("/t", scratch, "bind", "idmap"), "idmapped mounts need root")


# -- without a cgroup --------------------------------------------------------------------------------------------------


@pytest.mark.requires("cgroup-v1")
@pytest.mark.differs("it finds no processes")
def test_without_a_cgroup(rootless, own, until):
    made, id_ = own(None, "/bin/sh", "-c", "sleep 998 & sleep 999 & exec sleep 1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    pid = rootless.pid(id_)
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    found = until(lambda: len(pids := rootless("ps", "--format", "json", id_).json()) == 3 and pids)
    assert found[0] == pid and os.getpid() not in found
    assert rootless("ps", id_).out.count("sleep") == 3
    assert "cgroups not configured" in rootless.fails("pause", id_)
    assert rootless.state(id_)["status"] == "running"
    rootless("kill", "--all", id_, "KILL")
    assert rootless.wait(pid) == 137


# -- ranges of ids -----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(user):
    return mapping((0, user.uid, 1), (1, user.first, 65536))


def test_ranges_of_ids(report, many, user):
    found = report(many, user={"uid": 1000, "gid": 50})
    assert numbers(found["uid_map"]) == numbers(found["gid_map"]) == [[0, user.uid, 1], [1, user.first, 65536]]
    assert set(found["uid"].values()) == {1000} and set(found["gid"].values()) == {50}
    assert found["setgroups"] == "allow" and set(found["groups"]) <= {50}


@pytest.mark.differs("it refuses groups to whoever is not root")
@pytest.mark.parametrize("groups", [[], [5, 6], range(1, 65536)], ids=["none", "two", "65535"])
def test_groups_are_exactly_those_of_the_configuration(report, many, groups):
    found = report(many, user={"uid": 1000, "gid": 50, "additionalGids": list(groups)})
    assert set(found["groups"]) - {50} == set(groups) - {50}


def test_files_of_other_users(rootless, own, many, user):
    made = own(many, "/bin/sh", "-c", "echo x >/file; chown 7:8 /file; mkdir /dir")
    made.config["process"]["capabilities"]["bounding"].append("CAP_CHOWN")
    for kind in ("effective", "permitted"):
        made.config["process"]["capabilities"][kind].append("CAP_CHOWN")
    made.write()
    rootless("run", "-b", made, rootless.id())
    found = (made.rootfs / "file").stat()
    assert (found.st_uid, found.st_gid) == (user.first + 6, user.first + 7)
    assert (made.rootfs / "dir").stat().st_uid == user.uid


def test_life_of_another_user_in_there(rootless, own, many, user):
    """Init's user is nobody's on the host: that its owner may signal it follows from the user namespace."""
    made = own(many, "/bin/probe", "sleep", "1000", user={"uid": 1000, "gid": 1000})
    id_ = rootless.id()
    rootless("run", "-d", "-b", made, id_)
    pid = rootless.pid(id_)
    assert os.stat(f"/proc/{pid}").st_uid == user.first + 999
    found = rootless("exec", "--user", "7:8", id_, "/bin/probe", "report").json()
    assert set(found["uid"].values()) == {7} and set(found["gid"].values()) == {8}
    assert rootless("exec", id_, "/bin/id", "-u").out == "1000\n"
    rootless("kill", id_, "KILL")
    assert rootless.wait(pid) == 137
    rootless("delete", id_)


def test_range_that_is_somebody_elses(refused, user):
    beyond = user.first + 65536
    refused(
        mapping((0, user.uid, 1), (1, beyond, 65536)),
        "newuidmap",
        f"[{beyond}-{beyond + 65536}) not allowed",
        "/etc/subuid",
    )
    gids = [(0, user.gid, 1), (1, beyond, 65536)]
    refused(mapping((0, user.uid, 1), (1, user.first, 65536), gids=gids), "newgidmap", "/etc/subgid")


def test_root_of_the_host_cannot_be_mapped(refused):
    refused(mapping((0, 0, 1)), "newuidmap", "not allowed")


@pytest.mark.requires("root")
def test_helper_that_is_not_installed(rootless, refused, many, peer):
    # in a mount namespace of the command's own; as for every file that cannot be executed
    hide = 'mount --bind /dev/null $(readlink -f /usr/bin/newuidmap) && exec "$@"'
    rootless.before = ["unshare", "-m", "sh", "-c", hide, "sh"]
    refused(many, "newuidmap", "not installed", "uidmap")


# -- whose directories -------------------------------------------------------------------------------------------------


@pytest.mark.differs("it takes any directory")
def test_runtime_directory_must_be_the_users(rootless, own, scratch):
    made = own()
    rootless.env["XDG_RUNTIME_DIR"] = "/no/such/directory"
    assert "/no/such/directory" in rootless.fails("run", "-b", made, rootless.id())
    (scratch / "world").mkdir()
    (scratch / "world").chmod(0o777)
    rootless.env["XDG_RUNTIME_DIR"] = str(scratch / "world")
    assert "writable by everybody" in rootless.fails("run", "-b", made, rootless.id())
    del rootless.env["XDG_RUNTIME_DIR"]
    error = rootless.fails("run", "-b", made, rootless.id())
    assert "permission denied" in error and "XDG_RUNTIME_DIR" in error


@pytest.mark.requires("root")
@pytest.mark.differs("it takes any directory")
def test_state_of_somebody_else_is_not_believed(rootless, own, pyrunc, user, until):
    """It could name any process to be killed, and hooks to be run."""
    made, id_ = own(None, "/bin/probe", "sleep", "1000"), rootless.id()
    rootless("run", "-d", "-b", made, id_)
    pid = rootless.pid(id_)
    pyrunc.root = rootless.root
    for words in (["kill", id_, "KILL"], ["delete", "--force", id_], ["state", id_], ["exec", id_, "/bin/true"]):
        assert f"belongs to uid {user.uid}" in pyrunc.fails(*words, status=255 if words[0] == "exec" else 1)
    assert "belongs to uid" in pyrunc.fails("create", "-b", made, pyrunc.id())
    os.kill(pid, 0)
    pyrunc.root = made.path / "nowhere"


# -- root of a user namespace that somebody else has made ------------------------------------------------------------------

NESTED = {
    "one id": ["unshare", "-Ur"],
    "one id, own mounts": ["unshare", "-Urm"],
    "many ids": ["unshare", "-U", "--map-auto", "--map-root-user"],
    "many ids, own mounts": ["unshare", "-Um", "--map-auto", "--map-root-user"],
}
KINDS = [
    pytest.param(kind, marks=[pytest.mark.requires("subordinate-ids")] if "--map-auto" in NESTED[kind] else [])
    for kind in NESTED
]


@pytest.mark.parametrize("kind", KINDS)
def test_root_of_a_user_namespace(rootless, own, user, kind):
    made = own(without_user_namespace, "/bin/probe", "report")
    rootless.inside = NESTED[kind]
    found = rootless("run", "-b", made, rootless.id()).json()
    assert numbers(found["uid_map"])[0] == [0, user.uid, 1]
    assert found["setgroups"] == ("deny" if kind.startswith("one") else "allow")
    assert set(found["uid"].values()) == {0} and found["pid"] == 1
    assert {"/proc", "/dev", "/dev/pts", "/sys"} <= {found["point"] for found in found["mounts"]}
    if not kind.startswith("one"):
        made.config["process"]["user"] = {"uid": 1000, "gid": 50, "additionalGids": [5, 6]}
        made.write()
        found = rootless("run", "-b", made, rootless.id("other")).json()
        assert set(found["uid"].values()) == {1000} and sorted(set(found["groups"]) - {50}) == [5, 6]


@pytest.mark.differs("it leaves the groups out without a word")
def test_groups_where_somebody_has_denied_them(rootless, own):
    made = own(without_user_namespace)
    made.config["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [5]}
    made.write()
    rootless.inside = NESTED["one id"]
    error = rootless.fails("run", "-b", made, rootless.id())
    assert "additionalGids" in error and "setgroups is denied" in error


@pytest.mark.requires("subordinate-ids")
def test_life_in_one_user_namespace(rootless, own, user):
    """Every command from within the same namespace, as an engine without root gives them."""
    made, id_ = own(without_user_namespace, "/bin/probe", "sleep", "1000"), rootless.id()
    made.config["process"]["user"] = {"uid": 1000, "gid": 50}
    made.write()
    script = made.path / "script"
    program = shlex.join(map(str, rootless.argv()[len(user.words) :]))
    script.write_text(
        f"set -ex; {program} create -b {made.path} {id_}; {program} start {id_}; {program} exec {id_} /bin/id -u\n"
        f"{program} exec -g 5 {id_} /bin/id -G; {program} kill {id_} KILL\n"
        f"until {program} state {id_} | grep -q stopped; do sleep 0.05; done; {program} delete {id_}\n"
    )
    words = [*user.words, *NESTED["many ids, own mounts"], "sh", str(script)]
    done = subprocess.run(words, env=rootless.env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1000\n50 5\n"), done.stderr


@pytest.mark.differs("it cannot reach the mounts")
@pytest.mark.parametrize("kind", KINDS)
def test_user_namespace_in_a_user_namespace(rootless, own, user, kind):
    outer = 1000 if kind.startswith("many") else 0
    made = own(mapping((0, outer, 1)), "/bin/probe", "report")
    subprocess.run(["chmod", "-R", "a+rX", str(made.path)], check=True)
    rootless.inside = NESTED[kind]
    found = rootless("run", "-b", made, rootless.id()).json()
    # as it is seen from the host, where this is read
    assert numbers(found["uid_map"]) == [[0, outer, 1]]
    assert set(found["uid"].values()) == {0}


@pytest.mark.requires("subordinate-ids")
def test_bind_that_only_the_outer_root_can_reach(rootless, own, user, scratch):
    secret = scratch / "secret"
    secret.mkdir(mode=0o700)
    (secret / "open").mkdir()
    (secret / "open" / "file").write_text("x")
    user.owns(secret)
    made = own(both(mapping((0, 1000, 1000)), mount("/t", secret / "open", "rbind", "ro")), "/bin/cat", "/t/file")
    rootless.inside = NESTED["many ids, own mounts"]
    (made.rootfs / "t").mkdir()  # the rootfs is not the inner root's to change
    assert rootless("run", "-b", made, rootless.id()).out == "x"


@pytest.mark.differs("it says that a tool is missing")
@pytest.mark.requires("subordinate-ids")
def test_ids_that_the_outer_namespace_does_not_have(rootless, own):
    made = own(mapping((0, 100000, 1)))
    rootless.inside = NESTED["many ids"]
    error = rootless.fails("run", "-b", made, rootless.id())
    assert "uid_map" in error and "only ids that this user namespace has itself" in error


# -- global options ----------------------------------------------------------------------------------------------------


@pytest.mark.requires("root")
def test_rootless_option(rootless, own, make, pyrunc, peer):
    """Whether to go on without cgroups that may not be made; who is root is another question."""
    made = own()
    assert "cgroup" in rootless("--rootless=false", "run", "-b", made, rootless.id(), status=1).err
    rootless("--rootless=true", "run", "-b", made, rootless.id())
    rootless("--rootless", "auto", "run", "-b", made, rootless.id())
    box = make(None)
    for value in ("true", "false", "auto"):
        if value == "true" and "--systemd-cgroup" in pyrunc.options:
            continue  # as with runc it is the user's systemd that is asked then, and root has none
        pyrunc(f"--rootless={value}", "run", "-b", box, pyrunc.id(value))


@pytest.mark.requires("cgroup-v1", "root")
def test_rootless_option_for_root(pyrunc, make, until):
    """Root gets cgroups all the same; only where they cannot be made is nothing said about it."""
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    del made.config["linux"]["cgroupsPath"]
    made.write()
    pyrunc("--rootless=true", "run", "-d", "-b", made, id_)
    assert id_ in Path(f"/proc/{pyrunc.pid(id_)}/cgroup").read_text()
    pyrunc("delete", "--force", id_)
    read_only = [
        "unshare", "-m", "sh", "-c",
        'for m in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,ro "$m" 2>/dev/null; done; exec "$@"', "sh",
    ]  # fmt: skip
    for value, status in (("false", 1), ("true", 0)):
        words = [*read_only, *pyrunc.argv(f"--rootless={value}", "run", "-b", made, pyrunc.id(value))]
        made.config["process"]["args"] = ["/bin/true"]
        made.write()
        done = subprocess.run(words, env=pyrunc.env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert ("read-only file system" in done.stderr) == bool(status)


@pytest.mark.requires("root")
@pytest.mark.differs("it does not know the option")
def test_cgroups_disabled(pyrunc, make, scratch, until):
    made, id_ = make(None, "/bin/sh", "-c", "sleep 999 & exec sleep 1000"), pyrunc.id()
    pyrunc.options = ["--cgroup-manager", "disabled"]
    pyrunc("run", "-d", "-b", made, id_)
    pid = pyrunc.pid(id_)
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path("/proc/self/cgroup").read_text()
    assert until(lambda: len(pyrunc("ps", "--format", "json", id_).json()) == 2)
    assert pyrunc("exec", id_, "/bin/true").status == 0
    assert "cgroups not configured" in pyrunc.fails("pause", id_)
    pyrunc("kill", id_, "KILL")
    assert pyrunc.wait(pid) == 137
    pyrunc("delete", id_)
    # a limit that nobody would enforce is refused, rules for devices are warned about
    made.config["linux"]["resources"] = {"memory": {"limit": 1 << 30}}
    made.write()
    assert "cgroups are disabled" in pyrunc.fails("create", "-b", made, id_)
    made.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    made.write()
    pyrunc("--log", scratch / "log", "create", "-b", made, id_)
    assert "linux.resources.devices: not enforced" in (scratch / "log").read_text()


# -- compared with a peer ----------------------------------------------------------------------------------------------


@pytest.mark.requires("runc")
def test_the_same_as_runc(rootless, own, user):
    made = own(None, "/bin/probe", "report")
    ours = rootless("run", "-b", made, rootless.id()).json()
    words = [*user.words, "runc", "run", "-b", str(made.path), f"{rootless.id()}-runc"]
    done = subprocess.run(words, env=rootless.env, capture_output=True, text=True, check=True, cwd="/")
    theirs = json.loads(done.stdout)
    shutil.rmtree(Path(rootless.env["XDG_RUNTIME_DIR"]) / "runc", ignore_errors=True)

    def seen(report):
        kept = ("args", "env", "cwd", "uid", "gid", "uid_map", "gid_map", "setgroups", "capabilities", "no_new_privs",
                "rlimits", "hostname", "sysctl", "umask", "interfaces", "oom_score_adj")  # fmt: skip
        out = {key: report.get(key) for key in kept}
        out["devices"] = {
            name: (d["type"], d["mode"], d["uid"], d.get("rdev")) for name, d in report["devices"].items()
        }
        return out

    assert seen(ours) == seen(theirs)
    mounts = [{(m["point"], m["type"]) for m in report["mounts"]} for report in (ours, theirs)]
    assert mounts[0] == mounts[1]
    options = {m["point"]: set(m["options"]) for m in ours["mounts"]}
    assert "ro" in options["/sys/fs/cgroup"]
    for m in theirs["mounts"]:
        # ours are read-only and without devices in a few more places
        assert set(m["options"]) - {"rw"} <= options[m["point"]], m
