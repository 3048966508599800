"""Plan to bytes for the interpreter, and the interpreter's messages back to Python. Pure.

    ┌ header ─────────────────────────────────────────────────────────────────────────────────────────────┐ 32 bytes
    │ u32 magic "PLAN" │ u32 version │ u32 ops │ u32 registers filled by the launcher │ u32 pool offset     │
    │ u32 pool bytes │ u32 number of the first descriptor that is ours (3 + preserved) │ u32 registers      │
    ├ op records, 64 bytes each ────────────────────────────────────────────────────────────────────────────┤
    │ u16 op │ u16 flags │ u16 r0 │ u16 r1 │ u16 r2 │ 6 bytes 0 │ u64 a │ u64 b │ u64 c │ 3 × (u32 off, len) │
    ├ pool: strings, each followed by a NUL byte; offsets count from the start of the pool, 8-aligned blobs ─┤
    └────────────────────────────────────────────────────────────────────────────────────────────────────────┘

Lengths are 32 bits and checked on both sides: a length that wrapped let runc's bootstrap data be forged (CVE-2021-43784).
Lists of strings (arguments, environment, candidates) are their members joined by NUL, with the count in a register-free
integer of the op; no member holds a NUL, `jsonio` refuses that.

Messages on the socket (SOCK_SEQPACKET), init to parent: `u32 kind │ u32 op index │ s32 value │ u32 bytes of detail │ detail`,
parent to init: `s32 errno`, with one descriptor where the op asked for one.
"""

from __future__ import annotations

from errno import ECHILD, EINVAL, EISDIR, ENOTDIR, ETIMEDOUT
from struct import Struct

from runtime.errors import Error, ExecError, HookError, KernelError, dotted
from runtime.linux import MOUNT_ATTR_IDMAP
from runtime.ops import OPS
from runtime.plan import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.plan import Op, Plan

MAGIC = 0x4E414C50  # "PLAN", little-endian
VERSION = 1
NO_REGISTER = 0xFFFF
MAX_REGISTERS = 1024
MAX_DETAIL = 2048

ASK, PID, FAILED, WARN = 1, 2, 3, 4

_header = Struct("<8I")
_record = Struct("<5H6x3Q6I")
_message = Struct("<IIiI")
answer = Struct("<i")


class _Registers(dict[str, int]):
    """Register numbers by role; a role that is new gets the next."""

    def __missing__(self, role: str) -> int:
        number = self[role] = len(self) - 1  # the empty role, which stands for no register, is the first entry
        return number


def encode(plan: Plan) -> bytes:
    """The plan as the interpreter maps it."""
    registers = _Registers({"": NO_REGISTER})
    for role in plan.inherited:
        registers[role]
    # the empty string, which most fields are, stands once at the start
    pool = [bytes(8)]
    size = 8
    records = []
    pack = _record.pack
    for op in plan.ops:
        spans = [0, 0, 0, 0, 0, 0]
        at = 0
        for value in (op.s0, op.s1, op.s2):
            if value:
                data = value.encode("utf-8", "surrogateescape") if value.__class__ is str else value
                length = len(data)
                # NUL-terminated, and the next one 8-aligned: a seccomp program is read in place
                data += _PADDING[length & 7]  # type: ignore[operator]
                pool.append(data)  # type: ignore[arg-type]
                spans[at], spans[at + 1] = size, length
                size += len(data)
            at += 2
        records.append(
            pack(
                OPS[op.name][0],
                op.flags,
                registers[op.r0],
                registers[op.r1],
                registers[op.r2],
                op.a & _U64,
                op.b & _U64,
                op.c & _U64,
                *spans,
            )
        )
    count = len(registers) - 1
    if count > MAX_REGISTERS:
        raise OverflowError(f"plan: {count} registers, {MAX_REGISTERS} are the most")
    header = _header.pack(
        MAGIC, VERSION, len(records), len(plan.inherited), 32 + 64 * len(records), size, 3 + plan.preserve, count
    )
    return b"".join((header, *records, *pool))


_PADDING = tuple(bytes(8 - length) for length in range(8))
_U64 = 0xFFFFFFFFFFFFFFFF


def decode_message(data: bytes) -> tuple[int, int, int, bytes]:
    """(kind, op index, value, detail) of a message from init."""
    kind, index, value, length = _message.unpack_from(data)
    return kind, index, value, data[16 : 16 + length]


def words(op: Op) -> str:
    """What an op was doing, for an error: its `about`, else its line of the plan."""
    return op.about or f"{op.name} {describe(op)}".strip()


def failure(plan: Plan, index: int, errno: int, detail: bytes) -> Error:
    """The error that a failure record stands for: the op is found, its words are put before the kernel's."""
    if not 0 <= index < len(plan.ops):
        return KernelError("read the plan", errno, f"init {index}", detail.decode("utf-8", "replace").strip())
    op = plan.ops[index]
    error = recorded_failure([op.name, words(op), op.where], index, errno, detail)
    if op.name == "mount-setattr" and op.a & MOUNT_ATTR_IDMAP and errno == EINVAL:
        # all that the kernel says; mount_setattr(2) lists those that can
        error.hint = "its file system may be one without idmapped mounts, or be idmapped already"
    return error


def tail(plan: Plan) -> dict[str, list[str]]:
    """What `start` needs to word a failure: name, words and pointer of each op that follows the wait for start."""
    out: dict[str, list[str]] = {}
    for index in range(len(plan.ops) - 1, -1, -1):
        op = plan.ops[index]
        if op.name == "fifo":
            break
        out[str(index)] = [op.name, words(op), op.where]
    return out


def recorded_failure(record: list[str], index: int, errno: int, detail: bytes, rootfs: str = "") -> Error:
    """The same from the state file's copy of an op: [name, words, pointer]; `rootfs` is where the program can be looked at."""
    name, attempt, where = record
    if name in ("find-exec", "exec"):
        program = attempt.removeprefix('exec: "').removesuffix('"')
        error: KernelError = program_error(program, errno, where, is_found=name == "exec")
        if rootfs and name == "exec":
            from runtime.refusals import of_program

            error.hint = of_program(rootfs, program, errno)
        return error
    text = detail.decode("utf-8", "replace").strip()
    if name == "run-hook" and errno in (ECHILD, ETIMEDOUT):
        # no refusal of the kernel: it ran, and did not go well
        why = "no end within its timeout, killed" if errno == ETIMEDOUT else ""
        return HookError(f"{attempt}: {': '.join(filter(None, (why, text)))} [init {index}]", pointer=where)
    if name == "mountpoint" and errno == EISDIR:
        # mount(2) says ENOTDIR either way, and docker takes "is a directory" for a program that cannot be run
        errno, text = ENOTDIR, "its place in the root file system is one"
    # the property of config.json first: the number is of use only beside the plan
    place = f"{dotted(where)}, init {index}" if where else f"init {index}"
    error = KernelError(attempt, errno, place, text, pointer=where)
    error.record["op"] = f"init {index}"
    return error


def program_error(name: str, errno: int = 2, where: str = "/process/args/0", *, is_found: bool = False) -> ExecError:
    """The error for a program that is not there or cannot be executed, word for word runc's: engines search for it.

    A name without a slash was looked for in PATH, where one that cannot be executed is as good as none.
    """
    error = ExecError(f'exec: "{name}"', errno)
    if not is_found and "/" not in name:
        error.message = f'exec: "{name}": executable file not found in $PATH'
    elif not is_found and errno in (2, 20):
        # Go's exec.LookPath stats a path that was given as one
        error.message = f'exec: "{name}": stat {name}: {error.message.rpartition(": ")[2]}'
    elif errno == 21:
        # execve(2) answers EACCES; the docker of 20.10 and podman make 126 of these words and of no others
        error.message += ": permission denied"
    error.args = (error.message,)
    error.record["pointer"] = where
    return error
