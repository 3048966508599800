"""What starts guests and counts their results (tests/guest), with shell scripts in the place of kernels."""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

sys.path.append(str(ROOT / "tests/guest"))

import image  # noqa: E402 - found through the path above
import kernel  # noqa: E402
import making  # noqa: E402
import session  # noqa: E402
import suites  # noqa: E402

# -- a run -------------------------------------------------------------------------------------------------------------


class Script:
    """A machine whose guest is a shell script: it has the lines as $console $out $err $status $back, and $run."""

    lines = {"out": "ttyS0", "err": "ttyS1", "status": "ttyS2", "back": "ttyS3", "terminal": ""}

    def __init__(self, text):
        self.text = text
        self.ended = []

    def end(self, work):
        self.ended.append(work)

    def source(self, directory):
        return f"somewhere:{directory}"

    def command(self, work, tree, fds, has_terminal):
        variables = [f"{name}=/proc/self/fd/{fd}" for name, fd in fds.items()]
        return ["env", *variables, f"run={work}/run", "sh", "-c", self.text]


def test_output_and_status(capfdbinary):
    guest = Script("echo booted >$status; echo a >$out; echo b >$err; echo exit 3 0 >$status; exec sleep 1000")
    assert session.run(guest, session.Request(("true",))) == 3
    assert len(guest.ended) == 1
    assert capfdbinary.readouterr() == (b"a\n", b"b\n")


def test_files_come_back(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/a.xml").write_text("a")
    (tmp_path / "made/b.json").write_bytes(b"\0" * 300000)
    with tarfile.open(tmp_path / "made.tar", "w") as made:
        made.add(tmp_path / "made", ".")
        made.add(tmp_path / "made/a.xml", "../../outside.xml")
    packed = shlex.quote(str(tmp_path / "made.tar"))
    # the end is told before all of it has come
    guest = Script(f"echo booted >$status; echo exit 0 $(stat -c %s {packed}) >$status; cat {packed} >$back")
    assert session.run(guest, session.Request(("true",), back=tmp_path / "back")) == 0
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["a.xml", "b.json", "outside.xml"]
    assert (tmp_path / "back/b.json").stat().st_size == 300000


def test_guest_that_dies(capfd):
    assert session.run(Script("echo a panic >$console"), session.Request(("true",))) == session.DIED
    assert "it died while it booted" in (said := capfd.readouterr().err) and "a panic" in said
    assert session.run(Script("echo booted >$status"), session.Request(("true",))) == session.DIED
    assert "it died while it ran" in capfd.readouterr().err


def test_kernel_that_panics_while_it_boots(tmp_path, capfd):
    """It is started again, and said so; one that does so each time has died, and so has one that panics later."""
    boots, panic = tmp_path / "boots", "echo Kernel panic - not syncing >$console"
    count = f"echo >>{boots}; "
    second = Script(
        f"{count}[ $(wc -l <{boots}) = 2 ] || {{ {panic}; exit; }}; echo booted >$status; echo exit 3 0 >$status"
    )
    assert session.run(second, session.Request(("true",))) == 3
    assert "panicked while it booted: starting it again (2 of 4)" in capfd.readouterr().err
    boots.unlink()
    assert session.run(Script(f"{count}{panic}"), session.Request(("true",))) == session.DIED
    assert len(boots.read_text()) == session.BOOTS and "it died while it booted" in capfd.readouterr().err
    boots.unlink()
    assert session.run(Script(f"{count}echo booted >$status; {panic}"), session.Request(("true",))) == session.DIED
    assert len(boots.read_text()) == 1


def test_guest_that_cannot_run_here(capfd):
    """It said so and left, before there was a system: no failure of what it was to run."""
    guest = Script("echo no seccomp here >$console; exit 1")
    assert session.run(guest, session.Request(("true",))) == session.UNAVAILABLE
    assert "no guest can run on this machine: no seccomp here" in capfd.readouterr().err


def test_time_limit_ends_all_of_it(tmp_path, capfd):
    pids = tmp_path / "pids"
    guest = Script(f"echo booted >$status; sleep 1000 & echo $$ $! >{pids}; wait")
    assert session.run(guest, session.Request(("true",), limit_s=0.5)) == session.LATE
    assert "the time was up while it ran" in capfd.readouterr().err
    assert all(map(has_ended, pids.read_text().split()))


def has_ended(pid):
    """Whether a process that was killed is gone, or is so before long."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.005)
    return False


def test_boot_limit(monkeypatch, capfd):
    monkeypatch.setattr(session, "BOOT_LIMIT_S", 0.2)
    assert session.run(Script("exec sleep 1000"), session.Request(("true",))) == session.LATE
    assert "the time was up while it booted" in capfd.readouterr().err


def test_command_is_what_was_asked_for(capfd):
    """Words and variables arrive as they are; the tree is the working directory."""
    words = ("printf", "%s|", "it's", "$HOME", "a b", "")
    guest = Script('echo booted >$status; sh $run/command >$out; echo "exit $? 0" >$status')
    assert session.run(guest, session.Request(words)) == 0
    assert capfd.readouterr().out == "it's|$HOME|a b||"
    request = session.Request(("sh", "-c", 'echo "$X" "$HOME"; pwd'), env=(("X", "1 '2"),))
    assert session.run(guest, request) == 0
    assert capfd.readouterr().out == f"1 '2 /root\n{ROOT}\n"


def test_settings_are_shell_variables():
    text = session.settings(Script(""), session.Request(("true",), user="tester"))
    shown = subprocess.run(
        ["sh", "-c", text + 'echo "$out $status [$terminal] $tree $source $user"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"ttyS0 ttyS2 [] {ROOT} somewhere:{ROOT} tester\n"


@pytest.mark.parametrize("script", ["inside.sh", "root/usr/local/lib/guest/boot", "root/usr/local/lib/guest/mount"])
def test_scripts_are_shell(script):
    subprocess.run(["sh", "-n", str(ROOT / "tests/guest" / script)], check=True)


# -- making ------------------------------------------------------------------------------------------------------------


def test_made_once_and_whole(tmp_path):
    path = tmp_path / "cache/thing"
    with pytest.raises(making.Unavailable), making.once(path) as work:
        (work / "thing").write_text("half")
        raise making.Unavailable("no more")
    assert not path.exists()
    (path.parent / ".thing.new-killed").mkdir()
    with making.once(path) as work:
        (work / "thing").write_text("whole")
    assert path.read_text() == "whole"
    with making.once(path) as work:
        assert work is None
    assert [entry.name for entry in path.parent.iterdir() if "lock" not in entry.name] == ["thing"]


def test_command_that_fails_says_why():
    with pytest.raises(making.Unavailable, match=r"sh -c .*: exit status 3\nbecause"):
        making.run("sh", "-c", "echo because >&2; exit 3")


def test_command_that_does_not_end(tmp_path):
    with pytest.raises(making.Unavailable, match=r"not done within 0 s"):
        making.run("sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid; wait", limit_s=0.3)
    assert has_ended((tmp_path / "pid").read_text().strip())


def test_options_that_a_kernel_lost(tmp_path):
    wanted = [line for line in kernel.CONFIG.read_text().splitlines() if not line.startswith("#") and line]
    assert wanted and all(line.startswith("CONFIG_") and "=" in line for line in wanted)
    made = tmp_path / ".config"
    made.write_text("\n".join([*wanted, "CONFIG_OTHER=y"]))
    assert kernel.lost(made) == []
    made.write_text("\n".join([*wanted[1:], f"# {wanted[0]} is not set"]))
    assert kernel.lost(made) == [wanted[0]]


def test_disk_has_a_partition_that_is_found(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("in it")
    size = 16 << 20
    image.disk(tmp_path / "disk", tree, size)
    first = (tmp_path / "disk").read_bytes()[:512]
    (number,), (kind, begin, sectors) = struct.unpack_from("<I", first, 440), struct.unpack_from("<B3xII", first, 450)
    assert (number, kind, begin * 512 + sectors * 512, first[510:]) == (image.DISK, 0x83, size, b"\x55\xaa")
    shown = ["debugfs", "-R", "cat /file", f"{tmp_path}/disk?offset={begin * 512}"]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    assert subprocess.run(shown, capture_output=True, text=True, env=env).stdout == "in it"


# -- suites ------------------------------------------------------------------------------------------------------------


def test_suites_have_files():
    """A suite whose files have gone would run nothing, and nobody would notice."""
    assert len({suite.name for suite in suites.SUITES}) == len(suites.SUITES)
    for suite in suites.SUITES:
        found = suites.files(suite, is_quick=False)
        assert found and len(found) == len(set(found)), suite
        assert suite.user == "root" or suite.user in image.USERS


def test_quick_part_is_a_part():
    for suite in suites.SUITES:
        for pattern in suite.quick:
            assert any(pattern == whole or pattern.startswith(f"{whole}/") for whole in suite.files), pattern


def test_slow_kernel_runs_less(monkeypatch):
    """Of what is quick, and of each suite that is; of no more than that."""
    quick = [suite for suite in suites.SUITES if suite.quick]
    assert [suites.lighter(suite) for suite in quick] == quick
    monkeypatch.setattr(suites, "_slow", {"uml"})
    for suite in quick:
        less = suites.lighter(suite)
        assert less.files == suite.files and less.quick and set(suite.quick) - set(less.quick) <= suites.LONG
    assert set().union(*(suite.quick for suite in quick)) >= suites.LONG


def total(*files):
    done = subprocess.run([sys.executable, ROOT / "tests/total.py", *files], capture_output=True, text=True)
    return done.stdout.strip(), done.returncode


def test_results_of_a_suite_that_has_none(tmp_path, monkeypatch):
    """Counted by tests/total.py as what they are."""
    monkeypatch.setattr(suites, "RESULTS", tmp_path)
    (tmp_path / "conformance.json").write_text('[{"status": "pass"}]')
    suites.record("a", "skipped", "missing feature: a guest (it is <too> late)")
    case = ElementTree.parse(tmp_path / "guest-a.xml").getroot().find(".//skipped")
    assert case is not None and case.get("message") == "missing feature: a guest (it is <too> late)"
    assert total(tmp_path / "conformance.json", tmp_path / "guest-a.xml") == ("1 passed, 0 failed, 1 skipped", 0)
    suites.record("b", "error", "it died")
    assert total(tmp_path / "guest-a.xml", tmp_path / "guest-b.xml") == ("0 passed, 1 failed, 1 skipped", 1)


def test_words_of_a_suite():
    by_name = {suite.name: suite for suite in suites.SUITES}
    words = suites.words(by_name["systemd"], is_quick=False)
    assert words[-1] == "tests/cli" and "/run/guest/back/guest-systemd.xml" in words
    assert suites.environment(by_name["systemd"])["PYRUNC_TEST_CGROUP_MANAGER"] == "systemd"
    assert suites.environment(by_name["cloud"])["PYRUNC_TEST_REQUIRES"].split() == list(by_name["cloud"].requires)
    words = suites.words(by_name["cloud-v1"], is_quick=False)
    assert words[words.index("--") - 1] == "none,name=systemd" and words[words.index("--") + 1] == suites.PYTHON
    assert set(suites.files(by_name["cgroupfs"], is_quick=True)) <= set(suites.QUICK)
