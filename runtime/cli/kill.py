"""`kill`: send a signal, given as a number or by name, to the container's init."""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args

#: the two that callers send, so that the table is loaded for the others only
_USUAL = {"": 15, "TERM": 15, "SIGTERM": 15, "15": 15, "KILL": 9, "SIGKILL": 9, "9": 9}
SIGNAL_MAX = 64


def run(args: Args) -> int:
    ctx, signal = context(args), number(args.signal)
    if args.regex:
        from runtime.cli import matching

        return matching.each(ctx, args.id, lambda id_: lifecycle.kill(ctx, id_, signal, args.all))
    lifecycle.kill(ctx, args.id, signal, args.all)
    return 0


def number(word: str) -> int:
    """The signal that a word means: `9`, `KILL`, `sigkill`, `RTMIN+1`; 0 asks only whether it could be sent."""
    usual = _USUAL.get(word)
    if usual is not None:
        return usual
    if not word.strip("0123456789"):
        found = int(word) if len(word) < 4 else SIGNAL_MAX + 1
    else:
        found = _named(word.upper())
    if not 0 <= found <= SIGNAL_MAX:
        raise UsageError(f'unknown signal "{word}"', code="signal")
    return found


def _named(word: str) -> int:
    from runtime.linux import SIGNALS

    name = word[3:] if word.startswith("SIG") else word
    if name in SIGNALS:
        return SIGNALS[name]
    # real-time signals are counted from either end, kill(1)
    for base, sign in (("RTMIN+", 1), ("RTMAX-", -1)):
        offset = name[len(base) :]
        if name.startswith(base) and offset and not offset.strip("0123456789") and len(offset) < 3:
            found = SIGNALS[base[:5]] + sign * int(offset)
            return found if SIGNALS["RTMIN"] <= found <= SIGNALS["RTMAX"] else -1
    return -1
