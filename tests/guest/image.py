"""The guest's root file system: Debian, of the machine's own release, as a disk image that every run starts from.

What is in it besides the packages is the folder `root`. Nothing runs in the guest but systemd, its logs, a bus, log-ins, and what a run
brings: units that take time to start and serve nobody here are masked.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

from archive import codename, mirror
from making import CACHE, HERE, Unavailable, digest, once, program, run, say, tools

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "libnss-systemd",
    "python3", "busybox-static", "libseccomp2", "runc", "crun", "criu", "uidmap", "strace", "procps", "psmisc", "kmod",
    "iproute2", "iptables", "nftables", "util-linux", "mount", "acl", "apparmor", "libcap2-bin", "ca-certificates", "curl",
    "podman", "buildah", "conmon", "netavark", "aardvark-dns", "catatonit", "golang-github-containers-common",
    "slirp4netns", "passt", "fuse-overlayfs",
)  # fmt: skip

MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "man-db.timer", "podman.service",
    "podman.socket", "podman-auto-update.timer", "podman-auto-update.service", "podman-restart.service",
    "e2scrub_all.timer", "e2scrub_reap.service", "systemd-tmpfiles-clean.timer", "systemd-pstore.service",
    "systemd-random-seed.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-journal-flush.service", "systemd-sysusers.service", "systemd-machine-id-commit.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
    "systemd-modules-load.service", "kmod-static-nodes.service", "modprobe@.service", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "dev-hugepages.mount", "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path", "getty.target", "apparmor.service", "systemd-networkd.service",
    "systemd-networkd.socket", "systemd-resolved.service", "systemd-timesyncd.service", "systemd-udevd.service",
    "systemd-udev-trigger.service",
)  # fmt: skip

#: an ordinary user with subordinate ids, who may leave processes behind, and one who has nothing but a name
USERS = {"tester": 1000, "loner": 1001}
SIZE = 4 << 30
#: the kernel finds its root by the number of the disk, whatever the disk is called
DISK = 0x6775E571
FIRST_SECTOR = 2048


def image() -> Path:
    """The disk image, which is made when there is none of these packages and files yet."""
    release = codename()
    files = [path for path in sorted((HERE / "root").rglob("*")) if path.is_file()]
    contents = [part for path in files for part in (str(path.relative_to(HERE)), path.read_bytes())]
    words = (release, *PACKAGES, *MASKED, *USERS, str(SIZE))
    path = CACHE / f"{release}-{digest(*words, *contents)}.ext4"
    with once(path) as work:
        if work:
            _make(work / path.name, work / "root", release)
    return path


def _make(path: Path, root: Path, release: str) -> None:
    if os.geteuid() != 0:
        raise Unavailable("making the guest's image needs root, once; `make guest` as root makes it")
    tools("mmdebstrap", "e2fsprogs")
    say(f"making the guest's image from Debian {release} (about a minute, once)")
    began = time.monotonic()
    packages = "--include=" + ",".join(PACKAGES)
    run("mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", packages, release, root, mirror(), limit_s=1200)
    shutil.copytree(HERE / "root", root, dirs_exist_ok=True)
    for unit in MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for name, uid in USERS.items():
        run("chroot", root, "useradd", "--create-home", "--uid", str(uid), "--shell", "/bin/bash", name)
    for file in (root / "etc/subuid", root / "etc/subgid"):
        file.write_text("".join(line for line in file.read_text().splitlines(True) if line.startswith("tester:")))
    linger = root / "var/lib/systemd/linger/tester"
    linger.parent.mkdir(parents=True, exist_ok=True)
    linger.touch()
    for directory in ("lib/modules", "root"):
        # a tree that is shared from root's own directory is read by ordinary users too
        (root / directory).mkdir(exist_ok=True)
        (root / directory).chmod(0o755)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    disk(path, root, SIZE)
    say(f"made in {time.monotonic() - began:.0f} s")


def disk(path: Path, tree: Path, size: int) -> None:
    """A disk of one partition with a copy of `tree`."""
    with path.open("wb") as file:
        file.truncate(size)
        sectors = size // 512 - FIRST_SECTOR
        entry = (0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", FIRST_SECTOR, sectors)  # where it begins and ends, its type
        file.write(struct.pack("<440xIHB3sB3sII48xH", DISK, 0, *entry, 0xAA55))
    options = f"lazy_itable_init=1,offset={FIRST_SECTOR * 512}"
    command = (program("mkfs.ext4"), "-q", "-F", "-O", "^has_journal", "-E", options, "-m", "0")
    run(*command, "-d", tree, path, f"{sectors // 2}k", limit_s=600)


def copy(path: Path, tree: Path) -> None:
    """An image as large as `tree`, for a guest that cannot see the host's directories."""
    used = subprocess.run(["du", "-sk", str(tree)], capture_output=True, text=True, check=True).stdout
    with path.open("wb") as file:
        file.truncate((int(used.split()[0]) * 5 // 4 << 10) + (32 << 20))
    run(program("mkfs.ext4"), "-q", "-F", "-O", "^has_journal", "-m", "0", "-d", tree, path)
