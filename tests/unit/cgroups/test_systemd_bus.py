"""The calls to systemd, with the real libsystemd on our side and a systemd that answers as the test wants on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_systemd import Answer, FakeSystemd

from runtime.cgroups import sdbus, systemd_bus
from runtime.cgroups.systemd_bus import Manager, Refusal
from runtime.errors import CgroupError, Unsupported

Start = Callable[[Answer], "tuple[Manager, FakeSystemd]"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Start]:
    """manager(answer) -> (a connection, the systemd at its other end)."""
    made: list[Any] = []

    def start(answer: Answer) -> tuple[Manager, FakeSystemd]:
        fake = FakeSystemd(tmp_path, answer)
        made.append(fake)
        connection = Manager([fake.address])
        made.append(connection)
        return connection, fake

    yield start
    for thing in reversed(made):
        thing.close()


def of(**answers: Any) -> Answer:
    return lambda member, body: answers[member]


def test_a_unit_is_started(manager: Start) -> None:
    got: list[bytes] = []

    def answer(member: str, body: bytes) -> tuple[str, Any]:
        got.append(body)
        return "job", "done"

    connection, fake = manager(answer)
    connection.start(
        "x.scope",
        [("Slice", "s", "a.slice"), ("PIDs", "au", [17]), ("MemoryMax", "t", 5), ("DeviceAllow", "a(ss)", [("/dev/null", "rw")]),
         ("Delegate", "b", True), ("AllowedCPUs", "ay", [1, 2]), ("IOReadBandwidthMax", "a(st)", [("/dev/a", 7)]), ("Wants", "as", [])],
    )  # fmt: skip
    assert fake.calls == ["StartTransientUnit"]
    for text in (b"x.scope", b"replace", b"Slice", b"a.slice", b"PIDs\0\x02au\0", b"a(ss)", b"/dev/null", b"a(st)"):
        assert text in got[0]


def test_a_job_that_ends_badly(manager: Start) -> None:
    connection, fake = manager(of(StartTransientUnit=("job", "failed"), Get=("v", "resources")))
    with pytest.raises(CgroupError) as caught:
        connection.start("x.scope", [])
    assert caught.value.message == 'start unit x.scope: systemd says "failed" (result: resources)'
    assert "journalctl -u x.scope" in caught.value.hint and fake.calls == ["StartTransientUnit", "Get"]


def test_a_job_without_an_end(manager: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_bus, "JOB_S", 0.2)
    connection, _ = manager(of(StartTransientUnit=("o", "/org/freedesktop/systemd1/job/1")))
    with pytest.raises(CgroupError, match=r"^start unit x.scope: systemd: not done within 0.2 s$"):
        connection.start("x.scope", [])


def test_no_answer(manager: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_bus, "CALL_S", 0.2)
    connection, _ = manager(of(StopUnit=None))
    with pytest.raises(CgroupError, match=r"^stop unit x.scope: systemd: Connection timed out$"):
        connection.stop("x.scope")


def test_words_of_a_refusal(manager: Start) -> None:
    denied = "org.freedesktop.DBus.Error.AccessDenied"
    connection, _ = manager(of(StartTransientUnit=(denied, "Permission denied"), SetUnitProperties=("a.b.C", "No.")))
    with pytest.raises(Refusal) as caught:
        connection.start("x.scope", [])
    error = caught.value.error("start unit x.scope")
    assert error.message == "start unit x.scope: systemd: Permission denied" and "XDG_RUNTIME_DIR" in error.hint
    with pytest.raises(Refusal) as caught:
        connection.set("x.scope", [("TasksMax", "t", 5)])
    assert (caught.value.name, caught.value.words) == ("a.b.C", "No")


def test_stopping_what_is_not_there(manager: Start) -> None:
    connection, fake = manager(
        of(
            StopUnit=(systemd_bus.NO_SUCH_UNIT, "Unit x.scope not loaded."),
            ResetFailedUnit=(systemd_bus.NO_SUCH_UNIT, "No"),
        )
    )
    connection.stop("x.scope")
    assert fake.calls == ["StopUnit", "ResetFailedUnit"]


def test_stopping(manager: Start) -> None:
    connection, fake = manager(of(StopUnit=("job", "done"), ResetFailedUnit=("", "")))
    connection.stop("x.scope")
    assert fake.calls == ["StopUnit", "ResetFailedUnit"]


def test_changing_waits_until_systemd_has_written(manager: Start) -> None:
    connection, fake = manager(of(SetUnitProperties=("", ""), Ping=("", "")))
    connection.set("x.scope", [("TasksMax", "t", 5)])
    assert fake.calls == ["SetUnitProperties", "Ping"]


def test_asking(manager: Start) -> None:
    connection, _ = manager(of(Get=("v", "/user.slice")))
    assert connection.get("ControlGroup", "s") == "/user.slice"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(CgroupError) as caught:
        Manager([f"unix:path={tmp_path}/systemd/private", f"unix:path={tmp_path}/bus"])
    assert caught.value.message == (
        f"cannot reach systemd: {tmp_path}/systemd/private: no such file or directory; {tmp_path}/bus: no such file or directory"
    )


def test_one_who_does_not_say_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(systemd_bus, "CONNECT_S", 0.2)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/bus")
        server.listen(1)
        with pytest.raises(CgroupError, match="bus: connection timed out"):
            Manager([f"unix:path={tmp_path}/bus"])


def test_the_second_address_will_do(tmp_path: Path) -> None:
    fake = FakeSystemd(tmp_path, of())
    connection = Manager([f"unix:path={tmp_path}/nobody", fake.address])
    assert connection.address == fake.address
    connection.close()
    fake.close()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdbus, "SONAME", "libsystemd-that-is-not-there.so.0")
    with pytest.raises(Unsupported) as caught:
        Manager(["unix:path=/x"])
    assert "systemd cannot be spoken to" in caught.value.message and "libsystemd0" in caught.value.hint


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_bus.os, "environ", {})
    assert systemd_bus.user_addresses() == []
    assert systemd_bus.system_addresses() == ["unix:path=/run/systemd/private", "unix:path=/run/dbus/system_bus_socket"]
    monkeypatch.setattr(systemd_bus.os, "environ", {"XDG_RUNTIME_DIR": "/run/user/1 ü"})
    assert systemd_bus.user_addresses() == [
        "unix:path=/run/user/1%20%c3%bc/systemd/private", "unix:path=/run/user/1%20%c3%bc/bus"
    ]  # fmt: skip
    bus = {"XDG_RUNTIME_DIR": "/r", "DBUS_SESSION_BUS_ADDRESS": "unix:abstract=x", "DBUS_SYSTEM_BUS_ADDRESS": "tcp:y"}
    monkeypatch.setattr(systemd_bus.os, "environ", bus)
    assert systemd_bus.user_addresses() == ["unix:path=/r/systemd/private", "unix:abstract=x"]
    assert systemd_bus.system_addresses()[1] == "tcp:y"


def test_paths_of_units() -> None:
    assert systemd_bus._unit_path("a-b.scope") == b"/org/freedesktop/systemd1/unit/a_2db_2escope"
    assert systemd_bus._unit_path("1a.scope") == b"/org/freedesktop/systemd1/unit/_31a_2escope"
