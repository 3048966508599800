"""A mount of a cgroup hierarchy that another mount covers is none: what would be made there would be plain directories."""

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
