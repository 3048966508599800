"""pyrunc-conmon as its callers drive it, against the real runtime: create, start, exec, the end, and what is found afterwards.

Every test that takes `session` runs with Debian's conmon too, where that is installed; `ours` is for what we do better or in more
detail.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conmon_caller import CONMON, LIMIT_S, Session, read_answer, text, until

Make = Callable[..., Session]

SLEEP = ("/bin/sleep", "1000")


def mode(path: Path) -> str:
    return stat.filemode(path.lstat().st_mode)


def is_collected(pid: int) -> bool:
    """Whether there is no such process; the peer may leave it to us, its subreaper."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or one that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- create, start, end ----------------------------------------------------------------------------------------------------


def test_from_create_to_exit_file(session: Make) -> None:
    box = session("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    pid = box.create()
    assert int(box.pid_file.read_text()) == pid
    assert box.daemon() != pid and Path(f"/proc/{pid}/stat").read_text().split()[3] == str(box.daemon())
    box.start()
    assert box.status() == 3
    assert text(box.persist / "exit") == text(box.exits / box.id) == "3"
    assert box.daemon_ended() == 3
    assert sorted(box.lines()) == [("stderr", "F", "err"), ("stdout", "F", "out")]
    assert box.answer() is None


def test_nothing_happens_before_the_caller_says_so(session: Make) -> None:
    """It moves us into a cgroup first, and all our children shall be in there."""
    box = session("/bin/true")
    box.begin(box.argv())
    assert box.program is not None
    with pytest.raises(subprocess.TimeoutExpired):
        box.program.wait(0.3)
    assert not box.daemon_file.exists() and not box.pid_file.exists()
    box.go()
    assert box.parent_ended() == 0 and box.answer() == {"data": int(box.pid_file.read_text())}


def test_the_end_of_the_start_pipe_is_a_start_too(session: Make) -> None:
    box = session("/bin/true")
    box.begin(box.argv())
    assert box.start_pipe is not None
    box.start_pipe.close()
    assert box.parent_ended() == 0 and box.answer() == {"data": int(box.pid_file.read_text())}


def test_what_lies_in_the_bundle_meanwhile(session: Make) -> None:
    box = session(*SLEEP)
    box.create()
    assert {name: mode(box.directory / name) for name in ("attach", "ctl", "winsz")} == {
        "attach": "srwx------",
        "ctl": "prw-r-----",
        "winsz": "prw-r-----",
    }
    box.start()
    box.pyrunc("kill", box.id, "9")
    assert box.status() == 137 and box.daemon_ended() == 137
    assert not (box.directory / "attach").exists()


def test_the_old_dialect(session: Make) -> None:
    box = session("/bin/sh", "-c", "exit 5")
    box.begin(box.argv(api=False))
    box.go()
    assert box.parent_ended() == 0
    assert box.answer() == {"pid": int(box.pid_file.read_text())}
    box.start()
    assert box.status() == 5


def test_in_the_foreground(session: Make) -> None:
    """--sync: no daemon, and our exit status is the container's."""
    box = session("/bin/sh", "-c", "exit 6")
    box.begin(box.argv("--sync"))
    box.go()
    assert (box.answer() or {})["data"] > 0
    box.start()
    assert box.parent_ended() == 6 and box.status() == 6


@pytest.mark.parametrize("api", [True, False])
def test_a_container_that_cannot_be_created(session: Make, api: bool) -> None:
    box = session("/nosuch")
    note = box.place / "note"
    box.begin(box.argv("--exit-command", "/bin/touch", "--exit-command-arg", note, api=api))
    box.go()
    assert box.parent_ended() == 0
    answer = box.answer() or {}
    assert answer.pop("message") == f'create {box.id}: exec: "/nosuch": stat /nosuch: no such file or directory\n'
    assert answer == ({"data": -1} if api else {"pid": -1})
    assert box.daemon_ended() == 1
    assert note.exists() and not (box.exits / box.id).exists() and not box.lines()
    assert box.answer() is None and not box.pyrunc.exists(box.id)


def test_a_bundle_that_is_not_there(ours: Make) -> None:
    box = ours("/bin/true")
    note = box.place / "note"
    box.directory = box.place / "nosuch"
    box.begin(box.argv("--exit-command", "/bin/touch", "--exit-command-arg", note))
    box.go()
    assert box.answer() == {"data": -1, "message": f"{box.directory}: no such file or directory\n"}
    assert box.daemon_ended() == 1 and note.exists()


def test_a_long_error_arrives_whole(ours: Make) -> None:
    """Podman reads its socket of packets through a buffer of 4096 bytes."""
    box = ours("/" + "x" * 3000 + '"\\\n' * 300)
    box.begin(box.argv())
    box.go()
    message = (box.answer() or {})["message"]
    assert message.count("x" * 3000) >= 1 and message.endswith("\n") and len(message) > 4096
    assert box.daemon_ended() == 1


def test_a_runtime_that_dies_without_a_word(ours: Make) -> None:
    box = ours("/bin/true")
    runtime = box.place / "runtime"
    runtime.write_text("#!/bin/sh\nkill -9 $$\n")
    runtime.chmod(0o755)
    box.runtime = runtime
    box.begin(box.argv())
    box.go()
    assert box.answer() == {"data": -1, "message": "runtime ended with status 137 and no message\n"}
    assert box.daemon_ended() == 1


def test_a_runtime_that_leaves_no_process(ours: Make) -> None:
    """What is in the file is somebody else's, whose end nobody would tell: the monitor would stay for ever."""
    box = ours("/bin/true")
    box.runtime = Path("/bin/true")
    box.pid_file.write_text(f"{os.getpid()}\n")
    box.begin(box.argv())
    box.go()
    why = f"{os.getpid()} is no process that the runtime has left"
    assert box.answer() == {"data": -1, "message": f"read pid file {box.pid_file}: {why}\n"}
    assert box.daemon_ended() == 1


def test_a_runtime_that_talks_without_end_holds_nobody_up(ours: Make) -> None:
    """More than a pipe holds, on the container's standard error: all of it is logged."""
    box = ours("/bin/sh", "-c", "echo container >&2")
    runtime = box.place / "runtime"
    runtime.write_text(f'#!/bin/sh\nhead -c 300000 /dev/zero | tr "\\0" y >&2\nexec {box.runtime} "$@"\n')
    runtime.chmod(0o755)
    box.runtime = runtime
    assert box.run() == 0
    said = "".join(line for stream, _, line in box.lines() if stream == "stderr")
    assert said == "y" * 300000 + "container"


def test_another_runtime_gets_the_same_words(session: Make) -> None:
    """By exec, and by the fork that our own is entered with: argument vector, environment, descriptors."""
    box = session("/bin/sh", "-c", "echo hi")
    record = box.place / "record"
    runtime = box.place / "runtime"
    runtime.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {record}\nls -l /proc/$$/fd >> {record}.fds\nexec {box.runtime} "$@"\n'
    )
    runtime.chmod(0o755)
    box.runtime = runtime
    box.create("--no-new-keyring")
    box.start()
    assert box.status() == 0 and box.lines() == [("stdout", "F", "hi")]
    assert record.read_text().split("\n") == [
        "--root", str(box.pyrunc.root), "create", "--bundle", str(box.directory), "--pid-file", str(box.pid_file),
        "--no-new-keyring", box.id, "",
    ]  # fmt: skip
    if box.conmon == CONMON:
        # the peer passes on what is not close-on-exec: an attach pipe that was not asked for, and reserved ports
        assert "socket:" not in Path(f"{record}.fds").read_text()


# -- exec ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(session: Make) -> Session:
    box = session(*SLEEP)
    box.create()
    box.start()
    return box


def test_exec_and_its_status(running: Session) -> None:
    one = running.exec("/bin/sh", "-c", "echo out; exit 7")
    one.begin(one.exec_argv())
    one.go()
    assert one.parent_ended() == 0
    assert one.answer() == {"data": int(one.pid_file.read_text())}
    assert one.answer() == {"data": 7} and one.answer() is None
    assert one.status() == 7 and one.daemon_ended() == 7


def test_exec_in_the_old_dialect_says_one_thing(running: Session) -> None:
    """CRI-O's ExecSync: no uuid, no bundle, its own log."""
    one = running.exec("/bin/sh", "-c", "echo out; echo err >&2; exit 8")
    argv = one.exec_argv("--sync", api=False, log=str(one.log))
    for option in ("-u", "-b"):
        at = argv.index(option)
        del argv[at : at + 2]
    one.begin(argv)
    one.go()
    assert one.answer() == {"exit_code": 8} and one.answer() is None
    assert one.parent_ended() == 8
    assert sorted(one.lines()) == [("stderr", "F", "err"), ("stdout", "F", "out")]


def test_exec_waits_until_its_caller_has_attached(running: Session) -> None:
    one = running.exec("/bin/sh", "-c", "echo out; echo err >&2; exit 9")
    one.begin(one.exec_argv("--exec-attach"))
    one.go()
    assert one.attach_pipe is not None and read_answer(one.attach_pipe) == {"data": 0}
    client = one.attach()
    assert not one.pid_file.exists()
    one.go()
    assert (one.answer() or {})["data"] > 0
    assert client.read() == (b"out\n", b"err\n")
    assert one.answer() == {"data": 9}
    client.close()


def test_exec_that_is_ended_before_its_caller_attaches(running: Session) -> None:
    one = running.exec("/bin/true")
    one.begin(one.exec_argv("--exec-attach"))
    one.go()
    assert one.attach_pipe is not None and read_answer(one.attach_pipe) == {"data": 0}
    assert one.parent_ended() == 0
    os.kill(one.daemon(), signal.SIGTERM)
    assert one.daemon_ended() in (1, 143) and not one.pid_file.exists()


def test_exec_that_fails(running: Session) -> None:
    one = running.exec("/nosuch")
    one.begin(one.exec_argv())
    one.go()
    answer = one.answer() or {}
    assert answer["data"] == -1 and 'exec: "/nosuch": stat /nosuch: no such file or directory' in answer["message"]
    assert one.answer() is None and one.daemon_ended() == 1


def test_exec_ends_with_its_process_and_not_with_what_it_left_behind(running: Session) -> None:
    one = running.exec("/bin/sh", "-c", "echo first; (sleep 1000; echo never) & exit 0")
    one.begin(one.exec_argv(log=str(one.log)))
    one.go()
    assert (one.answer() or {})["data"] > 0 and one.answer() == {"data": 0}
    assert one.lines() == [("stdout", "F", "first")]


# -- time, signals, callers that are gone ------------------------------------------------------------------------------------


def test_a_container_beyond_its_time_is_killed(session: Make) -> None:
    box = session(*SLEEP)
    pid = box.create("--timeout=1")
    box.start()
    assert box.status() == -1
    assert box.daemon_ended() == 255
    until(lambda: has_ended(pid), "the end of the container")


def test_an_exec_beyond_its_time_says_so(running: Session) -> None:
    one = running.exec("/bin/sh", "-c", "echo before; sleep 1000; true")
    one.begin(one.exec_argv("-T", "1", api=False, log=str(one.log)))
    one.go()
    assert one.answer() == {"exit_code": -1, "message": "command timed out"}
    assert one.lines() == [("stdout", "F", "before")]
    until(lambda: is_collected(int(one.pid_file.read_text())), "the end of the process")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_are_the_containers(session: Make, number: int) -> None:
    box = session("/bin/sh", "-c", "trap 'echo caught; exit 4' TERM INT QUIT; echo ready; while :; do sleep 0.01; done")
    box.create()
    box.start()
    until(lambda: "ready" in box.log.read_text(), "the container")
    os.kill(box.daemon(), number)
    assert box.status() == 4 and box.lines()[-1] == ("stdout", "F", "caught")


def test_a_caller_that_is_gone_changes_nothing(ours: Make) -> None:
    """The peer ends itself over it, and with it the container."""
    box = ours("/bin/sh", "-c", "echo hi; exit 2")
    box.begin(box.argv())
    box.go()
    assert box.sync is not None and box.attach_pipe is not None
    box.sync.close()
    box.attach_pipe.close()
    assert box.parent_ended() == 0
    until(lambda: text(box.pid_file), "the pid file")
    box.start()
    assert box.status() == 2 and box.daemon_ended() == 2
    assert box.lines() == [("stdout", "F", "hi")]


# -- the exit command --------------------------------------------------------------------------------------------------------


def test_the_exit_command_comes_after_the_exit_file(session: Make) -> None:
    box = session("/bin/sh", "-c", "echo out; exit 3")
    script = f'cat "$1" {box.log} > {box.place}/seen; ls -l /proc/self/fd > {box.place}/fds'
    more = ["--exit-command", "/bin/sh"]
    for word in ("-c", script, "name", str(box.exits / box.id)):
        more += ["--exit-command-arg", word]
    assert box.run(*more, env={"SOME": "thing"}) == 3
    assert box.daemon_ended() == 3
    status, _, line = (box.place / "seen").read_text().partition("2")
    assert status == "3" and line.endswith(" stdout F out\n")
    assert (box.place / "fds").read_text().count("/dev/null") >= 2


@pytest.mark.parametrize("command", [["/bin/sh", "-c", "exit 12"], ["/nosuch"]])
def test_our_status_is_the_containers_whatever_the_exit_command_does(session: Make, command: list[str]) -> None:
    box = session("/bin/sh", "-c", "exit 3")
    assert box.run("--exit-command", command[0], *(f"--exit-command-arg={word}" for word in command[1:])) == 3
    assert box.daemon_ended() == 3


def test_the_exit_command_waits(session: Make) -> None:
    box = session("/bin/true")
    note = box.place / "note"
    assert box.run("--exit-delay", "1", "--exit-command", "/bin/touch", "--exit-command-arg", note) == 0
    assert box.daemon_ended() == 0
    assert note.stat().st_mtime - (box.exits / box.id).stat().st_mtime >= 0.9


# -- descriptors and environment -----------------------------------------------------------------------------------------------


def test_preserved_descriptors_arrive(session: Make, tmp_path: Path) -> None:
    box = session("/bin/sh", "-c", "cat <&3; cat <&4")
    files = []
    for name in ("one", "two"):
        (tmp_path / name).write_text(name + "\n")
        files.append(os.open(tmp_path / name, os.O_RDONLY))
    status = box.run("--runtime-opt", "--preserve-fds", "--runtime-opt", "2", pass_fds=tuple(files))
    for fd in files:
        os.close(fd)
    assert status == 0 and box.lines() == [("stdout", "F", "one"), ("stdout", "F", "two")]


def test_a_preserved_pipe_ends_with_the_container(ours: Make) -> None:
    """We do not hold what was passed on: its reader would wait for our end, which may be an exit command's."""
    box = ours("/bin/sh", "-c", "echo through >&3; exec 3>&-; sleep 1000")
    read_fd, write_fd = os.pipe()
    box.create("--runtime-opt", "--preserve-fds", "--runtime-opt", "1", pass_fds=(write_fd,))
    os.close(write_fd)
    box.start()
    with os.fdopen(read_fd, "rb") as pipe:
        assert pipe.read() == b"through\n"


def test_reserved_ports_stay_reserved_until_the_end(session: Make) -> None:
    """Podman gives us listening sockets to hold; whoever sees the exit file may have the port again."""
    box = session("/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done")
    port = socket.create_server(("127.0.0.1", 0))
    number = port.getsockname()[1]
    box.create(pass_fds=(port.fileno(),))
    port.close()
    box.start()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", number), reuse_port=False)
    os.kill(box.daemon(), signal.SIGTERM)
    assert box.status() == 0
    socket.create_server(("127.0.0.1", number)).close()


def test_activation_sockets_are_the_runtimes(session: Make) -> None:
    """LISTEN_PID is to be the pid of who gets the descriptors, which nobody knows before."""
    box = session("/bin/sh", "-c", "env; readlink /proc/self/fd/3")
    read_fd, write_fd = os.pipe()
    more = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    status = box.run("--replace-listen-pid", env=more, pass_fds=(read_fd,))
    os.close(read_fd)
    os.close(write_fd)
    lines = [line for _, _, line in box.lines()]
    assert status == 0 and "LISTEN_FDS=1" in lines and "LISTEN_PID=1" in lines and lines[-1].startswith("pipe:")


def test_our_own_protection_is_not_the_containers(session: Make) -> None:
    box = session("/bin/cat", "/proc/self/oom_score_adj")
    assert box.run() == 0 and box.lines() == [("stdout", "F", "0")]


def test_passthrough(session: Make) -> None:
    """The container has our caller's own streams, and there is nothing to attach to."""
    box = session("/bin/sh", "-c", "cat; echo err >&2; exit 3")
    read_fd, write_fd = os.pipe()
    box.begin(box.argv("-i", log="passthrough"), stdin=read_fd)
    os.close(read_fd)
    box.go()
    assert (box.answer() or {})["data"] > 0
    os.write(write_fd, b"through\n")
    os.close(write_fd)
    box.start()
    assert box.status() == 3
    assert not (box.directory / "attach").exists()
    assert box.program is not None and box.program.stdout is not None and box.program.stderr is not None
    assert box.program.stdout.read() == b"through\n" and box.program.stderr.read() == b"err\n"


# -- the service manager, the memory -------------------------------------------------------------------------------------------


def test_what_the_container_tells_its_service_manager(ours: Make) -> None:
    box = ours(*SLEEP)
    (box.directory / "notify").mkdir()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(box.place / "manager"))
    manager.settimeout(LIMIT_S)
    box.create("--sdnotify-socket", box.place / "manager")
    box.start()
    inside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = box.directory / "notify" / "notify.sock"
    assert mode(path) == "srwxrwxrwx"
    for message in (
        "MAINPID=1",
        "FDSTORE=1",
        "READY=1\nMAINPID=1\nSTATUS=up\n",
        "WATCHDOG=1",
        "READY=10",
        "STOPPING=1",
    ):
        inside.sendto(message.encode(), str(path))
    assert [manager.recv(100) for _ in range(3)] == [b"READY=1\nSTATUS=up", b"WATCHDOG=1", b"STOPPING=1"]
    for sock in (manager, inside):
        sock.close()
    # nobody listens any more: the container goes on
    box.pyrunc("kill", box.id, "9")
    assert box.status() == 137


def test_a_container_without_memory_left(session: Make) -> None:
    box = session("/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; exit 0")
    box.bundle.config["linux"]["resources"] = {"memory": {"limit": 8 << 20, "swap": 8 << 20}}
    box.bundle.write()
    box.run(cwd=box.directory)
    assert box.daemon_ended() in (0, 137)
    assert text(box.persist / "oom") == "" and text(box.directory / "oom") == ""


# -- many, and odd --------------------------------------------------------------------------------------------------------------


def test_no_exit_status_is_lost(ours: Make) -> None:
    boxes = [ours("/bin/sh", "-c", f"echo {number}; exit {number}", name=f"c{number}") for number in range(1, 21)]
    for box in boxes:
        box.begin(box.argv())
        box.go()
    for box in boxes:
        assert (box.answer() or {})["data"] > 0
        box.start()
    assert [box.status() for box in boxes] == list(range(1, 21))
    assert [box.daemon_ended() for box in boxes] == list(range(1, 21))
    assert [box.lines() for box in boxes] == [[("stdout", "F", str(number))] for number in range(1, 21)]


def test_a_bundle_far_down(session: Make) -> None:
    """The attach socket's path fits no address, unix(7)."""
    box = session("/bin/sh", "-c", "read line; echo $line")
    deep = box.place / ("d" * 120)
    os.rename(box.directory, deep)
    box.directory = deep
    box.create("-i")
    client = box.attach()
    client.sock.send(b"hello\n")
    box.start()
    assert client.read() == (b"hello\n", b"")
    assert box.status() == 0
    client.close()


def test_a_short_way_to_the_attach_socket(session: Make) -> None:
    """CRI-O's: DIRECTORY/UUID is a link to the bundle."""
    box = session("/bin/sh", "-c", "read line; echo $line")
    links = box.place / "links"
    links.mkdir()
    argv = [word for word in box.argv("-i", "--socket-dir-path", links) if word != "--full-attach"]
    box.begin(argv)
    box.go()
    assert (box.answer() or {})["data"] > 0
    assert os.readlink(links / box.id) == str(box.directory)
    client = box.attach()
    client.sock.send(b"hello\n")
    box.start()
    assert client.read()[0] == b"hello\n" and box.status() == 0
    client.close()


def test_only_a_link_makes_room_for_the_short_way(ours: Make) -> None:
    """What else has the name is not ours to remove: `--socket-dir-path /dev --cuuid null`, as root."""
    box = ours("/bin/true")
    links = box.place / "links"
    links.mkdir()
    (links / box.id).write_text("somebody's")
    argv = [word for word in box.argv("-i", "--socket-dir-path", links) if word != "--full-attach"]
    box.begin(argv)
    box.go()
    assert box.answer() == {"data": -1, "message": f"{links / box.id}: file exists\n"}
    assert (links / box.id).read_text() == "somebody's"


def test_logs_are_reopened_on_request(session: Make) -> None:
    box = session("/bin/sh", "-c", "echo one; read line; echo two", name="c")
    box.create("-i")
    box.start()
    until(lambda: box.lines() == [("stdout", "F", "one")], "the first line")
    moved = box.place / "moved"
    box.log.rename(moved)
    with (box.directory / "ctl").open("w") as ctl:
        ctl.write("2 0 0\n")
    until(box.log.exists, "a new log")
    client = box.attach()
    client.sock.send(b"go\n")
    assert box.status() == 0
    assert box.lines(moved) == [("stdout", "F", "one")] and box.lines() == [("stdout", "F", "two")]
    client.close()


def test_a_full_log_disk_harms_nobody(ours: Make) -> None:
    """What does not fit is lost, attached clients and the exit status are not."""
    box = ours("/bin/sh", "-c", 'i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done; exit 3')
    small = box.place / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=True)
    try:
        box.create(log=str(small / "log"))
        client = box.attach()
        box.start()
        out, _ = client.read()
        assert out == b"".join(b"line %d\n" % number for number in range(3000))
        assert box.status() == 3 and box.daemon_ended() == 3
        kept = [int(line.removeprefix("line ")) for _, _, line in box.lines(small / "log")]
        assert kept[:100] == list(range(100)) and kept == sorted(set(kept))
        client.close()
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_left_over_variable_is_no_pipe(ours: Make) -> None:
    """_OCI_SYNCPIPE of a conmon above us: the number may be a file of our own."""
    said = subprocess.run(
        ours("/bin/true").argv("--sync"),
        env={"_OCI_SYNCPIPE": "3", "PATH": "/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 1 and said.stderr == "[conmon:e]: _OCI_SYNCPIPE=3: no pipe\n"


def test_state_of_processes_is_small(ours: Make) -> None:
    """An idle one: no thread, few descriptors, nothing of the caller's."""
    box = ours(*SLEEP)
    box.create()
    box.start()
    daemon = Path(f"/proc/{box.daemon()}")
    until(lambda: len(os.listdir(daemon / "fd")) < 25, "few descriptors")
    assert len(os.listdir(daemon / "task")) == 1
    assert not [fd for fd in (daemon / "fd").iterdir() if os.readlink(fd).startswith("pipe:") and fd.name in "012"]


def test_messages_go_to_syslog(ours: Make, scratch: Path) -> None:
    """--syslog, in a mount namespace with a /dev/log of the test's own."""
    box = ours("/nosuch")
    place = scratch / "dev"
    place.mkdir()
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(str(place / "socket"))
    log.settimeout(LIMIT_S)
    os.chmod(place / "socket", 0o777)
    made = not os.path.lexists("/dev/log")
    if made:
        Path("/dev/log").touch()
    try:
        script = f'mount --bind {place}/socket /dev/log && exec "$@"'
        argv = ["unshare", "-m", "/bin/sh", "-c", script, "sh", *box.argv("--sync", "--syslog")]
        subprocess.run(argv, env={"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=60)
    finally:
        if made:
            os.unlink("/dev/log")
    line = log.recv(4096).decode()
    log.close()
    assert line.startswith("<11>conmon[") and box.id[:20] in line and 'exec: "/nosuch"' in line


def test_a_json_log_of_the_runtime_is_untouched(session: Make) -> None:
    """Podman's error comes from there; it must hold exactly one object."""
    box = session("/nosuch")
    record = box.place / "oci-log"
    box.begin(box.argv("--runtime-arg", "--log-format=json", "--runtime-arg", "--log", f"--runtime-arg={record}"))
    box.go()
    assert (box.answer() or {})["data"] == -1
    assert json.loads(record.read_text())["level"] == "error"
    assert time.time() - record.stat().st_mtime < LIMIT_S
