"""Every command and every option of the command line, as one table of tuples. Data only.

`argv` (the fast reader), `app` (click: help, mistakes), `generate` (man pages, completions) and their tests read
this table, so that a word which is not in here exists nowhere. What a row is made of is said in `options`. A command's own
option hides a global one of the same name (`spec --rootless`).
"""

from __future__ import annotations

from runtime.cli.options import (
    BUNDLE,
    BUNDLE_DIR,
    CHOICE,
    CONSOLE_SOCKET,
    CREATE,
    CRIU,
    DETACH,
    DURATION,
    FLAG,
    FORMAT,
    ID,
    INT,
    LIST,
    MAYBE,
    ONE,
    PAYLOAD,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
    REGEX,
    TEXT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.cli.options import Command

COMMANDS: dict[str, Command] = {
    "create": (
        "create a container",
        (ID,),
        (
            BUNDLE_DIR,
            *CREATE,
            (("detach", "d"), FLAG, False, "", "accepted for callers that give it; create never waits"),
            (("no-subreaper",), FLAG, False, "", "accepted for callers that give it; create adopts nobody (crun)"),
        ),
        "Set up everything that the bundle's config.json asks for, up to the point of running its process, which `start` does. "
        "The id must not be in use under the same --root.",
    ),
    "start": (
        "run the process of a created container",
        (ID,),
        (),
        "The container must be created and not yet started.",
    ),
    "state": (
        "print the state of a container",
        (ID,),
        ((("verbose",), FLAG, False, "", "say besides where an init that is not yet running stands"),),
        "The output is the JSON object of the runtime specification.",
    ),
    "kill": (
        "send a signal to a container's init process",
        (ID, ("signal", MAYBE, "number or name of the signal, with or without SIG; TERM when not given")),
        ((("all", "a"), FLAG, False, "", "send it to every process of the container"), REGEX),
        "A container without a pid namespace of its own is signalled as a whole by KILL.",
    ),
    "delete": (
        "delete a container that is created or stopped",
        (ID,),
        ((("force", "f"), FLAG, False, "", "kill a running container first; an unknown id is no error"), REGEX),
        "Remove the container's cgroup and state. With --force also what an interrupted create left behind.",
    ),
    "run": (
        "create a container, start it and wait for it",
        (ID,),
        (
            BUNDLE_DIR,
            *CREATE,
            DETACH,
            (("keep",), FLAG, False, "", "do not delete the container when its process has ended"),
            (("no-subreaper",), FLAG, False, "", "do not adopt orphaned processes of the container"),
        ),
        "The exit status is that of the container's process, or 128 and the number of the signal that killed it.",
    ),
    "exec": (
        "run another process in a running container",
        (ID, ("args", PAYLOAD, "program and arguments; none with --process")),
        (
            (("process", "p"), TEXT, "", "FILE", "the process to run, as JSON: config.json's process object"),
            DETACH,
            PID_FILE,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            (("tty", "t"), FLAG, False, "", "give the process a terminal"),
            (("cwd",), TEXT, "", "DIR", "working directory inside the container"),
            # None and not "": an empty user is a mistake, and must not fall back to the container's, which may be root
            (("user", "u"), TEXT, None, "UID[:GID]", "numeric user, and group, of the process"),
            (("additional-gids", "g"), LIST, (), "GID", "additional numeric group"),
            (("env", "e"), LIST, (), "NAME=VALUE", "environment variable"),
            (("cap", "c"), LIST, (), "CAP", "capability to add to the bounding, effective and permitted sets"),
            (("no-new-privs",), FLAG, False, "", "set no_new_privs"),
            (("process-label",), TEXT, "", "LABEL", "SELinux label of the process"),
            (("apparmor",), TEXT, "", "PROFILE", "AppArmor profile of the process"),
            PRESERVE_FDS,
            (("cgroup",), LIST, (), "[CONTROLLER:]PATH", "existing cgroup below the container's to put the process in"),
            (("ignore-paused",), FLAG, False, "", "allow a paused container; the process runs once it is resumed"),
        ),
        "Without --process the process is config.json's, with the given args and the options applied. The exit status is that of "
        "the process; 255 when it could not be run.",
    ),
    "list": (
        "list containers",
        (),
        (FORMAT, (("quiet", "q"), FLAG, False, "", "print ids only")),
        "The containers are those under --root. An entry that cannot be read is listed with status unknown.",
    ),
    "ps": (
        "list the processes of a container",
        (ID, ("options", PAYLOAD, "options of ps; -ef when not given")),
        (FORMAT,),
        "The table is what the host's ps prints, less the processes of others; json is an array of process ids of the host.",
    ),
    "events": (
        "print statistics, and when memory ran out",
        (ID,),
        (
            (("interval",), DURATION, 5.0, "TIME", "how often, such as 500ms or 1m; 5s when not given"),
            (("stats",), FLAG, False, "", "print the statistics once, now"),
        ),
        "Each event is a JSON object on a line of its own, of type stats or oom, until the container ends.",
    ),
    "pause": (
        "suspend all processes of a container",
        (ID,),
        (),
        "The container's cgroup is frozen until it is resumed.",
    ),
    "resume": ("let a paused container run on", (ID,), (), "The container's cgroup is thawed."),
    "update": (
        "change the limits of a container",
        (ID,),
        (
            (
                ("resources", "r"),
                TEXT,
                "",
                "FILE",
                "the limits, as JSON: config.json's linux.resources; - is standard input",
            ),
            (("memory",), TEXT, "", "BYTES", "limit on memory, such as 64m; -1 is none"),
            (("memory-swap",), TEXT, "", "BYTES", "limit on memory and swap together; -1 is none"),
            (("memory-reservation",), TEXT, "", "BYTES", "memory to be left alone when it is scarce"),
            (("cpu-period",), TEXT, "", "US", "length of a period in which the quota may be used"),
            (("cpu-quota",), TEXT, "", "US", "processor time per period; -1 is any amount"),
            (("cpu-burst",), TEXT, "", "US", "processor time that may be saved up for a later period"),
            (("cpu-share", "cpu-shares"), TEXT, "", "N", "weight against other cgroups"),
            (("cpu-idle",), TEXT, "", "0|1", "run only when nothing else does"),
            (("cpu-rt-period",), TEXT, "", "US", "length of a period of realtime scheduling"),
            (("cpu-rt-runtime",), TEXT, "", "US", "realtime per such period"),
            (("cpuset-cpus",), TEXT, "", "LIST", "processors to run on, such as 0-3,7"),
            (("cpuset-mems",), TEXT, "", "LIST", "memory nodes to use"),
            (("pids-limit",), TEXT, "", "N", "number of processes and threads; -1 is any"),
            (("blkio-weight",), TEXT, "", "N", "weight of block I/O, 10 to 1000"),
            (("l3-cache-schema",), TEXT, "", "SCHEMA", "share of its intelRdt class in the L3 cache, L3:0=f"),
            (("mem-bw-schema",), TEXT, "", "SCHEMA", "share of its intelRdt class in memory bandwidth, MB:0=20"),
            (("kernel-memory",), TEXT, "", "BYTES", "ignored: Linux has had no such limit since 5.16"),
            (("kernel-memory-tcp",), TEXT, "", "BYTES", "ignored, as by runc"),
        ),
        "What is not named stays as it is, and so does what is named with 0. Where the kernel refuses one of the new limits, "
        "the old ones are put back. Device rules are never changed.",
    ),
    "mounts": (
        "add mounts to a running container, or remove them (crun)",
        (
            ("action", ONE, "add or remove"),
            ID,
            ("file", ONE, "JSON: config.json's mounts, an array or an object that has it"),
        ),
        ((("plan",), FLAG, False, "", "print what would be done, and do none of it"),),
        "All mounts of the file are added, or none. Sources are paths of the host, relative ones of the bundle; what is missing of a "
        "destination is made. To remove, the destinations alone count: what lies on top there is unmounted, the last one first. "
        "Nothing is kept: the mounts end with the container.",
    ),
    "checkpoint": (
        "save the state of a running container",
        (ID,),
        (
            *CRIU,
            (("parent-path",), TEXT, "", "DIR", "images of an earlier --pre-dump, relative to --image-path"),
            (("leave-running",), FLAG, False, "", "let the container go on; it is deleted when not given"),
            (("pre-dump",), FLAG, False, "", "save only the memory, and let the container go on"),
            (("tcp-skip-in-flight",), FLAG, False, "", "leave out TCP connections that are not yet accepted"),
            (("link-remap",), FLAG, False, "", "allow open files without a name, by giving them one"),
            (
                ("page-server",),
                TEXT,
                "",
                "ADDRESS:PORT",
                "send memory to CRIU's page server there; with --lazy-pages, be one there",
            ),
            (("status-fd",), INT, None, "FD", "write a zero byte to this descriptor when lazy pages can be fetched"),
        ),
        "All that the container's processes are is written to files, by CRIU, which must be installed. `restore` makes it anew from them.",
    ),
    "restore": (
        "restore a container from a checkpoint",
        (ID,),
        (
            BUNDLE_DIR,
            *CRIU,
            PID_FILE,
            CONSOLE_SOCKET,
            DETACH,
            (("no-subreaper",), FLAG, False, "", "do not adopt orphaned processes of the container"),
            (("no-pivot",), FLAG, False, "", "accepted for callers that give it; CRIU changes the root"),
            (
                ("parent-path",),
                TEXT,
                "",
                "DIR",
                "accepted for containerd, which may give it; images know those before them",
            ),
            (
                ("lsm-profile",),
                TEXT,
                "",
                "TYPE:NAME",
                "security profile of the processes, instead of their own: apparmor or selinux",
            ),
            (
                ("lsm-mount-context",),
                TEXT,
                "",
                "CONTEXT",
                "SELinux context of mounts that have one, instead of their own",
            ),
        ),
        "The bundle must be what the container was made from. The id must not be in use. The exit status is that of the container's "
        "process, as for run.",
    ),
    "spec": (
        "write a config.json to start from",
        (),
        (
            BUNDLE_DIR,
            (
                ("file", "f"),
                TEXT,
                "config.json",
                "FILE",
                "name of the file in the bundle directory, or its path (crun)",
            ),
            (("rootless",), FLAG, False, "", "write one that works without root"),
        ),
        "The file is written to the bundle directory, and never over one that is there.",
    ),
    "features": (
        "print what this runtime can do",
        (),
        (),
        "The output is the features document of the runtime specification, in JSON.",
    ),
    "validate": (
        "check a bundle's config.json",
        (BUNDLE,),
        (
            (("json",), FLAG, False, "", "print an array of findings in JSON"),
            (("strict",), FLAG, False, "", "properties that the specification does not know are errors too"),
        ),
        "Every error is listed with its place in the file, what was expected, and the clause of the specification. Nothing is run.",
    ),
    "plan": (
        "print what create would do, and do none of it",
        (BUNDLE,),
        (
            *CREATE,
            (("id",), TEXT, "", "ID", "name of the container; the name of the bundle's directory when not given"),
            (("json",), FLAG, False, "", "print an array of steps in JSON"),
        ),
        "The list is the very one that create would carry out: host steps, and the operations of the interpreter.",
    ),
    "doctor": (
        "say what is wrong, and what to do",
        (("target", MAYBE, "a bundle, or the id of a container; this host when not given"),),
        (
            (
                ("engine",),
                CHOICE,
                "",
                "containerd|docker|podman|cri-o",
                "look at how this engine is set up to use pyrunc",
            ),
            (("config",), TEXT, "", "FILE", "the engine's configuration, where it is not in the usual place"),
            (("json",), FLAG, False, "", "print an array of findings in JSON"),
        ),
        "Of this host: what it offers and lacks. Of an engine: whether it finds pyrunc and will get along with it. Of a bundle: "
        "which fields would fail here. Of a container: what it waits for, and what is left of it. The exit status is 1 where "
        "an error was found, and 0 where there is nothing worse than a warning. Nothing is changed.",
    ),
}
