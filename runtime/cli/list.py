"""`list`: the containers under the root, as a table, as JSON, or their ids.

A broken entry is listed too, with status unknown, and the log says what is wrong with it; it must hide no other.
"""

from __future__ import annotations

from runtime import lifecycle, log
from runtime.cli import context, output
from runtime.jsonio import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from runtime.cli.argv import Args

_COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
#: the least width of a column and the space after its longest word, as runc has them
_CELL, _SPACE = 12, 3


def run(args: Args) -> int:
    found = [_entry(container) for container in lifecycle.containers(context(args))]
    if args.quiet:
        output.write("".join(container["id"] + "\n" for container in found))
    elif args.format == "json":
        # runc prints null where there is none; Go decodes an array the same, everybody else can iterate it
        output.write(dumps(found) + "\n")
    else:
        rows = [[str(container[column.lower()]) for column in _COLUMNS] for container in found]
        output.write(table([list(_COLUMNS), *rows]))
    return 0


def _entry(container: dict[str, Any]) -> dict[str, Any]:
    if "error" in container:
        log.warning(f"list {container['id']}: {container['error']}")
        nothing = {
            "ociVersion": "",
            "pid": 0,
            "status": "unknown",
            "bundle": "",
            "rootfs": "",
            "created": "",
            "owner": "",
        }
        return {**nothing, **container}
    container = dict(container)
    uid = container.pop("uid", None)
    if uid is not None:
        container["owner"] = _user(uid)
    return container


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def table(rows: Iterable[list[str]]) -> str:
    """Rows of words in columns, as Go's tabwriter lays them out; the last column is as long as it likes."""
    rows = [[log.one_line(word) for word in row] for row in rows]
    widths = [max(_CELL, *(len(row[n]) + _SPACE for row in rows)) for n in range(len(rows[0]) - 1)]
    return "".join(
        "".join([*(f"{word:{width}}" for word, width in zip(row, widths, strict=False)), row[-1]]) + "\n"
        for row in rows
    )
