"""slice:prefix:name, and where systemd puts the cgroup of such a unit."""

from __future__ import annotations

import pytest

from runtime.cgroups import systemd_units
from runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("asked", "name", "slice_", "path"),
    [
        ("machine.slice:libpod:4f2a", "libpod-4f2a.scope", "machine.slice", "/machine.slice/libpod-4f2a.scope"),
        (":docker:4f2a", "docker-4f2a.scope", "system.slice", "/system.slice/docker-4f2a.scope"),
        ("-.slice:x:y", "x-y.scope", "-.slice", "/x-y.scope"),
        ("a-b-c.slice:x:y", "x-y.scope", "a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/x-y.scope"),
        ("", "runc-web.scope", "system.slice", "/system.slice/runc-web.scope"),
        ("a.slice::y", "-y.scope", "a.slice", "/a.slice/-y.scope"),
        ("a.slice:p:a-b.slice", "a-b.slice", "a.slice", "/a.slice/a-b.slice"),
        ("-.slice:p:a.slice", "a.slice", "-.slice", "/a.slice"),
        # names that the kernel could have for a file of its own
        (":_p:y", "_p-y.scope", "system.slice", "/system.slice/__p-y.scope"),
        ("cpu.slice:p:y", "p-y.scope", "cpu.slice", "/_cpu.slice/p-y.scope"),
        (":cgroup.x:y", "cgroup.x-y.scope", "system.slice", "/system.slice/_cgroup.x-y.scope"),
        (":a@b:y\\x2dz", "a@b-y\\x2dz.scope", "system.slice", "/system.slice/a@b-y\\x2dz.scope"),
    ],
)
def test_units(asked: str, name: str, slice_: str, path: str) -> None:
    found = systemd_units.unit(asked, "web", False)
    assert (found.name, found.slice, found.path) == (name, slice_, path)
    assert systemd_units.is_name(found.name)


def test_without_root_and_with_an_id_that_is_no_name() -> None:
    assert systemd_units.unit(":p:y", "web", True).path == "/user.slice/p-y.scope"
    assert systemd_units.unit("", "a+b", False).name == "runc-a\\x2bb.scope"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("/a/b", 'expected "slice:prefix:name"'),
        ("a.slice", 'expected "slice:prefix:name"'),
        ("a.slice:b", 'expected "slice:prefix:name"'),
        ("a.slice:b:c:d", 'expected "slice:prefix:name"'),
        ("a.slice:b:", "gives the unit no name"),
        ("a:b:c", '"a" is no slice'),
        (".slice:b:c", '".slice" is no slice'),
        ("-a.slice:b:c", '"-a.slice" is no slice'),
        ("a-.slice:b:c", '"a-.slice" is no slice'),
        ("a/b.slice:b:c", '"/" is no letter'),
        ("a.slice:b:c/d", '"/" is no letter'),
        ("a.slice:b:ü", '"ü" is no letter'),
        ("a.slice:b:" + "x" * 250, "at most 255"),
        ("a.slice:b:c-d.slice", "is in c.slice by its name"),
        ("a.slice:b:c.slice", "is in -.slice by its name"),
    ],
)
def test_what_is_no_unit(asked: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        systemd_units.unit(asked, "web", False)
    assert why in caught.value.why and caught.value.where == "/linux/cgroupsPath"


def test_a_path_gets_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        systemd_units.unit("/a/b", "web", False)
    assert "leave out --systemd-cgroup" in caught.value.hint


@pytest.mark.parametrize("name", ["", "x", "x.service", "a/b.scope", "x.scope\n", 5, None, "x" * 260 + ".scope"])
def test_what_no_state_file_can_name(name: object) -> None:
    assert not systemd_units.is_name(name)
