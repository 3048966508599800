"""The user's program: its environment, where it is looked for, the seccomp filter it runs under, and exec.

Where the filter goes depends on no_new_privs. Without it loading needs CAP_SYS_ADMIN, so it comes before the capabilities
are dropped, and the rest of our own system calls run under it; with it, it comes last, and only execve does.
"""

from __future__ import annotations

from runtime import linux, wire
from runtime.plan import Op
from runtime.planner import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.plan import Plan
    from runtime.planner import Request


def home(request: Request, plan: Plan) -> Iterator[Op]:
    """Find HOME where the config does not say: now, while /etc/passwd can be read and no filter judges us."""
    if not any(word.startswith("HOME=") for word in request.process.get("env") or ()):
        uid = (request.process.get("user") or {}).get("uid", 0)
        yield Op("home", a=uid, about=f"find the home directory of user {uid}", where="/process/env")


def close_range(request: Request, plan: Plan) -> Iterator[Op]:
    """Close all but the preserved descriptors and what waiting for start needs, before the first step towards user code."""
    waits = request.wait_for_start
    yield Op(
        "close-range",
        r0="go" if waits else "",
        r1="status" if waits else "",
        r2="state" if "start-state" in plan.sections else "",
        a=3 + request.preserve,
        # startContainer hooks are yet to come, and want more than there are places for
        b=len(plan.inherited) if "start-state" in plan.sections else 0,
        about="close descriptors",
    )


# -- seccomp ---------------------------------------------------------------------------------------------------------


def seccomp_privileged(request: Request, plan: Plan) -> Iterator[Op]:
    """The filter without no_new_privs."""
    if not request.process.get("noNewPrivileges"):
        yield from _seccomp(request, plan)


def seccomp_listener(request: Request, plan: Plan) -> Iterator[Op]:
    """A filter with an agent, under no_new_privs: while the parent, which has to hand the listener over, is listening."""
    if request.process.get("noNewPrivileges") and request.seccomp is not None and request.seccomp.listener:
        yield from _seccomp(request, plan)


def seccomp_last(request: Request, plan: Plan) -> Iterator[Op]:
    """The filter under no_new_privs, directly before exec."""
    if request.process.get("noNewPrivileges") and request.seccomp is not None and not request.seccomp.listener:
        yield from _seccomp(request, plan)


def _seccomp(request: Request, plan: Plan) -> Iterator[Op]:
    made = request.seccomp
    if made is None:
        return
    where = "/linux/seccomp"
    held = "listener" if made.listener else ""
    yield Op("seccomp", made.program, r0=held, a=made.flags, about="load the seccomp filter", where=where)
    if held:
        steps = [("seccomp-listener", made.listener_path, made.listener_metadata)]
        yield plan.ask("seccomp-listener", steps, send=held, about="hand over the seccomp listener", where=where)
        yield Op("close", r0=held)


# -- the program -----------------------------------------------------------------------------------------------------


def find(request: Request, plan: Plan) -> Iterator[Op]:
    """Look for the program as the user, so that one which is missing fails `create` and not `start`."""
    name = request.process["args"][0]
    if not name:
        return  # a container without a process: `create` needs none (config.md#process), and `start` refuses it
    found = candidates(request)
    if not found:
        raise wire.program_error(name)
    yield Op("find-exec", "\0".join(found), a=len(found), about=f'exec: "{name}"', where="/process/args/0")


def wait_for_start(request: Request, plan: Plan) -> Iterator[Op]:
    """Sleep until `start`; failures go to the status FIFO from now on."""
    if not request.wait_for_start:
        return
    if request.host.euid != 0 and namespaces.get(request).has_user:
        # setns(2) asks for the right to look into init, and what is undumpable only root may look into: `exec` would be refused.
        # Not before here, where nothing of the host's is held any more and every privilege is gone (CVE-2016-9962).
        yield Op("prctl", a=linux.PR_SET_DUMPABLE, b=1, about="become dumpable")
    yield Op("fifo", r0="go", r1="status", about="wait for start")


def execute(request: Request, plan: Plan) -> Iterator[Op]:
    """Become the user's program."""
    args = request.process["args"]
    env = environment(request)
    found = candidates(request) or [""]
    yield Op(
        "exec",
        "\0".join(found),
        "\0".join(args),
        "\0".join(env),
        a=len(found),
        b=len(args),
        c=len(env),
        about=f'exec: "{args[0]}"',
        where="/process/args",
    )


def environment(request: Request) -> list[str]:
    """The program's environment: the config's, and what protocols of service managers add."""
    # of a name that is there twice the last value holds, as with runc and crun: getenv(3) would take the first, a shell the last
    env = {word.partition("=")[0]: word for word in request.process.get("env") or ()}
    if request.listen_fds and "LISTEN_FDS" not in env:
        # sd_listen_fds(3): the descriptors follow the standard ones, for the process that is 1 in its namespace
        env |= {"LISTEN_FDS": f"LISTEN_FDS={request.listen_fds}", "LISTEN_PID": "LISTEN_PID=1"}
    if request.notify_dir:
        env["NOTIFY_SOCKET"] = "NOTIFY_SOCKET=/run/notify/notify.sock"
    return list(env.values())


def candidates(request: Request) -> list[str]:
    """Where the program may be: a name with a slash is a path, any other is looked for in the directories of PATH.

    Relative directories of PATH are left out: what they would find depends on the working directory.
    """
    name = request.process["args"][0]
    if "/" in name:
        return [name]
    path = ""
    for word in request.process.get("env") or ():
        if word.startswith("PATH="):
            path = word[5:]
    return [f"{folder.rstrip('/')}/{name}" for folder in path.split(":") if folder[:1] == "/"] if name else []
