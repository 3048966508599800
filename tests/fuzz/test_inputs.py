"""Every fuzzer that changes nothing on the machine, for a moment; and what fuzzers have found, each as it was."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import answers  # noqa: E402 - found through the path above
import distil  # noqa: E402
import documents  # noqa: E402
import engine  # noqa: E402
import memory  # noqa: E402
import mutation  # noqa: E402
import targets  # noqa: E402

from runtime import hooks, jsonio, store  # noqa: E402
from runtime.__main__ import call  # noqa: E402
from runtime.cgroups import walk  # noqa: E402
from runtime.doctor import settings  # noqa: E402
from runtime.errors import ConfigError, Error, StateError  # noqa: E402
from shim import words  # noqa: E402
from shim.containerd import protobuf  # noqa: E402
from shim.loop import Loop  # noqa: E402
from specs import explain  # noqa: E402

#: inputs of each fuzzer, besides its seeds and its corpus: what all of them do in a few seconds
SAMPLE = 60
OPEN = [target.name for target in targets.every() if not target.is_fenced]


@pytest.fixture(scope="module", autouse=True)
def _as_it_was() -> Iterator[None]:
    here, handler = os.getcwd(), signal.getsignal(signal.SIGCHLD)
    yield
    os.chdir(here)
    signal.signal(signal.SIGCHLD, handler)


@pytest.mark.parametrize("name", OPEN)
def test_a_sample(name: str, tmp_path: Path) -> None:
    (target,) = (one for one in targets.every() if one.name == name)
    report = engine.fuzz(target, tmp_path, inputs=SAMPLE, seed=1, traces=False)
    assert report.inputs >= SAMPLE
    assert not report.findings, "\n".join(
        f"{kind}: {text}\n{data[:500]!r}" for kind, (data, text) in report.findings.items()
    )


def test_the_same_seed_makes_the_same_inputs() -> None:
    for target in targets.every():
        first = target.seeds()[0]
        target.names = sorted(getattr(target, "names", ["a"]))  # type: ignore[attr-defined]
        made = [[target.change(Random(7), first) for _ in range(5)] for _ in range(2)]
        assert made[0] == made[1], target.name


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """An exception, an answer that is none, a loop without an end: each is a finding, and once."""

    class Broken(engine.Target):
        name = "broken"

        def seeds(self) -> list[bytes]:
            return [b"", b"e", b"f", b"ff"]

        def change(self, rng: Random, data: bytes) -> bytes:
            return mutation.octets(rng, data)

        def run(self, data: bytes) -> None:
            if data == b"e":
                raise KeyError("x")
            if data[:1] == b"f":
                raise engine.Finding("bad", data.decode())

    report = engine.fuzz(Broken(), tmp_path, inputs=4, traces=False)
    assert sorted(report.findings) == ["KeyError in test_inputs.py:run", "bad"]
    saved = engine.save(tmp_path / "findings", report)
    assert sorted(path.read_bytes() for path in saved)[0] == b"e"


def test_a_run_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    """With what reached something, however that run was ended; and until all of them have taken their time."""

    class Deep(engine.Target):
        name = "deep"
        tried: ClassVar[list[bytes]] = []

        def seeds(self) -> list[bytes]:
            return [b"{}"]

        def change(self, rng: Random, data: bytes) -> bytes:
            return b'{"a": 1}' if rng.random() < 0.5 else b"{"

        def run(self, data: bytes) -> None:
            self.tried.append(data)
            if len(self.tried) == 20:
                raise KeyboardInterrupt
            with contextlib.suppress(ConfigError):
                jsonio.loads(data, "x")

    with pytest.raises(KeyboardInterrupt):
        engine.fuzz(Deep(), tmp_path, memory=memory.Memory(tmp_path, "deep"))
    kept = memory.Memory(tmp_path, "deep").kept()
    assert kept and {*kept} <= {b'{"a": 1}', b"{"}
    engine.fuzz(Deep(), tmp_path, inputs=3, memory=memory.Memory(tmp_path, "deep"))
    assert Deep.tried[20 : 20 + 1 + len(kept)] == [*reversed(kept), b"{}"]
    again = memory.Memory(tmp_path, "deep")
    inputs, seconds = again.spent()
    assert inputs == max(3, 1 + len(kept))
    again.note(7)
    assert again.spent()[0] == inputs + 7 and again.spent()[1] >= seconds


def test_what_is_committed_is_as_small_as_can_be(tmp_path: Path) -> None:
    """Of what reaches the same one input, of that what it takes; nothing of what a seed reaches; and any octets are kept as they are."""

    class Read(engine.Target):
        name = "read"

        def seeds(self) -> list[bytes]:
            return [b'{"a": [1, "b"]}']

        def run(self, data: bytes) -> None:
            with contextlib.suppress(ConfigError):
                jsonio.loads(data, "x")

    long = b'"%s"' % (b"x" * 300)
    inputs = [b'{"a": %s, "b": [{"c": NaN}, %s]}' % (long, long), b'{"b": NaN, "a": %s}' % long, b'["c"]']
    (left,) = distil.distil(Read(), tmp_path, inputs)
    assert b"NaN" in left and len(left) <= 8
    memory.pack(tmp_path / "reached.json", [b"\xff\n\xc3\xbc", b"", b'"'])
    assert memory.unpack(tmp_path / "reached.json") == [b"\xff\n\xc3\xbc", b"", b'"']


def test_the_corpus_is_small() -> None:
    files = [path for path in engine.CORPUS.rglob("*") if path.is_file()]
    assert files and sum(path.stat().st_size for path in files) <= 200_000
    assert {path.parent.name for path in files} <= {*OPEN, *(t.name for t in targets.every()), "plan", "walk", "front"}


# -- what was found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b'{"a": NaN5}', b"[-Infinityx]", b"[1" + b"9" * 5000 + b"x]", b'{"a": ' + b"7" * 5000 + b"a}"]
)
def test_numbers_that_are_none_have_a_place(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^x:1:\d+: (not JSON|a number with too many digits)"):
        jsonio.loads(text, "x")


def test_a_state_may_name_files_and_nothing_else_by_surrogates() -> None:
    assert jsonio.loads(b'"\\udcff"', "x", lone_surrogates=True) == "\udcff"
    with pytest.raises(ConfigError, match="half of a surrogate pair"):
        jsonio.loads(b'"\\ud800"', "x", lone_surrogates=True)


def test_a_process_cannot_say_whose_thread_it_is() -> None:
    """Its name is in the same file, and may have what str.splitlines() takes for ends of lines: who is killed was its choice."""
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'x\\x0cTgid:\\t1', 0, 0, 0); print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        assert walk.value(f"/proc/{child.pid}/status", "Tgid:") == child.pid
    finally:
        child.communicate(b"\n")


def test_the_lines_of_the_kernel_end_with_line_feeds() -> None:
    """str.splitlines() ends them at nine more characters, which a name may have that somebody else has chosen."""
    theirs = {
        "runtime/doctor/programs.py",
        "runtime/doctor/entry.py",
        "runtime/seccomp.py",
        "runtime/cli/doctor.py",
        "runtime/cli/bug.py",
    }
    theirs |= {"runtime/cli/ps.py", "runtime/criu.py"}  # what programs print, and texts of our own
    found = {
        str(path.relative_to(ROOT))
        for top in ("runtime", "shim")
        for path in (ROOT / top).rglob("*.py")
        if any(".splitlines()" in line and not line.lstrip().startswith("#") for line in path.read_text().splitlines())
    }
    assert found == theirs


def test_a_loop_waits_for_more_than_a_month() -> None:
    loop = Loop()
    try:
        ticks: list[int] = []
        loop.later(3_000_000, lambda: ticks.append(1))
        os.kill(os.getpid(), 0)
        loop.on_signal(signal.SIGUSR1, lambda: ticks.append(2))
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.turn()
        assert ticks == [2]
    finally:
        loop.close()


def test_a_hook_may_take_more_than_a_month(tmp_path: Path) -> None:
    hooks.run("poststart[0]", {"path": "/bin/true", "timeout": 9_223_372_036}, b"{}", str(tmp_path))


@pytest.mark.parametrize("word", ["1_0", " 1", "１", "", "-", "9" * 30, "1.0"])
def test_numbers_of_the_shims_words_are_digits(word: str) -> None:
    with pytest.raises(words.BadOptions, match="is no number"):
        words.read(["--timeout", word], [("timeout", "", words.NUMBER, "")])


@pytest.mark.parametrize(
    "wrong", [{"pid": 1 << 40}, {"namespaces": [5]}, {"annotations": {"a": 1}}, {"ociVersion": 5}, {"tail": []}]
)
def test_a_damaged_state_is_said_to_be(tmp_path: Path, wrong: dict[str, object]) -> None:
    tmp_path.chmod(0o700)
    sound = {
        "version": 1, "id": "web", "pid": 5, "start_time": 5, "boot_id": "", "bundle": "/", "rootfs": "/", "created": "", "freezer": "",
        "cgroup": {}, "namespaces": [],
    }  # fmt: skip
    (tmp_path / "web").mkdir(mode=0o700)
    (tmp_path / "web/state.json").write_text(json.dumps(sound))
    entry = store.find(str(tmp_path), "web")
    assert entry.load() == sound
    (tmp_path / "web/state.json").write_text(json.dumps({**sound, **wrong}))
    (tmp_path / "web/journal").write_text(json.dumps({"id": "web", **wrong}))
    with pytest.raises(StateError, match=next(iter(wrong))):
        entry.load()
    assert entry.journal() == {"id": "web"}
    entry.close()


@pytest.mark.parametrize(
    "section",
    [
        5,
        {"poststop": 5},
        {"poststop": [5]},
        {"poststop": [{"path": "/x", "args": [5]}]},
        {"poststop": [{"path": "/x", "timeout": -1}]},
    ],
)
def test_damaged_hooks_are_said_to_be(section: object) -> None:
    with pytest.raises(StateError, match="hooks.poststop: not as it was checked"):
        hooks.of({"hooks": section}, "poststop", "/x")


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 3000, "x = " + "9" * 5000, "plugins = 5\nimports = 7", 'version = "x"']
)
def test_settings_of_engines_that_make_no_sense(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    try:
        found = settings.containerd(str(tmp_path / "config.toml"), joins=False)
    except Error as error:
        assert "no valid TOML" in error.message
    else:
        assert found.table("plugins") == {} and found.items("imports") == []


def test_null_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    """Engines write it; at each place of a configuration that has nearly everything the plan is made or refused in a line."""
    config = documents.Config()
    config.begin(tmp_path)
    full = config.documents()[1]
    planned = 0
    for number in range(len(mutation.places(full))):
        holder, key = mutation.places(made := copy.deepcopy(full))[number]
        holder[key] = None
        (tmp_path / "bundle/config.json").write_text(json.dumps(made))
        answer = answers.called(lambda: call([*config.words, "plan", str(tmp_path / "bundle")]))
        planned += answers.check(answer, quiet=False).status == 0
    assert planned > 60


def test_a_wrong_root_empties_nobodys_directory(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").write_text("dear\n")
    answer = answers.called(lambda: call(["--root", str(tmp_path), "delete", "--force", "home"]))
    answers.check(answer, names="no container's directory")
    assert answer.status == 1 and (home / "letter").read_text() == "dear\n"
    # what a create leaves that was killed at once is nothing at all, and goes
    (tmp_path / "web").mkdir()
    assert answers.called(lambda: call(["--root", str(tmp_path), "delete", "--force", "web"])).status == 0
    assert not (tmp_path / "web").exists()


def test_a_message_does_not_become_a_gigabyte() -> None:
    table = {3: ("rootfs", [{1: ("type", "string")}])}
    assert len(protobuf.decode(table, b"\x1a\x00" * 1000)["rootfs"]) == 1000
    with pytest.raises(protobuf.DecodeError, match="more than 65536 of one field"):
        protobuf.decode(table, b"\x1a\x00" * (1 << 20))


def test_where_a_fault_is_takes_no_longer_the_more_there_are() -> None:
    located = explain.Located("[\n" + "1,\n" * 20000 + "{}]")
    assert [located.place(f"/{number}") for number in (0, 1, 20000)] == [(2, 1), (3, 1), (20002, 1)]
    found = explain.schema_findings(explain.Located('{"mounts": [' + "{}," * 5000 + "{}]}"), "config")
    assert 0 < len(found) <= explain.MOST + 1
