"""Somebody changes names while a container starts, as fast as he can, on every processor.

Each start either happens as if nobody did, or fails; nothing outside is ever reached. ATTACK_STARTS=300 makes a campaign of what
is a sample otherwise, and then of 300 starts 299 must succeed.
"""

from __future__ import annotations

import os
import re

import pytest

pytestmark = pytest.mark.requires("root", "two-cpus")

STARTS = int(os.environ.get("ATTACK_STARTS", "6"))
LONG = pytest.mark.timeout(120 + 5 * STARTS)


@LONG
@pytest.mark.parametrize("calls", [(), ("openat2",)], ids=["openat2", "no openat2"])
def test_places_are_exchanged_with_links(pyrunc, make, outside, scratch, hidden, exchanging, calls):
    """CVE-2021-30465, CVE-2024-45310, CVE-2018-15664: a directory on the way is now itself, now a link to the host."""
    hidden(*calls)
    (scratch / "file").write_text("x")
    (outside.path / "secret").write_text("x")
    outside.remember()
    made = make(None, "/bin/cut", "-d", " ", "-f", "5,6", "/proc/self/mountinfo")
    for top in (made.rootfs, made.rootfs / outside.path.relative_to("/")):
        (top / "swapped/cwd").mkdir(parents=True)
        (top / "cwd").mkdir(exist_ok=True)
        (top / "secret").write_text("x")
        (top / "swapped/secret").write_text("x")
    (made.rootfs / "link").symlink_to(outside.path)
    mounts = made.config["mounts"]
    exchanging(made.rootfs, "swapped", "link")
    failed: list[str] = []
    for number in range(STARTS):
        made.config["mounts"] = [
            *mounts,
            {"destination": f"/swapped/t{number}/x", "type": "tmpfs", "source": "t"},
            {
                "destination": f"/swapped/f{number}/x",
                "type": "bind",
                "source": str(scratch / "file"),
                "options": ["bind"],
            },
        ]
        made.config["linux"]["devices"] = [{"path": f"/swapped/d{number}/null", "type": "c", "major": 1, "minor": 3}]
        made.config["linux"].update(maskedPaths=["/swapped/secret"], readonlyPaths=["/swapped"])
        made.config["process"]["cwd"] = "/swapped/cwd"
        made.write()
        result = pyrunc("run", "-b", made, pyrunc.id(str(number)), status=None, timeout=30)
        failed += [result.err] * (result.status != 0)
        outside.check(number)
        # all of it is in the container: what went astray would be missing
        for what in (f"/t{number}/x rw", f"/f{number}/x rw", "/secret ro", "/(swapped|link|outside) ro"):
            assert result.status or re.search(f"{what},", result.out), (what, result.out)
    assert len(failed) <= max(1, STARTS // 300), (len(failed), STARTS, set(failed))


@LONG
def test_what_is_masked_is_exchanged(pyrunc, make, scratch, exchanging):
    """GHSA-3q8j-pf29-vwv8: a path was opened once to look at it, once to clone and once to mount over it."""
    volume = scratch / "volume"
    for name in ("a", "b"):
        (volume / name / "ro").mkdir(parents=True)
        (volume / name / "secret").write_text("x")
    made = make(lambda config: config["linux"].update(maskedPaths=["/volume/a/secret"], readonlyPaths=["/volume/b/ro"]))
    made.config["mounts"].append({"destination": "/volume", "type": "bind", "source": str(volume), "options": ["bind"]})
    made.write()
    exchanging(volume, "a", "b")
    for number in range(STARTS):
        id_ = pyrunc.id(str(number))
        if pyrunc("create", "-b", made, id_, status=None, timeout=30).status == 0:
            exchanging.pause()
            with open(f"/proc/{pyrunc.pid(id_)}/mountinfo") as file:
                there = [line.split()[3:6] for line in file if " /volume/" in line]
            exchanging.resume()
            # whichever it was by then: one file is hidden, and one directory is read-only, itself and no other
            assert [point for root, point, _ in there if point.endswith("/secret") and root == "/null"], there
            (only,) = ((root, point, options) for root, point, options in there if point.endswith("/ro"))
            assert only[0].endswith(only[1]) and only[2].startswith("ro"), there
        pyrunc("delete", "--force", id_)


@LONG
def test_the_source_of_a_bind_is_exchanged(pyrunc, make, outside, scratch, exchanging):
    """CVE-2024-42472: sources are followed as the caller follows them, once: what was looked at is what is mounted."""
    (scratch / "volume/source").mkdir(parents=True)
    (scratch / "volume/other").write_text("file")
    made = make(None, "/bin/true")
    mounts = made.config["mounts"]
    exchanging(scratch / "volume", "source", "other")
    for number in range(STARTS):
        made.config["mounts"] = [
            *mounts,
            *(
                {
                    "destination": f"/new{number}-{i}",
                    "type": "bind",
                    "source": str(scratch / "volume/source"),
                    "options": ["bind"],
                }
                for i in range(8)
            ),
        ]
        made.write()
        pyrunc("run", "-b", made, pyrunc.id(str(number)), timeout=30)
    outside.check()
