"""A dockerd of a lab's own with the runtime under test, and docker as its client.

    dockerd = Dockerd(lab, runtime, settings={...})     started; .stop(), .start() again, .kill9()
    docker = Docker(dockerd)                            docker("ps", "-a").out; docker.run(...) is run --rm
    docker.detached("sleep", "1000") -> id              removed by docker.clean(), as everything else is that a test made

The runtime is registered by its path under the name "ours" and is the default one, as README.md tells users to do it;
BuildKit of dockerd has no such setting and takes `buildkit-runc` from dockerd's PATH. The client is Debian's, of which the
exit statuses 125, 126 and 127 are: it knows them by the words of the error.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import newer
import pytest
from images import Image
from lab import PATH, Lab, Mark, Result, missing, need, until
from processes import Dialogue, Running, Terminal

CLIENT = "/usr/bin/docker"
SHIM = newer.binaries() / "containerd-shim-pyrunc-v2"
BB = "bb"
PACKAGES = ("docker.io", "iptables")
#: capabilities that this machine's root has; a container cannot have more
HELD = int(
    next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")).split()[1],
    16,
)
#: of those, the ones that this dockerd knows by name: 20.10 up to audit_read
GIVEN = HELD if newer.wanted() else HELD & (1 << 38) - 1

#: what dockerd and its containerd keep on purpose, or until they are stopped
KEPT = (
    r"^file: /run/(xtables\.lock|docker|containerd)(/|$)",
    r"^file: .*/tmp/docker-",  # of an image that is being built or loaded
    r"/containerd\.\d+\.stacks\.log$",  # dockerd asks for it when the machine is too busy for an answer in time
    r"^cgroup: \S+ /docker(/buildkit)?$",  # parents, which runc leaves as well
    r"^file: /run/(py)?runc(/:seccomp(/[0-9a-f]+)?)?$",  # BuildKit gives no --root
    r"^mount: .*/netns/default$",  # made when the first container wants the host's network
    r"^interface: (tunl|gre|sit|ip6|ip_vti|erspan|docker0)",
    r"^process: \d+ \[?kworker",
)


class Dockerd:
    """The daemon, with everything of its own below `lab.dir`."""

    def __init__(
        self, lab: Lab, runtime: Path, *, settings: dict[str, Any] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        """`settings` replace those of daemon.json; with `runtimeType` the shim is given instead of the runtime."""
        need(*PACKAGES)
        self.lab, self.runtime = lab, runtime
        self.dir = lab.dir / "dkr"
        self.socket = self.dir / "d.sock"
        settings = self._settings() | (settings or {})
        #: --root of the default runtime, as those see it that dockerd calls
        self.states = self.dir / "exec/runtime-runc/moby"
        if "path" not in settings["runtimes"].get(settings["default-runtime"], {}):
            self.states = Path("/run/containerd/pyrunc/moby")
        path = self.dir / "path"
        path.mkdir(parents=True)
        (path / "buildkit-runc").symlink_to(runtime)
        (path / SHIM.name).symlink_to(SHIM)
        self.config = self.dir / "daemon.json"
        self.config.write_text(json.dumps(settings))
        self.options = options
        self.env = {"PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin", "DOCKER_HOST": f"unix://{self.socket}"}
        self.logs: list[Path] = []
        self.daemon = self.start()

    def _settings(self) -> dict[str, Any]:
        return {
            "data-root": str(self.dir / "data"),
            "exec-root": str(self.dir / "exec"),
            "pidfile": str(self.dir / "dockerd.pid"),
            "hosts": [f"unix://{self.socket}"],
            "storage-driver": "overlay2",
            "runtimes": {"ours": {"path": str(self.runtime)}},
            "default-runtime": "ours",
            "insecure-registries": ["127.0.0.0/8"],
        }

    def start(self) -> Running:
        """Start it, again after stop()."""
        words = ("/usr/sbin/dockerd", "--config-file", self.config, *self.options)
        self.daemon = self.lab.daemon(*words, env=self.env, cwd=self.dir, ready=self.answers)
        assert self.daemon.log is not None
        self.logs.append(self.daemon.log)
        return self.daemon

    def answers(self) -> bool:
        return self.socket.exists() and self.docker("version", status=None).status == 0

    def stop(self) -> int:
        return self.lab.stop(self.daemon)

    def kill9(self) -> None:
        """As the machine's out-of-memory killer would; its containerd and the shims live on."""
        self.lab.stop(self.daemon, signal.SIGKILL)

    def docker(self, *words: str | Path | int, **more: Any) -> Result:
        """The client, once."""
        more["env"] = {**self.env, **more.get("env", {})}
        return self.lab.run(CLIENT, *words, **more)

    def ctr(self, *words: str | Path | int, **more: Any) -> Result:
        """The client of the containerd that dockerd has started, where dockerd keeps its containers."""
        address = self.dir / "exec/containerd/containerd.sock"
        return self.lab.run("/usr/bin/ctr", "--address", address, "--namespace", "moby", *words, **more)

    def load(self, image: Image) -> None:
        self.docker("load", "-i", image.docker)
        self.docker("tag", image.name, BB)

    def log(self) -> str:
        """All that dockerd, its containerd and the shims through it have logged."""
        return "".join(path.read_text(errors="replace") for path in self.logs)

    def close(self) -> None:
        """Stop it, which must go well, and take down what dockerd itself leaves mounted."""
        status = self.stop()
        assert status == 0, f"dockerd ended with {status}\n{self.daemon.tail()}"
        for point in [point for point in self.lab.mounts() if point.startswith(str(self.dir))]:
            self.lab.run("umount", point)


class Docker:
    """docker as a user has it before him; one for each test."""

    _numbers = itertools.count(1)

    def __init__(self, dockerd: Dockerd) -> None:
        self.dockerd, self.lab = dockerd, dockerd.lab
        self.env = dockerd.env
        self.before: Mark = self.lab.mark()
        self.there = self._things()
        #: what left() does not count, beside what is always kept
        self.ignored: list[str] = []

    def __call__(self, *words: str | Path | int, **more: Any) -> Result:
        return self.dockerd.docker(*words, **more)

    def fails(self, *words: str | Path | int, **more: Any) -> str:
        """What must not exit with 0; what it printed as errors."""
        result = self.dockerd.docker(*words, status=None, **more)
        assert result.status != 0, result
        return result.err

    def run(self, *words: str | Path | int, **more: Any) -> Result:
        return self("run", "--rm", *words, **more)

    def output(self, *words: str | Path | int, **more: Any) -> str:
        """What `docker run --rm` printed, without the last newline."""
        return self.run(*words, **more).out.rstrip("\n")

    def shell(self, script: str, *options: str | Path | int, **more: Any) -> str:
        """What a shell script printed in a container with those options."""
        return self.output(*options, BB, "sh", "-c", script, **more)

    def detached(self, *words: str | Path | int) -> str:
        """`run -d` with the words, options and image included; the full id."""
        return self("run", "-d", *words).out.strip()

    def sleeping(self, *options: str | Path | int) -> str:
        """A container that does nothing until it is killed."""
        return self.detached(*options, BB, "sleep", 1000)

    def exec(self, id_: str, *words: str | Path | int, **more: Any) -> Result:
        return self("exec", id_, *words, **more)

    def inspect(self, id_: str, what: str, **more: Any) -> str:
        """One field, as a Go template has it: `.State.Status`."""
        return self("inspect", "-f", f"{{{{{what}}}}}", id_, **more).out.strip()

    def pid(self, id_: str) -> int:
        return int(self.inspect(id_, ".State.Pid"))

    def becomes(self, id_: str, status: str, timeout: float = 30) -> None:
        """Wait until docker calls the container running, exited ..."""
        until(lambda: self.inspect(id_, ".State.Status") == status, f"container {status}", timeout)

    def logs(self, id_: str, *options: str) -> str:
        return self("logs", *options, id_).out

    def popen(self, *words: str | Path | int, **more: Any) -> Running:
        return self.lab.popen(CLIENT, *words, env=self.env, **more)

    def dialogue(self, *words: str | Path | int, **more: Any) -> Dialogue:
        return self.lab.dialogue(CLIENT, *words, env=self.env, **more)

    def terminal(self, *words: str | Path | int, **more: Any) -> Terminal:
        return self.lab.terminal(CLIENT, *words, env=self.env, **more)

    def name(self, word: str = "c") -> str:
        """A name that no other test uses."""
        return f"{word}{next(self._numbers)}"

    def bundle_config(self, id_: str) -> dict[str, Any]:
        """The config.json that dockerd made for a running container."""
        place = Path(f"{self.lab.root}{self.dockerd.dir}/exec/containerd")
        found = next(place.rglob(f"moby/{id_}/config.json"))
        config: dict[str, Any] = json.loads(found.read_text())
        return config

    # -- the end of a test

    _LISTS = {
        "container": ("ps", "-aq", "--no-trunc"),
        "volume": ("volume", "ls", "-q"),
        "network": ("network", "ls", "-q", "--no-trunc"),
    }

    def _things(self) -> dict[str, set[str]]:
        return {kind: set(self(*words).out.split()) for kind, words in self._LISTS.items()}

    def clean(self) -> None:
        """Remove every container, volume and network that the test made."""
        for kind, words in self._LISTS.items():
            new = set(self(*words).out.split()) - self.there[kind]
            if new:
                self(
                    kind,
                    "rm",
                    "-f" if kind != "network" else "--",
                    *(["-v"] if kind == "container" else []),
                    *sorted(new),
                )

    def left(self, *ignoring: str) -> list[str]:
        """What the test left besides: processes, mounts, cgroups, interfaces, files; and the runtime's own records."""
        found = self.lab.left(self.before, ignoring=(*KEPT, *self.ignored, *ignoring))
        known = set(self("ps", "-aq", "--no-trunc").out.split())
        for path in Path(f"{self.lab.root}{self.dockerd.states}").glob("[!:.]*"):
            if path.name not in known:
                found.append(f"state: {path}")
        return found


def running(new_lab: Any, runtime: Path, image: Image, **more: Any) -> Iterator[Dockerd]:
    """A module's dockerd in a lab of its own, the image loaded; at the end it goes and takes everything with it."""
    dockerd = Dockerd(new_lab(), runtime, **more)
    dockerd.load(image)
    yield dockerd
    dockerd.close()
    left = dockerd.lab.left(ignoring=KEPT)
    assert left == [], left


def user(dockerd: Dockerd) -> Iterator[Docker]:
    """A test's docker; what is left when all that it made has been removed as a user would is a failure."""
    docker = Docker(dockerd)
    yield docker
    docker.clean()
    left = docker.left()
    assert left == [], left


def own_words(text: str, *words: str) -> None:
    """docker passes on what the runtime said, whatever it said it about."""
    for word in words:
        assert word in text, text


def is_peer(runtime: Path) -> bool:
    return runtime.name != "pyrunc"


def needs_all_capabilities(runtime: Path) -> None:
    """A peer cannot run what asks for a capability that root does not have here; by the specification it is a warning."""
    if is_peer(runtime) and not HELD >> 24 & 1:
        missing("CAP_SYS_RESOURCE, without which this runtime refuses --privileged")


def which(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if not found:
        pytest.fail(f"{name} is not installed", pytrace=False)
    return found


def closure(*programs: str) -> set[str]:
    """Programs and the shared libraries that they need, as paths of this machine."""
    found: set[str] = set()
    for program in map(which, programs):
        text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        found |= {program, *re.findall(r"(/\S+) \(0x", text)}
    return {path for path in found if os.path.exists(path)}
