"""`--log journald:ID`, `syslog:ID` and `file:PATH`: what arrives at a socket of the test's own, in a mount namespace of its own."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess

import pytest

pytestmark = [pytest.mark.requires("root"), pytest.mark.differs("crun's way to name a log")]

PLACES = {"journald": "/run/systemd/journal/socket", "syslog": "/dev/log"}


@pytest.fixture
def logged(pyrunc, scratch):
    """logged("journald", words, listens=True): the command is run where a socket of ours is the host's; (datagrams, result)."""

    def logged(kind, *words, listens=True):
        there = scratch / "there"
        there.mkdir()
        place = os.path.dirname(PLACES[kind])
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if listens:
            sock.bind(str(there / os.path.basename(PLACES[kind])))
        # what is mounted over may not be there; nothing of it is seen outside
        setup = (
            f"mount -t tmpfs t /run; mkdir -p {place}; " if place.startswith("/run") else f"mknod {there}/null c 1 3; "
        )
        command = shlex.join(pyrunc.argv(*words))
        script = f"{setup} mount --bind {there} {place} && exec {command}"
        done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60)
        sock.setblocking(False)
        found = []
        while listens:
            try:
                found.append(sock.recv(65536))
            except BlockingIOError:
                break
        sock.close()
        return found, done

    return logged


def test_journald(logged):
    (data,), done = logged("journald", "--log=journald:my-engine", "state", "nobody")
    fields = dict(line.split("=", 1) for line in data.decode().splitlines())
    assert done.returncode == 1 and fields["MESSAGE"] == done.stderr.strip() == 'container "nobody" does not exist'
    assert (fields["PRIORITY"], fields["ID"], fields["SYSLOG_IDENTIFIER"]) == ("3", "my-engine", "pyrunc")
    assert fields["PYRUNC_CODE"] == "not-found"


def test_syslog(logged):
    (data,), done = logged("syslog", "--log", "syslog:my-engine", "state", "nobody")
    # facility user, severity error
    pattern = r"<11>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d my-engine\[\d+\]: (.*)"
    match = re.fullmatch(pattern, data.decode())
    assert match and match[1] == done.stderr.strip()


@pytest.mark.parametrize("kind", PLACES)
def test_other_levels(logged, kind):
    found, _ = logged(kind, "--debug", "--log", f"{kind}:x", "list")
    assert found and all((b"PRIORITY=7" in one) if kind == "journald" else one.startswith(b"<15>") for one in found)


@pytest.mark.parametrize("kind", PLACES)
def test_success_says_nothing(logged, kind):
    found, done = logged(kind, "--log", f"{kind}:x", "list")
    assert (found, done.returncode, done.stderr) == ([], 0, "")


@pytest.mark.parametrize("kind", PLACES)
def test_nobody_listens(logged, kind):
    """The error is printed all the same, and where it could not be sent."""
    _, done = logged(kind, "--log", f"{kind}:x", "state", "nobody", listens=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'container "nobody" does not exist', f"hint: log {kind}:x: {PLACES[kind]}: No such file or directory",
    ]  # fmt: skip


def test_file(pyrunc, scratch):
    pyrunc("--log", f"file:{scratch}/log", "state", "nobody", status=1)
    pyrunc("--log", f"{scratch}/a:b", "state", "nobody", status=1)
    assert "does not exist" in (scratch / "log").read_text() and "does not exist" in (scratch / "a:b").read_text()
