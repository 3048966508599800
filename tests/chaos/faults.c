/* faults [OPTION...] PROGRAM [ARG...]: run a program, count the system calls of each process that comes of it, and do
 * one thing at one of them.
 *
 *   -o FILE       what happened, one line each (below)
 *
 *   -p P -n N     at the entry of call N (from 1 on) of process P: the program is 0, others are numbered as they come
 *
 *   -s SIGNAL     send it to that process; SIGKILL has the call not be made
 *
 *   -e ERRNO      have the call not be made, and fail; close(2) is made, since it closes whatever it says
 *
 *   -k NR         where it turns out to be this call, which cannot fail, it does not; may be repeated
 *
 *   -z MS         let the process go on only after so many milliseconds
 *
 *   -a PID        trace this one too, from here on, as process 1
 *
 *   -x NAME       a process that executes a file of this name is left alone from then on; may be repeated
 *
 *   -t SECONDS    how long the program may take
 *
 * What happened:
 *
 *   call P N NR   without -p: every call; and with it, as "hit", the point when it was reached, with the call's
 *                 first argument and, of openat(2) and newfstatat(2), the path
 *
 *   hang          the program was killed because its time was up; then, for each process there was,
 *
 *   in P NR TEXT  the call in which it sleeps, and its command
 *
 *   end STATUS    how the program ended, as waitpid(2) has it
 *
 * Threads count with their process. Once the point has been reached everybody is let go, so that what follows happens
 * as if nobody had watched.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <linux/ptrace.h>
#include <time.h>
#include <unistd.h>

#include "registers.h"

#define TASKS 4096
#define NAMES 8
/* not SEIZE's own: what TRACEME and SEIZE have in common */
#define OPTIONS                                                                                                        \
    (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC)

struct task {
    pid_t tid;
    int process; /* -1: its first stop came before the news of it; its tid is negative if it was let go before that */
    int is_new;  /* its first stop has not come, or is not over */
    long error;  /* what its call is to fail with, at the exit from it */
    double held_til; /* 0: is not held */
};

static struct task tasks[TASKS];
static pid_t pids[TASKS];
static long counts[TASKS];
static int task_count, process_count;
static const char *names[NAMES];
static int name_count;

static unsigned long long keeps[NAMES * 4];
static int keep_count;

static FILE *out;
static int at_process = -1, send_signal, hold_ms, is_over, is_started;
static long at_call, fail_with;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "faults: %s: %s\n", what, strerror(errno));
    exit(125);
}

static struct task *find(pid_t tid)
{
    for (int i = 0; i < task_count; i++)
        if (tasks[i].tid == tid) return &tasks[i];
    return NULL;
}

static struct task *add(pid_t tid, int process)
{
    struct task *t = find(0);
    if (!t && task_count == TASKS) die("too many tasks");
    if (!t) t = &tasks[task_count++];
    *t = (struct task){tid, process, 1, 0, 0};
    return t;
}

static int new_process(pid_t pid)
{
    if (process_count == TASKS) die("too many processes");
    pids[process_count] = pid;
    return process_count++;
}

/* Whether a new task is a thread of its maker's process. */
static int is_thread(pid_t tid)
{
    char path[64], line[128];
    int tgid = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", tid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Tgid: %d", &tgid) == 1) break;
    if (f) fclose(f);
    return tgid && tgid != tid;
}

/* Whether the process has become a program that is none of our business. */
static int is_left_alone(pid_t pid)
{
    char path[64], exe[4096];
    snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    ssize_t n = readlink(path, exe, sizeof(exe) - 1);
    if (n < 0) return 0;
    exe[n] = 0;
    const char *base = strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe;
    for (int i = 0; i < name_count; i++)
        if (!strcmp(base, names[i])) return 1;
    return 0;
}

static void detach(struct task *t, int signal)
{
    ptrace(PTRACE_DETACH, t->tid, NULL, (void *)(long)signal);
    t->tid = 0;
}

static void go_on(struct task *t, int signal)
{
    // where nothing is to be done to a process, its calls need not stop it
    int wants_calls = !is_over && is_started && (at_process < 0 || t->process == at_process);
    t->is_new = 0;
    if (is_over && !t->error) return detach(t, signal);
    ptrace(wants_calls || t->error ? PTRACE_SYSCALL : PTRACE_CONT, t->tid, NULL, (void *)(long)signal);
}

static void path_at(pid_t tid, unsigned long long address, char path[256])
{
    size_t rest = 4096 - address % 4096; // of its page, after which there may be nothing
    struct iovec theirs = {(void *)(uintptr_t)address, rest < 255 ? rest : 255}, ours = {path, theirs.iov_len};
    ssize_t n = process_vm_readv(tid, &ours, 1, &theirs, 1, 0);
    path[n > 0 ? n : 0] = 0;
    path[strcspn(path, " \n")] = 0;
}

static void at_point(struct task *t, long call, unsigned long long nr, const __u64 *args)
{
    char path[256] = "";
    is_over = 1;
    for (int i = 0; fail_with && i < keep_count; i++)
        if (keeps[i] == nr) return;
    if (nr == SYS_openat || nr == SYS_newfstatat) path_at(t->tid, args[1], path);
    fprintf(out, "hit %d %ld %llu %lld %s\n", t->process, call, nr, (long long)args[0], path);
    fflush(out);
    if (fail_with) {
        if (nr != SYS_close) skip_call(t->tid);
        t->error = fail_with;
    } else if (hold_ms) {
        t->held_til = now() + hold_ms / 1000.0;
    } else {
        kill(pids[t->process], send_signal);
    }
}

static void on_call(struct task *t)
{
    struct ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, (void *)sizeof(info), &info) <= 0) return;
    if (info.op == PTRACE_SYSCALL_INFO_EXIT && t->error) {
        set_result(t->tid, -t->error);
        t->error = 0;
    }
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY || !is_started || is_over) return;
    long call = ++counts[t->process];
    if (at_process < 0)
        fprintf(out, "call %d %ld %llu\n", t->process, call, (unsigned long long)info.entry.nr);
    else if (t->process == at_process && call == at_call)
        at_point(t, call, info.entry.nr, (const __u64 *)info.entry.args);
}

static void on_child(struct task *parent)
{
    unsigned long made = 0;
    if (ptrace(PTRACE_GETEVENTMSG, parent->tid, NULL, &made)) return;
    pid_t tid = (pid_t)made;
    int process = is_thread(tid) ? parent->process : new_process(tid);
    struct task *t = find(tid), *gone = find(-tid);
    if (gone) {
        gone->tid = 0;
        return;
    }
    if (!t) {
        add(tid, process);
        return;
    }
    // it stopped before we were told where it comes from
    t->process = process;
    go_on(t, 0);
}

/* A stop of a traced task. */
static void on_stop(pid_t tid, int status)
{
    struct task *t = find(tid);
    int signal = WSTOPSIG(status), event = status >> 16;
    if (!t) {
        t = add(tid, -1);
        if (!is_over) return;
        // there may never be news of it: who has made it was killed by what was done
        detach(t, 0);
        t->tid = -tid;
        return;
    }
    if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
        signal = 0;
        on_child(t);
    } else if (event == PTRACE_EVENT_EXEC) {
        is_started = 1;
        signal = 0;
        if (t->process > 0 && is_left_alone(tid)) return detach(t, 0);
    } else if (signal == (SIGTRAP | 0x80)) {
        on_call(t);
        signal = 0;
        if (t->held_til) return;
    } else if (event || signal == SIGSTOP || signal == SIGTRAP) {
        signal = 0; // a task's first stop, or one that we have asked for
    }
    go_on(t, signal);
}

static void tell_where(void)
{
    fprintf(out, "hang\n");
    for (int i = 0; i < process_count; i++) {
        char path[64], text[256] = "";
        long nr = -1;
        snprintf(path, sizeof(path), "/proc/%d/syscall", pids[i]);
        FILE *f = fopen(path, "re");
        if (f) {
            if (fscanf(f, "%ld", &nr) != 1) nr = -1;
            fclose(f);
            snprintf(path, sizeof(path), "/proc/%d/comm", pids[i]);
            f = fopen(path, "re");
            if (f && !fgets(text, sizeof(text), f)) text[0] = 0;
            if (f) fclose(f);
            text[strcspn(text, "\n")] = 0;
            fprintf(out, "in %d %ld %s\n", i, nr, text);
        }
    }
    fflush(out);
}

static void wake(int signal)
{
    (void)signal;
}

static void release_held(void)
{
    for (int i = 0; i < task_count; i++)
        if (tasks[i].tid > 0 && tasks[i].held_til && now() >= tasks[i].held_til) {
            tasks[i].held_til = 0;
            go_on(&tasks[i], 0);
        }
}

/* What waitpid() tells of a task, if anything. */
static void on_news(pid_t tid, int status)
{
    struct task *t = tid > 0 ? find(tid) : NULL;
    if (tid > 0 && WIFSTOPPED(status)) return on_stop(tid, status);
    if (t) t->tid = 0;
}

/* Whoever has only just been made stops once, for us: it would stay stopped for ever if we went before that. */
static void let_go(void)
{
    int status = 0;
    for (double deadline = now() + 1; now() < deadline;) {
        int is_any = 0;
        for (int i = 0; i < task_count; i++) {
            // of this one there will be no news
            if (tasks[i].tid > 0 && tasks[i].process < 0) go_on(&tasks[i], 0);
            is_any |= tasks[i].tid > 0 && tasks[i].is_new;
        }
        pid_t tid = waitpid(-1, &status, is_any ? __WALL : __WALL | WNOHANG);
        if (tid == 0 || (tid < 0 && errno != EINTR)) return;
        on_news(tid, status);
    }
}

/* Until the program has ended: its wait status. */
static int follow(pid_t program, double limit)
{
    double deadline = now() + limit;
    int is_late = 0;
    struct itimerval tick = {{0, 20000}, {0, 20000}};
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = wake}, NULL);
    setitimer(ITIMER_REAL, &tick, NULL);
    for (;;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL);
        int error = errno;
        release_held();
        if (now() > deadline && !is_late) {
            is_late = 1;
            tell_where();
            kill(program, SIGKILL);
        }
        if (tid < 0 && error == EINTR) continue;
        errno = error;
        if (tid < 0) die("waitpid");
        on_news(tid, status);
        if (tid != program || WIFSTOPPED(status)) continue;
        is_over = 1;
        let_go();
        return status;
    }
}

int main(int argc, char **argv)
{
    double limit = 10;
    pid_t other = 0;
    int option;
    while ((option = getopt(argc, argv, "+o:p:n:s:e:k:z:a:x:t:")) != -1) {
        if (option == 'o') out = fopen(optarg, "we");
        if (option == 'p') at_process = atoi(optarg);
        if (option == 'n') at_call = atol(optarg);
        if (option == 's') send_signal = atoi(optarg);
        if (option == 'e') fail_with = atol(optarg);
        if (option == 'k' && keep_count < NAMES * 4) keeps[keep_count++] = strtoull(optarg, NULL, 10);
        if (option == 'z') hold_ms = atoi(optarg);
        if (option == 'a') other = atoi(optarg);
        if (option == 'x' && name_count < NAMES) names[name_count++] = optarg;
        if (option == 't') limit = atof(optarg);
        if (option == '?') return 125;
    }
    if (!out || optind == argc) {
        fprintf(stderr, "faults: -o FILE and a program are needed\n");
        return 125;
    }
    pid_t program = fork();
    if (program < 0) die("fork");
    if (!program) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execv(argv[optind], argv + optind);
        die(argv[optind]);
    }
    int status;
    if (waitpid(program, &status, __WALL) != program || !WIFSTOPPED(status)) die("the program");
    ptrace(PTRACE_SETOPTIONS, program, NULL, (void *)(long)OPTIONS);
    add(program, new_process(program));
    if (other) {
        if (ptrace(PTRACE_SEIZE, other, NULL, (void *)(long)OPTIONS)) die("attach");
        ptrace(PTRACE_INTERRUPT, other, NULL, NULL);
        add(other, new_process(other));
    }
    go_on(&tasks[0], 0);
    status = follow(program, limit);
    fprintf(out, "end %d\n", status);
    fclose(out);
    return 0;
}
