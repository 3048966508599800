"""The runtime's words for a checkpoint and a restore, as go-runc writes them (command and option names of runc's)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: option of messages.CHECKPOINT_OPTIONS -> word
_SWITCHES = {
    "open_tcp": "--tcp-established",
    "external_unix_sockets": "--ext-unix-sk",
    "terminal": "--shell-job",
    "file_locks": "--file-locks",
}
_VALUES = {"cgroups_mode": "--manage-cgroups-mode", "parent_path": "--parent-path"}


def checkpoint(options: dict[str, Any], path: str, work: str) -> list[str]:
    """Write the processes to the directory `path`; `work` is for CRIU's own files."""
    words = ["checkpoint", "--image-path", path, "--work-path", work]
    words += [word for name, word in _SWITCHES.items() if options[name]]
    if not options["exit"]:
        words.append("--leave-running")
    for name in options["empty_namespaces"]:
        words += ["--empty-ns", name]
    for name, word in _VALUES.items():
        if options[name]:
            words += [word, options[name]]
    return words


def restore(request: dict[str, Any], work: str, pid_file: str) -> list[str]:
    """Have the processes of a create request's checkpoint again, and leave them to the caller as their subreaper."""
    words = ["restore", "--image-path", request["checkpoint"], "--work-path", work, "--detach"]
    if request["parent_checkpoint"]:
        words += ["--parent-path", request["parent_checkpoint"]]
    return [*words, "--pid-file", pid_file, "--no-subreaper", "--bundle", request["bundle"]]
