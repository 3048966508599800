"""What containerd asks of a shim in one container's life, as a program of its own: `engine_life.py BUNDLE STATE ROOTFS`.

Prints what the container has printed, and ends with 0 when every answer and event was as it should be. A line that begins with
"wrong: " is about an answer that was not so, which nobody had called a failure. Where something is refused, or the shim is gone, it
does what containerd does then, says why, and ends with 1: it kills, deletes, shuts down, and runs the shim's program for `delete`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/fixtures")]
import runtime.kernel  # noqa: E402 - found through the path above

runtime.kernel.__path__.append(str(ROOT / "build/kernel/runtime/kernel"))
import shim_client  # noqa: E402
from commands import STATUS  # noqa: E402
from place import ID  # noqa: E402

from shim.containerd import messages as m  # noqa: E402
from shim.containerd.protobuf import decode  # noqa: E402

EXEC = "e"
SIGKILL = 9
EVENTS = [
    "create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete",
]  # fmt: skip
#: what containerd asks of a shim that has refused something; then, whatever that says, it runs the program for `delete`
LAST: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Resume", {"id": ID}),
    ("Kill", {"id": ID, "signal": SIGKILL, "all": True}),
    ("Wait", {"id": ID}),
    ("Delete", {"id": ID}),
    ("Shutdown", {"id": ID}),
)


def live(bundle: Path, state: Path, rootfs: str) -> None:
    """From the first word to the last."""
    engine = shim_client.Engine(bundle)
    engine.namespace = state.name
    shim, told = None, ""
    try:
        os.mkfifo(bundle / "log")
        told = engine.run("start", bundle, ID).decode()
        if not told.startswith("unix:///") or "\n" in told:
            raise OSError(f"start says {told!r}")
        shim = shim_client.Shim(engine, bundle, ID, told)
        serve(shim, str(state.parent), rootfs)
    except (shim_client.Refused, OSError, AssertionError) as error:
        give_up(shim, error)
        # no shim, no `delete`: a `start` that fails has left nothing
        if told:
            engine.run("delete", bundle, ID, check=False)
        (bundle / "config.json").unlink()
        sys.exit(1)
    engine.run("delete", bundle, ID)
    # it may be told after the answer to Shutdown
    engine.wait_for("/tasks/delete", container_id=ID)
    found = [name.removeprefix("/tasks/") for name in engine.topics(container_id=ID)]
    # one whose answer is lost comes again
    expect("events", [name for name, next_ in zip(found, [*found[1:], ""], strict=True) if name != next_], EVENTS)


def serve(shim: shim_client.Shim, root: str, rootfs: str) -> None:
    """All that is asked of a shim."""
    fifos = shim_client.Fifos(shim.bundle)
    call = shim.call
    mount = {"type": "bind", "source": rootfs, "options": ["rbind", "rw"]}
    pid = shim.create(options={"root": root}, rootfs=[mount], **fifos.named())
    end = shim.begin("Wait", id=ID)
    expect("started", call("Start", id=ID)["pid"], pid)
    print(fifos.read(until=b"END\n").decode(), end="", flush=True)
    shim.exec(EXEC, "/bin/sh", "-c", f"exit {STATUS}")
    running = call("Start", id=ID, exec_id=EXEC)["pid"]
    expect("exec's status", shim.wait(exec_id=EXEC), STATUS)
    expect("exec's pid", call("Delete", id=ID, exec_id=EXEC)["pid"], running)
    call("Pause", id=ID)
    expect("state", call("State", id=ID)["status"], m.STATUSES["paused"])
    call("Resume", id=ID)
    expect("pids", [one["pid"] for one in call("Pids", id=ID)["processes"]], [pid])
    expect("stats", bool(call("Stats", id=ID)["stats"]["value"]), True)
    call("Kill", id=ID, signal=SIGKILL)
    expect("status", decode(m.WAITED, end.result(shim_client.LIMIT_S))["exit_status"], 128 + SIGKILL)
    expect("deleted", call("Delete", id=ID)["exit_status"], 128 + SIGKILL)
    call("Shutdown", id=ID)


def give_up(shim: shim_client.Shim | None, why: Exception) -> None:
    """As containerd does with a shim that has refused something, or is gone: what is harmed once may be asked again."""
    print(why, file=sys.stderr)
    for method, values in LAST if shim is not None else ():
        for _ in range(2):
            try:
                shim.call(method, **values)
                break
            except (shim_client.Refused, OSError) as error:
                print(f"{method}: {error}", file=sys.stderr)


def expect(what: str, found: object, wanted: object) -> None:
    """An answer that is none is worse than a failure."""
    if found != wanted:
        print(f"wrong: {what}: {found}, and not {wanted}")


if __name__ == "__main__":
    live(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    os._exit(0)
