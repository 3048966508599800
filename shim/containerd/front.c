/*
 * The program that containerd runs: answers `delete` by itself where nothing is left to be deleted, which is after
 * every task that went as it should, stands in for the shim's Python at `start`, and is it for everything else.
 *
 * containerd waits for `delete` before the client hears that a container is gone, and an interpreter's start is longer
 * than all that there is to be looked at. What is looked at here is what cleaning.py looks at first, in its order;
 * where any of it is there, or is not understood, the Python decides. Nothing is changed here.
 *
 * containerd also waits until the process that it starts has exited, and an interpreter's end, or its fork, is as long
 * as what a shim does at its start. So the interpreter is a child of ours, which becomes the server as it is; we hand
 * on its answer, and are gone at once.
 *
 * Where nobody of our kind is there yet, that interpreter gets a child at once that will be the first `create`: it
 * loads what that needs while the other one loads what a server needs (shim/spare.py). Two interpreters start beside
 * each other, which takes as long as one.
 *
 *     the Python  ---- what is to be printed --->  prints it
 *                 <--- "go" ---------------------  exits     (without it the other one ends: bootstrap.py)
 *     exits, where it is not to be the server -->  exits with its status
 */

#include "../front.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* the same as in __init__.py and bootstrap.py */
#define DEFAULT_ROOT "/run/containerd/pyrunc"
#define OPTIONS_FILE "options.json"
#define EXIT_STATUS (128 + 9)
#define SOCKET_DIR "/run/containerd/s"
#define NAME "containerd-shim-pyrunc-v2"
/* how long a shim that is busy is waited for */
#define HEARD_MS 1000

struct words {
    const char *namespace, *id, *bundle;
};

/* Whether these are the words of a `delete`, all of them known. */
static int is_delete(char **argv, struct words *found)
{
    char **word = argv + 1;
    for (; *word && **word == '-'; word++) {
        const char *name = *word + 1 + ((*word)[1] == '-');
        if (strchr(name, '=')) return 0;
        if (!strcmp(name, "debug")) continue;
        const char *value = word[1];
        if (!value) return 0;
        if (!strcmp(name, "namespace"))
            found->namespace = value;
        else if (!strcmp(name, "id"))
            found->id = value;
        else if (!strcmp(name, "bundle"))
            found->bundle = value;
        else if (strcmp(name, "address") && strcmp(name, "publish-binary") && strcmp(name, "socket"))
            return 0;
        word++;
    }
    return *word && !strcmp(*word, "delete") && !word[1] && found->namespace && found->id && *found->namespace &&
           *found->id && !strchr(found->namespace, '/') && !strchr(found->id, '/');
}

static int join(char *out, const char *folder, const char *name)
{
    int length = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return length > 0 && length < PATH_MAX;
}

/* Whether a name is certainly not there: any other answer than ENOENT is for somebody who can explain it. */
static int is_missing(const char *path)
{
    struct stat found;
    return lstat(path, &found) < 0 && errno == ENOENT;
}

/* A whole small file, ended by a NUL; -1 where it cannot be read or is larger. */
static ssize_t content(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return -1;
    ssize_t length = read(fd, out, size - 1);
    close(fd);
    if (length < 0 || (size_t)length == size - 1) return -1;
    out[length] = 0;
    return length;
}

/* Whether something is mounted there. mountinfo has spaces of a path as \040: a path with one is left to the Python. */
static int is_mounted(const char *path)
{
    char line[3 * PATH_MAX], wanted[PATH_MAX + 3];
    if (strpbrk(path, " \t\n\\")) return 1;
    snprintf(wanted, sizeof wanted, " %s ", path);
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file) return 1;
    int found = 0;
    while (!found && fgets(line, sizeof line, file))
        found = strstr(line, wanted) != NULL;
    fclose(file);
    return found;
}

/* A connection to who listens there; -1 where nobody does, -2 where so many wait for it that one more has no room. */
static int connected(const char *path, int kind)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return fd;
    int is_full = errno == EAGAIN;
    close(fd);
    return is_full ? -2 : -1;
}

/* Whether somebody listens there; a socket file whose owner is gone has to be removed. */
static int is_served(const char *path, int kind)
{
    int fd = connected(path, kind);
    if (fd >= 0) close(fd);
    return fd != -1;
}

/* Whether a shim listens there and goes on with it. One that was killed just now does until the kernel has closed what
 * it had, its connections first; and both end a connection on which nothing more can come. */
static int is_alive(const char *path)
{
    int fd = connected(path, SOCK_STREAM);
    if (fd < 0) return fd == -2;
    shutdown(fd, SHUT_WR);
    poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, HEARD_MS);
    close(fd);
    return is_served(path, SOCK_STREAM);
}

/* Whether the sockets of the shim and of its family are either gone or alive. */
static int are_sockets_clean(const char *bundle)
{
    char file[PATH_MAX], text[PATH_MAX], path[PATH_MAX];
    if (!join(file, bundle, "address")) return 0;
    if (content(file, text, sizeof text) < 0) return errno == ENOENT;
    char *own = text, *end = own + strcspn(own, "\n");
    *end = 0;
    if (!strncmp(own, "unix://", 7)) own += 7;
    if (*own != '/') return 1;
    if (!is_missing(own) && !is_alive(own)) return 0;
    *strrchr(own, '/') = 0;
    DIR *folder = opendir(own);
    if (!folder) return errno == ENOENT;
    int clean = 1;
    for (struct dirent *entry; clean && (entry = readdir(folder));)
        if (!strncmp(entry->d_name, "nursery-", 8))
            clean = join(path, own, entry->d_name) && is_served(path, SOCK_SEQPACKET);
    closedir(folder);
    return clean;
}

static unsigned char *varint(unsigned char *out, uint64_t value)
{
    for (; value > 127; value >>= 7)
        *out++ = (unsigned char)(value | 128);
    *out++ = (unsigned char)value;
    return out;
}

/* DeleteResponse: pid = 1, exit_status = 2, exited_at = 3 {seconds = 1, nanos = 2}; zeros are left out (proto3). */
static int answer(const char *bundle)
{
    char file[PATH_MAX], text[32];
    unsigned char out[64], stamp[32], *end = out, *inner = stamp;
    struct timespec now;
    unsigned long pid = 0;
    if (join(file, bundle, "init.pid") && content(file, text, sizeof text) > 0 && *text >= '0' && *text <= '9')
        pid = strtoul(text, NULL, 10);
    clock_gettime(CLOCK_REALTIME, &now);
    if (pid) *end++ = 1 << 3, end = varint(end, pid);
    *end++ = 2 << 3, end = varint(end, EXIT_STATUS);
    *inner++ = 1 << 3, inner = varint(inner, (uint64_t)now.tv_sec);
    if (now.tv_nsec) *inner++ = 2 << 3, inner = varint(inner, (uint64_t)now.tv_nsec);
    *end++ = 3 << 3 | 2, end = varint(end, (uint64_t)(inner - stamp));
    memcpy(end, stamp, (size_t)(inner - stamp));
    end += inner - stamp;
    return write(STDOUT_FILENO, out, (size_t)(end - out)) == end - out ? 0 : 1;
}

static int is_nothing_left(const struct words *words)
{
    char path[PATH_MAX];
    if (!join(path, words->bundle, OPTIONS_FILE) || !is_missing(path)) return 0;
    int length = snprintf(path, sizeof path, "%s/%s/%s", DEFAULT_ROOT, words->namespace, words->id);
    if (length < 0 || length >= PATH_MAX || !is_missing(path)) return 0;
    if (!join(path, words->bundle, "rootfs") || is_mounted(path)) return 0;
    return are_sockets_clean(words->bundle);
}

/* The interpreter was killed at `start`: nobody else would remove the socket that it may have bound. */
static void remove_dead_socket(void)
{
    char text[PATH_MAX];
    if (content("address", text, sizeof text) > 0 && !strncmp(text, "unix:///", 8) && !is_served(text + 7, SOCK_STREAM))
        unlink(text + 7);
}

/* Whether a shim runs already that may fork the next one: it has a `create` ready by itself. */
static int is_nursery_there(void)
{
    DIR *folder = opendir(SOCKET_DIR);
    if (!folder) return 0;
    int found = 0;
    for (struct dirent *entry; !found && (entry = readdir(folder));)
        found = !strncmp(entry->d_name, "nursery-", 8);
    closedir(folder);
    return found;
}

/* One more than our parent's, as the Python would have it: the kernel should rather end a shim than containerd. */
static void adjust_score(void)
{
    char text[16];
    if (content("/proc/self/oom_score_adj", text, sizeof text) <= 0) return;
    int score = atoi(text), fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    /* a refusal, as in a user namespace, changes nothing else */
    if (dprintf(fd, "%d", score < 1000 ? score + 1 : 1000) < 0) errno = 0;
    close(fd);
}

/* In the process that may become the server: a child that waits to be the first `create`. "FD,PID" into `told`, by
 * which it is reached, or "" where there is none. All that it has from us is as the server's: the session, the score.
 */
static void have_spare(char *launcher, char told[32])
{
    int ends[2];
    *told = 0;
    if (getenv("NOTIFY_SOCKET") || getenv("SCHED_CORE") || is_nursery_there()) return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return;
    setsid();
    adjust_score();
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        char number[32], action[] = "spare", flag[] = "-spare", *words[] = {launcher, flag, number, action, NULL};
        int fd = dup(ends[1]), null = open("/dev/null", O_RDWR | O_CLOEXEC);
        /* not containerd's pipe: it waits for the end of it */
        if (fd < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0) _exit(1);
        snprintf(number, sizeof number, "%d,%d", fd, parent);
        execv(launcher, words);
        _exit(1);
    }
    close(ends[1]);
    int fd = pid > 0 ? dup(ends[0]) : -1;
    close(ends[0]);
    if (fd >= 0) snprintf(told, 32, "%d,%d", fd, pid);
}

/* What was written to a file, on our standard error, to which it did not go at once. */
static void hand_on(int fd)
{
    char text[4096];
    ssize_t length;
    off_t at = 0;
    for (; (length = pread(fd, text, sizeof text, at)) > 0; at += length)
        if (write(STDERR_FILENO, text, (size_t)length) != length) return;
    if (!at) fprintf(stderr, NAME ": start: the shim has ended before it could be told of\n");
}

/* Have a child do it, which is told of us by the words "-front FD", and print what it says. Our exit status. */
static int stand_in(char *launcher, char **argv)
{
    int ends[2], count = 0, status;
    char number[16], spare[32], text[4096];
    while (argv[count])
        count++;
    char *words[count + 5];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return -1;
    /* containerd has both our outputs in one pipe, and takes all of it for the address where we do not fail: what was
     * wrong and did no harm, which the interpreter may say without us, would hide the shim from it */
    int said = memfd_create("said", MFD_CLOEXEC);
    pid_t pid = fork();
    if (pid < 0) return -1;
    if (pid == 0) {
        have_spare(launcher, spare); /* first: it must not have the end by which we are heard */
        int fd = dup(ends[1]);       /* the one that exec leaves open */
        if (said >= 0) dup2(said, STDERR_FILENO);
        snprintf(number, sizeof number, "%d", fd);
        words[0] = launcher, words[1] = "-front", words[2] = number;
        words[3] = "-spare", words[4] = spare;
        memcpy(words + 5, argv + 1, (size_t)count * sizeof *argv);
        execv(launcher, words);
        fprintf(stderr, NAME ": start %s: %s\n", launcher, strerror(errno));
        _exit(1);
    }
    close(ends[1]);
    ssize_t length;
    while ((length = recv(ends[0], text, sizeof text, 0)) < 0 && errno == EINTR)
        ;
    if (length > 0) {
        if (write(STDOUT_FILENO, text, (size_t)length) != length) return 1;
        if (send(ends[0], "go", 2, MSG_NOSIGNAL) == 2) return 0;
    }
    close(ends[0]); /* it waits for a word that will not come now */
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return 1;
    if (status && said >= 0) hand_on(said);
    if (WIFEXITED(status)) return WEXITSTATUS(status) || length <= 0 ? WEXITSTATUS(status) : 1;
    remove_dead_socket();
    return 128 + WTERMSIG(status);
}

/* Whether the last word is `start`. */
static int is_start(int argc, char **argv)
{
    return argc > 1 && !strcmp(argv[argc - 1], "start");
}

int main(int argc, char **argv)
{
    char launcher[2 * PATH_MAX], folder[PATH_MAX];
    struct words words = {0};
    if (argc > 0 && is_delete(argv, &words)) {
        if (!words.bundle) words.bundle = getcwd(folder, sizeof folder);
        if (words.bundle && is_nothing_left(&words)) return answer(words.bundle);
    }
    if (find_launcher(NAME, launcher)) return 1;
    if (is_start(argc, argv)) {
        int status = stand_in(launcher, argv);
        if (status >= 0) return status;
    }
    return be_launcher(NAME, launcher, argv);
}
