"""Process 1 of a lab (lab.py): prepares the lab's own mounts, starts what the test asks for, collects every orphan.

inside.py SOCKET_FD DIRECTORY TREE [OMITTED...]    TREE: the root, / or a directory that becomes it
                                                   OMITTED: directories below /sys/fs/cgroup that are not mounted

It is the lab's init because the machine's may collect orphans late, and an engine that is waiting for a zombie to go
is then blamed on the runtime. One request is one message, JSON with descriptors: {"argv", "env", "cwd", "tty"} and
stdin, stdout, stderr, report: the pid and then the wait status are written to `report`, a line each. {"kill": pid,
"signal": number, "group": bool} signals. {"socket": true} sends a TCP socket of the lab's network to the socket that
came with it. When the socket is closed this ends, and the kernel ends the lab with it.
Only the standard library, and nothing of the tests: it is started without them.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
from typing import Any

CGROUPS = "/sys/fs/cgroup"
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: what engines and their plug-ins write to wherever they are told to keep their data: each lab has its own layer
LAYERED = ("/etc", "/opt", "/var/lib")


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def hierarchies() -> list[tuple[str, str, str]]:
    """(mount point, type, controllers) of each cgroup hierarchy that the machine has mounted."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.strip().partition(" ")
            if kind in ("cgroup", "cgroup2"):
                # v1's super options name the controllers, or the hierarchy that has none; what else is there may differ
                words = options.split(" ")[-1].split(",")
                flags = {"rw", "ro", "xattr", "noprefix", "clone_children", "none", "nsdelegate", "favordynmods"}
                wanted = [word for word in words if word not in flags and not word.startswith("release_agent=")]
                found.append((left.split(" ")[4], kind, ",".join(wanted) if kind == "cgroup" else ""))
    return found


def take_away(top: str) -> None:
    """Unmount what is below a place that will be covered: it would stay in the list of mounts, and Podman unmounts what it finds
    there (/sys/kernel, for a container with a user namespace)."""
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ")[4] for line in file]
    for point in reversed(points):
        if point.startswith(f"{top}/"):
            subprocess.run(["umount", point], check=True)


def layer(lower: str, own: str, name: str, at: str) -> None:
    """Show a directory at a place so that what is written there is the lab's."""
    upper, work = f"{own}/{name}", f"{own}/{name}.work"
    os.mkdir(upper)
    os.mkdir(work)
    mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", at)


def plant(tree: str, directory: str) -> str:
    """Where a tree is ready to become the root: its layer, the machine's devices, what of the machine the lab needs."""
    root = f"{directory}/own/root"
    os.mkdir(root)
    layer(tree, f"{directory}/own", "tree", root)
    mount("--rbind", "/dev", f"{root}/dev")
    shutil.copy("/etc/resolv.conf", f"{root}/etc/resolv.conf")
    for place in (SOURCE, directory):
        os.makedirs(root + place, exist_ok=True)
        mount("--bind", place, root + place)
    return root


def enter(root: str) -> None:
    """By pivot_root(2): below a chroot there are no user namespaces, and a runtime's own pivot_root fails."""
    old = f"{root}/.old"
    os.mkdir(old)
    subprocess.run(["pivot_root", root, old], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/.old"], check=True)
    os.rmdir("/.old")


def prepare(directory: str, tree: str, omitted: list[str]) -> None:
    """Mounts of the lab's own: /proc and /sys of its namespaces, its cgroups alone, /run, layers over the rest."""
    there = hierarchies()  # as the machine sees them, before /sys is covered
    own = f"{directory}/own"
    mount("-t", "tmpfs", "-o", "mode=755", "lab", own)
    root = plant(tree, directory) if tree != "/" else ""
    if not root:
        take_away("/sys/kernel")
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("-t", "sysfs", "sysfs", f"{root}/sys")
    if root:
        enter(root)
    if not any(point == CGROUPS for point, _, _ in there):
        mount("-t", "tmpfs", "-o", "mode=755", "cgroup", CGROUPS)
    for point, kind, controllers in there:
        if point.startswith(CGROUPS) and point[len(CGROUPS) + 1 :] not in omitted:
            os.makedirs(point, exist_ok=True)
            mount("-t", kind, *(("-o", controllers) if controllers else ()), kind, point)
    for place in LAYERED if tree == "/" else ():
        layer(place, own, place.strip("/").replace("/", "-"), place)
    mount("-t", "tmpfs", "-o", "mode=755", "run", "/run")
    for name in ("lock", "user"):
        os.mkdir(f"/run/{name}")
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm")
    mount("--make-rshared", "/")  # as service managers leave it: engines refuse shared volumes otherwise
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if any(point == CGROUPS for point, _, _ in there):
        # cgroups(7), "no internal processes": controllers cannot be handed down from a cgroup that holds us
        os.mkdir(f"{CGROUPS}/lab")
        with open(f"{CGROUPS}/lab/cgroup.procs", "w") as file:
            file.write("0")


class Children:
    """The processes that the test asked for: the pid, and the descriptor that is told how each ended."""

    def __init__(self) -> None:
        self.reports: dict[int, int] = {}

    def start(self, request: dict[str, Any], fds: list[int]) -> None:
        stdin, stdout, stderr, report = fds
        pid = os.fork()
        if pid == 0:
            try:
                self._become(request, stdin, stdout, stderr)
            except OSError as error:
                os.write(2, f"{request['argv'][0]}: {error.strerror}\n".encode())
            finally:
                os._exit(127)
        os.write(report, b"%d\n" % pid)
        self.reports[pid] = report
        for fd in (stdin, stdout, stderr):
            os.close(fd)

    @staticmethod
    def _become(request: dict[str, Any], *stdio: int) -> None:
        os.setsid()
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        if request.get("tty"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(request["cwd"])
        os.execvpe(request["argv"][0], request["argv"], request["env"])

    def collect(self) -> None:
        """Every child that ended: those of the test are reported, orphans are only collected."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            report = self.reports.pop(pid, -1)
            if report >= 0:
                try:
                    os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
                except BrokenPipeError:
                    pass  # the test no longer asks
                os.close(report)


def kill(request: dict[str, Any]) -> None:
    try:
        (os.killpg if request.get("group") else os.kill)(request["kill"], request["signal"])
    except ProcessLookupError:
        pass


def give_socket(fds: list[int]) -> None:
    """A socket stays in the network namespace where it was made, whoever connects it."""
    with socket.socket(fileno=fds[0]) as there, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        socket.send_fds(there, [b"socket"], [made.fileno()])


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, ancillary, _, _ = control.recvmsg(1 << 20, socket.CMSG_SPACE(4 * fds.itemsize))
    for level, kind, text in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(text)
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, list(fds)


def main(control_fd: int, directory: str, tree: str, omitted: list[str]) -> None:
    os.umask(0o022)
    control = socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    prepare(directory, tree, omitted)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children = Children()
    control.send(b"ready")
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            children.collect()
        if control in readable:
            data, fds = receive(control)
            if not data:
                return
            request = json.loads(data)
            if "kill" in request:
                kill(request)
            elif "socket" in request:
                give_socket(fds)
            else:
                children.start(request, fds)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
