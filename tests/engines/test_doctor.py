"""`pyrunc doctor --engine ...` beside real daemons: it finds the one that runs, its file and its socket, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import newer
import pytest
from containerd_lab import SHIM, Containerd
from docker_lab import Dockerd
from lab import Lab, missing
from podman_lab import Machine

Ask = Callable[..., dict[str, dict[str, str]]]


def asked(lab: Lab, *words: str | Path) -> dict[str, dict[str, str]]:
    """The findings by id, where an id comes once; the last of them else."""
    program = newer.binaries() / "pyrunc"
    done = lab.run(program, "doctor", "--json", *words, status=None)
    found: list[dict[str, str]] = json.loads(done.out)
    assert done.status == int(any(one["severity"] == "error" for one in found)), done.out
    return {one["id"]: one for one in found}


def severities(found: dict[str, dict[str, str]], engine: str) -> dict[str, str]:
    return {id_.removeprefix(f"engine.{engine}."): one["severity"] for id_, one in found.items()}


@pytest.fixture(scope="module", autouse=True)
def _ours(engine_runtime: Path) -> None:
    if engine_runtime.name != "pyrunc":
        missing("a doctor: only pyrunc has one")


def cri(plugin: str, binary: Any) -> str:
    table = f"plugins.'{plugin}'.containerd.runtimes.pyrunc"
    return f"[{table}]\nruntime_type = 'io.containerd.runc.v2'\n[{table}.options]\nBinaryName = '{binary}'\n"


def test_containerd(new_lab: Callable[[], Lab], engine_runtime: Path) -> None:
    """The usual file is not there: the daemon itself says which one it has read, and the file is followed as it changes."""
    lab = new_lab()
    ctrd = Containerd(lab, engine_runtime, more=cri("io.containerd.grpc.v1.cri", engine_runtime))
    found = asked(lab, "--engine", "containerd")
    right = severities(found, "containerd")
    assert set(right.values()) <= {"ok", "note"}, found
    assert str(ctrd.config) in found["engine.containerd.config"]["found"]
    assert found["engine.containerd.socket"]["what"] == str(ctrd.address)
    assert right["socket"] == right["running"] == right["runtime-version"] == "ok"
    assert right["cri"] == "note", "the lab's containerd is started without CRI"
    if SHIM.exists():
        # in the PATH of that containerd alone
        assert found["engine.containerd.shim-by-name"]["found"].endswith(f"/path/{SHIM.name}")
    # A word later: the file is newer than the process, and wrong as well.
    ctrd.config.write_text(ctrd.config.read_text().replace(str(engine_runtime), "/nowhere/pyrunc"))
    os.utime(ctrd.config, (2**31, 2**31))
    wrong = severities(asked(lab, "--engine", "containerd"), "containerd")
    assert (wrong["restart"], wrong["runtime-path"], wrong["socket"]) == ("warning", "error", "ok")
    lab.stop(ctrd.daemon)
    gone = severities(asked(lab, "--engine", "containerd", "--config", ctrd.config), "containerd")
    assert gone["running"] == "warning" and "socket" not in gone


def test_dockerd(new_lab: Callable[[], Lab], engine_runtime: Path) -> None:
    """dockerd is asked which runtimes it knows; its own containerd is nobody else's."""
    lab = new_lab()
    dockerd = Dockerd(lab, engine_runtime)
    found = asked(lab, "--engine", "docker")
    right = severities(found, "docker")
    assert set(right.values()) == {"ok"}, found
    assert "ours (default)" in found["engine.docker.known"]["found"]
    assert found["engine.docker.socket"]["what"] == str(dockerd.socket)
    settings = json.loads(dockerd.config.read_text())
    settings["runtimes"]["pyrunc-later"] = {"path": str(engine_runtime)}
    dockerd.config.write_text(json.dumps(settings))
    found = asked(lab, "--engine", "docker")
    assert found["engine.docker.known"]["severity"] == "warning"
    assert "pyrunc-later" in found["engine.docker.known"]["found"]
    other = asked(lab, "--engine", "containerd")
    assert other["engine.containerd.running"]["severity"] == "warning"
    assert dockerd.stop() == 0


def test_podman(podman_machine: Machine) -> None:
    """With the configuration that README.md gives; and podman runs with it."""
    lab = podman_machine.lab
    found = asked(lab, "--engine", "podman")
    assert set(severities(found, "podman").values()) == {"ok"}, found
    assert "/etc/containers/containers.conf" in found["engine.podman.config"]["found"]
    told = lab.run("podman", "info", "--format", "{{.Host.OCIRuntime.Path}}").out.strip()
    assert found["engine.podman.runtime-path"]["found"] == told
