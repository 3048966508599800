"""Calls that are not made here, each with its reason: mostly somebody's vulnerability, sometimes a cost.

A waiver names the file, what is called and why it is right there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import tree

CALLS = {
    "os.fork": "a forked interpreter shares locks and memory with a caller that may have threads; launch uses vfork and exec",
    "os.forkpty": "as os.fork",
    "os.system": "a shell reads what a bundle wrote",
    "os.popen": "a shell reads what a bundle wrote",
    "os.chroot": "no Python inside a container",
    "os.setns": "no Python inside a container",
    "os.unshare": "no Python inside a container",
    "os.setuid": "no Python inside a container",
    "os.setgid": "no Python inside a container",
    "os.setgroups": "no Python inside a container",
    "os.path.realpath": "an answer about a path that may be another one when it is used (CVE-2018-15664, CVE-2021-30465)",
    "os.makedirs": "follows links on the way; directories in a rootfs are made by ops below its register",
    "os.removedirs": "removes parents nobody asked about",
    "os.renames": "removes parents nobody asked about",
    "os.umask": "process-wide; modes are given to the call that makes the file",
    "os.kill": "a pid alone is not trusted: signals go through a pidfd (identity, launch)",
    "os.killpg": "a pid alone is not trusted",
    "os.listxattr": "reads what a hostile rootfs holds",
    "time.sleep": "wait for the thing itself: a pidfd, a descriptor, a message",
    "tempfile.mktemp": "the name can be taken before it is used",
    "eval": "no data is code",
    "exec": "no data is code",
    "compile": "no data is code",
    "pickle.load": "no data is code",
    "pickle.loads": "no data is code",
    "marshal.loads": "no data is code",
    "__import__": "an import statement says what is loaded",
}
#: modules of which nothing may be called
MODULES = {
    "shutil": "walks trees by path and follows what it finds (rmtree races, CVE-2016-1000 and on)",
    "pickle": "no data is code",
    "shelve": "no data is code",
    "asyncio": "39 ms, and no loop has more to do than poll",
    "threading": "the runtime has no threads: setns and unshare are per thread, and a fork copies one",
    "multiprocessing": "forks the interpreter",
    "glob": "follows links, reads hostile names",
}
KEYWORDS = {
    "preexec_fn": "Python between fork and exec, which deadlocks in a caller with threads",
    "shell": "a shell reads what a bundle wrote",
}

#: (file, what) -> why it is right there
WAIVERS: dict[tuple[str, str], str] = {
    ("runtime/__main__.py", "except Exception"): "the one place that turns a defect into one line for the user",
    ("runtime/__main__.py", "__import__"): "one command module of those that grammar.py names, and none of the others",
    ("runtime/api.py", "threading"): "a lock alone: it is the caller that may have threads",
    ("runtime/child.py", "threading"): "a lock alone: it is the caller that may have threads",
    ("runtime/cgroups/freezer.py", "time.sleep"): "cgroup v1 tells nobody when a freezer is there",
    ("runtime/packed.py", "exec"): "this is the import of our own modules, from a file as trusted as they are",
    ("runtime/packed.py", "marshal.loads"): "this is the import of our own modules, from a file as trusted as they are",
    ("runtime/cgroups/fs.py", "time.sleep"): "cgroup v1 tells nobody when an emptied cgroup may be removed",
    (
        "runtime/cgroups/systemd_scope.py",
        "time.sleep",
    ): "systemd removes a cgroup and forgets a unit when it gets to it, and tells those who are connected to it alone",
    ("runtime/cli/ps.py", "shutil"): "only its which(), for the host's ps; no tree is walked",
    (
        "runtime/hooks.py",
        "os.killpg",
    ): "the session of a child of ours that was not collected yet: its number is not free",
    ("runtime/launch.py", "os.kill"): "a child of ours that was not collected yet: its number is not free",
    ("runtime/userns.py", "os.kill"): "a child of ours that was not collected yet: its number is not free",
    ("shim/__main__.py", "except Exception"): "the one place that turns a defect of the shim into one line",
    ("shim/__main__.py", "__import__"): "one face of those that the table names, and none of the others",
    ("shim/conmon/__init__.py", "os.fork"): "becomes a daemon, as conmon's callers expect; the shim has no threads",
    (
        "shim/conmon/monitor.py",
        "os.killpg",
    ): "the group of a child of ours that was not collected yet: its number is not free",
    ("shim/containerd/bootstrap.py", "os.fork"): "the server is the child of `start`; neither has threads",
    (
        "shim/containerd/sockets.py",
        "os.makedirs",
    ): "containerd's directory of sockets, in which no container has a part",
    ("shim/containerd/container.py", "os.kill"): "a child of ours that was not collected yet: its number is not free",
    (
        "shim/containerd/nursery.py",
        "os.fork",
    ): "a shim from a shim, which is what a nursery is for; the shim has no threads",
    ("shim/containerd/serving.py", "except Exception"): "a defect in what one container needs must not end the others",
    ("shim/containerd/streams.py", "os.kill"): "a child of ours that was not collected yet: its number is not free",
    ("shim/spare.py", "os.kill"): "a child of ours that was not collected yet: its number is not free",
    ("shim/flow.py", "except Exception"): "whatever a coroutine raises is given to whoever began it",
    ("shim/engine.py", "os.fork"): "runs the runtime's entry without an interpreter start; the shim has no threads",
}


def names(node: ast.Call) -> str:
    """`a.b.c` of a call of a.b.c(), else nothing."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else ""


def found(name: str) -> Iterator[tuple[int, str, str]]:
    """(line, what, why) of everything banned in a module."""
    for node in tree.nodes(tree.parse(tree.modules()[name])):
        if isinstance(node, ast.Call):
            called = names(node)
            if called in CALLS:
                yield node.lineno, called, CALLS[called]
            for keyword in node.keywords:
                is_off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in KEYWORDS and not is_off and called.startswith(("subprocess", "Popen")):
                    yield node.lineno, keyword.arg, KEYWORDS[keyword.arg]
        elif isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            for kind in kinds:
                if kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")):
                    if not raises_again(node):
                        yield (
                            node.lineno,
                            "except Exception",
                            "catch the narrowest error where something can be done about it",
                        )
    for target, line in tree.imports(name):
        if target in MODULES:
            yield line, target, MODULES[target]


def raises_again(handler: ast.ExceptHandler) -> bool:
    """A handler that ends by raising what it caught hides nothing: it only cleans up on the way."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def is_built_with(name: str) -> bool:
    """Programs that only run while the tree is built."""
    return name.endswith(("_build", ".build", ".generate")) or name == "specs.generate"


def test_nothing_banned_is_used() -> None:
    wrong = []
    for name, path in tree.modules().items():
        if is_built_with(name) or tree.is_generated(path):
            continue
        for line, what, why in found(name):
            if (tree.shown(path), what) not in WAIVERS:
                wrong.append(f"{tree.shown(path)}:{line}: {what}: {why}")
    assert not wrong, "\n".join(wrong)


def test_waivers_are_needed() -> None:
    used = {(tree.shown(path), what) for name, path in tree.modules().items() for _, what, _ in found(name)}
    existing = {waiver for waiver in WAIVERS if (tree.ROOT / waiver[0]).exists()}
    assert existing <= used


def test_print_is_for_floor_four() -> None:
    """Below the command line nothing prints: callers merge both streams and parse the result."""
    wrong = []
    for name, path in tree.modules().items():
        if (
            name.startswith("runtime.")
            and not name.startswith(("runtime.cli", "runtime.__main__"))
            and not is_built_with(name)
        ):
            for node in tree.nodes(tree.parse(path)):
                if isinstance(node, ast.Call) and names(node) in ("print", "sys.stdout.write", "sys.stderr.write"):
                    wrong.append(f"{tree.shown(path)}:{node.lineno}")
    assert not wrong, wrong
