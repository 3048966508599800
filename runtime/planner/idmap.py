"""Idmapped mounts: with which maps, and the ops that give a tree one.

uidMappings, gidMappings       of the mount: file system id, host id, count (config.md#posix-platform-mounts)
idmap=uids=0-1-10#10-11-10;gids=0-100-10     the same in the option, as crun has it; with @ before a triple its host id is
                               one inside the container's user namespace
idmap alone                    those of the container's user namespace
"""

from __future__ import annotations

from runtime import linux
from runtime.errors import ConfigError, Unsupported
from runtime.ops import FLAG_RECURSIVE
from runtime.plan import Op
from runtime.planner import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.plan import Plan
    from runtime.planner import Request
    from runtime.planner.mounts import Mount

    Mapping = dict[str, int]

_ID_MAX = (1 << 32) - 1


def of_mount(entry: dict[str, Any], text: str, config: dict[str, Any], where: str) -> tuple[str, str] | None:
    """The mount's own maps, as the kernel reads them; None where it has none. `text` is what its option says."""
    uids: list[Mapping] = entry.get("uidMappings") or []
    gids: list[Mapping] = entry.get("gidMappings") or []
    if bool(uids) != bool(gids):
        raise ConfigError(
            where, "has only one of uidMappings and gidMappings", clause="config.md#posix-platform-mounts"
        )
    if uids:
        # crun: the properties are what counts where the option says something too
        return namespaces.map_text(uids), namespaces.map_text(gids)
    return _of_option(text, config, where) if text else None


def _of_option(text: str, config: dict[str, Any], where: str) -> tuple[str, str]:
    found = {"uids": "", "gids": ""}
    for part in text.split(";"):
        key, _, triples = part.partition("=")
        if key not in found or not triples:
            raise ConfigError(f"{where}/options", f'"{part}" of idmap is neither uids=... nor gids=...')
        found[key] = namespaces.map_text([_triple(word, key, config, where) for word in triples.lstrip("#").split("#")])
    # whoever has mapped only one kind means the other as it is: without a map the kernel would refuse the mount
    everybody = f"0 0 {_ID_MAX}\n"
    return found["uids"] or everybody, found["gids"] or everybody


def _triple(word: str, key: str, config: dict[str, Any], where: str) -> Mapping:
    numbers = word.removeprefix("@").split("-")
    if len(numbers) != 3 or not all(n and not n.strip("0123456789") and int(n) <= _ID_MAX for n in numbers):
        raise ConfigError(f"{where}/options", f'"{word}" of idmap is not three numbers: file system id-host id-count')
    inside, outside, size = map(int, numbers)
    if word[0] == "@":
        outside = _seen_outside(outside, key, config, where)
    return {"containerID": inside, "hostID": outside, "size": size}


def _seen_outside(id_: int, key: str, config: dict[str, Any], where: str) -> int:
    name = f"{key[:3]}Mappings"
    for mapping in (config.get("linux") or {}).get(name) or ():
        if 0 <= id_ - mapping["containerID"] < mapping["size"]:
            return int(mapping["hostID"] + id_ - mapping["containerID"])
    raise ConfigError(f"{where}/options", f"@{id_} of idmap is no id of the container: linux.{name} does not map it")


def idmap(mount: Mount, request: Request, plan: Plan, tree: str) -> Iterator[Op]:
    """Give the tree its map, where it is to have one."""
    options = mount.options
    if not options.is_idmapped:
        return
    if request.host.euid != 0:
        raise Unsupported(f"{mount.about}: idmapped mounts need root")
    maps = mount.id_maps
    held = ""
    if maps is None:
        found = namespaces.get(request)
        if found.uid_map:
            # the container's own mapping, in a namespace that is there already
            maps = namespaces.map_text(found.uid_map), namespaces.map_text(found.gid_map)
        elif found.has_user:
            held = "ns-user"
        else:
            raise ConfigError(mount.where, "idmap without mappings, of the mount or of a user namespace")
    if maps is not None:
        held = "idmap"
        section = f"idmap-{mount.index}"
        steps = [("idmap", mount.place, f"{maps[0]};{maps[1]}")]
        yield plan.ask(section, steps, get=held, about=mount.about, where=mount.where)
    yield Op(
        "mount-setattr",
        r0=tree,
        r1=held,
        a=linux.MOUNT_ATTR_IDMAP,
        flags=FLAG_RECURSIVE if options.is_idmapped_recursively else 0,
        about=mount.about,
        where=mount.where,
    )
