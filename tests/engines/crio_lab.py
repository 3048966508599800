"""CRI-O in a lab of its own, set up by README.md's section about it; nothing but what the lab lacks is configured besides.

    crio = Crio(lab)             started; .stop(), .start() again, .socket; images in the storage that Podman has too
    CrioPod(cri, crio, "pyrunc") a pod and its containers, as test_containerd_cri.Pod

The handler "pyrunc" is the README's, with pyrunc-conmon; "runc" and Debian's conmon are there to compare with. CRI-O is built by
modules.py. `pinns`, with which it makes a pod's namespaces, is a C program of its repository and none of its Go module: what
is asked of it here util-linux' unshare does.

A pod here has no pid namespace for all of its containers: CRI-O gives the process that holds one an oom_score_adj of -998,
for which this machine's root has no right.
"""

from __future__ import annotations

import json
from typing import Any

import cri as api
import modules
from images import Image
from lab import PATH, Lab, Running, need
from readme import Part
from test_containerd_cri import NETWORK, Pod

README = Part("CRI-O")

CONFIG = """\
[crio]
storage_driver = "overlay"
[crio.api]
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_runtime = "runc"
pinns_path = "{pinns}"
[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
monitor_path = "/usr/bin/conmon"
[crio.image]
pause_image = "localhost/pause:latest"
pause_command = ""
[crio.network]
plugin_dirs = ["/usr/lib/cni"]
"""

#: pinns -d DIRECTORY -f NAME [-s KEY=VALUE]... [--ipc|--net|--uts[=host]]...
PINNS = """\
#!/bin/sh -eu
set -- "$@" --; options=; settings=
while [ "$1" != -- ]; do
    case $1 in
    -d) directory=$2; shift ;;
    -f) name=$2; shift ;;
    -s) settings="$settings $2"; shift ;;
    --*)
        kind=${1#--}; kind=${kind%=host}; file=$directory/${kind}ns/$name
        touch "$file"
        case $1 in
        *=host) mount --bind "/proc/self/ns/$kind" "$file" ;;
        *) options="$options --$kind=$file" ;;
        esac ;;
    esac
    shift
done
exec unshare $options sh -euc 'for each; do echo "${each#*=}" >"/proc/sys/$(echo "${each%%=*}" | tr . /)"; done' sh $settings
"""


class Crio:
    """The daemon, where its package would have it: /etc/crio, /run/crio, /var/lib/containers."""

    def __init__(self, lab: Lab, *images: Image) -> None:
        need("runc", "conmon", "skopeo", "containernetworking-plugins", "iptables")
        self.lab, self.socket = lab, lab.root / "run/crio/crio.sock"
        place = "/var/lib/containers"  # an overlay's layers cannot be on the lab's own
        lab.run("mkdir", "-p", place)
        lab.run("mount", "-t", "tmpfs", "-o", "mode=755", "containers", place)
        pinns = lab.dir / "pinns"
        pinns.write_text(PINNS)
        pinns.chmod(0o755)
        self._write("/etc/crio/crio.conf", CONFIG.format(pinns=pinns))
        self._write(str(README.file), README.blocks[0])
        self._write("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')
        self._write("/etc/cni/net.d/10-pods.conflist", json.dumps(NETWORK))
        storage = f"[overlay@{place}/storage+/run/containers/storage]"
        for image in images:
            lab.run(
                "skopeo", "copy", "-q", f"docker-archive:{image.docker}", f"containers-storage:{storage}{image.name}"
            )
        self.daemon = self.start()

    def _write(self, name: str, text: str) -> None:
        path = self.lab.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self) -> Running:
        """Start it, again after stop()."""
        self.socket.unlink(missing_ok=True)
        env = {"PATH": f"{modules.programs()}:{PATH}"}
        self.daemon = self.lab.daemon("crio", env=env, ready=self.socket.exists)
        return self.daemon

    def stop(self, **more: Any) -> int:
        return self.lab.stop(self.daemon, **more)


class CrioPod(Pod):
    """A pod whose containers have pid namespaces of their own, unless they are told otherwise."""

    def __init__(self, cri: api.Cri, crio: Crio, handler: str, hostname: str = "of-pod", **linux: Any) -> None:
        super().__init__(cri, crio, handler, hostname, **_own_pids(linux))

    def create(self, *words: str, **more: Any) -> str:
        return super().create(*words, **{**more, "linux": _own_pids(more.get("linux", {}))})


def _own_pids(linux: dict[str, Any]) -> dict[str, Any]:
    context = linux.get("security_context", {})
    namespaces = {"pid": api.CONTAINER, **context.get("namespace_options", {})}
    return {**linux, "security_context": {**context, "namespace_options": namespaces}}
