"""What the kernel, CRIU, systemd and a container's processes say, each read by its parser: names in it are anybody's choice.

The parsers read files of their own finding; here they are given what such a file might say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import mutation
from engine import Finding, Target

from runtime import criu, external, host, seccomp
from runtime.cgroups import gvariant
from runtime.errors import Error
from shim import oom
from shim.conmon import notify
from shim.containerd import nursery, stats

_MOUNTINFO = (
    b"24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
    b"31 24 0:27 /x /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n32 24 0:28 / /with\\040space ro - tmpfs a\\011b ro\n"
    b"33 24 0:29 / /x - y - cgroup z rw,name=systemd\n"
)


class Text(Target):
    """The first line names the parser."""

    name = "texts"

    def begin(self, place: Path) -> None:
        self.place = place

    def seeds(self) -> list[bytes]:
        seeds = {
            "mountinfo": _MOUNTINFO,
            "cgroup": b"12:cpu,cpuacct:/x\n1:name=systemd:/\n0::/a/b\n",
            "status": b"Name:\tx\nCapPrm:\t000001ffffffffff\nCapBnd:\tff\nNoNewPrivs:\t1\n",
            "points": _MOUNTINFO,
            "oom": b"oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
            "gvariant": b"(1, 'a', [<uint64 5>], {'k': <@as []>}, true, 1.5, b'x', @mi 5)",
            "criu": criu.encode(criu.RESPONSE, {"type": 1, "success": True})
            if hasattr(criu, "RESPONSE")
            else b"\x08\x01\x10\x01",
            "log": b"(00.1) Error (criu/x.c:5): something\nWarn x\n\xff\xfe\n",
            "notify": b"READY=1\nMAINPID=5\nSTATUS=x\nBARRIER=1\n",
            "birth": b"\0".join([nursery._PROTOCOL.encode(), b"2", b"a", b"b", b"X=1", b"Y"]),
            "cache": b"pyruncS1" + bytes(80),
            "stats": b"cpu.stat\nusage_usec 5\nuser_usec 2\nnr_periods 1\n",
        }
        more = (b"io.stat\n8:0 rbytes=1 wbytes=2\n253:0 \n", b"memory.stat\nanon 1\nfile 2\n", b"rdma.current\nmlx hca_handle=1 hca_object=2\n",
                b"cpu.pressure\nsome avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=1.5 avg60=0 avg300=0 total=5\n", b"pids.max\nmax\n",
                b"hugetlb.2MB.current\n5\n", b"blkio.throttle.io_service_bytes\n8:0 Read 5\nTotal 5\n", b"cpuacct.usage_percpu\n1 2 \n")  # fmt: skip
        found = [name.encode() + b"\n" + text for name, text in seeds.items()]
        return [*found, *(b"stats\n" + text for text in more)]

    def change(self, rng: Random, data: bytes) -> bytes:
        name, _, text = data.partition(b"\n")
        if rng.random() < 0.4:
            lines = text.split(b"\n")
            at = rng.randrange(len(lines))
            words = lines[at].split(b" ")
            words[rng.randrange(len(words))] = rng.choice(
                (
                    b"",
                    b"-",
                    b"x" * 300,
                    b"\xff",
                    b"\\040",
                    b"\\",
                    b"\\777",
                    b"-1",
                    b"9" * 5000,
                    b"1_0",
                    b"::",
                    b"0x5",
                    b"\xc2\xb2",
                )
            )
            lines[at] = b" ".join(words)
            return name + b"\n" + b"\n".join(lines)
        return name + b"\n" + mutation.octets(rng, text)

    def run(self, data: bytes) -> None:
        name, _, text = data.partition(b"\n")
        reader = getattr(self, f"read_{name.decode('latin-1')}", None)
        if reader is not None:
            reader(text)

    # -- what the kernel alone writes: no more than its names is anybody's choice, and those it escapes ----------------------

    def read_mountinfo(self, text: bytes) -> None:
        if b"\0" in text:
            return
        with reading(host, text), tolerating(text, _MOUNTINFO):
            host.Host().cgroup_mounts  # noqa: B018 - a fact is looked up when it is asked for

    def read_cgroup(self, text: bytes) -> None:
        with reading(host, text), tolerating(text, b"::"):
            host.Host().own_cgroups  # noqa: B018

    def read_status(self, text: bytes) -> None:
        with reading(host, text), tolerating(text, b"CapPrm:"):
            host.Host().no_new_privs  # noqa: B018

    def read_points(self, text: bytes) -> None:
        with tolerating(text, b"\\040"):
            external.unescaped(text.decode("utf-8", "surrogateescape"))

    def read_oom(self, text: bytes) -> None:
        path = self.place / "oom"
        path.write_bytes(text)
        with open(path, "rb") as file, tolerating(text, b"oom_kill "):
            oom.read_count(file.fileno(), b"oom_kill")

    def read_stats(self, text: bytes) -> None:
        name, _, rest = text.partition(b"\n")
        if not name.replace(b".", b"").replace(b"_", b"").isalnum():
            return
        folder = self.place / "cgroup"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / name[:100].decode("latin-1")).write_bytes(rest)
        with tolerating(rest, b""):
            stats.metrics_v2(str(folder))
            stats.metrics_v1(
                {key: str(folder) for key in ("cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb", "rdma")}
            )

    # -- what others write --------------------------------------------------------------------------------------------------

    def read_gvariant(self, text: bytes) -> None:
        try:
            signature, value = gvariant.parse(text.decode("utf-8", "surrogateescape"))
            shown = gvariant.show(signature, value)
        except (Error, ValueError):
            return
        again = gvariant.parse(shown)
        if repr(again) != repr((signature, value)):
            raise Finding("a value that is read back otherwise", f"{shown}: {again}")

    def read_criu(self, text: bytes) -> None:
        for table in (
            value
            for key, value in vars(criu).items()
            if key.isupper() and type(value) is dict and all(type(k) is int for k in value)
        ):
            with contextlib.suppress(Error):
                if all(type(kind) is tuple for kind in table.values()):
                    criu.decode(table, text)

    def read_log(self, text: bytes) -> None:
        if "\n" in criu.quote(text):
            raise Finding("a quotation of more than a line", repr(criu.quote(text)))

    def read_notify(self, text: bytes) -> None:
        said = notify.passed_on(text)
        if any(
            line and not line.startswith((b"READY=", b"MAINPID=", b"STATUS=", b"BARRIER="))
            for line in said.split(b"\n")
        ):
            raise Finding("more is passed on than should be", repr(said))

    def read_birth(self, text: bytes) -> None:
        with contextlib.suppress(ValueError):
            nursery.Birth(-1, text, [0, 1])

    def read_cache(self, text: bytes) -> None:
        import os

        path = self.place / "record"
        path.write_bytes(text)
        path.chmod(0o600)
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if seccomp._load(fd, "record", text[8:40].ljust(32, b"\0")) is not None:
                raise Finding("a record of nobody's is taken")
        finally:
            os.close(fd)


@contextlib.contextmanager
def reading(module: Any, text: bytes) -> Any:
    """The module's reader of small files says this."""
    say: Callable[..., bytes] = lambda path: text  # noqa: E731
    with patch.object(module, "read", say):
        yield


@contextlib.contextmanager
def tolerating(text: bytes, form: bytes) -> Any:
    """A ValueError or IndexError for what the kernel never writes is no finding; anything else is, and taking for ever."""
    try:
        yield
    except (ValueError, IndexError, Error):
        pass
