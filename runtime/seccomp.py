"""`linux.seccomp` made into the program that init loads; a program made before for the same section is taken from a cache.

Compiling costs some 20 ms and a library of its own, so the result is kept by the digest of everything that decides it. A
cached program is as powerful as the profile itself, therefore: only a directory of our own user that nobody else may enter,
every file checked for its owner, its mode, its key and its contents, and whatever fails a check is compiled anew and
replaced. Nothing here loads a filter; the op `seccomp` does, in the container's init.
"""

from __future__ import annotations

import marshal
from struct import Struct

from runtime import annotation
from runtime import system as os
from runtime.errors import RuleError, Unsupported
from runtime.host import library_path

try:
    from _blake2 import blake2b  # hashlib costs 19 ms, most of them for OpenSSL
except ImportError:
    from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.host import Host

PLACE = "/linux/seccomp"
FLAG_NEW_LISTENER = 8
#: how the warning about a name that libseccomp does not know begins
UNKNOWN = "linux.seccomp: unknown to libseccomp"

#: a cached file: magic, key, flags, length of the program, length of the warnings; program; warnings; digest of it all
HEADER = Struct("=8s32sIII")
MAGIC = b"pyruncS1"
DIGEST_BYTES = 32
FILE_BYTES_MAX = 1 << 20
#: profiles kept; each is a few kilobytes of a tmpfs
ENTRIES_MAX = 256

#: what decides a filter besides its section; their identity stands for the version of our compiler
_COMPILER = ("_libseccomp.py", "libseccomp.py", "seccomp_bpf.py", "seccomp_profile.py", "seccomp.py")


class Filter:
    """A filter ready to be loaded: `program` is an array of struct sock_filter, `flags` are seccomp(2)'s."""

    __slots__ = ("flags", "listener", "listener_metadata", "listener_path", "name", "program", "record", "warnings")

    def __init__(self, program: bytes, flags: int, warnings: list[str], section: dict[str, Any]) -> None:
        self.program = program
        self.flags = flags
        #: whether loading yields a descriptor for the agent at `listener_path`
        self.listener = bool(flags & FLAG_NEW_LISTENER)
        self.listener_path: str = section.get("listenerPath") or ""
        self.listener_metadata: str = section.get("listenerMetadata") or ""
        #: lines for the log: rules that are ignored, and why
        self.warnings = warnings
        #: what the cache does not have yet, and the file for it
        self.name = ""
        self.record = b""
        if self.listener and not self.listener_path:
            raise RuleError(f"{PLACE}/listenerPath", "required for SCMP_ACT_NOTIFY", clause="config-linux.md#seccomp")
        if self.listener_metadata and not self.listener_path:
            raise RuleError(
                f"{PLACE}/listenerMetadata", "has no meaning without listenerPath", clause="config-linux.md#seccomp"
            )


def prepare(section: dict[str, Any], host: Host, cache_dir: str = "", *, keeps: bool = True) -> Filter | None:
    """The filter of a `linux.seccomp`, None where it is empty; `cache_dir` "" stands for no cache.

    A filter that was compiled is kept there, or is left to the caller to `keep`: then nothing is changed here.
    """
    if not section.get("defaultAction") and not section.get("syscalls"):
        return None  # runc: seccomp is off
    library = find_library()
    # a library found only by the loader's own search has no identity to key the cache with
    key = _key(section, host, library) if cache_dir and library else b""
    dir_fd = _open_cache(cache_dir) if key else -1
    if dir_fd >= 0:
        try:
            found = _load(dir_fd, key.hex(), key)
        finally:
            os.close(dir_fd)
        if found is not None:
            return Filter(*found, section)
    program, flags, warnings = _compile(section, library)
    made = Filter(program, flags, warnings, section)
    if key:
        made.name = key.hex()
        made.record = _record(key, made)
        if keeps:
            keep(made, cache_dir)
    return made


def of_container(config: dict[str, Any], host: Host, cache_dir: str, *, keeps: bool = True) -> Filter | None:
    """The filter of a container: of `linux.seccomp`, or of the annotations that stand in for it."""
    program = annotation.seccomp_program(config)
    if program:
        path = annotation.get(config, "seccomp.receiver") or ""
        return Filter(program, FLAG_NEW_LISTENER if path else 0, [], {"listenerPath": path})
    made = prepare(annotation.seccomp_section(config), host, cache_dir, keeps=keeps)
    if made is not None and annotation.is_strict_about_calls(config):
        for warning in made.warnings:
            if UNKNOWN in warning:
                raise RuleError(f"{PLACE}/syscalls", warning.partition(": ")[2].replace(", ignoring:", ":"))
    return made


def keep(made: Filter, cache_dir: str) -> None:
    """Keep a compiled filter for the next container; `cache_dir` is made if missing, and left alone if it is not safe."""
    dir_fd = _open_cache(cache_dir, may_make=True)
    if dir_fd >= 0:
        try:
            _store(dir_fd, made.name, made.record)
        finally:
            os.close(dir_fd)


def supported() -> dict[str, Any]:
    """`linux.seccomp` of the features document; {"enabled": False} where libseccomp is not installed or too old."""
    from runtime import libseccomp

    try:
        return libseccomp.supported(find_library() or libseccomp.SONAME)
    except Unsupported:
        return {"enabled": False}


def library_version() -> str:
    """The version of libseccomp, "" where it is not installed or too old."""
    from runtime import libseccomp

    try:
        return libseccomp.Library(find_library() or libseccomp.SONAME).version_text
    except Unsupported:
        return ""


def find_library() -> str:
    """The path of libseccomp, "" if it is in none of the usual places: the file whose identity is in the key is what compiles."""
    return library_path("libseccomp.so.2")


def _compile(section: dict[str, Any], library: str) -> tuple[bytes, int, list[str]]:
    from runtime import libseccomp, seccomp_profile

    return libseccomp.compile_profile(seccomp_profile.read(section), library or libseccomp.SONAME)


# -- the cache --------------------------------------------------------------------------------------------------------


def _key(section: dict[str, Any], host: Host, library: str) -> bytes:
    """The digest of everything that decides the program, b"" if that cannot be told.

    The section goes in as a whole, as marshal writes it: each value with its type and length, so that no two different
    sections have the same text (crun's key left out errnoRet, and one container got another's filter). Its version 2
    writes no back references, which would depend on which strings happen to be one object.
    """
    here = os.path.dirname(__file__)
    try:
        files = [_identity(library), *[_identity(f"{here}/{name}") for name in _COMPILER]]
        text = marshal.dumps([section, host.machine, host.kernel, files], 2)
    except (OSError, ValueError):
        return b""
    return blake2b(text, digest_size=DIGEST_BYTES).digest()


def _identity(path: str) -> list[Any]:
    found = os.stat(path)
    return [path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _open_cache(path: str, *, may_make: bool = False) -> int:
    """The cache directory; -1 if there is none that we can trust."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            if not may_make:
                return -1
            _make_directory(path)
            fd = os.open(path, flags)
    except OSError:
        return -1
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(fd)
        return -1
    return fd


def _make_directory(path: str) -> None:
    for directory in (os.path.dirname(path), path):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            continue


def _load(dir_fd: int, name: str, key: bytes) -> tuple[bytes, int, list[str]] | None:
    """The program kept under `name`; None where there is none or where anything about the file is not as we write it."""
    try:
        # O_NONBLOCK: whatever else it is, opening it must not wait
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        is_ours = found.st_uid == os.geteuid() and found.st_mode == 0o100600 and found.st_size <= FILE_BYTES_MAX
        data = os.read(fd, found.st_size) if is_ours else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(data) < HEADER.size + DIGEST_BYTES:
        return None
    magic, kept_key, flags, program_bytes, warnings_bytes = HEADER.unpack_from(data)
    end = HEADER.size + program_bytes
    if magic != MAGIC or kept_key != key or len(data) != end + warnings_bytes + DIGEST_BYTES:
        return None
    if blake2b(data[:-DIGEST_BYTES], digest_size=DIGEST_BYTES).digest() != data[-DIGEST_BYTES:]:
        return None
    return data[HEADER.size : end], flags, data[end:-DIGEST_BYTES].decode("ascii").splitlines()


def _record(key: bytes, made: Filter) -> bytes:
    # names of system calls are printable ASCII (`seccomp_profile` sees to it), so no warning can hold a line break
    warnings = "\n".join(made.warnings).encode("ascii")
    data = HEADER.pack(MAGIC, key, made.flags, len(made.program), len(warnings)) + made.program + warnings
    return data + blake2b(data, digest_size=DIGEST_BYTES).digest()


def _store(dir_fd: int, name: str, data: bytes) -> None:
    """Keep a record: whole or not at all, and never an error; the next container compiles again."""
    temporary = f".{name}.{os.getpid()}"
    try:
        _make_room(dir_fd)
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd
        )
    except OSError:
        return
    try:
        try:
            whole = os.write(fd, data) == len(data)
        finally:
            os.close(fd)
        if whole:
            os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            return
    except OSError:
        pass  # a full or read-only file system
    try:
        os.unlink(temporary, dir_fd=dir_fd)
    except OSError:
        pass


def _make_room(dir_fd: int) -> None:
    """Remove the oldest files until there is room for one more."""
    names = os.listdir(dir_fd)
    if len(names) < ENTRIES_MAX:
        return
    aged = []
    for name in names:
        try:
            aged.append((os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mtime_ns, name))
        except FileNotFoundError:
            continue  # another create was quicker
    for _, name in sorted(aged)[: len(names) - ENTRIES_MAX + 1]:
        try:
            os.unlink(name, dir_fd=dir_fd)
        except FileNotFoundError:
            continue
