"""Labels of Linux security modules: AppArmor profiles and SELinux contexts, written through the private proc.

A host without the module is an error and no reason to go on unconfined.
"""

from __future__ import annotations

from runtime.errors import Unsupported
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request


def labels(request: Request, plan: Plan) -> Iterator[Op]:
    """Labels for the moment of exec: until then we stay what we are, and hooks with us."""
    profile = request.process.get("apparmorProfile")
    if profile:
        if not request.host.has_apparmor:
            if profile != "unconfined":
                raise Unsupported("process.apparmorProfile: apparmor: config provided but apparmor not supported")
        else:
            yield Op(
                "write",
                "self/attr/apparmor/exec",
                f"exec {profile}",
                r1="proc",
                about=f"apply apparmor profile `/proc/self/attr/apparmor/exec` {profile}",
                where="/process/apparmorProfile",
            )
    label = _selinux_label(request)
    if label:
        yield Op(
            "write",
            "self/attr/exec",
            label,
            r1="proc",
            about=f"set selinux label `/proc/self/attr/exec` {label}",
            where="/process/selinuxLabel",
        )


def label_new_keys(request: Request) -> Iterator[Op]:
    """Label the session keyring that is about to be made as the process will be: else the process could not use it."""
    label = _selinux_label(request)
    if label:
        yield _keycreate(label, f"set selinux label of keys {label}")


def label_keys_as_usual(request: Request) -> Iterator[Op]:
    """Take the label for new keys back: it was for the session keyring alone."""
    if _selinux_label(request):
        yield _keycreate("\n", "reset selinux label of keys")


def _keycreate(label: str, about: str) -> Op:
    return Op("write", "self/attr/keycreate", label, r1="proc", about=about, where="/process/selinuxLabel")


def _selinux_label(request: Request) -> str:
    label: str = request.process.get("selinuxLabel") or ""
    if label and not request.host.has_selinux:
        raise Unsupported(
            "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported"
        )
    return label
