"""What docker limits, measures, changes while a container runs, and does when it ends or is ill."""

from __future__ import annotations

import json
import time

import pytest
from docker_lab import BB, running, user
from lab import missing, until


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


def value(docker, path, *options):
    """What a cgroup file says inside a container with those options."""
    return docker.output(*options, BB, "cat", f"/sys/fs/cgroup/{path}")


# -- limits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.requires("cgroup-v1")
def test_run_memory(docker):
    options = ("-m", "64m", "--memory-swap", "128m", "--memory-reservation", "32m")
    names = ("limit", "memsw.limit", "soft_limit")
    files = [f"/sys/fs/cgroup/memory/memory.{name}_in_bytes" for name in names]
    assert docker.output(*options, BB, "cat", *files).split() == [str(size << 20) for size in (64, 128, 32)]
    # and Docker's own checks come before
    assert "can not be less" in docker.fails("run", "-m", "64m", "--memory-reservation", "65m", BB, "true")


@pytest.mark.requires("cgroup-v1")
def test_run_cpu(docker):
    options = ("--cpus", "0.25", "--cpu-shares", 512, "--cpuset-cpus", 0)
    files = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpu/cpu.shares", "cpuset/cpuset.cpus")
    out = docker.output(*options, BB, "cat", *(f"/sys/fs/cgroup/{file}" for file in files))
    assert out.split() == ["25000", "100000", "512", "0"]
    assert docker.output("--cpuset-cpus", 0, BB, "nproc") == "1"
    script = "while :; do grep ^nr_throttled /sys/fs/cgroup/cpu/cpu.stat | grep -v ' 0' && exit; done"
    assert docker.shell(script, "--cpus", "0.05").startswith("nr_throttled")


@pytest.mark.requires("cgroup-v1")
def test_run_pids(docker):
    assert value(docker, "pids/pids.max", "--pids-limit", 20) == "20"
    result = docker.run(
        "--pids-limit", 5, BB, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done", status=None
    )
    assert result.status != 0 and "can't fork" in result.err, result
    assert value(docker, "pids/pids.max", "--pids-limit", -1) == "max"


@pytest.mark.requires("cgroup-v1")
def test_run_blkio(docker):
    disk = docker.lab.run("sh", "-c", "lsblk -dpno NAME,TYPE | grep -m1 disk", status=None).out.split()
    if not disk:
        missing("a disk")
    number = docker.lab.run("lsblk", "-dno", "MAJ:MIN", disk[0]).out.strip()
    id_ = docker.sleeping("--device-read-bps", f"{disk[0]}:1mb", "--device-write-iops", f"{disk[0]}:50")
    if not docker.bundle_config(id_)["linux"]["resources"].get("blockIO"):
        missing("a dockerd that asks for limits on block I/O (26.1 leaves them out)")
    files = [f"/sys/fs/cgroup/blkio/blkio.throttle.{name}_device" for name in ("read_bps", "write_iops")]
    assert docker.exec(id_, "cat", *files).out == f"{number} 1048576\n{number} 50\n"


def test_run_ulimit(docker):
    script = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hu"
    out = docker.shell(script, "--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "nproc=500:500")
    assert out.split() == ["100", "200", "0", "500"]
    error = docker.run("--ulimit", "nofile=3000000000", BB, "true", status=125).err
    assert "RLIMIT_NOFILE" in error or "rlimit type 7" in error


@pytest.mark.requires("cgroup-v1")
def test_run_cgroup_parent(docker):
    parent = docker.name("parent")
    id_ = docker.sleeping("--cgroup-parent", f"/{parent}/below")
    lines = (docker.lab.root / f"proc/{docker.pid(id_)}/cgroup").read_text().splitlines()
    assert all(line.endswith(f"/{parent}/below/{id_}") for line in lines)
    docker("rm", "-f", id_)
    for top in docker.lab.cgroups:  # docker leaves the parents to whoever chose them
        for path in (top / parent / "below", top / parent):
            if path.exists():
                path.rmdir()


@pytest.mark.requires("cgroup-v1")
def test_update(docker):
    """Limits change in either direction, and those that are not named stay."""
    id_ = docker.sleeping("-m", "32m", "--memory-swap", "64m", "--pids-limit", 30)
    files = (
        "memory/memory.limit_in_bytes",
        "memory/memory.memsw.limit_in_bytes",
        "cpu/cpu.cfs_quota_us",
        "pids/pids.max",
    )

    def now():
        return docker.exec(id_, "cat", *(f"/sys/fs/cgroup/{file}" for file in files)).out.split()

    assert now() == [str(32 << 20), str(64 << 20), "-1", "30"]
    devices = docker.exec(id_, "cat", "/sys/fs/cgroup/devices/devices.list").out
    docker("update", "-m", "128m", "--memory-swap", "256m", "--cpus", "0.5", id_)
    assert now() == [str(128 << 20), str(256 << 20), "50000", "30"]
    docker("update", "-m", "16m", "--memory-swap", "16m", "--pids-limit", 40, id_)
    assert now() == [str(16 << 20), str(16 << 20), "50000", "40"]
    docker("update", "--restart", "on-failure:3", id_)  # sends zeros for all limits
    assert now() == [str(16 << 20), str(16 << 20), "50000", "40"]
    assert docker.inspect(id_, ".HostConfig.RestartPolicy.Name") == "on-failure"
    assert docker.exec(id_, "cat", "/sys/fs/cgroup/devices/devices.list").out == devices
    docker("update", "--cpuset-cpus", "0", "--cpu-shares", "333", id_)
    assert (
        docker.exec(id_, "cat", "/sys/fs/cgroup/cpuset/cpuset.cpus", "/sys/fs/cgroup/cpu/cpu.shares").out == "0\n333\n"
    )


def test_update_paused(docker):
    id_ = docker.sleeping("-m", "32m")
    docker("pause", id_)
    docker("update", "-m", "48m", "--memory-swap", "96m", id_)
    assert docker.inspect(id_, ".State.Status") == "paused"
    docker("unpause", id_)
    assert docker.inspect(id_, ".HostConfig.Memory") == str(48 << 20)


def test_oomkilled(docker):
    id_ = docker.detached("-m", "12m", "--memory-swap", "12m", BB, "sh", "-c", "tail /dev/zero; exit 3")
    assert docker("wait", id_).out in ("137\n", "3\n")  # the shell may have been the one that was killed
    assert docker.inspect(id_, ".State.OOMKilled") == "true"
    assert docker.shell("exit 0", "-m", "12m") == ""


def test_stats(docker):
    id_ = docker.detached("-m", "32m", BB, "sh", "-c", "sleep 1000 & sleep 1000")
    until(lambda: docker("stats", "--no-stream", "--format", "{{.PIDs}}", id_).out == "2\n", "two processes")
    found = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", id_).out)
    assert found["MemUsage"].endswith("/ 32MiB") and found["ID"] == id_[:12]


# -- what happens to a container -------------------------------------------------------------------------------------------


def test_pause(docker):
    id_ = docker.detached(BB, "sh", "-c", "while :; do date +%s%N > /tick; usleep 10000; done")
    until(lambda: docker.exec(id_, "cat", "/tick", status=None).out, "ticks")
    tick = docker.lab.root / docker.inspect(id_, ".GraphDriver.Data.UpperDir").lstrip("/") / "tick"
    docker("pause", id_)
    assert docker.inspect(id_, ".State.Status") == "paused"
    before = tick.read_text()
    assert "is paused" in docker.fails("exec", id_, "true")
    assert tick.read_text() == before
    docker("unpause", id_)
    until(lambda: tick.read_text() not in ("", before), "more ticks")
    docker("pause", id_)
    docker("rm", "-f", id_)  # a frozen one too


def test_stop_kill(docker):
    id_ = docker.detached(
        BB, "sh", "-c", "trap 'echo term; exit 9' TERM; trap 'echo hup' HUP; echo up; while :; do usleep 10000; done"
    )
    until(lambda: "up" in docker.logs(id_), "traps")
    docker("kill", "-s", "HUP", id_)
    until(lambda: "hup" in docker.logs(id_), "SIGHUP")
    docker("stop", id_)
    assert docker.inspect(id_, ".State.ExitCode") == "9" and docker.logs(id_).endswith("term\n")
    assert "is not running" in docker.fails("kill", id_)
    other = docker.sleeping()
    docker("kill", other)
    docker.becomes(other, "exited")
    assert docker.inspect(other, ".State.ExitCode") == "137"


def test_stop_timeout(docker):
    """What does not heed SIGTERM is killed when the time is over."""
    id_ = docker.sleeping("--stop-timeout", 1)
    docker("stop", id_)
    assert docker.inspect(id_, ".State.ExitCode") == "137"


def test_restart(docker):
    id_ = docker.detached(BB, "sh", "-c", "echo $((n++)) >> /count; sleep 1000")
    first = docker.pid(id_)
    docker("restart", "-t", 0, id_)
    assert docker.pid(id_) != first and docker.inspect(id_, ".State.Running") == "true"
    until(lambda: docker.exec(id_, "cat", "/count", status=None).out.count("\n") == 2, "two starts in one file system")


def test_restart_policy(docker):
    id_ = docker.detached("--restart", "on-failure:2", BB, "sh", "-c", "echo ran; exit 5")
    until(
        lambda: docker.inspect(id_, ".RestartCount") == "2" and docker.inspect(id_, ".State.Status") == "exited",
        "the end",
    )
    assert docker.logs(id_) == "ran\n" * 3 and docker.inspect(id_, ".State.ExitCode") == "5"
    always = docker.detached("--restart", "always", BB, "sh", "-c", "echo up; sleep 1000")
    first = docker.pid(always)
    docker.lab.kill(first, 9)
    until(
        lambda: docker.inspect(always, ".State.Running") == "true" and docker.pid(always) not in (0, first),
        "a new process",
    )


def test_healthcheck(docker):
    id_ = docker.sleeping("--health-cmd", "test -e /ok", "--health-interval", "100ms", "--health-retries", 2)
    health = ".State.Health.Status"
    until(lambda: docker.inspect(id_, health) == "unhealthy", "unhealthy")
    docker.exec(id_, "touch", "/ok")
    until(lambda: docker.inspect(id_, health) == "healthy", "healthy")
    assert json.loads(docker.inspect(id_, "json .State.Health.Log"))[-1]["ExitCode"] == 0


def test_exit_statuses_of_many(docker):
    """Each of a row of short containers, started as fast as they come, is reported with its own status."""
    begun = time.monotonic()
    ids = [docker.detached(BB, "sh", "-c", f"exit {n}") for n in (0, 1, 77, 255)]
    assert docker("wait", *ids).out.split() == ["0", "1", "77", "255"]
    assert time.monotonic() > begun
