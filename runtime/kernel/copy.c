/*
 * Copying what is below one directory into another, which is attached nowhere yet: `tmpcopyup`.
 *
 * What is copied is hostile and may change meanwhile: no link is followed, no filesystem boundary crossed, nothing
 * opened that could make us wait.
 */
#include "exec.h"

#define COPY_DEPTH 64

static long copy_directory(int from, int to, u64 device, int depth);

static long copy_file(int from, int to, const char *name, const struct stat *st)
{
    struct stat now;
    // it may have become a FIFO since, where an ordinary open would wait for ever
    long in = sys(openat, from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0);
    if (in < 0) return in;
    long out = sys(openat, to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    long n = out < 0 ? out : sys(fstat, in, &now);
    if (n == 0 && !is_kind(&now, S_IFREG)) n = -ESTALE;
    if (n == 0) {
        while ((n = sys(sendfile, out, in, 0, 1 << 20)) > 0) {
        }
    }
    if (n == 0) n = sys(fchown, out, st->st_uid, st->st_gid);
    if (n == 0) n = sys(fchmod, out, st->st_mode & 07777);
    close_fd(in);
    close_fd(out);
    return n;
}

static long copy_entry(int from, int to, const char *name, u64 device, int depth)
{
    struct stat st;
    char target[PATH_MAX / 4];
    long error = sys(newfstatat, from, name, &st, AT_SYMLINK_NOFOLLOW);
    if (error) return error;
    if (is_kind(&st, S_IFREG)) {
        error = copy_file(from, to, name, &st);
    } else if (is_kind(&st, S_IFLNK)) {
        long n = sys(readlinkat, from, name, target, sizeof(target));
        if (n < 0 || n == (long)sizeof(target)) return n < 0 ? n : -ENAMETOOLONG;
        target[n] = 0;
        error = sys(symlinkat, target, to, name);
        if (error == 0) error = sys(fchownat, to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW);
    } else {
        int is_directory = is_kind(&st, S_IFDIR);
        error = is_directory ? sys(mkdirat, to, name, 0700) : sys(mknodat, to, name, st.st_mode, st.st_rdev);
        if (is_directory && error == 0) {
            long a = sys(openat, from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
            long b = sys(openat, to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
            error = a < 0 ? a : b < 0 ? b : copy_directory((int)a, (int)b, device, depth + 1);
            close_fd(a);
            close_fd(b);
        }
        if (error == 0) error = sys(fchownat, to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW);
        // by name: the place that is copied to is not attached anywhere yet, nobody else can exchange it
        if (error == 0) error = sys(fchmodat, to, name, st.st_mode & 07777);
    }
    struct __kernel_timespec times[2] = {
        {(long)st.st_atime, (long)st.st_atime_nsec},
        {(long)st.st_mtime, (long)st.st_mtime_nsec},
    };
    return error ? error : sys(utimensat, to, name, times, AT_SYMLINK_NOFOLLOW);
}

static long copy_directory(int from, int to, u64 device, int depth)
{
    char entries[1024] __attribute__((aligned(8)));
    struct stat st;
    long error = sys(fstat, from, &st);
    if (error) return error;
    if (st.st_dev != device) return 0; // something is mounted here: it is not part of what lies below
    if (depth > COPY_DEPTH) return -ENAMETOOLONG;
    for (;;) {
        long n = sys(getdents64, from, entries, sizeof(entries));
        if (n <= 0) return n;
        // u64 inode, s64 offset, u16 length, u8 type, name
        for (long i = 0; i < n; i += *(const u16 *)(const void *)(entries + i + 16)) {
            const char *name = entries + i + 19;
            if (is_same(name, ".") || is_same(name, "..")) continue;
            if ((error = copy_entry(from, to, name, device, depth))) return error;
        }
    }
}

long op_copy_up(const struct op *o)
{
    struct stat st;
    long from = sys(openat, fd_of(o->r1), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (from < 0) return from;
    long error = sys(fstat, from, &st);
    if (error == 0 && o->a) {
        error = sys(fchmodat, fd_of(o->r0), ".", st.st_mode & 07777);
        close_fd(from);
        return error;
    }
    if (error == 0) error = copy_directory((int)from, fd_of(o->r0), st.st_dev, 0);
    close_fd(from);
    return error;
}
