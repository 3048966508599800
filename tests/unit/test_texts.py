"""runtime/texts.py: what the kernel's files say, to their end, and where a line of them ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import texts


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    long = b"x" * 200_000 + b"\xff\n"
    (tmp_path / "long").write_bytes(long)
    assert texts.read(str(tmp_path / "long")) == long
    assert texts.text(str(tmp_path / "long")) == "x" * 200_000 + "\ufffd"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert texts.text(str(tmp_path / "none")) == texts.text(str(tmp_path)) == ""
    with pytest.raises(FileNotFoundError):
        texts.read(str(tmp_path / "none"))


def test_lines_end_at_line_feeds_alone() -> None:
    assert texts.lines("a\fb\x85c\u2028d\r\n\ne\vf\n") == ["a\fb\x85c\u2028d\r", "e\vf"]
    assert texts.lines("") == []
