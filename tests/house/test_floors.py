"""Who may import whom: from floors below, or from a sibling of the same package or family. The table is the architecture."""

from __future__ import annotations

import tree

#: floor -> modules below runtime/; a package stands for all that is in it unless a module of it is named
FLOORS: dict[int, tuple[str, ...]] = {
    # doctor asks every floor below, and nobody asks it but its command, which is above the others for that
    6: ("ahead",),
    5: ("__main__", "cli.doctor", "cli.state"),
    4: ("cli", "api", "doctor"),
    3: ("lifecycle", "making", "creation", "joining", "removal", "updating", "mounting", "checkpoint", "restoring", "criu_process", "events"),
    2: ("launch", "store", "reserving", "emptying", "bundle", "hooks", "console", "userns", "netdev", "intelrdt", "seccomp", "libseccomp", "cgroups", "foreground",
        "notify", "steps", "child", "external"),
    1: ("planner", "rules", "rules_linux", "status", "criu", "cgroups.resources", "cgroups.devices",
        "cgroups.gvariant", "cgroups.systemd_units", "cgroups.systemd_properties", "seccomp_profile", "seccomp_bpf"),
    0: ("system", "annotation", "journal", "inherited", "plan", "ops", "wire", "linux", "host", "identity", "errors", "log", "jsonio", "texts", "packed", "_libseccomp", "_libsystemd", "kernel", "unprivileged", "refusals"),
}  # fmt: skip

#: modules of one floor that were one module until it grew too long, and still know each other; floor 0 is all siblings
FAMILIES = (
    {
        "lifecycle",
        "making",
        "creation",
        "joining",
        "removal",
        "updating",
        "mounting",
        "checkpoint",
        "restoring",
        "criu_process",
        "events",
    },
    {"seccomp", "libseccomp", "seccomp_profile", "seccomp_bpf"},
    {"rules", "rules_linux"},
    {"store", "reserving", "emptying"},
    set(FLOORS[0]),
)

#: programs that write files of the tree, and run only while it is built
GENERATORS = {"libraries_build", "kernel.build", "kernel.generate"}

#: what only the named modules may import, and why
FENCES = {
    "runtime.kernel": (
        {"launch", "cgroups.fs", "cgroups.dbus", "console", "userns", "foreground", "hooks", "doctor.cgroups"},
        "privileged system calls go through few hands: launch and cgroups.fs; console passes descriptors, userns opens the "
        "mounts to be idmapped, foreground waits on a pidfd and forwards signals, hooks starts programs of the host, "
        "doctor.cgroups asks whether device programs are taken",
    ),
    "runtime._libsystemd": ({"cgroups.sdbus"}, "one module speaks to systemd through it"),
    "specs": ({"bundle", "cli.validate", "cli.features"}, "one module reads and checks documents"),
    "click": ({"cli.app"}, "the fast reader must never need it"),
    "jsonschema": ({"bundle", "cli.validate"}, "it explains what the compiled validator refused"),
    "psutil": ({"cli.ps"}, "it costs 19 ms"),
    "pyroute2": ({"netdev"}, "it costs 138 ms"),
}

#: what the shim shares with the runtime: tools, and nothing that knows what a container is
SHIM_MAY = {"runtime", "runtime.kernel", "runtime.jsonio", "runtime.errors", "runtime.texts"}
#: and what its one link enters besides, in a forked child: the command line, and the copy of the environment it reads
ENGINE_MAY = {"runtime.__main__", "runtime.system"}


def floor_of(module: str) -> int | None:
    """The floor of a module given without `runtime.`; the longest entry that fits counts."""
    best: tuple[int, int] | None = None
    for floor, entries in FLOORS.items():
        for entry in entries:
            if (module == entry or module.startswith(entry + ".")) and (best is None or len(entry) > best[0]):
                best = (len(entry), floor)
    return None if best is None else best[1]


def ours() -> dict[str, str]:
    names = {name: name.removeprefix("runtime.") for name in tree.modules() if name.startswith("runtime.")}
    return {full: short for full, short in names.items() if short not in GENERATORS}


def test_every_module_has_a_floor() -> None:
    assert not [short for short in ours().values() if floor_of(short) is None]


def test_imports_go_down() -> None:
    wrong = []
    known = ours()
    for full, short in known.items():
        floor = floor_of(short)
        for target, line in tree.imports(full):
            if target not in known or target == full:
                continue
            other = known[target]
            below = floor_of(other)
            is_sibling = "." in short and "." in other and short.split(".")[0] == other.split(".")[0]
            is_package = other == short.rpartition(".")[0] or short == other.rpartition(".")[0]
            in_family = any(short in family and other in family for family in FAMILIES)
            if floor is None or below is None or not (below < floor or is_sibling or is_package or in_family):
                wrong.append(f"{short}:{line} (floor {floor}) imports {other} (floor {below})")
    assert not wrong, "\n".join(wrong)


def test_fences() -> None:
    wrong = []
    for full, short in ours().items():
        for target, line in tree.imports(full):
            for fence, (allowed, reason) in FENCES.items():
                is_inside = full == fence or full.startswith(fence + ".")
                if (target == fence or target.startswith(fence + ".")) and short not in allowed and not is_inside:
                    wrong.append(f"{short}:{line} imports {target}: {reason}")
    assert not wrong, "\n".join(wrong)


def test_shim_and_specs_stand_alone() -> None:
    wrong = []
    for full in tree.modules():
        package = full.split(".")[0]
        for target, line in tree.imports(full):
            other = target.split(".")[0]
            if full == "shim.spare" and target == "runtime.ahead":
                continue  # which calls nothing
            if package == "shim" and other in ("runtime", "specs") and target not in SHIM_MAY and full != "shim.engine":
                wrong.append(f"{full}:{line} imports {target}: only shim.engine knows the runtime")
            if package == "shim" and full == "shim.engine" and target not in {*SHIM_MAY, *ENGINE_MAY}:
                if other in ("runtime", "specs"):
                    wrong.append(f"{full}:{line} imports {target}: the contract is the command line")
            if package == "specs" and other in ("runtime", "shim"):
                wrong.append(f"{full}:{line} imports {target}: specs describe documents and know nobody")
            if package == "runtime" and other == "shim":
                wrong.append(f"{full}:{line} imports {target}: the runtime knows no shim")
    assert not wrong, "\n".join(wrong)


def test_pure_floors_do_not_touch_the_machine() -> None:
    """Floor 1 and the computing part of floor 0: no file is opened, no process started, no clock read."""
    impure = {"subprocess", "socket", "fcntl", "select", "signal", "_signal", "ctypes", "shutil", "tempfile", "time"}
    wrong = []
    for full, short in ours().items():
        if floor_of(short) == 1 or short in ("plan", "ops", "wire", "linux", "errors"):
            for target, line in tree.imports(full):
                if target in impure:
                    wrong.append(f"{short}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_cycles_at_import() -> None:
    """Imports that run when a module is loaded form no circle; `from package import module` is no import of the package."""
    known = tree.modules()
    graph = {
        name: {target for target, _ in tree.imports(name, lazy=False) if target in known and target != name}
        for name in known
    }
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in graph[name]:
                walk(target, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())
