"""The mount table is hostile: a /proc or /sys of somebody's making, and what of the real one a container may reach (class C)."""

from __future__ import annotations

import json
import os

import pytest

pytestmark = pytest.mark.requires("root")

FAKES = (
    "self/attr/exec", "self/attr/current", "self/attr/keycreate", "self/attr/apparmor/exec", "thread-self/attr/exec",
    "self/oom_score_adj", "self/setgroups", "self/uid_map", "self/mountinfo", "self/cgroup", "self/fd/0", "self/fd/3",
    "self/status", "self/timens_offsets", "self/ns/mnt", "sysrq-trigger", "sys/kernel/core_pattern", "filesystems",
)  # fmt: skip


LABELS = [
    pytest.param({}, id="no label"),
    pytest.param({"apparmorProfile": "unconfined"}, id="apparmor", marks=pytest.mark.requires("lsm-apparmor")),
    pytest.param(
        {"selinuxLabel": "system_u:system_r:container_t:s0"}, id="selinux", marks=pytest.mark.requires("lsm-selinux")
    ),
]


@pytest.mark.parametrize("label", LABELS)
def test_a_proc_of_the_containers_making(pyrunc, running, label):
    """CVE-2015-1334, CVE-2025-52881, CVE-2025-62596: labels and the like were written wherever the container's /proc led."""

    def edit(config):
        for kind in ("bounding", "effective", "permitted"):
            config["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []

    files = " ".join(f"/proc/{name}" for name in FAKES)
    script = f"mount -t tmpfs -o strictatime t /proc && for f in {files}; do mkdir -p ${{f%/*}}; echo fake >$f; touch -d @1 $f; done"
    box = running(edit)
    box.exec("/bin/sh", "-c", script)

    def seen():
        # through the host's own /proc into the root of the container
        stats = [os.stat(f"/proc/{box.pid}/root/proc/{name}") for name in FAKES]
        return [(st.st_atime_ns, st.st_mtime_ns, st.st_size) for st in stats]

    before = seen()
    assert all(times[:2] == (10**9, 10**9) for times in before)
    score = box.process(args=["/bin/sleep", "1000"], oomScoreAdj=500, user={"uid": 1000, "gid": 1000}, **label)
    pid_file = box.bundle.path / "pid"
    pyrunc("exec", "--detach", "--pid-file", pid_file, "--process", score, box.id)
    pid = int(pid_file.read_text())
    assert open(f"/proc/{pid}/oom_score_adj").read() == "500\n"
    os.kill(pid, 9)
    pyrunc.wait(pid)
    box.exec("/bin/true")
    box.exec("/bin/true", options=("--user", "1000:1000", "--cwd", "/tmp"))
    assert box.exec("/bin/cat", "/proc/self/attr/exec").out == "fake\n"  # which is one that is seen
    assert [index for index, (a, b) in enumerate(zip(before, seen(), strict=True)) if a != b] == [
        FAKES.index("self/attr/exec")
    ]


@pytest.mark.parametrize("place", ["proc", "sys"])
@pytest.mark.parametrize("target", ["tmp", "/tmp", "../../outside", "dangling"])
def test_proc_and_sysfs_are_mounted_on_directories(pyrunc, make, outside, place, target):
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-54867: an image whose /proc is a link to a directory of fakes."""
    made = make(None, "/bin/true")
    (made.rootfs / place).rmdir()
    (made.rootfs / place).symlink_to(target)
    error = pyrunc.fails("run", "-b", made, pyrunc.id())
    assert f"on /{place}" in error
    outside.check()


WRITTEN = (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
    "/proc/sys/vm/panic_on_oom", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward", "/proc/irq/0/smp_affinity",
    "/proc/bus/x", "/proc/fs/x", "/sys/kernel/mm/ksm/run", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/x", "/sys/power/state", "/sys/kernel/profiling", "/sys/module/x", "/sys/class/net/lo/mtu",
)  # fmt: skip
READ = (
    "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug", "/proc/acpi/x",
    "/sys/firmware/memmap/0/type", "/sys/devices/virtual/powercap/x", "/proc/timer_stats", "/proc/interrupts",
)  # fmt: skip


def test_what_the_default_config_leaves(pyrunc, make, scratch):
    """CVE-2018-10892, GHSA-7ww5-4wqc-m92c, CVE-2022-0492, CVE-2023-25809: of the host's kernel nothing is written, and its secrets are masked."""
    made = make(None)
    (made.path / "config.json").unlink()
    pyrunc("spec", cwd=made.path)
    config = json.loads((made.path / "config.json").read_text())
    script = f"for f in {' '.join(WRITTEN)}; do (: >$f) 2>/dev/null && echo written $f; done; "
    script += f'for f in {" ".join(READ)}; do test -z "$(head -c 9 $f 2>/dev/null)" || echo read $f; done; echo end'
    config["process"].update(args=["/bin/sh", "-c", script], terminal=False)
    config["linux"]["cgroupsPath"] = made.config["linux"]["cgroupsPath"]
    made.config = config
    made.write()
    result = pyrunc("run", "-b", made, pyrunc.id())
    # interrupts are counted for everybody, in runc's list too
    assert set(result.out.splitlines()) <= {"end", "read /proc/interrupts"}, result.out


def test_filters_that_differ_in_an_errno_are_not_taken_for_each_other(each):
    """crun keeps compiled filters under a name that leaves the errno out: the second container got the first one's."""
    found = []
    for number in (1, 13, 38, 1):

        def edit(config, number=number):
            rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": number}
            config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

        found += each(edit, "mkdir /new")
    assert [answer["errno"] for answer in found] == ["EPERM", "EACCES", "ENOSYS", "EPERM"]
