"""Plans that are for their effects alone: they end with a question, and whoever is asked ends the interpreter, which has no program."""

from __future__ import annotations

from runtime.plan import Op, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: close-range keeps this many
INHERITED_MAX = 3


def done(plan: Plan) -> Plan:
    """The plan with its end: whoever is asked for "done" ends the interpreter."""
    plan.ops += [
        plan.ask("done", [("done", "", "")], about="end"),
        close_range(()),
        Op("exec", "", "", "", a=1, b=1, about="exec nothing"),
    ]
    return plan


def close_range(inherited: Sequence[str]) -> Op:
    """Close all descriptors but those."""
    kept = [*inherited, "", "", ""][:INHERITED_MAX]
    return Op("close-range", r0=kept[0], r1=kept[1], r2=kept[2], a=3, about="close descriptors")
