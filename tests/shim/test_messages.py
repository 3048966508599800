"""The tables say what containerd's .proto files say: names, numbers and types, written down here a second time, from those."""

from __future__ import annotations

from typing import Any

import pytest

from shim.containerd import messages as m

#: s string, b bytes, B bool, i int32, l int64, u uint32, e enum, m map<string, string>, * repeated, Name a message
WRITTEN = """
Request         service=1s method=2s payload=3b timeout_nano=4l metadata=5*KeyValue
KeyValue        key=1s value=2s
Response        status=1Status payload=2b
Status          code=1i message=2s details=3*Any
Any             type_url=1s value=2b
Timestamp       seconds=1l nanos=2i
Empty
StateRequest    id=1s exec_id=2s
StartRequest    id=1s exec_id=2s
DeleteRequest   id=1s exec_id=2s
WaitRequest     id=1s exec_id=2s
StateResponse   id=1s bundle=2s pid=3u status=4e stdin=5s stdout=6s stderr=7s terminal=8B exit_status=9u exited_at=10Timestamp exec_id=11s
Mount           type=1s source=2s target=3s options=4*s
CreateTaskRequest id=1s bundle=2s rootfs=3*Mount terminal=4B stdin=5s stdout=6s stderr=7s checkpoint=8s parent_checkpoint=9s options=10Any
CreateTaskResponse pid=1u
StartResponse   pid=1u
DeleteResponse  pid=1u exit_status=2u exited_at=3Timestamp
PidsRequest     id=1s
PidsResponse    processes=1*ProcessInfo
ProcessInfo     pid=1u info=2Any
ProcessDetails  exec_id=1s
CheckpointTaskRequest id=1s path=2s options=3Any
KillRequest     id=1s exec_id=2s signal=3u all=4B
ExecProcessRequest id=1s exec_id=2s terminal=3B stdin=4s stdout=5s stderr=6s spec=7Any
ResizePtyRequest id=1s exec_id=2s width=3u height=4u
CloseIORequest  id=1s exec_id=2s stdin=3B
UpdateTaskRequest id=1s resources=2Any annotations=3m
WaitResponse    exit_status=1u exited_at=2Timestamp
StatsResponse   stats=1Any
ConnectResponse shim_pid=1u task_pid=2u version=3s
ShutdownRequest id=1s now=2B
Options         no_pivot_root=1B no_new_keyring=2B shim_cgroup=3s io_uid=4u io_gid=5u binary_name=6s root=7s criu_path=8s systemd_cgroup=9B criu_image_path=10s criu_work_path=11s task_api_address=12s task_api_version=13u
CheckpointOptions exit=1B open_tcp=2B external_unix_sockets=3B terminal=4B file_locks=5B empty_namespaces=6*s cgroups_mode=7s image_path=8s work_path=9s parent_path=10s
RuntimeOptions  type_url=1s config_path=2s config_body=3b
Envelope        timestamp=1Timestamp namespace=2s topic=3s event=4Any
ForwardRequest  envelope=1Envelope
TaskIO          stdin=1s stdout=2s stderr=3s terminal=4B
TaskCreate      container_id=1s bundle=2s rootfs=3*Mount io=4TaskIO checkpoint=5s pid=6u
TaskStart       container_id=1s pid=2u
TaskDelete      container_id=1s pid=2u exit_status=3u exited_at=4Timestamp id=5s
TaskExit        container_id=1s id=2s pid=3u exit_status=4u exited_at=5Timestamp
TaskOOM         container_id=1s
TaskExecAdded   container_id=1s exec_id=2s
TaskExecStarted container_id=1s exec_id=2s pid=3u
TaskPaused      container_id=1s
TaskResumed     container_id=1s
TaskCheckpointed container_id=1s checkpoint=2s
Extension       value=1Any
BootstrapParams instance_id=1s namespace=2s log_level=3e containerd_version=4s containerd_ttrpc_address=5s containerd_grpc_address=6s containerd_binary=7s extensions=8*Extension socket_dir=9s
BootstrapResult version=1i address=2s protocol=3s capabilities=4*e metadata=5m
RuntimeVersion  version=1s revision=2s
RuntimeInfo     name=1s version=2RuntimeVersion options=3Any features=4Any annotations=5m
"""
KINDS = {"s": "string", "b": "bytes", "B": "bool", "i": "int32", "l": "int64", "u": "uint32", "e": "enum", "m": "map"}
TABLES: dict[str, Any] = {
    **dict.fromkeys(("StateRequest", "StartRequest", "DeleteRequest", "WaitRequest"), m.PROCESS),
    **dict.fromkeys(("CreateTaskResponse", "StartResponse"), m.PID),
    **{name: table for name, table in m.EVENTS.values()},
    "Request": m.REQUEST,
    "KeyValue": m.KEY_VALUE,
    "Response": m.RESPONSE,
    "Status": m.STATUS,
    "Any": m.ANY,
    "Timestamp": m.TIMESTAMP,
    "Empty": m.EMPTY,
    "StateResponse": m.STATE,
    "Mount": m.MOUNT,
    "CreateTaskRequest": m.CREATE,
    "DeleteResponse": m.DELETED,
    "PidsRequest": m.ID,
    "PidsResponse": m.PIDS,
    "ProcessInfo": m.PROCESS_INFO,
    "ProcessDetails": m.PROCESS_DETAILS,
    "CheckpointTaskRequest": m.CHECKPOINT,
    "KillRequest": m.KILL,
    "ExecProcessRequest": m.EXEC,
    "ResizePtyRequest": m.RESIZE,
    "CloseIORequest": m.CLOSE_IO,
    "UpdateTaskRequest": m.UPDATE,
    "WaitResponse": m.WAITED,
    "StatsResponse": m.STATS,
    "ConnectResponse": m.CONNECTED,
    "ShutdownRequest": m.SHUTDOWN,
    "Options": m.OPTIONS,
    "CheckpointOptions": m.CHECKPOINT_OPTIONS,
    "RuntimeOptions": m.RUNTIME_OPTIONS,
    "Envelope": m.ENVELOPE,
    "ForwardRequest": m.FORWARD,
    "TaskIO": m.EVENTS["/tasks/create"][1][4][1],
    "Extension": m.EXTENSION,
    "BootstrapParams": m.BOOTSTRAP_PARAMS,
    "BootstrapResult": m.BOOTSTRAP_RESULT,
    "RuntimeVersion": m.VERSION,
    "RuntimeInfo": m.RUNTIME_INFO,
}
MESSAGES = {line.split()[0]: line.split()[1:] for line in WRITTEN.strip().splitlines()}


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    expected: dict[int, tuple[str, Any]] = {}
    for word in MESSAGES[name]:
        field, _, rest = word.partition("=")
        kind = rest.lstrip("0123456789")
        one: Any = KINDS.get(kind.lstrip("*")) or TABLES[kind.lstrip("*")]
        expected[int(rest[: len(rest) - len(kind)])] = (field, [one] if kind.startswith("*") else one)
    assert TABLES[name] == expected


def test_topics_are_their_messages() -> None:
    """/tasks/exec-added carries TaskExecAdded, and so on."""
    for topic, (name, _) in m.EVENTS.items():
        words = topic.removeprefix("/tasks/").split("-")
        assert name.lower() == "task" + "".join(words)


def test_statuses() -> None:
    assert m.STATUSES == {"created": 1, "running": 2, "stopped": 3, "paused": 4, "pausing": 5}
