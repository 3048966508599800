"""The -ENOSYS stub, alone: which numbers it answers for which architecture, and that a kernel would take it."""

from __future__ import annotations

import pytest
import seccomp_simulator as sim

from runtime import seccomp_bpf

ENOSYS = sim.ERRNO | 38
#: stands for libseccomp's program: what falls into it was not decided by the stub
FILTER = seccomp_bpf.INSTRUCTION.pack(seccomp_bpf.RET_K, 0, 0, sim.TRAP)


def stub(largest: dict[int, int]) -> bytes:
    program = seccomp_bpf.enosys_stub(largest) + FILTER
    sim.check(program)
    return program


def test_nothing_named_no_stub() -> None:
    assert seccomp_bpf.enosys_stub({}) == b""


@pytest.mark.parametrize("arch", [sim.X86_64, sim.AARCH64, sim.X86, sim.ARM])
@pytest.mark.parametrize("largest", [0, 1, 254, 255, 256, 439, 0x0F0005])
def test_above_the_largest_is_enosys(arch: int, largest: int) -> None:
    program = stub({arch: largest})
    assert sim.run(program, 0, arch=arch) == sim.TRAP
    assert sim.run(program, largest, arch=arch) == sim.TRAP
    assert sim.run(program, largest + 1, arch=arch) == ENOSYS
    assert sim.run(program, 0xFFFFFFFF, arch=arch) == ENOSYS


def test_each_architecture_has_its_own_largest() -> None:
    largest = {sim.X86_64: 439, sim.X86: 400, sim.AARCH64: 450}
    program = stub(largest)
    for arch, number in largest.items():
        assert sim.run(program, number, arch=arch) == sim.TRAP
        assert sim.run(program, number + 1, arch=arch) == ENOSYS


def test_an_architecture_that_is_not_listed_is_left_to_the_filter() -> None:
    assert sim.run(stub({sim.X86_64: 10}), 9999, arch=sim.X86) == sim.TRAP
    # the number of a system call is never taken for an architecture, nor the reverse
    assert sim.run(stub({sim.X86_64: 10}), sim.X86_64, arch=sim.X86) == sim.TRAP


def test_x32_unlisted_is_above_every_native_number() -> None:
    program = stub({sim.X86_64: 439})
    assert sim.run(program, sim.X32_BIT | 1) == ENOSYS


def test_x32_has_its_own_largest_under_the_same_audit_architecture() -> None:
    program = stub({sim.X86_64: 439, sim.X32: sim.X32_BIT | 547})
    assert sim.run(program, 439) == sim.TRAP
    assert sim.run(program, 440) == ENOSYS
    assert sim.run(program, 547) == ENOSYS
    assert sim.run(program, sim.X32_BIT | 440) == sim.TRAP
    assert sim.run(program, sim.X32_BIT | 547) == sim.TRAP
    assert sim.run(program, sim.X32_BIT | 548) == ENOSYS
    assert sim.run(program, 0x80000000) == ENOSYS


def test_x32_without_a_native_number() -> None:
    program = stub({sim.X32: sim.X32_BIT | 547})
    assert sim.run(program, 9999) == sim.TRAP
    assert sim.run(program, sim.X32_BIT | 547) == sim.TRAP
    assert sim.run(program, sim.X32_BIT | 548) == ENOSYS


@pytest.mark.parametrize("arch", [sim.S390, sim.S390X])
def test_s390_number_0_is_a_number_that_did_not_fit(arch: int) -> None:
    program = stub({arch: 439})
    assert sim.run(program, 0, arch=arch) == ENOSYS
    assert sim.run(program, 1, arch=arch) == sim.TRAP
    assert sim.run(program, 440, arch=arch) == ENOSYS
    assert sim.run(stub({sim.X86_64: 439}), 0) == sim.TRAP


def test_jumps_over_any_number_of_architectures() -> None:
    # far more than there are, so that the way past all sections is longer than a conditional jump can be
    largest = {0xC0000100 + n: 1000 + n for n in range(300)}
    program = stub(largest)
    assert seccomp_bpf.length(program) > 1500
    for arch, number in largest.items():
        assert sim.run(program, number, arch=arch) == sim.TRAP
        assert sim.run(program, number + 1, arch=arch) == ENOSYS


def test_the_kernel_can_follow_it_when_it_looks_for_constant_answers() -> None:
    program = seccomp_bpf.enosys_stub({sim.X86_64: 439, sim.X32: sim.X32_BIT | 547, sim.X86: 400, sim.S390: 1})
    assert {op for op, *_ in sim.instructions(program)} <= set(sim.CONSTANT)
    # it knows the number and the architecture then, and no argument
    assert {k for op, _, _, k in sim.instructions(program) if op == sim.LD_ABS} == {0, 4}
