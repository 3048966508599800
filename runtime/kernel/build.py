"""Build the C: the static image, the extension that carries it, and the hosted interpreter.

    python runtime/kernel/build.py --out DIR      DIR/runtime/kernel/_kernel.abi3.so and DIR/runtime/kernel/image, planrun beside DIR
                          --bin DIR               planrun (and what the two below make) goes there instead
                          --sanitize              planrun-asan: the hosted interpreter with address and undefined-behaviour sanitizers
                          --fuzz                  fuzz-plan, fuzz-walk, fuzz-front: the libFuzzer targets of tests/fuzz (needs clang)

Any C11 compiler will do, named by CC. What is up to date is not built again: a stamp beside each product holds the digest of
all that it was made from. Nothing is fetched; cffi must be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import shlex
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wconversion"]
#: no libc, nothing that would need one, and no table that only a debugger or an unwinder reads
FREESTANDING = [
    "-Os", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-pie", "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables", "-fomit-frame-pointer", "-ffunction-sections", "-fdata-sections",
]  # fmt: skip
#: one read-only executable segment and one of zeros: no relocations, no page that is writable and executable
IMAGE_LINK = [
    "-nostdlib", "-static", "-no-pie", "-Wl,-z,noexecstack", "-Wl,-z,norelro", "-Wl,-z,noseparate-code", "-Wl,--build-id=none",
    "-Wl,--gc-sections", "-Wl,-s",
]  # fmt: skip
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
#: it also runs where there is no compiler, and so no library of its; clang does this unasked
SANITIZERS_INSIDE = ["-static-libasan", "-static-libubsan"]

INTERPRETER = ["exec.c", "resolve.c", "copy.c", "program.c"]
HEADERS = ["exec.h", "ops.h", "plan.h", "sys.h"]

CDEF = """
int64_t pyrunc_launch(const char *plan, size_t length, const int *fds, int count, int first_fd, const int *standard);
int64_t pyrunc_receive(int sock, char *data, size_t size);
int pyrunc_send(int sock, const char *data, size_t size, int fd, int timeout_ms);
int pyrunc_connect(const char *path, int timeout_ms);
void pyrunc_close_on_exec_from(int first);
int pyrunc_set_subreaper(int on);
int pyrunc_set_parent_death_signal(int signal);
int pyrunc_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int pyrunc_unmount(const char *target, int flags);
int pyrunc_own_core_cookie(void);
int pyrunc_spawn_newuser(void);
int pyrunc_spawn(const char *path, char **argv, char **envp, int folder, int in, int out, int err);
int pyrunc_bpf_prog_load(const char *program, size_t length);
int pyrunc_bpf_prog_attach(int cgroup_fd, int program_fd);
int pyrunc_seccomp_flag_supported(unsigned flag);
"""
PROTOTYPES = "#include <stddef.h>\n#include <stdint.h>\n" + CDEF


def compiler() -> list[str]:
    """The compiler's words: CC, else cc."""
    return shlex.split(os.environ.get("CC") or "cc")


def run(words: list[str]) -> None:
    """Run a command; its failure is ours."""
    if subprocess.run(words, cwd=HERE).returncode:
        sys.exit(f"{' '.join(words)}: failed")


def accepted(flag: str) -> list[str]:
    """The flag, where the compiler knows it: what one of them calls by another name is not worth failing for."""
    test = subprocess.run(
        [*compiler(), "-Werror", flag, "-x", "c", "-c", "-o", os.devnull, os.devnull], capture_output=True, cwd=HERE
    )
    return [flag] if test.returncode == 0 else []


def is_current(product: Path, *made_from: object) -> bool:
    """Whether a product is there and was made from just this; else its new stamp is written when `done` is called."""
    return product.exists() and stamp(product).exists() and stamp(product).read_text() == digest(*made_from)


def stamp(product: Path) -> Path:
    """The file that says what a product was made from."""
    return product.with_name(f".{product.name}.stamp")


def digest(*made_from: object) -> str:
    """One line for a set of files and words."""
    sha = hashlib.sha256()
    for item in made_from:
        data = item.read_bytes() if isinstance(item, Path) else repr(item).encode()
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()


def sources(*names: str) -> list[Path]:
    """Files of this folder, and the headers that all of them read."""
    return [HERE / name for name in (*names, *HEADERS, "build.py")]


def install(made: Path, product: Path, *made_from: object) -> None:
    """Put a finished product in its place in one step, a running one keeps what it has."""
    product.parent.mkdir(parents=True, exist_ok=True)
    os.chmod(made, 0o755)
    target = product.with_name(f".{product.name}.new")
    target.write_bytes(made.read_bytes())
    os.chmod(target, 0o755)
    os.replace(target, product)
    stamp(product).write_text(digest(*made_from))
    print(f"built {product}")


def build_image(work: Path, product: Path) -> None:
    """The static interpreter."""
    made_from = (*sources("init.c", *INTERPRETER), compiler(), WARNINGS, FREESTANDING, IMAGE_LINK)
    if is_current(product, *made_from):
        return
    extra = [*accepted("-fno-tree-loop-distribute-patterns"), *accepted("-fcf-protection=none"), *accepted("-fno-plt")]
    objects = []
    for name in ("init.c", *INTERPRETER):
        objects.append(str(work / f"{name}.o"))
        run([*compiler(), *WARNINGS, *FREESTANDING, *extra, "-c", name, "-o", objects[-1]])
    made = work / "image"
    run([*compiler(), *IMAGE_LINK, *objects, "-o", str(made)])
    check_image(made.read_bytes())
    install(made, product, *made_from)


def check_image(data: bytes) -> None:
    """Refuse an image that would need a loader, has a page both writable and executable, or an executable stack."""
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", data)
    problems = []
    if header[1] != 2:
        problems.append("is not linked to a fixed address")
    has_stack = False
    for index in range(header[10]):
        kind, flags = struct.unpack_from("<II", data, header[5] + index * header[9])
        if kind in (2, 3):
            problems.append("asks for a dynamic loader")
        if kind in (1, 0x6474E551) and flags & 3 == 3 and kind == 1:
            problems.append("has a writable and executable segment")
        if kind == 0x6474E551:
            has_stack = not flags & 1
    if not has_stack:
        problems.append("has an executable stack")
    if len(data) > 65536:
        problems.append(f"has grown to {len(data)} bytes")
    if problems:
        sys.exit(f"the static image {', '.join(problems)}")


def build_extension(work: Path, image: Path, product: Path) -> None:
    """The cffi extension with the image in it, for every Python from 3.11 on."""
    import cffi

    made_from = (
        *sources("launch.c", "sealed.c", "calls.c", "calls.h"),
        image,
        compiler(),
        WARNINGS,
        CDEF,
        sysconfig.get_paths()["include"],
        cffi.__version__,
    )
    if is_current(product, *made_from):
        return
    data = image.read_bytes()
    rows = (data[i : i + 24] for i in range(0, len(data), 24))
    body = ",\n".join(",".join(map(str, row)) for row in rows)
    (work / "image.h").write_text(f"static const unsigned char image[{len(data)}] = {{\n{body}\n}};\n")
    ffi = cffi.FFI()
    ffi.cdef(CDEF)
    ffi.set_source("runtime.kernel._kernel", PROTOTYPES)
    source = work / "_kernel.c"
    with contextlib.redirect_stdout(io.StringIO()):  # cffi says which file it writes
        ffi.emit_c_code(str(source))
    made = work / "_kernel.so"
    include = sysconfig.get_paths()["include"]
    common = ["-O2", "-fPIC", "-pthread", "-fvisibility=hidden", f"-I{work}", f"-I{HERE}"]
    objects = []
    for name in ("launch.c", "sealed.c", "calls.c"):
        objects.append(str(work / f"{name}.o"))
        run([*compiler(), *WARNINGS, *common, "-c", name, "-o", objects[-1]])
    # the code that cffi writes is not held to our warnings
    run(
        [
            *compiler(),
            *common,
            f"-I{include}",
            "-shared",
            "-Wl,-z,now",
            "-Wl,-s",
            str(source),
            *objects,
            "-o",
            str(made),
        ]
    )
    install(made, product, *made_from)


def build_hosted(work: Path, product: Path, cc: list[str], flags: list[str], main: Path) -> None:
    """The interpreter as an ordinary program, with `main` for its main function."""
    made_from = (*sources(*INTERPRETER), main, cc, WARNINGS, flags)
    if is_current(product, *made_from):
        return
    made = work / product.name
    objects = []
    for name in INTERPRETER:
        # freestanding here too: with libc's headers the kernel's leave out half of what they define
        objects.append(str(work / f"{product.name}-{name}.o"))
        run([*cc, *WARNINGS, *flags, "-ffreestanding", "-c", name, "-o", objects[-1]])
    run([*cc, *WARNINGS, *flags, f"-I{HERE}", str(main), *objects, "-o", str(made)])
    install(made, product, *made_from)


def build_front(work: Path, product: Path, source: Path, *flags: str) -> None:
    """What an engine runs as our shim: static, because it is to be over before a dynamic loader would be."""
    flags = ("-D_GNU_SOURCE", "-O2", "-static", "-s", *flags)
    made_from = (source, ROOT / "shim/front.h", HERE / "build.py", compiler(), WARNINGS, flags)
    if is_current(product, *made_from):
        return
    made = work / product.name
    run([*compiler(), *WARNINGS, *flags, str(source), "-o", str(made)])
    install(made, product, *made_from)


def build_fuzzers(work: Path, programs: Path) -> None:
    """The libFuzzer targets of tests/fuzz: the plan's decoder, and two that take a file of ours in as text."""
    folder = ROOT / "tests" / "fuzz"
    clang = shlex.split(os.environ.get("FUZZ_CC") or "clang")
    flags = ["-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    build_hosted(work, programs / "fuzz-plan", clang, flags, folder / "fuzz_plan.c")
    for name, source, more in (
        ("walk", HERE / "resolve.c", ["-ffreestanding", "-Wno-unused-function"]),
        ("front", ROOT / "shim/containerd/front.c", ["-D_GNU_SOURCE", "-Wno-unused-function"]),
    ):
        product, target = programs / f"fuzz-{name}", folder / f"fuzz_{name}.c"
        made_from = (*sources("exec.c"), source, target, ROOT / "shim/front.h", clang, flags, more)
        if is_current(product, *made_from):
            continue
        made = work / product.name
        words = [*clang, "-std=c11", "-Wall", "-Wextra", "-Werror", *flags, *more, f"-I{HERE}", f"-I{ROOT / 'shim'}"]
        run([*words, str(target), "-o", str(made)])
        install(made, product, *made_from)


def build_fronts(work: Path, folder: Path) -> None:
    """One for each face of the shim that an engine waits for."""
    version = re.search(r'^VERSION = "(.+)"$', (ROOT / "shim/conmon/options.py").read_text(), re.M)
    assert version, "shim/conmon/options.py: no VERSION"
    build_front(work, folder / "containerd-shim-pyrunc-v2", ROOT / "shim/containerd/front.c")
    build_front(work, folder / "pyrunc-conmon", ROOT / "shim/conmon/front.c", f'-DVERSION="{version[1]}"')


def main() -> None:
    """Build what the words ask for."""
    parser = argparse.ArgumentParser(description="Build pyrunc's C.")
    parser.add_argument("--out", type=Path, required=True, help="directory that will hold runtime/kernel/")
    parser.add_argument("--bin", type=Path, help="directory for planrun; by default the one above --out")
    parser.add_argument("--sanitize", action="store_true", help="build planrun-asan too")
    parser.add_argument("--fuzz", action="store_true", help="build the fuzzers too, with clang")
    options = parser.parse_args()
    folder = options.out.resolve() / "runtime" / "kernel"
    programs = (options.bin or options.out.resolve().parent).resolve()

    sys.path.insert(0, str(ROOT))
    from runtime.kernel import generate

    generate.main([])
    with tempfile.TemporaryDirectory(prefix="pyrunc-build-") as name:
        work = Path(name)
        build_image(work, folder / "image")
        build_extension(work, folder / "image", folder / "_kernel.abi3.so")
        build_fronts(work, options.out.resolve() / "shim")
        planrun = HERE / "planrun.c"
        build_hosted(work, programs / "planrun", compiler(), ["-g", "-O1"], planrun)
        if options.sanitize:
            inside = [] if "clang" in compiler()[0] else SANITIZERS_INSIDE
            build_hosted(work, programs / "planrun-asan", compiler(), [*SANITIZE, *inside], planrun)
        if options.fuzz:
            build_fuzzers(work, programs)


if __name__ == "__main__":
    main()
