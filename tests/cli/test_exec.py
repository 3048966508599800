"""exec: another process in a running container."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest


def test_inherits_what_the_container_is(pyrunc, running):
    box = running(lambda c: c.update(hostname="inner"))
    found = box.report()
    init = {name: os.readlink(f"/proc/{box.pid}/ns/{name}") for name in ("pid", "net", "mnt", "ipc", "uts", "cgroup")}
    assert {name: found["namespaces"][name] for name in init} == init
    assert found["hostname"] == "inner"
    assert found["cwd"] == "/" and "PATH=/bin:/sbin:/usr/bin:/usr/sbin" in found["env"]
    assert found["no_new_privs"] == 1
    assert sorted(found["capabilities"]["effective"]) == sorted(
        box.bundle.config["process"]["capabilities"]["effective"]
    )
    assert found["capabilities"]["ambient"] == []
    assert found["pid"] > 1 and found["sid"] == found["pid"]
    assert [entry["fd"] for entry in found["fds"]] == [0, 1, 2]
    own = Path(f"/proc/{box.pid}/cgroup").read_text().splitlines()
    assert len(found["cgroup"]) == len(own)
    assert all(line.endswith(":/") for line in found["cgroup"]), found["cgroup"]  # as seen from its cgroup namespace


def test_is_in_the_cgroups_of_the_container(pyrunc, running):
    box = running(lambda c: c["linux"]["namespaces"].remove({"type": "cgroup"}))
    assert box.report()["cgroup"] == Path(f"/proc/{box.pid}/cgroup").read_text().splitlines()


@pytest.mark.parametrize("status", [0, 1, 42, 126, 127, 254, 255])
def test_exit_status(pyrunc, running, status):
    box = running()
    result = pyrunc("exec", box.id, "/bin/probe", "exit", str(status), status=status)
    assert (result.out, result.err) == ("", "")


@pytest.mark.parametrize("number", [1, 9, 15, 34])
def test_exit_status_of_a_signal(pyrunc, running, number):
    box = running()
    box.exec("/bin/probe", "signal", str(number), status=128 + number)


def test_words_after_the_id_belong_to_the_program(pyrunc, running):
    box = running()
    words = ["/bin/probe", "report", "-t", "--help", "-d", "--", "a b", ""]
    assert box.exec(*words).json()["args"] == words
    assert pyrunc("exec", "--", box.id, *words).json()["args"] == words


def test_stdio_is_passed_through(pyrunc, running):
    box = running()
    result = box.exec("/bin/sh", "-c", "cat; echo err >&2", input="in\n")
    assert (result.out, result.err) == ("in\n", "err\n")


def test_options(pyrunc, running):
    box = running(lambda c: c["process"].update(noNewPrivileges=False))
    found = box.report(
        options=(
            *("--cwd", "/usr", "--env", "A=1", "--env", "B=2", "-u", "1000:50", "-g", "7", "-g", "8"),
            *("--cap", "CAP_SYS_NICE", "--no-new-privs"),
        )
    )
    assert found["cwd"] == "/usr" and {"A=1", "B=2"} <= set(found["env"])
    assert (found["uid"]["effective"], found["gid"]["effective"]) == (1000, 50)
    assert sorted(set(found["groups"]) - {50}) == [7, 8]
    assert found["no_new_privs"] == 1
    assert "CAP_SYS_NICE" in found["capabilities"]["bounding"]
    found = box.report(options=("--user=0", "-c", "CAP_SYS_NICE"))
    assert found["no_new_privs"] == 0
    assert "CAP_SYS_NICE" in found["capabilities"]["effective"]
    assert found["capabilities"]["ambient"] == []


@pytest.mark.parametrize("user", ["root", "-1", "4294967295", "1:2:3", "1:", ":1", "0x1", "1 "])
def test_user_that_is_no_number(pyrunc, running, user, peer):
    if peer and user in ("1:2:3", "1:", ":1", "0x1", "1 "):
        return
    pyrunc.fails("exec", "-u", user, running().id, "/bin/true", status=255)


@pytest.mark.differs("it takes it for 0: root")
def test_user_that_would_wrap_around(pyrunc, running):
    pyrunc.fails("exec", "-u", "4294967296", running().id, "/bin/true", status=255)


@pytest.mark.differs("its exec forgets the umask")
def test_process_file(pyrunc, running, scratch):
    box = running()
    process = box.process(
        args=["/bin/probe", "report"],
        env=["PATH=/bin", "X=y"],
        cwd="/etc",
        user={"uid": 1000, "gid": 1000, "additionalGids": [5], "umask": 0o77},
        capabilities={"bounding": ["CAP_KILL"]},
        noNewPrivileges=False,
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
        oomScoreAdj=500,
    )
    for words in (("--process", str(process)), ("-p", str(process)), (f"--process={process}",)):
        found = pyrunc("exec", *words, box.id).json()
        assert (found["uid"]["effective"], found["umask"]) == (1000, "0077")
        assert set(found["groups"]) - {1000} == {5}
        assert found["cwd"] == "/etc" and "X=y" in found["env"] and found["no_new_privs"] == 0
        assert found["capabilities"]["bounding"] == ["CAP_KILL"]
        assert found["rlimits"]["RLIMIT_NOFILE"] == [64, 64]
        assert found["oom_score_adj"] == "500"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"args": []}', '{"args": "x", "cwd": "/"}', '{"args":["a"],"cwd":"rel"}']
)
def test_process_file_that_is_wrong(pyrunc, running, text):
    box = running()
    path = box.bundle.path / "p.json"
    path.write_text(text)
    pyrunc.fails("exec", "-p", path, box.id, status=255)
    assert pyrunc.state(box.id)["status"] == "running"


def test_process_file_that_is_missing(pyrunc, running):
    box = running()
    assert "no such file or directory" in pyrunc.fails("exec", "-p", "/no/such", box.id, status=255)


def test_process_file_and_words_exclude_each_other(pyrunc, running, peer):
    if not peer:
        box = running()
        pyrunc.fails("exec", "-p", box.process(args=["/bin/true"]), box.id, "/bin/false", status=255)


def test_detached_with_a_pid_file(pyrunc, running, scratch):
    box = running()
    result = pyrunc("exec", "-d", "--pid-file", scratch / "pid", box.id, "/bin/probe", "exit", "9")
    assert (result.out, result.err) == ("", "")
    text = (scratch / "pid").read_text()
    assert text == str(int(text))
    assert pyrunc.wait(int(text)) == 9


def test_pid_file_of_an_attached_exec(pyrunc, running, scratch, until):
    box = running()
    command = pyrunc.popen(
        *("exec", "--pid-file", scratch / "pid", box.id, "/bin/sh", "-c", "echo up; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert command.stdin and command.stdout and command.stdout.readline() == b"up\n"
    until((scratch / "pid").exists)
    pid = int((scratch / "pid").read_text())
    assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{box.pid}/ns/mnt")
    command.stdin.close()
    assert command.wait(20) == 0
    command.stdout.close()


@pytest.mark.parametrize(
    "program, words",
    [
        ("nope", ['"nope"', "executable file not found in $PATH"]),
        ("/bin/nope", ['"/bin/nope"', "no such file or directory"]),
        ("/etc/passwd", ['"/etc/passwd"', "permission denied"]),
    ],
)
def test_program_that_cannot_be_started(pyrunc, running, scratch, program, words):
    """conmon takes the pid file for the proof that the process runs, and the text for the reason."""
    box = running()
    for options in ((), ("-d",)):
        error = pyrunc.fails("exec", *options, "--pid-file", scratch / "pid", box.id, program, status=255)
        for word in words:
            assert word in error.replace('\\"', '"'), error
        assert not (scratch / "pid").exists()
    assert pyrunc("ps", "-f", "json", box.id).json() == [box.pid]


@pytest.mark.differs("1.1 exits with 0 and a pid file, and the process fails on its own")
def test_program_of_an_unknown_format(pyrunc, running, scratch):
    box = running()
    (box.bundle.rootfs / "bin/garbage").write_bytes(b"\x00\x01\x02")
    (box.bundle.rootfs / "bin/garbage").chmod(0o755)
    error = pyrunc.fails("exec", "-d", "--pid-file", scratch / "pid", box.id, "/bin/garbage", status=255)
    assert "exec format error" in error.lower() and not (scratch / "pid").exists()


def test_in_a_created_container(pyrunc, make):
    """Before its program has started; engines with init containers and CNI plugins use it."""
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    assert pyrunc("exec", id_, "/bin/echo", "yes").out == "yes\n"


def test_in_a_stopped_container(pyrunc, running):
    box = running(None, "/bin/true")
    pyrunc.wait(box.pid)
    error = pyrunc.fails("exec", box.id, "/bin/true", status=255)
    assert "cannot exec in a stopped container" in error


def test_in_a_paused_container(pyrunc, running, until):
    box = running()
    pyrunc("pause", box.id)
    error = pyrunc.fails("exec", box.id, "/bin/true", status=255)
    assert "paused" in error
    pyrunc("resume", box.id)
    assert box.exec("/bin/true").status == 0


def test_in_a_paused_container_all_the_same(pyrunc, running, until):
    box = running()
    pyrunc("pause", box.id)
    waiting = pyrunc.popen("exec", "--ignore-paused", box.id, "/bin/probe", "exit", "6")
    until(lambda: len((box.cgroup("freezer") / "cgroup.procs").read_text().split()) > 1, "the process in the cgroup")
    assert waiting.poll() is None
    pyrunc("resume", box.id)
    assert waiting.wait(20) == 6


def test_no_program(pyrunc, running):
    pyrunc.fails("exec", running().id, status=255)


def test_sees_the_mounts_of_now(pyrunc, running):
    box = running()
    privileged = ["-U", "--preserve-credentials"] if os.geteuid() else []
    subprocess.run(["nsenter", "-t", str(box.pid), *privileged, "-m", "mount", "-t", "tmpfs", "x", "/mnt"], check=True)
    assert "/mnt" in [mount["point"] for mount in box.report()["mounts"]]


def test_home_and_cwd_of_another_user(pyrunc, running):
    box = running()
    found = box.report(options=("-u", "1000"))
    assert "HOME=/home" in found["env"] and found["cwd"] == "/"


@pytest.mark.requires("cgroup-v1")
def test_join_a_cgroup_below_the_containers(pyrunc, running):
    box = running(lambda c: c["linux"]["namespaces"].remove({"type": "cgroup"}))
    (box.cgroup("pids") / "sub").mkdir()
    try:
        found = box.report(options=("--cgroup", "pids:sub"))
        assert [line for line in found["cgroup"] if ":pids:" in line][0].endswith("/sub")
        assert not [line for line in found["cgroup"] if ":memory:" in line][0].endswith("/sub")
        pyrunc.fails("exec", "--cgroup", "pids:../..", box.id, "/bin/true", status=255)
        pyrunc.fails("exec", "--cgroup", "pids:none", box.id, "/bin/true", status=255)
    finally:
        (box.cgroup("pids") / "sub").rmdir()


@pytest.mark.requires("root")
@pytest.mark.requires("own-cgroups")
@pytest.mark.parametrize("has_user_ns", [False, True])
def test_is_in_every_cgroup_of_the_container(pyrunc, running, has_user_ns):
    """Limits hold for it, pause and delete reach it: on v1 a process of a container with a user namespace stayed with its caller."""

    def edit(config):
        if has_user_ns:
            ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
            config["linux"]["namespaces"].append({"type": "user"})
            config["linux"] |= {"uidMappings": ids, "gidMappings": ids}
            config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "sysfs"]

    box = running(edit)
    pid_file = box.bundle.path / "exec.pid"
    box.exec("/bin/sleep", "1000", options=("-d", "--pid-file", str(pid_file)))
    with open(f"/proc/{pid_file.read_text()}/cgroup") as own, open(f"/proc/{box.pid}/cgroup") as init:
        assert own.read() == init.read()
    pyrunc("kill", box.id, "KILL")
    pyrunc.wait(int(pid_file.read_text()))  # the namespace ends when everybody in it has been waited for


@pytest.mark.requires("root")
def test_joins_a_user_namespace(pyrunc, running):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]

    box = running(edit)
    found = box.report(options=("-u", "5:6"))
    assert found["namespaces"]["user"] == os.readlink(f"/proc/{box.pid}/ns/user")
    assert (found["uid"]["effective"], found["gid"]["effective"]) == (5, 6)


def test_joins_shared_and_given_namespaces(pyrunc, running, holder):
    pid = holder("-n", "-i")

    def edit(config):
        for entry in config["linux"]["namespaces"]:
            if entry["type"] in ("network", "ipc"):
                entry["path"] = f"/proc/{pid}/ns/{entry['type'][:3]}"
            if entry["type"] == "user":
                entry["path"] = f"/proc/{pid}/ns/user"
        config["linux"]["namespaces"].remove({"type": "uts"})
        config.pop("hostname")

    box = running(edit)
    found = box.report()["namespaces"]
    assert found["net"] == os.readlink(f"/proc/{pid}/ns/net")
    assert found["ipc"] == os.readlink(f"/proc/{pid}/ns/ipc")
    assert found["uts"] == os.readlink("/proc/self/ns/uts")


def test_seccomp_holds_for_exec_too(pyrunc, running):
    def edit(config):
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        }

    box = running(edit)
    for nnp in ("true", "false"):
        process = box.process(args=["/bin/probe", "syscall", "140", "0", "0"], noNewPrivileges=nnp == "true")
        result = pyrunc("exec", "-p", process, box.id, status=1)
        assert json.loads(result.out)["errno"] == "EOPNOTSUPP"


def test_many_at_once(pyrunc, running):
    box = running()
    commands = [pyrunc.popen("exec", box.id, "/bin/probe", "exit", str(n), stdin=subprocess.DEVNULL) for n in range(20)]
    assert [command.wait(60) for command in commands] == list(range(20))


def test_exec_ends_with_its_container(pyrunc, running):
    box = running()
    waiting = pyrunc.popen("exec", box.id, "/bin/sh", "-c", "echo up; exec sleep 1000", stdout=subprocess.PIPE)
    assert waiting.stdout and waiting.stdout.readline() == b"up\n"
    pyrunc("kill", box.id, "KILL")
    assert waiting.wait(20) == 137
    waiting.stdout.close()


def test_a_variable_of_exec_replaces_that_of_the_container(running):
    """getenv(3) takes the first of two, so there must be one."""
    box = running(lambda config: config["process"]["env"].append("A=config"))
    found = box.report(options=("--env", "A=exec", "--env", "PATH=/usr/bin"))
    assert found["env"].count("A=exec") == 1 and "A=config" not in found["env"]
    assert [word for word in found["env"] if word.startswith("PATH=")] == ["PATH=/usr/bin"]


def test_exec_joins_no_keyring_where_the_container_has_none_of_its_own(running):
    kept, own = (
        running(name=name, options=options) for name, options in (("kept", ("--no-new-keyring",)), ("own", ()))
    )
    assert f"_ses.{own.id}" in own.report()["keyring"]
    assert f"_ses.{kept.id}" not in (kept.report()["keyring"] or "")
