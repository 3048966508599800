"""Many containers at once: docker-compose, and a swarm of one node with services."""

from __future__ import annotations

import json
import re

import pytest
from docker_lab import BB, KEPT, Docker, running, user
from lab import need, until


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


# -- compose ---------------------------------------------------------------------------------------------------------------

COMPOSE = """\
version: "2.4"
services:
  web:
    image: bb
    command: httpd -f -p 80 -h /srv
    volumes: ["pages:/srv"]
    depends_on:
      maker: {condition: service_healthy}
    ports: ["127.0.0.1:8099:80"]
    networks: [front, back]
    stop_grace_period: 0s
  maker:
    build: .
    volumes: ["pages:/srv"]
    networks: [back]
    healthcheck: {test: "test -e /srv/page", interval: 200ms, retries: 50}
    environment: {WORD: made}
    mem_limit: 32m
    stop_grace_period: 0s
    read_only: true
    cap_drop: [ALL]
  worker:
    image: bb
    command: sleep 1000
    networks: [back]
    stop_grace_period: 0s
volumes: {pages: {}}
networks: {front: {}, back: {internal: true}}
"""
MAKER = "FROM bb\nRUN echo built > /built\nCMD echo $WORD by $(cat /built) > /srv/page; exec sleep 1000\n"


def test_compose(docker):
    """docker-compose up: build, networks, a volume, health, scale, exec, run, logs, down."""
    need("docker-compose", "curl")
    place = docker.lab.dir / docker.name("compose")
    place.mkdir()
    (place / "docker-compose.yml").write_text(COMPOSE)
    (place / "Dockerfile").write_text(MAKER)

    def compose(*words, **more):
        return docker.lab.run("docker-compose", "--ansi", "never", *words, cwd=place, env=docker.env, **more)

    compose("up", "-d", "--scale", "worker=2")
    page = until(lambda: docker.lab.run("curl", "-s", "http://127.0.0.1:8099/page", status=None).out, "the page")
    assert page == "made by built\n"
    assert compose("exec", "-T", "web", "wget", "-qO-", "http://web/page").out == page
    compose("exec", "-T", "worker", "sh", "-c", "ping -c 1 maker && exit 4", status=4)
    compose("up", "-d", "--scale", "worker=3")
    assert len(compose("ps", "-q", "worker").out.split()) == 3
    assert compose("run", "--rm", "-T", "worker", "echo", "once").out == "once\n"
    compose("stop", "maker")
    assert re.search(r"Exit 137|Exited \(137\)", compose("ps", "-a", "maker").out)  # as 1.29 and as 2.26 word it
    compose("down", "-v", "--rmi", "local")
    assert docker("ps", "-aq").out == ""


# -- swarm -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swarm(dockerd):
    """A swarm of one node, left at the end."""
    dockerd.docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
    yield dockerd
    dockerd.docker("swarm", "leave", "--force")
    until(lambda: dockerd.docker("ps", "-aq").out == "", "end of the swarm's containers")
    dockerd.docker("network", "rm", "docker_gwbridge", status=None)


@pytest.fixture
def service(swarm):
    """docker in the swarm; services, secrets and networks are removed afterwards."""
    docker = Docker(swarm)
    yield docker
    for kind in ("service", "secret", "config"):
        if names := docker(kind, "ls", "-q").out.split():
            docker(kind, "rm", *names)
    until(lambda: docker("ps", "-aq").out == "", "removal of the tasks", 60)
    docker.there["network"] |= set(
        docker("network", "ls", "-q", "--no-trunc", "-f", "name=docker_gwbridge").out.split()
    )
    docker.clean()
    left = docker.lab.left(
        docker.before, ignoring=(*KEPT, r"docker_gwbridge", r"/netns/", r"^interface: (vx|veth|br|ov)")
    )
    assert left == [], left


def tasks(docker, name, state="running"):
    lines = docker(
        "service", "ps", "--no-trunc", "--format", "{{json .}}", "-f", f"desired-state={state}", name
    ).out.splitlines()
    return [task for task in map(json.loads, lines) if task["CurrentState"].startswith("Running")]


def test_swarm(service):
    """A service with replicas: one that dies is replaced; scaled up and down; updated task by task; rolled back."""
    name = service.name("service")
    service("service", "create", "-d", "--name", name, "--replicas", 2, "--restart-delay", "0s", "--stop-grace-period", "0s",
            "-e", "WORD=one", "--limit-memory", "32m", BB, "sh", "-c", "echo $WORD; sleep 1000")  # fmt: skip
    until(lambda: len(tasks(service, name)) == 2, "two replicas", 60)
    ids = service("ps", "-q", "--no-trunc").out.split()
    assert service.inspect(ids[0], ".HostConfig.Memory") == str(32 << 20)
    service("kill", ids[0])
    until(
        lambda: ids[0] not in (now := service("ps", "-q", "--no-trunc").out.split()) and len(now) == 2, "a new one", 60
    )
    service("service", "scale", "-d", f"{name}=4")
    until(lambda: len(tasks(service, name)) == 4, "four replicas", 60)
    service("service", "scale", "-d", f"{name}=1")
    until(lambda: len(service("ps", "-q").out.split()) == 1, "one replica", 60)


def test_swarm_rolling_update(service):
    name = service.name("service")
    service("service", "create", "-d", "--name", name, "--replicas", 2, "--stop-grace-period", "0s", "--update-parallelism", 1,
            "--update-order", "start-first", "--update-monitor", "0s", "-e", "WORD=one", BB, "sh", "-c", "echo $WORD; sleep 1000")  # fmt: skip
    until(lambda: len(tasks(service, name)) == 2, "two replicas", 60)

    def words():
        return sorted(service.logs(id_).strip() for id_ in service("ps", "-q").out.split())

    service("service", "update", "-d", "--env-add", "WORD=two", name)
    until(lambda: words() == ["two", "two"], "both replaced", 60)
    service("service", "rollback", "-d", name)
    until(lambda: words() == ["one", "one"], "both as before", 60)
    assert service("service", "logs", "--raw", name).out.count("one\n") >= 2


def test_swarm_secret(service):
    secret, config, name = (service.name(word) for word in ("secret", "config", "service"))
    service("secret", "create", secret, "-", input="hidden")
    service("config", "create", config, "-", input="shown")
    service("service", "create", "-d", "--name", name, "--secret", secret, "--config", f"source={config},target=/shown",
            "--stop-grace-period", "0s", BB, "sleep", 1000)  # fmt: skip
    until(lambda: len(tasks(service, name)) == 1, "a replica", 60)
    id_ = service("ps", "-q").out.strip()
    assert service.exec(id_, "cat", f"/run/secrets/{secret}", "/shown").out == "hiddenshown"
    assert "tmpfs" in service.exec(id_, "sh", "-c", f"grep {secret} /proc/mounts").out


def test_swarm_overlay_network(service):
    """An overlay network: services know each other by name."""
    network, name = service.name("overlay"), service.name("service")
    service("network", "create", "-d", "overlay", "--attachable", network)
    service("service", "create", "-d", "--name", name, "--network", network, "--endpoint-mode", "dnsrr",
            "--stop-grace-period", "0s", BB, "httpd", "-f", "-p", "80", "-h", "/var/www")  # fmt: skip
    until(lambda: len(tasks(service, name)) == 1, "a replica", 60)
    page = until(
        lambda: service("run", "--rm", "--net", network, BB, "wget", "-qO-", f"http://{name}/index.html", status=None).out,
        "the service by its name", 60,
    )  # fmt: skip
    assert page == "hello-from-image\n"
