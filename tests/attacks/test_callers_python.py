"""The caller's Python is not ours: variables, directories, modules and libraries that would change an interpreter (P1 to P17)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cffi
import pytest

pytestmark = pytest.mark.requires("root")

ROOT = Path(__file__).resolve().parents[2]
LIB = ROOT / "build/lib/pyrunc"
INTERPRETER = Path(sys.executable).resolve()
STANDARD = Path(os.__file__).parent
#: what an interpreter imports at its start, what our launchers do, what commands do in the end, and what site(1) would
MODULES = (
    "encodings abc codecs io os site stat posix marshal sys json _json struct errno fcntl time re signal types typing enum functools "
    "gc ctypes subprocess logging click cffi _cffi_backend psutil pyroute2 jsonschema runtime shim specs "
    "sitecustomize usercustomize _sysconfigdata__x86_64-linux-gnu"
).split()


@pytest.fixture
def poison(scratch):
    """A directory in which every module is somebody else's, and says in `poison/ran` that it was loaded."""
    folder = scratch / "poison"
    folder.mkdir()
    code = f"open({str(folder / 'ran')!r}, 'a').write(__name__ + chr(10))\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(code)
    (folder / "evil.pth").write_text(f"import os; open({str(folder / 'ran')!r}, 'a').write('pth' + chr(10))\n")
    # as a home directory and as a prefix too: site-packages of the user, and a standard library
    library = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    for place in (f"{library}/site-packages", library, f".local/{library}/site-packages", "lib-dynload"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in MODULES:
            shutil.copyfile(folder / f"{name}.py", folder / place / f"{name}.py")
        shutil.copyfile(folder / "evil.pth", folder / place / "evil.pth")
    # libraries that cannot be loaded: whoever finds them fails
    for name in ("libseccomp.so.2", "libsystemd.so.0", "gconv-modules", "gconv-modules.cache"):
        (folder / name).write_text("no library\n")
    # programs, also those that a runtime might start by their names
    for name in (
        "python3",
        "python3.11",
        "env",
        "ps",
        "newuidmap",
        "newgidmap",
        "criu",
        "tar",
        "sh",
        "pyrunc",
        "runc",
        "ldd",
    ):
        (folder / name).write_text(f"#!/bin/sh\necho {name} >>{folder}/ran\n")
        (folder / name).chmod(0o755)
    return folder


def variables():
    """Every variable that this interpreter knows, found in its own text; and others by which programs are led astray."""
    libraries = [
        Path(word) for word in subprocess.check_output(["ldd", INTERPRETER], text=True).split() if "libpython" in word
    ]
    text = b"".join(path.read_bytes() for path in [INTERPRETER, *libraries] if path.exists())
    names = {name.decode() for name in re.findall(rb"\b_?PYTHON[A-Z0-9_]{2,}\b", text)}
    assert {"PYTHONPATH", "PYTHONHOME", "PYTHONMALLOC", "PYTHONUTF8", "PYTHONPLATLIBDIR"} <= names
    return names


#: what makes the most of a difference, where any text does not
VALUES = {
    "PYTHONMALLOC": "debug",
    "PYTHONHASHSEED": "77",
    "PYTHONIOENCODING": "utf-16",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "warn",
    "PYTHONINTMAXSTRDIGITS": "640",
    "PYTHONTRACEMALLOC": "25",
    "PYTHONWARNINGS": "error",
    "PYTHONBREAKPOINT": "site.main",
    "PYTHON_SYSCONFIGDATA_NAME": "_sysconfigdata__x86_64-linux-gnu",
}
NUMBERS = (
    "DEBUG INSPECT OPTIMIZE VERBOSE UNBUFFERED DEVMODE FAULTHANDLER DUMPREFS MALLOCSTATS PROFILEIMPORTTIME NODEBUGRANGES "
    "DONTWRITEBYTECODE NOUSERSITE SAFEPATH WARNDEFAULTENCODING CASEOK"
).split()


@pytest.fixture
def hostile(poison):
    """An environment in which all of them are set, and what the dynamic linker and the C library ask for."""
    found = {name: str(poison) for name in variables()}
    found |= {f"PYTHON{name}": "1" for name in NUMBERS}
    found |= {name: value for name, value in VALUES.items() if name in found or name.startswith("PYTHON_")}
    found["PYTHONSTARTUP"] = str(poison / "site.py")
    found |= {
        name: str(poison)
        for name in ("HOME", "LD_LIBRARY_PATH", "GCONV_PATH", "TMPDIR", "TERMINFO", "LOCPATH", "TZDIR")
    }
    found |= {"LC_ALL": "xx_YY.UTF-16", "TZ": "Nowhere/At-All", "COLUMNS": "1", "LANGUAGE": "xx", "MALLOC_CHECK_": "3"}
    found |= {"_PYRUNC_COMPLETE": "bash_source", "PSUTIL_DEBUG": "1", "NO_COLOR": "1", "BASH_ENV": str(poison / "sh")}
    return {**found, "PATH": str(poison)}


def settled(found):
    """What the probe has seen, without what differs between any two containers."""
    for name in ("namespaces", "keyring", "cgroup", "monotonic", "boottime", "status", "devices", "pid", "pgid", "sid"):
        found.pop(name, None)
    for entry in (*found["fds"], *found["mounts"]):
        for name in ("id", "parent", "device", "dev", "ino", "size", "flags", "root", "link", "type", "mode"):
            entry.pop(name, None)
    return found


#: as seldom as can be, what is loaded only then: help and mistakes load click, an invalid configuration its schema
COMMANDS = (
    ["--version"], ["--help"], ["--no-such-option"], ["features"], ["list"], ["state", "nobody"], ["delete", "nobody"],
    ["validate", "--bundle", "BAD"], ["create", "--bundle", "BAD", "x"], ["plan", "BUNDLE"], ["ps", "nobody"],
)  # fmt: skip


def test_commands_are_the_same(pyrunc, make, poison, hostile):
    """P1 to P3, P15: from a working directory and below a bundle that are full of modules, with every variable set."""
    made, bad = make(None, "/bin/true"), make(lambda c: c["process"].update(cwd="relative", user=7), "/bin/true")
    for name in MODULES:
        shutil.copyfile(poison / f"{name}.py", made.path / f"{name}.py")
    for command in COMMANDS:
        words = [{"BUNDLE": str(made.path), "BAD": str(bad.path)}.get(word, word) for word in command]
        plain = pyrunc(*words, status=None, cwd="/")
        for cwd in (poison, made.path):
            assert vars(pyrunc(*words, status=None, cwd=cwd, env=hostile)) == vars(plain), (words, cwd)
    assert not (poison / "ran").exists(), (poison / "ran").read_text()


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_containers_are_the_same(pyrunc, make, running, poison, hostile, verb):
    """The same inside: also of a filter that has to be compiled, with a library whose name the caller has taken (P15)."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}],
    }
    made = make(lambda c: c["linux"].update(seccomp=profile), "/bin/probe", "report")
    box = running() if verb == "exec" else None

    def report(**popen):
        shutil.rmtree(pyrunc.root / ":seccomp", ignore_errors=True)
        words = ["exec", box.id, "/bin/probe", "report"] if box else ["run", "-b", str(made.path), pyrunc.id("r")]
        result = pyrunc(*words, **popen)
        assert result.err == ""
        return settled(result.json())

    assert report(env=hostile, cwd=poison) == report()
    assert not (poison / "ran").exists(), (poison / "ran").read_text()


def test_site_packages_of_the_system_are_nobodys(pyrunc, make, poison):
    """P2: what is poisoned are the directories that python3 itself looks into; it says so, and our commands do not."""
    made = make(None, "/bin/echo", "done")
    places = [
        place
        for place in (
            "/usr/lib/python3/dist-packages",
            f"/usr/local/{STANDARD.relative_to('/usr')}/dist-packages",
            f"{ROOT}/nowhere",
        )
        if os.path.isdir(place)
    ]
    mounts = " && ".join(f"mount --bind {poison} {place}" for place in places)
    script = f'{mounts} && {INTERPRETER} -c pass 2>/dev/null; /bin/mv {poison}/ran {poison}/control; "$@"'
    command = ["unshare", "-m", "/bin/sh", "-c", script, "sh", *pyrunc.argv("run", "-b", made, pyrunc.id())]
    done = subprocess.run(command, env=pyrunc.env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    # the poison works: it was the interpreter with `site` that loaded it
    assert set((poison / "control").read_text().split()) & {"pth", "sitecustomize"}
    assert not (poison / "ran").exists(), (poison / "ran").read_text()


@pytest.fixture
def copied(scratch):
    """The programs as they are installed below another prefix, where site-packages are copied, and can be poisoned."""
    subprocess.run(["cp", "-a", ROOT / "build/lib", ROOT / "build/bin", scratch], check=True)
    for path in [*(scratch / "bin").iterdir(), *(scratch / "lib/pyrunc/shim").glob("*-*")]:
        text = path.read_bytes()
        if text.startswith(b"#!"):
            text = text.replace(str(ROOT / "build/lib").encode(), str(scratch / "lib").encode())
            path.write_bytes(re.sub(rb"'[^']*/site-packages'", f"'{scratch}/site'".encode(), text))
    (scratch / "site").mkdir()
    (backend,) = Path(cffi.__file__).parent.parent.glob("_cffi_backend.*.so")
    shutil.copy(backend, scratch / "site")
    return scratch


def test_what_lies_beside_a_launcher_is_not_loaded(pyrunc, make, poison, copied):
    """P2, P3: .pth files and customisations in our own site-packages, modules in the directory of the programs."""
    for name in MODULES:
        for place in ("bin", "lib/pyrunc/shim"):
            if not (copied / place / f"{name}.py").exists():
                shutil.copyfile(poison / f"{name}.py", copied / place / f"{name}.py")
        # behind the standard library, and not before it
        if name not in (
            "click",
            "cffi",
            "_cffi_backend",
            "psutil",
            "pyroute2",
            "jsonschema",
            "runtime",
            "shim",
            "specs",
        ):
            shutil.copyfile(poison / f"{name}.py", copied / "site" / f"{name}.py")
    shutil.copyfile(poison / "evil.pth", copied / "site/evil.pth")
    pyrunc.argv = lambda *words: [
        str(copied / "bin/pyrunc"),
        "--root",
        str(pyrunc.root),
        *pyrunc.options,
        *map(str, words),
    ]
    assert pyrunc("run", "-b", make(None, "/bin/echo", "done"), pyrunc.id(), cwd="/").out == "done\n"
    for words in (["pyrunc-shim", "--help"], ["pyrunc-conmon", "--help"], ["containerd-shim-pyrunc-v2", "-v"]):
        subprocess.run([copied / "bin" / words[0], *words[1:]], capture_output=True, cwd="/", timeout=60)
    assert not (poison / "ran").exists(), (poison / "ran").read_text()


def opened(trace):
    """(pid, flags, path) of every file that was opened."""
    pattern = re.compile(r'^(\d+) +open(?:at)?\((?:AT_FDCWD(?:<[^>]*>)?, )?"([^"]*)", ([A-Z_|]+).* = \d+', re.M)
    return [(int(pid), flags.split("|"), path) for pid, path, flags in pattern.findall(trace)]


def traced(pyrunc, scratch, *words):
    out = scratch / "trace"
    command = [
        "strace",
        "-f",
        "-qq",
        "-s",
        "4096",
        "-e",
        "trace=open,openat,creat,mkdir,mknodat,rename,unlink,execveat",
        "-o",
        out,
    ]
    subprocess.run([*command, *pyrunc.argv(*words)], env=pyrunc.env, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return out.read_text()


def test_code_is_ours_or_the_standard_librarys(pyrunc, make, running, scratch):
    """P3, P4, P14: whatever a life opens as code is below two directories of root's, nothing of it comes from the image, and what is
    written is state, cgroups and the kernel's."""
    box = running()
    made = make(None, "/bin/true")
    verbs = (
        ["run", "-b", str(made), pyrunc.id()],
        ["exec", box.id, "/bin/true"],
        ["state", box.id],
        ["delete", "-f", box.id],
    )
    for verb in verbs:
        trace = traced(pyrunc, scratch, *verb)
        files = opened(trace)
        ours = [entry for entry in files if entry[0] == files[0][0]]
        code = [path for _, _, path in ours if re.search(r"\.(py|pyc|so|pth|bin|zip|cfg)(\.\d+)*$", path)]
        assert code
        for path in code:
            assert path.startswith(
                (str(LIB), str(STANDARD), "/lib/", "/lib64/", "/usr/lib/", str(ROOT / "build/venv/lib"))
            ), path
        assert not [path for path in code if "site-packages/" in path and "_cffi_backend" not in path], code
        # nothing below the rootfs is opened by the Python, whatever for
        assert not [path for _, _, path in ours if path.startswith(f"{made.rootfs}/")]
        # the image is executed, and from then on no code is loaded by who started it
        after = trace.partition("execveat(")[2].split("\n")[1:]
        late = [line for line in after if line.startswith(f"{files[0][0]} ") and re.search(r'\.(py|pyc|so)"', line)]
        assert not late, late
        written = [path for _, flags, path in files if {"O_WRONLY", "O_RDWR", "O_CREAT"} & set(flags)]
        allowed = (str(pyrunc.root), "/proc/", "/sys/fs/cgroup/", "/dev/null")
        # a name without a directory is relative to one that is open: a register of init's, or the container's state
        assert not [path for path in written if path.startswith("/") and not path.startswith(allowed)], written
        assert "__pycache__" not in "".join(written)
    for folder in (LIB, LIB / "runtime", STANDARD, *map(Path, sys_path())):
        st = folder.stat()
        assert st.st_uid == 0 and not st.st_mode & 0o022, folder


def sys_path():
    """Where the launcher looks for modules."""
    lines = (ROOT / "build/bin/pyrunc").read_text().splitlines()
    code = "\n".join([*lines[1:3], "print(*[path for path in sys.path if posix.access(path, 0)], sep='\\n')"])
    flags = lines[0].split()[1]
    found = subprocess.check_output([INTERPRETER, flags, "-c", code], text=True, cwd="/tmp", env={"PYTHONPATH": "/tmp"})
    return found.splitlines()


def test_nothing_of_the_callers_memory_is_in_init(pyrunc, make):
    """P5: neither its environment nor its words; P6: nor a page of any file of ours. As root, who may read all of it."""
    made, id_ = make(None, "/bin/true"), pyrunc.id()
    pyrunc("create", "-b", made, id_, env={**pyrunc.env, "TOKEN": "secret-of-the-caller"})
    pid = pyrunc.pid(id_)
    for name in ("environ", "cmdline"):
        assert b"secret" not in Path(f"/proc/{pid}/{name}").read_bytes()
    with open(f"/proc/{pid}/mem", "rb") as memory, open(f"/proc/{pid}/maps") as maps:
        areas = maps.read().splitlines()
        size = 0
        for area in areas:
            low, _, high = area.split()[0].partition("-")
            if area.split()[1].startswith("r") and "[v" not in area:
                memory.seek(int(low, 16))
                data = memory.read(int(high, 16) - int(low, 16))
                size += len(data)
                assert b"secret-of-the-caller" not in data and b"PYTHON" not in data, area
    assert 4096 < size < 1 << 21
    named = {area.split(maxsplit=5)[5] for area in areas if len(area.split(maxsplit=5)) == 6}
    assert {name for name in named if not name.startswith("[")} <= {
        "/memfd:pyrunc-init (deleted)",
        "/memfd:pyrunc-plan (deleted)",
    }


def test_secrets_are_in_no_log(pyrunc, make, scratch):
    """P17: with all that can be said, of a life and of failures, values of environment variables are not among it."""

    def edit(config):
        config["process"]["env"].append("TOKEN=secret-of-the-container")
        config["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]

    made, bad = make(edit, "/bin/true"), make(edit, "/bin/true")
    bad.config["process"]["env"].append(7)
    bad.write()
    missing = make(edit, "/bin/not-there")
    env = {**pyrunc.env, "TOKEN": "secret-of-the-caller"}
    for number, bundle in enumerate((made, bad, missing)):
        log = scratch / f"log{number}"
        result = pyrunc("--debug", "--log", log, "run", "-b", bundle, pyrunc.id(str(number)), status=None, env=env)
        assert "secret" not in result.out + result.err + log.read_text() and log.read_text()


def test_names_are_bytes_whatever_the_locale(pyrunc, make, scratch, latin1):
    """An interpreter decodes names as the locale says, and what is written as UTF-8 in a configuration was another file then."""
    made = make(lambda c: c["hooks"].update(createRuntime=[{"path": str(scratch / "höök")}]) if "hooks" in c else
                c.update(hooks={"createRuntime": [{"path": str(scratch / "höök")}]}), "/bin/echo", "grün")  # fmt: skip
    (scratch / "höök").write_text(f"#!/bin/sh\necho x >{scratch}/hooked\n")
    (scratch / "höök").chmod(0o755)
    bundle = scratch / "bündel"
    made.path.rename(bundle)
    for number, locale in enumerate(("C", "C.UTF-8", "en_US.ISO-8859-1", "")):
        env = {**pyrunc.env, "LOCPATH": str(latin1), **({"LC_ALL": locale} if locale else {})}
        id_, log = pyrunc.id(str(number)), scratch / f"lög{number}"
        result = pyrunc("--log", log, "run", "-b", bundle, "--pid-file", scratch / f"pïd{number}", id_, env=env)
        assert result.out == "grün\n" and (scratch / f"pïd{number}").exists() and (scratch / "hooked").exists()
        (scratch / "hooked").unlink()
        error = pyrunc("run", "-b", scratch / "nö", id_, env=env, status=1).err
        assert f'"{scratch}/nö"' in error, locale


@pytest.fixture
def latin1(scratch):
    """A place with a locale whose names are not UTF-8, for LOCPATH; where it cannot be made, an empty one."""
    place = scratch / "locales"
    place.mkdir()
    words = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(place / "en_US.ISO-8859-1")]
    if shutil.which("localedef") and os.path.isdir("/usr/share/i18n/charmaps"):
        subprocess.run(words, capture_output=True, check=False)
    return place


def test_a_shims_programs_have_the_callers_environment(ours, scratch):
    """An interpreter adds LC_CTYPE to an environment that says nothing of a locale (PEP 538), which programs of ours do not inherit."""
    seen = scratch / "seen"
    box = ours("/bin/true")
    script = scratch / "exit"
    script.write_text(
        f"#!{shutil.which('busybox')} sh\n/bin/cat /proc/self/environ >{seen}.new; mv {seen}.new {seen}\n"
    )
    script.chmod(0o755)
    # who starts it is an interpreter of ours, too
    argv = box.argv
    box.argv = lambda *words, **how: [shutil.which("env"), "-u", "LC_CTYPE", *argv(*words, **how)]
    box.run("--exit-command", script, env={"GIVEN": "yes"})
    box.daemon_ended()
    words = dict(word.split("=", 1) for word in seen.read_text().rstrip("\0").split("\0"))
    assert words["GIVEN"] == "yes"
    assert not {name for name in words if name.startswith(("LC_", "PYTHON"))}, json.dumps(words)
