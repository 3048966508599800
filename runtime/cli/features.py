"""`features`: what this runtime can do, as the features document of the runtime specification (features.md).

Most of it is about the build and not about this host, as the specification wants it: whether the code is there. Each
list is the very table that the code works by, and what the build does not have is reported as not enabled.
"""

from __future__ import annotations

import runtime
from runtime.cli import output, version
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli.argv import Args

#: in the order of a container's life (config.md#posix-platform-hooks)
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
#: the oldest version of the specification whose documents are read
SPEC_MIN = "1.0.0"


def run(args: Args) -> int:
    output.write(dumps(document(), 4) + "\n")
    return 0


def document() -> dict[str, Any]:
    """The features document."""
    from runtime import seccomp
    from runtime.annotation import PREFIX
    from runtime.planner import options

    annotations = {
        "org.pyrunc.version": runtime.VERSION,
        "org.pyrunc.commit": version.commit(),
        # runc's name, since callers know no other: whether the commands are there, CRIU itself is the host's
        "org.opencontainers.runc.checkpoint.enabled": "true",
    }
    library = seccomp.library_version()
    if library:
        annotations["io.github.seccomp.libseccomp.version"] = library
    return {
        "ociVersionMin": SPEC_MIN,
        "ociVersionMax": version.SPEC,
        "hooks": list(HOOKS),
        "mountOptions": list(options.KNOWN),
        "linux": _linux(seccomp.supported()),
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": [
            *(["org.systemd.property."] if _is_built("cgroups.systemd") else []),
            "org.criu.config",
            PREFIX,
        ],
    }


def _linux(seccomp: dict[str, Any]) -> dict[str, Any]:
    from runtime import linux

    has_systemd = _is_built("cgroups.systemd")
    return {
        "namespaces": sorted(linux.NAMESPACES),
        "capabilities": list(linux.CAPABILITIES),
        "cgroup": {"v1": True, "v2": True, "systemd": has_systemd, "systemdUser": has_systemd, "rdma": True},
        "seccomp": seccomp,
        # like runc, whether labels would be set: a host without the module refuses a configuration that asks for one
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
        "memoryPolicy": {"modes": sorted(linux.MEMPOLICY_MODES), "flags": sorted(linux.MEMPOLICY_FLAGS)},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }


def _is_built(name: str) -> bool:
    """Whether a module that a build may lack is there."""
    from importlib.util import find_spec

    return find_spec("runtime." + name) is not None
