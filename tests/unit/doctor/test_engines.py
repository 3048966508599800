"""What is found in an engine's configuration, judged by the configuration alone: the programs in it need not be there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.doctor import ERROR, NOTE, OK, WARNING, Finding, containerd, crio, docker, engines, podman, settings
from runtime.host import Host

SYSTEMD = {"euid": 0, "is_systemd": True, "cgroup_mode": "v2"}
PLAIN = {"euid": 0, "is_systemd": False, "cgroup_mode": "hybrid"}


def program(path: Path, *lines: str) -> str:
    path.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    path.chmod(0o755)
    return str(path)


def by_id(findings: object) -> dict[str, Finding]:
    """The findings by id, the worst of each: then nothing bad is hidden."""
    out: dict[str, Finding] = {}
    order = (OK, NOTE, WARNING, ERROR)
    for finding in findings:  # type: ignore[attr-defined]
        known = out.get(finding.id)
        if known is None or order.index(finding.severity) > order.index(known.severity):
            out[finding.id] = finding
    return out


def severities(check: object, path: Path, facts: dict[str, object] = PLAIN) -> dict[str, str]:
    found = by_id(check(Host.from_facts(dict(facts)), str(path)))  # type: ignore[operator]
    return {id_.partition(".")[2].partition(".")[2]: finding.severity for id_, finding in found.items()}


# -- containerd ----------------------------------------------------------------------------------------------------------

OLD, NEW = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"


def config(path: Path, version: int, plugin: str, binary: str = "/nowhere/pyrunc", more: str = "") -> Path:
    table = f"plugins.'{plugin}'.containerd.runtimes.pyrunc"
    text = f"version = {version}\n" if version else ""
    text += f"[{table}]\nruntime_type = 'io.containerd.runc.v2'\n[{table}.options]\nBinaryName = '{binary}'\n{more}"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("version", "plugin", "daemon", "id_"),
    [
        (0, OLD, (1, 7), "version"),
        (1, OLD, (2, 1), "version"),
        (2, OLD, (1, 6), ""),
        (2, OLD, (2, 0), ""),
        (2, NEW, (1, 7), "plugin"),
        (3, NEW, (2, 0), ""),
        (3, NEW, (), ""),
        (3, OLD, (2, 2), "plugin"),
        (3, NEW, (1, 7), "version"),
    ],
)
def test_version_and_plugin_must_belong_together(
    tmp_path: Path, version: int, plugin: str, daemon: tuple[int, ...], id_: str
) -> None:
    """What containerd would ignore without a word is an error here."""
    found = settings.containerd(str(config(tmp_path / "config.toml", version, plugin)), joins=daemon >= (2,))
    wrong = [finding.id for finding in containerd._versions(found, daemon) if finding.severity == ERROR]
    assert wrong == ([f"engine.containerd.{id_}"] if id_ else [])


def test_a_runtime_without_binary_is_runc(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f"version = 2\n[plugins.'{OLD}'.containerd.runtimes.pyrunc]\nruntime_type = 'io.containerd.runc.v2'\n"
    )
    found = by_id(containerd.check(Host.from_facts(PLAIN), str(path)))["engine.containerd.runtime-path"]
    assert found.severity == ERROR and "would run runc" in found.found and "BinaryName" in found.advice


def test_a_misspelt_option_is_seen(tmp_path: Path) -> None:
    path = config(tmp_path / "config.toml", 2, OLD, more="binary_name = '/x'\n")
    assert severities(containerd.check, path)["runtime-options"] == ERROR


def test_no_runtime_at_all_is_advised(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n")
    found = by_id(containerd.check(Host.from_facts(PLAIN), str(path)))["engine.containerd.runtime"]
    assert found.severity == ERROR and "(runc)" in found.found
    assert NEW in found.advice and str(path) in found.advice


def test_the_advice_can_be_pasted(tmp_path: Path) -> None:
    """A file made of nothing but the advice has a runtime that is right as far as the file goes."""
    path = tmp_path / "config.toml"
    path.write_text("version = 2\n")
    advice = by_id(containerd.check(Host.from_facts(PLAIN), str(path)))["engine.containerd.runtime"].advice
    path.write_text("version = 2\n" + "\n".join(line for line in advice.splitlines() if line.startswith("  ")))
    found = severities(containerd.check, path)
    assert "runtime" not in found and "plugin" not in found and found["default"] == NOTE


@pytest.mark.parametrize(
    ("version", "plugin", "daemon", "severity"),
    [
        (2, OLD, (1, 6), ERROR),
        (2, OLD, (1, 7), ERROR),
        (2, OLD, (2, 0), NOTE),
        (3, NEW, (2, 4), NOTE),
        (3, NEW, (), NOTE),
    ],
)
def test_the_built_in_runc_is_replaced(
    tmp_path: Path, version: int, plugin: str, daemon: tuple[int, ...], severity: str
) -> None:
    """containerd 1.x: "no corresponding runtime configured in containerd.runtimes for default_runtime_name = runc"."""
    path = config(tmp_path / "config.toml", version, plugin)

    def default() -> Finding:
        found = settings.containerd(str(path), joins=False)
        host = Host.from_facts(dict(PLAIN))
        return by_id(containerd._runtimes(host, found, None, daemon))["engine.containerd.default"]

    assert default().severity == severity
    if severity == ERROR:
        path.write_text(path.read_text() + default().advice.removeprefix("add:\n"))
        assert default().severity == NOTE


@pytest.mark.parametrize(("facts", "wanted"), [(PLAIN, ERROR), ({**SYSTEMD, "cgroup_mode": "v1"}, None)])
def test_systemd_is_asked_for(tmp_path: Path, facts: dict[str, object], wanted: str | None) -> None:
    from runtime.doctor import cgroups

    path = config(tmp_path / "config.toml", 2, OLD, more="SystemdCgroup = true\n")
    expected = wanted or (OK if cgroups.has_systemd_driver() else ERROR)
    assert severities(containerd.check, path, facts)["systemd-cgroup"] == expected
    assert severities(containerd.check, config(path, 2, OLD), facts)["systemd-cgroup"] == OK


def test_a_disabled_plugin_and_the_default(tmp_path: Path) -> None:
    path = config(tmp_path / "config.toml", 2, OLD)
    path.write_text('disabled_plugins = ["cri"]\n' + path.read_text())
    found = severities(containerd.check, path)
    assert (found["cri"], found["default"]) == (NOTE, NOTE)
    path.write_text(path.read_text() + f"[plugins.'{OLD}'.containerd]\ndefault_runtime_name = 'pyrunc'\n")
    assert severities(containerd.check, path)["default"] == OK


def test_a_shim_is_a_name_or_a_path(tmp_path: Path) -> None:
    shim = program(tmp_path / "containerd-shim-pyrunc-v2", "containerd-shim-pyrunc-v2:", "  Version: 0.1.0")
    table = f"version = 2\n[plugins.'{OLD}'.containerd.runtimes.pyrunc]\nruntime_type = "
    path = tmp_path / "config.toml"
    for kind, wanted in (
        (shim, OK),
        ("/nowhere/containerd-shim-pyrunc-v2", ERROR),
        ("io.containerd.nosuch-pyrunc.v2", ERROR),
    ):
        path.write_text(table + f"'{kind}'\n")
        assert severities(containerd.check, path)["shim-path"] == wanted, kind
    path.write_text(table + "'pyrunc'\n")
    assert severities(containerd.check, path)["shim-type"] == ERROR


# -- the runtime itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "id_", "severity"),
    [
        (["pyrunc version 0.0.1"], "runtime-version", WARNING),
        (["runc version 1.1.5"], "runtime-version", ERROR),
        ([], "runtime-version", ERROR),
    ],
)
def test_what_a_program_answers(tmp_path: Path, lines: list[str], id_: str, severity: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps({"runtimes": {"pyrunc": {"path": program(tmp_path / "pyrunc", *lines)}}}))
    assert severities(docker.check, path)[id_] == severity


def test_what_is_no_program(tmp_path: Path) -> None:
    path, there = tmp_path / "daemon.json", tmp_path / "pyrunc"
    for make in (lambda: None, lambda: there.write_text("x"), lambda: (there.unlink(), there.mkdir())):
        make()
        path.write_text(json.dumps({"runtimes": {"pyrunc": {"path": str(there)}}}))
        found = severities(docker.check, path)
        assert found["runtime-path"] == ERROR and "runtime-version" not in found
    path.write_text('{"runtimes": {"pyrunc": {"path": "nosuch-pyrunc"}}}')
    assert severities(docker.check, path)["runtime-path"] == ERROR


# -- docker --------------------------------------------------------------------------------------------------------------


def test_docker_without_the_runtime(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text('{"runtimes": {"other": {"path": "/bin/other"}}}')
    found = by_id(docker.check(Host.from_facts(PLAIN), str(path)))["engine.docker.runtime"]
    assert found.severity == ERROR and "(other)" in found.found
    path.write_text("\n".join(line for line in found.advice.splitlines() if line.startswith("  ")))
    assert "runtime" not in severities(docker.check, path), "the advice can be pasted"


def test_docker_keeps_names_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text('{"runtimes": {"runc": {"path": "/nowhere/pyrunc"}}}')
    assert severities(docker.check, path)["runtime-name"] == ERROR


def test_docker_wants_a_path_or_a_type(tmp_path: Path) -> None:
    path = tmp_path / "daemon.json"
    path.write_text('{"runtimes": {"pyrunc": {}}}')
    assert severities(docker.check, path)["runtime-path"] == ERROR
    path.write_text('{"runtimes": {"pyrunc": {"path": "/nowhere/pyrunc", "runtimeType": "io.containerd.pyrunc.v2"}}}')
    assert severities(docker.check, path)["runtime-type"] == ERROR


def test_docker_and_systemd(tmp_path: Path) -> None:
    """Without a word dockerd takes the driver systemd where that runs on cgroup v2."""
    from runtime.doctor import cgroups

    had = OK if cgroups.has_systemd_driver() else ERROR
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    assert severities(docker.check, path, PLAIN)["systemd-cgroup"] == OK
    assert severities(docker.check, path, SYSTEMD)["systemd-cgroup"] == had
    path.write_text('{"exec-opts": ["native.cgroupdriver=cgroupfs"]}')
    assert severities(docker.check, path, SYSTEMD)["systemd-cgroup"] == OK
    path.write_text('{"exec-opts": ["native.cgroupdriver=systemd"]}')
    assert severities(docker.check, path, PLAIN)["systemd-cgroup"] == ERROR


# -- podman --------------------------------------------------------------------------------------------------------------


def test_podman(tmp_path: Path) -> None:
    path = tmp_path / "containers.conf"
    path.write_text("")
    found = by_id(podman.check(Host.from_facts(PLAIN), str(path)))["engine.podman.runtime"]
    assert found.severity == ERROR
    path.write_text("\n".join(line for line in found.advice.splitlines() if line.startswith("  ")))
    right = severities(podman.check, path)
    assert "runtime" not in right and (right["default"], right["supports-json"], right["supports-nocgroup"]) == (
        OK,
        OK,
        OK,
    )


def test_podman_is_not_told_what_the_runtime_understands(tmp_path: Path) -> None:
    path = tmp_path / "containers.conf"
    path.write_text(
        '[engine]\nruntime_supports_nocgroups = ["pyrunc"]\n[engine.runtimes]\npyrunc = ["/nowhere/pyrunc"]\n'
    )
    found = severities(podman.check, path)
    assert (found["supports-json"], found["supports-nocgroup"], found["default"]) == (WARNING, NOTE, NOTE)
    assert found["runtime-nocgroup"] == WARNING, "podman reads another word than its manual has"
    assert found["runtime-path"] == ERROR


def test_podman_takes_the_first_path_that_is_there(tmp_path: Path) -> None:
    there = program(tmp_path / "pyrunc", "pyrunc version 0.0.1")
    path = tmp_path / "containers.conf"
    path.write_text(f'[engine]\nruntime = "pyrunc"\n[engine.runtimes]\npyrunc = ["/nowhere/pyrunc", "{there}"]\n')
    found = severities(podman.check, path)
    assert (found["runtime-path"], found["runtime-version"]) == (OK, WARNING)


def test_podman_and_its_monitor(tmp_path: Path) -> None:
    path = tmp_path / "containers.conf"
    path.write_text('[engine]\nconmon_path = ["/nowhere/pyrunc-conmon"]\n')
    assert severities(podman.check, path)["conmon-path"] == ERROR
    monitor = program(tmp_path / "pyrunc-conmon", "conmon version 2.1.0")
    path.write_text(f'[engine]\nconmon_path = ["/nowhere/pyrunc-conmon", "{monitor}"]\n')
    assert severities(podman.check, path)["conmon-path"] == OK


# -- cri-o ---------------------------------------------------------------------------------------------------------------


def test_crio(tmp_path: Path) -> None:
    path = tmp_path / "crio.conf"
    path.write_text("")
    found = by_id(crio.check(Host.from_facts(PLAIN), str(path)))
    assert found["engine.cri-o.runtime"].severity == ERROR
    assert found["engine.cri-o.systemd-cgroup"].severity == ERROR, "its default, and systemd does not run"
    lines = [
        *("[crio.runtime]\n" + found["engine.cri-o.systemd-cgroup"].advice.partition("\n")[2]).splitlines(),
        *(line for line in found["engine.cri-o.runtime"].advice.splitlines() if line.startswith("  ")),
    ]
    path.write_text("\n".join(lines))
    right = severities(crio.check, path)
    assert "runtime" not in right and (right["systemd-cgroup"], right["runtime-type"], right["default"]) == (
        OK,
        OK,
        NOTE,
    )
    path.write_text(path.read_text().replace('"oci"', '"vm"'))
    assert severities(crio.check, path)["runtime-type"] == ERROR


# -- all -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["containerd", "docker", "podman", "cri-o"])
@pytest.mark.parametrize("text", [None, "{ [ = "])
def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path, engine: str, text: str | None) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    found = [finding for finding in engines.check(engine, str(path)) if finding.id == f"engine.{engine}.config"]
    assert [finding.severity for finding in found] == [ERROR]
    assert str(path) in found[0].what + found[0].found
