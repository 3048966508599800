"""dockerd with pyrunc's shim instead of containerd's, as dockerd since 23 can be told: the other modules' tests once more.

By its path, as `runtimeType` of a runtime of daemon.json; and by containerd's name for it, which daemon.json need not know.
"""

from __future__ import annotations

import json

import newer
import pytest
from docker_lab import BB, SHIM, Docker, Dockerd, is_peer, running, user
from lab import missing, until
from test_docker import (  # noqa: F401 - collected here
    test_attach,
    test_create_start_wait,
    test_detach_logs,
    test_events,
    test_exec,
    test_exec_many,
    test_exec_opts,
    test_exec_privileged,
    test_exec_tty,
    test_parallel_10,
    test_rename_inspect,
    test_run_125,
    test_run_126,
    test_run_deb,
    test_run_exit_code,
    test_run_exit_code_of_a_signal,
    test_run_init,
    test_run_rm,
    test_run_sigint,
    test_run_stdin,
    test_run_stopsignal,
    test_run_tty,
    test_run_tty_resize,
    test_run_user,
    test_top,
)
from test_docker_limits import (  # noqa: F401
    test_healthcheck,
    test_oomkilled,
    test_pause,
    test_restart,
    test_restart_policy,
    test_run_memory,
    test_stats,
    test_stop_kill,
    test_stop_timeout,
    test_update,
    test_update_paused,
)
from test_docker_mounts import (  # noqa: F401
    shared,
    test_cp_diff_commit,
    test_run_bind,
    test_run_propagation,
    test_run_volume,
)
from test_docker_network import test_port_publish, test_run_join, test_run_net_host  # noqa: F401
from test_docker_security import test_run_cgroupns, test_run_pid_host, test_run_privileged, test_run_seccomp  # noqa: F401

pytestmark = pytest.mark.newer

#: how dockerd is told -> settings of daemon.json, and the name under which it has the runtime
WAYS = {
    "path": {"runtimes": {"ours": {"runtimeType": str(SHIM)}}, "default-runtime": "ours"},
    "name": {"runtimes": {}, "default-runtime": "io.containerd.pyrunc.v2"},
}


@pytest.fixture(scope="module", params=WAYS)
def dockerd(new_lab, engine_runtime, bb_image, request):
    if not newer.wanted():
        missing("a dockerd that knows runtimeType")
    if is_peer(engine_runtime):
        missing("a shim of the runtime's own")
    yield from running(new_lab, engine_runtime, bb_image, settings=WAYS[request.param])


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


def test_the_shim_is_ours(docker: Docker, dockerd: Dockerd, engine_runtime):
    """A child of pyrunc's shim, and known to pyrunc."""
    id_ = docker.sleeping()
    stat = (docker.lab.root / f"proc/{docker.pid(id_)}/stat").read_text().rpartition(")")[2].split()
    assert SHIM.name in docker.lab.pids()[int(stat[1])]
    docker("kill", id_)
    until(lambda: docker.inspect(id_, ".State.ExitCode") == "137", "the exit status")
    assert docker.lab.run(engine_runtime, "--root", dockerd.states, "list", "--format", "json").json() in ([], None)
    info = json.loads(docker("info", "-f", "{{json .}}").out)
    assert info["DefaultRuntime"] in ("ours", "io.containerd.pyrunc.v2")


def test_run_127_in_our_words(docker):
    for program, words in (
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
    ):
        assert words in docker.run(BB, program, status=127).err


def test_both_at_once(docker):
    """pyrunc by its shim, and Docker's own runtime by containerd's."""
    one, other = docker.sleeping(), docker.sleeping("--runtime", "runc")
    for id_ in (one, other):
        assert docker.exec(id_, "echo", "hi").out == "hi\n"
