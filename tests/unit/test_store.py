"""The state directory: ids, locks, journal, state file, and who init is."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime import identity, reserving, store
from runtime.errors import Exists, KernelError, NotFound, StateError, UsageError

STATE = {
    "version": store.VERSION, "id": "web", "pid": 0, "start_time": 0, "boot_id": "", "bundle": "/b", "rootfs": "/b/r",
    "created": "", "freezer": "", "cgroup": {}, "namespaces": [],
}  # fmt: skip


@pytest.mark.parametrize("id_", ["web", "a", "A-1_b.c+d", "x" * 1024, "...", "-x"])
def test_good_ids(id_: str) -> None:
    store.check_id(id_)


@pytest.mark.parametrize(
    "id_", ["", ".", "..", "a/b", "%2e", "a b", "x" * 1025, "ü", "a\n", "a\0b", "../x", ":seccomp"]
)
def test_bad_ids(id_: str) -> None:
    with pytest.raises(UsageError):
        store.check_id(id_)


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    entry = reserving.reserve(root, "web")
    with pytest.raises(Exists, match="already exists"):
        reserving.reserve(root, "web")
    assert (tmp_path / "root" / "web").stat().st_mode & 0o777 == 0o700
    entry.remove()
    entry.close()
    reserving.reserve(root, "web").close()


def test_the_root_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        reserving.reserve(str(tmp_path / "deep" / "root"), "web").close()
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / "root").stat().st_mode & 0o777 == 0o700


def test_a_root_that_others_can_write_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(StateError, match="writable by everybody"):
        reserving.reserve(str(root), "web")
    assert not (root / "web").exists()


def test_unknown_and_odd_entries(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        store.find(str(tmp_path), "web")
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(StateError):
        store.find(str(tmp_path), "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError):
        store.find(str(tmp_path), "file")


def test_journal_survives_a_torn_line(tmp_path: Path) -> None:
    entry = reserving.reserve(str(tmp_path), "web")
    entry.note({"cgroup": {"v1": "x"}})
    entry.note({"pid": 5})
    with open(tmp_path / "web" / "journal", "a") as file:
        file.write('{"pid": 6, "start')
    assert entry.journal() == {"cgroup": {"v1": "x"}, "pid": 5}


def test_state_round_trip_and_status_without_a_process(tmp_path: Path) -> None:
    entry = reserving.reserve(str(tmp_path), "web")
    assert entry.load() is None
    entry.save(dict(STATE))
    again = store.find(str(tmp_path), "web")
    assert again.load() == STATE
    assert again.status() == ("stopped", 0)


def test_creating_is_told_from_a_create_that_died(tmp_path: Path) -> None:
    entry = reserving.reserve(str(tmp_path), "web")
    other = store.find(str(tmp_path), "web")
    assert other.status() == ("creating", 0)
    entry.note({"pid": 5})
    assert other.status() == ("creating", 0)
    entry.close()
    assert other.status() == ("stopped", 0)


def test_a_directory_that_is_not_locked_yet_is_one_that_is_being_made(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    folder.mkdir(0o700)
    reader = store.find(str(tmp_path), "web")
    assert reader.status() == ("creating", 0)
    os.utime(folder, (1, 1))
    assert reader.status() == ("stopped", 0), "its create has died"


def test_one_that_is_locked_and_begun_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "web").mkdir(0o700)
    reader, creating = (store.find(str(tmp_path), "web") for _ in range(2))
    real = store.os.listdir

    def just_before(fd: int) -> list[str]:
        creating.lock()
        creating.note({"pid": 5})
        return real(fd)

    monkeypatch.setattr(store.os, "listdir", just_before)
    assert reader.status() == ("creating", 0)


def test_a_state_that_appears_while_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers take no lock: a create may end between any two of their looks."""
    creating = reserving.reserve(str(tmp_path), "web")
    reader = store.find(str(tmp_path), "web")
    real = store.os.open

    def just_before(name: str, flags: int, *mode: int, dir_fd: int) -> int:
        try:
            return real(name, flags, *mode, dir_fd=dir_fd)
        except FileNotFoundError:
            creating.save(dict(STATE))
            raise

    monkeypatch.setattr(store.os, "open", just_before)
    assert reader.load() is None
    monkeypatch.undo()
    assert reader.load() == STATE


def test_a_create_that_ends_after_the_state_was_looked_for(tmp_path: Path) -> None:
    creating = reserving.reserve(str(tmp_path), "web")
    reader = store.find(str(tmp_path), "web")
    assert reader.load() is None
    started = identity.start_time(os.getpid())
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    creating.save({**STATE, "pid": os.getpid(), "start_time": started, "boot_id": boot})
    creating.close()
    assert reader.status() == ("running", os.getpid()), "and not stopped, as one whose create died"
    assert reader.state is not None


def test_one_that_is_being_removed_is_gone_and_not_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removing = reserving.reserve(str(tmp_path), "web")
    removing.note({"pid": 5})
    removing.save(dict(STATE))
    reader = store.find(str(tmp_path), "web")
    real, seen = store.os.unlink, set()

    def look(name: str, *, dir_fd: int) -> None:
        real(name, dir_fd=dir_fd)
        if reader.load() is not None:
            assert reader.status() == ("stopped", 0)
            seen.add("stopped")
            return
        with pytest.raises(NotFound):
            reader.status()
        seen.add("gone")

    # one that has ended, so that each of its files can be there
    for name in ("exec.fifo", "exec.status", "config.json", "state.json.new"):
        (tmp_path / "web" / name).touch()
    monkeypatch.setattr(store.os, "unlink", look)
    removing.remove()
    assert seen == {"stopped", "gone"}
    with pytest.raises(NotFound):
        reader.status()
    removing.close()
    with pytest.raises(NotFound):
        reader.status()


def test_what_a_killed_delete_leaves_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removing = reserving.reserve(str(tmp_path), "web")
    removing.note({"pid": 5})
    (tmp_path / "web").chmod(0o1700)
    removing.close()
    assert store.find(str(tmp_path), "web").status() == ("stopped", 0)


def test_a_new_directory_of_another_create_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own may have been deleted between mkdir and the lock, and the name be another's by now, even one that is done."""
    real = store.os.open
    folder = tmp_path / "root" / "web"

    def replaced(name: str, flags: int, *mode: int, **more: int) -> int:
        if name == str(folder):
            folder.rmdir()
            folder.mkdir(0o700)
            (folder / "journal").touch()
        return real(name, flags, *mode, **more)

    monkeypatch.setattr(store.os, "open", replaced)
    with pytest.raises(StateError, match="deleted while it was being created"):
        reserving.reserve(str(tmp_path / "root"), "web")
    assert (folder / "journal").exists()


def test_a_directory_that_cannot_be_looked_at_is_not_left(tmp_path: Path) -> None:
    assert "too many open files" in without_descriptors(lambda: reserving.reserve(str(tmp_path / "root"), "web"))
    assert not (tmp_path / "root" / "web").exists()


def test_status_of_a_live_process_needs_pid_start_time_and_boot(tmp_path: Path) -> None:
    entry = reserving.reserve(str(tmp_path), "web")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    child = subprocess.Popen(["sleep", "60"])
    try:
        started = identity.start_time(child.pid)
        good = {**STATE, "pid": child.pid, "start_time": started, "boot_id": boot}
        for state, expected in (
            (good, ("running", child.pid)),
            ({**good, "start_time": started + 1}, ("stopped", 0)),
            ({**good, "boot_id": "another"}, ("stopped", 0)),
            ({**good, "pid": -1}, ("stopped", 0)),
            ({**good, "pid": 1}, ("stopped", 0)),
        ):
            entry.save(state)
            assert entry.status() == expected
        entry.save(good)
        os.mkfifo(tmp_path / "web" / "exec.fifo")
        assert entry.status() == ("running", child.pid), "a FIFO without a reader is that of a started container"
        reader = os.open(tmp_path / "web" / "exec.fifo", os.O_RDWR)
        assert entry.status() == ("created", child.pid)
        os.close(reader)
    finally:
        child.kill()
        child.wait()
    assert entry.status() == ("stopped", 0)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"version": 99, "id": "web"}', b'{"version": 1, "id": "other"}',
     b'{"version": 1, "id": "web", "pid": "1"}', b"{" * 100000],
)  # fmt: skip
def test_garbage_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    entry = reserving.reserve(str(tmp_path), "web")
    (tmp_path / "web" / "state.json").write_bytes(content)
    with pytest.raises(StateError) as caught:
        entry.load()
    assert "state.json" in str(caught.value) and "\n" not in str(caught.value)


def test_odd_files_are_no_state(tmp_path: Path) -> None:
    entry = reserving.reserve(str(tmp_path), "web")
    os.mkfifo(tmp_path / "web" / "state.json")
    with pytest.raises(StateError):
        entry.load()  # and does not hang on the FIFO
    os.unlink(tmp_path / "web" / "state.json")
    (tmp_path / "web" / "state.json").symlink_to("/etc/passwd")
    with pytest.raises(StateError):
        entry.load()


def test_remove_empties_what_others_put_there(tmp_path: Path) -> None:
    entry = reserving.reserve(str(tmp_path / "r"), "web")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("alive")
    folder = tmp_path / "r" / "web"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "link").symlink_to(outside)
    (folder / "state.json").mkdir()
    entry.remove()
    assert not folder.exists() and (outside / "canary").read_text() == "alive"


def test_open_process_refuses_what_is_not_meant() -> None:
    me = os.getpid()
    started = identity.start_time(me)
    for pid, start in ((0, 1), (-1, 1), (1, 1), (me, started + 1), (me, 0), ("5", 1), (True, 1), (2**31 - 1, 1)):
        assert identity.open_process(pid, start) == -1  # type: ignore[arg-type]
    fd = identity.open_process(me, started)
    assert fd >= 0
    os.close(fd)


def without_descriptors(attempt: Callable[[], object]) -> str:
    """What a function raises where nothing can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        attempt()
    except (StateError, KernelError) as error:
        return error.message
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    return ""


def test_what_cannot_be_looked_at_is_not_taken_for_gone() -> None:
    """Or a running container would be stopped, and deleted without force."""
    me = os.getpid()
    started = identity.start_time(me)
    assert "too many open files" in without_descriptors(lambda: identity.start_time(me))
    assert "too many open files" in without_descriptors(lambda: identity.open_process(me, started))


def test_what_cannot_be_read_is_not_taken_for_empty(tmp_path: Path) -> None:
    """Or a delete would believe that there is nothing to undo."""
    entry = reserving.reserve(str(tmp_path), "web")
    entry.note({"pid": 5})
    started = identity.start_time(os.getpid())
    entry.save(STATE | {"pid": os.getpid(), "start_time": started, "freezer": "/proc/self/stat"})
    os.mkfifo(tmp_path / "web/exec.fifo")
    for attempt in (entry.journal, entry.load, entry.status, entry.is_waiting):
        assert "too many open files" in without_descriptors(attempt), attempt.__name__
    entry.close()


def test_a_zombie_is_gone() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert identity.start_time(pid) == 0
    os.waitpid(pid, 0)


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "60"])
    try:
        assert 0 < identity.start_time(child.pid) == identity.start_time(child.pid)
        assert identity.start_time(child.pid) >= identity.start_time(os.getpid())
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
