"""Where the process starts and what it starts: cwd, the search for the program, and what is said when it cannot be run."""

from __future__ import annotations

import os

import pytest


def process(**changes):
    """An edit that changes config.process."""
    return lambda config: config["process"].update(changes)


# -- where it starts ---------------------------------------------------------------------------------------------------


def test_cwd_is_made_where_it_is_missing(report, make):
    assert report(process(cwd="/made/of/nothing"))["cwd"] == "/made/of/nothing"


def test_cwd_of_an_owner_only_directory(pyrunc, make):
    made = make(process(cwd="/private", user={"uid": 1000, "gid": 1000}), "/bin/probe", "report")
    (made.rootfs / "private").mkdir(mode=0o700)
    os.chown(made.rootfs / "private", 1000, 1000)
    assert pyrunc("run", "-b", made, pyrunc.id()).json()["cwd"] == "/private"


def test_cwd_through_links_stays_inside(pyrunc, make):
    made = make(process(cwd="/link/sub"), "/bin/probe", "report")
    (made.rootfs / "target/sub").mkdir(parents=True)
    (made.rootfs / "link").symlink_to("/../../../../target")
    assert pyrunc("run", "-b", made, pyrunc.id()).json()["cwd"] == "/target/sub"


def test_cwd_is_a_file(refused):
    error = refused(process(cwd="/etc/passwd"))
    assert "not a directory" in error.lower() and "/etc/passwd" in error


def test_cwd_must_be_absolute(refused):
    refused(process(cwd="usr"), "wd", "absolute")


def test_cwd_may_not_be_a_descriptor_of_the_host(pyrunc, make):
    """CVE-2024-21626: a cwd below /proc/self/fd that still points at the host."""
    for fd in (*range(3, 12),):
        made = make(process(cwd=f"/proc/self/fd/{fd}"), "/bin/probe", "report")
        result = pyrunc("run", "-b", made, pyrunc.id(f"fd{fd}"), status=None)
        assert result.status != 0, result
        assert not list(made.rootfs.glob("proc/*"))


def test_program_is_searched_in_the_path_of_the_container(pyrunc, make):
    def edit(config):
        config["process"].update(args=["tool", "x"], env=["PATH=/nowhere:/opt/a:/opt/b"])

    made = make(edit)
    for name in ("a", "b"):
        (made.rootfs / "opt" / name).mkdir(parents=True)
    (made.rootfs / "opt/a/tool").mkdir()  # a directory is no program
    (made.rootfs / "opt/b/tool").write_text("#!/bin/sh\necho $0 $1\n")
    (made.rootfs / "opt/b/tool").chmod(0o755)
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "/opt/b/tool x\n"


def test_program_by_a_path_relative_to_cwd(pyrunc, make):
    made = make(process(args=["./tool"], cwd="/opt"))
    (made.rootfs / "opt").mkdir()
    (made.rootfs / "opt/tool").write_text("#!/bin/sh\necho here\n")
    (made.rootfs / "opt/tool").chmod(0o755)
    assert pyrunc("run", "-b", made, pyrunc.id()).out == "here\n"


@pytest.mark.parametrize(
    "args, words",
    [
        (["nope"], ['"nope"', "executable file not found in $PATH"]),
        (["/bin/nope"], ['"/bin/nope"', "no such file or directory"]),
        (["/nope/nope"], ['"/nope/nope"', "no such file or directory"]),
        (["/etc/passwd"], ['"/etc/passwd"', "permission denied"]),
        (["/etc"], ['"/etc"', "is a directory"]),
        (["/etc/passwd/x"], ['"/etc/passwd/x"', "not a directory"]),
        ([""], []),
    ],
    ids=["path", "absolute", "directory-missing", "not-executable", "directory", "below-a-file", "empty"],
)
def test_program_that_cannot_be_started_fails_create(refused, peer, args, words):
    """In the words that engines search for (docker turns them into 126 and 127), and as early as create."""
    if peer and args == ["/etc"]:
        words = ["permission denied"]  # runc 1.1; since 1.2 it says what it is
    refused(process(args=args), *words)


@pytest.mark.parametrize("verb", ["create", "run"])
def test_program_of_an_unknown_format(pyrunc, make, verb, gone):
    made, id_ = make(process(args=["/bin/garbage"])), pyrunc.id()
    (made.rootfs / "bin/garbage").write_bytes(b"\x00\x01\x02")
    (made.rootfs / "bin/garbage").chmod(0o755)
    if verb == "run":
        error = pyrunc.fails("run", "-b", made, id_)
        assert "exec format error" in error.lower()
        gone(pyrunc, id_, made)
    else:  # found out only at the moment of execve, which is start's
        pyrunc("create", "-b", made, id_)
        pyrunc("start", id_, status=None)
        pyrunc("delete", "-f", id_)


@pytest.mark.differs("its init writes the error to the container's own stderr, and start succeeds")
def test_start_says_why_the_program_could_not_be_executed(pyrunc, make):
    made, id_ = make(process(args=["/bin/garbage"])), pyrunc.id()
    (made.rootfs / "bin/garbage").write_bytes(b"\x00\x01\x02")
    (made.rootfs / "bin/garbage").chmod(0o755)
    pyrunc("create", "-b", made, id_)
    error = pyrunc.fails("start", id_)
    assert "exec format error" in error.lower() and "/bin/garbage" in error


def test_interpreter_of_a_script_is_missing(pyrunc, make):
    made = make(process(args=["/bin/script"]))
    (made.rootfs / "bin/script").write_text("#!/no/such/shell\n")
    (made.rootfs / "bin/script").chmod(0o755)
    assert "no such file or directory" in pyrunc.fails("run", "-b", made, pyrunc.id())


@pytest.mark.requires("root")
def test_program_that_only_the_user_may_execute(pyrunc, make):
    # with CAP_DAC_OVERRIDE, which the process itself still has when it executes the program, it would be nobody's business
    made = make(process(args=["/bin/own"], user={"uid": 1000, "gid": 1000}, capabilities={}))
    (made.rootfs / "bin/own").write_text("#!/bin/sh\necho own\n")
    (made.rootfs / "bin/own").chmod(0o750)
    assert "permission denied" in pyrunc.fails("run", "-b", made, pyrunc.id("a"))
    os.chown(made.rootfs / "bin/own", 1000, 0)
    assert pyrunc("run", "-b", made, pyrunc.id("b")).out == "own\n"


def test_stdio_belongs_to_the_user(pyrunc, make):
    """The program may open /dev/stdout again, as nginx does; it may not own the host's /dev/null."""
    made = make(
        process(user={"uid": 1000, "gid": 1000}), "/bin/sh", "-c", ": >/dev/stdout && : >/dev/stderr && echo ok"
    )
    null = os.stat("/dev/null")
    read, write = os.pipe()
    with open("/dev/null") as stdin:
        run = pyrunc.popen("run", "-b", made, pyrunc.id(), stdin=stdin, stdout=write, stderr=write)
        os.close(write)
        with os.fdopen(read) as out:
            assert out.read() == "ok\n"
        assert run.wait(20) == 0
    after = os.stat("/dev/null")
    assert (after.st_uid, after.st_mode) == (null.st_uid, null.st_mode)


def test_label_that_nothing_can_apply_is_refused(refused):
    """No security field is skipped in silence."""
    if not os.path.exists("/sys/module/apparmor"):
        refused(process(apparmorProfile="docker-default"), "apparmor")


def test_selinux_label_that_nothing_can_apply_is_refused(refused, peer):
    if not os.path.exists("/sys/fs/selinux/status"):
        refused(process(selinuxLabel="system_u:system_r:svirt_t:s0:c1,c2"), "elinux")
