"""The program: where it is looked for, what it is given, and what is said where it cannot be started."""

from __future__ import annotations

import pytest

from runtime import wire
from runtime.errors import ExecError, HookError
from runtime.plan import Plan

from .conftest import found, lines, make_plan, make_request


def candidates(name: str, *env: str) -> str:
    plan = make_plan({"args": [name], "env": ["HOME=/", *env]})
    (find,), (execute,) = found(plan, "find-exec"), found(plan, "exec")
    assert (find.s0, find.a) == (execute.s0, execute.a)
    return str(find.s0).replace("\0", ":")


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("/bin/app", "/usr/bin", "/bin/app"),
        ("./app", "/usr/bin", "./app"),
        ("a/b", "/usr/bin", "a/b"),
        ("app", "/usr/bin:/bin", "/usr/bin/app:/bin/app"),
        ("app", "/usr/bin/:/", "/usr/bin/app:/app"),
        # what is relative would be looked for wherever the working directory is
        ("app", ":.:bin:/opt", "/opt/app"),
    ],
)
def test_candidates(name: str, path: str, expected: str) -> None:
    assert candidates(name, f"PATH={path}") == expected


def test_the_last_path_counts() -> None:
    assert candidates("app", "PATH=/a", "PATH=/b") == "/b/app"


@pytest.mark.parametrize(("name", "env"), [("app", []), ("app", ["PATH="]), ("app", ["PATH=a:b"])])
def test_nowhere_to_look(name: str, env: list[str]) -> None:
    with pytest.raises(ExecError) as caught:
        make_plan({"args": [name], "env": env})
    assert str(caught.value) == f'exec: "{name}": executable file not found in $PATH'


@pytest.mark.parametrize(
    ("name", "op", "errno", "text"),
    [
        ("nosuch", "find-exec", 2, 'exec: "nosuch": executable file not found in $PATH'),
        ("nosuch", "find-exec", 13, 'exec: "nosuch": executable file not found in $PATH'),
        ("/x", "find-exec", 2, 'exec: "/x": stat /x: no such file or directory'),
        ("/x/y", "find-exec", 20, 'exec: "/x/y": stat /x/y: not a directory'),
        ("/etc/passwd", "find-exec", 13, 'exec: "/etc/passwd": permission denied'),
        ("/etc", "find-exec", 21, 'exec: "/etc": is a directory: permission denied'),
        ("/s", "exec", 8, 'exec: "/s": exec format error'),
        ("/s", "exec", 2, 'exec: "/s": no such file or directory'),
        ("s", "exec", 13, 'exec: "s": permission denied'),
    ],
)
def test_failures_read_like_those_of_runc(name: str, op: str, errno: int, text: str) -> None:
    plan = make_plan({"args": [name], "env": ["PATH=/bin"]})
    error = wire.failure(plan, index_of(plan, op), errno, b"")
    assert isinstance(error, ExecError) and error.errno == errno
    assert str(error) == text and error.message == text


def index_of(plan: Plan, name: str) -> int:
    return next(index for index, op in enumerate(plan.ops) if op.name == name)


def test_a_hook_that_fails_is_no_refusal_of_the_kernel() -> None:
    plan = make_plan(hooks={"createContainer": [{"path": "/h", "timeout": 1}]})
    index = index_of(plan, "run-hook")
    for errno, detail, text in (
        (10, b"exit status 3: no gpu", f"createContainer[0] /h: exit status 3: no gpu [init {index}]"),
        (110, b"still here", f"createContainer[0] /h: no end within its timeout, killed: still here [init {index}]"),
    ):
        error = wire.failure(plan, index, errno, detail)
        assert isinstance(error, HookError) and str(error) == text
    assert (
        str(wire.failure(plan, index, 2, b""))
        == f"createContainer[0] /h: no such file or directory [hooks.createContainer.0, init {index}]"
    )


def test_home_only_where_the_config_has_none() -> None:
    assert not lines(make_plan({"env": ["HOME="]}), "home")
    assert lines(make_plan({"env": ["XHOME=/"], "user": {"uid": 5, "gid": 0}}), "home") == ["home of uid 5"]


def test_environment_of_service_managers() -> None:
    plan = make_plan(request={"listen_fds": 2, "preserve": 3, "notify_dir": "/run/n"})
    (execute,) = found(plan, "exec")
    assert str(execute.s2).split("\0") == [
        "HOME=/",
        "LISTEN_FDS=2",
        "LISTEN_PID=1",
        "NOTIFY_SOCKET=/run/notify/notify.sock",
    ]
    assert (plan.preserve, lines(plan, "close-range")) == (3, ["close-range from 6"])


def test_arguments_of_the_program_are_its_own() -> None:
    (execute,) = found(make_plan({"args": ["/bin/app", "", "a b", "ü"]}), "exec")
    assert str(execute.s1).split("\0") == ["/bin/app", "", "a b", "ü"] and execute.b == 4


def test_a_request_without_a_seccomp_filter_loads_none() -> None:
    assert make_request().seccomp is None
    assert not lines(make_plan(), "seccomp")
