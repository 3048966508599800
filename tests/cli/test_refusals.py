"""What is said where the kernel refuses: what was attempted, on what, which component was at fault, from which property, and why.

Every row provokes a refusal of the real kernel and compares the whole line, and its hint. PLACE is the bundle; the number of an
op, which the plan decides, is N.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import hierarchies
import pytest

pytestmark = [pytest.mark.requires("root"), pytest.mark.differs("its words are others")]

MAP = [{"containerID": 0, "hostID": 100000, "size": 1000}]


def mount(destination, source, kind="bind", options=("rbind",)):
    entry = {"destination": destination, "source": source, "type": kind, "options": list(options)}
    return lambda config: config["mounts"].append(entry)


def process(**changes):
    return lambda config: config["process"].update(changes)


def linux(**changes):
    return lambda config: config["linux"].update(changes)


def join(kind, path):
    def edit(config):
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != kind]
        config["linux"]["namespaces"].append({"type": kind, "path": path})
        config.pop("hostname", None)

    return edit


def with_user(edit):
    def both(config):
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"].update(uidMappings=MAP, gidMappings=MAP)
        edit(config)

    return both


def proc_on_a_link(config):
    config["mounts"] = [{"destination": "/link", "type": "proc", "source": "proc"}]


#: name -> edit, the line from the command on, the hint, errno and pointer of the log
TABLE = {
    "a source that is not there": (
        mount("/mnt", "PLACE/no/such"), "bind PLACE/no/such to /mnt (rbind): no such file or directory (there is no PLACE/no) [mounts.5, init N]", "", 2, "/mounts/5"),
    "a source below a file": (
        mount("/mnt", "PLACE/note/x"), "bind PLACE/note/x to /mnt (rbind): not a directory (PLACE/note is a file) [mounts.5, init N]", "", 20, "/mounts/5"),
    "a directory on a file": (
        mount("/file", "PLACE/dir"), "bind PLACE/dir to /file (rbind): not a directory (/file is a file) [mounts.5, init N]", "", 20, "/mounts/5"),
    "a file on a directory": (
        mount("/mnt", "PLACE/note"), "bind PLACE/note to /mnt (rbind): not a directory (its place in the root file system is one) [mounts.5, init N]", "", 20, "/mounts/5"),
    "a place below a file": (
        mount("/file/deep", "PLACE/dir"), "bind PLACE/dir to /file/deep (rbind): not a directory (/file is a file) [mounts.5, init N]", "", 20, "/mounts/5"),
    "a place in a loop": (
        mount("/loop/x", "PLACE/dir"), "bind PLACE/dir to /loop/x (rbind): too many levels of symbolic links (/loop is a symbolic link to loop) [mounts.5, init N]", "", 40, "/mounts/5"),
    "proc on a link": (
        proc_on_a_link, "mount proc on /link: too many levels of symbolic links (/link is a symbolic link to file) [mounts.0, init N]", "", 40, "/mounts/0"),
    "an unknown filesystem": (
        mount("/mnt", "x", "nofs", ()), "mount nofs on /mnt: no such device [mounts.5, init N]",
        "this kernel has no filesystem nofs, or no module for it: /proc/filesystems has those that it knows now", 19, "/mounts/5"),
    "an unknown option": (
        mount("/mnt", "x", "tmpfs", ["sizze=5"]), "mount tmpfs on /mnt (sizze=5): invalid argument (tmpfs: Unknown parameter 'sizze') [mounts.5, init N]", "", 22, "/mounts/5"),
    "a layer that is not there": (
        mount("/mnt", "o", "overlay", ["lowerdir=PLACE/dir:PLACE/no/such"]),
        "mount overlay on /mnt (lowerdir=PLACE/dir:PLACE/no/such): no such file or directory (lowerdir: there is no PLACE/no) [mounts.5, init N]", "", 2, "/mounts/5"),
    "an idmapped mount of proc": (
        with_user(mount("/mnt", "/proc", options=["bind", "idmap"])), "bind /proc to /mnt (bind,idmap): invalid argument [mounts.5, init N]",
        "its file system may be one without idmapped mounts, or be idmapped already", 22, "/mounts/5"),
    "a sysctl that is not there": (
        linux(sysctl={"net.ipv4.nosuch": "1"}), 'set sysctl net.ipv4.nosuch to "1": no such file or directory [linux.sysctl.net.ipv4.nosuch, init N]',
        "there is no net.ipv4.nosuch in the namespaces of this container, or not on this kernel", 2, "/linux/sysctl/net.ipv4.nosuch"),
    "a sysctl's value": (
        linux(sysctl={"net.ipv4.ip_forward": "abc"}), 'set sysctl net.ipv4.ip_forward to "abc": invalid argument [linux.sysctl.net.ipv4.ip_forward, init N]', "", 22, "/linux/sysctl/net.ipv4.ip_forward"),
    "a working directory that is a file": (
        process(cwd="/file/x"), "make working directory /file/x: not a directory (/file is a file) [process.cwd, init N]", "", 20, "/process/cwd"),
    "a script without its interpreter": (
        process(args=["/script"]), 'exec: "/script": no such file or directory', "its interpreter /no/interpreter is not there", 2, "/process/args"),
    "a file that is no program": (
        process(args=["/garbage"]), 'exec: "/garbage": exec format error', "it is neither an ELF file nor a script that begins with #! and its interpreter", 8, "/process/args"),
    "a program behind a directory that its user may not pass": (
        process(args=["/private/program"], user={"uid": 1000, "gid": 1000}, capabilities={}), 'exec: "/private/program": permission denied', "/private is not to be passed by user 1000: mode 0700 of 0:0", 13, "/process/args/0"),
    "a program in a directory of one of its groups": (
        process(args=["/shared/garbage"], user={"uid": 1000, "gid": 1000, "additionalGids": [7, 77]}, capabilities={}), 'exec: "/shared/garbage": permission denied',
        "/shared/garbage is not to be executed by user 1000: mode 0640 of 0:77", 13, "/process/args/0"),
    "a program that nobody may execute": (
        process(args=["/file"]), 'exec: "/file": permission denied', "/file is not to be executed by user 0: mode 0644 of 0:0", 13, "/process/args/0"),
    "a program that nobody may execute, where ids are others": (
        with_user(process(args=["/file"])), 'exec: "/file": permission denied', "", 13, "/process/args/0"),
    "a namespace that is not there": (
        join("uts", "PLACE/ns/uts"), "open uts namespace PLACE/ns/uts: no such file or directory (there is no PLACE/ns) [linux.namespaces.5, init N]", "", 2, "/linux/namespaces/5"),
    "a namespace of another kind": (
        join("uts", "/proc/self/ns/net"), "join uts namespace /proc/self/ns/net: invalid argument (/proc/self/ns/net is of kind net) [linux.namespaces.5, init N]", "", 22, "/linux/namespaces/5"),
    "a namespace that is none": (
        join("uts", "PLACE/note"), "join uts namespace PLACE/note: invalid argument (PLACE/note is not a namespace) [linux.namespaces.5, init N]", "", 22, "/linux/namespaces/5"),
    "a device where a directory is": (
        linux(devices=[{"path": "/tmp", "type": "c", "major": 1, "minor": 3}]), "make device /tmp: file exists (/tmp is a directory) [linux.devices.0, init N]", "", 17, "/linux/devices/0"),
    "a device below a file": (
        linux(devices=[{"path": "/file/x", "type": "c", "major": 1, "minor": 3}]), "make device /file/x: not a directory (/file is a file) [linux.devices.0, init N]", "", 20, "/linux/devices/0"),
    "a tmpfs on a file": (
        mount("/file", "t", "tmpfs", ()), "mount tmpfs on /file: not a directory (/file is a file) [mounts.5, init N]", "", 20, "/mounts/5"),
    "a node of memory that is not there": (
        linux(memoryPolicy={"mode": "MPOL_BIND", "nodes": "77"}), "set memory policy MPOL_BIND 77: invalid argument [linux.memoryPolicy, init N]", "this machine has the memory nodes NODES", 22, "/linux/memoryPolicy"),
    "a seccomp agent that is not there": (
        linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/agent", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}),
        "hand over the seccomp listener: connect to /no/agent: no such file or directory [linux.seccomp.listenerPath]", "", 2, "/linux/seccomp/listenerPath"),
}  # fmt: skip


#: what a kernel must have for it to get as far as that
NEEDS = {"a node of memory that is not there": ["memory-policy"]}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.requires(*NEEDS[name])] if name in NEEDS else []) for name in TABLE]
)
def test_what_is_said(name, pyrunc, make, scratch) -> None:
    edit, line, hint, errno, pointer = TABLE[name]
    made = make(None, "/bin/true")
    (made.path / "note").write_text("x")
    (made.path / "dir").mkdir()
    (made.rootfs / "file").write_text("x")
    os.symlink("file", made.rootfs / "link")
    os.symlink("loop", made.rootfs / "loop")
    for program, text in (("script", "#!/no/interpreter -x\n"), ("garbage", "\1\2\3\4")):
        (made.rootfs / program).write_text(text)
        (made.rootfs / program).chmod(0o755)
    for directory, mode, gid in (("private", 0o700, 0), ("shared", 0o750, 77)):
        (made.rootfs / directory).mkdir()
        os.chown(made.rootfs / directory, 0, gid)
        (made.rootfs / directory).chmod(mode)
    (made.rootfs / "shared/garbage").write_text("x")
    os.chown(made.rootfs / "shared/garbage", 0, 77)
    (made.rootfs / "shared/garbage").chmod(0o640)
    edit(made.config)
    made.config = json.loads(json.dumps(made.config).replace("PLACE", str(made.path)))
    made.write()
    id_, log = pyrunc.id(), scratch / "log"
    error = pyrunc("--log", log, "--log-format", "json", "run", "-b", made, id_, status=1).err
    memory = Path("/sys/devices/system/node/has_memory")  # not on a kernel without NUMA
    nodes = memory.read_text().strip() if memory.exists() else ""
    found = re.sub(r"\binit \d+\]", "init N]", error.replace(str(made.path), "PLACE")).splitlines()
    assert found == [f"run {id_}: {line}", *([f"hint: {hint.replace('NODES', nodes)}"] if hint else [])]
    record = json.loads(log.read_text())
    assert (record["level"], record["errno"], record["pointer"]) == ("error", errno, pointer)
    assert record["msg"] in error


def test_start_says_it_as_well(pyrunc, make) -> None:
    """The plan is gone by then, and the rootfs is where the state says."""
    made = make(None, "/script")
    (made.rootfs / "script").write_text("#!/no/interpreter\n")
    (made.rootfs / "script").chmod(0o755)
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    error = pyrunc.fails("start", id_)
    assert (
        error
        == f'start {id_}: exec: "/script": no such file or directory\nhint: its interpreter /no/interpreter is not there\n'
    )


def test_a_proc_of_another_pid_namespace(pyrunc, make) -> None:
    """Where init's pid is nobody's in it: init would be taken for one that has ended, and the container for stopped."""
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    newest, most = (int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("ns_last_pid", "pid_max"))
    # far from where the machine gives out pids now; the command, its child and init have the next ones
    pid = 400 + (newest + most // 2) % (most - 1000)
    while any(Path(f"/proc/{pid + further}").exists() for further in range(10)):
        pid += 10
    script = f'echo {pid} > /proc/sys/kernel/ns_last_pid; "$@" <&- >&-; exit $?'
    words = ["unshare", "--pid", "--fork", "sh", "-c", script, "sh", *pyrunc.argv("create", "-b", made, id_)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    line, hint = done.stderr.splitlines()
    assert re.fullmatch(
        rf"create {id_}: open /proc/\d+/stat: no such file or directory \(of a process that runs\)", line
    )
    assert hint.startswith("hint: /proc has to be that of the pid namespace in which pyrunc is called")
    pyrunc.fails("state", id_)


@pytest.fixture
def limited(make):
    """A bundle whose cgroup is in one that has a limit of its own."""
    made = make(None, "/bin/true")
    above = made.config["linux"]["cgroupsPath"]
    outer = hierarchies.place(above, "memory")
    outer.mkdir(parents=True)
    if hierarchies.VERSION == 2:
        (outer / "cgroup.subtree_control").write_text("+memory")
    (outer / ("memory.max" if hierarchies.VERSION == 2 else "memory.limit_in_bytes")).write_text(str(32 << 10))
    made.config["linux"]["cgroupsPath"] += "/inner"
    yield made
    for place in hierarchies.places(above):
        place.rmdir()


# a scope of systemd's is in no directory that we may make
@pytest.mark.parametrize("whose", ["made"] if hierarchies.MANAGER == "systemd" else ["made", "limited"])
def test_a_memory_limit_too_small_for_init(whose, request, pyrunc, make, scratch) -> None:
    """The property is named where it is the config's, and not where the cgroup above has a lower limit.

    With more, some kernels get as far as the program, whose own end it is then; with less, the cgroup below cannot be made.
    """
    if whose == "made":
        made = make(None, "/bin/true")
        limit, least = 4 << 10, 4
    else:
        made = request.getfixturevalue("limited")
        limit, least = 1 << 30, 32
    made.config["linux"].setdefault("resources", {})["memory"] = {"limit": limit}
    made.write()
    log = scratch / "log"
    error = pyrunc("--log", log, "--log-format", "json", "run", "-b", made, pyrunc.id(), status=1).err
    said = f"init was killed by the memory limit of {least} KiB"
    # systemd may have removed the cgroup before anybody has asked it
    unasked = f"init was killed, by the memory limit of {least} KiB as likely as not"
    assert error.strip().endswith((said, unasked) if hierarchies.MANAGER == "systemd" else said)
    record = json.loads(log.read_text())
    assert (record["code"], record.get("pointer", "")) == (
        "oom",
        "/linux/resources/memory/limit" if whose == "made" else "",
    )
