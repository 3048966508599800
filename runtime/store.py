"""The state directory: one directory per container under the root, and who its init process is.

    ROOT/ID/             0700; making it is what makes an id taken, so that of two creates exactly one wins
        journal          one JSON object a line, each written before the side effect that it names
        config.json      the document that the container was made from, as it was read
        state.json       what the container is; written whole, renamed into place, once init waits
        exec.fifo        init sleeps on it until `start`; it has a reader exactly as long as init has not been started
        exec.status      what became of that start: a failure record, or nothing and its end

A lock on the directory (flock) tells a verb at work from one that died. Whatever state the directory is in, `delete
--force` can empty it: the journal alone says what there may be to undo. The journal is a record of its own and not a
half-valid state file, which a concurrent reader would take for a stopped container (runc learnt that with 1.3.4).

Readers take no lock, so that `state` never waits: a file appears and disappears while they look, and each of them is
looked at once. The sticky bit of the directory says that it is being removed.

Nothing in here trusts a pid alone: see `identity`.
"""

from __future__ import annotations

import errno
import fcntl
import time

from runtime import jsonio
from runtime import system as os
from runtime.errors import Error, NotFound, StateError, UsageError, lower
from runtime.identity import is_frozen, is_this_boot, start_time
from runtime.status import CREATED, CREATING, PAUSED, RUNNING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
#: files of a container's directory, in the order in which `remove` takes them: the state last of the files, so that an
#: interrupted delete still finds what it needs
_FILES = ("exec.fifo", "exec.status", "config.json", "state.json.new", "state.json", "journal")
#: of the directory's mode
_REMOVED = 0o1000
#: how long a directory may be empty and not locked without that its create has died: it is made, and then locked
_NEW_S = 1.0


def default_root(euid: int, in_user_ns: bool) -> str:
    """Where containers are kept: /run/pyrunc, or below $XDG_RUNTIME_DIR without root (runc's rule, main.go)."""
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if (euid != 0 or (in_user_ns and os.environ.get("USER", "") != "root")) and runtime_dir:
        check_directory(runtime_dir, "$XDG_RUNTIME_DIR ")
        return os.path.join(runtime_dir, "pyrunc")
    return "/run/pyrunc"


def check_id(id_: str) -> None:
    """Raise UsageError unless the id is one that runc takes: letters, digits, `_ + - .`, and no path."""
    if not id_:
        raise UsageError("container id cannot be empty", code="invalid-id")
    if not _is_id(id_):
        raise UsageError(f'invalid container ID format: "{id_[:80]}"', code="invalid-id")


def _is_id(id_: str) -> bool:
    return not (id_ in (".", "..") or len(id_) > 1024 or not id_.isascii() or id_.translate(_ID_CHARACTERS))


_ID_CHARACTERS = dict.fromkeys(map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-."))


class Entry:
    """The directory of one container, held open; `state` is what its state.json says, or None."""

    __slots__ = ("id", "path", "fd", "state", "_journal_fd")

    def __init__(self, id_: str, path: str, fd: int) -> None:
        self.id = id_
        self.path = path
        self.fd = fd
        self.state: dict[str, Any] | None = None
        self._journal_fd = -1

    def close(self) -> None:
        """Give up the directory, and with it the lock."""
        for fd in (self._journal_fd, self.fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._journal_fd = -1

    # -- lock ------------------------------------------------------------------------------------------------------

    def lock(self, wait_s: float = 0.0) -> bool:
        """Take the lock; False when another command has held it for `wait_s` seconds."""
        deadline = time.monotonic() + wait_s
        pause = 0.001
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise StateError(f"lock {self.path}: {error.strerror}") from None
            if time.monotonic() >= deadline:
                return False
            # flock(2) has no time limit of its own; a blocking call could hang on a creating process for ever
            import select

            select.select((), (), (), pause)
            pause = min(pause * 2, 0.05)

    def is_locked(self) -> bool:
        """Whether another command is at work on the container."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        self.unlock()
        return False

    def unlock(self) -> None:
        """Let others have the lock."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def is_empty(self) -> bool:
        """Whether nothing is in the directory: not even a journal, which is begun with the lock."""
        try:
            return not os.listdir(self.fd)
        except FileNotFoundError:
            return True  # it has been removed
        except OSError as error:
            raise StateError(f"list {self.path}: {lower(error)}", errno=error.errno) from None

    def is_gone(self) -> bool:
        """Whether the directory has been removed since it was opened, though another container may have its name by now."""
        try:
            here = os.fstat(self.fd)
            try:
                there = os.lstat(self.path)
            except FileNotFoundError:
                return True
        except OSError as error:
            raise StateError(f"stat {self.path}: {lower(error)}", errno=error.errno) from None
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    # -- journal ---------------------------------------------------------------------------------------------------

    def note(self, record: dict[str, Any]) -> None:
        """Write down what is about to be done; only then may it be done."""
        if self._journal_fd < 0:
            self._journal_fd = self._open("journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        data = (jsonio.dumps(record) + "\n").encode("utf-8", "surrogateescape")
        self._put(self._journal_fd, "journal", data)

    def journal(self) -> dict[str, Any]:
        """All journal records merged, later over earlier ones, what is damaged left out: a crash leaves a torn last line."""
        out: dict[str, Any] = {}
        for line in self.read("journal", 1 << 20).split(b"\n"):
            if line:
                try:
                    record = jsonio.loads(line, f"{self.path}/journal", lone_surrogates=True)
                except Error:
                    continue
                if type(record) is dict:
                    out.update((key, value) for key, value in record.items() if _is_sound(key, value))
        return out

    # -- files -----------------------------------------------------------------------------------------------------

    def _open(self, name: str, flags: int, mode: int = 0o600) -> int:
        try:
            return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=self.fd)
        except OSError as error:
            raise StateError(f"open {self.path}/{name}: {lower(error)}", errno=error.errno) from None

    def read(self, name: str, limit: int = 1 << 24) -> bytes:
        """The contents of a file of the directory, b"" where there is none or it is not an ordinary file."""
        return self._read(name, limit) or b""

    def _read(self, name: str, limit: int = 1 << 24) -> bytes | None:
        """The same, but None where there is none: whoever looked again for that could find it made since, or removed."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _NOTHING:
                return b""
            # not the same as nothing: a delete that believed the journal to be empty would undo nothing
            raise StateError(f"open {self.path}/{name}: {lower(error)}", errno=error.errno) from None
        try:
            if os.fstat(fd).st_mode & 0o170000 != 0o100000:
                return b""
            out = []
            while limit > 0 and (data := os.read(fd, min(limit, 1 << 18))):
                out.append(data)
                limit -= len(data)
            return b"".join(out)
        except OSError as error:
            raise StateError(f"read {self.path}/{name}: {lower(error)}", errno=error.errno) from None
        finally:
            os.close(fd)

    def write(self, name: str, data: bytes) -> None:
        """Write a new file of the directory."""
        fd = self._open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self._put(fd, name, data)
        finally:
            os.close(fd)

    def _put(self, fd: int, name: str, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError as error:
            raise StateError(f"write {self.path}/{name}: {lower(error)}", errno=error.errno) from None

    def save(self, state: dict[str, Any]) -> None:
        """Make `state` the container's state, all of it or nothing."""
        self.write("state.json.new", jsonio.dumps(state).encode("utf-8", "surrogateescape"))
        try:
            os.rename("state.json.new", "state.json", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            raise StateError(f"write {self.path}/state.json: {lower(error)}", errno=error.errno) from None
        self.state = state

    def load(self) -> dict[str, Any] | None:
        """Read state.json: None where there is none yet, StateError where it is not one of ours."""
        data = self._read("state.json")
        if data is None:
            self.state = None
            return None
        if not data:
            raise StateError(f"{self.path}/state.json: empty, or not an ordinary file", code="broken-state")
        try:
            state = jsonio.loads(data, f"{self.path}/state.json", lone_surrogates=True)
        except Error as error:
            raise StateError(error.message, code="broken-state") from None
        if type(state) is not dict or state.get("version") != VERSION or state.get("id") != self.id:
            raise StateError(f"{self.path}/state.json: not a state of this container and version", code="broken-state")
        for key, kind in _KINDS.items():
            if (key not in _OPTIONAL or state.get(key) is not None) and not _is_sound(key, state.get(key)):
                raise StateError(f"{self.path}/state.json: {key}: not {kind.__name__}", code="broken-state")
        self.state = state
        return state

    def status(self) -> tuple[str, int]:
        """(status, pid of init or 0) as of now, of a container whose lock others have or nobody; NotFound once it is removed."""
        if self.state is None and (word := self._beginning()):
            return word, 0
        state: dict[str, Any] = self.state or {}
        pid = state["pid"]
        started = start_time(pid) if pid > 1 else 0
        if started == 0 or started != state["start_time"] or not is_this_boot(state["boot_id"]):
            return STOPPED, 0
        if is_frozen(state["freezer"]):
            return PAUSED, pid
        return (CREATED if self.is_waiting() else RUNNING), pid

    def _beginning(self) -> str:
        """CREATING, or STOPPED where that has died, as long as there is no state.json; "" where there is one by now."""
        # the second time: who has put something into the directory since had the lock before that
        for _ in range(2):
            is_locked = self.is_locked()
            try:
                info = os.fstat(self.fd)
            except OSError as error:
                raise StateError(f"stat {self.path}: {lower(error)}", errno=error.errno) from None
            is_removed = bool(info.st_mode & _REMOVED)
            is_new = not is_removed and time.time() - info.st_mtime < _NEW_S and self.is_empty()
            if not is_locked and self.load() is not None:
                return ""
            if self.is_gone() or (is_locked and is_removed):
                raise NotFound(self.id)
            if is_locked or is_new:
                return CREATING
        return STOPPED

    def is_waiting(self) -> bool:
        """Whether init still sleeps on exec.fifo: it alone reads from it, and its exec closes it."""
        try:
            fd = os.open("exec.fifo", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _NOTHING:
                return False
            raise StateError(f"open {self.path}/exec.fifo: {lower(error)}", errno=error.errno) from None
        os.close(fd)
        return True

    def remove(self) -> None:
        """Remove the directory and all in it; the last thing of a delete, so that it can be repeated until then."""
        try:
            names = os.listdir(self.fd)
        except OSError:
            names = []  # without a descriptor for it: rmdir says it too
        try:
            # before any of it is missing: with neither state nor journal it would look like a create at its very beginning
            os.fchmod(self.fd, 0o700 | _REMOVED)
        except OSError:
            pass  # what follows says it better
        if not set(_FILES).issuperset(names):
            from runtime import emptying

            # first: where that fails, what is left is a container's directory still
            emptying.empty(self.fd, _FILES)
        for name in _FILES:
            try:
                os.unlink(name, dir_fd=self.fd)
            except FileNotFoundError:
                pass
            except IsADirectoryError:
                break
            except OSError as error:
                raise StateError(f"remove {self.path}/{name}: {lower(error)}", errno=error.errno) from None
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise StateError(f"remove {self.path}: {lower(error)}", errno=error.errno) from None
            from runtime import emptying

            emptying.remove(self.path, self.fd)


#: what the kernel says of a name that is not there, or not what it should be; of a FIFO, that nobody reads it
_NOTHING = (errno.ENOENT, errno.ENXIO, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
#: of the state, and of the journal where it has the same
_KINDS: dict[str, type] = {
    "pid": int, "start_time": int, "boot_id": str, "bundle": str, "rootfs": str, "created": str, "freezer": str,
    "cgroup": dict, "namespaces": list, "ociVersion": str, "annotations": dict, "tail": dict, "resources": dict,
    "resctrl": list, "resctrl_class": str,
}  # fmt: skip
_OPTIONAL = ("ociVersion", "annotations", "tail", "resources", "resctrl", "resctrl_class")


def _is_sound(key: str, value: Any) -> bool:
    """Whether a state or a journal may have this for it: a damaged file must end in a word about it, and nowhere else."""
    kind: Any = _KINDS.get(key)
    if kind is None or not isinstance(value, kind) or type(value) is bool:
        return kind is None
    if kind is int:
        return bool(-1 < value < 1 << (31 if key == "pid" else 63))  # pid_t, and clock ticks
    inside = value if kind is list else value.values() if key == "annotations" else ()
    return all(type(item) is str for item in inside)


# -- finding one -------------------------------------------------------------------------------------------------------


ELSEWHERE = "without root, set XDG_RUNTIME_DIR or give --root"


def check_directory(path: str, what: str = "") -> None:
    """It must be ours, and not writable by others: what is in it names processes to be killed and programs to be run."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise StateError(f"{what}{path}: {lower(error)}", errno=error.errno) from None
    if info.st_mode & 0o170000 != 0o040000:
        raise StateError(f"{what}{path}: not a directory")
    if info.st_uid not in (0, os.geteuid()):
        raise StateError(f"{what}{path}: belongs to uid {info.st_uid}")
    if info.st_mode & 0o002:
        raise StateError(f"{what}{path}: writable by everybody")


def open_entry(id_: str, path: str) -> Entry:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotFound(id_) from None
    except OSError as error:
        hint = ELSEWHERE if error.errno == errno.EACCES else ""
        raise StateError(f"open {path}: {lower(error)}", hint, errno=error.errno) from None
    owner = os.fstat(fd).st_uid
    if owner not in (0, os.geteuid()):
        # a state of somebody else's would have us kill what he cannot, and run his hooks
        os.close(fd)
        raise StateError(f"open {path}: belongs to uid {owner}", code="foreign-state")
    return Entry(id_, path, fd)


def find(root: str, id_: str) -> Entry:
    """The directory of a container, state not yet read; NotFound where there is none."""
    check_id(id_)
    return open_entry(id_, os.path.join(root, id_))


def ids(root: str) -> list[str]:
    """The ids of all containers under the root, in order."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(f"list {root}: {lower(error)}", errno=error.errno) from None
    return [name for name in sorted(names) if _is_id(name) and os.path.isdir(os.path.join(root, name))]
