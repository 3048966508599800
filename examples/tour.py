"""`make run`: make a bundle, run a container from it, and show what in there differs from the machine around it.

The same questions, examples/questions.sh, are put to the host's shell and to the container's; nothing is assumed about the
answers. Needs root, because the container gets a cgroup with limits; everything is left as it was found, except for the
bundle, which stays below build/run to be looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYRUNC = ROOT / "build/bin/pyrunc"
BUNDLE = ROOT / "build/run"
ID = "tour"

sys.path.append(str(ROOT / "tests/fixtures"))
import mkrootfs  # noqa: E402 - found through the path above

RESOURCES = {
    "memory": {"limit": 64 << 20},
    "pids": {"limit": 32},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000},
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
    ],
}


def main() -> int:
    shutil.rmtree(BUNDLE, ignore_errors=True)
    BUNDLE.mkdir(parents=True)
    config = mkrootfs.config("/bin/sh", "/questions.sh")
    config["hostname"] = "pyrunc-tour"
    config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [50]}
    config["process"]["capabilities"] = {"bounding": ["CAP_NET_BIND_SERVICE"], "permitted": [], "effective": []}
    config["root"]["readonly"] = True
    config["mounts"].append(
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        }
    )
    config["linux"]["resources"] = RESOURCES
    mkrootfs.bundle(BUNDLE, **config)
    shutil.copy(ROOT / "examples/questions.sh", BUNDLE / "rootfs/questions.sh")

    state = BUNDLE / "state"
    command = [PYRUNC, "--root", state, "run", "--bundle", BUNDLE, ID]
    print("$", *(os.path.relpath(word, ROOT) if isinstance(word, Path) else word for word in command), flush=True)
    inside = ask(command)
    outside = ask([mkrootfs.busybox(), "sh", ROOT / "examples/questions.sh"])
    show(outside, inside)
    left = sorted(state.glob("*")) if state.exists() else []
    print(f"\nleft behind: {', '.join(path.name for path in left) or 'nothing'}")
    print(f"bundle: {BUNDLE}   what was done to the kernel: {PYRUNC} plan {BUNDLE}")
    same = [name for name, answer in inside.items() if answer == outside.get(name)]
    if same or left or len(inside) < 10:
        print(f"error: not isolated: {', '.join(same) or 'see above'}", file=sys.stderr)
        return 1
    return 0


def ask(command: list[str | Path]) -> dict[str, str]:
    """Run the questions; `name: answer` lines."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"error: the container ended with status {done.returncode}")
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)


def show(outside: dict[str, str], inside: dict[str, str]) -> None:
    """Print the answers side by side."""
    width = max(map(len, inside))
    column = max(30, *(min(len(answer), 38) for answer in outside.values()))
    print(f"\n{'':{width}}  {'this machine':{column}}  the container")
    for name, answer in inside.items():
        print(f"{name:{width}}  {clip(outside.get(name, ''), column):{column}}  {answer}")


def clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
