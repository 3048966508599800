"""`doctor`: what is wrong with this host, an engine's set-up, a bundle or a container, and what to do.

One line a finding, and its advice where there is some, or a JSON list. The status is 1 where an error was found, and 0 else.
"""

from __future__ import annotations

from runtime.cli import context, output
from runtime.doctor import ERROR, OK, SEVERITIES, worst
from runtime.errors import NotFound, UsageError
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.cli.argv import Args
    from runtime.doctor import Finding

#: widths of the output, and of its two columns
WIDTH, _SEVERITY, _ID_MAX = 100, 9, 30


def run(args: Args) -> int:
    found = list(_findings(args))
    if args.json:
        output.write(dumps([finding.record() for finding in found], 2) + "\n")
    else:
        output.write(text(found))
    return int(worst(found) == ERROR)


def _findings(args: Args) -> Iterator[Finding]:
    if args.config and not args.engine:
        raise UsageError("doctor: --config is an engine's configuration: give --engine too", code="usage")
    if args.engine and args.target:
        raise UsageError("doctor: --engine and a bundle or container are two questions: ask one", code="usage")
    if args.engine:
        from runtime.doctor import engines

        return engines.check(args.engine, args.config)
    if args.target:
        return _target(args)
    from runtime.doctor import host

    return host.check(context(args))


def _target(args: Args) -> Iterator[Finding]:
    """A container if there is one of that name, else a bundle."""
    import os

    from runtime import store

    ctx = context(args)
    word = args.target
    try:
        store.find(ctx.root, word).close()
    except (NotFound, UsageError):
        if not os.path.isdir(word):
            message = f'doctor: "{word}" is neither a container in {ctx.root} nor a directory'
            raise UsageError(
                message, "a container of another --root is found by giving that", code="not-found"
            ) from None
        from runtime.doctor import bundle

        return bundle.check(ctx, word)
    from runtime.doctor import container

    return container.check(ctx, word)


def text(found: list[Finding]) -> str:
    """The findings for a person: severity, id, and beside them what was found and what to do."""
    width = min(max((len(finding.id) for finding in found), default=0), _ID_MAX) + 2
    return "".join(_lines(finding, width) for finding in found) + summary(found) + "\n"


def _lines(finding: Finding, width: int) -> str:
    import textwrap

    from runtime import log

    def wrapped(words: str, begin: str, column: int) -> str:
        # what is long and has no space is a path or a word to be copied
        filler = textwrap.TextWrapper(WIDTH, begin, " " * column, break_long_words=False, break_on_hyphens=False)
        lines = filler.wrap(log.one_line(words))
        return "".join(line.rstrip() + "\n" for line in lines)

    begin = f"{finding.severity:{_SEVERITY}}{finding.id:{width}}"
    if not begin.endswith("  "):
        begin += "  "
    out = wrapped(f"{finding.what}: {finding.found}", begin, _SEVERITY + width)
    for line in finding.advice.splitlines():
        if line.startswith("  "):
            out += " " * _SEVERITY + f"  {log.one_line(line)}\n"  # to be pasted: as it is
        else:
            out += wrapped(line, " " * _SEVERITY + "> ", _SEVERITY + 2)
    return out


def summary(found: list[Finding]) -> str:
    """How many of which severity, worst first."""
    counted = [(len([f for f in found if f.severity == severity]), severity) for severity in reversed(SEVERITIES)]
    return ", ".join(
        f"{count} {severity}{'s' if count != 1 and severity != OK else ''}" for count, severity in counted if count
    )
