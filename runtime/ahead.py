"""Loading what a command needs before it is known with which words: for a process that waits for them (shim/spare.py).

Each function imports what a usual call of its commands does, so that such a call then imports nothing of ours any more
(tests/shim/test_spare.py).
"""

# ruff: noqa: F401

from __future__ import annotations


def load(kind: str) -> None:
    """`create`; `exec`; `light`, which is start, kill and delete. KeyError for anything else."""
    import runtime.__main__

    KINDS[kind]()


def _create() -> None:
    import _blake2
    import resource

    import runtime.bundle
    import runtime.cgroups.devices
    import runtime.cgroups.making
    import runtime.cli.create
    import runtime.creation
    import runtime.foreground
    import runtime.launch
    import runtime.making
    import runtime.planner.container
    import runtime.removal
    import runtime.rules_linux
    import runtime.seccomp

    # a shim is started in the bundle of its first container
    runtime.bundle.read_ahead(".")


def _light() -> None:
    import runtime.cli.delete
    import runtime.cli.kill
    import runtime.cli.start
    import runtime.removal


def _exec() -> None:
    import _blake2

    import runtime.bundle
    import runtime.cli.exec
    import runtime.foreground
    import runtime.joining
    import runtime.launch
    import runtime.planner.joiner
    import runtime.seccomp


KINDS = {"create": _create, "exec": _exec, "light": _light}
