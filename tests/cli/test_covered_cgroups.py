"""A mount of a cgroup hierarchy that another mount covers is none: what would be made there would be plain directories.

And a hierarchy that is covered for the container, which has no cgroup of its own to see there.
"""

from __future__ import annotations

import subprocess

import pytest

SCRIPT = 'mount -t tmpfs covered "$1" && shift && exec "$@"'


def in_the_hosts_cgroup_namespace(config):
    namespaces = config["linux"]["namespaces"]
    namespaces[:] = [one for one in namespaces if one["type"] != "cgroup"]


@pytest.mark.requires("cgroup-hybrid")
def test_a_covered_v2_is_not_used(pyrunc, make):
    made, id_ = make(in_the_hosts_cgroup_namespace, "/bin/cat", "/proc/self/cgroup"), pyrunc.id()
    command = pyrunc.argv("run", "-b", made, id_)
    words = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", "/sys/fs/cgroup/unified", *map(str, command)]
    done = subprocess.run(words, env=pyrunc.env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    path = made.config["linux"]["cgroupsPath"]
    found = {line.split(":")[1]: line.split(":", 2)[2] for line in done.stdout.splitlines()}
    assert found["memory"].endswith(path) and not found[""].endswith(path)


@pytest.mark.parametrize("kind", ["cgroup", "cgroup2"])
@pytest.mark.requires("cgroup-v2", "no-delegation")
def test_who_has_no_cgroup_sees_none(rootless, own, kind):
    """The root of the container's cgroup namespace is the cgroup that its user is in, with all else that runs there."""

    def edit(config):
        for mount in config["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                mount.update(type=kind, options=[option for option in mount["options"] if option != "ro"])

    script = "cat /proc/self/cgroup; ls -A /sys/fs/cgroup; mkdir /sys/fs/cgroup/x; stat -f -c %T /sys/fs/cgroup"
    done = rootless("run", "-b", own(edit, "/bin/sh", "-c", script), rootless.id())
    assert done.out == "0::/\ntmpfs\n" and "Read-only file system" in done.err
