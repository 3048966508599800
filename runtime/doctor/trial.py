"""Tries out a few ops in a process of their own, which ends at once: whether the kernel does them, and not whether it should.

The interpreter carries them out, as it would for a container: a seccomp filter or a security module above us, which no file of
/proc tells of, shows here. What is tried must need no answer from the parent and leave nothing behind.
"""

from __future__ import annotations

from runtime import linux
from runtime.errors import Error, ExecError
from runtime.launch import Launch
from runtime.plan import Op, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def refused(ops: Iterable[Op]) -> str:
    """Why the kernel refuses one of the ops; "" where it carries out all of them."""
    plan = Plan()
    # a plan ends by executing a program, and there is none here: that this is what fails means that the rest was done
    plan.ops = [*ops, Op("exec", a=0, b=0, c=0, about="end")]
    try:
        launch = Launch(plan, [], {}, lambda pid: None)
    except Error as error:
        return error.message
    try:
        launch.serve()
        return ""
    except Error as error:
        return "" if isinstance(error, ExecError) else error.message.partition(" [init")[0]
    finally:
        launch.destroy()


def unshare(flags: int, *, is_privileged: bool) -> Op:
    """Make namespaces; without privilege in a user namespace, which comes with the right to the others."""
    return Op("unshare", a=flags | (0 if is_privileged else linux.CLONE_NEWUSER), about="make it")
