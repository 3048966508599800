"""What points are points of: each verb with what must be there before it, its words, and what it must have done if it says so.

A verb that says 0 must have done all of it, and made no weaker container than without a fault. One that fails says why in a
word, and may have done nothing, a part, or all of it: what then is left is for `delete --force`.
"""

from __future__ import annotations

import errno
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from place import FACTS, GRACE_S, ID, MONITORS, Place

LIFE = Path(__file__).with_name("engine_life.py")
SIGNALS = {"KILL": 9, "TERM": 15, "INT": 2}
#: exit status of the program that containers and exec run
STATUS = 7


#: what the configuration covers or makes read-only where it is there
MASKED = ("/proc/", "/sys/firmware")


class Verb:
    """One command to be tried. `ready` makes what must be there; False where that cannot be done."""

    #: exit statuses of success
    good: tuple[int, ...] = (0,)
    #: whether what `ready` has made is still there afterwards, and can be used for the next point
    keeps = False
    #: where the output of the command goes: that of what makes a container goes where its init will write
    to = "stdout"
    #: processes that are none of ours
    others: tuple[int, ...] = ()
    #: whether the program is not the runtime but one that comes with ours
    programs = False
    #: how long what is left may still take to go
    grace_s = GRACE_S
    #: whether init, which waits since `create`, is traced as process 1
    attaches = False

    def __init__(self, place: Place) -> None:
        self.place = place
        self.baseline = ""
        self.pid = 0

    def argv(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        return True

    def effect(self, out: str, fault: str) -> str:
        """What is wrong with what the command says it has done; empty if nothing is. `out` is what it printed."""
        return ""

    # -- what several need ---------------------------------------------------------------------------------------------

    def bundle(self, name: str) -> str:
        return str(self.place.bundles[name])

    def made(self, start: bool) -> bool:
        place = self.place
        if place.run(place.argv("create", "--bundle", self.bundle("long"), ID), to="init")[0]:
            return False
        self.pid = place.state().get("pid", 0)
        if not start:
            return True
        return place("start", ID)[0] == 0 and self.facts_of_init() != ""

    def facts_of_init(self) -> str:
        """What init of the long bundle has printed to the output that it got from `create`."""
        path = self.place.out / "init"
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if "END\n" in (text := path.read_text(errors="replace")):
                return text
            time.sleep(0.002)
        return ""

    def same(self, facts: str, fault: str) -> str:
        """The first difference to what was seen without a fault."""
        lines, known = facts.splitlines(), self.baseline.splitlines()
        if fault == "ENOENT":
            # what is not there need not be covered: of /proc/keys it is the size, the last of FACTS
            for both in (lines, known):
                if "END" in both:
                    del both[both.index("END") - 1]
        if not known or lines == known:
            return ""
        for line in lines:
            # where the image's accounts cannot be read, there is no home directory but this one: on purpose (T09)
            if line not in known and line != "HOME=/":
                return f"not so without the fault: {line}"
        missing = [line for line in known if line not in lines and not line.startswith("HOME=")]
        if fault == "ENOENT" and all(line.split()[1].startswith(MASKED) for line in missing if " " in line):
            return ""  # the same
        return f"missing: {missing[0]}" if missing else ""


class Create(Verb):
    to = "init"

    def argv(self) -> list[str]:
        return self.place.argv("create", "--bundle", self.bundle("long"), ID)

    def effect(self, out: str, fault: str) -> str:
        found = self.place.state()
        if found.get("status") != "created":
            return f"create: status is {found.get('status')}"
        if (status := self.place.run(self.place.argv("start", ID), 10)[0]) != 0:
            return f"start after it: status {status}"
        return ""


class Start(Verb):
    attaches = True

    def argv(self) -> list[str]:
        return self.place.argv("start", ID)

    def ready(self) -> bool:
        return self.made(start=False)

    def effect(self, out: str, fault: str) -> str:
        word = self.place.state().get("status")
        return "" if word == "running" else f"start: status is {word}"


class Run(Verb):
    good = (STATUS,)
    source = "short"

    def argv(self) -> list[str]:
        return self.place.argv("run", "--bundle", self.bundle(self.source), ID)

    def effect(self, out: str, fault: str) -> str:
        return self.same(out, fault)


class Hooks(Run):
    source = "hooks"


class Mounts(Run):
    source = "mounts"


class Exec(Verb):
    good = (STATUS,)
    keeps = True

    def argv(self) -> list[str]:
        return self.place.argv("exec", ID, "/bin/sh", "-c", f"{FACTS}; echo END; exit {STATUS}")

    def ready(self) -> bool:
        return self.made(start=True)

    def effect(self, out: str, fault: str) -> str:
        return self.same(out, fault)


class Kill(Verb):
    def argv(self) -> list[str]:
        return self.place.argv("kill", ID, "KILL")

    def ready(self) -> bool:
        return self.made(start=True)

    def effect(self, out: str, fault: str) -> str:
        return "" if self.place.left_process(self.pid) else "kill: init lives on"


class Delete(Verb):
    def argv(self) -> list[str]:
        return self.place.argv("delete", ID)

    def ready(self) -> bool:
        return self.made(start=False)

    def effect(self, out: str, fault: str) -> str:
        left = self.place.left(self.place.empty)
        return f"delete left {left}" if left else ""


class Refused(Verb):
    """What may not be done, and must not be because something else has failed."""

    good = ()
    keeps = True

    def argv(self) -> list[str]:
        return self.place.argv("delete", ID)

    def ready(self) -> bool:
        return self.made(start=True)


class Force(Delete):
    def argv(self) -> list[str]:
        return self.place.argv("delete", "--force", ID)

    def ready(self) -> bool:
        return self.made(start=True)


class Update(Verb):
    keeps = True

    def argv(self) -> list[str]:
        return self.place.argv("update", "--pids-limit", "50", "--cpu-share", "256", ID)

    def ready(self) -> bool:
        return self.made(start=True)

    def effect(self, out: str, fault: str) -> str:
        for controller, file, value in (("pids", "pids.max", "50"), ("cpu", "cpu.shares", "256")):
            found = [
                path.read_text().strip()
                for top in self.place.cgroups
                if controller in top.name.split(",")
                and (path := Path(top, "pyrunc-chaos", self.place.token, ID, file)).exists()
            ]
            if found and found[0] != value:
                return f"update: {file} is {found[0]}"
        return ""


class Pause(Verb):
    def argv(self) -> list[str]:
        return self.place.argv("pause", ID)

    def ready(self) -> bool:
        return self.made(start=True)

    def effect(self, out: str, fault: str) -> str:
        word = self.place.state().get("status")
        return "" if word == "paused" else f"pause: status is {word}"


class Resume(Pause):
    def argv(self) -> list[str]:
        return self.place.argv("resume", ID)

    def ready(self) -> bool:
        return self.made(start=True) and self.place("pause", ID)[0] == 0

    def effect(self, out: str, fault: str) -> str:
        word = self.place.state().get("status")
        return "" if word == "running" else f"resume: status is {word}"


class State(Verb):
    keeps = True

    def argv(self) -> list[str]:
        return self.place.argv("state", ID)

    def ready(self) -> bool:
        return self.made(start=True)

    def effect(self, out: str, fault: str) -> str:
        # what /proc says is not there has ended
        return "" if '"running"' in out or (fault == "ENOENT" and '"stopped"' in out) else "state: another word"


class Shim(Run):
    """`pyrunc-shim run`: create, start, wait and delete, in children of its own."""

    programs = True

    def argv(self) -> list[str]:
        words = ["--root", str(self.place.root), "--bundle", self.bundle("short")]
        return [f"{self.place.runtime}-shim", "run", *words, ID]


class Conmon(Verb):
    """pyrunc-conmon, process 1, and a shell that starts the container when it is told of its pid, as Podman would; the status is
    that of the container, by way of conmon's exit file."""

    programs = True
    #: its shells: a monitor whose caller is gone goes on, as with Podman, and somebody else has to end that container
    others = (0, 2)
    good = (STATUS,)

    def argv(self) -> list[str]:
        out = self.place.out
        words = ["--sync", "--cid", ID, "--cuuid", ID, "--runtime", self.place.runtime, "--log-path", f"{out}/log"]
        words += ["--bundle", self.bundle("short"), "--exit-dir", f"{out}/exits", "--socket-dir-path", f"{out}/exits"]
        words += ["--container-pidfile", f"{out}/pid", f"--runtime-arg=--root={self.place.root}"]
        start, delete = (" ".join(self.place.argv(*words)) for words in (("start", ID), ("delete", "--force", ID)))
        script = f"""cd {out}; _OCI_SYNCPIPE=3 {self.place.runtime}-conmon {" ".join(words)} 3>&1 >/dev/null | {{
            read told || {{ {delete}; echo "conmon has said nothing" >&2; exit 1; }}
            case $told in *-*) echo "$told" >&2; exit 1;; esac
            {start} || {{ {delete}; exit 1; }}
            }} || exit 1; read status <exits/{ID}; [ "$status" ] && exit $status; exit 1"""
        return ["/bin/sh", "-c", script]

    def ready(self) -> bool:
        left = [self.place.bundles["short"] / name for name in MONITORS]
        for path in (*left, *self.place.out.glob("exits/*"), self.place.out / "pid"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return True


class Containerd(Verb):
    """What containerd has a shim do in one container's life (engine_life.py)."""

    #: a shim that has lost its connection is given up by containerd, and looks for itself whether it is still wanted
    grace_s = 12.0

    programs = True
    #: who plays containerd
    others = (0,)

    def argv(self) -> list[str]:
        place = self.place
        bundle, rootfs = self.bundle("mounted"), str(place.bundles["rootfs"])
        return [sys.executable, str(LIFE), bundle, str(place.root), rootfs]

    def ready(self) -> bool:
        """The bundle is containerd's, which makes it, and removes it with whatever is in it."""
        bundle = self.place.bundles["mounted"]
        for path in bundle.iterdir():
            try:
                path.rmdir() if path.is_dir() else path.unlink()
            except OSError as error:
                # a mount point is busy; what is in a directory that is none, a killed create may have made in its last moment
                if error.errno != errno.ENOTEMPTY:
                    raise
                shutil.rmtree(path)
        (bundle / "config.json").write_text(self.place.configs["mounted"])
        return True

    def effect(self, out: str, fault: str) -> str:
        ends = [f": {128 + number}, and not" for name, number in SIGNALS.items() if name == fault]
        wrong = [line for line in out.splitlines() if line.startswith("wrong: ")]
        if ends and ("END\n" not in out or any(ends[0] in line for line in wrong)):
            return ""  # the container's process, or the one beside it, has ended by it, and that is what is told
        return wrong[0] if wrong else self.same(out, fault)


class Checkpoint(Verb):
    def argv(self) -> list[str]:
        images = str(self.place.out / "images")
        return self.place.argv("checkpoint", "--image-path", images, "--work-path", images, ID)

    def ready(self) -> bool:
        images = self.place.out / "images"
        images.mkdir(exist_ok=True)
        for path in images.iterdir():
            path.unlink()
        return self.made(start=True)

    def effect(self, out: str, fault: str) -> str:
        found = (self.place.out / "images" / "inventory.img").exists()
        return "" if found and self.place.left_process(self.pid) else "checkpoint: no images, or it runs on"


VERBS: dict[str, Callable[[Place], Verb]] = {
    "state": State,  # first: what all commands begin with is tried with the quickest
    "create": Create,
    "start": Start,
    "run": Run,
    "hooks": Hooks,
    "mounts": Mounts,
    "exec": Exec,
    "kill": Kill,
    "delete": Delete,
    "refused": Refused,
    "force": Force,
    "update": Update,
    "pause": Pause,
    "resume": Resume,
    "shim": Shim,
    "conmon": Conmon,
    "containerd": Containerd,
    "checkpoint": Checkpoint,
}
