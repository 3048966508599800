"""`exec`: another process in a container, from process.json or from the container's own process and options.

The caller's words are believed literally or not at all. A user is a number and nothing else: a name would have to be
looked up in the image, which belongs to the container (CVE-2016-3697), and a number that is out of range must neither
wrap around to 0 (CVE-2024-40635) nor leave the process as root (CVE-2026-30892).
"""

from __future__ import annotations

from runtime import lifecycle
from runtime.cli import context
from runtime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.cli.argv import Args

#: (uid_t)-1 means "leave it as it is" to setresuid(2), so the greatest id is one less
ID_MAX = 0xFFFFFFFE


def run(args: Args) -> int:
    from runtime import inherited

    # before any work: what is opened from here on could take the place of a descriptor that is missing
    inherited.check_preserved(args.preserve_fds + inherited.listen_fds())
    if args.process:
        if args.args:
            raise UsageError(
                "--process has the program already, there can be no other words after the id", code="usage"
            )
        process = _from_file(args.process)
    else:
        if not args.args:
            raise UsageError("no program to run: give one after the id, or --process", code="usage")
        # what the words alone can get wrong, before the container is looked for
        changed = changes(args)
        process = apply(lifecycle.process_template(context(args), args.id), changed, args)
    return lifecycle.exec_(context(args), args.id, process, args)


def _from_file(path: str) -> dict[str, Any]:
    from runtime import bundle

    return bundle.load_process(path)


def changes(args: Args) -> dict[str, Any]:
    """The properties of `process` that options replace; every option is checked here, before the container is looked for."""
    out: dict[str, Any] = {"args": args.args, "terminal": args.tty}
    for option, key in (("cwd", "cwd"), ("process_label", "selinuxLabel"), ("apparmor", "apparmorProfile")):
        value = getattr(args, option)
        if value:
            out[key] = value
    if args.cwd and not args.cwd.startswith("/"):
        raise UsageError(f'--cwd "{args.cwd}" is not an absolute path', code="usage")
    if args.no_new_privs:
        out["noNewPrivileges"] = True
    for variable in args.env:
        if "=" not in variable or variable[0] == "=":
            raise UsageError(f'--env "{variable}" is not NAME=VALUE', code="usage")
    if args.user is not None:
        user_of(args.user)
    for word in args.additional_gids:
        one_id(word, "--additional-gids")
    capability_names(args.cap)
    return out


def apply(template: dict[str, Any], changed: dict[str, Any], args: Args) -> dict[str, Any]:
    """The container's process with what the options say: replaced, or added to for lists (runc's exec.go)."""
    process = {**template, **changed}
    if args.env:
        process["env"] = [*(template.get("env") or ()), *args.env]
    user = dict(template.get("user") or {})
    if args.user is not None:
        user.update(user_of(args.user))
    if args.additional_gids:
        gids = [one_id(word, "--additional-gids") for word in args.additional_gids]
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *gids]
    process["user"] = user
    if args.cap:
        process["capabilities"] = _with_capabilities(template.get("capabilities") or {}, args.cap)
    return process


def user_of(word: str) -> dict[str, int]:
    """`UID` or `UID:GID`; without a GID the container's stays."""
    uid, colon, gid = word.partition(":")
    found = {"uid": one_id(uid, "--user")}
    if colon:
        found["gid"] = one_id(gid, "--user")
    return found


def one_id(word: str, option: str) -> int:
    """A user or group id in plain ASCII digits; int() alone would take `+1`, ` 1`, `1_0` and digits of any script."""
    if not word or word.strip("0123456789") or len(word) > 10 or int(word) > ID_MAX:
        raise UsageError(f'{option}: "{word}" is not a number from 0 to {ID_MAX}', code="usage")
    return int(word)


def capability_names(words: list[str]) -> list[str]:
    """Capabilities as the configuration spells them, from words with or without CAP_, in any case."""
    if not words:
        return []
    from runtime.linux import CAPABILITIES

    names = [word.upper() if word.upper().startswith("CAP_") else "CAP_" + word.upper() for word in words]
    for name in names:
        if name not in CAPABILITIES:
            raise UsageError(f'--cap: unknown capability "{name}"', code="usage")
    return names


def _with_capabilities(sets: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The container's sets with more in three of them.

    Never in the inheritable or ambient one: a program of the image with file capabilities, or any program at all, would
    get them under a user who has none (CVE-2022-29162).
    """
    out = dict(sets)
    for key in ("bounding", "effective", "permitted"):
        there = sets.get(key) or ()
        out[key] = [*there, *(name for name in capability_names(words) if name not in there)]
    return out
