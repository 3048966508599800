"""Words of the command lines of all programs: what is not understood is refused in a line, and nothing else happens."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from random import Random

import answers
import mutation
from engine import Finding, Target

from runtime.__main__ import call
from runtime.cli import argv
from runtime.cli.grammar import COMMANDS
from runtime.cli.options import FLAG, GLOBAL

#: what was asked for by --timings, before whatever else there is to say
_TIMINGS = re.compile(r"\Atimings: .*\n(?: {6}.*\n)*")
#: and by --debug
_DEBUGGED = re.compile(r'^time="[^"]*" level=debug msg=".*"\n', re.MULTILINE)

WORDS = (
    "-", "--", "---", "--=", "-=", "--x", "-x", "--help", "-h", "--version", "-v", "", " ", "\n", "=", "web", "..", ".", "/", "a/b", "ü", "\udcff",
    "1", "0", "-1", "99999999999999999999", "1_0", "１", " 1", "1e3", "0x1", "true", "false", "json", "text", "table", "5s", "1h1m", "9" * 400 + "s",
    "1.5.5s", ".s", "KILL", "SIGKILL", "65", "TERM", "x=y", "=y", "A" * 3000, "/dev/null", "@PLACE@/none", "@PLACE@/file", "@PLACE@/bundle", "@PLACE@",
    "1:1", ":1", "1:", "4294967295", "CAP_CHOWN", "cap_chown", "64m", "-1", "1t", "1.5g", "1..5", "9" * 20 + "p", "L3:0=f", "MB:0=20", "0-3,7", "debug",
    "journald:x", "syslog:x", "file:@PLACE@/log", "unix:///x", "*", "[", "(", "w.*", "containerd", "none:", "\x1b[31m", "cgroupfs", "systemd",
)  # fmt: skip


def of_runtime() -> list[list[str]]:
    """For each command of pyrunc the words that it knows."""
    out = []
    for name, (_, positionals, options, _) in COMMANDS.items():
        flags = [
            ("--" if len(word) > 1 else "-") + word + ("" if option[1] == FLAG else "=x")
            for option in options
            for word in option[0]
        ]
        out.append([name, *flags[:6], *("web" for _ in positionals)])
        out += [[name, flag, *("web" for _ in positionals)] for flag in flags]
    return out


class Runtime(Target):
    """The words of pyrunc: what the quick reader understands click understands alike, and whatever is wrong is said in a line."""

    name = "words"
    needs = ("root",)
    is_fenced = True

    def begin(self, place: Path) -> None:
        self.place = place
        (place / "bundle/rootfs").mkdir(parents=True)
        (place / "bundle/config.json").write_text("{}")
        (place / "file").write_text("{}")
        (place / "cwd").mkdir()
        os.chdir(place / "cwd")

    def seeds(self) -> list[bytes]:
        return [json.dumps(words).encode() for words in of_runtime()]

    def options(self, rng: Random) -> str:
        known = rng.choice((*GLOBAL, *(option for _, _, options, _ in COMMANDS.values() for option in options)))
        word = rng.choice(known[0])
        return rng.choice(("-", "--")) + word + rng.choice(("", "", "=", "=1", "=true", "=x", f"={rng.choice(WORDS)}"))

    def change(self, rng: Random, data: bytes) -> bytes:
        words = json.loads(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            kind, at = rng.randrange(8), rng.randrange(len(words) + 1)
            if kind == 0 and words:
                del words[min(at, len(words) - 1)]
            elif kind < 3:
                words.insert(at, rng.choice(WORDS))
            elif kind < 6:
                words.insert(at, self.options(rng))
            elif kind == 6 and words:
                at = min(at, len(words) - 1)
                words[at] = mutation.text(rng, words[at]) if at else rng.choice(list(COMMANDS))
            else:
                words.insert(at, rng.choice(list(COMMANDS)))
        return json.dumps(words[:20]).encode()

    def usable(self, data: bytes) -> list[str] | None:
        """The words; None where they are none that a kernel would hand over."""
        words = [word.replace("@PLACE@", str(self.place)) for word in json.loads(data)]
        try:
            encoded = [os.fsencode(word) for word in words]
        except UnicodeEncodeError:
            return None
        return None if any(b"\0" in word for word in encoded) else words

    def run(self, data: bytes) -> None:
        words = self.usable(data)
        if words is None:
            return
        root = ["--root", str(self.place / "root")]
        shutil.rmtree(self.place / "root", ignore_errors=True)
        answer = answers.called_in_child(lambda: call([*root, *words]))
        if "doctor" in words and answer.status == 1:
            answer.err = answer.err or "findings\n"
        if "validate" in words and answer.status == 1:
            # what is wrong with a bundle goes to standard output: a line for each, or a list
            out = answer.out
            for line in map(repr, json.loads(out)) if out.startswith("[") else out.splitlines():
                answers.check(answers.Answer(1, "", line), names="config.json")
            answer.err = answer.err or ("findings\n" if out else "")
        if any("debug" in word for word in words):
            answer.err = _DEBUGGED.sub("", answer.err)
        answer.err = _TIMINGS.sub("", answer.err)
        answers.check(answer, statuses=(0, 1, 255), quiet=False)
        if (self.place / "root").exists() and any(
            not path.name.startswith(":") for path in (self.place / "root").iterdir()
        ):
            raise Finding("a container is left", f"{words}: {answer.err}")
        # what one of the two readers understands, the other understands the same way
        found = argv.read([*root, *words])
        if found is not None and found.command != "version":
            from runtime.cli import app

            try:
                other = app.read([*root, *words])
            except Exception as error:
                raise Finding("understood by argv and refused by click", f"{words}: {error}") from None
            if other != found:
                raise Finding("understood differently by argv and click", f"{words}: {found} {other}")


class Shims(Runtime):
    """The words of the shim's three faces, and the environment that conmon's caller has."""

    name = "shim-words"
    NAMES = ("containerd-shim-pyrunc-v2", "pyrunc-conmon", "pyrunc-shim")

    def seeds(self) -> list[bytes]:
        containerd = [
            "-namespace",
            "n",
            "-id",
            "web",
            "-address",
            "/x",
            "-publish-binary",
            "/x",
            "-bundle",
            "@PLACE@/bundle",
        ]
        conmon = [
            "-c",
            "web",
            "-u",
            "uuid",
            "-r",
            "/bin/false",
            "-l",
            "k8s-file:@PLACE@/log",
            "-b",
            "@PLACE@/bundle",
            "--sync",
        ]
        conmon += [
            "--exit-dir",
            "@PLACE@/cwd",
            "--socket-dir-path",
            "@PLACE@/cwd",
            "-p",
            "@PLACE@/cwd/pid",
            "--api-version",
        ]
        rows = [
            [0, *containerd, "delete"], [0, "-info"], [0, "-v"], [0, *containerd[:4], "stop"], [0, "-debug=x", "-id", "web"],
            [1, *conmon], [1, *conmon, "-e", "--exec-process-spec", "@PLACE@/file"], [1, *conmon, "-t", "--timeout", "1"], [1, "--help"],
            [1, *conmon, "--log-size-max", "5", "--log-max-files", "2", "--log-rotate", "--syslog", "--log-level", "debug"],
            [1, *conmon, "--exit-command", "/bin/true", "--exit-command-arg", "x", "--exit-delay", "1"],
            [1, *conmon, "--runtime-arg", "--debug", "--runtime-opt", "x", "--restore", "/x", "--log-tag", "t", "--log-label", "a=b"],
            [2, "--help"], [2, "run", "web"], [2, "--bundle", "@PLACE@/bundle", "web"], [2, "--runtime", "/bin/false", "web"],
        ]  # fmt: skip
        envs = [
            {},
            {"_OCI_SYNCPIPE": "3", "_OCI_STARTPIPE": "4", "_OCI_ATTACHPIPE": "5"},
            {"_OCI_STARTPIPE": "99999999999999999999", "_OCI_SYNCPIPE": "-1"},
        ]
        return [
            json.dumps({"face": row[0], "words": row[1:], "env": env, "stdin": ""}).encode()
            for row in rows
            for env in envs
        ]

    def options(self, rng: Random) -> str:
        from shim.conmon.options import TABLE

        entry = rng.choice(TABLE)
        names = ("namespace", "id", "address", "bundle", "socket", "front", "info", "debug", "v", "publish-binary")
        word = rng.choice((entry[0], entry[1] or "x", rng.choice(names)))
        return rng.choice(("-", "--")) + word + rng.choice(("", "", "=", "=1", "=x", f"={rng.choice(WORDS)}"))

    def change(self, rng: Random, data: bytes) -> bytes:
        case = json.loads(data)
        kind = rng.randrange(6)
        if kind == 0:
            name = rng.choice(
                ("_OCI_SYNCPIPE", "_OCI_STARTPIPE", "_OCI_ATTACHPIPE", "TTRPC_ADDRESS", "LISTEN_FDS", "NOTIFY_SOCKET")
            )
            case["env"][name] = rng.choice(
                ("0", "1", "2", "3", "-1", "", "x", "1_0", "１", "9" * 30, " 3", "4097", "3\n")
            )
        elif kind == 1:
            case["stdin"] = mutation.octets(rng, case["stdin"].encode("latin-1")).decode("latin-1")
        else:
            words = json.loads(super().change(rng, json.dumps(case["words"]).encode()))
            # who is not to be called: a shim that stays
            case["words"] = [word for word in words if word not in ("start", *COMMANDS)] + (
                ["delete"] if case["face"] == 0 and rng.random() < 0.5 else []
            )
        return json.dumps(case).encode()

    def run(self, data: bytes) -> None:
        case = json.loads(data)
        words = self.usable(json.dumps(case["words"]).encode())
        env = {name: value for name, value in case["env"].items() if "\0" not in value}
        if words is None:
            return
        name = self.NAMES[case["face"]]

        def go() -> int:
            from shim import __main__ as shim

            os.environ.update(env)
            return shim.call([str(self.place / name), *words])

        answer = answers.called_in_child(go, case["stdin"].encode("latin-1", "replace"), seconds=30)
        if answer.status > 1 and case["face"] == 2:
            answer.status = 1
        # conmon gives up its standard error before it calls the runtime, and has its caller's pipe for what comes then
        if answer.err.startswith("usage: ") or (case["face"] == 1 and not answer.err):
            return
        lines = answer.err.splitlines()
        # conmon warns of what it goes on without, a line each, and says what it debugs
        answers.check(answers.Answer(answer.status, "", "\n".join(lines[-1:])), statuses=(0, 1, 2, 137), quiet=False)
        for line in lines:
            answers.check(answers.Answer(1, "", line + "\n"), quiet=False)
