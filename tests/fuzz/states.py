"""What may be in a state directory, and the verbs that read it: each says what is wrong, and `delete --force` leaves nothing.

Run as root in namespaces of its own (fence.py): a state names processes to be killed and cgroups to be removed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import answers
import mkrootfs
import mutation
from engine import Finding, Target

from runtime import identity
from runtime.__main__ import call

ID = "web"
#: verbs and their words; @FILE@ is a document beside the state
VERBS = (
    ["state", ID], ["state", "--verbose", ID], ["list"], ["list", "-f", "json"], ["start", ID], ["kill", ID, "TERM"], ["kill", "--all", ID, "0"],
    ["delete", ID], ["delete", "--force", ID], ["delete", "--force", ID], ["ps", "-f", "json", ID], ["pause", ID], ["resume", ID],
    ["exec", ID, "true"], ["exec", "--cgroup", "x", ID, "true"], ["update", "--memory", "64m", ID], ["update", "--cpu-quota", "-1", ID],
    ["events", "--stats", ID], ["doctor", ID], ["mounts", "add", ID, "@FILE@"], ["mounts", "remove", ID, "@FILE@"],
    ["checkpoint", "--image-path", "@FILE@.d", ID], ["delete", "--regex", "w.*"], ["kill", "--regex", "w", "KILL"],
)  # fmt: skip
_CGROUP = "/sys/fs/cgroup/pyrunc-fuzz"
#: files of a cgroup, as the kernel has them
CGROUP_FILES = {
    "cgroup.procs": "@PID@\n", "cgroup.events": "populated 1\nfrozen 0\n", "cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "",
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n", "memory.stat": "anon 1\nfile 2\n",
    "memory.current": "4096\n", "memory.max": "max\n", "memory.events": "low 0\nmax 0\noom_kill 0\n", "pids.max": "10\n", "pids.current": "1\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n", "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "hugetlb.2MB.current": "0\n", "hugetlb.2MB.max": "max\n", "cpuset.cpus.effective": "0-1\n", "freezer.state": "THAWED\n", "cgroup.freeze": "0\n",
    "rdma.current": "mlx hca_handle=1 hca_object=2\n", "cpuacct.usage_all": "cpu user system\n0 1 2\n", "cpuacct.usage": "7\n", "cpuacct.stat": "user 1\nsystem 2\n",
    "blkio.throttle.io_service_bytes": "8:0 Read 4096\nTotal 4096\n", "memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": "1\n",
}  # fmt: skip


class State(Target):
    """state.json, the journal, and the copy of config.json of one container, and then a verb."""

    name = "state"
    needs = ("root",)
    is_fenced = True

    def begin(self, place: Path) -> None:
        self.place = place
        self.root = place / "root"
        self.bundle = place / "bundle"
        self.bundle.mkdir(parents=True)
        (self.bundle / "rootfs").mkdir()
        (place / "file.json").write_text('[{"destination": "/x", "type": "tmpfs", "source": "tmpfs"}]')
        self.child: subprocess.Popen[bytes] | None = None
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()

    def saved(self, version: int, **more: Any) -> dict[str, Any]:
        paths = (
            {"": _CGROUP}
            if version == 2
            else {name: f"{_CGROUP}/{name}" for name in ("memory", "freezer", "pids", "devices", "cpuacct")}
        )
        return {
            "version": 1, "id": ID, "ociVersion": "1.2.0", "bundle": "@PLACE@/bundle", "rootfs": "@PLACE@/bundle/rootfs",
            "created": "2026-01-01T00:00:00.0Z", "annotations": {"a": "b"}, "boot_id": "@BOOT@", "cgroup": {"version": version, "paths": paths},
            "freezer": f"{_CGROUP}/freezer.state", "namespaces": ["mount"], "has_poststart": True, "has_poststop": True,
            "has_process": True, "pid": "@PID@", "start_time": "@START@", "tail": {"5": ["exec", 'exec: "x"', "/process/args"]}, **more,
        }  # fmt: skip

    def seeds(self) -> list[bytes]:
        config = mkrootfs.config("/bin/true")
        config["hooks"] = {"poststop": [{"path": "/bin/true"}], "poststart": [{"path": "/bin/true", "timeout": 1}]}
        out = []
        for number, verb in enumerate(VERBS):
            # a file that is no kernel's says of v1 that it is frozen, and of v2 never
            saved = self.saved(1 if verb[0] == "pause" else 1 + number % 2)
            if number % 5 == 4:
                saved["cgroup"] = {}
            if number % 7 == 6:
                saved["resctrl"], saved["resctrl_class"] = ["/sys/fs/resctrl/x"], "/sys/fs/resctrl/x"
            if number % 11 == 9:
                saved["cgroup"] |= {"unit": "pyrunc-web.scope", "slice": "system.slice", "collects": True}
            journal = {
                name: saved[name]
                for name in (
                    "id",
                    "bundle",
                    "rootfs",
                    "created",
                    "annotations",
                    "cgroup",
                    "has_poststop",
                    "pid",
                    "start_time",
                )
            }
            files = {
                "state.json": saved if number % 3 else None,
                "journal": [journal, {"pid": "@PID@", "start_time": "@START@"}],
                "config.json": config,
            }
            out.append(json.dumps({"verb": verb, "files": files, "cgroup": CGROUP_FILES}).encode())
        return out

    def change(self, rng: Random, data: bytes) -> bytes:
        case = json.loads(data)
        if rng.random() < 0.3:
            case["verb"] = rng.choice([verb for verb in VERBS if verb[0] != "pause"])
        files = case["files"]
        name = rng.choice(("state.json", "state.json", "journal", "journal", "config.json", "cgroup"))
        if name == "cgroup":
            file = rng.choice(sorted(CGROUP_FILES))
            case["cgroup"][file] = mutation.octets(rng, str(case["cgroup"].get(file, "")).encode()).decode("latin-1")
        elif type(files[name]) is str or rng.random() < 0.1:
            text = files[name] if type(files[name]) is str else json.dumps(files[name])
            files[name] = mutation.octets(rng, text.encode("utf-8", "replace")).decode("latin-1")
        elif rng.random() < 0.1:
            files[name] = mutation.written(rng, files[name]).decode("latin-1")
        elif files[name] is None:
            files[name] = self.saved(2)
        else:
            known = [
                "@PID@",
                "@START@",
                "@BOOT@",
                _CGROUP,
                f"{_CGROUP}/x",
                "/sys/fs/cgroup",
                "@PLACE@",
                {"version": 2, "paths": {"": _CGROUP}},
                {},
                [],
            ]
            files[name] = mutation.document(
                rng, files[name], known, ["unit", "resctrl", "resources", "no_new_keyring", "hooks", "tail"]
            )
        return json.dumps(case).encode()

    def init(self) -> tuple[int, int]:
        """A process in the place of the container's."""
        if self.child is None or self.child.poll() is not None:
            self.child = subprocess.Popen(
                ["/bin/sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return self.child.pid, identity.start_time(self.child.pid)

    def run(self, data: bytes) -> None:
        case = json.loads(data)
        pid, started = self.init()

        def text(content: Any) -> bytes:
            if type(content) is str:
                return content.encode("latin-1", "replace")
            made = json.dumps(content)
            for name, number in (("@PID@", pid), ("@START@", started)):
                made = made.replace(f'"{name}"', str(number))
            return made.replace("@BOOT@", self.boot).replace("@PLACE@", str(self.place)).encode()

        folder = self.root / ID
        shutil.rmtree(self.root, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        for name, content in case["files"].items():
            if name == "journal" and type(content) is list:
                (folder / name).write_bytes(b"".join(text(record) + b"\n" for record in content))
            elif content is not None:
                (folder / name).write_bytes(text(content))
        for name in ("exec.fifo", "exec.status"):
            os.mkfifo(folder / name)
        shutil.rmtree(_CGROUP, ignore_errors=True)
        for top in (_CGROUP, *(f"{_CGROUP}/{name}" for name in ("memory", "freezer", "pids", "devices", "cpuacct"))):
            os.mkdir(top)
            for name, content in case["cgroup"].items():
                Path(top, name).write_bytes(content.replace("@PID@", str(pid)).encode("latin-1", "replace"))
        verb = [word.replace("@FILE@", str(self.place / "file.json")) for word in case["verb"]]
        answer = answers.called_in_child(lambda: call(["--root", str(self.root), *verb]))
        if verb[0] == "doctor":
            answer.err = answer.err or "findings\n"
        statuses = (0, 255) if verb[0] == "exec" else (0, 1)
        answers.check(answer, statuses=statuses, quiet=False)
        if verb[0] == "list" and answer.status:
            raise Finding("one bad entry hides all others", answer.err)
        if verb[:2] != ["delete", "--force"]:
            # whatever the verb has made of it; what a cgroup needs to be removed is a kernel that does it
            shutil.rmtree(_CGROUP, ignore_errors=True)
            answer = answers.check(
                answers.called_in_child(lambda: call(["--root", str(self.root), "delete", "--force", ID])), quiet=False
            )
        if answer.status == 0 and folder.exists():
            raise Finding("deleted by force, and still there", answer.err)
        if answer.status and "cgroup" not in answer.err:
            raise Finding("cannot be deleted by force", answer.err)
