"""What docker puts into a container's file system, and what it takes out of it again."""

from __future__ import annotations

import os

import newer
import pytest
from docker_lab import BB, running, user


@pytest.fixture(scope="module")
def dockerd(new_lab, engine_runtime, bb_image):
    yield from running(new_lab, engine_runtime, bb_image)


@pytest.fixture
def docker(dockerd):
    yield from user(dockerd)


@pytest.fixture
def shared(docker):
    """A directory with the same path in the lab and for the test."""
    path = docker.lab.dir / docker.name("shared")
    path.mkdir()
    return path


def test_run_bind(docker, shared):
    (shared / "file").write_text("from outside\n")
    docker.shell("cat /in/file; echo from inside > /in/new", "-v", f"{shared}:/in")
    assert (shared / "new").read_text() == "from inside\n"
    docker.run("-v", f"{shared}:/in:ro", BB, "touch", "/in/x", status=1)
    docker.run("--mount", f"type=bind,src={shared}/file,dst=/etc/motd,ro", BB, "grep", "outside", "/etc/motd")
    # docker makes a source of -v, and refuses one of --mount, that is not there
    docker.run("-v", f"{shared}/made:/in", BB, "true")
    assert (shared / "made").is_dir()
    assert "does not exist" in docker.run("--mount", f"type=bind,src={shared}/no,dst=/x", BB, "true", status=125).err


def test_run_volume(docker):
    volume = docker.name("volume")
    docker("volume", "create", "--label", "of=test", volume)
    docker.shell("echo kept > /data/file", "-v", f"{volume}:/data")
    assert docker.output("-v", f"{volume}:/data:ro", BB, "cat", "/data/file") == "kept"
    # a new volume begins with what the image has at that place
    assert docker.output("-v", "/var/www", BB, "cat", "/var/www/index.html") == "hello-from-image"
    assert docker("volume", "inspect", "-f", "{{.Labels.of}}", volume).out == "test\n"
    id_ = docker.sleeping("-v", f"{volume}:/data")
    assert docker.output("--volumes-from", id_, BB, "cat", "/data/file") == "kept"
    assert "volume is in use" in docker.fails("volume", "rm", volume)


def test_run_tmpfs_shm(docker):
    out = docker.shell(
        "grep -E ' (/scratch|/dev/shm) ' /proc/mounts",
        "--tmpfs",
        "/scratch:size=1m,mode=700,noexec",
        "--shm-size",
        "3m",
    )
    lines = {line.split()[1]: line.split() for line in out.splitlines()}
    assert lines["/scratch"][2] == lines["/dev/shm"][2] == "tmpfs"
    assert {"size=1024k", "mode=700", "noexec"} <= set(lines["/scratch"][3].split(","))
    assert "size=3072k" in lines["/dev/shm"][3]
    docker.run("--tmpfs", "/scratch:size=1m", BB, "dd", "if=/dev/zero", "of=/scratch/f", "bs=1M", "count=2", status=1)
    assert docker.output("--mount", "type=tmpfs,dst=/t,tmpfs-size=64k", BB, "stat", "-f", "-c", "%T", "/t") == "tmpfs"


def test_run_readonly(docker):
    assert "Read-only file system" in docker.run("--read-only", BB, "touch", "/x", status=1).err
    assert (
        docker.shell(
            "echo ok > /tmp/x; cat /tmp/x; echo /dev/shm > /dev/shm/x; cat /dev/shm/x", "--read-only", "--tmpfs", "/tmp"
        )
        == "ok\n/dev/shm"
    )


def test_run_propagation(docker, shared):
    """A mount made outside shows inside a slave, and one made inside a shared one shows outside."""
    docker.lab.run("mount", "--bind", shared, shared)
    docker.lab.run("mount", "--make-rshared", shared)
    (shared / "one").mkdir()
    (shared / "two").mkdir()
    slave = docker.sleeping("-v", f"{shared}:/in:rslave")
    private = docker.sleeping("-v", f"{shared}:/in:rprivate")
    docker.lab.run("mount", "-t", "tmpfs", "seen", shared / "one")
    assert "/in/one" in docker.exec(slave, "cat", "/proc/mounts").out
    assert "/in/one" not in docker.exec(private, "cat", "/proc/mounts").out
    docker.run(
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "seccomp=unconfined",
        "-v",
        f"{shared}:/in:rshared",
        BB,
        "mount",
        "-t",
        "tmpfs",
        "made",
        "/in/two",
    )
    assert f"{shared}/two" in docker.lab.mounts()
    docker("rm", "-f", slave, private)
    docker.lab.run("umount", shared / "one", shared / "two", shared)


def test_run_masked_paths(docker):
    """What Docker hides of /proc and /sys: empty, or not to be written."""
    files = [
        path for path in ("/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kcore") if os.path.exists(path)
    ]
    assert files and docker.output(BB, "cat", *files) == ""
    assert os.listdir("/sys/firmware") and docker.output(BB, "ls", "-A", "/sys/firmware") == ""
    assert "Read-only" in docker.run(BB, "sh", "-c", "echo 1 > /proc/sys/kernel/domainname", status=1).err
    assert "Read-only" in docker.run(BB, "mkdir", "/sys/fs/cgroup/memory/x", status=1).err


# -- layers ----------------------------------------------------------------------------------------------------------------


def test_layers_shared_and_copied_on_write(docker):
    """Two containers of an image have its layers as one; what the one changes is its own."""
    one, other = docker.sleeping(), docker.sleeping()
    lower = [docker.inspect(id_, ".GraphDriver.Data.LowerDir").split(":")[-1] for id_ in (one, other)]
    upper = [docker.lab.root / docker.inspect(id_, ".GraphDriver.Data.UpperDir").lstrip("/") for id_ in (one, other)]
    assert lower[0] == lower[1] and upper[0] != upper[1]
    assert not (upper[0] / "var").exists()
    docker.exec(one, "sh", "-c", "echo changed > /var/www/index.html")
    assert (upper[0] / "var/www/index.html").read_text() == "changed\n" and not (upper[1] / "var").exists()
    assert docker.exec(other, "cat", "/var/www/index.html").out == "hello-from-image\n"
    assert (docker.lab.root / lower[0].lstrip("/") / "var/www/index.html").read_text() == "hello-from-image\n"


def test_cp_diff_commit(docker, shared):
    id_ = docker.sleeping()
    (shared / "put").write_text("put there\n")
    docker("cp", shared / "put", f"{id_}:/root/put")
    assert docker.exec(id_, "cat", "/root/put").out == "put there\n"
    docker.exec(id_, "sh", "-c", "echo mine > /root/made; rm /etc/motd /var/www/index.html", status=None)
    docker("cp", f"{id_}:/root/made", shared / "made")
    assert (shared / "made").read_text() == "mine\n"
    changes = set(docker("diff", id_).out.splitlines())
    assert {"C /root", "A /root/put", "A /root/made", "D /var/www/index.html"} <= changes
    image = docker.name("committed")
    docker(
        "commit", "-c", 'CMD ["cat", "/root/made"]', "-m", "said so", id_, image
    )  # it pauses the container meanwhile
    assert docker.inspect(id_, ".State.Status") == "running"
    assert docker.output(image) == "mine"
    assert docker("history", "--format", "{{.Comment}}", image).out.splitlines()[0] == "said so"
    docker("rmi", image)


def test_export_import(docker, shared):
    id_ = docker.detached(BB, "sh", "-c", "echo here > /made; sleep 1000")
    docker("export", "-o", shared / "fs.tar", id_)
    if newer.wanted():  # 26.1 leaves the layers mounted, whichever the runtime, until it ends
        docker.ignored.append(r"^mount: .*/overlay2/\w{64}/merged$")
    image = docker.name("imported")
    docker("import", "-c", "ENV PATH=/bin", shared / "fs.tar", image)
    assert docker.output(image, "cat", "/made") == "here"
    assert docker("image", "inspect", "-f", "{{len .RootFS.Layers}}", image).out == "1\n"
    docker("rmi", image)


def test_no_descriptor_of_the_engine_is_inherited(docker):
    assert docker.shell("ls /proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
