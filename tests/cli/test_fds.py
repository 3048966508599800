"""Descriptors: what is preserved arrives, and nothing else does."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess

import pytest


@pytest.fixture
def files(scratch):
    """Open files of the test's own, at numbers that the test chooses."""
    opened: list[int] = []

    def put(number, text="", inheritable=True):
        fd = os.open(scratch / f"fd{number}", os.O_RDWR | os.O_CREAT)
        os.write(fd, text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        opened.append(fd)
        return fd

    yield put
    for fd in opened:
        os.close(fd)


def with_fds(mapping):
    """A preexec function that puts descriptors at their numbers, inheritable."""

    def place():
        high = {}
        for number, fd in mapping.items():
            copy = os.dup(fd)
            while copy < 500:
                copy = os.dup2(copy, 500 + number)
            high[number] = copy
        for number, copy in high.items():
            os.dup2(copy, number, inheritable=True)
            os.close(copy)

    return place


def launch(pyrunc, words, mapping, env=None, **popen):
    return pyrunc(*words, close_fds=False, preexec_fn=with_fds(mapping), env={**pyrunc.env, **(env or {})}, **popen)


def test_nothing_of_the_caller_leaks(pyrunc, make, files):
    made = make(None, "/bin/probe", "fds")
    mapping = {number: files(number) for number in (*range(3, 20), 50, 100, 200)}
    found = launch(pyrunc, ["run", "-b", str(made), pyrunc.id()], mapping).json()
    assert [entry["fd"] for entry in found] == [0, 1, 2]


def test_nothing_of_the_caller_leaks_into_a_waiting_init(pyrunc, make, files):
    made, id_ = make(None, "/bin/probe", "fds"), pyrunc.id()
    mapping = {number: files(number) for number in (*range(3, 20), 150)}
    launch(pyrunc, ["create", "-b", str(made), id_], mapping)
    pid = pyrunc.pid(id_)
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if "/fd" in link and "pyrunc-test" in link and "state" not in link], links
    pyrunc("start", id_)
    pyrunc.wait(pid)


def test_nothing_of_the_caller_leaks_into_exec(pyrunc, running, files):
    box = running()
    mapping = {number: files(number) for number in (*range(3, 12), 77)}
    found = launch(pyrunc, ["exec", box.id, "/bin/probe", "fds"], mapping).json()
    assert [entry["fd"] for entry in found] == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 5, 60])
def test_preserved(pyrunc, make, files, count):
    made = make(None, "/bin/probe", "fds")
    mapping = {number: files(number) for number in range(3, 3 + count + 4)}
    found = launch(pyrunc, ["run", "-b", str(made), "--preserve-fds", str(count), pyrunc.id()], mapping).json()
    assert [entry["fd"] for entry in found] == list(range(3 + count))
    for entry in found[3:]:
        assert entry["ino"] == os.fstat(mapping[entry["fd"]]).st_ino and not entry["cloexec"]


def test_preserved_through_create_and_start(pyrunc, make, files):
    made, id_ = make(None, "/bin/sh", "-c", "cat <&3; echo out >&4"), pyrunc.id()
    fds = {3: files(3, "in\n"), 4: files(4)}
    read, write = os.pipe()
    launch(pyrunc, ["create", "-b", str(made), "--preserve-fds=2", id_], fds, stdout=write)
    os.close(write)
    pid = pyrunc.pid(id_)
    pyrunc("start", id_)
    with os.fdopen(read) as out:
        assert out.read() == "in\n"
    assert pyrunc.wait(pid) == 0
    assert os.pread(fds[4], 100, 0) == b"out\n"


def test_preserved_in_exec(pyrunc, running, files):
    box = running()
    found = launch(
        pyrunc, ["exec", "--preserve-fds", "2", box.id, "/bin/probe", "fds"], {n: files(n) for n in (3, 4, 5)}
    ).json()
    assert [entry["fd"] for entry in found] == [0, 1, 2, 3, 4]


@pytest.mark.differs("it takes its own descriptors for them")
def test_preserving_more_than_there_is(pyrunc, make, gone):
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    error = pyrunc.fails("create", "-b", made, "--preserve-fds", "3", id_)
    assert "3" in error
    gone(pyrunc, id_, made)


def activated(pyrunc, words, fds, count, pid="$$"):
    """As a service manager starts it: with LISTEN_PID, which must be the runtime's own."""
    command = ["/bin/sh", "-c", f'LISTEN_PID={pid} LISTEN_FDS={count} exec "$@"', "sh", *pyrunc.argv(*words)]
    done = subprocess.run(
        command,
        close_fds=False,
        preexec_fn=with_fds(fds),
        env=pyrunc.env,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_socket_activation(pyrunc, make, files):
    """sd_listen_fds(3): LISTEN_FDS is handed on, LISTEN_PID is the one that the program has in there."""
    made = make(None, "/bin/probe", "report")
    fds = {number: files(number) for number in (3, 4, 5, 6)}
    found = activated(pyrunc, ["run", "-b", made, pyrunc.id()], fds, 2)
    assert [entry["fd"] for entry in found["fds"]] == [0, 1, 2, 3, 4]
    assert {"LISTEN_FDS=2", "LISTEN_PID=1"} <= set(found["env"])


def test_socket_activation_and_preserved(pyrunc, make, files):
    made = make(None, "/bin/probe", "report")
    fds = {number: files(number) for number in (3, 4, 5, 6)}
    found = activated(pyrunc, ["run", "-b", made, "--preserve-fds", "1", pyrunc.id()], fds, 2)
    assert [entry["fd"] for entry in found["fds"]] == [0, 1, 2, 3, 4, 5]
    assert "LISTEN_FDS=2" in found["env"]


def test_socket_activation_of_somebody_else(pyrunc, make, files):
    """An engine that was activated itself may hand its environment on without a thought."""
    made = make(None, "/bin/probe", "report")
    fds = {number: files(number) for number in (3, 4)}
    for words in (["run", "-b", made, pyrunc.id()],):
        found = activated(pyrunc, words, fds, 2, pid=1)
        assert [entry["fd"] for entry in found["fds"]] == [0, 1, 2]
        assert not [word for word in found["env"] if word.startswith("LISTEN_")]


def test_high_limit_of_descriptors(pyrunc, make):
    """Closing them takes no longer for a million that are not there."""
    made = make(None, "/bin/probe", "fds")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    result = pyrunc(
        "run", "-b", made, pyrunc.id(), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    )
    assert [entry["fd"] for entry in result.json()] == [0, 1, 2]


def test_waiting_init_holds_what_it_needs_and_no_more(pyrunc, make):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    pyrunc("create", "-b", made, id_)
    pid = pyrunc.pid(id_)
    links = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    ours = {fd: link for fd, link in links.items() if int(fd) > 2}
    # CVE-2024-21626: a directory of the host is the way out
    for fd, link in ours.items():
        assert not os.path.isdir(f"/proc/{pid}/fd/{fd}"), (fd, link)
    assert not [link for link in ours.values() if "cgroup" in link]


def test_the_container_cannot_reach_the_host_through_descriptors(pyrunc, running):
    box = running(None, "/bin/sh", "-c", "exec sleep 1000")
    links = [os.readlink(f"/proc/{box.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{box.pid}/fd")]
    assert len(links) == 3


@pytest.mark.differs("it knows no barrier")
def test_notify_socket(request, pyrunc, make, scratch):
    """sd_notify(3): readiness of the container's program is told to whoever waits for the runtime."""
    service = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    request.addfinalizer(service.close)
    service.bind(str(scratch / "service"))
    service.settimeout(20)
    made, id_ = make(None, "/bin/sh", "-c", "/bin/probe notify READY=1; exec sleep 1000"), pyrunc.id()
    env = {**pyrunc.env, "NOTIFY_SOCKET": str(scratch / "service")}
    run = pyrunc.popen("run", "-b", made, id_, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    got = service.recv(4096).decode()
    assert got.splitlines()[0] == "READY=1"
    while "MAINPID=" not in got:
        got += service.recv(4096).decode()
    # the one that the service manager has started and waits for
    assert f"MAINPID={run.pid}" in got
    data, fds, _, _ = socket.recv_fds(service, 4096, 1)
    assert data == b"BARRIER=1" and len(fds) == 1
    os.close(fds[0])  # which says: all is processed (sd_notify_barrier(3))
    pyrunc("kill", id_, "KILL")
    assert run.wait(20) == 137
    service.close()


@pytest.mark.differs("it knows no barrier")
def test_notify_socket_of_a_detached_container(request, pyrunc, make, scratch):
    """Whether run -d or start: the command returns when the container is ready, and the container is the main process."""
    for verb in ("run", "start"):
        path = scratch / f"service-{verb}"
        service = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        request.addfinalizer(service.close)
        service.bind(str(path))
        service.settimeout(20)
        made, id_ = make(None, "/bin/sh", "-c", "/bin/probe notify READY=1; exec sleep 1000"), pyrunc.id(verb)
        env = {**pyrunc.env, "NOTIFY_SOCKET": str(path)}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "env": env}
        if verb == "run":
            command = pyrunc.popen("run", "-d", "-b", made, id_, **quiet)
        else:
            pyrunc("create", "-b", made, id_, **quiet)
            command = pyrunc.popen("start", id_, **quiet)
        got = ""
        while "MAINPID=" not in got:
            data, fds, _, _ = socket.recv_fds(service, 4096, 1)
            got += data.decode()
        assert got.startswith("READY=1\n") and f"MAINPID={pyrunc.pid(id_)}" in got
        assert command.poll() is None
        data, fds, _, _ = socket.recv_fds(service, 4096, 1)
        os.close(fds[0])
        assert command.wait(20) == 0
        service.close()


def test_the_probe_sees_a_leak(probe):
    """On the host: a test that cannot see a leak proves nothing."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    done = subprocess.run([probe, "fds"], stdout=subprocess.PIPE, close_fds=False, check=True)
    os.close(read)
    os.close(write)
    assert read in [entry["fd"] for entry in json.loads(done.stdout)]
