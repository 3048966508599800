"""Taking an id: the directory of a new container, which exactly one of those who want it makes."""

from __future__ import annotations

from runtime import system as os
from runtime.errors import Error, Exists, NotFound, StateError, lower
from runtime.store import ELSEWHERE, check_directory, check_id, open_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.store import Entry


def _make_directory(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        pass
    except FileNotFoundError:
        parent = os.path.dirname(path.rstrip("/"))
        if not parent or parent == path:
            raise
        _make_directory(parent, 0o711)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            pass  # by another create, since


def reserve(root: str, id_: str) -> Entry:
    """Make the directory of a new container and lock it; Exists where the id is taken."""
    check_id(id_)
    try:
        # sticky without root: what cleans up $XDG_RUNTIME_DIR after some hours leaves that alone (XDG Base Directory)
        _make_directory(root, 0o1700 if os.geteuid() else 0o700)
        check_directory(root, "state directory ")
        path = os.path.join(root, id_)
        os.mkdir(path, 0o700)
    except FileExistsError:
        raise Exists(id_) from None
    except OSError as error:
        why = f"make state directory {root}/{id_}: {lower(error)}"
        raise StateError(why, ELSEWHERE if os.geteuid() else "", errno=error.errno) from None
    try:
        entry = _lock_new(id_, path)
    except Error:
        try:
            os.rmdir(path)
        except OSError:
            pass  # not empty: it is another create's by now
        raise
    if entry is None:
        raise StateError(f'container "{id_}": deleted while it was being created')
    return entry


def _lock_new(id_: str, path: str) -> Entry | None:
    """A directory that was just made, locked; None where a concurrent `delete --force` has seen it first: it wins, cleanly."""
    try:
        entry = open_entry(id_, path)
    except NotFound:
        return None
    try:
        # under the name of one that is gone there may be another create's
        if entry.lock(0.5) and not entry.is_gone() and entry.is_empty():
            return entry
    except Error:
        entry.close()
        raise
    entry.close()
    return None
