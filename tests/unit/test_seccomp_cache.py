"""The cache of compiled filters: what is in it is used only if it is ours, whole and about this very section."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import libseccomp, seccomp
from runtime.host import Host

ROOT = Path(__file__).parent.parent.parent
DEFAULT = json.loads((ROOT / "tests/fixtures/seccomp/default.json").read_text())
HOST = Host.from_facts({"machine": os.uname().machine, "kernel": os.uname().release})
SMALL: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "write", "nonesuch"], "action": "SCMP_ACT_ALLOW"}],
}


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that libseccomp really compiled."""
    seen: list[int] = []
    real = libseccomp.compile_profile

    def counted(*args: Any) -> tuple[bytes, int, list[str]]:
        seen.append(1)
        return real(*args)

    monkeypatch.setattr(libseccomp, "compile_profile", counted)
    return seen


def prepare(section: dict[str, Any], cache: Path | str) -> tuple[bytes, int, list[str]]:
    found = seccomp.prepare(section, HOST, str(cache))
    assert found is not None
    return found.program, found.flags, found.warnings


def entry(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_a_second_container_gets_the_same_without_compiling(tmp_path: Path, compilations: list[int]) -> None:
    cache = tmp_path / "parent" / "seccomp"
    first = prepare(DEFAULT, cache)
    assert compilations == [1]
    assert prepare(copy.deepcopy(DEFAULT), cache) == first == prepare(DEFAULT, "")
    assert compilations == [1, 1]  # the one without a cache
    assert first[2] or first[0]


def test_what_is_made_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        prepare(SMALL, tmp_path / "parent" / "seccomp")
    finally:
        os.umask(old)
    for path, mode in ((tmp_path / "parent", 0o40700), (tmp_path / "parent/seccomp", 0o40700)):
        assert path.stat().st_mode == mode
    assert entry(tmp_path / "parent/seccomp").stat().st_mode == 0o100600


def test_no_cache_wanted_none_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(SMALL, "")
    assert not list(tmp_path.iterdir())


def test_a_hit_loads_neither_libseccomp_nor_cffi(tmp_path: Path) -> None:
    code = (
        "import sys, json; sys.path[:0] = [sys.argv[1]]\n"
        "from runtime import seccomp\nfrom runtime.host import Host\n"
        "found = seccomp.prepare(json.load(open(sys.argv[2])), Host(), sys.argv[3])\n"
        "print(found.program.hex(), *[name for name in ('_cffi_backend', 'hashlib', 'runtime.libseccomp') if name in sys.modules])"
    )
    section = tmp_path / "section.json"
    section.write_text(json.dumps(DEFAULT))
    argv = [sys.executable, "-c", code, str(ROOT), str(section), str(tmp_path / "cache")]
    cold = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    warm = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert cold[1:] == ["_cffi_backend", "runtime.libseccomp"]
    assert warm == cold[:1]


# -- contents that are not what we wrote -----------------------------------------------------------------------------------


def test_every_damaged_byte_is_noticed_and_replaced(tmp_path: Path, compilations: list[int]) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    data = path.read_bytes()
    places = sorted({*range(60), *range(60, len(data), 23), *range(len(data) - 34, len(data))})
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert prepare(SMALL, tmp_path / "c") == good, place
        assert path.read_bytes() == data, place
    assert len(compilations) == 1 + len(places)


@pytest.mark.parametrize("size", [0, 1, 51, 52, 83, 84, 200])
def test_a_short_file_is_replaced(tmp_path: Path, compilations: list[int], size: int) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    data = path.read_bytes()
    path.write_bytes(data[:size])
    assert prepare(SMALL, tmp_path / "c") == good
    assert path.read_bytes() == data and len(compilations) == 2


def test_more_bytes_than_ours_are_replaced(tmp_path: Path, compilations: list[int]) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    for tail in (b"x", bytes(2 << 20)):
        path.write_bytes(path.read_bytes() + tail)
        assert prepare(SMALL, tmp_path / "c") == good
    assert len(compilations) == 3


def test_another_section_s_filter_under_this_one_s_name_is_not_taken(tmp_path: Path, compilations: list[int]) -> None:
    open_ = {"defaultAction": "SCMP_ACT_ALLOW"}
    prepare(open_, tmp_path / "open")
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    path.write_bytes(entry(tmp_path / "open").read_bytes())
    assert prepare(SMALL, tmp_path / "c") == good
    assert len(compilations) == 3


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602, 0o4600])
def test_a_file_that_others_may_touch_is_replaced(tmp_path: Path, compilations: list[int], mode: int) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    path.chmod(mode)
    assert prepare(SMALL, tmp_path / "c") == good
    assert len(compilations) == 2 and path.stat().st_mode == 0o100600


def test_a_link_is_replaced_and_its_target_untouched(tmp_path: Path, compilations: list[int]) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert prepare(SMALL, tmp_path / "c") == good
    assert len(compilations) == 2 and not path.is_symlink() and elsewhere.read_bytes() == before


def test_a_fifo_does_not_hang(tmp_path: Path, compilations: list[int]) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    path.unlink()
    os.mkfifo(path, 0o600)
    assert prepare(SMALL, tmp_path / "c") == good
    assert len(compilations) == 2 and path.is_file()


def test_a_directory_in_the_place_is_survived(tmp_path: Path, compilations: list[int]) -> None:
    good = prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    path.unlink()
    path.mkdir()
    assert prepare(SMALL, tmp_path / "c") == good
    assert [p.name for p in (tmp_path / "c").iterdir()] == [path.name]


# -- directories that cannot be trusted or used ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o770, 0o1777])
def test_a_directory_that_others_may_enter_is_not_used(tmp_path: Path, mode: int) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(mode)
    prepare(SMALL, tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_a_link_to_a_directory_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "c").symlink_to(tmp_path / "real")
    prepare(SMALL, tmp_path / "c")
    assert not list((tmp_path / "real").iterdir())


def test_no_directory_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/c", tmp_path / "a/b/c", "/proc/c", "/proc/c/d"):
        assert prepare(SMALL, place)[0]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = prepare(SMALL, "")

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    for write in (full, lambda fd, data: len(data) - 1):
        with monkeypatch.context() as patch:
            patch.setattr(seccomp.os, "write", write)
            assert prepare(SMALL, tmp_path / "c") == good
        assert not list((tmp_path / "c").iterdir())


def test_a_left_temporary_file_is_no_obstacle_for_others(tmp_path: Path, compilations: list[int]) -> None:
    prepare(SMALL, tmp_path / "c")
    path = entry(tmp_path / "c")
    path.rename(path.with_name(f".{path.name}.1"))  # a create that was killed
    for _ in range(2):
        prepare(SMALL, tmp_path / "c")
    assert len(compilations) == 2


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "ENTRIES_MAX", 4)
    kept = []
    for number in range(7):
        prepare({**SMALL, "defaultErrnoRet": number}, tmp_path / "c")
        (new,) = set((tmp_path / "c").iterdir()) - set(kept)
        os.utime(new, ns=(number, number))
        kept = [*kept, new][-4:]
        assert set((tmp_path / "c").iterdir()) == set(kept)


def test_many_at_once(tmp_path: Path) -> None:
    good, found = prepare(SMALL, ""), []
    threads = [threading.Thread(target=lambda: found.append(prepare(SMALL, tmp_path / "c"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [good] * 8
    assert len(list((tmp_path / "c").iterdir())) == 1


# -- the key ---------------------------------------------------------------------------------------------------------------


def key(section: dict[str, Any], host: Host = HOST) -> bytes:
    found = seccomp._key(section, host, seccomp.find_library())
    assert found
    return found


def rule(**changes: Any) -> dict[str, Any]:
    return {"names": ["mount"], "action": "SCMP_ACT_ERRNO", **changes}


def profile(*rules: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules), **changes}


ARG = {"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}
DIFFERENT = [
    # crun's cache gave the second of these the first's filter
    *[profile(rule(errnoRet=value)) for value in (0, 1, 13, 113, 11, -1, True, False, 1.0, "1", [1], None)],
    profile(rule()),
    *[profile(rule(), defaultErrnoRet=value) for value in (0, 1, 13)],
    profile(rule(), defaultAction="SCMP_ACT_LOG"),
    profile(rule(action="SCMP_ACT_KILL")),
    # delimiters: the same letters, cut elsewhere
    *[profile(rule(names=names)) for names in (["mountopen"], ["mount", "open"], ["open", "mount"], ["moun", "topen"], ["mount,open"], [])],
    profile(rule(), rule()),
    profile(rule(names=["mount"]), rule(names=["open"])),
    profile(rule(names=["open"]), rule(names=["mount"])),
    profile(rule(), flags=[]),
    *[profile(rule(), flags=[flag]) for flag in ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC")],
    *[profile(rule(), architectures=list(a)) for a in ([], ["SCMP_ARCH_X86"], ["SCMP_ARCH_X86_64"], ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"])],
    profile(rule(args=[])),
    profile(rule(args=[ARG])),
    profile(rule(args=[ARG, ARG])),
    *[profile(rule(args=[{**ARG, name: value}])) for name, value in (("index", 1), ("value", 2), ("value", 1 << 32), ("value", 1 << 63), ("valueTwo", 1), ("op", "SCMP_CMP_NE"))],
    profile(rule(args=[{k: v for k, v in ARG.items() if k != "valueTwo"}])),
    profile(rule(), rule(args=[ARG])),
    profile(rule(), listenerPath="/a"),
    profile(rule(), listenerPath="/b"),
    profile(rule(), listenerMetadata="/a"),
]  # fmt: skip


def test_no_two_sections_have_one_key() -> None:
    for one, other in itertools.combinations(DIFFERENT, 2):
        assert key(one) != key(other), f"{one} and {other}"


def test_one_section_has_one_key_however_its_strings_came_about() -> None:
    # a back reference of marshal would depend on which equal strings are one object
    parsed = json.loads(json.dumps(DEFAULT))
    assert key(DEFAULT) == key(copy.deepcopy(DEFAULT)) == key(parsed)
    apart = json.loads(json.dumps(DEFAULT), object_pairs_hook=lambda pairs: {"".join(list(k)): v for k, v in pairs})
    for entry_ in apart["syscalls"]:
        entry_["names"] = ["".join(list(name)) for name in entry_["names"]]
        entry_["action"] = sys.intern("".join(list(entry_["action"])))
    assert key(apart) == key(DEFAULT)


def test_one_section_has_one_key_in_every_process() -> None:
    code = "import sys; sys.path[:0] = [sys.argv[1]]; from tests.unit import test_seccomp_cache as t; print(t.key(t.DEFAULT).hex())"
    code = code.replace(
        "from tests.unit import test_seccomp_cache as t", "sys.path[:0] = [sys.argv[2]]; import test_seccomp_cache as t"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code, str(ROOT), str(Path(__file__).parent)],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert keys == {key(DEFAULT).hex()}


def test_the_machine_the_kernel_and_the_library_are_in_the_key(tmp_path: Path) -> None:
    keys = {key(SMALL)}
    keys.add(key(SMALL, Host.from_facts({"machine": "aarch64", "kernel": HOST.kernel})))
    keys.add(key(SMALL, Host.from_facts({"machine": HOST.machine, "kernel": "5.10.0"})))
    library = tmp_path / "libseccomp.so.2"
    library.write_bytes(b"one")
    os.utime(library, ns=(1, 1))
    keys.add(seccomp._key(SMALL, HOST, str(library)))
    library.write_bytes(b"two")  # of the same size, and with the old time put back, as a package might
    os.utime(library, ns=(1, 1))
    keys.add(seccomp._key(SMALL, HOST, str(library)))
    assert len(keys) == 5


def test_our_own_compiler_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    files = set(seccomp._COMPILER)
    runtime = ROOT / "runtime"
    assert {path.name for path in runtime.glob("*seccomp*.py")} == files
    before = key(SMALL)
    monkeypatch.setattr(seccomp, "_COMPILER", seccomp._COMPILER[1:])
    assert key(SMALL) != before


def test_what_cannot_be_identified_is_not_cached(tmp_path: Path) -> None:
    assert seccomp._key(SMALL, HOST, str(tmp_path / "gone")) == b""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES)
def test_keys_differ_where_documents_do(one: Any, other: Any) -> None:
    # as JSON: 1, 1.0 and true are one to Python's ==, and three to a reader of the document
    assert (key({"x": one}) == key({"x": other})) == (json.dumps(one) == json.dumps(other))
