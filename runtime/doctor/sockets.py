"""Whether an engine's daemon answers on its socket: with the first frame of HTTP/2, or to a question of HTTP."""

from __future__ import annotations

import socket

from runtime.doctor import ERROR, OK, Finding

ANSWER_S = 5.0
#: RFC 9113, 3.4: what a client says first, and an empty SETTINGS frame; the server's first frame is SETTINGS as well
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_BYTES_MAX = 1 << 22


def grpc(id_: str, path: str) -> Finding:
    """Whether a gRPC server listens on a unix socket."""
    try:
        with _connect(path) as sock:
            sock.sendall(_PREFACE)
            head = b""
            while len(head) < 9 and (more := sock.recv(9 - len(head))):
                head += more
    except OSError as error:
        return silent(id_, path, error)
    if len(head) == 9 and head[3] == 4:
        return Finding(OK, id_, path, "answers")
    return Finding(ERROR, id_, path, "somebody listens who does not speak gRPC", "look who does:\n  ss -lxp")


def get(path: str, url: str) -> bytes:
    """The body that an HTTP server on a unix socket answers with; OSError where it does not."""
    with _connect(path) as sock:
        sock.sendall(f"GET {url} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        data = b""
        while len(data) < _BYTES_MAX and (more := sock.recv(1 << 16)):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise OSError(71, head.split(b"\r\n")[0].decode("latin-1") or "no answer")
    return body


def silent(id_: str, path: str, error: OSError) -> Finding:
    """That nobody answers on a socket, and why."""
    why = "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return Finding(
        ERROR, id_, path, f"does not answer: {why}", "its log says why; where nobody listens, start the daemon"
    )


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(ANSWER_S)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock
