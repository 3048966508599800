"""pyrunc-conmon: conmon's place between Podman or CRI-O and the runtime. From the words to a daemon that watches.

    options -> logs -> wait for the caller -> fork: the parent writes the pid file and ends -> monitor.py

What can be wrong with the words, the logs or the pipes is found before the fork, where the caller still reads our standard
error and our exit status. This module must not know what is done with the container.
"""

from __future__ import annotations

import os
import sys

from shim.conmon.messages import Messages
from shim.conmon.options import VERSION, check, help_text, read
from shim.exit_files import write_file
from shim.words import BadOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from shim.logs import Driver
    from shim.words import Options

FAILED = 1


def main(argv: list[str]) -> int:
    """The exit status: the container's, or 1 for a failure of ours."""
    messages = Messages()
    try:
        options = read(argv[1:])
        if options.help:
            sys.stdout.write(help_text(os.path.basename(argv[0])))
            return 0
        if options.version:
            sys.stdout.write(f"conmon version {VERSION}\ncommit: pyrunc\n")
            return 0
        check(options)
        return _watch(options, messages)
    except BadOptions as error:
        messages.error(str(error))
        return FAILED


def _watch(options: Options, messages: Messages) -> int:
    from shim.conmon.caller import BadPipe, Caller, take_pipe, wait_for_start
    from shim.logs import BadLog

    if not messages.set_up(options.log_level, options.cid, options.syslog):
        raise BadOptions(f'--log-level: no such level "{options.log_level}"')
    if not os.access(options.runtime, os.X_OK):
        raise BadOptions(f"--runtime {options.runtime}: not an executable file")
    inherited = _inherited_fds()
    directory = os.getcwd()
    options.bundle = options.bundle or ("" if options.exec else directory)
    options.container_pidfile = options.container_pidfile or f"{directory}/pidfile-{options.cid}"
    try:
        drivers = _drivers(options, messages)
        start_fd = take_pipe("_OCI_STARTPIPE")
        caller = Caller(options)
        inherited -= {start_fd, caller.sync_fd, caller.attach_fd}
    except (BadLog, BadPipe) as error:
        messages.error(str(error))
        return FAILED
    # while the caller is busy with our cgroup, and so that no child has to
    from runtime import kernel
    from shim.conmon.monitor import Monitor

    kernel.load()

    old_score = _protect_from_oom()
    if start_fd >= 0:
        # before any child is made: the caller is about to put us into the right cgroup
        wait_for_start(start_fd)
        if not options.exec_attach:
            os.close(start_fd)
            start_fd = -1
    if not options.sync:
        pid = os.fork()
        if pid:
            os._exit(_leave(options, messages, pid))
    return Monitor(options, messages, caller, drivers, inherited, start_fd, old_score).run()


def _leave(options: Options, messages: Messages, pid: int) -> int:
    """The parent's end: Podman waits for it, and then reads the pid file."""
    if options.conmon_pidfile:
        try:
            write_file(options.conmon_pidfile, b"%d" % pid)
        except OSError as error:
            messages.error(f"write pid file {options.conmon_pidfile}: {os.strerror(error.errno or 0).lower()}")
            return FAILED
    return 0


def _drivers(options: Options, messages: Messages) -> list[Driver] | None:
    """The logs that were asked for; None where the container writes to its caller's own descriptors."""
    from shim.logs import BadLog, K8sFile, parse

    wanted = dict(parse(text) for text in options.log_path)
    if "passthrough" in wanted:
        return None
    drivers: list[Driver] = []
    if "journald" in wanted:
        from shim.journal import Journald

        journal = Journald(
            options.cid,
            messages.warn,
            name=options.name,
            tag=options.log_tag,
            labels=options.log_label,
            marks_parts=not options.no_container_partial_message,
        )
        drivers.append(journal)
    elif options.no_container_partial_message:
        messages.warn("--no-container-partial-message: no effect without the journald log driver")
    if "k8s-file" in wanted:
        for option, value in (("--log-tag", options.log_tag), ("--log-label", options.log_label)):
            if value and not drivers:
                raise BadLog(f"{option}: not with k8s-file")
        log = K8sFile(
            wanted["k8s-file"],
            messages.warn,
            limit=options.log_size_max,
            total=options.log_global_size_max,
            keep=options.log_max_files if options.log_rotate else 0,
            allowed=options.log_allowlist_dir,
        )
        drivers.append(log)
    return drivers


def _inherited_fds() -> set[int]:
    """What the caller gave us besides 0, 1 and 2: to be passed on, or to be kept open (ports that Podman reserves)."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            # ours are all close-on-exec, which nothing that came through an exec is
            if fd > 2 and os.get_inheritable(fd):
                found.add(fd)
        except OSError:
            pass  # the one that listed the directory
    return found


def _protect_from_oom() -> bytes:
    """Be the last one that the kernel kills for want of memory; what was there before, which is what the container gets."""
    try:
        with open("/proc/self/oom_score_adj", "rb") as file:
            before = file.read()
        set_oom_score(b"-1000")
    except OSError:
        return b""  # not permitted: then nothing has changed
    return before


def set_oom_score(score: bytes) -> None:
    """Write /proc/self/oom_score_adj."""
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, score)
    finally:
        os.close(fd)
