"""Put the packages into a directory the way they run, with the launchers that start them.

`make build` stages into build/, `make install` below PREFIX; nothing else differs between the two. What lands:

    LIB/{runtime,shim,specs}/   modules and data, the compiled extension, byte code that is never checked against a source
    BIN/pyrunc ...              launchers of a few lines: the interpreter's real path, two directories, one call

Only what changed is written, each file by a rename, so that a test running from build/ never meets half a file. This
program must need nothing but the standard library: `make install` may run it with the bare interpreter.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import marshal
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parent
PACKAGES = ("runtime", "shim", "specs")
SUFFIXES = {".py", ".json", ".typed"}
#: programs that write files of the tree, and run only while it is built
BUILDERS = {"build.py", "libraries_build.py"}
#: what the packages import of other people's; their own requirements follow by themselves
DISTRIBUTIONS = ("cffi", "click", "jsonschema", "psutil", "pyroute2")
#: launcher -> the module whose main() it calls; one whose module does not exist is not written
LAUNCHERS = {"pyrunc": "runtime", "containerd-shim-pyrunc-v2": "shim", "pyrunc-conmon": "shim", "pyrunc-shim": "shim"}

#: what each hot command imports in its functions when all is well; what it imports at the top is found by reading it
HOT = {
    "create": (
        "runtime.creation",
        "runtime.planner.container",
        "runtime.kernel",
        "specs.config_check",
        "runtime.cgroups.making",
        "runtime.rules_linux",
        "runtime.removal",
    ),
    "run": (
        "runtime.creation",
        "runtime.planner.container",
        "runtime.kernel",
        "specs.config_check",
        "runtime.cgroups.making",
        "runtime.rules_linux",
        "runtime.removal",
    ),
    "exec": ("runtime.joining", "runtime.planner.joiner", "runtime.kernel", "specs.config_check", "runtime.bundle"),
    "delete": ("runtime.removal", "runtime.host"),
    "state": ("runtime.host",),
    "start": ("runtime.host",),
    "kill": ("runtime.host",),
}
#: and each face of the shim; what a child of it imports is the command's
FACES = {
    "containerd-shim-pyrunc-v2": ("shim.containerd.bootstrap",),
    "containerd-shim-pyrunc-v2, the server": ("shim.containerd.bootstrap", "shim.containerd.serving"),
    "containerd-shim-pyrunc-v2 delete": ("shim.containerd.bootstrap", "shim.containerd.cleaning"),
    "pyrunc-conmon": ("shim.conmon", "shim.conmon.caller", "shim.logs", "shim.conmon.monitor", "shim.oom"),
    "pyrunc-shim": ("shim.supervise",),
}

# -I ignores the caller's PYTHON* variables and directory, -S skips .pth files, which run code at every start, and -X utf8 has file
# names be the bytes that we mean, where the caller's locale would have other bytes for them. The two directories are
# appended, so that nothing in them can stand before the standard library.
LAUNCHER = """\
#!{interpreter} -ISXutf8
import marshal, posix, sys
sys.path += {path!r}
try:
    code, table = marshal.loads(posix.read(packed := posix.open({packed!r}, posix.O_CLOEXEC), 65536))
    exec(code)
    from {module}.__main__ import main
except (OSError, ImportError, ValueError, EOFError) as error:
    posix.write(2, f"load the program: {{error}}\\n".encode())
    posix._exit(1)
sys.exit(main())
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="stage the packages and the launchers")
    parser.add_argument("--lib", type=Path, required=True, help="where the packages go")
    parser.add_argument("--bin", type=Path, required=True, help="where the launchers go")
    parser.add_argument("--kernel", type=Path, required=True, help="where runtime/kernel/build.py put the extension")
    parser.add_argument("--interpreter", required=True, help="the interpreter of the launchers, by its real path")
    parser.add_argument(
        "--site", type=Path, help="site-packages that the launchers append; default: LIB/site-packages, copied"
    )
    parser.add_argument("--destdir", type=Path, default=Path("/"), help="a directory that is / at run time")
    arguments = parser.parse_args()

    lib = under(arguments.destdir, arguments.lib)
    wanted = dict(packages(lib, arguments.kernel))
    if arguments.site is None:
        wanted |= dict(vendored(lib / "site-packages"))
    for target, source in wanted.items():
        put(target, source.read_bytes(), 0o755 if is_program(source) else 0o644)
    put(lib / "runtime/COMMIT", commit(), 0o644)
    put(lib / "packed.bin", packed(lib, arguments.lib, wanted), 0o644)
    stamps = {byte_code(target) for target in wanted if target.suffix == ".py"}
    launchers = {lib / package / name for name, package in LAUNCHERS.items()}
    prune(lib, {*wanted, *stamps, *launchers, lib / "runtime/COMMIT"})

    path = [os.fspath(arguments.lib), os.fspath(arguments.site or arguments.lib / "site-packages")]
    for name, package in LAUNCHERS.items():
        if lib / package / "__main__.py" in wanted:
            front = arguments.kernel / package / name
            text = LAUNCHER.format(
                interpreter=os.path.realpath(arguments.interpreter),
                path=path,
                packed=os.fspath(arguments.lib / "packed.bin"),
                module=package,
            )
            place = under(arguments.destdir, arguments.bin) / name
            if front.exists() and arguments.lib == arguments.bin.parent / "lib/pyrunc":
                # a program that answers the commonest question itself, and finds the launcher from where it is
                put(lib / package / name, text.encode(), 0o755)
                put(place, front.read_bytes(), 0o755)
            else:
                put(place, text.encode(), 0o755)
    return 0


def commit() -> bytes:
    """The commit that is being staged, for `--version`; nothing where there is no repository."""
    words = ["git", "-C", os.fspath(SOURCE), "rev-parse", "HEAD"]
    try:
        return subprocess.run(words, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def is_program(source: Path) -> bool:
    """What the kernel maps as code: shared objects and the static image."""
    return source.suffix == ".so" or source.name == "image"


def under(destdir: Path, path: Path) -> Path:
    """`path` as it is called while it is being written, below DESTDIR."""
    return destdir / path.relative_to("/") if destdir != Path("/") else path


def packages(lib: Path, kernel: Path) -> Iterator[tuple[Path, Path]]:
    """Every (target, source) of our own packages; what build.py made lies over what the tree holds."""
    for package in PACKAGES:
        for source in sorted((SOURCE / package).rglob("*")):
            if source.suffix in SUFFIXES and "__pycache__" not in source.parts and source.name not in BUILDERS:
                yield lib / source.relative_to(SOURCE), source
    for source in sorted((kernel / "runtime").rglob("*")):
        if source.is_file() and not source.name.startswith(".") and "__pycache__" not in source.parts:
            yield lib / source.relative_to(kernel), source


def vendored(site: Path) -> Iterator[tuple[Path, Path]]:
    """Every (target, source) of the distributions that the packages import, and of what those need in turn."""
    todo, seen = list(DISTRIBUTIONS), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in DISTRIBUTIONS:
                raise
            continue  # required on another platform or by an extra only
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                todo.append("".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0])
        for file in distribution.files or ():
            # What lies outside of site-packages is a script of the distribution's own; byte code is made anew.
            if ".." not in file.parts and "__pycache__" not in file.parts and "tests" not in file.parts:
                yield site.joinpath(*file.parts), Path(os.fspath(file.locate()))


def packed(lib: Path, final: Path, wanted: dict[Path, Path]) -> bytes:
    """The contents of packed.bin (runtime/packed.py): its own code and the table, then every module of ours.

    Without docstrings and annotations, which are half of the byte code and which nobody reads at run time.
    """
    modules: dict[str, tuple[str, ast.Module]] = {}
    for target, source in sorted(wanted.items()):
        parts = target.relative_to(lib).parts
        if target.suffix == ".py" and parts[0] in PACKAGES:
            name = ".".join(parts[:-1] if parts[-1] == "__init__.py" else (*parts[:-1], target.stem))
            origin = os.fspath(final.joinpath(*parts))
            modules[name] = origin, Bare().visit(ast.parse(source.read_bytes(), origin))
    compiled = {
        name: compile(tree, origin, "exec", dont_inherit=True, optimize=2) for name, (origin, tree) in modules.items()
    }
    deps = {name: tuple(dict.fromkeys(imports(tree, modules))) for name, (_, tree) in modules.items()}
    warm = {line for line in (SOURCE / "shim/containerd/warm.txt").read_text().split("\n") if line[:1] not in ("", "#")}
    # a comprehension is a function up to Python 3.11 only (PEP 709)
    named = {place for place in warm if not place.endswith("comp>")}
    if gone := named - {place_of(code, final) for module in compiled.values() for code in functions(module)}:
        raise SystemExit(f"shim/containerd/warm.txt: no such function: {', '.join(sorted(gone))}")
    table: dict[str, tuple[str, int, int, tuple[str, ...], int]] = {}
    codes = b""
    for group in groups(deps):
        # in one piece, in which every name that several modules use stands once, and before all what a shim writes to
        ahead = [code for name in group for code in functions(compiled[name]) if place_of(code, final) in warm]
        piece = marshal.dumps(((values(ahead), tuple(ahead)), *(compiled[name] for name in group)))
        for index, name in enumerate(group, 1):
            table[name] = (modules[name][0], len(codes), len(piece), deps[name], index)
        codes += piece
    boot = compiled["runtime.packed"]
    # under "" the length of the head itself, which its digits do not change
    head = marshal.dumps((boot, {"": 1 << 30, **table}))
    head = marshal.dumps((boot, {"": len(head), **table}))
    if len(head) > 65536:
        raise SystemExit("packed.bin: the head has outgrown what a launcher reads")
    return head + codes


def functions(code: CodeType) -> Iterator[CodeType]:
    """The code of all functions in a module's."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield one
            yield from functions(one)


def place_of(code: CodeType, top: Path) -> str:
    """Where a function is, as a line of warm.txt."""
    return f"{os.path.relpath(code.co_filename, top)} {code.co_qualname}"


def values(codes: list[CodeType]) -> tuple[object, ...]:
    """The names and constants of functions, each once: unmarshalled together they lie together, apart from what is not used."""
    found: dict[int, object] = {}

    def add(one: object) -> None:
        if isinstance(one, tuple):
            for each in one:
                add(each)
        elif isinstance(one, (str, bytes)):
            found.setdefault(id(one), one)

    for code in codes:
        add(code.co_names)
        add(code.co_consts)
    return tuple(found.values())


def groups(deps: dict[str, tuple[str, ...]]) -> list[list[str]]:
    """The modules that are loaded together: those that the same hot commands and faces need. Anything else is alone."""
    users: dict[str, list[str]] = {}
    roots = {command: ["runtime.__main__", f"runtime.cli.{command}", *more] for command, more in HOT.items()}
    roots |= {face: ["shim.__main__", *more] for face, more in FACES.items()}
    for command, todo in roots.items():
        seen = set[str]()
        while todo:
            name = todo.pop()
            if name in deps and name not in seen:
                seen.add(name)
                todo += [*deps[name], name.rpartition(".")[0]]
        for name in seen:
            users.setdefault(name, []).append(command)
    by_users: dict[tuple[str, ...], list[str]] = {}
    for name in deps:
        by_users.setdefault(tuple(users.get(name, [name])), []).append(name)
    return list(by_users.values())


def imports(tree: ast.Module, modules: dict[str, tuple[str, ast.Module]]) -> Iterator[str]:
    """Our modules that a module imports when it is loaded, packages before what is in them."""
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                if ".".join(parts[:depth]) in modules:
                    yield ".".join(parts[:depth])


class Bare(ast.NodeTransformer):
    """A module without its types: annotations, what is imported for them, and the import that lets them be text."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # the one kind of class that is made of its annotations (typing.NamedTuple)
        if any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    field.annotation = ast.copy_location(ast.Constant("object"), field.annotation)
            return node
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        # in a class that is all a field is; nothing else of ours reads annotations
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        is_for_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return ast.copy_location(ast.Pass(), node) if is_for_types and not node.orelse else node


def byte_code(source: Path) -> Path:
    return source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"


def put(target: Path, content: bytes, mode: int) -> None:
    """Write `target` unless it holds `content` already; a module is byte-compiled with it."""
    if not target.exists() or target.read_bytes() != content or target.stat().st_mode & 0o777 != mode:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.{os.getpid()}")
        new.write_bytes(content)
        new.chmod(mode)
        new.replace(target)
    elif target.suffix != ".py" or byte_code(target).exists():
        return
    if target.suffix == ".py":
        # An unchecked hash: the interpreter does not even look at the source, which saves a stat() per module.
        unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(os.fspath(target), doraise=True, invalidation_mode=unchecked)


def prune(lib: Path, wanted: set[Path]) -> None:
    """Remove what an earlier staging left and this one does not know."""
    for top in (*PACKAGES, "site-packages"):
        for path in sorted((lib / top).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in wanted and not path.name.startswith("."):
                path.unlink()


if __name__ == "__main__":
    sys.exit(main())
