"""Standard input, output and error of a container without a terminal: the caller's own descriptors, untouched."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading

import pytest


def test_stdin_goes_in_and_stdout_comes_out(pyrunc, make):
    text = "".join(f"line {n}\n" for n in range(200_000))
    result = pyrunc("run", "-b", make(None, "/bin/probe", "cat"), pyrunc.id(), input=text)
    assert result.out == text and result.err == ""


def test_stdin_by_a_pipe_that_stays_open(pyrunc, make):
    made = make(None, "/bin/probe", "cat")
    run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdin and run.stdout
    for line in (b"one\n", b"two\n"):
        run.stdin.write(line)
        run.stdin.flush()
        assert run.stdout.readline() == line
    run.stdin.close()
    assert run.stdout.read() == b"" and run.wait(20) == 0
    run.stdout.close()


def test_stdin_at_its_end(pyrunc, make):
    made = make(None, "/bin/sh", "-c", "read line; echo $? >&2; cat")
    result = pyrunc("run", "-b", made, pyrunc.id(), stdin=subprocess.DEVNULL)
    assert (result.out, result.err) == ("", "1\n")


def test_stderr_is_apart_from_stdout(pyrunc, make):
    made = make(None, "/bin/sh", "-c", "echo out; echo err >&2; echo out2; exit 3")
    result = pyrunc("run", "-b", made, pyrunc.id(), status=3)
    assert (result.out, result.err) == ("out\nout2\n", "err\n")


def test_large_output_through_a_pipe(pyrunc, make):
    made = make(None, "/bin/dd", "if=/dev/zero", "bs=65536", "count=320")
    run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout
    length = sum(len(block) for block in iter(lambda: run.stdout.read(65536), b""))
    run.stdout.close()
    assert (run.wait(20), length) == (0, 320 * 65536)


def test_reader_that_goes_away(pyrunc, make):
    """The program meets a broken pipe, as it would without a container; the runtime does not care."""
    made = make(None, "/bin/yes")
    run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout and run.stderr
    run.stdout.read(4096)
    run.stdout.close()
    assert run.wait(20) != 0
    assert b"Traceback" not in run.stderr.read()
    run.stderr.close()
    assert not pyrunc.exists(pyrunc.id())


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.differs("Go 1.19 opens its epoll descriptor and files at the closed ones")
def test_closed_stdio_is_not_filled_with_our_files(pyrunc, make, closed):
    made = make(None, "/bin/probe", "report")
    made.config["process"]["args"] = ["/bin/sh", "-c", "exec 7>/out; exec /bin/probe fds >&7 7>&-"]
    made.write()

    def close():
        for fd in closed:
            os.close(fd)

    with open(os.devnull, "r+b") as null:
        run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdin=null, stdout=null, stderr=null, preexec_fn=close)
        assert run.wait(20) == 0
    found = json.loads((made.rootfs / "out").read_text())
    # 1 is the file that the shell put there
    links = {entry["fd"]: entry["link"] for entry in found if entry["fd"] != 1}
    assert set(links) <= {0, 2} and set(links.values()) <= {"/dev/null"}, found


@pytest.mark.differs("it copies between pipes of its own in the foreground")
def test_stdio_is_the_very_same_file_in_there(pyrunc, make, scratch):
    made = make(None, "/bin/probe", "fds")
    paths = [scratch / name for name in ("in", "out", "err")]
    with open(paths[0], "w+b") as i, open(paths[1], "w+b") as o, open(paths[2], "ab") as e:
        expected = [os.fstat(f.fileno()) for f in (i, o, e)]
        modes = [fcntl.fcntl(f.fileno(), fcntl.F_GETFL) for f in (i, o, e)]
        run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdin=i, stdout=o, stderr=e)
        assert run.wait(20) == 0
        assert [fcntl.fcntl(f.fileno(), fcntl.F_GETFL) for f in (i, o, e)] == modes
    found = json.loads(paths[1].read_text())
    assert [entry["fd"] for entry in found] == [0, 1, 2]
    assert [(f["dev"], f["ino"]) for f in found] == [(s.st_dev, s.st_ino) for s in expected]
    assert [f["flags"] & os.O_APPEND for f in found] == [0, 0, os.O_APPEND]
    assert paths[2].read_text() == ""


@pytest.mark.parametrize("blocking", [True, False])
def test_blocking_mode_of_the_callers_pipes_is_not_changed(pyrunc, make, blocking):
    """The mode belongs to the open file, which the caller shares: a change in here would break him out there."""
    ends = [os.pipe() for _ in range(3)]
    for pair in ends:
        for fd in pair:
            os.set_blocking(fd, blocking)
    (stdin, far_in), (far_out, stdout), (far_err, stderr) = ends
    run = pyrunc.popen("run", "-b", make(None, "/bin/true"), pyrunc.id(), stdin=stdin, stdout=stdout, stderr=stderr)
    assert run.wait(20) == 0
    assert {os.get_blocking(fd) for fd in (stdin, stdout, stderr)} == {blocking}
    for fd in (stdin, far_in, far_out, stdout, far_err, stderr):
        os.close(fd)


def test_a_created_container_has_the_stdio_of_create_and_not_of_start(pyrunc, make, scratch):
    made, id_ = make(None, "/bin/sh", "-c", "cat; echo err >&2"), pyrunc.id()
    (scratch / "in").write_text("in of create\n")
    with open(scratch / "in", "rb") as i, open(scratch / "out", "wb") as o, open(scratch / "err", "wb") as e:
        assert pyrunc.popen("create", "-b", made, id_, stdin=i, stdout=o, stderr=e).wait(20) == 0
    pid = pyrunc.pid(id_)
    result = pyrunc("start", id_, input="in of start\n")
    assert pyrunc.wait(pid) == 0
    assert (result.out, result.err) == ("", "")
    assert (scratch / "out").read_text() == "in of create\n"
    assert (scratch / "err").read_text() == "err\n"


def test_create_lets_go_of_the_callers_pipe(pyrunc, make):
    """Whoever reads a container's output sees its end when the container ends, not earlier and not later."""
    made, id_ = make(None, "/bin/probe", "cat"), pyrunc.id()
    stdin, far_in = os.pipe()
    far_out, stdout = os.pipe()
    pyrunc("create", "-b", made, id_, stdin=stdin, stdout=stdout)
    pid = pyrunc.pid(id_)
    os.close(stdin)
    os.close(stdout)
    pyrunc("start", id_)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.fdopen(far_out, "rb").read()))
    reader.start()
    os.write(far_in, b"hello")
    os.close(far_in)
    reader.join(20)
    assert got == [b"hello"]
    assert pyrunc.wait(pid) == 0


def test_success_is_silent(pyrunc, make):
    made, id_ = make(None, "/bin/probe", "sleep", "1000"), pyrunc.id()
    for words in (
        ["create", "-b", str(made), id_],
        ["start", id_],
        ["pause", id_],
        ["resume", id_],
        ["exec", id_, "/bin/true"],
        ["kill", id_, "USR1"],
        ["delete", "-f", id_],
        ["run", "-b", str(made), "-d", pyrunc.id("d")],
    ):
        result = pyrunc(*words)
        assert (result.out, result.err) == ("", ""), words
    for words in (["state", pyrunc.id("d")], ["list"], ["list", "-q"], ["features"]):
        result = pyrunc(*words)
        assert result.out and result.err == "", words


@pytest.mark.requires("boot-time")
def test_ps_says_nothing_besides(pyrunc, make):
    pyrunc("run", "-b", str(make(None, "/bin/probe", "sleep", "1000")), "-d", pyrunc.id())
    result = pyrunc("ps", pyrunc.id())
    assert result.out and result.err == ""
