"""What a kernel or a host may lack: every feature that a test may require, by name, with the question put to the machine.

These are the only reasons for which a test may be skipped; `@pytest.mark.requires("cgroup-v2")` names one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _capability(number: int) -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", text("/proc/self/status"), re.M)
    return bool(found and int(found[1], 16) >> number & 1)


def _v1(file: str) -> bool:
    """Whether a cgroup v1 hierarchy has the file in a cgroup below its root."""
    controller = file.partition(".")[0]
    for line in text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - cgroup ")
        if right and controller in right.split()[-1].split(","):
            point = Path(left.split()[4])
            if (point / file).exists():
                return True
            new = point / f"probe-{os.getpid()}"
            try:
                new.mkdir()
            except OSError:
                return False
            try:
                return (new / file).exists()
            finally:
                new.rmdir()
    return False


def _v2(file: str) -> bool:
    """Whether cgroup v2 has the file in a cgroup below its root, once the controller is enabled there."""
    top = Path("/sys/fs/cgroup")
    controller = file.partition(".")[0]
    if controller not in text(f"{top}/cgroup.controllers").split():
        return False
    if os.geteuid():  # what was given to a user, his own cgroup has
        return Path(f"{top}{text('/proc/self/cgroup').partition('0::')[2].strip()}/{file}").exists()
    new = top / f"probe-{os.getpid()}"
    try:
        (top / "cgroup.subtree_control").write_text(f"+{controller}")
        new.mkdir()
    except OSError:
        return False
    try:
        return (new / file).exists()
    finally:
        new.rmdir()


def _limits() -> bool:
    """Whether what everybody limits can be: a cgroup v2 beside hierarchies of v1 that are elsewhere has none of the controllers."""
    mounted = text("/proc/self/mountinfo")
    have = text("/sys/fs/cgroup/cgroup.controllers").split()
    return all(name in have or f"/sys/fs/cgroup/{name} " in mounted for name in ("memory", "cpu", "cpuset", "pids"))


def _loop_bfq() -> bool:
    """Whether there can be a disk of one's own whose scheduler is BFQ."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(1 << 20)
        words = ["losetup", "--find", "--show", file.name]
        made = subprocess.run(words, capture_output=True, text=True).stdout.strip()
        if not made:
            return False
        try:
            return "bfq" in text(f"/sys/block/{os.path.basename(made)}/queue/scheduler")
        finally:
            subprocess.run(["losetup", "--detach", made])


def _idmapped(directory: str) -> bool:
    """Whether the file system of `directory` can be mounted with an id mapping (mount_setattr(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = subprocess.Popen(["unshare", "-U", "sleep", "10"], start_new_session=True)
    try:
        own, deadline = os.readlink("/proc/self/ns/user"), time.monotonic() + 5
        while os.readlink(f"/proc/{child.pid}/ns/user") == own and time.monotonic() < deadline:
            os.sched_yield()
        Path(f"/proc/{child.pid}/uid_map").write_text("0 1000 1")
        Path(f"/proc/{child.pid}/gid_map").write_text("0 1000 1")
        ns = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY)
        tree = libc.syscall(428, -100, directory.encode(), 1 | 0o2000000)  # open_tree: OPEN_TREE_CLONE, O_CLOEXEC
        if tree < 0:
            return False
        attr = (ctypes.c_uint64 * 4)(0x00100000, 0, 0, ns)  # MOUNT_ATTR_IDMAP
        done = libc.syscall(442, tree, b"", 0x1000, ctypes.byref(attr), 32)
        os.close(tree)
        os.close(ns)
        return int(done) == 0
    except OSError:
        return False
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _specification() -> bool:
    """Whether the specification's text has been downloaded, or can be."""
    import loading

    clauses = loading.module("clauses", Path(__file__).resolve().parent.parent / "conformance/clauses.py")
    try:
        return bool(clauses.fetch())
    except OSError:
        return False


def cgroup_parent() -> str:
    """The cgroup, as a path below the hierarchy's root, that those of tests may be made in: for a user, beside his own one."""
    own = text("/proc/self/cgroup").partition("0::")[2].strip()
    return os.path.dirname(own).rstrip("/") if os.geteuid() else ""


def _own_cgroups() -> bool:
    """Whether we may make cgroups: root on any host, a user where that was delegated to him."""
    folder = f"/sys/fs/cgroup{cgroup_parent()}"
    return os.geteuid() == 0 or all(os.access(path, os.W_OK) for path in (folder, f"{folder}/cgroup.procs"))


def _subordinate_ids() -> bool:
    """Whether the user has some; root makes one who has."""
    return os.geteuid() == 0 or f"{pwd.getpwuid(os.geteuid()).pw_name}:" in text("/etc/subuid")


def _makes(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def _criu() -> bool:
    import criu

    try:
        return criu.directory() != Path()
    except criu.Unavailable:
        return False


def _criu_has(feature: str) -> bool:
    import criu

    return _criu() and _makes(str(criu.directory() / "criu"), "check", "--feature", feature)


def _criu_tcp() -> bool:
    """Whether CRIU gets along with this kernel's TCP sockets; 4.1 does not know that of 6.16 and later."""
    import criu

    if not _criu():
        return False
    listener = subprocess.Popen(["busybox", "nc", "-l", "-p", "0"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        with tempfile.TemporaryDirectory() as images:
            deadline = time.monotonic() + 5
            while not any("socket:" in link for link in _links(listener.pid)) and time.monotonic() < deadline:
                os.sched_yield()
            words = [
                "dump",
                "-t",
                str(listener.pid),
                "-D",
                images,
                "--leave-running",
                "--tcp-established",
                "--shell-job",
            ]
            return _makes(str(criu.directory() / "criu"), *words)
    finally:
        listener.kill()
        listener.communicate()


def _links(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]


#: name -> does this machine have it; the only reasons for which a test may be skipped
FEATURES: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "own-cgroups": _own_cgroups,
    # an ordinary user who runs the tests has none
    "no-subordinate-ids": lambda: not _subordinate_ids(),
    "subordinate-ids": _subordinate_ids,
    # for what a user is refused: root makes one who was given nothing
    "no-delegation": lambda: os.geteuid() == 0 or not _own_cgroups(),
    "cap-sys-resource": lambda: _capability(24),
    "lsm-apparmor": lambda: text("/sys/module/apparmor/parameters/enabled").startswith("Y"),
    "lsm-selinux": lambda: os.path.exists("/sys/fs/selinux/status"),
    "cgroup-v1": lambda: os.path.exists("/sys/fs/cgroup") and not os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
    "cgroup-v2": lambda: os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
    "limits": _limits,
    "cgroup-hybrid": lambda: os.path.ismount("/sys/fs/cgroup/unified"),
    "cgroup-unified": lambda: has("cgroup-v2") or has("cgroup-hybrid"),
    "blkio-weight-v1": lambda: _v1("blkio.weight") or _v1("blkio.bfq.weight"),
    "blkio-leaf-weight-v1": lambda: _v1("blkio.leaf_weight"),
    "blkio-throttle-v1": lambda: _v1("blkio.throttle.read_bps_device"),
    "cpu-bandwidth-v1": lambda: _v1("cpu.cfs_quota_us"),
    "cpu-rt-v1": lambda: _v1("cpu.rt_runtime_us"),
    "hugetlb-v1": lambda: _v1("hugetlb.2MB.limit_in_bytes"),
    "memory-swap-v1": lambda: _v1("memory.memsw.limit_in_bytes"),
    "net_cls-v1": lambda: _v1("net_cls.classid"),
    "net_prio-v1": lambda: _v1("net_prio.ifpriomap"),
    "rdma-v1": lambda: _v1("rdma.max"),
    "hugetlb-v2": lambda: _v2("hugetlb.2MB.max"),
    "io-bfq-weight-v2": lambda: _v2("io.bfq.weight"),
    "loop-bfq": _loop_bfq,
    "rdma-device": lambda: any(Path("/sys/class/infiniband").glob("*")),
    "io-max-v2": lambda: _v2("io.max"),
    "memory-swap-v2": lambda: _v2("memory.swap.max"),
    "time-namespace": lambda: os.path.exists("/proc/self/ns/time"),
    "user-namespace": lambda: _makes("unshare", "-U", "true"),
    "idmapped-mount": lambda: _idmapped(tempfile.gettempdir()),
    "idmapped-tmpfs": lambda: _idmapped("/dev/shm"),
    "dummy-interface": lambda: _makes("unshare", "-n", "ip", "link", "add", "probe0", "type", "dummy"),
    "veth-interface": lambda: _makes("unshare", "-n", "ip", "link", "add", "probe0", "type", "veth"),
    "fuse": lambda: os.access("/dev/fuse", os.R_OK | os.W_OK),
    "memory-policy": lambda: os.path.exists("/proc/self/numa_maps"),
    "boot-time": lambda: _makes("ps", "-ef"),  # ps(1) wants it, and User-Mode Linux has none that it likes
    "keyring": lambda: os.path.exists("/proc/keys"),
    "systemd": lambda: os.path.isdir("/run/systemd/system"),
    # the tests are run by an ordinary user who has a systemd of his own
    "systemd-user": lambda: (
        os.geteuid() != 0 and os.path.exists(f"{os.environ.get('XDG_RUNTIME_DIR')}/systemd/private")
    ),
    # User-Mode Linux has it executable, whatever a program asks for
    "data-not-executable": lambda: not re.search(r" rwxp .*\[heap\]", text("/proc/self/maps")),
    "two-cpus": lambda: len(os.sched_getaffinity(0)) > 1,
    "x86-64": lambda: platform.machine() == "x86_64",
    # its text is downloaded once, into build/; without a network there is none
    "specification": _specification,
    "runc": lambda: shutil.which("runc") is not None,
    "crun": lambda: shutil.which("crun") is not None,
    # by default the newer one that tests/fixtures/criu.py downloads; without a network, or on a kernel too new for it, there is none
    "criu": _criu,
    "criu-memory-tracking": lambda: _criu_has("mem_dirty_track"),
    "criu-tcp": _criu_tcp,
    "criu-lazy-pages": lambda: _criu_has("uffd-noncoop"),
    # what uname(2) says is told of it, where the kernel runs programs of 32 bits at all
    "linux32": lambda: (
        subprocess.run(["setarch", "linux32", "uname", "-m"], capture_output=True, text=True).stdout == "i686\n"
    ),
    "i386-calls": lambda: os.path.exists("/proc/sys/abi/vsyscall32"),
}
_known: dict[str, bool] = {}


def has(feature: str) -> bool:
    """Whether this machine has the feature, asked of it once."""
    if feature not in _known:
        _known[feature] = FEATURES[feature]()
    return _known[feature]
