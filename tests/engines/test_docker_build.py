"""docker build, by both builders, and what becomes of images: history, registry, archives."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
from docker_lab import BB, own_words, running, user
from lab import need


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


class Builder:
    """docker build in a directory of its own; the images are removed afterwards."""

    def __init__(self, docker):
        self.docker = docker
        self.dir: Path = docker.lab.dir / docker.name("context")
        self.dir.mkdir()
        self.images: list[str] = []

    def __call__(self, dockerfile, *words, kit=False, files=(), **more):
        (self.dir / "Dockerfile").write_text(dockerfile)
        for name, text in dict(files).items():
            (self.dir / name).write_text(text)
        image = self.docker.name("built")
        self.images.append(image)
        env = {"DOCKER_BUILDKIT": "1" if kit else "0", "BUILDKIT_PROGRESS": "plain"}
        result = self.docker("build", "-t", image, *words, self.dir, env=env, **more)
        result.image = image
        return result


@pytest.fixture
def build(docker):
    builder = Builder(docker)
    yield builder
    docker.clean()
    docker("rmi", "-f", *builder.images, status=None)


DOCKERFILE = """\
FROM bb
ARG WORD=default
ENV WORD=$WORD
RUN echo "said $WORD" > /said && id -un >> /said
WORKDIR /work
COPY file .
RUN echo worker:x:1234:1234::/:/bin/sh >> /etc/passwd && chown worker file
USER worker
RUN id -un > /tmp/who && grep -q copied file && ! touch /said
CMD ["cat", "/said", "/tmp/who"]
"""


@pytest.mark.parametrize("kit", [pytest.param(False, id="classic"), pytest.param(True, id="buildkit")])
def test_build(docker, build, kit):
    """`build-classic` and `build-buildkit`: RUN steps in containers of the runtime, each a layer."""
    built = build(DOCKERFILE, "--build-arg", "WORD=this", kit=kit, files={"file": "copied\n"})
    assert docker.output(built.image) == "said this\nroot\nworker"
    assert docker.output(built.image, "sh", "-c", "pwd; stat -c %U file; id -u") == "/work\nworker\n1234"
    # the same again runs nothing
    again = build(DOCKERFILE, "--build-arg", "WORD=this", kit=kit, files={"file": "copied\n"})
    assert ("Using cache" in again.out) if not kit else ("CACHED" in again.err)
    one, other = (json.loads(docker("image", "inspect", image).out)[0] for image in build.images)
    assert one["RootFS"] == other["RootFS"]
    base = json.loads(docker("image", "inspect", BB).out)[0]["RootFS"]["Layers"]
    assert one["RootFS"]["Layers"][: len(base)] == base and len(one["RootFS"]["Layers"]) > len(base) + 3


def test_build_limits(docker, build):
    built = build(
        "FROM bb\nRUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares > /limits\n",
        "-m",
        "64m",
        "-c",
        256,
    )
    assert docker.output(built.image, "cat", "/limits").split() == [str(64 << 20), "256"]


def test_build_shm_ulimit_network(docker, build):
    lines = "FROM bb\nRUN ulimit -n > /out; ip -o link | wc -l >> /out; grep /dev/shm /proc/mounts >> /out\n"
    out = docker.output(
        build(lines, "--ulimit", "nofile=123", "--network", "none", "--shm-size", "3m").image, "cat", "/out"
    )
    assert out.splitlines()[:2] == ["123", "1"] and "size=3072k" in out


def test_build_fail(docker, build):
    result = build("FROM bb\nRUN echo before; exit 7\n", status=7)
    own_words(result.out + result.err, "before", "returned a non-zero code: 7")
    result = build('FROM bb\nRUN ["nosuch"]\n', status=1)
    own_words(result.out + result.err, 'exec: "nosuch": executable file not found in $PATH')


def test_build_buildkit_fail(docker, build):
    result = build("FROM bb\nRUN echo before; exit 7\n", kit=True, status=1)
    own_words(result.err, "before", "exit code: 7")
    result = build('FROM bb\nRUN ["nosuch"]\n', kit=True, status=1)
    own_words(result.err, 'exec: "nosuch": executable file not found in $PATH')


def test_build_buildkit_mounts(docker, build):
    """RUN --mount: a cache that outlives the build, a secret that stays out of the image, the context read-only."""
    secret = docker.lab.dir / "secret"
    secret.write_text("word\n")
    lines = """\
FROM bb
RUN --mount=type=cache,target=/cache --mount=type=secret,id=key --mount=type=bind,target=/in --mount=type=tmpfs,target=/t \
    cat /run/secrets/key /in/file > /out && echo $(($(cat /cache/n 2>/dev/null) + 1)) > /cache/n && cat /cache/n >> /out && ! touch /in/x
"""
    first = build(lines, "--secret", f"id=key,src={secret}", kit=True, files={"file": "one\n"})
    second = build(lines, "--secret", f"id=key,src={secret}", kit=True, files={"file": "two\n"})
    assert docker.output(first.image, "cat", "/out") == "word\none\n1"
    assert docker.output(second.image, "cat", "/out") == "word\ntwo\n2"
    docker.run(second.image, "cat", "/run/secrets/key", status=1)
    docker("builder", "prune", "-af")


def test_build_multi(docker, build):
    """Stages: made in the one, copied to the other; with BuildKit, what nobody needs is not built."""
    lines = """\
FROM bb AS maker
RUN mkdir /made && echo thing > /made/thing
FROM bb AS unwanted
RUN exit 1
FROM scratch
COPY --from=bb /bin/busybox /bin/cat
COPY --from=maker /made /made
ENTRYPOINT ["/bin/cat"]
CMD ["/made/thing"]
"""
    built = build(lines, kit=True)
    assert docker.output(built.image) == "thing"
    assert "no such file or directory" in docker.run("--entrypoint", "/bin/sh", built.image, status=127).err
    target = build(lines, "--target", "maker", kit=True)
    assert docker.output(target.image, "cat", "/made/thing") == "thing"


def test_build_parallel(docker, build):
    lines = "".join(f"FROM bb AS s{n}\nRUN echo {n} > /out\n" for n in range(4))
    lines += "FROM bb\n" + "".join(f"COPY --from=s{n} /out /out{n}\n" for n in range(4))
    built = build(lines, kit=True)
    assert docker.output(built.image, "sh", "-c", "cat /out?").split() == ["0", "1", "2", "3"]


# -- where images go -------------------------------------------------------------------------------------------------------

REGISTRY = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {dir}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:5055"}}
"""


@pytest.fixture(scope="module")
def registry(dockerd):
    """Debian's docker-registry in the same lab; its address."""
    need("docker-registry", "curl")
    place = dockerd.lab.dir / "registry"
    (place / "data").mkdir(parents=True)
    (place / "config.yml").write_text(REGISTRY.format(dir=place))
    url = "http://127.0.0.1:5055/v2/"
    daemon = dockerd.lab.daemon(
        "docker-registry", "serve", place / "config.yml",
        ready=lambda: dockerd.lab.run("curl", "-sf", url, status=None).status == 0,
    )  # fmt: skip
    yield "127.0.0.1:5055"
    dockerd.lab.stop(daemon)


def test_push_pull(docker, build, registry):
    """A built image goes to a registry and comes back the same; the layers that are there already are not sent again."""
    built = build("FROM bb\nRUN echo pushed > /made\n")
    name = f"{registry}/made:1"
    docker("tag", BB, f"{registry}/bb:1")
    assert "Pushed" in docker("push", f"{registry}/bb:1").out
    docker("tag", built.image, name)
    out = docker("push", name).out
    assert len(re.findall("Mounted from bb|Layer already exists", out)) == 1 and out.count(": Pushed") == 1
    id_ = docker("image", "inspect", "-f", "{{.Id}}", name).out
    docker("rmi", name, built.image)
    assert "Downloaded newer image" in docker("pull", name).out
    assert docker("image", "inspect", "-f", "{{.Id}}", name).out == id_
    assert docker.output(name, "cat", "/made") == "pushed"
    docker("rmi", name, f"{registry}/bb:1")
    # what is not there is fetched by run
    assert docker.output(name, "cat", "/made") == "pushed"
    docker("rmi", name)
    assert "manifest unknown" in docker.fails("pull", f"{registry}/made:2")


def test_save_load(docker, build):
    built = build("FROM bb\nRUN echo saved > /made\nUSER alice\n")
    archive = build.dir / "image.tar"
    docker("save", "-o", archive, built.image)
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
    assert manifest[0]["RepoTags"] == [f"{built.image}:latest"] and len(manifest[0]["Layers"]) == 2
    docker("rmi", built.image)
    assert docker("load", "-i", archive).out == f"Loaded image: {built.image}:latest\n"
    assert docker.output(built.image, "sh", "-c", "cat /made; id -un") == "saved\nalice"
