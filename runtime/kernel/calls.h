/*
 * What the files of the extension share.
 */
#ifndef PYRUNC_CALLS_H
#define PYRUNC_CALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* the C library's -1 and errno as the kernel had it: a negative errno */
static inline long error_or(long result)
{
    return result < 0 ? -(long)errno : result;
}

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8U
#endif
/* of a child that shares our memory and does nothing but system calls */
#define STACK_BYTES 16384

/* sealed.c: a descriptor of a file with this content that stays as it is; `kind` is MFD_EXEC or MFD_NOEXEC_SEAL */
int unchangeable(const char *name, unsigned kind, const void *data, size_t n);

/* calls.c: make every descriptor from `first` on close-on-exec; may be called between clone and execveat */
void close_on_exec(unsigned first);

#endif
