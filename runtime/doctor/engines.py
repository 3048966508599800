"""The engines that can be looked at, and what findings of all of them have in common."""

from __future__ import annotations

from runtime.doctor import ERROR, Finding, containerd, crio, docker, guarded, podman
from runtime.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHECKS: dict[str, Callable[[Host, str], Iterator[Finding]]] = {
    "containerd": containerd.check,
    "docker": docker.check,
    "podman": podman.check,
    "cri-o": crio.check,
}


def check(engine: str, config: str = "") -> Iterator[Finding]:
    """How an engine is set up; `config` is its file, "" for where it usually is."""

    def found() -> Iterator[Finding]:
        try:
            yield from _CHECKS[engine](Host(), config)
        except FileNotFoundError as error:
            what = error.filename or config
            yield Finding(
                ERROR, f"engine.{engine}.config", str(what), "not there", "give the file's path with --config"
            )

    yield from guarded(f"engine.{engine}.config", found)
