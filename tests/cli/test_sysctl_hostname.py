"""hostname, domainname and sysctls: what belongs to a namespace of the container, and nothing of the host's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def sysctl(values, *shared):
    def edit(config):
        config["linux"]["sysctl"] = values
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] not in shared]
        if "uts" in shared:
            config.pop("hostname")

    return edit


def test_hostname(report):
    assert report(lambda c: c.update(hostname="box-1.example"))["hostname"] == "box-1.example"
    assert os.uname().nodename != "box-1.example"


def test_hostname_of_the_greatest_length(report, refused):
    assert report(lambda c: c.update(hostname="x" * 64))["hostname"] == "x" * 64
    refused(lambda c: c.update(hostname="x" * 65))


def test_no_hostname(report):
    """It stays what it was in the namespace that the new one is a copy of."""
    assert report(lambda c: c.pop("hostname"))["hostname"] == os.uname().nodename


@pytest.mark.differs("it does not know domainname")
def test_domainname(report):
    found = report(lambda c: c.update(domainname="example.org"))
    assert found["domainname"] == "example.org"
    assert Path("/proc/sys/kernel/domainname").read_text().strip() != "example.org"


def test_hostname_without_a_uts_namespace_is_refused(refused):
    def edit(config):
        config["linux"]["namespaces"].remove({"type": "uts"})

    refused(edit, "hostname")


@pytest.mark.differs("it does not know domainname")
def test_domainname_without_a_uts_namespace_is_refused(refused):
    def edit(config):
        config["linux"]["namespaces"].remove({"type": "uts"})
        config.pop("hostname")
        config["domainname"] = "x"

    refused(edit, "domainname")


@pytest.mark.requires("root")
def test_hostname_in_a_joined_uts_namespace(pyrunc, report, holder):
    pid = holder("-u")

    def edit(config):
        config["linux"]["namespaces"].remove({"type": "uts"})
        config["linux"]["namespaces"].append({"type": "uts", "path": f"/proc/{pid}/ns/uts"})
        config["hostname"] = "joined"

    assert report(edit)["hostname"] == "joined"
    assert os.uname().nodename != "joined"


def test_sysctls_of_the_containers_namespaces(report):
    values = {
        "net.ipv4.ip_unprivileged_port_start": "80",
        "net.ipv4.ping_group_range": "0 1000",
        "net/ipv4/ip_forward": "1",
        "kernel.msgmax": "10000",
        "kernel.shm_rmid_forced": "1",
        "fs.mqueue.msg_max": "33",
    }
    before = {name: Path("/proc/sys", name.replace(".", "/")).read_text() for name in values}
    found = report(sysctl(values), *values)["sysctls"]
    assert {name: " ".join(value.split()) for name, value in found.items()} == values
    assert {name: Path("/proc/sys", name.replace(".", "/")).read_text() for name in values} == before


@pytest.mark.differs("it does not know kernel.domainname")
@pytest.mark.requires("root")
def test_sysctl_of_the_domainname(report):
    assert report(sysctl({"kernel.domainname": "by.sysctl"}))["domainname"] == "by.sysctl"


@pytest.mark.parametrize(
    "name, shared",
    [
        ("vm.swappiness", ()),
        ("kernel.panic", ()),
        ("kernel.core_pattern", ()),
        ("fs.file-max", ()),
        ("kernel.msgmax", ("ipc",)),
        ("net.ipv4.ip_forward", ("network",)),
        ("fs.mqueue.msg_max", ("ipc",)),
    ],
)
def test_sysctls_that_are_the_hosts_are_refused(refused, name, shared):
    before = Path("/proc/sys", name.replace(".", "/")).read_text()
    refused(sysctl({name: "12345"}, *shared), name)
    assert Path("/proc/sys", name.replace(".", "/")).read_text() == before


@pytest.mark.parametrize(
    "name", ["net.ipv4.nope", "kernel.shm_nope", "net.ipv4.../../../kernel.panic", "kernel.hostname"]
)
def test_sysctls_that_are_refused(refused, name):
    refused(sysctl({name: "1"}))


def test_value_that_the_kernel_refuses(refused):
    refused(sysctl({"net.ipv4.ip_unprivileged_port_start": "many"}), "ip_unprivileged_port_start", "invalid argument")


def test_sysctls_are_written_though_proc_sys_is_read_only(each):
    def edit(config):
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        config["linux"]["readonlyPaths"] = ["/proc/sys"]

    read, write = each(edit, "read /proc/sys/net/ipv4/ip_forward", "write /proc/sys/net/ipv4/ip_forward 0")
    # the kernel asks first who it is, and the root of a user namespace is nobody to it
    assert read["text"] == "1\n" and write["errno"] == ("EACCES" if os.geteuid() else "EROFS")


@pytest.mark.differs("it writes wherever /proc/sys is")
def test_sysctls_are_not_written_through_a_mount_of_the_image(pyrunc, make, scratch):
    """They go through a procfs of the runtime's own, whatever the config or the image has put at /proc."""

    def edit(config):
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/proc"]
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []

    made = make(edit, "/bin/true")
    (made.rootfs / "proc/sys/net/ipv4").mkdir(parents=True)
    (made.rootfs / "proc/sys/net/ipv4/ip_forward").write_text("fake")
    pyrunc("run", "-b", made, pyrunc.id(), status=None)
    assert (made.rootfs / "proc/sys/net/ipv4/ip_forward").read_text() == "fake"
