"""A plan is checked as if its author were hostile: each field wrong by itself, many wrong at random, under sanitizers.

The interpreter is not run here: `planrun-asan` decodes, `fuzz-plan` lets libFuzzer do the same for a moment.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from interpreter import ROOT, program, rootfs, sh, tmpfs

from runtime import wire
from runtime.plan import Op, Plan

pytestmark = pytest.mark.usefixtures("images")

HEADER, RECORD = 32, 64


def encoded(*ops: Op, inherited: Sequence[str] = (), preserve: int = 0) -> bytes:
    plan = Plan()
    plan.ops, plan.inherited, plan.preserve = list(ops), list(inherited), preserve
    return wire.encode(plan)


def plans() -> list[bytes]:
    """Good ones, of each shape that a string of an op can have."""
    hook = Op("run-hook", "/hook", "a\0b", "C=d", r0="s", b=2, c=1)
    find = Op("find-exec", "/bin/a\0/bin/b", a=2)
    blobs = [Op("setgroups", bytes(8)), Op("seccomp", bytes(16)), Op("affinity", b"\1"), Op("write", "f", b"\0\0")]
    return [
        encoded(sh("true")),
        encoded(hook, find, program("/bin/sh", "", "", env=["", "A=b"]), inherited=["s"], preserve=2),
        encoded(*blobs, *tmpfs("t"), *rootfs(Path("/x")), sh("x" * 5000)),
        encoded(Op("exec", "/bin/true", "", "", a=1, b=0, c=0)),
        encoded(*(Op("umask", a=n) for n in range(300)), sh("true")),
    ]


def verdicts(scratch: Path, made: Sequence[bytes]) -> list[str]:
    """What the sanitized interpreter says of each; it must live."""
    paths = []
    for number, data in enumerate(made):
        paths.append(scratch / f"{number}")
        paths[-1].write_bytes(data)
    done = subprocess.run([ROOT / "build/planrun-asan", *paths], capture_output=True, text=True)
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    return [line.rpartition(" ")[2] for line in done.stdout.splitlines()]


def patched(data: bytes, offset: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, offset, value)
    return bytes(out)


def test_good_plans(scratch: Path) -> None:
    assert verdicts(scratch, plans()) == ["good"] * len(plans())


def test_each_field_of_the_header(scratch: Path) -> None:
    good = plans()[1]
    fields = struct.unpack_from("<8I", good)
    wrong = [
        patched(good, 4 * field, "<I", value & 0xFFFFFFFF)
        for field in range(8)
        for value in (fields[field] + 1, fields[field] - 1, 0xFFFFFFFF, 0x80000000, 0)
        # any first descriptor from 3 on will do for this program, more registers do no harm
        if value != fields[field] and not (field == 6 and value >= 3) and not (field == 7 and fields[7] < value < 1025)
        and not (field == 3 and value <= fields[7])
    ]  # fmt: skip
    assert len(wrong) > 25 and verdicts(scratch, wrong) == ["refused"] * len(wrong)


def test_each_field_of_a_record(scratch: Path) -> None:
    good = plans()[1]
    wrong = []
    for record in range(3):
        at = HEADER + RECORD * record
        wrong += [patched(good, at, "<H", number) for number in (0, 55, 0xFFFF)]
        wrong += [patched(good, at + 2, "<H", 32)]
        wrong += [patched(good, at + 4 + 2 * slot, "<H", number) for slot in range(3) for number in (1, 0xFFFE)]
        wrong += [patched(good, at + 10 + n, "<B", 1) for n in range(6)]
        for span in range(3):
            offset, length = struct.unpack_from("<II", good, at + 40 + 8 * span)
            for value in (0xFFFFFFF8, 0x80000000, len(good), offset + 1):
                wrong.append(patched(good, at + 40 + 8 * span, "<I", value))
            for value in (0xFFFFFFFF, 0xFFFFFFFF - offset, len(good), length + 1, max(length - 1, 1)):
                wrong.append(patched(good, at + 44 + 8 * span, "<I", value))
    assert verdicts(scratch, wrong) == ["refused"] * len(wrong)


@pytest.mark.parametrize("count", [0, 1, 3, 1 << 32, (1 << 32) + 2, (1 << 64) - 1])
def test_counts_of_lists(scratch: Path, count: int) -> None:
    """An array of as many pointers as the plan says is made from as many strings as there are."""
    wrong = [
        encoded(Op("find-exec", "/a\0/b", a=count), sh("true")),
        encoded(Op("exec", "/a\0/b", "x", "", a=count, b=1)),
        encoded(Op("exec", "/a", "x\0y", "", a=1, b=count)),
        encoded(Op("exec", "/a", "x", "E=1\0F=2", a=1, b=1, c=count)),
        encoded(Op("run-hook", "/a", "x\0y", "", b=count), sh("true")),
        encoded(Op("run-hook", "/a", "x", "A\0B", b=1, c=count), sh("true")),
    ]
    assert verdicts(scratch, wrong) == ["refused"] * len(wrong)


def test_text_with_a_nul_in_it(scratch: Path) -> None:
    wrong = [encoded(Op("mkdirs", b"a\0b"), sh("true")), encoded(Op("exec", b"/a\0", "x", a=1, b=1))]
    assert verdicts(scratch, wrong) == ["refused"] * len(wrong)


def test_the_end_of_a_plan(scratch: Path) -> None:
    good = plans()[2]
    cut = [good[:n] for n in range(0, len(good), 41)]
    ends = [encoded(Op("setsid")), encoded(sh("true"), Op("setsid")), good + bytes(8), b""]
    assert verdicts(scratch, [*cut, *ends]) == ["refused"] * (len(cut) + len(ends))


def test_mutated_plans(scratch: Path) -> None:
    """Thousands of them, the same in each run: it is for the sanitizers to find something."""
    made, good = random.Random(20), plans()[:3]
    mutated = []
    for _ in range(3000):
        data = bytearray(made.choice(good))
        for _ in range(made.randint(1, 6)):
            where = made.randrange(len(data)) if made.random() < 0.3 else made.randrange(min(len(data), 500))
            size = made.choice((1, 2, 4, 8))
            value = made.choice((0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, len(data), made.getrandbits(64)))
            data[where : where + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")[: len(data) - where]
        mutated.append(bytes(data[: made.randrange(len(data))] if made.random() < 0.1 else data))
    found = verdicts(scratch, mutated)
    assert len(found) == len(mutated) and set(found) == {"good", "refused"}


def test_libfuzzer_for_a_moment(scratch: Path) -> None:
    command = [sys.executable, "runtime/kernel/build.py", "--out", "build/kernel", "--fuzz"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, data in enumerate(plans()):
        (corpus / str(number)).write_bytes(data)
    (corpus / "line").write_bytes(b"ualice:x:1000:1000:comment:/home/alice:/bin/sh")
    fuzzer = [ROOT / "build/fuzz-plan", "-max_total_time=4", "-max_len=2048", f"-artifact_prefix={scratch}/", corpus]
    done = subprocess.run(fuzzer, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
