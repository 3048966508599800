/*
 * Hooks, and home directories: the ops that deal with the user's programs and the user's files, with time and size
 * bounded.
 */
#include "exec.h"

#define MAX_PASSWD (1 << 20)
#define HOOK_TAIL 1024U
#define MAX_TIMEOUT (1L << 40)

/* -- closing descriptors ------------------------------------------------------------------------------------------- */

/* Before 5.9, or under a profile that forbids close_range(2). /proc/self/fd would tell which there are, but in here
 * /proc may be anybody's; poll(2) tells it of many at once, where a limit may be a million and each call a filter's to
 * judge. */
static void close_what_is_open(u64 low, u64 high)
{
    struct pollfd some[256];
    while (low <= high) {
        u32 count = high - low < 255 ? (u32)(high - low) + 1 : 256;
        for (u32 i = 0; i < count; i++)
            some[i] = (struct pollfd){(int)(low + i), 0, 0};
        struct __kernel_timespec now = {0, 0};
        long told = sys(ppoll, some, count, &now, 0, 0);
        for (u32 i = 0; i < count; i++)
            if (told < 0 || !(some[i].revents & POLLNVAL)) sys(close, some[i].fd);
        low += count;
    }
}

static void close_between(u32 low, u32 high)
{
    if (low > high || sys(close_range, low, high, 0) == 0) return;
    struct rlimit64 limit = {0, 0};
    sys(prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
    u64 end = limit.rlim_cur < 1U << 20 ? limit.rlim_cur : 1U << 20;
    if (end) close_what_is_open(low, high < end - 1 ? high : end - 1);
}

/* Close every descriptor from `low` on but those of `keep`. */
void close_others(u32 low, const int *keep, int n)
{
    for (;;) {
        u32 least = ~0U;
        for (int i = 0; i < n; i++) {
            if (keep[i] >= 0 && (u32)keep[i] >= low && (u32)keep[i] < least) least = (u32)keep[i];
        }
        close_between(low, least == ~0U ? least : least - 1);
        if (least == ~0U) return;
        low = least + 1;
    }
}

/* A file of its own with what the descriptor holds: hooks that run one after the other must not share an offset. */
static long copy_of(int from)
{
    long offset = 0, n = 0;
    long fd = sys(memfd_create, "state", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd == -EINVAL) fd = sys(memfd_create, "state", MFD_CLOEXEC); // before 6.3
    if (fd == -ENOSYS && from >= 0) {
        n = sys(lseek, from, 0, 0);
        return n ? n : sys(fcntl, from, F_DUPFD_CLOEXEC, 3);
    }
    if (fd < 0 || from < 0) return fd;
    while ((n = sys(sendfile, fd, from, &offset, 1 << 20)) > 0) {
    }
    if (n == 0) n = sys(lseek, fd, 0, 0);
    return n < 0 ? n : fd;
}

static _Noreturn void become_hook(const struct op *o, int in, int out, int err, int report)
{
    const char **arguments = array_of(o, 1, o->b, 0), **environment = array_of(o, 2, o->c, 0);
    // a session of its own: no terminal of ours to push input into, and one group to kill
    sys(setsid);
    // our umask of 0 while things are made is nothing for others to inherit
    long mask = sys(umask, 0022);
    if (mask) sys(umask, mask);
    sys(dup3, in, 0, 0);
    sys(dup3, out, 1, 0);
    sys(dup3, err, 2, 0);
    close_others(3, &report, 1);
    s32 error = (s32)sys(execve, text_of(o, 0), arguments, environment);
    sys(write, report, &error, sizeof(error));
    for (;;)
        sys(exit_group, 127);
}

/* Read what there is, keep the end of it: 0 at the end of output. */
static long keep_tail(int fd, char *tail, u32 *used)
{
    char more[HOOK_TAIL];
    long n = sys(read, fd, more, sizeof(more));
    if (n <= 0) return n;
    u32 keep = HOOK_TAIL - (u32)n < *used ? HOOK_TAIL - (u32)n : *used;
    move(tail, tail + *used - keep, keep);
    copy(tail + keep, more, (size_t)n);
    *used = keep + (u32)n;
    return n;
}

long op_run_hook(const struct op *o)
{
    char tail[HOOK_TAIL];
    u32 used = 0;
    int out[2], report[2], pidfd = -1, status = 0;
    s32 error = 0;
    // a file that nobody has opened must not leave the hook with an output of ours
    if ((o->r1 != NO_REGISTER && fd_of(o->r1) < 0) || (o->r2 != NO_REGISTER && fd_of(o->r2) < 0)) return -EBADF;
    long in = copy_of(fd_of(o->r0));
    if (in < 0) return in;
    long e = sys(pipe2, out, O_CLOEXEC);
    if (e == 0) e = sys(pipe2, report, O_CLOEXEC);
    if (e == 0) e = sys(fcntl, out[0], F_SETFL, O_NONBLOCK);
    if (e) return e;
    long end = milliseconds() + (o->a < MAX_TIMEOUT ? (long)o->a : MAX_TIMEOUT);
    long pid = sys(clone, CLONE_PIDFD | SIGCHLD, 0, &pidfd, 0, 0);
    if (pid == 0) {
        int to = o->r1 == NO_REGISTER ? out[1] : fd_of(o->r1), errors = o->r2 == NO_REGISTER ? out[1] : fd_of(o->r2);
        become_hook(o, (int)in, to, errors, report[1]);
    }
    close_fd(in);
    close_fd(out[1]);
    close_fd(report[1]);
    if (pid < 0) return pid;

    // for the process, and not for the end of its output: a child that it left behind may hold that for ever
    struct pollfd polls[2] = {{pidfd, POLLIN, 0}, {out[0], POLLIN, 0}};
    int is_late = 0;
    while (!(polls[0].revents & POLLIN)) {
        long left = end - milliseconds();
        if (o->a && left <= 0) {
            is_late = 1;
            break;
        }
        struct __kernel_timespec wait = {left / 1000, left % 1000 * 1000000};
        if (sys(ppoll, polls, 2, o->a ? &wait : 0, 0, 0) < 0) polls[0].revents = polls[1].revents = 0;
        if (polls[1].revents && keep_tail(out[0], tail, &used) == 0) polls[1].fd = -1;
    }
    if (is_late) {
        sys(kill, -pid, SIGKILL);
        sys(pidfd_send_signal, pidfd, SIGKILL, 0, 0); // it may not have got to its session yet
    }
    while (sys(wait4, pid, &status, 0, 0) == -EINTR) {
    }
    for (int i = 0; i < 64 && polls[1].fd >= 0 && keep_tail(out[0], tail, &used) > 0; i++) {
    }
    if (sys(read, report[0], &error, sizeof(error)) != sizeof(error)) error = 0;
    close_fd(pidfd);
    close_fd(out[0]);
    close_fd(report[0]);
    if (is_late || status) {
        sys(kill, -pid, SIGKILL); // what it has left in its session fails with it
        if (!is_late && !error) {
            int signal = status & 0x7f;
            add_detail(signal ? "signal " : "exit status ", signal ? 7 : 12);
            add_number((u32)(signal ? signal : status >> 8 & 0xff));
            if (used) add_detail(": ", 2);
        }
        add_detail(tail, used);
    }
    // as pid 1 we are the one whom its orphans end at
    while (sys(wait4, -1, 0, WNOHANG, 0) > 0) {
    }
    return is_late ? -ETIMEDOUT : error ? error : status ? -ECHILD : 0;
}

/* name:password:uid:gid:comment:home:shell */
size_t passwd_line(const char *line, size_t n, u32 uid, char *home, size_t room)
{
    size_t field[8] = {0}, fields = 0;
    for (size_t i = 0; i < n && fields < 7; i++) {
        if (!line[i]) return 0;
        if (line[i] == ':') field[++fields] = i + 1;
    }
    if (fields < 6) return 0;
    u64 number = 0;
    size_t first = field[2], last = field[3] - 1;
    if (last == first || last - first > 10) return 0;
    for (size_t i = first; i < last; i++) {
        if (line[i] < '0' || line[i] > '9') return 0;
        number = number * 10 + (u64)(line[i] - '0');
    }
    size_t size = field[6] - 1 - field[5];
    if (number != uid || !size || size >= room) return 0;
    copy(home, line + field[5], size);
    home[size] = 0;
    return size;
}

long op_home(const struct op *o)
{
    char line[1024];
    struct stat st;
    size_t used = 0;
    int is_skipped = 0;
    const char prefix[] = "HOME=/";
    copy(m.home, prefix, sizeof(prefix));
    long root = root_of(NO_REGISTER);
    if (root < 0) return root;
    // a FIFO would keep us for ever, a device do who knows what: O_PATH first, O_NONBLOCK for what it may be a moment
    // later
    long fd = resolve((int)root, "etc/passwd", O_PATH, 0, RESOLVE_ROOT);
    int is_file = fd >= 0 && sys(fstat, fd, &st) == 0 && is_kind(&st, S_IFREG);
    close_fd(fd);
    fd = is_file ? resolve((int)root, "etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, RESOLVE_ROOT) : -1;
    close_fd(root);
    is_file = fd >= 0 && sys(fstat, fd, &st) == 0 && is_kind(&st, S_IFREG);
    for (long total = 0, n = 1; is_file && total < MAX_PASSWD && n > 0; total += n) {
        n = sys(read, fd, line + used, sizeof(line) - used);
        // the last line may lack its newline
        if (n <= 0) passwd_line(line, is_skipped ? 0 : used, (u32)o->a, m.home + 5, sizeof(m.home) - 5);
        if (n <= 0) break;
        used += (size_t)n;
        size_t start = 0;
        for (size_t i = 0; i < used; i++) {
            if (line[i] != '\n') continue;
            size_t found =
                is_skipped ? 0 : passwd_line(line + start, i - start, (u32)o->a, m.home + 5, sizeof(m.home) - 5);
            is_skipped = 0;
            start = i + 1;
            if (found) is_file = 0;
            if (found) break;
        }
        // a line that does not fit is nobody's
        if (!start && used == sizeof(line)) is_skipped = 1;
        used = is_skipped ? 0 : used - start;
        move(line, line + start, used);
    }
    close_fd(fd);
    return 0;
}

long op_find_exec(const struct op *o)
{
    struct stat st;
    long worst = -ENOENT;
    const char *path = text_of(o, 0);
    for (u64 i = 0; i < o->a; i++, path += length_of(path) + 1) {
        long error = sys(faccessat2, AT_FDCWD, path, 1, AT_EACCESS);
        if (error == -ENOSYS || error == -EPERM) error = sys(faccessat, AT_FDCWD, path, 1);
        if (error == 0) error = sys(newfstatat, AT_FDCWD, path, &st, 0);
        if (error == 0 && !is_kind(&st, S_IFDIR)) return 0;
        // of a search, a directory of PATH that is none says nothing; of a path that was given as one it says why
        if (error != -ENOENT && (error != -ENOTDIR || o->a == 1)) worst = error ? error : -EISDIR;
    }
    return worst;
}
