"""`validate`: everything that is wrong with a bundle's config.json, each with its place in the file. Nothing is run.

One line per finding on standard output, or a JSON array. The status is 0 where there is no error; a warning is none.
"""

from __future__ import annotations

from runtime import bundle, log
from runtime.cli import output
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.argv import Args
    from specs.explain import Finding

CONFIG = "config.json"


def run(args: Args) -> int:
    _, raw = bundle.read(args.bundle or ".", CONFIG)
    found = bundle.findings(raw, CONFIG, strict=args.strict)
    if args.json:
        output.write(dumps([record(finding) for finding in found], 2) + "\n")
    else:
        output.write("".join(line(finding) + "\n" for finding in found))
    return int(any(finding.severity == "error" for finding in found))


def line(finding: Finding) -> str:
    """`config.json:3:5: /process/cwd: wrong type (expected a string, found 5); hint: ... [clause]`"""
    place = f"{CONFIG}:{finding.line}:{finding.column}" if finding.line else CONFIG
    text = f"{place}: "
    if finding.severity != "error":
        text += f"{finding.severity}: "
    if finding.pointer:
        text += f"{finding.pointer}: "
    text += finding.why
    if finding.expected:
        text += f" (expected {finding.expected}, found {finding.found})"
    if finding.hint:
        text += f"; hint: {finding.hint}"
    # values of the file are shown, whatever is in them
    return log.one_line(f"{text} [{finding.clause}]" if finding.clause else text)


def record(finding: Finding) -> dict[str, object]:
    """A finding as an object of the JSON array."""
    return {
        "file": CONFIG,
        "pointer": finding.pointer,
        "line": finding.line,
        "column": finding.column,
        "severity": finding.severity,
        "message": finding.why,
        "expected": finding.expected,
        "found": finding.found,
        "hint": finding.hint,
        "clause": finding.clause,
    }
