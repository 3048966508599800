"""Container images made here, without a registry and without an image tool: tar files, JSON and digests.

    images.py [DIRECTORY]     make them all, print their paths

`bb` is the root file system of fixtures/mkrootfs.py (busybox, one link for each applet, the users root, alice (1000,
also in group staff) and nobody) with the static /bin/probe of fixtures/probe.c and /var/www/index.html; `pause` is
fixtures/pause.c alone, for the sandboxes of pods; `deb` is a dynamically linked bash from Debian's packages. Each comes as an OCI archive and as a docker-archive, under the name
localhost/NAME:latest. The same inputs give the same bytes, whenever and wherever they are made. Kept below build/images.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
BUILD = HERE.parent.parent / "build"

sys.path[:0] = [str(FIXTURES)]

import mkrootfs  # noqa: E402 - found through the path above
import programs  # noqa: E402 - found through the path above

INDEX = "hello-from-image\n"
PATH = "PATH=/bin:/sbin:/usr/bin:/usr/sbin"
#: GOARCH as images name it
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "riscv64": "riscv64", "s390x": "s390x"}


class Image(NamedTuple):
    name: str  # localhost/bb:latest
    oci: Path  # an OCI archive: ctr image import, podman load, skopeo oci-archive:
    docker: Path  # a docker-archive: docker load, podman load
    rootfs: Path  # the layer alone: docker import, ctr run --rootfs after unpacking
    id: str  # sha256:..., the digest of the configuration: what docker and podman call the image id


def bb() -> Image:
    """The image that tests run: busybox, the probe, a few users."""
    return _cached("bb", _bb_files, {"Env": [PATH], "Cmd": ["/bin/sh"], "WorkingDir": "/"})


def pause() -> Image:
    """The image of a pod's sandbox."""
    return _cached("pause", _pause_files, {"Env": [PATH], "Entrypoint": ["/pause"]})


def deb() -> Image:
    """Debian's bash and friends with their shared libraries, from the packages that this machine has installed."""
    return _cached("deb", _deb_files, {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/bash"]})


def compiled(name: str) -> Path:
    """fixtures/NAME.c as a static program below build/fixtures, made when it is older than its source."""
    return programs.compiled(FIXTURES / f"{name}.c")


# -- layers ----------------------------------------------------------------------------------------------------------------


def _entry(name: str, mode: int, **more: Any) -> tarfile.TarInfo:
    """A member that says nothing about when, or by whom, it was made."""
    member = tarfile.TarInfo(name)
    member.mode, member.mtime, member.uname, member.gname = mode, 0, "", ""
    for key, value in more.items():
        setattr(member, key, value)
    return member


def tar(files: dict[str, tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for _, (member, data) in sorted(files.items()):
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _bb_files() -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    files: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add(name: str, data: bytes = b"", mode: int = 0o644, **more: Any) -> None:
        files[name] = (_entry(name, mode, **more), data)

    for name in ("usr", "var", "var/www", *mkrootfs.DIRECTORIES):
        add(name, mode=0o1777 if name in ("tmp", "var/tmp") else 0o755, type=tarfile.DIRTYPE)
    add("home", mode=0o755, type=tarfile.DIRTYPE, uid=1000, gid=1000)
    add("bin/busybox", mkrootfs.busybox().read_bytes(), 0o755)
    for name in mkrootfs.applets():
        if name != "busybox":
            add(f"bin/{name}", mode=0o777, type=tarfile.SYMTYPE, linkname="busybox")
    for name, text in mkrootfs.FILES.items():
        if name != "etc/hosts":  # the engine's
            add(name, text.encode())
    add("bin/probe", compiled("probe").read_bytes(), 0o755)
    add("var/www/index.html", INDEX.encode())
    return files


def _pause_files() -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    return {"pause": (_entry("pause", 0o755), compiled("pause").read_bytes())}


#: what `ls -l`, pipes, `id` and a login shell need
PACKAGES = (
    "base-files bash coreutils dash grep libacl1 libattr1 libc6 libgmp10 libpcre2-8-0 libselinux1 libssl3 libtinfo6 sed"
)


def _deb_files() -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    files: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    listed = subprocess.run(["dpkg-query", "-L", *PACKAGES.split()], capture_output=True, text=True, check=True).stdout
    top = [Path("/") / name for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin")]
    for path in sorted({Path(line) for line in listed.splitlines() if line.startswith("/")} | set(top)):
        if path.parts[1:3] == ("usr", "share") and path.parts[3:4] != ("base-files",):
            continue  # documentation
        whole = path.parent.resolve() / path.name  # the packages say /bin/bash, and /bin is a link
        name = str(whole)[1:]
        if not name or not os.path.lexists(whole):
            continue
        if whole.is_symlink():
            files[name] = (_entry(name, 0o777, type=tarfile.SYMTYPE, linkname=os.readlink(whole)), b"")
        elif whole.is_dir():
            files[name] = (_entry(name, whole.stat().st_mode & 0o1777, type=tarfile.DIRTYPE), b"")
        elif whole.is_file():
            files[name] = (_entry(name, whole.stat().st_mode & 0o755), whole.read_bytes())
    for name in ("passwd", "group"):
        files[f"etc/{name}"] = (_entry(f"etc/{name}", 0o644), mkrootfs.FILES[f"etc/{name}"].encode())
    return files


# -- archives --------------------------------------------------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _text(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _config(layer: bytes, settings: dict[str, Any]) -> bytes:
    return _text(
        {
            "architecture": ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "tests/engines/images.py"}],
        }
    )


def oci(name: str, layer: bytes, config: bytes) -> bytes:
    """An OCI image layout of one image, as a tar: image-spec, image-layout.md."""
    packed = gzip.compress(layer, 1, mtime=0)
    kind = "application/vnd.oci.image."
    blobs = [packed, config]
    manifest = _text(
        {
            "schemaVersion": 2,
            "mediaType": kind + "manifest.v1+json",
            "config": {"mediaType": kind + "config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [
                {"mediaType": kind + "layer.v1.tar+gzip", "digest": _digest(packed), "size": len(packed)},
            ],
        }
    )
    blobs.append(manifest)
    index = {
        "schemaVersion": 2,
        "mediaType": kind + "index.v1+json",
        "manifests": [
            {
                "mediaType": kind + "manifest.v1+json",
                "digest": _digest(manifest),
                "size": len(manifest),
                # containerd reads the first, podman and skopeo the second
                "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
            }
        ],
    }
    files = {
        "oci-layout": (_entry("oci-layout", 0o644), _text({"imageLayoutVersion": "1.0.0"})),
        "index.json": (_entry("index.json", 0o644), _text(index)),
    }
    for blob in blobs:
        path = "blobs/" + _digest(blob).replace(":", "/")
        files[path] = (_entry(path, 0o644), blob)
    return tar(files)


def docker(name: str, layer: bytes, config: bytes) -> bytes:
    """What `docker save` writes: manifest.json, the configuration, the layers."""
    layer_name, config_name = _digest(layer)[7:] + "/layer.tar", _digest(config)[7:] + ".json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]
    return tar(
        {
            "manifest.json": (_entry("manifest.json", 0o644), _text(manifest)),
            config_name: (_entry(config_name, 0o644), config),
            layer_name: (_entry(layer_name, 0o644), layer),
        }
    )


def _cached(short: str, files: Any, settings: dict[str, Any]) -> Image:
    """The archives of an image, written once for all the workers of a run."""
    place = BUILD / "images"
    if BUILD.exists() and not os.access(BUILD, os.W_OK):
        place = Path(tempfile.gettempdir()) / f"pyrunc-images-{os.geteuid()}"  # the tree is somebody else's
    place.mkdir(parents=True, exist_ok=True)
    name = f"localhost/{short}:latest"
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        layer = tar(files())
        config = _config(layer, settings)
        image = Image(
            name,
            place / f"{short}.oci.tar",
            place / f"{short}.docker.tar",
            place / f"{short}.rootfs.tar",
            _digest(config),
        )
        stamp, key = place / f"{short}.key", hashlib.sha256(config + Path(__file__).read_bytes()).hexdigest()
        if not (stamp.exists() and stamp.read_text() == key):
            image.rootfs.write_bytes(layer)
            image.oci.write_bytes(oci(name, layer, config))
            image.docker.write_bytes(docker(name, layer, config))
            stamp.write_text(key)
    return image


if __name__ == "__main__":
    for made in (bb(), pause(), deb()):
        print(made.name, made.oci, made.docker, made.rootfs, made.id)
