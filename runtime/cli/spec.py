"""`spec`: write a config.json to start from, the one that `runc spec` writes today.

It is written for people to edit. A file that is there is never overwritten.
"""

from __future__ import annotations

import os

from runtime.errors import Error, KernelError
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli.argv import Args

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
#: files that show or change the host, whatever the container's namespaces are. All but powercap are in runc's list; the
#: energy counters beneath that one let a container watch what others compute (CVE-2020-8694)
_MASKED_PATHS = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
    "/sys/devices/virtual/tpm",
    "/sys/devices/virtual/powercap",
]
_READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def run(args: Args) -> int:
    from runtime.host import Host

    host = Host()
    config = rootless(example(host.cgroup_mode), host.euid, host.egid) if args.rootless else example(host.cgroup_mode)
    path = os.path.join(args.bundle, args.file)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(laid_out(config))
    except FileExistsError:
        raise Error(f'"{path}" exists, remove it first', code="exists") from None
    except OSError as error:
        raise KernelError(f'write "{path}"', error.errno or 0) from None
    return 0


def laid_out(config: dict[str, Any]) -> str:
    """The configuration as JSON, indented by tabs as in every config.json that Go wrote."""
    lines = dumps(config, 1).split("\n")
    return "".join("\t" * (len(line) - len(line.lstrip(" "))) + line.lstrip(" ") + "\n" for line in lines)


def example(cgroup_mode: str) -> dict[str, Any]:
    """A configuration with an example of most things."""
    namespaces = ["pid", "network", "ipc", "uts", "mount", *(["cgroup"] if cgroup_mode == "v2" else [])]
    return {
        "ociVersion": "1.3.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            # neither inheritable nor ambient: those outlive a change of user
            "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pyrunc",
        "mounts": _mounts(),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in namespaces],
            "maskedPaths": list(_MASKED_PATHS),
            "readonlyPaths": list(_READONLY_PATHS),
        },
    }


def _mounts() -> list[dict[str, Any]]:
    table = (
        ("/proc", "proc", "proc", ""),
        ("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
        ("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro"),
    )
    out = []
    for destination, kind, source, options in table:
        mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
        if options:
            mount["options"] = options.split()
        out.append(mount)
    return out


def rootless(config: dict[str, Any], uid: int, gid: int) -> dict[str, Any]:
    """The configuration without what needs root: the caller alone is mapped, and is root in there."""
    linux = config["linux"]
    del linux["resources"]
    linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    linux["namespaces"] = [ns for ns in linux["namespaces"] if ns["type"] != "network"] + [{"type": "user"}]
    for mount in config["mounts"]:
        if mount["destination"] == "/sys":
            # a new sysfs may be mounted by the owner of the network namespace only, sysfs(5)
            mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
        elif "options" in mount:
            # ids that are not mapped cannot be named
            mount["options"] = [option for option in mount["options"] if not option.startswith(("uid=", "gid="))]
    return config
