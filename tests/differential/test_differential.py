"""A sample of the comparison with the peers; `make differential` runs all of it. And what the comparison itself is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE)]

import cases  # noqa: E402 - found through the path above
import explained  # noqa: E402
import fields  # noqa: E402

#: how many a sample has: what takes less than a minute on a machine that does something else besides
SAMPLE = 16


@pytest.mark.requires("root", "runc")
@pytest.mark.timeout(300)
def test_a_sample_shows_nothing_that_is_not_explained() -> None:
    words = [sys.executable, HERE / "run.py", "--sample", "--cases", str(SAMPLE)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_number_makes_the_same_case_again() -> None:
    for number in range(50):
        one, other = cases.make(7, number), cases.make(7, number)
        assert (one.text("/x"), one.commands, one.options, one.environ) == (
            other.text("/x"),
            other.commands,
            other.options,
            other.environ,
        )
    assert cases.make(7, 1).text("/x") != cases.make(8, 1).text("/x")


def test_every_field_is_drawn() -> None:
    drawn = {name for number in range(300) for name in cases.make(1, number).fields}
    assert drawn == {draw.__name__ for draw, _ in fields.DRAWS}


def test_the_cases_are_valid(tmp_path: Path) -> None:
    """By the schema and the rules of pyrunc, which say so without running anything."""
    for number in range(40):
        case = cases.make(1, number)
        if case.given or case.args[:1] == [""]:
            continue  # a path that is there only later; an empty program, which is refused by everybody
        (tmp_path / "rootfs").mkdir(exist_ok=True)
        (tmp_path / "config.json").write_text(case.text(str(tmp_path)))
        done = subprocess.run([ROOT / "build/bin/pyrunc", "validate", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, f"{case.name}: {done.stdout}{done.stderr}"


def table(tmp_path: Path, text: str) -> explained.Table:
    runtime = tmp_path / "peer"
    runtime.write_text("#!/bin/sh\necho peer version 1.1.5+more\n")
    runtime.chmod(0o755)
    (tmp_path / "differences.toml").write_text(text)
    return explained.Table(tmp_path / "differences.toml", {"peer": str(runtime)})


def a_case(*names: str) -> cases.Case:
    case = cases.Case(1, 1)
    case.fields = list(names)
    return case


def test_what_is_not_explained_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = table(tmp_path, "")
    found.compare(
        "peer", a_case(), {"0 run status": "0", "1 state pid": "init"}, {"0 run status": "0", "1 state pid": "0"}
    )
    assert found.report(is_whole=True) == 1
    assert "peer: state pid" in capsys.readouterr().out


def test_an_entry_explains_its_fact_in_its_fields_and_words(tmp_path: Path) -> None:
    entry = '[[difference]]\npeer = "peer"\nfact = "*pid"\nfields = ["user"]\nours = "init"\nreason = "so"\n'
    for names, ours, wrong in ((["user"], "init", 0), ([], "init", 2), (["user"], "other", 2)):
        found = table(tmp_path, entry)
        found.compare("peer", a_case(*names), {"1 state pid": ours}, {"1 state pid": "0"})
        assert found.report(is_whole=True) == wrong  # the difference, and the entry that explains nothing


def test_an_idle_entry_is_wrong_in_the_whole_alone(tmp_path: Path) -> None:
    found = table(tmp_path, '[[difference]]\npeer = "peer"\nfact = "x"\nreason = "so"\n')
    assert found.report(is_whole=False) == 0
    assert found.report(is_whole=True) == 1


def test_a_peer_that_is_too_old_is_left_out(tmp_path: Path) -> None:
    entry = '[[unknown]]\npeer = "peer"\nbefore = "{}"\nfield = "user"\nreason = "so"\n'
    assert table(tmp_path, entry.format("1.2")).leaves_out("peer", a_case("user"))
    assert not table(tmp_path, entry.format("1.2")).leaves_out("peer", a_case("cwd"))
    assert not table(tmp_path, entry.format("1.1.5")).leaves_out("peer", a_case("user"))


def test_what_follows_a_status_that_differs_is_not_compared(tmp_path: Path) -> None:
    found = table(tmp_path, "")
    found.compare("peer", a_case(), {"0 create status": "0", "1 state pid": "init"}, {"0 create status": "fails"})
    assert set(found.wrong) == {("peer", "create status")}
