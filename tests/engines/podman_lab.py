"""Debian's Podman and Buildah in a lab, with the runtime under test: the fixtures of their tests.

    podman_host the lab of the module, configured, with the images BB and DEBIAN
    podman      run a podman command as root: `podman("run", "--rm", BB, "true", status=0)` -> Said (.out .err .text .lines)
    monitored   the same, once with Debian's conmon and once with pyrunc-conmon
    buildah     the same for buildah
    share       a directory of the test's own, the same path in the lab and outside

The configuration is what the README tells a user to write, in the lab's own /etc/containers. After each test nothing may be
left: no process, mount, cgroup, interface, container, volume or socket.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import images
import newer
import pytest
from lab import BUILD, Dialogue, Lab, Mark, Result, Running, Terminal, missing, need

BB = "localhost/bb:latest"
DEBIAN = "localhost/deb:latest"
CONMONS = ["/usr/bin/conmon", str(newer.binaries() / "pyrunc-conmon")]
PACKAGES = (
    "podman", "buildah", "conmon", "netavark", "aardvark-dns", "iptables", "catatonit", "golang-github-containers-common",
)  # fmt: skip

CONTAINERS_CONF = """\
[containers]
# without CAP_SYS_RESOURCE Podman's own default, a million files, cannot be set
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "{name}"
# Podman knows crun and runc by name; of another runtime it must be told what it understands
runtime_supports_json = ["{name}"]
runtime_supports_nocgroup = ["{name}"]
[engine.runtimes]
{name} = ["{runtime}"]
[network]
network_backend = "netavark"
default_subnet = "10.99.0.0/16"
"""
STORAGE_CONF = '[storage]\ndriver = "overlay"\ngraphroot = "{storage}"\nrunroot = "/run/containers/storage"\n'
REGISTRIES_CONF = (
    'unqualified-search-registries = ["localhost"]\n[[registry]]\nlocation = "127.0.0.1:5055"\ninsecure = true\n'
)

#: what podman, netavark and the runtimes keep on purpose: databases, locks, parents of what they made
KEPT = (
    r"^file: /run/(libpod|containers|podman|netns|lock|crun|runc|pyrunc|systemd|user)(/|$)",
    r"^file: /run/(xtables\.lock|criu\.kdat)$",
    r"^file: .*/tmp/intermediate-mountpoint-[\d.]+$",  # containers/storage's, of an idmapped volume
    r"^cgroup: \w+ /(libpod_parent|conmon)$",
    r"^cgroup: cgroup /lab/runtime$",  # where Podman moves everybody of its cgroup, for --cgroups=split on v2
    r"^cgroup: (systemd|unified) /libpod_parent/\w{64}$",  # a pod's, in the hierarchies that podman does not know
    r"^interface: (podman0|tunl|gre|sit|ip6|ip_vti|erspan)",
    r"^mount: (/run/netns|/var/lib/containers/storage/overlay)$",
    r"^process: \d+ (/usr/lib/podman/aardvark-dns|catatonit -P$)",  # a name server, and a user's namespaces
)


class Said(Result):
    """What a command printed, in the shapes that tests compare."""

    @property
    def text(self) -> str:
        return self.out.strip()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Podman:
    """`podman(...)` runs one command to its end."""

    def __init__(self, lab: Lab, *command: str) -> None:
        self.lab, self.command = lab, command

    def __call__(self, *words: str | Path, **more: Any) -> Said:
        if words and words[0] in ("build", "bud"):
            more.setdefault("timeout", 240)  # many containers and layers
        done = self.lab.run(*self.command, *words, **more)
        return Said(done.argv, done.status, done.out, done.err)

    def popen(self, *words: str | Path, **more: Any) -> Running:
        return self.lab.popen(*self.command, *words, **more)

    def terminal(self, *words: str | Path, **more: Any) -> Terminal:
        return self.lab.terminal(*self.command, *words, **more)

    def dialogue(self, *words: str | Path, **more: Any) -> Dialogue:
        return self.lab.dialogue(*self.command, *words, **more)

    def inspect(self, name: str, template: str) -> str:
        return self("container", "inspect", "--format", template, name).text

    def remove(self, *names: str) -> None:
        self("rm", "--force", "--time", "0", *names)

    @property
    def is_ours(self) -> bool:
        """Whether pyrunc-conmon supervises."""
        return any(Path(word).name == "pyrunc-conmon" for word in self.command)


def beyond_runc(runtime: Path, what: str) -> None:
    """Skip on runc 1.1 what it cannot do."""
    if runtime.name == "runc":
        missing(f"a runtime that knows {what}")


def inside(podman: Podman, *words: str) -> Said:
    """A command of the lab's, beside podman."""
    return Podman(podman.lab, *words)()


class Machine:
    """A lab in which Podman is configured and has images. `user`: not root's podman, but this user's."""

    def __init__(self, lab: Lab, runtime: Path, user: tuple[str, int] | None = None) -> None:
        need(*PACKAGES, *(("uidmap", "slirp4netns") if user else ()))
        self.lab, self.runtime, self.home = lab, runtime, lab.dir / "home"
        # Overlays cannot have their upper directory on the lab's own layers; conmon's consoles are in /tmp.
        lab.run("mkdir", "-p", "/var/lib/containers")
        kept = lab.dir / "kept"
        kept.mkdir()
        lab.run("mount", "--bind", BUILD.parent, kept)
        for place, mode in (("/var/lib/containers", "755"), ("/tmp", "1777")):
            lab.run("mount", "-t", "tmpfs", "-o", f"mode={mode}", "podman", place)
        if BUILD.is_relative_to("/tmp"):
            # what we are called from is in there
            lab.run("mkdir", "-p", BUILD.parent)
            lab.run("mount", "--bind", kept, BUILD.parent)
        lab.run("umount", kept)
        #: what is in /tmp from the beginning
        self.given = [path.name for path in lab.root.glob("tmp/*")]
        lab.run("mount", "--make-rshared", "/")
        lab.env["PODMAN_IGNORE_CGROUPSV1_WARNING"] = "1"  # Podman 5 writes it where tests compare what was written
        self.storage, self.prefix = "/var/lib/containers/storage", []
        if user:
            self._become(*user)
        self._configure(lab.root / "etc/containers")
        self.rootfs = lab.dir / "rootfs"
        self.rootfs.mkdir()
        subprocess.run(["tar", "-C", self.rootfs, "-xf", images.bb().rootfs], check=True)
        for image in (images.bb(), images.deb()):
            self.run("podman", "load", "--input", image.docker)
        # The first container makes what stays: mounts of the storage, the bridge, the parent cgroup.
        self.run("podman", "run", "--rm", BB, "true")
        self.known: Mark = lab.mark()

    def run(self, *words: str | Path, **more: Any) -> Result:
        return self.lab.run(*self.prefix, *words, **more)

    def _become(self, name: str, uid: int) -> None:
        """A user of the lab's alone, with subordinate ids, a home, and device nodes that many machines give to root alone."""
        etc, runtime_dir = self.lab.root / "etc", self.lab.root / f"run/user/{uid}"
        for file, line in (
            ("passwd", f"{name}:x:{uid}:{uid}::{self.home}:/bin/sh"),
            ("group", f"{name}:x:{uid}:"),
            ("subuid", f"{name}:200000:65536"),
            ("subgid", f"{name}:200000:65536"),
        ):
            _append(etc / file, line)
        runtime_dir.mkdir(parents=True)
        for path in (self.home, runtime_dir, self.lab.tmp):
            os.chown(path, uid, uid)
        for node, numbers in (("fuse", ("10", "229")), ("net/tun", ("10", "200"))):
            made = self.lab.dir / node.replace("/", "-")
            self.lab.run("mknod", "-m", "666", made, "c", *numbers)
            self.lab.run("mount", "--bind", made, f"/dev/{node}")
        self.storage = f"{self.home}/.local/share/containers/storage"
        environment = [f"HOME={self.home}", f"XDG_RUNTIME_DIR=/run/user/{uid}"]
        self.prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", *environment]

    def _configure(self, place: Path) -> None:
        place.mkdir(exist_ok=True)
        # podman lowers its own limit of processes, and so the runtime's, to pid_max
        processes = min(int(Path("/proc/sys/kernel/pid_max").read_text()), _limit(resource.RLIMIT_NPROC))
        files, name = _limit(resource.RLIMIT_NOFILE), self.runtime.name
        settings = CONTAINERS_CONF.format(name=name, runtime=self.runtime, files=files, processes=processes)
        (place / "containers.conf").write_text(settings)
        if not self.prefix:
            (place / "storage.conf").write_text(STORAGE_CONF.format(storage=self.storage))
        (place / "registries.conf").write_text(REGISTRIES_CONF)
        (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        for file in ("subuid", "subgid"):  # for --userns=auto
            _append(self.lab.root / "etc" / file, "containers:300000:1048576")

    def records(self) -> list[str]:
        """What storage, volumes and runtimes still have a record of."""
        found = []
        for name in ("containers.json", "volatile-containers.json"):
            path = self.lab.root / f"{self.storage}/overlay-containers/{name}".lstrip("/")
            if path.exists() and (text := path.read_text()):
                found += [f"container: {one['names']}" for one in json.loads(text) or ()]
        states = [f"{top}/{name}/*" for top in ("run", "run/user/*") for name in ("runc", "pyrunc", "crun")]
        for pattern in (f"{self.storage[1:]}/volumes/*/", "run/netns/*", "run/user/*/netns/netns-*", *states):
            # without what is shared by all containers of a root, such as compiled seccomp filters
            found += [f"file: {path}" for path in self.lab.root.glob(pattern) if path.name[0] not in ":."]
        left = [
            path for path in self.lab.root.glob("tmp/*") if path.name not in self.given and path.name[0] not in ":."
        ]
        return found + [f"file: {path}" for path in left]

    def check(self) -> None:
        """Fail with what is left; it is removed first, so that one test's fault is not the next one's."""
        left = self.lab.left(self.known, ignoring=KEPT, timeout=10) + self.records()
        if not left:
            return
        for words in ("pod rm -fa", "rm -fa -t0", "volume prune -f", "network prune -f"):
            self.run("podman", *words.split(), status=None)
        self.run("buildah", "rm", "-a", status=None)
        self.lab.left(self.known, ignoring=KEPT, timeout=5)
        self.known = self.lab.mark()
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


def _limit(which: int) -> int:
    hard = resource.getrlimit(which)[1]
    return 1048576 if hard == resource.RLIM_INFINITY else hard


def _append(file: Path, line: str) -> None:
    file.write_text((file.read_text() if file.exists() else "") + line + "\n")


# -- fixtures --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def podman_machine(new_lab: Callable[[], Lab], engine_runtime: Path) -> Machine:
    return Machine(new_lab(), engine_runtime)


@pytest.fixture
def podman_host(podman_machine: Machine) -> Iterator[Machine]:
    yield podman_machine
    podman_machine.check()


@pytest.fixture
def podman(podman_host: Machine) -> Podman:
    return Podman(
        podman_host.lab, *podman_host.prefix, "podman", "--conmon", os.environ.get("ENGINE_CONMON", CONMONS[0])
    )


@pytest.fixture(params=CONMONS, ids=lambda path: Path(path).name)
def monitored(podman_host: Machine, request: pytest.FixtureRequest) -> Podman:
    return Podman(podman_host.lab, *podman_host.prefix, "podman", "--conmon", request.param)


@pytest.fixture
def buildah(podman_host: Machine) -> Podman:
    return Podman(podman_host.lab, *podman_host.prefix, "buildah")


@pytest.fixture
def share(podman_host: Machine, request: pytest.FixtureRequest) -> Path:
    path = podman_host.lab.dir / "share" / re.sub(r"\W", "-", request.node.name)
    path.mkdir(parents=True)
    path.chmod(0o755)
    return path
