"""Seccomp and the security modules."""

from __future__ import annotations

import os

from runtime import seccomp
from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding
from runtime.texts import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.host import Host


def check(host: Host) -> Iterator[Finding]:
    """What keeps a container's system calls and files in bounds."""
    yield from _seccomp()
    yield _modules(host)
    yield _keyring()


def _seccomp() -> Iterator[Finding]:
    actions = text("/proc/sys/kernel/seccomp/actions_avail").split()
    if actions:
        yield Finding(OK, "seccomp.kernel", "seccomp in the kernel", " ".join(actions))
    else:
        yield Finding(WARNING, "seccomp.kernel", "seccomp in the kernel", "not there, or /proc/sys is hidden",
                      "a kernel with CONFIG_SECCOMP_FILTER is needed for linux.seccomp, which every engine sets")  # fmt: skip
    version = seccomp.library_version()
    if version:
        yield Finding(OK, "seccomp.library", "libseccomp", version)
    else:
        found = "not installed, or older than 2.5: a configuration with linux.seccomp, which every engine writes, is refused"
        yield Finding(ERROR, "seccomp.library", "libseccomp", found, "apt install libseccomp2")


def _modules(host: Host) -> Finding:
    names = []
    if host.has_apparmor:
        names.append("AppArmor")
    if host.has_selinux:
        names.append("SELinux, enforcing" if text("/sys/fs/selinux/enforce") == "1" else "SELinux, permissive")
    loaded = text("/sys/kernel/security/lsm")
    what = "security modules"
    if names:
        return Finding(OK, "lsm", what, ", ".join(names) + (f" ({loaded})" if loaded else ""))
    found = "neither AppArmor nor SELinux is enabled: a configuration that asks for a profile or label is refused"
    return Finding(NOTE, "lsm", what, found)


def _keyring() -> Finding:
    if os.path.exists("/proc/keys"):
        return Finding(OK, "kernel.keyring", "keyrings", "each container gets a session keyring of its own")
    return Finding(
        NOTE, "kernel.keyring", "keyrings", "this kernel has none, so that there is nothing to be kept apart"
    )
