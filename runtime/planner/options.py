"""Mount options: their words, and what each asks of the kernel. One table; what it does not hold is filesystem data.

A bind mount has no data, so there an unknown word is refused: it would be a misspelt `nosuid` as likely as not. Options
follow mount(8) and config.md#linux-mount-options: a later one overrides an earlier one of the same kind.
"""

from __future__ import annotations

from runtime import linux
from runtime.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_ATTR, _CLEAR, _ATIME, _UNTIME, _SUPER, _UNSUPER, _WORD = range(7)

#: option -> (kind, value); the recursive twin of an attribute is the same word behind an "r"
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (_ATTR, linux.MOUNT_ATTR_RDONLY),
    "rw": (_CLEAR, linux.MOUNT_ATTR_RDONLY),
    "nosuid": (_ATTR, linux.MOUNT_ATTR_NOSUID),
    "suid": (_CLEAR, linux.MOUNT_ATTR_NOSUID),
    "nodev": (_ATTR, linux.MOUNT_ATTR_NODEV),
    "dev": (_CLEAR, linux.MOUNT_ATTR_NODEV),
    "noexec": (_ATTR, linux.MOUNT_ATTR_NOEXEC),
    "exec": (_CLEAR, linux.MOUNT_ATTR_NOEXEC),
    "nodiratime": (_ATTR, linux.MOUNT_ATTR_NODIRATIME),
    "diratime": (_CLEAR, linux.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (_ATTR, linux.MOUNT_ATTR_NOSYMFOLLOW),
    "symfollow": (_CLEAR, linux.MOUNT_ATTR_NOSYMFOLLOW),
    "noatime": (_ATIME, linux.MOUNT_ATTR_NOATIME),
    "relatime": (_ATIME, linux.MOUNT_ATTR_RELATIME),
    "strictatime": (_ATIME, linux.MOUNT_ATTR_STRICTATIME),
    "atime": (_UNTIME, linux.MOUNT_ATTR_NOATIME),
    "norelatime": (_UNTIME, linux.MOUNT_ATTR_RELATIME),
    "nostrictatime": (_UNTIME, linux.MOUNT_ATTR_STRICTATIME),
}

#: properties of the whole filesystem: (is set, the flag's word for fsconfig(2), "" where it takes none)
_SUPERBLOCK: dict[str, tuple[bool, str]] = {
    "sync": (True, "sync"),
    "async": (False, "sync"),
    "dirsync": (True, "dirsync"),
    "mand": (True, "mand"),
    "nomand": (False, "mand"),
    "lazytime": (True, "lazytime"),
    "nolazytime": (False, "lazytime"),
    # they had a bit in mount(2), and have no word in fsconfig(2): how loud errors are, how versions are counted
    "silent": (False, ""),
    "loud": (False, ""),
    "iversion": (True, ""),
    "noiversion": (False, ""),
    "acl": (False, ""),
}

_WORDS = frozenset(
    ("bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup", "copy-symlink", "src-nofollow", "dest-nofollow", "defaults")
)  # fmt: skip

#: every option that is not left to the filesystem, for `features`
KNOWN: tuple[str, ...] = tuple(
    sorted((*_ATTRIBUTES, *("r" + word for word in _ATTRIBUTES), *_SUPERBLOCK, *_WORDS, *linux.PROPAGATION))
)


class Options:
    """The options of one mount, sorted by what they are for."""

    __slots__ = (
        "is_bind", "is_recursive", "is_remount", "is_idmapped", "is_idmapped_recursively", "id_maps", "copies_up",
        "copies_link", "keeps_source", "keeps_place", "attr_set", "attr_clear", "rattr_set", "rattr_clear", "superblock", "propagation", "data", "text", "unsettable",
    )  # fmt: skip

    def __init__(self, words: Sequence[str]) -> None:
        self.is_bind = False
        self.is_recursive = False
        self.is_remount = False
        self.is_idmapped = False
        self.is_idmapped_recursively = False
        #: the maps of idmap=, as they are written there
        self.id_maps = ""
        self.copies_up = False
        #: of links at the source, or in the mount's place: copied, mounted itself, mounted on itself
        self.copies_link = self.keeps_source = self.keeps_place = False
        #: of the mount itself, and of all mounts below it
        self.attr_set = self.attr_clear = 0
        self.rattr_set = self.rattr_clear = 0
        self.superblock: dict[str, bool] = {}
        self.propagation: list[tuple[int, bool]] = []
        #: (option, place in the config) of what nobody but the filesystem can know
        self.data: list[tuple[str, int]] = []
        self.text = ",".join(words)
        #: known words that the mount API has no way to express
        self.unsettable: list[str] = []
        for index, word in enumerate(words):
            if word in _ATTRIBUTES:
                self.attr_set, self.attr_clear = _attribute(self.attr_set, self.attr_clear, *_ATTRIBUTES[word])
            elif word in linux.PROPAGATION:
                self.propagation.append(linux.PROPAGATION[word])
            elif word in _WORDS:
                self._word(word)
            elif word.startswith(("idmap=", "ridmap=")):
                name, _, self.id_maps = word.partition("=")
                self._word(name)
            elif word in _SUPERBLOCK:
                is_set, flag = _SUPERBLOCK[word]
                if flag:
                    self.superblock[flag] = is_set
                elif is_set:
                    self.unsettable.append(word)
            elif word[:1] == "r" and word[1:] in _ATTRIBUTES:
                self.rattr_set, self.rattr_clear = _attribute(self.rattr_set, self.rattr_clear, *_ATTRIBUTES[word[1:]])
            elif word:
                self.data.append((word, index))

    def _word(self, word: str) -> None:
        if word == "bind":
            self.is_bind = True
        elif word == "rbind":
            self.is_bind = self.is_recursive = True
        elif word == "remount":
            self.is_remount = True
        elif word == "idmap":
            self.is_idmapped = True
        elif word == "ridmap":
            self.is_idmapped = self.is_idmapped_recursively = True
        elif word == "tmpcopyup":
            self.copies_up = True
        elif word == "copy-symlink":
            self.copies_link = True
        elif word == "src-nofollow":
            self.keeps_source = True
        elif word == "dest-nofollow":
            self.keeps_place = True

    def refuse_data(self, where: str) -> list[str]:
        """The options that a bind mount leaves without effect: it has no filesystem of its own to ask for a mode or a size.

        Raise ConfigError for a single word: nobody knows it, so it may be a misspelt `nosuid`.
        """
        for word, index in self.data:
            if "=" not in word:
                raise ConfigError(
                    f"{where}/options/{index}",
                    f'"{word}" is no option of a bind mount',
                    clause="config.md#linux-mount-options",
                )
        return [word for word, _ in self.data]


def _attribute(set_: int, clear: int, kind: int, value: int) -> tuple[int, int]:
    field = linux.MOUNT_ATTR__ATIME
    if kind == _ATTR:
        return set_ | value, clear & ~value
    if kind == _CLEAR:
        return set_ & ~value, clear | value
    # the atime values share a field, which mount_setattr(2) changes only as a whole
    if kind == _ATIME:
        return set_ & ~field | value, clear | field
    if clear & field and set_ & field == value:
        # takes back an earlier word; nothing of it is left
        return set_ & ~field, clear & ~field
    return set_, clear | field if not set_ & field else clear
