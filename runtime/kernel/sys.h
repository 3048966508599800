/*
 * Raw system calls, and the kernel's own headers: no libc is asked for anything.
 *
 * `sys(openat, dir, path, flags)` is the call itself: the result, or a negative errno. Only calls that both x86_64 and
 * aarch64 have are used, so that there is one text for both.
 */
#ifndef PYRUNC_SYS_H
#define PYRUNC_SYS_H

#include <asm/errno.h>
#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <linux/mman.h>
#include <asm/poll.h>
#include <asm/sockios.h>
#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/termios.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/stat.h>
#include <linux/time_types.h>
#include <linux/uio.h>

#include "plan.h"

/* What headers older than the kernel that will run us may lack, and what libc alone defines. */
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8U
#endif
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif
#define PATH_MAX 4096
#define NAME_MAX 255
#define SIGKILL 9
#define SIGPIPE 13
#define SIGCHLD 17
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define AF_UNIX 1
#define AF_NETLINK 16
#define SOCK_DGRAM 2
#define MSG_NOSIGNAL 0x4000
#define MSG_CMSG_CLOEXEC 0x40000000
#define CLOCK_MONOTONIC 1
#define MNT_DETACH 2
#define FD_CLOEXEC 1
#define CLOSE_RANGE_CLOEXEC 4
#define WNOHANG 1
#define SIOCGIFFLAGS 0x8913
#define SIOCSIFFLAGS 0x8914
#define IFF_UP 1
#define IOPRIO_WHO_PROCESS 1

struct message_header {
    void *name;
    int name_length;
    struct iovec *iov;
    size_t iov_count;
    void *control;
    size_t control_length;
    u32 flags;
};

/* One descriptor as SCM_RIGHTS, laid out as CMSG_SPACE(sizeof(int)) is. */
struct passed_fd {
    size_t length;
    int level;
    int type;
    int fd;
    int padding;
};

#if defined(__x86_64__)

#define SYS_ASM(...)                                                                                                   \
    long result;                                                                                                       \
    __asm__ volatile("syscall" : "=a"(result) : __VA_ARGS__ : "rcx", "r11", "memory");                                 \
    return result

static inline long raw0(long n)
{
    SYS_ASM("a"(n));
}
static inline long raw1(long n, long a)
{
    SYS_ASM("a"(n), "D"(a));
}
static inline long raw2(long n, long a, long b)
{
    SYS_ASM("a"(n), "D"(a), "S"(b));
}
static inline long raw3(long n, long a, long b, long c)
{
    SYS_ASM("a"(n), "D"(a), "S"(b), "d"(c));
}
static inline long raw4(long n, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    SYS_ASM("a"(n), "D"(a), "S"(b), "d"(c), "r"(r10));
}
static inline long raw5(long n, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    SYS_ASM("a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8));
}

#elif defined(__aarch64__)

#define SYS_ASM(...)                                                                                                   \
    register long x8 __asm__("x8") = n;                                                                                \
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), ##__VA_ARGS__ : "memory");                                          \
    return x0

static inline long raw0(long n)
{
    register long x0 __asm__("x0") = 0;
    SYS_ASM("r"(x0));
}
static inline long raw1(long n, long a)
{
    register long x0 __asm__("x0") = a;
    SYS_ASM("r"(x0));
}
static inline long raw2(long n, long a, long b)
{
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    SYS_ASM("r"(x1));
}
static inline long raw3(long n, long a, long b, long c)
{
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    SYS_ASM("r"(x1), "r"(x2));
}
static inline long raw4(long n, long a, long b, long c, long d)
{
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    SYS_ASM("r"(x1), "r"(x2), "r"(x3));
}
static inline long raw5(long n, long a, long b, long c, long d, long e)
{
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    SYS_ASM("r"(x1), "r"(x2), "r"(x3), "r"(x4));
}

#else
#error "pyrunc knows the system calls of x86_64 and aarch64"
#endif

static inline long raw6(long n, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    SYS_ASM("a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9));
#else
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    SYS_ASM("r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5));
#endif
}

/* sys(name, up to six arguments): the macro of the right arity, each argument as the kernel takes it. */
#define sys(...) SYS_PICK(__VA_ARGS__, sys6, sys5, sys4, sys3, sys2, sys1, sys0, 0)(__VA_ARGS__)
#define SYS_PICK(n, a, b, c, d, e, f, pick, ...) pick
#define sys0(n) raw0(__NR_##n)
#define sys1(n, a) raw1(__NR_##n, (long)(a))
#define sys2(n, a, b) raw2(__NR_##n, (long)(a), (long)(b))
#define sys3(n, a, b, c) raw3(__NR_##n, (long)(a), (long)(b), (long)(c))
#define sys4(n, a, b, c, d) raw4(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d))
#define sys5(n, a, b, c, d, e) raw5(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define sys6(n, a, b, c, d, e, f) raw6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#endif
