"""The configuration that `spec` writes."""

from __future__ import annotations

import json

from runtime.cli import spec


def test_it_is_laid_out_with_tabs() -> None:
    text = spec.laid_out(spec.example("v1"))
    assert text == json.dumps(spec.example("v1"), indent="\t") + "\n"


def test_only_the_added_masks_and_names_differ_from_runcs() -> None:
    linux = spec.example("v1")["linux"]
    # runc 1.1.5's list, which later ones only add to
    older = (
        "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug "
        "/sys/firmware /proc/scsi"
    ).split()
    assert linux["maskedPaths"] == [*older, "/sys/devices/virtual/tpm", "/sys/devices/virtual/powercap"]


def test_no_capability_outlives_a_change_of_user() -> None:
    assert set(spec.example("v1")["process"]["capabilities"]) == {"bounding", "effective", "permitted"}


def test_a_cgroup_namespace_where_there_is_one_hierarchy() -> None:
    assert {"type": "cgroup"} in spec.example("v2")["linux"]["namespaces"]
    assert {"type": "cgroup"} not in spec.example("hybrid")["linux"]["namespaces"]


def test_rootless() -> None:
    config = spec.rootless(spec.example("v1"), 1000, 100)
    assert "resources" not in config["linux"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert config["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 100, "size": 1}]
    types = [ns["type"] for ns in config["linux"]["namespaces"]]
    assert "user" in types and "network" not in types
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert mounts["/sys"]["options"][0] == "rbind"
    assert not any(option.startswith("gid=") for option in mounts["/dev/pts"]["options"])
