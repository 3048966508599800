"""The rules of the Linux section: namespaces and what needs them, devices, resources, seccomp. See `rules`.

Pure and hot. Two things only the host can tell are left to the planner: whether a namespace that is joined by its path is
the runtime's own, and whether what is bind-mounted on /proc is a procfs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.rules import Fault, Table

#: the kernel takes no more lines in a map, user_namespaces(7)
MAPPINGS_MAX = 340
ID_COUNT = 1 << 32


# -- namespaces and their mappings ------------------------------------------------------------------------------------


def namespaces_are_unique(document: Any, at: str) -> Iterator[Fault]:
    seen = set()
    for number, entry in enumerate(document.linux.get("namespaces") or ()):
        if entry["type"] in seen:
            yield f"{at}/namespaces/{number}/type", f"{entry['type']} is listed twice"
        seen.add(entry["type"])
        path = entry.get("path")
        if path and not path.startswith("/"):
            yield f"{at}/namespaces/{number}/path", f'"{path}" is not an absolute path'


def mappings_need_a_user_namespace(document: Any, at: str) -> Iterator[Fault]:
    keys = ("uidMappings", "gidMappings")
    if "user" not in document.namespaces:
        for key in keys:
            if document.linux.get(key):
                yield f"{at}/{key}", "there is no user namespace to map"
    elif not document.namespaces["user"]:
        for key in keys:
            if not document.linux.get(key):
                yield f"{at}/{key}", "required: a new user namespace needs user and group mappings"


def mappings_do_not_overlap(document: Any, at: str) -> Iterator[Fault]:
    yield from _mappings(document.linux, at)
    for number, mount in enumerate(document.config.get("mounts") or ()):
        if mount.get("uidMappings") or mount.get("gidMappings"):
            yield from _mappings(mount, f"/mounts/{number}")


def _mappings(holder: dict[str, Any], at: str) -> Iterator[Fault]:
    for key in ("uidMappings", "gidMappings"):
        mappings = holder.get(key) or ()
        if len(mappings) > MAPPINGS_MAX:
            yield f"{at}/{key}", f"more than {MAPPINGS_MAX} ranges"
            continue
        for side in ("containerID", "hostID"):
            ranges = sorted((entry[side], number, entry["size"]) for number, entry in enumerate(mappings))
            end = 0
            for first, number, size in ranges:
                if first < end:
                    yield f"{at}/{key}/{number}/{side}", f"{first} is in the range of another mapping"
                end = max(end, first + size)
                # the last number of all is (uid_t)-1, which is no id
                if first + size >= ID_COUNT:
                    yield f"{at}/{key}/{number}/size", "the range goes beyond the greatest id"


def user_is_mapped(document: Any, at: str) -> Iterator[Fault]:
    user = document.process.get("user")
    if not user or document.namespaces.get("user", "joined"):
        return
    uids, gids = document.linux.get("uidMappings") or (), document.linux.get("gidMappings") or ()
    places = [("/process/user/uid", user["uid"], uids), ("/process/user/gid", user["gid"], gids)]
    for number, gid in enumerate(user.get("additionalGids") or ()):
        places.append((f"/process/user/additionalGids/{number}", gid, gids))
    for place, wanted, mappings in places:
        if mappings and not any(m["containerID"] <= wanted < m["containerID"] + m["size"] for m in mappings):
            yield place, f"{wanted} is not mapped in the user namespace"


def time_offsets_need_a_new_namespace(document: Any, at: str) -> Iterator[Fault]:
    offsets = document.linux.get("timeOffsets")
    if not offsets:
        return
    if "time" not in document.namespaces:
        yield f"{at}/timeOffsets", "there is no time namespace whose clocks could differ"
    elif document.namespaces["time"]:
        yield f"{at}/timeOffsets", "the time namespace is joined by its path: its offsets are fixed"
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            yield f"{at}/timeOffsets/{_step(clock)}", f'unknown clock "{clock}"', "monotonic and boottime have offsets"


def paths_need_a_mount_namespace(document: Any, at: str) -> Iterator[Fault]:
    for key, verb in (("maskedPaths", "mask"), ("readonlyPaths", "make read-only")):
        paths = document.linux.get(key)
        if paths and "mount" not in document.namespaces:
            yield f"{at}/{key}", f"would {verb} paths of the host: there is no mount namespace"
        for number, path in enumerate(paths or ()):
            if not path.startswith("/"):
                yield f"{at}/{key}/{number}", f'"{path}" is not an absolute path'


def net_devices_have_a_namespace(document: Any, at: str) -> Iterator[Fault]:
    devices = document.linux.get("netDevices")
    if not devices:
        return
    if "network" not in document.namespaces:
        yield f"{at}/netDevices", "there is no network namespace to move them to"
    seen = set()
    for name, device in devices.items():
        place = f"{at}/netDevices/{_step(name)}"
        inside = device.get("name") or name
        # of a template the kernel makes a name that is free, as often as it is asked to
        is_template = inside is not name and inside.endswith("%d")
        for word, where in ((name, place), (inside.removesuffix("%d") if is_template else inside, f"{place}/name")):
            if not is_device_name(word):
                yield where, f'"{word}" cannot be the name of a network device'
                break
        if inside in seen and not is_template:
            yield place, f'two devices would be called "{inside}"'
        seen.add(inside)


def is_device_name(name: str) -> bool:
    """What the kernel's dev_valid_name admits; `%` is what it numbers devices by."""
    if not 0 < len(name.encode()) < 16 or name in (".", "..") or "%" in name:
        return False
    return "/" not in name and ":" not in name and not any(letter.isspace() for letter in name)


# -- sysctl -----------------------------------------------------------------------------------------------------------

IPC_SYSCTLS = (
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
)


def sysctl_path(name: str) -> str:
    """The file of a kernel parameter below /proc/sys, sysctl(8): the first separator says which of `.` and `/` it is."""
    dot, slash = name.find("."), name.find("/")
    if dot < 0 or 0 <= slash < dot:
        return name
    return name.replace(".", "\0").replace("/", ".").replace("\0", "/")


def sysctls_are_namespaced(document: Any, at: str) -> Iterator[Fault]:
    for name in document.linux.get("sysctl") or ():
        path = sysctl_path(name)
        words = path.split("/")
        place = f"{at}/sysctl/{_step(name)}"
        if "" in words or "." in words or ".." in words:
            # net.//.kernel.core_pattern would begin with net and be a file of the host
            yield place, f'"{name}" is not the name of a kernel parameter'
        elif path in IPC_SYSCTLS or path.startswith("fs/mqueue/"):
            yield from _needs("ipc", document, place, name)
        elif words[0] == "net":
            yield from _needs("network", document, place, name)
        elif words[0] == "user":
            yield from _needs("user", document, place, name)
        elif path == "kernel/hostname":
            yield place, f'"{name}" is what the property hostname is for'
        elif path == "kernel/domainname":
            if document.config.get("domainname"):
                yield place, f'"{name}" is what the property domainname is for'
            yield from _needs("uts", document, place, name)
        else:
            yield place, f'"{name}" belongs to no namespace: it would change the host'


def _needs(namespace: str, document: Any, place: str, name: str) -> Iterator[Fault]:
    if namespace not in document.namespaces:
        yield place, f'"{name}" would change the host: there is no {namespace} namespace'


# -- devices, cgroup path, and what belongs to no group ---------------------------------------------------------------


def devices_are_complete(document: Any, at: str) -> Iterator[Fault]:
    for number, device in enumerate(document.linux.get("devices") or ()):
        place = f"{at}/devices/{number}"
        if not device["path"].startswith("/"):
            yield f"{place}/path", f'"{device["path"]}" is not an absolute path'
        if device["type"] == "p":
            continue
        for key in ("major", "minor"):
            if device.get(key) is None:
                yield f"{place}/{key}", f"required: type {device['type']} is a device with numbers"


def cgroups_path_stays_below(document: Any, at: str) -> Iterator[Fault]:
    path = document.linux.get("cgroupsPath") or ""
    if ".." in path.replace(":", "/").split("/"):
        yield f"{at}/cgroupsPath", f'"{path}" contains "..", which could leave the cgroup that it begins in'


def class_of_service_is_a_name(document: Any, at: str) -> Iterator[Fault]:
    name = (document.linux.get("intelRdt") or {}).get("closID") or ""
    # "/" is the default class; the others are names that resctrl has already
    taken = (".", "..", "info", "mon_groups", "mon_data")
    if name in taken or ("/" in name and name != "/") or "\n" in name:
        yield f"{at}/intelRdt/closID", f'"{name}" cannot be the name of a directory of resctrl'


def schemas_are_lines(document: Any, at: str) -> Iterator[Fault]:
    asked = document.linux.get("intelRdt") or {}
    for key, begin in (("l3CacheSchema", "L3:"), ("memBwSchema", "MB:")):
        line = asked.get(key) or ""
        if "\n" in line:
            yield f"{at}/intelRdt/{key}", "more than one line"
        elif line and not line.startswith(begin):
            yield f"{at}/intelRdt/{key}", f'"{line}" does not begin with {begin}'
    for number, line in enumerate(asked.get("schemata") or ()):
        if "\n" in line:
            yield f"{at}/intelRdt/schemata/{number}", "more than one line"


def memory_policy_is_possible(document: Any, at: str) -> Iterator[Fault]:
    from runtime.rules import is_list

    policy = document.linux.get("memoryPolicy")
    if policy is None:
        return
    mode, nodes, flags = policy["mode"], policy.get("nodes") or "", policy.get("flags") or ()
    if nodes and not is_list(nodes):
        yield f"{at}/memoryPolicy/nodes", f'"{nodes}" is not a list of nodes such as 0-3,7'
    if nodes and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        yield f"{at}/memoryPolicy/nodes", f"{mode} takes no nodes"
    if not nodes and mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        yield f"{at}/memoryPolicy/nodes", f"required: {mode} takes nodes"
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        yield f"{at}/memoryPolicy/flags", "nodes cannot be static and relative"


LINUX: Table = (
    ("config-linux.md#namespaces", namespaces_are_unique),
    ("config-linux.md#user-namespace-mappings", mappings_need_a_user_namespace),
    ("config-linux.md#user-namespace-mappings", mappings_do_not_overlap),
    ("config-linux.md#user-namespace-mappings", user_is_mapped),
    ("config-linux.md#offset-for-time-namespace", time_offsets_need_a_new_namespace),
    ("config-linux.md#masked-paths", paths_need_a_mount_namespace),
    ("config-linux.md#network-devices", net_devices_have_a_namespace),
    ("config-linux.md#sysctl", sysctls_are_namespaced),
    ("config-linux.md#devices", devices_are_complete),
    ("config-linux.md#cgroups-path", cgroups_path_stays_below),
    ("config-linux.md#intelrdt", class_of_service_is_a_name),
    ("config-linux.md#intelrdt", schemas_are_lines),
    ("config-linux.md#memory-policy", memory_policy_is_possible),
)

# -- resources: of config.json, or a document of its own --------------------------------------------------------------


def swap_includes_memory(resources: Any, at: str) -> Iterator[Fault]:
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if swap > 0 and limit > 0 and swap < limit:
        yield f"{at}/memory/swap", f"{swap} is below memory.limit, {limit}, which it includes"
    elif swap > 0 and limit < 0:
        yield f"{at}/memory/swap", "memory is unlimited, and swap includes it"


def weights_are_in_range(resources: Any, at: str) -> Iterator[Fault]:
    block = resources.get("blockIO") or {}
    places = [(f"{at}/blockIO", block)]
    places += [(f"{at}/blockIO/weightDevice/{i}", entry) for i, entry in enumerate(block.get("weightDevice") or ())]
    for place, holder in places:
        for key in ("weight", "leafWeight"):
            if 0 < (holder.get(key) or 0) < 10:
                yield f"{place}/{key}", f"{holder[key]} is not from 10 to 1000"


def entries_limit_something(resources: Any, at: str) -> Iterator[Fault]:
    for number, entry in enumerate((resources.get("blockIO") or {}).get("weightDevice") or ()):
        if entry.get("weight") is None and entry.get("leafWeight") is None:
            yield f"{at}/blockIO/weightDevice/{number}", "neither a weight nor a leafWeight"
    for name, entry in (resources.get("rdma") or {}).items():
        if entry.get("hcaHandles") is None and entry.get("hcaObjects") is None:
            yield f"{at}/rdma/{_step(name)}", "neither hcaHandles nor hcaObjects"


def page_sizes_are_sizes(resources: Any, at: str) -> Iterator[Fault]:
    seen = set()
    for number, entry in enumerate(resources.get("hugepageLimits") or ()):
        size = entry["pageSize"]
        place = f"{at}/hugepageLimits/{number}/pageSize"
        digits = size[:-2]
        # part of a file name: anything else could lead to a file of another cgroup
        if size[-2:] not in ("KB", "MB", "GB") or not digits.isdecimal() or not size.isascii() or digits[0] == "0":
            yield place, f'"{size}" is not a page size such as 64KB, 2MB or 1GB'
        elif size in seen:
            yield place, f"{size} is limited twice"
        seen.add(size)


def unified_names_are_files(resources: Any, at: str) -> Iterator[Fault]:
    for name in resources.get("unified") or ():
        if "/" in name or "." not in name.strip(".") or ".." in name:
            yield f"{at}/unified/{_step(name)}", f'"{name}" is not the name of a cgroup file such as memory.high'


def device_access_is_letters(resources: Any, at: str) -> Iterator[Fault]:
    for number, rule in enumerate(resources.get("devices") or ()):
        access = rule.get("access") or ""
        if access.strip("rwm"):
            yield f"{at}/devices/{number}/access", f'"{access}" has letters other than r, w and m'


def device_names_are_words(resources: Any, at: str) -> Iterator[Fault]:
    for name in resources.get("rdma") or ():
        if name.split() != [name]:
            yield f"{at}/rdma/{_step(name)}", f'"{name}" is not the name of a device'
    for number, entry in enumerate((resources.get("network") or {}).get("priorities") or ()):
        if entry["name"].split() != [entry["name"]]:
            yield f"{at}/network/priorities/{number}/name", f'"{entry["name"]}" is not the name of an interface'


RESOURCES: Table = (
    ("config-linux.md#memory", swap_includes_memory),
    ("config-linux.md#block-io", weights_are_in_range),
    ("config-linux.md#block-io", entries_limit_something),
    ("config-linux.md#huge-page-limits", page_sizes_are_sizes),
    ("config-linux.md#unified", unified_names_are_files),
    ("config-linux.md#allowed-device-list", device_access_is_letters),
    ("config-linux.md#control-groups", device_names_are_words),
)

# -- seccomp ----------------------------------------------------------------------------------------------------------

#: libseccomp takes no greater one for SCMP_ACT_ERRNO: the kernel's MAX_ERRNO itself is refused
ERRNO_MAX = 4094
# The agent gets its descriptor by these; were they themselves to wait for an agent, none would ever come.
HANDOVER = ("sendmsg", "recvmsg")


def errnos_have_a_carrier(seccomp: Any, at: str) -> Iterator[Fault]:
    places = [(at, seccomp["defaultAction"], "defaultErrnoRet", seccomp)]
    for number, rule in enumerate(seccomp.get("syscalls") or ()):
        places.append((f"{at}/syscalls/{number}", rule["action"], "errnoRet", rule))
    for place, action, key, holder in places:
        number = holder.get(key)
        if number is None:
            continue
        if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            yield f"{place}/{key}", f"{action} cannot return an errno"
        elif action == "SCMP_ACT_ERRNO" and number > ERRNO_MAX:
            yield f"{place}/{key}", f"{number} is not an errno: the greatest is {ERRNO_MAX}"


def notifications_have_an_agent(seccomp: Any, at: str) -> Iterator[Fault]:
    has_agent = bool(seccomp.get("listenerPath"))
    if seccomp["defaultAction"] == "SCMP_ACT_NOTIFY":
        yield f"{at}/defaultAction", "SCMP_ACT_NOTIFY cannot be the default: init itself could not go on"
    if seccomp.get("listenerMetadata") and not has_agent:
        yield f"{at}/listenerMetadata", "there is no listenerPath to send it to"
    if has_agent and not seccomp["listenerPath"].startswith("/"):
        yield f"{at}/listenerPath", f'"{seccomp["listenerPath"]}" is not an absolute path'
    for number, rule in enumerate(seccomp.get("syscalls") or ()):
        if rule["action"] != "SCMP_ACT_NOTIFY":
            continue
        if not has_agent:
            yield f"{at}/syscalls/{number}/action", "SCMP_ACT_NOTIFY needs a listenerPath"
        for index, name in enumerate(rule["names"]):
            if name in HANDOVER:
                yield f"{at}/syscalls/{number}/names/{index}", f"{name} hands the listener to its agent, which waits"


def masks_cover_their_values(seccomp: Any, at: str) -> Iterator[Fault]:
    for number, rule in enumerate(seccomp.get("syscalls") or ()):
        for index, condition in enumerate(rule.get("args") or ()):
            second = condition.get("valueTwo") or 0
            if condition["op"] == "SCMP_CMP_MASKED_EQ" and second & ~condition["value"]:
                place = f"{at}/syscalls/{number}/args/{index}/valueTwo"
                yield place, f"{second:#x} has bits that the mask {condition['value']:#x} lacks"


SECCOMP: Table = (
    ("config-linux.md#seccomp", errnos_have_a_carrier),
    ("config-linux.md#seccomp", notifications_have_an_agent),
    ("config-linux.md#seccomp", masks_cover_their_values),
)


def _step(name: str) -> str:
    """One word of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
