"""The guest's kernel: User-Mode Linux, an ordinary program that is a Linux kernel, compiled from Debian's linux-source.

It needs neither root nor /dev/kvm, and starts in a second. What it can do is kernel.config. PYRUNC_GUEST_KERNEL in the
environment names one that is there already. Debian's own (its package user-mode-linux) is of an older kernel, which has no cpuset,
no time namespace and no pressure files; it is what remains where compiling takes too long.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from archive import Release
from making import CACHE, HERE, Unavailable, digest, once, program, run, say, tools

CONFIG = HERE / "kernel.config"
RELEASE = "trixie-backports"
#: from this version on it confines its processes by seccomp instead of ptrace, and has several processors
OLDEST = (6, 19)
#: of Debian's own
MODULES = Path("/usr/lib/uml/modules")
#: seconds that compiling may take; 0: there is no time for it
LIMIT_S = float(os.environ.get("PYRUNC_GUEST_COMPILE_S", 1800))
#: what is in the archive for other processors and for devices, which is most of it; the descriptions of the options are read
LEFT_OUT = [
    f"--exclude={pattern}"
    for pattern in (
        "*.rst", "*.yaml", "*.dts", "*.dtsi", "*/tools/testing/*", "*/tools/perf/*", "*/drivers/gpu/*.[ch]",
        "*/drivers/net/ethernet/*.[ch]", "*/drivers/net/wireless/*.[ch]", "*/drivers/media/*.[ch]", "*/sound/*.[ch]",
        "*/drivers/scsi/*.[ch]", "*/drivers/staging/*.[ch]", "*/drivers/infiniband/*.[ch]", "*/drivers/iio/*.[ch]",
        *(f"*/arch/{name}/*.[chS]" for name in ("arm", "arm64", "mips", "powerpc", "riscv", "s390", "sparc", "sh", "m68k")),
    )
]  # fmt: skip


def kernel() -> Path:
    """The kernel, which is made when there is none yet; Debian's own where that takes too long, or fails."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"User-Mode Linux runs on x86-64, and this is {platform.machine()}")
    if given := os.environ.get("PYRUNC_GUEST_KERNEL"):
        path = Path(given).absolute()
        if not path.is_file():
            raise Unavailable(f"PYRUNC_GUEST_KERNEL={given}: no such file")
        return path
    path = CACHE / f"linux-{digest(CONFIG.read_bytes(), RELEASE)}"
    try:
        if not LIMIT_S and not path.exists():
            raise Unavailable("none is compiled yet, and PYRUNC_GUEST_COMPILE_S=0 says not to")
        with once(path) as work:
            if work:
                _compile(work, work / path.name)
    except Unavailable as error:
        say(f"no kernel of our own, going on with Debian's: {error}")
        tools("user-mode-linux", "gcc", "libc6-dev")
        return program("linux.uml")
    return path


def registers() -> Path:
    """The library that an older kernel needs on a newer processor: registers.c."""
    source = HERE / "registers.c"
    path = CACHE / f"registers-{digest(source.read_bytes())}.so"
    with once(path) as work:
        if work:
            run(program("gcc"), "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", work / path.name, source)
    return path


def version(path: Path) -> tuple[int, ...]:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _compile(work: Path, path: Path) -> None:
    tools("gcc", "libc6-dev", "make", "flex", "bison", "bc", "xz-utils")
    release = Release(RELEASE)
    package = release.newest(r"linux-source-\d+\.\d+")
    say(f"fetching {package} of {RELEASE} (160 MB)")
    release.unpack(package, work)
    (packed,) = work.glob("usr/src/*.tar.xz")
    say("compiling the kernel (five to ten minutes of two processors, once)")
    run("tar", "-C", work, *LEFT_OUT, "-xf", packed, limit_s=LIMIT_S)
    packed.unlink()
    (source,) = work.glob("linux-source-*")
    make = ("nice", "make", "-C", source, "ARCH=um", f"-j{len(os.sched_getaffinity(0))}")
    run(*make, f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig", limit_s=LIMIT_S)
    if options := lost(source / ".config"):
        say(f"options that this kernel does not take: {' '.join(options)}")
    run(*make, "linux", limit_s=LIMIT_S)
    run(program("strip"), source / "linux")
    shutil.copy(source / "linux", path)


def lost(made: Path) -> list[str]:
    """Options that a newer kernel no longer knows, or that another one rules out: they vanish without a word."""
    known = set(made.read_text().splitlines())
    return [line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_") and line not in known]
