"""Debian's own kernel in QEMU, in software: slow, and with all that User-Mode Linux lacks (hugetlb, NUMA, CRIU, modules).

The cloud flavour of the kernel has ext4 and NVMe built in, so that it needs no initial RAM disk. It cannot see the host's
directories: they are copied to disks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from archive import Release, codename
from image import DISK, copy, image
from making import CACHE, once, program, run, say, tools
from session import INIT

MEMORY = "1536M"
PACKAGE = r"linux-image-\d+\.\d+\.\d+(-\d+|\+deb\d+(\.\d+)?)-cloud-amd64"
#: what is no part of the tree, or too large a part for a copy at each start
LEFT_OUT = shutil.ignore_patterns(".git", ".*_cache", "trixie*", "corpus", "kernel-*", "go", "logs")


class Cloud:
    """A machine that session.py can start."""

    lines = {"out": "vport*p1", "err": "vport*p2", "status": "vport*p3", "back": "vport*p4", "terminal": ""}
    #: the disks, as name spaces of one controller; the root is the first
    modules, run, tree = 2, 3, 4

    def __init__(self) -> None:
        tools("qemu-system-x86", "kmod", "e2fsprogs")
        self.qemu, self.kernel, self.image = program("qemu-system-x86_64"), kernel(), image()

    def source(self, directory: Path) -> str:
        return f"disk:{self.tree}"

    def command(self, work: Path, tree: Path, fds: dict[str, int], has_terminal: bool) -> list[str]:
        copy(work / "run.ext4", work / "run")
        shutil.copytree(tree, work / "tree", symlinks=True, ignore=left_out)
        copy(work / "tree.ext4", work / "tree")
        shutil.rmtree(work / "tree")
        words = [
            str(self.qemu), "-M", "q35", "-smp", str(len(os.sched_getaffinity(0))), "-m", MEMORY,
            "-nodefaults", "-nographic", "-no-reboot", "-accel", "tcg,thread=multi,tb-size=512",
            # QEMU 7.2 emulates cmpxchg16b wrongly where Linux 6.12 uses it
            "-cpu", "max,la57=off,cx16=off",
            "-object", f"memory-backend-ram,id=memory,size={MEMORY}", "-numa", "node,memdev=memory",
            "-device", "nvme,id=disks,serial=guest",
            "-chardev", f"file,id=console,path=/proc/self/fd/{fds['console']}", "-serial", "chardev:console",
            # serial ports of the old kind lose what is said in a hurry
            "-device", "virtio-serial-pci,id=lines,max_ports=5",
        ]  # fmt: skip
        disks = (self.image, self.kernel / "modules.ext4", work / "run.ext4", work / "tree.ext4")
        for number, path in enumerate(disks, 1):
            # other guests have the image as well, and none of them writes to it
            mode = "snapshot=on,file.locking=off" if path == self.image else "readonly=on"
            words += ["-drive", f"file.filename={path},if=none,id=disk{number},format=raw,{mode}"]
            words += ["-device", f"nvme-ns,bus=disks,drive=disk{number},nsid={number}"]
        for number, name in enumerate(("out", "err", "status", "back"), 1):
            words += ["-chardev", f"file,id={name},path=/proc/self/fd/{fds[name]}"]
            words += ["-device", f"virtserialport,bus=lines.0,nr={number},chardev={name},name={name}"]
        line = (
            "console=ttyS0", "quiet", f"root=PARTUUID={DISK:08x}-01", "rootfstype=ext4", "rootwait", "rw", "psi=1",
            "mitigations=off", "panic=-1", "tsc=reliable", "no_timer_check",
            f"guest.modules=disk:{self.modules}", f"guest.run=disk:{self.run}", *INIT,
        )  # fmt: skip
        return [*words, "-kernel", str(self.kernel / "vmlinuz"), "-append", " ".join(line)]

    def end(self, work: Path) -> None:
        """It was one process, or a few that end with it."""


def left_out(folder: str, names: list[str]) -> set[str]:
    """The names in a directory of the tree that are not copied; build/guest is this machine's, and tests/guest has plugins of pytest."""
    return {*LEFT_OUT(folder, names), *(["guest"] if os.path.basename(folder) == "build" else [])}


def kernel() -> Path:
    """A directory with the kernel and a disk of its modules, which is made when there is none yet."""
    release = f"{codename()}-backports"
    path = CACHE / f"cloud-{release}"
    with once(path) as work:
        if work:
            archive = Release(release)
            package = archive.newest(PACKAGE)
            say(f"fetching {package} of {release}")
            archive.unpack(package, work / "package")
            top = next(place for place in (work / "package/usr", work / "package") if (place / "lib/modules").is_dir())
            (version,) = (top / "lib/modules").iterdir()
            run(program("depmod"), "-b", top, version.name)
            (vmlinuz,) = (work / "package/boot").glob("vmlinuz-*")
            made = work / path.name
            made.mkdir()
            shutil.copy(vmlinuz, made / "vmlinuz")
            copy(made / "modules.ext4", top / "lib/modules")
    return path
