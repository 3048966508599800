"""What a schema cannot say: properties that are right one by one and wrong together, or that name something impossible.

Each rule is a small function that yields the place and the reason of every fault it finds, and stands in a table beside
the clause of the specification (or the man page) that it is from. `check` stops at the first, `findings` collects all.
The rules of the Linux section are in `rules_linux`.

Pure and hot: a rule sees the document, which has passed its schema, and neither the host nor the root file system.
"""

from __future__ import annotations

from runtime import annotation
from runtime.errors import RuleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    #: JSON pointer, why, and a hint where there is a sure one
    Fault = tuple[str, str] | tuple[str, str, str]
    Rule = Callable[[Any, str], Iterator[Fault]]
    Table = tuple[tuple[str, Rule], ...]


class Finding:
    """One broken rule: `severity` is "error", or "warning" where the container is made all the same."""

    __slots__ = ("clause", "hint", "severity", "where", "why")

    def __init__(self, fault: Fault, clause: str, severity: str) -> None:
        self.where = fault[0]
        self.why = fault[1]
        self.hint = fault[2] if len(fault) > 2 else ""
        self.clause = clause
        self.severity = severity

    def error(self, source: str = "config.json", line: int = 0, column: int = 0) -> RuleError:
        """The exception that this finding is raised as."""
        return RuleError(
            self.where, self.why, source=source, clause=self.clause, hint=self.hint, line=line, column=column
        )


class Document:
    """A configuration, and what most rules want to know of it; read by `rules_linux` too."""

    __slots__ = ("config", "linux", "namespaces", "process")

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.linux: dict[str, Any] = config.get("linux") or {}
        self.process: dict[str, Any] = config.get("process") or {}
        #: type -> path, which is empty for a new one
        self.namespaces: dict[str, str] = {
            entry["type"]: entry.get("path") or "" for entry in self.linux.get("namespaces") or ()
        }


# -- process: of config.json, or a document of its own; `at` is the pointer to it --------------------------------------


def cwd_is_absolute(process: Any, at: str) -> Iterator[Fault]:
    if not process["cwd"].startswith("/"):
        yield f"{at}/cwd", f'"{process["cwd"]}" is not an absolute path'


def args_name_a_program(process: Any, at: str) -> Iterator[Fault]:
    args = process.get("args")
    if args is None:
        return  # only `start` needs them, which `bundle` knows
    if not args:
        yield f"{at}/args", "empty, where a program was expected"
    elif not args[0]:
        yield f"{at}/args/0", "empty, where a program was expected"


def variables_have_names(process: Any, at: str) -> Iterator[Fault]:
    for number, variable in enumerate(process.get("env") or ()):
        if variable.find("=") < 1:
            yield f"{at}/env/{number}", f'"{variable}" is not NAME=VALUE'


def rlimits_are_consistent(process: Any, at: str) -> Iterator[Fault]:
    seen = set()
    for number, limit in enumerate(process.get("rlimits") or ()):
        if limit["type"] in seen:
            yield f"{at}/rlimits/{number}/type", f"{limit['type']} is limited twice"
        seen.add(limit["type"])
        if limit["soft"] > limit["hard"]:
            yield f"{at}/rlimits/{number}/soft", f"{limit['soft']} is above the hard limit, {limit['hard']}"


def scheduler_fits_its_policy(process: Any, at: str) -> Iterator[Fault]:
    scheduler = process.get("scheduler")
    if scheduler is None:
        return
    policy = scheduler["policy"]
    if scheduler.get("nice") and policy not in ("SCHED_OTHER", "SCHED_BATCH"):
        yield f"{at}/scheduler/nice", f"{policy} takes no nice value"
    is_realtime = policy in ("SCHED_FIFO", "SCHED_RR")
    if scheduler.get("priority") and not is_realtime:
        yield f"{at}/scheduler/priority", f"{policy} takes no priority"
    if is_realtime and not scheduler.get("priority"):
        yield f"{at}/scheduler/priority", f"{policy} takes a priority from 1 to 99"
    times = [scheduler.get(key) or 0 for key in ("runtime", "deadline", "period")]
    if policy != "SCHED_DEADLINE":
        for key, value in zip(("runtime", "deadline", "period"), times, strict=True):
            if value:
                yield f"{at}/scheduler/{key}", f"{policy} takes no {key}"
    elif not times[0] <= times[1] or (times[2] and times[1] > times[2]):
        yield f"{at}/scheduler/runtime", "SCHED_DEADLINE needs runtime <= deadline <= period"


def affinity_is_a_list(process: Any, at: str) -> Iterator[Fault]:
    affinity = process.get("execCPUAffinity") or {}
    for key in ("initial", "final"):
        if affinity.get(key) and not is_list(affinity[key]):
            yield f"{at}/execCPUAffinity/{key}", f'"{affinity[key]}" is not a list of processors such as 0-3,7'


def is_list(text: str) -> bool:
    """Whether a text is a list of numbers and ranges, cpuset(7): `0-3,7`."""
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or not part.isascii() or len(part) > 20:
            return False
        if dash and (not last.isdecimal() or int(last) < int(first)):
            return False
    return True


PROCESS: Table = (
    ("config.md#process", cwd_is_absolute),
    ("config.md#posix-process", args_name_a_program),
    ("config.md#process", variables_have_names),
    ("config.md#posix-process", rlimits_are_consistent),
    ("config.md#linux-process", scheduler_fits_its_policy),
    ("config.md#linux-process", affinity_is_a_list),
)


def capability_sets_are_subsets(process: Any, at: str) -> Iterator[Fault]:
    sets = process.get("capabilities") or {}
    for key, others in SUBSETS:
        for number, name in enumerate(sets.get(key) or ()):
            missing = [other for other in others if name not in (sets.get(other) or ())]
            if missing:
                yield f"{at}/capabilities/{key}/{number}", f"{name} is not {' and '.join(missing)}, ignoring"


def capabilities_are_known(process: Any, at: str) -> Iterator[Fault]:
    from runtime.linux import CAPABILITIES

    for key, names in (process.get("capabilities") or {}).items():
        for number, name in enumerate(names or () if key in CAPABILITY_SETS else ()):
            if name not in CAPABILITIES:
                yield f"{at}/capabilities/{key}/{number}", f'unknown capability "{name}", ignoring'


#: what the kernel refuses otherwise
SUBSETS = (
    ("effective", ("permitted",)),
    ("inheritable", ("bounding",)),
    ("ambient", ("permitted", "inheritable")),
)
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")

PROCESS_WARNINGS: Table = (
    ("capabilities(7)", capability_sets_are_subsets),
    ("config.md#linux-process", capabilities_are_known),
)

# -- mounts -----------------------------------------------------------------------------------------------------------

# Whatever else is mounted below /proc could stand in for the file that the runtime, or a later process in the container,
# writes a label or a limit to (CVE-2019-16884). These are only read, and tools that show a container its own limits
# replace them.
PROC_FILES = (
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
)


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether a mount is of a part of the host's tree."""
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def destination_of(mount: dict[str, Any]) -> str:
    """Where a mount goes, from the container's root, without dots and doubled slashes."""
    out: list[str] = []
    for word in mount["destination"].split("/"):
        if word == "..":
            del out[-1:]
        elif word not in ("", "."):
            out.append(word)
    return "/" + "/".join(out)


def proc_is_not_replaced(document: Any, at: str) -> Iterator[Fault]:
    for number, mount in enumerate(document.config.get("mounts") or ()):
        path = destination_of(mount)
        if path == "/proc":
            # what a bind mount brings is seen when it is opened; it must be a procfs as well
            if mount.get("type") != "proc" and not is_bind(mount):
                yield f"/mounts/{number}/type", f'"{mount.get("type") or ""}" cannot stand in for proc on /proc'
        elif path.startswith("/proc/") and path not in PROC_FILES:
            yield f"/mounts/{number}/destination", f'"{mount["destination"]}" is inside /proc'


def idmapped_mounts_are_complete(document: Any, at: str) -> Iterator[Fault]:
    for number, mount in enumerate(document.config.get("mounts") or ()):
        uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
        options = mount.get("options") or ()
        if not (uids or gids or "idmap" in options or "ridmap" in options):
            continue
        place = f"/mounts/{number}"
        if bool(uids) != bool(gids):
            missing = "gidMappings" if uids else "uidMappings"
            yield f"{place}/{missing}", "required: an idmapped mount maps users and groups"
        elif not uids and "user" not in document.namespaces:
            yield f"{place}/options", "idmap without mappings takes those of a user namespace, and there is none"


def destinations_are_absolute(document: Any, at: str) -> Iterator[Fault]:
    for number, mount in enumerate(document.config.get("mounts") or ()):
        if not mount["destination"].startswith("/"):
            yield f"/mounts/{number}/destination", f'"{mount["destination"]}" is not absolute, taken from /'


# -- names and hooks --------------------------------------------------------------------------------------------------

#: __NEW_UTS_LEN of the kernel
UTS_MAX = 64


def names_need_a_namespace(document: Any, at: str) -> Iterator[Fault]:
    for key in ("hostname", "domainname"):
        name = document.config.get(key)
        if not name:
            continue
        if "uts" not in document.namespaces:
            yield f"/{key}", f"would set the {key} of the host: there is no uts namespace"
        if len(name.encode()) > UTS_MAX:
            yield f"/{key}", f"longer than {UTS_MAX} bytes"


def hooks_are_absolute(document: Any, at: str) -> Iterator[Fault]:
    for kind, hooks in (document.config.get("hooks") or {}).items():
        for number, hook in enumerate(hooks or () if kind in HOOKS else ()):
            if not hook["path"].startswith("/"):
                yield f"/hooks/{kind}/{number}/path", f'"{hook["path"]}" is not an absolute path'


HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

CONFIG: Table = (
    ("config.md#mounts", proc_is_not_replaced),
    ("config.md#posix-platform-mounts", idmapped_mounts_are_complete),
    ("config.md#hostname", names_need_a_namespace),
    ("config.md#posix-platform-hooks", hooks_are_absolute),
)


def personality_has_no_flags(document: Any, at: str) -> Iterator[Fault]:
    if (document.linux.get("personality") or {}).get("flags"):
        yield "/linux/personality/flags", "there are no flags in this version of the specification, ignoring"


CONFIG_WARNINGS: Table = (
    ("config.md#mounts", destinations_are_absolute),
    ("config-linux.md#personality", personality_has_no_flags),
)


# -- all of them ------------------------------------------------------------------------------------------------------


def _seccomp(document: Document) -> Any:
    section = document.linux.get("seccomp")
    # an annotation may name the agent
    return annotation.seccomp_section(document.config) if type(section) is dict else section


def _config_faults(config: dict[str, Any], warnings: bool) -> Iterator[Finding]:
    from runtime import rules_linux

    document = Document(config)
    yield from _run(CONFIG, document, "", "error")
    yield from _run(PROCESS, document.process, "/process", "error")
    if document.linux:
        yield from _run(rules_linux.LINUX, document, "/linux", "error")
        yield from _run(rules_linux.RESOURCES, document.linux.get("resources"), "/linux/resources", "error")
        yield from _run(rules_linux.SECCOMP, _seccomp(document), "/linux/seccomp", "error")
    if warnings:
        yield from _run(CONFIG_WARNINGS, document, "", "warning")
        yield from _run(PROCESS_WARNINGS, document.process, "/process", "warning")


def _run(table: Table, subject: Any, at: str, severity: str) -> Iterator[Finding]:
    if not subject:
        return
    for clause, rule in table:
        for fault in rule(subject, at):
            yield Finding(fault, clause, severity)


def check(config: dict[str, Any]) -> RuleError | None:
    """The first broken rule of a configuration as an error, or None; warnings do not count."""
    for finding in _config_faults(config, warnings=False):
        return finding.error()
    return None


def findings(config: dict[str, Any]) -> list[Finding]:
    """Every broken rule of a configuration, warnings last."""
    return list(_config_faults(config, warnings=True))


def check_process(process: dict[str, Any]) -> RuleError | None:
    """The first broken rule of a process document, whose places are in it and not in config.json."""
    for finding in _run(PROCESS, process, "", "error"):
        return finding.error("process.json")
    return None


def process_findings(process: dict[str, Any]) -> list[Finding]:
    """Every broken rule of a process document, warnings last."""
    return [*_run(PROCESS, process, "", "error"), *_run(PROCESS_WARNINGS, process, "", "warning")]


def check_resources(resources: dict[str, Any]) -> RuleError | None:
    """The first broken rule of a resources document."""
    for finding in resource_findings(resources):
        return finding.error("resources")
    return None


def resource_findings(resources: dict[str, Any]) -> list[Finding]:
    """Every broken rule of a resources document."""
    from runtime import rules_linux

    return list(_run(rules_linux.RESOURCES, resources, "", "error"))


# -- cold: a document that its schema has refused ----------------------------------------------------------------------


def findings_beside(config: dict[str, Any], faults: list[str]) -> list[Finding]:
    """The broken rules of the sound parts of a configuration that has `faults` (JSON pointers) in others.

    Rules trust what the schema promises, so one may trip over a fault: it then says nothing. None may mistake a namespace
    that is written wrongly for one that is not asked for.
    """
    from runtime import rules_linux

    out: list[Finding] = []
    linux = config.get("linux") if type(config.get("linux")) is dict else None
    tables: list[tuple[Table, Any, str]] = [(PROCESS, config.get("process"), "/process")]
    if linux:
        tables.append((rules_linux.RESOURCES, linux.get("resources"), "/linux/resources"))
        tables.append((rules_linux.SECCOMP, linux.get("seccomp"), "/linux/seccomp"))
    if not any(fault == "/linux" or fault.startswith("/linux/namespaces") for fault in faults):
        document = Document({**config, "process": config.get("process") if type(config.get("process")) is dict else {}})
        tables += [(CONFIG, document, ""), (rules_linux.LINUX, document, "/linux")]
    for table, subject, at in tables:
        for clause, rule in table if subject else ():
            found: list[Finding] = []
            try:
                for fault in rule(subject, at):
                    found.append(Finding(fault, clause, "error"))
            except (TypeError, KeyError, AttributeError, ValueError, IndexError):
                pass  # it met one of the faults; what it said before that stands
            out += [f for f in found if not any((f.where + "/").startswith(fault + "/") for fault in faults)]
    return out
