"""Documents that a caller hands over: config.json and its sections, process.json, resources, mounts, an engine's settings."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import answers
import config_faults
import mkrootfs
import mutation
from engine import Finding, Target

from runtime import annotation, bundle, linux, planner, wire
from runtime.__main__ import call
from runtime.cgroups import devices, resources
from runtime.errors import ConfigError, Error
from runtime.host import Host
from runtime.plan import check
from runtime.planner.options import KNOWN

#: texts and other values that mean something in some place
WORDS: list[Any] = [
    *KNOWN, *linux.CAPABILITIES[:6], *linux.NAMESPACES, *linux.PROPAGATION, "CAP_BOGUS", "bind", "tmpfs", "proc", "sysfs", "cgroup", "mqueue",
    "devpts", "overlay", "size=1m", "mode=755", "/proc", "/sys", "/dev", "/dev/pts", "/proc/self/ns/net", "SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE", "SCMP_ACT_KILL_THREAD", "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64",
    "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "read", "open", "clone3", "socketcall", "RLIMIT_NOFILE", "RLIMIT_CORE",
    "SCHED_DEADLINE", "SCHED_FIFO", "IOPRIO_CLASS_RT", "LINUX32", "MPOL_BIND", "MPOL_DEFAULT", "kernel.shmmax", "net.ipv4.ip_forward",
    "kernel.hostname", "fs.mqueue.msg_max", "memory.high", "cpu.max", "../x", "0-3,7", "0-", "4096-0", "a", "b", "c", "rwm", "w", "p", "8:0",
    {"type": "network"}, {"containerID": 0, "hostID": 0, "size": 1}, {"path": "/bin/true"}, {"name": "x"}, "1.0.2", "1.3.0", "rootfs",
]  # fmt: skip
ANNOTATIONS = (
    *(f"run.oci.{name}" for name in ("systemd.subgroup", "delegate-cgroup", "keep_original_groups", "mount_context_type", "hooks.stdout",
      "hooks.stderr", "seccomp.receiver", "seccomp_bpf_data", "seccomp_fail_unknown_syscall", "timens_offset", "pidfd_receiver", "handler",
      "systemd.force_cgroup_v1", "bogus")),
    *(f"org.systemd.property.{name}" for name in ("CollectMode", "TimeoutStopUSec", "TasksMax", "CPUWeight", "After", "Bogus")),
    "org.criu.config", "io.kubernetes.cri.sandbox-id",
)  # fmt: skip
ANNOTATION_VALUES = (
    "", "1", "true", "/run/x", "relative", "monotonic 1 2", "boottime -5 0", "monotonic x y", "monotonic 1 2 3", "context", "fscontext",
    base64.b64encode(bytes(8)).decode(), base64.b64encode(bytes(7)).decode(), "====", "'inactive-or-failed'", "uint64 5", "@as []", "[", "((", "'",
    "@a{sv} {}", "<5>", "true, false", "-9223372036854775809", "[1, 'a']", "b'\\xff'", "ü", "9" * 400, "[" * 500,
)  # fmt: skip


def names_of(document: Any) -> list[str]:
    """Every name of a property in a document."""
    found: set[str] = set()
    for holder, key in mutation.places(document):
        if type(holder) is dict:
            found.add(key)
    return sorted(found)


def known(data: bytes) -> Any:
    """The document in an input, or None where it is none any more."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


class Document(Target):
    """A JSON document; `spoiled` are places in it that are changed the most."""

    def __init__(self) -> None:
        self.first = self.documents()
        self.values = [
            *WORDS,
            *(
                holder[key]
                for one in self.first
                for holder, key in mutation.places(one)
                if type(holder[key]) is not dict
            ),
        ]
        self.names = sorted({name for one in self.first for name in names_of(one)})

    def documents(self) -> list[Any]:
        raise NotImplementedError

    def seeds(self) -> list[bytes]:
        return [json.dumps(one).encode() for one in self.first]

    def change(self, rng: Random, data: bytes) -> bytes:
        old = known(data)
        if old is None or rng.random() < 0.02:
            return mutation.octets(rng, data)
        return mutation.written(rng, mutation.document(rng, old, self.values, self.names))


class Config(Document):
    """config.json, as `validate` and `plan` read it: they agree, and what is planned can be sent."""

    name = "config"

    def documents(self) -> list[Any]:
        plain = mkrootfs.config("/bin/true")
        full = config_faults.full()
        # one that can be planned: nothing in it that only some hosts have, and without cgroups no limits
        for name in ("netDevices", "intelRdt", "resources"):
            del full["linux"][name]
        full["linux"]["seccomp"] |= {"listenerPath": "", "listenerMetadata": ""}
        return [plain, full, config_faults.full()]

    def begin(self, place: Path) -> None:
        self.place = place
        (place / "bundle/rootfs").mkdir(parents=True)
        self.words = ["--root", str(place / "state"), "--cgroup-manager", "disabled"]

    def run(self, data: bytes) -> None:
        (self.place / "bundle/config.json").write_bytes(data)
        path = str(self.place / "bundle")
        # validate prints its findings, and says in a word that there are some
        valid = answers.called(lambda: call([*self.words, "validate", path]))
        answers.check(answers.Answer(valid.status, "", valid.err or valid.out.partition("\n")[0] + "\n"), quiet=False)
        planned = answers.check(answers.called(lambda: call([*self.words, "plan", path])), quiet=False)
        if valid.status and not planned.status:
            raise Finding("planned although it is not valid", valid.out + valid.err)
        if not planned.status:
            self.encode(path)

    def encode(self, path: str) -> None:
        from runtime import lifecycle
        from runtime.cli.argv import Args

        plan = lifecycle.plan(lifecycle.Context(self.words[1], cgroup_manager="disabled"), "web", path, Args())
        wire.encode(plan)


class Annotations(Config):
    """Annotations that change a container, and systemd's properties among them."""

    name = "annotations"

    def documents(self) -> list[Any]:
        plain = mkrootfs.config("/bin/true")
        plain["linux"].pop("seccomp", None)
        return [
            {**plain, "annotations": {name: ANNOTATION_VALUES[number % len(ANNOTATION_VALUES)]}}
            for number, name in enumerate(ANNOTATIONS)
        ]

    def change(self, rng: Random, data: bytes) -> bytes:
        old = known(data)
        found = dict((old or {}).get("annotations") or {}) if type(old) is dict else {}
        for _ in range(rng.choice((1, 1, 2, 3))):
            text = rng.choice((*ANNOTATION_VALUES, *(str(value) for value in found.values())))
            found[rng.choice(ANNOTATIONS)] = mutation.text(rng, text) if rng.random() < 0.6 else text
        while len(found) > 3:
            del found[rng.choice(sorted(found))]
        made = copy.deepcopy(self.first[0])
        made["annotations"] = found
        return mutation.written(rng, made)

    def run(self, data: bytes) -> None:
        super().run(data)
        from runtime.cgroups import systemd_properties

        config = known(data)
        if type(config) is dict and type(config.get("annotations")) is dict:
            texts = {
                key: value for key, value in config["annotations"].items() if type(value) is str and "\0" not in value
            }
            try:
                json.dumps(texts, ensure_ascii=False).encode()
                list(systemd_properties.of_annotations(texts) if hasattr(systemd_properties, "of_annotations") else ())
                annotation.check({"annotations": texts})
            except (Error, UnicodeEncodeError):
                pass


class Process(Document):
    """process.json, as `exec --process` reads it; what is planned can be sent."""

    name = "process"

    def documents(self) -> list[Any]:
        plain = mkrootfs.config("/bin/true")["process"]
        return [plain, config_faults.process()]

    def begin(self, place: Path) -> None:
        from planner_facts import FACTS

        self.facts = FACTS

    def run(self, data: bytes) -> None:
        try:
            process = bundle.load_process(data)
        except ConfigError as error:
            answers.check(answers.refusal(error), names="process")
            return
        request = planner.Request()
        request.id, request.bundle, request.rootfs = "web", "/run/bundle", "/run/bundle/rootfs"
        request.config = {
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "linux": {"namespaces": [{"type": "mount"}]},
        }
        request.process, request.host = process, Host.from_facts(self.facts)
        request.namespaces = ["mount"]
        try:
            plan = planner.exec_process(request)
        except Error as error:
            answers.check(answers.refusal(error))
            return
        check(plan)
        wire.encode(plan)


class Resources(Document):
    """The document of `update`: what it makes for either version of cgroups is words that a file could take."""

    name = "resources"

    def documents(self) -> list[Any]:
        return [config_faults.resources(), {"memory": {"limit": -1}}, {"devices": [{"allow": True, "access": "rwm"}]}]

    def run(self, data: bytes) -> None:
        try:
            found = bundle.load_resources(data)
        except ConfigError as error:
            answers.check(answers.refusal(error), names="resources")
            return
        for version in (1, 2):
            try:
                for _, file, value in resources.writes(version, found, changed=found):
                    if "/" in file or not file or "\0" in value:
                        raise Finding("a cgroup's file that is none", f"{file} {value}")
                after = resources.merged(found, found)
                resources.ignored(after)
                state = devices.state(found.get("devices"))
                devices.writes(state)
                devices.program(state)
                if devices.state_of_text(devices.text(state)) != state:
                    raise Finding("device rules that are read back otherwise", devices.text(state))
            except Error as error:
                answers.check(answers.refusal(error))


class Seccomp(Document):
    """linux.seccomp, compiled by libseccomp."""

    name = "seccomp"

    def documents(self) -> list[Any]:
        docker = Path(mkrootfs.__file__).parent / "seccomp"
        found = [json.loads(path.read_text()) for path in sorted(docker.glob("*.json"))]
        rule = {"names": ["read", "bogus"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}
        condition = {"index": 1, "value": 2**64 - 1, "valueTwo": 0, "op": "SCMP_CMP_GE"}
        small = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule, {**rule, "args": [condition, condition]}]}
        notify = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/x",
            "syscalls": [{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}],
        }
        return [
            config_faults.seccomp(),
            small,
            notify,
            *(one for one in found if "defaultAction" in one and len(json.dumps(one)) < 20000),
        ]

    def run(self, data: bytes) -> None:
        from runtime import seccomp

        text = b'{"ociVersion":"1.0.2","root":{"path":"rootfs"},"linux":{"namespaces":[],"seccomp":' + data + b"}}"
        try:
            config = bundle._checked(
                text, "config.json", "config", bundle.config_check.check_config, bundle.rules.check
            )
            made = seccomp.of_container(config, Host(), "")
        except Error as error:
            answers.check(answers.refusal(error), names="config.json")
            return
        if made is not None and (len(made.program) % 8 or not 0 < len(made.program) <= 8 * 4096):
            raise Finding("a filter that the kernel cannot take", str(len(made.program)))


class Mounts(Document):
    """The document of `mounts add`."""

    name = "mounts"

    def documents(self) -> list[Any]:
        return [{"mounts": config_faults.full()["mounts"]}, [{"destination": "/x", "type": "tmpfs", "source": "tmpfs"}]]

    def begin(self, place: Path) -> None:
        self.path = place / "mounts.json"
        self.config = mkrootfs.config("/bin/true")

    def run(self, data: bytes) -> None:
        self.path.write_bytes(data)
        try:
            bundle.check_mounts(bundle.load_mounts(str(self.path)), str(self.path), self.config)
        except Error as error:
            answers.check(answers.refusal(error), names="mounts.json")


class Settings(Target):
    """Configurations of engines, as `doctor --engine` reads them."""

    name = "settings"
    TEXTS = {
        "containerd": b'version = 3\nroot = "/x"\n[plugins."io.containerd.cri.v1.runtime".containerd]\ndefault_runtime_name = "pyrunc"\n'
        b'[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.pyrunc]\nruntime_type = "io.containerd.pyrunc.v2"\n'
        b'[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.pyrunc.options]\nSystemdCgroup = true\nBinaryName = "/bin/x"\n',
        "docker": b'{"runtimes": {"pyrunc": {"path": "/usr/local/bin/pyrunc", "runtimeArgs": ["--debug"], "options": {}}, "x": '
        b'{"runtimeType": "io.containerd.pyrunc.v2"}}, "default-runtime": "pyrunc", "exec-opts": ["native.cgroupdriver=systemd"]}',
        "podman": b'[engine]\nruntime = "pyrunc"\nruntime_supports_json = ["crun"]\nconmon_path = ["/x"]\ncgroup_manager = "systemd"\n'
        b'[engine.runtimes]\npyrunc = ["/usr/local/bin/pyrunc"]\n',
        "cri-o": b'[crio.runtime]\ndefault_runtime = "pyrunc"\ncgroup_manager = "cgroupfs"\nconmon_cgroup = "pod"\n'
        b'[crio.runtime.runtimes.pyrunc]\nruntime_path = "/usr/local/bin/pyrunc"\nruntime_type = "oci"\nmonitor_path = "/x"\n',
    }

    def begin(self, place: Path) -> None:
        self.place = place

    def seeds(self) -> list[bytes]:
        return [engine.encode() + b"\n" + text for engine, text in self.TEXTS.items()]

    def change(self, rng: Random, data: bytes) -> bytes:
        engine, _, text = data.partition(b"\n")
        kind = rng.randrange(4)
        if engine == b"docker" and kind and known(text) is not None:
            return (
                engine
                + b"\n"
                + mutation.written(rng, mutation.document(rng, known(text), WORDS, ["runtimes", "path", "options"]))
            )
        if kind:
            lines = text.split(b"\n")
            at = rng.randrange(len(lines))
            key, equals, value = lines[at].partition(b"=")
            values = (
                b"1",
                b"true",
                b"[]",
                b"{}",
                b'""',
                b'"x"',
                b"[1]",
                b"{a = 1}",
                b"1979-05-27",
                b"nan",
                b"[[]]",
                b"'\\'",
                b'"/etc"',
                b"9" * 30,
            )
            lines[at] = (
                key + b"=" + rng.choice(values)
                if equals
                else rng.choice((b"", lines[at] * 2, lines[at][:-2], b"[[x]]", b"[plugins]"))
            )
            return engine + b"\n" + b"\n".join(lines)
        return rng.choice([name.encode() for name in self.TEXTS]) + b"\n" + mutation.octets(rng, text)

    def run(self, data: bytes) -> None:
        engine, _, text = data.partition(b"\n")
        if engine.decode("latin-1") not in self.TEXTS:
            return
        path = self.place / "settings"
        path.write_bytes(text)
        words = ["--root", str(self.place / "state"), "doctor", "--engine", engine.decode(), "--config", str(path)]
        answer = answers.called(lambda: call(words))
        answers.check(answers.Answer(answer.status, "", answer.err or "findings\n"), quiet=False)
