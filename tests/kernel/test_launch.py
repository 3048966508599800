"""What the interpreter is born with, and what it holds: descriptors, signals, memory, its own file; and the socket's calls."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interpreter import ROOT, Interpreter, private, program, refusal, sh

from runtime import kernel, linux, wire
from runtime.plan import Op, Plan

Start = Callable[..., Interpreter]


@pytest.fixture
def waiting(start: Start, scratch: Path) -> Iterator[Interpreter]:
    """An init that waits for start, as a created container's does."""
    os.mkfifo(scratch / "go")
    fd = os.open(scratch / "go", os.O_RDONLY | os.O_NONBLOCK)
    init = start(
        *private(),
        Op("unshare", a=linux.CLONE_NEWPID),
        Op("fork"),
        Op("fifo", r0="go"),
        sh("true"),
        registers={"go": fd},
    )
    os.close(fd)
    init.serve()
    yield init


# -- descriptors -----------------------------------------------------------------------------------------------------------


def test_the_payload_has_three_descriptors(start: Start, scratch: Path) -> None:
    """CVE-2024-21626: nothing of ours, and nothing that a caller had leaked to us."""
    leaks = [os.open("/", os.O_RDONLY) for _ in range(40)]
    for fd in leaks:
        os.set_inheritable(fd, True)
    init = start(Op("open", "/", r0="x", a=os.O_PATH), sh("ls /proc/self/fd")).serve()
    assert init.wait() == 0 and init.out.split() == ["0", "1", "2", "3"]
    for fd in leaks:
        os.close(fd)


def test_preserved_descriptors(images: None, scratch: Path) -> None:
    """In a process of their own, since their numbers are what matters."""
    tests = str(Path(__file__).parents[1])
    script = f"""
import os, sys
sys.path[:0] = [{tests!r}, {tests + "/kernel"!r}]
import conftest, interpreter
from interpreter import Interpreter, sh
from runtime.plan import Op
files = [os.memfd_create(f"kept{{n}}") for n in range(2)]
for n, fd in enumerate(files, 3):
    high = os.dup(fd)
    os.close(fd)
    os.dup2(high, n)
    os.close(high)
registers = {{"r": os.open("/etc", os.O_PATH)}}
hook = Op("run-hook", "/bin/sh", "sh\\0-c\\0ls /proc/self/fd > {scratch}/hook", "PATH=/bin", b=3, c=1)
init = Interpreter(hook, Op("open", "passwd", r0="p", r1="r", a=os.O_PATH), sh("cd /proc/self/fd; readlink 3 4; ls"), registers=registers, preserve=2)
init.serve()
print(init.wait(), init.out, init.failures)
os.set_inheritable(4, False)
try:
    Interpreter(sh("true"), preserve=2)
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, close_fds=True)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[:5] == ["0", "/memfd:kept0", "(deleted)", "/memfd:kept1", "(deleted)"]
    assert words[5:] == ["0", "1", "2", "3", "4", "[]", str(errno.EBADF)]
    # they are for the container, and no hook's business
    assert (scratch / "hook").read_text().split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_closed_standard_descriptors(images: None, scratch: Path, closed: tuple[int, ...]) -> None:
    """A program that opens a file must not find it to be its standard output."""
    script = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
import conftest
from runtime import kernel, wire
from runtime.plan import Op, Plan
for fd in {closed}: os.close(fd)
plan = Plan()
plan.ops = [Op("exec", "/bin/sleep", "sleep\\0" "100", "", a=1, b=2)]
pid, sock = kernel.launch(wire.encode(plan), [], 3)
while kernel.receive(sock)[0]: pass
with open({str(scratch / "found")!r}, "w") as file:
    print([os.readlink(f"/proc/{{pid}}/fd/{{fd}}") for fd in {closed}], file=file)
os.kill(pid, 9)
os.waitpid(pid, 0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert (scratch / "found").read_text().strip() == str(["/dev/null"] * len(closed))


def test_registers_in_any_order(start: Start) -> None:
    """Numbers that are taken by others of the list."""
    names = [os.memfd_create(f"m{n}") for n in range(6)]
    for order in (names, names[::-1], [names[3], names[0], names[5], names[1]]):
        seen: list[str] = []

        def look(fd: int, seen: list[str] = seen) -> int:
            seen.append(os.readlink(f"/proc/self/fd/{fd}"))
            return 0

        registers = {f"r{n}": fd for n, fd in enumerate(order)}
        asks = [Op("ask", f"s{n}", r1=f"r{n}") for n in range(len(order))]
        init = start(*asks, registers=registers, answers={op.s0: look for op in asks})
        assert init.serve().wait() == 0
        assert seen == [os.readlink(f"/proc/self/fd/{fd}") for fd in order]
    for fd in names:
        os.close(fd)


def test_the_launcher_loses_no_descriptors(start: Start) -> None:
    start(sh("true")).serve().wait()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        init = start(sh("true"))
        init.serve().wait()
        init.close()
        with pytest.raises(OSError):
            start(sh("true"), registers={"bad": 999})
    assert len(os.listdir("/proc/self/fd")) == before


# -- signals, environment ----------------------------------------------------------------------------------------------


def test_signals_are_reset(start: Start) -> None:
    """What is ignored stays so across execve; Python ignores SIGPIPE and SIGXFSZ."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMAX})
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGRTMIN, signal.SIGINT)
    }
    try:
        init = start(program("/bin/cat", "/proc/self/status")).serve()
        assert init.wait() == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
    masks = dict(re.findall(r"^Sig(Blk|Ign|Cgt):\t(\w+)", init.out, re.M))
    assert set(masks.values()) == {"0" * 16}


def test_nothing_of_the_environment(start: Start, waiting: Interpreter) -> None:
    assert Path(f"/proc/{waiting.pid}/environ").read_bytes() == b""
    assert Path(f"/proc/{waiting.pid}/cmdline").read_bytes().startswith(b"pyrunc\0init\0")
    init = start(program("/usr/bin/env", env=["A=b"])).serve()
    assert (init.wait(), init.out) == (0, "A=b\n")


# -- the image ---------------------------------------------------------------------------------------------------------


def test_the_image_is_sealed(waiting: Interpreter) -> None:
    """CVE-2019-5736: what a container finds as /proc/PID/exe is a copy, and nobody can change it."""
    exe = f"/proc/{waiting.pid}/exe"
    assert os.readlink(exe).startswith("/memfd:pyrunc-init")
    fd = os.open(exe, os.O_RDONLY)
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    os.close(fd)
    assert seals & 0xF == 0xF
    with pytest.raises(OSError) as refused:
        os.close(os.open(exe, os.O_WRONLY))
    assert refused.value.errno == errno.ETXTBSY
    assert not Path(f"/proc/{waiting.pid}/exe").samefile(sys.executable)


def test_a_waiting_init_is_small(waiting: Interpreter) -> None:
    maps = Path(f"/proc/{waiting.pid}/smaps").read_text()
    private_kb = sum(int(kb) for kb in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", maps, re.M))
    assert private_kb < 100, maps
    assert "python" not in maps and str(ROOT) not in maps


@pytest.mark.requires("data-not-executable")
def test_a_waiting_init_can_execute_nothing_it_writes(waiting: Interpreter) -> None:
    for line in Path(f"/proc/{waiting.pid}/maps").read_text().splitlines():
        assert not {"w", "x"} <= set(line.split()[1]), line


def test_a_waiting_init_holds_what_it_needs(waiting: Interpreter) -> None:
    links = {fd: os.readlink(f"/proc/{waiting.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{waiting.pid}/fd")}
    assert sorted(links, key=int)[:3] == ["0", "1", "2"] and len(links) == 4
    assert [link for fd, link in links.items() if int(fd) > 2][0].endswith("/go")


def test_the_image_without_executable_memfds(scratch: Path) -> None:
    """vm.memfd_noexec = 2, which a pid namespace may have for itself."""
    script = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parents[1])!r}, {str(Path(__file__).parent)!r}]
import conftest
from interpreter import Interpreter, sh
open("/proc/sys/vm/memfd_noexec", "w").write("2")
for _ in range(2):
    init = Interpreter(sh("sleep 0.1; echo ran")).serve()
    print(init.wait(), init.out.strip())
"""
    command = ["unshare", "-m", "-p", "-f", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["0", "ran", "0", "ran"], done.stderr


@pytest.mark.parametrize(
    "call", ["memfd_create", "close_range", "execveat", "openat2", "clone3", "statx", "faccessat2"]
)
def test_without_a_system_call(start: Start, scratch: Path, call: str) -> None:
    """Old kernels and service managers answer ENOSYS; the way round may be slower, never weaker."""
    number = {"memfd_create": 319, "close_range": 436, "execveat": 322, "openat2": 437, "clone3": 435, "statx": 332}
    if os.uname().machine == "aarch64":
        number |= {"memfd_create": 279, "execveat": 281, "statx": 291}
    tests = str(Path(__file__).parents[1])
    (scratch / "script").write_text(f"""
import os, sys
sys.path[:0] = [{tests!r}, {tests + "/kernel"!r}]
import conftest, resource
from interpreter import *
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))  # which is how many close-range closes then, one by one
leak = os.open("/", os.O_RDONLY)
os.set_inheritable(leak, True)
hook = Op("run-hook", "/bin/sh", "sh\\0-c\\0cat >&3; ls /proc/self/fd".replace(">&3", ">/dev/null"), "PATH=/bin", r0="s", b=3, c=1)
state = os.memfd_create("s") if {call!r} != "memfd_create" else os.open({str(scratch / "script")!r}, os.O_RDONLY)
os.memfd_create = lambda name: os.open({str(scratch)!r}, os.O_TMPFILE | os.O_RDWR)
ops = [*private(), Op("unshare", a=linux.CLONE_NEWPID), Op("fork"), Op("home", a=0), hook,
    Op("find-exec", "/bin/sh", a=1), Op("close-range", a=3), sh("ls /proc/self/fd; echo $HOME")]
init = Interpreter(*ops, registers=dict(s=state)).serve()
print(init.wait(), *init.out.split(), init.failures)
""")
    refuse = Op("seccomp", refusal(number.get(call, 439), errno.ENOSYS))
    init = start(refuse, program(sys.executable, str(scratch / "script"), env=["PATH=/usr/bin:/bin"])).serve()
    assert init.wait() == 0 and init.out.split() == ["0", "0", "1", "2", "3", "/root", "[]"], init.out


def test_launch_reports_why_it_could_not(start: Start) -> None:
    with pytest.raises(OSError) as refused:
        start(sh("true"), registers={"bad": 999})
    assert refused.value.errno == errno.EBADF


def test_a_plan_that_is_none(images: None) -> None:
    pid, sock = kernel.launch(b"nothing that begins like a plan" * 9, [], 3)
    kind, index, value, detail = wire.decode_message(kernel.receive(sock)[0])
    assert (kind, index, value, detail) == (wire.FAILED, 0xFFFFFFFF, errno.EBADMSG, b"")
    assert kernel.receive(sock)[0] == b""
    os.close(sock)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_launches_from_threads(start: Start) -> None:
    wrong: list[object] = []

    def many() -> None:
        for _ in range(15):
            plan = Plan()
            plan.ops = [Op("setsid"), program("/bin/true")]
            pid, sock = kernel.launch(wire.encode(plan), [], 3)
            while message := kernel.receive(sock)[0]:
                wrong.append(message)
            os.close(sock)
            if status := os.waitpid(pid, 0)[1]:
                wrong.append(status)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- the other calls ---------------------------------------------------------------------------------------------------


def test_connect_and_send_fd(images: None, scratch: Path) -> None:
    folder = scratch / ("long" * 40)
    folder.mkdir()
    os.chdir(folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("sock")
    listener.listen(1)
    os.chdir("/")
    fd = kernel.connect(str(folder / "sock"), 1000)
    kernel.send_fd(fd, b"/dev/pts/0", 0, 1000)
    peer, _ = listener.accept()
    data, fds, _, _ = socket.recv_fds(peer, 100, 2)
    assert data == b"/dev/pts/0" and len(fds) == 1
    for one in (fd, fds[0]):
        os.close(one)
    peer.close()
    listener.close()
    for path, error in ((folder / "none", errno.ENOENT), (folder / "sock", errno.ECONNREFUSED)):
        with pytest.raises(OSError) as refused:
            kernel.connect(str(path), 1000)
        assert refused.value.errno == error


def test_peers_that_do_not_answer(images: None, scratch: Path) -> None:
    """crun waits for ever on a full backlog."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(scratch / "sock"))
    listener.listen(0)
    fds = [kernel.connect(str(scratch / "sock"), 100)]
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        for _ in range(3):
            fds.append(kernel.connect(str(scratch / "sock"), 200))
    with pytest.raises(TimeoutError):
        while True:
            kernel.send_fd(fds[0], b"x" * 1000, -1, 200)
    assert time.monotonic() - started < 20
    for fd in fds:
        os.close(fd)
    listener.close()
    with pytest.raises(BrokenPipeError):
        ours, theirs = socket.socketpair()
        theirs.close()
        kernel.send_fd(ours.fileno(), b"x", -1, 100)


def test_close_on_exec_from(images: None) -> None:
    fd = os.open("/", os.O_RDONLY)
    os.set_inheritable(fd, True)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD, 500)
    kernel.close_on_exec_from(high)
    assert (os.get_inheritable(fd), os.get_inheritable(high)) == (True, False)
    os.close(fd)
    os.close(high)


def test_spawn_newuser(images: None) -> None:
    pid = kernel.spawn_newuser()
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    deadline = time.monotonic() + 5
    while os.listdir(f"/proc/{pid}/fd") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.listdir(f"/proc/{pid}/fd") == []
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_spawn(images: None, tmp_path: Path) -> None:
    """A program of the host, of which other threads of ours notice nothing."""
    folder, out = os.open(tmp_path, os.O_PATH), os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    leak, cwd = os.open("/", os.O_RDONLY), os.getcwd()
    os.set_inheritable(leak, True)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    script = "pwd; echo $A $0 $#; read x; echo $x; ls /proc/self/fd | wc -l; grep -E 'SigIgn|SigBlk' /proc/self/status"
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"hello\n")
    pid = kernel.spawn(
        "/bin/sh", ["sh", "-c", script, "zero", "one"], ["A=b", "PATH=/bin:/usr/bin"], folder, (read_fd, out, out)
    )
    sid = os.getsid(pid)
    assert os.waitpid(pid, 0)[1] == 0
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:4] == [str(tmp_path), "b zero 1", "hello", "4"]
    assert [line.split()[1] for line in lines[4:]] == ["0" * 16, "0" * 16]
    assert sid == pid and os.getcwd() == cwd
    for path, number in (("/no/such/program", errno.ENOENT), ("/etc/passwd", errno.EACCES)):
        with pytest.raises(OSError) as refused:
            kernel.spawn(path, ["x"], [], folder, (read_fd, out, out))
        assert refused.value.errno == number
    for fd in (folder, out, leak, read_fd, write_fd):
        os.close(fd)


def test_seccomp_flag_supported(images: None) -> None:
    assert kernel.seccomp_flag_supported(2)  # LOG, since 4.14
    assert kernel.seccomp_flag_supported(1 << 5)  # WAIT_KILLABLE_RECV, since 5.19
    assert not kernel.seccomp_flag_supported(1 << 30)


def test_set_subreaper(images: None) -> None:
    kernel.set_subreaper(True)
    pid = subprocess.run(["sh", "-c", "sleep 0.05 & echo $!"], stdout=subprocess.PIPE, text=True).stdout
    assert os.waitpid(int(pid), 0)[1] == 0


def test_bpf(images: None) -> None:
    allow_all = bytes.fromhex("b700000001000000 9500000000000000")
    fd = kernel.bpf_prog_load(allow_all)
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf-prog"
    with pytest.raises(OSError) as refused:
        kernel.bpf_prog_attach(0, fd)
    assert refused.value.errno == errno.EBADF
    os.close(fd)
    with pytest.raises(OSError) as refused:
        kernel.bpf_prog_load(bytes(8))
    assert refused.value.errno in (errno.EINVAL, errno.EACCES)
