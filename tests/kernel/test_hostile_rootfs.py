"""Names in a hostile rootfs: whatever an image puts in the way, nothing outside is made, changed, opened or mounted on.

Each trap is tried with every op that takes a name inside a root, with openat2 and with what stands in for it. Security
reference: CVE-2015-1335, CVE-2018-15664, CVE-2019-18837, CVE-2021-30465, CVE-2024-45310, CVE-2026-41579, CVE-2026-47766, CVE-2026-88264.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from interpreter import Done, Interpreter, private, rootfs, sh, tmpfs

from runtime import linux
from runtime.ops import FLAG_MISSING
from runtime.plan import Op

if TYPE_CHECKING:
    from conftest import Place

Interpret = Callable[..., Done]

#: what `trap` in the rootfs is a link to, seen from the rootfs
TRAPS = {
    "relative": "../outside",
    "deep": "../../../../../../../../..{outside}",
    "absolute": "{outside}",
    "two-links": "second",
    "root-and-up": "/../outside",
    "dangling": "{outside}/not/there",
    "with-slash": "../outside/",
    "with-dots": "etc/.././../outside/.",
    "loop": "trap",
    "magic": "/proc/self/root{outside}",
    "magic-fd": "/proc/self/fd/5",
    "long": "/".join(["etc/.."] * 500) + "/../outside",
}
#: names that lead through the trap
NAMES = ("trap", "trap/", "/trap/x", "trap/x/y/", "etc/../trap/x", "//trap//./x", "trap/../trap/canary", "trap/..//x")
REFUSALS = {
    errno.ELOOP, errno.ENOENT, errno.EXDEV, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
}  # fmt: skip


def dig(place: Place, trap: str) -> None:
    if not (place.rootfs / "third").exists():
        (place.rootfs / "third").mkdir()
        (place.rootfs / "second").symlink_to("third/../../outside")
    (place.rootfs / "trap").unlink(missing_ok=True)
    (place.rootfs / "trap").symlink_to(TRAPS[trap].format(outside=place.outside))


def ops_on(name: str) -> dict[str, list[Op]]:
    return {
        "mkdirs": [Op("mkdirs", name, r1="rootfs", a=0o755)],
        "mountpoint": [*tmpfs("t"), Op("mountpoint", name, r0="at", r1="rootfs", r2="t"), Op("move-mount", r0="t", r1="at")],
        "mountpoint of a file": [
            Op("open-tree", "/dev/null", r0="t", a=linux.OPEN_TREE_CLONE),
            Op("mountpoint", name, r0="at", r1="rootfs", r2="t"),
            Op("move-mount", r0="t", r1="at"),
        ],
        "symlink": [Op("symlink", "/proc/self/fd", name, r1="rootfs")],
        "mknod": [Op("mknod", name, r1="rootfs", a=linux.S_IFCHR | 0o666, b=linux.makedev(1, 3), c=1000 | 1000 << 32)],
        "mask": [Op("open-tree", "/dev/null", r0="null", a=1), Op("mask", name, r0="null", r1="rootfs", r2="e")],
        "readonly": [Op("readonly", name, r1="rootfs")],
        "open": [
            Op("open", name, r0="x", r1="rootfs", a=linux.O_WRONLY | linux.O_CREAT, c=0o600,
               b=linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS),
        ],
        "write": [Op("write", name, "gone", r1="rootfs")],
        "move-mount": [*tmpfs("t"), Op("move-mount", name, r0="t", r1="rootfs")],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ops_on(""))
def test_nothing_outside_is_touched(
    start: Callable[..., Interpreter], place: Place, kind: str, refused: list[Op]
) -> None:
    leak = os.open(place.outside, os.O_PATH)
    proc = [Op("fsopen", "proc", r0="c"), Op("fsmount", r0="c", r1="p"), Op("move-mount", "/proc", r0="p", r1="rootfs")]
    look = sh(f"cat /proc/self/mountinfo | cut -d' ' -f5; cat {place.outside}/canary {place.outside}/ptmx")
    for trap, name in itertools.product(TRAPS, NAMES):
        dig(place, trap)
        ops = [*private(), *rootfs(place.rootfs), *proc, *refused, *ops_on(name)[kind]]
        init = start(*ops, look, registers={"leak": leak}).serve()
        init.wait()
        assert place.is_untouched(), (trap, name)
        if init.status == 0:
            *points, contents = init.out.splitlines()
            assert contents == "alivemine" and not [point for point in points if point.startswith(str(place.outside))]
        else:
            assert init.failures[0][1] in REFUSALS, (trap, name, init.failures)
        init.close()
    os.close(leak)


def test_a_dangling_link_is_filled_inside(start: Callable[..., Interpreter], place: Place, refused: list[Op]) -> None:
    """What runc's MkdirAll and securejoin do with one, too."""
    dig(place, "dangling")
    (place.rootfs / "short").symlink_to("new/file")
    null = Op("open-tree", "/dev/null", r0="n", a=1)
    points = [Op("mountpoint", "trap/sub", r0="x", r1="rootfs"), Op("mountpoint", "short", r0="x", r1="rootfs", r2="n")]
    init = start(*private(), *rootfs(place.rootfs), null, *refused, *points).serve()
    assert init.wait() == 0
    assert (Path(f"{place.rootfs}{place.outside}") / "not/there/sub").is_dir()
    assert (place.rootfs / "new/file").is_file()


def test_dots_at_the_top(start: Callable[..., Interpreter], place: Place, refused: list[Op]) -> None:
    names = ("../../made", "/..", "/", "./a/../../b", "a/b/c/../../../../../d")
    ops = [Op("mkdirs", name, r1="rootfs", a=0o755) for name in names]
    assert start(*private(), *rootfs(place.rootfs), *refused, *ops).serve().wait() == 0
    assert all((place.rootfs / name).is_dir() for name in ("made", "b", "d")) and place.is_untouched()


@pytest.mark.parametrize("links", [39, 60])
def test_chains_of_links(start: Callable[..., Interpreter], place: Place, links: int, refused: list[Op]) -> None:
    for number in range(links):
        (place.rootfs / f"l{number}").symlink_to(f"l{number + 1}")
    (place.rootfs / f"l{links}").mkdir()
    init = start(*private(), *rootfs(place.rootfs), *refused, Op("mkdirs", "l0/x", r1="rootfs", a=0o755)).serve()
    assert init.wait() == int(links > 40)
    assert [failure[1] for failure in init.failures] == ([errno.ELOOP] if links > 40 else [])


def test_paths_of_the_greatest_length(start: Callable[..., Interpreter], place: Place, refused: list[Op]) -> None:
    fits, long = "/".join(["y" * 255] * 15), "x/" * 2047 + "x"
    ops = [*private(), *rootfs(place.rootfs), *refused]
    assert start(*ops, Op("mkdirs", fits, r1="rootfs", a=0o755)).serve().wait() == 0
    for name in (long + "/xx", "z" * 256):
        init = start(*ops, Op("mkdirs", name, r1="rootfs", a=0o755)).serve()
        assert (init.wait(), init.failures[0][1]) == (1, errno.ENAMETOOLONG)


# -- races -----------------------------------------------------------------------------------------------------------------


def exchange(place: Place, seconds: float) -> int:
    """A process that exchanges a directory of the rootfs with a link to outside, over and over; its pid."""
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        os.chdir(place.rootfs)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(100):
                libc.renameat2(-100, b"swapped", -100, b"link", 2)  # RENAME_EXCHANGE
        os._exit(0)
    return pid


@pytest.mark.parametrize("kind", ["mkdirs", "mountpoint", "mountpoint of a file", "mknod", "mask", "symlink"])
def test_exchange_race(start: Callable[..., Interpreter], place: Place, kind: str, refused: list[Op]) -> None:
    """CVE-2021-30465, CVE-2024-45310: the name changes between one look and the next."""
    (place.rootfs / "swapped/deep").mkdir(parents=True)
    (place.rootfs / "link").symlink_to(place.outside)
    attacker = exchange(place, 20)
    try:
        for turn in range(5):
            ops = [op for number in range(60) for op in attack(kind, f"{turn}-{number}", number < 5)]
            init = start(*private(), *rootfs(place.rootfs), *refused, *ops)
            init.serve().wait()
            assert init.failures == [] and place.is_untouched()
    finally:
        os.kill(attacker, signal.SIGKILL)
        os.waitpid(attacker, 0)
    assert place.is_untouched()


def attack(kind: str, new: str, is_mounted: bool) -> list[Op]:
    """The ops of one kind on a name whose first part is being exchanged; the rest is to be made, anew each time."""
    name = {"mask": "swapped/deep", "symlink": f"swapped/{new}"}.get(kind, f"swapped/{new}/x")
    ops = ops_on(name)[kind]
    if kind == "symlink":
        # the link's target is not there inside the root, and this op makes no directories: that much is seen
        ops[0].flags = FLAG_MISSING
    return [op for op in ops if op.name != "move-mount" or is_mounted]
