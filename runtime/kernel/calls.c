/*
 * System calls that Python has no cheap name for: descriptors over sockets, device programs, and a few more.
 */
#include "calls.h"
#include "plan.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/bpf.h>
#include <linux/seccomp.h>

#define CLOSE_RANGE_CLOEXEC_FLAG 4U

void close_on_exec(unsigned first)
{
    if (syscall(SYS_close_range, first, ~0U, CLOSE_RANGE_CLOEXEC_FLAG) == 0) return;
    // before 5.11. No opendir: this may run between clone and execveat
    struct {
        uint64_t ino;
        int64_t offset;
        uint16_t length;
        uint8_t type;
        char name[1];
    } * entry;
    _Alignas(8) char buffer[2048];
    int fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (;;) {
        long n = fd < 0 ? 0 : syscall(SYS_getdents64, fd, buffer, sizeof(buffer));
        if (n <= 0) break;
        for (long i = 0; i < n; i += entry->length) {
            entry = (void *)(buffer + i);
            unsigned number = 0;
            for (const char *p = entry->name; *p >= '0' && *p <= '9'; p++)
                number = number * 10 + (unsigned)(*p - '0');
            if (number >= first && entry->name[0] != '.') fcntl((int)number, F_SETFD, FD_CLOEXEC);
        }
    }
    if (fd >= 0) close(fd);
}

union control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

/* Read one message: (descriptor + 1) << 32 | length. Of a process that says that it is there (plan.h), its pid becomes
 * the value: the sender's as the kernel has it, in our pid namespace. */
int64_t pyrunc_receive(int sock, char *data, size_t size)
{
    union control control;
    struct iovec iov = {data, size};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    // it ended with an answer unread; what it had sent before is still there
    if (n < 0 && errno == ECONNRESET) n = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    if (n < 0) return -errno;
    int fd = -1;
    struct ucred sender = {0, 0, 0};
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_level != SOL_SOCKET) continue;
        if (head->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(head), sizeof(fd));
        if (head->cmsg_type == SCM_CREDENTIALS) memcpy(&sender, CMSG_DATA(head), sizeof(sender));
    }
    struct message *said = (void *)data;
    if ((size_t)n >= sizeof(*said) && sender.pid && said->kind == PID) said->value = sender.pid;
    return (int64_t)(fd + 1) << 32 | n;
}

/* Send one message, with a descriptor unless that is -1. */
int pyrunc_send(int sock, const char *data, size_t size, int fd, int timeout_ms)
{
    union control control;
    struct iovec iov = {(void *)(uintptr_t)data, size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (timeout_ms > 0) {
        struct timeval wait = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
        if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait))) return -errno;
    }
    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    }
    ssize_t n = sendmsg(sock, &message, MSG_NOSIGNAL);
    if (n < 0) return timeout_ms > 0 && errno == EAGAIN ? -ETIMEDOUT : -errno;
    return (size_t)n == size ? 0 : -EIO;
}

/* Connect to a stream socket: a peer that does not accept must not hold us up, be its backlog ever so full. */
int pyrunc_connect(const char *path, int timeout_ms)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval wait = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
    int place = -1;
    if (strlen(path) < sizeof(address.sun_path)) {
        strcpy(address.sun_path, path);
    } else {
        // too long for an address, but not for open(2)
        place = open(path, O_PATH | O_CLOEXEC);
        if (place < 0) return -errno;
        snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", place);
    }
    int fd = (int)error_or(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
        int error = connect(fd, (struct sockaddr *)&address, sizeof(address)) ? errno : 0;
        if (error) {
            close(fd);
            fd = error == EAGAIN ? -ETIMEDOUT : -error;
        }
    }
    if (place >= 0) close(place);
    return fd;
}

void pyrunc_close_on_exec_from(int first)
{
    close_on_exec((unsigned)first);
}

int pyrunc_set_subreaper(int on)
{
    return prctl(PR_SET_CHILD_SUBREAPER, on, 0, 0, 0) ? -errno : 0;
}

int pyrunc_set_parent_death_signal(int signal)
{
    return prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) ? -errno : 0;
}

/* The two of a shim, which mounts what an engine sends it where the engine says. A container's own mounts are ops. */
int pyrunc_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    return mount(source, target, type, flags, data) ? -errno : 0;
}

int pyrunc_unmount(const char *target, int flags)
{
    return umount2(target, flags) ? -errno : 0;
}

/* A core scheduling cookie of its own for this process group (PR_SCHED_CORE_CREATE, PR_SCHED_CORE_SCOPE_PROCESS_GROUP).
 */
int pyrunc_own_core_cookie(void)
{
    return prctl(62, 1, 0, 2, 0) ? -errno : 0;
}

/* A process that does nothing in a user namespace of its own, until it is killed. */
int pyrunc_spawn_newuser(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long pid = error_or(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL));
    if (pid == 0) {
        syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L);
        // it would keep pipes and locks of the caller open
        syscall(SYS_close_range, 0U, ~0U, 0U);
        for (;;)
            syscall(SYS_ppoll, NULL, 0UL, NULL, NULL, 0UL);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return (int)pid;
}

struct spawned {
    const char *path;
    char **argv, **envp;
    int folder, in, out, err, error;
};

static int run_spawned(void *argument)
{
    struct spawned *s = argument;
    // what is ignored or blocked stays so across execve
    const uint64_t none = 0;
    const long standard[4] = {0, 0, 0, 0};
    for (int signal = 1; signal <= 64; signal++)
        syscall(SYS_rt_sigaction, signal, standard, NULL, 8L);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8L);
    // copied away first: a caller without standard descriptors may have got their numbers for these
    int in = fcntl(s->in, F_DUPFD_CLOEXEC, 3), out = fcntl(s->out, F_DUPFD_CLOEXEC, 3);
    int err = fcntl(s->err, F_DUPFD_CLOEXEC, 3);
    if (in >= 0 && out >= 0 && err >= 0 && fchdir(s->folder) == 0 && dup2(in, 0) == 0 && dup2(out, 1) == 1 &&
        dup2(err, 2) == 2) {
        setsid();
        close_on_exec(3);
        execve(s->path, s->argv, s->envp);
    }
    s->error = errno;
    _exit(127);
}

/* Start a program of the host in a session of its own and in a directory of its own, with descriptors 0, 1, 2 and no
 * other. Unlike posix_spawn(3) with a chdir before it, nothing of this is seen by other threads. */
int pyrunc_spawn(const char *path, char **argv, char **envp, int folder, int in, int out, int err)
{
    static const size_t stack_bytes = 16384;
    struct spawned s = {path, argv, envp, folder, in, out, err, 0};
    char *stack = mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return -errno;
    sigset_t all, before;
    sigfillset(&all);
    // a handler must not run in the child, on our memory
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long pid = error_or(clone(run_spawned, stack + stack_bytes, CLONE_VM | CLONE_VFORK | SIGCHLD, &s));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(stack, stack_bytes);
    if (pid > 0 && s.error) {
        while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR) {
        }
        return -s.error;
    }
    return (int)pid;
}

/* Load a program that says which devices a cgroup may use. */
int pyrunc_bpf_prog_load(const char *program, size_t length)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.expected_attach_type = BPF_CGROUP_DEVICE;
    attr.insns = (uint64_t)(uintptr_t)program;
    attr.insn_cnt = (uint32_t)(length / 8);
    attr.license = (uint64_t)(uintptr_t) "MIT";
    long fd = error_or(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr)));
    if (fd == -EPERM) {
        // before 5.11 programs are charged to RLIMIT_MEMLOCK
        struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
        if (setrlimit(RLIMIT_MEMLOCK, &limit) == 0) fd = error_or(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr)));
    }
    return (int)fd;
}

static long attach_device_program(int cgroup_fd, int program_fd, int replaced_fd)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)cgroup_fd;
    attr.attach_bpf_fd = (uint32_t)program_fd;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    if (replaced_fd >= 0) {
        attr.attach_flags |= BPF_F_REPLACE;
        attr.replace_bpf_fd = (uint32_t)replaced_fd;
    }
    return error_or(syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof(attr)));
}

static int open_program(uint32_t id)
{
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.prog_id = id;
    return (int)error_or(syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof(attr)));
}

static long detach_device_program(int cgroup_fd, uint32_t id)
{
    int fd = open_program(id);
    if (fd == -ENOENT) return 0; // detached by somebody else
    if (fd < 0) return fd;
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.target_fd = (uint32_t)cgroup_fd;
    attr.attach_bpf_fd = (uint32_t)fd;
    attr.attach_type = BPF_CGROUP_DEVICE;
    long result = error_or(syscall(SYS_bpf, BPF_PROG_DETACH, &attr, sizeof(attr)));
    close(fd);
    return result == -ENOENT ? 0 : result;
}

/* Have a program alone decide about the cgroup's devices. One that did before is replaced in a single step: there is no
 * moment at which neither decides, nor one at which both do, which would deny what only one of them allows. */
int pyrunc_bpf_prog_attach(int cgroup_fd, int program_fd)
{
    uint32_t ids[64]; // the kernel attaches no more to one cgroup (BPF_CGROUP_MAX_PROGS)
    union bpf_attr attr;
    memset(&attr, 0, sizeof(attr));
    attr.query.target_fd = (uint32_t)cgroup_fd;
    attr.query.attach_type = BPF_CGROUP_DEVICE;
    attr.query.prog_ids = (uint64_t)(uintptr_t)ids;
    attr.query.prog_cnt = 64;
    long result = error_or(syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)));
    if (result < 0) return (int)result;
    uint32_t count = attr.query.prog_cnt;
    int replaced = count == 1 ? open_program(ids[0]) : -1;
    result = attach_device_program(cgroup_fd, program_fd, replaced);
    if (replaced >= 0) {
        close(replaced);
        if (result == 0) return 0;
    }
    // attached as the only one that there may be, the old one has to go first
    int is_exclusive = result < 0 && count > 0;
    for (uint32_t i = 0; i < count && (result == 0 || is_exclusive); i++) {
        long detached = detach_device_program(cgroup_fd, ids[i]);
        if (detached < 0) return (int)detached;
    }
    return (int)(is_exclusive ? attach_device_program(cgroup_fd, program_fd, -1) : result);
}

/* Without a program to read, a flag that is known gives EFAULT and one that is not EINVAL. */
int pyrunc_seccomp_flag_supported(unsigned flag)
{
    // waiting killable is of use for a listener alone, and refused without one
    const unsigned listener = 1U << 3, wait_killable = 1U << 5;
    unsigned flags = flag == wait_killable ? flag | listener : flag;
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL);
    return result < 0 && errno == EFAULT;
}
