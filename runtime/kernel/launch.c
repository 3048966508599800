/*
 * Start the image: as a file that nobody can change, in a child that never sees Python again.
 *
 * Results are those of system calls: a negative errno is a failure, `__init__.py` raises it. The child between clone
 * and execveat does nothing but system calls, on memory that was there before.
 */
#include "calls.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "image.h" /* static const unsigned char image[]: the static interpreter */

/* -- the image as something to execute ----------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int kept = -1;
static struct stat kept_stat;

/* A descriptor of the image for one launch, a duplicate of the one that is kept. */
static int open_image(void)
{
    struct stat st;
    pthread_mutex_lock(&lock);
    // a program that closes all descriptors when it becomes a daemon takes ours along, and others get the number
    if (kept >= 0 && (fstat(kept, &st) || st.st_dev != kept_stat.st_dev || st.st_ino != kept_stat.st_ino)) kept = -1;
    if (kept < 0) {
        kept = unchangeable("pyrunc-init", MFD_EXEC, image, sizeof(image));
        if (kept >= 0) fstat(kept, &kept_stat);
    }
    int fd = kept < 0 ? kept : fcntl(kept, F_DUPFD_CLOEXEC, 3);
    if (fd == -1) fd = -errno;
    pthread_mutex_unlock(&lock);
    return fd;
}

/* -- the child between clone and execveat -------------------------------------------------------------------------- */

struct child {
    int *source; /* what goes to first_fd, first_fd + 1, ... */
    int count, first_fd, image;
    int standard[3]; /* what becomes 0, 1 and 2 */
    int error;
};

/* Out of the way of the numbers that are about to be given; those beyond them can stay where they are. */
static int above(int fd, int least)
{
    return fd >= least ? fd : fcntl(fd, F_DUPFD_CLOEXEC, least);
}

static int arrange(struct child *c)
{
    int least = c->first_fd + c->count;
    // copied away first, or one of them could overwrite another's source
    c->image = above(c->image, least);
    if (c->image < 0) return -1;
    for (int i = 0; i < c->count; i++) {
        c->source[i] = above(c->source[i], least);
        if (c->source[i] < 0) return -1;
    }
    for (int fd = 0; fd < 3; fd++) {
        if (c->standard[fd] == fd) continue;
        c->standard[fd] = fcntl(c->standard[fd], F_DUPFD_CLOEXEC, least);
        if (c->standard[fd] < 0) return -1;
    }
    for (int fd = 0; fd < 3; fd++) {
        int from = c->standard[fd], flags = from == fd ? fcntl(fd, F_GETFD) : 0;
        // a program that opens a file must not find it to be its standard output; one of our own may have got the
        // number
        if (flags < 0 && errno != EBADF) return -1;
        if (flags) from = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (from < 0 || (from != fd && dup3(from, fd, 0) < 0)) return -1;
        if (from == fd && fcntl(fd, F_SETFD, 0)) return -1;
    }
    for (int i = 0; i < c->count; i++) {
        if (dup3(c->source[i], c->first_fd + i, 0) < 0) return -1;
    }
    close_on_exec((unsigned)least);
    return 0;
}

static int run_child(void *argument)
{
    struct child *c = argument;
    char number[12], path[32];
    char *argv[] = {"pyrunc", "init", number, NULL}, *envp[] = {NULL};
    long standard[4] = {0, 0, 0, 0};
    int i = (int)sizeof(number) - 1, n = c->first_fd;

    if (arrange(c) == 0) {
        // Python ignores SIGPIPE and SIGXFSZ, callers others; what is ignored stays so across execve. By system call,
        // since libc keeps two signals for itself.
        long failed = 0;
        for (int signal = 1; signal <= 64; signal++)
            if (signal != SIGKILL && signal != SIGSTOP) failed |= syscall(SYS_rt_sigaction, signal, standard, NULL, 8L);
        uint64_t none = 0;
        failed |= syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8L);
        // a program that finds a signal ignored or blocked may never end by it
        if (failed) goto failure;
        number[i] = 0;
        do
            number[--i] = (char)('0' + n % 10);
        while (n /= 10);
        argv[2] = number + i;
        syscall(SYS_execveat, c->image, "", argv, envp, AT_EMPTY_PATH);
        if (errno == ENOSYS) {
            char *p = path + sizeof(path);
            *--p = 0;
            n = c->image;
            do
                *--p = (char)('0' + n % 10);
            while (n /= 10);
            p -= 14;
            memcpy(p, "/proc/self/fd/", 14);
            execve(p, argv, envp);
        }
    }
failure:
    c->error = errno;
    _exit(127);
}

/* -- what __init__.py wraps ---------------------------------------------------------------------------------------- */

/* Start the image on a plan: pid << 32 | socket. */
int64_t pyrunc_launch(const char *plan, size_t length, const int *fds, int count, int first_fd, const int *standard)
{
    int pair[2] = {-1, -1}, plan_fd = -1;
    int64_t result;
    for (int fd = 3; fd < first_fd; fd++) {
        // what is close-on-exec was not given to us to be passed on: it is something of our own at that number
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || flags & FD_CLOEXEC) return -EBADF;
    }
    int source[2 + (count > 0 ? count : 0)];
    struct child c = {source, 2 + count, first_fd, open_image(), {standard[0], standard[1], standard[2]}, 0};
    if (c.image < 0) return c.image;
    const int image_fd = c.image;
    result = plan_fd = unchangeable("pyrunc-plan", MFD_NOEXEC_SEAL, plan, length);
    if (result >= 0) result = error_or(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
    // for PID, see pyrunc_receive
    const int yes = 1;
    if (result >= 0) result = error_or(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)));
    char *stack = NULL;
    if (result >= 0) {
        stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (stack == MAP_FAILED) result = -errno;
    }
    if (result >= 0) {
        source[0] = pair[1];
        source[1] = plan_fd;
        for (int i = 0; i < count; i++)
            source[2 + i] = fds[i];
        sigset_t all, before;
        sigfillset(&all);
        // a handler must not run in the child, on our memory
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = error_or(clone(run_child, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD, &c));
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        munmap(stack, STACK_BYTES);
        if (result > 0 && c.error) {
            while (waitpid((pid_t)result, NULL, 0) < 0 && errno == EINTR) {
            }
            result = -c.error;
        }
    }
    if (pair[1] >= 0) close(pair[1]);
    if (plan_fd >= 0) close(plan_fd);
    close(image_fd);
    if (result >= 0) return result << 32 | pair[0];
    if (pair[0] >= 0) close(pair[0]);
    return result;
}
