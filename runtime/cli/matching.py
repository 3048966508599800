"""`--regex`: one command for every container in whose id an expression is found."""

from __future__ import annotations

import re

from runtime import log, store
from runtime.errors import Error, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.lifecycle import Context


def each(ctx: Context, expression: str, do: Callable[[str], object]) -> int:
    """Do it for each; one that fails keeps no other from its turn, and the last that did is the command's error.

    That there is none is no error, as with crun.
    """
    try:
        found = re.compile(expression)
    except re.error as error:
        raise UsageError(f'"{expression}" is no regular expression: {error}', code="usage") from None
    failed: list[Error] = []
    for id_ in store.ids(ctx.root):
        if found.search(id_):
            try:
                do(id_)
            except Error as error:
                error.message = f"{id_}: {error.message}"
                failed.append(error)
    for one in failed[:-1]:
        log.warning(one.message)
    if failed:
        raise failed[-1]
    return 0
