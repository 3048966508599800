"""Namespaces: made new or joined by path, id maps, time offsets, the cgroup to be in before its namespace is made.

Order is everything here. Ownership: whoever makes a namespace does so inside the user namespace it has at that moment,
and setns wants privilege in the namespace's owner. namespaces(7), user_namespaces(7), time_namespaces(7).
"""

from __future__ import annotations

from runtime import annotation, linux
from runtime.errors import ConfigError, StateError, Unsupported
from runtime.ops import FLAG_DENIED
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.plan import Plan, Step
    from runtime.planner import Request

#: what the caller's cgroup does not matter for
_FIRST = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWNET
#: a cgroup namespace's root is the cgroup of its making; pid and time namespaces are for the children only
_LAST = linux.CLONE_NEWCGROUP | linux.CLONE_NEWPID | linux.CLONE_NEWTIME

_SYS_ADMIN = 1 << linux.CAPABILITIES.index("CAP_SYS_ADMIN")


class Namespaces:
    """`linux.namespaces`, sorted: flags to make, (type, path, place) to join, and what the id maps make possible."""

    __slots__ = (
        "flags",
        "new",
        "joined",
        "has_user",
        "is_setgroups_denied",
        "is_setgroups_unsure",
        "uid_map",
        "gid_map",
    )

    def __init__(self) -> None:
        #: every type that the container has of its own, new or joined
        self.flags = 0
        self.new = 0
        self.joined: list[tuple[str, str, int]] = []
        self.has_user = False
        #: an unprivileged gid map demands it, user_namespaces(7); CVE-2014-8989
        self.is_setgroups_denied = False
        #: somebody else made the user namespace: it may be denied there
        self.is_setgroups_unsure = False
        self.uid_map: list[dict[str, int]] = []
        self.gid_map: list[dict[str, int]] = []


def resolve(request: Request) -> Namespaces:
    """Sort the config's namespaces once; the answer stays in the request."""
    spec = request.config.get("linux") or {}
    found = Namespaces()
    for index, entry in enumerate(spec.get("namespaces") or ()):
        kind = entry["type"]
        if kind not in linux.NAMESPACES:
            raise ConfigError(f"/linux/namespaces/{index}/type", f'no namespace is called "{kind}"')
        flag = linux.NAMESPACES[kind][0]
        if found.flags & flag:
            raise ConfigError(
                f"/linux/namespaces/{index}", f"a second {kind} namespace", clause="config-linux.md#namespaces"
            )
        path = entry.get("path")
        if path and kind == "mount" and request.host.is_own_namespace("mnt", path):
            # the host's own: as if not given, or the host's root would be the one that is pivoted
            continue
        found.flags |= flag
        if path:
            found.joined.append((kind, path, index))
        else:
            found.new |= flag
    found.has_user = bool(found.flags & linux.CLONE_NEWUSER)
    if found.new & linux.CLONE_NEWUSER:
        found.uid_map = spec.get("uidMappings") or []
        found.gid_map = spec.get("gidMappings") or []
        if not found.uid_map or not found.gid_map:
            raise ConfigError(
                "/linux/namespaces",
                "a new user namespace needs linux.uidMappings and linux.gidMappings",
                clause="config-linux.md#user-namespace-mappings",
            )
        found.is_setgroups_denied = request.host.euid != 0 and not _needs_helper(found.gid_map, request.host.egid)
    found.is_setgroups_unsure = found.has_user and not found.new & linux.CLONE_NEWUSER
    if request.host.in_user_ns and request.host.is_setgroups_denied:
        # whoever made the user namespace that we are in did so without privilege; those below it inherit that
        found.is_setgroups_denied = True
    request.resolved = found
    request.has_user_ns = found.has_user
    return found


def resolve_exec(request: Request) -> Namespaces:
    """The namespaces that a further process joins: all that the container has, by type."""
    found = resolve(request)
    found.new = 0
    found.joined = []
    found.flags = 0
    for kind in request.namespaces:
        if kind not in linux.NAMESPACES:
            raise StateError(f'state.json: namespaces: there is no kind "{kind}" of them', code="broken-state")
        found.flags |= linux.NAMESPACES[kind][0]
    found.has_user = request.has_user_ns = bool(found.flags & linux.CLONE_NEWUSER)
    return found


def refuse_unprivileged(request: Request) -> None:
    """Raise where an ordinary user wants namespaces that only the owner of a user namespace can make or join."""
    host = request.host
    if not get(request).has_user and host.euid != 0 and not host.capabilities & _SYS_ADMIN:
        raise Unsupported(
            "linux.namespaces: rootless container requires user namespaces",
            "`pyrunc spec --rootless` writes a configuration that has one",
        )


def get(request: Request) -> Namespaces:
    """What `resolve` has found."""
    assert request.resolved is not None
    return request.resolved


def leaves_privilege(request: Request) -> bool:
    """Whether init may mount what it sees now, and is about to leave the right to for a user namespace."""
    host = request.host
    return get(request).has_user and (not host.is_rootless or (host.in_user_ns and host.owns_mounts))


# -- sections --------------------------------------------------------------------------------------------------------


def open_by_path(request: Request, plan: Plan) -> Iterator[Op]:
    """Hold the namespaces given by path, while their paths can still be reached and mean what the caller meant."""
    for kind, path, index in get(request).joined:
        yield Op(
            "open",
            path,
            r0=f"ns-{kind}",
            a=linux.O_CLOEXEC,
            about=f"open {kind} namespace {path}",
            where=f"/linux/namespaces/{index}",
        )


def join(request: Request, plan: Plan) -> Iterator[Op]:
    """Enter the namespaces given by path.

    Root of the host has privilege over the owner of each, and would lose it inside the user namespace: that one comes
    last. Anybody else has privilege only inside the user namespace to be joined: that one comes first.
    """
    joined = get(request).joined
    user = [entry for entry in joined if entry[0] == "user"]
    late = _joined_late(request)
    rest = [entry for entry in joined if entry[0] != "user" and entry not in late]
    if request.host.is_rootless and user:
        yield _join(user[0])
        yield from _become_root(request, 0, 0)
        user = []
    for entry in rest:
        yield _join(entry)
    if user:
        yield _join(user[0])
        yield from _become_root(request, 0, 0)


def _joined_late(request: Request) -> list[tuple[str, str, int]]:
    """The cgroup namespace, where the fork is the moment of joining the cgroup: join_init() says why."""
    return [entry for entry in get(request).joined if entry[0] == "cgroup"] if _forks_into(request) else []


def _join(entry: tuple[str, str, int]) -> Op:
    kind, path, index = entry
    return Op(
        "setns",
        r0=f"ns-{kind}",
        a=linux.NAMESPACES[kind][0],
        about=f"join {kind} namespace {path}",
        where=f"/linux/namespaces/{index}",
    )


def user(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the user namespace, have the parent write its maps, and become root of it."""
    found = get(request)
    if not found.new & linux.CLONE_NEWUSER:
        return
    yield Op("unshare", a=linux.CLONE_NEWUSER, about="make a user namespace", where="/linux/namespaces")
    yield plan.ask("map-users", _map_steps(request, found), about="map users", where="/linux/uidMappings")
    yield from _become_root(request, _first_id(found.uid_map), _first_id(found.gid_map))
    if request.host.is_rootless:
        # only now: the maps are written through files of ours under /proc, which must not be root's until then
        yield not_dumpable()


def _become_root(request: Request, uid: int, gid: int) -> Iterator[Op]:
    # without this, files are made as the overflow id; the supplementary groups of the caller go while they can
    found = get(request)
    if not found.is_setgroups_denied and not annotation.keeps_groups(request.config):
        flags = FLAG_DENIED if found.is_setgroups_unsure else 0
        yield Op("setgroups", b"", flags=flags, about="drop supplementary groups")
    yield Op("setresgid", a=gid, about=f"become group {gid} of the user namespace", where="/linux/gidMappings")
    yield Op("setresuid", a=uid, about=f"become user {uid} of the user namespace", where="/linux/uidMappings")


def _first_id(mappings: list[dict[str, int]]) -> int:
    # a map may leave root out; then the first id that there is has to do
    return min(mapping["containerID"] for mapping in mappings)


def not_dumpable() -> Op:
    """No process of the container may trace us or read our memory from now on (CVE-2016-9962)."""
    return Op("prctl", a=linux.PR_SET_DUMPABLE, b=0, about="become undumpable")


def unshare_first(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the namespaces that do not depend on the cgroup."""
    flags = get(request).new & _FIRST
    if flags:
        yield Op("unshare", a=flags, about=f"make {linux.namespace_names(flags)} namespaces", where="/linux/namespaces")


def join_cgroup_early(request: Request, plan: Plan) -> Iterator[Op]:
    """Join before a user namespace takes away the right to open the cgroup's files, where init joins by itself."""
    if request.self_join_steps and get(request).has_user:
        yield from _join_cgroup(request, plan)


def join_cgroup(request: Request, plan: Plan) -> Iterator[Op]:
    """Wait until the parent has made the cgroup, and be in it."""
    if not (request.self_join_steps and get(request).has_user):
        yield from _join_cgroup(request, plan)


def _join_cgroup(request: Request, plan: Plan) -> Iterator[Op]:
    where = "/linux/cgroupsPath"
    if request.self_join_steps or _forks_into(request):
        if request.cgroup_steps:
            yield plan.ask("cgroup", about="wait for the cgroup", where=where)
        # By itself and not by the parent's hand: for another process the kernel waits for an RCU grace period
        for _, path, value in request.self_join_steps:
            yield Op("write", path, value, about=f"join cgroup {path.rpartition('/')[0]}", where=where)
        if request.clone_into:
            yield from _enter_v2(request, plan, where)
    elif request.join_steps or request.cgroup_steps:
        yield plan.ask("join-cgroup", request.join_steps, about="join the cgroup", where=where)


def _enter_v2(request: Request, plan: Plan, where: str) -> Iterator[Op]:
    """A fork can be born into the v2 cgroup, anything else is moved by the parent."""
    about = f"join cgroup {request.clone_into}"
    if _forks_into(request):
        flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
        yield Op("open", request.clone_into, r0="cgroup", a=flags, about=about, where=where)
    else:
        yield plan.ask(
            "join-cgroup", [("write", f"{request.clone_into}/cgroup.procs", "$PID")], about=about, where=where
        )


def unshare_last(request: Request, plan: Plan) -> Iterator[Op]:
    """Make the namespaces that depend on the cgroup, or that only a child will be in; set the clocks of a new time namespace."""
    found = get(request)
    flags = found.new & _LAST
    if _forks_into(request):
        flags &= ~linux.CLONE_NEWCGROUP  # of the child, who is the first to be in the v2 cgroup
    if flags:
        yield Op("unshare", a=flags, about=f"make {linux.namespace_names(flags)} namespaces", where="/linux/namespaces")
    offsets = (request.config.get("linux") or {}).get("timeOffsets")
    text = annotation.time_offsets(request.config)
    if offsets:
        text = "".join(f"{clock} {v.get('secs', 0)} {v.get('nanosecs', 0)}\n" for clock, v in offsets.items())
    if not text or not flags & linux.CLONE_NEWTIME:
        return
    if found.has_user:
        # the file belongs to whom we are only while we are dumpable, proc(5); no process of the container exists yet
        yield Op("prctl", a=linux.PR_SET_DUMPABLE, b=1, about="own our files under /proc")
    # frozen as soon as a process is inside: before the fork
    yield Op(
        "write",
        "self/timens_offsets",
        text,
        r1="proc",
        about=f"set time offsets {text.replace(chr(10), ', ').rstrip(', ')}",
        where="/linux/timeOffsets",
    )
    if found.has_user:
        yield not_dumpable()


def fork(request: Request, plan: Plan) -> Iterator[Op]:
    """Go on as a child where a pid or time namespace is waiting for one."""
    if not _forks(request):
        return
    into = _forks_into(request)
    yield Op("fork", r0="cgroup" if into else "", about=f"fork into {request.clone_into}" if into else "fork")
    if into and get(request).new & linux.CLONE_NEWCGROUP:
        # only now: made before the fork, its root in the v2 hierarchy would be the caller's cgroup, and /proc/self/cgroup
        # would tell the path of the container's own
        yield Op("unshare", a=linux.CLONE_NEWCGROUP, about="make cgroup namespaces", where="/linux/namespaces")
    for entry in _joined_late(request):
        yield _join(entry)


def join_cgroup_namespace(request: Request, plan: Plan) -> Iterator[Op]:
    """Enter the cgroup namespace of a running container, where that had to wait for the fork."""
    if _forks_into(request):
        if get(request).flags & linux.CLONE_NEWCGROUP:
            yield Op("setns", r0="init", a=linux.CLONE_NEWCGROUP, about="join the container's cgroup namespace")
        yield Op("close", r0="init")


def _forks_into(request: Request) -> bool:
    """Whether the fork is the moment at which the v2 cgroup is joined."""
    return bool(_forks(request) and request.clone_into and not get(request).has_user)


def _forks(request: Request) -> bool:
    found = get(request)
    return bool(found.flags & linux.CLONE_NEWPID or found.new & linux.CLONE_NEWTIME)


def join_init(request: Request, plan: Plan) -> Iterator[Op]:
    """Enter all namespaces of a running container through the pidfd of its init.

    For root of the host the user namespace comes last, as some of the others may not be owned by it; for anybody else one
    call takes all, in which the kernel begins with the user namespace.
    """
    flags = get(request).flags
    if not flags:
        return
    about = "join the container's namespaces"
    if _forks_into(request):
        # From within a cgroup namespace no process may come into a cgroup that was in none below its root before: where
        # the hierarchy is mounted with nsdelegate, as systemd does, the fork would fail (cgroup_procs_write_permission).
        yield Op("setns", r0="init", a=flags & ~linux.CLONE_NEWCGROUP, about=about)
        return
    user_flag = flags & linux.CLONE_NEWUSER
    if user_flag and not request.host.is_rootless:
        if flags != user_flag:
            yield Op("setns", r0="init", a=flags & ~user_flag, about=about)
        yield Op("setns", r0="init", a=user_flag, about="join the container's user namespace")
    else:
        yield Op("setns", r0="init", a=flags, about=about)
    yield Op("close", r0="init")
    if user_flag:
        yield from become_root_beside_init(request)


def become_root_beside_init(request: Request) -> Iterator[Op]:
    """Become root of the user namespace of a running container, once in it."""
    uid_map = (request.config.get("linux") or {}).get("uidMappings") or [{"containerID": 0}]
    gid_map = (request.config.get("linux") or {}).get("gidMappings") or [{"containerID": 0}]
    yield from _become_root(request, _first_id(uid_map), _first_id(gid_map))


# -- id maps ---------------------------------------------------------------------------------------------------------


def map_text(mappings: list[dict[str, Any]]) -> str:
    """Id mappings as the kernel reads them, user_namespaces(7): a line `inside outside count` each."""
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)


def _needs_helper(mappings: list[dict[str, int]], own: int) -> bool:
    # without privilege the kernel takes one line, of length one, of one's own id; the rest is for setuid helpers
    return len(mappings) != 1 or mappings[0]["size"] != 1 or mappings[0]["hostID"] != own


def _map_steps(request: Request, found: Namespaces) -> Iterator[Step]:
    host = request.host
    is_root = host.euid == 0
    if found.is_setgroups_denied and not is_root:
        # must come before the gid map, which is refused otherwise
        yield ("write", "/proc/$PID/setgroups", "deny")
    if is_root or not _needs_helper(found.uid_map, host.euid):
        yield ("write", "/proc/$PID/uid_map", map_text(found.uid_map))
    else:
        yield ("newuidmap", "$PID", _map_words(found.uid_map))
    if is_root or not _needs_helper(found.gid_map, host.egid):
        yield ("write", "/proc/$PID/gid_map", map_text(found.gid_map))
    else:
        yield ("newgidmap", "$PID", _map_words(found.gid_map))


def _map_words(mappings: list[dict[str, int]]) -> str:
    return map_text(mappings).replace("\n", " ").rstrip()
