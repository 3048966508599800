/*
 * Names inside a root whose contents are hostile: an image, or a volume that another container is changing at this
 * moment.
 *
 * openat2 resolves them where it can; one name at a time is walked here where it may not be used, or where something
 * has to be made on the way. Either way nothing outside the root is reached: no link is followed out of it, no magic
 * link at all, and what is made is made on a descriptor of its directory. Of 29 published flaws of runtimes 19 were a
 * name resolved otherwise.
 */
#include "exec.h"

#define RETRIES 128  /* of a lookup that a rename or a mount elsewhere has disturbed */
#define MAX_LINKS 40 /* as path_resolution(7) has it */

static int has_no_openat2;

/* openat2; a lookup that was disturbed is repeated. Anybody can disturb it by renaming, so there is an end to that. */
static long open_how(int dir, const char *path, u64 flags, u64 mode, u64 resolve)
{
    struct open_how how = {flags | O_CLOEXEC, mode, resolve};
    long end = 0;
    for (int tries = 0;; tries++) {
        long fd = sys(openat2, dir, path, &how, sizeof(how));
        if (fd != -EAGAIN && fd != -EINTR) return fd;
        if (tries < RETRIES) continue;
        if (!end) end = milliseconds() + 100;
        if (milliseconds() > end) return fd;
    }
}

/* Whether both are of one mount, as RESOLVE_NO_XDEV asks. */
static int is_same_mount(int a, int b)
{
    struct statx x, y;
    long e = sys(statx, a, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) | sys(statx, b, "", AT_EMPTY_PATH, STATX_MNT_ID, &y);
    if (e == 0 && x.stx_mask & y.stx_mask & STATX_MNT_ID) return x.stx_mnt_id == y.stx_mnt_id;
    struct stat s, t;
    return sys(fstat, a, &s) == 0 && sys(fstat, b, &t) == 0 && s.st_dev == t.st_dev;
}

/* Procfs has magic links everywhere but in its root, where "self" and the like are ordinary ones. */
static int is_magic(int link, int dir)
{
    struct statfs fs;
    struct stat st;
    if (sys(fstatfs, link, &fs) || fs.f_type != PROC_SUPER_MAGIC) return 0;
    return sys(fstatfs, dir, &fs) || fs.f_type != PROC_SUPER_MAGIC || sys(fstat, dir, &st) || st.st_ino != 1;
}

/*
 * A walk from `root` to the directory that holds the last component of a path, one component at a time. The kernel
 * follows nothing: O_NOFOLLOW opens links themselves, and their targets are walked here, inside the root. ".." is never
 * asked for, since a directory that has been moved out meanwhile has its ".." outside: the walk starts again with one
 * name less.
 */
struct walk {
    int root, dir, fd; /* fd: the component that is being looked at */
    u32 links, ups, races;
    size_t done_length;
    const char *next;        /* what is left to walk, in `rest` */
    char name[NAME_MAX + 1]; /* the last component, "." for the directory itself */
    char done[PATH_MAX];     /* names from root to dir, "/" before each */
    char rest[PATH_MAX];
};

static long walk_again(struct walk *w, long dir)
{
    close_fd(w->dir);
    w->dir = (int)dir;
    w->done_length = 0;
    return dir < 0 ? dir : 0;
}

/* Put `n` bytes of `text` before what is left to walk. */
static long walk_first(struct walk *w, const char *text, size_t n)
{
    size_t left = length_of(w->next) + 1;
    if (n + 1 + left > sizeof(w->rest)) return -ENAMETOOLONG;
    move(w->rest + n + 1, w->next, left);
    copy(w->rest, text, n);
    w->rest[n] = '/';
    w->next = w->rest;
    return 0;
}

static long walk_up(struct walk *w, u64 resolve)
{
    if (!w->done_length && resolve & RESOLVE_BENEATH) return -EXDEV;
    if (++w->ups > NAME_MAX) return -ELOOP;
    while (w->done_length && w->done[--w->done_length] != '/') {
    }
    long error = walk_first(w, w->done, w->done_length);
    return error ? error : walk_again(w, sys(fcntl, w->root, F_DUPFD_CLOEXEC, 0));
}

static long walk_link(struct walk *w, u64 resolve)
{
    // what `done` has left over is room enough: a target that needs more makes the path too long
    char *target = w->done + w->done_length;
    size_t room = sizeof(w->done) - w->done_length;
    if (++w->links > MAX_LINKS || resolve & RESOLVE_NO_SYMLINKS || is_magic(w->fd, w->dir)) return -ELOOP;
    long n = sys(readlinkat, w->fd, "", target, room);
    if (n <= 0) return n ? n : -ENOENT;
    if ((size_t)n == room) return -ENAMETOOLONG;
    int is_absolute = *target == '/';
    long error = walk_first(w, target, (size_t)n);
    if (error || !is_absolute) return error;
    return resolve & RESOLVE_BENEATH ? -EXDEV : walk_again(w, sys(fcntl, w->root, F_DUPFD_CLOEXEC, 0));
}

static long walk_down(struct walk *w, size_t size)
{
    if (w->done_length + size + 1 >= sizeof(w->done)) return -ENAMETOOLONG;
    w->done[w->done_length] = '/';
    copy(w->done + w->done_length + 1, w->name, size);
    w->done_length += size + 1;
    close_fd(w->dir);
    w->dir = w->fd;
    w->fd = -1;
    return 0;
}

static long walk_all(struct walk *w, u64 resolve, long mode, int follow)
{
    for (;;) {
        struct stat st;
        size_t size = 0;
        long error = 0;
        while (*w->next == '/')
            w->next++;
        while (w->next[size] && w->next[size] != '/')
            size++;
        if (size > NAME_MAX) return -ENAMETOOLONG;
        copy(w->name, size ? w->next : ".", size ? size : 1);
        w->name[size ? size : 1] = 0;
        if (!size) return 0;
        const char *after = w->next += size;
        while (*after == '/' || (*after == '.' && (after[1] == '/' || !after[1])))
            after++;

        if (is_same(w->name, ".")) continue;
        if (is_same(w->name, "..")) {
            if ((error = walk_up(w, resolve))) return error;
            continue;
        }
        w->fd = (int)sys(openat, w->dir, w->name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
        if (w->fd == -ENOENT && !*after) return 0;
        if (w->fd == -ENOENT && mode >= 0) {
            error = sys(mkdirat, w->dir, w->name, mode);
            if (error && error != -EEXIST) return error;
            if (++w->races > RETRIES) return -EAGAIN;
            w->next -= size; // look again: somebody else may have made it, and as a link
            continue;
        }
        if (w->fd < 0) return w->fd;
        if ((error = sys(fstat, w->fd, &st))) return error;
        if (resolve & RESOLVE_NO_XDEV && !is_same_mount(w->dir, w->fd)) return -EXDEV;
        if (is_kind(&st, S_IFLNK) && (follow || *after)) {
            if ((error = walk_link(w, resolve))) return error;
            // forgotten at once: what is closed at the end would by then be the directory, which may get this number
            close_fd(w->fd);
            w->fd = -1;
            continue;
        }
        if (!*after) return 0;
        if (!is_kind(&st, S_IFDIR)) return -ENOTDIR;
        if ((error = walk_down(w, size))) return error;
    }
}

/* Missing directories on the way are made with `mode`, unless it is -1; the last component is followed if it is a link
 * and `follow`. */
long place_of(int root, const char *path, u64 resolve, long mode, int follow, struct place *p)
{
    struct walk w;
    size_t n = length_of(path) + 1;
    if (n == 1) return -ENOENT;
    if (n > sizeof(w.rest)) return -ENAMETOOLONG;
    if (*path == '/' && resolve & RESOLVE_BENEATH) return -EXDEV;
    w.root = root;
    w.fd = w.dir = -1;
    w.links = w.ups = w.races = 0;
    w.next = w.rest;
    copy(w.rest, path, n);
    long error = walk_again(&w, sys(fcntl, root, F_DUPFD_CLOEXEC, 0));
    if (error == 0) error = walk_all(&w, resolve, mode, follow);
    close_fd(w.fd);
    if (error) {
        close_fd(w.dir);
        return error;
    }
    p->dir = w.dir;
    copy(p->name, w.name, sizeof(w.name));
    return 0;
}

/* What openat2 does, where there is none: a service manager's or an old container's filter may refuse it. */
static long walk(int root, const char *path, u64 flags, u64 mode, u64 resolve)
{
    for (int tries = 0; tries < RETRIES; tries++) {
        struct place p;
        struct stat st;
        long error = place_of(root, path, resolve, -1, !(flags & O_NOFOLLOW), &p);
        if (error) return error;
        long fd = sys(openat, p.dir, p.name, flags | O_NOFOLLOW | O_CLOEXEC, mode);
        int is_link = fd >= 0 && !(flags & O_NOFOLLOW) && sys(fstat, fd, &st) == 0 && is_kind(&st, S_IFLNK);
        if (fd >= 0 && resolve & RESOLVE_NO_XDEV && !is_same_mount(p.dir, (int)fd)) fd = -EXDEV;
        close_fd(p.dir);
        // it was no link when we looked: it has been exchanged since
        if (!is_link && (fd != -ELOOP || flags & O_NOFOLLOW)) return fd;
        close_fd(fd);
    }
    return -EAGAIN;
}

/* Open `path` below `root`, resolved as `resolve` says. */
long resolve(int root, const char *path, u64 flags, u64 mode, u64 how)
{
    if (!has_no_openat2) {
        long fd = open_how(root, path, flags, mode, how);
        if (fd != -ENOSYS && fd != -EPERM) return fd;
        // EPERM is an answer about the file, unless "/" gets it too: then it is a seccomp profile of before openat2
        long probe = fd == -EPERM ? open_how(AT_FDCWD, "/", O_PATH, 0, 0) : -ENOSYS;
        close_fd(probe);
        if (probe != -ENOSYS && probe != -EPERM) return fd;
        has_no_openat2 = 1;
    }
    if (!how) return sys(openat, root, path, flags | O_CLOEXEC, mode);
    return walk(root, path, flags, mode, how);
}

/* Write all of a text to a file that is there, in one call: a file of the kernel's takes no parts. */
long write_in(int root, const char *path, u64 how, const char *text, size_t size)
{
    long fd = resolve(root, path, O_WRONLY | O_NOCTTY, 0, how);
    if (fd < 0) return fd;
    long n = sys(write, fd, text, size);
    close_fd(fd);
    return n < 0 ? n : n == (long)size ? 0 : -EIO;
}

/*
 * Open `path` inside `root` with O_PATH and make what is missing of it: directories with `mode`, the last component as
 * `kind` says. CVE-2024-45310: what is made is made on a descriptor of its parent, and never through a link; a link
 * that hangs is walked like any other, and its target made inside the root.
 */
long make_in(int root, const char *path, u64 mode, u32 kind, int follow)
{
    char bare[PATH_MAX];
    size_t n = length_of(path);
    // "x/" would follow x even under O_NOFOLLOW, and "file/" never be a file (CVE-2026-39822)
    while (n > 1 && (path[n - 1] == '/' || (path[n - 1] == '.' && path[n - 2] == '/')))
        n--;
    if (n >= sizeof(bare)) return -ENAMETOOLONG;
    copy(bare, path, n);
    bare[n] = 0;

    for (int tries = 0; tries < RETRIES; tries++) {
        long fd = resolve(root, bare, O_PATH | (follow ? 0 : O_NOFOLLOW), 0, RESOLVE_ROOT);
        if (fd != -ENOENT) return fd;
        struct place p;
        long error = place_of(root, bare, RESOLVE_ROOT, (long)mode, follow, &p);
        if (error == 0 && kind == S_IFDIR) {
            error = sys(mkdirat, p.dir, p.name, mode);
        } else if (error == 0) {
            fd = sys(openat, p.dir, p.name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0644);
            error = fd < 0 ? fd : 0;
            close_fd(fd);
        }
        // EEXIST: somebody was faster, so look what it is now
        if (error && error != -EEXIST && error != -EAGAIN) return error;
        if (error != -EAGAIN) close_fd(p.dir);
    }
    return -EAGAIN;
}
