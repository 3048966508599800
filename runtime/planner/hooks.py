"""Hooks within a create: the runtime's own as steps of the parent, the container's as ops of init.

A hook gets the environment that its config gives it and nothing of ours; no descriptor but 0, 1, 2 (CVE-2025-23266: one
that ran with the container's environment obeyed its LD_PRELOAD, as root).
"""

from __future__ import annotations

from runtime import annotation
from runtime.plan import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.plan import Plan
    from runtime.planner import Request


def outside(request: Request, plan: Plan) -> Iterator[Op]:
    """prestart and createRuntime, which the parent runs in its own namespaces, then createContainer in the container's."""
    hooks = request.config.get("hooks") or {}
    kinds = ("prestart", "createRuntime")
    steps = [
        ("hook", f"{kind}/{index}", hook["path"]) for kind in kinds for index, hook in enumerate(hooks.get(kind) or ())
    ]
    if steps:
        yield plan.ask("hooks", steps, about="run hooks", where="/hooks")
    inside = hooks.get("createContainer") or ()
    if not inside:
        return
    yield plan.ask(
        "hook-state", [("hook-state", "creating", "")], get="state", about="get the state for hooks", where="/hooks"
    )
    for index, hook in enumerate(inside):
        yield _run(plan, "createContainer", index, hook, hook.get("env") or [])
    yield Op("close", r0="state")


def state_for_start(request: Request, plan: Plan) -> Iterator[Op]:
    """Get the state that startContainer hooks read, while there is somebody to ask."""
    if (request.config.get("hooks") or {}).get("startContainer"):
        steps = [("hook-state", "created", "")]
        yield plan.ask(
            "start-state", steps, get="state", about="get the state for hooks", where="/hooks/startContainer"
        )


def start_container(request: Request, plan: Plan) -> Iterator[Op]:
    """startContainer hooks: programs of the container, run as its user just before its program."""
    for index, hook in enumerate((request.config.get("hooks") or {}).get("startContainer") or ()):
        # runc gives those without an environment the container's, and they are the container's programs
        yield _run(plan, "startContainer", index, hook, hook.get("env") or request.process.get("env") or [])


def outputs(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(register, file) for each output of the hooks in the container that an annotation sends to a file of the host."""
    hooks = config.get("hooks") or {}
    if not hooks.get("createContainer") and not hooks.get("startContainer"):
        return []
    found = [(f"hook-{name}", annotation.get(config, f"hooks.{name}")) for name in ("stdout", "stderr")]
    return [(register, path) for register, path in found if path]


def _run(plan: Plan, kind: str, index: int, hook: dict[str, Any], env: list[str]) -> Op:
    path = hook["path"]
    args = hook.get("args") or [path]
    given = [name if name in plan.inherited else "" for name in ("hook-stdout", "hook-stderr")]
    return Op(
        "run-hook",
        path,
        "\0".join(args),
        "\0".join(env),
        r0="state",
        r1=given[0],
        r2=given[1],
        a=1000 * (hook.get("timeout") or 0),
        b=len(args),
        c=len(env),
        about=f"{kind}[{index}] {path}",
        where=f"/hooks/{kind}/{index}",
    )
