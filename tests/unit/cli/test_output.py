"""Standard output takes all, or it is an error."""

from __future__ import annotations

import os

import pytest

from runtime.cli import output
from runtime.errors import KernelError


def with_stdout(fd: int, text: str) -> None:
    saved = os.dup(1)
    os.dup2(fd, 1)
    try:
        output.write(text)
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_all_of_a_long_text_is_written(tmp_path: object) -> None:
    fd = os.memfd_create("out")
    with_stdout(fd, "x" * 3_000_000)
    assert os.fstat(fd).st_size == 3_000_000
    os.close(fd)


def test_a_file_name_goes_out_as_it_came() -> None:
    fd = os.memfd_create("out")
    with_stdout(fd, "a\udcffb")
    assert os.pread(fd, 9, 0) == b"a\xffb"
    os.close(fd)


def test_a_reader_that_left_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(output.Closed) as caught:
        with_stdout(writing, "text")
    os.close(writing)
    assert (caught.value.message, caught.value.status) == ("", 141)


def test_a_full_device_is_an_error() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(KernelError, match="no space left on device"):
        with_stdout(fd, "text")
    os.close(fd)
