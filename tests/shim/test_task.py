"""The task service from end to end: the shim's program, our runtime, real containers, and a test in containerd's place."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hierarchies import TOP, VERSION
from shim_client import PROGRAM, Client, Engine, Fifos, Refused, Shim

from shim.containerd import messages, stats
from shim.containerd.protobuf import decode, encode

if TYPE_CHECKING:
    from conftest import Bundle, Leaks

MakeBundle = Callable[..., "Bundle"]


@pytest.fixture
def engine(leaks: Leaks, scratch: Path) -> Iterator[Engine]:
    made = Engine(scratch)
    leaks.places.append(scratch)
    yield made
    for shim in made.shims:
        if shim.is_alive():
            clean(shim)
    made.close()
    for shim in made.shims:
        shim.wait_until_gone()


def clean(shim: Shim) -> None:
    """Have all its containers deleted, whatever state they are in."""
    shim.client.close()
    shim.client = Client(shim.path)
    for id_ in shim.engine.asked:
        for method, values in (("Kill", {"signal": 9, "all": True}), ("Delete", {})):
            try:
                shim.call(method, id=id_, **values)
                if method == "Kill":
                    shim.wait(id_)
            except (Refused, OSError):
                pass


@pytest.fixture
def shim(engine: Engine, bundle: MakeBundle) -> Callable[..., Shim]:
    """Start a shim for a bundle that runs these words."""

    def make(*args: str, id_: str = "", **changes: Any) -> Shim:
        made = bundle(*args, **changes)
        return engine.start(made.path, id_ or f"c{os.getpid()}-{len(engine.shims)}")

    return make


@pytest.fixture
def fifos(scratch: Path) -> Iterator[Fifos]:
    made = Fifos(scratch)
    yield made
    made.close()


def refused(code: int, call: Callable[..., Any], *args: Any, **values: Any) -> str:
    with pytest.raises(Refused) as found:
        call(*args, **values)
    assert found.value.code == code, found.value
    return found.value.text


def state(shim: Shim, **values: Any) -> str:
    number = shim.call("State", id=shim.id, **values)["status"]
    return next(word for word, status in messages.STATUSES.items() if status == number)


# -- one container -----------------------------------------------------------------------------------------------------


def test_life(shim: Callable[..., Shim], fifos: Fifos, engine: Engine) -> None:
    """create, start, exit, delete: answers, states and events, in this order."""
    one = shim("sh", "-c", "cat; echo warning >&2; exit 3")
    pid = one.create(**fifos.named(stdin=True))
    assert state(one) == "created"
    waiting = one.begin("Wait", id=one.id)
    assert one.call("Start", id=one.id) == {"pid": pid}
    assert state(one) == "running"
    assert not waiting.done()
    fifos.write(b"through the pipe\n")
    one.call("CloseIO", id=one.id, stdin=True)
    os.close(fifos.writer)
    fifos.writer = -1
    answer = decode(messages.WAITED, waiting.result(30))
    assert answer["exit_status"] == 3
    assert abs(answer["exited_at"]["seconds"] - time.time()) < 60
    assert fifos.read() == b"through the pipe\n"
    assert fifos.read(1) == b"warning\n"
    found = one.call("State", id=one.id)
    assert (found["status"], found["exit_status"], found["stdout"]) == (3, 3, str(fifos.stdout))
    assert one.call("Delete", id=one.id) == {"pid": pid, "exit_status": 3, "exited_at": answer["exited_at"]}
    engine.wait_for("/tasks/delete")
    assert engine.topics(container_id=one.id) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert {values["pid"] for _, values in engine.events} == {pid}
    assert {values["namespace"] for _, values in engine.events} == {"test"}
    assert refused(5, one.call, "State", id=one.id)
    one.call("Shutdown", id=one.id)
    one.wait_until_gone()
    assert not Path(one.path).exists()
    assert one.messages() == ""


def test_exits_are_never_before_the_start(shim: Callable[..., Shim], engine: Engine) -> None:
    """Programs that are over before `start` is: each status right, each exit after its start."""
    one = shim("true")
    for number in range(20):
        id_ = f"{one.id}-{number}"
        config = json.loads((one.bundle / "config.json").read_text())
        config["process"]["args"] = ["sh", "-c", f"exit {number}"]
        config["linux"]["cgroupsPath"] += f"-{number}"
        (one.bundle / "config.json").write_text(json.dumps(config))
        one.create(id_)
        one.call("Start", id=id_)
        assert one.wait(id_) == number
        one.call("Delete", id=id_)
        engine.wait_for("/tasks/delete", container_id=id_)
        assert engine.topics(container_id=id_) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
        assert engine.wait_for("/tasks/exit", container_id=id_)["exit_status"] == number


def test_a_missing_program_is_the_runtimes_own_words(shim: Callable[..., Shim], engine: Engine) -> None:
    one = shim("nosuch")
    text = refused(2, one.create)
    assert text.startswith("OCI runtime create failed: ")
    assert text.endswith('exec: "nosuch": executable file not found in $PATH')
    assert "\n" not in text
    assert refused(5, one.call, "State", id=one.id)
    assert engine.events == []


def test_killed_between_create_and_start(shim: Callable[..., Shim], engine: Engine) -> None:
    one = shim("sleep", "100")
    one.create()
    one.call("Kill", id=one.id, signal=9)
    assert one.wait() == 128 + 9
    assert refused(9, one.call, "Start", id=one.id) == "cannot start a stopped process"
    one.call("Delete", id=one.id)


def test_deleted_without_a_start(shim: Callable[..., Shim], engine: Engine) -> None:
    one = shim("sleep", "100")
    one.create()
    waiting = one.begin("Wait", id=one.id)
    assert one.call("Delete", id=one.id)["exit_status"] == 128 + 9
    assert decode(messages.WAITED, waiting.result(30))["exit_status"] == 128 + 9
    engine.wait_for("/tasks/delete")
    assert engine.topics(container_id=one.id) == ["/tasks/create", "/tasks/exit", "/tasks/delete"]


def test_states_and_what_they_refuse(shim: Callable[..., Shim], engine: Engine) -> None:
    one = shim("sleep", "100")
    id_ = one.id
    one.create()
    assert refused(6, one.create)
    assert refused(9, one.call, "Pause", id=id_) == "cannot pause task in created state"
    assert refused(9, one.call, "Resume", id=id_) == "cannot resume task in created state"
    one.call("Start", id=id_)
    assert refused(9, one.call, "Start", id=id_) == "cannot start a running process"
    assert refused(9, one.call, "Delete", id=id_) == "cannot delete a running process"
    one.call("Pause", id=id_)
    assert state(one) == "paused"
    assert refused(9, one.call, "Pause", id=id_) == "cannot pause a paused container"
    assert refused(9, one.exec, "e", "true") == "cannot exec in a paused state"
    one.call("Resume", id=id_)
    assert state(one) == "running"
    one.call("Kill", id=id_, signal=9)
    assert one.wait() == 128 + 9
    assert refused(9, one.exec, "e", "true") == "cannot exec in a stopped state"
    assert refused(5, one.call, "Kill", id=id_, signal=9) == "process already finished"
    one.call("Delete", id=id_)
    engine.wait_for("/tasks/delete")
    assert engine.topics(container_id=id_)[2:4] == ["/tasks/paused", "/tasks/resumed"]
    assert one.call("Connect", id=id_) == {"shim_pid": one.pid, "task_pid": 0, "version": ""}


def test_terminal(shim: Callable[..., Shim], fifos: Fifos, bundle: MakeBundle, engine: Engine) -> None:
    made = bundle("sh", "-c", "trap 'stty size' WINCH; tty; read line; echo got $line; exit 5")
    made.config["process"]["terminal"] = True
    made.write()
    one = engine.start(made.path, f"c{os.getpid()}")
    one.create(**fifos.named(stdin=True, terminal=True))
    one.call("ResizePty", id=one.id, width=123, height=45)
    one.call("Start", id=one.id)
    assert b"/dev/pts/0\r\n" in fifos.read(until=b"/dev/pts/0\r\n")
    fifos.write(b"words\n")
    assert one.wait() == 5
    assert b"got words\r\n" in fifos.read()
    one.call("Delete", id=one.id)


def test_output_to_a_file_and_to_a_logger(shim: Callable[..., Shim], scratch: Path, engine: Engine) -> None:
    one = shim("sh", "-c", "echo out; echo err >&2")
    target = scratch / "deep/down/log"
    one.create(stdout=f"file://{target}", stderr=f"file://{target}")
    one.call("Start", id=one.id)
    one.wait()
    one.call("Delete", id=one.id)
    assert sorted(target.read_text().split()) == ["err", "out"]

    logger = scratch / "logger"
    words = '#!/bin/sh\necho "$@" $CONTAINER_ID $CONTAINER_NAMESPACE >{0}.env\nexec 5>&-\ncat <&3 >{0}.out\ncat <&4 >{0}.err\n'
    logger.write_text(words.format(logger))
    logger.chmod(0o755)
    other = shim("sh", "-c", "echo out; echo err >&2")
    other.create(stdout=f"binary://{logger}?a=b%20c&d", stderr=f"binary://{logger}?a=b%20c&d")
    other.call("Start", id=other.id)
    other.wait()
    other.call("Delete", id=other.id)
    read = [Path(f"{logger}.{end}").read_text() for end in ("env", "out", "err")]
    assert read == [f"a b c d  {other.id} test\n", "out\n", "err\n"]


def test_a_log_that_cannot_be_written(shim: Callable[..., Shim], scratch: Path) -> None:
    """It is lost, and the shim says so once for each stream; the program sees nothing of it."""
    (scratch / "full").symlink_to("/dev/full")
    one = shim("sh", "-c", "for n in 1 2 3; do echo out && echo err >&2 || exit 9; sleep 0.1; done; exit 5")
    one.create(stdout=f"file://{scratch}/full", stderr=f"file://{scratch}/full")
    one.call("Start", id=one.id)
    assert one.wait() == 5
    one.call("Delete", id=one.id)
    words = f"write file://{scratch}/full: no space left on device, output after 0 bytes is lost"
    assert one.messages().count(words) == 2


def test_a_logger_that_is_not_there(shim: Callable[..., Shim], scratch: Path) -> None:
    one = shim("true")
    text = refused(2, one.create, stdout=f"binary://{scratch}/none", stderr=f"binary://{scratch}/none")
    assert text == f'logger "{scratch}/none": not there, or not executable'


# -- more processes ----------------------------------------------------------------------------------------------------


def test_exec(shim: Callable[..., Shim], fifos: Fifos, engine: Engine) -> None:
    one = shim("sleep", "100")
    one.create()
    one.call("Start", id=one.id)
    one.exec("e", "sh", "-c", "cat; exit 7", **fifos.named(stdin=True))
    assert refused(6, one.exec, "e", "true")
    assert refused(9, one.call, "Kill", id=one.id, exec_id="e", signal=15) == "process not created"
    waiting = one.begin("Wait", id=one.id, exec_id="e")
    pid = one.call("Start", id=one.id, exec_id="e")["pid"]
    listed = {entry["pid"]: entry["info"] for entry in one.call("Pids", id=one.id)["processes"]}
    assert decode(messages.PROCESS_DETAILS, listed[pid]["value"]) == {"exec_id": "e"}
    assert {one.call("Connect", id=one.id)["task_pid"], pid} <= set(listed)
    fifos.write(b"in and out")
    one.call("CloseIO", id=one.id, exec_id="e", stdin=True)
    os.close(fifos.writer)
    fifos.writer = -1
    assert decode(messages.WAITED, waiting.result(30))["exit_status"] == 7
    assert fifos.read() == b"in and out"
    assert refused(5, one.call, "Kill", id=one.id, exec_id="e", signal=9) == "process already finished"
    assert one.call("Delete", id=one.id, exec_id="e")["exit_status"] == 7
    assert refused(5, one.call, "State", id=one.id, exec_id="e")
    engine.wait_for("/tasks/exit", id="e", exit_status=7)
    assert engine.topics(container_id=one.id)[2:] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


def test_exec_of_nothing(shim: Callable[..., Shim]) -> None:
    one = shim("sleep", "100")
    one.create()
    one.call("Start", id=one.id)
    one.exec("e", "nosuch")
    text = refused(2, one.call, "Start", id=one.id, exec_id="e")
    assert text.startswith("OCI runtime exec failed: ")
    assert text.endswith('exec: "nosuch": executable file not found in $PATH')
    one.call("Delete", id=one.id, exec_id="e")
    one.exec("e", "true")
    one.call("Start", id=one.id, exec_id="e")
    assert one.wait(exec_id="e") == 0
    assert refused(3, one.exec, "../up", "true")
    assert refused(3, one.call, "Exec", id=one.id, exec_id="x", spec={"type_url": "", "value": b"{"})


def test_kill_of_an_exec_alone(shim: Callable[..., Shim]) -> None:
    one = shim("sleep", "100")
    one.create()
    one.call("Start", id=one.id)
    one.exec("e", "sleep", "100")
    one.call("Start", id=one.id, exec_id="e")
    one.call("Kill", id=one.id, exec_id="e", signal=15)
    assert one.wait(exec_id="e") == 128 + 15
    assert state(one) == "running"


@pytest.mark.parametrize("has_own_pids", [True, False])
def test_ends_of_others_come_before_inits(
    shim: Callable[..., Shim], engine: Engine, bundle: MakeBundle, has_own_pids: bool
) -> None:
    made = bundle("sleep", "100")
    if not has_own_pids:
        namespaces = made.config["linux"]["namespaces"]
        made.config["linux"]["namespaces"] = [one for one in namespaces if one["type"] != "pid"]
        made.write()
    one = engine.start(made.path, f"c{os.getpid()}")
    one.create()
    one.call("Start", id=one.id)
    for name in ("a", "b", "c"):
        one.exec(name, "sleep", "100")
        one.call("Start", id=one.id, exec_id=name)
    one.call("Kill", id=one.id, signal=9)
    one.wait()
    engine.wait_for("/tasks/exit", id=one.id)
    ends = [values["id"] for topic, values in engine.events if topic == "/tasks/exit"]
    assert (sorted(ends[:3]), ends[3]) == (["a", "b", "c"], one.id)
    assert {values["exit_status"] for topic, values in engine.events if topic == "/tasks/exit"} == {128 + 9}


def test_inits_end_is_told_after_that_of_one_who_outlives_it(engine: Engine, bundle: MakeBundle) -> None:
    """Which no longer is in the container's cgroups, so that `kill --all` does not reach it."""
    made = bundle("sleep", "100")
    namespaces = made.config["linux"]["namespaces"]
    made.config["linux"]["namespaces"] = [one for one in namespaces if one["type"] != "pid"]
    made.write()
    one = engine.start(made.path, f"c{os.getpid()}")
    one.create()
    one.call("Start", id=one.id)
    one.exec("e", "sleep", "100")
    last = one.call("Start", id=one.id, exec_id="e")["pid"]
    for entry in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = entry.split(":", 2)
        hierarchy = (
            (TOP if VERSION == 2 else TOP / "unified") if not controllers else TOP / controllers.removeprefix("name=")
        )
        if hierarchy.exists():
            Path(f"{hierarchy}{path}/cgroup.procs").write_text(str(last))
    one.call("Kill", id=one.id, signal=9)
    children = Path(f"/proc/{one.pid}/task/{one.pid}/children")
    end = time.monotonic() + 30
    # with init, and with `kill --all`
    while children.read_text().split() != [str(last)]:
        assert time.monotonic() < end, "more children than one"
        time.sleep(0.01)
    os.kill(last, signal.SIGKILL)
    one.wait()
    engine.wait_for("/tasks/exit", id=one.id)
    assert [values["id"] for topic, values in engine.events if topic == "/tasks/exit"] == ["e", one.id]


def test_output_of_a_process_that_leaves_a_child_behind(shim: Callable[..., Shim], fifos: Fifos) -> None:
    """Delete waits for what was written, and not for who still holds the pipe."""
    one = shim("sleep", "100")
    one.create()
    one.call("Start", id=one.id)
    one.exec("e", "sh", "-c", "sleep 100 & echo said", **fifos.named())
    one.call("Start", id=one.id, exec_id="e")
    assert one.wait(exec_id="e") == 0
    one.call("Delete", id=one.id, exec_id="e")
    assert fifos.read() == b"said\n"


@pytest.mark.parametrize("is_exec", [False, True])
def test_a_client_that_is_late_is_waited_for(shim: Callable[..., Shim], fifos: Fifos, is_exec: bool) -> None:
    """It opens its fifos beside, or one after the other: nothing runs before it has, whichever it opens first."""
    fifos.leave()
    words = ("sh", "-c", "echo said; echo warned >&2; cat")
    with ThreadPoolExecutor(1) as pool:
        if is_exec:
            one = shim("sleep", "100")
            one.create()
            one.call("Start", id=one.id)
            one.exec("e", *words, **fifos.named(stdin=True))
            answer: Future[Any] = pool.submit(one.call, "Start", id=one.id, exec_id="e")
        else:
            one = shim(*words)
            answer = pool.submit(one.create, **fifos.named(stdin=True))
        # these wait as ctr's do, until the shim has opened its end
        fifos.write(b"typed\n")
        with pytest.raises(TimeoutError):
            answer.result(0.3)
        fifos.readers[1] = os.open(fifos.stderr, os.O_RDONLY)
        with pytest.raises(TimeoutError):
            answer.result(0.3)
        fifos.readers[0] = os.open(fifos.stdout, os.O_RDONLY)
        answer.result(30)
    exec_id = "e" if is_exec else ""
    if not is_exec:
        one.call("Start", id=one.id)
    os.close(fifos.writer)
    fifos.writer = -1
    one.call("CloseIO", id=one.id, exec_id=exec_id, stdin=True)
    assert one.wait(exec_id=exec_id) == 0
    assert (fifos.read(), fifos.read(1)) == (b"said\ntyped\n", b"warned\n")


def test_a_client_that_comes_back_after_the_end(shim: Callable[..., Shim], fifos: Fifos) -> None:
    """What was written meanwhile is there for it, and so is the end."""
    one = shim("sleep", "100")
    one.create()
    one.call("Start", id=one.id)
    one.exec("e", "sh", "-c", "echo said; echo warned >&2", **fifos.named())
    one.call("Start", id=one.id, exec_id="e")
    fifos.leave()
    assert one.wait(exec_id="e") == 0
    deleted = one.begin("Delete", id=one.id, exec_id="e")
    fifos.come()
    assert fifos.read() == b"said\n"
    assert fifos.read(1) == b"warned\n"
    deleted.result(30)


def test_a_client_that_never_comes(shim: Callable[..., Shim], fifos: Fifos) -> None:
    """Neither Create nor Delete waits for it for ever, nor does the shim stay for it."""
    fifos.leave()
    one = shim("sh", "-c", "echo said")
    one.create(**fifos.named())
    one.call("Start", id=one.id)
    assert one.wait() == 0
    assert one.call("Delete", id=one.id)["exit_status"] == 0


# -- limits and numbers ------------------------------------------------------------------------------------------------


def test_update_and_stats(shim: Callable[..., Shim]) -> None:
    one = shim("sleep", "100")
    one.create()
    one.call("Start", id=one.id)
    resources = {"type_url": "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"}
    one.call("Update", id=one.id, resources={**resources, "value": b'{"pids": {"limit": 33}}'})
    found = one.call("Stats", id=one.id)["stats"]
    table = {"io.containerd.cgroups.v1.Metrics": stats.METRICS_V1, "io.containerd.cgroups.v2.Metrics": stats.METRICS_V2}
    values = decode(table[found["type_url"]], found["value"])
    assert values["pids"] == {"current": 1, "limit": 33}
    assert refused(2, one.call, "Update", id=one.id, resources={**resources, "value": b'{"pids": 1}'})


def test_out_of_memory_is_told_before_the_end(shim: Callable[..., Shim], engine: Engine, bundle: MakeBundle) -> None:
    made = bundle("sh", "-c", "x=a; while :; do x=$x$x; done")
    made.config["linux"]["resources"] = {"memory": {"limit": 20 << 20}}
    made.write()
    one = engine.start(made.path, f"c{os.getpid()}")
    one.create()
    one.call("Start", id=one.id)
    assert one.wait() == 128 + 9
    engine.wait_for("/tasks/exit", id=one.id)
    topics = engine.topics(container_id=one.id)
    assert topics.index("/tasks/oom") < topics.index("/tasks/exit")


# -- options, pods, restarts -------------------------------------------------------------------------------------------


def test_options_as_toml(shim: Callable[..., Shim], engine: Engine) -> None:
    one = shim("true")
    body = f'BinaryName = "{engine.place}/none"\nRoot = "{engine.place}/root"\n'
    options = encode(messages.RUNTIME_OPTIONS, {"config_body": body.encode()})
    request = {"id": one.id, "bundle": str(one.bundle)}
    text = refused(
        2, one.call, "Create", **request, options={"type_url": "runtimeoptions.v1.Options", "value": options}
    )
    assert "OCI runtime create failed" in text and f"{engine.place}/none" in text
    bad = encode(messages.RUNTIME_OPTIONS, {"config_body": b'BinaryNaem = "x"'})
    text = refused(3, one.call, "Create", **request, options={"type_url": "runtimeoptions.v1.Options", "value": bad})
    assert "BinaryNaem" in text
    assert "x.Options" in refused(3, one.call, "Create", **request, options={"type_url": "x.Options", "value": b""})


def test_another_runtime_by_its_name(shim: Callable[..., Shim], engine: Engine, scratch: Path) -> None:
    """A program of another name is exec'd, with the words that containerd's shim gives."""
    wrapper = scratch / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{scratch}/words\nexec "$(dirname "$0")/real" "$@"\n')
    wrapper.chmod(0o755)
    (scratch / "real").symlink_to(PROGRAM.with_name("pyrunc"))
    one = shim("true")
    one.create(options={"binary_name": str(wrapper), "no_pivot_root": True})
    one.call("Start", id=one.id)
    assert one.wait() == 0
    one.call("Delete", id=one.id)
    before = f"--root {engine.place}/root/test --log {one.bundle}/log.json --log-format json"
    assert (scratch / "words").read_text().splitlines() == [
        f"{before} create --bundle {one.bundle} --pid-file {one.bundle}/init.pid --no-pivot {one.id}",
        f"{before} start {one.id}",
        f"{before} delete {one.id}",
    ]
    assert (one.bundle / "runtime").read_text() == str(wrapper)


def test_a_pod_has_one_shim(engine: Engine, bundle: MakeBundle) -> None:
    pod = {"io.kubernetes.cri.sandbox-id": f"pod{os.getpid()}"}
    first = engine.start(bundle("sleep", "100", annotations=pod).path, f"pod{os.getpid()}")
    made = bundle("sleep", "100", annotations=pod)
    second = engine.start(made.path, f"c{os.getpid()}")
    assert (second.address, second.pid) == (first.address, first.pid)
    assert (made.path / "address").read_text() == first.address
    for one in (first, second):
        one.create()
        one.call("Start", id=one.id)
    first.call("Shutdown", id=first.id)  # there are containers: nothing happens
    assert state(first) == state(second) == "running"
    second.call("Kill", id=second.id, signal=9)
    assert second.wait() == 128 + 9
    assert state(first) == "running"


def test_containerd_restarts(shim: Callable[..., Shim], engine: Engine) -> None:
    """Its connections end and nobody hears events; later everything is told, in order."""
    one = shim("sleep", "100")
    pid = one.create()
    one.call("Start", id=one.id)
    engine.wait_for("/tasks/start")
    one.exec("e", "sleep", "100")
    one.call("Start", id=one.id, exec_id="e")
    engine.wait_for("/tasks/exec-started")
    engine.vanish()
    waiting = one.begin("Wait", id=one.id)
    one.client.close()
    with pytest.raises(ConnectionError):
        waiting.result(30)
    other = Client(one.path, "containerd.task.v3.Task")
    other.call("Kill", id=one.id, signal=15, exec_id="e")
    other.call("Wait", id=one.id, exec_id="e")
    other.call("Kill", id=one.id, signal=9)
    assert other.call("Wait", id=one.id)["exit_status"] == 128 + 9
    engine.listen()
    assert engine.wait_for("/tasks/exit", id="e")
    assert engine.wait_for("/tasks/exit", id=one.id)["pid"] == pid
    assert engine.topics(container_id=one.id)[-2:] == ["/tasks/exit", "/tasks/exit"]
    other.call("Delete", id=one.id)
    engine.wait_for("/tasks/delete")
    other.call("Shutdown", id=one.id)
    one.wait_until_gone()
    other.close()


def test_a_shim_that_is_given_up_ends(shim: Callable[..., Shim], until: Callable[..., None]) -> None:
    one = shim()
    one.create()
    one.client.close()
    time.sleep(0.5)  # it looks meanwhile, and its bundle is there: a containerd that was restarted would find it
    assert one.is_alive()
    (one.bundle / "config.json").unlink()
    until(lambda: not one.is_alive())
    assert "the bundle is gone, and nobody is connected" in one.messages()
    assert one.engine.run("delete", one.bundle, one.id)


def test_a_create_whose_caller_is_gone_is_undone(shim: Callable[..., Shim], engine: Engine, scratch: Path) -> None:
    """containerd was killed, and its client told that there is no container: the next containerd could not remove it either."""
    begun, go = scratch / "begun", scratch / "go"
    script = f"touch {begun}; until [ -e {go} ]; do sleep 0.01; done"
    one = shim("sleep", "100", hooks={"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]})
    with ThreadPoolExecutor() as pool:
        creating = pool.submit(one.create)
        while not begun.exists():
            assert not creating.done(), creating.result()
            time.sleep(0.01)
        one.client.close()
        go.touch()
        with pytest.raises(ConnectionError):
            creating.result(30)
    engine.wait_for("/tasks/delete", container_id=one.id)
    assert engine.topics(container_id=one.id) == ["/tasks/create", "/tasks/exit", "/tasks/delete"]
    other = Client(one.path)
    with pytest.raises(Refused, match="was not created here"):
        other.call("State", id=one.id)
    assert not list((engine.place / "root/test").glob("[!:]*"))
    other.call("Shutdown", id=one.id)
    one.wait_until_gone()
    other.close()


def test_mounts_of_the_rootfs(shim: Callable[..., Shim], engine: Engine, bundle: MakeBundle, scratch: Path) -> None:
    made = bundle("sh", "-c", "echo new >/file; cat /file")
    layer = scratch / "layer"
    made.rootfs.rename(layer)
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    one = engine.start(made.path, f"c{os.getpid()}")
    options = [f"lowerdir={layer}", f"upperdir={scratch}/upper", f"workdir={scratch}/work"]
    one.create(rootfs=[{"type": "overlay", "source": "overlay", "options": options}])
    one.call("Start", id=one.id)
    assert one.wait() == 0
    assert os.path.ismount(made.rootfs)
    one.call("Delete", id=one.id)
    assert not os.path.ismount(made.rootfs)
    assert (scratch / "upper/file").read_text() == "new\n"
    text = refused(2, one.create, rootfs=[{"type": "overlay", "source": "overlay", "options": ["lowerdir=/none"]}])
    assert text.startswith("mount overlay on ") and text.endswith("no such file or directory")
    assert not os.path.ismount(made.rootfs)


def test_killed_shim_is_cleaned_up_after(shim: Callable[..., Shim], engine: Engine) -> None:
    one = shim("sleep", "100")
    pid = one.create()
    one.call("Start", id=one.id)
    os.kill(one.pid, signal.SIGKILL)
    one.wait_until_gone()
    answer = decode(messages.DELETED, engine.run("delete", one.bundle, one.id))
    assert (answer["pid"], answer["exit_status"]) == (pid, 128 + 9)
    assert not list((engine.place / "root/test").glob("[!:]*"))
    assert not Path(one.path).exists()
    # and again, as containerd does after every task: nothing is there, and that is fine
    decode(messages.DELETED, engine.run("delete", one.bundle, one.id))


def test_signals_to_the_shim(shim: Callable[..., Shim]) -> None:
    one = shim("true")
    os.kill(one.pid, signal.SIGUSR1)
    os.kill(one.pid, signal.SIGTERM)
    one.wait_until_gone()
    assert "containers: none" in one.messages()
