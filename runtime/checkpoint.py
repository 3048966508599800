"""`checkpoint`: what a running container is, written to files by CRIU, from which `restore` makes it anew.

With --leave-running the container goes on; otherwise it has ended with the dump and is deleted, as by runc and crun, so that its id is
free for the restore. Nothing has to be undone here: CRIU lets go of the processes where it fails, or where we do.
"""

from __future__ import annotations

from runtime import criu, external, jsonio, lifecycle, removal, status
from runtime import system as os
from runtime.criu_process import Criu
from runtime.errors import KernelError, StatusError, UsageError
from runtime.host import Host
from runtime.linux import CLONE_NEWNET
from runtime.planner import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.store import Entry

DESCRIPTORS = "descriptors.json"
#: read by CRIU at each dump and restore, over what we ask for; the second is for those who come from runc
CONFIG_FILES = ("/etc/criu/pyrunc.conf", "/etc/criu/runc.conf")
_LOG = "dump.log"
#: the most detailed that is not for debugging CRIU itself, as with runc
LOG_LEVEL = 4


def checkpoint(ctx: lifecycle.Context, id_: str, options: Any) -> None:
    """Dump the container; then delete it, unless it shall go on."""
    entry = lifecycle.locked(ctx, id_, "checkpoint")
    try:
        word, pid = entry.status()
        status.allow("checkpoint", word, id_)
        with Directories(options, made=True) as directories:
            _dump(ctx, entry, pid, word == status.PAUSED, options, directories)
        if not (options.leave_running or options.pre_dump):
            # under the lock: nobody shall see it as one that has stopped by itself
            removal.end(ctx, entry)
    finally:
        entry.close()


class Directories:
    """Where the images are, where CRIU works, and where its log is: held open while it is at work."""

    def __init__(self, options: Any, *, made: bool) -> None:
        self.images = os.path.abspath(options.image_path or "checkpoint")
        self.work = os.path.abspath(options.work_path) if options.work_path else ""
        #: by CRIU's name for them
        self.paths = {"images_dir_fd": self.images, **({"work_dir_fd": self.work} if self.work else {})}
        self.fds: dict[str, int] = {}
        try:
            if made:
                _make(self.images)
            if self.work:
                _make(self.work)
            for name, path in self.paths.items():
                self.fds[name] = _open(path, f"{name.partition('_')[0].rstrip('s')} directory")
        except BaseException:
            self.close()
            raise

    def log(self, name: str) -> str:
        """The path of CRIU's log."""
        return f"{self.work or self.images}/{name}"

    def close(self) -> None:
        """Give them up."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make(path: str) -> None:
    """Make a directory and what is missing above it, for us alone: there is the container's memory in it."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass  # somebody was faster, or it is no directory, which opening it will tell
        except OSError as error:
            raise KernelError(f"make directory {folder}", error.errno or 0) from None


def _open(path: str, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"open {what} {path}", error.errno or 0) from None


def _dump(
    ctx: lifecycle.Context, entry: Entry, pid: int, was_paused: bool, options: Any, directories: Directories
) -> None:
    saved = entry.state
    if saved is None:
        raise StatusError("container not running", code="status")
    parent = _parent(options, directories)
    server = page_server(options.page_server)
    if Host().is_rootless:
        ctx.warn("checkpoint is untested with rootless containers")
    request = _request(entry, saved)
    wanted: dict[str, Any] = {
        **directories.fds,
        **common(request.config, options, _LOG),
        "pid": pid,
        "root": saved["rootfs"],
        "leave_running": options.leave_running,
        "tcp_skip_in_flight": options.tcp_skip_in_flight,
        "link_remap": options.link_remap,
        "external": external.dumped_namespaces(request.config),
    }
    cgroup = lifecycle.cgroup_of(saved)
    freezer = cgroup.freezer_file()
    if freezer:
        wanted["freeze_cgroup"] = os.path.dirname(freezer)
    if server:
        wanted["ps"] = {"address": server[0], "port": server[1]}
    if parent:
        wanted |= {"parent_img": parent, "track_mem": True}
    if not options.pre_dump:
        wanted["ext_mnt"] = [{"key": place, "val": name} for place, name in external.dumped(request, pid)]
        standard = external.descriptors(pid, cgroup.pids())
        wanted["external"] += [word for word in dict.fromkeys(standard) if word.startswith("file[")]
        _write(directories, standard)
    try:
        _ask(wanted, options, directories.log(_LOG))
    except BaseException:
        # CRIU thaws what it has frozen, unless it was killed
        if freezer and not was_paused and cgroup.is_frozen():
            cgroup.thaw()
        raise


def _ask(wanted: dict[str, Any], options: Any, log: str) -> None:
    kind = criu.PRE_DUMP if options.pre_dump else criu.DUMP
    # one that waits for somebody to fetch pages would wait for ever, and hold on to the container meanwhile: no process of it could
    # end. Otherwise CRIU notices that nobody listens to it, and puts all back
    with Criu(dies_with_us=options.lazy_pages) as process:
        process.version()
        if options.pre_dump:
            process.require("mem_track")
        if options.lazy_pages:
            process.require("lazy_pages")
        process.log = log

        def notified(what: str, pid: int, given: int) -> None:
            if what == "status-ready" and options.status_fd is not None:
                # the pages can be fetched from now on; whoever waits for that waits for the end, too
                os.write(options.status_fd, b"\0")
                os.close(options.status_fd)

        # somebody else fetches the pages, when it suits him
        process.ask({"type": kind, "opts": wanted}, notified, waits=options.lazy_pages)
        left = process.finish()
        # after a pre-dump it would wait for the next one, and is told by our hanging up that there is none
        if left and not options.pre_dump:
            raise process.failure(f"criu failed: type {criu.NAMES[kind]}: it ended with status {left}")


def common(config: dict[str, Any], options: Any, log: str) -> dict[str, Any]:
    """What a dump and a restore are asked for alike."""
    wanted: dict[str, Any] = {
        "log_level": LOG_LEVEL,
        "log_file": log,
        "notify_scripts": True,
        "manage_cgroups": True,
        "manage_cgroups_mode": criu.CGROUP_MODES[options.manage_cgroups_mode],
        "shell_job": options.shell_job,
        "ext_unix_sk": options.ext_unix_sk,
        "tcp_established": options.tcp_established,
        "tcp_close": options.tcp_close,
        "file_locks": options.file_locks,
        # devices and addresses of a network namespace are left to whoever has put them there, as with runc
        "empty_ns": CLONE_NEWNET,
        "orphan_pts_master": True,
        "auto_dedup": options.auto_dedup,
        "lazy_pages": options.lazy_pages,
    }
    if options.network_lock:
        wanted["network_lock"] = criu.NETWORK_LOCKS[options.network_lock]
    file = config_file(config)
    if file:
        wanted["config_file"] = file
    return wanted


def config_file(config: dict[str, Any]) -> str:
    """The file that CRIU reads its options from: the annotation's, which may be none at all, or ours where there is one."""
    annotations: dict[str, str] = config.get("annotations") or {}
    if "org.criu.config" in annotations:
        return annotations["org.criu.config"]
    return next((path for path in CONFIG_FILES if os.path.exists(path)), "")


def page_server(word: str) -> tuple[str, int] | None:
    """`ADDRESS:PORT`, an IPv6 address in brackets."""
    if not word:
        return None
    address, colon, port = word.rpartition(":")
    if address[:1] == "[" and address[-1:] == "]":
        address = address[1:-1]
    elif ":" in address:
        address = ""
    if not address or not colon or not port:
        raise UsageError("use --page-server ADDRESS:PORT to specify page server", code="usage")
    if port.strip("0123456789") or len(port) > 5 or not 0 < int(port) < 65536:
        raise UsageError(f'--page-server: invalid port number "{port}"', code="usage")
    return address, int(port)


def _parent(options: Any, directories: Directories) -> str:
    path: str = options.parent_path
    if not path:
        return ""
    if path[0] == "/":
        raise UsageError("--parent-path must be relative", code="usage")
    found = os.path.join(directories.images, path)
    try:
        mode = os.stat(found).st_mode
    except OSError as error:
        raise KernelError(f"invalid --parent-path: stat {found}", error.errno or 0) from None
    if mode & 0o170000 != 0o040000:
        raise KernelError(f"invalid --parent-path: {found}", 20)
    return path


def _request(entry: Entry, saved: dict[str, Any]) -> Request:
    request = Request()
    request.id = entry.id
    request.bundle = saved["bundle"]
    request.config = lifecycle.config_of(entry)
    request.rootfs = saved["rootfs"]
    request.host = Host()
    return request


def _write(directories: Directories, found: list[str]) -> None:
    data = jsonio.dumps(found).encode("utf-8", "surrogateescape")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(DESCRIPTORS, flags, 0o600, dir_fd=directories.fds["images_dir_fd"])
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError(f"write {directories.images}/{DESCRIPTORS}", error.errno or 0) from None
