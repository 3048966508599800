/*
 * Files that nobody can change once they are made: what is executed in front of a container must not be written to from
 * inside.
 *
 * A sealed memfd; where those are not to be executed, a file of a tmpfs that is mounted nowhere. Results are a
 * descriptor or a negative errno.
 */
#include "calls.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <linux/mount.h>

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static long write_all(int fd, const void *data, size_t n)
{
    const char *p = data;
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return done ? -errno : -EIO;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

/* A memfd with `data` that nobody can change any more: not a container that finds it as /proc/PID/exe (CVE-2019-5736).
 */
static int sealed(const char *name, unsigned kind, const void *data, size_t n)
{
    int fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | kind);
    if (fd < 0 && errno == EINVAL) fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    long error = write_all(fd, data, n);
    if (error == 0) error = error_or(fcntl(fd, F_ADD_SEALS, SEALS));
    if (error == 0) return fd;
    close(fd);
    return (int)error;
}

/* Where memfds are not to be had, or not to be executed (vm.memfd_noexec = 2): a file of a tmpfs that is mounted
 * nowhere. */
static int detached(const void *data, size_t n)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), mount = -1, fd = -1;
    if (context < 0) return -errno;
    long error = error_or(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    if (error == 0) error = mount = (int)error_or(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0));
    if (error >= 0) error = fd = (int)error_or(openat(mount, "file", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0500));
    if (error >= 0) error = write_all(fd, data, n);
    // closed before it is opened again: what is open for writing cannot be executed, nor its mount made read-only
    if (fd >= 0) close(fd);
    if (error == 0) error = error_or(syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attr, sizeof(attr)));
    if (error == 0) error = error_or(openat(mount, "file", O_RDONLY | O_CLOEXEC));
    if (mount >= 0) close(mount);
    close(context);
    return (int)error;
}

struct mounter {
    const void *data;
    size_t n;
    char uid_map[40], gid_map[40];
    int fd;
};

static long write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    long error = write_all(fd, text, strlen(text));
    close(fd);
    return error;
}

static int run_mounter(void *argument)
{
    struct mounter *m = argument;
    // without a map there is nobody whom a file of the new tmpfs could belong to; user_namespaces(7) on the order
    long error = write_file("/proc/self/setgroups", "deny");
    if (error == 0) error = write_file("/proc/self/uid_map", m->uid_map);
    if (error == 0) error = write_file("/proc/self/gid_map", m->gid_map);
    m->fd = error < 0 ? (int)error : detached(m->data, m->n);
    _exit(0);
}

/* The same for who may not mount: by a child that is root of a user namespace, and shares our descriptors. The tmpfs is
 * that namespace's and not the container's, whose root can therefore make neither it nor its mount writable again. */
static int detached_by_child(const void *data, size_t n)
{
    struct mounter m = {.data = data, .n = n};
    snprintf(m.uid_map, sizeof(m.uid_map), "%u %u 1", geteuid(), geteuid());
    snprintf(m.gid_map, sizeof(m.gid_map), "%u %u 1", getegid(), getegid());
    char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) return -errno;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // a handler must not run in the child, on our memory
    const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWUSER | CLONE_NEWNS | SIGCHLD;
    long pid = error_or(clone(run_mounter, stack + STACK_BYTES, flags, &m));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(stack, STACK_BYTES);
    if (pid < 0) return (int)pid;
    while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR) {
    }
    return m.fd;
}

int unchangeable(const char *name, unsigned kind, const void *data, size_t n)
{
    int fd = sealed(name, kind, data, n);
    if (fd == -EACCES || fd == -EPERM || fd == -ENOSYS) fd = detached(data, n);
    return fd == -EPERM ? detached_by_child(data, n) : fd;
}
