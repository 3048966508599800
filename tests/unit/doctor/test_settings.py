"""Configuration files of engines are found, read and merged as the engines do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.doctor import settings
from runtime.errors import Error


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


CRI = "plugins.'io.containerd.grpc.v1.cri'"


def test_imports_go_over_the_file_that_imports_them(tmp_path: Path) -> None:
    top = write(tmp_path / "config.toml", 'version = 2\nimports = ["more/*.toml", "last.toml"]\noom_score = 1\n')
    first = write(tmp_path / "more/a.toml", "oom_score = 2\n")
    second = write(tmp_path / "more/b.toml", 'oom_score = 3\nroot = "/r"\n')
    write(tmp_path / "more/c.txt", "oom_score = 9\n")
    last = write(tmp_path / "last.toml", 'imports = ["config.toml"]\noom_score = 4\n')
    found = settings.containerd(top, joins=False)
    assert found.files == [top, first, second, last], "in this order, and a circle ends"
    assert (found.get("oom_score"), found.text("root"), found.get("version")) == (4, "/r", 2)


def test_a_section_of_a_plugin_is_replaced_or_joined(tmp_path: Path) -> None:
    """containerd 1.6 said so itself: `config dump` had the runtimes of the imported file alone."""
    table = f"[{CRI}.containerd.runtimes.NAME]\nruntime_type = 'x'\n"
    top = write(tmp_path / "config.toml", 'imports = ["a.toml"]\n' + table.replace("NAME", "one"))
    write(tmp_path / "a.toml", table.replace("NAME", "two"))
    place = ("plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes")
    assert list(settings.containerd(top, joins=False).table(*place)) == ["two"]
    assert list(settings.containerd(top, joins=True).table(*place)) == ["one", "two"]


def test_an_import_that_is_missing_is_named(tmp_path: Path) -> None:
    top = write(tmp_path / "config.toml", 'imports = ["nosuch.toml"]\n')
    with pytest.raises(Error, match=r"nosuch\.toml: imported by .*config\.toml, and not there"):
        settings.containerd(top, joins=False)
    with pytest.raises(FileNotFoundError):
        settings.containerd(str(tmp_path / "other.toml"), joins=False)


@pytest.mark.parametrize(("text", "words"), [("a = \n", "line 1"), ("a = 1\nb = [\n", "TOML"), ("\xff", "TOML")])
def test_toml_that_cannot_be_read_says_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Error, match=words) as caught:
        settings.toml(str(path))
    assert str(path) in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\xff"])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Error, match=r"daemon\.json"):
        settings.json(str(path))


def test_containers_conf_of_a_user(tmp_path: Path) -> None:
    """The user's file goes over the machine's, his drop-ins over it in the order of their names."""
    main = write(
        tmp_path / "containers/containers.conf", '[engine]\nruntime = "a"\nruntime_supports_json = ["a", "b"]\n'
    )
    second = write(tmp_path / "containers/containers.conf.d/2.conf", '[engine]\nruntime = "c"\n')
    first = write(
        tmp_path / "containers/containers.conf.d/1.conf", '[engine]\nruntime = "b"\nruntime_supports_json = ["c"]\n'
    )
    write(tmp_path / "containers/containers.conf.d/3.bak", '[engine]\nruntime = "d"\n')
    found = settings.containers_conf("/nowhere", 1000, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert found.files[-3:] == [main, first, second]
    assert found.text("engine", "runtime") == "c"
    assert found.get("engine", "runtime_supports_json") == ["c"], "a list is replaced"


def test_containers_conf_of_the_environment(tmp_path: Path) -> None:
    only = write(tmp_path / "only.conf", '[engine]\nruntime = "a"\nconmon_path = ["/x"]\n')
    over = write(tmp_path / "over.conf", '[engine]\nconmon_path = ["/y", {append = true}]\n')
    found = settings.containers_conf("/", 0, {"CONTAINERS_CONF": only, "CONTAINERS_CONF_OVERRIDE": over})
    assert found.files == [only, over]
    assert found.get("engine", "conmon_path") == ["/x", "/y"], "a list may append"
    named = settings.containers_conf("/", 0, {"CONTAINERS_CONF": "/nowhere"}, only)
    assert named.files == [only], "a file that is given is all that is read"
    with pytest.raises(Error, match="/nowhere"):
        settings.containers_conf("/", 0, {"CONTAINERS_CONF": "/nowhere"})


def test_crio_and_its_drop_ins(tmp_path: Path) -> None:
    top = write(
        tmp_path / "crio.conf",
        '[crio.runtime]\ndefault_runtime = "a"\n[crio.runtime.runtimes.a]\nruntime_path = "/a"\n',
    )
    drop = write(
        tmp_path / "crio.conf.d/1.conf",
        '[crio.runtime]\ndefault_runtime = "b"\n[crio.runtime.runtimes.b]\nruntime_path = "/b"\n',
    )
    found = settings.crio(top)
    assert found.files == [top, drop]
    assert found.text("crio", "runtime", "default_runtime") == "b"
    assert list(found.table("crio", "runtime", "runtimes")) == ["a", "b"]
