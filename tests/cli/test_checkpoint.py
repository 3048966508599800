"""Containers that are dumped by a real CRIU and made again: what goes on, and what is the same as before."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import stat
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest
from checkpoints import COUNT, NULL, Subject, _in_path, _subject, cgroups  # noqa: F401 - fixtures among them

pytestmark = pytest.mark.requires("criu")


# -- there and back ----------------------------------------------------------------------------------------------------


def test_it_goes_on(pyrunc, subject, gone):
    one = subject()
    one.counts()
    first = one.pid
    assert one.checkpoint().err == ""
    # as with runc and crun it is deleted: its id can be used at once
    gone(pyrunc, one.id, one.made)
    assert pyrunc.wait(first) == 128 + signal.SIGKILL
    assert stat.S_IMODE(one.images.stat().st_mode) == 0o700
    assert (one.work / "dump.log").is_file() and (one.images / "descriptors.json").is_file()
    at = one.count()
    assert one.restore("--pid-file", one.made.path / "pid").err == ""
    assert (one.made.path / "pid").read_text() == str(one.pid)
    assert one.count() >= at
    one.counts()
    state = pyrunc.state(one.id)
    assert (state["status"], state["bundle"]) == ("running", str(one.made.path))
    assert one.exec("/bin/cat", "/proc/1/comm") == "sh\n"
    pid = one.pid
    pyrunc("kill", one.id, "KILL")
    assert pyrunc.wait(pid) == 128 + signal.SIGKILL
    assert pyrunc.state(one.id)["status"] == "stopped"
    pyrunc("delete", one.id)
    gone(pyrunc, one.id, one.made)


def test_leave_running(pyrunc, subject):
    one = subject()
    one.counts()
    pid = one.pid
    one.checkpoint("--leave-running")
    assert one.pid == pid
    one.counts()
    pyrunc("delete", "-f", one.id)
    one.restore()
    one.counts()


def test_twice(subject):
    """What was restored is a container like any other, so that it can be dumped as well."""
    one = subject()
    one.counts()
    for _ in range(2):
        one.checkpoint()
        one.restore()
        one.counts()


def test_paused(pyrunc, subject):
    one = subject()
    one.counts()
    pyrunc("pause", one.id)
    one.checkpoint("--leave-running")
    assert pyrunc.state(one.id)["status"] == "paused"
    pyrunc("resume", one.id)
    one.counts()


def test_the_working_directory_is_where_paths_begin(pyrunc, subject):
    one = subject()
    one.counts()
    pyrunc("checkpoint", "--image-path", "a/b", one.id, cwd=one.made.path)
    assert (one.made.path / "a/b/dump.log").is_file()
    pyrunc("restore", "-d", "--image-path", "a/b", "-b", ".", one.id, cwd=one.made.path)
    one.counts()
    pyrunc("checkpoint", one.id, cwd=one.made.path)
    assert (one.made.path / "checkpoint/inventory.img").is_file()
    pyrunc("restore", "-d", one.id, cwd=one.made.path)
    one.counts()


def test_in_the_foreground(pyrunc, subject, until, gone):
    one = subject(None, "/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.02; done")
    one.checkpoint()
    child = pyrunc.popen("restore", "--image-path", one.images, "-no-subreaper", "-b", one.made, one.id)
    until(lambda: pyrunc.exists(one.id) and pyrunc.state(one.id)["status"] == "running", "the container")
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 7
    gone(pyrunc, one.id, one.made)


def test_no_path_in_the_environment(pyrunc, subject):
    """Podman's conmon starts us without one; the program is then looked for where programs are."""
    one = subject()
    one.counts()
    path = pyrunc.env.pop("PATH")
    error = one.checkpoint(status=None)
    pyrunc.env["PATH"] = path
    assert error.status == 0 or "install the package criu" in error.err


# -- descriptors and sockets -------------------------------------------------------------------------------------------


def test_pipes_are_those_of_the_restore(pyrunc, subject, read_until):
    first, second = (os.pipe() for _ in range(2))
    null = subprocess.DEVNULL
    one = subject(
        None, "/bin/sh", "-c", "while :; do echo out; sleep 0.02; done", stdin=null, stdout=first[1], stderr=null
    )
    os.close(first[1])
    read_until(first[0], b"out\n")
    one.checkpoint()
    read_until(first[0])  # its end: nobody holds the other one
    one.restore(stdin=null, stdout=second[1], stderr=null)
    os.close(second[1])
    read_until(second[0], b"out\nout\n")
    pyrunc("delete", "-f", one.id)
    for fd in (first[0], second[0]):
        os.close(fd)


def test_a_pipe_that_only_a_child_of_init_still_has(pyrunc, subject, read_until, until):
    first, second = (os.pipe() for _ in range(2))
    null = subprocess.DEVNULL
    script = "while :; do echo out; sleep 0.02; done & exec >/dev/null 2>&1; : >/tmp/ready; wait"
    one = subject(None, "/bin/sh", "-c", script, stdin=null, stdout=first[1], stderr=null)
    os.close(first[1])
    until(lambda: (one.made.rootfs / "tmp/ready").exists(), "the child")
    one.checkpoint()
    one.restore(stdin=null, stdout=second[1], stderr=null)
    os.close(second[1])
    read_until(second[0], b"out\nout\n")
    pyrunc("delete", "-f", one.id)
    for fd in (first[0], second[0]):
        os.close(fd)


def test_a_file_of_the_host_as_standard_output(subject, scratch, until):
    with (scratch / "log").open("ab") as log:
        one = subject(None, "/bin/sh", "-c", "while :; do echo out; sleep 0.02; done", stdout=log)
        until(lambda: (scratch / "log").stat().st_size, "output")
        one.checkpoint()
        size = (scratch / "log").stat().st_size
        one.restore(stdout=log)
        until(lambda: (scratch / "log").stat().st_size > size, "more output")


def test_open_files(subject, until):
    """One with an offset, one without a name, and one on a tmpfs that exists nowhere else."""
    script = """
        echo one >/tmp/a; echo two >>/tmp/a; echo gone >/tmp/b; echo shm >/dev/shm/c
        exec 3</tmp/a 4</tmp/b; read first <&3; rm /tmp/b
        until [ -e /tmp/go ]; do sleep 0.02; done
        read second <&3; read lost <&4; echo "$first $second $lost $(cat /dev/shm/c)" >/tmp/new; mv /tmp/new /tmp/said
        while :; do sleep 1; done"""
    one = subject(None, "/bin/sh", "-c", script)
    until(lambda: (one.made.rootfs / "tmp/a").exists() and not (one.made.rootfs / "tmp/b").exists(), "the files")
    one.checkpoint()
    one.restore()
    (one.made.rootfs / "tmp/go").touch()
    until(lambda: (one.made.rootfs / "tmp/said").exists(), "the answer")
    # busybox's read takes more than a line from a file, and seeks back
    assert (one.made.rootfs / "tmp/said").read_text() == "one two gone shm\n"


@pytest.mark.requires("criu-tcp")
def test_tcp(subject, until):
    """A connection with both ends in the container, over the loopback that `create` brings up, and `restore` too."""
    script = """
        mkfifo /tmp/in /tmp/never; sleep 9999 >/tmp/in & sleep 9999 >/tmp/never &
        nc -l -p 7777 </tmp/never >/tmp/heard &
        until nc 127.0.0.1 7777 </tmp/in; do sleep 0.02; done"""
    one = subject(None, "/bin/sh", "-c", script)
    rootfs = one.made.rootfs
    one.exec("/bin/sh", "-c", "until netstat -tn | grep -q ESTABLISHED; do sleep 0.02; done; echo first >/tmp/in")
    until(lambda: (rootfs / "tmp/heard").read_text() == "first\n", "the first word")
    assert "tcp" in one.checkpoint(status=1).err
    one.checkpoint("--tcp-established")
    one.restore("--tcp-established")
    assert "LOOPBACK,UP" in one.exec("/bin/ip", "link", "show", "lo")
    one.exec("/bin/sh", "-c", "echo second >/tmp/in")
    until(lambda: (rootfs / "tmp/heard").read_text() == "first\nsecond\n", "the second word")


def test_file_locks(subject, until):
    one = subject(None, "/bin/probe", "lock", "/tmp/lock")
    until(lambda: (one.made.rootfs / "tmp/lock.held").exists(), "the lock")
    assert "lock" in one.checkpoint(status=1).err
    one.checkpoint("--file-locks")
    one.restore("--file-locks")
    # whoever wants it now does not get it
    assert one.pyrunc("exec", one.id, "/bin/probe", "lock", "/tmp/lock", status=1, timeout=20).err == ""


def test_terminal(pyrunc, subject, receiver, read_until):
    def edit(config):
        config["process"]["terminal"] = True

    server = receiver()
    one = subject(
        edit, "/bin/sh", "-c", "while read line; do echo got $line; done", options=("--console-socket", server.path)
    )
    master = server.receive()
    os.write(master, b"one\n")
    read_until(master, b"got one\r\n")
    one.checkpoint()
    os.close(master)
    error = one.restore(status=1).err
    assert "cannot allocate tty if runc will detach without setting console socket" in error
    one.restore("--console-socket", server.path)
    master = server.receive()
    os.write(master, b"two\n")
    read_until(master, b"got two\r\n")
    os.close(master)


def test_a_terminal_in_the_foreground(pyrunc, subject, receiver, read_until, gone):
    """Ours becomes that of the restored container, and gets its keys back in the end."""

    def edit(config):
        config["process"]["terminal"] = True

    server = receiver()
    script = "while read line; do echo got $line; done; exit 5"
    one = subject(edit, "/bin/sh", "-c", script, options=("--console-socket", server.path))
    first = server.receive()
    one.checkpoint()
    os.close(first)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)

    def become_leader():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    stdio = dict.fromkeys(NULL, slave)
    words = ["restore", "--image-path", one.images, "-b", one.made, one.id]
    child = pyrunc.popen(*words, **stdio, preexec_fn=become_leader)
    os.write(master, b"one\n")
    read_until(master, b"got one\r\n", ended=lambda: child.poll() is not None)
    os.write(master, b"\x04")
    assert child.wait(20) == 5
    assert termios.tcgetattr(slave) == before
    for fd in (master, slave):
        os.close(fd)
    gone(pyrunc, one.id, one.made)


# -- mounts and namespaces ---------------------------------------------------------------------------------------------


def bind(place: str, source: Path, *options: str) -> dict[str, Any]:
    return {"destination": place, "type": "bind", "source": str(source), "options": list(options or ("bind",))}


def test_bind_mounts(subject, scratch, mount_of):
    """A directory, a file, read-only, through a link of the rootfs, one in the other, and what comes along with a recursive one."""
    for name in ("plain", "linked", "tree/below", "inner"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "name").write_text(name)
    (scratch / "file").write_text("file")
    subprocess.run(["mount", "-t", "tmpfs", "below", scratch / "tree/below"], check=True)
    (scratch / "tree/below/name").write_text("covered")

    def edit(config):
        config["mounts"] += [
            bind("/plain", scratch / "plain"),
            bind("/plain/inner", scratch / "inner", "bind", "ro"),
            bind("/etc/file", scratch / "file", "bind", "ro"),
            bind("/var/linked", scratch / "linked"),
            bind("/tree", scratch / "tree", "rbind", "ro"),
            bind("/again", scratch / "plain", "bind", "ro", "nosuid"),
            bind("/and-again", scratch / "plain", "bind", "noexec"),
        ]

    made = edit
    one = subject(lambda config: (made(config), None)[1])
    before = one.report()
    one.checkpoint()
    # an engine makes the root file system anew from an image, which has no places for mounts
    for place in ("plain", "tree", "proc", "dev", "sys"):
        os.rmdir(one.made.rootfs / place)
    (one.made.rootfs / "etc/file").unlink()
    one.restore()
    after = one.report()
    for place in ("/plain", "/plain/inner", "/etc/file", "/var/linked", "/tree", "/tree/below", "/again", "/and-again"):
        assert mount_of(after, place)["options"] == mount_of(before, place)["options"], place
    read = "cat /plain/name /plain/inner/name /etc/file /var/linked/name /tree/name /tree/below/name 2>&1; echo"
    assert one.exec("/bin/sh", "-c", read).split("\n")[0].startswith("plaininnerfilelinked")
    assert one.exec("/bin/cat", "/tree/below/name") == "covered"
    (scratch / "plain/new").write_text("of the host")
    assert one.exec("/bin/cat", "/plain/new") == "of the host"


def test_a_destination_that_is_a_link_of_the_rootfs(pyrunc, make, until, scratch):
    (scratch / "source").mkdir()
    (scratch / "source/name").write_text("source")
    made = make(lambda config: config["mounts"].append(bind("/link/x", scratch / "source")), "/bin/sh", "-c", COUNT)
    (made.rootfs / "srv").mkdir()
    (made.rootfs / "link").symlink_to("srv")
    one = Subject(pyrunc, until, made, pyrunc.id())
    pyrunc("run", "-d", "-b", made, one.id, **NULL)
    one.checkpoint()
    one.restore()
    assert one.exec("/bin/cat", "/srv/x/name") == "source"


def test_everything_is_as_it_was(subject):
    """The whole of what the probe sees of a container, but for what cannot be the same."""
    one = subject()
    before = one.report()
    one.checkpoint()
    one.restore()
    after = one.report()
    # of the process that reports, and numbers that the kernel gives out
    changing = set("pid pgid sid monotonic boottime timens_offsets namespaces stderr fds status devices mounts".split())
    different = {key: (before[key], after[key]) for key in before.keys() - changing if before[key] != after[key]}
    assert not different, different
    numbers = {"id", "parent", "device", "dev", "ino"}
    for mount in (*before["mounts"], *after["mounts"]):
        if mount["root"] == "/null":
            # the null device over a file of procfs: of several, CRIU sets the options of the first
            mount["options"] = []

    def named(found: dict[str, Any]) -> list[Any]:
        """Device nodes and mounts by name; CRIU mounts in an order of its own."""
        entries = sorted([*found["devices"].items(), *((mount["point"], mount) for mount in found["mounts"])], key=str)
        return [(name, {key: value for key, value in entry.items() if key not in numbers}) for name, entry in entries]

    assert named(before) == named(after)


def test_exec_is_in_the_namespaces_of_init(subject):
    one = subject()
    one.checkpoint()
    one.restore()
    names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
    assert one.exec("/bin/sh", "-c", script).split() == [os.readlink(f"/proc/{one.pid}/ns/{name}") for name in names]


def test_user_namespace(subject):
    def edit(config):
        linux = config["linux"]
        linux["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            linux[key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    one = subject(edit, "/bin/sleep", "1000")
    assert os.stat(f"/proc/{one.pid}").st_uid == 100000
    one.checkpoint()
    one.restore()
    assert os.stat(f"/proc/{one.pid}").st_uid == 100000
    assert one.exec("/bin/id", "-u") == "0\n"
    assert one.exec("/bin/cat", "/proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert "LOOPBACK,UP" in one.exec("/bin/ip", "link", "show", "lo")
    one.exec("/bin/sh", "-c", ": >/dev/null </dev/zero")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts"])
def test_a_namespace_of_somebody_else(kind, subject, holder):
    flag, name = {"network": ("-n", "net"), "ipc": ("-i", "ipc"), "uts": ("-u", "uts")}[kind]
    path = f"/proc/{holder(flag)}/ns/{name}"

    def edit(config):
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == kind:
                entry["path"] = path
        config.pop("hostname")

    one = subject(edit)
    one.checkpoint()
    one.restore()
    assert os.readlink(f"/proc/{one.pid}/ns/{name}") == os.readlink(path)


@pytest.mark.requires("cgroup-v1")
@pytest.mark.parametrize("is_own", [True, False], ids=["own-cgroup-namespace", "no-cgroup-namespace"])
def test_mounted_cgroups(is_own, subject):
    def edit(config):
        config["mounts"].append(
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
        )
        if not is_own:
            config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"]

    one = subject(edit)
    one.checkpoint()
    one.restore()
    assert "1" in one.exec("/bin/cat", "/sys/fs/cgroup/pids/cgroup.procs").split()


# -- limits, hooks, options --------------------------------------------------------------------------------------------


@pytest.mark.requires("cgroup-v1")
def test_limits_are_still_in_force(subject):
    def edit(config):
        config["linux"]["resources"] = {"memory": {"limit": 8 << 20}, "pids": {"limit": 5}, "cpu": {"shares": 512}}
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]

    one = subject(edit)
    one.counts()
    one.checkpoint()
    one.restore()
    one.counts()
    path = one.made.config["linux"]["cgroupsPath"]
    for file, value in (
        ("memory/{}/memory.limit_in_bytes", 8 << 20),
        ("pids/{}/pids.max", 5),
        ("cpu/{}/cpu.shares", 512),
    ):
        assert int(Path("/sys/fs/cgroup", file.format(path.lstrip("/"))).read_text()) == value
    assert one.pid in map(int, Path("/sys/fs/cgroup/pids", path.lstrip("/"), "cgroup.procs").read_text().split())
    assert "Max open files            77 " in Path(f"/proc/{one.pid}/limits").read_text()


def test_hooks(subject, scratch):
    """The runtime's hooks see the restored container, before anything in it runs; poststop belongs to a checkpoint that ends it."""
    log = scratch / "log"
    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

    def edit(config):
        config["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} $(cat) >>{log}"]}]
            for kind in kinds
            if "Container" not in kind
        }

    one = subject(edit)
    log.write_text("")
    one.checkpoint()
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["poststop"]
    log.write_text("")
    one.restore()
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["prestart", "createRuntime"]
    assert json.loads(lines[1].partition(" ")[2])["pid"] == one.pid


def test_a_hook_that_fails_ends_the_restore(pyrunc, subject, gone, scratch):
    def edit(config):
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"test ! -e {scratch}/fail"]}]}

    one = subject(edit)
    one.checkpoint()
    (scratch / "fail").touch()
    assert "createRuntime[0] /bin/sh: exit status 1" in one.restore(status=1).err
    gone(pyrunc, one.id, one.made)
    (scratch / "fail").unlink()
    one.restore()


def test_hooks_in_the_container_are_not_run_again(subject, scratch):
    def edit(config):
        config["hooks"] = {"startContainer": [{"path": "/bin/echo", "args": ["echo", "once"]}]}
        config["annotations"] = {"run.oci.hooks.stdout": str(scratch / "out")}

    one = subject(edit)
    one.counts()
    one.checkpoint()
    one.restore()
    one.counts()
    assert (scratch / "out").read_text() == "once\n"


def test_the_annotation_names_criu_s_own_configuration(pyrunc, subject, scratch):
    file = scratch / "criu.conf"
    one = subject(lambda config: config.update(annotations={"org.criu.config": str(file)}))
    file.write_text("log-file other.log\n")
    one.checkpoint("--leave-running")
    assert (one.work / "other.log").is_file() and not (one.work / "dump.log").exists()
    one.checkpoint()


@pytest.mark.parametrize("mode", ["soft", "full", "strict", "ignore"])
def test_cgroup_modes(mode, subject):
    one = subject()
    one.checkpoint("--manage-cgroups-mode", mode)
    if mode == "strict":
        # CRIU then wants to make the cgroup itself, which is for the runtime to do
        assert "Abort restore of existing cgroups" in one.restore("--manage-cgroups-mode", mode, status=1).err
        mode = "soft"
    one.restore("--manage-cgroups-mode", mode)
    one.counts()
    assert cgroups(one.made)


@pytest.mark.requires("criu-memory-tracking")
def test_pre_dump(subject):
    one = subject()
    one.counts()
    one.checkpoint("--pre-dump")
    one.counts()
    before, one.images = one.images, one.images.with_name("second")
    one.checkpoint("--parent-path", f"../{before.name}")
    one.restore()
    one.counts()


@pytest.mark.requires("criu-lazy-pages")
def test_lazy_pages(pyrunc, subject, until):
    """The dump serves memory to whoever comes for it, and says when it does; the daemon that would is CRIU's own."""
    one = subject()
    one.counts()
    read_fd, write_fd = os.pipe()
    words = ["--lazy-pages", "--page-server", "127.0.0.1:27999", "--status-fd", str(write_fd)]
    paths = ["--image-path", one.images, "--work-path", one.work]
    dump = pyrunc.popen("checkpoint", *paths, *words, one.id, pass_fds=(write_fd,))
    os.close(write_fd)
    assert os.read(read_fd, 1) == b"\0" and os.read(read_fd, 1) == b""
    os.close(read_fd)
    at = one.count()
    assert dump.poll() is None
    # without the daemon the memory cannot be had
    copy = Subject(pyrunc, until, one.made, pyrunc.id("copy"))
    copy.made.config["linux"]["cgroupsPath"] += "-copy"
    copy.made.write()
    copy.images, copy.work = one.images, one.made.path / "other"
    assert "lazy-pages.socket" in copy.restore("--lazy-pages", status=1).err
    # CRIU goes with us, or no process of the container could end
    dump.kill()
    dump.wait(30)
    assert one.count() >= at
    pyrunc("delete", "--force", one.id)


# -- what callers ask first --------------------------------------------------------------------------------------------


def test_podman_asks_whether_there_are_checkpoints(pyrunc):
    assert pyrunc("checkpoint", "--help").out.startswith("Usage: pyrunc checkpoint")
    assert "flag needs an argument" in pyrunc.fails("restore", "--lsm-mount-context")


def test_features(pyrunc):
    found = pyrunc("features").json()
    assert found["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"
    assert "org.criu.config" in found["potentiallyUnsafeConfigAnnotations"]
