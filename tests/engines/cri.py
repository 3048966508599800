"""A small client of the Container Runtime Interface, what the kubelet speaks to containerd and CRI-O: gRPC without stubs.

    cri = Cri(address)
    cri("RunPodSandbox", config={...}, runtime_handler="...")["pod_sandbox_id"]
    stream = cri.stream(lab, cri("Exec", ...)["url"])          # exec, attach, port-forward over a web socket

Messages are dicts, encoded by the shim's own table-driven codec; the tables below hold the fields that the tests use, by
the names and numbers of cri-api's runtime/v1/api.proto.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import pytest
from lab import Lab

from shim.containerd.protobuf import MAP, decode, encode

if TYPE_CHECKING:
    from shim.containerd.protobuf import Table

# -- messages --------------------------------------------------------------------------------------------------------------

INT64: Table = {1: ("value", "int64")}
UINT64: Table = {1: ("value", "uint64")}
NAMESPACES: Table = {1: ("network", "enum"), 2: ("pid", "enum"), 3: ("ipc", "enum"), 4: ("target_id", "string")}
#: NamespaceMode
POD, CONTAINER, NODE, TARGET = range(4)
PROFILE: Table = {1: ("profile_type", "enum"), 2: ("localhost_ref", "string")}
#: SecurityProfile.ProfileType
RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = range(3)

RESOURCES: Table = {
    1: ("cpu_period", "int64"),
    2: ("cpu_quota", "int64"),
    3: ("cpu_shares", "int64"),
    4: ("memory_limit_in_bytes", "int64"),
    5: ("oom_score_adj", "int64"),
    6: ("cpuset_cpus", "string"),
}
POD_METADATA: Table = {
    1: ("name", "string"),
    2: ("uid", "string"),
    3: ("namespace", "string"),
    4: ("attempt", "uint32"),
}
POD_SECURITY: Table = {1: ("namespace_options", NAMESPACES), 6: ("privileged", "bool"), 9: ("seccomp", PROFILE)}
POD_CONFIG: Table = {
    1: ("metadata", POD_METADATA),
    2: ("hostname", "string"),
    3: ("log_directory", "string"),
    4: ("dns_config", {1: ("servers", ["string"]), 2: ("searches", ["string"]), 3: ("options", ["string"])}),
    6: ("labels", MAP),
    7: ("annotations", MAP),
    8: ("linux", {1: ("cgroup_parent", "string"), 2: ("security_context", POD_SECURITY), 3: ("sysctls", MAP)}),
}

CONTAINER_METADATA: Table = {1: ("name", "string"), 2: ("attempt", "uint32")}
CAPABILITIES: Table = {1: ("add_capabilities", ["string"]), 2: ("drop_capabilities", ["string"])}
SECURITY: Table = {
    1: ("capabilities", CAPABILITIES),
    2: ("privileged", "bool"),
    3: ("namespace_options", NAMESPACES),
    5: ("run_as_user", INT64),
    6: ("run_as_username", "string"),
    7: ("readonly_rootfs", "bool"),
    8: ("supplemental_groups", ["int64"]),
    11: ("no_new_privs", "bool"),
    12: ("run_as_group", INT64),
    13: ("masked_paths", ["string"]),
    14: ("readonly_paths", ["string"]),
    15: ("seccomp", PROFILE),
}
MOUNT: Table = {
    1: ("container_path", "string"),
    2: ("host_path", "string"),
    3: ("readonly", "bool"),
    5: ("propagation", "enum"),
}
#: MountPropagation
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = range(3)
CONTAINER_CONFIG: Table = {
    1: ("metadata", CONTAINER_METADATA),
    2: ("image", {1: ("image", "string")}),
    3: ("command", ["string"]),
    4: ("args", ["string"]),
    5: ("working_dir", "string"),
    6: ("envs", [{1: ("key", "string"), 2: ("value", "string")}]),
    7: ("mounts", [MOUNT]),
    8: ("devices", [{1: ("container_path", "string"), 2: ("host_path", "string"), 3: ("permissions", "string")}]),
    9: ("labels", MAP),
    10: ("annotations", MAP),
    11: ("log_path", "string"),
    12: ("stdin", "bool"),
    13: ("stdin_once", "bool"),
    14: ("tty", "bool"),
    15: ("linux", {1: ("resources", RESOURCES), 2: ("security_context", SECURITY)}),
}
POD_STATUS: Table = {
    1: ("id", "string"),
    3: ("state", "enum"),
    5: ("network", {1: ("ip", "string")}),
    9: ("runtime_handler", "string"),
}
#: PodSandboxState, ContainerState
READY, NOT_READY = range(2)
CREATED, RUNNING, EXITED, UNKNOWN = range(4)
STATUS: Table = {
    1: ("id", "string"),
    3: ("state", "enum"),
    5: ("started_at", "int64"),
    6: ("finished_at", "int64"),
    7: ("exit_code", "int32"),
    10: ("reason", "string"),
    11: ("message", "string"),
    15: ("log_path", "string"),
}
STATS: Table = {
    1: ("attributes", {1: ("id", "string")}),
    2: ("cpu", {1: ("timestamp", "int64"), 2: ("usage_core_nano_seconds", UINT64)}),
    3: ("memory", {1: ("timestamp", "int64"), 2: ("working_set_bytes", UINT64), 4: ("usage_bytes", UINT64)}),
}
POD_STATS: Table = {4: ("process", {2: ("process_count", UINT64)})}

POD_ID: Table = {1: ("pod_sandbox_id", "string")}
CONTAINER_ID: Table = {1: ("container_id", "string")}
URL: Table = {1: ("url", "string")}
EXEC: Table = {
    1: ("container_id", "string"),
    2: ("cmd", ["string"]),
    3: ("tty", "bool"),
    4: ("stdin", "bool"),
    5: ("stdout", "bool"),
    6: ("stderr", "bool"),
}
ATTACH: Table = {
    1: ("container_id", "string"),
    2: ("stdin", "bool"),
    3: ("tty", "bool"),
    4: ("stdout", "bool"),
    5: ("stderr", "bool"),
}
CONDITION: Table = {1: ("type", "string"), 2: ("status", "bool"), 3: ("reason", "string"), 4: ("message", "string")}
CREATE: Table = {1: ("pod_sandbox_id", "string"), 2: ("config", CONTAINER_CONFIG), 3: ("sandbox_config", POD_CONFIG)}
EXEC_SYNC: Table = {1: ("container_id", "string"), 2: ("cmd", ["string"]), 3: ("timeout", "int64")}

#: method -> (request, response)
METHODS: dict[str, tuple[Table, Table]] = {
    "Version": ({1: ("version", "string")}, {2: ("runtime_name", "string"), 4: ("runtime_api_version", "string")}),
    "Status": ({}, {1: ("status", {1: ("conditions", [CONDITION])})}),
    "RunPodSandbox": ({1: ("config", POD_CONFIG), 2: ("runtime_handler", "string")}, POD_ID),
    "StopPodSandbox": (POD_ID, {}),
    "RemovePodSandbox": (POD_ID, {}),
    "PodSandboxStatus": (POD_ID, {1: ("status", POD_STATUS)}),
    "PodSandboxStats": (POD_ID, {1: ("stats", {2: ("linux", POD_STATS)})}),
    "ListPodSandbox": ({}, {1: ("items", [{1: ("id", "string"), 3: ("state", "enum")}])}),
    "CreateContainer": (CREATE, CONTAINER_ID),
    "StartContainer": (CONTAINER_ID, {}),
    "StopContainer": ({1: ("container_id", "string"), 2: ("timeout", "int64")}, {}),
    "RemoveContainer": (CONTAINER_ID, {}),
    "ListContainers": ({}, {1: ("containers", [{1: ("id", "string"), 6: ("state", "enum")}])}),
    "ContainerStatus": (CONTAINER_ID, {1: ("status", STATUS)}),
    "ContainerStats": (CONTAINER_ID, {1: ("stats", STATS)}),
    "UpdateContainerResources": ({1: ("container_id", "string"), 2: ("linux", RESOURCES)}, {}),
    "ReopenContainerLog": (CONTAINER_ID, {}),
    "CheckpointContainer": ({1: ("container_id", "string"), 2: ("location", "string")}, {}),
    "ExecSync": (EXEC_SYNC, {1: ("stdout", "bytes"), 2: ("stderr", "bytes"), 3: ("exit_code", "int32")}),
    "Exec": (EXEC, URL),
    "Attach": (ATTACH, URL),
    "PortForward": ({1: ("pod_sandbox_id", "string"), 2: ("port", ["int32"])}, URL),
}


class CriError(Exception):
    """What the engine answered instead: .code is gRPC's name, str() its words."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(error.details())
        self.code = error.code().name


class Cri:
    """The runtime service behind a socket."""

    def __init__(self, address: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{address}")
        self._methods = {
            name: self._channel.unary_unary(
                f"/runtime.v1.RuntimeService/{name}",
                request_serializer=lambda values, table=tables[0]: encode(table, values),
                response_deserializer=lambda data, table=tables[1]: decode(table, data),
            )
            for name, tables in METHODS.items()
        }

    def __call__(self, method: str, *, timeout_s: float = 60, **fields: Any) -> dict[str, Any]:
        """Call a method; CriError where the engine refuses."""
        try:
            answer: dict[str, Any] = self._methods[method](fields, timeout=timeout_s, wait_for_ready=True)
            return answer
        except grpc.RpcError as error:
            raise CriError(error) from None

    def is_ready(self) -> bool:
        """Whether the engine says that pods can be run."""
        try:
            conditions = {each["type"]: each["status"] for each in self("Status")["status"]["conditions"]}
            return conditions["RuntimeReady"] and conditions["NetworkReady"]  # others are opinions, as of cgroup v1
        except CriError:  # "server is not initialized yet"
            return False

    def close(self) -> None:
        self._channel.close()


# -- streams ---------------------------------------------------------------------------------------------------------------

#: channels of remote commands
STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)


class Stream:
    """exec, attach and port-forward: Kubernetes' channels (v4.channel.k8s.io) over a web socket (RFC 6455)."""

    def __init__(self, lab: Lab, url: str) -> None:
        parts = urlsplit(url)
        self._socket = lab.connect(parts.port or 80)
        self._read = b""
        self.seen: dict[int, bytes] = {}
        self.is_open = True
        key = base64.b64encode(os.urandom(16)).decode()
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._read:
            self._receive()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head.decode()

    def _receive(self) -> None:
        part = self._socket.recv(65536)
        if not part:
            raise EOFError("the stream ended")
        self._read += part

    def _take(self, count: int) -> bytes:
        while len(self._read) < count:
            self._receive()
        data, self._read = self._read[:count], self._read[count:]
        return data

    def write(self, channel: int, data: bytes) -> None:
        """One message on a channel, masked, as a client's have to be."""
        data = bytes([channel]) + data
        size = struct.pack(">B", 0x80 | len(data)) if len(data) < 126 else struct.pack(">BH", 0xFE, len(data))
        self._socket.sendall(b"\x82" + size + bytes(4) + data)

    def resize(self, columns: int, rows: int) -> None:
        self.write(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def _message(self) -> None:
        first, size = self._take(2)
        size &= 0x7F
        if size > 125:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        data = self._take(size)
        if first & 15 == 8:  # close
            self.is_open = False
        elif first & 15 in (1, 2) and data:
            self.seen[data[0]] = self.seen.get(data[0], b"") + data[1:]

    def until(self, channel: int, text: bytes, timeout: float = 30) -> bytes:
        """Read until a channel has said this; all that it has said."""
        deadline = time.monotonic() + timeout
        self._socket.settimeout(timeout)
        while text not in self.seen.get(channel, b""):
            if not self.is_open or time.monotonic() > deadline:
                pytest.fail(f"{text!r} is not in {self.seen}", pytrace=False)
            try:
                self._message()
            except (EOFError, TimeoutError, ConnectionResetError):
                self.is_open = False
        return self.seen[channel]

    def exit_status(self) -> int:
        """Read to the end; the exit status in the final Status object."""
        while self.is_open:
            try:
                self._message()
            except (EOFError, ConnectionResetError):
                self.is_open = False
        self._socket.close()
        status = json.loads(self.seen[ERROR])
        if status["status"] == "Success":
            return 0
        return next(int(each["message"]) for each in status["details"]["causes"] if each["reason"] == "ExitCode")

    def close(self) -> None:
        self._socket.close()
