/*
 * Preloaded into Debian's User-Mode Linux 6.1. It keeps the registers of its processes in a record of fixed size, which
 * was enough until processors had matrix registers: there the kernel below wants all of them and refuses ("ptrace set
 * fp regs failed, errno = 14"). So what is short is completed with what the process has.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEKTEXT = 1, PEEKUSER = 3, GETREGSET = 0x4204, SETREGSET = 0x4205, EXTENDED_STATE = 0x202 };

long ptrace(int request, ...)
{
    static char state[1 << 16] __attribute__((aligned(64)));
    va_list rest;
    va_start(rest, request);
    int pid = va_arg(rest, int);
    long address = va_arg(rest, long);
    long data = va_arg(rest, long);
    va_end(rest);
    if (request == SETREGSET && address == EXTENDED_STATE) {
        const struct iovec *given = (const struct iovec *)data;
        struct iovec whole = {.iov_base = state, .iov_len = sizeof state};
        if (!syscall(SYS_ptrace, GETREGSET, pid, address, &whole) && whole.iov_len > given->iov_len) {
            memcpy(state, given->iov_base, given->iov_len);
            return syscall(SYS_ptrace, SETREGSET, pid, address, &whole);
        }
    }
    if (request < PEEKTEXT || request > PEEKUSER) return syscall(SYS_ptrace, request, pid, address, data);
    /* the system call stores what the C library returns */
    long word = 0;
    if (syscall(SYS_ptrace, request, pid, address, &word)) return -1;
    errno = 0;
    return word;
}
