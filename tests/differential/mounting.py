"""What can be drawn for `mounts`: filesystems and binds with any of their options, hooks besides, which show in mounts too."""

from __future__ import annotations

import random
from typing import Any

from cases import Case

#: one of each is drawn: words that contradict each other are in one group
ATTRIBUTES = (("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec"), ("noatime", "relatime", "strictatime"), ("nodiratime", "diratime"))  # fmt: skip
PROPAGATION = ("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable")


def _options(rng: random.Random, chance: float = 0.35) -> list[str]:
    found = [rng.choice(group) for group in ATTRIBUTES if rng.random() < chance]
    rng.shuffle(found)
    return found


def _add(case: Case, destination: str, **mount: Any) -> None:
    case.config["mounts"].append({"destination": destination, **mount})


def tmpfs(case: Case, rng: random.Random) -> None:
    for destination in rng.sample(["/tmp", "/run", "/new/deep", "/etc/tree", "/dev/shm"], rng.randint(1, 2)):
        more = [
            word
            for word in ("size=1m", "mode=700", "mode=1777", "uid=7", "gid=8", "nr_inodes=100")
            if rng.random() < 0.2
        ]
        _add(
            case,
            destination,
            type="tmpfs",
            source=rng.choice(["tmpfs", "none", "shm"]),
            options=[*_options(rng), *more],
        )
        case.do("stat", destination)
        case.do("mkfile", f"{destination}/made")


def copied_up(case: Case, rng: random.Random) -> None:
    _add(
        case,
        "/etc/tree",
        type="tmpfs",
        source="tmpfs",
        options=["tmpcopyup", *rng.choice([[], ["nosuid"], ["mode=711"]])],
    )
    for path in ("/etc/tree", "/etc/tree/below", "/etc/tree/link", "/etc/tree/sub"):
        case.do("stat", path)


def bind(case: Case, rng: random.Random) -> None:
    for number in range(rng.randint(1, 2)):
        source = rng.choice(["tree", "note", "tree/sub", "link", "tree"])
        destination = rng.choice(["/mnt", f"/bound{number}", "/tmp/deep/bound", "/link", "/etc/tree"])
        if source == "note":
            destination = rng.choice(["/etc/file", f"/bound{number}", "/tmp/deep/note"])
        options = [rng.choice(["bind", "rbind"]), *_options(rng)]
        if rng.random() < 0.4:
            options.append(rng.choice(PROPAGATION))
        rng.shuffle(options)
        kind = rng.choice([{"type": "bind"}, {"type": "none"}, {}, {"type": "bind"}])
        _add(case, destination, source=f"@PLACE@/outside/{source}", options=options, **kind)
        case.do("stat", destination)
        case.do("mkfile", f"{destination}/made")
        case.do("stat", f"{destination}/sub/inner")


def bind_recursive_attributes(case: Case, rng: random.Random) -> None:
    words = [word for word in ("rro", "rnosuid", "rnodev", "rnoexec", "rnoatime") if rng.random() < 0.4]
    _add(case, "/mnt", type="bind", source="@PLACE@/outside/tree", options=["rbind", *(words or ["rro"])])
    case.do("mkfile", "/mnt/sub/made")


def remounted(case: Case, rng: random.Random) -> None:
    _add(case, "/mnt", type="bind", source="@PLACE@/outside/tree", options=["bind"])
    _add(case, "/mnt", type="bind", source="@PLACE@/outside/tree", options=["bind", "remount", *_options(rng, 0.5)])


def proc_options(case: Case, rng: random.Random) -> None:
    case.config["mounts"][0]["options"] = _options(rng, 0.5) + [
        word for word in ("hidepid=2", "subset=pid") if rng.random() < 0.15
    ]


def sysfs(case: Case, rng: random.Random) -> object:
    if not case.has("network"):
        return False
    _add(case, "/sys", type="sysfs", source="sysfs", options=_options(rng, 0.6))
    return None


def mqueue(case: Case, rng: random.Random) -> object:
    if not case.has("ipc"):
        return False
    _add(case, "/dev/mqueue", type="mqueue", source="mqueue", options=_options(rng, 0.6))
    return None


def cgroup(case: Case, rng: random.Random) -> object:
    if not case.has("network"):
        return False
    if not any(mount["destination"] == "/sys" for mount in case.config["mounts"]):
        _add(case, "/sys", type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"])
    _add(
        case,
        "/sys/fs/cgroup",
        type="cgroup",
        source="cgroup",
        options=["nosuid", "noexec", "nodev", rng.choice(["ro", "rw", "relatime"])],
    )
    case.do("stat", "/sys/fs/cgroup")
    case.do("open", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "w")
    return None


def devpts_options(case: Case, rng: random.Random) -> None:
    words = ["newinstance"] + [
        word for word in ("nosuid", "noexec", "ptmxmode=0666", "mode=0620", "gid=5", "max=10") if rng.random() < 0.6
    ]
    case.config["mounts"][2]["options"] = words


def no_dev(case: Case, rng: random.Random) -> None:
    case.config["mounts"] = [mount for mount in case.config["mounts"] if not mount["destination"].startswith("/dev")]


def hooks(case: Case, rng: random.Random) -> None:
    kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    # what it is told and where it is, one line each; a hook has no environment but its own
    script = 'read -r state; printf "%s %s %s %s\\n" "$0" "$1" "$PWD" "$state" >>@PLACE@/outside/hooks; env >>@PLACE@/outside/hooks'
    found: dict[str, Any] = {}
    for kind in rng.sample(kinds, rng.randint(1, 4)):
        one: dict[str, Any] = {"path": "/bin/busybox", "args": ["sh", "-c", script, kind, "1"]}
        if rng.random() < 0.5:
            one["env"] = ["HOOK=" + kind]
        if rng.random() < 0.3:
            one["timeout"] = 10
        found[kind] = [one, {**one, "args": [*one["args"][:4], "2"]}][: rng.randint(1, 2)]
    case.config["hooks"] = found


DRAWS = [
    (proc_options, 0.15), (devpts_options, 0.12), (sysfs, 0.2), (mqueue, 0.15), (cgroup, 0.12), (tmpfs, 0.25),
    (copied_up, 0.08), (bind, 0.35), (bind_recursive_attributes, 0.06), (remounted, 0.08), (hooks, 0.12), (no_dev, 0.03),
]  # fmt: skip
