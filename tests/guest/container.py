"""systemd on cgroup v2 in a container of this tree's own making: the kernel is the machine's, and nothing is slower than on it.

What the kernel's other hierarchies hold is not there: on a machine with cgroup v1 the controllers are v1's, and the guest has v2 with
none, or hugetlb alone. What needs one is skipped in it by name. On a machine with cgroup v2 alone it has them all.

    container.py WORK IMAGE TREE NAME=FD...     become the runtime that runs it; `Container` has this as its command
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from image import FIRST_SECTOR, image
from making import ROOT, Unavailable, run, say
from session import INIT

PYRUNC = ROOT / "build/bin/pyrunc"
NAME = "guest"
#: all there are on every kernel that is old enough to be supported
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST "
    "NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TTY_CONFIG MKNOD "
    "LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
    "CHECKPOINT_RESTORE"
)
#: where the lines of session.py are, from /dev
LINES = "../run/guest/lines"


class Container:
    """A machine that session.py can start."""

    lines = {**{name: f"{LINES}/{name}" for name in ("out", "err", "status", "back")}, "terminal": ""}

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise Unavailable("a guest that is a container needs root")
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and not Path("/sys/fs/cgroup/unified").exists():
            raise Unavailable("this machine has no hierarchy of cgroup v2")
        self.image = image()

    def source(self, directory: Path) -> str:
        return "bind:/run/guest/source"

    def command(self, work: Path, tree: Path, fds: dict[str, int], has_terminal: bool) -> list[str]:
        given = [f"{name}={fd}" for name, fd in fds.items()]
        words = [sys.executable, __file__, str(work), str(self.image), str(tree), *given]
        return ["unshare", "--mount", "--propagation", "private", *words]

    def end(self, work: Path) -> None:
        """Whatever has become of it, nothing stays."""
        if (work / "state").exists():
            subprocess.run([PYRUNC, "--root", work / "state", "delete", "--force", NAME], capture_output=True)


def config(root: Path, work: Path, tree: Path) -> dict[str, Any]:
    """A container that may do what a machine's first process does, to what is its own."""
    capabilities = [f"CAP_{name}" for name in CAPABILITIES.split()]
    mounts = [
        ("/proc", "proc", "proc", []),
        ("/sys", "sysfs", "sysfs", []),
        ("/sys/fs/cgroup", "cgroup2", "cgroup2", ["nosuid", "noexec", "nodev"]),
        ("/sys/fs/bpf", "bpf", "bpf", []),
        ("/dev", "tmpfs", "tmpfs", ["mode=755", "nosuid"]),
        ("/dev/pts", "devpts", "devpts", ["newinstance", "ptmxmode=0666", "mode=620", "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "nodev"]),
        ("/run", "tmpfs", "tmpfs", ["mode=755", "nosuid", "nodev"]),
        ("/run/guest/host", "bind", str(work / "run"), ["rbind", "ro"]),
        ("/run/guest/lines", "bind", str(work / "lines"), ["rbind"]),
        ("/run/guest/source", "bind", str(tree), ["rbind", "ro"]),
    ]
    return {
        "ociVersion": "1.2.0",
        "hostname": "guest",
        "root": {"path": str(root)},
        "process": {
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            # as systemd.io/CONTAINER_INTERFACE has it
            "env": ["container=pyrunc", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "args": [INIT[0].partition("=")[2], "--unit=guest.target", "--show-status=no"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable"), capabilities),
        },
        "mounts": [{"destination": to, "type": kind, "source": source, "options": options} for to, kind, source, options in mounts],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup", "network")],
            "cgroupsPath": f"/pyrunc-{work.name}",
            "devices": [
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666},
                {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666},
                {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o644},
            ],
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
        },
    }  # fmt: skip


def main() -> None:
    work, disk, tree = map(Path, sys.argv[1:4])
    fds = {name: int(fd) for name, _, fd in (word.partition("=") for word in sys.argv[4:])}
    root = work / "root"
    for path in (root, work / "lines", work / "bundle"):
        path.mkdir()
    # A file system of its own, and not a layer over one: what the tests make in it is then on no overlayfs, which would be another
    # test. Most of the image is holes.
    run("cp", "--sparse=always", disk, work / "root.ext4")
    run("mount", "-t", "ext4", "-o", f"loop,offset={FIRST_SECTOR * 512}", work / "root.ext4", root)
    (work / "bundle/config.json").write_text(json.dumps(config(root, work, tree)))
    for name in ("out", "err", "status", "back"):
        os.mkfifo(work / "lines" / name)
        # for reading and writing: then it has no end while we are there, however often it is opened at the other side
        reader = os.open(work / "lines" / name, os.O_RDWR)
        subprocess.Popen(["cat"], stdin=reader, stdout=fds[name])
    os.dup2(fds["console"], 1)
    os.execv(PYRUNC, [str(PYRUNC), "--root", str(work / "state"), "run", "--bundle", str(work / "bundle"), NAME])


if __name__ == "__main__":
    try:
        main()
    except Unavailable as error:
        say(str(error))
        sys.exit(1)
