"""Whatever a valid config says: the plan keeps the invariants, can be encoded, and is the same every time."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import linux, planner, wire
from runtime.plan import check
from runtime.planner.options import KNOWN

from .conftest import EVERY_CAPABILITY, make_request

NAMES = st.text("abcdefgh.-_ü ", min_size=1, max_size=8).filter(lambda text: text.strip(". "))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
IDS = st.integers(0, 2**32 - 2)
MAPS = st.just([{"containerID": 0, "hostID": 100000, "size": 65536}]) | st.just(
    [{"containerID": 0, "hostID": 1000, "size": 1}]
)


#: options that go with some mounts only
PICKY = ("tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow")


@st.composite
def mounts(draw: st.DrawFn) -> dict[str, Any]:
    words = draw(st.lists(st.sampled_from([word for word in KNOWN if word not in PICKY]), max_size=6))
    kind = draw(st.sampled_from(["bind", "tmpfs", "cgroup", "proc", "sysfs", "devpts", "mqueue", "overlay", "fuse.x"]))
    place = (
        "/proc"
        if kind == "proc"
        else draw(PATHS | st.sampled_from(["/dev", "/dev/pts", "/sys/fs/cgroup", "relative/x"]))
    )
    if kind == "proc":
        words = [word for word in words if word not in ("bind", "rbind")]
    is_bind = kind == "bind" or "bind" in words or "rbind" in words
    data = [] if is_bind else draw(st.lists(st.sampled_from(["size=1m", "mode=755", "gid=5", "userxattr"]), max_size=3))
    return {"destination": place, "type": kind, "source": draw(PATHS), "options": words + data}


@st.composite
def namespaces(draw: st.DrawFn) -> list[dict[str, str]]:
    kinds = draw(st.sets(st.sampled_from([kind for kind in linux.NAMESPACES if kind != "mount"])))
    found = []
    for kind in ["mount", *sorted(kinds)]:
        is_joined = draw(st.booleans())
        found.append({"type": kind, "path": f"/run/{kind}"} if is_joined else {"type": kind})
    return found


@st.composite
def devices(draw: st.DrawFn) -> dict[str, Any]:
    numbers = {"major": draw(st.integers(0, 4095)), "minor": draw(st.integers(0, 2**20 - 1))}
    kind = draw(st.sampled_from("cbup"))
    return {"path": draw(PATHS), "type": kind, "fileMode": draw(st.integers(0, 0o777)), "uid": draw(IDS), **numbers}


HOOKS = st.lists(
    st.fixed_dictionaries(
        {"path": PATHS}, optional={"args": st.lists(NAMES), "env": st.lists(NAMES), "timeout": st.integers(1, 99)}
    ),
    max_size=2,
)
CAPABILITIES = st.lists(st.sampled_from([*linux.CAPABILITIES, "CAP_NEW"]), max_size=5)
KINDS_OF_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    spaces = draw(namespaces())
    spec: dict[str, Any] = {
        "namespaces": spaces,
        "uidMappings": draw(MAPS),
        "devices": draw(st.lists(devices(), max_size=3)),
        "maskedPaths": draw(st.lists(PATHS, max_size=3)),
        "readonlyPaths": draw(st.lists(PATHS, max_size=3)),
        "sysctl": draw(st.dictionaries(st.sampled_from(["net.a.b", "net/a/b.c", "kernel.shm"]), NAMES)),
        "rootfsPropagation": draw(st.sampled_from(["", *linux.PROPAGATION])),
    }
    spec["gidMappings"] = spec["uidMappings"]
    if any(space["type"] == "time" for space in spaces):
        spec["timeOffsets"] = {"boottime": {"secs": draw(st.integers(-9, 9))}}
    process = {
        "args": ["/bin/" + draw(NAMES), *draw(st.lists(NAMES | st.just("")))],
        "env": draw(st.lists(NAMES)),
        "cwd": draw(PATHS),
        "terminal": draw(st.booleans()),
        "noNewPrivileges": draw(st.booleans()),
        "user": {"uid": draw(IDS), "gid": draw(IDS)},
        "capabilities": {
            kind: draw(CAPABILITIES) for kind in ("bounding", "permitted", "effective", "inheritable", "ambient")
        },
        "oomScoreAdj": draw(st.integers(-1000, 1000)),
    }
    hooks = {kind: draw(HOOKS) for kind in draw(st.sets(st.sampled_from(KINDS_OF_HOOKS)))}
    return {
        "process": process,
        "linux": spec,
        "mounts": draw(st.lists(mounts(), max_size=5)),
        "hooks": hooks,
        "root": {"path": "rootfs", "readonly": draw(st.booleans())},
    }


FACTS = st.sampled_from(
    [
        {},
        {"euid": 1000, "egid": 1000, "is_rootless": True},
        {"is_rootless": True, "in_user_ns": True},
        {
            "cgroup_mode": "v1",
            "cgroup_mounts": {"cpu": "/c/cpu,cpuacct", "cpuacct": "/c/cpu,cpuacct"},
            "cgroup_unified": "",
        },
        {"cgroup_mode": "hybrid", "cgroup_mounts": {"name=systemd": "/c/systemd"}, "cgroup_unified": "/c/unified"},
        {"capabilities": EVERY_CAPABILITY >> 20, "bounding": EVERY_CAPABILITY >> 10},
    ]
)


class Filter:
    program = bytes(8)
    flags = 0
    listener_path = "/agent"
    listener_metadata = ""
    warnings: tuple[str, ...] = ()

    def __init__(self, has_listener: bool) -> None:
        self.listener = has_listener


FILTERS = st.none() | st.booleans().map(Filter)
REQUESTS = st.fixed_dictionaries(
    {
        "seccomp": FILTERS,
        "wait_for_start": st.booleans(),
        "no_pivot": st.booleans(),
        "no_new_keyring": st.booleans(),
        "preserve": st.integers(0, 3),
        "notify_dir": st.sampled_from(["", "/run/n"]),
        "join_steps": st.sampled_from([(), (("write", "/sys/fs/cgroup/web/cgroup.procs", "$PID"),)]),
    }
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), FACTS, REQUESTS)
def test_create(config: dict[str, Any], facts: dict[str, Any], wanted: dict[str, Any]) -> None:
    def plan() -> Any:
        return planner.create(make_request(config["process"], facts=facts, request=wanted, **config_without(config)))

    made = plan()
    check(made)
    data = wire.encode(made)
    assert data == wire.encode(plan())
    assert made.text() == plan().text()
    assert all(op.about or op.name == "close" for op in made.ops)
    for word in config["process"]["args"]:
        assert word.encode() in data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), FACTS, REQUESTS)
def test_exec(config: dict[str, Any], facts: dict[str, Any], wanted: dict[str, Any]) -> None:
    wanted = {**wanted, "wait_for_start": False, "namespaces": [n["type"] for n in config["linux"]["namespaces"]]}
    made = planner.exec_process(make_request(config["process"], facts=facts, request=wanted, **config_without(config)))
    check(made)
    wire.encode(made)
    assert not {"move-mount", "unshare", "pivot-root", "run-hook", "mknod", "fifo"} & {op.name for op in made.ops}


def config_without(config: dict[str, Any]) -> dict[str, Any]:
    """The config as keywords of make_request, which takes process by itself."""
    return {"linux": config["linux"], **{key: config[key] for key in ("mounts", "hooks", "root")}}
