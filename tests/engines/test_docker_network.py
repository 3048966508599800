"""Networks of docker containers: bridge with published ports, networks with names, links, the host's, another's, none."""

from __future__ import annotations

import re

import pytest
from docker_lab import BB, running, user
from lab import missing, need, until


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


#: a name server that refuses is quicker than one that cannot be reached
QUICK = ("--dns", "127.0.0.1", "--dns-opt", "attempts:1", "--dns-opt", "timeout:1")
SERVER = ("httpd", "-f", "-p", "80", "-h", "/var/www")


def get(docker, port, host="127.0.0.1"):
    """A page, asked for from the machine of the daemon."""
    need("curl")
    # docker-proxy is there before the server
    return until(
        lambda: docker.lab.run("curl", "-s", "-m", 5, f"http://{host}:{port}/index.html", status=None).out,
        f"answer of {host}:{port}",
    )


def addresses(docker, *options):
    out = docker.output(*options, BB, "ip", "-o", "-4", "addr")
    return dict(re.findall(r"\d+: (\w+) +inet ([\d.]+)", out))


def test_run_net_none(docker):
    assert addresses(docker, "--net", "none") == {"lo": "127.0.0.1"}


def test_run_net_host(docker):
    assert (
        docker.output("--net", "host", BB, "readlink", "/proc/self/ns/net")
        == docker.lab.run("readlink", "/proc/self/ns/net").out.strip()
    )


def test_run_join(docker):
    """A container in another's network namespace, which stays what it was when the guest goes."""
    id_ = docker.detached(BB, *SERVER)
    joined = ("--net", f"container:{id_}")
    assert docker.output(*joined, BB, "wget", "-qO-", "http://127.0.0.1/index.html") == "hello-from-image"
    assert addresses(docker, *joined)["eth0"] == docker.inspect(id_, ".NetworkSettings.IPAddress")
    assert docker.output(*joined, "--pid", f"container:{id_}", BB, "cat", "/proc/1/comm") == "httpd"
    assert "eth0" in docker.exec(id_, "ip", "-o", "link", "show", "eth0").out


def test_run_dns_hosts(docker):
    out = docker.output(
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.test",
        "--add-host",
        "db:192.0.2.1",
        "-h",
        "web",
        BB,
        "cat",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/hostname",
    )
    assert "nameserver 192.0.2.53" in out and "search example.test" in out and out.splitlines()[-1] == "web"
    assert re.search(r"^192\.0\.2\.1\tdb$", out, re.M) and re.search(r"^172\.\d+\.\d+\.\d+\tweb$", out, re.M)


def test_port_publish(docker):
    id_ = docker.detached("-p", "127.0.0.1:8080:80", BB, *SERVER)
    assert docker("port", id_).out == "80/tcp -> 127.0.0.1:8080\n"
    assert get(docker, 8080).endswith("hello-from-image\n")
    assert "hello-from-image" in get(docker, 80, docker.inspect(id_, ".NetworkSettings.IPAddress"))
    docker("stop", "-t", 0, id_)
    assert docker.lab.run("curl", "-s", "http://127.0.0.1:8080/", status=None).status == 7  # refused


def test_port_publish_all(docker):
    id_ = docker.detached("-P", "--expose", 80, BB, *SERVER)
    port = int(docker("port", id_, "80/tcp").out.split()[0].rpartition(":")[2])
    assert "hello-from-image" in get(docker, port)


def test_containers_reach_each_other_and_the_host(docker):
    id_ = docker.detached(BB, *SERVER)
    address = docker.inspect(id_, ".NetworkSettings.IPAddress")
    assert docker.output(BB, "wget", "-qO-", f"http://{address}/index.html") == "hello-from-image"
    gateway = docker.inspect(id_, ".NetworkSettings.Gateway")
    assert "1 packets received" in docker.output(BB, "ping", "-c", "1", gateway)
    assert "default via " + gateway in docker.output(BB, "ip", "route")


def test_network(docker):
    """A network with a name: its containers know each other by name and alias, others do not."""
    network, name = docker.name("net"), docker.name("server")
    docker("network", "create", "--subnet", "10.77.0.0/24", "--label", "of=test", network)
    id_ = docker.detached("--net", network, "--ip", "10.77.0.7", "--network-alias", "www", "--name", name, BB, *SERVER)
    for host in (name, "www", "10.77.0.7"):
        assert docker.output("--net", network, BB, "wget", "-qO-", f"http://{host}/index.html") == "hello-from-image"
    assert "bad address" in docker.run(*QUICK, BB, "wget", "-qO-", f"http://{name}/", status=1).err
    other = docker.sleeping(*QUICK)
    docker("network", "connect", network, other)
    assert docker.exec(other, "wget", "-qO-", f"http://{name}/index.html").out == "hello-from-image\n"
    assert set(re.findall(r"(eth\d)", docker.exec(other, "ip", "-o", "link").out)) == {"eth0", "eth1"}
    docker("network", "disconnect", network, other)
    assert "bad address" in docker.fails("exec", other, "wget", "-qO-", f"http://{name}/")
    assert "active endpoints" in docker.fails("network", "rm", network)
    docker("rm", "-f", id_)
    docker("network", "rm", network)


def test_network_link(docker):
    name = docker.name("linked")
    docker.detached("--name", name, "-e", "SECRET=word", BB, *SERVER)
    out = docker.shell("wget -qO- http://web/index.html; env", "--link", f"{name}:web")
    assert "hello-from-image" in out and "WEB_ENV_SECRET=word" in out


def test_macvlan(docker):
    network = docker.name("macvlan")
    result = docker("network", "create", "-d", "macvlan", network, status=None)
    if result.status == 0:
        result = docker.run("--net", network, BB, "true", status=None)
    if result.status and ("dummy" in result.err or "operation not supported" in result.err):
        missing("dummy interfaces, which a macvlan network without a parent needs")
    assert result.status == 0, result
