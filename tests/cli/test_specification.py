"""What the specification says that no other suite asks by its name; conformance/clauses.toml has all of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess

import pytest

from specs.explain import Located, schema_findings


def process(**changes):
    return lambda config: config["process"].update(changes)


@pytest.mark.parametrize("command", ["create", "start", "state", "kill", "delete"])
def test_an_operation_needs_an_id(pyrunc, bundle, command):
    options = ["-b", str(bundle("/bin/true"))] if command == "create" else []
    result = pyrunc(command, *options, status=1)
    assert result.out == "" and result.err.splitlines()[0] and pyrunc("list", "-q").out == ""


@pytest.mark.differs("it has none")
def test_a_state_is_a_document_of_the_specification(pyrunc, make):
    """In every status: what is required is there (runtime.md, state)."""
    made, id_ = make(lambda c: c.update(annotations={"a": ""}), "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    for status, step in (("created", "start"), ("running", "kill"), ("stopped", "delete")):
        text = pyrunc("state", id_).out
        found = json.loads(text)
        findings = [f for f in schema_findings(Located(text), "state") if f.severity == "error"]
        assert findings == [] and found["status"] == status
        pyrunc(step, id_, *(["KILL"] if step == "kill" else []))
        if step == "kill":
            pyrunc.wait(pid)


@pytest.mark.differs("it wants an absolute one")
def test_a_relative_destination_is_taken_from_the_root(report):
    entry = {"destination": "deep/down", "type": "tmpfs", "source": "tmpfs"}
    found = report(lambda c: (c["mounts"].append(entry), c["process"].update(cwd="/bin")))
    assert "/deep/down" in [mount["point"] for mount in found["mounts"]]


def test_a_console_size_without_a_terminal_is_ignored(pyrunc, make):
    for terminal in ({}, {"terminal": False}):
        made = make(process(consoleSize={"height": 7, "width": 9}, **terminal), "/bin/probe", "tty")
        found = pyrunc("run", "-b", made, pyrunc.id(), status=None)
        assert '"height": 7' not in found.out and "consoleSize" not in found.err


@pytest.mark.differs("it has no such property")
@pytest.mark.requires("two-cpus")
def test_without_a_final_affinity_the_cgroups_is_left_alone(running):
    """The first affinity is for the time before the process is in the cgroup, whose own then holds again."""
    box = running()
    cpus = sorted(os.sched_getaffinity(0))

    def allowed(**affinity):
        path = box.process(args=["/bin/cat", "/proc/self/status"], execCPUAffinity=affinity)
        out = box.pyrunc("exec", "--process", path, box.id).out
        return next(line.split()[1] for line in out.splitlines() if line.startswith("Cpus_allowed_list"))

    assert allowed(initial=str(cpus[0]), final=str(cpus[1])) == str(cpus[1])
    assert allowed(final="") == allowed()


@pytest.mark.differs("it has no such property")
@pytest.mark.requires("two-cpus", "root")
def test_the_first_affinity_holds_until_the_process_is_in_the_cgroup(calls, running):
    """It is for who must not be disturbed by what starts there (config.md, execCPUAffinity): nobody sees it from inside."""
    box = running()
    first, last = sorted(os.sched_getaffinity(0))[:2]
    path = box.process(args=["/bin/true"], execCPUAffinity={"initial": str(first), "final": str(last)})
    made = calls("sched_setaffinity,setns", "exec", "--process", path, box.id)
    wanted = [("sched_setaffinity", f" [{first}])"), ("setns", "CLONE_NEW"), ("sched_setaffinity", f" [{last}])")]
    done = [line for line in made if line.endswith("= 0")]
    found = [(name, word) for line in done for name, word in wanted if line.startswith(name) and word in line]
    assert list(dict.fromkeys(found)) == wanted, made


@pytest.mark.requires("root")
def test_ownership_of_the_rootfs_is_not_changed_for_a_user_namespace(pyrunc, make):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    made = make(edit, "/bin/true")
    before = [(path, path.lstat().st_uid) for path in sorted(made.rootfs.rglob("*"))]
    pyrunc("run", "-b", made, pyrunc.id())
    after = dict((path, path.lstat().st_uid) for path in sorted(made.rootfs.rglob("*")))
    assert before and [after[path] for path, _ in before] == [uid for _, uid in before]


def test_a_limit_of_no_process_is_one(pyrunc, make):
    """0 is a limit like any other: nothing but init, which is there already."""
    edit = lambda c: c["linux"].update(resources={"pids": {"limit": 0}})  # noqa: E731
    made = make(edit, "/bin/probe", "fork-bomb-lite", "1")
    result = pyrunc("run", "-b", made, pyrunc.id(), status=None)
    assert result.json()["forked"] == 0 if result.out else "pids" in result.err


# -- seccomp's listener: one message on one connection ---------------------------------------------------------------------


def listening(path, backlog=1):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(backlog)
    server.settimeout(20)
    return server


def notify(path, **more):
    def edit(config):
        rule = {"names": ["getpriority"], "action": "SCMP_ACT_NOTIFY"}
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [rule],
            "listenerPath": str(path),
            **more,
        }

    return edit


@pytest.mark.requires("x86-64")
def test_an_agent_gets_one_state_and_the_end(pyrunc, make, scratch):
    with listening(scratch / "agent") as server:
        id_ = pyrunc.id()
        create = pyrunc.popen("create", "-b", make(notify(scratch / "agent"), "/bin/probe", "sleep", "1000"), id_)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(20)
            data, fds, _, _ = socket.recv_fds(peer, 1 << 20, 4)
            state = json.loads(data)
            more, later, _, _ = socket.recv_fds(peer, 1 << 20, 4)
        for fd in fds:
            os.close(fd)
        assert len(fds) == 1 and state["fds"] == ["seccompFd"]
        assert (more, later) == (b"", [])  # closed, and nothing came after it
        assert create.wait(20) == 0
        pid = pyrunc.pid(id_)
        assert state["pid"] == pid and state["state"]["pid"] == pid
        assert state["ociVersion"] and state["state"]["status"] in ("creating", "created")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.requires("x86-64")
@pytest.mark.parametrize("is_there", [True, False], ids=["nobody-listens", "missing"])
def test_an_agent_that_cannot_be_reached_is_an_error(refused, scratch, is_there):
    if is_there:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(scratch / "agent"))
    refused(notify(scratch / "agent"), str(scratch / "agent"), "connection refused" if is_there else "no such file")


# -- annotations -------------------------------------------------------------------------------------------------------------


def test_annotations_of_the_specification_and_unknown_ones_are_kept(pyrunc, make):
    """None of them means anything here, the image's stop signal included: who sends it is the engine."""
    names = ("os", "os.version", "os.features", "architecture", "variant", "author", "created", "stopSignal")
    wanted = {f"org.opencontainers.image.{name}": "odd" for name in names} | {"x": "", "org.opencontainers.future": "1"}
    made, id_ = make(lambda c: c.update(annotations=wanted), "/bin/probe", "trap", "15"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    assert pyrunc.state(id_)["annotations"] == wanted


# -- cgroups -----------------------------------------------------------------------------------------------------------------


@pytest.mark.requires("cgroup-v1")
def test_nobody_is_given_a_cgroup_of_v1(running):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        entry = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"]}
        config["mounts"].append(entry)

    box = running(edit)
    place = box.cgroup("memory")
    assert {path.stat().st_uid for path in (place, *place.iterdir())} == {0}


def test_the_same_path_is_the_same_place(pyrunc, make, running):
    def places(box):
        with open(f"/proc/{box.pid}/cgroup") as file:
            return sorted(file.read().splitlines())

    first = running(name="a")
    found, path = places(first), first.bundle.config["linux"]["cgroupsPath"]
    pyrunc("delete", "--force", first.id)
    second = running(lambda c: c["linux"].update(cgroupsPath=path), name="b")
    assert places(second) == found


def test_a_mount_that_is_no_option_of_ours_is_the_filesystems(refused):
    entry = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["nosuchoption"]}
    refused(lambda c: c["mounts"].append(entry), "nosuchoption")


@pytest.mark.requires("idmapped-mount")
@pytest.mark.differs("it has no id mapped mounts")
def test_mappings_of_a_mount_are_done_by_the_kernel(pyrunc, make, scratch):
    """mount_setattr(2), and not a changed owner: the files are as they were for the host."""
    (scratch / "source").mkdir()
    (scratch / "source/file").touch()
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    entry = {"destination": "/t", "type": "none", "source": str(scratch / "source"), "options": ["bind", "idmap"]}
    made = make(lambda c: c["mounts"].append({**entry, "uidMappings": mapping, "gidMappings": mapping}), "/bin/true")
    text = pyrunc("plan", made).out
    assert "idmap" in text and "mount-setattr" in text
    pyrunc("run", "-b", made, pyrunc.id())
    assert (scratch / "source/file").stat().st_uid == 0


def test_a_name_that_is_written_twice_counts_once(pyrunc, make):
    """Such a document is nobody's to write; if it is, the last word counts, for every reader the same."""
    made = make(None, "/bin/hostname")
    text = json.dumps(made.config)
    (made.path / "config.json").write_text(text[:-1] + ', "hostname": "first", "hostname": "last"}')
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "last\n"
    done = subprocess.run(pyrunc.argv("features"), capture_output=True, check=True)

    def once(pairs):
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    json.loads(done.stdout, object_pairs_hook=once)
