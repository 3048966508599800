"""What this machine offers and lacks, subject by subject."""

from __future__ import annotations

from runtime.doctor import cgroups, guarded, kernel, privileges, programs, security
from runtime.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.doctor import Finding
    from runtime.lifecycle import Context


def check(ctx: Context) -> Iterator[Finding]:
    """Everything that is known to matter to containers of this user."""
    host = Host()
    yield from guarded("kernel", lambda: kernel.check(host))
    yield from guarded("privileges", lambda: privileges.check(host))
    yield from guarded("cgroup", lambda: cgroups.check(host))
    yield from guarded("security", lambda: security.check(host))
    yield from guarded("programs", lambda: programs.check(ctx, host))
