"""The log drivers against real files, real disks that are full, and a socket that reads as the journal does."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim import logs
from shim.journal import Journald
from shim.logs import LINE_BYTES, STDERR, STDOUT, BadLog, K8sFile, RawFile

LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d) (stdout|stderr) ([FP]) ([^\n]*)\n")


@pytest.fixture
def said() -> list[str]:
    return []


def records(data: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(stream, tag, text) of each line; every byte must belong to one."""
    found = LINE.findall(data)
    assert sum(len(b" ".join(line)) + 1 for line in found) == len(data), data[:300]
    return [line[1:] for line in found]


def joined(lines: list[tuple[bytes, bytes, bytes]], stream: bytes) -> bytes:
    """What a reader of the CRI's format makes of one stream."""
    return b"".join(text + (b"\n" if tag == b"F" else b"") for name, tag, text in lines if name == stream)


# -- k8s-file ------------------------------------------------------------------------------------------------------------


def test_lines_have_time_stream_and_tag(scratch: Path, said: list[str]) -> None:
    log = K8sFile(str(scratch / "log"), said.append)
    log.write(STDOUT, b"one\ntwo\n")
    log.write(STDERR, b"three\n\n")
    log.close()
    assert records((scratch / "log").read_bytes()) == [
        (b"stdout", b"F", b"one"),
        (b"stdout", b"F", b"two"),
        (b"stderr", b"F", b"three"),
        (b"stderr", b"F", b""),
    ]
    assert not said


def test_the_time_is_local_with_its_offset(scratch: Path) -> None:
    """Another process, because a process has one zone: half an hour beside the full one, and to the west."""
    script = (
        "import sys, time; sys.path[:0] = [sys.argv[1]]\n"
        "from shim.logs import K8sFile, STDOUT\n"
        "K8sFile(sys.argv[2], print).write(STDOUT, b'x\\n')"
    )
    root = str(Path(logs.__file__).parents[1])
    for zone, shown in (("AAA-05:30", b"+05:30"), ("AAA03:30", b"-03:30"), ("UTC", b"+00:00")):
        path = scratch / shown.decode()
        subprocess.run(["/usr/bin/python3", "-c", script, root, path], env={"TZ": zone}, check=True)
        assert path.read_bytes()[29:35] == shown
        records(path.read_bytes())


def test_a_line_without_its_end_is_a_part(scratch: Path, said: list[str]) -> None:
    log = K8sFile(str(scratch / "log"), said.append)
    for piece in (b"be", b"gin\nnext ", b"line\n", b"last"):
        log.write(STDOUT, piece)
    assert records((scratch / "log").read_bytes()) == [
        (b"stdout", b"P", b"be"),
        (b"stdout", b"F", b"gin"),
        (b"stdout", b"P", b"next "),
        (b"stdout", b"F", b"line"),
        (b"stdout", b"P", b"last"),
    ]


def test_a_long_line_is_cut_as_conmon_cuts_it(scratch: Path, said: list[str]) -> None:
    log = K8sFile(str(scratch / "log"), said.append)
    log.write(STDOUT, b"a" * LINE_BYTES + b"b" * LINE_BYTES + b"c\nd\n")
    lines = records((scratch / "log").read_bytes())
    assert [(tag, len(text)) for _, tag, text in lines] == [
        (b"P", LINE_BYTES),
        (b"P", LINE_BYTES),
        (b"F", 1),
        (b"F", 1),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from((STDOUT, STDERR)),
            st.one_of(
                st.binary(min_size=1, max_size=300),
                st.builds(
                    lambda n, end: b"x" * n + end,
                    st.integers(LINE_BYTES - 3, 3 * LINE_BYTES),
                    st.sampled_from((b"", b"\n")),
                ),
                st.lists(st.sampled_from((b"\n", b"\r", b"a", b"\0")), min_size=1, max_size=40).map(b"".join),
            ),
        ),
        max_size=12,
    )
)
def test_no_byte_is_lost(tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = K8sFile(str(path), pytest.fail)
    for stream, data in pieces:
        log.write(stream, data)
    log.close()
    lines = records(path.read_bytes())
    for number, name in ((STDOUT, b"stdout"), (STDERR, b"stderr")):
        assert joined(lines, name) == b"".join(data for stream, data in pieces if stream == number)
    assert all(len(text) <= LINE_BYTES for _, _, text in lines)


@pytest.mark.parametrize(
    "line", [b"\n", b"y\n", b"\n" + b"x" * (LINE_BYTES - 1), b"x" * LINE_BYTES, b"x" * LINE_BYTES + b"\n"], ids=len
)
def test_as_much_as_a_pipe_can_hold(scratch: Path, said: list[str], line: bytes) -> None:
    """More pieces than IOV_MAX would be refused by the kernel; a reader's buffer may be filled anew at once."""
    data = bytearray((line * ((1 << 20) // len(line) + 1))[: 1 << 20])
    log = K8sFile(str(scratch / "log"), said.append)
    log.write(STDOUT, memoryview(data))
    kept = bytes(data)
    data[:] = bytes(len(data))
    log.close()
    assert joined(records((scratch / "log").read_bytes()), b"stdout") == kept and not said


def test_beyond_its_size_a_log_begins_anew(scratch: Path, said: list[str]) -> None:
    """Each file is within the limit, as conmon counts it, and the last one holds the last lines."""
    path = scratch / "log"
    log = K8sFile(str(path), said.append, limit=1000)
    # in one piece and one by one: neither may go beyond
    log.write(STDOUT, b"".join(b"line %d\n" % number for number in range(100)))
    for number in range(100, 130):
        log.write(STDOUT, b"line %d\n" % number)
        assert path.stat().st_size <= 1000
    lines = [text for _, _, text in records(path.read_bytes())]
    assert lines == [b"line %d" % number for number in range(130 - len(lines), 130)]
    assert os.listdir(scratch) == ["log"] and not said


def test_rotation_keeps_as_many_as_it_says(scratch: Path, said: list[str]) -> None:
    path = scratch / "log"
    log = K8sFile(str(path), said.append, limit=200, keep=2)
    for number in range(40):
        log.write(STDOUT, b"line %02d\n" % number)
    assert sorted(os.listdir(scratch)) == ["log", "log.1", "log.2"]
    lines = [text for name in ("log.2", "log.1", "log") for _, _, text in records((scratch / name).read_bytes())]
    assert lines == [b"line %02d" % number for number in range(40 - len(lines), 40)]
    assert len(lines) > 6 and not said


def test_what_is_there_already_counts(scratch: Path, said: list[str]) -> None:
    path = scratch / "log"
    path.write_bytes(b"x" * 190)
    log = K8sFile(str(path), said.append, limit=200)
    log.write(STDOUT, b"line\n")
    assert [text for _, _, text in records(path.read_bytes())] == [b"line"]


def test_a_total_ends_the_log_and_says_so(scratch: Path, said: list[str]) -> None:
    path = scratch / "log"
    log = K8sFile(str(path), said.append, total=500)
    for _ in range(3):
        log.write(STDOUT, b"line\n" * 30)
    size = path.stat().st_size
    assert 500 <= size < 560
    records(path.read_bytes())
    assert said == [f"log {path}: reached 500 bytes, no more output is logged"]


def test_reopened_after_somebody_moved_it(scratch: Path, said: list[str]) -> None:
    """kubelet's rotation: rename, then ask for a new file."""
    path = scratch / "log"
    log = K8sFile(str(path), said.append)
    log.write(STDOUT, b"old\n")
    path.rename(scratch / "log.moved")
    log.write(STDOUT, b"still old\n")
    log.reopen()
    log.write(STDOUT, b"new\n")
    assert [text for _, _, text in records((scratch / "log.moved").read_bytes())] == [b"old", b"still old"]
    assert [text for _, _, text in records(path.read_bytes())] == [b"new"]


def test_reopened_where_nobody_moved_it_nothing_is_lost(scratch: Path, said: list[str]) -> None:
    path = scratch / "log"
    log = K8sFile(str(path), said.append)
    log.write(STDOUT, b"old\n")
    log.reopen()
    log.write(STDOUT, b"new\n")
    assert [text for _, _, text in records(path.read_bytes())] == [b"old", b"new"]


@pytest.fixture
def full(scratch: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = scratch / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_costs_output_and_one_message(full: Path, said: list[str]) -> None:
    path = full / "log"
    log = K8sFile(str(path), said.append)
    block = full / "block"
    block.write_bytes(b"x" * 40960)
    for number in range(4000):
        log.write(STDOUT, b"line %d\n" % number)
    assert said == [f"write log {path}: no space left on device, dropping output until it can be written again"]
    kept = [text for _, _, text in records(path.read_bytes())]  # whole records only
    assert kept == [b"line %d" % number for number in range(len(kept))]
    block.unlink()
    log.write(STDERR, b"again\n")
    assert records(path.read_bytes())[-1] == (b"stderr", b"F", b"again")
    assert len(said) == 2 and re.fullmatch(rf"write log {path}: works again; \d+ bytes of output were lost", said[1])
    log.close()


def test_of_what_does_not_fit_the_whole_records_that_do_are_kept(full: Path, said: list[str]) -> None:
    log = K8sFile(str(full / "log"), said.append)
    log.write(STDOUT, memoryview(b"".join(b"line %d\n" % number for number in range(8000))))
    kept = [text for _, _, text in records((full / "log").read_bytes())]
    assert 500 < len(kept) < 2000 and kept == [b"line %d" % number for number in range(len(kept))]
    assert len(said) == 1
    (full / "log").unlink()
    log.reopen()
    log.write(STDOUT, b"again\n")
    lost = sum(
        len(b"2006-01-02T15:04:05.123456789+01:00 stdout F line %d\n" % number) for number in range(len(kept), 8000)
    )
    assert said[1] == f"write log {full / 'log'}: works again; {lost} bytes of output were lost"
    log.close()


def test_a_limit_holds_where_the_file_cannot_be_replaced(scratch: Path, said: list[str]) -> None:
    """The limit is the user's word: then the file is emptied."""
    path = scratch / "log"
    (scratch / "log.new").mkdir()
    log = K8sFile(str(path), said.append, limit=1000, keep=1)
    for number in range(40):
        log.write(STDOUT, b"line %d\n" % number)
        assert path.stat().st_size <= 1000
    assert records(path.read_bytes())[-1][2] == b"line 39"
    assert said[0] == f"begin log {path} anew: is a directory, emptying it instead"
    log.close()


def test_a_log_that_cannot_be_opened(scratch: Path, said: list[str]) -> None:
    with pytest.raises(BadLog, match=rf"^open log {scratch}/nowhere/log: no such file or directory$"):
        K8sFile(f"{scratch}/nowhere/log", said.append)
    with pytest.raises(BadLog, match="is a directory"):
        RawFile(str(scratch), (), said.append)


def test_only_in_directories_that_are_allowed(scratch: Path, said: list[str]) -> None:
    (scratch / "in").mkdir()
    (scratch / "inner").mkdir()
    (scratch / "in" / "link").symlink_to(scratch / "inner")
    allowed = [str(scratch / "in")]
    K8sFile(str(scratch / "in" / "log"), said.append, allowed=allowed).close()
    for path in (
        scratch / "log",
        scratch / "inner" / "log",
        scratch / "in" / "link" / "log",
        scratch / "in" / ".." / "log",
    ):
        with pytest.raises(BadLog, match="not in a directory of --log-allowlist-dir"):
            K8sFile(str(path), said.append, allowed=allowed)
    (scratch / "in" / "away").symlink_to(scratch / "elsewhere")
    with pytest.raises(BadLog, match=os.strerror(errno.ELOOP).lower()):
        K8sFile(str(scratch / "in" / "away"), said.append, allowed=allowed)


def test_raw_is_what_came(scratch: Path, said: list[str]) -> None:
    log = RawFile(str(scratch / "log"), (), said.append)
    log.write(STDOUT, b"a\nb")
    log.write(STDERR, b"\0c\n")
    assert (scratch / "log").read_bytes() == b"a\nb\0c\n"


# -- journald ------------------------------------------------------------------------------------------------------------


class Journal:
    """The socket of systemd-journald, and its native protocol's decoder."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.settimeout(10)

    def entry(self) -> dict[bytes, bytes]:
        data, fds, _, _ = socket.recv_fds(self.sock, 1 << 20, 1)
        if fds:
            assert not data
            data = os.pread(fds[0], 1 << 22, 0)
            os.close(fds[0])
        found = {}
        while data:
            line, _, data = data.partition(b"\n")
            key, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(data[:8], "little")
                value, data = data[8 : 8 + size], data[9 + size :]
            found[key] = value
        return found


@pytest.fixture
def journal(scratch: Path) -> Iterator[Journal]:
    made = Journal(scratch / "socket")
    yield made
    made.sock.close()


def test_journal_entries_have_conmons_fields(scratch: Path, journal: Journal, said: list[str]) -> None:
    """As conmon 2.1.6 was seen to send them."""
    path = str(scratch / "socket")
    log = Journald("abcdef0123456789", said.append, name="web", tag="tagg", labels=["ROLE=front"], path=path)
    log.write(STDOUT, b"hello\n")
    log.write(STDERR, b"err\n")
    log.write(STDOUT, b"pa")
    log.write(STDOUT, b"rt")
    log.end(STDOUT)
    log.end(STDERR)
    same = {
        b"CONTAINER_ID_FULL": b"abcdef0123456789",
        b"CONTAINER_ID": b"abcdef012345",
        b"CONTAINER_TAG": b"tagg",
        b"CONTAINER_NAME": b"web",
        b"SYSLOG_IDENTIFIER": b"tagg",
        b"ROLE": b"front",
    }
    assert journal.entry() == {b"MESSAGE": b"hello\n", b"PRIORITY": b"6", **same}
    assert journal.entry() == {b"MESSAGE": b"err\n", b"PRIORITY": b"3", **same}
    assert journal.entry() == {b"MESSAGE": b"part", b"PRIORITY": b"6", b"CONTAINER_PARTIAL_MESSAGE": b"true", **same}
    log.close()
    assert not said


def test_journal_knows_priorities_and_identifiers(scratch: Path, journal: Journal, said: list[str]) -> None:
    log = Journald("abcdef0123456789", said.append, marks_parts=False, path=str(scratch / "socket"))
    log.write(STDERR, b"<4>careful\n")
    entry = journal.entry()
    assert (entry[b"PRIORITY"], entry[b"MESSAGE"], entry[b"SYSLOG_IDENTIFIER"]) == (b"4", b"careful\n", b"abcdef012345")
    log.write(STDOUT, b"x" * (LINE_BYTES + 5))
    entry = journal.entry()
    assert len(entry[b"MESSAGE"]) == LINE_BYTES and b"CONTAINER_PARTIAL_MESSAGE" not in entry
    log.write(STDOUT, b"end\n")
    assert journal.entry()[b"MESSAGE"] == b"xxxxxend\n"
    log.close()


def test_journal_gets_large_entries_as_files(scratch: Path, journal: Journal, said: list[str]) -> None:
    log = Journald("abcdef0123456789", said.append, path=str(scratch / "socket"))
    line = b"y" * 300_000 + b"\n"
    log.write(STDOUT, line)
    assert journal.entry()[b"MESSAGE"] == line
    log.close()
    assert not said


def test_no_journal_is_said_once(scratch: Path, said: list[str]) -> None:
    path = scratch / "socket"
    log = Journald("abcdef0123456789", said.append, path=str(path))
    for _ in range(5):
        log.write(STDOUT, b"12345\n")
    assert said == [f"write to the journal {path}: no such file or directory, dropping output until it works again"]
    later = Journal(path)
    log.write(STDOUT, b"there\n")
    assert later.entry()[b"MESSAGE"] == b"there\n"
    assert said[1] == f"write to the journal {path}: works again; 30 bytes of output were lost"
    later.sock.close()
    log.close()


@pytest.mark.parametrize("label", ["=x", "NOVALUE", "A=B=C", "lower=x", "A-B=x"])
def test_bad_labels(label: str, said: list[str]) -> None:
    with pytest.raises(BadLog, match=re.escape(f'label "{label}"')):
        Journald("abcdef0123456789", said.append, labels=[label])


# -- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("k8s-file:/var/log/x:y", ("k8s-file", "/var/log/x:y")),
        ("/var/log/x", ("k8s-file", "/var/log/x")),
        (":/var/log/x", ("k8s-file", "/var/log/x")),
        ("journald", ("journald", "")),
        ("journald:", ("journald", "")),
        ("journald:/ignored", ("journald", "")),
        ("none", ("none", "")),
        ("off", ("none", "")),
        ("null:", ("none", "")),
        ("passthrough", ("passthrough", "")),
    ],
)
def test_driver_names(text: str, meant: tuple[str, str]) -> None:
    assert logs.parse(text) == meant


@pytest.mark.parametrize("text", ["", ":", "k8s-file", "k8s-file:", "syslog:/x"])
def test_names_of_no_driver(text: str) -> None:
    with pytest.raises(BadLog, match=re.escape(f'log path "{text}"')):
        logs.parse(text)
