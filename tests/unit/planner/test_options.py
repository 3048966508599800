"""Mount options, one by one and against each other."""

from __future__ import annotations

import pytest

from runtime import linux
from runtime.errors import ConfigError
from runtime.planner.options import KNOWN, Options

RO, NOSUID = linux.MOUNT_ATTR_RDONLY, linux.MOUNT_ATTR_NOSUID
ATIME, NOATIME, STRICT = linux.MOUNT_ATTR__ATIME, linux.MOUNT_ATTR_NOATIME, linux.MOUNT_ATTR_STRICTATIME


@pytest.mark.parametrize(
    ("words", "set_", "clear"),
    [
        ([], 0, 0),
        (["ro"], RO, 0),
        (["rw"], 0, RO),
        (["ro", "rw"], 0, RO),
        (["rw", "ro"], RO, 0),
        (["ro", "nosuid", "suid"], RO, NOSUID),
        (["noatime"], NOATIME, ATIME),
        (["noatime", "strictatime"], STRICT, ATIME),
        (["noatime", "relatime"], 0, ATIME),
        (["noatime", "atime"], 0, 0),
        (["atime"], 0, ATIME),
        (["strictatime", "atime"], STRICT, ATIME),
        (["strictatime", "nostrictatime", "ro"], RO, 0),
    ],
)
def test_attributes(words: list[str], set_: int, clear: int) -> None:
    options = Options(words)
    assert (options.attr_set, options.attr_clear) == (set_, clear)
    assert (options.rattr_set, options.rattr_clear) == (0, 0)
    recursive = Options(["r" + word for word in words])
    assert (recursive.rattr_set, recursive.rattr_clear) == (set_, clear)
    assert (recursive.attr_set, recursive.attr_clear) == (0, 0)


def test_what_nobody_knows_is_data() -> None:
    options = Options(["size=1m", "ro", "newinstance", "rofl", ""])
    assert options.data == [("size=1m", 0), ("newinstance", 2), ("rofl", 3)]
    with pytest.raises(ConfigError, match=r'mounts\.4\.options\.2: "newinstance" is no option of a bind mount'):
        options.refuse_data("/mounts/4")
    assert Options(["size=1m", "ro"]).refuse_data("/mounts/4") == ["size=1m"]


@pytest.mark.parametrize("word", KNOWN)
def test_no_known_option_is_data(word: str) -> None:
    assert Options([word]).data == []


def test_kinds() -> None:
    assert Options(["bind"]).is_bind and not Options(["bind"]).is_recursive
    assert Options(["rbind"]).is_bind and Options(["rbind"]).is_recursive
    assert Options(["idmap"]).is_idmapped and not Options(["idmap"]).is_idmapped_recursively
    assert Options(["ridmap"]).is_idmapped and Options(["ridmap"]).is_idmapped_recursively
    assert Options(["rslave", "shared"]).propagation == [(linux.MS_SLAVE, True), (linux.MS_SHARED, False)]
    assert Options(["sync", "lazytime", "async"]).superblock == {"sync": False, "lazytime": True}
    assert Options(["iversion", "silent"]).unsettable == ["iversion"]
