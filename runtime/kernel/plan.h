/*
 * The wire format of plans and messages: the C half of runtime/wire.py, which draws and explains it.
 */
#ifndef PYRUNC_PLAN_H
#define PYRUNC_PLAN_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;

#define PLAN_MAGIC 0x4E414C50U
#define PLAN_VERSION 1U
#define NO_REGISTER 0xFFFFU
#define MAX_REGISTERS 1024U
#define MAX_DETAIL 2048U
/* the op index of a failure that is not an op's: the plan itself cannot be used */
#define NO_OP 0xFFFFFFFFU

enum message_kind { ASK = 1, PID = 2, FAILED = 3, WARN = 4 };

struct header {
    u32 magic, version, ops, inherited, pool_offset, pool_bytes, first_fd, registers;
};

struct span {
    u32 offset, length;
};

struct op {
    u16 op, flags, r0, r1, r2;
    u8 zero[6];
    u64 a, b, c;
    struct span s[3];
};

struct message {
    u32 kind, index;
    s32 value;
    u32 length;
};

_Static_assert(sizeof(struct header) == 32, "header");
_Static_assert(sizeof(struct op) == 64, "op record");
_Static_assert(sizeof(struct message) == 16, "message");

/* exec.c: 0, or a negative errno for a plan that nothing of may be done */
long plan_check(const void *plan, size_t size, u32 first_fd);
/* exec.c: check the plan, run it; the socket is first_fd, inherited registers follow the plan's own descriptor */
_Noreturn void plan_run(const void *plan, size_t size, u32 first_fd);
/* exec.c: the home directory in one line of /etc/passwd, where the line is of that uid: its length, else 0 */
size_t passwd_line(const char *line, size_t n, u32 uid, char *home, size_t room);

#endif
