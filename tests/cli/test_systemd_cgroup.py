"""--systemd-cgroup on a host where systemd runs and cgroups are v2: the unit, every limit in systemd's words and in the kernel's.

Each limit is read back three times, from `systemctl show` and from the cgroup's files: after create, after update, and after a
`systemctl daemon-reload`, at which systemd reads its units again from what it has written down of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import hierarchies
import pytest

pytestmark = pytest.mark.requires("systemd", "cgroup-v2", "root")

MIB = 1 << 20
TOP = Path("/sys/fs/cgroup")


def systemctl(*words):
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout


def show(unit, *names):
    """{property: value} of a unit; of a list with a line for each entry, the entries."""
    found = {}
    for line in systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def units(pyrunc):
    """The units of this test that systemd still knows, failed ones too."""
    listed = systemctl("list-units", "--all", "--plain", "--no-legend", f"*{pyrunc.prefix}*")
    return [line.split()[0] for line in listed.splitlines()]


@pytest.fixture
def scope(pyrunc, make, running):
    """scope(resources, annotations=...) -> Box with .unit and .path: a container that sleeps in a unit of its own."""
    pyrunc.options.append("--systemd-cgroup")

    def scope(resources=None, *args, path="system.slice:test:{}", name="box", **top):
        def edit(config):
            config["linux"].update(resources=resources or {}, cgroupsPath=path.format(pyrunc.id(name)))
            config.update(top)

        box = running(edit, *args, name=name)
        slice_, prefix, last = box.bundle.config["linux"]["cgroupsPath"].split(":")
        box.unit = f"{prefix}-{last}.scope"
        box.path = TOP / hierarchies.on_v2(Path(f"/proc/{box.pid}/cgroup").read_text())[1:]
        return box

    yield scope
    pyrunc.clean()
    assert units(pyrunc) == []
    # other tests' come and go meanwhile, which os.walk takes well
    assert [name for _, names, _ in os.walk(TOP) for name in names if pyrunc.prefix in name] == []


def read(box, file):
    text = (box.path / file).read_text().strip()
    # the period of no quota at all is systemd's to choose
    return "max" if text.startswith("max ") else text


# -- the unit ------------------------------------------------------------------------------------------------------------


def test_a_scope_in_its_slice(pyrunc, scope):
    box = scope()
    assert box.path == TOP / f"system.slice/{box.unit}"
    found = show(
        box.unit, "ActiveState", "Slice", "Delegate", "DefaultDependencies", "CollectMode", "Transient", "ControlGroup",
        "MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting", "Description",
    )  # fmt: skip
    assert found == {
        "ActiveState": "active",
        "Slice": "system.slice",
        "Delegate": "yes",
        "DefaultDependencies": "no",
        "CollectMode": "inactive-or-failed",
        "Transient": "yes",
        "ControlGroup": f"/system.slice/{box.unit}",
        "MemoryAccounting": "yes",
        "CPUAccounting": "yes",
        "IOAccounting": "yes",
        "TasksAccounting": "yes",
        "Description": f"pyrunc container {box.id}",
    }
    assert read(box, "cgroup.procs") == str(box.pid)


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (":test:{}", "system.slice/test-{}.scope"),
        ("-.slice:test:{}", "test-{}.scope"),
        ("pyrunctest-a-b.slice:test:{}", "pyrunctest.slice/pyrunctest-a.slice/pyrunctest-a-b.slice/test-{}.scope"),
        ("system.slice::{}", "system.slice/-{}.scope"),
        ("system.slice:_x:{}", "system.slice/__x-{}.scope"),
    ],
)
def test_slices_and_names(pyrunc, scope, path, where):
    box = scope(path=path)
    assert str(box.path) == f"{TOP}/{where.format(box.id)}"
    pyrunc("delete", "--force", box.id)
    assert not box.path.exists() and units(pyrunc) == []


def test_without_a_path_it_is_named_after_the_container(pyrunc, make, scope):
    made = make(lambda config: config["linux"].pop("cgroupsPath"), "/bin/sleep", "1000")
    for id_, name in ((pyrunc.id("plain"), pyrunc.id("plain")), (pyrunc.id("a+b"), pyrunc.id("a\\x2bb"))):
        pyrunc("create", "-b", made, id_)
        assert (
            hierarchies.on_v2(Path(f"/proc/{pyrunc.pid(id_)}/cgroup").read_text()) == f"/system.slice/runc-{name}.scope"
        )


def test_a_slice_for_a_container(pyrunc, scope):
    """A name that ends in .slice is one; systemd puts no process into it, so we do."""
    box = scope(path="pyrunctest.slice:ignored:pyrunctest-" + pyrunc.prefix.replace("-", "_") + ".slice")
    assert box.path == TOP / f"pyrunctest.slice/pyrunctest-{pyrunc.prefix.replace('-', '_')}.slice"
    assert hierarchies.on_v2(box.exec("cat", "/proc/self/cgroup").out) == "/"
    pyrunc("delete", "--force", box.id)
    assert not box.path.exists()
    assert show(box.path.name, "ActiveState") == {"ActiveState": "inactive"}


def test_the_cgroup_namespace_begins_at_the_scope(scope):
    box = scope()
    assert [hierarchies.on_v2(box.exec("cat", f"/proc/{pid}/cgroup").out) for pid in ("self", "1")] == ["/", "/"]


# -- limits ----------------------------------------------------------------------------------------------------------------

LIMITS = {
    "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
    "cpu": {"shares": 512, "quota": 25000, "period": 50000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 64},
}
FILES = {
    "memory.max": str(64 * MIB),
    "memory.low": str(32 * MIB),
    "memory.swap.max": str(32 * MIB),
    "cpu.weight": "59",
    "cpu.max": "25000 50000",
    "cpuset.cpus": "0",
    "cpuset.mems": "0",
    "pids.max": "64",
}
PROPERTIES = {
    "MemoryMax": str(64 * MIB),
    "MemoryLow": str(32 * MIB),
    "MemorySwapMax": str(32 * MIB),
    "CPUWeight": "59",
    "CPUQuotaPerSecUSec": "500ms",
    "CPUQuotaPeriodUSec": "50ms",
    "AllowedCPUs": "0",
    "AllowedMemoryNodes": "0",
    "TasksMax": "64",
}


def check(box, files, properties):
    """What the kernel and systemd say, now and after systemd has read its units again."""
    for _ in range(2):
        assert {name: read(box, name) for name in files} == files
        assert show(box.unit, *properties) == properties
        systemctl("daemon-reload")
    # now it writes them all
    systemctl("set-property", "--runtime", box.unit, "MemoryHigh=1G")
    assert {name: read(box, name) for name in files} == files


def update(pyrunc, box, resources, **more):
    return pyrunc("update", "--resources", "-", box.id, input=json.dumps(resources), **more)


@pytest.mark.requires("limits")
def test_limits_from_create_on(scope):
    check(scope(LIMITS), FILES, PROPERTIES)


@pytest.mark.requires("limits")
def test_limits_from_an_update_on(pyrunc, scope):
    box = scope()
    update(pyrunc, box, LIMITS)
    check(box, FILES, PROPERTIES)
    update(
        pyrunc, box, {"memory": {"limit": 128 * MIB, "swap": 128 * MIB}, "pids": {"limit": -1}, "cpu": {"quota": -1}}
    )
    check(
        box,
        {**FILES, "memory.max": str(128 * MIB), "memory.swap.max": "0", "pids.max": "max", "cpu.max": "max"},
        {
            **PROPERTIES,
            "MemoryMax": str(128 * MIB),
            "MemorySwapMax": "0",
            "TasksMax": "infinity",
            "CPUQuotaPerSecUSec": "infinity",
        },
    )


@pytest.mark.requires("limits")
def test_no_limit_at_all(scope):
    unlimited = {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "period": 50000}, "pids": {"limit": -1}}
    check(
        scope(unlimited),
        {"memory.max": "max", "memory.swap.max": "max", "cpu.max": "max", "pids.max": "max"},
        {
            "MemoryMax": "infinity",
            "MemorySwapMax": "infinity",
            "CPUQuotaPerSecUSec": "infinity",
            "TasksMax": "infinity",
        },
    )


@pytest.mark.requires("limits")
def test_idle(pyrunc, scope):
    box = scope({"cpu": {"idle": 1, "shares": 512}})
    check(box, {"cpu.idle": "1"}, {"CPUWeight": "idle"})
    update(pyrunc, box, {"cpu": {"idle": 0}})
    check(box, {"cpu.idle": "0"}, {"CPUWeight": "[not set]"})
    assert show(box.unit, "CPUWeight")["CPUWeight"] != "idle"


def disk():
    """A whole disk: limits are for those."""
    for line in Path("/proc/partitions").read_text().splitlines()[2:]:
        major, minor, _, name = line.split()
        if (Path("/sys/block") / name).exists():
            return int(major), int(minor)
    raise AssertionError("no disk here")


@pytest.mark.requires("limits")
def test_block_io(pyrunc, scope):
    major, minor = disk()
    node = {"major": major, "minor": minor}
    resources = {
        "blockIO": {
            "weight": 300,
            "throttleReadBpsDevice": [{**node, "rate": MIB}],
            "throttleWriteBpsDevice": [{**node, "rate": 2 * MIB}],
            "throttleReadIOPSDevice": [{**node, "rate": 300}],
            "throttleWriteIOPSDevice": [{**node, "rate": 400}],
        }
    }
    box = scope(resources)
    files = {"io.max": f"{major}:{minor} rbps={MIB} wbps={2 * MIB} riops=300 wiops=400"}
    if (box.path / "io.bfq.weight").exists():
        files["io.bfq.weight"] = "default 300"
    else:
        files["io.weight"] = "default 2930"
    path = f"/dev/block/{major}:{minor}"
    properties = {
        "IOReadBandwidthMax": f"{path} {MIB}",
        "IOWriteBandwidthMax": f"{path} {2 * MIB}",
        "IOReadIOPSMax": f"{path} 300",
        "IOWriteIOPSMax": f"{path} 400",
    }
    check(box, files, properties)
    update(pyrunc, box, {"blockIO": {"weight": 50, "throttleReadBpsDevice": [{**node, "rate": 0}]}})
    files["io.max"] = f"{major}:{minor} rbps=max wbps={2 * MIB} riops=300 wiops=400"
    if "io.bfq.weight" in files:
        files["io.bfq.weight"] = "default 50"
    else:
        files["io.weight"] = "default 405"
    del properties["IOReadBandwidthMax"]
    check(box, files, properties)


@pytest.mark.requires("limits")
def test_files_by_their_names(scope):
    unified = {
        "memory.high": str(48 * MIB),
        "memory.min": str(4 * MIB),
        "memory.max": "64M",
        "cpu.max": "30000 60000",
        "cpu.weight": "77",
        "pids.max": "50",
        "cgroup.max.depth": "3",
    }
    box = scope({"unified": unified})
    files = {**unified, "memory.max": str(64 * MIB)}
    properties = {
        "MemoryHigh": str(48 * MIB),
        "MemoryMin": str(4 * MIB),
        "MemoryMax": str(64 * MIB),
        "CPUQuotaPerSecUSec": "500ms",
        "CPUWeight": "77",
        "TasksMax": "50",
    }
    del files["memory.high"]  # which `check` changes
    assert read(box, "memory.high") == unified["memory.high"]
    assert show(box.unit, *properties) == properties
    del properties["MemoryHigh"]
    check(box, files, properties)


@pytest.mark.requires("limits")
def test_a_quota_that_is_no_whole_percent(scope):
    """systemd keeps whole percents: it may be a bit more after a daemon-reload, never less."""
    box = scope({"cpu": {"quota": 12345, "period": 100000}})
    assert read(box, "cpu.max") == "12345 100000"
    assert show(box.unit, "CPUQuotaPerSecUSec") == {"CPUQuotaPerSecUSec": "130ms"}
    systemctl("daemon-reload")
    assert read(box, "cpu.max") in ("12345 100000", "13000 100000")


@pytest.mark.requires("limits")
@pytest.mark.parametrize("limit", [1, 0, 15])
def test_a_small_limit_of_processes_does_not_keep_init_from_starting(scope, limit):
    box = scope({"pids": {"limit": limit}})
    check(box, {"pids.max": str(limit)} if limit else {}, {"TasksMax": str(limit or 1)})
    assert int(read(box, "pids.max")) <= max(limit, 1)


def test_devices(pyrunc, scope):
    rules = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 14, "access": "rw"},
        {"allow": True, "type": "b", "major": 7, "access": "r"},
    ]
    box = scope({"devices": rules})
    ask = ("mknod /dev/one c 1 14", "mknod /dev/two c 1 13", "open /dev/one r", "open /dev/two r", "open /dev/null w")
    for _ in range(2):
        found = show(box.unit, "DevicePolicy", "DeviceAllow")
        assert found["DevicePolicy"] == "strict"
        allowed = found["DeviceAllow"].split(", ")
        assert {"/dev/char/1:14 rw", "block-7 r", "char-136 rwm", "char-* m", "/dev/char/1:3 rwm"} <= set(allowed)
        assert not any("1:13" in entry for entry in allowed)
        assert [answer["errno"] for answer in box.each(*ask)][2:] == ["ENXIO", "EPERM", None]
        systemctl("daemon-reload")
        systemctl("set-property", "--runtime", box.unit, "MemoryHigh=1G")
        ask = tuple(action.replace("/dev/one", "/dev/three").replace("/dev/two", "/dev/four") for action in ask)


def test_devices_of_an_update(pyrunc, scope):
    """Wider rules than those of the create: systemd's program must allow them too, once it has been made anew."""
    deny = {"allow": False, "access": "rwm"}
    one, two = ({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "r"} for minor in (14, 13))
    box = scope({"devices": [deny, one]})
    box.each("mknod /dev/one c 1 14", "mknod /dev/two c 1 13")
    for rules, answers, names in (([deny, two], ["EPERM", "ENXIO"], [13]), ([deny, one, two], ["ENXIO"] * 2, [13, 14])):
        update(pyrunc, box, {"devices": rules})
        for _ in range(2):
            assert [answer["errno"] for answer in box.each("open /dev/one r", "open /dev/two r")] == answers
            found = show(box.unit, "DevicePolicy", "DeviceAllow")
            assert found["DevicePolicy"] == "strict"
            allowed = found["DeviceAllow"].split(", ")
            assert [n for n in (13, 14) if f"/dev/char/1:{n} r" in allowed] == names and "char-136 rwm" in allowed
            systemctl("daemon-reload")
            systemctl("set-property", "--runtime", box.unit, "MemoryHigh=1G")


def test_all_devices(pyrunc, scope):
    box = scope({"devices": [{"allow": True, "access": "rwm"}]})
    assert show(box.unit, "DevicePolicy", "DeviceAllow") == {"DevicePolicy": "auto"}
    assert box.each("mknod /dev/one c 1 14", "open /dev/one r")[1]["errno"] == "ENXIO"
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}]
    for asked, policy, answer in ((rules, "strict", "EPERM"), ([{"allow": True, "access": "rwm"}], "auto", "ENXIO")):
        update(pyrunc, box, {"devices": asked})
        for _ in range(2):
            assert show(box.unit, "DevicePolicy") == {"DevicePolicy": policy}
            assert box.each("open /dev/one r")[0]["errno"] == answer
            systemctl("daemon-reload")
            systemctl("set-property", "--runtime", box.unit, "MemoryHigh=1G")


@pytest.mark.requires("limits")
def test_an_update_of_which_the_kernel_refuses_a_part(pyrunc, scope):
    box = scope(LIMITS)
    error = update(pyrunc, box, {"memory": {"limit": 32 * MIB}, "cpu": {"quota": 10}}, status=1).err
    assert "cpu.max" in error and "invalid argument" in error
    check(box, FILES, PROPERTIES)


@pytest.mark.requires("limits")
def test_an_update_that_systemd_does_not_get(pyrunc, scope):
    """Its unit is gone, however that came to be: the files are put back."""
    box = scope(LIMITS)
    state = pyrunc.root / box.id / "state.json"
    saved = json.loads(state.read_text())
    saved["cgroup"]["unit"] = box.path.name.replace("test-", "text-")
    state.write_text(json.dumps(saved))
    assert "no unit that can be the container's" in pyrunc.fails("update", "--pids-limit", "9", box.id)
    saved["cgroup"]["unit"] = box.path.name
    state.write_text(json.dumps(saved))
    hidden = ["unshare", "-m", "sh", "-c", f'{HIDE}; exec "$@"', "sh"]
    done = subprocess.run(
        [*hidden, *pyrunc.argv("update", "--pids-limit", "9", box.id)], capture_output=True, text=True
    )
    assert done.returncode == 1 and "cannot reach systemd" in done.stderr
    check(box, FILES, PROPERTIES)


# -- annotations -----------------------------------------------------------------------------------------------------------


def test_properties_from_annotations(scope):
    annotations = {
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.KillSignal": "15",
        "org.systemd.property.SendSIGHUP": "true",
        "org.systemd.property.Documentation": "['man:one(1)', \"man:two(2)\"]",
        "org.systemd.property.Description": "'with a \\'quote\\''",
        "org.systemd.property.MemoryHigh": "@t 99999744",
    }
    box = scope(annotations=annotations)
    assert show(
        box.unit, "TimeoutStopUSec", "KillSignal", "SendSIGHUP", "Documentation", "Description", "MemoryHigh"
    ) == {
        "TimeoutStopUSec": "7s",
        "KillSignal": "15",
        "SendSIGHUP": "yes",
        "Documentation": '"man:one(1)" "man:two(2)"',
        "Description": "with a 'quote'",
        "MemoryHigh": "99999744",
    }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TimeoutStopSec", "'long'", "is no number of seconds"),
        ("Documentation", "[]", "an empty array needs its type"),
        ("x", "1", "is no name of a property"),
        ("Foo/Bar", "1", "is no name of a property"),
        ("Slice", "'user.slice'", "is for the runtime to say"),
        ("SuccessAction", "'poweroff-force'", "about the whole host"),
        ("NoSuchThing", "true", "NoSuchThing"),
        ("MemoryHigh", "'much'", "MemoryHigh"),
    ],
)
def test_annotations_that_are_refused(pyrunc, make, scope, name, value, words):
    made = make(lambda c: c.update(annotations={f"org.systemd.property.{name}": value}), "/bin/true")
    made.config["linux"]["cgroupsPath"] = f":test:{pyrunc.prefix}"
    made.write()
    error = pyrunc.fails("create", "-b", made, pyrunc.id())
    assert words in error and name in error
    assert not pyrunc.exists(pyrunc.id()) and units(pyrunc) == []


# -- its life --------------------------------------------------------------------------------------------------------------


def test_pause_and_exec(pyrunc, scope):
    box = scope()
    pyrunc("pause", box.id)
    assert pyrunc.state(box.id)["status"] == "paused" and read(box, "cgroup.freeze") == "1"
    systemctl("daemon-reload")
    assert pyrunc.state(box.id)["status"] == "paused"
    pyrunc("resume", box.id)
    assert box.exec("true").status == 0
    (box.path / "inner").mkdir()
    found = box.exec("cat", "/proc/self/cgroup", options=("--cgroup", "inner"))
    assert hierarchies.on_v2(found.out) == "/inner"


def test_the_end_of_the_program_is_the_end_of_the_unit(pyrunc, scope, until):
    box = scope(None, "/bin/sleep", "0.1")
    pyrunc.wait(box.pid)
    until(lambda: not box.path.exists(), "systemd removes the cgroup")
    assert units(pyrunc) == []
    pyrunc("delete", box.id)


def test_run_leaves_nothing(pyrunc, make, scope):
    made = make(lambda c: c["linux"].update(cgroupsPath=f":test:{pyrunc.prefix}"), "/bin/sh", "-c", "exit 7")
    for _ in range(3):  # under one name, again and again
        assert pyrunc("run", "-b", made, pyrunc.id(), status=7).status == 7
        assert units(pyrunc) == []


@pytest.mark.requires("limits")
def test_killed_by_the_memory_limit(pyrunc, make, scope):
    made = make(None, "/bin/probe", "eat", str(64 * MIB))
    made.config["linux"].update(
        cgroupsPath=f":test:{pyrunc.prefix}", resources={"memory": {"limit": 16 * MIB, "swap": 16 * MIB}}
    )
    made.write()
    pyrunc("run", "-b", made, pyrunc.id(), status=137)
    assert units(pyrunc) == []


def test_what_runs_beside_init_is_ended_too(pyrunc, scope):
    """Without a pid namespace nothing but the cgroup holds the container together; a SIGTERM is ignored by all."""

    def edit(config):
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "pid"]

    box = scope(None, "/bin/sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000 & wait")
    pyrunc("delete", "--force", box.id)
    assert not box.path.exists() and units(pyrunc) == []


def test_cgroups_that_the_container_made(pyrunc, scope):
    box = scope()
    (box.path / "a/b").mkdir(parents=True)
    (box.path / "a/b/cgroup.procs").write_text(str(box.pid))
    pyrunc("delete", "--force", box.id)
    assert not box.path.exists() and units(pyrunc) == []


def test_a_unit_that_stays_is_stopped(pyrunc, scope):
    """One that systemd does not collect when it has failed, because somebody wanted that."""
    box = scope(None, annotations={"org.systemd.property.CollectMode": "'inactive'"})
    assert json.loads((pyrunc.root / box.id / "state.json").read_text())["cgroup"]["collects"] is False
    pyrunc("delete", "--force", box.id)
    assert units(pyrunc) == []


# -- failures --------------------------------------------------------------------------------------------------------------

HIDE = "mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && mount -t tmpfs none /run/dbus"


def asked(pyrunc, make, path, *args, **resources):
    def edit(config):
        config["linux"].update(cgroupsPath=path, resources=resources)

    return make(edit, *args)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a/b", 'expected "slice:prefix:name"'),
        ("a:b", 'expected "slice:prefix:name"'),
        ("a:b:c:d", 'expected "slice:prefix:name"'),
        ("system.slice:b:", "no name"),
        ("system:b:c", '"system" is no slice'),
        ("a--b.slice:b:c", '"a--b.slice" is no slice'),
        ("a/b.slice:b:c", '"/" is no letter'),
        (":b:c d", '" " is no letter'),
        (":b:" + "x" * 260, "at most 255"),
        ("a.slice:x:b-c.slice", "is in b.slice by its name"),
    ],
)
def test_bad_paths(pyrunc, make, scope, path, words):
    error = pyrunc.fails("create", "-b", asked(pyrunc, make, path), pyrunc.id())
    assert "linux.cgroupsPath" in error and words in error


def test_no_systemd_to_be_reached(pyrunc, make, scope):
    made = asked(pyrunc, make, f":test:{pyrunc.prefix}")
    command = ["unshare", "-m", "sh", "-c", f'{HIDE}; exec "$@"', "sh", *pyrunc.argv("create", "-b", made, pyrunc.id())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("create") and "cannot reach systemd: /run/systemd/private: no such file" in done.stderr
    )
    assert not (pyrunc.root / pyrunc.id()).exists()


def test_the_name_is_taken(pyrunc, make, scope):
    box = scope()
    made = asked(pyrunc, make, box.bundle.config["linux"]["cgroupsPath"])
    error = pyrunc.fails("create", "-b", made, pyrunc.id("second"))
    assert "not empty" in error
    assert box.exec("true").status == 0 and read(box, "cgroup.procs").strip()


def test_a_unit_of_that_name_somewhere_else(pyrunc, make, scope):
    """Not where ours would be: systemd alone knows of it."""
    unit = f"test-{pyrunc.prefix}.scope"
    words = ["systemd-run", "--scope", "--quiet", "--slice=user.slice", f"--unit={unit}", "sleep", "1000"]
    other = subprocess.Popen(words)
    try:
        deadline = time.monotonic() + 20
        while show(unit, "ActiveState")["ActiveState"] != "active":
            assert time.monotonic() < deadline
        error = pyrunc.fails("create", "-b", asked(pyrunc, make, f":test:{pyrunc.prefix}"), pyrunc.id())
        assert "has a unit of that name already, and it is active" in error
        assert other.poll() is None and show(unit, "ActiveState") == {"ActiveState": "active"}
    finally:
        other.kill()
        other.wait()
        # systemd hears of it a moment later
        while units(pyrunc):
            assert time.monotonic() < deadline + 20


def test_a_failed_unit_of_that_name_is_in_nobodys_way(pyrunc, make, scope):
    unit = f"test-{pyrunc.prefix}.scope"
    # systemd keeps a scope that did not stop in time, as failed
    other = subprocess.Popen(
        [
            "systemd-run",
            "--scope",
            "--quiet",
            f"--unit={unit}",
            "--property=TimeoutStopSec=100ms",
            "sh",
            "-c",
            "trap '' TERM; sleep 1000 & wait",
        ]
    )
    deadline = time.monotonic() + 20
    while show(unit, "ActiveState")["ActiveState"] != "active":
        assert time.monotonic() < deadline
    systemctl("stop", unit)
    other.wait()
    assert show(unit, "ActiveState") == {"ActiveState": "failed"}
    pyrunc("run", "-b", asked(pyrunc, make, f":test:{pyrunc.prefix}", "/bin/true"), pyrunc.id())


def test_a_job_that_fails(pyrunc, make, scope):
    made = asked(pyrunc, make, f":test:{pyrunc.prefix}")
    made.config["annotations"] = {
        "org.systemd.property.Requires": "['no-such-unit-at-all.service']",
        "org.systemd.property.After": "['no-such-unit-at-all.service']",
    }
    made.write()
    error = pyrunc.fails("create", "-b", made, pyrunc.id())
    assert f"start unit test-{pyrunc.prefix}.scope: systemd" in error and "no-such-unit-at-all.service" in error
    assert not pyrunc.exists(pyrunc.id())


@pytest.mark.requires("limits")
def test_a_limit_that_the_kernel_refuses(pyrunc, make, scope):
    """Then the unit is there already: it must go again."""
    made = asked(pyrunc, make, f":test:{pyrunc.prefix}", "/bin/true", cpu={"quota": 10})
    assert "cpu.max" in pyrunc.fails("create", "-b", made, pyrunc.id())
    assert units(pyrunc) == [] and not pyrunc.exists(pyrunc.id())


def test_a_limit_that_init_itself_cannot_live_with(pyrunc, make, scope):
    made = asked(pyrunc, make, f":test:{pyrunc.prefix}", "/bin/true", memory={"limit": 4096})
    error = pyrunc.fails("create", "-b", made, pyrunc.id())
    assert "memory" in error
    assert units(pyrunc) == []


@pytest.mark.parametrize("moment", ["config.json", "state.json"])
def test_killed_while_it_creates(pyrunc, make, scope, moment):
    """At any moment: what is left is found by its journal."""
    made = asked(pyrunc, make, f":test:{pyrunc.prefix}", "/bin/sleep", "1000")
    for _ in range(4):
        child = pyrunc.popen("create", "-b", made, pyrunc.id())
        deadline = time.monotonic() + 20
        while not (pyrunc.root / pyrunc.id() / moment).exists() and child.poll() is None:
            assert time.monotonic() < deadline
        child.kill()  # or it has ended
        child.wait()
        pyrunc("delete", "--force", pyrunc.id())
        assert not (pyrunc.root / pyrunc.id()).exists() and units(pyrunc) == []


@pytest.mark.requires("limits")
def test_the_plan_says_it_all(pyrunc, make, scope):
    made = asked(pyrunc, make, f":test:{pyrunc.prefix}", **LIMITS)
    lines = pyrunc("plan", made).out.splitlines()
    starts = [line for line in lines if "start-unit" in line]
    assert len(starts) == 1 and f"test-{pyrunc.prefix}.scope $PID" in starts[0] and "undo: stop" in starts[0]
    assert any(f"MemoryMax=uint64 {64 * MIB}" in line for line in lines)
    assert units(pyrunc) == []
