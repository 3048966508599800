"""Annotations of crun's, `run.oci.*`: what each that is honoured does, and that nobody is left to guess about the others."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import struct

import hierarchies
import pytest

from runtime import annotation

pytestmark = pytest.mark.differs("annotations of crun's")

#: annotation -> the test below that shows what it does
SHOWN = {
    "run.oci.keep_original_groups": "test_keep_original_groups",
    "run.oci.hooks.stdout": "test_output_of_hooks",
    "run.oci.hooks.stderr": "test_output_of_hooks",
    "run.oci.mount_context_type": "test_mount_context_type",
    "run.oci.timens_offset": "test_timens_offset",
    "run.oci.pidfd_receiver": "test_pidfd_receiver",
    "run.oci.seccomp.receiver": "test_seccomp_receiver",
    "run.oci.seccomp_fail_unknown_syscall": "test_seccomp_fail_unknown_syscall",
    "run.oci.seccomp_bpf_data": "test_seccomp_bpf_data",
}


def annotated(edit=None, **values):
    def change(config):
        for name, value in values.items():
            config.setdefault("annotations", {})["run.oci." + name] = str(value)
        if edit:
            edit(config)

    return change


# -- the table --------------------------------------------------------------------------------------------------------------


def test_each_annotation_is_shown_or_has_a_reason():
    honoured = {name for name, (done, _) in annotation.KNOWN.items() if done == annotation.HONOURED}
    assert honoured == set(SHOWN) and all(name in globals() for name in SHOWN.values())
    assert all(
        len(words) > 40 and words == words.strip()
        for done, words in annotation.KNOWN.values()
        if done != annotation.HONOURED
    )


def test_all_that_crun_knows():
    """Read from the program that is installed here: what a later one knows is found by whoever installs that."""
    path = shutil.which("crun", path="/usr/sbin:/usr/bin:/sbin:/bin")
    names = set()
    if path:
        with open(path, "rb") as file:
            names = {name.decode() for name in re.findall(rb"run\.oci\.[a-z0-9_.-]+", file.read())}
        assert len(names) > 10
    assert names <= set(annotation.KNOWN)


def test_features_says_that_they_change_what_is_done(pyrunc):
    found = pyrunc("features").json()["potentiallyUnsafeConfigAnnotations"]
    assert "run.oci." in found and "org.criu.config" in found


@pytest.mark.parametrize("name", [n for n, (done, _) in annotation.KNOWN.items() if done == annotation.REFUSED])
def test_what_is_refused(refused, name):
    refused(lambda config: config.update(annotations={name: "krun"}), f"annotation {name}=krun: ")


def test_an_empty_subgroup_is_what_is_done(pyrunc, running, scratch):
    """crun has no cgroup below that of the container then, and CRI-O's users ask for it."""
    pyrunc.options += ["--log", str(scratch / "log")]
    box = running(annotated(**{"systemd.subgroup": ""}))
    path = hierarchies.below_the_top(box.bundle.config["linux"]["cgroupsPath"])
    with open(f"/proc/{box.pid}/cgroup") as file:
        assert all(line.endswith(f"/{path}\n") for line in file)
    assert not (scratch / "log").exists() or "subgroup" not in (scratch / "log").read_text()


@pytest.mark.parametrize("name", [n for n, (done, _) in annotation.KNOWN.items() if done == annotation.IGNORED])
def test_what_has_no_effect_is_said(pyrunc, make, scratch, name):
    made = make(lambda config: config.update(annotations={name: "/x"}), "/bin/true")
    pyrunc("--log", scratch / "log", "run", "-b", made, pyrunc.id())
    assert f"annotation {name}: no effect: " in (scratch / "log").read_text()


def test_an_empty_one_asks_for_nothing(pyrunc, make, scratch):
    """`run.oci.systemd.subgroup` is set to nothing by those who want no cgroup below the scope: there is none."""
    made = make(
        lambda config: config.update(annotations=dict.fromkeys(("run.oci.systemd.subgroup", "run.oci.handler"), "")),
        "/bin/true",
    )
    pyrunc("--log", scratch / "log", "run", "-b", made, pyrunc.id())
    assert not (scratch / "log").exists()


# -- what is honoured ---------------------------------------------------------------------------------------------------------


@pytest.mark.requires("root")
def test_keep_original_groups(pyrunc, running, make):
    def edit(config):
        config["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [4]}

    args = ("/bin/sh", "-c", "grep Groups /proc/self/status")
    for change, wanted in ((edit, "4"), (annotated(edit, keep_original_groups=1), "11 12")):
        out = pyrunc("run", "-b", make(change, *args), pyrunc.id(), extra_groups=[11, 12]).out
        assert out.split()[1:] == wanted.split()
    box = running(annotated(edit, keep_original_groups=1))
    assert box.exec(*args, extra_groups=[21]).out.split()[1:] == ["21"]


@pytest.mark.requires("root")
def test_keep_original_groups_in_a_user_namespace(pyrunc, make):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"] |= {"uidMappings": ids, "gidMappings": ids}

    made = make(annotated(edit, keep_original_groups=1), "/bin/sh", "-c", "grep Groups /proc/self/status")
    out = pyrunc("run", "-b", made, pyrunc.id(), extra_groups=[11, 100005]).out
    assert sorted(out.split()[1:]) == ["5", "65534"]


def test_output_of_hooks(pyrunc, make, scratch):
    """Appended in the order of the hooks, and an error quotes what was not sent away."""

    def hook(*words):
        return {
            "path": "/bin/sh",
            "args": ["sh", "-c", f"echo {words[0]} out; echo {words[0]} err >&2; {' '.join(words[1:])}"],
        }

    kinds = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

    def edit(config):
        config["hooks"] = {kind: [hook(kind)] for kind in kinds}

    (scratch / "out").write_text("before\n")
    made = make(annotated(edit, **{"hooks.stdout": scratch / "out", "hooks.stderr": scratch / "err"}), "/bin/true")
    pyrunc("run", "-b", made, pyrunc.id())
    assert (scratch / "out").read_text().split("\n")[:-1] == ["before", *(f"{kind} out" for kind in kinds)]
    assert (scratch / "err").read_text().split("\n")[:-1] == [f"{kind} err" for kind in kinds]

    def failing(config):
        config["hooks"] = {"createRuntime": [hook("it", "exit 3")]}

    made = make(annotated(failing, **{"hooks.stdout": scratch / "out"}), "/bin/true")
    done = pyrunc("run", "-b", made, pyrunc.id(), status=1)
    assert 'exit status 3: "it err"' in done.err and (scratch / "out").read_text().endswith("it out\n")


def test_output_of_hooks_that_cannot_be_written(refused):
    def edit(config):
        config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}

    refused(
        annotated(edit, **{"hooks.stdout": "/no/such/place"}), "createRuntime[0]: open /no/such/place for its output: "
    )
    refused(annotated(edit, **{"hooks.stderr": "relative"}), '"relative" is not an absolute path')

    def inside(config):
        config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}

    refused(annotated(inside, **{"hooks.stdout": "/no/such/place"}), "open /no/such/place for its output: ")


def test_output_of_a_hook_in_the_container(pyrunc, make, scratch):
    """Once `create` has ended it is init that holds the file; the hook has no other descriptor, and the program has none of it."""
    script = "echo from inside; cat /proc/self/mountinfo | wc -l >&2; ls /proc/self/fd >&2; exit 3"

    def edit(config):
        config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}

    made, id_ = make(annotated(edit, **{"hooks.stdout": scratch / "out"}), "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    assert (scratch / "out").read_text() == ""
    error = pyrunc.fails("start", id_)
    assert (scratch / "out").read_text() == "from inside\n"
    assert re.search(r'exit status 3: "?\d+ 0 1 2 3\b', " ".join(error.split())), error

    def harmless(config):
        config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}

    made = make(annotated(harmless, **{"hooks.stdout": scratch / "out"}), "/bin/ls", "/proc/self/fd")
    assert pyrunc("run", "-b", made, pyrunc.id("fds")).out.split() == ["0", "1", "2", "3"]


def test_mount_context_type(refused):
    """No host of ours has SELinux; what is asked of it is in tests/unit/planner/test_mounts.py."""
    refused(
        annotated(mount_context_type="label"), "annotations.run.oci.mount_context_type", '"label" is none of context, '
    )


@pytest.mark.requires("time-namespace")
def test_timens_offset(pyrunc, make):
    def edit(config):
        config["linux"]["namespaces"].append({"type": "time"})

    def offsets(change):
        return pyrunc("run", "-b", make(change, "/bin/cat", "/proc/self/timens_offsets"), pyrunc.id()).out.split()

    assert offsets(annotated(edit, timens_offset="boottime 7200 5")) == ["monotonic", "0", "0", "boottime", "7200", "5"]
    assert offsets(annotated(edit, timens_offset="1 86400 0"))[:3] == ["monotonic", "86400", "0"]

    def both(config):
        edit(config)
        config["linux"]["timeOffsets"] = {"monotonic": {"secs": 3}}

    assert offsets(annotated(both, timens_offset="boottime 7200 5")) == ["monotonic", "3", "0", "boottime", "0", "0"]


@pytest.mark.parametrize(
    "text", ["", "boottime 1", "realtime 1 1", "boottime x 1", "boottime 1 1\nmonotonic 1 1", "boottime +1 1"]
)
def test_timens_offset_that_is_none(refused, text):
    refused(annotated(timens_offset=text), "annotations.run.oci.timens_offset", "is not a clock")


def test_pidfd_receiver(pyrunc, make, receiver, scratch):
    socket = receiver(scratch / "pidfd.sock")
    made, id_ = make(annotated(pidfd_receiver=socket.path), "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    fd = socket.receive()
    with open(f"/proc/self/fdinfo/{fd}") as file:
        assert re.search(rf"^Pid:\s+{pyrunc.pid(id_)}$", file.read(), re.M)
    os.close(fd)


def profile(*rules):
    def edit(config):
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules)}

    return edit


def test_seccomp_receiver(pyrunc, make, receiver, scratch):
    socket = receiver(scratch / "agent.sock")
    notify = profile({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})
    made, id_ = make(annotated(notify, **{"seccomp.receiver": socket.path}), "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    fd = socket.receive()
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:seccomp notify"
    os.close(fd)


def test_seccomp_receiver_of_a_profile_without_such_rules(pyrunc, make):
    """Nothing is sent, so that nobody need listen; a path that is none is a mistake all the same."""
    made = make(
        annotated(profile({"names": ["mkdir"], "action": "SCMP_ACT_LOG"}), **{"seccomp.receiver": "/none"}), "/bin/true"
    )
    pyrunc("run", "-b", made, pyrunc.id())


def test_seccomp_receiver_that_is_not_there(refused):
    notify = profile({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})
    refused(annotated(notify, **{"seccomp.receiver": "agent.sock"}), "agent.sock", "is not an absolute path")
    refused(annotated(notify, **{"seccomp.receiver": "/no/agent"}), "connect to /no/agent: no such file or directory")


def test_seccomp_fail_unknown_syscall(pyrunc, make, refused):
    edit = profile({"names": ["no_such_call", "mkdir"], "action": "SCMP_ACT_ERRNO"})
    pyrunc("run", "-b", make(edit, "/bin/true"), pyrunc.id())
    for _ in range(2):  # the second time from the cache of filters
        refused(annotated(edit, seccomp_fail_unknown_syscall=""), "linux.seccomp", '"no_such_call"')


def program(call, answer):
    """A filter that answers one system call, and allows all others."""
    rows = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, answer), (0x06, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("<HBBI", *row) for row in rows)


@pytest.mark.requires("x86-64")
def test_seccomp_bpf_data(running):
    """The filter of the container, and of what is run in it later."""
    data = base64.b64encode(program(83, 0x50000 | 95)).decode()
    script = "mkdir /made 2>&1; ln -s x /link && echo linked"
    box = running(annotated(seccomp_bpf_data=data))
    out = box.exec("/bin/sh", "-c", script, status=None).out
    assert "not supported" in out and "linked" in out, out


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("%%", "no base64"),
        ("", "0 bytes are no program"),
        ("AAAA", "3 bytes are no program"),
        ("A" * 43696 + "AAA=", "are no program"),
    ],
)
def test_seccomp_bpf_data_that_is_none(refused, data, why):
    refused(annotated(seccomp_bpf_data=data), "annotations.run.oci.seccomp_bpf_data", why)


def test_a_program_replaces_no_profile(refused):
    """As crun has it: who can set an annotation, as an image can under some engines, would get rid of the filter."""
    data = base64.b64encode(program(83, 0x7FFF0000)).decode()
    edit = profile({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"})
    refused(annotated(edit, seccomp_bpf_data=data), "annotations.run.oci.seccomp_bpf_data", "no annotation replaces")


def test_a_program_that_the_kernel_refuses(pyrunc, make):
    bad = base64.b64encode(struct.pack("<HBBI", 0xFFFF, 0, 0, 0)).decode()
    done = pyrunc("run", "-b", make(annotated(seccomp_bpf_data=bad), "/bin/true"), pyrunc.id(), status=1)
    assert "seccomp" in done.err and "invalid argument" in done.err


def test_what_others_say_is_theirs(pyrunc, make):
    """Annotations that nobody knows are kept, and change nothing."""
    made, id_ = make(annotated(**{"no.such.thing": "1"}), "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    assert json.loads(pyrunc("state", id_).out)["annotations"]["run.oci.no.such.thing"] == "1"
