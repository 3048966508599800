"""What the words of the command line are made of: the kinds of options, the global ones, and those that several commands have.

    option      (names, kind, default, metavar, help)   names without dashes, the long one first; `pid-file` becomes
                                                        the attribute `pid_file`
    positional  (name, need, help)                      need: ONE, MAYBE (at most one) or PAYLOAD (all the rest,
                                                        options included, belong to somebody else)
    command     (summary, positionals, options, description)

The names, defaults and meanings are runc's; what is crun's or ours says so in its help. Data only; imports nothing. The commands
themselves are the table of `grammar`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Option = tuple[tuple[str, ...], str, Any, str, str]
    Positional = tuple[str, str, str]
    Command = tuple[str, tuple[Positional, ...], tuple[Option, ...], str]

# kinds of options
FLAG = "flag"  # no value, or =true / =false as in Go
TEXT = "text"  # one word, which may begin with a dash
INT = "int"  # a decimal number, zero or more
DURATION = "duration"  # Go's spelling, 1m30s; seconds as a float
CHOICE = "choice"  # one of the words of the metavar, split at |
LIST = "list"  # may be given more than once; every value is kept

# how many words a positional takes
ONE = "one"
MAYBE = "maybe"
PAYLOAD = "payload"

GLOBAL: tuple[Option, ...] = (
    (
        ("root",),
        TEXT,
        "",
        "DIR",
        "directory of the containers' state; /run/pyrunc, or $XDG_RUNTIME_DIR/pyrunc when rootless",
    ),
    (
        ("log",),
        TEXT,
        "",
        "FILE",
        "append errors to this file, besides printing them; journald:ID and syslog:ID are no files, file:PATH is one (crun)",
    ),
    (("log-format",), CHOICE, "text", "text|json", "format of the log file"),
    (
        ("log-level",),
        CHOICE,
        "",
        "debug|info|warning|error",
        "least severe level that is logged (crun); warning, or for a json log error, when not given",
    ),
    (("debug",), FLAG, False, "", "log what is being done; same as --log-level debug"),
    (("systemd-cgroup",), FLAG, False, "", "let systemd make the cgroups; cgroupsPath then reads slice:prefix:name"),
    (
        ("cgroup-manager",),
        CHOICE,
        "",
        "cgroupfs|systemd|disabled",
        "who makes the cgroups (crun); cgroupfs when not given",
    ),
    (("rootless",), CHOICE, "auto", "auto|true|false", "go on without cgroups that may not be made"),
    (("criu",), TEXT, "", "FILE", "ignored, as by runc since 1.2: criu is looked for in $PATH"),
    (("timings",), FLAG, False, "", "print where the time of the command went, on standard error"),
    (("version", "v"), FLAG, False, "", "print the version and exit"),
    (("help", "h"), FLAG, False, "", "print help and exit"),
)

#: accepted by every command, listed apart because its handling is the same everywhere
HELP: Option = (("help", "h"), FLAG, False, "", "print help and exit")

ID: Positional = ("id", ONE, "name of the container")
BUNDLE: Positional = ("bundle", MAYBE, "path of the bundle; the current directory when not given")

CONSOLE_SOCKET: Option = (
    ("console-socket",),
    TEXT,
    "",
    "PATH",
    "AF_UNIX socket that is sent the master of the container's terminal",
)
PIDFD_SOCKET: Option = (("pidfd-socket",), TEXT, "", "PATH", "AF_UNIX socket that is sent a pidfd of the process")
PID_FILE: Option = (("pid-file",), TEXT, "", "FILE", "write the process id to this file")
DETACH: Option = (("detach", "d"), FLAG, False, "", "do not wait for the process")
PRESERVE_FDS: Option = (
    ("preserve-fds",),
    INT,
    0,
    "N",
    "pass N descriptors to the process, besides stdio and $LISTEN_FDS",
)
REGEX: Option = (("regex", "r"), FLAG, False, "", "take the id as a regular expression, for all that match (crun)")
FORMAT: Option = (("format", "f"), CHOICE, "table", "table|json", "form of the output")
BUNDLE_DIR: Option = (("bundle", "b"), TEXT, ".", "DIR", "path of the bundle")
NO_PIVOT: Option = (("no-pivot",), FLAG, False, "", "change root without pivot_root, for a rootfs on a ramdisk")
NO_NEW_KEYRING: Option = (("no-new-keyring",), FLAG, False, "", "keep the caller's session keyring")
CONFIG: Option = (("config", "f"), TEXT, "", "FILE", "read this file and not the bundle's config.json (crun)")

CREATE: tuple[Option, ...] = (
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    PID_FILE,
    NO_PIVOT,
    NO_NEW_KEYRING,
    PRESERVE_FDS,
    CONFIG,
)

#: of checkpoint and restore alike; the names are runc's, those of crun say so
CRIU: tuple[Option, ...] = (
    (("image-path",), TEXT, "", "DIR", "directory of the images; checkpoint, in the working directory, when not given"),
    (
        ("work-path",),
        TEXT,
        "",
        "DIR",
        "directory of CRIU's log and other working files; that of the images when not given",
    ),
    (("tcp-established",), FLAG, False, "", "allow open TCP connections"),
    (("tcp-close",), FLAG, False, "", "restore connected TCP sockets as closed ones (crun)"),
    (("ext-unix-sk",), FLAG, False, "", "allow unix sockets whose other end is outside of the container"),
    (("shell-job",), FLAG, False, "", "allow a terminal that is the caller's"),
    (("file-locks",), FLAG, False, "", "keep file locks, which must be held by nobody outside of the container"),
    (
        ("manage-cgroups-mode",),
        CHOICE,
        "",
        "soft|full|strict|ignore",
        "what CRIU does about cgroups below the container's; soft when not given",
    ),
    (
        ("empty-ns",),
        LIST,
        (),
        "network",
        "leave it to others to set the namespace up; done with a network namespace anyway",
    ),
    (("auto-dedup",), FLAG, False, "", "free what is in a later image, or restored, in the earlier ones"),
    (("lazy-pages",), FLAG, False, "", "let memory follow by userfaultfd, from CRIU's daemon lazy-pages"),
    (("network-lock",), CHOICE, "", "iptables|nftables|skip", "how CRIU holds packets back meanwhile (crun)"),
)
