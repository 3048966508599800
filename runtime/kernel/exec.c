/*
 * The interpreter: carries out a plan, op by op, and tells the parent where it stopped.
 *
 * Freestanding: no libc, no allocation, no text of its own. One switch at the end, one short function per op before it;
 * what an op must do is said in runtime/ops.py. Functions return 0 or a result, or a negative errno, as system calls
 * do. A failed process is an ended one: on the way to an error nothing is tidied up that the end tidies up.
 *
 * A plan is trusted, and checked as if it were not. File names inside a rootfs are hostile at every moment: they are
 * resolved in resolve.c, never handed to a system call that would follow a link of theirs out of the root.
 */
#include "exec.h"
#include "ops.h"

#define NULL_DEVICE 0x103U /* 1:3 */
#define PTMX_DEVICE 0x502U /* 5:2 */
#define MAX_KEPT 8U        /* registers of the launcher that close-range may keep */

struct interpreter m;

/* -- registers: an empty one is -1, so that using it is EBADF and never the working directory ---------------------- */

static int at(u16 r)
{
    return r == NO_REGISTER ? AT_FDCWD : m.fd[r];
}

static long fill(u16 r, long fd)
{
    if (fd < 0) return fd;
    if (r == NO_REGISTER) {
        close_fd(fd);
        return 0;
    }
    close_fd(m.fd[r]);
    m.fd[r] = (int)fd;
    return 0;
}

/* -- messages ------------------------------------------------------------------------------------------------------ */

static void tell(u32 kind, s32 value, const char *detail, u32 n, int fd)
{
    struct message head = {kind, m.index, value, n};
    struct iovec iov[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)detail, n}};
    struct passed_fd passed = {sizeof(size_t) + 3 * sizeof(int), SOL_SOCKET, SCM_RIGHTS, fd, 0};
    struct message_header h = {0, 0, iov, 2, fd < 0 ? 0 : &passed, fd < 0 ? 0 : sizeof(passed), 0};

    if (m.sock >= 0) {
        // the parent is gone: it takes its half-made container with it
        if (sys(sendmsg, m.sock, &h, MSG_NOSIGNAL) < 0 && kind != FAILED) sys(exit_group, 1);
    } else if (m.status >= 0) {
        // without a reader this must not kill us (a warning), nor may SIGPIPE stay ignored across execve
        struct {
            long handler, flags, restorer, mask;
        } ignore = {1, 0, 0, 0}, standard = {0, 0, 0, 0};
        sys(rt_sigaction, SIGPIPE, &ignore, 0, 8);
        sys(writev, m.status, iov, 2); // less than PIPE_BUF: in one piece
        sys(rt_sigaction, SIGPIPE, &standard, 0, 8);
    }
}

static _Noreturn void fail(long error)
{
    tell(FAILED, (s32)-error, m.detail, m.detail_length, -1);
    for (;;)
        sys(exit_group, 1);
}

/* Wait for the parent's answer: its errno, and the descriptor that came with it in *fd (-1 for none). */
static long answer(int *fd)
{
    s32 error = 0;
    struct iovec iov = {&error, sizeof(error)};
    struct passed_fd passed = {0, 0, 0, -1, 0};
    struct message_header h = {0, 0, &iov, 1, &passed, sizeof(passed), 0};
    long n;

    do
        n = sys(recvmsg, m.sock, &h, MSG_CMSG_CLOEXEC);
    while (n == -EINTR);
    if (n == 0) sys(exit_group, 1); // the parent is gone
    if (n < 0) fail(n);
    *fd = h.control_length >= sizeof(size_t) + 3 * sizeof(int) && passed.type == SCM_RIGHTS ? passed.fd : -1;
    return n != sizeof(error) || error < 0 || error > 4095 ? -EBADMSG : -error;
}

void add_detail(const char *text, size_t n)
{
    for (; n-- && m.detail_length < MAX_DETAIL; text++) {
        // one line, whatever a hook or a file system has printed
        m.detail[m.detail_length++] = (u8)*text < ' ' || *text == 0x7f ? ' ' : *text;
    }
}

static void write_number(char *to, u32 n)
{
    size_t i = 1;
    for (u32 rest = n; rest /= 10;)
        i++;
    to[i] = 0;
    do
        to[--i] = (char)('0' + n % 10);
    while (n /= 10);
}

void add_number(u32 n)
{
    char digits[11];
    write_number(digits, n);
    add_detail(digits, length_of(digits));
}

/* -- names inside the root that a register holds; where there is none, the host's ---------------------------------- */

/* A descriptor of our own of the register's root; the host's root where there is no register. */
long root_of(u16 r)
{
    if (r != NO_REGISTER) return sys(fcntl, m.fd[r], F_DUPFD_CLOEXEC, 0);
    return sys(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
}

/* An O_PATH descriptor of what `path` names inside the register's root; of the register itself where the path is empty.
 */
static long path_in(u16 r, const char *path, u64 flags)
{
    long root = root_of(r);
    if (root < 0 || !*path) return root;
    long fd = resolve((int)root, path, O_PATH | flags, 0, RESOLVE_ROOT);
    close_fd(root);
    return fd;
}

/* The same, and what is missing of it is made (make_in). */
static long make_at(u16 r, const char *path, u64 mode, u32 kind, int follow)
{
    long root = root_of(r);
    if (root < 0) return root;
    long fd = make_in((int)root, path, mode, kind, follow);
    close_fd(root);
    return fd;
}

/* The strings of a list as the array that execve takes, with one more where given; the memory is never given back. */
const char **array_of(const struct op *o, int n, u64 count, const char *more)
{
    long memory =
        sys(mmap, 0, (count + 2) * sizeof(char *), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory < 0 && memory > -4096) fail(memory);
    const char **array = (const char **)memory;
    const char *text = text_of(o, n);
    for (u64 i = 0; i < count; i++, text += length_of(text) + 1)
        array[i] = text;
    if (more && *more) array[count] = more;
    return array;
}

/* -- ops: talking to the parent ------------------------------------------------------------------------------------ */

static long op_ask(const struct op *o)
{
    int given;
    if (o->r1 != NO_REGISTER && fd_of(o->r1) < 0) return -EBADF;
    tell(ASK, (s32)o->a, "", 0, fd_of(o->r1));
    long error = answer(&given);
    if (error || o->r0 == NO_REGISTER) {
        close_fd(given);
        return error;
    }
    return fill(o->r0, given < 0 ? -EBADF : given);
}

static long op_fifo(const struct op *o)
{
    struct stat st;
    struct pollfd poll = {fd_of(o->r0), POLLIN, 0};
    struct __kernel_timespec pause = {0, 1000000};
    char byte;

    for (int i = 0; i < 2; i++) {
        u16 r = i ? o->r1 : o->r0;
        if (i && r == NO_REGISTER) continue;
        long error = sys(fstat, fd_of(r), &st);
        if (error) return error;
        if (!is_kind(&st, S_IFIFO)) return -EINVAL;
    }
    // the end of the socket says to the parent that all went well until here
    m.status = fd_of(o->r1);
    close_fd(m.sock);
    m.sock = -1;
    for (;;) {
        sys(ppoll, &poll, 1, 0, 0, 0);
        long n = sys(read, poll.fd, &byte, 1);
        if (n == 1) break;
        if (n < 0 && n != -EAGAIN && n != -EINTR) return n;
        if (n < 0) continue;
        // a writer came and went without a word; from then on poll does not sleep any more, so we do
        sys(nanosleep, &pause, 0);
        if (pause.tv_nsec < 64000000) pause.tv_nsec *= 2;
    }
    close_fd(poll.fd);
    m.fd[o->r0] = -1;
    return 0;
}

/* -- ops: processes and namespaces --------------------------------------------------------------------------------- */

static long op_fork(const struct op *o)
{
    int given;
    // CLONE_PARENT: the child is the launcher's, which can wait for it as it would for us. It gets our own exit signal.
    struct clone_args how = {.flags = CLONE_PARENT};
    if (o->r0 != NO_REGISTER) {
        // born in its cgroup: moving a process there waits for an RCU grace period
        how.flags |= (u64)CLONE_INTO_CGROUP;
        how.cgroup = (u32)fd_of(o->r0);
    }
    long pid = sys(clone3, &how, sizeof(how));
    // hidden by an old seccomp profile around us: then it is moved, once the parent knows of it
    int is_hidden = pid == -ENOSYS || pid == -EPERM;
    if (is_hidden) pid = sys(clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) return pid;
    if (pid) {
        for (;;)
            sys(exit_group, 0);
    }
    // The child itself says that it is there, and the kernel adds which pid it has outside (SCM_CREDENTIALS). If we
    // were to say it and died before, the child would wait for ever for an answer, and the launcher for the end of a
    // socket the child holds.
    tell(PID, 0, "", 0, -1);
    long error = answer(&given);
    close_fd(given);
    if (error || !is_hidden || o->r0 == NO_REGISTER) return error;
    return write_in(fd_of(o->r0), "cgroup.procs", RESOLVE_FILE, "0", 1);
}

static long op_keyring(const struct op *o)
{
    char text[256];
    long serial = sys(keyctl, KEYCTL_JOIN_SESSION_KEYRING, text_of(o, 0));
    if (serial == -ENOSYS) return 0;
    if (serial < 0) return serial;
    // "type;uid;gid;permissions;description"
    long n = sys(keyctl, KEYCTL_DESCRIBE, serial, text, sizeof(text) - 1);
    if (n < 0) return n == -ENOSYS ? 0 : n;
    text[n < (long)sizeof(text) ? n : (long)sizeof(text) - 1] = 0;
    const char *p = text;
    for (int fields = 0; *p && fields < 3; p++)
        fields += *p == ';';
    u64 permissions = 0;
    for (; (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f'); p++) {
        permissions = permissions << 4 | (u64)(*p <= '9' ? *p - '0' : *p - 'a' + 10);
    }
    long error = sys(keyctl, KEYCTL_SETPERM, serial, (u32)((permissions & o->a) | o->b));
    return error == -ENOSYS ? 0 : error;
}

static long op_mempolicy(const struct op *o)
{
    // the kernel reads b - 1 bits in whole words; the pool ends each blob with zeros up to the next word
    if (o->b > (u64)o->s[0].length * 8 + 1) return -EINVAL;
    return sys(set_mempolicy, o->a, o->b ? text_of(o, 0) : 0, o->b);
}

static long op_link_up(const struct op *o)
{
    struct {
        char name[16];
        short flags;
        char rest[22];
    } request = {{0}, 0, {0}}; // struct ifreq
    size_t n = o->s[0].length;
    if (n >= sizeof(request.name)) return -ENODEV;
    copy(request.name, text_of(o, 0), n);
    // any socket will do, and this kind is there in every kernel
    long fd = sys(socket, AF_UNIX, SOCK_DGRAM | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    long error = sys(ioctl, fd, SIOCGIFFLAGS, &request);
    request.flags |= IFF_UP;
    if (error == 0) error = sys(ioctl, fd, SIOCSIFFLAGS, &request);
    close_fd(fd);
    return error;
}

/* -- ops: credentials; the order among them is the plan's, see plan.check() ---------------------------------------- */

static long op_setresgid(const struct op *o)
{
    u32 r, e, s, id = (u32)o->a;
    // -1 means "leave it": a container that asks for it would keep the gid of root
    if (o->a >= 0xFFFFFFFF) return -EINVAL;
    long error = sys(setresgid, id, id, id);
    if (error == 0) error = sys(getresgid, &r, &e, &s);
    return error ? error : r == id && e == id && s == id ? 0 : -EPERM;
}

static long op_setresuid(const struct op *o)
{
    u32 r, e, s, id = (u32)o->a;
    if (o->a >= 0xFFFFFFFF) return -EINVAL;
    long error = sys(setresuid, id, id, id);
    if (error == 0) error = sys(getresuid, &r, &e, &s);
    return error ? error : r == id && e == id && s == id ? 0 : -EPERM;
}

static long op_bounding(const struct op *o)
{
    for (u32 cap = 0; cap <= o->b && cap < 64; cap++) {
        if (o->a >> cap & 1) continue;
        long error = sys(prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
        if (!error) continue;
        // without CAP_SETPCAP nothing can be dropped, and what is not in the set need not be
        long is_in = sys(prctl, PR_CAPBSET_READ, cap, 0, 0, 0);
        if (error == -EINVAL && is_in == -EINVAL) break; // this kernel has no more of them
        if (is_in != 0) return error;
    }
    return 0;
}

static long op_capset(const struct op *o)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        data[i].effective = (u32)(o->a >> 32 * i);
        data[i].permitted = (u32)(o->b >> 32 * i);
        data[i].inheritable = (u32)(o->c >> 32 * i);
    }
    return sys(capset, &head, data);
}

static long op_ambient(const struct op *o)
{
    long error = sys(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (u32 cap = 0; cap < 64 && error == 0; cap++) {
        if (o->a >> cap & 1) error = sys(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    }
    return error;
}

/* -- ops: files ---------------------------------------------------------------------------------------------------- */

/* Flags in the plan are those of x86_64, of which aarch64 has exchanged a few. */
static u64 open_flags(u64 flags)
{
#if defined(__aarch64__)
    const u64 directory = 0200000, nofollow = 0400000, direct = 040000, large = 0100000;
    u64 same = flags & ~(directory | nofollow | direct | large);
    return same | (flags & directory ? O_DIRECTORY : 0) | (flags & nofollow ? O_NOFOLLOW : 0) |
           (flags & direct ? O_DIRECT : 0) | (flags & large ? O_LARGEFILE : 0);
#else
    return flags;
#endif
}

static long op_open(const struct op *o)
{
    return fill(o->r0, resolve(at(o->r1), text_of(o, 0), open_flags(o->a), o->c, o->b));
}

static long op_close(const struct op *o)
{
    long error = sys(close, fd_of(o->r0));
    if (o->r0 != NO_REGISTER) m.fd[o->r0] = -1;
    return error;
}

static long op_write(const struct op *o)
{
    // CVE-2025-52881: a link or a mount in the way to a file of procfs is an error and no redirection
    u64 how = o->r1 == NO_REGISTER ? 0 : RESOLVE_FILE;
    return write_in(at(o->r1), text_of(o, 0), how, text_of(o, 1), o->s[1].length);
}

static long op_mkdirs(const struct op *o)
{
    struct stat st;
    long fd = make_at(o->r1, text_of(o, 0), o->a, S_IFDIR, !(o->flags & FLAG_NOFOLLOW));
    if (fd < 0) return fd;
    long error = sys(fstat, fd, &st);
    if (error == 0 && !is_kind(&st, S_IFDIR)) error = is_kind(&st, S_IFLNK) ? -ELOOP : -ENOTDIR;
    if (error) close_fd(fd);
    return error ? error : fill(o->r0, fd);
}

/* A place that is there and may be a link itself, to be mounted on as it is. */
static long link_to_mount_on(const struct op *o)
{
    struct statfs fs;
    long fd = path_in(o->r1, text_of(o, 0), O_NOFOLLOW);
    if (fd < 0) return fd;
    long error = sys(fstatfs, fd, &fs);
    // their links are the kernel's: who covers one of those changes what others, the runtime too, are led to
    if (error == 0 && (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC || fs.f_type == DEVPTS_SUPER_MAGIC)) {
        error = -EPERM;
    }
    if (error) close_fd(fd);
    return error ? error : fill(o->r0, fd);
}

static long op_mountpoint(const struct op *o)
{
    struct stat like = {0}, st;
    if (o->a) return link_to_mount_on(o);
    long error = o->r2 == NO_REGISTER ? 0 : sys(fstat, fd_of(o->r2), &like);
    if (error) return error;
    u32 kind = o->r2 == NO_REGISTER || is_kind(&like, S_IFDIR) ? S_IFDIR : S_IFREG;
    long fd = make_at(o->r1, text_of(o, 0), 0755, kind, !(o->flags & FLAG_NOFOLLOW));
    if (fd < 0) return fd;
    error = sys(fstat, fd, &st);
    // CVE-2023-28642: /proc as a link leads the writes of others to a place of the image's choice
    if (error == 0 && is_kind(&st, S_IFLNK)) error = -ELOOP;
    if (error == 0 && is_kind(&st, S_IFDIR) != (kind == S_IFDIR)) error = kind == S_IFDIR ? -ENOTDIR : -EISDIR;
    if (error) close_fd(fd);
    return error ? error : fill(o->r0, fd);
}

static long op_symlink(const struct op *o)
{
    struct place p;
    long root = root_of(o->r1);
    if (root < 0) return root;
    // CVE-2026-41579: the directory is looked up inside the root, the link made by name in exactly that one
    long error = place_of((int)root, text_of(o, 1), RESOLVE_ROOT, -1, 0, &p);
    close_fd(root);
    if (error) return error;
    error = sys(symlinkat, text_of(o, 0), p.dir, p.name);
    if (error == -EEXIST && o->a) {
        char there[PATH_MAX];
        long n = sys(readlinkat, p.dir, p.name, there, sizeof(there) - 1);
        there[n > 0 ? n : 0] = 0;
        if (n > 0 && is_same(there, text_of(o, 0))) error = 0;
    }
    close_fd(p.dir);
    return error;
}

static long op_mknod(const struct op *o)
{
    struct place p;
    struct stat st;
    if (o->b >> 32) return -EINVAL;
    long root = root_of(o->r1);
    if (root < 0) return root;
    long error = place_of((int)root, text_of(o, 0), RESOLVE_ROOT, 0755, 0, &p);
    close_fd(root);
    if (error) return error;
    long made = sys(mknodat, p.dir, p.name, o->a, o->b);
    long fd = made == 0 || made == -EEXIST ? sys(openat, p.dir, p.name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0) : made;
    close_fd(p.dir);
    if (fd < 0) return fd;
    error = sys(fstat, fd, &st);
    // also what was made a moment ago: it may have been exchanged
    int is_it = error == 0 && (st.st_mode & S_IFMT) == (o->a & S_IFMT) && (is_kind(&st, S_IFIFO) || st.st_rdev == o->b);
    if (error == 0 && !is_it) error = -EEXIST;
    if (made == -EEXIST && !(o->flags & FLAG_EXISTS)) error = made;
    if (error == 0 && made == 0) {
        u32 uid = (u32)o->c, gid = (u32)(o->c >> 32);
        if (uid != st.st_uid || gid != st.st_gid) error = sys(fchownat, fd, "", uid, gid, AT_EMPTY_PATH);
        // only a default ACL has changed the mode; chmod by name would follow whatever is called so by now
        if (error == 0 && (st.st_mode ^ o->a) & 07777) error = sys(fchmodat2, fd, "", o->a & 07777, AT_EMPTY_PATH);
    }
    close_fd(fd);
    return error;
}

static long op_check_device(const struct op *o)
{
    struct stat st;
    long error = sys(fstat, fd_of(o->r0), &st);
    if (error) return error;
    return (st.st_mode & S_IFMT) == (o->a & S_IFMT) && st.st_rdev == o->b ? 0 : -ENODEV;
}

/* -- ops: mounts --------------------------------------------------------------------------------------------------- */

/* What a filesystem context has to say about the failure before: "e tmpfs: Bad value for 'size'", one message a read.
 */
static long context_error(long error, int context)
{
    char text[256];
    for (int i = 0; error < 0 && i < 8; i++) {
        long n = sys(read, context, text, sizeof(text));
        if (n <= 2 || text[1] != ' ') break;
        if (m.detail_length) add_detail("; ", 2);
        add_detail(text + 2, (size_t)n - 2 - (text[n - 1] == '\n'));
    }
    return error;
}

static long op_fsconfig(const struct op *o)
{
    int context = fd_of(o->r0);
    const char *key = o->s[0].length ? text_of(o, 0) : 0;
    const char *value = o->a == FSCONFIG_SET_STRING ? text_of(o, 1) : 0;
    int aux = o->a == FSCONFIG_SET_FD ? fd_of(o->r1) : 0;
    if (o->a != FSCONFIG_SET_FLAG && o->a != FSCONFIG_SET_STRING && o->a != FSCONFIG_SET_FD &&
        o->a != FSCONFIG_CMD_CREATE && o->a != FSCONFIG_CMD_RECONFIGURE) {
        return -EINVAL;
    }
    return context_error(sys(fsconfig, context, o->a, key, value, aux), context);
}

static long op_fspick(const struct op *o)
{
    long fd = path_in(o->r1, text_of(o, 0), 0);
    if (fd < 0) return fd;
    long context = sys(fspick, fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
    close_fd(fd);
    return fill(o->r0, context);
}

static long op_fsmount(const struct op *o)
{
    int context = fd_of(o->r0);
    long error = sys(fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    long fd = error ? error : sys(fsmount, context, FSMOUNT_CLOEXEC, o->a);
    return fill(o->r1, context_error(fd, context));
}

/* Make the filesystem in a child, and leave its descriptor in the number `place`, which both have. */
static _Noreturn void mount_apart(const struct op *o, int place, long parent)
{
    const char *source = o->s[1].length ? text_of(o, 1) : 0, *options = o->s[2].length ? text_of(o, 2) : 0;
    // whoever kills init while a server is waited for has not heard of this process
    long error = sys(prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (error == 0 && sys(getppid) != parent) error = -ESRCH;
    if (error == 0) error = sys(mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
    if (error == 0) error = sys(mount, source, "/", text_of(o, 0), o->a, options);
    // from "/" nobody gets to what covers it, but from its parent, which is "/" again
    long tree = error ? error : sys(open_tree, AT_FDCWD, "/..", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree >= 0) tree = sys(dup3, tree, place, O_CLOEXEC);
    for (;;)
        sys(exit_group, tree < 0 ? -tree : 0);
}

static long op_mount(const struct op *o)
{
    int status = 0;
    long parent = sys(getpid), place = sys(openat, AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    if (place < 0) return place;
    // mount(2) needs a place, and no place here is one: a neighbour may see it where mounts are shared
    long pid = sys(clone, CLONE_NEWNS | CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) mount_apart(o, (int)place, parent);
    if (pid > 0) {
        while (sys(wait4, pid, &status, 0, 0) == -EINTR) {
        }
    }
    long error = pid < 0 ? pid : status & 0x7f ? -ECHILD : -(long)(status >> 8 & 0xff);
    if (error) close_fd(place);
    return fill(o->r0, error ? error : place);
}

static long op_open_tree(const struct op *o)
{
    const char *path = text_of(o, 0);
    u64 flags = (o->a & ~(u64)AT_SYMLINK_NOFOLLOW) | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC;
    if (o->r1 == NO_REGISTER) return fill(o->r0, sys(open_tree, AT_FDCWD, path, o->a | OPEN_TREE_CLOEXEC));
    if (!*path) return fill(o->r0, sys(open_tree, fd_of(o->r1), "", flags));
    long fd = path_in(o->r1, path, o->a & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0);
    if (fd < 0) return fd;
    long tree = sys(open_tree, fd, "", flags);
    close_fd(fd);
    return fill(o->r0, tree);
}

static long attach(long from, long to)
{
    return sys(move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static long op_move_mount(const struct op *o)
{
    // CVE-2021-30465: the place is a descriptor, nothing is looked up between the check and the mount
    long to = path_in(o->r1, text_of(o, 0), 0);
    if (to < 0) return to;
    long error = attach(fd_of(o->r0), to);
    close_fd(to);
    return error;
}

static long set_attr(long fd, u64 flags, u64 set, u64 clear, u64 propagation, int user_ns)
{
    struct mount_attr attr = {set, clear, propagation, (__u64)user_ns};
    return sys(mount_setattr, fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr));
}

static long op_mount_setattr(const struct op *o)
{
    u64 flags = o->flags & FLAG_RECURSIVE ? AT_RECURSIVE : 0;
    int user_ns = o->r1 == NO_REGISTER ? 0 : fd_of(o->r1);
    long fd = path_in(o->r0, text_of(o, 0), 0);
    if (fd < 0) return fd;
    long error = user_ns < 0 ? -EBADF : set_attr(fd, flags, o->a, o->b, o->c, user_ns);
    close_fd(fd);
    return error;
}

/* An empty read-only directory to hide others under: the mount itself the first time, later a clone of it. */
static long empty_directory(u16 r)
{
    if (r != NO_REGISTER && m.fd[r] >= 0) {
        return sys(open_tree, m.fd[r], "", OPEN_TREE_CLONE | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
    }
    long context = sys(fsopen, "tmpfs", FSOPEN_CLOEXEC);
    if (context < 0) return context;
    // read-only as a filesystem too: a mount of it could be made writable again by root of the container
    long fd = sys(fsconfig, context, FSCONFIG_SET_FLAG, "ro", 0, 0);
    if (fd == 0) fd = sys(fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0);
    u32 attr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    if (fd == 0) fd = sys(fsmount, context, FSMOUNT_CLOEXEC, attr);
    context_error(fd, (int)context);
    close_fd(context);
    return fd;
}

static long op_mask(const struct op *o)
{
    struct stat st;
    // opened once: what is looked at is what is mounted over, whatever the name means by then (GHSA-3q8j-pf29-vwv8)
    long to = path_in(o->r1, text_of(o, 0), 0);
    if (to == -ENOENT || to == -ENOTDIR) return 0;
    long error = to < 0 ? to : sys(fstat, to, &st);
    if (error) return error;
    long from;
    int is_first = 0;
    if (is_kind(&st, S_IFDIR)) {
        is_first = o->r2 != NO_REGISTER && m.fd[o->r2] < 0;
        from = empty_directory(o->r2);
    } else {
        // CVE-2025-31133: the device is the descriptor that was checked, never a name in the container
        error = sys(fstat, fd_of(o->r0), &st);
        if (error == 0 && (!is_kind(&st, S_IFCHR) || st.st_rdev != NULL_DEVICE)) error = -ENODEV;
        from = error ? error : sys(open_tree, fd_of(o->r0), "", OPEN_TREE_CLONE | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
        // before 6.15 a mount that is not attached yet cannot be cloned: it is used itself, and cloned from then on
        if (from == -EINVAL) from = sys(fcntl, fd_of(o->r0), F_DUPFD_CLOEXEC, 0);
        if (from >= 0) error = set_attr(from, 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, 0, 0);
    }
    if (from < 0) return from;
    if (error == 0) error = attach(from, to);
    close_fd(to);
    if (error == 0 && is_first) return fill(o->r2, from);
    close_fd(from);
    return error;
}

static long op_readonly(const struct op *o)
{
    long to = path_in(o->r1, text_of(o, 0), 0);
    if (to < 0) return to == -ENOENT ? 0 : to;
    long tree = sys(open_tree, to, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH | OPEN_TREE_CLOEXEC);
    long error = tree < 0 ? tree : set_attr(tree, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0, 0);
    if (error == 0) error = attach(tree, to);
    close_fd(tree);
    close_fd(to);
    return error;
}

static long op_pivot_root(const struct op *o)
{
    long old = sys(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (old < 0) return old;
    long error = sys(fchdir, fd_of(o->r0));
    if (error == 0) error = sys(pivot_root, ".", ".");
    // the old root lies over the new one now; as a slave, so that unmounting it unmounts nothing on the host
    if (error == 0) error = set_attr(old, AT_RECURSIVE, 0, 0, MS_SLAVE, 0);
    if (error == 0) error = sys(fchdir, old);
    if (error == 0) error = sys(umount2, ".", MNT_DETACH);
    close_fd(old);
    return error ? error : sys(chdir, "/");
}

static long op_unmount(const struct op *o)
{
    char path[24] = "self/fd/";
    struct statx st;
    long error = sys(statx, fd_of(o->r0), "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_MNT_ID, &st);
    if (error) return error;
    if (!(st.stx_attributes & STATX_ATTR_MOUNT_ROOT)) return -EINVAL;
    if (o->a) return 0;
    // by its descriptor, through a procfs of the host's: no name of the container is looked up
    write_number(path + length_of(path), (u32)fd_of(o->r0));
    error = sys(fchdir, fd_of(o->r1));
    if (error == 0) error = sys(umount2, path, MNT_DETACH);
    return error ? error : sys(chdir, "/");
}

static long op_chroot(const struct op *o)
{
    long error = sys(fchdir, fd_of(o->r0));
    if (error == 0 && !o->a) error = sys(move_mount, fd_of(o->r0), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
    if (error == 0) error = sys(chroot, ".");
    return error ? error : sys(chdir, "/");
}

static long op_chdir(const struct op *o)
{
    char path[PATH_MAX];
    if (o->b && m.has_changed_directory) return 0;
    if (o->b && m.has_cwd) return 0;
    long fd = o->r1 == NO_REGISTER ? 0 : make_at(o->r1, text_of(o, 0), o->a, S_IFDIR, 1);
    if (fd < 0) return fd;
    if (o->r1 != NO_REGISTER) close_fd(fd);
    // CVE-2024-21626: /proc/self/fd/N as working directory is a way out, by name or through a link of the image
    fd = path_in(NO_REGISTER, text_of(o, 0), 0);
    if (fd < 0) return fd;
    long error = sys(fchdir, fd);
    close_fd(fd);
    if (error) return error;
    long n = sys(getcwd, path, sizeof(path));
    // "(unreachable)/..." is what getcwd says of a directory that is not below the root
    if (n < 0 || path[0] != '/') return n < 0 ? n : -EXDEV;
    m.has_cwd = 1;
    return 0;
}

/* -- ops: terminal and standard descriptors ------------------------------------------------------------------------ */

static long op_open_pty(const struct op *o)
{
    struct stat st;
    struct statfs fs;
    int unlock = 0;
    struct winsize size = {(u16)o->a, (u16)o->b, 0, 0};
    // opening any other device could already do something: look at it first
    long fd = sys(openat, fd_of(o->r1), "ptmx", O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    for (int is_open = 0; fd >= 0; is_open = 1) {
        long error = sys(fstat, fd, &st);
        if (error == 0) error = sys(fstatfs, fd, &fs);
        if (error == 0 && (fs.f_type != DEVPTS_SUPER_MAGIC || st.st_ino != 2)) error = -ENODEV;
        if (error == 0 && (!is_kind(&st, S_IFCHR) || st.st_rdev != PTMX_DEVICE)) error = -ENODEV;
        if (error == 0 && is_open) break;
        close_fd(fd);
        fd = error ? error : sys(openat, fd_of(o->r1), "ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC, 0);
    }
    long error = fill(o->r0, fd);
    if (error == 0) error = sys(ioctl, fd, TIOCSPTLCK, &unlock);
    // CVE-2025-52565: the other end by the pair itself, not by its name in a directory of the container
    if (error == 0) error = fill(o->r2, sys(ioctl, fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (error == 0 && (o->a || o->b)) error = sys(ioctl, fd, TIOCSWINSZ, &size);
    return error;
}

static long op_ctty(const struct op *o)
{
    long error = sys(ioctl, fd_of(o->r0), TIOCSCTTY, 0);
    for (int i = 0; i < 3 && error >= 0; i++)
        error = sys(dup3, fd_of(o->r0), i, 0);
    return error < 0 ? error : 0;
}

static int is_null_device(const struct stat *st)
{
    return is_kind(st, S_IFCHR) && st->st_rdev == NULL_DEVICE;
}

static long op_reopen_null(const struct op *o)
{
    struct stat st;
    for (int i = 0; i < 3; i++) {
        if (sys(fstat, i, &st) || !is_null_device(&st)) continue;
        long root = root_of(o->r1);
        if (root < 0) return root;
        // looked at before it is opened, and again after: both must be the device (CVE-2026-88265)
        long fd = resolve((int)root, "dev/null", O_PATH | O_NOFOLLOW, 0, RESOLVE_ROOT);
        long error = fd < 0 ? fd : sys(fstat, fd, &st);
        close_fd(fd);
        if (error == 0 && !is_null_device(&st)) error = -ENODEV;
        fd = error ? error
                   : resolve((int)root, "dev/null", O_RDWR | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW, 0, RESOLVE_ROOT);
        close_fd(root);
        if (fd < 0) return fd;
        error = sys(fstat, fd, &st);
        if (error == 0 && !is_null_device(&st)) error = -ENODEV;
        if (error == 0) error = sys(fcntl, fd, F_SETFL, 0);
        if (error == 0) error = sys(dup3, fd, i, 0);
        close_fd(fd);
        if (error < 0) return error;
    }
    return 0;
}

static long op_chown_stdio(const struct op *o)
{
    struct stat st;
    for (int i = 0; i < 3; i++) {
        // the null device is everybody's
        if (sys(fstat, i, &st) || st.st_uid == o->a || is_null_device(&st)) continue;
        long error = sys(fchown, i, o->a, -1);
        if (error && error != -EPERM && error != -EROFS && error != -EINVAL) return error;
    }
    return 0;
}

/* -- ops: the user's programs -------------------------------------------------------------------------------------- */

static long op_seccomp(const struct op *o)
{
    struct sock_fprog program = {(u16)(o->s[0].length / 8), (struct sock_filter *)(uintptr_t)text_of(o, 0)};
    if (o->s[0].length % 8 || o->s[0].length / 8 > BPF_MAXINSNS) return -EINVAL;
    long result = sys(seccomp, SECCOMP_SET_MODE_FILTER, o->a, &program);
    if (result == -ENOSYS && !o->a) result = sys(prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
    return o->a & SECCOMP_FILTER_FLAG_NEW_LISTENER ? fill(o->r0, result) : result > 0 ? -ESRCH : result;
}

static long op_close_range(const struct op *o)
{
    int keep[5 + MAX_KEPT] = {m.sock, m.status, fd_of(o->r0), fd_of(o->r1), fd_of(o->r2)};
    if (o->b > MAX_KEPT) return -EINVAL;
    for (u32 i = 0; i < o->b; i++)
        keep[5 + i] = m.fd[i];
    close_others((u32)o->a, keep, 5 + (int)o->b);
    for (u32 i = (u32)o->b; i < MAX_REGISTERS; i++) {
        if (m.fd[i] >= (int)o->a && i != o->r0 && i != o->r1 && i != o->r2) m.fd[i] = -1;
    }
    return 0;
}

static long op_exec(const struct op *o)
{
    const char **arguments = array_of(o, 1, o->b, 0), **environment = array_of(o, 2, o->c, m.home);
    const char *path = text_of(o, 0);
    long worst = -ENOENT;
    for (u64 i = 0; i < o->a; i++, path += length_of(path) + 1) {
        long error = sys(execve, path, arguments, environment);
        if (error == -EACCES) worst = error;
        if (error != -EACCES && error != -ENOENT && error != -ENOTDIR) return error;
    }
    return worst;
}

/* -- the plan ------------------------------------------------------------------------------------------------------ */

static long run(const struct op *o)
{
    const char *text = text_of(o, 0);
    switch ((enum op_number)o->op) {
    case OP_ASK: return op_ask(o);
    case OP_FIFO: return op_fifo(o);
    case OP_UNSHARE: return sys(unshare, o->a);
    case OP_SETNS: return sys(setns, fd_of(o->r0), o->a);
    case OP_FORK: return op_fork(o);
    case OP_SETSID: return sys(setsid);
    case OP_PRCTL: return sys(prctl, o->a, o->b, o->c, 0, 0);
    case OP_KEYRING: return op_keyring(o);
    case OP_SETHOSTNAME: return sys(sethostname, text, o->s[0].length);
    case OP_SETDOMAINNAME: return sys(setdomainname, text, o->s[0].length);
    case OP_PERSONALITY: return sys(personality, o->a);
    case OP_UMASK: return sys(umask, o->a);
    case OP_SCHEDULER: return sys(sched_setattr, 0, text, 0);
    case OP_IOPRIO: return sys(ioprio_set, IOPRIO_WHO_PROCESS, 0, o->a);
    case OP_AFFINITY: return sys(sched_setaffinity, 0, o->s[0].length, text);
    case OP_MEMPOLICY: return op_mempolicy(o);
    case OP_LINK_UP: return op_link_up(o);
    case OP_NETLINK: return fill(o->r0, sys(socket, AF_NETLINK, SOCK_DGRAM | O_CLOEXEC, 0));
    case OP_SETGROUPS: return o->s[0].length % 4 ? -EINVAL : sys(setgroups, o->s[0].length / 4, text);
    case OP_SETRESGID: return op_setresgid(o);
    case OP_SETRESUID: return op_setresuid(o);
    case OP_BOUNDING: return op_bounding(o);
    case OP_CAPSET: return op_capset(o);
    case OP_AMBIENT: return op_ambient(o);
    case OP_OPEN: return op_open(o);
    case OP_CLOSE: return op_close(o);
    case OP_WRITE: return op_write(o);
    case OP_MKDIRS: return op_mkdirs(o);
    case OP_MOUNTPOINT: return op_mountpoint(o);
    case OP_SYMLINK: return op_symlink(o);
    case OP_MKNOD: return op_mknod(o);
    case OP_CHECK_DEVICE: return op_check_device(o);
    case OP_FSOPEN: return fill(o->r0, sys(fsopen, text, FSOPEN_CLOEXEC));
    case OP_FSPICK: return op_fspick(o);
    case OP_FSCONFIG: return op_fsconfig(o);
    case OP_FSMOUNT: return op_fsmount(o);
    case OP_MOUNT: return op_mount(o);
    case OP_OPEN_TREE: return op_open_tree(o);
    case OP_MOVE_MOUNT: return op_move_mount(o);
    case OP_MOUNT_SETATTR: return op_mount_setattr(o);
    case OP_COPY_UP: return op_copy_up(o);
    case OP_MASK: return op_mask(o);
    case OP_READONLY: return op_readonly(o);
    case OP_PIVOT_ROOT: return op_pivot_root(o);
    case OP_CHROOT: return op_chroot(o);
    case OP_UNMOUNT: return op_unmount(o);
    case OP_CHDIR: return op_chdir(o);
    case OP_OPEN_PTY: return op_open_pty(o);
    case OP_CTTY: return op_ctty(o);
    case OP_REOPEN_NULL: return op_reopen_null(o);
    case OP_CHOWN_STDIO: return op_chown_stdio(o);
    case OP_RUN_HOOK: return op_run_hook(o);
    case OP_HOME: return op_home(o);
    case OP_FIND_EXEC: return op_find_exec(o);
    case OP_SECCOMP: return op_seccomp(o);
    case OP_CLOSE_RANGE: return op_close_range(o);
    case OP_INHERIT: return sys(fcntl, fd_of(o->r0), F_SETFD, 0);
    case OP_EXEC: return op_exec(o);
    }
    return -ENOSYS;
}

/* What a string of an op is: t text, b bytes, and lists with their count in that integer of the op. */
static char kind_of(u32 op, int n)
{
    switch (op) {
    case OP_SCHEDULER:
    case OP_AFFINITY:
    case OP_MEMPOLICY:
    case OP_SETGROUPS:
    case OP_SECCOMP: return n ? 't' : 'b';
    case OP_WRITE: return n == 1 ? 'b' : 't';
    case OP_FIND_EXEC: return n ? 't' : 'A';
    case OP_EXEC: return (char)('A' + n);
    case OP_RUN_HOOK: return n ? (char)('A' + n) : 't';
    default: return 't';
    }
}

static int is_span_good(const struct op *o, int n, const char *pool, u32 bytes)
{
    u32 offset = o->s[n].offset, length = o->s[n].length;
    u64 nuls = 0;
    // CVE-2021-43784 was a length that had wrapped: nothing here is added before it is compared
    if (offset >= bytes || length >= bytes - offset || offset % 8 || pool[offset + length]) return 0;
    char kind = kind_of(o->op, n);
    if (kind == 'b') return 1;
    for (u32 i = 0; i < length; i++)
        nuls += !pool[offset + i];
    if (kind == 't') return nuls == 0;
    u64 count = kind == 'A' ? o->a : kind == 'B' ? o->b : o->c;
    return count ? nuls == count - 1 : length == 0;
}

long plan_check(const void *plan, size_t size, u32 first_fd)
{
    const struct header *h = plan;
    if (size < sizeof(*h) || h->magic != PLAN_MAGIC || h->version != PLAN_VERSION) return -EBADMSG;
    if (h->first_fd != first_fd || first_fd < 3) return -EBADMSG;
    if (h->registers > MAX_REGISTERS || h->inherited > h->registers) return -EBADMSG;
    if (!h->ops || h->ops > (size - sizeof(*h)) / sizeof(struct op)) return -EBADMSG;
    if (h->pool_offset != sizeof(*h) + h->ops * sizeof(struct op)) return -EBADMSG;
    if (h->pool_bytes != size - h->pool_offset) return -EBADMSG;

    const struct op *ops = (const struct op *)(h + 1);
    const char *pool = (const char *)plan + h->pool_offset;
    for (u32 i = 0; i < h->ops; i++) {
        const struct op *o = ops + i;
        const u16 registers[3] = {o->r0, o->r1, o->r2};
        if (!o->op || o->op > OP_LAST || o->flags & ~FLAG_ALL) return -EBADMSG;
        for (int n = 0; n < 6; n++) {
            if (o->zero[n]) return -EBADMSG;
        }
        for (int n = 0; n < 3; n++) {
            if (registers[n] != NO_REGISTER && registers[n] >= h->registers) return -EBADMSG;
            if (!is_span_good(o, n, pool, h->pool_bytes)) return -EBADMSG;
        }
    }
    // whoever came to the end of a plan would go on as root of the container
    return ops[h->ops - 1].op == OP_EXEC ? 0 : -EBADMSG;
}

_Noreturn void plan_run(const void *plan, size_t size, u32 first_fd)
{
    const struct header *h = plan;
    m.sock = (int)first_fd;
    m.status = -1;
    m.index = NO_OP;
    for (u32 i = 0; i < MAX_REGISTERS; i++)
        m.fd[i] = -1;
    long error = plan_check(plan, size, first_fd);
    if (error) fail(error);
    // from birth, as far as we are concerned: no program that is started from here on may have one of these
    if (sys(close_range, first_fd, ~0U, CLOSE_RANGE_CLOEXEC)) {
        for (u32 i = 0; i < 2 + h->inherited; i++)
            sys(fcntl, first_fd + i, F_SETFD, FD_CLOEXEC);
    }
    close_fd(first_fd + 1);
    for (u32 i = 0; i < h->inherited; i++)
        m.fd[i] = (int)(first_fd + 2 + i);
    m.ops = (const struct op *)(h + 1);
    m.pool = (const char *)plan + h->pool_offset;
    m.count = h->ops;

    for (m.index = 0; m.index < m.count; m.index++) {
        const struct op *o = m.ops + m.index;
        m.detail_length = 0;
        error = run(o);
        if (error >= 0) continue;
        // all that a plan may leave to the moment; mknod has looked whether what exists is the same
        if (error == -EEXIST && o->flags & FLAG_EXISTS && o->op != OP_MKNOD) continue;
        if (error == -ENOENT && o->flags & FLAG_MISSING) continue;
        if ((error != -EPERM && error != -EACCES) || !(o->flags & FLAG_DENIED)) fail(error);
        tell(WARN, (s32)-error, m.detail, m.detail_length, -1);
    }
    fail(-ENOEXEC); // not reached: the last op was exec
}
