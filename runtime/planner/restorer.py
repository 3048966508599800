"""The plans around a restore: CRIU in a mount namespace of its own, the places that it mounts on, and loopback.

CRIU wants the root filesystem to be a mount. On the host that mount would be seen by everybody and outlive us, were we killed; so CRIU
gets a copy of the host's mounts that ends with it. What is missing of the mounts' places is made by the same ops as when a
container is made: the rootfs is as hostile now as it was then.
"""

from __future__ import annotations

from runtime import linux
from runtime.ops import FLAG_RECURSIVE
from runtime.plan import Op, Plan
from runtime.planner import effects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runtime.planner import Request


def program(
    path: str,
    args: Sequence[str],
    env: Sequence[str],
    inherited: Sequence[str],
    rootfs: str = "",
    directories: dict[str, str] | None = None,
    *,
    dies_with_us: bool = False,
) -> Plan:
    """A program of the host that gets the descriptors `inherited`; with `rootfs`, where that is a mount, and only there.

    There, it can mount nothing on what was opened outside: `directories`, by name, are opened inside, and handed over by section.
    """
    plan = Plan()
    plan.inherited += inherited
    if dies_with_us:
        plan.ops.append(Op("prctl", a=linux.PR_SET_PDEATHSIG, b=9, about="end when the runtime does"))
    if rootfs:
        plan.ops += [*_own_mounts(rootfs), Op("close", r0="rootfs")]
        flags = linux.O_DIRECTORY | linux.O_CLOEXEC
        for name, directory in (directories or {}).items():
            about = f"open {directory}"
            plan.ops += [
                Op("open", directory, r0="directory", a=flags, about=about),
                plan.ask(name, [("directory", name, directory)], send="directory", about=about),
                Op("close", r0="directory"),
            ]
    plan.ops.append(effects.close_range(inherited))
    for name in inherited:
        plan.ops.append(Op("inherit", r0=name, about=f"pass {name} on"))
    plan.ops.append(
        Op(
            "exec",
            path,
            "\0".join(args),
            "\0".join(env),
            a=1,
            b=len(args),
            c=len(env),
            about=f'exec: "{path}"',
        )
    )
    return plan


def numbers(inherited: Sequence[str]) -> dict[str, int]:
    """The numbers by which a program knows the descriptors that it gets: they follow the interpreter's socket and plan."""
    return {name: 3 + 2 + index for index, name in enumerate(inherited)}


def places(request: Request) -> Plan:
    """Make what is missing of the places of mounts, as `create` does, in mounts that end with the interpreter."""
    from runtime.planner import mounts

    plan = Plan()
    plan.ops += _own_mounts(request.rootfs)
    #: what lies on a filesystem of the container's own comes back with that
    covered: list[str] = []
    for mount in mounts.read(request):
        if mount.options.is_remount or mount.link or any(mount.place.startswith(f"{place}/") for place in covered):
            continue
        about, where = mount.about, mount.where
        if mount.options.is_bind:
            # attached for the sake of those that lie in it
            tree = linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE
            plan.ops += [
                Op("open-tree", mount.source, r0="tree", a=tree, about=about, where=where),
                Op("mountpoint", mount.place, r0="at", r1="rootfs", r2="tree", about=about, where=where),
                Op("move-mount", r0="tree", r1="at", about=about, where=where),
            ]
        else:
            plan.ops.append(Op("mkdirs", mount.place, r0="at", r1="rootfs", a=0o755, about=about, where=where))
            covered.append(mount.place)
    return effects.done(plan)


def loopback() -> Plan:
    """Bring up the loopback interface of the network namespace `network`."""
    plan = Plan()
    plan.inherited.append("network")
    about, where = "bring the loopback interface up", "/linux/namespaces"
    plan.ops += [
        Op("setns", r0="network", a=linux.CLONE_NEWNET, about=about, where=where),
        Op("link-up", "lo", about=about, where=where),
    ]
    return effects.done(plan)


def _own_mounts(rootfs: str) -> Iterator[Op]:
    """A copy of the host's mounts in which the rootfs is a mount of its own, held as "rootfs"."""
    about, where = f"mount rootfs {rootfs}", "/root/path"
    flags = linux.O_PATH | linux.O_DIRECTORY | linux.O_CLOEXEC
    yield Op("unshare", a=linux.CLONE_NEWNS, about="make a mount namespace")
    # slaves: what the host mounts or unmounts meanwhile still arrives, what we mount does not leave
    yield Op("mount-setattr", "/", c=linux.MS_SLAVE, flags=FLAG_RECURSIVE, about="cut mounts off from the host")
    yield Op("open", rootfs, r0="at", a=flags, about=about, where=where)
    tree = linux.OPEN_TREE_CLONE | linux.AT_RECURSIVE
    yield Op("open-tree", r0="rootfs", r1="at", a=tree, about=about, where=where)
    yield Op("move-mount", r0="rootfs", r1="at", about=about, where=where)
    yield Op("close", r0="at")
