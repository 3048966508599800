"""`features` tells the truth: each word of each list is taken by a container, and the document is the specification's."""

from __future__ import annotations

import json
import subprocess

import pytest
from features import has

from specs.explain import Located, schema_findings

#: a system call that nothing in the probe needs
SPARE = "getpriority"


@pytest.fixture
def features(pyrunc):
    return pyrunc("features").json()


def test_it_is_a_document_of_the_specification(pyrunc, features):
    """No property that features.md does not know, and no null, which would mean not known."""
    assert schema_findings(Located(json.dumps(features)), "features", strict=True) == []

    def nulls(value):
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return value is None or any(nulls(child) for child in children)

    assert not nulls(features)
    assert all(key and isinstance(value, str) for key, value in features["annotations"].items())
    assert not [word for word in features["mountOptions"] if "=" in word or word in ("size", "mode", "newinstance")]


@pytest.mark.requires("root")
def test_it_is_about_the_build_and_not_about_the_host(pyrunc, features):
    """Where there is neither a cgroup nor a security module to be seen, it is the same."""
    script = "umount -l /sys/fs/cgroup && umount -l /sys && exec " + " ".join(pyrunc.argv("features"))
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == features


def test_versions(pyrunc, bundle, features):
    numbers = [tuple(map(int, features[key].split("."))) for key in ("ociVersionMin", "ociVersionMax")]
    assert numbers[0] <= numbers[1]
    for key in ("ociVersionMin", "ociVersionMax"):
        pyrunc("run", "-b", bundle("/bin/true", ociVersion=features[key]), pyrunc.id(key.lower()))


def test_namespaces(pyrunc, make, features):
    def edit(config):
        # of a user it takes one; root's are in test_namespaces.py
        left_out = {"user"} if has("root") else set()
        config["linux"]["namespaces"] = [
            {"type": kind} for kind in features["linux"]["namespaces"] if kind not in left_out
        ]

    pyrunc("run", "-b", make(edit, "/bin/true"), pyrunc.id())
    assert "user" in features["linux"]["namespaces"]


def test_capabilities(pyrunc, make, features):
    def edit(config):
        sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
        config["process"]["capabilities"] = {key: features["linux"]["capabilities"] for key in sets}

    result = pyrunc("--log-level", "warning", "run", "-b", make(edit, "/bin/true"), pyrunc.id())
    assert "unknown capability" not in result.err


def test_mount_options(pyrunc, make, features):
    """Each is known: none is handed to the file system, which would refuse it."""
    later = {"remount", "idmap", "ridmap", "bind", "rbind", "tmpcopyup"}  # test_mounts.py and test_mount_options.py
    later |= {"copy-symlink", "src-nofollow", "dest-nofollow"}  # test_mount_links.py
    plain = [word for word in features["mountOptions"] if word not in later]

    def edit(config):
        for word in plain:
            mount = {"destination": f"/m/{word}", "type": "tmpfs", "source": "tmpfs", "options": [word]}
            config["mounts"].append(mount)

    pyrunc("run", "-b", make(edit, "/bin/true"), pyrunc.id())
    assert later <= set(features["mountOptions"])


@pytest.mark.requires("x86-64")
@pytest.mark.parametrize("what", ["actions", "operators", "archs", "supportedFlags"])
def test_seccomp(pyrunc, make, features, what):
    words = features["linux"]["seccomp"][what]
    assert words
    for number, word in enumerate(words):

        def edit(config, word=word):
            rule = {"names": [SPARE], "action": "SCMP_ACT_ERRNO"}
            seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
            # each list has what only means something besides others: a listener's flag needs a listener
            if what == "actions":
                rule["action"] = word
            elif what == "operators":
                rule["args"] = [{"index": 0, "value": 7, "valueTwo": 5, "op": word}]
            elif what == "archs":
                seccomp["architectures"] = ["SCMP_ARCH_X86_64", word]
            else:
                seccomp["flags"] = [word]
            config["linux"]["seccomp"] = seccomp

        if word == "SCMP_ACT_NOTIFY":
            assert "needs a listenerPath" in pyrunc.fails("create", "-b", make(edit), pyrunc.id("notify"))
        elif word == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV":
            pyrunc("validate", make(edit))
        elif what == "archs" and "is not supported by" in (
            pyrunc("run", "-b", make(edit, "/bin/true"), pyrunc.id(f"a{number}"), status=None).err
        ):
            pytest.fail(f"{word} is listed and refused")
        elif what != "archs":
            pyrunc("run", "-b", make(edit, "/bin/true"), pyrunc.id(f"{what.lower()}{number}"))


def test_known_flags_of_seccomp(pyrunc, make, features):
    words = features["linux"]["seccomp"]["knownFlags"]
    assert set(features["linux"]["seccomp"]["supportedFlags"]) <= set(words)

    def edit(config):
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "flags": words}

    assert pyrunc("validate", make(edit)).out == ""


def test_memory_policy(pyrunc, make, features):
    policies = features["linux"]["memoryPolicy"]
    assert policies["modes"] and policies["flags"]
    for mode in policies["modes"]:

        def edit(config, mode=mode):
            config["linux"]["memoryPolicy"] = {"mode": mode}
            if mode not in ("MPOL_DEFAULT", "MPOL_LOCAL"):
                config["linux"]["memoryPolicy"]["nodes"] = "0"

        assert pyrunc("validate", make(edit)).out == ""
    for flag in policies["flags"]:

        def flagged(config, flag=flag):
            config["linux"]["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]}

        assert pyrunc("validate", make(flagged)).out == ""
