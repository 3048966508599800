"""libseccomp, through cffi's ABI mode: a profile that was read becomes a program for seccomp(2).

The library compiles and nothing else: it never loads a filter, so its attributes about loading do not matter here. It is
opened when first needed, which is once per profile and not once per container (`seccomp.prepare` keeps the result). This
module must not read `linux.seccomp` itself and must not be imported where a cached filter answers.
"""

from __future__ import annotations

import errno
import os

from runtime import seccomp_bpf
from runtime.errors import ConfigError, RuleError, Unsupported
from runtime.seccomp_profile import (
    ACTIONS,
    ARCHITECTURES,
    FLAG_NEW_LISTENER,
    FLAG_SPEC_ALLOW,
    FLAG_WAIT_KILLABLE_RECV,
    FLAGS,
    KERNEL_ACTIONS,
    OPERATORS,
    PLACE,
    RET_ALLOW,
    RET_ERRNO,
    RET_LOG,
    RET_TRACE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.seccomp_profile import Profile, Rule

SONAME = "libseccomp.so.2"
#: older ones compare 64-bit arguments wrongly (CVE-2019-9893, fixed in 2.4) and cannot build a binary tree
OLDEST = (2, 5, 0)

# enum scmp_filter_attr
ATTR_CTL_NNP = 3
ATTR_CTL_OPTIMIZE = 8
#: a binary tree over the numbers instead of a list
OPTIMIZE_TREE = 2
#: with fewer rules the list is as fast; with none at all a tree of libseccomp up to 2.5.4 is broken
TREE_FROM = 33

NR_ERROR = -1  # __NR_SCMP_ERROR; other negative numbers are calls that this architecture does by other means
SECCOMP_SET_MODE_FILTER = 1
ACTION_FULL = 0xFFFF0000

#: fcntl(2); enough for the longest program that the kernel takes, twice over
F_SETPIPE_SZ = 1031
EXPORT_BYTES = 65536


class Library:
    """The opened library: its version, and what the running kernel can do."""

    __slots__ = ("_libc", "ffi", "lib", "version")

    def __init__(self, path: str) -> None:
        from runtime._libseccomp import ffi

        self.ffi: Any = ffi
        self.lib = _open(ffi, path)
        self._libc = _open(ffi, None)
        found = self.lib.seccomp_version()
        self.version = (int(found.major), int(found.minor), int(found.micro))
        if self.version < OLDEST:
            raise Unsupported(f"linux.seccomp: {path} is libseccomp {self.version_text}, at least 2.5 is needed")

    @property
    def version_text(self) -> str:
        """As runc prints it."""
        return ".".join(map(str, self.version))

    def has_flag(self, flag: int) -> bool:
        """Whether the kernel takes a flag of seccomp(2): it looks at the flags first, then finds no program at NULL."""
        if flag == FLAG_WAIT_KILLABLE_RECV:
            flag |= FLAG_NEW_LISTENER  # it is about the listener, and EINVAL without one
        number = self.lib.seccomp_syscall_resolve_name(b"seccomp")
        cast = self.ffi.cast
        self._libc.syscall(
            number, cast("unsigned int", SECCOMP_SET_MODE_FILTER), cast("unsigned int", flag), self.ffi.NULL
        )
        return bool(self.ffi.errno == errno.EFAULT)


def _open(ffi: Any, path: str | None) -> Any:
    try:
        return ffi.dlopen(path)
    except OSError as error:
        # dlopen's words begin with the path
        raise Unsupported(f"linux.seccomp: {error}", hint="libseccomp is in Debian's package libseccomp2")


def compile_profile(profile: Profile, path: str) -> tuple[bytes, int, list[str]]:
    """The program (an array of struct sock_filter), the flags for seccomp(2), and warnings."""
    library = Library(path)
    flags = _flags(profile, library)
    architectures = _architectures(profile, library)
    numbers = {name: library.lib.seccomp_syscall_resolve_name(name.encode()) for name in profile.names}
    program = _export(library, profile, architectures, numbers)
    # libseccomp's own answer comes last: what the stub lets through falls into it
    program = _stub(profile, library, architectures) + program
    count = seccomp_bpf.length(program)
    if count > seccomp_bpf.INSTRUCTIONS_MAX:
        limit = seccomp_bpf.INSTRUCTIONS_MAX
        raise RuleError(f"{PLACE}/syscalls", f"the filter needs {count} instructions and the kernel takes {limit}")
    warnings = list(profile.warnings)
    unknown = [f'"{name}"' for name, number in numbers.items() if number == NR_ERROR]
    if unknown:
        warnings.append(f"linux.seccomp: unknown to libseccomp {library.version_text}, ignoring: {', '.join(unknown)}")
    return program, flags, warnings


def _flags(profile: Profile, library: Library) -> int:
    """What the section asks for, each checked against the kernel: dropping one would weaken the filter in silence."""
    flags = 0
    if profile.flags is None:
        # an absent list is not an empty one: speculation stays allowed, as before Linux 5.16 made that the default
        flags = FLAG_SPEC_ALLOW if library.has_flag(FLAG_SPEC_ALLOW) else 0
    for number, word in enumerate(profile.flags or ()):
        flag = FLAGS[word]
        if flag and not library.has_flag(flag):
            raise Unsupported(f"linux.seccomp.flags.{number}: this kernel does not support {word}")
        if flag == FLAG_WAIT_KILLABLE_RECV and not profile.notifies:
            raise RuleError(f"{PLACE}/flags/{number}", f"{word} has no meaning without a rule of SCMP_ACT_NOTIFY")
        flags |= flag
    if profile.notifies:
        if not library.has_flag(FLAG_NEW_LISTENER):
            raise Unsupported("linux.seccomp: this kernel does not support SCMP_ACT_NOTIFY")
        flags |= FLAG_NEW_LISTENER
    return flags


def _architectures(profile: Profile, library: Library) -> list[int]:
    """libseccomp's words for the native architecture, which is always filtered, and those of the section."""
    tokens = [library.lib.seccomp_arch_native()]
    for number, name in enumerate(profile.architectures):
        token = library.lib.seccomp_arch_resolve_name(ARCHITECTURES[name].encode())
        if not token:
            raise Unsupported(
                f"linux.seccomp.architectures.{number}: {name} is unknown to libseccomp {library.version_text}"
            )
        if token not in tokens:
            tokens.append(token)
    return tokens


def _export(library: Library, profile: Profile, architectures: list[int], numbers: dict[str, int]) -> bytes:
    """libseccomp's program for the rules."""
    lib = library.lib
    context = lib.seccomp_init(profile.default)
    if context == library.ffi.NULL:
        raise Unsupported(f"linux.seccomp.defaultAction: refused by libseccomp {library.version_text}")
    try:
        for token in architectures[1:]:
            _check(lib.seccomp_arch_add(context, token), f"{PLACE}/architectures", "cannot be filtered on this machine")
        # the plan sets no_new_privs where process.noNewPrivileges says so, never the filter
        _check(lib.seccomp_attr_set(context, ATTR_CTL_NNP, 0), PLACE, "no-new-privs cannot be left alone")
        if len(profile.rules) >= TREE_FROM:
            _check(lib.seccomp_attr_set(context, ATTR_CTL_OPTIMIZE, OPTIMIZE_TREE), PLACE, "no binary tree")
        for rule in profile.rules:
            number = numbers[rule.name]
            if number != NR_ERROR:
                _add(library, context, rule, number)
        return _exported(library, context)
    finally:
        lib.seccomp_release(context)


def _add(library: Library, context: Any, rule: Rule, number: int) -> None:
    conditions = (
        library.ffi.new("struct scmp_arg_cmp[]", list(rule.conditions)) if rule.conditions else library.ffi.NULL
    )
    # all conditions of a rule in one call, so that they must all hold (CVE-2017-18367 added them one by one)
    answer = library.lib.seccomp_rule_add_array(context, rule.action, number, len(rule.conditions), conditions)
    if answer == -errno.EEXIST:
        raise ConfigError(rule.place, f'another action for "{rule.name}" under the same conditions was given before')
    _check(answer, rule.place, f'rule for "{rule.name}"')


def _check(answer: int, place: str, what: str) -> None:
    if answer < 0:
        raise ConfigError(place, f"{what}: libseccomp: {os.strerror(-answer)}")


def _exported(library: Library, context: Any) -> bytes:
    """The program, through a descriptor: the one interface for it that libseccomp 2.5 has."""
    try:
        read_fd = write_fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    except OSError:
        # A service manager may hide memfd_create. A pipe must take the program in one write: libseccomp does not notice a
        # short one, and half a filter is another filter.
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if read_fd != write_fd:
            from fcntl import fcntl

            fcntl(write_fd, F_SETPIPE_SZ, EXPORT_BYTES)
        _check(library.lib.seccomp_export_bpf(context, write_fd), PLACE, "the filter cannot be exported")
        if read_fd == write_fd:
            os.lseek(read_fd, 0, os.SEEK_SET)
        # more than this is cut off, and too long for the kernel all the same
        return os.read(read_fd, EXPORT_BYTES)
    finally:
        os.close(read_fd)
        if write_fd != read_fd:
            os.close(write_fd)


def _stub(profile: Profile, library: Library, architectures: list[int]) -> bytes:
    """The -ENOSYS stub, for defaults that would refuse or kill; others let new calls through, or to the tracer."""
    if profile.default & ACTION_FULL in (RET_ALLOW, RET_LOG, RET_TRACE):
        return b""
    if profile.default == RET_ERRNO | seccomp_bpf.ENOSYS:
        return b""
    resolve = library.lib.seccomp_syscall_resolve_name_arch
    names = [name.encode() for name in profile.names]
    largest: dict[int, int] = {}
    for token in architectures:
        # negative: unknown, or not a system call of its own there
        number = max((resolve(token, name) for name in names), default=-1)
        if number >= 0:
            largest[token] = number
    return seccomp_bpf.enosys_stub(largest)


def supported(path: str) -> dict[str, Any]:
    """What the features document says of seccomp: our words, less what the library or the kernel does not know."""
    library = Library(path)
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail") as file:
            available = file.read().split()
    except OSError:
        available = list(KERNEL_ACTIONS.values())
    known = library.lib.seccomp_arch_resolve_name
    return {
        "enabled": True,
        "actions": sorted(name for name, action in ACTIONS.items() if KERNEL_ACTIONS[action] in available),
        "operators": sorted(OPERATORS),
        "archs": sorted(name for name, word in ARCHITECTURES.items() if known(word.encode())),
        "knownFlags": sorted(FLAGS),
        "supportedFlags": sorted(name for name, flag in FLAGS.items() if not flag or library.has_flag(flag)),
    }
