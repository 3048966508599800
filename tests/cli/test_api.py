"""runtime.api: the verbs in process, from programs with threads, with many descriptors, with their own idea of signals."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime import api, kernel
from runtime.errors import ConfigError, ExecError, Exists, HookError, KernelError, NotFound, StatusError, UsageError

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.differs("it has no API")


@pytest.fixture(scope="session")
def _image():
    """The image of init is made once and kept for all that follow: no leak."""
    pid, sock = kernel.launch(b"no plan", [], 3)
    os.close(sock)
    os.waitpid(pid, 0)


@pytest.fixture
def runtime(_image, pyrunc):
    """A Runtime on the root of the test's own; what is left is deleted with the command's."""
    return api.Runtime(pyrunc.root)


@pytest.fixture
def sleeping(runtime, make, pyrunc):
    """A running container that is deleted at the end."""
    container = runtime.create(make(None, "/bin/probe", "sleep", "1000"), pyrunc.id())
    container.start()
    yield container
    if container.id in runtime:
        container.delete(force=True)


def descriptors():
    gc.collect()  # those of an earlier test that failed are its own
    return sorted(os.listdir("/proc/self/fd"))


# -- the life of one -----------------------------------------------------------------------------------------------------


def test_whole_life(runtime, make, pyrunc, gone, until, catches):
    made, id_ = make(None, "/bin/probe", "trap", "15"), pyrunc.id()
    container = runtime.create(made, id_)
    assert (container.id, container.status) == (id_, "created") and container.pid > 0
    assert container.state["bundle"] == str(made.path)
    container.start()
    assert container.status == "running" and container.pids() == [container.pid]
    assert id_ in runtime and [found.id for found in runtime] == [id_]
    until(lambda: catches(container.pid, 15))
    container.kill("TERM")
    assert container.wait() == 40 + 15 == container.wait()
    assert (container.status, container.pid) == ("stopped", 0)
    container.delete()
    assert id_ not in runtime and list(runtime) == []
    assert container.wait() == 55  # it is still known how it ended
    gone(pyrunc, id_, made)


def test_the_command_sees_the_same(runtime, make, pyrunc, sleeping):
    assert pyrunc.state(sleeping.id) == sleeping.state
    assert pyrunc("exec", sleeping.id, "/bin/echo", "x").out == "x\n"
    pyrunc("kill", sleeping.id, "KILL")
    assert sleeping.wait() == 137


def test_run(runtime, make):
    assert runtime.run(make(None, "/bin/probe", "exit", "3")) == 3
    assert list(runtime) == []


@pytest.mark.parametrize("status, script", [(0, "exit 0"), (7, "exit 7"), (137, "kill -9 $$")])
def test_exit_status(sleeping, status, script):
    assert sleeping.exec(["/bin/sh", "-c", script]).status == status


def test_an_id_of_its_own(runtime, make):
    made = make(None)
    made.config["linux"]["cgroupsPath"] = ""
    made.write()
    with runtime.create(made) as one, runtime.create(made) as other:
        assert one.id != other.id and {one.id, other.id} == {found.id for found in runtime}


def test_pause_and_resume(sleeping, until):
    before = sleeping.status
    sleeping.pause()
    assert (before, sleeping.status) == ("running", "paused")
    with pytest.raises(StatusError):
        sleeping.exec(["/bin/true"])
    sleeping.resume()
    assert sleeping.exec(["/bin/true"]).status == 0


def test_kill_all(runtime, make, pyrunc, until):
    with runtime.create(
        make(None, "/bin/sh", "-c", "trap : TERM; sleep 998 & wait; sleep 999"), pyrunc.id()
    ) as container:
        container.start()
        until(lambda: "sleep" in [Path(f"/proc/{pid}/comm").read_text().strip() for pid in container.pids()])
        first = set(container.pids())
        container.kill(15, all=True)
        until(lambda: len(first & set(container.pids())) == 1)
        container.kill(signal.SIGKILL)
        assert container.wait(20) == 137


@pytest.mark.parametrize(
    "word, number", [("TERM", 15), ("SIGTERM", 15), ("term", 15), (15, 15), ("9", 9), (signal.SIGHUP, 1)]
)
def test_signals(word, number):
    assert api.signal_number(word) == number


@pytest.mark.parametrize("word", ["", "NOPE", -1, 65, "1.5", "TERM+1"])
def test_no_signals(word, sleeping):
    with pytest.raises(UsageError):
        sleeping.kill(word)


# -- processes -----------------------------------------------------------------------------------------------------------


def test_exec_captures_both_outputs(sleeping):
    result = sleeping.exec(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], capture=True)
    assert (result.status, result.output) == (3, b"out\nerr\n")


def test_exec_with_input(sleeping):
    data = b"line\n" * 100_000  # more than a pipe holds
    assert sleeping.exec(["/bin/cat"], input=data, capture=True).output == data
    assert sleeping.exec(["/bin/cat"], input=b"", capture=True).output == b""


def test_exec_does_not_wait_for_what_is_left_behind(sleeping):
    began = time.monotonic()
    assert sleeping.exec(["/bin/sh", "-c", "sleep 1000 & echo x"], capture=True).output == b"x\n"
    assert time.monotonic() - began < 20


def test_exec_with_a_time_limit(sleeping, until):
    with pytest.raises(TimeoutError):
        sleeping.exec(["/bin/sleep", "1000"], timeout_s=0.2)
    until(lambda: len(sleeping.pids()) == 1, "it is killed")


def test_properties_of_the_process(sleeping):
    result = sleeping.exec(
        ["/bin/sh", "-c", "id -u; id -g; pwd; echo $A"],
        capture=True,
        user={"uid": 7, "gid": 8},
        cwd="/tmp",
        env=["A=b", "PATH=/bin"],
    )
    assert result.output == b"7\n8\n/tmp\nb\n"


def test_spawn_with_a_whole_process(sleeping):
    document = {"args": ["/bin/probe", "exit", "4"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    with sleeping.spawn(process=document) as child:
        assert child.wait(20) == 4


def test_spawn_redirects(sleeping, scratch):
    (scratch / "in").write_text("hello\n")
    with open(scratch / "in") as stdin, open(scratch / "out", "w") as out:
        script = "read x; echo out $x; echo err >&2"
        with sleeping.spawn(["/bin/sh", "-c", script], stdio=(stdin, out, api.DEVNULL)) as child:
            assert child.wait(20) == 0
    assert (scratch / "out").read_text() == "out hello\n"
    # a descriptor that is one of the standard three itself, crosswise
    with open(scratch / "out", "w") as out:
        saved = os.dup(2)
        os.dup2(out.fileno(), 2)
        try:
            with sleeping.spawn(["/bin/echo", "x"], stdio=(api.DEVNULL, 2, 2)) as child:
                assert child.wait(20) == 0
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    assert (scratch / "out").read_text() == "x\n"


def test_stdio_of_a_container(runtime, make, pyrunc):
    read_fd, write_fd = os.pipe()
    with runtime.create(make(None, "/bin/cat"), pyrunc.id(), stdio=(read_fd, write_fd, api.DEVNULL)) as container:
        os.write(write_fd, b"x")
        container.start()
        assert os.read(read_fd, 1) in (b"x",)
        container.kill("KILL")
    os.close(read_fd)
    os.close(write_fd)


def test_a_process_ends_with_its_block(sleeping, until):
    with sleeping.spawn(["/bin/sleep", "1000"]) as child:
        assert child.pid in sleeping.pids()
        assert not select.select([child], [], [], 0)[0]
    until(lambda: sleeping.pids() == [sleeping.pid])
    assert child.wait() == 137


def test_a_process_that_is_killed(sleeping):
    with sleeping.spawn(["/bin/sleep", "1000"]) as child:
        child.kill("USR1")
        assert select.select([child], [], [], 20)[0]
        assert child.wait() == 128 + signal.SIGUSR1
        child.kill()  # it has ended: no error


def test_pidfd_and_console_sockets(runtime, make, pyrunc, receiver, read_until):
    made = make(lambda c: c["process"].update(terminal=True), "/bin/probe", "sleep", "1000")
    console, server = receiver(), receiver()
    with runtime.create(made, pyrunc.id(), console_socket=console.path, pidfd_socket=server.path) as container:
        for fd in (console.receive(), server.receive()):
            os.close(fd)
        container.start()
        with container.spawn(["/bin/tty"], terminal=True, console_socket=console.path) as child:
            master = console.receive()
            assert read_until(master, b"\n") == b"/dev/pts/1\r\n"
            assert child.wait(20) == 0
            os.close(master)


# -- waiting -------------------------------------------------------------------------------------------------------------


def test_wait_from_many_threads(sleeping):
    found, ready = [], threading.Barrier(9)

    def wait():
        ready.wait(20)
        found.append(sleeping.wait())

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    ready.wait(20)
    sleeping.kill("KILL")
    for thread in threads:
        thread.join(20)
    assert found == [137] * 8


def test_delete_while_others_wait(sleeping):
    found = []
    threads = [threading.Thread(target=lambda: found.append(sleeping.wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    sleeping.delete(force=True)
    for thread in threads:
        thread.join(20)
    assert found == [137] * 4


def test_wait_with_a_time_limit(sleeping):
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        sleeping.wait(0.1)
    assert 0.1 <= time.monotonic() - began < 5
    with pytest.raises(TimeoutError):
        sleeping.wait(0)


def test_a_status_that_somebody_else_took(sleeping):
    sleeping.kill("KILL")
    os.waitpid(sleeping.pid or -1, 0)
    assert sleeping.wait(20) == api.UNKNOWN


def test_container_of_the_command(runtime, make, pyrunc):
    """Made elsewhere: it can be waited for, and how it ended is its parent's to know."""
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", make(None, "/bin/probe", "sleep", "1000"), id_)
    container = runtime.get(id_)
    assert container.exec(["/bin/echo", "x"], capture=True).output == b"x\n"
    with pytest.raises(TimeoutError):
        container.wait(0.05)
    container.kill("KILL")
    assert select.select([container], [], [], 20)[0]
    assert container.wait(20) == api.UNKNOWN
    container.delete()
    assert id_ not in runtime
    with pytest.raises(NotFound):
        runtime.get(id_)


def test_container_of_the_command_that_has_ended(runtime, make, pyrunc, until):
    id_ = pyrunc.id()
    pyrunc("run", "-d", "-b", make(None), id_)
    container = runtime.get(id_)
    until(lambda: container.status == "stopped")
    assert container.wait() == api.UNKNOWN
    with pytest.raises(StatusError):
        container.fileno()
    container.delete()


# -- errors --------------------------------------------------------------------------------------------------------------


def test_deleted_on_an_exception(runtime, make, pyrunc, gone):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    with pytest.raises(ZeroDivisionError), runtime.create(made, id_) as container:
        container.start()
        raise ZeroDivisionError
    gone(pyrunc, id_, made)


def test_errors_say_where(runtime, make, pyrunc, gone, scratch):
    id_ = pyrunc.id()
    with pytest.raises(ConfigError) as wrong:
        runtime.create(make(lambda c: c["process"].update(cwd="relative")), id_)
    assert wrong.value.record["pointer"] == wrong.value.where == "/process/cwd"
    assert wrong.value.clause.startswith("config.md")
    mount = {"destination": "/t", "type": "bind", "source": str(scratch / "none"), "options": ["bind"]}
    with pytest.raises(KernelError) as refused:
        runtime.create(made := make(lambda c: c["mounts"].append(mount)), id_)
    record = refused.value.record
    assert (record["errno"], record["pointer"]) == (errno.ENOENT, "/mounts/5") and record["op"].startswith("init ")
    with pytest.raises(ExecError) as missing:
        runtime.create(make(None, "/no/such/program"), id_)
    assert missing.value.errno == errno.ENOENT
    with pytest.raises(HookError):
        runtime.create(make(lambda c: c.update(hooks={"prestart": [{"path": "/bin/false"}]})), id_)
    gone(pyrunc, id_, made)


def test_errors_of_start_and_exec(runtime, make, pyrunc, sleeping):
    with pytest.raises(StatusError):
        sleeping.start()
    with pytest.raises(StatusError):
        sleeping.delete()
    with pytest.raises(StatusError):
        sleeping.resume()
    with pytest.raises(Exists):
        runtime.create(make(None), sleeping.id)
    with pytest.raises(ExecError) as missing:
        sleeping.exec(["nope"])
    assert 'exec: "nope": executable file not found in $PATH' in str(missing.value)
    for wrong, place in (
        ({"cwd": "relative"}, "/cwd"),
        ({"user": {"uid": -1, "gid": 0}}, "/user/uid"),
        ({"env": [1]}, "/env/0"),
    ):
        with pytest.raises(ConfigError) as refused:
            sleeping.exec(["/bin/true"], **wrong)
        assert refused.value.where == place
    with pytest.raises(TypeError):
        runtime.create("x", pid_flie="typo")
    assert sleeping.pids() == [sleeping.pid]


def test_unknown_container(runtime):
    container = api.Container(runtime, "nobody")
    for verb in ("start", "pause", "resume", "delete", "wait", "pids", "fileno"):
        with pytest.raises(NotFound):
            getattr(container, verb)()
    container.delete(force=True)


def test_plan_does_nothing(runtime, make, pyrunc):
    made = make(None)
    text = runtime.plan(made, "web").text()
    assert "pivot-root" in text and "exec" in text.splitlines()[-1]
    assert not pyrunc.root.exists()
    assert runtime.plan(made, "web").text() == text != runtime.plan(made, "web", no_pivot=True).text()


def test_warnings(pyrunc, make):
    made = make(lambda c: c["process"]["capabilities"]["bounding"].append("CAP_FROBNICATE"))
    runtime, heard = api.Runtime(pyrunc.root), []
    runtime.run(made, pyrunc.id())
    assert any("CAP_FROBNICATE" in warning for warning in runtime.warnings)
    api.Runtime(pyrunc.root, warn=heard.append).run(made, pyrunc.id())
    assert any("CAP_FROBNICATE" in warning for warning in heard)


def test_pid_file(runtime, make, pyrunc, gone, scratch):
    made, id_ = make(None), pyrunc.id()
    with runtime.create(made, id_, pid_file=str(scratch / "pid")) as container:
        assert int((scratch / "pid").read_text()) == container.pid
    before = descriptors()
    with pytest.raises(KernelError):
        runtime.create(made, id_, pid_file=str(scratch / "none" / "pid"))
    gone(pyrunc, id_, made)
    assert descriptors() == before


# -- a guest in somebody's program ---------------------------------------------------------------------------------------


def test_nothing_is_left_of_a_hundred(runtime, make, pyrunc, leaks):
    made = make(None, "/bin/probe", "sleep", "1000")
    before = descriptors()
    for number in range(100):
        with runtime.create(made, pyrunc.id(str(number))) as container:
            container.start()
            if number % 4 == 0:
                assert container.exec(["/bin/true"]).status == 0
    assert descriptors() == before
    leaks.check()


def test_the_program_is_left_as_it_is(runtime, make, pyrunc, scratch):
    os.umask(0o027)
    before = snapshot()
    hooks = {kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "createContainer", "poststart", "poststop")}
    made = make(lambda c: c.update(hooks=hooks), "/bin/probe", "report")
    with (
        open(scratch / "out", "w") as out,
        runtime.create(made, pyrunc.id(), stdio=(api.DEVNULL, out, None)) as container,
    ):
        assert snapshot() == before
        container.start()
        assert container.wait(20) == 0
    assert snapshot() == before
    # nor does the container get anything of it
    found = json.loads((scratch / "out").read_text())
    assert found["umask"] == "0022" and found["signals"]["ignored"] == [] and found["signals"]["blocked"] == []


def snapshot():
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    mask = os.umask(0)
    os.umask(mask)
    return (
        signals,
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        mask,
        os.getcwd(),
        dict(os.environ),
        os.getpriority(0, 0),
    )


@pytest.fixture(autouse=True)
def _umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_variables_of_a_service_are_not_the_containers(pyrunc, make, scratch):
    """Readiness and sockets are the program's own; a container that waited for them would never start."""
    made = make(None, "/bin/sh", "-c", "env; ls /proc/self/fd")
    script = (
        f"from runtime.api import Runtime; import sys\n"
        f"sys.exit(Runtime({str(pyrunc.root)!r}).run({str(made.path)!r}, {pyrunc.id()!r}))"
    )
    with open(scratch / "theirs", "w") as theirs:
        env = {**pyrunc.env, "NOTIFY_SOCKET": "/nowhere", "LISTEN_FDS": "1"}
        done = in_python(script, env=env, pass_fds=(theirs.fileno(),))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith(("NOTIFY", "LISTEN"))]
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]  # the last one is of ls itself


def in_python(script, **more):
    """Run a script in a Python of its own that finds the packages."""
    paths = [str(ROOT), str(ROOT / "build/kernel/runtime/kernel")]
    prepared = f"import sys; sys.path.insert(0, {paths[0]!r}); import runtime.kernel; runtime.kernel.__path__.append({paths[1]!r})\n"
    return subprocess.run([sys.executable, "-c", prepared + script], capture_output=True, text=True, timeout=60, **more)


def test_ignored_children_are_refused(pyrunc, make):
    """The kernel would collect init's status and, worse, its pid."""
    script = (
        f"import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"from runtime.api import Runtime\n"
        f"try: Runtime({str(pyrunc.root)!r}).create({str(make(None).path)!r})\n"
        f"except Exception as error: print(error, '/', error.hint)"
    )
    done = in_python(script, env=pyrunc.env)
    assert "SIGCHLD is ignored" in done.stdout and "SIG_DFL" in done.stdout, done.stderr


def test_many_threads_and_descriptors(runtime, make, pyrunc):
    """Eight threads make containers at once, in a program with thousands of descriptors that it may pass on."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, limit[1]), limit[1]))
    script = "ls /proc/self/fd; echo; readlink /proc/self/cwd"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "test $(ls /proc/self/fd | wc -l) = 4 || exit 9"]}
    bundles = [
        make(lambda c: c.update(hooks={"createRuntime": [hook]}), "/bin/probe", "sleep", "1000") for _ in range(4)
    ]
    held = [os.open("/", os.O_RDONLY) for _ in range(3000)]
    for fd in held:
        os.set_inheritable(fd, True)
    failures, folder = [], os.getcwd()

    def cycle(number):
        try:
            for turn in range(3):
                with runtime.create(bundles[number], pyrunc.id(f"{number}-{turn}")) as container:
                    container.start()
                    output = container.exec(["/bin/sh", "-c", script], capture=True).output.decode()
                    assert output.split() == ["0", "1", "2", "3", "/"], output
                    assert os.getcwd() == folder
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=cycle, args=(number,)) for number in range(len(bundles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert failures == []


def test_in_an_event_loop(runtime, make, pyrunc):
    import asyncio

    async def watch(container):
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(container.fileno(), ended.set)
        container.kill("KILL")
        await asyncio.wait_for(ended.wait(), 20)
        asyncio.get_running_loop().remove_reader(container.fileno())
        return container.wait(0)

    with runtime.create(make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()) as container:
        container.start()
        assert asyncio.run(watch(container)) == 137


# -- what is shown to others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["README.md", "runtime/api.py"])
def test_the_example_runs(pyrunc, make, source):
    text = (ROOT / source).read_text()
    if source == "README.md":
        found = re.search(r"^```python\n(from runtime.api.*?)^```", text, re.M | re.S)
        example = found[1] if found else ""
    else:
        lines = text.split("\n\n    from runtime.api", 1)[1].split("\nErrors are", 1)[0].splitlines()
        example = "\n".join(["from runtime.api" + lines[0], *(line[4:] for line in lines[1:])])
    assert "/bundles/web" in example and "Runtime()" in example
    made = make(None, "/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    example = example.replace("/bundles/web", str(made.path)).replace("Runtime()", f"Runtime({str(pyrunc.root)!r})")
    done = in_python(example, env=pyrunc.env)
    assert done.returncode == 0, done.stderr
    date, status = done.stdout.splitlines()
    assert "20" in date and status in ("3", "143")


def test_types_are_for_others_too(tmp_path):
    """PEP 561: a program that uses the API is checked against it."""
    assert (ROOT / "runtime/py.typed").exists()
    (tmp_path / "right.py").write_text(
        "from runtime.api import Runtime\n"
        "with Runtime('/run/x').create('/bundle', stdio=(None, open('x'), 2)) as container:\n"
        "    container.start()\n"
        "    status: int = container.wait(timeout_s=1.5)\n"
        "    output: bytes = container.exec(['/bin/true'], capture=True, cwd='/').output\n"
    )
    (tmp_path / "wrong.py").write_text("from runtime.api import Runtime\nRuntime().create('/bundle', no_pivto=True)\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    for name, status in (("right.py", 0), ("wrong.py", 1)):
        done = subprocess.run(
            [*mypy, str(tmp_path / name)],
            env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == status, done.stdout
