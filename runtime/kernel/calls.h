/*
 * What the two files of the extension share.
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

/* calls.c: make every descriptor from `first` on close-on-exec; may be called between clone and execveat */
void close_on_exec(unsigned first);

#endif
