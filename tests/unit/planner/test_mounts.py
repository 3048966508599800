"""Mounts: what is refused, and what a golden plan would show less plainly."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import ConfigError, Unsupported

from .conftest import found, lines, make_plan


def mount(destination: str, kind: str = "", source: str = "", *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options), **more}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (mount("/m", "bind", "/s", "bind", "nosuidd"), r'options\.1: "nosuidd" is no option of a bind mount'),
        (mount("/", "tmpfs", "tmpfs"), "would hide the rootfs"),
        (mount("/x/..", "tmpfs", "tmpfs"), "would hide the rootfs"),
        (mount("/m"), "neither a type nor a bind mount"),
        (mount("/m", "ext4", "/dev/x", "tmpcopyup"), "tmpcopyup is for tmpfs alone"),
        (mount("/proc", "tmpfs", "tmpfs"), "not of type proc"),
        (mount("/proc", "bind", "/fake", "bind"), "not of type proc"),
        (mount("/proc/self/attr", "tmpfs", "tmpfs"), "inside /proc"),
        (mount("/x/../proc/sys", "bind", "/s", "bind"), "inside /proc"),
        (mount("proc/sys", "bind", "/s", "bind"), "inside /proc"),
        (mount("/m", "bind", "/s", "bind", "idmap"), "idmap without mappings"),
        (mount("/m", "bind", "/s", "bind", "copy-symlink", "src-nofollow"), "copy-symlink goes with neither"),
        (mount("/m", "tmpfs", "t", "src-nofollow"), "for bind mounts alone"),
        (mount("/m", "tmpfs", "t", "copy-symlink"), "for bind mounts alone"),
        (mount("/m", "", "", "bind", "remount", "src-nofollow"), "for bind mounts alone"),
        (mount("/m", "bind", "/s", "bind", "idmap=uids=1-2"), '"1-2" of idmap is not three numbers'),
        (mount("/m", "bind", "/s", "bind", "idmap=uids=1-2-3#"), '"" of idmap is not three numbers'),
        (mount("/m", "bind", "/s", "bind", "idmap=uids=+1-2-3"), "is not three numbers"),
        (mount("/m", "bind", "/s", "bind", "idmap=gids=@1-2-3"), "linux.gidMappings does not map it"),
        (mount("/m", "bind", "/s", "bind", "idmap=1-2-3"), "neither uids=... nor gids="),
        (mount("/m", "bind", "/s", "bind", uidMappings=[{"containerID": 0, "hostID": 1, "size": 1}]), "only one of"),
    ],
)
def test_refused(entry: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        make_plan(mounts=[entry])
    assert caught.value.where.startswith("/mounts/0")


def test_what_lxcfs_mounts_inside_proc() -> None:
    assert make_plan(
        mounts=[mount("/proc/stat", "bind", "/lxcfs/stat", "bind"), mount("/proc", "bind", "/proc", "rbind")]
    )


def test_a_place_of_proc_or_sysfs_is_no_link() -> None:
    plan = make_plan(mounts=[mount("/proc", "proc", "proc"), mount("/sys", "sysfs", "s"), mount("/t", "ramfs", "r")])
    assert lines(plan, "mountpoint", where="/mounts") == [
        "mountpoint rootfs:/proc like mnt -> at nofollow",
        "mountpoint rootfs:/sys like mnt -> at nofollow",
        "mountpoint rootfs:/t like mnt -> at",
    ]


def test_source_of_a_bind_is_relative_to_the_bundle() -> None:
    plan = make_plan(mounts=[mount("/m", "none", "a/b", "rbind")])
    assert lines(plan, "open-tree", where="/mounts/0") == ["open-tree host:/run/bundle/a/b -> tree (clone,recursive)"]


def test_read_only_tmpfs_is_written_to_before_it_is_read_only() -> None:
    entries = [mount("/t", "tmpfs", "tmpfs", "ro", "mode=700"), mount("/t/sub", "tmpfs", "tmpfs")]
    plan = make_plan(mounts=entries)
    names = [describe for describe in lines(plan) if "mnt-0" in describe or "/t/sub" in describe]
    assert names[0] == "fsmount fs -> mnt-0 (none)"
    assert names[-1] == "mount-setattr mnt-0 set ro"
    assert any("/t/sub" in line for line in names[:-1])


def test_words_that_fsconfig_does_not_take() -> None:
    """They go to mount(2) with all the others, as far as a page has room for them; more layers than that one by one."""
    for word, is_whole in (("l" * 255, False), ("l" * 256, True), ("ü" * 127, False), ("ü" * 128, True)):
        plan = make_plan(mounts=[mount("/t", "overlay", "o", f"lowerdir={word}", "sync", "ro", "noatime")])
        whole = [f"mount overlay o -> mnt (lowerdir={word}) ro,sync", "mount-setattr mnt set ro,noatime clear atime"]
        made = lines(plan, where="/mounts/0")
        assert (made[:2] == whole) is is_whole and (made[0] == "fsopen overlay -> fs") is not is_whole
    layers = [f"/layers/{number:0100}" for number in range(50)]
    plan = make_plan(mounts=[mount("/t", "overlay", "o", f"lowerdir={':'.join(layers)}")])
    assert [op.s1 for op in found(plan, "fsconfig", where="/mounts/0") if op.s0 == "lowerdir+"] == layers
    assert not lines(plan, "mount", where="/mounts/0")


def test_every_op_of_a_mount_is_named_after_it() -> None:
    plan = make_plan(mounts=[mount("/t", "tmpfs", "tmpfs", "nosuid", "size=1m")])
    assert {op.about for op in found(plan, where="/mounts/0")} == {"mount tmpfs on /t (nosuid,size=1m)"}


def test_mount_label_without_selinux() -> None:
    with pytest.raises(Unsupported, match="mountLabel"):
        make_plan(linux={"mountLabel": "x"}, mounts=[mount("/t", "tmpfs", "tmpfs")])
    # what has no label of its own asks for no SELinux
    assert make_plan(linux={"mountLabel": "x"}, mounts=[mount("/proc", "proc", "proc")])


def test_without_a_mount_namespace_nothing_is_mounted_on_the_host() -> None:
    plan = make_plan(namespaces=("pid",))
    assert not any(line.startswith("move-mount rootfs") for line in lines(plan))
    assert not lines(plan, "pivot-root") and not any(line.startswith("mount-setattr /") for line in lines(plan))


@pytest.mark.parametrize(
    ("word", "expected"),
    [("", "slave"), ("rslave", "slave"), ("private", "private"), ("unbindable", "private"), ("rshared", "")],
)
def test_a_source_that_is_taken_early_is_no_peer_of_the_hosts(word: str, expected: str) -> None:
    """Where it stayed one, root of the user namespace would mount on the host; of a shared rootfs that is what was asked for."""
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux = {"uidMappings": maps, "gidMappings": maps, **({"rootfsPropagation": word} if word else {})}
    entries = [mount("/a", "bind", "/srv/a", "bind", "ro"), mount("/b", "bind", "/srv/b", "rbind")]
    plan = make_plan(linux=linux, namespaces=("user", "mount"), mounts=entries)
    made = [line for line in lines(plan) if not line.startswith("unshare user")]
    early = made[: next(number for number, line in enumerate(lines(plan)) if line.startswith("unshare user"))]
    for tree in ("src-0", "src-1"):
        assert any(line.startswith("open-tree host:/srv/") and f"-> {tree} " in line for line in early)
        found = [
            line for line in early if line.startswith(f"mount-setattr {tree} {expected}") and line.endswith("recursive")
        ]
        assert len(found) == (1 if expected else 0)


def test_id_maps_in_the_option() -> None:
    """The properties count where both are there; a kind that is not named is not mapped to anything else."""

    def asked(option: str, **more: Any) -> list[str]:
        plan = make_plan(mounts=[mount("/m", "bind", "/s", "bind", option, **more)])
        return [step[2] for step in plan.sections["idmap-0"]]

    everybody = "0 0 4294967295\n"
    assert asked("idmap=uids=0-1-10#10-11-10;gids=0-100-10") == ["0 1 10\n10 11 10\n;0 100 10\n"]
    assert asked("idmap=uids=0-1-10") == [f"0 1 10\n;{everybody}"]
    assert asked("ridmap=gids=#0-1-10") == [f"{everybody};0 1 10\n"]
    one = [{"containerID": 5, "hostID": 6, "size": 7}]
    assert asked("idmap=uids=0-1-10", uidMappings=one, gidMappings=one) == ["5 6 7\n;5 6 7\n"]


@pytest.mark.parametrize("kind", ["context", "fscontext", "defcontext", "rootcontext"])
def test_how_a_mount_is_given_its_label(kind: str) -> None:
    more: dict[str, Any] = {"annotations": {"run.oci.mount_context_type": kind}} if kind != "context" else {}
    plan = make_plan(
        facts={"has_selinux": True}, linux={"mountLabel": "u:r:t:s0"}, mounts=[mount("/m", "tmpfs", "t")], **more
    )
    assert f"fsconfig fs {kind}=u:r:t:s0" in lines(plan, "fsconfig", where="/mounts/0")
