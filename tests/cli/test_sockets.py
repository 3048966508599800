"""Peers at the other end of a socket: a service manager that waits for readiness, and whoever wants a pidfd.

Console sockets are in test_terminal.py, a manager that answers as it should in test_fds.py. A peer of the caller's may be
slow, dead, or something else: then a command says so, within bounded time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

older = pytest.mark.differs("1.1 sends no barrier, and waits for ever for a container that has ended")
READY = ["/bin/sh", "-c", "/bin/probe notify READY=1; exec sleep 1000"]


class Manager:
    """A service manager: listens, and lets go of barriers as it reads them."""

    def __init__(self, path):
        self.path = str(path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if self.path.startswith("@"):
            self.sock.bind("\0" + self.path[1:])
        else:
            directory = os.open(os.path.dirname(self.path), os.O_PATH)
            self.sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(self.path)}")
            os.close(directory)
            os.chmod(self.path, 0o777)
        self.sock.settimeout(20)

    def receive(self):
        """Every message up to the barrier, which is let go."""
        out = []
        while True:
            data, fds, _, _ = socket.recv_fds(self.sock, 4096, 4)
            for fd in fds:
                os.close(fd)
            if data == b"BARRIER=1":
                assert len(fds) == 1
                return out
            assert not fds
            out.append(data.decode())


@pytest.fixture
def manager(scratch):
    made = []

    def manager(path=None):
        made.append(Manager(path or scratch / f"manager{len(made)}"))
        return made[-1]

    yield manager
    for one in made:
        one.sock.close()


def quiet(pyrunc, **env):
    return {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "env": {**pyrunc.env, **env}}


# -- readiness -----------------------------------------------------------------------------------------------------------


@older
def test_nothing_but_readiness_is_passed_on(pyrunc, make, manager):
    """The container may not say who is the main process of the service, nor anything else in its name."""
    script = "/bin/probe notify STATUS=x; /bin/probe notify MAINPID=1; /bin/probe notify 'STOPPING=1\nREADY=1\nX=2'; exec sleep 1000"
    made, id_, service = make(None, "/bin/sh", "-c", script), pyrunc.id(), manager()
    command = pyrunc.popen("run", "-d", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    assert service.receive() == ["READY=1\n", f"MAINPID={pyrunc.pid(id_)}\n"]
    assert command.wait(20) == 0


@older
@pytest.mark.parametrize("kind", ["abstract", "long"])
def test_address_of_the_manager(pyrunc, make, manager, scratch, kind):
    (scratch / ("long" * 30)).mkdir()
    path = {"abstract": f"@{pyrunc.id('manager')}", "long": scratch / ("long" * 30) / "manager"}[kind]
    service = manager(path)
    made, id_ = make(None, *READY), pyrunc.id()
    command = pyrunc.popen("run", "-d", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    assert service.receive()[0] == "READY=1\n"
    assert command.wait(20) == 0


@older
def test_state_directory_with_a_long_path(pyrunc, make, manager, scratch):
    pyrunc.root = scratch / ("long" * 30) / "state"
    made, id_, service = make(None, *READY), pyrunc.id(), manager()
    pyrunc("create", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    command = pyrunc.popen("start", id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    assert service.receive()[0] == "READY=1\n"
    assert command.wait(20) == 0


@older
@pytest.mark.parametrize(
    "who", ["user", pytest.param("user namespace", marks=pytest.mark.requires("root")), "read-only root"]
)
def test_whoever_the_containers_user_is(pyrunc, make, manager, who):
    def edit(config):
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        config["root"]["readonly"] = who == "read-only root"
        if who == "user namespace":
            config["linux"]["namespaces"].append({"type": "user"})
            maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
            config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = maps

    made, id_, service = make(edit, *READY), pyrunc.id(), manager()
    if who == "user namespace":
        subprocess.run(["chown", "-R", "-h", "100000:100000", str(made.rootfs)], check=True)
    command = pyrunc.popen("run", "-d", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    assert service.receive()[0] == "READY=1\n"
    assert command.wait(20) == 0


@older
def test_without_root(rootless, own, manager):
    made, id_, service = own(None, *READY), rootless.id(), manager()
    command = rootless.popen("run", "-d", "-b", made, id_, **quiet(rootless, NOTIFY_SOCKET=service.path))
    assert service.receive() == ["READY=1\n", f"MAINPID={rootless.pid(id_)}\n"]
    assert command.wait(20) == 0


@older
def test_container_that_ends_without_a_word(pyrunc, make, manager):
    made, service = make(None, "/bin/true"), manager()
    for words in (["run", "-d"], ["run"]):
        pyrunc(*words, "-b", made, pyrunc.id(words[-1].strip("-")), **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    id_ = pyrunc.id("created")
    pyrunc("create", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    pyrunc("start", id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    assert not select.select([service.sock], [], [], 0)[0]


@older
def test_container_has_the_socket_and_no_more(pyrunc, make, manager, scratch):
    actions = "stat /run/notify/notify.sock -- mkfile /run/notify/x -- rm /run/notify/notify.sock -- stat /run/notify"
    made, service = make(None, "/bin/probe", "each", *actions.split()), manager()
    found = pyrunc("run", "-b", made, pyrunc.id(), env={**pyrunc.env, "NOTIFY_SOCKET": service.path}).json()
    assert found[0]["type"] == "socket"
    assert [answer["errno"] for answer in found[1:3]] == ["EROFS", "EROFS"]


@older
def test_manager_of_create_is_not_needed_later(pyrunc, make, manager):
    """A start without the variable does not wait."""
    made, id_, service = make(None, *READY), pyrunc.id(), manager()
    pyrunc("create", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    pyrunc("start", id_, **quiet(pyrunc))
    assert pyrunc.state(id_)["status"] == "running"


@older
def test_manager_that_is_not_there(pyrunc, make, scratch):
    """The container runs, and somebody wants to know: a warning."""
    made, id_ = make(None, *READY), pyrunc.id()
    pyrunc("--log", scratch / "log", "run", "-d", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=f"{scratch}/nobody"))
    assert pyrunc.state(id_)["status"] == "running"
    text = (scratch / "log").read_text()
    assert f"{scratch}/nobody" in text and "no such file or directory, ignoring" in text


@older
def test_manager_that_does_not_read(pyrunc, make, manager, until, catches):
    """Signals still arrive."""
    service = manager()
    service.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x" * 500, service.path)
    made, id_ = make(None, "/bin/sh", "-c", "/bin/probe notify READY=1; exec /bin/probe trap 15"), pyrunc.id()
    began = time.monotonic()
    command = pyrunc.popen("run", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    until(
        lambda: pyrunc.exists(id_) and is_trapping(pyrunc.pid(id_)) and catches(pyrunc.pid(id_), 15),
        "the program to run",
    )
    command.send_signal(signal.SIGTERM)
    assert command.wait(20) == 40 + 15
    assert time.monotonic() - began < 10


def is_trapping(pid):
    """It is that program: not yet the shell that is told to become it, which as process 1 would take no notice of a signal."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().startswith("/bin/probe\0trap")
    except OSError:
        return False


@older
def test_manager_that_does_not_let_go_of_the_barrier(pyrunc, make, manager, until, catches):
    """In the foreground there is nothing to be waited for; detached, the command stays until the manager has taken note."""
    service = manager()
    made, id_ = make(None, "/bin/sh", "-c", "/bin/probe notify READY=1; exec /bin/probe trap 15"), pyrunc.id()
    command = pyrunc.popen("run", "-b", made, id_, **quiet(pyrunc, NOTIFY_SOCKET=service.path))
    fds = []
    while not fds:
        _, fds, _, _ = socket.recv_fds(service.sock, 4096, 1)
    until(lambda: is_trapping(pyrunc.pid(id_)) and catches(pyrunc.pid(id_), 15), "the program to run")
    command.send_signal(signal.SIGTERM)
    assert command.wait(20) == 40 + 15
    os.close(fds[0])


# -- pidfds --------------------------------------------------------------------------------------------------------------


def pid_of(pidfd):
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return int(next(line.split()[1] for line in file if line.startswith("Pid:")))


@pytest.mark.differs("1.1 has no such option")
@pytest.mark.parametrize("detached", [True, False], ids=["detached", "attached"])
def test_pidfd_of_run(pyrunc, make, receiver, until, catches, detached):
    made, id_, server = make(None, "/bin/probe", "trap", "15"), pyrunc.id(), receiver()
    words = ["-d"] if detached else []
    command = pyrunc.popen("run", *words, "--pidfd-socket", server.path, "-b", made, id_, **quiet(pyrunc))
    pidfd = server.receive()
    until(lambda: is_trapping(pid_of(pidfd)), "the program to run")
    assert pid_of(pidfd) == pyrunc.pid(id_)
    until(lambda: catches(pid_of(pidfd), 15))
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    assert select.select([pidfd], [], [], 20)[0]
    assert command.wait(20) == (0 if detached else 55)
    os.close(pidfd)


@pytest.mark.differs("1.1 has no such option")
@pytest.mark.parametrize("detached", [True, False], ids=["detached", "attached"])
def test_pidfd_of_exec(pyrunc, running, receiver, until, scratch, detached):
    box, server = running(), receiver()
    words = ["-d", "--pid-file", scratch / "pid"] if detached else []
    command = pyrunc.popen(
        "exec", *words, "--pidfd-socket", server.path, box.id, "/bin/probe", "sleep", "1000", **quiet(pyrunc)
    )
    pidfd = server.receive()
    pid = pid_of(pidfd)
    assert pid != box.pid

    def is_inside():
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{box.pid}/ns/pid")
        except PermissionError:
            return False  # not shown to users before it has become the program

    until(is_inside, "it is in the container's pid namespace")
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert command.wait(20) == (0 if detached else 137)
    if detached:
        assert pid == int((scratch / "pid").read_text())
        assert pyrunc.wait(pid) == 137
    os.close(pidfd)


@pytest.mark.differs("1.1 has no such option")
def test_pidfd_and_console(pyrunc, make, receiver):
    """Two sockets, one message each, whatever the order in which they are read."""
    made, id_ = make(lambda c: c["process"].update(terminal=True), "/bin/probe", "sleep", "1000"), pyrunc.id()
    console, server = receiver(), receiver()
    pyrunc("create", "-b", made, "--console-socket", console.path, "--pidfd-socket", server.path, id_)
    pidfd, master = server.receive(), console.receive()
    assert os.isatty(master) and pid_of(pidfd) == pyrunc.pid(id_)
    os.close(pidfd)
    os.close(master)


@pytest.mark.differs("1.1 has no such option")
def test_pidfd_socket_with_a_long_path(pyrunc, make, receiver, scratch):
    directory = scratch / ("long" * 30) / ("longer" * 20)
    directory.mkdir(parents=True)
    made, id_, server = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id(), receiver(directory / "pidfd.sock")
    pyrunc("create", "-b", made, "--pidfd-socket", server.path, id_)
    pidfd = server.receive()
    assert pid_of(pidfd) == pyrunc.pid(id_)
    os.close(pidfd)


def dead(kind, scratch):
    """A path behind which nobody takes a descriptor, and what keeps it so."""
    path, sock = scratch / "peer.sock", None
    if kind == "nobody listens":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
    elif kind == "datagrams":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(path))
    elif kind == "a file":
        path.touch()
    elif kind == "hangs up":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        sock.listen(1)
        threading.Thread(target=lambda: sock.accept()[0].close(), daemon=True).start()
    return path, sock


DEAD = {
    "is not there": "no such file or directory",
    "nobody listens": "connection refused",
    "datagrams": "protocol wrong type for socket",
    "a file": "connection refused",
}


@pytest.mark.differs("1.1 has no such option")
@pytest.mark.parametrize("kind", DEAD)
def test_pidfd_socket_that_is_dead(pyrunc, make, gone, running, scratch, kind):
    path, sock = dead(kind, scratch)
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    for words in (["create"], ["run"], ["run", "-d"]):
        error = pyrunc.fails(*words, "--pidfd-socket", path, "-b", made, id_)
        assert str(path) in error and DEAD[kind] in error
        gone(pyrunc, id_, made)
    box = running()
    error = pyrunc.fails("exec", "--pidfd-socket", path, box.id, "/bin/probe", "sleep", "1000", status=255)
    assert str(path) in error and DEAD[kind] in error
    assert pyrunc("ps", "--format", "json", box.id).json() == [box.pid]
    if sock:
        sock.close()


@pytest.mark.differs("1.1 has no such option")
def test_pidfd_socket_that_hangs_up(pyrunc, make, scratch):
    """Whether that is noticed depends on who is faster; nothing may be hurt by it, SIGPIPE above all."""
    for number in range(5):
        (scratch / "peer.sock").unlink(missing_ok=True)
        path, sock = dead("hangs up", scratch)
        made, id_ = make(None, "/bin/probe", "exit", "3"), pyrunc.id(str(number))
        result = pyrunc("run", "--pidfd-socket", path, "-b", made, id_, status=None)
        assert result.status == 3 or (result.status == 1 and str(path) in result.err), result
        sock.close()


@pytest.mark.differs("1.1 has no such option")
def test_peer_that_never_accepts(pyrunc, running, receiver, scratch):
    """Its backlog is full: an exec gives up, and says on what."""
    server = receiver(backlog=0)
    first = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    first.connect(server.path)
    box, began = running(), time.monotonic()
    process = box.process(terminal=True)
    commands = [
        pyrunc.popen("exec", *words, **{**quiet(pyrunc), "stderr": subprocess.PIPE})
        for words in (
            ["--pidfd-socket", server.path, box.id, "/bin/true"],
            ["-d", "--console-socket", server.path, "-p", process, box.id],
        )
    ]
    for command in commands:
        _, error = command.communicate(timeout=30)
        assert command.returncode == 255
        assert server.path in error.decode() and "timed out" in error.decode()
    assert time.monotonic() - began < 15
    assert json.loads(pyrunc("ps", "--format", "json", box.id).out) == [box.pid]
    first.close()
