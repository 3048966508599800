"""`ps`: the processes of a container: their ids as JSON, or what the host's ps says about them."""

from __future__ import annotations

import os

from runtime import lifecycle
from runtime.cli import context, output
from runtime.errors import Error, Unsupported, UsageError
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args

#: where ps is looked for when the caller has no PATH, which podman's monitor and cri-o's do not
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(args: Args) -> int:
    pids = lifecycle.pids(context(args), args.id)
    if args.format == "json":
        output.write(dumps(pids) + "\n")
    else:
        output.write(filtered(_ps(args.options or ["-ef"]), pids))
    return 0


def _ps(options: list[str]) -> str:
    """What the host's ps prints."""
    import shutil
    import subprocess

    program = shutil.which("ps", path=os.environ.get("PATH") or _PATH)
    if program is None:
        raise Unsupported('run ps: "ps" is not installed on this host', "--format json does without it")
    done = subprocess.run([program, *options], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        words = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        raise Error(f"run ps {' '.join(options)}: {words[0] if words else f'exit status {done.returncode}'}")
    return done.stdout.decode("utf-8", "surrogateescape")


def filtered(text: str, pids: list[int]) -> str:
    """The header of ps's table and the lines whose PID column has one of `pids`."""
    # at line feeds alone: the words of a process may have what Python takes for other ends of lines
    lines = text.split("\n")
    titles = lines[0].split()
    if "PID" not in titles:
        raise UsageError("ps: its output has no PID column to select processes by", code="usage")
    column = titles.index("PID")
    out = [lines[0]]
    wanted = {str(pid) for pid in pids}
    for line in lines[1:]:
        words = line.split()
        if len(words) > column and words[column] in wanted:
            out.append(line)
    return "\n".join(out) + "\n"
