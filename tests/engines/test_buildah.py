"""Images: podman build, buildah bud, buildah run, and the way to a registry and back."""

from __future__ import annotations

import json
import os

import pytest
from features import has
from lab import need
from podman_lab import BB, inside

# a build is a container for each step: in a guest that takes its time
pytestmark = [pytest.mark.newer, pytest.mark.timeout(600)]

DOCKERFILE = f"""\
FROM {BB} AS first
ARG WORD=default
RUN echo $WORD > /word && id -u > /uid
USER alice
RUN id -un > /tmp/who
WORKDIR /var/www
RUN pwd > /tmp/where
FROM {BB}
COPY --from=first /word /tmp/who /tmp/where /copied/
COPY file /copied/
ENV SAID="from the image"
RUN --mount=type=tmpfs,target=/scratch touch /scratch/x && ls /scratch > /copied/scratch
RUN ["/bin/sh", "-c", "ip link | grep -c eth0 > /copied/network || true"]
CMD ["sh", "-c", "cat /copied/word /copied/who /copied/where /copied/file; echo $SAID"]
"""


@pytest.fixture
def context(share):
    """A directory to build in."""
    (share / "Dockerfile").write_text(DOCKERFILE)
    (share / "file").write_text("a file\n")
    return share


def test_build(podman, context):
    """Stages, arguments, users, mounts and a network in the steps; the result runs."""
    podman("build", "--build-arg", "WORD=given", "--tag", "localhost/built", context)
    assert podman("run", "--rm", "localhost/built").lines == ["given", "alice", "/var/www", "a file", "from the image"]
    assert podman("run", "--rm", "localhost/built", "cat", "/copied/scratch").text == "x"
    podman("rmi", "localhost/built")
    podman("image", "prune", "--force")


def test_build_caches(podman, context):
    """The second time no step runs."""
    podman("build", "--layers", "--tag", "localhost/built", context)
    again = podman("build", "--layers", "--tag", "localhost/built", context)
    assert again.out.count("Using cache") >= 5, again
    podman("rmi", "localhost/built")
    podman("image", "prune", "--force")


def test_build_limits(podman, context):
    limit = "memory.max" if has("cgroup-v2") else "memory/memory.limit_in_bytes"
    (context / "Dockerfile").write_text(
        f"FROM {BB}\nRUN cat /sys/fs/cgroup/{limit} && ulimit -n && grep CapEff /proc/self/status\n"
    )
    out = podman(
        "build", "--no-cache", "--memory", "77m", "--ulimit", "nofile=99:99", "--cap-drop", "ALL", context
    ).lines
    assert str(77 << 20) in out and "99" in out and "CapEff:\t0000000000000000" in out, out
    podman("image", "prune", "--force")


def test_build_fail(podman, context):
    """A step that fails ends the build with its status, and what it printed is seen."""
    (context / "Dockerfile").write_text(f"FROM {BB}\nRUN echo before; exit 7\n")
    result = podman("build", "--no-cache", context, status=None)
    assert result.status in (1, 7) and "before" in result.out and "exit status 7" in result.err, result
    (context / "Dockerfile").write_text(f'FROM {BB}\nRUN ["/no/such"]\n')
    result = podman("build", "--no-cache", context, status=None)
    assert result.status != 0 and "no such file or directory" in result.err, result


def test_build_isolation_chroot(podman, context):
    """No runtime is called."""
    podman("build", "--isolation", "chroot", "--tag", "localhost/built", context)
    assert podman("run", "--rm", "localhost/built").lines[0] == "default"
    podman("rmi", "localhost/built")
    podman("image", "prune", "--force")


@pytest.fixture
def working(buildah):
    """A working container."""
    name = buildah("from", BB).text
    yield name
    buildah("rm", name)


def test_buildah_run(buildah, podman, working, share):
    assert buildah("run", working, "echo", "hi").text == "hi"
    buildah("run", working, "--", "sh", "-c", "exit 5", status=5)
    buildah("run", "--user", "alice", working, "--", "sh", "-c", "id -un > /tmp/who")
    assert buildah("run", "--cap-drop", "ALL", working, "grep", "CapEff", "/proc/self/status").text.endswith(
        "\t" + 16 * "0"
    )
    (share / "file").write_text("mounted\n")
    assert buildah("run", "-v", f"{share}:/in:ro", working, "cat", "/in/file").text == "mounted"
    assert (
        buildah("run", "--env", "A=b", "--workingdir", "/var/www", working, "sh", "-c", "echo $A $PWD").text
        == "b /var/www"
    )
    assert buildah("run", "--hostname", "inner", working, "hostname").text == "inner"
    buildah("config", "--cmd", "cat /tmp/who", working)
    buildah("commit", working, "localhost/committed")
    assert podman("run", "--rm", "localhost/committed").text == "alice"
    podman("rmi", "localhost/committed")


def test_buildah_run_stdin(buildah, working):
    assert buildah("run", working, "cat", input="through\n").out == "through\n"


def test_buildah_run_errors(buildah, working):
    """The runtime's words reach the user; runc's have their quotes escaped."""
    result = buildah("run", working, "nosuch", status=None)
    assert 'exec: "nosuch": executable file not found in $PATH' in result.err.replace('\\"', '"') and result.status, (
        result
    )
    result = buildah("run", working, "/etc/passwd", status=None)
    assert 'exec: "/etc/passwd": permission denied' in result.err.replace('\\"', '"') and result.status, result


def test_buildah_run_descriptors(buildah, working):
    """buildah has up to twenty descriptors open that are not the container's."""
    assert buildah("run", working, "ls", "/proc/self/fd").lines == ["0", "1", "2", "3"]


def test_buildah_run_runtime(buildah, working, engine_runtime):
    assert buildah("run", "--runtime", str(engine_runtime), working, "echo", "by path").text == "by path"


def test_buildah_run_runtime_flag(buildah, working, engine_runtime, share):
    """Options for the runtime: its log."""
    log = share / "log"
    buildah("run", "--runtime", str(engine_runtime), "--runtime-flag", f"log={log}", "--runtime-flag", "log-format=json",
            working, "nosuch", status=None)  # fmt: skip
    assert "nosuch" in json.loads(log.read_text().splitlines()[-1])["msg"]


@pytest.mark.parametrize("network", ["host", "none", "private"])
def test_buildah_run_network(buildah, working, network):
    out = buildah("run", "--network", network, working, "ls", "/sys/class/net").text.split()
    assert "lo" in out and ("eth0" in out) == (network == "private"), out


def test_buildah_bud(buildah, podman, context):
    buildah("bud", "--build-arg", "WORD=given", "--tag", "localhost/bud", context)
    assert podman("run", "--rm", "localhost/bud").lines[0] == "given"
    podman("rmi", "localhost/bud")
    podman("image", "prune", "--force")


def test_buildah_run_tty(buildah, working):
    screen = buildah.lab.terminal(*buildah.command, "run", "--tty", working, "--", "sh", "-c", "tty; stty size; exit 4")
    screen.expect("/dev/pts/0\r\n24 80\r\n")
    assert screen.finish() == 4


def test_skopeo_push_pull(podman, share):
    """Through a registry: pushed, removed, pulled, run; and copied away by skopeo."""
    need("docker-registry", "skopeo")
    (share / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {share}/registry}}}}\nhttp: {{addr: '127.0.0.1:5055'}}\n"
    )
    daemon = podman.lab.daemon("docker-registry", "serve", share / "config.yml", ready=lambda: answers(podman))
    podman("push", BB, "127.0.0.1:5055/bb")
    inside(podman, "skopeo", "copy", "--src-tls-verify=false", "docker://127.0.0.1:5055/bb", f"oci:{share}/copy:latest")
    assert os.path.exists(share / "copy/index.json")
    assert podman("run", "--rm", "--pull", "always", "127.0.0.1:5055/bb", "echo", "pulled").text == "pulled"
    podman("rmi", "127.0.0.1:5055/bb")
    podman.lab.stop(daemon)


def answers(podman) -> bool:
    """Whether somebody listens on the registry's port of the lab."""
    text = (podman.lab.root / "proc/1/net/tcp").read_text()
    return f":{5055:04X} 00000000:0000 0A" in text
