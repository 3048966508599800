"""The messages of containerd's interfaces as tables for protobuf.py: ttrpc, tasks, events, bootstrap, options.

Names and numbers are those of containerd's api/ (runtime/task/v2 and v3, events, runtime/bootstrap/v1, types/runc/options) and
of ttrpc's request.proto. The tables of statistics are in stats.py, which is loaded when somebody asks for them.
"""

from __future__ import annotations

from shim.containerd.protobuf import MAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.containerd.protobuf import Table

EMPTY: Table = {}
TIMESTAMP: Table = {1: ("seconds", "int64"), 2: ("nanos", "int32")}
ANY: Table = {1: ("type_url", "string"), 2: ("value", "bytes")}

# -- ttrpc -------------------------------------------------------------------------------------------------------------

KEY_VALUE: Table = {1: ("key", "string"), 2: ("value", "string")}
REQUEST: Table = {
    1: ("service", "string"),
    2: ("method", "string"),
    3: ("payload", "bytes"),
    4: ("timeout_nano", "int64"),
    5: ("metadata", [KEY_VALUE]),
}
STATUS: Table = {1: ("code", "int32"), 2: ("message", "string"), 3: ("details", [ANY])}
RESPONSE: Table = {1: ("status", STATUS), 2: ("payload", "bytes")}

# -- tasks -------------------------------------------------------------------------------------------------------------

#: containerd.v1.types.Status by the word of the runtime specification
STATUSES = {"created": 1, "running": 2, "stopped": 3, "paused": 4, "pausing": 5}

ID: Table = {1: ("id", "string")}
#: StateRequest, StartRequest, DeleteRequest, WaitRequest
PROCESS: Table = {1: ("id", "string"), 2: ("exec_id", "string")}
#: CreateTaskResponse, StartResponse
PID: Table = {1: ("pid", "uint32")}
MOUNT: Table = {1: ("type", "string"), 2: ("source", "string"), 3: ("target", "string"), 4: ("options", ["string"])}
CREATE: Table = {
    1: ("id", "string"),
    2: ("bundle", "string"),
    3: ("rootfs", [MOUNT]),
    4: ("terminal", "bool"),
    5: ("stdin", "string"),
    6: ("stdout", "string"),
    7: ("stderr", "string"),
    8: ("checkpoint", "string"),
    9: ("parent_checkpoint", "string"),
    10: ("options", ANY),
}
STATE: Table = {
    1: ("id", "string"),
    2: ("bundle", "string"),
    3: ("pid", "uint32"),
    4: ("status", "enum"),
    5: ("stdin", "string"),
    6: ("stdout", "string"),
    7: ("stderr", "string"),
    8: ("terminal", "bool"),
    9: ("exit_status", "uint32"),
    10: ("exited_at", TIMESTAMP),
    11: ("exec_id", "string"),
}
DELETED: Table = {1: ("pid", "uint32"), 2: ("exit_status", "uint32"), 3: ("exited_at", TIMESTAMP)}
PROCESS_INFO: Table = {1: ("pid", "uint32"), 2: ("info", ANY)}
PIDS: Table = {1: ("processes", [PROCESS_INFO])}
PROCESS_DETAILS: Table = {1: ("exec_id", "string")}
CHECKPOINT: Table = {1: ("id", "string"), 2: ("path", "string"), 3: ("options", ANY)}
KILL: Table = {1: ("id", "string"), 2: ("exec_id", "string"), 3: ("signal", "uint32"), 4: ("all", "bool")}
EXEC: Table = {
    1: ("id", "string"),
    2: ("exec_id", "string"),
    3: ("terminal", "bool"),
    4: ("stdin", "string"),
    5: ("stdout", "string"),
    6: ("stderr", "string"),
    7: ("spec", ANY),
}
RESIZE: Table = {1: ("id", "string"), 2: ("exec_id", "string"), 3: ("width", "uint32"), 4: ("height", "uint32")}
CLOSE_IO: Table = {1: ("id", "string"), 2: ("exec_id", "string"), 3: ("stdin", "bool")}
UPDATE: Table = {1: ("id", "string"), 2: ("resources", ANY), 3: ("annotations", MAP)}
WAITED: Table = {1: ("exit_status", "uint32"), 2: ("exited_at", TIMESTAMP)}
STATS: Table = {1: ("stats", ANY)}
CONNECTED: Table = {1: ("shim_pid", "uint32"), 2: ("task_pid", "uint32"), 3: ("version", "string")}
SHUTDOWN: Table = {1: ("id", "string"), 2: ("now", "bool")}

# -- options -----------------------------------------------------------------------------------------------------------

#: containerd.runc.v1.Options
OPTIONS: Table = {
    1: ("no_pivot_root", "bool"),
    2: ("no_new_keyring", "bool"),
    3: ("shim_cgroup", "string"),
    4: ("io_uid", "uint32"),
    5: ("io_gid", "uint32"),
    6: ("binary_name", "string"),
    7: ("root", "string"),
    8: ("criu_path", "string"),
    9: ("systemd_cgroup", "bool"),
    10: ("criu_image_path", "string"),
    11: ("criu_work_path", "string"),
    12: ("task_api_address", "string"),
    13: ("task_api_version", "uint32"),
}
#: containerd.runc.v1.CheckpointOptions
CHECKPOINT_OPTIONS: Table = {
    1: ("exit", "bool"),
    2: ("open_tcp", "bool"),
    3: ("external_unix_sockets", "bool"),
    4: ("terminal", "bool"),
    5: ("file_locks", "bool"),
    6: ("empty_namespaces", ["string"]),
    7: ("cgroups_mode", "string"),
    8: ("image_path", "string"),
    9: ("work_path", "string"),
    10: ("parent_path", "string"),
}
#: containerd.linux.runc.CreateOptions: what containerd 1.x's own client sends to a shim that is not called runc
LINUX_CREATE_OPTIONS: Table = {
    1: ("no_pivot_root", "bool"),
    8: ("no_new_keyring", "bool"),
    9: ("shim_cgroup", "string"),
    10: ("io_uid", "uint32"),
    11: ("io_gid", "uint32"),
    12: ("criu_work_path", "string"),
    13: ("criu_image_path", "string"),
}
#: containerd.linux.runc.CheckpointOptions
LINUX_CHECKPOINT_OPTIONS: Table = {
    **{number: field for number, field in CHECKPOINT_OPTIONS.items() if number < 8},
    8: ("work_path", "string"),
    9: ("image_path", "string"),
}
CHECKPOINT_OPTIONS_BY_TYPE: dict[str, Table] = {
    "containerd.runc.v1.CheckpointOptions": CHECKPOINT_OPTIONS,
    "containerd.linux.runc.CheckpointOptions": LINUX_CHECKPOINT_OPTIONS,
}
#: runtimeoptions.v1.Options: what engines send to a shim whose own options they do not know
RUNTIME_OPTIONS: Table = {1: ("type_url", "string"), 2: ("config_path", "string"), 3: ("config_body", "bytes")}

# -- events ------------------------------------------------------------------------------------------------------------

ENVELOPE: Table = {1: ("timestamp", TIMESTAMP), 2: ("namespace", "string"), 3: ("topic", "string"), 4: ("event", ANY)}
FORWARD: Table = {1: ("envelope", ENVELOPE)}
_IO: Table = {1: ("stdin", "string"), 2: ("stdout", "string"), 3: ("stderr", "string"), 4: ("terminal", "bool")}

#: topic -> (message below containerd.events, its table)
EVENTS: dict[str, tuple[str, Table]] = {
    "/tasks/create": (
        "TaskCreate",
        {
            1: ("container_id", "string"),
            2: ("bundle", "string"),
            3: ("rootfs", [MOUNT]),
            4: ("io", _IO),
            5: ("checkpoint", "string"),
            6: ("pid", "uint32"),
        },
    ),
    "/tasks/start": ("TaskStart", {1: ("container_id", "string"), 2: ("pid", "uint32")}),
    "/tasks/oom": ("TaskOOM", {1: ("container_id", "string")}),
    "/tasks/exit": (
        "TaskExit",
        {
            1: ("container_id", "string"),
            2: ("id", "string"),
            3: ("pid", "uint32"),
            4: ("exit_status", "uint32"),
            5: ("exited_at", TIMESTAMP),
        },
    ),
    "/tasks/delete": (
        "TaskDelete",
        {
            1: ("container_id", "string"),
            2: ("pid", "uint32"),
            3: ("exit_status", "uint32"),
            4: ("exited_at", TIMESTAMP),
            5: ("id", "string"),
        },
    ),
    "/tasks/exec-added": ("TaskExecAdded", {1: ("container_id", "string"), 2: ("exec_id", "string")}),
    "/tasks/exec-started": (
        "TaskExecStarted",
        {1: ("container_id", "string"), 2: ("exec_id", "string"), 3: ("pid", "uint32")},
    ),
    "/tasks/paused": ("TaskPaused", {1: ("container_id", "string")}),
    "/tasks/resumed": ("TaskResumed", {1: ("container_id", "string")}),
    "/tasks/checkpointed": ("TaskCheckpointed", {1: ("container_id", "string"), 2: ("checkpoint", "string")}),
}

# -- bootstrap ---------------------------------------------------------------------------------------------------------

EXTENSION: Table = {1: ("value", ANY)}
BOOTSTRAP_PARAMS: Table = {
    1: ("instance_id", "string"),
    2: ("namespace", "string"),
    3: ("log_level", "enum"),
    4: ("containerd_version", "string"),
    5: ("containerd_ttrpc_address", "string"),
    6: ("containerd_grpc_address", "string"),
    7: ("containerd_binary", "string"),
    8: ("extensions", [EXTENSION]),
    9: ("socket_dir", "string"),
}
BOOTSTRAP_RESULT: Table = {
    1: ("version", "int32"),
    2: ("address", "string"),
    3: ("protocol", "string"),
    4: ("capabilities", ["enum"]),
    5: ("metadata", MAP),
}
VERSION: Table = {1: ("version", "string"), 2: ("revision", "string")}
RUNTIME_INFO: Table = {
    1: ("name", "string"),
    2: ("version", VERSION),
    3: ("options", ANY),
    4: ("features", ANY),
    5: ("annotations", MAP),
}
