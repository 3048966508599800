"""warm.txt, the functions that `make build` has lie together, names what a forked shim runs before it idles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import shim_client
from shim_client import BUILD, Engine, Fifos

if TYPE_CHECKING:
    from conftest import Bundle, Leaks

WARM = Path(__file__).resolve().parents[2] / "shim/containerd/warm.txt"
#: a launcher, below the line with its interpreter: each function is written down when it is first called, by whichever process
PROFILED = """\
import os, sys
launcher, out, lib = {launcher!r}, {out!r}, {lib!r}
def note(frame, event, arg, seen=set(), os=os):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(lib) and (os.getpid(), code) not in seen:
        seen.add((os.getpid(), code))
        # opened each time: a shim closes what it does not know, and gives the number to something else
        fd = os.open(out, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.write(fd, f"{{os.getpid()}} {{code.co_filename[len(lib):]}} {{code.co_qualname}}\\n".encode())
        os.close(fd)
sys.setprofile(note)
exec(compile(open(launcher).read(), launcher, "exec"))
"""


@pytest.fixture
def engine(leaks: Leaks, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """One whose shims write down what they call."""
    lib = f"{BUILD}/lib/pyrunc/"
    launcher = Path(lib, "shim/containerd-shim-pyrunc-v2")
    first_line = launcher.read_text().partition("\n")[0]
    text = PROFILED.format(launcher=str(launcher), out=str(scratch / "calls"), lib=lib)
    shim_client.stand_in(monkeypatch, scratch / launcher.name, f"{first_line}\n{text}")
    yield from shim_client.until_over(Engine(scratch))


def test_what_a_forked_shim_runs_is_in_the_list(engine: Engine, bundle: Callable[..., Bundle], scratch: Path) -> None:
    shims = [engine.start(bundle("sleep", "100").path, f"{name}{os.getpid()}") for name in "ab"]
    for shim in shims:
        fifos = Fifos(shim.bundle)
        shim.create(**fifos.named())
        fifos.close()
        shim.call("Start", id=shim.id)
        shim.call("State", id=shim.id)
        shim.begin("Wait", id=shim.id)
    rows = [line.split(" ", 1) for line in (scratch / "calls").read_text().split("\n") if line]
    called = {place for pid, place in rows if int(pid) == shims[1].pid} - {
        place for _, place in rows if place.endswith((" <module>", ">.<module>"))
    }
    for shim in shims:
        shim.call("Kill", id=shim.id, signal=9)
        shim.wait()
        shim.call("Delete", id=shim.id)
    known = {line for line in WARM.read_text().split("\n") if line and not line.startswith("#")}
    assert len(called) > 100
    # a few come by the moment: a timer that ends, a fork that was late. That each line is a function is seen by the build.
    missing = sorted(called - known)
    assert len(missing) <= 3, missing
