"""How what a guest needs is made: once for all who share the cache, whole or not at all, and bounded in time.

CACHE               build/guest, or $PYRUNC_GUEST_CACHE, which several trees may share
Unavailable         why there is no guest here, in a line
run(...)            a command's output; its last lines are the reason when it fails
once(path)          the lock under which a file of the cache is made
tools(...)          Debian's packages, installed when they are missing
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("PYRUNC_GUEST_CACHE") or ROOT / "build/guest").absolute()

sys.path.append(str(HERE.parent / "engines"))

import packages  # noqa: E402 - found through the path above


class Unavailable(Exception):
    """Why there is no guest here."""


def say(text: str) -> None:
    print(f"guest: {text}", file=sys.stderr, flush=True)


def run(*words: str | Path, limit_s: float = 300, **more: Any) -> str:
    """The output of a command that makes something; it ends within `limit_s`, and all that it started with it."""
    argv = [str(word) for word in words]
    # nothing of the caller's make reaches another one
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    env["PATH"] = f"{env.get('PATH', '')}:{packages.PATH}"
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True, **more
        )
        try:
            status = child.wait(limit_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Unavailable(f"{_shown(argv)}: not done within {limit_s:.0f} s") from None
            raise
        output.seek(0)
        text = output.read()
    if status:
        raise Unavailable(f"{_shown(argv)}: exit status {status}\n" + "\n".join(text.splitlines()[-20:]))
    return text


def _shown(argv: list[str]) -> str:
    text = shlex.join(argv)
    return text if len(text) < 200 else f"{text[:200]} ..."


def tools(*names: str) -> None:
    """Debian's packages that making something needs."""
    if why := packages.install(*names):
        raise Unavailable(f"missing Debian packages: {why}")


def program(name: str) -> Path:
    """A program of the machine's, also of those that only root's PATH finds."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{packages.PATH}")
    if not found:
        raise Unavailable(f"no {name} on this machine")
    return Path(found)


def digest(*parts: str | bytes) -> str:
    """A short name for what something is made of."""
    text = b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return hashlib.sha256(text).hexdigest()[:12]


@contextlib.contextmanager
def once(path: Path) -> Iterator[Path | None]:
    """None where `path` is there; else, under a lock, a scratch directory: the file of that name in it takes its place."""
    if path.exists():
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():  # somebody else was quicker
            yield None
            return
        for left in path.parent.glob(f".{path.name}.new-*"):  # by somebody who was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.new-", dir=path.parent, ignore_cleanup_errors=True
        ) as work:
            yield Path(work)
            os.replace(Path(work) / path.name, path)
