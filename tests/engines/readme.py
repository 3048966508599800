"""README.md's section "Use it from an engine" as a user reads it: what to write into which file, what to type.

part = Part("Docker")              from the engine's name in bold to the next one
part.file                          the file that is named first, such as /etc/docker/daemon.json
part.blocks                        the text of its code blocks, to the letter
part.command("docker run", ...)    the words of the command that begins so, with these for the dots at its end
part.said('"default-')             the one piece in backquotes that begins so
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from packages import SOURCE

TEXT = (SOURCE / "README.md").read_text()
SECTION = re.search(r"^## Use it from an engine\n(.*?)^## ", TEXT, re.M | re.S)
FENCED = re.compile(r"^```\w+\n(.*?)^```$", re.M | re.S)


class Part:
    """What the section says about one engine; without a name: all of it."""

    def __init__(self, name: str = "") -> None:
        assert SECTION
        text = SECTION[1]
        if name:
            parts = dict(re.findall(r"^\*\*([\w-]+)\*\*(.*?)(?=^\*\*|\Z)", text, re.M | re.S))
            text = parts[name]
        self.blocks = FENCED.findall(text)
        # a piece may be broken at the end of a line
        self._pieces = [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", FENCED.sub("", text))]

    @property
    def file(self) -> Path:
        return Path(self.said("/etc/"))

    def said(self, beginning: str) -> str:
        for piece in self._pieces:
            if piece.startswith(beginning):
                return piece
        pytest.fail(f"README.md says nothing that begins with `{beginning}`", pytrace=False)

    def command(self, beginning: str, *words: str | Path) -> list[str]:
        shown = self.said(beginning)
        assert shown.endswith(" ..."), shown
        return [*shlex.split(shown.removesuffix(" ...")), *map(str, words)]
