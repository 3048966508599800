"""What conmon's callers and clients write while a container runs: control fifos, the attach socket."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from random import Random

import answers
import mutation
from engine import Finding, Target


class Control(Target):
    """Lines to conmon's fifos, and packets to its attach socket, between which the container's terminal comes and goes."""

    name = "control"

    def seeds(self) -> list[bytes]:
        cases = [
            [["ctl", "1 24 80\n"], ["winsz", "24 80\n"], ["ctl", "2 0 0\n"]], [["ctl", "1 99999 99999\n"], ["ctl", "1 -1 5\n"], ["ctl", "x" * 5000]],
            [["ctl", "1 2"], ["ctl", "4 80\n"], ["terminal", ""], ["winsz", "0 0\n"]], [["attach", "x" * 100], ["attach", ""], ["output", "y" * 20000]],
            [["ctl", "\0\n\n\n"], ["winsz", "\xb9 2\n"], ["winsz", "1_0 2\n"], ["winsz", "65535 65536\n"]], [["ctl", "3 0 0\n1\n1 1\n1 1 1 1\n"]],
        ]  # fmt: skip
        return [json.dumps(case).encode() for case in cases]

    def change(self, rng: Random, data: bytes) -> bytes:
        case = json.loads(data)
        at = rng.randrange(len(case) + 1)
        kind = rng.randrange(4)
        if kind == 0 and case:
            del case[min(at, len(case) - 1)]
        elif kind == 1 or not case:
            case.insert(
                at,
                [
                    rng.choice(("ctl", "winsz", "attach", "output", "terminal")),
                    rng.choice(("1 24 80\n", "24 80\n", "2 0 0\n", "", "x" * 9000)),
                ],
            )
        else:
            at = min(at, len(case) - 1)
            case[at][1] = mutation.octets(rng, case[at][1].encode("latin-1"))[:20000].decode("latin-1")
        return json.dumps(case[:30]).encode()

    def begin(self, place: Path) -> None:
        from shim.loop import Loop

        self.place = place
        self.loop = Loop()

    def end(self) -> None:
        self.loop.close()

    def turn(self) -> None:
        limit = self.loop.later(0.0, lambda: None)
        self.loop.turn()
        limit.cancel()

    def run(self, data: bytes) -> None:
        from shim.conmon.attach import Attach
        from shim.conmon.control import Control as Real

        said: list[str] = []

        class Messages:
            warn = debug = error = staticmethod(said.append)

        before = len(os.listdir("/proc/self/fd"))
        reopened: list[int] = []
        control = Real(self.loop, Messages(), str(self.place), lambda: reopened.append(1))  # type: ignore[arg-type]
        attach = Attach(self.loop, Messages(), lambda: None)  # type: ignore[arg-type]
        attach.listen(str(self.place), "", "")
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(str(self.place / "attach"))
        client.setblocking(False)
        writers = {name: os.open(self.place / name, os.O_WRONLY | os.O_NONBLOCK) for name in ("ctl", "winsz")}
        master, slave = os.openpty()
        self.turn()
        try:
            for what, text in json.loads(data or b"[]"):
                content = text.encode("latin-1", "replace")
                try:
                    if what in writers:
                        os.write(writers[what], content)
                    elif what == "attach":
                        client.send(content)
                    elif what == "terminal":
                        control.has_terminal(master)
                    elif attach.clients:
                        attach.send(1, content)
                except (BlockingIOError, OSError):
                    pass
                for _ in range(4):
                    self.turn()
            for line in said:
                answers.check(answers.Answer(1, "", line + "\n"))
        finally:
            control.close()
            attach.stop_listening()
            attach.close()
            client.close()
            for fd in (*writers.values(), master, slave):
                os.close(fd)
            for name in ("ctl", "winsz"):
                os.unlink(self.place / name)
        if len(os.listdir("/proc/self/fd")) != before:
            raise Finding("descriptors are left")
