"""The six hooks: when, where, with what on stdin; and what is left when one fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

BEFORE = ("prestart", "createRuntime", "createContainer")
KINDS = (*BEFORE, "startContainer", "poststart", "poststop")
#: run by the runtime in its own namespaces; the others in the container's
OUTSIDE = ("prestart", "createRuntime", "poststart", "poststop")


def shell(script, **more):
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


@pytest.fixture
def log(scratch):
    """A directory that hooks write to, in the container as well: bound at the same path."""
    place = scratch / "log"
    place.mkdir()
    place.chmod(0o777)
    return place


@pytest.fixture
def hooked(make, log):
    """A bundle with hooks, that has the log directory."""

    def hooked(hooks, *args, edit=None):
        def change(config):
            config["hooks"] = hooks
            config["mounts"].append({"destination": str(log), "type": "bind", "source": str(log), "options": ["rbind"]})
            if edit:
                edit(config)

        return make(change, *(args or ("/bin/true",)))

    return hooked


@pytest.mark.differs("its create runs the poststart hooks")
def test_order(pyrunc, hooked, log):
    hooks = {kind: [shell(f"echo {kind}{n} >>{log}/order") for n in (1, 2)] for kind in KINDS}
    made, id_ = hooked(hooks, "/bin/sh", "-c", f"echo program >>{log}/order"), pyrunc.id()

    def order():
        return (log / "order").read_text().split()

    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    created = [f"{kind}{n}" for kind in BEFORE for n in (1, 2)]
    assert order() == created
    pyrunc("start", id_)
    assert pyrunc.wait(pid) == 0
    # poststart runs beside the program, or even after it
    words = order()
    assert [word for word in words if not word.startswith("poststart")] == [
        *created,
        "startContainer1",
        "startContainer2",
        "program",
    ]
    assert [word for word in words if word.startswith("poststart")] == ["poststart1", "poststart2"]
    pyrunc("delete", id_)
    assert order()[-2:] == ["poststop1", "poststop2"]


@pytest.mark.differs("its hooks are told created from the first to poststart")
def test_state_on_stdin(pyrunc, hooked, log):
    made = hooked(
        {kind: [shell(f"cat >{log}/{kind}")] for kind in KINDS},
        "/bin/sh",
        "-c",
        "read x",
        edit=lambda c: c.update(annotations={"k": "v"}),
    )
    id_ = pyrunc.id()
    read, write = os.pipe()
    pyrunc("create", "-b", made, id_, stdin=read)
    os.close(read)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    os.close(write)
    pyrunc.wait(pid)
    pyrunc("delete", id_)
    for kind in KINDS:
        state = json.loads((log / kind).read_text())
        assert (state["id"], state["bundle"], state["annotations"]) == (id_, str(made.path), {"k": "v"}), kind
        assert re.fullmatch(r"\d+\.\d+\.\d+(-\w+)?", state["ociVersion"])
        expected = {"startContainer": "created", "poststart": "running", "poststop": "stopped"}
        # prestart is from before there was "creating", and its users expect the word of that time
        assert state["status"] == {**expected, "prestart": "created"}.get(kind, "creating"), (kind, state)
        if kind != "poststop":
            # runtime.md, state: as seen by the runtime, or by the container where the hook runs in there
            assert state["pid"] == (pid if kind in OUTSIDE else 1), kind


def test_namespaces(pyrunc, hooked, log):
    kinds = ("mnt", "pid", "net", "uts", "ipc")
    script = "; ".join(f"readlink /proc/self/ns/{kind} >>{log}/$0" for kind in kinds)
    hooks = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, kind]}] for kind in KINDS}
    made, id_ = hooked(hooks, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    inside = [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
    pyrunc("start", id_)
    pyrunc("kill", id_, "KILL")
    pyrunc.wait(pid)
    pyrunc("delete", id_)
    for kind in KINDS:
        found = (log / kind).read_text().split()
        assert found == ([os.readlink(f"/proc/self/ns/{k}") for k in kinds] if kind in OUTSIDE else inside), kind


def test_root_directory(pyrunc, hooked, log):
    """startContainer sees the container's tree; all others the host's, createContainer too: before the root is changed."""
    made = hooked({kind: [shell(f"(ls -d /bin/probe /work; :) >{log}/{kind} 2>&1")] for kind in KINDS})
    pyrunc("run", "-b", made, pyrunc.id())
    for kind in KINDS:
        assert ("/bin/probe\n" in (log / kind).read_text()) == (kind == "startContainer"), kind


@pytest.mark.requires("root")
def test_mounts_made_by_a_hook_are_the_containers(pyrunc, hooked, log):
    """What nvidia's and other hooks do: enter the namespace of the pid on stdin, mount into the rootfs."""
    made = hooked({}, "/bin/cat", "/mnt/hello")
    script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -m sh -c " + shlex.quote(
        f"mount -t tmpfs hook {made.rootfs}/mnt && echo hello >{made.rootfs}/mnt/hello"
    )
    made.config["hooks"] = {"createRuntime": [shell(script, env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])]}
    made.write()
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "hello\n"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in OUTSIDE else pytest.mark.differs("its own descriptors are open"))
        for kind in KINDS
    ],
)
def test_environment_args_cwd_and_descriptors(pyrunc, hooked, log, kind):
    script = f"env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^PATH= >{log}/env; echo $0 $1 >{log}/args; pwd >{log}/cwd; ls -l /proc/self/fd >{log}/fds"
    made = hooked({kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one"], "env": ["A=1", "B=x y"]}]})
    with open(made.path / "config.json") as theirs:
        pyrunc("run", "-b", made, pyrunc.id(), pass_fds=(theirs.fileno(),))  # the caller's, who forgot it
    assert sorted((log / "env").read_text().splitlines()) == ["A=1", "B=x y"]
    assert (log / "args").read_text() == "zero one\n"
    if kind in OUTSIDE:
        assert (log / "cwd").read_text().strip() == str(made.path)
    links = dict(re.findall(r" (\d+) -> (.*)", (log / "fds").read_text()))
    extra = {fd: link for fd, link in links.items() if int(fd) > 2 and not link.startswith("/proc/")}
    assert extra == {}


def test_no_environment_is_given(pyrunc, hooked, log):
    made = hooked(
        {
            kind: [shell(f"env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^PATH= >{log}/{kind}; :", env=[])]
            for kind in KINDS
        }
    )
    pyrunc("run", "-b", made, pyrunc.id())
    assert {kind: (log / kind).read_text() for kind in KINDS} == dict.fromkeys(KINDS, "")


def test_signals_are_ordinary_in_a_hook(pyrunc, hooked, log):
    made = hooked(
        {
            "createRuntime": [shell(f"grep -e SigBlk -e SigIgn /proc/self/status >{log}/signals")],
            "poststop": [shell(f"grep -e SigBlk -e SigIgn /proc/self/status >{log}/signals2")],
        }
    )
    pyrunc("run", "-b", made, pyrunc.id())
    for name in ("signals", "signals2"):
        for line in (log / name).read_text().splitlines():
            # without 32 and 33, which belong to the C library: its posix_spawn ignores them
            assert int(line.split()[1], 16) & ~(3 << 31) == 0, line


# -- failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BEFORE)
def test_failure_ends_create(pyrunc, hooked, log, gone, kind):
    """runtime.md: create gives up, stops the container, goes on at its last step: poststop."""
    hooks = {
        kind: [shell("echo to stdout; echo the reason >&2; exit 3"), shell(f"touch {log}/second")],
        "poststop": [shell(f"touch {log}/poststop")],
        "poststart": [shell(f"touch {log}/poststart")],
    }
    made, id_ = hooked(hooks, "/bin/touch", f"{log}/program"), pyrunc.id()
    error = pyrunc.fails("run", "-b", made, id_)
    assert kind in error or "hook" in error
    assert "the reason" in error and "3" in error
    gone(pyrunc, id_, made)
    assert {"second", "program", "poststart"} & set(os.listdir(log)) == set()


@pytest.mark.differs("it runs no poststop hooks then")
@pytest.mark.parametrize("kind", BEFORE)
def test_poststop_after_a_failure(pyrunc, hooked, log, kind):
    made = hooked({kind: [shell("exit 1")], "poststop": [shell(f"touch {log}/poststop")]})
    pyrunc.fails("create", "-b", made, pyrunc.id())
    assert os.listdir(log) == ["poststop"]


@pytest.mark.differs("its start succeeds, and the error is on the container's stderr")
def test_failure_of_start_container(pyrunc, hooked, log, until):
    made = hooked({"startContainer": [shell("echo the reason >&2; exit 4")]}, "/bin/touch", f"{log}/program")
    id_ = pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    error = pyrunc.fails("start", id_)
    assert "startContainer" in error and "the reason" in error and "4" in error
    assert pyrunc.wait(pid) != 0
    assert os.listdir(log) == []
    pyrunc("delete", "-f", id_)


def test_failure_of_poststart_ends_the_container(pyrunc, hooked, log):
    """runtime.md: generate an error, stop the container, go on at the last step of the life cycle."""
    hooks = {"poststart": [shell("echo odd >&2; exit 5"), shell(f"touch {log}/second")]}
    made, id_ = hooked(hooks, "/bin/probe", "sleep", "1000"), pyrunc.id()
    error = pyrunc.fails("run", "-b", made, id_)
    assert "poststart" in error or "hook" in error
    assert "odd" in error and "5" in error and os.listdir(log) == []
    assert not pyrunc.exists(id_)


@pytest.mark.differs("its create runs them")
def test_failure_of_poststart_in_start(pyrunc, hooked, log):
    made, id_ = hooked({"poststart": [shell("exit 5")]}, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    assert "poststart" in pyrunc.fails("start", id_)
    assert pyrunc.wait(pid) == 137 and pyrunc.state(id_)["status"] == "stopped"


@pytest.mark.differs("the first failure ends the rest")
def test_failure_of_poststop_is_a_warning(pyrunc, hooked, log):
    made = hooked({"poststop": [shell("exit 5"), shell(f"touch {log}/second")]})
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", made, id_)
    pyrunc("delete", "--force", id_)
    assert not pyrunc.exists(id_) and os.listdir(log) == ["second"]


@pytest.mark.parametrize("kind", BEFORE)
def test_timeout(pyrunc, hooked, gone, kind):
    made, id_ = hooked({kind: [shell("exec sleep 1000", timeout=1)]}), pyrunc.id()
    began = time.monotonic()
    error = pyrunc.fails("create", "-b", made, id_)
    assert 0.9 < time.monotonic() - began < 60
    assert "hook" in error.lower() or kind in error
    gone(pyrunc, id_, made)


def test_a_hook_within_its_timeout(pyrunc, hooked, log):
    made = hooked({"createRuntime": [shell(f"sleep 0.2; touch {log}/done", timeout=20)]})
    pyrunc("run", "-b", made, pyrunc.id())
    assert os.listdir(log) == ["done"]


@pytest.mark.parametrize("kind", BEFORE)
def test_program_of_a_hook_is_missing(refused, kind):
    refused(lambda c: c.update(hooks={kind: [{"path": "/no/such/hook"}]}), "/no/such/hook", "no such file or directory")


def test_hook_killed_by_a_signal(refused):
    refused(lambda c: c.update(hooks={"createRuntime": [shell("kill -9 $$")]}), "signal")


@pytest.mark.parametrize(
    "hook, words",
    [
        ({"args": ["x"]}, ["path"]),
        ({"path": "relative"}, ["path"]),
        ({"path": "/bin/true", "timeout": 0}, ["timeout"]),
        ({"path": "/bin/true", "timeout": -1}, ["timeout"]),
    ],
)
@pytest.mark.differs("it looks at them no closer")
def test_hooks_that_are_wrong(refused, hook, words):
    refused(lambda c: c.update(hooks={"createRuntime": [hook]}), *words)


# -- hooks that behave badly -----------------------------------------------------------------------------------------------


@pytest.mark.differs("it waits for the pipe's end")
@pytest.mark.parametrize("kind", ["createRuntime", "poststart", "poststop"])
def test_children_that_survive_their_hook(pyrunc, hooked, log, until, kind):
    """A hook may leave a daemon behind, with stdout still open; nobody waits for it, and nobody kills it."""
    made = hooked({kind: [shell(f"sleep 1000 & echo $! >{log}/pid")]})
    pyrunc("run", "-b", made, pyrunc.id(), timeout=10)
    pid = int((log / "pid").read_text())
    # the shell's child becomes it in its own time
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), "a child that survives")
    subprocess.run(["kill", "-9", str(pid)], check=True)


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_flood_of_output(pyrunc, hooked, kind):
    made = hooked({kind: [shell("dd if=/dev/zero bs=65536 count=200 2>/dev/null; echo x >&2")]})
    result = pyrunc("run", "-b", made, pyrunc.id())
    assert result.err == ""


def test_flood_of_output_of_a_hook_that_fails(pyrunc, hooked, gone):
    made, id_ = (
        hooked(
            {
                "createRuntime": [
                    shell("dd if=/dev/zero bs=65536 count=100 2>/dev/null | tr '\\0' x; echo the end; exit 1")
                ]
            }
        ),
        pyrunc.id(),
    )
    result = pyrunc("create", "-b", made, id_, status=1)
    assert "the end" in result.err
    gone(pyrunc, id_, made)


@pytest.mark.differs("it hands on all of it")
def test_error_of_a_hook_is_one_line_of_bounded_length(pyrunc, hooked):
    """conmon reads the error with one read of 8191 bytes; a log line is a line."""
    made = hooked(
        {
            "createRuntime": [
                shell("dd if=/dev/zero bs=65536 count=10 2>/dev/null | tr '\\0' x; printf 'two\\nlines\\n'; exit 1")
            ]
        }
    )
    error = pyrunc.fails("create", "-b", made, pyrunc.id())
    assert len(error) < 8191 and len(error.strip().splitlines()) == 1 and "lines" in error


def test_a_hook_that_does_not_read_its_input(pyrunc, hooked):
    made = hooked(
        {kind: [shell("exec <&-")] for kind in KINDS}, edit=lambda c: c.update(annotations={"long": "x" * 300_000})
    )
    pyrunc("run", "-b", made, pyrunc.id())


def test_a_hook_that_kills_the_container(pyrunc, hooked, gone):
    made, id_ = hooked({"createRuntime": [shell("kill -9 $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')")]}), pyrunc.id()
    pyrunc("create", "-b", made, id_, status=1)
    gone(pyrunc, id_, made)


@pytest.mark.differs("it answers created")
def test_a_hook_that_asks_for_the_state(pyrunc, hooked, log):
    """As cri-o's and others' hooks do: the container is there, and nobody waits for a lock."""
    id_ = pyrunc.id()
    command = " ".join(shlex.quote(word) for word in pyrunc.argv("state", id_))
    made = hooked({"poststart": [shell(f"{command} >{log}/state 2>&1")]}, "/bin/probe", "sleep", "1000")
    pyrunc("run", "-d", "-b", made, id_)
    state = json.loads((log / "state").read_text())
    assert (state["id"], state["status"]) == (id_, "running")


def test_poststop_runs_once(pyrunc, hooked, log):
    made = hooked({"poststop": [shell(f"echo once >>{log}/poststop")]}, "/bin/probe", "sleep", "1000")
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", made, id_)
    pyrunc("delete", "--force", id_)
    pyrunc("delete", "--force", id_)
    assert (log / "poststop").read_text() == "once\n"


def test_hooks_of_the_config_of_create_are_run_by_delete(pyrunc, hooked, log):
    """A changed config.json must not change what delete does as root."""
    made = hooked({"poststop": [shell(f"echo right >{log}/poststop")]}, "/bin/probe", "sleep", "1000")
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", made, id_)
    made.config["hooks"] = {"poststop": [shell(f"echo wrong >{log}/poststop")]}
    made.write()
    pyrunc("delete", "--force", id_)
    assert (log / "poststop").read_text() == "right\n"


@pytest.mark.differs("it waits for ever, and so does whoever deletes by force meanwhile")
def test_a_poststop_hook_that_hangs_is_no_obstacle_to_force(pyrunc, hooked, log, until):
    """Also while another delete waits for it: that one goes on then, with a warning."""
    made = hooked({"poststop": [shell(f"echo $$ >> {log}/pids; exec sleep 1000"), shell(f"touch {log}/second")]})
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", made, id_)
    until(lambda: pyrunc.state(id_)["status"] == "stopped", "the program has ended")
    first = pyrunc.popen("delete", id_)
    until(lambda: (log / "pids").exists() and (log / "pids").read_text().endswith("\n"), "the hook runs")
    pyrunc("delete", "--force", id_)
    assert first.wait(20) == 0
    assert not pyrunc.exists(id_) and sorted(os.listdir(log)) == ["pids", "second"]
    for pid in (log / "pids").read_text().split():
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "the hook has ended")
