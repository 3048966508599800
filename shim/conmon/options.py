"""The words of conmon's command line: every option that Podman and CRI-O pass (shim/words.py reads them).

Words that are no options are ignored: Podman writes `--api-version 1` although the option takes no value. What cannot be
honoured is refused by name; nothing is ignored that was asked for.
"""

from __future__ import annotations

from shim import words
from shim.words import FLAG, LIST, NUMBER, TEXT, BadOptions, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from shim.words import Entry

VERSION = "2.2.1"

TABLE: tuple[Entry, ...] = (
    ("api-version", "", FLAG, "report as Podman reads it; without, as CRI-O does"),
    ("bundle", "b", TEXT, "directory of the bundle, or of the exec session"),
    ("cid", "c", TEXT, "id of the container"),
    ("conmon-pidfile", "P", TEXT, "write our own pid there"),
    ("container-pidfile", "p", TEXT, "where the runtime writes the container's pid"),
    ("cuuid", "u", TEXT, "id that is unique among all, or that of the exec session"),
    ("exec", "e", FLAG, "run a process in a running container"),
    ("exec-attach", "", FLAG, "start the process only when the caller has attached to it"),
    ("exec-process-spec", "", TEXT, "the process to run, as a JSON file"),
    ("exit-command", "", TEXT, "program to run after the end"),
    ("exit-command-arg", "", LIST, "argument of that program"),
    ("exit-delay", "", NUMBER, "seconds between the end and that program"),
    ("exit-dir", "", TEXT, "write the exit status to a file in there, named by the id"),
    ("full-attach", "", FLAG, "put the attach socket into the bundle itself"),
    ("help", "h", FLAG, "print this"),
    ("leave-stdin-open", "", FLAG, "keep the container's stdin open when an attached client has closed its end"),
    ("log-allowlist-dir", "", LIST, "refuse a log file outside of these directories"),
    ("log-global-size-max", "", NUMBER, "stop logging after so many bytes"),
    ("log-label", "", LIST, "KEY=VALUE to add to each journal entry"),
    ("log-level", "", TEXT, "error, warn, info, debug or trace"),
    ("log-max-files", "", NUMBER, "how many rotated log files to keep (1)"),
    ("log-path", "l", LIST, "k8s-file:PATH, journald, passthrough, none, or a PATH"),
    ("log-rotate", "", FLAG, "keep log files that have grown too long, as PATH.1 and so on"),
    ("log-size-max", "", NUMBER, "begin the log file anew when it would grow longer"),
    ("log-tag", "", TEXT, "tag to add to each journal entry"),
    ("name", "n", TEXT, "name of the container"),
    ("no-container-partial-message", "", FLAG, "do not mark journal entries that are parts of a line"),
    ("no-new-keyring", "", FLAG, "passed on to the runtime"),
    ("no-pivot", "", FLAG, "passed on to the runtime"),
    ("no-sync-log", "", FLAG, "do not wait until the log is on the disk"),
    ("persist-dir", "0", TEXT, "write the exit status and whether memory ran out to files in there"),
    ("pidfile", "", TEXT, "the old name of --container-pidfile", "container_pidfile"),
    ("replace-listen-pid", "", FLAG, "put the runtime's pid into LISTEN_PID"),
    ("restore", "", TEXT, "restore the container from this checkpoint"),
    ("restore-arg", "", LIST, "the old name of --runtime-opt", "runtime_opt"),
    ("runtime", "r", TEXT, "path of the runtime"),
    ("runtime-arg", "", LIST, "word for the runtime, before the command"),
    ("runtime-opt", "", LIST, "word for the runtime, after the command"),
    ("sdnotify-socket", "", TEXT, "pass on to this socket what the container tells its service manager"),
    ("seccomp-notify-plugins", "", TEXT, "not supported"),
    ("seccomp-notify-socket", "", TEXT, "not supported"),
    ("socket-dir-path", "", TEXT, "directory of the links to attach sockets (/var/run/crio)"),
    ("stdin", "i", FLAG, "give the container a stdin"),
    ("sync", "", FLAG, "stay in the foreground"),
    ("syslog", "", FLAG, "write our own messages to syslog also"),
    ("systemd-cgroup", "s", FLAG, "passed on to the runtime"),
    ("terminal", "t", FLAG, "give the container a terminal"),
    ("timeout", "T", NUMBER, "kill the container after so many seconds"),
    ("version", "", FLAG, "print the version"),
)

_DEFAULTS = {"socket_dir_path": "/var/run/crio", "log_max_files": 1, "log_size_max": -1, "log_global_size_max": -1}


def read(argv: Sequence[str]) -> Options:
    """The options in `argv`."""
    return words.read(argv, TABLE, **_DEFAULTS)


def check(options: Options) -> None:
    """Raise BadOptions unless the options make sense together; conmon's conditions."""
    for wrong, why in (
        (not options.cid, "no container id: use --cid"),
        (options.restore and options.exec, "--exec and --restore exclude each other"),
        (options.exec_attach and not options.exec, "--exec-attach is for --exec only"),
        (options.exec_attach and not options.api_version, "--exec-attach needs --api-version"),
        (not options.cuuid and (not options.exec or options.api_version), "no container uuid: use --cuuid"),
        (not options.runtime, "no runtime: use --runtime"),
        (options.exec and not options.exec_process_spec, "no process to run: use --exec-process-spec"),
        (options.exit_delay < 0, "--exit-delay: less than 0"),
        (options.timeout < 0, "--timeout: less than 0"),
        (options.log_max_files < 0, "--log-max-files: less than 0"),
        (options.log_rotate and options.log_max_files < 1, "--log-max-files must be at least 1 with --log-rotate"),
        (options.seccomp_notify_socket, "--seccomp-notify-socket: not supported"),
        (options.seccomp_notify_plugins, "--seccomp-notify-plugins: not supported"),
        (not options.log_path, "no log driver: use --log-path"),
    ):
        if wrong:
            raise BadOptions(why)


def help_text(program: str) -> str:
    """What --help prints."""
    return (
        f"usage: {program} [OPTION ...] -c ID -u UUID -r RUNTIME -l LOG\n\n"
        "Watch over a container for Podman or CRI-O: what conmon does, with its options.\n\n"
    ) + words.help_lines(TABLE)
