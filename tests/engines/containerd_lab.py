"""A containerd of a lab's own, and ctr as its client.

    ctrd = Containerd(lab, runtime, images...)     started, the images imported; .stop(), .start() again, .address
    ctr = Ctr(ctrd, reach)                         `ctr.run("--rm", image, id, ...)`; .id("c") an id nobody else uses

`reach` is how the runtime is reached: "runc.v2" is containerd's own shim with the runtime's path as its BinaryName,
"pyrunc.v2" our own shim, found by its name in containerd's PATH.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modules
import newer
import pytest
from images import Image
from lab import Dialogue, Lab, Mark, Result, Running, Terminal, missing, need

#: how the runtime is reached -> containerd's name of the shim
REACHES = {"runc.v2": "io.containerd.runc.v2", "pyrunc.v2": "io.containerd.pyrunc.v2"}
SHIM = newer.binaries() / "containerd-shim-pyrunc-v2"

#: what containerd and runc keep on purpose: parents of what they made, files that are made once and reused
KEPT = (
    r"^file: /run/containerd(/fifo|/s|/(runc|pyrunc)(/[^/]+(/:seccomp.*)?)?)?$",
    r"^cgroup: \S+ /[^/]+$",  # the namespace's
)

#: what ctr itself leaves of a process that it does not wait for
FIFOS = r"^file: /run/containerd/fifo/"

CONFIG = """\
version = 2
root = "{dir}/root"
state = "{dir}/state"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "{dir}/c.sock"
[ttrpc]
  address = "{dir}/c.sock.ttrpc"
[debug]
  level = "info"
[plugins."io.containerd.internal.v1.opt"]
  path = "{dir}/opt"
{more}
"""
DISABLED = [
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.zfs",
    "snapshotter.v1.devmapper",
    "tracing.processor.v1.otlp",
]


class Containerd:
    """The daemon. `more`: further lines of config.toml; `disabled`: plugins without io.containerd."""

    def __init__(
        self, lab: Lab, runtime: Path, *, more: str = "", disabled: tuple[str, ...] = ("grpc.v1.cri",)
    ) -> None:
        need("containerd")
        self.lab, self.runtime = lab, runtime
        lab.env["PATH"] = modules.path()  # ctr's
        lab.env["CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS"] = (
            "1"  # of 2.x, about cgroup v1, where tests compare what was said
        )
        self.dir = lab.dir / "ctrd"
        self.address = self.dir / "c.sock"
        path = self.dir / "path"
        path.mkdir(parents=True)
        # Whatever names no binary (ctr containers create, the v1 shims) takes runc from containerd's PATH.
        (path / "runc").symlink_to(runtime)
        if SHIM.exists():
            (path / SHIM.name).symlink_to(SHIM)
        names = ", ".join(f'"io.containerd.{name}"' for name in (*DISABLED, *disabled))
        self.config = self.dir / "config.toml"
        self.config.write_text(CONFIG.format(dir=self.dir, disabled=names, more=more))
        self.env = {"PATH": f"{path}:{modules.path()}"}
        self.daemon: Running = self.start()

    def start(self) -> Running:
        """Start it, again after stop()."""
        self.daemon = self.lab.daemon(
            "containerd", "--config", self.config, env=self.env, cwd=self.dir, ready=lambda: self.answers()
        )
        return self.daemon

    def answers(self) -> bool:
        return self.address.exists() and self.ctr("version", status=None).status == 0

    def stop(self, **more: Any) -> int:
        return self.lab.stop(self.daemon, **more)

    def ctr(self, *words: str | Path | int, namespace: str = "default", **more: Any) -> Result:
        """The client, once."""
        return self.lab.run("ctr", "--address", self.address, "--namespace", namespace, *words, **more)

    def load(self, image: Image, namespace: str = "default") -> None:
        self.ctr("image", "import", image.oci, namespace=namespace)

    def log(self) -> str:
        """All that containerd, and the shims through it, have logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.lab.dir.glob("containerd-*.log")))


class Ctr:
    """ctr with the runtime under test, reached in one of two ways; one for each test."""

    _numbers = itertools.count(1)

    def __init__(self, ctrd: Containerd, reach: str) -> None:
        self.ctrd, self.lab, self.reach = ctrd, ctrd.lab, reach
        self._made: list[str] = []
        #: what left() does not count
        self.ignored: list[str] = [*KEPT]
        self.before: Mark = self.lab.mark()

    def id(self, name: str = "c") -> str:
        """A container id that no other test uses; removed by clean()."""
        self._made.append(f"{name}{next(self._numbers)}")
        return self._made[-1]

    @property
    def choice(self) -> list[str]:
        """The words that choose the runtime for `ctr run`."""
        name = ["--runtime", REACHES[self.reach]]
        return [*name, "--runc-binary", str(self.ctrd.runtime)] if self.reach == "runc.v2" else name

    def __call__(self, *words: str | Path | int, **more: Any) -> Result:
        return self.ctrd.ctr(*words, **more)

    def run(self, *words: str | Path | int, **more: Any) -> Result:
        return self.ctrd.ctr("run", *self.choice, *words, **more)

    def fails(self, *words: str | Path | int, **more: Any) -> Result:
        return self.lab.fails("ctr", "--address", self.ctrd.address, *words, **more)

    def argv(self, *words: str | Path | int) -> list[str]:
        return ["ctr", "--address", str(self.ctrd.address), *map(str, words)]

    def popen(self, *words: str | Path | int, **more: Any) -> Running:
        return self.lab.popen(*self.argv(*words), **more)

    def dialogue(self, *words: str | Path | int, **more: Any) -> Dialogue:
        return self.lab.dialogue(*self.argv(*words), **more)

    def terminal(self, *words: str | Path | int, **more: Any) -> Terminal:
        return self.lab.terminal(*self.argv(*words), **more)

    def detached(self, image: str, *words: str, name: str = "d", options: tuple[str | Path, ...] = ()) -> str:
        """Start a container in the background; its id."""
        id_ = self.id(name)
        self.run("-d", *options, image, id_, *words)
        return id_

    def detached_bb(self, *words: str, **more: Any) -> str:
        """The same with the image bb."""
        return self.detached("localhost/bb:latest", *words, **more)

    def exec(self, id_: str, *words: str | Path, options: tuple[str, ...] = (), **more: Any) -> Result:
        return self("task", "exec", "--exec-id", f"e{next(self._numbers)}", *options, id_, *words, **more)

    def echoes(self, id_: str, *, options: tuple[str, ...] = ()) -> bool:
        """Whether another process in the container can be heard.

        With containerd's own shim it is asked again: on a busy machine that one closes about one fifo of 300 (no runtime has it)
        before ctr's thread has read it.
        """
        for _ in range(4 if self.reach == "runc.v2" else 1):
            if self.exec(id_, "echo", "unharmed", options=options).out == "unharmed\n":
                return True
            # what ctr has not come to read it does not remove either
            self.ignored.append(FIFOS)
        return False

    def exec_detached(self, id_: str, *words: str) -> None:
        """Start another process in the background."""
        self.ignored.append(FIFOS)
        self.exec(id_, *words, options=("-d",))

    def exit_status(self, id_: str) -> int:
        """Delete a task that ended; its exit status, of which ctr speaks when it is not 0."""
        found = re.search(r"exit with non-zero exit code (\d+)", self("task", "rm", id_).err)
        return int(found[1]) if found else 0

    def status(self, id_: str) -> str:
        """RUNNING, STOPPED, PAUSED, or nothing."""
        for task, _, status in self.tasks():
            if task == id_:
                return status
        return ""

    def tasks(self) -> Iterator[tuple[str, int, str]]:
        """(id, pid, status) of each task."""
        for line in self("task", "ls").out.splitlines()[1:]:
            task, pid, status = line.split()
            yield task, int(pid), status

    def running_words(self, words: str) -> list[int]:
        """The processes of the lab whose command line contains these words, ctr apart."""
        return [pid for pid, said in self.lab.pids().items() if words in said and not said.startswith("ctr ")]

    def remove(self, id_: str) -> None:
        """Kill the task, delete it and its container."""
        self("task", "rm", "--force", id_)
        self("container", "rm", id_)

    def clean(self) -> None:
        """Remove what the test left, as a user would: what is then left is nobody's."""
        there = self("container", "ls", "-q").out.split()
        running = self("task", "ls", "-q").out.split()
        for id_ in self._made:
            if id_ in running:
                self("task", "rm", "--force", id_, status=None)
            if id_ in there:
                self("container", "rm", id_)

    def left(self, timeout: float = 15) -> list[str]:
        """What the test left besides: sockets whose shim is gone are among it, the directories of engines are not."""
        return self.lab.left(self.before, ignoring=self.ignored, timeout=timeout)


def check_reach(reach: str, runtime: Path) -> None:
    """Skip what does not concern a peer; our own shim has to be there."""
    if reach == "pyrunc.v2" and runtime.name != "pyrunc":
        missing(f"a shim of {runtime.name}'s own")
    if reach == "pyrunc.v2" and not os.access(SHIM, os.X_OK):
        pytest.fail(f"{SHIM} is not there: run `make build` first", pytrace=False)
