"""The few instructions put before libseccomp's program: system calls newer than the profile answer ENOSYS.

A profile that lists what is allowed cannot know of calls that were added to Linux after it was written. Its default, mostly
EPERM, would be the wrong answer to them: C libraries try a new call and fall back to an old one on ENOSYS alone. So for
each architecture every number above the largest that the profile names is answered as a kernel without it would, as runc
does.

Only assembling and measuring of classic BPF happens here: pure functions, no library, no file.
"""

from __future__ import annotations

from struct import Struct

from runtime.seccomp_profile import RET_ERRNO

#: struct sock_filter: code, jt, jf, k
INSTRUCTION = Struct("=HBBI")
#: BPF_MAXINSNS: a longer program is EINVAL
INSTRUCTIONS_MAX = 4096

LD_W_ABS = 0x20
JA = 0x05
JEQ_K = 0x15
JGT_K = 0x25
JSET_K = 0x45
RET_K = 0x06

# struct seccomp_data
DATA_NR = 0
DATA_ARCH = 4

ENOSYS = 38

AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_S390 = 0x16
AUDIT_ARCH_S390X = 0x80000016
#: libseccomp's word for x32, whose calls reach a filter as those of x86-64 with one bit set in their number
SCMP_ARCH_X32 = 0x4000003E
X32_BIT = 0x40000000


def enosys_stub(largest: dict[int, int]) -> bytes:
    """The stub for {libseccomp's architecture: its largest number that the profile knows}, b"" where that is empty.

    One section per architecture, one after the other, so that no conditional jump (8 bits) crosses more than its own
    section; the way past all of them is `ja`, whose 32 bits reach anywhere:

        ld [arch]
        jeq ARCH, 0, over        ; another architecture: A still holds it for the next section's test
        ld [nr]
        jgt MAX, 0, 1
        ret ERRNO(ENOSYS)
        ja filter
     over: ...

    The kernel runs a filter once per number at load to find those that are allowed whatever their arguments, and answers
    them later without running it (since 5.11). It understands only these few instructions, so no others may be used.
    """
    if not largest:
        return b""
    sections = [(arch, _section(arch, largest)) for arch in largest if arch != SCMP_ARCH_X32]
    if SCMP_ARCH_X32 in largest and AUDIT_ARCH_X86_64 not in largest:
        sections.append((AUDIT_ARCH_X86_64, _section(AUDIT_ARCH_X86_64, largest)))
    end = 1 + sum(2 + len(body) for _, body in sections)
    program = [(LD_W_ABS, 0, 0, DATA_ARCH)]
    for arch, body in sections:
        # A is the architecture here: each section ends by leaving the stub
        program.append((JEQ_K, 0, len(body) + 1, arch))
        program += body
        program.append((JA, 0, 0, end - len(program) - 1))
    return b"".join(INSTRUCTION.pack(*instruction) for instruction in program)


def _section(arch: int, largest: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """What decides for one audit architecture; falls off its end where the filter shall decide."""
    enosys = (RET_K, 0, 0, RET_ERRNO | ENOSYS)
    body = [(LD_W_ABS, 0, 0, DATA_NR)]
    if arch in (AUDIT_ARCH_S390, AUDIT_ARCH_S390X):
        # no system call of s390 has the number 0: it is what is left of a number that does not fit the instruction
        body += [(JEQ_K, 0, 1, 0), enosys]
    above = [(JGT_K, 0, 1, largest[arch]), enosys] if arch in largest else []
    if arch == AUDIT_ARCH_X86_64 and SCMP_ARCH_X32 in largest:
        # without the bit, go to `above`; with it and small enough, leap over `above`, whose limit is of the other kind
        x32 = [(JGT_K, 0, 1 + len(above), largest[SCMP_ARCH_X32]), enosys]
        body += [(JSET_K, 0, len(x32), X32_BIT), *x32]
    return body + above


def length(program: bytes) -> int:
    """How many instructions the program has."""
    return len(program) // INSTRUCTION.size
