"""Pods, Kubernetes documents, the REST service and what drives Podman from outside."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
from features import has
from lab import missing, need, until
from podman_lab import BB

pytestmark = pytest.mark.newer

KUBE = """\
apiVersion: v1
kind: Pod
metadata: {name: played, labels: {app: played}}
spec:
  restartPolicy: Never
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: web
    image: localhost/bb:latest
    imagePullPolicy: Never
    command: [sh, -c, "echo $GREETING > /shared/file; exec httpd -f -p 8080 -h /var/www"]
    env: [{name: GREETING, value: hello}]
    resources: {limits: {memory: 64Mi}}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: side
    image: localhost/bb:latest
    imagePullPolicy: Never
    command: [sleep, "600"]
    securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: shared, mountPath: /shared}]
"""


@pytest.fixture(autouse=True)
def pods(podman, request):
    """Podman 4 that makes cgroups itself gives a pod's a device program that lets nothing through, on v2: with any runtime."""
    is_pod = request.node.originalname in ("test_pod", "test_pod_shares_pids", "test_play_kube", "test_clean")
    if is_pod and has("cgroup-v2") and podman("version", "--format", "{{.Client.Version}}").text.startswith("4."):
        missing("cgroup-v1, or a podman whose pods on v2 may open a device")


@pytest.fixture
def infra(podman, pause_image):
    """The image of the containers that hold a pod's namespaces: podman would build one of its own."""
    podman("load", "--input", pause_image.docker)
    return f"--infra-image={pause_image.name}"


def test_pod(monitored, pause_image):
    """A pod's containers share its network and its hostname; the pod as a whole is paused, stopped and removed."""
    monitored("load", "--input", pause_image.docker)
    monitored(
        "pod", "create", "--infra-image", pause_image.name, "--name", "pod", "--hostname", "podhost", "-p", "8083:80"
    )
    monitored("run", "-d", "--pod", "pod", "--name", "web", BB, "httpd", "-f", "-h", "/var/www")
    asked = monitored("run", "--rm", "--pod", "pod", BB, "sh", "-c", "hostname; wget -qO- http://127.0.0.1/index.html")
    assert asked.lines == ["podhost", "hello-from-image"]
    monitored("pod", "pause", "pod")
    assert monitored.inspect("web", "{{.State.Status}}") == "paused"
    monitored("pod", "unpause", "pod")
    assert monitored("pod", "inspect", "--format", "{{.State}}", "pod").text == "Running"
    monitored("pod", "stop", "--time", "1", "pod")
    assert monitored.inspect("web", "{{.State.Status}}") == "exited"
    monitored("pod", "start", "pod")
    assert monitored("exec", "web", "wget", "-qO-", "http://127.0.0.1/index.html").text == "hello-from-image"
    monitored("pod", "rm", "--force", "--time", "0", "pod")


def test_pod_shares_pids(podman, infra):
    podman("pod", "create", infra, "--name", "pod", "--share", "pid,ipc,net,uts")
    podman("run", "-d", "--pod", "pod", "--name", "one", BB, "sleep", "77")
    names = podman("run", "--rm", "--pod", "pod", BB, "ps", "-o", "args").out
    assert "sleep 77" in names and "pause" in names, names
    podman("pod", "rm", "--force", "--time", "0", "pod")


def test_pod_of_nothing_shared(podman, infra):
    """A pod without an infra container is a list of containers."""
    podman("pod", "create", "--infra=false", "--name", "pod")
    podman("run", "-d", "--pod", "pod", "--name", "one", BB, "sleep", "77")
    assert podman("ps", "--pod", "--format", "{{.Names}} {{.PodName}}").text == "one pod"
    podman("pod", "rm", "--force", "--time", "0", "pod")


def test_play_kube(podman, infra, share):
    """Pods from a Kubernetes document, and back to one."""
    (share / "pod.yaml").write_text(KUBE)
    settings = podman.lab.root / "etc/containers/containers.conf"
    before = settings.read_text()
    settings.write_text(before.replace("[engine]", f'[engine]\ninfra_image = "{infra.partition("=")[2]}"'))
    try:
        podman("play", "kube", share / "pod.yaml")
        until(
            lambda: podman("exec", "played-side", "cat", "/shared/file", status=None).text == "hello",
            "the other's file",
        )
        assert podman("exec", "played-side", "id", "-u").text == "1000"
        limit = podman.inspect("played-web", "{{.HostConfig.Memory}}")
        assert limit == str(64 << 20)
        assert "kind: Pod" in podman("generate", "kube", "played").out
        podman("play", "kube", "--down", share / "pod.yaml")
    finally:
        settings.write_text(before)
    podman("volume", "prune", "--force")


def test_generate_systemd(podman):
    podman("create", "--name", "unit", BB, "sleep", "600")
    text = podman("generate", "systemd", "--new", "--name", "unit").out
    assert "ExecStart=" in text and "--sdnotify=conmon" in text and BB in text
    podman("rm", "unit")


class Service(http.client.HTTPConnection):
    """HTTP over podman's unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("podman", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, bytes]:
        body = None if document is None else json.dumps(document)
        self.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = self.getresponse()
        return answer.status, answer.read()


def test_api_service(podman, share):
    """What a Docker client library does: create, start, wait, logs, remove."""
    path = share / "api.sock"
    service = podman.lab.daemon(
        *podman.command, "system", "service", "--time", "0", f"unix://{path}", ready=path.exists
    )
    api = Service(str(path))
    assert api.ask("GET", "/_ping") == (200, b"OK")
    status, answer = api.ask(
        "POST", "/v1.41/containers/create?name=api", {"Image": BB, "Cmd": ["sh", "-c", "echo by api; exit 3"]}
    )
    assert status == 201, answer
    name = json.loads(answer)["Id"]
    assert api.ask("POST", f"/v1.41/containers/{name}/start")[0] == 204
    assert json.loads(api.ask("POST", f"/v1.41/containers/{name}/wait")[1])["StatusCode"] == 3
    assert b"by api\n" in api.ask("GET", f"/v1.41/containers/{name}/logs?stdout=1")[1]
    assert api.ask("DELETE", f"/v1.41/containers/{name}")[0] in (200, 204)
    api.close()
    podman.lab.stop(service)


def test_compose_podman(podman, share):
    need("podman-compose")
    (share / "compose.yaml").write_text(
        f"services:\n  web:\n    image: {BB}\n    command: httpd -f -h /var/www\n    ports: ['8084:80']\n"
    )
    compose = ["podman-compose", "--podman-args", " ".join(podman.command[1:]), "-p", "composed", "-f", "compose.yaml"]
    podman.lab.run(*compose, "up", "-d", cwd=share)
    name = podman("ps", "--format", "{{.Names}}").text
    assert "web" in name
    assert podman("exec", name, "wget", "-qO-", "http://127.0.0.1/index.html").text == "hello-from-image"
    podman.lab.run(*compose, "down", "-t", "0", cwd=share)
    podman("network", "prune", "--force")


def test_clean(podman, infra, podman_host):
    """`podman system prune` and the removal of what runs leave nothing, in storage, cgroups, mounts or the runtime."""
    podman("network", "create", "own")
    podman("pod", "create", infra, "--name", "pod")
    podman("run", "-d", "--pod", "pod", "-v", "kept:/data", BB, "sleep", "600")
    podman("run", "--name", "ended", "--network", "own", BB, "true")
    podman("create", "--name", "never", "-v", "other:/data", BB, "true")
    podman("pod", "stop", "--time", "0", "pod")
    podman("system", "prune", "--force", "--volumes")
    assert (
        podman("ps", "--all", "--quiet").out + podman("pod", "ps", "--quiet").out + podman("volume", "ls", "-q").out
        == ""
    )
    podman_host.check()
