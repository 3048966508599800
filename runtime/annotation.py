"""Annotations of config.json that change what is done: crun's `run.oci.*`, each with what becomes of it here. Pure.

`org.systemd.property.*` is read by cgroups.systemd_properties, `org.criu.config` by checkpoint. An annotation that only crun knows is
for crun: what is not done here is refused where the container would be another one than was asked for, else it is left alone, with
a warning and the reason of the table.
"""

from __future__ import annotations

from runtime.errors import ConfigError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: what `features` says of them: whoever may set one of these may change what the runtime does
PREFIX = "run.oci."

HONOURED, REFUSED, IGNORED = "honoured", "refused", "ignored"

#: name -> (what becomes of it, what it does, or why it is not done)
KNOWN: dict[str, tuple[str, str]] = {
    "run.oci.keep_original_groups": (HONOURED, "the supplementary groups of the caller are kept, whatever additionalGids says"),
    "run.oci.hooks.stdout": (HONOURED, "file of the host that standard output of hooks is appended to"),
    "run.oci.hooks.stderr": (HONOURED, "file of the host that standard error of hooks is appended to"),
    "run.oci.mount_context_type": (HONOURED, "which mount option linux.mountLabel is given by: context, fscontext, defcontext, rootcontext"),
    "run.oci.timens_offset": (HONOURED, "CLOCK SECONDS NANOSECONDS of a new time namespace, where linux.timeOffsets says nothing"),
    "run.oci.pidfd_receiver": (HONOURED, "socket that is sent a pidfd of init, as by --pidfd-socket"),
    "run.oci.seccomp.receiver": (HONOURED, "socket that is sent the listener of seccomp, where there is no linux.seccomp.listenerPath"),
    "run.oci.seccomp_fail_unknown_syscall": (HONOURED, "a system call that libseccomp does not know is an error and no warning"),
    "run.oci.seccomp_bpf_data": (HONOURED, "a program in base64 that is loaded as the filter, where there is no linux.seccomp"),
    "run.oci.handler": (
        REFUSED,
        "no handler is built in: a virtual machine or a WebAssembly engine is a program of its own, which the image or another runtime has",
    ),
    "run.oci.seccomp.plugins": (
        REFUSED,
        "no shared object is loaded into the runtime at the wish of a configuration: an agent at linux.seccomp.listenerPath does the same",
    ),
    "run.oci.systemd.force_cgroup_v1": (
        IGNORED,
        "a host of cgroup v1 or hybrid has the hierarchy of systemd in any mount of type cgroup; on one of v2 alone somebody would have to add it, "
        "for a systemd of before 2016",
    ),
    "run.oci.systemd.subgroup": (
        IGNORED,
        "the container is in the scope itself, as with crun where this is empty: nothing is in there beside it that it would have to be kept from",
    ),
    "run.oci.delegate-cgroup": (
        IGNORED,
        "the cgroup of a container with a user and a cgroup namespace is delegated as it is, where /sys/fs/cgroup can be written; whoever manages "
        "cgroups in there makes one for itself",
    ),
}  # fmt: skip

_CONTEXTS = ("context", "fscontext", "defcontext", "rootcontext")
_CLOCKS = {"monotonic": "monotonic", "boottime": "boottime", "1": "monotonic", "7": "boottime"}
#: BPF_MAXINSNS of struct sock_filter
_PROGRAM_BYTES_MAX = 4096 * 8


def get(config: dict[str, Any], name: str) -> str | None:
    """The value of an annotation of PREFIX, None where it is not there."""
    found: str | None = (config.get("annotations") or {}).get(PREFIX + name)
    return found


def _wrong(name: str, why: str) -> ConfigError:
    return ConfigError("/annotations/" + PREFIX + name, why)


def check(config: dict[str, Any]) -> list[str]:
    """Warnings about annotations without effect; raise where one cannot be honoured, or says nothing that can be."""
    warnings = []
    for name, value in (config.get("annotations") or {}).items():
        done, words = KNOWN.get(name, ("", ""))
        if not done or not value:
            continue
        if done == REFUSED:
            raise Unsupported(f"annotation {name}={value}: {words}")
        if done == IGNORED:
            warnings.append(f"annotation {name}: no effect: {words}")
    mount_context(config)
    seccomp_program(config)
    for name in ("seccomp.receiver", "hooks.stdout", "hooks.stderr"):
        path = get(config, name)
        if path is not None and path[:1] != "/":
            raise _wrong(name, f'"{path}" is not an absolute path')
    return warnings


def keeps_groups(config: dict[str, Any]) -> bool:
    """Whether the caller's supplementary groups are the container's."""
    return get(config, "keep_original_groups") is not None


def mount_context(config: dict[str, Any]) -> str:
    """The mount option that the SELinux label of mounts is given by."""
    word = get(config, "mount_context_type")
    if word is not None and word not in _CONTEXTS:
        raise _wrong("mount_context_type", f'"{word}" is none of {", ".join(_CONTEXTS)}')
    return word or "context"


def time_offsets(config: dict[str, Any]) -> str:
    """A line for timens_offsets, time_namespaces(7); "" for none."""
    text = get(config, "timens_offset")
    if text is None:
        return ""
    words = text.split()
    if len(words) != 3 or words[0] not in _CLOCKS or not all(_is_number(word) for word in words[1:]):
        raise _wrong("timens_offset", f'"{text}" is not a clock (monotonic, boottime), seconds and nanoseconds')
    return f"{_CLOCKS[words[0]]} {words[1]} {words[2]}\n"


def _is_number(word: str) -> bool:
    digits = word.removeprefix("-")
    return bool(digits) and not digits.strip("0123456789") and len(digits) < 20


def seccomp_section(config: dict[str, Any]) -> dict[str, Any]:
    """`linux.seccomp` with the agent that an annotation names, where it has rules for one and names none itself."""
    section: dict[str, Any] = (config.get("linux") or {}).get("seccomp") or {}
    path = get(config, "seccomp.receiver")
    if path and not section.get("listenerPath") and _notifies(section):
        return {**section, "listenerPath": path}
    return section


def _notifies(section: dict[str, Any]) -> bool:
    return any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in section.get("syscalls") or ())


def seccomp_program(config: dict[str, Any]) -> bytes:
    """The program that is loaded as the filter; b"" for none."""
    text = get(config, "seccomp_bpf_data")
    if text is None:
        return b""
    if (config.get("linux") or {}).get("seccomp"):
        # crun replaces the profile by it. Annotations can come with an image: that must not be how one loses its filter
        raise _wrong(
            "seccomp_bpf_data", "there is a linux.seccomp, which no annotation replaces: leave one of them out"
        )
    from binascii import Error, a2b_base64

    try:
        program = a2b_base64(text, strict_mode=True)
    except (Error, ValueError) as error:
        raise _wrong("seccomp_bpf_data", f"no base64: {error}") from None
    if not program or len(program) % 8 or len(program) > _PROGRAM_BYTES_MAX:
        raise _wrong("seccomp_bpf_data", f"{len(program)} bytes are no program: 1 to 4096 instructions of 8 bytes are")
    return program


def is_strict_about_calls(config: dict[str, Any]) -> bool:
    """Whether a system call that libseccomp does not know is an error."""
    return get(config, "seccomp_fail_unknown_syscall") is not None
