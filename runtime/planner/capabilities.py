"""Who the process is and what it may do: working directory, bounding set, groups, gid, uid, capability sets.

The one order that works, capabilities(7): the bounding set while CAP_SETPCAP is held, groups before the gid and both before
the uid takes CAP_SETGID away, the permitted set kept over the change of uid, ambient capabilities last, because they need
permitted and inheritable ones and any change of uid clears them.
"""

from __future__ import annotations

from struct import pack

from runtime import annotation, linux
from runtime.errors import ConfigError, Unsupported
from runtime.ops import FLAG_DENIED
from runtime.plan import Op
from runtime.planner import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request

_BITS = {name: 1 << number for number, name in enumerate(linux.CAPABILITIES)}
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_WHERE = "/process/capabilities"

#: setresuid(2) takes it for "leave it as it is", and a process asked to be it would stay root
_NO_ID = 0xFFFFFFFF


def working_directory(request: Request, plan: Plan) -> Iterator[Op]:
    """Enter the working directory, as root, who may enter what the user may not.

    After close-range: with a descriptor of the host open, a cwd of /proc/self/fd/N would be a way out (CVE-2024-21626). Before
    any seccomp filter: a profile may refuse the getcwd by which the way out is noticed.
    """
    uid = (request.process.get("user") or {}).get("uid", 0)
    cwd = request.process.get("cwd") or "/"
    yield Op("chdir", cwd, flags=FLAG_DENIED if uid else 0, about=f"chdir to cwd {cwd}", where="/process/cwd")


def credentials(request: Request, plan: Plan) -> Iterator[Op]:
    """Give up what the process shall not have."""
    user = request.process.get("user") or {}
    uid = _id(user.get("uid", 0), "/process/user/uid")
    gid = _id(user.get("gid", 0), "/process/user/gid")
    sets = _masks(request, plan)
    yield Op(
        "bounding",
        a=sets["bounding"],
        b=request.host.last_cap,
        about="drop capabilities from the bounding set",
        where=f"{_WHERE}/bounding",
    )
    yield Op("prctl", a=linux.PR_SET_KEEPCAPS, b=1, about="keep capabilities over the change of user")
    yield from _groups(request, user.get("additionalGids") or [])
    yield Op("setresgid", a=gid, about=f"become group {gid}", where="/process/user/gid")
    yield Op("setresuid", a=uid, about=f"become user {uid}", where="/process/user/uid")
    if uid:
        # a filesystem of the user's that keeps root out
        cwd = request.process.get("cwd") or "/"
        yield Op("chdir", cwd, b=1, about=f"chdir to cwd {cwd}", where="/process/cwd")
    yield Op("prctl", a=linux.PR_SET_KEEPCAPS, b=0, about="stop keeping capabilities")
    yield Op(
        "capset",
        a=sets["effective"],
        b=sets["permitted"],
        c=sets["inheritable"],
        about="set capabilities",
        where=_WHERE,
    )
    yield Op("ambient", a=sets["ambient"], about="raise ambient capabilities", where=f"{_WHERE}/ambient")


def _groups(request: Request, gids: list[int]) -> Iterator[Op]:
    if annotation.keeps_groups(request.config):
        return
    found = namespaces.get(request)
    if found.is_setgroups_denied:
        # being in one's own group is all that there is; anything else would be a membership that is silently missing
        if any(gid != (request.process.get("user") or {}).get("gid", 0) for gid in gids):
            raise Unsupported(
                "process.user.additionalGids: groups cannot be set: setgroups is denied in this user namespace",
                "it is where an ordinary user maps a single group: map more, which newgidmap does",
            )
        return
    for index, gid in enumerate(gids):
        _id(gid, f"/process/user/additionalGids/{index}")
    # exactly those of the config, also none: what the caller is in is nothing to the container
    yield Op(
        "setgroups",
        pack(f"<{len(gids)}I", *gids),
        flags=FLAG_DENIED if found.is_setgroups_unsure and not gids else 0,
        about="set supplementary groups",
        where="/process/user/additionalGids",
    )


def _id(number: int, where: str) -> int:
    if not 0 <= number < _NO_ID:
        raise ConfigError(where, f"{number} is no id: 0 to 4294967294 are", clause="config.md#posix-platform-user")
    return number


def _masks(request: Request, plan: Plan) -> dict[str, int]:
    """The five sets as masks. What is not known, or not ours to give, is left out and warned about: never granted."""
    wanted = request.process.get("capabilities") or {}
    host = request.host
    everything = (2 << host.last_cap) - 1
    if request.has_user_ns:
        # a user namespace comes with all capabilities over what it owns
        permitted = bounding = everything
    else:
        bounding = host.bounding & everything
        permitted = host.capabilities & everything
    unknown: dict[str, None] = {}
    masks = {}
    missing = 0
    for kind in _SETS:
        mask = 0
        for name in wanted.get(kind) or ():
            bit = _BITS.get(name)
            if bit is None:
                unknown[name] = None
            else:
                mask |= bit
        available = bounding if kind == "bounding" else permitted
        missing |= mask & ~available
        masks[kind] = mask & available
    if unknown or missing:
        names = ", ".join((*unknown, *_names(missing)))
        plan.warnings.append(f"process.capabilities: ignoring unknown or unavailable capabilities: {names}")
    # capset(2) and prctl(2) refuse a set that is not within these others
    _confine(plan, masks, "effective", "permitted", masks["permitted"])
    _confine(plan, masks, "inheritable", "in the bounding set", masks["bounding"])
    _confine(plan, masks, "ambient", "permitted and inheritable", masks["permitted"] & masks["inheritable"])
    return masks


def _confine(plan: Plan, masks: dict[str, int], kind: str, what: str, within: int) -> None:
    outside = masks[kind] & ~within
    if outside:
        masks[kind] &= within
        plan.warnings.append(f"process.capabilities.{kind}: not {what}, ignoring: {', '.join(_names(outside))}")


def _names(mask: int) -> list[str]:
    return [name for name, bit in _BITS.items() if mask & bit]
