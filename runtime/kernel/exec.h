/*
 * What the parts of the interpreter share: its state, and what a libc would have been asked for.
 */
#ifndef PYRUNC_EXEC_H
#define PYRUNC_EXEC_H

#include "plan.h"
#include "sys.h"

#define RESOLVE_ROOT (RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
#define RESOLVE_FILE (RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)

struct interpreter {
    const struct op *ops;
    const char *pool;
    u32 count;
    u32 index; /* of the op that is being done */
    u32 first_fd;
    int sock;    /* -1 once `fifo` has begun */
    int status;  /* the FIFO that failures go to from then on */
    int has_cwd; /* a chdir has gone well */
    int has_changed_directory;
    u32 detail_length;
    int fd[MAX_REGISTERS];
    char detail[MAX_DETAIL]; /* what the kernel or a hook had to say about a failure */
    char home[PATH_MAX / 4]; /* HOME=... for exec, empty until the op `home` */
};

extern struct interpreter m;

static inline size_t length_of(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static inline void copy(char *to, const char *from, size_t n)
{
    while (n--)
        *to++ = *from++;
}

/* copy() for overlapping memory */
static inline void move(char *to, const char *from, size_t n)
{
    if (to <= from) {
        copy(to, from, n);
    } else {
        while (n--)
            to[n] = from[n];
    }
}

static inline int is_same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static inline int is_kind(const struct stat *st, u32 kind)
{
    return (st->st_mode & S_IFMT) == kind;
}

static inline void close_fd(long fd)
{
    if (fd >= 0) sys(close, fd);
}

static inline long milliseconds(void)
{
    struct __kernel_timespec now;
    sys(clock_gettime, CLOCK_MONOTONIC, &now);
    return (long)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

/* The directory that holds the last component of `path` (to be closed), and that component's name; it may be missing
 * there. */
struct place {
    int dir;
    char name[NAME_MAX + 1];
};

/* resolve.c */
long resolve(int root, const char *path, u64 flags, u64 mode, u64 how);
long place_of(int root, const char *path, u64 resolve, long mode, int follow, struct place *p);
long make_in(int root, const char *path, u64 mode, u32 kind, int follow);

/* program.c */
void close_others(u32 low, const int *keep, int n);
long op_run_hook(const struct op *o);
long op_home(const struct op *o);
long op_find_exec(const struct op *o);

/* copy.c */
long op_copy_up(const struct op *o);

/* exec.c */
void add_detail(const char *text, size_t n);
void add_number(u32 n);
long root_of(u16 r);
const char **array_of(const struct op *o, int n, u64 count, const char *more);

static inline const char *text_of(const struct op *o, int n)
{
    return m.pool + o->s[n].offset;
}

static inline int fd_of(u16 r)
{
    return r == NO_REGISTER ? -1 : m.fd[r];
}

#endif
